//! JSON as SQS takes it. SQS refuses U+0000 to U+001F (but tab, LF and CR), U+FFFE and U+FFFF, so
//! strings escape them.
//! <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html>

/// Bytes that need a look: quotes, backslashes, controls, and the first byte of U+FFFE and U+FFFF.
const SPECIAL: [bool; 256] = {
    let mut special = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        special[byte] = true;
        byte += 1;
    }
    special[b'"' as usize] = true;
    special[b'\\' as usize] = true;
    special[0xef] = true;
    special
};

/// Appends a string with its quotes.
pub fn push_string(text: &str, out: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    out.reserve(bytes.len() + 2);
    out.push(b'"');
    let mut copied = 0;
    let mut at = 0;
    while let Some(next) = bytes[at..].iter().position(|&byte| SPECIAL[usize::from(byte)]) {
        at += next;
        let (escape, len): (&[u8], usize) = match bytes[at] {
            b'"' => (b"\\\"", 1),
            b'\\' => (b"\\\\", 1),
            b'\n' => (b"\\n", 1),
            b'\r' => (b"\\r", 1),
            b'\t' => (b"\\t", 1),
            0xef => match bytes[at..] {
                [_, 0xbf, 0xbe, ..] => (b"\\ufffe", 3),
                [_, 0xbf, 0xbf, ..] => (b"\\uffff", 3),
                _ => {
                    at += 1;
                    continue;
                }
            },
            control => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(&bytes[copied..at]);
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(control >> 4)]);
                out.push(HEX[usize::from(control & 15)]);
                (b"", 1)
            }
        };
        if !escape.is_empty() {
            out.extend_from_slice(&bytes[copied..at]);
            out.extend_from_slice(escape);
        }
        at += len;
        copied = at;
    }
    out.extend_from_slice(&bytes[copied..]);
    out.push(b'"');
}

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
