//! Debezium's JSON envelope, as Debezium's JsonConverter writes it without schemas, so that consumers written for
//! Debezium work unchanged.
//! <https://debezium.io/documentation/reference/stable/connectors/mysql.html#mysql-events>
//!
//! The handling modes are `decimal.handling.mode=string`, `time.precision.mode=isostring`,
//! `binary.handling.mode=base64` and `bigint.unsigned.handling.mode=long`, except that an unsigned number beyond a
//! signed 64-bit integer is written as it is. A column that the row image lacks is left out of its object: it is not
//! NULL.

use rowmill_batch::json::Literal;

use super::change::{Change, Origin, SourceName, push_image, schema_text, time_us};
use super::json::{Escaping, push_int, push_string};
use crate::binlog::SchemaChange;

/// A writer of changes. It keeps the text that the rows of a binlog event have in common, which is most of the text
/// around their values.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    escaping: Escaping,
    before: Literal,
    after: Literal,
    event: EventText,
}

/// The text that the rows of one binlog event have in common if they are written at the same time.
#[derive(Debug, Clone, Default)]
struct EventText {
    key: EventKey,
    /// From `,"source":` to before the row's index.
    until_row: Vec<u8>,
    /// From after the row's index to before the operation.
    until_operation: Vec<u8>,
    /// From after the operation to the end.
    until_end: Vec<u8>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct EventKey {
    schema: Vec<u8>,
    table: Vec<u8>,
    gtid: String,
    file: String,
    position: u64,
    time_us: i64,
    now_us: i64,
    server_id: u32,
    thread_id: u32,
}

impl Writer {
    pub fn new(escaping: Escaping) -> Self {
        let literal = |text: &[u8]| {
            let mut text = text.to_vec();
            escaping.rewrite(0, &mut text);
            Literal::new(&text)
        };
        Self { escaping, before: literal(b"{\"before\":"), after: literal(b",\"after\":"), event: EventText::default() }
    }

    /// Appends a change.
    pub fn write(&mut self, change: &Change<'_>, out: &mut Vec<u8>) {
        self.event.update_for(change, self.escaping);
        let EventText { until_row, until_operation, until_end, .. } = &self.event;
        self.before.push_to(out);
        push_image(change, change.before, self.escaping, out);
        self.after.push_to(out);
        push_image(change, change.after, self.escaping, out);
        out.extend_from_slice(until_row);
        push_int(change.origin.row, out);
        out.extend_from_slice(until_operation);
        out.extend_from_slice(change.operation.letter().as_bytes());
        out.extend_from_slice(until_end);
    }
}

impl EventText {
    /// Updates the text to that of a change's binlog event.
    fn update_for(&mut self, change: &Change<'_>, escaping: Escaping) {
        let Change { source, origin, now_us, .. } = change;
        if self.key.matches(origin, *now_us) {
            return;
        }
        self.key.assign(origin, *now_us);
        let Self { key: _, until_row, until_operation, until_end } = self;
        for text in [&mut *until_row, until_operation, until_end] {
            text.clear();
        }
        until_row.extend_from_slice(b",");
        push_source_until_row(source, origin, until_row);
        push_source_after_row(origin, until_operation);
        until_operation.extend_from_slice(b",\"transaction\":null,\"op\":\"");
        until_end.extend_from_slice(b"\",\"ts_ms\":");
        push_int(now_us / 1000, until_end);
        until_end.extend_from_slice(b",\"ts_us\":");
        push_int(*now_us, until_end);
        until_end.extend_from_slice(b",\"ts_ns\":");
        push_int(now_us * 1000, until_end);
        until_end.push(b'}');
        for text in [until_row, until_operation, until_end] {
            escaping.rewrite(0, text);
        }
    }
}

impl EventKey {
    fn matches(&self, origin: &Origin<'_>, now: i64) -> bool {
        let Self { schema, table, gtid, file, position, time_us, now_us, server_id, thread_id } = self;
        // The fields that differ most often come first.
        *position == origin.position
            && gtid == origin.gtid
            && *now_us == now
            && *time_us == origin.time_us
            && (*server_id, *thread_id) == (origin.server_id, origin.thread_id)
            && table == origin.table
            && schema == origin.schema
            && file == origin.file
    }

    fn assign(&mut self, origin: &Origin<'_>, now: i64) {
        let Self { schema, table, gtid, file, position, time_us, now_us, server_id, thread_id } = self;
        origin.schema.clone_into(schema);
        origin.table.clone_into(table);
        origin.gtid.clone_into(gtid);
        origin.file.clone_into(file);
        (*position, *time_us, *now_us) = (origin.position, origin.time_us, now);
        (*server_id, *thread_id) = (origin.server_id, origin.thread_id);
    }
}

/// Appends a schema change, as in the connector's schema change topic. Statements are not parsed, so only the
/// statement's text says which tables it concerns.
pub(super) fn write_schema_change(source: &SourceName, change: &SchemaChange, now_us: i64, out: &mut Vec<u8>) {
    let origin = Origin {
        time_us: time_us(change.commit_time_us, change.time_us),
        event_time_us: change.time_us,
        schema: &schema_text(change.schema.as_deref().unwrap_or_default()),
        table: b",\"table\":\"\"", // Debezium's value where the table is not known
        server_id: change.server_id,
        gtid: &change.gtid,
        file: &change.file,
        position: change.event_position,
        row: 0,
        thread_id: change.thread_id,
    };
    out.push(b'{');
    push_source_until_row(source, &origin, out);
    push_int(origin.row, out);
    push_source_after_row(&origin, out);
    out.extend_from_slice(b",\"ts_ms\":");
    push_int(now_us / 1000, out);
    out.extend_from_slice(b",\"databaseName\":");
    push_string(change.schema.as_deref().unwrap_or_default(), out);
    out.extend_from_slice(b",\"schemaName\":null,\"ddl\":");
    push_string(&change.statement, out);
    out.extend_from_slice(b",\"tableChanges\":[]}");
}

fn push_source_until_row(source: &SourceName, origin: &Origin<'_>, out: &mut Vec<u8>) {
    let Origin { time_us, .. } = *origin;
    out.extend_from_slice(b"\"source\":{\"version\":");
    push_string(&source.version, out);
    out.extend_from_slice(b",\"connector\":\"");
    out.extend_from_slice(source.connector.name());
    out.extend_from_slice(b"\",\"name\":");
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
}

fn push_source_after_row(origin: &Origin<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"thread\":");
    match origin.thread_id {
        0 => out.extend_from_slice(b"null"),
        thread => push_int(thread, out),
    }
    out.extend_from_slice(b",\"query\":null}");
}
