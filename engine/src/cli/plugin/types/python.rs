//! Typed rows in Python: `rows.py`.

use super::names::{Unique, enum_types, fill, identifier, literal_with_digits, push_tables};
use super::{ColumnType, Reads, TableType, comment};

/// Keywords, and names in the generated class that properties would hide.
const RESERVED: &str = "\
    False None True TABLE after and as assert async await before break class continue def del elif else except \
    finally for from global if import in is lambda nonlocal not or pass property raise return row try typing \
    while with yield";

const HEAD: &str = r#""""Rows of tables with a property for each column. `Orders(row)` is the newest image of a row of `orders`, `OrdersColumns`
has the names of its columns."""

from __future__ import annotations

import decimal
import typing

from rowmill import ColumnError, Image, Row

# Types that a column's property may hide in its class.
_Bytes = bytes
_Decimal = decimal.Decimal
_Float = float
_Int = int
_Str = str

_Value = typing.TypeVar("_Value")


def _not_null(value: _Value | None, table: str, column: str) -> _Value:
    """Returns the value of a column that is NOT NULL."""
    if value is None:
        raise ColumnError(
            f"column `{column}` of {table} is NULL, but was NOT NULL when the typed rows were made; run `rowmill plugin types`"
        )
    return value


def _member(value: str | None, members: frozenset[str], table: str, column: str) -> str | None:
    """Returns the value of an enum, which must be one of its members."""
    if value is not None and value not in members:
        raise ColumnError(
            f"column `{column}` of {table} has the value `{value}`, which was no member when the typed rows were made; "
            "run `rowmill plugin types`"
        )
    return value
"#;

/// Returns the text of the file.
pub fn text(tables: &[TableType]) -> String {
    let mut text = HEAD.to_owned();
    push_tables(&mut text, tables, push_table);
    text
}

/// Returns a text for a documentation string.
fn documentation(text: &str) -> String {
    comment(text).replace('\\', "\\\\").replace('"', "\\\"")
}

fn push_table(text: &mut String, table: &TableType, name: &str, types: &mut Unique) {
    let shown = documentation(&table.full_name());
    let full_name = literal_with_digits(&table.full_name());
    let columns_type = types.give(format!("{name}Columns"));
    let enum_types = enum_types(table, name, types);
    let mut properties = Unique::new("_", []);
    let reserved: Vec<&str> = RESERVED.split_whitespace().chain([name]).collect();
    let reserved: Vec<&str> = reserved.into_iter().chain(enum_types.iter().flatten().map(String::as_str)).collect();
    let mut property = |column: &ColumnType| {
        let name = properties.give_unreserved(identifier(&column.name), &reserved);
        // Within a class such a name is another one, and with underscores at both ends it may have a meaning.
        if name.starts_with('_') { properties.give(format!("column{name}")) } else { name }
    };
    let names: Vec<String> = table.columns.iter().map(&mut property).collect();

    for (column, enum_type) in table.columns.iter().zip(&enum_types) {
        if let Some(enum_type) = enum_type {
            let (name, full_name) = (comment(&column.name), comment(&table.full_name()));
            text.push_str(&format!("\n\n#: The members of column `{name}` of {full_name}.\n"));
            text.push_str(&format!("{enum_type} = typing.Literal[\n"));
            for member in &column.members {
                text.push_str(&format!("    {},\n", literal_with_digits(member)));
            }
            text.push_str(&format!(
                "]\n_{enum_type}_MEMBERS: frozenset[str] = frozenset(typing.get_args({enum_type}))\n"
            ));
        }
    }
    text.push_str(&format!("\n\nclass {columns_type}:\n    \"\"\"The names of the columns of {shown}.\"\"\"\n\n"));
    for (column, name) in table.columns.iter().zip(&names) {
        text.push_str(&format!("    {name}: typing.Final = {}\n", literal_with_digits(&column.name)));
    }
    text.push_str(&format!("\n\nclass {name}:\n    \"\"\"An image of a row of {shown}.\"\"\"\n"));
    text.push_str(&fill(CLASS, &[("FULL", &full_name), ("TYPE", name)]));
    for ((column, property), enum_type) in table.columns.iter().zip(&names).zip(&enum_types) {
        push_property(text, column, property, enum_type.as_deref());
    }
}

/// What is the same in each table's class.
const CLASS: &str = r#"
    __slots__ = ("_image", "row")

    #: The table's full name.
    TABLE: typing.Final = $FULL

    def __init__(self, row: Row, image: Image | None = None) -> None:
        """Takes a row, of which it reads the newest image: after the change; of a deleted row, before it."""
        if row.table != self.TABLE:
            raise ColumnError(f"the row is of {row.table}, not of {self.TABLE}")
        self.row, self._image = row, row if image is None else image

    @property
    def before(self) -> $TYPE | None:
        """The image before the change; None if the row has none."""
        image = self.row.before
        return None if image is None else $TYPE(self.row, image)

    @property
    def after(self) -> $TYPE | None:
        """The image after the change; None for a delete."""
        image = self.row.after
        return None if image is None else $TYPE(self.row, image)
"#;

fn push_property(text: &mut String, column: &ColumnType, property: &str, enum_type: Option<&str>) {
    let (getter, value_type) = match (column.reads(), enum_type) {
        (_, Some(enum_type)) => ("text", enum_type),
        (Reads::Int, _) => ("integer", "_Int"),
        (Reads::Uint, _) => ("unsigned", "_Int"),
        (Reads::Float, _) => ("float", "_Float"),
        (Reads::Bytes, _) => ("bytes", "_Bytes"),
        (Reads::Text | Reads::Member, _) if column.kind == rowmill_core::batch::Kind::Decimal => {
            ("decimal", "_Decimal")
        }
        (Reads::Text | Reads::Member, _) => ("text", "_Str"),
    };
    let name = literal_with_digits(&column.name);
    let optional = if column.nullable { format!("{value_type} | None") } else { value_type.to_owned() };
    let read = format!("self._image.{getter}({name})");
    let read = match enum_type {
        Some(enum_type) => format!("_member({read}, _{enum_type}_MEMBERS, self.TABLE, {name})"),
        None => read,
    };
    let read = if column.nullable { read } else { format!("_not_null({read}, self.TABLE, {name})") };
    let read = if enum_type.is_some() { format!("typing.cast(\"{optional}\", {read})") } else { read };
    text.push_str(&format!("\n    @property\n    def {property}(self) -> {optional}:\n"));
    text.push_str(&format!("        \"\"\"{}\"\"\"\n        return {read}\n", documentation(&column.description())));
}
