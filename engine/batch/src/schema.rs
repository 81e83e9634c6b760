//! Tables and columns, to which rows refer by ID and index, and the syntax of tables' names.

use std::borrow::Cow;

/// The ID of a table version. A changed column makes another version. IDs are small and dense, and have a meaning
/// within one generation of tables only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableId(pub u32);

/// The index of a row in its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowIndex(pub u32);

/// The index of a column in its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ColumnIndex(pub u32);

/// What a change did to its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// The row is new. It has an after image.
    Insert,
    /// The row changed. It has a before image and an after image.
    Update,
    /// The row is gone. It has a before image.
    Delete,
    /// The row was there already, and a snapshot read it. It has an after image.
    Read,
}

impl Operation {
    /// All operations, in the order of their codes.
    pub const ALL: [Self; 4] = [Self::Insert, Self::Update, Self::Delete, Self::Read];

    /// Returns the operation's code in a packed row.
    pub const fn code(self) -> u8 {
        match self {
            Self::Insert => 1,
            Self::Update => 2,
            Self::Delete => 3,
            Self::Read => 4,
        }
    }

    /// Returns the operation with a code; `None` for an unknown code.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Insert),
            2 => Some(Self::Update),
            3 => Some(Self::Delete),
            4 => Some(Self::Read),
            _ => None,
        }
    }

    /// Returns Debezium's letter for the operation.
    pub const fn letter(self) -> &'static str {
        match self {
            Self::Insert => "c",
            Self::Update => "u",
            Self::Delete => "d",
            Self::Read => "r",
        }
    }

    /// Whether changes of this operation have a before image.
    pub const fn has_before(self) -> bool {
        matches!(self, Self::Update | Self::Delete)
    }

    /// Whether changes of this operation have an after image.
    pub const fn has_after(self) -> bool {
        matches!(self, Self::Insert | Self::Update | Self::Read)
    }
}

/// One of the two images of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ImageKind {
    /// The row before the change.
    Before,
    /// The row after the change.
    After,
}

/// The encoding of a column's values in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Signed integer: 8 bytes.
    Int,
    /// Unsigned integer: 8 bytes.
    Uint,
    /// IEEE 754 double: 8 bytes. Values of MySQL's `FLOAT` are widened; the column's MySQL type distinguishes them.
    Float,
    /// Exact decimal as text: `-12.50`.
    Decimal,
    /// UTF-8 text.
    Text,
    /// Raw bytes.
    Bytes,
    /// A JSON document as text, as MySQL shows it.
    Json,
    /// `YYYY-MM-DD` as text.
    Date,
    /// `[-]HHH:MM:SS[.ffffff]` as text.
    Time,
    /// `YYYY-MM-DD HH:MM:SS[.ffffff]` as text, without a time zone.
    Datetime,
    /// `YYYY-MM-DD HH:MM:SS[.ffffff]` as text, in UTC.
    Timestamp,
    /// A year: an unsigned integer of 8 bytes.
    Year,
    /// A bit field: an unsigned integer of 8 bytes.
    Bit,
    /// The member's name as text.
    Enum,
    /// The members' names as text, separated by commas.
    Set,
    /// Raw bytes: the SRID in 4 bytes (little-endian), then WKB.
    Geometry,
    /// Raw bytes: 32-bit floats, little-endian.
    Vector,
}

impl Kind {
    /// Whether values are UTF-8 text.
    pub const fn is_text(self) -> bool {
        !self.is_number() && !matches!(self, Self::Bytes | Self::Geometry | Self::Vector)
    }

    /// Whether values are numbers of 8 bytes.
    pub const fn is_number(self) -> bool {
        matches!(self, Self::Int | Self::Uint | Self::Float | Self::Year | Self::Bit)
    }
}

/// A column of a table version.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Column {
    /// The column's name.
    pub name: String,
    /// How the column's values are packed.
    pub kind: Kind,
    /// The column's MySQL type in lower case, without sizes: `bigint unsigned`, `varchar`, `float`. `BIT` keeps its
    /// size: `bit(10)`.
    pub mysql_type: String,
    /// Whether values may be NULL.
    pub nullable: bool,
    /// Whether the column is part of the primary key.
    pub key: bool,
}

/// A table version: a table with one set of columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The table version's ID, unique within its generation.
    pub id: TableId,
    /// The table version's generation. After very many table versions the IDs begin at 0 again, in the next
    /// generation.
    pub generation: u32,
    /// The schema (database) of the table.
    pub schema: String,
    /// The table's name.
    pub name: String,
    /// The columns, in the table's order.
    pub columns: Vec<Column>,
    /// The primary key's columns, in the key's order; empty without a primary key.
    pub key: Vec<ColumnIndex>,
}

impl Table {
    /// Returns the column with a name, compared as MySQL does: case does not count.
    pub fn column(&self, name: &str) -> Option<ColumnIndex> {
        let is_equal = |column: &Column| {
            column.name.eq_ignore_ascii_case(name)
                || column.name.chars().flat_map(char::to_lowercase).eq(name.chars().flat_map(char::to_lowercase))
        };
        Some(ColumnIndex(self.columns.iter().position(is_equal)? as u32))
    }

    /// Returns the error of a name that no column has.
    pub fn no_column(&self, name: &str) -> String {
        format!("{self} has no column `{name}`")
    }
}

/// Writes `schema.table`, each name as [`quoted`] returns it, so that no two tables are shown alike.
impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&shown_name(&self.schema, &self.name))
    }
}

/// Returns a table's full name, each part in backticks where it has a dot or a backtick.
pub fn shown_name(schema: &str, table: &str) -> String {
    format!("{}.{}", quoted(schema, '.'), quoted(table, '.'))
}

/// Returns a name as it is written beside a separator. A name that contains the separator or a backtick is put in
/// backticks, and its own backticks are doubled, as in SQL.
pub fn quoted(name: &str, separator: char) -> Cow<'_, str> {
    match name.contains([separator, '`']) {
        true => format!("`{}`", name.replace('`', "``")).into(),
        false => name.into(),
    }
}

/// Parses a table's full name, as its `Display` writes it, into schema and table. Without backticks the schema ends
/// at the first dot.
pub fn schema_and_table(text: &str) -> Option<(Cow<'_, str>, Cow<'_, str>)> {
    let (schema, table) = split_name(text, '.')?;
    Some((schema, unquoted(table)?))
}

/// Splits a text at the first separator outside backticks. Returns the name before the separator, and the text after
/// it.
pub fn split_name(text: &str, separator: char) -> Option<(Cow<'_, str>, &str)> {
    let (name, rest) = match quoted_end(text) {
        Some(end) => (&text[..end], text[end..].strip_prefix(separator)?),
        None => text.split_once(separator)?,
    };
    Some((unquoted(name)?, rest))
}

/// Returns the end of the name in backticks with which the text begins; `None` if it begins with no such name.
fn quoted_end(text: &str) -> Option<usize> {
    let mut rest = text.strip_prefix('`')?;
    loop {
        rest = &rest[rest.find('`')? + 1..];
        match rest.strip_prefix('`') {
            Some(more) => rest = more,
            None => return Some(text.len() - rest.len()),
        }
    }
}

fn unquoted(name: &str) -> Option<Cow<'_, str>> {
    match name.strip_prefix('`') {
        None => Some(name.into()),
        Some(inner) if quoted_end(name) == Some(name.len()) => Some(inner[..inner.len() - 1].replace("``", "`").into()),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_tables_are_shown_alike() {
        let table = |schema: &str, name: &str| Table {
            id: TableId(0),
            generation: 0,
            schema: schema.to_owned(),
            name: name.to_owned(),
            columns: Vec::new(),
            key: Vec::new(),
        };
        for (schema, name, shown) in [
            ("shop", "orders", "shop.orders"),
            ("my.db", "t", "`my.db`.t"),
            ("my", "db.t", "my.`db.t`"),
            ("a`b", ".", "`a``b`.`.`"),
            ("größe ☃", "it's", "größe ☃.it's"),
            ("``", "`", "``````.````"),
        ] {
            let text = table(schema, name).to_string();
            assert_eq!(text, shown);
            assert_eq!(schema_and_table(&text), Some((schema.into(), name.into())), "{text}");
        }
        assert_eq!(schema_and_table("a.b.c"), Some(("a".into(), "b.c".into())));
        for text in ["orders", "", "`a.b", "`a`b.c", "`a`", "a.`b", "a.`b`c"] {
            assert_eq!(schema_and_table(text), None, "{text}");
        }
    }
}
