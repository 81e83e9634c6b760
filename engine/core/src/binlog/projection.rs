//! Projections: which columns of a table's rows are decoded at once.

use rowmill_batch::{ColumnIndex, ImageKind, Operation, Table};

/// Some of a table's columns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ColumnSet(Vec<u64>);

impl ColumnSet {
    /// Whether a column is one of them.
    #[inline]
    pub fn contains(&self, ColumnIndex(column): ColumnIndex) -> bool {
        self.0.get(column as usize / 64).is_some_and(|word| word >> (column % 64) & 1 != 0)
    }

    /// Makes a column one of them.
    pub fn insert(&mut self, ColumnIndex(column): ColumnIndex) {
        let word = column as usize / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (column % 64);
    }
}

impl Extend<ColumnIndex> for ColumnSet {
    fn extend<T: IntoIterator<Item = ColumnIndex>>(&mut self, columns: T) {
        columns.into_iter().for_each(|column| self.insert(column));
    }
}

impl FromIterator<ColumnIndex> for ColumnSet {
    fn from_iter<T: IntoIterator<Item = ColumnIndex>>(columns: T) -> Self {
        let mut set = Self::default();
        set.extend(columns);
        set
    }
}

/// Which columns of a row are decoded at once, in each of its images.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RowProjection {
    /// In the row as it was.
    pub before: ColumnSet,
    /// In the row as it is now.
    pub after: ColumnSet,
}

impl RowProjection {
    /// In one of its images.
    pub fn image(&self, kind: ImageKind) -> &ColumnSet {
        match kind {
            ImageKind::Before => &self.before,
            ImageKind::After => &self.after,
        }
    }
}

/// What is needed of a table's rows at once, by what happened to them. `None`: everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableProjection<T = RowProjection> {
    /// Of inserted rows.
    pub inserts: Option<T>,
    /// Of updated rows.
    pub updates: Option<T>,
    /// Of deleted rows.
    pub deletes: Option<T>,
}

impl<T> TableProjection<T> {
    /// What is needed of a row to which this happened.
    pub fn for_operation(&self, operation: Operation) -> Option<&T> {
        match operation {
            Operation::Insert => self.inserts.as_ref(),
            Operation::Update => self.updates.as_ref(),
            Operation::Delete => self.deletes.as_ref(),
        }
    }

    pub(super) fn map<U>(self, map: impl Fn(T) -> U) -> TableProjection<U> {
        let Self { inserts, updates, deletes } = self;
        TableProjection { inserts: inserts.map(&map), updates: updates.map(&map), deletes: deletes.map(&map) }
    }
}

/// Which tables' rows are wanted, and what of them.
pub trait TableSelector: Send {
    /// Whether this table's rows are.
    fn table(&self, schema: &str, table: &str) -> bool;

    /// Whether rows of any table of this schema may be.
    fn schema(&self, schema: &str) -> bool;

    /// Which columns of a table's rows are to be decoded at once; the rest is, where somebody wants it, by
    /// [`DeferredColumns`](super::DeferredColumns). `None` while that isn't known: rows are decoded whole, and it is asked again before
    /// the next batch. Must not block.
    fn projection(&self, table: &Table) -> Option<TableProjection> {
        let _ = table;
        Some(TableProjection::default())
    }

    /// Another number than before if [`TableSelector::projection`] may answer otherwise than it did.
    fn version(&self) -> u64 {
        0
    }
}
