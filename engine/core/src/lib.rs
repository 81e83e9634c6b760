//! Rowmill's pure logic: binlog events come in, message bodies and their IDs go out. This crate uses no socket, file,
//! clock, thread or task.
//!
//! ```text
//!   events ──▶ binlog ──▶ batch ──▶ (transforms) ──▶ route ──▶ envelope ──▶ (sinks)
//!                                                                             │ acknowledge
//!                              resume point ◀── acks (rowmill-pipeline) ◀─────┘
//! ```
//!
//! - [`binlog`] decodes events into packed row batches;
//! - [`gtid`] has transactions' IDs and sets of them;
//! - [`position`] has positions in the binlog, and resume points;
//! - [`batch`] is the packed format, shared with the plugins' SDK;
//! - [`route`] makes message groups and deduplication IDs;
//! - [`envelope`] writes a row as a message body.

pub mod binlog;
mod by_table;
pub mod envelope;
pub mod gtid;
pub mod position;
pub mod route;

pub use by_table::ByTable;
pub use rowmill_batch as batch;
