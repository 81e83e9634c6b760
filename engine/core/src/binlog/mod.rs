//! Binlog events in, packed row batches out. No I/O: [`Decoder::event`] takes an event's bytes.
//!
//! ```text
//!   event ──▶ decoder (transactions, positions) ──▶ rows ──▶ value ──▶ batch builder
//!                  └─▶ table_map (columns, once per table version)
//! ```
//!
//! Column names come from the binlog itself (`binlog_row_metadata=FULL`); what can't be decoded
//! with certainty is an error with its position, never a guess and never skipped.
//!
//! Formats: <https://dev.mysql.com/doc/dev/mysql-server/latest/namespacemysql_1_1binlog_1_1event.html>

mod bytes;
mod charset;
mod decimal;
mod decoder;
mod error;
mod event;
mod json;
mod number;
mod rows;
mod table_map;
mod temporal;
mod value;

pub use decoder::{BATCH_BYTES_MAX, BATCH_ROWS_MAX, Decoder, RowBatch};
pub use error::{DecodeError, Fault};
pub use event::{Event, EventHeader, EventKind};
