//! The row alone, with a few words about it: what Debezium's `ExtractNewRecordState` makes of its envelope with
//! `delete.tombstone.handling.mode=rewrite` and `add.fields=op,db,table,source.ts_ms`. Of a deleted row it is what it was.
//! <https://debezium.io/documentation/reference/stable/transformations/event-flattening.html>

use rowmill_batch::Operation;

use super::change::{Change, push_columns};
use super::json::push_int;
use super::value::push_cell;

/// Appends a change.
pub(super) fn write(change: &Change<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    push_columns(change.newest(), push_cell, out);
    let deleted = change.operation == Operation::Delete;
    out.extend_from_slice(if deleted { b",\"__deleted\":\"true\"" } else { b",\"__deleted\":\"false\"" });
    out[start] = b'{';
    out.extend_from_slice(b",\"__op\":\"");
    out.push(change.code());
    out.extend_from_slice(b"\",\"__db\":");
    out.extend_from_slice(&change.text.schema_name);
    out.extend_from_slice(b",\"__table\":");
    out.extend_from_slice(&change.text.table_name);
    out.extend_from_slice(b",\"__source_ts_ms\":");
    push_int(change.origin.time_us / 1000, out);
    out.push(b'}');
}
