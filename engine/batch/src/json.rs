//! JSON strings that SQS accepts, for the engine and for plugins. SQS refuses U+0000 to U+001F (except tab, LF and
//! CR), U+FFFE and U+FFFF, so strings escape them.
//! <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html>

/// A short text that is appended often, stored in blocks of 16 bytes. A copy of variable length is a call (in a
/// plugin, a call of the host), which costs more than the copied bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Literal {
    blocks: Vec<[u8; 16]>,
    len: usize,
}

impl Literal {
    /// Creates a literal of these bytes.
    pub fn new(text: &[u8]) -> Self {
        let block = |bytes: &[u8]| std::array::from_fn(|index| bytes.get(index).copied().unwrap_or_default());
        Self { blocks: text.chunks(16).map(block).collect(), len: text.len() }
    }

    /// Appends the text.
    #[inline]
    pub fn push_to(&self, out: &mut Vec<u8>) {
        let end = out.len() + self.len;
        self.blocks.iter().for_each(|block| out.extend_from_slice(block));
        out.truncate(end);
    }
}

/// Appends a string with its quotes.
#[inline]
pub fn push_string(text: &str, out: &mut Vec<u8>) {
    push_utf8(text.as_bytes(), out);
}

/// Appends a string with its quotes. Bytes that are not UTF-8 stay as they are.
#[inline]
pub fn push_utf8(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    push_escaped(text, out);
    out.push(b'"');
}

/// Appends a string without its quotes.
#[inline]
pub fn push_escaped(text: &[u8], out: &mut Vec<u8>) {
    push_by(push_escape, text, out);
}

/// Appends a text escaped twice, as [`push_escaped`] of the output of [`push_escaped`]: for a string in JSON that is
/// itself in a JSON string.
#[inline]
pub fn push_escaped_twice(text: &[u8], out: &mut Vec<u8>) {
    push_by(push_escape_twice, text, out);
}

/// Appends a text. `push_escape` is called at each byte that may need an escape: it appends the escaped character,
/// and returns the rest.
#[inline]
fn push_by<'a>(push_escape: impl Fn(&'a [u8], &mut Vec<u8>) -> &'a [u8], text: &'a [u8], out: &mut Vec<u8>) {
    // One check of the capacity for all that follows, unless much of the text is escaped.
    out.reserve(text.len() + 8);
    let mut rest = text;
    while HAS_VECTORS
        && let Some((block, after)) = rest.split_first_chunk::<32>()
        && is_plain(block)
    {
        out.extend_from_slice(block);
        rest = after;
    }
    while let Some((word, after)) = rest.split_first_chunk::<8>() {
        // In a plugin this is one store; a copy of variable length is a call of the host.
        out.extend_from_slice(word);
        rest = match first_special(u64::from_le_bytes(*word)) {
            None => after,
            Some(plain) => {
                out.truncate(out.len() - (8 - plain));
                push_escape(&rest[plain..], out)
            }
        };
    }
    while !rest.is_empty() {
        let word = word_of(rest);
        out.extend_from_slice(&word.to_le_bytes());
        // The missing bytes are zero and would be taken for control characters: fill them with letters.
        match first_special(word | FILLER << (8 * rest.len())) {
            None => {
                out.truncate(out.len() - (8 - rest.len()));
                return;
            }
            Some(plain) => {
                out.truncate(out.len() - (8 - plain));
                rest = push_escape(&rest[plain..], out);
            }
        }
    }
}

/// Whether the text is checked in blocks of 32 bytes, as by vector instructions. Plugins are compiled without these.
const HAS_VECTORS: bool = !cfg!(target_family = "wasm");

/// Whether no byte of the block may need an escape.
#[inline]
fn is_plain(block: &[u8; 32]) -> bool {
    let needs = |byte: u8| (byte < 0x20) | (byte == b'"') | (byte == b'\\') | (byte == 0xef);
    block.iter().fold(0u8, |found, &byte| found | u8::from(needs(byte))) == 0
}

/// A letter in each of eight bytes.
const FILLER: u64 = u64::from_le_bytes(*b"aaaaaaaa");

/// Returns up to seven bytes as a number, the first byte lowest.
#[inline]
fn word_of(bytes: &[u8]) -> u64 {
    // Two loads, from both ends, which may overlap: fewer than one for each byte.
    let ends = |first: u64, last: u64, width: usize| first | last << (8 * (bytes.len() - width));
    match (bytes.first_chunk::<4>(), bytes.last_chunk::<4>(), bytes.first_chunk::<2>(), bytes.last_chunk::<2>()) {
        (Some(first), Some(last), ..) => ends(u32::from_le_bytes(*first).into(), u32::from_le_bytes(*last).into(), 4),
        (.., Some(first), Some(last)) => ends(u16::from_le_bytes(*first).into(), u16::from_le_bytes(*last).into(), 2),
        _ => bytes.first().copied().unwrap_or_default().into(),
    }
}

/// Returns how many of eight bytes are before the first that may need an escape, if one may: quotes, backslashes,
/// control characters, and the first byte of U+FFFE and U+FFFF.
/// <https://graphics.stanford.edu/~seander/bithacks.html#ZeroInWord>
#[inline]
fn first_special(word: u64) -> Option<usize> {
    const ONES: u64 = u64::from_le_bytes([0x01; 8]);
    const HIGHS: u64 = u64::from_le_bytes([0x80; 8]);
    let is_zero = |word: u64| word.wrapping_sub(ONES) & !word;
    let is = |byte: u8| is_zero(word ^ (ONES * u64::from(byte)));
    let is_control = word.wrapping_sub(ONES * 0x20) & !word;
    // A borrow falsifies only higher bytes, so the lowest byte found is a true one.
    let found = (is_control | is(b'"') | is(b'\\') | is(0xef)) & HIGHS;
    (found != 0).then(|| found.trailing_zeros() as usize / 8)
}

/// Appends the first byte, or the character that begins with it, as a string has it. Returns the rest.
#[inline]
fn push_escape<'a>(bytes: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
    // Most often, a quote of JSON in a string.
    match bytes {
        [b'"', rest @ ..] => {
            out.extend_from_slice(b"\\\"");
            rest
        }
        // Next often, a quote of JSON in a string of that JSON.
        [b'\\', b'"', rest @ ..] => {
            out.extend_from_slice(b"\\\\\\\"");
            rest
        }
        _ => push_rare_escape(bytes, out),
    }
}

/// Does the same for [`push_escaped_twice`].
#[inline]
fn push_escape_twice<'a>(bytes: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
    match bytes {
        [b'"', rest @ ..] => {
            out.extend_from_slice(b"\\\\\\\"");
            rest
        }
        _ => push_rare_escape_twice(bytes, out),
    }
}

#[inline(never)]
fn push_rare_escape_twice<'a>(bytes: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
    let start = out.len();
    let rest = push_rare_escape(bytes, out);
    let mut once = [0; ESCAPE_LEN_MAX];
    let once = &mut once[..out.len() - start];
    once.copy_from_slice(&out[start..]);
    out.truncate(start);
    push_escaped(once, out);
    rest
}

/// The bytes of `\u001f`: no character's escape is longer.
const ESCAPE_LEN_MAX: usize = 6;

#[inline(never)]
fn push_rare_escape<'a>(bytes: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
    let (escape, rest): (&[u8], &[u8]) = match bytes {
        [b'\\', rest @ ..] => (b"\\\\", rest),
        [b'\n', rest @ ..] => (b"\\n", rest),
        [b'\r', rest @ ..] => (b"\\r", rest),
        [b'\t', rest @ ..] => (b"\\t", rest),
        [0xef, 0xbf, 0xbe, rest @ ..] => (b"\\ufffe", rest),
        [0xef, 0xbf, 0xbf, rest @ ..] => (b"\\uffff", rest),
        [control @ ..0x20, rest @ ..] => {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            let digits = [HEX[usize::from(control >> 4)], HEX[usize::from(control & 15)]];
            out.extend_from_slice(b"\\u00");
            out.extend_from_slice(&digits);
            return rest;
        }
        [other, rest @ ..] => {
            out.push(*other);
            return rest;
        }
        [] => return bytes,
    };
    out.extend_from_slice(escape);
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_what_they_were_made_of() {
        let text = "a text of more than sixteen bytes, and of more than thirty-two";
        for len in 0..text.len() {
            let mut out = b"before".to_vec();
            Literal::new(&text.as_bytes()[..len]).push_to(&mut out);
            assert_eq!(out, [b"before", &text.as_bytes()[..len]].concat());
        }
    }

    #[test]
    fn every_byte_at_every_place() {
        // Two blocks of 32 bytes, a word of 8, and three bytes.
        const LEN: usize = 2 * 32 + 8 + 3;
        for byte in 0..0x80u8 {
            for place in 0..LEN {
                for filler in ["a", "!", "#", "]", "[", "\u{7f}", "\u{e9}", "\u{ffee}"] {
                    let text: String = (0..LEN)
                        .map(|at| if at == place { char::from(byte).to_string() } else { filler.to_owned() })
                        .collect();
                    let mut out = Vec::new();
                    push_string(&text, &mut out);
                    let escaped = match byte {
                        b'"' | b'\\' => format!("\\{}", char::from(byte)),
                        b'\n' => "\\n".to_owned(),
                        b'\r' => "\\r".to_owned(),
                        b'\t' => "\\t".to_owned(),
                        ..b' ' => format!("\\u{byte:04x}"),
                        _ => char::from(byte).to_string(),
                    };
                    let expected = format!("\"{}{escaped}{}\"", filler.repeat(place), filler.repeat(LEN - 1 - place));
                    assert_eq!(String::from_utf8_lossy(&out), expected);
                }
            }
        }
    }
}
