//! Rows as a transform sees them.

use rowmill_batch::{self as packed, Batch, Cell, Operation, RowHeader, RowIndex, TransactionHeader};

use crate::error::{ColumnError, Failure};
use crate::out::Out;
use crate::outcome::{Message, Outcome};
use crate::recipe::{Condition, Recipe};
use crate::table::Table;
use crate::view::{Class, View};

/// A row change. Its columns are read by name, as they are after the change; of a deleted row as they were. [`Row::before`] and
/// [`Row::after`] have the same functions.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    pub(crate) table: &'a Table,
    row: packed::Row<'a>,
    newest: View<'a>,
    batch: &'a Batch<'a>,
    index: u32,
    out: &'a Out,
}

impl<'a> Row<'a> {
    #[inline]
    pub(crate) fn new(table: &'a Table, batch: &'a Batch<'a>, index: u32, out: &'a Out) -> Self {
        let row = batch.row(RowIndex(index));
        Self { table, row, newest: View::new(table, row.newest()), batch, index, out }
    }

    /// Returns the row's table.
    pub fn table(&self) -> &'a Table {
        self.table
    }

    /// Returns what happened to the row.
    pub fn operation(&self) -> Operation {
        self.row.operation()
    }

    /// Returns the row's transaction: the binlog file and position, the GTID and the commit time.
    pub fn transaction(&self) -> TransactionHeader<'a> {
        self.batch.transaction(self.row.transaction()).header()
    }

    /// Returns the row's place in its transaction and in the binlog, and the time at which its statement ran.
    pub fn header(&self) -> RowHeader {
        self.row.header()
    }

    /// Whether the row is the last of its transaction.
    pub fn is_last_in_transaction(&self) -> bool {
        self.row.is_last_in_transaction()
    }

    /// Returns the row as it is after the change; of a deleted row as it was.
    #[inline]
    pub fn newest(&self) -> View<'a> {
        self.newest
    }

    /// Returns the row as it was before an update or a delete; `None` for an insert.
    #[inline]
    pub fn before(&self) -> Option<View<'a>> {
        self.row.before().map(|image| View::new(self.table, image))
    }

    /// Returns the row as it is after an insert or an update; `None` for a delete.
    #[inline]
    pub fn after(&self) -> Option<View<'a>> {
        self.row.after().map(|image| View::new(self.table, image))
    }

    /// [`View::text`] of the newest image.
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn text(&self, column: &str) -> Result<Option<&'a str>, ColumnError> {
        self.newest.text(column)
    }

    /// [`View::int`] of the newest image.
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn int(&self, column: &str) -> Result<Option<i64>, ColumnError> {
        self.newest.int(column)
    }

    /// [`View::uint`] of the newest image.
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn uint(&self, column: &str) -> Result<Option<u64>, ColumnError> {
        self.newest.uint(column)
    }

    /// [`View::float`] of the newest image.
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn float(&self, column: &str) -> Result<Option<f64>, ColumnError> {
        self.newest.float(column)
    }

    /// [`View::bytes`] of the newest image.
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn bytes(&self, column: &str) -> Result<Option<&'a [u8]>, ColumnError> {
        self.newest.bytes(column)
    }

    /// [`View::has`] of the newest image.
    pub fn has(&self, column: &str) -> bool {
        self.newest.has(column)
    }

    /// Whether a text column has this value now and did not have it before: true for an insert with the value and for an
    /// update to it, false for a delete and a read. Where row images are not complete (`binlog_row_image`), a column that is absent after an update was not
    /// changed, and one that is absent before counts as another value.
    ///
    /// # Errors
    /// If there is no such column, it is not declared, or not text.
    #[inline]
    pub fn changed_to(&self, column: &str, value: &str) -> Result<bool, ColumnError> {
        let index = self.table.column(column)?;
        if Class::of(self.table.kind(index)) != Class::Text {
            return Err(Class::Text.mismatch(self.table, index));
        }
        let is_value = |image: packed::Image<'a>| image.cell(index).value() == Some(value.as_bytes());
        let is_change = self.operation() != Operation::Read;
        Ok(is_change && self.row.after().is_some_and(is_value) && !self.row.before().is_some_and(is_value))
    }

    /// Whether the row is an update that changed a column. A column that is absent after an update (`binlog_row_image`) was
    /// not changed.
    ///
    /// # Errors
    /// If there is no such column, or it is not declared.
    pub fn changed(&self, column: &str) -> Result<bool, ColumnError> {
        let index = self.table.column(column)?;
        let (Some(before), Some(after)) = (self.row.before(), self.row.after()) else { return Ok(false) };
        let after = after.cell(index);
        Ok(after != Cell::Absent && before.cell(index) != after)
    }

    /// Keeps the row.
    pub fn keep(&self) -> Outcome {
        Outcome::Keep
    }

    /// Keeps the row, with a text column replaced by what `map` makes of it, in both images. NULL stays NULL.
    ///
    /// # Errors
    /// If there is no such column, it is not declared, or not text.
    pub fn map_text(&self, column: &str, map: impl Fn(&str) -> String) -> Result<Outcome, ColumnError> {
        self.edit_text(column, |cell| cell.text().map(&map))
    }

    /// Keeps the row, with this value in place of a text column's, wherever the column has one in the two images: what must
    /// not get out is hidden by this. NULL stays NULL.
    ///
    /// # Errors
    /// If there is no such column, it is not declared, or not text.
    pub fn replace(&self, column: &str, value: &str) -> Result<Outcome, ColumnError> {
        self.edit_text(column, |cell| matches!(cell, Cell::Value(_) | Cell::Changes(_)).then(|| value.to_owned()))
    }

    fn edit_text(&self, column: &str, edited: impl Fn(Cell<'a>) -> Option<String>) -> Result<Outcome, ColumnError> {
        let index = self.table.column(column)?;
        if Class::of(self.table.kind(index)) != Class::Text {
            return Err(Class::Text.mismatch(self.table, index));
        }
        let mut outcome = self.keep();
        if let Some(text) = self.row.before().and_then(|image| edited(image.cell(index))) {
            outcome = outcome.set_before(column, text);
        }
        if let Some(text) = self.row.after().and_then(|image| edited(image.cell(index))) {
            outcome = outcome.set(column, text);
        }
        Ok(outcome)
    }

    /// Sends a message that is made of the row, whether or not the row is kept. `write` fills in an empty message, which is
    /// not sent if it returns an error.
    ///
    /// # Errors
    /// Those of `write`.
    #[inline]
    pub fn send(&self, write: impl FnOnce(&mut Message) -> Result<(), Failure>) -> Result<(), Failure> {
        self.out.send(self.index, write)
    }

    /// Lets the engine make messages of the row, whether or not the row is kept.
    #[inline]
    pub fn write(&self, recipe: &Recipe) {
        self.out.write(self.index, recipe);
    }

    /// Whether a condition holds for the row.
    #[inline]
    pub fn holds(&self, condition: &Condition) -> bool {
        condition.holds(self.out.batch, self.index)
    }

    /// Drops the row.
    pub fn drop(&self) -> Outcome {
        Outcome::Drop
    }
}

#[cfg(test)]
mod tests {
    use rowmill_batch::{ColumnIndex, Kind};

    use super::*;

    fn table() -> Table {
        let column = |name: &str| packed::Column {
            name: name.to_owned(),
            kind: Kind::Text,
            mysql_type: "text".to_owned(),
            nullable: true,
            key: false,
        };
        let columns = ["status", "email"].map(column).to_vec();
        let (schema, name) = ("shop".to_owned(), "orders".to_owned());
        Table::new(packed::Table { id: packed::TableId(0), generation: 0, schema, name, columns, key: Vec::new() })
    }

    #[test]
    fn columns_are_found_without_case_and_only_if_declared() {
        let mut table = table();
        let error = |table: &Table, name| table.column(name).expect_err("refused").to_string();
        assert_eq!(table.column("STATUS"), Ok(ColumnIndex(0)));
        assert_eq!(error(&table, "statuss"), "shop.orders has no column `statuss`");
        table.declare(&["Status", "nonsense"]);
        assert_eq!((table.column("status"), table.column("Status")), (Ok(ColumnIndex(0)), Ok(ColumnIndex(0))));
        assert_eq!(
            error(&table, "Email"),
            "column `email` of shop.orders is not among the columns that the transform declares"
        );
        assert!(table.has("EMAIL") && !table.has("nonsense"));
        table.declare(&["nonsense"]);
        assert!(table.column("status").is_err(), "declared columns that do not exist are not all columns");
    }
}
