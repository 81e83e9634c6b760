//! Rowmill's pure logic. It knows no socket, file, clock, thread or task: values in, values out.
//!
//! ```text
//!   events ──▶ binlog ──▶ batch ──▶ (transforms) ──▶ route ──▶ envelope ──▶ lanes
//!                                                                             │ settled
//!                              resume point ◀── acks (rowmill-pipeline) ◀─────┘
//! ```
//!
//! - [`binlog`] decodes events into packed row batches;
//! - [`gtid`] knows transactions' ids and sets of them;
//! - [`batch`] is the packed format, shared with the guests' SDK;
//! - [`route`] gives each output its message group and its identity;
//! - [`envelope`] writes a row as a message body;
//! - [`lanes`] decides which messages may go into the next request.

pub mod binlog;
mod by_table;
pub mod envelope;
pub mod gtid;
pub mod position;
pub mod route;

pub use by_table::ByTable;
pub use rowmill_batch as batch;
