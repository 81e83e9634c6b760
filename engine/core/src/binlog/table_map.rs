//! Table maps: what a table's columns are called and how their values are encoded. With
//! `binlog_row_metadata=FULL` a table map says all that a reader needs; what it leaves out otherwise
//! comes from information_schema, and is compared with what it has.
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/classmysql_1_1binlog_1_1event_1_1Table__map__event.html>

use rowmill_batch::{Column, ColumnIndex, Kind};

use super::bytes::Bytes;
use super::catalog::{self, CatalogColumn};
use super::charset::Charset;
use super::error::{Fault, Missing};
use super::value::{Codec, Width};

/// A table map's beginning: enough to tell whether the table is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct TableName<'a> {
    pub schema: &'a str,
    pub table: &'a str,
    rest: Bytes<'a>,
}

/// The columns of a table, as a table map describes them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Columns {
    pub columns: Vec<Column>,
    pub codecs: Vec<Codec>,
    /// How many bytes their values take. Behind those of `columns` come those of columns that nobody can select: images
    /// have them too.
    pub widths: Vec<Width>,
    /// The primary key's columns, in the order of the key.
    pub key: Vec<ColumnIndex>,
}

/// The server's number for a table, which the rows' events repeat.
pub(super) fn table_number(body: &[u8]) -> Result<u64, Fault> {
    Bytes(body).uint(6)
}

impl<'a> TableName<'a> {
    pub fn parse(body: &'a [u8]) -> Result<Self, Fault> {
        let mut bytes = Bytes(body);
        bytes.take(6 + 2)?; // the table's number, flags
        let mut name = || {
            let len = usize::from(bytes.u8()?);
            let name = std::str::from_utf8(bytes.take(len)?).map_err(|_| Fault::Malformed("a table's name"))?;
            bytes.take(1)?; // a zero byte
            Ok::<_, Fault>(name)
        };
        let (schema, table) = (name()?, name()?);
        Ok(Self { schema, table, rest: bytes })
    }

    /// Reads the columns. What the map leaves out is taken from `catalog`.
    pub fn columns(mut self, family: Family, catalog: Option<&[CatalogColumn]>) -> Result<Columns, ColumnsFault> {
        let count = self.rest.lenenc_usize()?;
        if count > COLUMNS_MAX {
            return Err(Fault::Malformed("a table map's number of columns").into());
        }
        let types = self.rest.take(count)?;
        let type_metadata = Bytes(self.rest.lenenc_bytes()?);
        let nullable = self.rest.take(count.div_ceil(8))?;
        let types = column_types(types, type_metadata)?;
        let metadata = Metadata::parse(self.rest, &types, family)?;
        let lacks_digits = family == Family::MariaDb && types.iter().any(|column| column.is_old_temporal());
        let missing = match &metadata.names {
            None => Missing::Names,
            Some(_) if lacks_digits => Missing::FractionDigits,
            Some(_) => return Ok(metadata.columns(&types, nullable, family)?),
        };
        let Some(catalog) = catalog else { return Err(ColumnsFault::Missing(missing)) };
        Ok(metadata.complete(catalog, &types, missing)?.columns(&types, nullable, family)?)
    }
}

/// Of a table: their number has 16 bits in a batch, and no server has more than 4,096.
const COLUMNS_MAX: usize = u16::MAX as usize;

/// Whose binlog it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    MySql,
    MariaDb,
}

/// Why a table map's columns can't be known.
#[derive(Debug)]
pub(super) enum ColumnsFault {
    /// It doesn't say all of them, and no catalog was given.
    Missing(Missing),
    Fault(Fault),
}

impl From<Fault> for ColumnsFault {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// A column's type and the two bytes that refine it.
#[derive(Debug, Clone, Copy)]
pub(super) struct ColumnType {
    pub code: u8,
    pub meta: [u8; 2],
}

pub(super) mod code {
    pub const DECIMAL: u8 = 0;
    pub const TINY: u8 = 1;
    pub const SHORT: u8 = 2;
    pub const LONG: u8 = 3;
    pub const FLOAT: u8 = 4;
    pub const DOUBLE: u8 = 5;
    pub const TIMESTAMP: u8 = 7;
    pub const LONGLONG: u8 = 8;
    pub const INT24: u8 = 9;
    pub const DATE: u8 = 10;
    pub const TIME: u8 = 11;
    pub const DATETIME: u8 = 12;
    pub const YEAR: u8 = 13;
    pub const VARCHAR: u8 = 15;
    pub const BIT: u8 = 16;
    pub const TIMESTAMP2: u8 = 17;
    pub const DATETIME2: u8 = 18;
    pub const TIME2: u8 = 19;
    pub const BLOB_COMPRESSED: u8 = 140; // MariaDB's, as the next
    pub const VARCHAR_COMPRESSED: u8 = 141;
    pub const VECTOR: u8 = 242;
    pub const JSON: u8 = 245;
    pub const NEWDECIMAL: u8 = 246;
    pub const ENUM: u8 = 247;
    pub const SET: u8 = 248;
    pub const BLOB: u8 = 252;
    pub const VAR_STRING: u8 = 253;
    pub const STRING: u8 = 254;
    pub const GEOMETRY: u8 = 255;
}

impl ColumnType {
    fn is_numeric(self) -> bool {
        use code::*;
        matches!(self.code, DECIMAL | TINY | SHORT | LONG | FLOAT | DOUBLE | LONGLONG | INT24 | YEAR | NEWDECIMAL)
    }

    fn is_integer(self) -> bool {
        use code::*;
        matches!(self.code, TINY | SHORT | INT24 | LONG | LONGLONG)
    }

    fn is_character(self) -> bool {
        use code::*;
        matches!(self.code, VARCHAR | BLOB | VAR_STRING | STRING | VARCHAR_COMPRESSED | BLOB_COMPRESSED)
    }

    /// A type of before MySQL 5.6. MariaDB has fractions in it, and doesn't say of how many digits.
    fn is_old_temporal(self) -> bool {
        matches!(self.code, code::TIMESTAMP | code::TIME | code::DATETIME)
    }

    fn is_enum_or_set(self) -> bool {
        matches!(self.code, code::ENUM | code::SET)
    }
}

fn column_types(codes: &[u8], mut metadata: Bytes<'_>) -> Result<Vec<ColumnType>, Fault> {
    use code::*;
    codes
        .iter()
        .map(|&code| {
            let meta = match code {
                FLOAT | DOUBLE | BLOB | BLOB_COMPRESSED | GEOMETRY | JSON | VECTOR | TIMESTAMP2 | DATETIME2 | TIME2 => {
                    [metadata.u8()?, 0]
                }
                VARCHAR | VARCHAR_COMPRESSED | BIT | NEWDECIMAL | ENUM | SET | VAR_STRING | STRING => {
                    [metadata.u8()?, metadata.u8()?]
                }
                _ => [0, 0],
            };
            // ENUM and SET call themselves STRING, with their own type in the first byte; a CHAR
            // of more than 255 bytes keeps two bits of its length there, inverted.
            Ok(match (code, meta) {
                (STRING, [real @ (ENUM | SET), len]) => ColumnType { code: real, meta: [len, 0] },
                (STRING, [real, len]) => {
                    let high = (real & 0x30) ^ 0x30;
                    ColumnType { code: STRING, meta: (u16::from(len) | u16::from(high) << 4).to_le_bytes() }
                }
                _ => ColumnType { code, meta },
            })
        })
        .collect()
}

/// What `binlog_row_metadata` adds, by column.
#[derive(Debug, Default)]
struct Metadata<'a> {
    unsigned: Option<Vec<bool>>,
    /// `None` where the map doesn't say.
    charsets: Vec<Option<Charset>>,
    names: Option<Vec<&'a str>>,
    members: Vec<Members<'a>>,
    /// What the geometries are declared as.
    geometries: Vec<u64>,
    /// Digits of a second in an old temporal type.
    digits: Vec<u8>,
    key: Vec<ColumnIndex>,
    /// How many of the last columns nobody can select, where that is known.
    hidden: Option<usize>,
}

/// The members of an `ENUM` or `SET`.
#[derive(Debug, Clone)]
enum Members<'a> {
    /// In the column's character set.
    Encoded(Vec<&'a [u8]>),
    Text(Vec<Box<str>>),
}

impl<'a> Metadata<'a> {
    fn parse(mut bytes: Bytes<'a>, types: &[ColumnType], family: Family) -> Result<Self, Fault> {
        let mut metadata = Self {
            charsets: vec![None; types.len()],
            members: vec![Members::Encoded(Vec::new()); types.len()],
            geometries: vec![0; types.len()],
            digits: vec![0; types.len()],
            ..Self::default()
        };
        let has_charset = match family {
            Family::MySql => |column: ColumnType| column.is_character() || column.code == code::VECTOR,
            Family::MariaDb => |column: ColumnType| column.is_character() || column.code == code::GEOMETRY,
        };
        let columns_of = |is: fn(ColumnType) -> bool| {
            types.iter().enumerate().filter(move |(_, column)| is(**column)).map(|(index, _)| index)
        };
        while !bytes.is_empty() {
            let field = bytes.u8()?;
            let mut body = Bytes(bytes.lenenc_bytes()?);
            match field {
                1 => {
                    let mut unsigned = vec![false; types.len()];
                    for (bit, column) in columns_of(ColumnType::is_numeric).enumerate() {
                        let byte = body.0.get(bit / 8).ok_or(Fault::Truncated)?;
                        unsigned[column] = byte << (bit % 8) & 0x80 != 0;
                    }
                    metadata.unsigned = Some(unsigned);
                }
                2 => metadata.default_collations(columns_of(has_charset), body)?,
                10 => metadata.default_collations(columns_of(ColumnType::is_enum_or_set), body)?,
                3 | 11 => {
                    let is = if field == 3 { has_charset } else { ColumnType::is_enum_or_set };
                    for column in columns_of(is) {
                        metadata.charsets[column] = Some(Charset::of_collation(body.lenenc()?));
                    }
                }
                4 => {
                    let mut names = Vec::with_capacity(types.len());
                    for _ in types {
                        let name = std::str::from_utf8(body.lenenc_bytes()?);
                        names.push(name.map_err(|_| Fault::Malformed("a column's name"))?);
                    }
                    metadata.names = Some(names);
                }
                5 | 6 => {
                    let is: fn(ColumnType) -> bool =
                        if field == 5 { |column| column.code == code::SET } else { |column| column.code == code::ENUM };
                    for column in columns_of(is) {
                        let mut members = Vec::new();
                        for _ in 0..body.lenenc()? {
                            members.push(body.lenenc_bytes()?);
                        }
                        metadata.members[column] = Members::Encoded(members);
                    }
                }
                8 | 9 => {
                    while !body.is_empty() {
                        let column = body.lenenc_usize()?;
                        if field == 9 {
                            body.lenenc()?; // the key's prefix length
                        }
                        if column >= types.len() {
                            return Err(Fault::Malformed("a primary key's column"));
                        }
                        metadata.key.push(ColumnIndex(column as u32));
                    }
                }
                7 => {
                    for column in columns_of(|column| column.code == code::GEOMETRY) {
                        metadata.geometries[column] = body.lenenc()?;
                    }
                }
                // Visibility, vector dimensions: nothing that values need.
                _ => {}
            }
        }
        Ok(metadata)
    }

    /// A collation for all, then pairs of those that differ.
    fn default_collations(
        &mut self,
        columns: impl Iterator<Item = usize> + Clone,
        mut body: Bytes<'_>,
    ) -> Result<(), Fault> {
        let default = Charset::of_collation(body.lenenc()?);
        for column in columns.clone() {
            self.charsets[column] = Some(default.clone());
        }
        while !body.is_empty() {
            let nth = body.lenenc_usize()?;
            let column = columns.clone().nth(nth).ok_or(Fault::Malformed("a column's collation"))?;
            self.charsets[column] = Some(Charset::of_collation(body.lenenc()?));
        }
        Ok(())
    }

    /// Takes what is missing from information_schema, if its columns are those of the map.
    fn complete(self, catalog: &'a [CatalogColumn], types: &[ColumnType], missing: Missing) -> Result<Self, Fault> {
        let other_columns = |difference: String| Fault::OtherColumns { missing, difference };
        if catalog.is_empty() {
            return Err(other_columns(
                "none at all: the table isn't there any more, or the user lacks SELECT on it".to_owned(),
            ));
        }
        // Not every index that could have a hidden column has one.
        let listed = catalog.iter().filter(|column| !column.is_hidden).count();
        let Some(catalog) = catalog.get(..types.len()).filter(|_| types.len() >= listed) else {
            return Err(other_columns(format!("it has {listed} columns there and {} here", types.len())));
        };
        let differs = |column: &CatalogColumn, what: &str| {
            other_columns(format!("column `{}` is `{}` there, and {what} here", column.name, column.column_type))
        };
        for (column, column_type) in catalog.iter().zip(types) {
            if !column.fits(*column_type) {
                let ColumnType { code, meta } = *column_type;
                return Err(differs(column, &format!("of type {code} {meta:?}")));
            }
        }
        for (column, name) in catalog.iter().zip(self.names.iter().flatten()) {
            if !column.is_hidden && column.name != *name {
                return Err(differs(column, &format!("called `{name}`")));
            }
        }
        let from_catalog: Vec<bool> = catalog.iter().map(CatalogColumn::is_unsigned).collect();
        if let Some(unsigned) = &self.unsigned {
            let is_other = |index: &usize| types[*index].is_integer() && unsigned[*index] != from_catalog[*index];
            if let Some(index) = (0..types.len()).find(is_other) {
                return Err(differs(&catalog[index], if unsigned[index] { "unsigned" } else { "signed" }));
            }
        }
        for ((column, column_type), charset) in catalog.iter().zip(types).zip(&self.charsets) {
            if let Some(charset) = charset.as_ref().filter(|charset| **charset != column.charset())
                && column_type.is_character()
            {
                return Err(differs(column, &format!("in the character set {charset:?}")));
            }
        }
        let digits = catalog.iter().map(CatalogColumn::fraction_digits).collect();
        let hidden = Some(types.len() - listed);
        if self.names.is_some() {
            // The map says all the rest itself.
            return Ok(Self { digits, hidden, ..self });
        }
        let mut key: Vec<(u32, ColumnIndex)> = (0..)
            .map(ColumnIndex)
            .zip(catalog)
            .filter_map(|(index, column)| Some((column.key_position?, index)))
            .collect();
        key.sort_unstable_by_key(|(position, _)| *position);
        let charsets = self.charsets.into_iter().zip(catalog);
        Ok(Self {
            unsigned: self.unsigned.or(Some(from_catalog)),
            charsets: charsets.map(|(charset, column)| charset.or_else(|| Some(column.charset()))).collect(),
            names: Some(catalog.iter().map(|column| column.name.as_str()).collect()),
            members: catalog.iter().map(|column| column.members().map(Members::Text)).collect::<Result<_, _>>()?,
            geometries: self.geometries,
            digits,
            key: key.into_iter().map(|(_, index)| index).collect(),
            hidden,
        })
    }

    fn columns(self, types: &[ColumnType], nullable: &[u8], family: Family) -> Result<Columns, Fault> {
        let is_nullable = |index: usize| nullable[index / 8] >> (index % 8) & 1 != 0;
        let hidden = self.hidden.unwrap_or_else(|| match family {
            Family::MySql => 0,
            Family::MariaDb => self.row_hashes(types),
        });
        let visible = types.len() - hidden;
        let Self { unsigned, charsets, names, members, geometries, digits, key, hidden: _ } = self;
        let names = names.unwrap_or_default();
        let mut columns = Vec::with_capacity(types.len());
        let mut codecs = Vec::with_capacity(types.len());
        for (index, ((&column_type, charset), members)) in types.iter().zip(charsets).zip(members).enumerate() {
            let name = *names.get(index).ok_or(Fault::Malformed("a table map's names"))?;
            let charset = charset.unwrap_or(Charset::Binary);
            let unsigned = unsigned.as_ref().is_some_and(|unsigned| unsigned[index]);
            let (kind, mut mysql_type, codec) = describe(name, column_type, unsigned, charset, members, digits[index])?;
            if kind == Kind::Geometry {
                geometry_name(geometries[index]).clone_into(&mut mysql_type);
            }
            columns.push(Column {
                name: name.to_owned(),
                kind,
                mysql_type,
                nullable: is_nullable(index),
                key: key.contains(&ColumnIndex(index as u32)),
            });
            codecs.push(codec);
        }
        let widths = codecs.iter().map(Codec::width).collect::<Result<_, _>>()?;
        columns.truncate(visible);
        codecs.truncate(visible);
        let key = key.into_iter().filter(|ColumnIndex(index)| (*index as usize) < visible).collect();
        Ok(Columns { columns, codecs, widths, key })
    }

    /// How many of the last columns are the hashes that MariaDB keeps of unique keys without a tree, by their names, which
    /// it gives to nothing else.
    fn row_hashes(&self, types: &[ColumnType]) -> usize {
        let is_unsigned = |index: usize| self.unsigned.as_ref().is_some_and(|unsigned| unsigned[index]);
        let is_row_hash = |index: usize| {
            let name = self.names.as_ref().and_then(|names| names.get(index));
            let number = name.and_then(|name| name.strip_prefix(catalog::ROW_HASH_PREFIX));
            number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
                && types[index].code == code::LONGLONG
                && is_unsigned(index)
        };
        // There is no table of nothing else.
        (1..types.len()).rev().take_while(|index| is_row_hash(*index)).count()
    }
}

/// What a column's values are and how they're decoded.
fn describe(
    name: &str,
    column: ColumnType,
    unsigned: bool,
    charset: Charset,
    members: Members<'_>,
    digits: u8,
) -> Result<(Kind, String, Codec), Fault> {
    use code::*;
    let [meta, meta_high] = column.meta;
    let len_max = u16::from_le_bytes(column.meta);
    let integer = |len: usize, signed_name, unsigned_name| {
        if unsigned {
            (Kind::Uint, unsigned_name, Codec::Uint { len })
        } else {
            (Kind::Int, signed_name, Codec::Int { len })
        }
    };
    let binary = charset == Charset::Binary;
    if column.code == BIT {
        // The metadata counts whole bytes and the bits beside them.
        let bits = usize::from(meta_high) * 8 + usize::from(meta);
        return Ok((Kind::Bit, format!("bit({bits})"), Codec::Bit { len: bits.div_ceil(8) }));
    }
    let (kind, mysql_type, codec) = match column.code {
        TINY => integer(1, "tinyint", "tinyint unsigned"),
        SHORT => integer(2, "smallint", "smallint unsigned"),
        INT24 => integer(3, "mediumint", "mediumint unsigned"),
        LONG => integer(4, "int", "int unsigned"),
        LONGLONG => integer(8, "bigint", "bigint unsigned"),
        FLOAT => (Kind::Float, "float", Codec::Float),
        DOUBLE => (Kind::Float, "double", Codec::Double),
        NEWDECIMAL => (Kind::Decimal, "decimal", Codec::Decimal { precision: meta, scale: meta_high }),
        YEAR => (Kind::Year, "year", Codec::Year),
        DATE => (Kind::Date, "date", Codec::Date),
        TIME if digits == 0 => (Kind::Time, "time", Codec::TimeOld),
        TIME => (Kind::Time, "time", Codec::TimeHires { digits }),
        TIME2 => (Kind::Time, "time", Codec::Time { digits: meta }),
        DATETIME if digits == 0 => (Kind::Datetime, "datetime", Codec::DatetimeOld),
        DATETIME => (Kind::Datetime, "datetime", Codec::DatetimeHires { digits }),
        DATETIME2 => (Kind::Datetime, "datetime", Codec::Datetime { digits: meta }),
        TIMESTAMP if digits == 0 => (Kind::Timestamp, "timestamp", Codec::TimestampOld),
        TIMESTAMP => (Kind::Timestamp, "timestamp", Codec::TimestampHires { digits }),
        TIMESTAMP2 => (Kind::Timestamp, "timestamp", Codec::Timestamp { digits: meta }),
        ENUM => {
            let members = decoded(name, &charset, members)?;
            let kind = if is_text(&members) { Kind::Enum } else { Kind::Bytes };
            (kind, "enum", Codec::Enum { len: usize::from(meta), members })
        }
        SET => {
            let members = decoded(name, &charset, members)?;
            let kind = if is_text(&members) { Kind::Set } else { Kind::Bytes };
            (kind, "set", Codec::Set { len: usize::from(meta), members })
        }
        JSON => (Kind::Json, "json", Codec::Json { len_bytes: usize::from(meta) }),
        GEOMETRY => (Kind::Geometry, "geometry", Codec::Bytes { len_bytes: usize::from(meta) }),
        VECTOR => (Kind::Vector, "vector", Codec::Bytes { len_bytes: usize::from(meta) }),
        VARCHAR_COMPRESSED | BLOB_COMPRESSED => {
            let len_bytes = match column.code {
                BLOB_COMPRESSED => usize::from(meta),
                _ if len_max > 255 => 2,
                _ => 1,
            };
            let (kind, mysql_type) = match (binary, column.code) {
                (true, VARCHAR_COMPRESSED) => (Kind::Bytes, "varbinary"),
                (true, _) => (Kind::Bytes, "blob"),
                (false, VARCHAR_COMPRESSED) => (Kind::Text, "varchar"),
                (false, _) => (Kind::Text, "text"),
            };
            (kind, mysql_type, Codec::Compressed { len_bytes, charset })
        }
        VARCHAR | VAR_STRING | STRING => {
            let len_bytes = if len_max > 255 { 2 } else { 1 };
            let fixed = column.code == STRING;
            match (binary, fixed) {
                // BINARY(n) loses its trailing zero bytes in the binlog; they are part of the value.
                (true, true) => (Kind::Bytes, "binary", Codec::Binary { len_bytes, len: usize::from(len_max) }),
                (true, false) => (Kind::Bytes, "varbinary", Codec::Bytes { len_bytes }),
                (false, true) => (Kind::Text, "char", Codec::Text { len_bytes, charset }),
                (false, false) => (Kind::Text, "varchar", Codec::Text { len_bytes, charset }),
            }
        }
        BLOB => {
            let len_bytes = usize::from(meta);
            let size = usize::from(meta.saturating_sub(1)).min(3);
            if binary {
                let names = ["tinyblob", "blob", "mediumblob", "longblob"];
                (Kind::Bytes, names[size], Codec::Bytes { len_bytes })
            } else {
                let names = ["tinytext", "text", "mediumtext", "longtext"];
                (Kind::Text, names[size], Codec::Text { len_bytes, charset })
            }
        }
        other => {
            return Err(Fault::Unsupported {
                what: format!("column `{name}` of type {other}"),
                mend: "leave its table out by `source.tables`",
            });
        }
    };
    Ok((kind, mysql_type.to_owned(), codec))
}

/// The type of a geometry column, by its number in well-known binary; 0: any.
fn geometry_name(number: u64) -> &'static str {
    const NAMES: [&str; 8] = [
        "geometry",
        "point",
        "linestring",
        "polygon",
        "multipoint",
        "multilinestring",
        "multipolygon",
        "geometrycollection",
    ];
    usize::try_from(number).ok().and_then(|number| NAMES.get(number)).copied().unwrap_or("geometry")
}

/// Whether members are text: in the character set `binary` they may be anything.
fn is_text(members: &[Box<[u8]>]) -> bool {
    members.iter().all(|member| std::str::from_utf8(member).is_ok())
}

/// An ENUM's or SET's members, as UTF-8 where they are text.
fn decoded(column: &str, charset: &Charset, members: Members<'_>) -> Result<Vec<Box<[u8]>>, Fault> {
    let encoded = match members {
        Members::Text(texts) => return Ok(texts.into_iter().map(str::into_boxed_bytes).collect()),
        Members::Encoded(encoded) => encoded,
    };
    let decode = |member: &[u8]| {
        let mut out = Vec::new();
        charset.decode(member, &mut out).map_err(|fault| fault.in_column(column))?;
        Ok(out.into_boxed_slice())
    };
    encoded.into_iter().map(decode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binlog::catalog::append_unlisted;

    /// A table map's body.
    fn map(types: &[(u8, &[u8])], nullable: &[u8], metadata: &[(u8, &[u8])]) -> Vec<u8> {
        let mut body = b"\x01\0\0\0\0\0\x01\0\x04shop\0\x01t\0".to_vec();
        body.push(types.len() as u8);
        body.extend(types.iter().map(|(code, _)| *code));
        let meta: Vec<u8> = types.iter().flat_map(|(_, meta)| *meta).copied().collect();
        body.push(meta.len() as u8);
        body.extend(meta);
        body.extend_from_slice(nullable);
        for (field, value) in metadata {
            body.extend([*field, value.len() as u8]);
            body.extend_from_slice(value);
        }
        body
    }

    fn columns(body: &[u8], family: Family, catalog: Option<&[CatalogColumn]>) -> Result<Columns, ColumnsFault> {
        TableName::parse(body).expect("a table map").columns(family, catalog)
    }

    fn listed(columns: &[(&str, &str, Option<u32>)]) -> Vec<CatalogColumn> {
        let column = |&(name, column_type, key_position): &(&str, &str, Option<u32>)| CatalogColumn {
            name: name.to_owned(),
            column_type: column_type.to_owned(),
            charset: column_type.contains("text").then(|| "latin1".to_owned()),
            key_position,
            is_hidden: false,
        };
        columns.iter().map(column).collect()
    }

    fn names(columns: &Columns) -> Vec<&str> {
        columns.columns.iter().map(|column| column.name.as_str()).collect()
    }

    /// As MariaDB 10.5 to 11.8 have it: `CREATE TABLE t (id INT PRIMARY KEY, doc TEXT, n INT, UNIQUE (doc))`.
    const HASHED: [(u8, &[u8]); 4] = [(3, &[]), (252, &[2]), (3, &[]), (8, &[])];

    #[test]
    fn a_row_hash_is_no_column() {
        let names_of = |last: &[u8]| [b"\x02id\x03doc\x01n".as_slice(), last].concat();
        let hash = names_of(b"\x0dDB_ROW_HASH_1");
        let key: &[u8] = &[0];
        let body = map(&HASHED, &[0x0e], &[(1, &[0x20]), (2, &[8]), (4, &hash), (8, key)]);
        let table = columns(&body, Family::MariaDb, None).expect("columns");
        assert_eq!(names(&table), ["id", "doc", "n"]);
        assert_eq!((table.codecs.len(), table.widths.len()), (3, 4), "images have it");
        // Of a key that can't be NULL it can't be either.
        let not_null = map(&HASHED, &[0x00], &[(1, &[0x20]), (2, &[8]), (4, &hash), (8, key)]);
        assert_eq!(names(&columns(&not_null, Family::MariaDb, None).expect("columns")), ["id", "doc", "n"]);
        assert_eq!(names(&columns(&body, Family::MySql, None).expect("columns")).len(), 4, "MySQL has none");
        // Others that are called alike.
        for (last, unsigned) in
            [(b"\x0dDB_ROW_HASH_1".as_slice(), 0x00), (b"\x0cDB_ROW_HASH_", 0x20), (b"\x0eDB_ROW_HASH_1b", 0x20)]
        {
            let body = map(&HASHED, &[0x0e], &[(1, &[unsigned]), (2, &[8]), (4, &names_of(last)), (8, key)]);
            assert_eq!(names(&columns(&body, Family::MariaDb, None).expect("columns")).len(), 4);
        }
    }

    #[test]
    fn unlisted_columns_are_matched() {
        let mut catalog = listed(&[("id", "int(11)", Some(1)), ("doc", "text", None), ("n", "int(11)", None)]);
        append_unlisted(&mut catalog, false, 1);
        for metadata in [&[][..], &[(1, &[0x20][..]), (2, &[8])]] {
            let body = map(&HASHED, &[0x0e], metadata);
            let table = columns(&body, Family::MariaDb, Some(&catalog)).expect("columns");
            assert_eq!((names(&table), table.widths.len()), (vec!["id", "doc", "n"], 4));
            assert_eq!(table.key, [ColumnIndex(0)]);
            // MEMORY's indexes by hash have no such column.
            let body = map(&HASHED[..3], &[6], &metadata[..metadata.len().min(1)]);
            let table = columns(&body, Family::MariaDb, Some(&catalog)).expect("columns");
            assert_eq!((names(&table), table.widths.len()), (vec!["id", "doc", "n"], 3));
        }
        let others: [&[(u8, &[u8])]; 3] = [
            &HASHED[..2],
            &[HASHED[0], HASHED[1], HASHED[2], HASHED[2]],
            &[HASHED[0], HASHED[1], HASHED[2], HASHED[3], HASHED[3]],
        ];
        for types in others {
            let fault = columns(&map(types, &[0x0e], &[]), Family::MariaDb, Some(&catalog));
            assert!(matches!(fault, Err(ColumnsFault::Fault(Fault::OtherColumns { .. }))), "{fault:?}");
        }
        // `WITH SYSTEM VERSIONING`, and a unique index as well.
        let mut catalog = listed(&[("id", "int(11)", Some(1)), ("doc", "text", None)]);
        append_unlisted(&mut catalog, true, 1);
        let types: [(u8, &[u8]); 5] = [(3, &[]), (252, &[2]), (17, &[6]), (17, &[6]), (8, &[])];
        for types in [&types[..], &types[..4]] {
            let table = columns(&map(types, &[0x12], &[]), Family::MariaDb, Some(&catalog)).expect("columns");
            assert_eq!(names(&table), ["id", "doc", "row_start", "row_end"]);
            assert_eq!(table.key, [ColumnIndex(0), ColumnIndex(3)], "as the map says it itself with FULL metadata");
        }
        let mut catalog = listed(&[("id", "int(11)", None)]);
        append_unlisted(&mut catalog, true, 0);
        assert!(catalog.iter().all(|column| column.key_position.is_none()), "a table without a key");
        let mut none = Vec::new();
        append_unlisted(&mut none, true, 1);
        assert!(none.is_empty(), "a table that isn't there");
    }

    /// `mysql56_temporal_format=OFF`: no kind of metadata says how many digits of a second there are.
    #[test]
    fn digits_of_a_second_are_asked_for() {
        let types: [(u8, &[u8]); 4] = [(3, &[]), (7, &[]), (11, &[]), (12, &[])];
        let full = map(&types, &[0x0e], &[(1, &[0]), (4, b"\x02id\x01a\x01b\x01c"), (8, &[0])]);
        let minimal = map(&types, &[0x0e], &[(1, &[0])]);
        for (body, expected) in [(&full, Missing::FractionDigits), (&minimal, Missing::Names)] {
            match columns(body, Family::MariaDb, None) {
                Err(ColumnsFault::Missing(missing)) => assert_eq!(missing, expected),
                other => panic!("{other:?}"),
            }
            let catalog = listed(&[
                ("id", "int(11)", Some(1)),
                ("a", "timestamp(6) /* mariadb-5.3 */", None),
                ("b", "time /* mariadb-5.3 */", None),
                ("c", "datetime(3) /* mariadb-5.3 */", None),
            ]);
            let table = columns(body, Family::MariaDb, Some(&catalog)).expect("columns");
            let codecs = [Codec::TimestampHires { digits: 6 }, Codec::TimeOld, Codec::DatetimeHires { digits: 3 }];
            assert_eq!(table.codecs[1..], codecs);
            assert_eq!((names(&table), &*table.key), (vec!["id", "a", "b", "c"], &[ColumnIndex(0)][..]));
            // Converted since.
            let catalog = listed(&[
                ("id", "int(11)", Some(1)),
                ("a", "timestamp(6)", None),
                ("b", "time", None),
                ("c", "datetime(3)", None),
            ]);
            let fault = columns(body, Family::MariaDb, Some(&catalog)).expect_err("other columns");
            let ColumnsFault::Fault(fault) = fault else { panic!("{fault:?}") };
            assert!(fault.to_string().contains("column `a` is `timestamp(6)` there"), "{fault}");
        }
        // Another name at the place.
        let mut catalog = listed(&[("id", "int(11)", Some(1)), ("a", "timestamp /* mariadb-5.3 */", None)]);
        catalog.extend(listed(&[("x", "time", None), ("c", "datetime", None)]));
        assert!(columns(&full, Family::MariaDb, Some(&catalog)).is_err());
        // MySQL has no fraction in these.
        let table = columns(&full, Family::MySql, None).expect("columns");
        assert_eq!(table.codecs[1..], [Codec::TimestampOld, Codec::TimeOld, Codec::DatetimeOld]);
    }

    /// `ENUM(x'ff01','b') CHARACTER SET binary`, and so a SET.
    #[test]
    fn members_may_be_bytes() {
        let types: [(u8, &[u8]); 3] = [(254, &[247, 1]), (254, &[248, 1]), (254, &[247, 1])];
        let members: [(u8, &[u8]); 2] =
            [(6, b"\x02\x02\xff\x01\x01b\x02\x02\xc3\xa9\x01b"), (5, b"\x02\x02\xff\x01\x01b")];
        let names: (u8, &[u8]) = (4, b"\x01e\x01s\x01u");
        let body = map(&types, &[0], &[names, (10, &[63]), members[0], members[1]]);
        let table = columns(&body, Family::MariaDb, None).expect("columns");
        let kinds: Vec<Kind> = table.columns.iter().map(|column| column.kind).collect();
        assert_eq!(kinds, [Kind::Bytes, Kind::Bytes, Kind::Enum], "text where all members are");
        let value = |codec: &Codec, byte: u8| {
            let mut out = Vec::new();
            codec.decode(&mut Bytes(&[byte]), &mut out).expect("a value");
            out
        };
        assert_eq!((value(&table.codecs[0], 1), value(&table.codecs[0], 2)), (vec![0xff, 1], b"b".to_vec()));
        assert_eq!(value(&table.codecs[1], 3), b"\xff\x01,b");
        assert_eq!(value(&table.codecs[2], 1), "é".as_bytes());
        // In a set of characters they must be some.
        let body = map(&types, &[0], &[names, (10, &[45]), members[0], members[1]]);
        assert!(columns(&body, Family::MariaDb, None).is_err());
    }
}
