//! Tables as a transform sees them.

use rowmill_batch::json::{Literal, push_string};
use rowmill_batch::{self as packed, ColumnIndex, Kind};

use crate::error::ColumnError;

/// A version of a table: its name and columns.
#[derive(Debug)]
pub struct Table {
    pub(crate) packed: packed::Table,
    /// Of each column's name; [`UNDECLARED`] of those that the transform did not declare.
    keys: Vec<(usize, u64)>,
    /// Each column as a field of a JSON object, up to its value: `,"name":`.
    labels: Vec<Literal>,
}

const UNDECLARED: (usize, u64) = (usize::MAX, 0);

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

    /// Restricts the transform to the columns of these names. The engine checks that the table has them.
    pub(crate) fn declare(&mut self, names: &[&str]) {
        let declared: Vec<_> = names.iter().filter_map(|name| self.position(name)).collect();
        let keys = (0..).zip(&mut self.keys).filter(|(index, _)| !declared.contains(&ColumnIndex(*index)));
        keys.for_each(|(_, key)| *key = UNDECLARED);
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

    /// Whether the table has a column of this name.
    pub fn has(&self, name: &str) -> bool {
        self.position(name).is_some()
    }

    /// Returns the column of this name.
    ///
    /// # Errors
    /// If the table does not have it, or the transform did not declare it.
    #[inline(always)]
    pub(crate) fn column(&self, name: &str) -> Result<ColumnIndex, ColumnError> {
        match self.column_written_so(name) {
            Some(index) => Ok(index),
            None => self.column_by_any_case(name),
        }
    }

    /// Returns the column of this name, declared or not.
    pub(crate) fn position(&self, name: &str) -> Option<ColumnIndex> {
        self.column_written_so(name).or_else(|| self.packed.column(name))
    }

    #[inline(always)]
    pub(crate) fn kind(&self, column: ColumnIndex) -> Kind {
        self.packed.columns[column.0 as usize].kind
    }

    /// Returns the error of a column: what it is.
    #[cold]
    pub(crate) fn error(&self, column: ColumnIndex, what: &str) -> ColumnError {
        ColumnError::new(format!("column `{}` of {} {what}", self.packed.columns[column.0 as usize].name, self.packed))
    }

    /// Returns the declared column of this name, if it is written exactly so.
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

    #[cold]
    fn column_by_any_case(&self, name: &str) -> Result<ColumnIndex, ColumnError> {
        let index = self.packed.column(name).ok_or_else(|| ColumnError::new(self.packed.no_column(name)))?;
        if self.keys[index.0 as usize] == UNDECLARED {
            return Err(self.error(index, "is not among the columns that the transform declares"));
        }
        Ok(index)
    }
}
