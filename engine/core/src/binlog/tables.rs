//! The tables met so far. The server numbers them anew whenever it opens them, and repeats their
//! maps before every statement; a version gets an id of its own only if its content is new.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;

use rowmill_batch::{Table, TableId};
use rustc_hash::FxHashMap;

use super::catalog::CatalogColumn;
use super::error::{Fault, Missing};
use super::late::Needs;
use super::table_map::{self, Columns, ColumnsFault, Family, TableName};

/// Table maps are repeated before every statement, so that forgetting old ones costs little.
const NUMBERS_MAX: usize = 4096;

/// Which tables' rows are wanted, and what of them.
pub trait Select: Send {
    /// Whether this table's rows are.
    fn table(&self, schema: &str, table: &str) -> bool;

    /// Whether rows of any table of this schema may be.
    fn schema(&self, schema: &str) -> bool;

    /// Which columns of a table's rows are to be decoded at once; the rest is, where somebody wants it, by
    /// [`Undecoded`](super::Undecoded).
    fn needs(&self, table: &Table) -> Needs {
        let _ = table;
        Needs::default()
    }

    /// Another number than before if [`Select::needs`] may answer otherwise than it did.
    fn version(&self) -> u64 {
        0
    }
}

#[derive(Debug, Default)]
pub(super) struct Tables {
    by_number: FxHashMap<u64, KnownTable>,
    versions: Vec<Arc<TableVersion>>,
    /// Versions that no batch had yet, in the order of their ids.
    new: Vec<Arc<Table>>,
    /// Columns as information_schema has them, of tables whose maps don't say all of them.
    catalog: HashMap<(String, String), Vec<CatalogColumn>>,
}

#[derive(Debug)]
struct KnownTable {
    /// The table map's body, to see that nothing changed.
    map: Vec<u8>,
    /// `None` where the table isn't selected.
    version: Option<Arc<TableVersion>>,
}

#[derive(Debug)]
pub(super) struct TableVersion {
    pub table: Arc<Table>,
    pub columns: Columns,
}

/// Why a table map can't be taken.
#[derive(Debug)]
pub(super) enum MapFault {
    /// It doesn't say all of its columns: [`Tables::learn`] them.
    Missing {
        schema: String,
        table: String,
        missing: Missing,
    },
    Fault(Fault),
}

impl From<Fault> for MapFault {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Tables {
    /// Takes a table map.
    pub fn map(&mut self, body: &[u8], family: Family, select: &dyn Select) -> Result<(), MapFault> {
        let number = table_map::table_number(body)?;
        if self.by_number.get(&number).is_some_and(|known| known.map == body) {
            return Ok(());
        }
        let name = TableName::parse(body)?;
        let version = if select.table(name.schema, name.table) { Some(self.version(name, family)?) } else { None };
        self.by_number.insert(number, KnownTable { map: body.to_vec(), version });
        Ok(())
    }

    fn version(&mut self, name: TableName<'_>, family: Family) -> Result<Arc<TableVersion>, MapFault> {
        let key = (name.schema.to_owned(), name.table.to_owned());
        let columns = name.columns(family, self.catalog.get(&key).map(Vec::as_slice)).map_err(|fault| match fault {
            ColumnsFault::Missing(missing) => {
                MapFault::Missing { schema: key.0.clone(), table: key.1.clone(), missing }
            }
            ColumnsFault::Fault(fault) => MapFault::Fault(fault),
        })?;
        let (schema, name) = key;
        let same = |version: &&Arc<TableVersion>| {
            version.table.name == name && version.table.schema == schema && version.columns == columns
        };
        if let Some(version) = self.versions.iter().rev().find(same) {
            return Ok(Arc::clone(version));
        }
        let id = TableId(self.versions.len() as u32);
        let (names, key) = (columns.columns.clone(), columns.key.clone());
        let table = Arc::new(Table { id, schema, name, columns: names, key });
        self.new.push(Arc::clone(&table));
        let version = Arc::new(TableVersion { table, columns });
        self.versions.push(Arc::clone(&version));
        Ok(version)
    }

    /// The table of a number: `Some(None)` where it isn't selected.
    pub fn of_number(&self, number: u64) -> Option<Option<&Arc<TableVersion>>> {
        self.by_number.get(&number).map(|known| known.version.as_ref())
    }

    /// The name of a number's table, if it is selected.
    pub fn name(&self, number: u64) -> Option<String> {
        let version = self.by_number.get(&number)?.version.as_ref()?;
        Some(version.table.to_string())
    }

    /// Columns of a table whose map doesn't say all of them.
    pub fn learn(&mut self, schema: String, table: String, columns: Vec<CatalogColumn>) {
        self.catalog.insert((schema, table), columns);
    }

    /// A statement may have changed tables: what was learned of them may be wrong from here on.
    pub fn forget_learned(&mut self) {
        if !self.catalog.is_empty() {
            self.catalog.clear();
            self.by_number.clear();
        }
    }

    /// The server's numbers mean nothing any more: another connection, maybe another server. It begins earlier: what was
    /// learned of tables may be wrong there.
    pub fn forget_numbers(&mut self) {
        self.by_number.clear();
        self.catalog.clear();
    }

    pub fn forget_numbers_if_many(&mut self) {
        if self.by_number.len() > NUMBERS_MAX {
            self.by_number.clear();
        }
    }

    /// The versions that no batch had yet.
    pub fn take_new(&mut self) -> Vec<Arc<Table>> {
        mem::take(&mut self.new)
    }
}
