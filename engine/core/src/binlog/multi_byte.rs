//! The multi-byte character sets, as the servers have them.
//!
//! `encoding_rs` decodes the web's variants of them, from which the servers differ in places. MySQL and MariaDB agree;
//! the end-to-end tests compare decoded text with the server's own conversion.
//!
//! ```sql
//! SELECT HEX(CONVERT(CONVERT(x'815F' USING sjis) USING utf32))
//! ```

use encoding_rs::Encoding;

/// Consecutive codes: the first one, and the characters of all.
type Run = (u32, &'static str);

/// A multi-byte character set.
#[derive(Debug, PartialEq)]
pub(super) struct MultiByte {
    pub name: &'static str,
    /// The most bytes that a character takes.
    pub bytes_max: u16,
    encoding: &'static Encoding,
    lengths: Lengths,
    /// The codes that the servers decode otherwise than `encoding` does, in ascending order.
    differences: &'static [Run],
}

/// The rule by which a character's first bytes determine its length.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Lengths {
    /// Two bytes from 0x81 on.
    Two,
    /// Two bytes in two ranges of first bytes, between which are single-byte kana.
    ShiftJis,
    /// Two bytes, three if the first is 0x8F. Rows from 0xF5 on are for private use.
    Euc,
    /// Two bytes, four if the second is a digit.
    Gb18030,
}

impl MultiByte {
    /// Returns the character set with a name of `information_schema.character_sets`.
    pub fn by_name(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|set| set.name == name)
    }

    /// Appends `bytes` as UTF-8; returns `None` if they are invalid.
    pub fn decode(&self, bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
        let mut decoded = 0;
        let mut at = 0;
        while at < bytes.len() && !self.differences.is_empty() {
            if bytes[at].is_ascii() {
                at += 1;
                continue;
            }
            let len = self.lengths.of(&bytes[at..]);
            if let Some(character) = bytes.get(at..at + len).and_then(|code| self.difference(code)) {
                self.decode_as_encoded(&bytes[decoded..at], out)?;
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                decoded = at + len;
            }
            at += len;
        }
        self.decode_as_encoded(&bytes[decoded..], out)
    }

    fn decode_as_encoded(&self, bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
        let text = self.encoding.decode_without_bom_handling_and_without_replacement(bytes)?;
        out.extend_from_slice(text.as_bytes());
        Some(())
    }

    fn difference(&self, code: &[u8]) -> Option<char> {
        let number = code.iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
        let run = self.differences[..self.differences.partition_point(|run| run.0 <= number)].last();
        let listed = run.and_then(|(first, characters)| characters.chars().nth((number - first) as usize));
        listed.or_else(|| if self.lengths == Lengths::Euc { private_use(code) } else { None })
    }
}

/// Returns the private-use character of a code in EUC's rows from 0xF5 on: 94 characters a row, from U+E000 on, and in
/// the third code set from U+E3AC on.
fn private_use(code: &[u8]) -> Option<char> {
    let (base, row, cell) = match *code {
        [row @ 0xf5..=0xfe, cell @ 0xa1..=0xfe] => (0xe000, row, cell),
        [0x8f, row @ 0xf5..=0xfe, cell @ 0xa1..=0xfe] => (0xe3ac, row, cell),
        _ => return None,
    };
    char::from_u32(base + u32::from(row - 0xf5) * 94 + u32::from(cell - 0xa1))
}

impl Lengths {
    fn of(self, bytes: &[u8]) -> usize {
        match (self, bytes) {
            (Self::Two, [0x81..=0xff, ..]) | (Self::ShiftJis, [0x81..=0x9f | 0xe0..=0xfc, ..]) => 2,
            (Self::Euc, [0x8f, ..]) => 3,
            (Self::Euc, [0x8e | 0xa1..=0xff, ..]) => 2,
            (Self::Gb18030, [0x81..=0xff, b'0'..=b'9', ..]) => 4,
            (Self::Gb18030, [0x81..=0xff, ..]) => 2,
            _ => 1,
        }
    }
}

static ALL: [MultiByte; 9] = [
    set("big5", 2, encoding_rs::BIG5, Lengths::Two, BIG5_DIFFERENCES),
    set("sjis", 2, encoding_rs::SHIFT_JIS, Lengths::ShiftJis, SJIS_DIFFERENCES),
    set("cp932", 2, encoding_rs::SHIFT_JIS, Lengths::ShiftJis, &[]),
    set("ujis", 3, encoding_rs::EUC_JP, Lengths::Euc, UJIS_DIFFERENCES),
    set("eucjpms", 3, encoding_rs::EUC_JP, Lengths::Euc, EUCJPMS_DIFFERENCES),
    set("euckr", 2, encoding_rs::EUC_KR, Lengths::Two, &[]),
    set("gb2312", 2, encoding_rs::GBK, Lengths::Two, GB2312_DIFFERENCES),
    set("gbk", 2, encoding_rs::GBK, Lengths::Two, &[]),
    set("gb18030", 4, encoding_rs::GB18030, Lengths::Gb18030, GB18030_DIFFERENCES),
];

const fn set(
    name: &'static str,
    bytes_max: u16,
    encoding: &'static Encoding,
    lengths: Lengths,
    differences: &'static [Run],
) -> MultiByte {
    MultiByte { name, bytes_max, encoding, lengths, differences }
}

static BIG5_DIFFERENCES: &[Run] = &[
    (0xa145, "•"),
    (0xa14e, "､"),
    (0xa1c2, "‾"),
    (0xa1e3, "∼"),
    (0xa1f2, "♁☉"),
    (0xa241, "／＼"),
    (0xa244, "¥"),
    (0xa246, "¢£"),
    (
        0xc6a1,
        "ヾゝゞ々ぁあぃいぅうぇえぉおかがきぎくぐけげこごさざしじすずせぜそぞただちぢっつづてでとどなにぬねのはばぱひびぴふぶぷへべぺほぼぽまみむめもゃやゅゆょよらりるれ",
    ),
    (0xc6f1, "ろゎわゐゑをんァアィイゥウェ"),
    (
        0xc740,
        "エォオカガキギクグケゲコゴサザシジスズセゼソゾタダチヂッツヅテデトドナニヌネノハバパヒビピフブプヘベペホボポマミムメモャヤュユ",
    ),
    (0xc7a1, "ョヨラリルレロヮワヰヱヲンヴヵヶДЕЁЖЗИЙКЛМУФХЦЧШЩЪЫЬЭЮЯабвгдеёжзийклмнопрстуфхцчшщъыьэюя①②③④⑤⑥⑦⑧"),
    (0xc7f1, "⑨⑩⑴⑵⑶⑷⑸⑹⑺⑻⑼⑽"),
];

static EUCJPMS_DIFFERENCES: &[Run] = &[
    (0x8fa2c3, "￤"),
    (0x8ff3f3, "ⅰⅱⅲⅳⅴⅵⅶⅷⅸⅹⅠⅡ"),
    (
        0x8ff4a1,
        "ⅢⅣⅤⅥⅦⅧⅨⅩ＇＂㈱№℡炻仼僴凬匇匤﨎咊坙﨏塚增寬峵嵓﨑德悅愠敎昻晥晴朗栁﨓﨔橫櫢淸淲瀨凞猪甁皂皞益礰礼神祥福竧靖精綠緖羽荢﨟薰蘒﨡蠇諸譿賴赶﨣﨤逸郞都鄕﨧﨨",
    ),
    (0x8ff4f1, "閒隆﨩霻靍靑飯飼館馞髙魲鶴黑"),
];

static GB18030_DIFFERENCES: &[Run] = &[
    (0xa3a0, "\u{e5e5}"),
    (0xa6d9, "\u{e78d}\u{e78e}\u{e78f}\u{e790}\u{e791}\u{e792}\u{e793}"),
    (0xa6ec, "\u{e794}\u{e795}"),
    (0xa6f3, "\u{e796}"),
    (0xfe59, "\u{e81e}"),
    (0xfe61, "\u{e826}"),
    (0xfe66, "\u{e82b}\u{e82c}"),
    (0xfe6d, "\u{e832}"),
    (0xfe7e, "\u{e843}"),
    (0xfe90, "\u{e854}"),
    (0xfea0, "\u{e864}"),
];

static GB2312_DIFFERENCES: &[Run] = &[(0xa1a4, "・"), (0xa1aa, "―")];

static SJIS_DIFFERENCES: &[Run] = &[(0x815f, "\\〜‖"), (0x817c, "−"), (0x8191, "¢£"), (0x81ca, "¬")];

static UJIS_DIFFERENCES: &[Run] = &[(0xa1c0, "\\〜‖"), (0xa1dd, "−"), (0xa1f1, "¢£"), (0xa2cc, "¬"), (0x8fa2b7, "~")];

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(name: &str, bytes: &[u8]) -> Option<String> {
        let mut out = Vec::new();
        MultiByte::by_name(name).expect("a set").decode(bytes, &mut out)?;
        Some(String::from_utf8(out).expect("UTF-8"))
    }

    #[test]
    fn the_servers_way_where_it_differs() {
        for (name, bytes, text) in [
            ("sjis", &b"a\x81\x5f\x82\xb1\xb1\x81\x60z"[..], "a\\こｱ\u{301c}z"),
            ("cp932", b"\x81\x5f", "\u{ff3c}"),
            ("ujis", b"\xa1\xc0\x8f\xa2\xb7\xf5\xa1\x8f\xf5\xa2\xa4\xb3", "\\~\u{e000}\u{e3ad}こ"),
            ("eucjpms", b"\xf5\xa1\x8f\xf3\xf3", "\u{e000}ⅰ"),
            ("gb2312", b"\xa1\xa4\xc4\xe3", "\u{30fb}你"),
            ("gb18030", b"\xa6\xd9\x95\x32\x82\x36", "\u{e78d}𠀀"),
            ("big5", b"\xa1\x45\xa7A", "\u{2022}你"),
            ("euckr", b"\xb0\xa1", "가"),
        ] {
            assert_eq!(decode(name, bytes).as_deref(), Some(text), "{name}");
        }
        for (name, bytes) in [("sjis", &b"\x81"[..]), ("ujis", b"\x8f\xa2"), ("gb18030", b"\xff"), ("big5", b"\xa1")] {
            assert_eq!(decode(name, bytes), None, "{name}");
        }
    }

    #[test]
    fn differences_ascend() {
        for set in &ALL {
            let ends = set.differences.iter().map(|(first, text)| first + text.chars().count() as u32);
            let begins = set.differences.iter().skip(1).map(|(first, _)| *first);
            assert!(ends.zip(begins).all(|(end, begin)| end <= begin), "{}", set.name);
        }
    }
}
