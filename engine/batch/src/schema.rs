//! What a row's table id stands for: the table's columns, as the binlog itself describes them.

use std::borrow::Cow;

/// One version of one table: a changed column gives a new id. Ids are small and dense, and mean
/// something within one run of the engine only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableId(pub u32);

/// A row's place in its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowIndex(pub u32);

/// A column's place in its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ColumnIndex(pub u32);

/// What a change did to its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// The row is new: it has an after image.
    Insert,
    /// The row changed: it has a before and an after image.
    Update,
    /// The row is gone: it has a before image.
    Delete,
}

impl Operation {
    /// The operation's byte in a packed row.
    pub const fn code(self) -> u8 {
        match self {
            Self::Insert => 1,
            Self::Update => 2,
            Self::Delete => 3,
        }
    }

    /// The operation of a packed row's byte.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Insert),
            2 => Some(Self::Update),
            3 => Some(Self::Delete),
            _ => None,
        }
    }

    /// Whether a change of this operation carries the row as it was.
    pub const fn has_before(self) -> bool {
        matches!(self, Self::Update | Self::Delete)
    }

    /// Whether a change of this operation carries the row as it is now.
    pub const fn has_after(self) -> bool {
        matches!(self, Self::Insert | Self::Update)
    }
}

/// Which of a row's images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ImageKind {
    /// The row as it was.
    Before,
    /// The row as it is now.
    After,
}

/// How a column's values are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Signed integer: 8 bytes.
    Int,
    /// Unsigned integer: 8 bytes.
    Uint,
    /// IEEE 754 double: 8 bytes. A MySQL `FLOAT` is widened; the column's MySQL type tells.
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
    /// `YYYY-MM-DD HH:MM:SS[.ffffff]` as text, in no time zone.
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
    /// Whether values are UTF-8.
    pub const fn is_text(self) -> bool {
        !self.is_number() && !matches!(self, Self::Bytes | Self::Geometry | Self::Vector)
    }

    /// Whether values are numbers of 8 bytes.
    pub const fn is_number(self) -> bool {
        matches!(self, Self::Int | Self::Uint | Self::Float | Self::Year | Self::Bit)
    }
}

/// A column, as rows and transforms see it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Column {
    /// The column's name.
    pub name: String,
    /// How its values are packed.
    pub kind: Kind,
    /// Its MySQL type in lower case, without sizes: `bigint unsigned`, `varchar`, `float`.
    pub mysql_type: String,
    /// Whether it may be NULL.
    pub nullable: bool,
    /// Whether it's part of the primary key.
    pub key: bool,
}

/// One version of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// What rows call it: unique among the tables of its generation.
    pub id: TableId,
    /// Once very many tables have come and gone, ids begin at 0 again: in the next generation.
    pub generation: u32,
    /// The schema (database) that holds it.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Its columns, in the order of the table.
    pub columns: Vec<Column>,
    /// The primary key's columns, in the order of the key; empty where there is none.
    pub key: Vec<ColumnIndex>,
}

impl Table {
    /// The column of this name, compared as MySQL does: ASCII case doesn't count.
    pub fn column(&self, name: &str) -> Option<ColumnIndex> {
        let index = self.columns.iter().position(|column| column.name.eq_ignore_ascii_case(name))?;
        Some(ColumnIndex(index as u32))
    }
}

/// `schema.table`, each as [`quoted`] writes it, so that no two tables are shown alike.
impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", quoted(&self.schema, '.'), quoted(&self.name, '.'))
    }
}

/// A name as it is written beside a separator: within backticks where it has the separator or a backtick itself, which is
/// written twice then, as in SQL.
pub fn quoted(name: &str, separator: char) -> Cow<'_, str> {
    match name.contains([separator, '`']) {
        true => format!("`{}`", name.replace('`', "``")).into(),
        false => name.into(),
    }
}

/// Reads a table's full name, as it is shown: schema and table. Without backticks the schema ends at the first dot.
pub fn schema_and_table(text: &str) -> Option<(Cow<'_, str>, Cow<'_, str>)> {
    let (schema, table) = split_name(text, '.')?;
    Some((schema, unquoted(table)?))
}

/// Splits a text at the first separator that isn't within backticks: the name before it, and the text behind it.
pub fn split_name(text: &str, separator: char) -> Option<(Cow<'_, str>, &str)> {
    let (name, rest) = match quoted_end(text) {
        Some(end) => (&text[..end], text[end..].strip_prefix(separator)?),
        None => text.split_once(separator)?,
    };
    Some((unquoted(name)?, rest))
}

/// Where a name within backticks ends that the text begins with.
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
