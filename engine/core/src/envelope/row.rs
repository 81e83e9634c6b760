//! The row alone, with a few words about it: what Debezium's `ExtractNewRecordState` makes of its envelope with
//! `delete.tombstone.handling.mode=rewrite` and `add.fields=op,db,table,source.ts_ms`. Of a deleted row it is what it was.
//! Where a column is called as one of the words, the word has another name: no key is there twice.
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
