//! Rowmill tails a MySQL binlog, passes each row change through WebAssembly transforms, and
//! delivers to AWS SQS: at least once, in order per key.
//!
//! ```text
//!   MySQL ──▶ source ──▶ (core: binlog, batch) ──▶ transform ──▶ dispatch ──▶ sink ──▶ SQS
//!               ▲                                                 (core: route,   │ settled
//!               │                                                  envelope)      ▼
//!               └──────────────── checkpoint ◀──────────────── (core: progress) ◀─┘
//! ```
//!
//! Follow a row: [`source`] reads its event and decodes it into a batch, [`transform`] passes the
//! batch through the plugins, [`dispatch`] makes a message of what is left (both on the threads of
//! [`workers`]), [`sink`] sends it and settles it in the [`ledger`], and [`checkpoint`] records that it arrived.
//! [`pipeline`] wires them together. What needs no socket, file or clock lives in the crate `rowmill-core`.

pub mod check;
pub mod checkpoint;
pub mod config;
pub mod dispatch;
pub mod failpoint;
pub mod ledger;
mod pace;
pub mod pipeline;
pub mod plugin;
pub mod printer;
pub mod replay;
mod selection;
pub mod sink;
pub mod source;
pub mod tail;
pub mod transform;
mod turnstile;
pub mod workers;
