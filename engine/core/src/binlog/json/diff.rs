//! Partial updates of JSON columns (`binlog_row_value_options=PARTIAL_JSON`): instead of the new document the binlog
//! has the changes of the old one.
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/json__diff_8h.html>

use std::borrow::Cow;

use super::super::bytes::Bytes;
use super::super::error::DecodeErrorKind;
use super::{Budget, Container, DEPTH_MAX, MALFORMED, Width, push_string, value};

const MALFORMED_DIFF: DecodeErrorKind = DecodeErrorKind::Malformed("a partial update of a JSON document");

/// One change of a document.
struct Diff<'a> {
    operation: Operation,
    path: &'a str,
    /// The new value, in the binary format; empty for a removal.
    value: &'a [u8],
}

#[derive(Clone, Copy, PartialEq)]
enum Operation {
    Replace,
    Insert,
    Remove,
}

impl Operation {
    const fn name(self) -> &'static str {
        match self {
            Self::Replace => "replace",
            Self::Insert => "insert",
            Self::Remove => "remove",
        }
    }
}

impl<'a> Diff<'a> {
    fn next(bytes: &mut Bytes<'a>) -> Result<Self, DecodeErrorKind> {
        let operation = match bytes.u8()? {
            0 => Operation::Replace,
            1 => Operation::Insert,
            2 => Operation::Remove,
            _ => return Err(MALFORMED_DIFF),
        };
        let path = std::str::from_utf8(bytes.lenenc_bytes()?).map_err(|_| MALFORMED_DIFF)?;
        let value = if operation == Operation::Remove { &[] } else { bytes.lenenc_bytes()? };
        Ok(Self { operation, path, value })
    }
}

/// Applies `diffs` to `document`, and appends the result as text.
pub(in super::super) fn apply(document: &[u8], diffs: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeErrorKind> {
    let mut bytes = Bytes(diffs);
    if bytes.is_empty() {
        return super::decode(document, out);
    }
    // Parts of the document and of the changes are read, and no byte of them twice.
    let mut budget = Budget(document.len() + diffs.len());
    let mut root = Node::of(document);
    while !bytes.is_empty() {
        change(&mut root, Diff::next(&mut bytes)?, &mut budget)?;
    }
    root.write(0, &mut budget, out)
}

/// Appends the changes themselves as text: an array of `{"op": ..., "path": ..., "value": ...}`.
pub(in super::super) fn describe(diffs: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeErrorKind> {
    let mut bytes = Bytes(diffs);
    let mut separator: &[u8] = b"[";
    while !bytes.is_empty() {
        let Diff { operation, path, value } = Diff::next(&mut bytes)?;
        out.extend_from_slice(separator);
        separator = b", ";
        out.extend_from_slice(b"{\"op\": \"");
        out.extend_from_slice(operation.name().as_bytes());
        out.extend_from_slice(b"\", \"path\": ");
        push_string(path, out);
        if operation != Operation::Remove {
            out.extend_from_slice(b", \"value\": ");
            super::decode(value, out)?;
        }
        out.push(b'}');
    }
    if separator == b"[" {
        out.push(b'[');
    }
    out.push(b']');
    Ok(())
}

/// A document that is unpacked along the paths of changes, and still in the binary format elsewhere.
#[derive(Debug)]
enum Node<'a> {
    /// A value's type, and the bytes from the value on.
    Packed(u8, &'a [u8]),
    Array(Vec<Node<'a>>),
    /// In the server's order of keys: shorter keys first, then by bytes.
    Object(Vec<(Cow<'a, str>, Node<'a>)>),
}

impl<'a> Node<'a> {
    fn of(document: &'a [u8]) -> Self {
        const LITERAL: u8 = 0x04;
        match document.split_first() {
            None => Self::Packed(LITERAL, &[0]),
            Some((&kind, body)) => Self::Packed(kind, body),
        }
    }

    /// Unpacks a container, but not its members.
    fn unpack(&mut self, budget: &mut Budget) -> Result<(), DecodeErrorKind> {
        let Self::Packed(kind, body) = *self else { return Ok(()) };
        let (object, width) = match kind {
            0x00 => (true, Width::Small),
            0x01 => (true, Width::Large),
            0x02 => (false, Width::Small),
            0x03 => (false, Width::Large),
            _ => return Ok(()),
        };
        let mut members = Container::parse(body, object, width, budget)?;
        let (mut array, mut map) = (Vec::new(), Vec::new());
        while let Some((key, kind, body)) = members.next(budget)? {
            let node = Self::Packed(kind, body);
            match key {
                Some(key) => map.push((Cow::Borrowed(key), node)),
                None => array.push(node),
            }
        }
        *self = if object { Self::Object(map) } else { Self::Array(array) };
        Ok(())
    }

    fn write(&self, depth: usize, budget: &mut Budget, out: &mut Vec<u8>) -> Result<(), DecodeErrorKind> {
        if depth > DEPTH_MAX {
            return Err(MALFORMED);
        }
        match self {
            Self::Packed(kind, body) => value(*kind, body, depth, budget, out)?,
            Self::Array(nodes) => {
                out.push(b'[');
                for (index, node) in nodes.iter().enumerate() {
                    if index > 0 {
                        out.extend_from_slice(b", ");
                    }
                    node.write(depth + 1, budget, out)?;
                }
                out.push(b']');
            }
            Self::Object(members) => {
                out.push(b'{');
                for (index, (key, node)) in members.iter().enumerate() {
                    if index > 0 {
                        out.extend_from_slice(b", ");
                    }
                    push_string(key, out);
                    out.extend_from_slice(b": ");
                    node.write(depth + 1, budget, out)?;
                }
                out.push(b'}');
            }
        }
        Ok(())
    }

    /// Returns the member that a path's leg names. A value that isn't an array is its own first and last cell.
    fn member(&mut self, leg: &Leg, budget: &mut Budget) -> Result<&mut Self, DecodeErrorKind> {
        self.unpack(budget)?;
        let member = match (self, leg) {
            (Self::Object(members), Leg::Key(key)) => {
                position(members, key).ok().and_then(|at| members.get_mut(at)).map(|(_, node)| node)
            }
            (Self::Array(nodes), Leg::Cell(cell)) => cell.position(nodes.len()).ok().and_then(|at| nodes.get_mut(at)),
            (node @ (Self::Packed(..) | Self::Object(_)), Leg::Cell(cell)) if cell.position(1).is_ok() => Some(node),
            _ => None,
        };
        member.ok_or(MALFORMED_DIFF)
    }
}

/// Returns the index of a key, or as an error the index at which it would be inserted.
fn position(members: &[(Cow<'_, str>, Node<'_>)], key: &str) -> Result<usize, usize> {
    members.binary_search_by(|(known, _)| (known.len(), known.as_bytes()).cmp(&(key.len(), key.as_bytes())))
}

/// Applies a change.
///
/// # Errors
/// If the change doesn't fit the document.
fn change<'a>(root: &mut Node<'a>, diff: Diff<'a>, budget: &mut Budget) -> Result<(), DecodeErrorKind> {
    let Diff { operation, path, value } = diff;
    let mut legs = legs(path).ok_or(MALFORMED_DIFF)?;
    let Some(last) = legs.pop() else {
        if operation == Operation::Remove {
            return Err(MALFORMED_DIFF);
        }
        *root = Node::of(value);
        return Ok(());
    };
    let mut parent = root;
    for leg in &legs {
        parent = parent.member(leg, budget)?;
    }
    parent.unpack(budget)?;
    match (operation, last, parent) {
        (Operation::Replace, leg, parent) => *parent.member(&leg, budget)? = Node::of(value),
        (Operation::Insert, Leg::Key(key), Node::Object(members)) => {
            let at = position(members, &key).err().ok_or(MALFORMED_DIFF)?;
            members.insert(at, (Cow::Owned(key), Node::of(value)));
        }
        (Operation::Insert, Leg::Cell(cell), Node::Array(nodes)) => {
            let (Ok(at) | Err(at)) = cell.position(nodes.len());
            nodes.insert(at, Node::of(value));
        }
        (Operation::Remove, Leg::Key(key), Node::Object(members)) => {
            let at = position(members, &key).map_err(|_| MALFORMED_DIFF)?;
            members.remove(at);
        }
        (Operation::Remove, Leg::Cell(cell), Node::Array(nodes)) => {
            let at = cell.position(nodes.len()).map_err(|_| MALFORMED_DIFF)?;
            nodes.remove(at);
        }
        _ => return Err(MALFORMED_DIFF),
    }
    Ok(())
}

#[derive(Debug, PartialEq)]
enum Leg {
    Key(String),
    Cell(Cell),
}

/// A cell of an array, counted from the first or from the last one.
#[derive(Debug, PartialEq)]
struct Cell {
    index: usize,
    from_end: bool,
}

impl Cell {
    /// Returns the cell's index in an array of `len` cells, or as an error the index at which it would be inserted.
    fn position(&self, len: usize) -> Result<usize, usize> {
        match (self.from_end, self.index < len) {
            (false, true) => Ok(self.index),
            (false, false) => Err(len),
            (true, true) => Ok(len - self.index - 1),
            (true, false) => Err(0),
        }
    }
}

/// Returns a path's legs: `$.key."other key"[3][last-1]`; `None` if it isn't the path of one value. The server rejects
/// wildcards and ranges (`.*`, `[*]`, `**`, `[1 to 3]`) in the paths of changes.
/// <https://github.com/mysql/mysql-server/blob/trunk/sql-common/json_path.cc> (`parse_path`)
fn legs(path: &str) -> Option<Vec<Leg>> {
    let mut rest = skip_space(skip_space(path).strip_prefix('$')?);
    let mut legs = Vec::new();
    while !rest.is_empty() {
        // No document is deeper. Without this bound changes could nest one deeper, level by level.
        if legs.len() == DEPTH_MAX {
            return None;
        }
        let (leg, after) = match rest.strip_prefix('[') {
            Some(cell) => cell_leg(cell)?,
            None => member_leg(rest.strip_prefix('.')?)?,
        };
        legs.push(leg);
        rest = skip_space(after);
    }
    Some(legs)
}

/// Whether the server ignores a character between the parts of a path.
fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t'..='\r')
}

fn skip_space(text: &str) -> &str {
    text.trim_start_matches(is_space)
}

/// Parses a cell's leg after its bracket (`3]`, `last]`, `last - 2]`), and returns the rest as well.
fn cell_leg(text: &str) -> Option<(Leg, &str)> {
    let text = skip_space(text);
    let (cell, after) = match text.strip_prefix("last").map(skip_space) {
        None => {
            let (index, after) = number(text)?;
            (Cell { index, from_end: false }, after)
        }
        Some(text) => {
            let (index, after) = match text.strip_prefix('-') {
                Some(distance) => number(skip_space(distance))?,
                None => (0, text),
            };
            (Cell { index, from_end: true }, after)
        }
    };
    Some((Leg::Cell(cell), skip_space(after).strip_prefix(']')?))
}

/// Parses a number of 32 bits, and returns the rest as well.
fn number(text: &str) -> Option<(usize, &str)> {
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (digits, after) = text.split_at(end);
    Some((digits.parse::<u32>().ok()? as usize, after))
}

/// Parses a member's leg after its dot (`key`, `"other key"`), and returns the rest as well.
fn member_leg(text: &str) -> Option<(Leg, &str)> {
    let text = skip_space(text);
    let (name, after) = match text.strip_prefix('"') {
        Some(quoted) => {
            let end = end_of_string(quoted)?;
            (&quoted[..end], &quoted[end + 1..])
        }
        None => {
            let ends = |character: char| is_space(character) || matches!(character, '.' | '[' | '*');
            let end = text.find(ends).unwrap_or(text.len());
            if end == 0 {
                return None;
            }
            text.split_at(end)
        }
    };
    Some((Leg::Key(unescape(name)?), after))
}

/// Returns the index of a JSON string's closing quote.
fn end_of_string(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })
}

/// Returns a JSON string's content.
fn unescape(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, escape)) = rest.split_once('\\') {
        out.push_str(plain);
        let mut characters = escape.chars();
        let character = match characters.next()? {
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            same @ ('"' | '\\' | '/') => same,
            'u' => {
                let (character, after) = unescape_utf16(characters.as_str())?;
                characters = after.chars();
                character
            }
            _ => return None,
        };
        out.push(character);
        rest = characters.as_str();
    }
    out.push_str(rest);
    Some(out)
}

/// Parses an escape after its `\u`, which may be a pair (`d83d\ude00`), and returns the rest as well.
fn unescape_utf16(text: &str) -> Option<(char, &str)> {
    let unit = |text: &str| -> Option<u16> {
        let digits = text.get(..4).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
        u16::from_str_radix(digits, 16).ok()
    };
    let first = unit(text)?;
    let after = &text[4..];
    if let Some(character) = char::from_u32(u32::from(first)) {
        return Some((character, after));
    }
    let second = after.strip_prefix("\\u")?;
    let character = char::decode_utf16([first, unit(second)?]).next()?.ok()?;
    Some((character, &second[4..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `{"a": 1, "b": [true, null]}`, as in the tests of the format.
    fn document() -> Vec<u8> {
        let array = [2, 0, 10, 0, 4, 1, 0, 4, 0, 0];
        let mut object = vec![0x00, 2, 0, 30, 0];
        object.extend([18, 0, 1, 0, 19, 0, 1, 0]);
        object.extend([5, 1, 0, 2, 20, 0]);
        object.extend(b"ab");
        object.extend(array);
        object
    }

    fn diff(operation: u8, path: &str, value: &[u8]) -> Vec<u8> {
        let mut bytes = vec![operation, path.len() as u8];
        bytes.extend(path.as_bytes());
        if operation != 2 {
            bytes.push(value.len() as u8);
            bytes.extend(value);
        }
        bytes
    }

    fn applied(diffs: &[Vec<u8>]) -> Result<String, DecodeErrorKind> {
        let mut out = Vec::new();
        apply(&document(), &diffs.concat(), &mut out)?;
        Ok(String::from_utf8(out).expect("text"))
    }

    const SEVEN: &[u8] = &[5, 7, 0];

    #[test]
    fn changes_are_made() {
        let of = |diffs: &[Vec<u8>]| applied(diffs).expect("a document");
        assert_eq!(of(&[]), r#"{"a": 1, "b": [true, null]}"#);
        assert_eq!(of(&[diff(0, "$.a", SEVEN)]), r#"{"a": 7, "b": [true, null]}"#);
        assert_eq!(of(&[diff(0, "$", SEVEN)]), "7");
        assert_eq!(of(&[diff(0, "$.a[0]", SEVEN)]), r#"{"a": 7, "b": [true, null]}"#);
        assert_eq!(of(&[diff(1, "$.b[1]", SEVEN), diff(1, "$.b[99]", SEVEN)]), r#"{"a": 1, "b": [true, 7, null, 7]}"#);
        assert_eq!(of(&[diff(2, "$.b[0]", b""), diff(2, "$.a", b"")]), r#"{"b": [null]}"#);
        // From the end, beyond either end, and in a value that isn't an array.
        assert_eq!(of(&[diff(0, "$.b[last]", SEVEN)]), r#"{"a": 1, "b": [true, 7]}"#);
        assert_eq!(of(&[diff(0, "$.b[last-1]", SEVEN)]), r#"{"a": 1, "b": [7, null]}"#);
        assert_eq!(of(&[diff(2, "$ . b [ last - 1 ] ", b"")]), r#"{"a": 1, "b": [null]}"#);
        assert_eq!(of(&[diff(1, "$.b[last]", SEVEN)]), r#"{"a": 1, "b": [true, 7, null]}"#);
        assert_eq!(of(&[diff(1, "$.b[last-9]", SEVEN)]), r#"{"a": 1, "b": [7, true, null]}"#);
        assert_eq!(of(&[diff(0, "$.a[last]", SEVEN)]), r#"{"a": 7, "b": [true, null]}"#);
        // Shorter keys come first.
        assert_eq!(
            of(&[diff(1, r#"$."aa \"x\"""#, SEVEN), diff(1, "$.c", SEVEN)]),
            r#"{"a": 1, "b": [true, null], "c": 7, "aa \"x\"": 7}"#
        );
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for wrong in [
            diff(0, "$.x", SEVEN),
            diff(1, "$.a", SEVEN),
            diff(1, "$.a.b", SEVEN),
            diff(2, "$.b[2]", b""),
            diff(2, "$", b""),
            diff(0, "a", SEVEN),
            diff(0, "$.b[x]", SEVEN),
            diff(0, "$.b[last-2]", SEVEN),
            diff(2, "$.b[last-2]", b""),
            diff(0, "$.b[last", SEVEN),
            diff(0, "$.b[lasting]", SEVEN),
            diff(0, "$.b[-1]", SEVEN),
            diff(0, "$.b[4294967296]", SEVEN),
            diff(0, "$.b[*]", SEVEN),
            diff(0, "$.b[0 to 1]", SEVEN),
            diff(0, "$.*", SEVEN),
            diff(0, "$**.a", SEVEN),
            diff(0, "$.", SEVEN),
            diff(0, "$.\"a", SEVEN),
            diff(3, "$.a", SEVEN),
        ] {
            assert!(applied(std::slice::from_ref(&wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn paths_are_read_by_the_servers_grammar() {
        let key = |name: &str| Leg::Key(name.to_owned());
        let cell = |index, from_end| Leg::Cell(Cell { index, from_end });
        for (path, expected) in [
            ("$", vec![]),
            (" \t\n\u{b}\u{c}\r$ \n", vec![]),
            ("$.a.$b._c1", vec![key("a"), key("$b"), key("_c1")]),
            ("$ . a [ 007 ] [4294967295]", vec![key("a"), cell(7, false), cell(4_294_967_295, false)]),
            ("$[last][last-0][last - 12]", vec![cell(0, true), cell(0, true), cell(12, true)]),
            (r#"$."a.b[0]"." "."""#, vec![key("a.b[0]"), key(" "), key("")]),
            (r#"$."\"\\\/\b\f\n\r\t\u0001"[0]"#, vec![key("\"\\/\u{8}\u{c}\n\r\t\u{1}"), cell(0, false)]),
            ("$.\"\u{1f600}\".\"\\uD83D\\ude00\".\u{142}", vec![key("\u{1f600}"), key("\u{1f600}"), key("\u{142}")]),
        ] {
            assert_eq!(legs(path), Some(expected), "{path}");
        }
        for wrong in
            [r#"$."\ud83d""#, r#"$."\ud83dx""#, r#"$."\ud83d\u0041""#, r#"$."\u+041""#, r#"$."\u00é""#, r#"$."\x""#]
        {
            assert_eq!(legs(wrong), None, "{wrong}");
        }
    }

    /// Changes that each go deeper than the last could make a document as deep as the event is long.
    #[test]
    fn a_document_gets_no_deeper_than_the_server_allows() {
        let nested = |levels: usize| {
            let mut value = vec![0, 0, 4, 0];
            for _ in 1..levels {
                let mut outer = vec![1, 0];
                outer.extend((7 + value.len() as u16).to_le_bytes());
                outer.extend([0x02, 7, 0]);
                outer.extend(value);
                value = outer;
            }
            value.insert(0, 0x02);
            value
        };
        let insert = |path: String, value: &[u8]| {
            let mut diff = vec![1, 0xfc];
            diff.extend((path.len() as u16).to_le_bytes());
            diff.extend(path.as_bytes());
            diff.push(0xfc);
            diff.extend((value.len() as u16).to_le_bytes());
            diff.extend(value);
            diff
        };
        let mut out = Vec::new();
        let value = nested(50);
        let diffs = insert(format!("${}", "[0]".repeat(50)), &value);
        assert_eq!(apply(&value, &diffs, &mut out), Ok(()));
        assert_eq!(out, [[b'['; 100], [b']'; 100]].concat());
        let diffs: Vec<u8> = (1..200).flat_map(|nth| insert(format!("${}", "[0]".repeat(50 * nth)), &value)).collect();
        assert_eq!(apply(&value, &diffs, &mut out), Err(MALFORMED_DIFF));
    }

    #[test]
    fn values_that_share_their_bytes_are_refused() {
        // A thousand times the same text of 10,000 bytes: as the document, and as a change of it.
        let mut shared = vec![0x02, 0xe8, 0x03];
        shared.extend((4 + 3_000u16 + 10_002).to_le_bytes());
        shared.extend([0x0c, 0xbc, 0x0b].repeat(1_000));
        shared.extend([0x90, 0x4e]);
        shared.extend([b'x'; 10_000]);
        let mut out = Vec::new();
        assert!(apply(&shared, &diff(1, "$[0]", SEVEN), &mut out).is_err());
        let mut change = vec![0, 1, b'$', 0xfc];
        change.extend((shared.len() as u16).to_le_bytes());
        change.extend(&shared);
        assert!(apply(&document(), &change, &mut out).is_err());
        assert!(describe(&change, &mut out).is_err());
        assert!(out.len() < 100_000, "{} bytes", out.len());
    }

    #[test]
    fn changes_are_described() {
        let mut out = Vec::new();
        describe(&[diff(0, "$.a", SEVEN), diff(2, "$.b", b"")].concat(), &mut out).expect("text");
        let expected = r#"[{"op": "replace", "path": "$.a", "value": 7}, {"op": "remove", "path": "$.b"}]"#;
        assert_eq!(std::str::from_utf8(&out), Ok(expected));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(document in proptest::collection::vec(any::<u8>(), 0..80), diffs in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = apply(&document, &diffs, &mut Vec::new());
            let _ = describe(&diffs, &mut Vec::new());
        }
    }
}
