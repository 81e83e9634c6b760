//! Projections: the columns of a table's rows that are decoded immediately.

use rowmill_batch::{ColumnIndex, ImageKind, Operation, Table};

/// A set of a table's columns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ColumnSet(Vec<u64>);

impl ColumnSet {
    /// Whether a column is in the set.
    #[inline]
    pub fn contains(&self, ColumnIndex(column): ColumnIndex) -> bool {
        self.0.get(column as usize / 64).is_some_and(|word| word >> (column % 64) & 1 != 0)
    }

    /// Adds a column.
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

/// The columns of a row that are decoded immediately, by image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RowProjection {
    /// The columns of the before image.
    pub before: ColumnSet,
    /// The columns of the after image.
    pub after: ColumnSet,
}

impl RowProjection {
    /// Returns the columns of one image.
    pub fn image(&self, kind: ImageKind) -> &ColumnSet {
        match kind {
            ImageKind::Before => &self.before,
            ImageKind::After => &self.after,
        }
    }
}

/// The projections of a table's rows, by operation. `None`: all columns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableProjection<T = RowProjection> {
    /// The projection of inserted rows, and of those that a snapshot reads.
    pub inserts: Option<T>,
    /// The projection of updated rows.
    pub updates: Option<T>,
    /// The projection of deleted rows.
    pub deletes: Option<T>,
}

impl<T> TableProjection<T> {
    /// Returns the projection of an operation's rows.
    pub fn for_operation(&self, operation: Operation) -> Option<&T> {
        match operation {
            Operation::Insert | Operation::Read => self.inserts.as_ref(),
            Operation::Update => self.updates.as_ref(),
            Operation::Delete => self.deletes.as_ref(),
        }
    }

    pub(super) fn map<U>(self, map: impl Fn(T) -> U) -> TableProjection<U> {
        let Self { inserts, updates, deletes } = self;
        TableProjection { inserts: inserts.map(&map), updates: updates.map(&map), deletes: deletes.map(&map) }
    }
}

/// A selection of tables, and their projections.
pub trait TableSelector: Send {
    /// Whether a table is selected.
    fn table(&self, schema: &str, table: &str) -> bool;

    /// Whether any table of a schema may be selected.
    fn schema(&self, schema: &str) -> bool;

    /// Returns the columns of a table's rows that are decoded immediately; the others are
    /// [`DeferredColumns`](super::DeferredColumns).
    ///
    /// `None` while the projection is unknown: rows are decoded whole, and this is called again before the next batch.
    /// Must not block.
    fn projection(&self, table: &Table) -> Option<TableProjection> {
        let _ = table;
        Some(TableProjection::default())
    }

    /// Returns the version of the projections, which changes whenever [`TableSelector::projection`] may return another.
    fn version(&self) -> u64 {
        0
    }
}
