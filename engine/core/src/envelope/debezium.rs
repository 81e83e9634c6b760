//! Debezium's JSON envelope, as its JsonConverter writes it without schemas, so that consumers
//! written for Debezium work unchanged.
//! <https://debezium.io/documentation/reference/stable/connectors/mysql.html#mysql-events>
//!
//! The handling modes are `decimal.handling.mode=string`, `time.precision.mode=isostring`,
//! `binary.handling.mode=base64` and `bigint.unsigned.handling.mode=long`, but that an unsigned
//! number beyond a signed 64-bit integer is written as what it is. A column that the row image
//! doesn't have is left out of its object: it isn't NULL.

use rowmill_batch::{Batch, Cell, Column, ColumnIndex, Image, Operation, Row, Table, TableId};

use crate::binlog::SchemaChange;

use super::json::{push_int, push_string};
use super::value::push_cell;

/// Who the envelope says it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceName {
    /// The version of Rowmill.
    pub version: String,
    /// The logical name of the server, Debezium's `topic.prefix`.
    pub name: String,
}

/// Which event is made of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The one that it is.
    Whole,
    /// Of an update that changes the key: the old row is gone.
    OldKey,
    /// Of the same: the new row is there.
    NewKey,
}

impl Part {
    /// The events that are made of a row, in their order: an update that changes the primary key is
    /// two, as Debezium has it, so that each is of one key. Of a row image that lacks columns no whole
    /// new row can be made: then it stays one.
    pub fn of(table: &Table, row: &Row<'_>) -> &'static [Self] {
        let (Some(before), Some(after)) = (row.before(), row.after()) else { return &[Self::Whole] };
        let changes = |column: &ColumnIndex| after.cell(*column) != before.cell(*column);
        if table.key.iter().any(changes) && after.cells().all(|cell| cell != Cell::Absent) {
            &[Self::OldKey, Self::NewKey]
        } else {
            &[Self::Whole]
        }
    }
}

/// Writes rows in the envelope.
#[derive(Debug, Clone)]
pub struct Debezium {
    source: SourceName,
    tables: Vec<Option<TableText>>,
}

/// What is the same in every row of a table.
#[derive(Debug, Clone)]
struct TableText {
    /// `"name":` of each column.
    columns: Vec<Vec<u8>>,
    /// `,"db":...,"sequence":null`
    schema: Vec<u8>,
    /// `,"table":...`
    table: Vec<u8>,
}

impl Debezium {
    /// A writer of envelopes.
    pub fn new(source: SourceName) -> Self {
        Self { source, tables: Vec::new() }
    }

    /// Appends a row of `table`, or the part of it that [`Part::of`] says. `now_us` is the wall clock in
    /// microseconds since 1970.
    pub fn write(
        &mut self,
        table: &Table,
        batch: &Batch<'_>,
        row: &Row<'_>,
        part: Part,
        now_us: i64,
        out: &mut Vec<u8>,
    ) {
        let TableId(id) = table.id;
        let index = id as usize;
        if self.tables.len() <= index {
            self.tables.resize_with(index + 1, || None);
        }
        let text = self.tables[index].get_or_insert_with(|| TableText::new(table));

        let (before, after, operation) = match part {
            Part::Whole => (row.before(), row.after(), row.operation()),
            Part::OldKey => (row.before(), None, Operation::Delete),
            Part::NewKey => (None, row.after(), Operation::Insert),
        };
        out.extend_from_slice(b"{\"before\":");
        push_image(table, text, before, out);
        out.extend_from_slice(b",\"after\":");
        push_image(table, text, after, out);
        out.push(b',');
        push_source(&self.source, &row_origin(text, batch, row), out);
        out.extend_from_slice(match operation {
            Operation::Insert => b",\"transaction\":null,\"op\":\"c\",\"ts_ms\":",
            Operation::Update => b",\"transaction\":null,\"op\":\"u\",\"ts_ms\":",
            Operation::Delete => b",\"transaction\":null,\"op\":\"d\",\"ts_ms\":",
        });
        push_int(now_us / 1000, out);
        out.extend_from_slice(b",\"ts_us\":");
        push_int(now_us, out);
        out.extend_from_slice(b",\"ts_ns\":");
        push_int(now_us * 1000, out);
        out.push(b'}');
    }

    /// Appends a schema change, as the connector's schema change topic has it. Statements aren't parsed:
    /// which tables it is about is said by its text alone.
    pub fn write_schema_change(&self, change: &SchemaChange, now_us: i64, out: &mut Vec<u8>) {
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
        push_source(&self.source, &origin, out);
        out.extend_from_slice(b",\"ts_ms\":");
        push_int(now_us / 1000, out);
        out.extend_from_slice(b",\"databaseName\":");
        push_string(change.schema.as_deref().unwrap_or_default(), out);
        out.extend_from_slice(b",\"schemaName\":null,\"ddl\":");
        push_string(&change.statement, out);
        out.extend_from_slice(b",\"tableChanges\":[]}");
    }
}

/// `"snapshot"` to `"sequence"` of a source.
fn schema_text(schema: &str) -> Vec<u8> {
    let mut out = b",\"snapshot\":\"false\",\"db\":".to_vec();
    push_string(schema, &mut out);
    out.extend_from_slice(b",\"sequence\":null");
    out
}

impl TableText {
    fn new(table: &Table) -> Self {
        let labelled = |label: &[u8], text: &str| {
            let mut out = label.to_vec();
            push_string(text, &mut out);
            out
        };
        let column = |column: &Column| {
            let mut out = labelled(b"", &column.name);
            out.push(b':');
            out
        };
        Self {
            columns: table.columns.iter().map(column).collect(),
            schema: schema_text(&table.schema),
            table: labelled(b",\"table\":", &table.name),
        }
    }
}

/// Where a change comes from.
struct Origin<'a> {
    time_us: i64,
    /// As [`TableText`] has them.
    schema: &'a [u8],
    table: &'a [u8],
    server_id: u32,
    gtid: &'a str,
    file: &'a str,
    position: u64,
    row: u32,
    thread_id: u32,
}

fn row_origin<'a>(text: &'a TableText, batch: &Batch<'a>, row: &Row<'_>) -> Origin<'a> {
    let header = row.header();
    let transaction = batch.transaction(row.transaction()).header();
    Origin {
        time_us: time_us(transaction.commit_time_us, header.time_us),
        schema: &text.schema,
        table: &text.table,
        server_id: transaction.server_id,
        gtid: transaction.gtid,
        file: transaction.file,
        position: header.event_position,
        row: header.index_in_event,
        thread_id: transaction.thread_id,
    }
}

/// When a change was committed; of servers that don't say when its statement began.
fn time_us(commit_time_us: i64, begin_time_us: i64) -> i64 {
    if commit_time_us == 0 { begin_time_us } else { commit_time_us }
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

fn push_image(table: &Table, text: &TableText, image: Option<Image<'_>>, out: &mut Vec<u8>) {
    let Some(image) = image else {
        out.extend_from_slice(b"null");
        return;
    };
    let mut separator = b'{';
    for ((column, name), cell) in table.columns.iter().zip(&text.columns).zip(image.cells()) {
        if cell == Cell::Absent {
            continue;
        }
        out.push(separator);
        separator = b',';
        out.extend_from_slice(name);
        push_cell(column, cell, out);
    }
    if separator == b'{' {
        out.push(b'{');
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;
    use rowmill_batch::{Builder, Kind, RowHeader, TransactionHeader};

    #[test]
    fn an_update_of_every_kind() {
        let int = (-5i64).to_le_bytes();
        let uint = u64::MAX.to_le_bytes();
        let float = f64::from(0.1f32).to_le_bytes();
        let bits = 0x0102u64.to_le_bytes();
        let one = 1u64.to_le_bytes();
        let year = 2026u64.to_le_bytes();
        let mut geometry = 4326u32.to_le_bytes().to_vec();
        geometry.extend([1, 2, 3]);
        let mut vector = 1.5f32.to_le_bytes().to_vec();
        vector.extend((-2.0f32).to_le_bytes());
        let values: &[(&str, Kind, &str, &[u8])] = &[
            ("id", Kind::Int, "bigint", &int),
            ("u", Kind::Uint, "bigint unsigned", &uint),
            ("f", Kind::Float, "float", &float),
            ("d", Kind::Float, "double", &float),
            ("amount", Kind::Decimal, "decimal", b"-12.50"),
            ("t", Kind::Text, "varchar", "a\"b\u{1}\u{ffff}é".as_bytes()),
            ("j", Kind::Json, "json", br#"{"a": 1}"#),
            ("date", Kind::Date, "date", b"2026-11-23"),
            ("time", Kind::Time, "time", b"10:00:00.5"),
            ("at", Kind::Datetime, "datetime", b"2026-11-23 10:00:00.123456"),
            ("ts", Kind::Timestamp, "timestamp", b"2026-11-23 10:00:00"),
            ("y", Kind::Year, "year", &year),
            ("flag", Kind::Bit, "bit(1)", &one),
            ("bits", Kind::Bit, "bit(10)", &bits),
            ("b", Kind::Bytes, "blob", &[0, 255]),
            ("g", Kind::Geometry, "geometry", &geometry),
            ("v", Kind::Vector, "vector", &vector),
        ];
        let table = Table {
            id: TableId(0),
            schema: "shop".to_owned(),
            name: "all".to_owned(),
            columns: values
                .iter()
                .map(|(name, kind, mysql_type, _)| Column {
                    name: (*name).to_owned(),
                    kind: *kind,
                    mysql_type: (*mysql_type).to_owned(),
                    nullable: true,
                    key: *name == "id",
                })
                .collect(),
            key: vec![ColumnIndex(0)],
        };
        let mut builder = Builder::with_capacity(0);
        builder.transaction(&TransactionHeader {
            file: "binlog.000001",
            position: 4,
            gtid: "uuid:7",
            commit_time_us: 0,
            server_id: 1,
            thread_id: 12,
        });
        builder.begin_row(&RowHeader {
            table: TableId(0),
            operation: Operation::Update,
            columns: values.len() as u16,
            index_in_transaction: 0,
            index_in_event: 3,
            event_position: 77,
            time_us: 5_000_000,
        });
        builder.begin_image(values.len());
        builder.cell(Cell::Value(&int));
        (1..values.len()).for_each(|column| if column == 1 { builder.null() } else { builder.absent() });
        builder.end_image();
        builder.begin_image(values.len());
        values.iter().for_each(|value| builder.cell(Cell::Value(value.3)));
        builder.end_image();
        builder.end_row();
        let bytes = builder.finish();
        let batch = Batch::parse(&bytes).expect("a batch");

        let mut out = Vec::new();
        let source = SourceName { version: "0.1.0".to_owned(), name: "shop".to_owned() };
        let row = batch.rows().next().expect("a row");
        Debezium::new(source).write(&table, &batch, &row, Part::Whole, 6_000_001, &mut out);
        let written = String::from_utf8(out).expect("UTF-8");
        serde_json::from_str::<serde_json::Value>(&written).expect("JSON");
        insta::assert_snapshot!(written.replace(",\"", ",\n\"").replace(":{", ":{\n"));
    }
}
