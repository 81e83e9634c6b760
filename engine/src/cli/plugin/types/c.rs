//! Typed rows in C: `rows.h`.

use super::names::{Unique, fill, identifier, is_hidden, literal, member_names, screaming, snake, type_names};
use super::{ColumnType, Reads, TableType, comment};

const HEAD: &str = r#"/* Rows of tables with a function for each column. `orders_of(row, RM_NEWEST)` is an image of a row of `orders`,
 * `ORDERS_COLUMN_ID` the name of its column `id`. The functions fail the row where those of rowmill.h do. */
#ifndef ROWMILL_ROWS_H
#define ROWMILL_ROWS_H

#include "rowmill.h"

/* Fails the row: a column that is NOT NULL is NULL. The error of a column that cannot be read comes first. */
RM_COLD void rows_fail_null(rm_row *row, const char *table, const char *column) {
    if (row->failed) return;
    rm_error.len = 0;
    rm_puts(&rm_error, "column `"), rm_puts(&rm_error, column), rm_puts(&rm_error, "` of "), rm_puts(&rm_error, table);
    rm_end_error(row, " is NULL, but was NOT NULL when the typed rows were made; run `rowmill plugin types`");
}
/* Fails the row: a text is no member of an enum. */
RM_COLD void rows_fail_member(rm_row *row, const char *table, const char *column, rm_text value) {
    if (row->failed) return;
    rm_error.len = 0;
    rm_puts(&rm_error, "column `"), rm_puts(&rm_error, column), rm_puts(&rm_error, "` of "), rm_puts(&rm_error, table);
    rm_puts(&rm_error, " has the value `"), rm_put(&rm_error, value);
    rm_end_error(row, "`, which was no member when the typed rows were made; run `rowmill plugin types`");
}
RM_COLD void rows_fail_table(rm_row *row, const char *table) {
    if (row->failed) return;
    rm_error.len = 0;
    rm_puts(&rm_error, "the row is of "), rm_put_table(row->table), rm_puts(&rm_error, ", not of ");
    rm_end_error(row, table);
}
"#;
const TAIL: &str = "\n#endif\n";

/// What is the same for each table.
const OF: &str = r#"
/* An image of a row of $SHOWN. */
typedef struct {
    rm_row *row;
    rm_image image;
} $ROW;

/* Returns an image of a row. A row of another table fails. */
static inline $ROW $OF(rm_row *row, rm_image image) {
    $ROW out = {row, image};
    if (!rm_is(row->table, $SCHEMA, $NAME)) rows_fail_table(row, $FULL);
    return out;
}
"#;

/// Returns the text of the file.
pub fn text(tables: &[TableType]) -> String {
    let mut text = HEAD.to_owned();
    let names = type_names(tables);
    let mut given = Unique::new("_", []);
    for (table, name) in tables.iter().zip(&names) {
        push_table(&mut text, table, name, &mut given);
    }
    text + TAIL
}

/// Returns a text as a literal. A hidden character is written byte by byte, in octal.
fn quoted(text: &str) -> String {
    let octal = |c: char| c.to_string().bytes().map(|byte| format!("\\{byte:03o}")).collect::<String>();
    // `??` begins a trigraph.
    literal(text, |c| if c == '?' { Some("\\?".to_owned()) } else { is_hidden(c).then(|| octal(c)) })
}

fn push_table(text: &mut String, table: &TableType, type_name: &str, given: &mut Unique) {
    let (prefix, upper) = (snake(type_name), screaming(type_name));
    let shown = comment(&table.full_name());
    let mut define = |text: &mut String, end: String, literal: &str, what: &str| {
        let name = given.give(format!("{upper}_{end}"));
        text.push_str(&format!("/* {what} */\n#define {name} {literal}\n"));
        name
    };
    text.push('\n');
    let full = define(text, "TABLE".to_owned(), &quoted(&table.full_name()), "The table's full name.");
    let schema = define(text, "SCHEMA".to_owned(), &quoted(&table.schema), "The name of its schema.");
    let name = define(text, "NAME".to_owned(), &quoted(&table.name), "Its name without the schema.");
    let columns: Vec<String> = table
        .columns
        .iter()
        .map(|column| {
            let end = format!("COLUMN_{}", screaming(&identifier(&column.name)));
            define(text, end, &quoted(&column.name), &column.description())
        })
        .collect();
    let (row_type, of) = (given.give(format!("{prefix}_row")), given.give(format!("{prefix}_of")));
    let texts: [(&str, &str); 6] =
        [("SHOWN", &shown), ("ROW", &row_type), ("OF", &of), ("SCHEMA", &schema), ("NAME", &name), ("FULL", &full)];
    text.push_str(&fill(OF, &texts));
    for (column, constant) in table.columns.iter().zip(&columns) {
        let function = given.give(identifier(&format!("{prefix}_{}", column.name)));
        let names = Names { row_type: &row_type, full: &full, constant, function: &function };
        match column.reads() {
            Reads::Int => push_number(text, column, &names, "int", "int64_t"),
            Reads::Uint => push_number(text, column, &names, "uint", "uint64_t"),
            Reads::Float => push_number(text, column, &names, "float", "double"),
            Reads::Text => push_text(text, column, &names, "text"),
            Reads::Bytes => push_text(text, column, &names, "bytes"),
            Reads::Member => push_enum(text, column, &names, given),
        }
    }
}

/// The names of what is generated for a column.
struct Names<'a> {
    row_type: &'a str,
    full: &'a str,
    constant: &'a str,
    function: &'a str,
}

fn no_value(column: &ColumnType) -> &'static str {
    if column.nullable { "without a value: NULL, or the row fails" } else { "without a value: the row fails" }
}

fn push_number(text: &mut String, column: &ColumnType, names: &Names<'_>, getter: &str, value_type: &str) {
    let Names { row_type, full, constant, function } = names;
    text.push_str(&format!("\n/* {} False {}. */\n", column.description(), no_value(column)));
    text.push_str(&format!("RM_CHECKED bool {function}({row_type} of, {value_type} *out) {{\n"));
    let read = format!("rm_get_{getter}_in(of.row, of.image, {constant}, out)");
    match column.nullable {
        true => text.push_str(&format!("    return {read};\n}}\n")),
        false => text.push_str(&format!(
            "    if ({read}) return true;\n    rows_fail_null(of.row, {full}, {constant});\n    return false;\n}}\n"
        )),
    }
}

fn push_text(text: &mut String, column: &ColumnType, names: &Names<'_>, getter: &str) {
    let Names { row_type, full, constant, function } = names;
    text.push_str(&format!("\n/* {} `at` is NULL {}. */\n", column.description(), no_value(column)));
    text.push_str(&format!("RM_CHECKED rm_text {function}({row_type} of) {{\n"));
    let read = format!("rm_get_{getter}_in(of.row, of.image, {constant})");
    match column.nullable {
        true => text.push_str(&format!("    return {read};\n}}\n")),
        false => text.push_str(&format!(
            "    rm_text value = {read};\n    if (!value.at) rows_fail_null(of.row, {full}, {constant});\n    return value;\n}}\n"
        )),
    }
}

fn push_enum(text: &mut String, column: &ColumnType, names: &Names<'_>, given: &mut Unique) {
    let Names { row_type, full, constant, function } = names;
    let upper = screaming(function);
    let members = member_names(&column.members, screaming, &[]);
    let members: Vec<String> = members.iter().map(|member| given.give(format!("{upper}_{member}"))).collect();
    text.push_str(&format!("\n/* The members of column `{}`. */\nenum {function} {{\n", comment(&column.name)));
    for (index, member) in members.iter().enumerate() {
        // A variable that is zero is no member.
        text.push_str(&format!("    {member}{},\n", if index == 0 { " = 1" } else { "" }));
    }
    text.push_str("};\n\n/* Returns the member's text; NULL for a number that is no member. */\n");
    let text_of = given.give(format!("{function}_text"));
    text.push_str(&format!("static inline const char *{text_of}(enum {function} member) {{\n    switch (member) {{\n"));
    for (name, member) in members.iter().zip(&column.members) {
        text.push_str(&format!("    case {name}: return {};\n", quoted(member)));
    }
    text.push_str(&format!(
        "    }}\n    return NULL;\n}}\n\n/* {} False {}. */\n",
        column.description(),
        no_value(column)
    ));
    text.push_str(&format!("RM_CHECKED bool {function}({row_type} of, enum {function} *out) {{\n"));
    text.push_str(&format!("    rm_text value = rm_get_text_in(of.row, of.image, {constant});\n"));
    let null = match column.nullable {
        true => "    if (!value.at) return false;\n".to_owned(),
        false => format!(
            "    if (!value.at) {{\n        rows_fail_null(of.row, {full}, {constant});\n        return false;\n    }}\n"
        ),
    };
    text.push_str(&null);
    for (name, member) in members.iter().zip(&column.members) {
        text.push_str(&format!(
            "    if (rm_equals(value, {})) {{\n        *out = {name};\n        return true;\n    }}\n",
            quoted(member)
        ));
    }
    text.push_str(&format!("    rows_fail_member(of.row, {full}, {constant}, value);\n    return false;\n}}\n"));
}
