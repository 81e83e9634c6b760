//! What the stages of a pipeline share. It knows no socket, file, clock or task: who waits is woken by its
//! [`Waker`](std::task::Waker), whatever runs it.
//!
//! ```text
//!              opens an Ack, in order           acknowledges, drops, or stops at a row
//!   reader ──▶ AckOpener ──▶ batch + Ack ──▶ workers ──▶ Sequencer ──▶ sinks ─┐
//!                 ▲ room                                                      ▼
//!                 └──────────────── CheckpointFeed ◀── watermark ◀────────── Ack
//! ```
//!
//! - [`ack`] follows which batches are acknowledged, and holds the in-flight budget;
//! - [`sequencer`] lets batches pass one after another, in their order.
//!
//! Both are checked by [loom](https://docs.rs/loom) in every order in which threads can run: `engine/pipeline/loom`.

pub mod ack;
pub mod ordered_queue;
pub mod sequencer;
mod sync;
