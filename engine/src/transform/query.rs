//! Queries of a plugin about all rows of its batch at once: the rows that meet conditions, and the values of a column.

use std::collections::HashMap;
use std::sync::Arc;

use rowmill_core::batch::{Batch, Cell, Column, ColumnIndex, Image, ImageKind, Kind, Row, RowIndex, Table, TableId};
use rowmill_core::envelope::push_image;

use super::expression::{self, Compiled, Expression, Scope};
use super::interest::Interests;
use super::recipe::OfTables;
use super::wasm::bindings::query::View;
use super::wasm::limits::{CONDITIONS_BYTES_MAX, CONDITIONS_MAX, cut};

/// Bytes of a condition that an error shows.
const SHOWN_MAX: usize = 200;

/// The scope of queries: the rows of a batch that the plugin decides on.
pub(super) struct BatchQuery<'a> {
    pub batch: Batch<'a>,
    pub tables: &'a [Arc<Table>],
    pub rows: &'a [u32],
    pub interests: &'a Interests,
}

impl<'a> BatchQuery<'a> {
    fn rows(&self) -> impl Iterator<Item = Row<'a>> {
        self.rows.iter().map(|&row| self.batch.row(RowIndex(row)))
    }

    /// Returns the rows for which a condition holds.
    ///
    /// # Errors
    /// If the text is not a condition, or makes no sense for a table of the rows, or a row lacks a column that it reads.
    pub fn select(&self, condition: &str, conditions: &mut Conditions) -> Result<Vec<u32>, String> {
        let Condition { expression, plans } = conditions.get(condition)?;
        let in_condition =
            |error: String| format!("{error} (in the condition `{}`)", cut(condition.to_owned(), SHOWN_MAX));
        let scope = Scope { interests: self.interests, has_item: false };
        let table_of = |row: u32| self.batch.row(RowIndex(row)).table();
        let mut selected = Vec::with_capacity(self.rows.len());
        for rows in self.rows.chunk_by(|&row, &next| table_of(row) == table_of(next)) {
            let table = &*self.tables[table_of(rows[0]).0 as usize];
            let plan = plans.get(table, || Compiled::condition(expression, table, scope)).map_err(in_condition)?;
            if plan.is_never() {
                continue;
            }
            for &index in rows {
                let row =
                    expression::Row { table, batch: &self.batch, row: self.batch.row(RowIndex(index)), item: None };
                if plan.holds(&row)? {
                    selected.push(index);
                }
            }
        }
        Ok(selected)
    }

    fn table_of(&self, row: &Row<'_>) -> &'a Table {
        &self.tables[row.table().0 as usize]
    }

    /// Returns the code of each row's operation, in order.
    pub fn operations(&self) -> Vec<u8> {
        self.rows().map(|row| row.operation().code()).collect()
    }

    /// Returns each row's table ID, in order.
    pub fn tables(&self) -> Vec<u32> {
        self.rows().map(|row| row.table().0).collect()
    }

    /// Returns each row's commit time, in order, in microseconds since 1970.
    pub fn times(&self) -> impl Iterator<Item = i64> {
        self.rows().map(|row| time_us(&self.batch, &row))
    }

    /// Returns whether each row's image has a column that the plugin may use.
    pub fn has(&self, name: &str, view: View) -> Result<Vec<bool>, String> {
        let mut of_table = OfTable::new(|table: &'a Table| Ok(self.usable(table, name, view)));
        let has = |row: Row<'a>| {
            let column = of_table.get(self.table_of(&row))?;
            Ok(column.is_some_and(|(index, _)| seen(&row, *index, view) != Cell::Absent))
        };
        self.rows().map(has).collect()
    }

    /// Returns a column of each row, converted by `map` from the column's description and value; `None` where the plugin may not
    /// use the table's column, as it may ask for the rows of other tables.
    pub fn column<T>(
        &self,
        name: &str,
        view: View,
        map: impl Fn(&Column, &'a [u8]) -> Option<T>,
    ) -> Result<Vec<Option<T>>, String> {
        let mut of_table = OfTable::new(|table: &'a Table| Ok(self.usable(table, name, view)));
        let value = |row: Row<'a>| {
            let Some((index, column)) = of_table.get(self.table_of(&row))? else { return Ok(None) };
            Ok(seen(&row, *index, view).value().and_then(|value| map(column, value)))
        };
        self.rows().map(value).collect()
    }

    /// Returns each row as a JSON object.
    ///
    /// # Errors
    /// If a column is outside the plugin's interest.
    pub fn json(&self, view: View) -> Result<Vec<Option<String>>, String> {
        let mut of_table =
            OfTable::new(|table: &'a Table| self.interests.check_all(table, image_of(view)).map(|()| Some(table)));
        let object = |row: Row<'a>| {
            let image = image(&row, view);
            let table = of_table.get(self.table_of(&row))?;
            let (Some(image), Some(table)) = (image, table) else { return Ok(None) };
            let mut out = Vec::new();
            push_image(table, image, &mut out);
            Ok(String::from_utf8(out).ok())
        };
        self.rows().map(object).collect()
    }

    /// Returns the column of this name, if the table has one and the plugin may use it.
    fn usable(&self, table: &'a Table, name: &str, view: View) -> Option<(ColumnIndex, &'a Column)> {
        self.column_of(table, name, image_of(view)).ok().flatten()
    }

    /// Returns the column of this name, if the table has one.
    ///
    /// # Errors
    /// If the column is outside the plugin's interest.
    fn column_of(
        &self,
        table: &'a Table,
        name: &str,
        image: ImageKind,
    ) -> Result<Option<(ColumnIndex, &'a Column)>, String> {
        let Some(index) = table.column(name) else { return Ok(None) };
        self.interests.check(table, index, image)?;
        Ok(Some((index, &table.columns[index.0 as usize])))
    }
}

/// Returns the older of the images that a view reads.
pub(super) fn image_of(view: View) -> ImageKind {
    match view {
        View::Before => ImageKind::Before,
        View::After | View::Newest => ImageKind::After,
    }
}

/// Returns a row's commit time in microseconds since 1970; where the server does not log it, the time at which the row's
/// statement began.
pub(super) fn time_us(batch: &Batch<'_>, row: &Row<'_>) -> i64 {
    match batch.transaction(row.transaction()).header().commit_time_us {
        0 => row.header().time_us,
        time => time,
    }
}

/// Returns a value that is packed as text.
pub(super) fn text(column: &Column, value: &[u8]) -> Option<String> {
    column.kind.is_text().then(|| String::from_utf8(value.to_vec()).ok()).flatten()
}

/// Returns a value of an integer, year or bit column, if it fits.
pub(super) fn integer(column: &Column, value: &[u8]) -> Option<i64> {
    let cell = Cell::Value(value);
    match column.kind {
        Kind::Int => cell.int(),
        Kind::Uint | Kind::Year | Kind::Bit => cell.uint()?.try_into().ok(),
        _ => None,
    }
}

/// Returns a value of an integer, year or bit column, if it fits.
pub(super) fn unsigned(column: &Column, value: &[u8]) -> Option<u64> {
    let cell = Cell::Value(value);
    match column.kind {
        Kind::Int => cell.int()?.try_into().ok(),
        Kind::Uint | Kind::Year | Kind::Bit => cell.uint(),
        _ => None,
    }
}

/// Returns a value of a float column.
pub(super) fn float(column: &Column, value: &[u8]) -> Option<f64> {
    if column.kind == Kind::Float { Cell::Value(value).float() } else { None }
}

/// Returns a value that is packed as bytes that are not text.
pub(super) fn blob(column: &Column, value: &[u8]) -> Option<Vec<u8>> {
    matches!(column.kind, Kind::Bytes | Kind::Geometry | Kind::Vector).then(|| value.to_vec())
}

pub(super) fn image<'a>(row: &Row<'a>, view: View) -> Option<Image<'a>> {
    match view {
        View::Before => row.before(),
        View::After => row.after(),
        View::Newest => Some(row.newest()),
    }
}

fn seen<'a>(row: &Row<'a>, column: ColumnIndex, view: View) -> Cell<'a> {
    image(row, view).map_or(Cell::Absent, |image| image.cell(column))
}

/// A value that depends on the table only. The last one is kept, since consecutive rows are mostly of one table.
struct OfTable<T, F> {
    last: Option<(TableId, Option<T>)>,
    make: F,
}

impl<'a, T, F: Fn(&'a Table) -> Result<Option<T>, String>> OfTable<T, F> {
    fn new(make: F) -> Self {
        Self { last: None, make }
    }

    fn get(&mut self, table: &'a Table) -> Result<Option<&T>, String> {
        if self.last.as_ref().is_none_or(|(id, _)| *id != table.id) {
            self.last = Some((table.id, (self.make)(table)?));
        }
        Ok(self.last.as_ref().and_then(|(_, made)| made.as_ref()))
    }
}

/// The conditions that an instance used, by their texts: the same ones are used for batch after batch.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    by_text: HashMap<String, Condition>,
    /// The size of the texts in bytes.
    bytes: usize,
}

#[derive(Debug)]
struct Condition {
    expression: Expression,
    plans: OfTables<Compiled>,
}

impl Conditions {
    /// Returns a condition. All are dropped when there are too many: texts that differ each time are parsed each time.
    ///
    /// # Errors
    /// If the text is not an expression.
    fn get(&mut self, text: &str) -> Result<&mut Condition, String> {
        if !self.by_text.contains_key(text) {
            let condition = Condition { expression: expression::parse(text)?, plans: OfTables::default() };
            if self.by_text.len() >= CONDITIONS_MAX || self.bytes + text.len() > CONDITIONS_BYTES_MAX {
                *self = Self::default();
            }
            self.bytes += text.len();
            self.by_text.insert(text.to_owned(), condition);
        }
        Ok(self.by_text.get_mut(text).expect("inserted above"))
    }
}

/// A condition on rows of any tables, for commands that show rows.
#[derive(Debug)]
pub struct RowCondition(Condition);

impl RowCondition {
    /// Parses a condition (docs/expressions.md).
    ///
    /// # Errors
    /// If the text is not an expression.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(Self(Condition { expression: expression::parse(text)?, plans: OfTables::default() }))
    }

    /// Returns whether the condition holds for a row.
    ///
    /// # Errors
    /// If the condition makes no sense for the row's table, or the row lacks a column that it reads.
    pub fn holds(&mut self, table: &Table, batch: &Batch<'_>, row: Row<'_>) -> Result<bool, String> {
        let Condition { expression, plans } = &mut self.0;
        let scope = Scope { interests: &Interests::default(), has_item: false };
        let plan = plans.get(table, || Compiled::condition(expression, table, scope))?;
        plan.holds(&expression::Row { table, batch, row, item: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::sample_rows;

    #[test]
    fn conditions_are_kept_within_a_bound() {
        let (bytes, tables) = sample_rows();
        let rows: Vec<u32> = (0..256).collect();
        let asked = BatchQuery { batch: bytes.view(), tables: &tables, rows: &rows, interests: &Interests::default() };
        let mut conditions = Conditions::default();
        for number in 0..CONDITIONS_MAX {
            assert_eq!(
                asked.select(&format!("id < {number}"), &mut conditions).map(|rows| rows.len()),
                Ok(number.min(256))
            );
        }
        assert_eq!(conditions.by_text.len(), CONDITIONS_MAX);
        asked.select("id = 7", &mut conditions).expect("selected");
        assert_eq!(conditions.by_text.len(), 1);
        let long = format!("status in ({}'x')", "'0123456789', ".repeat(4_000));
        for number in 0..10 {
            asked.select(&format!("{long} or id = {number}"), &mut conditions).expect("selected");
            assert!(conditions.bytes <= CONDITIONS_BYTES_MAX);
        }
        let error = asked.select("statuss = 'paid'", &mut conditions).expect_err("refused");
        assert_eq!(
            error,
            "shop.orders has no column `statuss`; did you mean `status`? (in the condition `statuss = 'paid'`)"
        );
    }
}
