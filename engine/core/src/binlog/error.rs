//! Decode errors: what happened, where, and how to fix it.

use rowmill_batch::RowIndex;

use super::event_kind::EventKind;
use crate::position::BinlogPosition;

/// An error in decoding an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot decode binlog event at {position} (type {}){}: {cause}", .kind.0, .table.as_ref().map(|t| format!(", table {t}")).unwrap_or_default())]
pub struct DecodeError {
    /// The start of the event.
    pub position: BinlogPosition,
    /// The offset at which the event's transaction begins in the same file, if the event is known to be in a transaction.
    pub transaction: Option<u64>,
    /// The event's type.
    pub kind: EventKind,
    /// The event's table, if it has one and it is known.
    pub table: Option<String>,
    /// The cause.
    pub cause: DecodeErrorKind,
}

/// An error in decoding a row's deferred columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowError {
    /// The row's index in its batch.
    pub row: RowIndex,
    /// The cause.
    pub error: Box<DecodeError>,
}

/// The cause of a [`DecodeError`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeErrorKind {
    /// The event or value is shorter than its format requires.
    #[error("the event is truncated; the binlog file or the connection is damaged")]
    Truncated,
    /// The event contradicts its format.
    #[error("malformed event: {0}; the binlog file or the connection is damaged")]
    Malformed(&'static str),
    /// The event's type is unknown, and the event is not marked as ignorable.
    #[error(
        "unknown event type; this version of rowmill cannot read this server's binlog without losing the event's content"
    )]
    UnknownEvent,
    /// A part of the format that Rowmill does not support yet.
    #[error("not supported yet: {what}; {fix}")]
    Unsupported {
        /// The unsupported data.
        what: String,
        /// The fix for the user.
        fix: &'static str,
    },
    /// The event's bytes do not match its checksum.
    #[error(
        "checksum mismatch: computed {found:08x}, stored {expected:08x}; the binlog file or the connection is damaged"
    )]
    Checksum {
        /// The checksum computed from the event's bytes.
        found: u32,
        /// The checksum stored in the event.
        expected: u32,
    },
    /// The table map does not describe the columns completely, and there is no server to look them up on.
    #[error("{0}, and there is no server to look the columns up on; {fix}", fix = .0.fix())]
    Incomplete(Missing),
    /// The table map does not describe the columns completely, and those in information_schema differ.
    #[error(
        "{missing}, and the columns in information_schema differ ({difference}): the table was altered since, or the user \
         cannot see all of its columns; {fix}, or exclude the table in `source.tables`", fix = .missing.fix()
    )]
    OtherColumns {
        /// What the table map lacks.
        missing: Missing,
        /// The difference between the table map and information_schema.
        difference: String,
    },
    /// The table map does not describe the columns completely, and no other source can.
    #[error("{0}")]
    UnknownColumns(String),
    /// The members of an `ENUM` or `SET` cannot be read from information_schema.
    #[error(
        "{names}, and information_schema cannot show the members of `{column}`, which are not text; {fix}, or exclude the \
         table in `source.tables`", names = Missing::Names, fix = Missing::Names.fix()
    )]
    HiddenMembers {
        /// The column's name.
        column: String,
    },
    /// Rows of a table without a table map.
    #[error("rows of table ID {0}, which no table map announced; start from the beginning of a transaction")]
    NoTableMap(u64),
    /// A data change was logged as a statement.
    #[error(
        "a change was logged as a statement, not as rows: `{0}`; set `binlog_format = ROW` in the server's configuration and \
         in the session that made the change"
    )]
    Statement(String),
    /// A row is larger than a batch can be.
    #[error("a row is larger than 4 GiB; exclude its table in `source.tables`")]
    RowTooLarge,
    /// Rows were rolled back after they were emitted.
    #[error(
        "a transaction with more than {held_bytes} bytes of rows was rolled back after some of its rows were delivered; \
         tell the consumers that its rows from {since} on are void, then start from a position after the transaction"
    )]
    RolledBack {
        /// The most bytes of rows that are held back until their transaction's end is known.
        held_bytes: usize,
        /// The start of the transaction.
        since: BinlogPosition,
    },
    /// A part of a transaction was rolled back, and the start of that part is unknown.
    #[error(
        "a transaction was rolled back to savepoint `{0}`, which is not in the binlog, so the remaining rows are unknown; \
         compare the tables with the delivered changes, and start from a position after the transaction"
    )]
    UnknownSavepoint(String),
    /// The commit of a prepared XA transaction whose rows are unknown.
    #[error(
        "XA transaction {0} is committed here, but was prepared before the start position; start from a position before its \
         `XA PREPARE`, or after this event to continue without its rows"
    )]
    UnknownXa(String),
    /// The server lacks the last transaction that was read from another server.
    #[error(
        "the server's binlog has {found} and not {done}, the last transaction that was read of that domain and server, so \
         the transactions between them are missing; continue with a server that has {done}, or take a new copy of the \
         tables and move the checkpoint with `rowmill checkpoint set`"
    )]
    MissingGtid {
        /// The missing transaction.
        done: String,
        /// The transaction found in its place.
        found: String,
    },
    /// A text value that is not valid in its character set.
    #[error(
        "column `{column}` holds bytes that aren't valid {charset}; correct the row and start from a position after the \
         transaction, or exclude the table in `source.tables`"
    )]
    Text {
        /// The column's name.
        column: String,
        /// The column's character set.
        charset: &'static str,
    },
    /// The server reports that it lost events.
    #[error("the server reports lost events (an incident): {0}; take a new copy of the tables")]
    Incident(String),
}

impl DecodeErrorKind {
    /// Returns the code of the error, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::Malformed(_) => "malformed",
            Self::UnknownEvent => "unknown-event",
            Self::Unsupported { .. } => "unsupported",
            Self::Checksum { .. } => "checksum-mismatch",
            Self::Incomplete(_) | Self::OtherColumns { .. } | Self::UnknownColumns(_) | Self::HiddenMembers { .. } => {
                "unknown-columns"
            }
            Self::NoTableMap(_) => "no-table-map",
            Self::Statement(_) => "statement",
            Self::RowTooLarge => "row-too-large",
            Self::RolledBack { .. } => "rolled-back",
            Self::UnknownSavepoint(_) => "unknown-savepoint",
            Self::UnknownXa(_) => "unknown-xa",
            Self::MissingGtid { .. } => "missing-gtid",
            Self::Text { .. } => "invalid-text",
            Self::Incident(_) => "incident",
        }
    }
}

/// A property of the columns that a table map lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// The names: `binlog_row_metadata` is not `FULL`.
    #[error("the binlog does not name the table's columns")]
    Names,
    /// The fractional-second precision, in MariaDB's older temporal format.
    #[error(
        "the binlog lacks the fractional-second precision of the table's columns in MariaDB's older temporal format"
    )]
    FractionDigits,
}

impl Missing {
    /// Returns the instruction that makes the server log the property.
    pub fn fix(self) -> &'static str {
        match self {
            Self::Names => {
                "run `SET PERSIST binlog_row_metadata = 'FULL'` (on MariaDB `SET GLOBAL`, and set it in its configuration \
                 file) and start from a position after it"
            }
            Self::FractionDigits => {
                "run `ALTER TABLE ... FORCE` on the table while `mysql56_temporal_format` is ON, which converts the columns, \
                 and start from a position after it"
            }
        }
    }
}
