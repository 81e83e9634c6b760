//! Typed rows in AssemblyScript: `rows.ts`.

use super::names::{Unique, enum_types, fill, identifier, literal_with_braces, member_names, pascal, push_tables};
use super::{ColumnType, Reads, TableType, comment};

/// Members that each class has, and keywords, which the compiler refuses as names of members.
const RESERVED: &str = "\
    TABLE after before constructor image is of row async await break case catch class const continue debugger default \
    delete do else enum export extends false finally for function if implements import in instanceof interface let new \
    null package private protected public return static super switch this throw true try typeof var void while with yield";

const HEAD: &str = r#"// Rows of tables with a property for each column. `Orders.of(row)` is the newest image of a row of `orders`,
// `OrdersColumns` has the names of its columns. The properties fail the row where the getters of `Image` do.
import { Image, Row, Table } from "./rowmill";

/** An integer of a column that may be NULL. */
export class Int {
  constructor(public value: i64) {}
}

/** An unsigned integer of a column that may be NULL. */
export class Uint {
  constructor(public value: u64) {}
}

/** A float of a column that may be NULL. */
export class Float {
  constructor(public value: f64) {}
}

/** Fails the row: a column that is NOT NULL is NULL. */
function failNull(row: Row, table: string, column: string): void {
  const why = " is NULL, but was NOT NULL when the typed rows were made; run `rowmill plugin types`";
  row.fail("column `" + column + "` of " + table + why);
}

/** Fails the row: a text is no member of an enum. */
function failMember(row: Row, table: string, column: string, value: string): void {
  const why = "`, which was no member when the typed rows were made; run `rowmill plugin types`";
  row.fail("column `" + column + "` of " + table + " has the value `" + value + why);
}
"#;

/// Returns the text of the file.
pub fn text(tables: &[TableType]) -> String {
    let mut text = HEAD.to_owned();
    push_tables(&mut text, tables, push_table);
    text
}

fn push_table(text: &mut String, table: &TableType, name: &str, types: &mut Unique) {
    let (shown, full_name) = (comment(&table.full_name()), literal_with_braces(&table.full_name()));
    let columns_type = types.give(format!("{name}Columns"));
    let enum_types = enum_types(table, name, types);
    let reserved: Vec<&str> = RESERVED.split_whitespace().collect();
    let mut properties = Unique::new("_", []);
    let properties: Vec<String> =
        table.columns.iter().map(|column| properties.give_unreserved(identifier(&column.name), &reserved)).collect();

    text.push_str(&format!("\n/** The names of the columns of {shown}. */\nexport class {columns_type} {{\n"));
    for (column, property) in table.columns.iter().zip(&properties) {
        text.push_str(&format!("  static readonly {property}: string = {};\n", literal_with_braces(&column.name)));
    }
    text.push_str("}\n");
    for (column, enum_type) in table.columns.iter().zip(&enum_types) {
        if let Some(enum_type) = enum_type {
            push_enum(text, table, column, enum_type);
        }
    }
    let texts: [(&str, &str); 5] = [
        ("SHOWN", &shown),
        ("TYPE", name),
        ("FULL", &full_name),
        ("SCHEMA", &literal_with_braces(&table.schema)),
        ("NAME", &literal_with_braces(&table.name)),
    ];
    text.push_str(&fill(CLASS, &texts));
    for ((column, property), enum_type) in table.columns.iter().zip(&properties).zip(&enum_types) {
        push_property(text, column, name, property, enum_type.as_deref());
    }
    text.push_str("}\n");
}

/// What is the same in each table's class.
const CLASS: &str = r#"
/** An image of a row of $SHOWN. */
export class $TYPE {
  /** The table's full name. */
  static readonly TABLE: string = $FULL;

  constructor(public row: Row, private image: Image) {}

  /** Whether this is the table, for `Transform.table`. */
  static is(table: Table): bool {
    return table.is($SCHEMA, $NAME);
  }
  /** Returns the newest image of a row: after the change; of a deleted row, before it. A row of another table fails. */
  static of(row: Row): $TYPE {
    if (!$TYPE.is(row.table)) row.fail("the row is of " + row.table.fullName + ", not of " + $TYPE.TABLE);
    return new $TYPE(row, row);
  }
  /** The image before the change; null if the row has none. */
  get before(): $TYPE | null {
    return this.row.before.exists ? new $TYPE(this.row, this.row.before) : null;
  }
  /** The image after the change; null for a delete. */
  get after(): $TYPE | null {
    return this.row.after.exists ? new $TYPE(this.row, this.row.after) : null;
  }
"#;

fn push_property(text: &mut String, column: &ColumnType, name: &str, property: &str, enum_type: Option<&str>) {
    let literal = literal_with_braces(&column.name);
    let fail_null = format!("failNull(this.row, {name}.TABLE, {literal})");
    let number = |getter: &str, value_type: &str, class: &str| match column.nullable {
        true => (
            format!("{class} | null"),
            format!(
                "    if (this.image.isNull({literal})) return null;\n    return new {class}(this.image.{getter}({literal}, 0));\n"
            ),
        ),
        false => (
            value_type.to_owned(),
            format!(
                "    if (this.image.isNull({literal})) {fail_null};\n    return this.image.{getter}({literal}, 0);\n"
            ),
        ),
    };
    let object = |getter: &str, value_type: &str, nothing: &str| match column.nullable {
        true => (format!("{value_type} | null"), format!("    return this.image.{getter}({literal});\n")),
        false => (
            value_type.to_owned(),
            format!(
                "    const value = this.image.{getter}({literal});\n    if (value !== null) return value;\n    {fail_null};\n    \
                 return {nothing};\n"
            ),
        ),
    };
    let (value_type, body) = match (column.reads(), enum_type) {
        (_, Some(enum_type)) => (enum_type.to_owned(), member_body(column, name, enum_type, &literal, &fail_null)),
        (Reads::Int, _) => number("int", "i64", "Int"),
        (Reads::Uint, _) => number("uint", "u64", "Uint"),
        (Reads::Float, _) => number("float", "f64", "Float"),
        (Reads::Bytes, _) => object("bytes", "Uint8Array", "new Uint8Array(0)"),
        (Reads::Text | Reads::Member, _) => object("text", "string", "\"\""),
    };
    text.push_str(&format!("  /** {} */\n  get {property}(): {value_type} {{\n{body}  }}\n", column.description()));
}

/// Returns the body of the property of an enum.
fn member_body(column: &ColumnType, name: &str, enum_type: &str, literal: &str, fail_null: &str) -> String {
    let fail_null = if column.nullable { String::new() } else { format!("      {fail_null};\n") };
    let mut body = format!("    const value = this.image.text({literal});\n    if (value === null) {{\n{fail_null}");
    body.push_str(&format!("      return {enum_type}.{NONE};\n    }}\n"));
    for (member_name, member) in member_names(&column.members, pascal, &[NONE]).iter().zip(&column.members) {
        let member = literal_with_braces(member);
        body.push_str(&format!("    if (value == {member}) return {enum_type}.{member_name};\n"));
    }
    body.push_str(&format!(
        "    failMember(this.row, {name}.TABLE, {literal}, value);\n    return {enum_type}.{NONE};\n"
    ));
    body
}

/// The member of each enum that stands for no value.
const NONE: &str = "None";

fn push_enum(text: &mut String, table: &TableType, column: &ColumnType, enum_type: &str) {
    let names = member_names(&column.members, pascal, &[NONE]);
    let (name, full_name) = (comment(&column.name), comment(&table.full_name()));
    text.push_str(&format!(
        "\n/** The members of column `{name}` of {full_name}; `{NONE}` is NULL, or the row has failed. */\n"
    ));
    text.push_str(&format!("export enum {enum_type} {{\n  {NONE},\n"));
    for name in &names {
        text.push_str(&format!("  {name},\n"));
    }
    text.push_str(&format!("}}\n\n/** Returns a member's text; empty for `{NONE}`. */\n"));
    text.push_str(&format!(
        "export function textOf{enum_type}(member: {enum_type}): string {{\n  switch (member) {{\n"
    ));
    for (name, member) in names.iter().zip(&column.members) {
        text.push_str(&format!("    case {enum_type}.{name}:\n      return {};\n", literal_with_braces(member)));
    }
    text.push_str("    default:\n      return \"\";\n  }\n}\n");
}
