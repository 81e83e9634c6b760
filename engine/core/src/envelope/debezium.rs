//! Debezium's JSON envelope, as its JsonConverter writes it without schemas, so that consumers
//! written for Debezium work unchanged.
//! <https://debezium.io/documentation/reference/stable/connectors/mysql.html#mysql-events>
//!
//! The handling modes are `decimal.handling.mode=string`, `time.precision.mode=isostring`,
//! `binary.handling.mode=base64` and `bigint.unsigned.handling.mode=long`, but that an unsigned
//! number beyond a signed 64-bit integer is written as what it is. A column that the row image
//! doesn't have is left out of its object: it isn't NULL.

use super::change::{Change, Origin, SourceName, push_image, schema_text, time_us};
use super::json::{push_int, push_string};
use crate::binlog::SchemaChange;

/// Appends a change.
pub(super) fn write(change: &Change<'_>, out: &mut Vec<u8>) {
    let Change { source, origin, before, after, now_us, .. } = change;
    out.extend_from_slice(b"{\"before\":");
    push_image(change, *before, out);
    out.extend_from_slice(b",\"after\":");
    push_image(change, *after, out);
    out.push(b',');
    push_source(source, origin, out);
    out.extend_from_slice(b",\"transaction\":null,\"op\":\"");
    out.push(change.code());
    out.extend_from_slice(b"\",\"ts_ms\":");
    push_int(now_us / 1000, out);
    out.extend_from_slice(b",\"ts_us\":");
    push_int(*now_us, out);
    out.extend_from_slice(b",\"ts_ns\":");
    push_int(now_us * 1000, out);
    out.push(b'}');
}

/// Appends a schema change, as the connector's schema change topic has it. Statements aren't parsed:
/// which tables it is about is said by its text alone.
pub(super) fn write_schema_change(source: &SourceName, change: &SchemaChange, now_us: i64, out: &mut Vec<u8>) {
    let origin = Origin {
        time_us: time_us(change.commit_time_us, change.time_us),
        schema: &schema_text(change.schema.as_deref().unwrap_or_default()),
        table: b",\"table\":\"\"", // its word for what isn't known
        server_id: change.server_id,
        gtid: &change.gtid,
        file: &change.file,
        position: change.event_position,
        row: 0,
        thread_id: change.thread_id,
    };
    out.push(b'{');
    push_source(source, &origin, out);
    out.extend_from_slice(b",\"ts_ms\":");
    push_int(now_us / 1000, out);
    out.extend_from_slice(b",\"databaseName\":");
    push_string(change.schema.as_deref().unwrap_or_default(), out);
    out.extend_from_slice(b",\"schemaName\":null,\"ddl\":");
    push_string(&change.statement, out);
    out.extend_from_slice(b",\"tableChanges\":[]}");
}

fn push_source(source: &SourceName, origin: &Origin<'_>, out: &mut Vec<u8>) {
    let Origin { time_us, .. } = *origin;
    out.extend_from_slice(b"\"source\":{\"version\":");
    push_string(&source.version, out);
    out.extend_from_slice(b",\"connector\":\"mysql\",\"name\":");
    push_string(&source.name, out);
    out.extend_from_slice(b",\"ts_ms\":");
    push_int(time_us / 1000, out);
    out.extend_from_slice(origin.schema);
    out.extend_from_slice(b",\"ts_us\":");
    push_int(time_us, out);
    out.extend_from_slice(b",\"ts_ns\":");
    push_int(time_us * 1000, out);
    out.extend_from_slice(origin.table);
    out.extend_from_slice(b",\"server_id\":");
    push_int(origin.server_id, out);
    out.extend_from_slice(b",\"gtid\":");
    match origin.gtid {
        "" => out.extend_from_slice(b"null"),
        gtid => push_string(gtid, out),
    }
    out.extend_from_slice(b",\"file\":");
    push_string(origin.file, out);
    out.extend_from_slice(b",\"pos\":");
    push_int(origin.position, out);
    out.extend_from_slice(b",\"row\":");
    push_int(origin.row, out);
    out.extend_from_slice(b",\"thread\":");
    match origin.thread_id {
        0 => out.extend_from_slice(b"null"),
        thread => push_int(thread, out),
    }
    out.extend_from_slice(b",\"query\":null}");
}
