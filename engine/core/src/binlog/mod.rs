//! The binlog decoder: binlog events in, packed row batches out. No I/O: [`Decoder::next`] takes an event's bytes.
//!
//! ```text
//!   event ──▶ decoder ──▶ rows ──▶ value ──▶ deferred (packed rows and deferred columns) ──▶ RowBatch
//!     │            ├─▶ gtid_event, query, statement (where transactions begin and end)
//!     │            ├─▶ transaction, savepoint (rows held back until their transaction is committed)
//!     │            ├─▶ tables, table_map, catalog (columns, once per table version)
//!     │            ├─▶ projection, projection_plan (the columns that are decoded immediately)
//!     │            └─▶ history (the fingerprints of positions)
//!     └─▶ payload, mariadb (decompression)
//! ```
//!
//! Column names come from the binlog itself (`binlog_row_metadata=FULL`), or else from information_schema, checked against
//! the table map ([`CatalogColumn`]). Data that cannot be decoded with certainty is an error with its position, never a
//! guess. With [`Decoder::with_skipping`], a change that nothing else depends on is skipped instead, and recorded as a
//! [`SkippedChange`].
//!
//! Formats: <https://dev.mysql.com/doc/dev/mysql-server/latest/namespacemysql_1_1binlog_1_1event.html>

mod altered;
mod bytes;
mod catalog;
mod charset;
mod column_codec;
mod column_type;
mod columns;
mod decimal;
mod decoder;
mod deferred;
mod error;
mod event;
mod event_kind;
#[cfg(fuzzing)]
pub mod fuzzing;
mod gtid_event;
mod history;
mod json;
mod mariadb;
#[cfg(test)]
mod model;
mod multi_byte;
mod number;
mod optional_metadata;
mod payload;
mod projection;
mod projection_plan;
mod query;
mod rows;
mod savepoint;
mod single_byte;
mod skipped;
mod sql;
mod statement;
mod statement_targets;
mod table_map;
mod tables;
mod temporal;
mod transaction;
mod transaction_end;
mod value;
#[cfg(any(test, feature = "test-util"))]
pub mod writer;

pub use altered::Altered;
pub use catalog::{CatalogColumn, append_unlisted};
pub use decoder::{BATCH_BYTES_MAX, BATCH_ROWS_MAX, Decoder, Next, RowBatch};
pub use deferred::DeferredColumns;
pub use error::{DecodeError, DecodeErrorKind, Missing, RowError};
pub use event::EventHeader;
pub use event_kind::EventKind;
pub use history::{Finding, FingerprintCheck, GtidScan, Met, file_fingerprint};
pub use projection::{ColumnSet, RowProjection, TableProjection, TableSelector};
pub use query::SchemaChange;
pub use skipped::{SkippedChange, SkippedContent};
pub(crate) use temporal::civil_from_days;
pub use transaction_end::{EndFinder, TransactionEnd};
