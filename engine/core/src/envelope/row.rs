//! The row alone, with some metadata: the output of Debezium's `ExtractNewRecordState` with
//! `delete.tombstone.handling.mode=rewrite` and `add.fields=op,db,table,source.ts_ms`. A deleted row has the values
//! of its before image. Where a column has the name of a metadata field, the field gets another name: no key occurs
//! twice.
//! <https://debezium.io/documentation/reference/stable/transformations/event-flattening.html>

use super::change::{Change, push_columns};
use super::json::{Escaping, push_int};
use super::value::push_cell_as;

/// Appends a change.
pub(super) fn write(change: &Change<'_>, escaping: Escaping, out: &mut Vec<u8>) {
    let start = out.len();
    push_columns(change.newest(), |column, cell, out| push_cell_as(column, cell, escaping, out), out);
    out.extend_from_slice(change.text.words(change.operation));
    out[start] = b'{';
    push_int(change.origin.time_us / 1000, out);
    out.push(b'}');
}
