//! The envelope: rows and schema changes come in, the JSON bodies of messages go out.

mod change;
mod cloudevents;
mod debezium;
mod json;
mod maxwell;
mod row;
mod value;
mod wkt;

use rowmill_batch::{Batch, Row, Table};

pub use change::{Connector, KeyChange, SourceName};
pub use json::{Escaping, push_int, push_raw, push_string, push_time, unescape, unescaped_len};
pub use value::{push_cell, push_cell_text, push_columns, push_image};

use change::{Change, TableText};

use crate::binlog::SchemaChange;
use crate::by_table::ByTable;

/// The format of a message's body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// Debezium's JSON envelope.
    #[default]
    Debezium,
    /// CloudEvents 1.0 in JSON.
    CloudEvents,
    /// Maxwell's JSON.
    Maxwell,
    /// The row alone, as Debezium's `ExtractNewRecordState` writes it.
    Row,
}

/// A writer of message bodies in one format.
#[derive(Debug, Clone)]
pub struct Envelope {
    format: Format,
    escaping: Escaping,
    source: SourceName,
    debezium: debezium::Writer,
    tables: ByTable<TableText>,
}

impl Envelope {
    /// Creates a writer for the changes of one server.
    pub fn new(format: Format, escaping: Escaping, source: SourceName) -> Self {
        Self { format, escaping, source, debezium: debezium::Writer::new(escaping), tables: ByTable::default() }
    }

    /// Sets the family of servers from which the following changes come.
    pub fn set_connector(&mut self, connector: Connector) {
        self.source.connector = connector;
    }

    /// Appends the body of one of the messages of a row of `table`: an update that changes the primary key has two, any
    /// other row has one ([`KeyChange::for_row`]). `now_us` is the wall clock in microseconds since 1970.
    pub fn write(
        &mut self,
        table: &Table,
        batch: &Batch<'_>,
        row: &Row<'_>,
        part: KeyChange,
        now_us: i64,
        out: &mut Vec<u8>,
    ) {
        let is_written_escaped = matches!(self.format, Format::Debezium | Format::Row);
        let escaping = if is_written_escaped { self.escaping } else { Escaping::Plain };
        let text = self.tables.entry(table).get_or_insert_with(|| TableText::new(table, escaping));
        let change = Change::new(&self.source, (table, text), batch, row, part, now_us);
        let start = out.len();
        match self.format {
            Format::Debezium => return self.debezium.write(&change, out),
            Format::CloudEvents => cloudevents::write(&change, out),
            Format::Maxwell => maxwell::write(&change, out),
            Format::Row => return row::write(&change, escaping, out),
        }
        self.escaping.rewrite(start, out);
    }

    /// Appends a schema change, as Debezium's connector writes it to its schema change topic.
    pub fn write_schema_change(&self, change: &SchemaChange, now_us: i64, out: &mut Vec<u8>) {
        let start = out.len();
        debezium::write_schema_change(&self.source, change, now_us, out);
        self.escaping.rewrite(start, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rowmill_batch::{Builder, Cell, Column, ColumnIndex, Kind, Operation, RowHeader, TableId, TransactionHeader};

    #[test]
    fn each_format_of_every_kind() {
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
            ("tags", Kind::Set, "set", b"a,b"),
            ("none", Kind::Set, "set", b""),
            ("t", Kind::Text, "varchar", "a\"b\u{1}\u{ffff}é".as_bytes()),
            ("j", Kind::Json, "json", "{\"a\": \"\u{ffff}\"}".as_bytes()),
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
            generation: 0,
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
        builder.mark_last_in_transaction();
        let bytes = builder.finish();
        let batch = bytes.view();

        let source = SourceName { version: "0.1.0".to_owned(), name: "shop".to_owned(), connector: Connector::MySql };
        let row = batch.rows().next().expect("a row");
        for (name, format) in [
            ("debezium", Format::Debezium),
            ("cloudevents", Format::CloudEvents),
            ("maxwell", Format::Maxwell),
            ("row", Format::Row),
        ] {
            let mut envelope = Envelope::new(format, Escaping::Plain, source.clone());
            let mut in_string = Envelope::new(format, Escaping::Escaped, source.clone());
            let mut written = String::new();
            for part in [KeyChange::None, KeyChange::Delete, KeyChange::Insert] {
                let mut out = Vec::new();
                envelope.write(&table, &batch, &row, part, 6_000_001, &mut out);
                let text = String::from_utf8(out).expect("UTF-8");
                serde_json::from_str::<serde_json::Value>(&text).expect("JSON");
                let mut escaped = b"\"".to_vec();
                in_string.write(&table, &batch, &row, part, 6_000_001, &mut escaped);
                escaped.push(b'"');
                assert_eq!(serde_json::from_slice::<String>(&escaped).expect("a string"), text);
                written += &format!("{part:?}\n{text}\n");
            }
            insta::assert_snapshot!(name, written.replace(",\"", ",\n\"").replace(":{", ":{\n"));
        }
    }

    #[test]
    fn a_row_of_a_snapshot_is_read() {
        let seven = 7i64.to_le_bytes();
        let [debezium, cloudevents, maxwell, row] =
            written(Operation::Read, &[("id", Kind::Int, "bigint", Cell::Absent, Cell::Value(&seven))]);
        for (text, expected) in [
            (debezium, ["{\"before\":null,\"after\":{\"id\":7}", "\"op\":\"r\""]),
            (cloudevents, ["\"rowmill.read\"", "\"before\":null,\"after\":{\"id\":7}"]),
            (maxwell, ["\"type\":\"bootstrap-insert\"", "\"data\":{\"id\":7}"]),
            (row, ["{\"id\":7,\"__deleted\":\"false\"", "\"__op\":\"r\""]),
        ] {
            assert!(expected.iter().all(|part| text.contains(part)), "{text}");
        }
    }

    /// A column of a row that is written: its name, kind and MySQL type, and the cells before and after.
    type TestColumn<'a> = (&'a str, Kind, &'a str, Cell<'a>, Cell<'a>);

    fn update(columns: &[TestColumn<'_>]) -> [String; 4] {
        written(Operation::Update, columns)
    }

    /// Writes a row in each format.
    fn written(operation: Operation, columns: &[TestColumn<'_>]) -> [String; 4] {
        let column = |&(name, kind, mysql_type, ..): &TestColumn<'_>| Column {
            name: name.to_owned(),
            kind,
            mysql_type: mysql_type.to_owned(),
            nullable: true,
            key: name == "id",
        };
        let table = Table {
            id: TableId(0),
            generation: 0,
            schema: "shop".to_owned(),
            name: "t".to_owned(),
            columns: columns.iter().map(column).collect(),
            key: vec![ColumnIndex(0)],
        };
        let mut builder = Builder::with_capacity(0);
        builder.transaction(&TransactionHeader {
            file: "binlog.000001",
            position: 4,
            gtid: "",
            commit_time_us: 9_000_000,
            server_id: 1,
            thread_id: 0,
        });
        builder.begin_row(&RowHeader {
            table: TableId(0),
            operation,
            columns: columns.len() as u16,
            index_in_transaction: 0,
            index_in_event: 0,
            event_position: 77,
            time_us: 5_000_000,
        });
        let before = columns.iter().map(|column| column.3).collect::<Vec<_>>();
        let after = columns.iter().map(|column| column.4).collect();
        let images = [(operation.has_before(), before), (operation.has_after(), after)];
        for (_, cells) in images.into_iter().filter(|(has, _)| *has) {
            builder.begin_image(columns.len());
            cells.into_iter().for_each(|cell| match cell {
                Cell::Absent => builder.absent(),
                Cell::Null => builder.null(),
                cell => builder.cell(cell),
            });
            builder.end_image();
        }
        builder.end_row();
        let bytes = builder.finish();
        let batch = bytes.view();
        let row = batch.rows().next().expect("a row");
        [Format::Debezium, Format::CloudEvents, Format::Maxwell, Format::Row].map(|format| {
            let source =
                SourceName { version: "0.1.0".to_owned(), name: "shop".to_owned(), connector: Connector::MySql };
            let mut out = Vec::new();
            Envelope::new(format, Escaping::Plain, source).write(
                &table,
                &batch,
                &row,
                KeyChange::None,
                6_000_001,
                &mut out,
            );
            String::from_utf8(out).expect("UTF-8")
        })
    }

    #[test]
    fn no_key_is_there_twice() {
        let one = 1u64.to_le_bytes();
        let names = [
            "id",
            "__op",
            "___OP",
            "__Deleted",
            "__db",
            "__table",
            "__source_ts_ms",
            "before",
            "after",
            "source",
            "op",
            "data",
            "old",
            "type",
            "database",
            "table",
            "ts",
            "specversion",
            "subject",
        ];
        let written = update(&names.map(|name| (name, Kind::Uint, "int unsigned", Cell::Null, Cell::Value(&one))));
        for text in &written {
            let value: serde_json::Value = serde_json::from_str(text).expect("JSON");
            // Of a key that occurs twice, the first value would be lost.
            assert_eq!(value.to_string().len(), text.len(), "{text}");
        }
        let [.., row] = &written;
        let row: serde_json::Value = serde_json::from_str(row).expect("JSON");
        assert!(names.iter().all(|name| row[name] == 1), "{row}");
        assert_eq!(row["____op"], "u");
        assert_eq!(row["___deleted"], "false");
        assert_eq!(row["___db"], "shop");
        assert_eq!(row["___table"], "t");
        assert_eq!(row["___source_ts_ms"], 9_000);
    }

    #[test]
    fn maxwell_of_images_that_are_not_full() {
        let [id, seven, eight] = [1u64, 7, 8].map(u64::to_le_bytes);
        let uint = |name, before, after| (name, Kind::Uint, "int unsigned", before, after);
        let data_of = |columns: &[_]| {
            let [_, _, maxwell, _] = update(columns);
            let value: serde_json::Value = serde_json::from_str(&maxwell).expect("JSON");
            (value["data"].to_string(), value.get("old").map(ToString::to_string), value["ts"].clone())
        };
        let (data, old, ts) = data_of(&[
            uint("id", Cell::Value(&id), Cell::Absent),
            uint("a", Cell::Absent, Cell::Value(&seven)),
            uint("b", Cell::Absent, Cell::Absent),
        ]);
        assert_eq!((data.as_str(), old), (r#"{"a":7,"id":1}"#, None));
        assert_eq!(ts, 5, "when the statement began, as Maxwell has it");
        let (data, old, _) = data_of(&[
            uint("id", Cell::Value(&id), Cell::Absent),
            uint("a", Cell::Value(&seven), Cell::Value(&eight)),
            uint("b", Cell::Null, Cell::Value(&seven)),
            uint("c", Cell::Absent, Cell::Null),
        ]);
        assert_eq!(data, r#"{"a":8,"b":7,"c":null,"id":1}"#);
        assert_eq!(old.as_deref(), Some(r#"{"a":7,"b":null}"#));
    }

    #[test]
    fn maxwell_of_binaries_and_geometries() {
        let id = 1u64.to_le_bytes();
        let point = [&4326u32.to_le_bytes()[..], &[1, 1, 0, 0, 0], &3f64.to_le_bytes(), &2.5f64.to_le_bytes()].concat();
        let is = |name, kind, mysql_type, bytes| (name, kind, mysql_type, Cell::Null, Cell::Value(bytes));
        let [_, _, maxwell, _] = update(&[
            is("id", Kind::Uint, "int unsigned", &id),
            is("padded", Kind::Bytes, "binary", b"a\0b\0\0"),
            is("zero", Kind::Bytes, "binary", b"\0\0"),
            is("varied", Kind::Bytes, "varbinary", b"a\0"),
            is("g", Kind::Geometry, "point", &point),
            is("odd", Kind::Geometry, "geometry", &point[..6]),
        ]);
        let value: serde_json::Value = serde_json::from_str(&maxwell).expect("JSON");
        let expected = r#"{"g":"POINT (3 2.5)","id":1,"odd":{"srid":4326,"wkb":"AQE="},"padded":"YQBi","varied":"YQA=","zero":""}"#;
        assert_eq!(value["data"].to_string(), expected);
    }
}
