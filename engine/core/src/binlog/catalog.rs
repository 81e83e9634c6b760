//! Columns from information_schema, for servers whose binlog doesn't name columns (`binlog_row_metadata` isn't `FULL`).
//!
//! information_schema describes the present, and the binlog's rows are from the past. So the columns are compared with
//! each table map, and a name is never guessed.

use super::charset::Charset;
use super::column_type::{ColumnType, code};
use super::error::DecodeErrorKind;

/// The prefix of the names of MariaDB's hidden hash columns; a number follows it. Each unique key without a B-tree (on
/// long texts, or `USING HASH`) has one.
pub(super) const ROW_HASH_PREFIX: &str = "DB_ROW_HASH_";

/// A column, from `information_schema.columns`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogColumn {
    /// `COLUMN_NAME`.
    pub name: String,
    /// `COLUMN_TYPE`: `int unsigned`, `enum('a','b')`.
    pub column_type: String,
    /// `CHARACTER_SET_NAME`, of text columns.
    pub charset: Option<String>,
    /// The column's place in the primary key, from 1; `None` if the column isn't part of the key.
    pub key_position: Option<u32>,
    /// Whether the column can't be selected. Hidden columns are the last ones of a table, and rows may lack them.
    pub is_hidden: bool,
}

/// Appends the columns that MariaDB's rows have and information_schema doesn't list, in their order.
///
/// These are `row_start` and `row_end` of a `SYSTEM VERSIONED` table that doesn't declare them, and a hash for each of
/// the `hash_indexes` unique hash indexes.
pub fn append_unlisted(columns: &mut Vec<CatalogColumn>, is_system_versioned: bool, hash_indexes: usize) {
    if columns.is_empty() {
        return; // the table doesn't exist
    }
    if is_system_versioned {
        // Past versions of a row differ only in their end, so the server adds it to the key.
        let key_len = columns.iter().filter_map(|column| column.key_position).max();
        for (name, key_position) in [("row_start", None), ("row_end", key_len.map(|len| len + 1))] {
            columns.push(CatalogColumn {
                name: name.to_owned(),
                column_type: "timestamp(6)".to_owned(),
                charset: None,
                key_position,
                is_hidden: false,
            });
        }
    }
    for number in 1..=hash_indexes {
        columns.push(CatalogColumn {
            name: format!("{ROW_HASH_PREFIX}{number}"),
            column_type: "bigint(20) unsigned".to_owned(),
            charset: None,
            key_position: None,
            is_hidden: true,
        });
    }
}

impl CatalogColumn {
    /// Returns the type's name in lower case: `int`.
    fn base(&self) -> &str {
        let end = self.column_type.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        &self.column_type[..end.unwrap_or(self.column_type.len())]
    }

    /// Returns the numbers in parentheses after the type's name.
    fn arguments(&self) -> Vec<usize> {
        let inner =
            self.column_type.split_once('(').and_then(|(_, rest)| rest.split_once(')')).map_or("", |(inner, _)| inner);
        inner.split(',').filter_map(|number| number.trim().parse().ok()).collect()
    }

    pub(super) fn is_unsigned(&self) -> bool {
        self.column_type.split_ascii_whitespace().any(|word| matches!(word, "unsigned" | "zerofill"))
    }

    /// Returns the character set; binary if the column has none.
    pub(super) fn charset(&self) -> Charset {
        self.charset.as_deref().map_or(Charset::Binary, Charset::by_name)
    }

    /// Returns the number of fractional digits of a temporal type.
    pub(super) fn fraction_digits(&self) -> u8 {
        match self.base() {
            "time" | "datetime" | "timestamp" => {
                self.arguments().first().and_then(|digits| u8::try_from(*digits).ok()).unwrap_or(0)
            }
            _ => 0,
        }
    }

    /// Whether the column has the temporal format of MariaDB before 10.1, which a comment after the type marks.
    fn is_old_temporal(&self) -> bool {
        self.column_type.ends_with("/* mariadb-5.3 */")
    }

    /// Returns the members of an `ENUM` or `SET`.
    ///
    /// # Errors
    /// If the members aren't text: the column's type has question marks for bytes that aren't.
    pub(super) fn members(&self) -> Result<Vec<Box<str>>, DecodeErrorKind> {
        let members = self.members_shown();
        if self.charset() == Charset::Binary && members.iter().any(|member| member.contains('?')) {
            return Err(DecodeErrorKind::HiddenMembers { column: self.name.clone() });
        }
        Ok(members)
    }

    fn members_shown(&self) -> Vec<Box<str>> {
        let list = self.column_type.split_once('(').map_or("", |(_, rest)| rest);
        let mut members = Vec::new();
        let mut rest = list;
        while let Some((_, after)) = rest.split_once('\'') {
            let mut member = String::new();
            let mut characters = after.char_indices().peekable();
            let mut end = after.len();
            while let Some((at, character)) = characters.next() {
                match character {
                    // Quotes are doubled, and some characters are escaped with a backslash.
                    '\\' => member.push(match characters.next() {
                        Some((_, 'n')) => '\n',
                        Some((_, 'r')) => '\r',
                        Some((_, '0')) => '\0',
                        Some((_, other)) => other,
                        None => '\\',
                    }),
                    '\'' if characters.next_if(|(_, next)| *next == '\'').is_some() => member.push('\''),
                    '\'' => {
                        end = at + 1;
                        break;
                    }
                    other => member.push(other),
                }
            }
            members.push(member.into_boxed_str());
            rest = &after[end..];
        }
        members
    }

    /// Whether the type that the binlog has for a column matches this column's type.
    pub(super) fn fits(&self, column: ColumnType) -> bool {
        use code::*;
        let [meta, meta_high] = column.meta.map(usize::from);
        let len = usize::from(u16::from_le_bytes(column.meta));
        let arguments = self.arguments();
        let argument = |default: usize| arguments.first().copied().unwrap_or(default);
        let bytes_max = |characters: usize| {
            let each = match self.charset.as_deref() {
                Some("utf8mb4") => Some(4),
                Some("utf8mb3" | "utf8") => Some(3),
                _ => self.charset().bytes_max(),
            };
            each.is_none_or(|each| characters * usize::from(each) == len)
        };
        let one_of = |codes: &[u8]| codes.contains(&column.code);
        let fraction = |old: u8, new: u8| {
            if self.is_old_temporal() {
                column.code == old
            } else {
                column.code == new && meta == argument(0) || column.code == old && arguments.is_empty()
            }
        };
        match self.base() {
            "tinyint" | "bool" | "boolean" => one_of(&[TINY]),
            "smallint" => one_of(&[SHORT]),
            "mediumint" => one_of(&[INT24]),
            "int" | "integer" => one_of(&[LONG]),
            "bigint" => one_of(&[LONGLONG]),
            "float" => one_of(&[FLOAT]),
            "double" | "real" => one_of(&[DOUBLE]),
            "decimal" | "numeric" => {
                let scale = arguments.get(1).copied().unwrap_or(0);
                one_of(&[NEWDECIMAL]) && meta == argument(10) && meta_high == scale
            }
            "bit" => one_of(&[BIT]) && meta_high * 8 + meta == argument(1),
            "year" => one_of(&[YEAR]),
            "date" => one_of(&[DATE]),
            "time" => fraction(TIME, TIME2),
            "datetime" => fraction(DATETIME, DATETIME2),
            "timestamp" => fraction(TIMESTAMP, TIMESTAMP2),
            "enum" => one_of(&[ENUM]) && meta == if self.members_shown().len() < 256 { 1 } else { 2 },
            "set" => {
                let bytes = self.members_shown().len().div_ceil(8);
                one_of(&[SET]) && meta == if bytes > 4 { 8 } else { bytes }
            }
            "char" => one_of(&[STRING]) && bytes_max(argument(1)),
            "binary" => one_of(&[STRING]) && len == argument(1),
            "varchar" => {
                one_of(&[VARCHAR, VAR_STRING, VARCHAR_COMPRESSED])
                    && (column.code == VARCHAR_COMPRESSED || bytes_max(argument(0)))
            }
            "varbinary" => {
                one_of(&[VARCHAR, VAR_STRING, VARCHAR_COMPRESSED])
                    && (column.code == VARCHAR_COMPRESSED || len == argument(0))
            }
            "tinytext" | "tinyblob" => one_of(&[BLOB, BLOB_COMPRESSED]) && meta == 1,
            "text" | "blob" => one_of(&[BLOB, BLOB_COMPRESSED]) && meta == 2,
            "mediumtext" | "mediumblob" => one_of(&[BLOB, BLOB_COMPRESSED]) && meta == 3,
            "longtext" | "longblob" => one_of(&[BLOB, BLOB_COMPRESSED]) && meta == 4,
            "json" => one_of(&[JSON]),
            "uuid" | "inet6" => one_of(&[STRING]) && len == 16,
            "inet4" => one_of(&[STRING]) && len == 4,
            "vector" => one_of(&[VECTOR, VARCHAR]),
            "geometry" | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring" | "multipolygon"
            | "geomcollection" | "geometrycollection" => one_of(&[GEOMETRY]),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(column_type: &str, charset: Option<&str>) -> CatalogColumn {
        CatalogColumn {
            name: "c".to_owned(),
            column_type: column_type.to_owned(),
            charset: charset.map(str::to_owned),
            key_position: None,
            is_hidden: false,
        }
    }

    #[test]
    fn types_are_compared() {
        let fits = |text: &str, charset: Option<&str>, code: u8, meta: [u8; 2]| {
            column(text, charset).fits(ColumnType { code, meta })
        };
        assert!(fits("int unsigned", None, code::LONG, [0, 0]));
        assert!(fits("int(10) unsigned zerofill", None, code::LONG, [0, 0]));
        assert!(!fits("int", None, code::LONGLONG, [0, 0]));
        assert!(fits("decimal(12,2)", None, code::NEWDECIMAL, [12, 2]));
        assert!(!fits("decimal(12,2)", None, code::NEWDECIMAL, [12, 3]));
        assert!(fits("varchar(80)", Some("utf8mb4"), code::VARCHAR, 320u16.to_le_bytes()));
        assert!(!fits("varchar(80)", Some("latin1"), code::VARCHAR, 320u16.to_le_bytes()));
        assert!(fits("varchar(80)", Some("latin1"), code::VARCHAR, 80u16.to_le_bytes()));
        assert!(fits("datetime(3)", None, code::DATETIME2, [3, 0]));
        assert!(!fits("datetime", None, code::DATETIME2, [3, 0]));
        assert!(fits("datetime(3) /* mariadb-5.3 */", None, code::DATETIME, [0, 0]));
        assert!(!fits("datetime(3)", None, code::DATETIME, [0, 0]));
        assert!(!fits("time(3) /* mariadb-5.3 */", None, code::TIME2, [3, 0]));
        assert!(fits("bit(10)", None, code::BIT, [2, 1]));
        assert!(!fits("point", None, code::BLOB, [4, 0]));
        assert!(!fits("something", None, code::BLOB, [4, 0]));
    }

    #[test]
    fn digits_of_a_second_are_read() {
        for (text, digits) in
            [("datetime(3) /* mariadb-5.3 */", 3), ("time /* mariadb-5.3 */", 0), ("timestamp(6)", 6), ("int(11)", 0)]
        {
            assert_eq!(column(text, None).fraction_digits(), digits, "{text}");
        }
    }

    #[test]
    fn members_are_read() {
        let members = |text: &str| {
            column(text, None).members().expect("members").into_iter().map(String::from).collect::<Vec<_>>()
        };
        assert_eq!(members("enum('a','b,c','it''s','')"), ["a", "b,c", "it's", ""]);
        assert_eq!(members(r"enum('a\\b\n')"), ["a\\b\n"]);
        assert_eq!(members("set('é')"), ["é"]);
        assert!(members("int").is_empty());
        // `enum(x'ff01', 'b')` in the character set `binary`, as information_schema shows it.
        assert!(column("enum('?\u{1}','b')", None).members().is_err());
        assert!(column("enum('?','b')", Some("latin1")).members().is_ok());
    }
}
