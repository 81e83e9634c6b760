//! JSON as SQS takes it.

pub use rowmill_batch::json::push_string;
pub(super) use rowmill_batch::json::push_utf8;
use rowmill_batch::json::{push_escaped, push_escaped_twice};

use crate::binlog::civil_from_days;

/// What JSON is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Escaping {
    /// To be read.
    Plain,
    /// To stand between the quotes of a JSON string, as a message's body does in a request to SQS. Most of what would be
    /// escaped there is known beforehand.
    Escaped,
}

impl Escaping {
    /// What a string begins and ends with.
    pub(super) fn quote(self) -> &'static [u8] {
        match self {
            Self::Plain => b"\"",
            Self::Escaped => b"\\\"",
        }
    }

    /// Appends a string.
    #[inline]
    pub(super) fn push_utf8(self, text: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Plain => push_utf8(text, out),
            Self::Escaped => {
                out.extend_from_slice(self.quote());
                push_escaped_twice(text, out);
                out.extend_from_slice(self.quote());
            }
        }
    }

    /// Makes of plain JSON, from a place on, what is wanted.
    pub(super) fn rewrite(self, start: usize, out: &mut Vec<u8>) {
        if self == Self::Escaped {
            let plain = out.split_off(start);
            push_escaped(&plain, out);
        }
    }
}

/// How many bytes JSON has that stands between the quotes of a JSON string. Whoever wrote it escaped in it what SQS
/// refuses, so that there is nothing but pairs of a backslash, and a quote or another backslash.
pub fn plain_len(escaped: &[u8]) -> usize {
    // By counts that fit into bytes, sixteen at a time.
    let count = |bytes: &[u8]| bytes.iter().map(|byte| u8::from(matches!(byte, b'\\' | b'"'))).sum::<u8>();
    let halves: usize = escaped.chunks(usize::from(u8::MAX)).map(|bytes| usize::from(count(bytes))).sum();
    escaped.len() - halves / 2
}

/// The JSON that stands between the quotes of a JSON string; see [`plain_len`].
pub fn plain(escaped: &str) -> String {
    let mut plain = String::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some((before, pair)) = rest.split_once('\\') {
        plain.push_str(before);
        let mut pair = pair.chars();
        plain.extend(pair.next());
        rest = pair.as_str();
    }
    plain.push_str(rest);
    plain
}

/// Appends a number.
#[inline]
pub fn push_int(number: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Appends what is JSON already. SQS refuses two characters that JSON takes; they stand in its strings.
pub(super) fn push_raw(json: &[u8], out: &mut Vec<u8>) {
    let mut rest = json;
    // U+FFFE and U+FFFF: EF BF BE, EF BF BF.
    while let Some(at) = rest.windows(3).position(|bytes| matches!(bytes, [0xef, 0xbf, 0xbe | 0xbf])) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(if rest[at + 2] == 0xbe { b"\\ufffe" } else { b"\\uffff" });
        rest = &rest[at + 3..];
    }
    out.extend_from_slice(rest);
}

/// Appends a time of RFC 3339, of microseconds since 1970: `2026-11-23T10:00:00.123456Z`.
pub(super) fn push_time(time_us: i64, out: &mut Vec<u8>) {
    let time_us = u64::try_from(time_us).unwrap_or(0);
    let (seconds, micros) = (time_us / 1_000_000, time_us % 1_000_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil_from_days(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z");
    out.extend_from_slice(text.as_bytes());
}

/// Appends bytes as a string of base64.
pub(super) fn push_base64(bytes: &[u8], escaping: Escaping, out: &mut Vec<u8>) {
    out.extend_from_slice(escaping.quote());
    base64_simd::STANDARD.encode_append(bytes, out);
    out.extend_from_slice(escaping.quote());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn strings_read_back_and_please_sqs(text in "(?s)[\\x00-\\x1f\"\\\\a-c\u{e9}\u{ffef}\u{fffd}-\u{ffff}\u{10000}]{0,40}") {
            let mut out = Vec::new();
            push_string(&text, &mut out);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).expect("JSON"), text.as_str());
            let written = String::from_utf8(out).expect("UTF-8");
            let refused = |c: char| c < ' ' || c == '\u{fffe}' || c == '\u{ffff}';
            prop_assert!(!written.contains(refused), "{}", written);

            let mut escaped = Vec::new();
            Escaping::Escaped.push_utf8(text.as_bytes(), &mut escaped);
            let mut expected = Vec::new();
            push_escaped(written.as_bytes(), &mut expected);
            prop_assert_eq!(&escaped, &expected);
            prop_assert_eq!(plain_len(&escaped), written.len());
            prop_assert_eq!(plain(std::str::from_utf8(&escaped).expect("UTF-8")), written);
        }
    }
}
