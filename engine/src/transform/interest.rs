//! The plugins' interests in tables, and what follows from them: the projection, which is decoded before the transforms
//! run, and the columns that a plugin may use.

use std::sync::Arc;

use rowmill_core::ByTable;
use rowmill_core::batch::{ColumnIndex, ImageKind, Operation, Table};
use rowmill_core::binlog::{ColumnSet, RowProjection, TableProjection};

use super::wasm::bindings::types;
use crate::config::nearest;

/// A plugin's interest in a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Interest {
    /// Rows are kept, and the plugin does not see them.
    Pass,
    /// Rows are dropped, and the plugin does not see them.
    Drop,
    /// The plugin decides on all rows, and may use all columns.
    All,
    /// The plugin decides on rows of some operations, and may use these columns. Other rows are kept.
    Columns(Arc<WantedColumns>),
}

/// The columns, images and operations that a plugin wants of a table.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct WantedColumns {
    /// The columns that the plugin reads or edits. `None`: all.
    columns: Option<ColumnSet>,
    /// Whether the plugin reads the before images of updates.
    before: bool,
    inserts: bool,
    updates: bool,
    deletes: bool,
}

impl Interest {
    /// Converts an answer to `describe`.
    ///
    /// # Errors
    /// If the answer names a column that the table does not have: a transform that would read it as NULL drops or leaks
    /// what it must not.
    pub fn new(interest: types::Interest, table: &Table) -> Result<Self, String> {
        let types::Want { columns, before, inserts, updates, deletes } = match interest {
            types::Interest::Pass => return Ok(Self::Pass),
            types::Interest::Drop => return Ok(Self::Drop),
            types::Interest::All => return Ok(Self::All),
            types::Interest::Want(want) => want,
        };
        let find = |name: &String| {
            table.column(name).ok_or_else(|| {
                let hint = nearest(name, table.columns.iter().map(|column| &*column.name));
                format!("{}, which the transform declares{hint}", table.no_column(name))
            })
        };
        let indexes = columns.iter().map(find).collect::<Result<ColumnSet, String>>()?;
        let columns = (!columns.is_empty()).then_some(indexes);
        Ok(Self::Columns(Arc::new(WantedColumns { columns, before, inserts, updates, deletes })))
    }

    /// Returns the disposition of a row with this operation, which is known before the plugin sees the row.
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

/// What is done with a row at a transform: keep it, drop it, or ask the transform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disposition {
    Keep,
    Drop,
    Ask,
}

impl WantedColumns {
    fn is_about(&self, operation: Operation) -> bool {
        match operation {
            Operation::Insert | Operation::Read => self.inserts,
            Operation::Update => self.updates,
            Operation::Delete => self.deletes,
        }
    }

    fn has(&self, column: ColumnIndex) -> bool {
        self.columns.as_ref().is_none_or(|columns| columns.contains(column))
    }

    /// Whether all before images that the plugin sees are decoded: those of deletes always are, those of updates only if
    /// the plugin reads them.
    fn has_before(&self) -> bool {
        self.before || !self.updates
    }
}

/// Returns the columns of a table that the transforms, by their interests in order, need to decide on its rows.
pub(super) fn table_projection(table: &Table, interests: &[Interest]) -> TableProjection {
    let of = |operation| row_projection(table, interests, operation);
    TableProjection { inserts: of(Operation::Insert), updates: of(Operation::Update), deletes: of(Operation::Delete) }
}

/// Returns the columns of rows with one operation that the transforms need. `None`: all.
fn row_projection(table: &Table, interests: &[Interest], operation: Operation) -> Option<RowProjection> {
    // The message group is made of the primary key, also for messages made of rows that are dropped.
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
    // Rows that no transform decides on are kept, so all columns are needed.
    is_decided.then_some(row_projection)
}

/// A plugin's interests by table, as far as it was asked.
#[derive(Debug, Default)]
pub(super) struct Interests(ByTable<Interest>);

impl Interests {
    pub fn get(&self, table: &Table) -> Option<&Interest> {
        self.0.get(table)
    }

    /// Records the first interest in a table, and checks that later ones are equal. None are recorded for past generations
    /// of tables.
    ///
    /// # Errors
    /// If the interest differs from the first one.
    pub fn agree(&mut self, table: &Table, interest: &Interest) -> Result<(), String> {
        match self.get(table) {
            None if self.0.is_past(table) => {}
            None => self.insert(table, interest.clone()),
            Some(first) if first == interest => {}
            Some(_) => {
                return Err(format!(
                    "`describe` returned a different interest for {table} than before, and rows are decoded for the first \
                     one; make it deterministic"
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

    /// Checks that the plugin may read and edit a column. A column outside its interest may be absent from the batch, and
    /// would be read as a wrong value.
    ///
    /// # Errors
    /// If the column or the image is outside the plugin's interest.
    pub fn check(&self, table: &Table, column: ColumnIndex, image: ImageKind) -> Result<(), String> {
        let Some(want) = self.want(table) else { return Ok(()) };
        if !want.has(column) {
            let name = &table.columns[column.0 as usize].name;
            return Err(format!(
                "use of column `{name}` of {table}, which is not in the plugin's interest; add it there"
            ));
        }
        if image == ImageKind::Before && !want.has_before() {
            return Err(format!("use of the before image of {table}, but the plugin's interest says `before = false`"));
        }
        Ok(())
    }

    /// Checks that the plugin may read all columns.
    ///
    /// # Errors
    /// If a column or the image is outside the plugin's interest.
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

    fn want(columns: &[usize], before: bool, updates: bool) -> Interest {
        let columns = columns.iter().map(|&column| ["id", "STATUS", "email"][column].to_owned()).collect();
        let want = types::Want { columns, before, inserts: true, updates, deletes: false };
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
    fn rows_of_snapshots_go_with_inserts() {
        let of = |inserts| types::Want { columns: Vec::new(), before: true, inserts, updates: true, deletes: true };
        for (inserts, disposition) in [(true, Disposition::Ask), (false, Disposition::Keep)] {
            let interest = Interest::new(types::Interest::Want(of(inserts)), &table()).expect("columns that it has");
            assert_eq!(interest.disposition(Operation::Read), disposition);
        }
    }

    #[test]
    fn the_first_answer_counts() {
        let mut first = Interests::default();
        assert_eq!(first.agree(&table(), &want(&[1], false, true)), Ok(()));
        assert_eq!(first.agree(&table(), &want(&[1], false, true)), Ok(()));
        for other in [Interest::All, Interest::Pass, want(&[2], false, true), want(&[1], true, true)] {
            let error = first.agree(&table(), &other).expect_err("another one");
            assert!(error.contains("shop.orders"), "{error}");
        }
    }

    #[test]
    fn what_it_did_not_want_it_may_not_use() {
        let mut interests = Interests::default();
        let check = |interests: &Interests, column, image| interests.check(&table(), ColumnIndex(column), image);
        assert_eq!(check(&interests, 2, ImageKind::Before), Ok(()));
        interests.insert(&table(), want(&[1], false, true));
        assert_eq!(check(&interests, 1, ImageKind::After), Ok(()));
        let error = check(&interests, 2, ImageKind::After).expect_err("unwanted");
        assert!(error.contains("`email` of shop.orders"), "{error}");
        assert!(check(&interests, 1, ImageKind::Before).is_err());
        assert!(interests.check_all(&table(), ImageKind::After).is_err());
        interests.insert(&table(), want(&[], true, true));
        assert_eq!(interests.check_all(&table(), ImageKind::Before), Ok(()));
    }

    #[test]
    fn a_declared_column_that_the_table_lacks_is_refused() {
        let declare = |name: &str| {
            let columns = vec!["id".to_owned(), name.to_owned()];
            let want = types::Want { columns, before: true, inserts: true, updates: true, deletes: true };
            Interest::new(types::Interest::Want(want), &table()).expect_err("refused")
        };
        let lacks = "shop.orders has no column";
        let declared = "which the transform declares";
        assert_eq!(declare("statuss"), format!("{lacks} `statuss`, {declared}; did you mean `status`?"));
        assert_eq!(declare("note"), format!("{lacks} `note`, {declared}"));
    }
}
