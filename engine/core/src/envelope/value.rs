//! A column's value as JSON, by Debezium's handling modes, and as text.

use rowmill_batch::{Cell, Column, ColumnIndex, Image, Kind, Table};

use super::json::{Escaping, push_base64, push_int, push_string};

/// Debezium's placeholder for a value that changed and that the binlog does not have
/// (`unavailable.value.placeholder`).
const UNAVAILABLE: &str = "__debezium_unavailable_value";

/// Appends a value as JSON. A column that the row image lacks is written as `null`, like NULL.
#[inline]
pub fn push_cell(column: &Column, cell: Cell<'_>, out: &mut Vec<u8>) {
    push_cell_as(column, cell, Escaping::Plain, out);
}

#[inline]
pub(super) fn push_cell_as(column: &Column, cell: Cell<'_>, escaping: Escaping, out: &mut Vec<u8>) {
    match cell {
        Cell::Absent | Cell::Null => out.extend_from_slice(b"null"),
        Cell::Value(bytes) => push_value(column, bytes, escaping, out),
        Cell::Changes(_) => escaping.push_utf8(UNAVAILABLE.as_bytes(), out),
    }
}

/// Appends a value as UTF-8 text: numbers in decimal, binary values in base64. Appends nothing for NULL, or if the
/// value is unknown.
pub fn push_cell_text(column: &Column, cell: Cell<'_>, out: &mut Vec<u8>) {
    let Cell::Value(bytes) = cell else { return };
    match column.kind {
        Kind::Int => push_int(cell.int().unwrap_or_default(), out),
        Kind::Uint | Kind::Year | Kind::Bit => push_int(cell.uint().unwrap_or_default(), out),
        Kind::Float => push_float(column, cell.float().unwrap_or_default(), out),
        Kind::Bytes | Kind::Geometry | Kind::Vector => base64_simd::STANDARD.encode_append(bytes, out),
        _ => out.extend_from_slice(bytes),
    }
}

/// Appends a row image as a JSON object without the columns that the image lacks.
pub fn push_image(table: &Table, image: Image<'_>, out: &mut Vec<u8>) {
    out.push(b'{');
    push_columns(table, image, |_| true, out);
    out.push(b'}');
}

/// Appends the members of the JSON object of a row image, without its braces, for the columns that are meant and that the
/// image has.
#[inline]
pub fn push_columns(table: &Table, image: Image<'_>, is_meant: impl Fn(ColumnIndex) -> bool, out: &mut Vec<u8>) {
    let mut is_first = true;
    for ((index, column), cell) in (0..).zip(&table.columns).zip(image.cells()) {
        if cell == Cell::Absent || !is_meant(ColumnIndex(index)) {
            continue;
        }
        if !is_first {
            out.push(b',');
        }
        is_first = false;
        push_string(&column.name, out);
        out.push(b':');
        push_cell(column, cell, out);
    }
}

fn push_value(column: &Column, bytes: &[u8], escaping: Escaping, out: &mut Vec<u8>) {
    let cell = Cell::Value(bytes);
    // The decoder wrote text as UTF-8 and numbers in 8 bytes; edits by transforms were checked.
    match column.kind {
        Kind::Int => push_int(cell.int().unwrap_or_default(), out),
        Kind::Uint | Kind::Year => push_int(cell.uint().unwrap_or_default(), out),
        Kind::Float => push_float(column, cell.float().unwrap_or_default(), out),
        Kind::Text | Kind::Json | Kind::Enum | Kind::Set | Kind::Decimal => escaping.push_utf8(bytes, out),
        Kind::Date | Kind::Time | Kind::Datetime | Kind::Timestamp => {
            out.extend_from_slice(escaping.quote());
            let at = out.len();
            out.extend_from_slice(bytes);
            if let Some(space) = out[at..].iter().position(|&byte| byte == b' ') {
                out[at + space] = b'T';
            }
            out.push(b'Z');
            out.extend_from_slice(escaping.quote());
        }
        Kind::Bit => push_bits(column, cell.uint().unwrap_or_default(), escaping, out),
        Kind::Bytes => push_base64(bytes, escaping, out),
        Kind::Geometry => {
            let start = out.len();
            push_geometry(column, bytes, out);
            escaping.rewrite(start, out);
        }
        Kind::Vector => push_vector(bytes, out),
    }
}

/// Appends a float. A `FLOAT` is written with the digits that distinguish it from its neighbours, not with those of
/// the double to which it was widened.
fn push_float(column: &Column, number: f64, out: &mut Vec<u8>) {
    let mut buffer = zmij::Buffer::new();
    let text = if column.mysql_type == "float" { buffer.format(number as f32) } else { buffer.format(number) };
    out.extend_from_slice(text.as_bytes());
}

/// Appends a bit field: `BIT(1)` as a boolean, a wider one as its bytes, the lowest first.
fn push_bits(column: &Column, bits: u64, escaping: Escaping, out: &mut Vec<u8>) {
    let width = column.mysql_type.trim_start_matches("bit(").trim_end_matches(')').parse().unwrap_or(64usize);
    if width == 1 {
        out.extend_from_slice(if bits == 0 { b"false" } else { b"true" });
    } else {
        let len = width.div_ceil(8).clamp(1, 8);
        push_base64(&bits.to_le_bytes()[..len], escaping, out);
    }
}

/// Appends a geometry. Values of a `POINT` column have their coordinates, too, as Debezium writes them.
fn push_geometry(column: &Column, bytes: &[u8], out: &mut Vec<u8>) {
    let Some((srid, wkb)) = bytes.split_first_chunk::<4>() else {
        out.extend_from_slice(b"null");
        return;
    };
    out.push(b'{');
    // Little-endian, type 1, then two doubles.
    if let (true, Some(([1, 1, 0, 0, 0], rest))) = (column.mysql_type == "point", wkb.split_first_chunk::<5>())
        && let (&[x, y], []) = rest.as_chunks::<8>()
    {
        for (name, coordinate) in [("\"x\":", x), ("\"y\":", y)] {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(zmij::Buffer::new().format(f64::from_le_bytes(coordinate)).as_bytes());
            out.push(b',');
        }
    }
    out.extend_from_slice(b"\"wkb\":");
    push_base64(wkb, Escaping::Plain, out);
    out.extend_from_slice(b",\"srid\":");
    match u32::from_le_bytes(*srid) {
        0 => out.extend_from_slice(b"null"),
        srid => push_int(srid, out),
    }
    out.push(b'}');
}

fn push_vector(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'[');
    let (numbers, _) = bytes.as_chunks::<4>();
    for (nth, number) in numbers.iter().enumerate() {
        if nth > 0 {
            out.push(b',');
        }
        let number = f32::from_le_bytes(*number);
        if number.is_finite() {
            out.extend_from_slice(zmij::Buffer::new().format(number).as_bytes());
        } else {
            out.extend_from_slice(b"null"); // JSON has no infinities and no NaN
        }
    }
    out.push(b']');
}
