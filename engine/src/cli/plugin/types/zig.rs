//! Typed rows in Zig: `rows.zig`, formatted as `zig fmt` does.

use super::names::{Unique, enum_types, fill, is_among, is_hidden, literal, literal_with_braces, push_tables};
use super::{ColumnType, Reads, TableType, comment};

const KEYWORDS: &str = "\
    addrspace align allowzero and anyerror anyframe anyopaque anytype asm bool break c_char c_int \
    c_long c_longdouble c_longlong c_short c_uint c_ulong c_ulonglong c_ushort callconv catch comptime \
    comptime_float comptime_int const continue defer else enum errdefer error export extern f128 f16 f32 f64 \
    f80 false fn for if inline isize linksection noalias noinline noreturn nosuspend null opaque or orelse \
    packed pub resume return struct suspend switch test threadlocal true try type undefined union unreachable \
    usize var void volatile while";
/// Names in the generated code, which functions of columns would shadow.
const RESERVED: &[&str] =
    &["after", "before", "image", "noMember", "notNull", "of", "r", "rm", "row", "self", "std", "t", "table", "value"];

const HEAD: &str = r#"//! Rows of tables with a function for each column. `try rows.Orders.of(r)` is the newest image of a row of
//! `orders`, `rows.OrdersColumns` has the names of its columns.
const std = @import("std");
const rm = @import("rowmill.zig");
"#;
const TAIL: &str = r#"
/// Returns the value of a column that is NOT NULL.
fn notNull(row: *rm.Row, value: anytype, comptime table: []const u8, comptime column: []const u8) rm.Error!@typeInfo(@TypeOf(value)).optional.child {
    return value orelse return row.failFmt("column `{s}` of {s} is NULL, but was NOT NULL when the typed rows were made; run `rowmill plugin types`", .{ column, table });
}

/// Returns the error of a text that is no member of an enum.
fn noMember(row: *rm.Row, value: []const u8, comptime table: []const u8, comptime column: []const u8) rm.Error {
    return row.failFmt("column `{s}` of {s} has the value `{s}`, which was no member when the typed rows were made; run `rowmill plugin types`", .{ column, table, value });
}
"#;

/// Returns the text of the file.
pub fn text(tables: &[TableType]) -> String {
    let mut text = HEAD.to_owned();
    push_tables(&mut text, tables, push_table);
    text + TAIL
}

/// Returns a name as an identifier: `@"..."` where it is none.
fn quoted(name: &str) -> String {
    let is_number_type = name.strip_prefix(['i', 'u']).is_some_and(|bits| bits.chars().all(|c| c.is_ascii_digit()));
    let is_plain = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' && name.len() > 1)
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    match is_plain && !is_among(name, KEYWORDS) && !is_number_type {
        true => name.to_owned(),
        // `zig fmt` has shorter escapes in names than in texts.
        false => format!(
            "@{}",
            literal(name, |c| match c {
                '\n' => Some("\\n".to_owned()),
                '\r' => Some("\\r".to_owned()),
                '\t' => Some("\\t".to_owned()),
                _ => is_hidden(c).then(|| format!("\\u{{{:x}}}", u32::from(c))),
            })
        ),
    }
}

fn push_table(text: &mut String, table: &TableType, name: &str, types: &mut Unique) {
    let shown = comment(&table.full_name());
    let full_name = literal_with_braces(&table.full_name());
    let columns_type = types.give(format!("{name}Columns"));
    let enum_types = enum_types(table, name, types);
    // No function may shadow a type of the file.
    let mut functions = Unique::new("_", []);
    let reserved: Vec<&str> = RESERVED.iter().copied().chain([name, columns_type.as_str()]).collect();
    let reserved: Vec<&str> = reserved.into_iter().chain(enum_types.iter().flatten().map(String::as_str)).collect();
    let functions: Vec<String> =
        table.columns.iter().map(|column| functions.give_unreserved(column.name.clone(), &reserved)).collect();

    text.push_str(&format!(
        "\n/// The names of the columns of `{shown}`.\npub const {} = struct {{\n",
        quoted(&columns_type)
    ));
    for column in &table.columns {
        text.push_str(&format!("    /// {}\n", column.description()));
        let literal = literal_with_braces(&column.name);
        text.push_str(&format!("    pub const {}: []const u8 = {literal};\n", quoted(&column.name)));
    }
    text.push_str(&format!("}};\n\n/// An image of a row of `{shown}`.\npub const {} = struct {{\n", quoted(name)));
    text.push_str("    row: *rm.Row,\n    image: rm.Image,\n\n");
    let (schema, table_name) = (literal_with_braces(&table.schema), literal_with_braces(&table.name));
    text.push_str(&fill(OF, &[("SCHEMA", &schema), ("NAME", &table_name), ("FULL", &full_name)]));
    for ((column, function), enum_type) in table.columns.iter().zip(&functions).zip(&enum_types) {
        push_function(text, table, column, &quoted(function), enum_type.as_deref().map(quoted).as_deref());
    }
    text.push_str("};\n");
    for (column, enum_type) in table.columns.iter().zip(&enum_types) {
        if let Some(enum_type) = enum_type {
            push_enum(text, table, column, &quoted(enum_type));
        }
    }
}

/// What is the same in each table's type.
const OF: &str = r#"    /// Whether this is the table, for `pub fn table`.
    pub fn table(t: *const rm.Table) bool {
        return t.is($SCHEMA, $NAME);
    }

    /// Returns the newest image of a row: after the change; of a deleted row, before it. A row of another table is an error.
    pub fn of(r: *rm.Row) rm.Error!@This() {
        if (r.table.is($SCHEMA, $NAME)) return .{ .row = r, .image = r.newest() };
        return r.failFmt("the row is of {s}.{s}, not of {s}", .{ r.table.schema, r.table.name, $FULL });
    }

    /// Returns the image before the change; null if the row has none.
    pub fn before(self: @This()) ?@This() {
        const value = self.row.before();
        return if (value.exists()) .{ .row = self.row, .image = value } else null;
    }

    /// Returns the image after the change; null for a delete.
    pub fn after(self: @This()) ?@This() {
        const value = self.row.after();
        return if (value.exists()) .{ .row = self.row, .image = value } else null;
    }
"#;

fn push_function(text: &mut String, table: &TableType, column: &ColumnType, function: &str, enum_type: Option<&str>) {
    let (getter, value_type) = match (column.reads(), enum_type) {
        (_, Some(enum_type)) => ("text", enum_type),
        (Reads::Int, _) => ("int", "i64"),
        (Reads::Uint, _) => ("uint", "u64"),
        (Reads::Float, _) => ("float", "f64"),
        (Reads::Bytes, _) => ("bytes", "[]const u8"),
        (Reads::Text | Reads::Member, _) => ("text", "[]const u8"),
    };
    let optional = if column.nullable { "?" } else { "" };
    let (table, name) = (literal_with_braces(&table.full_name()), literal_with_braces(&column.name));
    text.push_str(&format!("\n    /// {}\n", column.description()));
    text.push_str(&format!("    pub fn {function}(self: @This()) rm.Error!{optional}{value_type} {{\n"));
    let read = format!("try self.image.{getter}({name})");
    match (column.nullable, enum_type) {
        (true, None) => text.push_str(&format!("        return self.image.{getter}({name});\n")),
        (false, None) => text.push_str(&format!("        return notNull(self.row, {read}, {table}, {name});\n")),
        (true, Some(enum_type)) => text.push_str(&format!(
            "        const value = {read} orelse return null;\n        return {enum_type}.of(value) orelse return noMember(self.row, \
             value, {table}, {name});\n"
        )),
        (false, Some(enum_type)) => text.push_str(&format!(
            "        const value = try notNull(self.row, {read}, {table}, {name});\n        return {enum_type}.of(value) orelse return \
             noMember(self.row, value, {table}, {name});\n"
        )),
    }
    text.push_str("    }\n");
}

fn push_enum(text: &mut String, table: &TableType, column: &ColumnType, enum_type: &str) {
    // A member is named as it is. The functions of the enum are names of the same scope, and no name is empty.
    let mut names = Unique::new("_", ["of", "text"]);
    let name =
        |member: &String| quoted(&names.give(if member.is_empty() { "empty".to_owned() } else { member.clone() }));
    let names: Vec<String> = column.members.iter().map(name).collect();
    let (name, full_name) = (comment(&column.name), comment(&table.full_name()));
    text.push_str(&format!(
        "\n/// The members of column `{name}` of `{full_name}`.\npub const {enum_type} = enum {{\n"
    ));
    for name in &names {
        text.push_str(&format!("    {name},\n"));
    }
    text.push_str("\n    /// Returns the member's text.\n    pub fn text(self: @This()) []const u8 {\n");
    text.push_str("        return switch (self) {\n");
    for (name, member) in names.iter().zip(&column.members) {
        text.push_str(&format!("            .{name} => {},\n", literal_with_braces(member)));
    }
    text.push_str("        };\n    }\n\n    /// Returns the member with a text; null if it is none.\n");
    text.push_str("    pub fn of(value: []const u8) ?@This() {\n");
    text.push_str("        for (std.enums.values(@This())) |member| {\n");
    text.push_str("            if (std.mem.eql(u8, member.text(), value)) return member;\n");
    text.push_str("        }\n        return null;\n    }\n};\n");
}
