//! The tables seen so far. The server gives a table a new number whenever it opens the table, and repeats its table map
//! before every statement; a table version gets an ID only if its columns are new.
//!
//! Tables are created and dropped, and every altered table is a new version. To bound memory, all versions are forgotten
//! once there are many, and a new generation begins. If the same versions come again, the bound is raised.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::mem;
use std::sync::Arc;

use rowmill_batch::{Table, TableId, shown_name};
use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};

use super::altered::Altered;
use super::catalog::CatalogColumn;
use super::columns::{Columns, Family};
use super::error::{DecodeErrorKind, Missing};
use super::projection::TableSelector;
use super::table_map::{self, ColumnsError, TableName};

/// The most table maps that are remembered. Forgetting them costs little, as maps are repeated before every statement.
const TABLE_MAP_CACHE_MAX: usize = 4096;

/// The initial maximum size of a generation, in columns, each table counted as [`SIZE_OF_TABLE`] more.
const SIZE_MAX: usize = if cfg!(test) { 1 << 5 } else { 1 << 15 };
/// The most forgotten versions whose hashes are kept.
const FORGOTTEN_MAX: usize = 1 << 16;
/// The size of a table besides its columns, in columns.
const SIZE_OF_TABLE: usize = 8;

/// The tables seen so far, by number and by version.
#[derive(Debug, Default)]
pub(super) struct Tables {
    by_number: FxHashMap<u64, KnownTable>,
    /// The table versions of the current generation.
    versions: Versions,
    /// The versions that no batch had yet, in the order of their IDs.
    new: Vec<Arc<Table>>,
    /// The columns from information_schema of tables whose maps do not describe them completely, by schema and table.
    catalog: HashMap<(String, String), Learned>,
}

/// A table's columns from information_schema, or the reason why they cannot be determined.
type Learned = Result<(Vec<CatalogColumn>, Certainty), String>;

/// The certainty that looked-up columns are those of a table map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Certainty {
    /// A mismatch is an error.
    Certain,
    /// After a mismatch the columns are requested again.
    Guess,
}

/// The table of a table map.
#[derive(Debug)]
struct KnownTable {
    /// The table map's body, for comparison with later maps of the same number.
    map: Vec<u8>,
    /// `None` if the table is not selected, or if its columns cannot be determined.
    version: Option<Arc<TableVersion>>,
    /// The reason if the table's columns cannot be determined.
    unreadable: Option<Box<Unreadable>>,
}

/// A selected table whose columns cannot be determined.
#[derive(Debug, Clone)]
pub(super) struct Unreadable {
    /// The table's name, with its schema.
    pub table: String,
    pub cause: DecodeErrorKind,
}

/// The table versions of one generation.
#[derive(Debug)]
struct Versions {
    generation: u32,
    by_id: Vec<Arc<TableVersion>>,
    /// The versions' IDs, by schema and table.
    by_name: HashMap<(String, String), Vec<TableId>>,
    /// The size of all versions, in columns.
    size: usize,
    /// The size at which the generation ends, in columns.
    size_max: usize,
    /// The size of the versions that an earlier generation already had, in columns.
    known_size: usize,
    /// The hashes of earlier generations' versions.
    forgotten: FxHashSet<u64>,
}

impl Default for Versions {
    fn default() -> Self {
        let (by_id, by_name, forgotten) = Default::default();
        Self { generation: 0, by_id, by_name, size: 0, size_max: SIZE_MAX, known_size: 0, forgotten }
    }
}

impl Versions {
    fn find(&self, name: &(String, String), columns: &Columns) -> Option<Arc<TableVersion>> {
        let by_name = self.by_name.get(name)?.iter().rev();
        by_name.map(|id| &self.by_id[id.0 as usize]).find(|version| version.columns == *columns).map(Arc::clone)
    }

    fn add(&mut self, (schema, name): (String, String), columns: Columns) -> Arc<TableVersion> {
        let id = TableId(self.by_id.len() as u32);
        self.by_name.entry((schema.clone(), name.clone())).or_default().push(id);
        let (names, key) = (columns.columns.clone(), columns.key.clone());
        let table = Arc::new(Table { id, generation: self.generation, schema, name, columns: names, key });
        let version = Arc::new(TableVersion { table, columns });
        self.size += version.size();
        if !self.forgotten.is_empty() && self.forgotten.contains(&version.hash()) {
            self.known_size += version.size();
        }
        self.by_id.push(Arc::clone(&version));
        version
    }

    /// Whether there are too many versions. If earlier generations had most of them, there are simply many tables: the limit
    /// is doubled, so that the same versions are not forgotten again and again.
    #[inline]
    fn is_full(&mut self) -> bool {
        if self.size >= self.size_max && self.known_size > self.size / 2 {
            self.size_max *= 2;
        }
        self.size >= self.size_max
    }

    fn begin_generation(&mut self) {
        let Self { generation, by_id, size_max, mut forgotten, .. } = mem::take(self);
        if forgotten.len() + by_id.len() > FORGOTTEN_MAX {
            forgotten.clear();
        }
        forgotten.extend(by_id.iter().map(|version| version.hash()));
        *self = Self { generation: generation.wrapping_add(1), size_max, forgotten, ..Self::default() };
    }
}

/// A version of a selected table, and how the values of its columns are read.
#[derive(Debug)]
pub(super) struct TableVersion {
    pub table: Arc<Table>,
    pub columns: Columns,
}

impl TableVersion {
    /// Returns the size in columns.
    fn size(&self) -> usize {
        SIZE_OF_TABLE + self.table.columns.len()
    }

    /// Returns a hash that is the same for the same table version in any generation.
    fn hash(&self) -> u64 {
        let Table { schema, name, columns, .. } = &*self.table;
        FxBuildHasher.hash_one((schema, name, columns))
    }
}

/// An error in processing a table map.
#[derive(Debug)]
pub(super) enum TableMapError {
    /// The map does not describe the columns completely: [`Tables::learn`] them.
    Missing {
        schema: String,
        table: String,
        missing: Missing,
    },
    Decode(DecodeErrorKind),
}

impl From<DecodeErrorKind> for TableMapError {
    fn from(cause: DecodeErrorKind) -> Self {
        Self::Decode(cause)
    }
}

impl Tables {
    /// Processes a table map.
    ///
    /// # Errors
    /// If the columns of a selected table must be looked up, or cannot be determined. With `skips_undecodable` the latter is no
    /// error: the table is [`Tables::unreadable`].
    pub fn map(
        &mut self,
        body: &[u8],
        family: Family,
        select: &dyn TableSelector,
        skips_undecodable: bool,
    ) -> Result<(), TableMapError> {
        let number = table_map::table_number(body)?;
        if self.by_number.get(&number).is_some_and(|known| known.map == body) {
            return Ok(());
        }
        let name = TableName::parse(body)?;
        let (mut version, mut unreadable) = (None, None);
        if select.table(name.schema, name.table) {
            let key = (name.schema.to_owned(), name.table.to_owned());
            match self.version(name, family) {
                Ok(known) => version = Some(known),
                Err(TableMapError::Decode(cause)) if skips_undecodable => {
                    let table = shown_name(&key.0, &key.1);
                    if let Some(learned) = self.catalog.get_mut(&key) {
                        *learned = Err(cause.to_string());
                    }
                    unreadable = Some(Box::new(Unreadable { table, cause }));
                }
                Err(cause) => return Err(cause),
            }
        }
        self.by_number.insert(number, KnownTable { map: body.to_vec(), version, unreadable });
        Ok(())
    }

    /// Returns the table version of a table map, which is new if its columns are.
    fn version(&mut self, name: TableName<'_>, family: Family) -> Result<Arc<TableVersion>, TableMapError> {
        let key = (name.schema.to_owned(), name.table.to_owned());
        let mut learned = self.catalog.get(&key);
        let known = learned.and_then(|learned| learned.as_ref().ok());
        let mut columns = name.columns(family, known.map(|(columns, _)| &columns[..]));
        if let (Err(ColumnsError::Decode(_)), Some((_, Certainty::Guess))) = (&columns, known) {
            self.catalog.remove(&key);
            (columns, learned) = (name.columns(family, None), None);
        }
        let columns = columns.map_err(|cause| match (cause, learned) {
            (ColumnsError::Missing(_), Some(Err(why))) => {
                TableMapError::Decode(DecodeErrorKind::UnknownColumns(why.clone()))
            }
            (ColumnsError::Missing(missing), _) => {
                TableMapError::Missing { schema: key.0.clone(), table: key.1.clone(), missing }
            }
            (ColumnsError::Decode(cause), _) => TableMapError::Decode(cause),
        })?;
        if let Some(version) = self.versions.find(&key, &columns) {
            return Ok(version);
        }
        let version = self.versions.add(key, columns);
        self.new.push(Arc::clone(&version.table));
        Ok(version)
    }

    /// Whether there are so many table versions that a new generation must begin. Called between two transactions.
    #[inline]
    pub fn is_full(&mut self) -> bool {
        self.versions.is_full()
    }

    /// Forgets all tables: only rows of batches that have ended may still refer to them. Returns the tables that no
    /// batch had yet.
    pub fn begin_generation(&mut self) -> Vec<Arc<Table>> {
        self.by_number.clear();
        self.versions.begin_generation();
        self.take_new()
    }

    /// Returns the table of a number: `Some(None)` if the table is not selected or unreadable, `None` if no table map
    /// announced the number.
    pub fn by_number(&self, number: u64) -> Option<Option<&Arc<TableVersion>>> {
        self.by_number.get(&number).map(|known| known.version.as_ref())
    }

    /// Returns why the columns of a number's table cannot be determined, if the table is selected.
    pub fn unreadable(&self, number: u64) -> Option<&Unreadable> {
        self.by_number.get(&number)?.unreadable.as_deref()
    }

    /// Returns the name of a number's table, if the table is selected and readable.
    pub fn name(&self, number: u64) -> Option<String> {
        let version = self.by_number.get(&number)?.version.as_ref()?;
        Some(version.table.to_string())
    }

    /// Sets the columns of a table whose map does not describe them completely.
    pub fn learn(&mut self, schema: String, table: String, columns: Vec<CatalogColumn>, certainty: Certainty) {
        self.catalog.insert((schema, table), Ok((columns, certainty)));
    }

    /// Marks a table's columns as impossible to determine.
    pub fn give_up(&mut self, schema: String, table: String, why: String) {
        self.catalog.insert((schema, table), Err(why));
    }

    /// Whether the columns of a table were learned, and match the table's maps since then, if there were any.
    pub fn knows(&self, schema: &str, table: &str) -> bool {
        self.catalog.get(&(schema.to_owned(), table.to_owned())).is_some_and(Result::is_ok)
    }

    /// Whether the columns of any table were learned.
    pub fn has_learned(&self) -> bool {
        !self.catalog.is_empty()
    }

    /// Forgets the learned columns of the tables that a statement may have altered.
    pub fn forget_learned(&mut self, altered: &Altered) {
        let before = self.catalog.len();
        self.catalog.retain(|(schema, table), _| !altered.may_be(schema, table));
        if self.catalog.len() < before {
            self.by_number.clear();
        }
    }

    /// Forgets the table numbers and the learned columns, for a new connection, which may be to another server. The
    /// connection begins at an earlier position, where the learned columns may be wrong.
    pub fn forget_numbers(&mut self) {
        self.by_number.clear();
        self.catalog.clear();
    }

    /// Forgets the table numbers if there are too many. Called between two transactions.
    pub fn forget_numbers_if_many(&mut self) {
        if self.by_number.len() > TABLE_MAP_CACHE_MAX {
            self.by_number.clear();
        }
    }

    /// Returns the versions that no batch had yet.
    pub fn take_new(&mut self) -> Vec<Arc<Table>> {
        mem::take(&mut self.new)
    }
}

#[cfg(test)]
mod tests {
    use super::super::writer::{ColumnDefinition, ColumnType, Event, TableDefinition};
    use super::*;

    struct Shop;

    impl TableSelector for Shop {
        fn table(&self, schema: &str, _table: &str) -> bool {
            schema == "shop"
        }

        fn schema(&self, schema: &str) -> bool {
            schema == "shop"
        }
    }

    fn map(tables: &mut Tables, number: u64, schema: &str, columns: &[&str], named: bool) -> Result<(), TableMapError> {
        let column =
            |name: &&str| ColumnDefinition { name: (*name).to_owned(), column_type: ColumnType::Int, nullable: false };
        let columns = columns.iter().map(column).collect();
        let table = TableDefinition { schema: schema.to_owned(), name: "t".to_owned(), columns, key: vec![], named };
        tables.map(&Event::TableMap { number, table }.body(), Family::MySql, &Shop, false)
    }

    fn id(tables: &Tables, number: u64) -> Option<u32> {
        tables.by_number(number).expect("a number that was announced").map(|version| version.table.id.0)
    }

    #[test]
    fn a_version_has_one_id_whatever_its_numbers_are() {
        let mut tables = Tables::default();
        for (number, columns) in [(1, &["a"][..]), (1, &["a"]), (2, &["a"]), (3, &["a", "b"]), (4, &["a"])] {
            map(&mut tables, number, "shop", columns, true).expect("taken");
        }
        assert_eq!([1, 2, 3, 4].map(|number| id(&tables, number)), [Some(0), Some(0), Some(1), Some(0)]);
        assert_eq!(tables.take_new().iter().map(|table| table.id.0).collect::<Vec<_>>(), [0, 1]);
        assert!(tables.take_new().is_empty(), "each is new once");
    }

    #[test]
    fn tables_that_are_not_met_again_are_forgotten() {
        let mut tables = Tables::default();
        let mut generations = 0;
        for number in 0..1000 {
            let column = format!("c{number}");
            map(&mut tables, number, "shop", &[&column], true).expect("taken");
            assert_eq!(tables.take_new().len(), 1);
            if tables.is_full() {
                assert!(tables.versions.by_id.len() <= SIZE_MAX / SIZE_OF_TABLE + 1);
                assert!(tables.begin_generation().is_empty() && tables.by_number(number).is_none());
                generations += 1;
            }
        }
        assert!(generations > 100, "{generations}");
        let version = |tables: &Tables, number| tables.by_number[&number].version.clone().expect("selected");
        tables.begin_generation();
        map(&mut tables, 7, "shop", &["c7"], true).expect("taken");
        let table = Arc::clone(&version(&tables, 7).table);
        assert_eq!((table.id, table.generation), (TableId(0), generations + 1));
    }

    #[test]
    fn many_tables_that_are_met_again_are_kept() {
        let mut tables = Tables::default();
        for round in 0..10 {
            for number in 0..100 {
                let column = format!("c{number}");
                map(&mut tables, number, "shop", &[&column], true).expect("taken");
                if tables.is_full() {
                    assert!(round < 2, "they fit by now");
                    tables.begin_generation();
                }
            }
        }
        assert_eq!(tables.versions.by_id.len(), 100);
    }

    #[test]
    fn a_number_may_be_given_to_another_table() {
        let mut tables = Tables::default();
        map(&mut tables, 1, "shop", &["a"], true).expect("taken");
        map(&mut tables, 1, "hidden", &["a"], true).expect("taken");
        assert_eq!((id(&tables, 1), tables.name(1)), (None, None));
        map(&mut tables, 1, "shop", &["b"], true).expect("taken");
        assert_eq!((id(&tables, 1), tables.name(1)), (Some(1), Some("shop.t".to_owned())));
    }

    #[test]
    fn another_connection_has_other_numbers() {
        let mut tables = Tables::default();
        map(&mut tables, 1, "shop", &["a"], true).expect("taken");
        tables.forget_numbers();
        assert!(tables.by_number(1).is_none());
        map(&mut tables, 9, "shop", &["a"], true).expect("taken");
        assert_eq!(id(&tables, 9), Some(0), "the version is the same");
    }

    #[test]
    fn names_are_learned_until_a_statement_may_have_changed_them() {
        let mut tables = Tables::default();
        let is_unnamed = |result| matches!(result, Err(TableMapError::Missing { schema, table, .. }) if schema == "shop" && table == "t");
        let learn = |tables: &mut Tables, name: &str| {
            let (column_type, charset) = ("int".to_owned(), None);
            let column =
                CatalogColumn { is_hidden: false, name: name.to_owned(), column_type, charset, key_position: None };
            tables.learn("shop".to_owned(), "t".to_owned(), vec![column], Certainty::Certain);
        };
        assert!(map(&mut tables, 1, "hidden", &["x"], false).is_ok(), "the table is not selected");
        assert!(is_unnamed(map(&mut tables, 2, "shop", &["x"], false)));
        learn(&mut tables, "a");
        map(&mut tables, 2, "shop", &["x"], false).expect("taken");
        let altered = |statement| Altered::by(statement, None).expect("it alters");
        tables.forget_learned(&altered("ALTER TABLE t2 RENAME COLUMN a TO b"));
        map(&mut tables, 3, "shop", &["x"], false).expect("another table's columns were changed");
        tables.forget_learned(&altered("ALTER TABLE t RENAME COLUMN a TO b"));
        assert!(is_unnamed(map(&mut tables, 2, "shop", &["x"], false)));
        learn(&mut tables, "b");
        map(&mut tables, 2, "shop", &["x"], false).expect("taken");
        let names: Vec<String> = tables.take_new().iter().map(|table| table.columns[0].name.clone()).collect();
        assert_eq!(names, ["a", "b"]);
        tables.forget_numbers();
        assert!(is_unnamed(map(&mut tables, 2, "shop", &["x"], false)), "another connection begins earlier");
    }

    #[test]
    fn columns_that_do_not_fit_are_a_fault_unless_they_were_a_guess() {
        let mut tables = Tables::default();
        let (schema, name) = (|| "shop".to_owned(), || "t".to_owned());
        tables.learn(schema(), name(), Vec::new(), Certainty::Guess);
        let asked = map(&mut tables, 1, "shop", &["x"], false);
        assert!(matches!(asked, Err(TableMapError::Missing { .. })), "asked once more: {asked:?}");
        tables.learn(schema(), name(), Vec::new(), Certainty::Certain);
        let refused = map(&mut tables, 1, "shop", &["x"], false);
        assert!(matches!(refused, Err(TableMapError::Decode(_))), "{refused:?}");
    }
}
