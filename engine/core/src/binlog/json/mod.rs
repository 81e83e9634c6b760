//! `JSON` columns: MySQL's binary JSON as text, as `SELECT` shows it (`{"a": 1, "b": [true, null]}`).
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/json__binary_8h.html>

mod diff;

use super::bytes::Bytes;
use super::decimal;
use super::error::DecodeErrorKind;
use super::number::push_json_double;
use super::temporal;

pub(super) use diff::{apply, describe};

/// The most levels of nesting; the server allows 100.
const DEPTH_MAX: usize = 110;

const MALFORMED: DecodeErrorKind = DecodeErrorKind::Malformed("a JSON document");

/// The number of bytes of a document that may still be read.
///
/// Each container, key and text of a document has bytes of its own, also after updates in place, so reading all of them
/// reads no byte twice. In a malformed document the offsets of many members may lead to the same container, and those
/// of its members to a third one, which would be exponential work.
struct Budget(usize);

impl Budget {
    fn of(document: &[u8]) -> Self {
        Self(document.len())
    }

    #[inline]
    fn spend(&mut self, bytes: usize) -> Result<(), DecodeErrorKind> {
        // Not `ok_or`, here and below, which would build and drop an error for each value.
        let Some(left) = self.0.checked_sub(bytes) else { return Err(MALFORMED) };
        self.0 = left;
        Ok(())
    }
}

/// Appends a document as text; an empty one is `null`.
pub(super) fn decode(document: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeErrorKind> {
    match document.split_first() {
        None => out.extend_from_slice(b"null"),
        Some((&kind, body)) => value(kind, body, 0, &mut Budget::of(document), out)?,
    }
    Ok(())
}

fn value(kind: u8, body: &[u8], depth: usize, budget: &mut Budget, out: &mut Vec<u8>) -> Result<(), DecodeErrorKind> {
    if depth > DEPTH_MAX {
        return Err(MALFORMED);
    }
    let mut bytes = Bytes(body);
    match kind {
        0x00 => container(body, true, Width::Small, depth, budget, out),
        0x01 => container(body, true, Width::Large, depth, budget, out),
        0x02 => container(body, false, Width::Small, depth, budget, out),
        0x03 => container(body, false, Width::Large, depth, budget, out),
        0x04 => literal(bytes.u8()?, out),
        0x05 => push_int(bytes.u16()? as i16, out),
        0x06 => push_int(bytes.u16()?, out),
        0x07 => push_int(bytes.u32()? as i32, out),
        0x08 => push_int(bytes.u32()?, out),
        0x09 => push_int(bytes.u64()? as i64, out),
        0x0a => push_int(bytes.u64()?, out),
        0x0b => {
            let number = f64::from_bits(bytes.u64()?);
            if !number.is_finite() {
                return Err(MALFORMED);
            }
            push_json_double(number, out);
            Ok(())
        }
        0x0c => {
            let len = variable_len(&mut bytes)?;
            budget.spend(len)?;
            let text = std::str::from_utf8(bytes.take(len)?).map_err(|_| MALFORMED)?;
            push_string(text, out);
            Ok(())
        }
        0x0f => opaque(bytes, budget, out),
        _ => Err(MALFORMED),
    }
}

/// The width of a container's offsets: 2 bytes in containers below 64 KiB, 4 bytes in others.
#[derive(Clone, Copy, PartialEq)]
enum Width {
    Small,
    Large,
}

impl Width {
    const fn len(self) -> usize {
        match self {
            Self::Small => 2,
            Self::Large => 4,
        }
    }

    /// Whether an entry has a value of this type in place of its offset.
    const fn inlines(self, kind: u8) -> bool {
        matches!(kind, 0x04..=0x06) || matches!(self, Self::Large) && matches!(kind, 0x07 | 0x08)
    }
}

/// The members of an array or object that are left to read, in their order.
struct Container<'a> {
    body: &'a [u8],
    width: Width,
    keys: Option<Bytes<'a>>,
    entries: Bytes<'a>,
    left: usize,
}

/// A member: its key in an object, its type, and the bytes from its value on.
type Member<'a> = (Option<&'a str>, u8, &'a [u8]);

impl<'a> Container<'a> {
    fn parse(body: &'a [u8], object: bool, width: Width, budget: &mut Budget) -> Result<Self, DecodeErrorKind> {
        let len = width.len();
        let mut bytes = Bytes(body);
        let count = bytes.uint(len)? as usize;
        let size = bytes.uint(len)? as usize;
        // Offsets count from the container's start, and no part of it lies past its size.
        let Some(body) = body.get(..size) else { return Err(MALFORMED) };
        let Some(keys) = body.get(2 * len..).map(Bytes) else { return Err(MALFORMED) };
        let Some(keys_len) = count.checked_mul(if object { len + 2 } else { 0 }) else { return Err(MALFORMED) };
        let mut entries = keys;
        entries.take(keys_len)?;
        let entries_len = count.checked_mul(1 + len).filter(|len| *len <= entries.0.len());
        let Some(entries_len) = entries_len else { return Err(MALFORMED) };
        budget.spend(2 * len + keys_len + entries_len)?;
        Ok(Self { body, width, keys: object.then_some(keys), entries, left: count })
    }

    fn next(&mut self, budget: &mut Budget) -> Result<Option<Member<'a>>, DecodeErrorKind> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        let len = self.width.len();
        let key = match &mut self.keys {
            Some(keys) => {
                let key_at = keys.uint(len)? as usize;
                let key_len = usize::from(keys.u16()?);
                budget.spend(key_len)?;
                let key = self.body.get(key_at..).and_then(|rest| rest.get(..key_len));
                let Some(Ok(key)) = key.map(std::str::from_utf8) else { return Err(MALFORMED) };
                Some(key)
            }
            None => None,
        };
        let kind = self.entries.u8()?;
        let entry = self.entries.take(len)?;
        let value = if self.width.inlines(kind) {
            entry
        } else {
            let at = Bytes(entry).uint(len)? as usize;
            let Some(value) = self.body.get(at..) else { return Err(MALFORMED) };
            value
        };
        Ok(Some((key, kind, value)))
    }
}

fn container(
    body: &[u8],
    object: bool,
    width: Width,
    depth: usize,
    budget: &mut Budget,
    out: &mut Vec<u8>,
) -> Result<(), DecodeErrorKind> {
    let mut members = Container::parse(body, object, width, budget)?;
    out.push(if object { b'{' } else { b'[' });
    let mut first = true;
    while let Some((key, kind, body)) = members.next(budget)? {
        if !first {
            out.extend_from_slice(b", ");
        }
        first = false;
        if let Some(key) = key {
            push_string(key, out);
            out.extend_from_slice(b": ");
        }
        value(kind, body, depth + 1, budget, out)?;
    }
    out.push(if object { b'}' } else { b']' });
    Ok(())
}

fn literal(code: u8, out: &mut Vec<u8>) -> Result<(), DecodeErrorKind> {
    out.extend_from_slice(match code {
        0 => b"null",
        1 => b"true",
        2 => b"false",
        _ => return Err(MALFORMED),
    });
    Ok(())
}

fn push_int(number: impl itoa::Integer, out: &mut Vec<u8>) -> Result<(), DecodeErrorKind> {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    Ok(())
}

/// Reads a length of 7 bits a byte, the lowest first.
fn variable_len(bytes: &mut Bytes<'_>) -> Result<usize, DecodeErrorKind> {
    let mut len = 0u64;
    for shift in (0..35).step_by(7) {
        let byte = bytes.u8()?;
        len |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(len as usize);
        }
    }
    Err(MALFORMED)
}

/// Appends a value of a MySQL type that JSON doesn't have.
/// <https://github.com/mysql/mysql-server/blob/trunk/sql-common/json_dom.cc> (`wrapper_to_string`)
fn opaque(mut bytes: Bytes<'_>, budget: &mut Budget, out: &mut Vec<u8>) -> Result<(), DecodeErrorKind> {
    /// The type of texts from subqueries.
    const VAR_STRING: u8 = 253;
    let column_type = bytes.u8()?;
    let len = variable_len(&mut bytes)?;
    budget.spend(len)?;
    let mut body = Bytes(bytes.take(len)?);
    match column_type {
        246 => {
            let (precision, scale) = (body.u8()?, body.u8()?);
            decimal::decode(&mut body, precision, scale, out)?;
        }
        7 | 10 | 11 | 12 => {
            out.push(b'"');
            let packed = body.u64()?;
            match column_type {
                10 => temporal::json_datetime(packed, false, out),
                11 => temporal::json_time(packed as i64, out),
                _ => temporal::json_datetime(packed, true, out),
            }
            out.push(b'"');
        }
        other => match std::str::from_utf8(body.0) {
            Ok(text) if other == VAR_STRING => push_string(text, out),
            _ => push_base64(other, body.0, out)?,
        },
    }
    Ok(())
}

/// Appends bytes as the server shows them: in base64, in lines of 76 characters.
/// <https://github.com/mysql/mysql-server/blob/trunk/mysys/base64.cc> (`base64_encode`)
fn push_base64(column_type: u8, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeErrorKind> {
    const LINE_BYTES: usize = 76 / 4 * 3;
    out.extend_from_slice(b"\"base64:type");
    push_int(column_type, out)?;
    out.push(b':');
    for (index, line) in bytes.chunks(LINE_BYTES).enumerate() {
        if index > 0 {
            out.extend_from_slice(b"\\n");
        }
        base64_simd::STANDARD.encode_append(line, out);
    }
    out.push(b'"');
    Ok(())
}

/// Appends a string in quotes, escaped as the server does it.
fn push_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(plain) = rest.iter().position(|&byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
        let (before, after) = rest.split_at(plain);
        out.extend_from_slice(before);
        match after[0] {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            control => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(control >> 4)]);
                out.push(HEX[usize::from(control & 15)]);
            }
        }
        rest = &after[1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(document: &[u8]) -> String {
        let mut out = Vec::new();
        decode(document, &mut out).expect("a document");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn scalars() {
        assert_eq!(text(b""), "null");
        assert_eq!(text(&[0x04, 1]), "true");
        assert_eq!(text(&[0x05, 0xff, 0xff]), "-1");
        assert_eq!(text(b"\x0c\x05a\"\n\x01z"), r#""a\"\n\u0001z""#);
        assert_eq!(text(&[0x0f, 246, 4, 3, 1, 0x8a, 0x05]), "10.5");
    }

    /// `{"a": 1, "b": [true, null]}`, encoded by hand from the format's description.
    #[test]
    fn containers() {
        let array = [2, 0, 10, 0, 4, 1, 0, 4, 0, 0];
        let mut object = vec![0x00, 2, 0, 30, 0];
        object.extend([18, 0, 1, 0, 19, 0, 1, 0]); // keys
        object.extend([5, 1, 0, 2, 20, 0]); // values: an inline int16 and an array at 20
        object.extend(b"ab");
        object.extend(array);
        assert_eq!(text(&object), r#"{"a": 1, "b": [true, null]}"#);
    }

    /// Returns a value of `len` bytes, of a type that JSON doesn't have.
    fn opaque_value(column_type: u8, len: usize) -> Vec<u8> {
        let mut value = vec![0x0f, column_type];
        let mut rest = len;
        while rest > 0x7f {
            value.push(rest as u8 & 0x7f | 0x80);
            rest >>= 7;
        }
        value.push(rest as u8);
        value.resize(value.len() + len, b'x');
        value
    }

    #[test]
    fn opaque_values_have_the_servers_line_breaks() {
        let line = "eHh4".repeat(19);
        assert_eq!(text(&opaque_value(252, 0)), r#""base64:type252:""#);
        assert_eq!(text(&opaque_value(15, 3)), r#""base64:type15:eHh4""#);
        assert_eq!(text(&opaque_value(15, 57)), format!(r#""base64:type15:{line}""#));
        assert_eq!(text(&opaque_value(15, 58)), format!(r#""base64:type15:{line}\neA==""#));
        assert_eq!(text(&opaque_value(252, 114)), format!(r#""base64:type252:{line}\n{line}""#));
        assert_eq!(text(&opaque_value(252, 116)), format!(r#""base64:type252:{line}\n{line}\neHg=""#));
    }

    #[test]
    fn texts_of_subqueries_are_texts() {
        assert_eq!(text(b"\x0f\xfd\x03a\"b"), r#""a\"b""#);
        assert_eq!(text(b"\x0f\xfd\x01\xff"), r#""base64:type253:/w==""#, "not valid text");
    }

    /// Returns an array of `count` members that are all the value at `at`; `rest` follows the entries.
    fn array(count: u16, kind: u8, at: u16, rest: &[u8]) -> Vec<u8> {
        let mut array = count.to_le_bytes().to_vec();
        array.extend((4 + 3 * count + rest.len() as u16).to_le_bytes());
        for _ in 0..count {
            array.push(kind);
            array.extend(at.to_le_bytes());
        }
        array.extend_from_slice(rest);
        array
    }

    fn decoded_len(document: &[u8]) -> Result<usize, DecodeErrorKind> {
        let mut out = Vec::new();
        decode(document, &mut out).map(|()| out.len())
    }

    #[test]
    fn members_that_share_their_bytes_are_refused() {
        // Arrays of four in arrays of four, and so on: 4^40 values of 600 bytes.
        let mut nested = array(0, 0, 0, b"");
        for _ in 0..40 {
            nested = array(4, 0x02, 4 + 3 * 4, &nested);
        }
        assert_eq!(decoded_len(&[&[0x02], &nested[..]].concat()), Err(MALFORMED));
        // An array that contains itself.
        assert_eq!(decoded_len(&[&[0x02], &array(4, 0x02, 0, b"")[..]].concat()), Err(MALFORMED));
        // 10,000 times the same text of 10,000 bytes, binary value, and key.
        for (kind, value) in [(0x0c, [0x90, 0x4e].as_slice()), (0x0f, &[252, 0x90, 0x4e])] {
            let shared = array(10_000, kind, 4 + 3 * 10_000, &[value, &[b'x'; 10_000]].concat());
            assert_eq!(decoded_len(&[&[0x02], &shared[..]].concat()), Err(MALFORMED));
        }
        let mut object = 1_000u16.to_le_bytes().to_vec();
        object.extend(17_004u16.to_le_bytes());
        object.extend([7_004u16.to_le_bytes(), 10_000u16.to_le_bytes()].concat().repeat(1_000));
        object.extend([4, 0, 0].repeat(1_000));
        object.extend([b'k'; 10_000]);
        assert_eq!(decoded_len(&[&[0x00], &object[..]].concat()), Err(MALFORMED));
        // A count that doesn't fit the container's size.
        assert_eq!(decoded_len(&[0x03, 0xff, 0xff, 0xff, 0xff, 8, 0, 0, 0]), Err(MALFORMED));
    }

    #[test]
    fn members_may_lie_in_any_order() {
        // Two texts, the second before the first, with a gap, as updates in place leave them.
        let mut array = vec![0x02, 2, 0, 18, 0, 0x0c, 15, 0, 0x0c, 11, 0];
        array.extend(b"?\x01b??\x02aa");
        assert_eq!(text(&array), r#"["aa", "b"]"#);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(document in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut out = Vec::new();
            let _ = decode(&document, &mut out);
        }
    }
}
