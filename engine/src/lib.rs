//! Rowmill tails a MySQL or MariaDB binlog, passes each row change through WebAssembly transforms, and delivers messages
//! to AWS SQS: at least once, in order per key.
//!
//! ```text
//!   MySQL ──▶ source ────────▶ Intake ─────▶ Worker ────────────────▶ sink ──▶ SQS
//!               ▲ (mysql,         (workers:     (workers: transform,     │ acknowledges
//!               │  core::binlog:   opens an      then router)            ▼
//!               │  decodes)        ack)                                 ack
//!               └───────────────── checkpoint ◀──── watermark ◀──────────┘
//! ```
//!
//! One row, in the order in which it flows:
//!
//! 1. [`source`] streams the binlog through [`mysql`], decodes events (`rowmill_core::binlog`) and forwards packed
//!    batches of rows (`rowmill_core::batch`).
//! 2. [`workers::Intake`] opens an [`ack`] for each batch, in binlog order, and hands the batch to a [`workers::Worker`].
//! 3. The worker passes the batch through the [`transform`] chain, and [`router`] makes messages of the rows that are
//!    kept (`rowmill_core::route`, `rowmill_core::envelope`). Workers run concurrently; a sequencer
//!    (`rowmill_pipeline::sequencer`) lets their messages pass in binlog order.
//! 4. [`sink`] delivers each message, and acknowledges it once it is durable.
//! 5. [`ack`] (`rowmill_pipeline::ack`) moves the watermark, and the checkpoint writer of [`pipeline`] stores it as a
//!    [`checkpoint`], at which the next start resumes.
//!
//! [`run`] opens all of these by the [`config`], and [`pipeline`] supervises them. The crates `rowmill-core` and
//! `rowmill-pipeline` use no socket, file or clock.

pub mod ack;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod dead_letter;
mod exact_json;
pub mod failpoint;
pub mod fixture;
pub mod mysql;
pub mod pipeline;
mod progress;
pub mod retry;
pub mod router;
pub mod run;
pub mod schema_history;
mod selection;
pub mod shutdown;
#[cfg(test)]
mod simulation;
pub mod sink;
pub mod source;
mod status;
pub mod transform;
pub mod workers;
