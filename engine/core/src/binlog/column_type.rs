//! Column types, as table maps encode them.
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/classmysql_1_1binlog_1_1event_1_1Table__map__event.html>

use super::bytes::Bytes;
use super::error::DecodeErrorKind;

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
    pub const BLOB_COMPRESSED: u8 = 140; // MariaDB only, as is the next
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
    pub fn is_numeric(self) -> bool {
        use code::*;
        matches!(self.code, DECIMAL | TINY | SHORT | LONG | FLOAT | DOUBLE | LONGLONG | INT24 | YEAR | NEWDECIMAL)
    }

    pub fn is_integer(self) -> bool {
        use code::*;
        matches!(self.code, TINY | SHORT | INT24 | LONG | LONGLONG)
    }

    pub fn is_character(self) -> bool {
        use code::*;
        matches!(self.code, VARCHAR | BLOB | VAR_STRING | STRING | VARCHAR_COMPRESSED | BLOB_COMPRESSED)
    }

    /// Whether this is a temporal type from before MySQL 5.6. MariaDB's have fractions, whose number of digits no table
    /// map has.
    pub fn is_old_temporal(self) -> bool {
        matches!(self.code, code::TIMESTAMP | code::TIME | code::DATETIME)
    }

    pub fn is_enum_or_set(self) -> bool {
        matches!(self.code, code::ENUM | code::SET)
    }
}

/// Returns the types of a table map, each with its part of the type metadata.
pub(super) fn column_types(codes: &[u8], mut metadata: Bytes<'_>) -> Result<Vec<ColumnType>, DecodeErrorKind> {
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
            // ENUM and SET are logged as STRING, with the real type in the first byte; a CHAR of more than 255 bytes
            // has two bits of its length there, inverted.
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
