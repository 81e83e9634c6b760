//! A history as the server wrote it.

use std::collections::{HashMap, HashSet};

use super::super::CatalogColumn;
use super::super::writer::{BinlogWriter, ColumnDefinition, ColumnType, TableDefinition};
use super::history::{Item, Row};
use crate::gtid::GtidSet;
use crate::position::{BinlogPosition, file_number};

/// A history as the server wrote it.
#[derive(Debug)]
pub struct Written {
    pub writer: BinlogWriter,
    /// The committed items, in the order of the commits.
    pub committed: Vec<Item>,
    /// For each item of an XA transaction, the index of the transaction's first item.
    pub xa_first: Vec<Option<usize>>,
    /// Transactions with void rows, by their beginning.
    pub voids: HashMap<BinlogPosition, Void>,
    /// The definitions of all tables, each from a position on.
    pub definitions: Vec<(BinlogPosition, Vec<TableDefinition>)>,
    /// The positions between two transactions.
    pub boundaries: Vec<Boundary>,
    /// Transactions with savepoints, by their beginning.
    pub with_savepoints: HashSet<BinlogPosition>,
    /// Whether some rows are so large that not all of them can be held back.
    pub has_big_rows: bool,
}

/// A position between two transactions.
#[derive(Debug, Clone)]
pub struct Boundary {
    pub position: BinlogPosition,
    /// Whether an XA transaction is prepared and neither committed nor rolled back.
    pub has_prepared: bool,
    /// The number of items that were committed before.
    pub committed: usize,
    /// The transactions that were executed before.
    pub executed: GtidSet,
}

/// A transaction with void rows: it was rolled back at least in part, or a crash cut it off.
#[derive(Debug)]
pub struct Void {
    /// The number of items that were committed before.
    pub committed: usize,
    /// The transaction's rows, including the void ones.
    pub rows: Vec<Row>,
    /// Whether it is known before the rows that they may be void, so that they are held back.
    pub is_held: bool,
}

impl Boundary {
    /// Whether reading may begin here: a server accepts the position, and no XA transaction is prepared.
    pub fn is_start(&self) -> bool {
        !self.has_prepared && u32::try_from(self.position.offset).is_ok()
    }
}

impl Written {
    /// Returns the last boundary that isn't after a position.
    pub fn boundary_before(&self, at: &BinlogPosition) -> &Boundary {
        let place = |position: &BinlogPosition| (file_number(&position.file), position.offset);
        let before = self.boundaries.iter().rev().find(|boundary| place(&boundary.position) <= place(at));
        before.expect("the first is the beginning")
    }

    /// Whether a file is larger than a dump's positions can address (4 GiB).
    pub fn has_large_file(&self) -> bool {
        self.boundaries.iter().any(|boundary| u32::try_from(boundary.position.offset).is_err())
    }

    /// Returns a table's columns as information_schema has them at a position.
    pub fn catalog(&self, at: &BinlogPosition, schema: &str, table: &str) -> Vec<CatalogColumn> {
        let place = |position: &BinlogPosition| (file_number(&position.file), position.offset);
        let known = self.definitions.iter().rev().find(|(from, _)| place(from) <= place(at));
        let (_, tables) = known.expect("the first is from the beginning");
        let is_it = |known: &&TableDefinition| known.schema == schema && known.name == table;
        let table = tables.iter().find(is_it).expect("an existing table");
        let column = |(index, column): (usize, &ColumnDefinition)| {
            let (column_type, is_text) = match column.column_type {
                ColumnType::Int => ("int".to_owned(), false),
                ColumnType::BigintUnsigned => ("bigint unsigned".to_owned(), false),
                ColumnType::Double => ("double".to_owned(), false),
                ColumnType::Varchar { bytes_max } => (format!("varchar({})", bytes_max / 4), true),
                ColumnType::Longtext => ("longtext".to_owned(), true),
            };
            CatalogColumn {
                is_hidden: false,
                name: column.name.clone(),
                column_type,
                charset: is_text.then(|| "utf8mb4".to_owned()),
                key_position: table.key.contains(&index).then_some(1),
            }
        };
        table.columns.iter().enumerate().map(column).collect()
    }
}
