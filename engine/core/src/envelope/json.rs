//! JSON as SQS takes it.

pub use rowmill_batch::json::push_string;
pub(super) use rowmill_batch::json::push_utf8;

/// Appends a number.
pub fn push_int(number: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
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
