//! Typed rows in Go: `rows.go` of the package `main`, formatted as gofmt does.

use std::path::Path;

use anyhow::Context;

use super::names::{Unique, enum_types, fill, literal_with_digits, member_names, pascal, push_tables};
use super::{ColumnType, Reads, TableType};

const HEAD: &str = r#"
package main

import "$MODULE/rowmill"
"#;
const TAIL: &str = r#"
// notNullText ends the error of a column that was NOT NULL.
const notNullText = " is NULL, but was NOT NULL when the typed rows were made; run `rowmill plugin types`"

// noMemberText ends the error of a text that is no member of an enum.
const noMemberText = ", which was no member when the typed rows were made; run `rowmill plugin types`"

// notNullColumn panics, which fails the row, if a column that is NOT NULL is NULL.
func notNullColumn[T any](value T, ok bool, table, column string) T {
	if !ok {
		panic(rowmill.Error("column `" + column + "` of " + table + notNullText))
	}
	return value
}

// memberOf panics, which fails the row, if a text is no member of an enum.
func memberOf[T ~string](text string, members []T, table, column string) T {
	for _, member := range members {
		if string(member) == text {
			return member
		}
	}
	panic(rowmill.Error("column `" + column + "` of " + table + " has the value `" + text + "`" + noMemberText))
}
"#;

/// Returns a text for a comment, in which gofmt changes two quotes or backticks in a row.
fn comment(text: &str) -> String {
    super::comment(text).replace("``", "` `").replace("''", "' '")
}

/// Returns the name of a project's Go module, from its `go.mod`.
///
/// # Errors
/// If there is no such file, or it does not say.
pub fn module(directory: &Path) -> anyhow::Result<String> {
    let path = directory.join("go.mod");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let module = text.lines().find_map(|line| line.trim().strip_prefix("module "));
    let module = module.map(|module| module.split("//").next().unwrap_or(module).trim().trim_matches('"').to_owned());
    module.with_context(|| format!("{} has no line `module NAME`", path.display()))
}

/// Returns the text of the file in a module of this name.
pub fn text(tables: &[TableType], module: &str) -> String {
    let mut text = fill(HEAD, &[("MODULE", module)]);
    push_tables(&mut text, tables, push_table);
    text + TAIL
}

fn push_table(text: &mut String, table: &TableType, name: &str, types: &mut Unique) {
    let shown = comment(&table.full_name());
    let full_name = literal_with_digits(&table.full_name());
    let (schema, table_name) = (literal_with_digits(&table.schema), literal_with_digits(&table.name));
    let mut give = |end: &str| types.give(format!("{name}{end}"));
    let (full_constant, schema_constant) = (give("FullName"), give("SchemaName"));
    let (name_constant, of) = (give("TableName"), give("Of"));
    let enum_types = enum_types(table, name, types);
    let mut give = |end: &str| types.give(format!("{name}{end}"));
    let word =
        |column: &ColumnType| Some(pascal(&column.name)).filter(|name| !name.is_empty()).unwrap_or("Column".into());
    let columns: Vec<String> = table.columns.iter().map(|column| give(&format!("Column{}", word(column)))).collect();
    // The methods that each type has, and its fields.
    let mut methods = Unique::new("", ["After", "Before", "HasAfter", "HasBefore", "Row"]);
    let methods: Vec<String> = table.columns.iter().map(|column| methods.give(word(column))).collect();

    let constant = |text: &mut String, what: &str, constant: &str, literal: &str| {
        text.push_str(&format!("\n// {constant} is {what}.\nconst {constant} = {literal}\n"));
    };
    constant(text, "the table's full name", &full_constant, &full_name);
    constant(text, "the name of the table's schema", &schema_constant, &schema);
    constant(text, "the table's name without the schema", &name_constant, &table_name);
    for (column, name) in table.columns.iter().zip(&columns) {
        constant(text, &format!("the name of a column of {shown}"), name, &literal_with_digits(&column.name));
    }
    let with_names: [(&str, &str); 6] = [
        ("TYPE", name),
        ("SHOWN", &shown),
        ("OF", &of),
        ("SCHEMA", &schema_constant),
        ("NAME", &name_constant),
        ("FULL", &full_constant),
    ];
    text.push_str(&fill(OF, &with_names));
    for (((column, method), constant), enum_type) in table.columns.iter().zip(&methods).zip(&columns).zip(&enum_types) {
        let names = Names { table: name, full: &full_constant, method, constant, enum_type: enum_type.as_deref() };
        push_method(text, column, &names);
    }
    for (column, enum_type) in table.columns.iter().zip(&enum_types) {
        if let Some(enum_type) = enum_type {
            push_enum(text, table, column, enum_type, types);
        }
    }
}

/// What is the same in each table's type.
const OF: &str = r#"
// $TYPE is an image of a row of $SHOWN.
type $TYPE struct {
	row   *rowmill.Row
	image *rowmill.Image
}

// $OF returns the newest image of a row: after the change; of a deleted row, before it. A row of another table is an
// error of the row.
func $OF(row *rowmill.Row) $TYPE {
	if !row.Table.Is($SCHEMA, $NAME) {
		panic(rowmill.Error("the row is of " + row.Table.Schema + "." + row.Table.Name + ", not of " + $FULL))
	}
	return $TYPE{row, row.Image}
}

// Row returns the row itself.
func (o $TYPE) Row() *rowmill.Row { return o.row }

// Before returns the image before the change. Where there is none (HasBefore), to read a column is an error of the row.
func (o $TYPE) Before() $TYPE { return $TYPE{o.row, o.row.Before()} }

// After returns the image after the change. Where there is none (HasAfter), to read a column is an error of the row.
func (o $TYPE) After() $TYPE { return $TYPE{o.row, o.row.After()} }

// HasBefore returns whether the row has an image before the change.
func (o $TYPE) HasBefore() bool { return o.row.HasBefore() }

// HasAfter returns whether the row has an image after the change.
func (o $TYPE) HasAfter() bool { return o.row.HasAfter() }
"#;

/// The names of what is generated for a column.
struct Names<'a> {
    table: &'a str,
    full: &'a str,
    method: &'a str,
    constant: &'a str,
    enum_type: Option<&'a str>,
}

fn push_method(text: &mut String, column: &ColumnType, names: &Names<'_>) {
    let Names { table, full, method, constant, enum_type } = names;
    let (getter, value_type) = match (column.reads(), enum_type) {
        (_, Some(enum_type)) => ("Text", *enum_type),
        (Reads::Int, _) => ("Int", "int64"),
        (Reads::Uint, _) => ("Uint", "uint64"),
        (Reads::Float, _) => ("Float", "float64"),
        (Reads::Bytes, _) => ("Bytes", "[]byte"),
        (Reads::Text | Reads::Member, _) => ("Text", "string"),
    };
    let null = if column.nullable { " False stands for NULL." } else { "" };
    text.push_str(&format!("\n// {method} returns a column. {}{null}\n", comment(&column.description())));
    let read = format!("o.image.{getter}({constant})");
    let result = if column.nullable { format!("({value_type}, bool)") } else { value_type.to_owned() };
    text.push_str(&format!("func (o {table}) {method}() {result} {{\n"));
    text.push_str(&match (column.nullable, enum_type) {
        (true, None) => format!("\treturn {read}\n"),
        (false, None) => {
            format!("\tvalue, ok := {read}\n\treturn notNullColumn(value, ok, {full}, {constant})\n")
        }
        (true, Some(enum_type)) => format!(
            "\tvalue, ok := {read}\n\tif !ok {{\n\t\treturn \"\", false\n\t}}\n\treturn memberOf(value, members{enum_type}, \
             {full}, {constant}), true\n"
        ),
        (false, Some(enum_type)) => format!(
            "\tvalue, ok := {read}\n\tvalue = notNullColumn(value, ok, {full}, {constant})\n\treturn memberOf(value, \
             members{enum_type}, {full}, {constant})\n"
        ),
    });
    text.push_str("}\n");
}

fn push_enum(text: &mut String, table: &TableType, column: &ColumnType, enum_type: &str, types: &mut Unique) {
    let of = comment(&format!("column `{}` of {}", column.name, table.full_name()));
    let names = member_names(&column.members, pascal, &[]);
    let names: Vec<String> = names.iter().map(|name| types.give(format!("{enum_type}{name}"))).collect();
    text.push_str(&format!("\n// {enum_type} is a member of {of}.\ntype {enum_type} string\n"));
    for (name, member) in names.iter().zip(&column.members) {
        let literal = literal_with_digits(member);
        text.push_str(&format!("\n// {name} is a member of {enum_type}.\nconst {name} {enum_type} = {literal}\n"));
    }
    text.push_str(&format!("\nvar members{enum_type} = []{enum_type}{{\n"));
    for name in names {
        text.push_str(&format!("\t{name},\n"));
    }
    text.push_str("}\n");
}
