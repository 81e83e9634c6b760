//! Tables as a transform sees them.

use rowmill_batch::json::{Literal, push_string};
use rowmill_batch::{self as packed, ColumnIndex};

/// A version of a table: its name and columns.
#[derive(Debug)]
pub struct Table {
    pub(crate) packed: packed::Table,
    /// Of each column's name; [`UNWANTED`] of those that the transform doesn't want.
    keys: Vec<(usize, u64)>,
    /// Each column as a field of a JSON object, up to its value: `,"name":`.
    labels: Vec<Literal>,
}

const UNWANTED: (usize, u64) = (usize::MAX, 0);

/// A name's length and first bytes: what tells most names apart, at the cost of comparing numbers. Of a literal the
/// compiler knows it.
#[inline(always)]
fn key(name: &str) -> (usize, u64) {
    let bytes = name.as_bytes();
    let word = match bytes.first_chunk() {
        Some(first) => u64::from_le_bytes(*first),
        None => bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte)),
    };
    (bytes.len(), word)
}

impl Table {
    pub(crate) fn new(packed: packed::Table) -> Self {
        let keys = packed.columns.iter().map(|column| key(&column.name)).collect();
        let label = |column: &packed::Column| {
            let mut text = b",".to_vec();
            push_string(&column.name, &mut text);
            text.push(b':');
            Literal::new(&text)
        };
        let labels = packed.columns.iter().map(label).collect();
        Self { packed, keys, labels }
    }

    /// From now on it has only the columns of these names. Gives their indexes.
    pub(crate) fn only(&mut self, names: &[&str]) -> Vec<u32> {
        let wanted: Vec<u32> = names.iter().filter_map(|name| Some(self.column(name)?.0)).collect();
        if !wanted.is_empty() {
            let keys = (0..).zip(&mut self.keys).filter(|(index, _)| !wanted.contains(index));
            keys.for_each(|(_, key)| *key = UNWANTED);
        }
        wanted
    }

    /// Whether this is its name: `shop.orders`. A name that has a dot itself is within backticks: `` `my.shop`.orders ``.
    pub fn is(&self, name: &str) -> bool {
        match rowmill_batch::schema_and_table(name) {
            Some((schema, table)) => schema == self.packed.schema && table == self.packed.name,
            None => false,
        }
    }

    /// The schema (database) that holds it.
    pub fn schema(&self) -> &str {
        &self.packed.schema
    }

    /// Its name, without the schema.
    pub fn name(&self) -> &str {
        &self.packed.name
    }

    /// Its columns.
    pub fn columns(&self) -> &[packed::Column] {
        &self.packed.columns
    }

    /// The column of this name.
    #[inline(always)]
    pub(crate) fn column(&self, name: &str) -> Option<ColumnIndex> {
        self.column_written_so(name).or_else(|| self.column_by_any_case(name))
    }

    /// The same, if its name is written exactly so.
    #[inline(always)]
    pub(crate) fn column_written_so(&self, name: &str) -> Option<ColumnIndex> {
        let wanted = key(name);
        let is_it = |(key, column): (&(usize, u64), &packed::Column)| {
            *key == wanted && (name.len() <= 8 || column.name == name)
        };
        let index = self.keys.iter().zip(&self.packed.columns).position(is_it)?;
        Some(ColumnIndex(index as u32))
    }

    /// A column as a field of a JSON object, up to its value: `,"name":`.
    #[inline(always)]
    pub(crate) fn label(&self, column: ColumnIndex) -> &Literal {
        &self.labels[column.0 as usize]
    }

    /// # Panics
    /// If the transform doesn't want it: it would read what isn't so.
    #[cold]
    fn column_by_any_case(&self, name: &str) -> Option<ColumnIndex> {
        let index = self.packed.column(name)?;
        assert!(
            self.keys[index.0 as usize] != UNWANTED,
            "it uses the column `{name}` of {}, which isn't among those that it wants",
            self.packed
        );
        Some(index)
    }
}
