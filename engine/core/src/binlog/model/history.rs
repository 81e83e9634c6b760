//! Random histories of a server, and the items that must arrive.

use proptest::prelude::*;

use super::super::writer::{Change, Value};

/// The steps that a server does, in order.
#[derive(Debug, Clone)]
pub struct History {
    pub setup: Setup,
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone, Copy)]
pub struct Setup {
    pub flavor: Flavor,
    pub checksums: bool,
    /// MariaDB: whether events within transactions lack their position, and rows are compressed.
    pub terse: bool,
    /// Whether table maps name their columns (`binlog_row_metadata=FULL`).
    pub names_columns: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavor {
    MySql,
    /// Some GTIDs have tags.
    MySqlTagged,
    MySqlAnonymous,
    /// Before 5.6: a statement begins a transaction.
    MySqlWithoutGtids,
    MariaDb,
}

#[derive(Debug, Clone)]
pub enum Step {
    Transaction {
        parts: Vec<Part>,
        end: End,
        /// MySQL: whether the events are in a payload, and whether that is compressed.
        payload: Option<bool>,
    },
    Xa {
        parts: Vec<Part>,
        one_phase: bool,
    },
    /// Ends one of the prepared transactions.
    XaEnd {
        pick: usize,
        is_commit: bool,
    },
    /// Adds a column to a table, or renames one.
    Alter {
        table: usize,
        rename: bool,
    },
    /// `CREATE TABLE ... SELECT`.
    CreateWithRows {
        rows: usize,
    },
    /// A statement that changes no selected rows: the creation of a user, or a change in a schema that isn't selected.
    Statement {
        other_schema: bool,
    },
    /// An event that readers ignore.
    Ignorable,
    Rotate,
    /// The server is shut down and restarts.
    Restart,
    /// The server crashes, maybe within a transaction, and restarts.
    Crash {
        parts: Option<Vec<Part>>,
    },
    /// The file grows by a gap.
    Grow {
        gib: u64,
    },
}

#[derive(Debug, Clone)]
pub enum Part {
    Rows {
        table: usize,
        change: Change,
        /// The number of rows of each event.
        events: Vec<usize>,
        /// Whether the row images lack some columns.
        partial: bool,
        big: bool,
    },
    Savepoint(u8),
    RollbackTo(usize),
    /// A statement about a temporary table.
    TemporaryTable,
    /// The text of the statement that follows.
    Text,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Xid,
    Commit,
    Rollback,
}

fn parts() -> impl Strategy<Value = Vec<Part>> {
    let change = prop_oneof![Just(Change::Write), Just(Change::Update), Just(Change::Delete)];
    let events = proptest::collection::vec(1usize..7, 1..3);
    let rows = (0usize..4, change, events, any::<bool>(), prop::bool::weighted(0.02))
        .prop_map(|(table, change, events, partial, big)| Part::Rows { table, change, events, partial, big });
    let part = prop_oneof![
        8 => rows,
        2 => (0u8..3).prop_map(Part::Savepoint),
        2 => (0usize..3).prop_map(Part::RollbackTo),
        1 => Just(Part::TemporaryTable),
        1 => Just(Part::Text),
    ];
    proptest::collection::vec(part, 0..6)
}

pub fn history() -> impl Strategy<Value = History> {
    let flavor = prop_oneof![
        3 => Just(Flavor::MySql),
        1 => Just(Flavor::MySqlTagged),
        1 => Just(Flavor::MySqlAnonymous),
        1 => Just(Flavor::MySqlWithoutGtids),
        3 => Just(Flavor::MariaDb),
    ];
    let setup = (flavor, any::<bool>(), any::<bool>(), prop::bool::weighted(0.7))
        .prop_map(|(flavor, checksums, terse, names_columns)| Setup { flavor, checksums, terse, names_columns });
    let end = prop_oneof![8 => Just(End::Xid), 1 => Just(End::Commit), 1 => Just(End::Rollback)];
    let payload = prop_oneof![3 => Just(None), 1 => any::<bool>().prop_map(Some)];
    let step = prop_oneof![
        8 => (parts(), end, payload).prop_map(|(parts, end, payload)| Step::Transaction { parts, end, payload }),
        3 => (parts(), prop::bool::weighted(0.3)).prop_map(|(parts, one_phase)| Step::Xa { parts, one_phase }),
        3 => (0usize..3, prop::bool::weighted(0.7)).prop_map(|(pick, is_commit)| Step::XaEnd { pick, is_commit }),
        1 => (0usize..4, any::<bool>()).prop_map(|(table, rename)| Step::Alter { table, rename }),
        1 => (0usize..4).prop_map(|rows| Step::CreateWithRows { rows }),
        1 => any::<bool>().prop_map(|other_schema| Step::Statement { other_schema }),
        1 => Just(Step::Ignorable),
        2 => Just(Step::Rotate),
        1 => Just(Step::Restart),
        1 => proptest::option::of(parts()).prop_map(|parts| Step::Crash { parts }),
        1 => (1u64..12).prop_map(|gib| Step::Grow { gib }),
    ];
    (setup, proptest::collection::vec(step, 1..14)).prop_map(|(setup, steps)| History { setup, steps })
}

/// A row as it must arrive.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub table: String,
    pub change: Change,
    pub before: Vec<Value>,
    pub after: Vec<Value>,
    pub event_position: u64,
    pub index_in_event: u32,
    pub index_in_transaction: u32,
    pub time_us: i64,
    pub is_last: bool,
    pub transaction: Head,
}

/// The fields that rows share with their transaction.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Head {
    pub file: String,
    pub position: u64,
    pub gtid: String,
    pub commit_time_us: i64,
    pub server_id: u32,
    pub thread_id: u32,
}

/// An item that a reader receives.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    Row(Row),
    SchemaChange { statement: String, file: String, event_position: u64, gtid: String },
}

impl Item {
    pub fn row(&self) -> Option<&Row> {
        match self {
            Self::Row(row) => Some(row),
            Self::SchemaChange { .. } => None,
        }
    }

    pub fn gtid(&self) -> &str {
        match self {
            Self::Row(row) => &row.transaction.gtid,
            Self::SchemaChange { gtid, .. } => gtid,
        }
    }

    /// Returns the item without its positions, which differ on another server.
    pub fn elsewhere(&self) -> Self {
        match self.clone() {
            Self::Row(row) => {
                let transaction = Head { file: String::new(), position: 0, ..row.transaction };
                Self::Row(Row { event_position: 0, index_in_event: 0, transaction, ..row })
            }
            Self::SchemaChange { statement, gtid, .. } => {
                Self::SchemaChange { statement, file: String::new(), event_position: 0, gtid }
            }
        }
    }
}
