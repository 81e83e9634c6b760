//! Character sets of text columns, and their conversion to UTF-8.
//!
//! A character set comes from the collation in the table map, or from its name in information_schema. Invalid bytes are
//! an error, and are never replaced.

use std::sync::Arc;

use super::error::DecodeErrorKind;
use super::multi_byte::MultiByte;
use super::single_byte::{self, SingleByte};

/// The character set of a column.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Charset {
    /// Not text.
    Binary,
    /// `utf8mb4` and `utf8mb3`, which need no conversion.
    Utf8,
    Ascii,
    /// Two or four bytes a character.
    Utf16 {
        name: &'static str,
        big_endian: bool,
    },
    /// Two bytes a character, none above U+FFFF.
    Ucs2,
    /// Four bytes a character.
    Utf32,
    /// One byte a character.
    SingleByte {
        name: &'static str,
        ascii: bool,
        characters: Arc<[char; 256]>,
    },
    /// One to four bytes a character.
    MultiByte(&'static MultiByte),
    /// An unknown character set, by its collation or the server's name for it.
    Unknown(String),
}

impl Charset {
    /// Returns the character set of a collation ID.
    ///
    /// ```sql
    /// SELECT character_set_name, id FROM information_schema.collations
    /// ```
    pub fn by_collation(id: u64) -> Self {
        let name = match id {
            // MariaDB's NOPAD collations have the ID of the padding collation plus 1,024.
            1025..=2047 => return Self::by_collation(id - 1024),
            // MariaDB's newer collations: blocks of IDs for each Unicode character set.
            576..=607 | 2048..=2303 => "utf8mb3",
            608..=639 | 2304..=2559 => "utf8mb4",
            640..=671 | 2560..=2815 => "ucs2",
            672..=703 | 2816..=3071 => "utf16",
            736..=767 | 3072..=3327 => "utf32",
            63 => "binary",
            11 | 65 => "ascii",
            33 | 76 | 83 | 192..=215 | 223 => "utf8mb3",
            45 | 46 | 224..=247 | 255..=323 => "utf8mb4",
            35 | 90 | 128..=151 | 159 => "ucs2",
            54 | 55 | 101..=124 => "utf16",
            56 | 62 => "utf16le",
            60 | 61 | 160..=183 => "utf32",
            1 | 84 => "big5",
            13 | 88 => "sjis",
            95 | 96 => "cp932",
            12 | 91 => "ujis",
            97 | 98 => "eucjpms",
            19 | 85 => "euckr",
            24 | 86 => "gb2312",
            28 | 87 => "gbk",
            248..=250 => "gb18030",
            32 | 64 => "armscii8",
            26 | 34 | 44 | 66 | 99 => "cp1250",
            14 | 23 | 50..=52 => "cp1251",
            57 | 67 => "cp1256",
            29 | 58 | 59 => "cp1257",
            4 | 80 => "cp850",
            40 | 81 => "cp852",
            36 | 68 => "cp866",
            3 | 69 => "dec8",
            92 | 93 => "geostd8",
            25 | 70 => "greek",
            16 | 71 => "hebrew",
            6 | 72 => "hp8",
            37 | 73 => "keybcs2",
            7 | 74 => "koi8r",
            22 | 75 => "koi8u",
            5 | 8 | 15 | 31 | 47..=49 | 94 => "latin1",
            2 | 9 | 21 | 27 | 77 => "latin2",
            30 | 78 => "latin5",
            20 | 41 | 42 | 79 => "latin7",
            38 | 43 => "macce",
            39 | 53 => "macroman",
            10 | 82 => "swe7",
            18 | 89 => "tis620",
            other => return Self::Unknown(format!("collation {other}")),
        };
        Self::by_name(name)
    }

    /// Returns the character set with a name of `information_schema.character_sets`.
    pub fn by_name(name: &str) -> Self {
        match name {
            "binary" => Self::Binary,
            "utf8mb4" | "utf8mb3" | "utf8" => Self::Utf8,
            "ascii" => Self::Ascii,
            "ucs2" => Self::Ucs2,
            "utf16" => Self::Utf16 { name: "utf16", big_endian: true },
            "utf16le" => Self::Utf16 { name: "utf16le", big_endian: false },
            "utf32" => Self::Utf32,
            other => match (single_byte::by_name(other), MultiByte::by_name(other)) {
                (Some(set), _) => Self::SingleByte { name: set.name, ascii: set.ascii, characters: characters(set) },
                (None, Some(set)) => Self::MultiByte(set),
                (None, None) => Self::Unknown(format!("character set {other}")),
            },
        }
    }

    /// Returns the most bytes that a character takes; `None` if unknown.
    pub fn bytes_max(&self) -> Option<u16> {
        match self {
            Self::Binary | Self::Ascii | Self::SingleByte { .. } => Some(1),
            Self::Ucs2 => Some(2),
            Self::Utf16 { .. } | Self::Utf32 => Some(4),
            Self::MultiByte(set) => Some(set.bytes_max),
            Self::Utf8 | Self::Unknown(_) => None,
        }
    }

    /// Appends `bytes` as UTF-8.
    pub fn decode(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), TextError> {
        match self {
            Self::Binary => out.extend_from_slice(bytes),
            Self::Utf8 => {
                // Most text is ASCII, which is checked faster.
                if !bytes.is_ascii() && std::str::from_utf8(bytes).is_err() {
                    return Err(TextError::Invalid("utf8mb4"));
                }
                out.extend_from_slice(bytes);
            }
            Self::Ascii => {
                if !bytes.is_ascii() {
                    return Err(TextError::Invalid("ascii"));
                }
                out.extend_from_slice(bytes);
            }
            Self::SingleByte { ascii: true, .. } if bytes.is_ascii() => out.extend_from_slice(bytes),
            Self::SingleByte { name, characters, .. } => {
                for &byte in bytes {
                    match characters[usize::from(byte)] {
                        char::REPLACEMENT_CHARACTER => return Err(TextError::Invalid(name)),
                        character => push(character, out),
                    }
                }
            }
            Self::MultiByte(set) => set.decode(bytes, out).ok_or(TextError::Invalid(set.name))?,
            Self::Utf16 { name, big_endian } => utf16(bytes, *big_endian, out).ok_or(TextError::Invalid(name))?,
            // Characters above U+FFFF don't fit, and the server rejects surrogate pairs.
            Self::Ucs2 => utf16(bytes, true, out).ok_or(TextError::Invalid("ucs2"))?,
            Self::Utf32 => {
                let (units, []) = bytes.as_chunks::<4>() else { return Err(TextError::Invalid("utf32")) };
                for unit in units {
                    let character = char::from_u32(u32::from_be_bytes(*unit)).ok_or(TextError::Invalid("utf32"))?;
                    push(character, out);
                }
            }
            Self::Unknown(name) => return Err(TextError::Unknown(name.clone())),
        }
        Ok(())
    }
}

fn characters(set: &SingleByte) -> Arc<[char; 256]> {
    let mut table = std::array::from_fn(|byte| char::from(byte as u8));
    let first = if set.ascii { 128 } else { 0 };
    for (entry, character) in table[first..].iter_mut().zip(set.characters.chars()) {
        *entry = character;
    }
    Arc::new(table)
}

#[inline]
fn push(character: char, out: &mut Vec<u8>) {
    if character.is_ascii() {
        out.push(character as u8);
    } else {
        out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    }
}

fn utf16(bytes: &[u8], big_endian: bool, out: &mut Vec<u8>) -> Option<()> {
    let (units, []) = bytes.as_chunks::<2>() else { return None };
    let units = units.iter().map(|unit| if big_endian { u16::from_be_bytes(*unit) } else { u16::from_le_bytes(*unit) });
    for character in char::decode_utf16(units) {
        push(character.ok()?, out);
    }
    Some(())
}

/// Text that can't be converted to UTF-8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TextError {
    Invalid(&'static str),
    Unknown(String),
}

impl TextError {
    pub fn in_column(self, column: &str) -> DecodeErrorKind {
        match self {
            Self::Invalid(charset) => DecodeErrorKind::Text { column: column.to_owned(), charset },
            Self::Unknown(name) => DecodeErrorKind::Unsupported {
                what: format!("the text of column `{column}` ({name})"),
                fix: "convert the column to utf8mb4, or exclude the table in `source.tables`",
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(charset: &str, bytes: &[u8]) -> Result<String, TextError> {
        let mut out = Vec::new();
        Charset::by_name(charset).decode(bytes, &mut out)?;
        Ok(String::from_utf8(out).expect("UTF-8"))
    }

    #[test]
    fn every_set_says_euro_or_hello_in_its_way() {
        for (charset, bytes, text) in [
            ("latin1", &b"\x80 caf\xe9 \x81"[..], "€ café \u{81}"),
            ("cp850", b"\x87\xa5", "çÑ"),
            ("swe7", b"[\\]", "ÄÖÅ"),
            ("greek", b"\xa1\xe1", "\u{2bd}α"),
            ("utf16", b"\x20\xac\xd8\x3d\xde\x00", "€😀"),
            ("utf16le", b"\xac\x20", "€"),
            ("ucs2", b"\x00h\x00i", "hi"),
            ("utf32", b"\x00\x01\xf6\x00", "😀"),
            ("sjis", b"\x82\xb1", "こ"),
            ("ujis", b"\xa4\xb3\x8e\xb1", "こｱ"),
            ("gb18030", b"\xc4\xe3\x95\x32\x82\x36", "你𠀀"),
            ("euckr", b"\xb0\xa1", "가"),
            ("big5", b"\xa7A", "你"),
        ] {
            assert_eq!(decode(charset, bytes).as_deref(), Ok(text), "{charset}");
        }
    }

    #[test]
    fn undecodable_bytes_are_refused() {
        for (charset, bytes) in [
            ("utf8mb4", &b"a\xff"[..]),
            ("ascii", b"\x80"),
            ("cp1250", b"\x81"),
            ("utf16", b"\xd8\x00\x00a"),
            ("utf16", b"\x00"),
            ("utf32", b"\x00\x11\x00\x00"),
            ("sjis", b"\x81"),
            ("gb18030", b"\xff"),
        ] {
            assert!(matches!(decode(charset, bytes), Err(TextError::Invalid(_))), "{charset}");
        }
        assert!(matches!(decode("klingon", b"a"), Err(TextError::Unknown(_))));
    }

    #[test]
    fn collations_of_both_families() {
        for (id, name) in [
            (8, "latin1"),
            (1032, "latin1"),
            (2100, "utf8"),
            (2600, "ucs2"),
            (3000, "utf16"),
            (1174, "ucs2"),
            (1270, "utf8"),
            (736, "utf32"),
        ] {
            assert_eq!(Charset::by_collation(id), Charset::by_name(name), "{id}");
        }
        assert_eq!(Charset::by_collation(63), Charset::Binary);
        assert!(matches!(Charset::by_collation(5000), Charset::Unknown(_)));
    }
}
