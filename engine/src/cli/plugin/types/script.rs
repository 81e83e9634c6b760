//! Typed rows in JavaScript and TypeScript: `rows.js`, and its types, `rows.d.ts`.

use rowmill_core::batch::Kind;

use super::names::{Unique, enum_types, fill, identifier, literal_with_digits, type_names};
use super::{ColumnType, Reads, TableType, comment};

/// Members that each class has, and those that mean something else in a class or an object.
const RESERVED: &[&str] = &["__proto__", "after", "before", "constructor", "row"];

const HEAD: &str = r#"// Rows of tables with a property for each column. `new Orders(row)` is the newest image of a row of `orders`,
// `OrdersColumns` has the names of its columns.
"#;
const FUNCTIONS: &str = r#"import { ColumnError } from "./rowmill.js";

const AGAIN = "when the typed rows were made; run `rowmill plugin types`";

/** Returns the value of a column that is NOT NULL. */
function notNull(value, table, column) {
  if (value === null) throw new ColumnError(`column \`${column}\` of ${table} is NULL, but was NOT NULL ${AGAIN}`);
  return value;
}

/** Returns the value of an enum, which must be one of its members. */
function member(value, members, table, column) {
  if (value === null || members.includes(value)) return value;
  throw new ColumnError(`column \`${column}\` of ${table} has the value \`${value}\`, which was no member ${AGAIN}`);
}
"#;
const SDK_ROW: &str = "import type { Row } from \"./rowmill.js\";\n";
/// A project in JavaScript has no declarations of the SDK.
const ANY_ROW: &str = "/** A row of the SDK, which has no declarations here. */\ntype Row = any;\n";

/// The names of what is generated for a table.
struct Names {
    table: String,
    columns: String,
    /// The types of its enums, by column.
    enums: Vec<Option<String>>,
    /// Its properties, by column.
    properties: Vec<String>,
}

/// Returns the text of `rows.js`.
pub fn text(tables: &[TableType]) -> String {
    let mut text = HEAD.to_owned() + FUNCTIONS;
    for (table, names) in tables.iter().zip(names(tables)) {
        push_class(&mut text, table, &names);
    }
    text
}

/// Returns the text of `rows.d.ts`, for a project that has the SDK's declarations or not.
pub fn declarations(tables: &[TableType], has_sdk_types: bool) -> String {
    let mut text = HEAD.to_owned() + if has_sdk_types { SDK_ROW } else { ANY_ROW };
    for (table, names) in tables.iter().zip(names(tables)) {
        push_declaration(&mut text, table, &names);
    }
    text
}

fn names(tables: &[TableType]) -> Vec<Names> {
    let type_names = type_names(tables);
    let mut types = Unique::new("", type_names.iter().map(String::as_str));
    let names = |(table, name): (&TableType, &String)| {
        let columns = types.give(format!("{name}Columns"));
        let enums = enum_types(table, name, &mut types);
        let mut properties = Unique::new("_", []);
        let property = |column: &ColumnType| properties.give_unreserved(identifier(&column.name), RESERVED);
        let properties = table.columns.iter().map(property).collect();
        Names { table: name.clone(), columns, enums, properties }
    };
    tables.iter().zip(&type_names).map(names).collect()
}

/// Returns the getter of a column, and the type of its value. A number has 53 bits.
fn getter(column: &ColumnType) -> (&'static str, &'static str) {
    let is_wide = match column.kind {
        Kind::Int | Kind::Uint => column.mysql_type.starts_with("bigint"),
        Kind::Bit => {
            let size = column.mysql_type.trim_start_matches("bit").trim().trim_matches(['(', ')']).parse::<u32>();
            size.is_ok_and(|size| size > 53)
        }
        _ => false,
    };
    match column.reads() {
        Reads::Int if is_wide => ("bigint", "bigint"),
        Reads::Uint if is_wide => ("unsigned", "bigint"),
        Reads::Int | Reads::Uint => ("integer", "number"),
        Reads::Float => ("float", "number"),
        Reads::Bytes => ("bytes", "Uint8Array"),
        Reads::Text | Reads::Member => ("text", "string"),
    }
}

fn push_class(text: &mut String, table: &TableType, names: &Names) {
    let Names { table: name, columns, enums, properties } = names;
    let (shown, full_name) = (comment(&table.full_name()), literal_with_digits(&table.full_name()));
    text.push_str(&format!(
        "\n/** The names of the columns of {shown}. */\nexport const {columns} = Object.freeze({{\n"
    ));
    for (column, property) in table.columns.iter().zip(properties) {
        text.push_str(&format!("  {property}: {},\n", literal_with_digits(&column.name)));
    }
    text.push_str("});\n");
    for (column, enum_type) in table.columns.iter().zip(enums) {
        if let Some(enum_type) = enum_type {
            let members: Vec<String> =
                column.members.iter().map(|member| format!("  {},\n", literal_with_digits(member))).collect();
            text.push_str(&format!("\nconst members{enum_type} = [\n{}];\n", members.concat()));
        }
    }
    text.push_str(&fill(CLASS, &[("SHOWN", &shown), ("FULL", &full_name), ("TYPE", name)]));
    for ((column, property), enum_type) in table.columns.iter().zip(properties).zip(enums) {
        let (getter, _) = getter(column);
        let column_name = literal_with_digits(&column.name);
        let read = format!("this.#image.{getter}({column_name})");
        let read = match enum_type {
            Some(enum_type) => format!("member({read}, members{enum_type}, {name}.TABLE, {column_name})"),
            None => read,
        };
        let read = if column.nullable { read } else { format!("notNull({read}, {name}.TABLE, {column_name})") };
        text.push_str(&format!("  get {property}() {{\n    return {read};\n  }}\n"));
    }
    text.push_str("}\n");
}

/// What is the same in each table's class.
const CLASS: &str = r#"
/** An image of a row of $SHOWN. */
export class $TYPE {
  /** The table's full name. */
  static TABLE = $FULL;
  #image;

  constructor(row, image = row) {
    if (row.table !== $TYPE.TABLE) throw new ColumnError(`the row is of ${row.table}, not of ${$TYPE.TABLE}`);
    this.row = row;
    this.#image = image;
  }
  get before() {
    const image = this.row.before;
    return image === null ? null : new $TYPE(this.row, image);
  }
  get after() {
    const image = this.row.after;
    return image === null ? null : new $TYPE(this.row, image);
  }
"#;

fn push_declaration(text: &mut String, table: &TableType, names: &Names) {
    let Names { table: name, columns, enums, properties } = names;
    let (shown, full_name) = (comment(&table.full_name()), literal_with_digits(&table.full_name()));
    text.push_str(&format!("\n/** The names of the columns of {shown}. */\nexport declare const {columns}: {{\n"));
    for (column, property) in table.columns.iter().zip(properties) {
        text.push_str(&format!("  readonly {property}: {};\n", literal_with_digits(&column.name)));
    }
    text.push_str("};\n");
    for (column, enum_type) in table.columns.iter().zip(enums) {
        if let Some(enum_type) = enum_type {
            let members: Vec<String> = column.members.iter().map(|member| literal_with_digits(member)).collect();
            text.push_str(&format!("\n/** The members of column `{}` of {shown}. */\n", comment(&column.name)));
            text.push_str(&format!("export type {enum_type} = {};\n", members.join(" | ")));
        }
    }
    text.push_str(&fill(DECLARATION, &[("SHOWN", &shown), ("FULL", &full_name), ("TYPE", name)]));
    for ((column, property), enum_type) in table.columns.iter().zip(properties).zip(enums) {
        let value_type = enum_type.as_deref().unwrap_or(getter(column).1);
        let null = if column.nullable { " | null" } else { "" };
        text.push_str(&format!("  /** {} */\n  get {property}(): {value_type}{null};\n", column.description()));
    }
    text.push_str("}\n");
}

const DECLARATION: &str = r#"
/** An image of a row of $SHOWN. */
export declare class $TYPE {
  /** The table's full name. */
  static readonly TABLE: $FULL;
  /** Takes a row, of which it reads the newest image: after the change; of a deleted row, before it. */
  constructor(row: Row);
  /** The row itself. */
  readonly row: Row;
  /** The image before the change; null if the row has none. */
  get before(): $TYPE | null;
  /** The image after the change; null for a delete. */
  get after(): $TYPE | null;
"#;
