//! Typed rows in Rust: `src/rows.rs`, formatted as rustfmt does by default.

use super::names::{
    Unique, enum_types, identifier, is_among, literal_with_braces, member_names, pascal, push_tables, screaming,
};
use super::{ColumnType, Reads, TableType};

const KEYWORDS: &str = "\
    abstract as async await become box break const continue do dyn else enum extern false final fn for gen if \
    impl in let loop macro match mod move mut override priv pub ref return static struct trait true try type \
    typeof unsafe unsized use virtual where while yield";
/// Words that cannot be raw identifiers, and the functions that each type has.
const RESERVED: &[&str] = &["Self", "after", "before", "crate", "of", "row", "self", "super"];
const WIDTH: usize = 100;

const HEAD: &str = r#"//! Rows of tables with a function for each column. `Orders::of(row)?` is the newest image of a row of
//! `orders`, `OrdersColumns` has the names of its columns.
#![allow(clippy::all, dead_code, non_snake_case)]

use rowmill_sdk::{Failure, Row, View};
"#;
const TAIL: &str = r#"
/// Returns the value of a column that is NOT NULL.
fn not_null<T>(value: Option<T>, table: &str, column: &str) -> Result<T, Failure> {
    value.ok_or_else(|| {
        Failure::reject(format!(
            "column `{column}` of {table} is NULL, but was NOT NULL when the typed rows were made; run `rowmill plugin types`"
        ))
    })
}

/// Returns the error of a text that is no member of an enum.
fn no_member(value: &str, table: &str, column: &str) -> Failure {
    Failure::reject(format!(
        "column `{column}` of {table} has the value `{value}`, which was no member when the typed rows were made; run \
         `rowmill plugin types`"
    ))
}
"#;

/// Returns the text of the file.
pub fn text(tables: &[TableType]) -> String {
    let mut text = HEAD.to_owned();
    push_tables(&mut text, tables, push_table);
    text + TAIL
}

fn push_table(text: &mut String, table: &TableType, name: &str, types: &mut Unique) {
    let full_name = literal_with_braces(&table.full_name());
    let shown = super::comment(&table.full_name());
    let columns_type = types.give(format!("{name}Columns"));
    let enum_types = enum_types(table, name, types);
    let mut constants = Unique::new("_", []);
    let constants: Vec<String> =
        table.columns.iter().map(|column| constants.give(screaming(&identifier(&column.name)))).collect();

    text.push_str(&format!("\n/// The names of the columns of `{shown}`.\npub struct {columns_type};\n\n"));
    text.push_str(&format!("impl {columns_type} {{\n"));
    for (column, constant) in table.columns.iter().zip(&constants) {
        text.push_str(&format!("    /// {}\n", column.description()));
        let left = format!("    pub const {constant}: &'static str =");
        push_assignment(text, &left, &literal_with_braces(&column.name));
    }
    text.push_str(&format!("}}\n\n/// An image of a row of `{shown}`.\n#[derive(Debug, Clone, Copy)]\n"));
    text.push_str(&format!("pub struct {name}<'a> {{\n    row: &'a Row<'a>,\n    image: View<'a>,\n}}\n\n"));
    text.push_str(&format!("impl<'a> {name}<'a> {{\n    /// The table's full name.\n"));
    push_assignment(text, "    pub const TABLE: &'static str =", &full_name);
    text.push_str(OF);
    let mut functions = Unique::new("_", []);
    for (((column, constant), enum_type), index) in table.columns.iter().zip(&constants).zip(&enum_types).zip(0..) {
        let function = function_name(&column.name, &mut functions);
        let shape = Shape { column, constant, columns_type: &columns_type, enum_type: enum_type.as_deref() };
        text.push_str(if index == 0 { "" } else { "\n" });
        push_function(text, &function, &shape);
    }
    text.push_str("}\n");
    for (column, enum_type) in table.columns.iter().zip(&enum_types) {
        if let Some(enum_type) = enum_type {
            push_enum(text, table, column, enum_type);
        }
    }
}

/// What is the same in each table's type.
const OF: &str = r#"
    /// Returns the newest image of a row: after the change; of a deleted row, before it. A row of another table is an error.
    pub fn of(row: &'a Row<'a>) -> Result<Self, Failure> {
        let (table, image) = (row.table(), row.newest());
        if !table.is(Self::TABLE) {
            let (schema, name) = (table.schema(), table.name());
            let message = format!("the row is of {schema}.{name}, not of {}", Self::TABLE);
            return Err(Failure::reject(message));
        }
        Ok(Self { row, image })
    }

    /// Returns the image before the change; `None` if the row has none.
    pub fn before(&self) -> Option<Self> {
        let (row, image) = (self.row, self.row.before()?);
        Some(Self { row, image })
    }

    /// Returns the image after the change; `None` for a delete.
    pub fn after(&self) -> Option<Self> {
        let (row, image) = (self.row, self.row.after()?);
        Some(Self { row, image })
    }

    /// Returns the row itself.
    pub fn row(&self) -> &'a Row<'a> {
        self.row
    }

"#;

/// Returns a column's function: keywords are raw identifiers, `r#type`, and what cannot be one ends with `_`.
fn function_name(column: &str, functions: &mut Unique) -> String {
    let name = functions.give_unreserved(identifier(column), RESERVED);
    if is_among(&name, KEYWORDS) { format!("r#{name}") } else { name }
}

struct Shape<'a> {
    column: &'a ColumnType,
    constant: &'a str,
    columns_type: &'a str,
    enum_type: Option<&'a str>,
}

fn push_function(text: &mut String, function: &str, shape: &Shape<'_>) {
    let Shape { column, constant, columns_type, enum_type } = shape;
    let (getter, value_type) = match (column.reads(), enum_type) {
        (_, Some(enum_type)) => ("text", *enum_type),
        (Reads::Int, _) => ("int", "i64"),
        (Reads::Uint, _) => ("uint", "u64"),
        (Reads::Float, _) => ("float", "f64"),
        (Reads::Bytes, _) => ("bytes", "&'a [u8]"),
        (Reads::Text | Reads::Member, _) => ("text", "&'a str"),
    };
    let result = if column.nullable { format!("Option<{value_type}>") } else { value_type.to_owned() };
    text.push_str(&format!("    /// {}\n", column.description()));
    let signature = format!("    pub fn {function}(&self) -> Result<{result}, Failure> {{");
    match signature.chars().count() <= WIDTH {
        true => text.push_str(&signature),
        false => {
            let end = format!("    ) -> Result<{result}, Failure>");
            // rustfmt keeps some distance here.
            let separator = if end.chars().count() + 6 <= WIDTH { " " } else { "\n    " };
            text.push_str(&format!("    pub fn {function}(\n        &self,\n{end}{separator}{{"));
        }
    }
    text.push('\n');
    push_assignment(text, "        let column =", &format!("{columns_type}::{constant}"));
    // `let` with a semicolon, in a form whose length hardly depends on the names.
    text.push_str(&format!("        let value = self.image.{getter}(column)?;\n"));
    match (column.nullable, enum_type) {
        (true, None) => text.push_str("        Ok(value)\n"),
        (false, None) => text.push_str("        not_null(value, Self::TABLE, column)\n"),
        (true, Some(enum_type)) => {
            let mapped = format!("        value.map({enum_type}::of).transpose()\n");
            // rustfmt breaks chains of more than 60 characters.
            match mapped.trim().chars().count() <= 60 {
                true => text.push_str(&mapped),
                false => {
                    let lines = format!("        value\n            .map({enum_type}::of)\n            .transpose()\n");
                    text.push_str(&lines);
                }
            }
        }
        (false, Some(enum_type)) => text.push_str(&format!(
            "        let value = not_null(value, Self::TABLE, column)?;\n        {enum_type}::of(value)\n"
        )),
    }
    text.push_str("    }\n");
}

fn push_enum(text: &mut String, table: &TableType, column: &ColumnType, enum_type: &str) {
    let names = member_names(&column.members, pascal, &["Self"]);
    let (name, full_name) = (super::comment(&column.name), super::comment(&table.full_name()));
    text.push_str(&format!("\n/// The members of column `{name}` of `{full_name}`.\n"));
    text.push_str(&format!("#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]\npub enum {enum_type} {{\n"));
    for (name, member) in names.iter().zip(&column.members) {
        text.push_str(&format!("    /// `{}`\n    {name},\n", super::comment(member)));
    }
    text.push_str(&format!("}}\n\nimpl {enum_type} {{\n    /// Returns the member's text.\n"));
    text.push_str("    pub fn text(self) -> &'static str {\n        match self {\n");
    for (name, member) in names.iter().zip(&column.members) {
        push_arm(text, &format!("Self::{name}"), &literal_with_braces(member));
    }
    text.push_str(
        "        }\n    }\n\n    /// Returns the member with a text. A text that is no member is an error.\n",
    );
    text.push_str("    pub fn of(text: &str) -> Result<Self, Failure> {\n        match text {\n");
    for (name, member) in names.iter().zip(&column.members) {
        push_arm(text, &literal_with_braces(member), &format!("Ok(Self::{name})"));
    }
    let (table, column) = (literal_with_braces(&table.full_name()), literal_with_braces(&column.name));
    // rustfmt breaks calls whose arguments have more than 60 characters.
    let arguments = format!("text, {table}, {column}");
    match arguments.chars().count() <= 60 && format!("            _ => Err(no_member({arguments})),").len() <= WIDTH {
        true => text.push_str(&format!("            _ => Err(no_member({arguments})),\n")),
        false => text.push_str(&format!(
            "            _ => Err(no_member(\n                text,\n                {table},\n                {column},\n            \
             )),\n"
        )),
    }
    text.push_str("        }\n    }\n}\n");
}

/// Writes an arm of a `match`, on several lines if it is long.
fn push_arm(text: &mut String, pattern: &str, value: &str) {
    let line = format!("            {pattern} => {value},\n");
    match line.chars().count() <= WIDTH + 1 {
        true => text.push_str(&line),
        false => text.push_str(&format!("            {pattern} => {{\n                {value}\n            }}\n")),
    }
}

/// Writes an assignment, on two lines if it is long.
fn push_assignment(text: &mut String, left: &str, right: &str) {
    let line = format!("{left} {right};\n");
    match line.chars().count() <= WIDTH + 1 {
        true => text.push_str(&line),
        false => {
            let indent = left.len() - left.trim_start().len() + 4;
            text.push_str(&format!("{left}\n{:indent$}{right};\n", ""));
        }
    }
}
