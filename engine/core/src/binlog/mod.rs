//! Binlog events in, packed row batches out. No I/O: [`Decoder::next`] takes an event's bytes.
//!
//! ```text
//!   event ──▶ decoder (transactions, positions) ──▶ rows ──▶ value ──▶ batch builder
//!     │            ├─▶ transaction (what is held back until it's committed)
//!     │            └─▶ tables, table_map (columns, once per table version)
//!     ├─▶ payload, mariadb (compressed ones, unpacked)
//!     └─▶ late (columns that nobody needs yet)
//! ```
//!
//! Column names come from the binlog itself (`binlog_row_metadata=FULL`), else from
//! information_schema, compared with the table map ([`CatalogColumn`]). What can't be decoded with
//! certainty is an error with its position, never a guess; where the user prefers that, a change on which nothing else
//! depends is skipped, with a record of it ([`SkippedChange`]).
//!
//! Formats: <https://dev.mysql.com/doc/dev/mysql-server/latest/namespacemysql_1_1binlog_1_1event.html>

mod altered;
mod bytes;
mod catalog;
mod charset;
mod decimal;
mod decoder;
mod error;
mod event;
#[cfg(fuzzing)]
pub mod fuzzing;
mod gtid_event;
mod history;
mod json;
mod late;
mod mariadb;
#[cfg(test)]
mod model;
mod multi_byte;
mod number;
mod payload;
mod query;
mod rows;
mod savepoint;
mod single_byte;
mod skipped;
mod sparse;
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
pub use error::{DecodeError, Fault, Missing, RowError};
pub use event::{EventHeader, EventKind};
pub use history::{Finding, FingerprintCheck, GtidScan, Met, file_fingerprint};
pub use late::{ColumnSet, Needed, Needs, Undecoded};
pub use query::SchemaChange;
pub use skipped::{SkippedChange, SkippedContent};
pub use tables::Select;
pub(crate) use temporal::civil_from_days;
pub use transaction_end::{EndFinder, TransactionEnd};
