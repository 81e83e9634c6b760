//! What plugins want of tables, and what follows from it: which columns are decoded at once, and which a
//! plugin may ask for.

use std::sync::Arc;

use rowmill_core::ByTable;
use rowmill_core::batch::{ColumnIndex, ImageKind, Operation, Table};
use rowmill_core::binlog::{ColumnSet, RowProjection, TableProjection};

use super::wasm::bindings::types;

/// What a plugin decides on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Interest {
    Pass,
    Drop,
    All,
    Columns(Arc<WantedColumns>),
}

/// What a plugin wants of a table's rows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct WantedColumns {
    /// The columns that it reads and edits. `None`: all.
    columns: Option<ColumnSet>,
    /// Whether it reads the before images of updates.
    before: bool,
    inserts: bool,
    updates: bool,
    deletes: bool,
}

impl Interest {
    /// # Errors
    /// If it names a column that the table hasn't.
    pub fn new(interest: types::Interest, table: &Table) -> Result<Self, String> {
        let types::Want { columns, before, inserts, updates, deletes } = match interest {
            types::Interest::Pass => return Ok(Self::Pass),
            types::Interest::Drop => return Ok(Self::Drop),
            types::Interest::All => return Ok(Self::All),
            types::Interest::Want(want) => want,
        };
        let count = table.columns.len();
        if let Some(column) = columns.iter().find(|&&column| column as usize >= count) {
            return Err(format!("it wants column {column} of {table}, which has {count}"));
        }
        let columns = (!columns.is_empty()).then(|| columns.into_iter().map(ColumnIndex).collect());
        Ok(Self::Columns(Arc::new(WantedColumns { columns, before, inserts, updates, deletes })))
    }

    /// What becomes of a row to which this happened, as far as that is certain before the plugin is asked.
    pub fn disposition(&self, operation: Operation) -> Disposition {
        match self {
            Self::Pass => Disposition::Keep,
            Self::Drop => Disposition::Drop,
            Self::All => Disposition::Ask,
            Self::Columns(want) => {
                if want.is_about(operation) {
                    Disposition::Ask
                } else {
                    Disposition::Keep
                }
            }
        }
    }

    fn want(&self) -> Option<&WantedColumns> {
        if let Self::Columns(want) = self { Some(want) } else { None }
    }
}

/// What becomes of a row at a transform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disposition {
    Keep,
    Drop,
    Ask,
}

impl WantedColumns {
    fn is_about(&self, operation: Operation) -> bool {
        match operation {
            Operation::Insert => self.inserts,
            Operation::Update => self.updates,
            Operation::Delete => self.deletes,
        }
    }

    fn has(&self, column: ColumnIndex) -> bool {
        self.columns.as_ref().is_none_or(|columns| columns.contains(column))
    }

    fn has_before(&self) -> bool {
        self.before || !self.updates
    }
}

/// What a table's plugins, in their order, need of its rows to decide on them.
pub(super) fn table_projection(table: &Table, interests: &[Interest]) -> TableProjection {
    let of = |operation| row_projection(table, interests, operation);
    TableProjection { inserts: of(Operation::Insert), updates: of(Operation::Update), deletes: of(Operation::Delete) }
}

/// `None`: everything.
fn row_projection(table: &Table, interests: &[Interest], operation: Operation) -> Option<RowProjection> {
    // The message group is made of the key, for messages as well that are made of rows that don't stay.
    let key: ColumnSet = table.key.iter().copied().collect();
    let mut row_projection = RowProjection { before: key.clone(), after: key };
    let mut is_decided = false;
    for interest in interests {
        match (interest.disposition(operation), interest.want()) {
            (Disposition::Keep, _) => {}
            (Disposition::Drop, _) => return Some(row_projection),
            (Disposition::Ask, None) => return None,
            (Disposition::Ask, Some(want)) => {
                is_decided = true;
                let wanted = (0..table.columns.len() as u32).map(ColumnIndex).filter(|&column| want.has(column));
                row_projection.after.extend(wanted.clone());
                if want.before || operation != Operation::Update {
                    row_projection.before.extend(wanted);
                }
            }
        }
    }
    // Rows that nobody decides on are kept.
    is_decided.then_some(row_projection)
}

/// What a plugin wants of each table, as far as it was asked.
#[derive(Debug, Default)]
pub(super) struct Interests(ByTable<Interest>);

impl Interests {
    pub fn get(&self, table: &Table) -> Option<&Interest> {
        self.0.get(table)
    }

    /// Takes the first answer about a table; later ones must be the same. Of past generations there is none any more.
    ///
    /// # Errors
    /// If one isn't.
    pub fn agree(&mut self, table: &Table, interest: &Interest) -> Result<(), String> {
        match self.get(table) {
            None if self.0.is_past(table) => {}
            None => self.insert(table, interest.clone()),
            Some(first) if first == interest => {}
            Some(_) => {
                return Err(format!(
                    "it says of {table} something else than before: rows are decoded for what it said first, so that it must \
                     always want the same"
                ));
            }
        }
        Ok(())
    }

    pub fn insert(&mut self, table: &Table, interest: Interest) {
        *self.0.entry(table) = Some(interest);
    }

    fn want(&self, table: &Table) -> Option<&WantedColumns> {
        self.get(table)?.want()
    }

    /// Whether it may read and edit a column. One that it didn't want may be absent: then it would read what
    /// isn't so.
    ///
    /// # Errors
    /// If not.
    pub fn check(&self, table: &Table, column: ColumnIndex, image: ImageKind) -> Result<(), String> {
        let Some(want) = self.want(table) else { return Ok(()) };
        if !want.has(column) {
            let name = &table.columns[column.0 as usize].name;
            return Err(format!(
                "it uses the column `{name}` of {table}, which isn't among those that it said it wants"
            ));
        }
        if image == ImageKind::Before && !want.has_before() {
            return Err(format!("it uses rows of {table} as they were, of which it said that it doesn't want them"));
        }
        Ok(())
    }

    /// Whether it may read all columns.
    ///
    /// # Errors
    /// If not.
    pub fn check_all(&self, table: &Table, image: ImageKind) -> Result<(), String> {
        (0..table.columns.len() as u32).try_for_each(|column| self.check(table, ColumnIndex(column), image))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rowmill_core::batch::{Column, Kind, TableId};

    fn table() -> Table {
        let column = |name: &str| Column {
            name: name.to_owned(),
            kind: Kind::Text,
            mysql_type: "text".to_owned(),
            nullable: true,
            key: name == "id",
        };
        let columns = ["id", "status", "email"].map(column).to_vec();
        let (schema, name) = ("shop".to_owned(), "orders".to_owned());
        Table { id: TableId(0), generation: 0, schema, name, columns, key: vec![ColumnIndex(0)] }
    }

    fn want(columns: &[u32], before: bool, updates: bool) -> Interest {
        let want = types::Want { columns: columns.to_vec(), before, inserts: true, updates, deletes: false };
        Interest::new(types::Interest::Want(want), &table()).expect("columns that it has")
    }

    fn columns(set: &ColumnSet) -> Vec<u32> {
        (0..3).filter(|&column| set.contains(ColumnIndex(column))).collect()
    }

    #[test]
    fn what_is_needed_follows_from_what_is_wanted() {
        let table_projection = |interests: &[Interest]| super::table_projection(&table(), interests);
        assert_eq!(table_projection(&[]), TableProjection::default());
        assert_eq!(table_projection(&[Interest::Pass]), TableProjection::default());
        assert_eq!(table_projection(&[want(&[1], true, true), Interest::All]), TableProjection::default());

        let TableProjection { inserts, updates, deletes } =
            table_projection(&[want(&[1], false, true), Interest::Pass, want(&[2], true, false)]);
        assert_eq!(inserts.map(|row_projection| columns(&row_projection.after)), Some(vec![0, 1, 2]));
        let updates = updates.expect("some");
        assert_eq!((columns(&updates.before), columns(&updates.after)), (vec![0], vec![0, 1]));
        assert_eq!(deletes, None, "they are kept");

        let TableProjection { inserts, .. } = table_projection(&[Interest::Drop, Interest::All]);
        assert_eq!(inserts.map(|row_projection| columns(&row_projection.after)), Some(vec![0]));
    }

    #[test]
    fn the_first_answer_counts() {
        let mut first = Interests::default();
        assert_eq!(first.agree(&table(), &want(&[1], false, true)), Ok(()));
        assert_eq!(first.agree(&table(), &want(&[1], false, true)), Ok(()));
        for other in [Interest::All, Interest::Pass, want(&[2], false, true), want(&[1], true, true)] {
            let fault = first.agree(&table(), &other).expect_err("another one");
            assert!(fault.contains("shop.orders"), "{fault}");
        }
    }

    #[test]
    fn what_it_did_not_want_it_may_not_use() {
        let mut interests = Interests::default();
        let check = |interests: &Interests, column, image| interests.check(&table(), ColumnIndex(column), image);
        assert_eq!(check(&interests, 2, ImageKind::Before), Ok(()));
        interests.insert(&table(), want(&[1], false, true));
        assert_eq!(check(&interests, 1, ImageKind::After), Ok(()));
        let fault = check(&interests, 2, ImageKind::After).expect_err("unwanted");
        assert!(fault.contains("`email` of shop.orders"), "{fault}");
        assert!(check(&interests, 1, ImageKind::Before).is_err());
        assert!(interests.check_all(&table(), ImageKind::After).is_err());
        interests.insert(&table(), want(&[], true, true));
        assert_eq!(interests.check_all(&table(), ImageKind::Before), Ok(()));
        let beyond = types::Want { columns: vec![3], before: true, inserts: true, updates: true, deletes: true };
        assert!(Interest::new(types::Interest::Want(beyond), &table()).is_err());
    }
}
