//! JSON that SQS takes, for bodies that are built by hand. `serde_json` works as well.

use rowmill_batch::json::{push_escaped, push_utf8};
use rowmill_batch::{Cell, Kind};

pub use rowmill_batch::json::push_string;

use crate::Row;
use crate::error::ColumnError;

/// A JSON object in the making. Dropped, it is closed.
#[derive(Debug)]
pub struct Object<'a> {
    out: &'a mut Vec<u8>,
    separator: u8,
}

impl<'a> Object<'a> {
    /// Begins one after what is in `out`.
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, separator: b'{' }
    }

    /// Writes a field with a column's name and value, of the newest image: numbers as numbers, binary data in base64,
    /// anything else as a string; `null` for NULL. Of a `FLOAT` the shortest digits of the widened value are written.
    ///
    /// # Errors
    /// If there is no such column, it is not declared, or absent.
    #[inline]
    pub fn column(&mut self, row: &Row<'_>, column: &str) -> Result<&mut Self, ColumnError> {
        let index = row.table.column(column)?;
        let value = row.newest().present(index)?;
        let at = self.out.len();
        row.table.label(index).push_to(self.out);
        self.out[at] = std::mem::replace(&mut self.separator, b',');
        push_column(self.out, row.table.kind(index), value);
        Ok(self)
    }

    /// A field with a number; `null` without one.
    pub fn number(&mut self, name: &str, number: Option<impl itoa::Integer>) -> &mut Self {
        self.label(name);
        push_number(self.out, number);
        self
    }

    /// A field with a string; `null` without one.
    pub fn text(&mut self, name: &str, text: Option<&str>) -> &mut Self {
        self.label(name);
        match text {
            Some(text) => push_string(text, self.out),
            None => self.out.extend_from_slice(b"null"),
        }
        self
    }

    /// A field with a value that is JSON already: `true`, a number with a fraction, a column of type JSON.
    pub fn json(&mut self, name: &str, json: &str) -> &mut Self {
        self.label(name);
        self.out.extend_from_slice(json.as_bytes());
        self
    }

    fn label(&mut self, name: &str) {
        self.out.extend_from_slice(&[self.separator, b'"']);
        self.separator = b',';
        push_escaped(name.as_bytes(), self.out);
        self.out.extend_from_slice(b"\":");
    }
}

impl Drop for Object<'_> {
    fn drop(&mut self) {
        if self.separator == b'{' {
            self.out.push(b'{');
        }
        self.out.push(b'}');
    }
}

/// Appends a number; `null` without one.
pub fn push_number(out: &mut Vec<u8>, number: Option<impl itoa::Integer>) {
    match number {
        // Nothing of it needs an escape, but short texts are copied without a call of the host there.
        Some(number) => push_escaped(itoa::Buffer::new().format(number).as_bytes(), out),
        None => out.extend_from_slice(b"null"),
    }
}

fn push_column(out: &mut Vec<u8>, kind: Kind, value: Option<&[u8]>) {
    let Some(bytes) = value else {
        out.extend_from_slice(b"null");
        return;
    };
    let cell = Cell::Value(bytes);
    match kind {
        Kind::Int => push_number(out, cell.int()),
        Kind::Uint | Kind::Year | Kind::Bit => push_number(out, cell.uint()),
        Kind::Float => out.extend_from_slice(format!("{:?}", cell.float().unwrap_or_default()).as_bytes()),
        Kind::Bytes | Kind::Geometry | Kind::Vector => push_base64(out, bytes),
        _ => push_utf8(bytes, out),
    }
}

/// <https://www.rfc-editor.org/rfc/rfc4648#section-4>
fn push_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    out.push(b'"');
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let known = digit <= chunk.len();
            out.push(if known { DIGITS[(bits >> (18 - 6 * digit) & 63) as usize] } else { b'=' });
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_closed() {
        let mut out = Vec::new();
        Object::new(&mut out);
        Object::new(&mut out).text("a\"", Some("b\n")).text("c", None).number("n", None::<u8>).json("j", "[1]");
        assert_eq!(String::from_utf8_lossy(&out), "{}{\"a\\\"\":\"b\\n\",\"c\":null,\"n\":null,\"j\":[1]}");
    }

    #[test]
    fn base64_is_padded() {
        let mut out = Vec::new();
        for text in ["", "f", "fo", "foo", "foob"] {
            push_base64(&mut out, text.as_bytes());
        }
        assert_eq!(String::from_utf8_lossy(&out), "\"\"\"Zg==\"\"Zm8=\"\"Zm9v\"\"Zm9vYg==\"");
    }
}
