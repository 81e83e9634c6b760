//! Events as values.

use std::fmt;

use super::super::event_kind::EventKind;
use crate::gtid::{Gtid, GtidSet};

/// An event, without its header and checksum.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The executed transactions at the head of a MySQL file.
    PreviousGtids(GtidSet),
    /// The same of a MariaDB file.
    GtidList(GtidSet),
    /// A MySQL transaction's beginning: anonymous without a GTID, in the tagged format if the GTID has a tag.
    Gtid {
        /// `None`: anonymous.
        gtid: Option<Gtid>,
        /// In microseconds since 1970.
        commit_time_us: u64,
    },
    /// A MariaDB transaction's beginning. The header has its server.
    MariaDbGtid {
        /// The replication domain.
        domain: u32,
        /// The number in the domain.
        sequence: u64,
        /// Whether one statement follows, without a commit of its own.
        standalone: bool,
        /// A group commit's id.
        commit_id: Option<u64>,
        /// The XA transaction that is prepared at the end.
        prepared: Option<XaId>,
    },
    /// A statement.
    Query(Statement),
    /// A statement, packed (MariaDB).
    CompressedQuery(Statement),
    /// The description of a table.
    TableMap {
        /// The server's number of the table.
        number: u64,
        /// Its columns.
        table: TableDefinition,
    },
    /// Changed rows.
    Rows(Rows),
    /// A commit.
    Xid(u64),
    /// The preparation of an XA transaction, or its commit in one phase.
    XaPrepare {
        /// Whether it is committed by this.
        one_phase: bool,
        /// Its id.
        id: XaId,
    },
    /// The end of a file.
    Rotate {
        /// The next file.
        file: String,
        /// Where to begin in it.
        offset: u64,
    },
    /// The server's end.
    Stop,
    /// A sign of life, which no file has.
    Heartbeat {
        /// The current file.
        file: String,
    },
    /// The text of a statement whose rows follow (MySQL).
    RowsQuery(String),
    /// The text of a statement whose rows follow (MariaDB).
    AnnotateRows(String),
    /// MariaDB's oldest file that recovery needs.
    BinlogCheckpoint(String),
    /// A compressed transaction's events (MySQL).
    Payload {
        /// The events inside.
        events: Vec<Event>,
        /// Whether they're packed by zstd.
        zstd: bool,
    },
    /// The report of lost events.
    Incident(String),
    /// Anything else.
    Other {
        /// The event's type.
        kind: EventKind,
        /// Whether readers may pass over it.
        ignorable: bool,
        /// What follows its header.
        body: Vec<u8>,
    },
}

/// A statement that is logged as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Statement {
    /// The session in which it ran.
    pub thread_id: u32,
    /// The session's schema.
    pub schema: String,
    /// The schemas that it changed, where it says so.
    pub changed_schemas: Option<Vec<String>>,
    /// The statement.
    pub text: String,
}

/// The id of an XA transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XaId {
    /// The format's number.
    pub format: u32,
    /// The global part.
    pub global: Vec<u8>,
    /// The branch.
    pub branch: Vec<u8>,
}

/// As the servers write it in statements: `X'7831',X'',1`.
impl fmt::Display for XaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { format, global, branch } = self;
        for part in [global, branch] {
            f.write_str("X'")?;
            part.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
            f.write_str("',")?;
        }
        write!(f, "{format}")
    }
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableDefinition {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Its columns.
    pub columns: Vec<ColumnDefinition>,
    /// The indexes of the primary key's columns.
    pub key: Vec<usize>,
    /// Whether the table map has the columns' names and the key (`binlog_row_metadata=FULL`).
    pub named: bool,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnDefinition {
    /// Its name.
    pub name: String,
    /// Its type.
    pub column_type: ColumnType,
    /// Whether it may be NULL.
    pub nullable: bool,
}

/// The types that the writer knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnType {
    /// `INT`.
    Int,
    /// `BIGINT UNSIGNED`.
    BigintUnsigned,
    /// `DOUBLE`.
    Double,
    /// `VARCHAR` in utf8mb4, of at most so many bytes.
    Varchar {
        /// Four for each character.
        bytes_max: u16,
    },
    /// `LONGTEXT` in utf8mb4.
    Longtext,
}

/// A column of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// The image doesn't have the column.
    Absent,
    /// NULL.
    Null,
    /// Of an `INT`.
    Int(i32),
    /// Of a `BIGINT UNSIGNED`.
    Uint(u64),
    /// Of a `DOUBLE`.
    Double(f64),
    /// Of a `VARCHAR` or `LONGTEXT`.
    Text(String),
    /// The same, with bytes that may stand for nothing.
    Bytes(Vec<u8>),
}

/// What happened to the rows of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// They are new.
    Write,
    /// They changed.
    Update,
    /// They are gone.
    Delete,
}

/// A row event. All images of one kind have the same columns.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows {
    /// The server's number of the table.
    pub number: u64,
    /// What happened to the rows.
    pub change: Change,
    /// How the rows are laid out.
    pub layout: RowsLayout,
    /// The rows: before (empty for `Write`) and after (empty for `Delete`).
    pub rows: Vec<(Vec<Value>, Vec<Value>)>,
    /// The types of the table's columns.
    pub columns: Vec<ColumnType>,
}

/// How a row event is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowsLayout {
    /// Version 1: MariaDB's.
    V1,
    /// Version 2: MySQL's.
    V2,
    /// Version 1 with packed rows (MariaDB's `log_bin_compress`).
    CompressedV1,
}
