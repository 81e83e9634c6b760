//! JSON as SQS takes it.

use crate::binlog::civil_from_days;
pub use rowmill_batch::json::push_string;
pub(super) use rowmill_batch::json::push_utf8;

/// Appends a number.
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
pub(super) fn push_base64(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    base64_simd::STANDARD.encode_append(bytes, out);
    out.push(b'"');
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
            prop_assert_eq!(serde_json::from_slice::<String>(&out).expect("JSON"), text);
            let written = String::from_utf8(out).expect("UTF-8");
            let refused = |c: char| c < ' ' || c == '\u{fffe}' || c == '\u{ffff}';
            prop_assert!(!written.contains(refused), "{}", written);
        }
    }
}
