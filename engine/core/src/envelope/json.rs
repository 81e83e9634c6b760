//! JSON that SQS accepts, plain or escaped for a request's string.

pub use rowmill_batch::json::push_string;
pub(super) use rowmill_batch::json::push_utf8;
use rowmill_batch::json::{push_escaped, push_escaped_twice};

use crate::binlog::civil_from_days;

/// The context of written JSON: on its own, or within a JSON string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Escaping {
    /// On its own: plain JSON.
    Plain,
    /// Within the quotes of a JSON string, as a message's body in a request to SQS: escaped JSON. Most of the text to
    /// be escaped is the same in each message, and escaped beforehand.
    Escaped,
}

impl Escaping {
    /// Returns the quote with which a string begins and ends.
    pub(super) fn quote(self) -> &'static [u8] {
        match self {
            Self::Plain => b"\"",
            Self::Escaped => b"\\\"",
        }
    }

    /// Appends a string with its quotes.
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

    /// Escapes the plain JSON from `start` on, if escaped JSON is wanted.
    pub(super) fn rewrite(self, start: usize, out: &mut Vec<u8>) {
        if self == Self::Escaped {
            let plain = out.split_off(start);
            push_escaped(&plain, out);
        }
    }
}

/// Returns the length in bytes of the plain JSON whose escaped form is `escaped`. The writer of the plain JSON has
/// escaped the characters that SQS refuses, so each escape in `escaped` is a backslash before a quote or another
/// backslash.
pub fn unescaped_len(escaped: &[u8]) -> usize {
    // The counts fit into bytes, so that sixteen bytes are counted at a time.
    let count = |bytes: &[u8]| bytes.iter().map(|byte| u8::from(matches!(byte, b'\\' | b'"'))).sum::<u8>();
    let halves: usize = escaped.chunks(usize::from(u8::MAX)).map(|bytes| usize::from(count(bytes))).sum();
    escaped.len() - halves / 2
}

/// Returns the plain JSON whose escaped form is `escaped`; see [`unescaped_len`].
pub fn unescape(escaped: &str) -> String {
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

/// Appends text that is JSON already. Two characters that JSON allows and SQS refuses are escaped; they occur only in
/// strings.
pub fn push_raw(json: &[u8], out: &mut Vec<u8>) {
    let mut rest = json;
    // U+FFFE and U+FFFF: EF BF BE, EF BF BF.
    while let Some(at) = rest.windows(3).position(|bytes| matches!(bytes, [0xef, 0xbf, 0xbe | 0xbf])) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(if rest[at + 2] == 0xbe { b"\\ufffe" } else { b"\\uffff" });
        rest = &rest[at + 3..];
    }
    out.extend_from_slice(rest);
}

/// Appends a time, given in microseconds since 1970, as in RFC 3339: `2026-11-23T10:00:00.123456Z`.
pub fn push_time(time_us: i64, out: &mut Vec<u8>) {
    let time_us = u64::try_from(time_us).unwrap_or(0);
    let (seconds, micros) = (time_us / 1_000_000, time_us % 1_000_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil_from_days(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z");
    out.extend_from_slice(text.as_bytes());
}

/// Appends bytes as a base64 string.
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
            prop_assert_eq!(unescaped_len(&escaped), written.len());
            prop_assert_eq!(unescape(std::str::from_utf8(&escaped).expect("UTF-8")), written);
        }
    }
}
