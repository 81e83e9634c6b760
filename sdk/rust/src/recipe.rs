//! Messages that the engine writes.

use std::borrow::Cow;
use std::cell::OnceCell;

use crate::bindings::rowmill::transform::{host, types};

/// How the engine makes a message of a row: a JSON object of these fields, in their order. It is the fastest way to make
/// one, as nothing of it passes through the transform:
///
/// ```ignore
/// Recipe::new().columns(&["id", "total"]).field("paid", Part::Json("true")).group_text("order-").group_column("id")
/// ```
///
/// Made once and kept in the transform, it is used by [`Row::write`](crate::Row::write). A column that the row's table
/// doesn't have is an error of that row.
#[derive(Debug, Default)]
pub struct Recipe {
    fields: Vec<types::Field>,
    group: Vec<types::GroupPart>,
    sink: Option<Cow<'static, str>>,
    number: OnceCell<u32>,
}

/// Something of a row that the engine writes: numbers as numbers, texts as strings, binary in base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'a> {
    /// A column as it is now, or was before a delete.
    Column(&'a str),
    /// A column as it was before an update or a delete; else `null`.
    Before(&'a str),
    /// The row with all its columns, as it is now, or was before a delete.
    Row,
    /// The row with all its columns, as it was before an update or a delete; else `null`.
    RowBefore,
    /// `"c"`, `"u"` or `"d"`.
    Operation,
    /// The name of the schema (database).
    Schema,
    /// The table's name, without the schema.
    Table,
    /// When it was committed: milliseconds since 1970.
    Time,
    /// Always this: JSON text.
    Json(&'a str),
}

impl Recipe {
    /// An empty object, in the row's group.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a field for each of these columns, of its name.
    pub fn columns(self, columns: &[&str]) -> Self {
        columns.iter().fold(self, |recipe, column| recipe.field(column, Part::Column(column)))
    }

    /// Adds a field.
    pub fn field(mut self, name: &str, part: Part<'_>) -> Self {
        let value = match part {
            Part::Column(column) => types::Part::Column(column.to_owned()),
            Part::Before(column) => types::Part::Before(column.to_owned()),
            Part::Row => types::Part::Row,
            Part::RowBefore => types::Part::RowBefore,
            Part::Operation => types::Part::Operation,
            Part::Schema => types::Part::Schema,
            Part::Table => types::Part::Table,
            Part::Time => types::Part::Time,
            Part::Json(json) => types::Part::Constant(json.to_owned()),
        };
        self.fields.push(types::Field { name: name.to_owned(), value });
        self
    }

    /// Adds a text to the message group.
    pub fn group_text(mut self, text: &str) -> Self {
        self.group.push(types::GroupPart::Text(text.to_owned()));
        self
    }

    /// Adds a column's text to the message group: as it is now, or was before a delete; nothing for NULL.
    pub fn group_column(mut self, column: &str) -> Self {
        self.group.push(types::GroupPart::Column(column.to_owned()));
        self
    }

    /// Messages go to the sink of this name, instead of the one that the routes give.
    pub fn to(mut self, sink: impl Into<Cow<'static, str>>) -> Self {
        self.sink = Some(sink.into());
        self
    }

    /// The name of the sink that messages go to, if it says one.
    pub(crate) fn sink(&self) -> Option<&Cow<'static, str>> {
        self.sink.as_ref()
    }

    /// By what the engine knows it.
    pub(crate) fn number(&self) -> u32 {
        let Self { fields, group, number, .. } = self;
        *number.get_or_init(|| host::add_recipe(&types::Recipe { fields: fields.clone(), group: group.clone() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_in_their_order() {
        let recipe = Recipe::new()
            .field("was", Part::RowBefore)
            .columns(&["id", "total"])
            .field("paid", Part::Json("true"))
            .field("old", Part::Before("total"))
            .group_text("order-")
            .group_column("id")
            .to("archive");
        let fields: Vec<_> = recipe.fields.iter().map(|field| format!("{}: {:?}", field.name, field.value)).collect();
        let expected = [
            "was: Part::RowBefore",
            "id: Part::Column(\"id\")",
            "total: Part::Column(\"total\")",
            "paid: Part::Constant(\"true\")",
            "old: Part::Before(\"total\")",
        ];
        assert_eq!(fields, expected);
        let group: Vec<_> = recipe.group.iter().map(|part| format!("{part:?}")).collect();
        assert_eq!(group, ["GroupPart::Text(\"order-\")", "GroupPart::Column(\"id\")"]);
        assert_eq!(recipe.sink().map(|sink| &**sink), Some("archive"));
    }
}
