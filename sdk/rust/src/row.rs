//! Rows as a transform sees them.

use rowmill_batch::{self as packed, Cell, ColumnIndex, Image, Kind, Operation};

use crate::out::Out;
use crate::outcome::{Message, Outcome};
use crate::recipe::Recipe;
use crate::table::Table;

/// A row change. Columns are asked for by name; one that the table doesn't have reads as NULL.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    pub(crate) table: &'a Table,
    row: packed::Row<'a>,
    newest: Image<'a>,
    index: u32,
    out: &'a Out,
}

impl<'a> Row<'a> {
    pub(crate) fn new(table: &'a Table, row: packed::Row<'a>, index: u32, out: &'a Out) -> Self {
        Self { table, row, newest: row.newest(), index, out }
    }

    /// The row's table.
    pub fn table(&self) -> &'a Table {
        self.table
    }

    /// What happened to it.
    pub fn operation(&self) -> Operation {
        self.row.operation()
    }

    /// A column as it is now; for a delete, as it was.
    #[inline]
    pub fn cell(&self, column: &str) -> Cell<'a> {
        self.in_image(Some(self.newest), column)
    }

    /// A column as it was before an update or delete; absent for inserts.
    #[inline]
    pub fn cell_before(&self, column: &str) -> Cell<'a> {
        self.in_image(self.row.before(), column)
    }

    #[inline]
    fn in_image(&self, image: Option<Image<'a>>, column: &str) -> Cell<'a> {
        match (image, self.table.column(column)) {
            (Some(image), Some(index)) => image.cell(index),
            _ => Cell::Absent,
        }
    }

    /// A column's text; `None` for NULL and for columns of numbers and bytes.
    #[inline]
    pub fn text(&self, column: &str) -> Option<&'a str> {
        self.typed(column, Kind::is_text)?.text()
    }

    /// A column's integer.
    #[inline]
    pub fn int(&self, column: &str) -> Option<i64> {
        self.typed(column, |kind| kind == Kind::Int)?.int()
    }

    /// A column's unsigned integer.
    #[inline]
    pub fn uint(&self, column: &str) -> Option<u64> {
        self.typed(column, |kind| matches!(kind, Kind::Uint | Kind::Year | Kind::Bit))?.uint()
    }

    /// A column's float.
    #[inline]
    pub fn float(&self, column: &str) -> Option<f64> {
        self.typed(column, |kind| kind == Kind::Float)?.float()
    }

    /// What a column's values are, and the column as it is now; for a delete, as it was.
    #[inline(always)]
    pub(crate) fn kind_and_cell(&self, column: &str) -> Option<(Kind, Cell<'a>)> {
        Some(self.kind_and_cell_at(self.table.column(column)?))
    }

    #[inline(always)]
    pub(crate) fn kind_and_cell_at(&self, index: ColumnIndex) -> (Kind, Cell<'a>) {
        (self.table.packed.columns[index.0 as usize].kind, self.newest.cell(index))
    }

    #[inline]
    fn typed(&self, column: &str, fits: fn(Kind) -> bool) -> Option<Cell<'a>> {
        let index = self.table.column(column)?;
        fits(self.table.packed.columns[index.0 as usize].kind).then(|| self.newest.cell(index))
    }

    /// Whether a text column has this value now and hadn't before: true for an insert with it and
    /// for an update to it.
    #[inline]
    pub fn changed_to(&self, column: &str, value: &str) -> bool {
        let is = |cell: Cell<'_>| cell.value() == Some(value.as_bytes());
        self.operation() != Operation::Delete && is(self.cell(column)) && !is(self.cell_before(column))
    }

    /// Whether an update changed a column.
    pub fn changed(&self, column: &str) -> bool {
        self.operation() == Operation::Update && self.cell(column) != self.cell_before(column)
    }

    /// The row stays.
    pub fn keep(&self) -> Outcome {
        Outcome::Keep
    }

    /// The row stays, with a text column replaced by what `map` makes of it: as it is now, and as
    /// it was. NULL stays NULL.
    pub fn map_text(&self, column: &str, map: impl Fn(&str) -> String) -> Outcome {
        let mut outcome = self.keep();
        if let Some(text) = self.in_image(self.row.before(), column).text() {
            outcome = outcome.set_before(column, map(text));
        }
        if let Some(text) = self.in_image(self.row.after(), column).text() {
            outcome = outcome.set(column, map(text));
        }
        outcome
    }

    /// The row stays, with this value in place of a text or bytes column's: as it is now, and as it was. NULL stays
    /// NULL.
    pub fn replace(&self, column: &str, value: &str) -> Outcome {
        let has_value = |image| matches!(self.in_image(image, column), Cell::Value(_) | Cell::Changes(_));
        let mut outcome = self.keep();
        if has_value(self.row.before()) {
            outcome = outcome.set_before(column, value);
        }
        if has_value(self.row.after()) {
            outcome = outcome.set(column, value);
        }
        outcome
    }

    /// Sends a message that is made of the row, whatever becomes of the row itself. `write` fills in an empty one.
    #[inline]
    pub fn send(&self, write: impl FnOnce(&mut Message)) {
        self.out.send(self.index, write);
    }

    /// The engine makes a message of the row, whatever becomes of the row itself.
    #[inline]
    pub fn write(&self, recipe: &Recipe) {
        self.out.write(self.index, recipe);
    }

    /// The row goes no further.
    pub fn drop(&self) -> Outcome {
        Outcome::Drop
    }
}

#[cfg(test)]
mod tests {
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
    fn only_what_is_wanted_is_there() {
        let mut table = table();
        assert_eq!(table.only(&["status", "nonsense"]), [0]);
        assert_eq!(table.column("status"), Some(ColumnIndex(0)));
        assert_eq!(table.column("STATUS"), Some(ColumnIndex(0)));
        assert_eq!(table.column("nonsense"), None);
    }

    #[test]
    #[should_panic(expected = "the column `email` of shop.orders")]
    fn the_rest_is_not_read_by_accident() {
        let mut table = table();
        table.only(&["status"]);
        table.column("email");
    }
}
