//! A column's kind, MySQL type and codec, by its type in the table map.

use rowmill_batch::Kind;

use super::charset::Charset;
use super::column_type::{ColumnType, code};
use super::error::DecodeErrorKind;
use super::value::Codec;

/// The members of an `ENUM` or `SET`.
#[derive(Debug, Clone)]
pub(super) enum Members<'a> {
    /// In the column's character set.
    Encoded(Vec<&'a [u8]>),
    Text(Vec<Box<str>>),
}

/// Returns a column's kind, the name of its MySQL type, and the codec of its values.
pub(super) fn column_codec(
    name: &str,
    column: ColumnType,
    unsigned: bool,
    charset: Charset,
    members: Members<'_>,
    digits: u8,
) -> Result<(Kind, String, Codec), DecodeErrorKind> {
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
        // The metadata has the number of whole bytes, and the number of bits beside them.
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
                // The binlog omits trailing zero bytes of BINARY(n), which are part of the value.
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
            return Err(DecodeErrorKind::Unsupported {
                what: format!("column `{name}` of type {other}"),
                fix: "exclude the table in `source.tables`",
            });
        }
    };
    Ok((kind, mysql_type.to_owned(), codec))
}

/// Returns the name of a geometry type by its number in well-known binary; 0 is any type.
pub(super) fn geometry_name(number: u64) -> &'static str {
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

/// Whether all members are text; in the character set `binary` they may be any bytes.
fn is_text(members: &[Box<[u8]>]) -> bool {
    members.iter().all(|member| std::str::from_utf8(member).is_ok())
}

/// Returns the members of an ENUM or SET, decoded to UTF-8 if they are text.
fn decoded(column: &str, charset: &Charset, members: Members<'_>) -> Result<Vec<Box<[u8]>>, DecodeErrorKind> {
    let encoded = match members {
        Members::Text(texts) => return Ok(texts.into_iter().map(str::into_boxed_bytes).collect()),
        Members::Encoded(encoded) => encoded,
    };
    let decode = |member: &[u8]| {
        let mut out = Vec::new();
        charset.decode(member, &mut out).map_err(|cause| cause.in_column(column))?;
        Ok(out.into_boxed_slice())
    };
    encoded.into_iter().map(decode).collect()
}
