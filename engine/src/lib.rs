//! Rowmill tails a MySQL binlog, passes each row change through WebAssembly transforms, and
//! delivers to AWS SQS: at least once, in order per key.
//!
//! ```text
//!   MySQL ──▶ source ──▶ (core: binlog, batch) ──▶ transform ──▶ dispatch ──▶ sink ──▶ SQS
//!               ▲          opens an ack                           (core: route,   │ acknowledges
//!               │                                                  envelope)      ▼
//!               └──────────────── checkpoint ◀────────────────────── (pipeline: ack)
//! ```
//!
//! Follow a row: [`source`] reads its event and decodes it into a batch, [`transform`] passes the
//! batch through the plugins, [`router`] makes a message of what is left (both on the threads of
//! [`workers`]), [`sink`] sends it and acknowledges it ([`ack`]), and [`checkpoint`] records that it arrived.
//! [`pipeline`] wires them together. What needs no socket, file or clock lives in the crate `rowmill-core`.

pub mod ack;
pub mod check;
pub mod checkpoint;
pub mod config;
pub mod failpoint;
pub mod mysql;
pub mod pipeline;
pub mod plugin;
pub mod printer;
mod progress;
pub mod replay;
pub mod retry;
pub mod router;
pub mod run;
pub mod schema_history;
mod selection;
pub mod signals;
#[cfg(test)]
mod simulation;
pub mod sink;
pub mod source;
pub mod tail;
pub mod transform;
pub mod workers;
