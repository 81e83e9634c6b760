//! Maxwell's JSON, with its binlog position, GTID, server and thread: <https://maxwells-daemon.io/dataformat/>.
//!
//! There is no `xid`: the binlog has the transaction's `xid` only after the rows. `commit` is there if a row is known
//! to be the last of its transaction. docs/formats.md lists the other differences.

use rowmill_batch::{Cell, Column, Kind, Operation};

use super::change::{Change, push_object};
use super::json::{push_int, push_raw, push_string, push_utf8};
use super::value::push_cell;
use super::wkt;

/// Appends a change.
pub(super) fn write(change: &Change<'_>, out: &mut Vec<u8>) {
    let Change { origin, text, .. } = change;
    out.extend_from_slice(b"{\"database\":");
    out.extend_from_slice(&text.schema_name);
    out.extend_from_slice(b",\"table\":");
    out.extend_from_slice(&text.table_name);
    out.extend_from_slice(b",\"type\":\"");
    let kind = if change.operation == Operation::Read { "bootstrap-insert" } else { change.word() };
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"ts\":");
    push_int(origin.event_time_us / 1_000_000, out);
    if change.is_last {
        out.extend_from_slice(b",\"commit\":true");
    }
    out.extend_from_slice(b",\"position\":");
    push_string(&format!("{}:{}", origin.file, origin.position), out);
    if !origin.gtid.is_empty() {
        out.extend_from_slice(b",\"gtid\":");
        push_string(origin.gtid, out);
    }
    out.extend_from_slice(b",\"server_id\":");
    push_int(origin.server_id, out);
    if origin.thread_id != 0 {
        out.extend_from_slice(b",\"thread_id\":");
        push_int(origin.thread_id, out);
    }
    out.extend_from_slice(b",\"data\":");
    push_object(change.newest(), push_value, out);
    // An update that changed nothing has no `old`.
    if change.changed().next().is_some() {
        out.extend_from_slice(b",\"old\":");
        push_object(change.changed(), push_value, out);
    }
    out.push(b'}');
}

fn push_value(column: &Column, cell: Cell<'_>, out: &mut Vec<u8>) {
    let Cell::Value(bytes) = cell else { return push_cell(column, cell, out) };
    match column.kind {
        Kind::Date | Kind::Time | Kind::Datetime | Kind::Timestamp => push_utf8(bytes, out),
        // JSON numbers may have any length.
        Kind::Decimal | Kind::Json => push_raw(bytes, out),
        // The binlog strips trailing zero bytes from `BINARY` values, and so does Maxwell.
        Kind::Bytes if column.mysql_type == "binary" => {
            let len = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
            push_cell(column, Cell::Value(&bytes[..len]), out);
        }
        Kind::Geometry => match bytes.split_first_chunk::<4>().and_then(|(_srid, wkb)| wkt::text(wkb)) {
            Some(text) => push_utf8(&text, out),
            None => push_cell(column, cell, out),
        },
        Kind::Bit => push_int(cell.uint().unwrap_or_default(), out),
        Kind::Set => {
            out.push(b'[');
            for (nth, member) in bytes.split(|&byte| byte == b',').filter(|member| !member.is_empty()).enumerate() {
                if nth > 0 {
                    out.push(b',');
                }
                push_utf8(member, out);
            }
            out.push(b']');
        }
        _ => push_cell(column, cell, out),
    }
}
