//! What stops the decoding: what happened, where, and what mends it.

use rowmill_batch::RowIndex;

use super::event_kind::EventKind;
use crate::position::BinlogPosition;

/// An event that can't be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("binlog event at {position} (type {}){}: {fault}", .kind.0, .table.as_ref().map(|t| format!(", table {t}")).unwrap_or_default())]
pub struct DecodeError {
    /// Where the event begins.
    pub position: BinlogPosition,
    /// Where its transaction begins in the same file, if it is known to be in one.
    pub transaction: Option<u64>,
    /// The event's type.
    pub kind: EventKind,
    /// The table, where the event has one that is known.
    pub table: Option<String>,
    /// What is wrong.
    pub fault: DecodeErrorKind,
}

/// A row whose deferred columns can't be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowError {
    /// The row, in the batch that has it.
    pub row: RowIndex,
    /// Why.
    pub error: Box<DecodeError>,
}

/// What is wrong with an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeErrorKind {
    /// It ends too soon.
    #[error("it ends too soon; the binlog file or the connection is damaged")]
    Truncated,
    /// It contradicts the format.
    #[error("malformed: {0}; the binlog file or the connection is damaged")]
    Malformed(&'static str),
    /// Its type isn't known, and it isn't marked as one that may be passed over.
    #[error(
        "unknown event type; this version of rowmill can't read binlogs of this server without losing what the event says"
    )]
    UnknownEvent,
    /// The format knows it, Rowmill doesn't yet.
    #[error("{what} can't be decoded yet; {mend}")]
    Unsupported {
        /// What it is.
        what: String,
        /// What the user can do.
        mend: &'static str,
    },
    /// It isn't what was written.
    #[error("its checksum is {found:08x} and should be {expected:08x}; the binlog file or the connection is damaged")]
    Checksum {
        /// What its bytes give.
        found: u32,
        /// What it says.
        expected: u32,
    },
    /// The table map doesn't say all of the columns, and there's no server to ask.
    #[error("{0}, and there is no server to ask; {fix}", fix = .0.fix())]
    Incomplete(Missing),
    /// The table map doesn't say all of the columns, and information_schema has others.
    #[error(
        "{missing}, and information_schema has other columns ({difference}): the table was changed since, or the user \
         doesn't see all of it; {fix}, or leave the table out by `source.tables`", fix = .missing.fix()
    )]
    OtherColumns {
        /// What the table map lacks.
        missing: Missing,
        /// In what they differ.
        difference: String,
    },
    /// The table map doesn't say all of the columns, and they can't be known otherwise.
    #[error("{0}")]
    UnknownColumns(String),
    /// The members of an `ENUM` or `SET` can't be had from information_schema.
    #[error(
        "{names}, and information_schema can't show the members of `{column}`, which aren't text; {fix}, or leave the \
         table out by `source.tables`", names = Missing::Names, fix = Missing::Names.fix()
    )]
    HiddenMembers {
        /// The column's name.
        column: String,
    },
    /// Rows of a table that no table map announced.
    #[error("rows of table id {0}, which no table map announced; start from a transaction's beginning")]
    NoTableMap(u64),
    /// A data change was logged as a statement.
    #[error(
        "a change was logged as a statement, not as rows: `{0}`; set `binlog_format = ROW` in the server's configuration and \
         in the session that made it"
    )]
    Statement(String),
    /// A row larger than a batch can be.
    #[error("a row of more than 4 GiB; leave its table out by `source.tables`")]
    RowTooLarge,
    /// Rows were handed on that were rolled back later.
    #[error(
        "a transaction of more than {held_bytes} bytes of rows was rolled back after rows of it were delivered; \
         consumers must be told that its rows since {since} are void; then start from a position after it"
    )]
    RolledBack {
        /// How much is held back until it's known whether a transaction is committed.
        held_bytes: usize,
        /// Where it began.
        since: BinlogPosition,
    },
    /// A part of a transaction was rolled back, and it can't be told where that part begins.
    #[error(
        "a transaction was rolled back to savepoint `{0}`, which the binlog doesn't have: it can't be told which rows \
         stay; compare the tables with what was delivered, and start from a position after the transaction"
    )]
    UnknownSavepoint(String),
    /// A prepared transaction was committed that isn't known.
    #[error(
        "XA transaction {0} is committed, and it was prepared before the position that the reading began at; start \
         from a position before its `XA PREPARE`, or after this event to go on without its rows"
    )]
    UnknownXa(String),
    /// A server to go on with hasn't got the last transaction that was read from another one.
    #[error(
        "the server's binlog has {found} and not {done}, the last transaction of that domain and server that is done with: \
         what lies between isn't in it; go on with a server that has {done}, or take a new copy of the tables and set the \
         checkpoint anew by `rowmill checkpoint set`"
    )]
    MissingGtid {
        /// The transaction that is missing.
        done: String,
        /// The one that comes in its place.
        found: String,
    },
    /// Text that isn't valid in its character set.
    #[error(
        "column `{column}` holds bytes that aren't valid {charset}; correct the row and go on after the transaction, or leave \
         the table out by `source.tables`"
    )]
    Text {
        /// The column's name.
        column: String,
        /// Its character set.
        charset: &'static str,
    },
    /// The server says that it lost events.
    #[error("the server reports that events were lost here (an incident): {0}; take a new snapshot")]
    Incident(String),
}

/// What a table map doesn't say of a table's columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// Their names: `binlog_row_metadata` isn't `FULL`.
    #[error("the binlog doesn't name the table's columns")]
    Names,
    /// How many digits of a second they have: they are in MariaDB's older temporal format.
    #[error(
        "the binlog doesn't say how many digits of a second the table's columns in MariaDB's older temporal format have"
    )]
    FractionDigits,
}

impl Missing {
    /// What makes the server say it.
    pub fn fix(self) -> &'static str {
        match self {
            Self::Names => {
                "run `SET PERSIST binlog_row_metadata = 'FULL'` (on MariaDB `SET GLOBAL`, and set it in its configuration \
                 file) and start from a position after it"
            }
            Self::FractionDigits => {
                "run `ALTER TABLE ... FORCE` on it while `mysql56_temporal_format` is ON, which converts them, and start \
                 from a position after it"
            }
        }
    }
}
