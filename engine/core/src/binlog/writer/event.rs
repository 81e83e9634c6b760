//! Binlog events as values.

use std::fmt;

use super::super::event_kind::EventKind;
use crate::gtid::{Gtid, GtidSet};

/// An event, without its header and checksum.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The executed transactions, at the head of a MySQL file.
    PreviousGtids(GtidSet),
    /// The executed transactions, at the head of a MariaDB file.
    GtidList(GtidSet),
    /// The beginning of a MySQL transaction, in the tagged format if the GTID has a tag.
    Gtid {
        /// The GTID; `None` for an anonymous transaction.
        gtid: Option<Gtid>,
        /// The commit time, in microseconds since 1970.
        commit_time_us: u64,
    },
    /// The beginning of a MariaDB transaction. The header has the GTID's server ID.
    MariaDbGtid {
        /// The replication domain.
        domain: u32,
        /// The sequence number in the domain.
        sequence: u64,
        /// Whether the transaction is one statement without a commit event.
        standalone: bool,
        /// The ID of a group commit.
        commit_id: Option<u64>,
        /// The XA transaction that is prepared at the transaction's end.
        prepared: Option<XaId>,
    },
    /// A statement.
    Query(Statement),
    /// A compressed statement (MariaDB).
    CompressedQuery(Statement),
    /// A table map.
    TableMap {
        /// The server's table number.
        number: u64,
        /// The table.
        table: TableDefinition,
    },
    /// A row event.
    Rows(Rows),
    /// A commit, with its XID.
    Xid(u64),
    /// The preparation of an XA transaction, or its commit in one phase.
    XaPrepare {
        /// Whether the transaction is committed in one phase.
        one_phase: bool,
        /// The ID of the XA transaction.
        id: XaId,
    },
    /// The end of a file.
    Rotate {
        /// The next file.
        file: String,
        /// The position to begin at in the next file, in bytes.
        offset: u64,
    },
    /// The server's shutdown.
    Stop,
    /// A heartbeat, which is in no file.
    Heartbeat {
        /// The current file.
        file: String,
    },
    /// The text of a statement whose rows follow (MySQL).
    RowsQuery(String),
    /// The text of a statement whose rows follow (MariaDB).
    AnnotateRows(String),
    /// The oldest file that recovery needs (MariaDB).
    BinlogCheckpoint(String),
    /// A compressed transaction (MySQL).
    Payload {
        /// The inner events.
        events: Vec<Event>,
        /// Whether the events are compressed with zstd; otherwise they are stored uncompressed.
        zstd: bool,
    },
    /// A report of lost events.
    Incident(String),
    /// Any other event.
    Other {
        /// The event's type.
        kind: EventKind,
        /// Whether readers may ignore the event.
        ignorable: bool,
        /// The bytes after the header.
        body: Vec<u8>,
    },
}

/// A statement that is logged as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Statement {
    /// The ID of the session that ran the statement.
    pub thread_id: u32,
    /// The session's schema.
    pub schema: String,
    /// The schemas that the statement changed; `None` if the event doesn't say.
    pub changed_schemas: Option<Vec<String>>,
    /// The statement's text.
    pub text: String,
}

/// The ID of an XA transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XaId {
    /// The format ID.
    pub format: u32,
    /// The global transaction ID.
    pub global: Vec<u8>,
    /// The branch qualifier.
    pub branch: Vec<u8>,
}

/// Writes the ID as the servers do in statements: `X'7831',X'',1`.
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

/// The definition of a table.
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

/// The definition of a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnDefinition {
    /// Its name.
    pub name: String,
    /// Its type.
    pub column_type: ColumnType,
    /// Whether the column may be NULL.
    pub nullable: bool,
}

/// The column types that the writer supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnType {
    /// `INT`.
    Int,
    /// `BIGINT UNSIGNED`.
    BigintUnsigned,
    /// `DOUBLE`.
    Double,
    /// `VARCHAR` in utf8mb4.
    Varchar {
        /// The most bytes of a value: four for each character.
        bytes_max: u16,
    },
    /// `LONGTEXT` in utf8mb4.
    Longtext,
}

/// The value of a column in a row image.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// The row image doesn't have the column.
    Absent,
    /// NULL.
    Null,
    /// A value of an `INT`.
    Int(i32),
    /// A value of a `BIGINT UNSIGNED`.
    Uint(u64),
    /// A value of a `DOUBLE`.
    Double(f64),
    /// A value of a `VARCHAR` or `LONGTEXT`.
    Text(String),
    /// The same, with bytes that may be invalid text.
    Bytes(Vec<u8>),
}

/// The change that an event makes to its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The rows are inserted.
    Write,
    /// The rows are updated.
    Update,
    /// The rows are deleted.
    Delete,
}

/// A row event. All images of one kind have the same columns.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows {
    /// The server's table number.
    pub number: u64,
    /// The change of the rows.
    pub change: Change,
    /// The layout of the event.
    pub layout: RowsLayout,
    /// The rows: before image (empty for `Write`) and after image (empty for `Delete`).
    pub rows: Vec<(Vec<Value>, Vec<Value>)>,
    /// The types of the table's columns.
    pub columns: Vec<ColumnType>,
}

/// The layout of a row event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowsLayout {
    /// Version 1: MariaDB's.
    V1,
    /// Version 2: MySQL's.
    V2,
    /// Version 1 with compressed rows (MariaDB's `log_bin_compress`).
    CompressedV1,
}
