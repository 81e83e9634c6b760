//! Partial updates of JSON columns (`binlog_row_value_options=PARTIAL_JSON`): instead of the new
//! document the binlog has what changed in the old one.
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/json__diff_8h.html>

use std::borrow::Cow;

use super::super::bytes::Bytes;
use super::super::error::Fault;
use super::{Container, DEPTH_MAX, MALFORMED, Width, push_string, value};

const MALFORMED_DIFF: Fault = Fault::Malformed("a partial update of a JSON document");

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
    fn next(bytes: &mut Bytes<'a>) -> Result<Self, Fault> {
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

/// Appends the document that `diffs` make of `document`, as text.
pub(in super::super) fn apply(document: &[u8], diffs: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    let mut bytes = Bytes(diffs);
    if bytes.is_empty() {
        return super::decode(document, out);
    }
    let mut root = Node::parse(document)?;
    while !bytes.is_empty() {
        let Diff { operation, path, value } = Diff::next(&mut bytes)?;
        change(&mut root, operation, path, value).ok_or(MALFORMED_DIFF)??;
    }
    root.write(0, out)
}

/// Appends the changes themselves as text: an array of `{"op": ..., "path": ..., "value": ...}`.
pub(in super::super) fn describe(diffs: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
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

/// A document taken apart, its leaves still in the binary format.
#[derive(Debug)]
enum Node<'a> {
    Leaf(u8, &'a [u8]),
    Array(Vec<Node<'a>>),
    /// Ordered as the server orders keys: the shorter first, then by bytes.
    Object(Vec<(Cow<'a, str>, Node<'a>)>),
}

impl<'a> Node<'a> {
    fn parse(document: &'a [u8]) -> Result<Self, Fault> {
        const LITERAL: u8 = 0x04;
        match document.split_first() {
            None => Ok(Self::Leaf(LITERAL, &[0])),
            Some((&kind, body)) => Self::of(kind, body, 0),
        }
    }

    fn of(kind: u8, body: &'a [u8], depth: usize) -> Result<Self, Fault> {
        if depth > DEPTH_MAX {
            return Err(MALFORMED);
        }
        let (object, width) = match kind {
            0x00 => (true, Width::Small),
            0x01 => (true, Width::Large),
            0x02 => (false, Width::Small),
            0x03 => (false, Width::Large),
            _ => return Ok(Self::Leaf(kind, body)),
        };
        let mut members = Container::parse(body, object, width)?;
        let (mut array, mut map) = (Vec::new(), Vec::new());
        while let Some((key, kind, body)) = members.next()? {
            let node = Self::of(kind, body, depth + 1)?;
            match key {
                Some(key) => map.push((Cow::Borrowed(key), node)),
                None => array.push(node),
            }
        }
        Ok(if object { Self::Object(map) } else { Self::Array(array) })
    }

    fn write(&self, depth: usize, out: &mut Vec<u8>) -> Result<(), Fault> {
        if depth > DEPTH_MAX {
            return Err(MALFORMED);
        }
        match self {
            Self::Leaf(kind, body) => value(*kind, body, depth, out)?,
            Self::Array(nodes) => {
                out.push(b'[');
                for (index, node) in nodes.iter().enumerate() {
                    if index > 0 {
                        out.extend_from_slice(b", ");
                    }
                    node.write(depth + 1, out)?;
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
                    node.write(depth + 1, out)?;
                }
                out.push(b'}');
            }
        }
        Ok(())
    }

    /// The member that a path's leg names. The first cell of what isn't an array is itself.
    fn member(&mut self, leg: &Leg) -> Option<&mut Self> {
        match (self, leg) {
            (Self::Object(members), Leg::Key(key)) => {
                let at = position(members, key).ok()?;
                Some(&mut members[at].1)
            }
            (Self::Array(nodes), Leg::Cell(index)) => nodes.get_mut(*index),
            (node @ (Self::Leaf(..) | Self::Object(_)), Leg::Cell(0)) => Some(node),
            _ => None,
        }
    }
}

/// Where a key is, or where it would be.
fn position(members: &[(Cow<'_, str>, Node<'_>)], key: &str) -> Result<usize, usize> {
    members.binary_search_by(|(known, _)| (known.len(), known.as_bytes()).cmp(&(key.len(), key.as_bytes())))
}

/// `None` if the document doesn't have what the change is about.
fn change<'a>(root: &mut Node<'a>, operation: Operation, path: &str, new: &'a [u8]) -> Option<Result<(), Fault>> {
    let mut legs = legs(path)?;
    let new = match (operation, Node::parse(new)) {
        (Operation::Remove, _) => None,
        (_, Ok(node)) => Some(node),
        (_, Err(fault)) => return Some(Err(fault)),
    };
    let last = match (legs.pop(), new) {
        (Some(last), new) => (last, new),
        (None, Some(new)) => {
            *root = new;
            return Some(Ok(()));
        }
        (None, None) => return None,
    };
    let mut parent = root;
    for leg in &legs {
        parent = parent.member(leg)?;
    }
    match (operation, last, parent) {
        (Operation::Replace, (leg, Some(new)), parent) => *parent.member(&leg)? = new,
        (Operation::Insert, (Leg::Key(key), Some(new)), Node::Object(members)) => {
            let at = position(members, &key).err()?;
            members.insert(at, (Cow::Owned(key), new));
        }
        (Operation::Insert, (Leg::Cell(index), Some(new)), Node::Array(nodes)) => {
            nodes.insert(index.min(nodes.len()), new);
        }
        (Operation::Remove, (Leg::Key(key), _), Node::Object(members)) => {
            let at = position(members, &key).ok()?;
            members.remove(at);
        }
        (Operation::Remove, (Leg::Cell(index), _), Node::Array(nodes)) if index < nodes.len() => {
            nodes.remove(index);
        }
        _ => return None,
    }
    Some(Ok(()))
}

#[derive(Debug, PartialEq)]
enum Leg {
    Key(String),
    Cell(usize),
}

/// A path's legs: `$.key."other key"[3]`.
fn legs(path: &str) -> Option<Vec<Leg>> {
    let mut rest = path.trim_start().strip_prefix('$')?.trim_start();
    let mut legs = Vec::new();
    while !rest.is_empty() {
        if let Some(behind) = rest.strip_prefix('[') {
            let (index, behind) = behind.split_once(']')?;
            legs.push(Leg::Cell(index.trim().parse().ok()?));
            rest = behind.trim_start();
            continue;
        }
        let behind = rest.strip_prefix('.')?.trim_start();
        if let Some(quoted) = behind.strip_prefix('"') {
            let end = end_of_string(quoted)?;
            legs.push(Leg::Key(unescape(&quoted[..end])?));
            rest = quoted[end + 1..].trim_start();
        } else {
            let end = behind.find(['.', '[', ' ']).unwrap_or(behind.len());
            legs.push(Leg::Key(behind[..end].to_owned()));
            rest = behind[end..].trim_start();
        }
    }
    Some(legs)
}

/// Where a JSON string's closing quote is.
fn end_of_string(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })
}

/// A JSON string's content.
fn unescape(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            out.push(character);
            continue;
        }
        out.push(match characters.next()? {
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                // The server escapes control characters alone this way, so that there are no pairs.
                let digits: String = characters.by_ref().take(4).collect();
                char::from_u32(u32::from_str_radix(&digits, 16).ok()?)?
            }
            same @ ('"' | '\\' | '/') => same,
            _ => return None,
        });
    }
    Some(out)
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

    fn applied(diffs: &[Vec<u8>]) -> Result<String, Fault> {
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
            diff(0, "$.\"a", SEVEN),
            diff(3, "$.a", SEVEN),
        ] {
            assert!(applied(std::slice::from_ref(&wrong)).is_err(), "{wrong:?}");
        }
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
