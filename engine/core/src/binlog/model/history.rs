//! Random histories of a server, and the rows as they must come of it.

use proptest::prelude::*;

use super::super::writer::{Change, Value};

/// What a server does, one after the other.
#[derive(Debug, Clone)]
pub struct History {
    pub setup: Setup,
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone, Copy)]
pub struct Setup {
    pub flavor: Flavor,
    pub checksums: bool,
    /// MariaDB: whether events within transactions lack their position, and rows are packed.
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
        /// MySQL: in a payload, packed or not.
        payload: Option<bool>,
    },
    Xa {
        parts: Vec<Part>,
        one_phase: bool,
    },
    /// One of the prepared transactions ends.
    XaEnd {
        pick: usize,
        is_commit: bool,
    },
    /// A table gets another column, or one of its columns another name.
    Alter {
        table: usize,
        rename: bool,
    },
    /// `CREATE TABLE ... SELECT`.
    CreateWithRows {
        rows: usize,
    },
    /// A statement that changes no rows that count: a grant, or a change in a schema that isn't selected.
    Statement {
        other_schema: bool,
    },
    /// An event that is passed over.
    Ignorable,
    Rotate,
    /// The server ends and begins again.
    Restart,
    /// It ends without saying so, maybe within a transaction.
    Crash {
        parts: Option<Vec<Part>>,
    },
    /// The file is larger than it was.
    Grow {
        gib: u64,
    },
}

#[derive(Debug, Clone)]
pub enum Part {
    Rows {
        table: usize,
        change: Change,
        /// Rows of each event.
        events: Vec<usize>,
        /// Not all columns are in the images.
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

/// A row as it must come.
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

/// What rows share with their transaction.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Head {
    pub file: String,
    pub position: u64,
    pub gtid: String,
    pub commit_time_us: i64,
    pub server_id: u32,
    pub thread_id: u32,
}

/// What a reader gets.
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

    /// The item without what another server says otherwise: where it is.
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
