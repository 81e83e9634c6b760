//! Character sets of text columns, by the collation ids of the table map.

use super::error::Fault;

/// How a text column's bytes become UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Charset {
    /// Already UTF-8: `utf8mb4`, `utf8mb3`, `ascii`.
    Utf8,
    /// `latin1`, which in MySQL is Windows code page 1252.
    Latin1,
    /// Not text: `binary`.
    Binary,
    /// Another one, by its collation's id.
    Unsupported(u16),
}

impl Charset {
    /// The character set of a collation: `SELECT id, character_set_name FROM information_schema.collations`.
    pub fn of_collation(id: u64) -> Self {
        match id {
            63 => Self::Binary,
            // utf8mb3
            33 | 76 | 83 | 192..=215 | 223 => Self::Utf8,
            // utf8mb4, and MariaDB's of both
            45
            | 46
            | 224..=247
            | 255..=323
            | 576..=578
            | 608..=611
            | 1057
            | 1069
            | 1070
            | 1216
            | 1232
            | 1238
            | 1248
            | 2048..=2307 => Self::Utf8,
            // ascii
            11 | 65 => Self::Utf8,
            // latin1
            5 | 8 | 15 | 31 | 47 | 48 | 49 | 94 => Self::Latin1,
            other => Self::Unsupported(u16::try_from(other).unwrap_or(u16::MAX)),
        }
    }

    /// Appends `bytes` as UTF-8.
    pub fn decode(self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), TextFault> {
        match self {
            Self::Binary => out.extend_from_slice(bytes),
            Self::Utf8 => {
                std::str::from_utf8(bytes).map_err(|_| TextFault::Invalid("utf8mb4"))?;
                out.extend_from_slice(bytes);
            }
            Self::Latin1 => {
                let (text, _) = encoding_rs::WINDOWS_1252.decode_without_bom_handling(bytes);
                out.extend_from_slice(text.as_bytes());
            }
            Self::Unsupported(collation) => return Err(TextFault::Unsupported(collation)),
        }
        Ok(())
    }
}

/// Text that can't be made UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextFault {
    Invalid(&'static str),
    Unsupported(u16),
}

impl TextFault {
    pub fn in_column(self, column: &str) -> Fault {
        match self {
            Self::Invalid(charset) => Fault::Text { column: column.to_owned(), charset },
            Self::Unsupported(collation) => Fault::Unsupported {
                what: format!("the character set of column `{column}` (collation {collation})"),
                mend: "convert the column to utf8mb4, or leave its table out by `source.tables`",
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latin1_is_code_page_1252() {
        let mut out = Vec::new();
        Charset::of_collation(8).decode(b"\x80 caf\xe9 \x81", &mut out).expect("latin1 has no invalid bytes");
        assert_eq!(std::str::from_utf8(&out), Ok("€ café \u{81}"));
    }

    #[test]
    fn undecodable_bytes_are_refused() {
        let mut out = Vec::new();
        assert_eq!(Charset::of_collation(255).decode(b"a\xff", &mut out), Err(TextFault::Invalid("utf8mb4")));
        assert_eq!(Charset::of_collation(13).decode(b"a", &mut out), Err(TextFault::Unsupported(13)));
    }
}
