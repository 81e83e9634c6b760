//! CloudEvents 1.0 in JSON, structured:
//! <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>.
//!
//! `id` is the change's position in the binlog, `source` the server's name, `subject` the table. `data` has the row
//! before and after the change, with values as in Debezium's envelope.

use super::change::{Change, push_image};
use super::json::{Escaping, push_int, push_string, push_time};

/// Appends a change.
pub(super) fn write(change: &Change<'_>, out: &mut Vec<u8>) {
    let Change { source, origin, text, before, after, .. } = change;
    out.extend_from_slice(b"{\"specversion\":\"1.0\",\"id\":");
    // The second distinguishes files of one name, should the server's file names begin anew. The word distinguishes
    // the two events of an update that changes the key.
    let second = origin.time_us / 1_000_000;
    push_string(&format!("{second}-{}-{}-{}-{}", origin.file, origin.position, origin.row, change.word()), out);
    out.extend_from_slice(b",\"source\":");
    push_string(&format!("/rowmill/{}", source.name), out);
    out.extend_from_slice(b",\"type\":\"rowmill.");
    out.extend_from_slice(change.word().as_bytes());
    out.extend_from_slice(b"\",\"subject\":");
    out.extend_from_slice(&text.full_name);
    out.extend_from_slice(b",\"time\":\"");
    push_time(origin.time_us, out);
    out.extend_from_slice(b"\",\"datacontenttype\":\"application/json\"");
    // Extension attributes. Their integers have 32 bits, so the server's ID is a string.
    if !origin.gtid.is_empty() {
        out.extend_from_slice(b",\"gtid\":");
        push_string(origin.gtid, out);
    }
    out.extend_from_slice(b",\"serverid\":\"");
    push_int(origin.server_id, out);
    out.extend_from_slice(b"\",\"data\":{\"before\":");
    push_image(change, *before, Escaping::Plain, out);
    out.extend_from_slice(b",\"after\":");
    push_image(change, *after, Escaping::Plain, out);
    out.extend_from_slice(b"}}");
}
