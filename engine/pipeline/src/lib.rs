//! State that the stages of a pipeline share: acknowledgements, the in-flight budget, the order of batches and of
//! messages. This crate uses no socket, file, clock or task: a task that waits is woken by its
//! [`Waker`](std::task::Waker), whatever runtime it runs on.
//!
//! ```text
//!              opens an Ack, in order           acknowledges, drops, or stops at a row
//!   reader ──▶ AckOpener ──▶ batch + Ack ──▶ workers ──▶ Sequencer ──▶ sinks ─┐
//!                 ▲ room                                                      ▼
//!                 └──────────────── CheckpointFeed ◀── watermark ◀────────── Ack
//! ```
//!
//! - [`ack`] tracks which batches are acknowledged, moves the watermark, and holds the in-flight budget;
//! - [`sequencer`] lets batches pass one after another, in binlog order;
//! - [`ordered_queue`] chooses the messages of a sink's next request, and keeps the order within message groups.
//!
//! [loom](https://docs.rs/loom) checks `ack` and `sequencer` in every order in which threads can run:
//! `engine/pipeline/loom`.

pub mod ack;
pub mod ordered_queue;
pub mod sequencer;
mod sync;
