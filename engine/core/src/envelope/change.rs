//! A row change with the metadata that all formats have.

use rowmill_batch::json::Literal;
use rowmill_batch::{Batch, Cell, Column, ColumnIndex, Image, Operation, Row, Table};

use super::json::{Escaping, push_string};
use super::value::push_cell_as;

/// The origin that messages name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceName {
    /// Rowmill's version.
    pub version: String,
    /// The server's logical name: Debezium's `topic.prefix`.
    pub name: String,
    /// Debezium's connector for this family of servers.
    pub connector: Connector,
}

/// The name of Debezium's connector for a family of servers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Connector {
    /// `mysql`
    #[default]
    MySql,
    /// `mariadb`
    MariaDb,
}

impl Connector {
    pub(super) fn name(self) -> &'static [u8] {
        match self {
            Self::MySql => b"mysql",
            Self::MariaDb => b"mariadb",
        }
    }
}

/// The message that is written for a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyChange {
    /// The row's own change.
    None,
    /// For an update that changes the primary key: the delete of the old row.
    Delete,
    /// For an update that changes the primary key: the insert of the new row.
    Insert,
}

impl KeyChange {
    /// Returns the messages for a row, in order. An update that changes the primary key is two messages, as in
    /// Debezium, so that each message is about one key. Row images may lack columns: columns that did not change, even
    /// of the key, and generated columns. A change of the key counts only if the column is in both images.
    pub fn for_row(table: &Table, row: &Row<'_>) -> &'static [Self] {
        let (Some(before), Some(after)) = (row.before(), row.after()) else { return &[Self::None] };
        let changes = |column: &ColumnIndex| match (before.cell(*column), after.cell(*column)) {
            (Cell::Absent, _) | (_, Cell::Absent) => false,
            (old, new) => old != new,
        };
        if table.key.iter().any(changes) { &[Self::Delete, Self::Insert] } else { &[Self::None] }
    }
}

/// A column, its label from [`TableText`], and its value.
pub(super) type Labelled<'a> = (&'a Column, &'a Literal, Cell<'a>);

/// A change to be written.
pub(super) struct Change<'a> {
    pub source: &'a SourceName,
    pub table: &'a Table,
    pub text: &'a TableText,
    pub origin: Origin<'a>,
    pub operation: Operation,
    pub before: Option<Image<'a>>,
    pub after: Option<Image<'a>>,
    /// For the insert of an update that changes the key: the image with the columns that `after` lacks because they
    /// did not change.
    unchanged: Option<Image<'a>>,
    /// Whether the change is known to be the last of its transaction.
    pub is_last: bool,
    /// The wall clock in microseconds since 1970.
    pub now_us: i64,
}

impl<'a> Change<'a> {
    pub fn new(
        source: &'a SourceName,
        (table, text): (&'a Table, &'a TableText),
        batch: &Batch<'a>,
        row: &Row<'a>,
        part: KeyChange,
        now_us: i64,
    ) -> Self {
        let (before, after, unchanged, operation) = match part {
            KeyChange::None => (row.before(), row.after(), None, row.operation()),
            KeyChange::Delete => (row.before(), None, None, Operation::Delete),
            KeyChange::Insert => (None, row.after(), row.before(), Operation::Insert),
        };
        let is_last = row.is_last_in_transaction() && part != KeyChange::Delete;
        let origin = row_origin(text, batch, row);
        Self { source, table, text, origin, operation, before, after, unchanged, is_last, now_us }
    }

    /// Iterates over the columns of the after image; for a delete, of the before image. A column that the after image
    /// lacks has its value from the before image.
    pub fn newest(&self) -> impl Iterator<Item = Labelled<'a>> {
        let Self { table, text, before, after, unchanged, .. } = *self;
        (0..).map(ColumnIndex).zip(&table.columns).zip(&text.columns).map(move |((index, column), name)| {
            let cell = |image: Option<Image<'a>>| image.map_or(Cell::Absent, |image| image.cell(index));
            let cell = if cell(after) == Cell::Absent { cell(before.or(unchanged)) } else { cell(after) };
            (column, name, cell)
        })
    }

    /// Iterates over the columns that an update changed, with their values before. Only columns that both images have
    /// count.
    pub fn changed(&self) -> impl Iterator<Item = Labelled<'a>> {
        let Self { table, text, before, after, .. } = *self;
        let images = before.zip(after);
        (0..).map(ColumnIndex).zip(&table.columns).zip(&text.columns).filter_map(move |((index, column), name)| {
            let (before, after) = images.map(|(before, after)| (before.cell(index), after.cell(index)))?;
            let is_changed = before != after && before != Cell::Absent && after != Cell::Absent;
            is_changed.then_some((column, name, before))
        })
    }

    /// Returns the operation as a word.
    pub fn word(&self) -> &'static str {
        match self.operation {
            Operation::Insert => "insert",
            Operation::Update => "update",
            Operation::Delete => "delete",
            Operation::Read => "read",
        }
    }
}

/// The texts that are the same for every row of a table version.
#[derive(Debug, Clone)]
pub(super) struct TableText {
    /// `,"name":` of each column.
    pub columns: Vec<Literal>,
    /// `,"db":...,"sequence":null`
    pub schema: Vec<u8>,
    /// `,"table":...`
    pub table: Vec<u8>,
    /// The names as JSON strings: the schema's, the table's, and `"schema.table"`.
    pub schema_name: Vec<u8>,
    pub table_name: Vec<u8>,
    pub full_name: Vec<u8>,
    /// The text that [`Format::Row`](super::Format::Row) has after the columns, up to the value of the time, by the
    /// operation's code from 1.
    words: [Vec<u8>; 4],
}

/// Returns a source's text from `"snapshot"` to `"sequence"`.
pub(super) fn schema_text(schema: &str) -> Vec<u8> {
    let mut out = b",\"snapshot\":\"false\",\"db\":".to_vec();
    push_string(schema, &mut out);
    out.extend_from_slice(b",\"sequence\":null");
    out
}

impl TableText {
    /// Creates the texts of a table. Those that stand beside a row's values are escaped by `escaping`, the others are
    /// plain.
    pub fn new(table: &Table, escaping: Escaping) -> Self {
        let labelled = |label: &[u8], text: &str| {
            let mut out = label.to_vec();
            push_string(text, &mut out);
            out
        };
        let column = |column: &Column| {
            let mut out = labelled(b",", &column.name);
            out.push(b':');
            escaping.rewrite(0, &mut out);
            Literal::new(&out)
        };
        let [deleted, op, db, table_name, time] =
            ["__deleted", "__op", "__db", "__table", "__source_ts_ms"].map(|name| unused_name(table, name));
        let words = |operation: Operation| {
            let mut out = format!(",\"{deleted}\":\"{}\"", operation == Operation::Delete).into_bytes();
            out.extend(format!(",\"{op}\":\"{}\"", operation.letter()).into_bytes());
            out.extend(labelled(format!(",\"{db}\":").as_bytes(), &table.schema));
            out.extend(labelled(format!(",\"{table_name}\":").as_bytes(), &table.name));
            out.extend(format!(",\"{time}\":").into_bytes());
            escaping.rewrite(0, &mut out);
            out
        };
        Self {
            columns: table.columns.iter().map(column).collect(),
            schema: schema_text(&table.schema),
            table: labelled(b",\"table\":", &table.name),
            schema_name: labelled(b"", &table.schema),
            table_name: labelled(b"", &table.name),
            full_name: labelled(b"", &table.to_string()),
            words: Operation::ALL.map(words),
        }
    }

    /// Returns the text after a row's columns.
    pub fn words(&self, operation: Operation) -> &[u8] {
        &self.words[usize::from(operation.code()) - 1]
    }
}

/// Returns a name for a metadata field that no column of the table has: `name`, with as many underscores before it as
/// that takes. Names that differ only in case count as the same, as for the server and many consumers.
fn unused_name(table: &Table, name: &str) -> String {
    let mut name = name.to_owned();
    while table.columns.iter().any(|column| column.name.to_lowercase() == name) {
        name.insert(0, '_');
    }
    name
}

/// The origin of a change.
#[derive(Clone, Copy)]
pub(super) struct Origin<'a> {
    /// The commit's time; see [`time_us`].
    pub time_us: i64,
    /// When the statement began, in microseconds since 1970.
    pub event_time_us: i64,
    /// The texts of [`TableText`].
    pub schema: &'a [u8],
    pub table: &'a [u8],
    pub server_id: u32,
    pub gtid: &'a str,
    pub file: &'a str,
    pub position: u64,
    pub row: u32,
    pub thread_id: u32,
}

fn row_origin<'a>(text: &'a TableText, batch: &Batch<'a>, row: &Row<'_>) -> Origin<'a> {
    let header = row.header();
    let transaction = batch.transaction(row.transaction()).header();
    Origin {
        time_us: time_us(transaction.commit_time_us, header.time_us),
        event_time_us: header.time_us,
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

/// Returns when a change was committed; if the server does not say, when its statement began.
pub(super) fn time_us(commit_time_us: i64, begin_time_us: i64) -> i64 {
    if commit_time_us == 0 { begin_time_us } else { commit_time_us }
}

/// Appends an image as a JSON object without the columns that the image lacks; `null` for `None`. The insert of an
/// update that changes the key has the columns that did not change, too.
pub(super) fn push_image(change: &Change<'_>, image: Option<Image<'_>>, escaping: Escaping, out: &mut Vec<u8>) {
    let Some(image) = image else {
        out.extend_from_slice(b"null");
        return;
    };
    let push_cell = |column: &Column, cell: Cell<'_>, out: &mut Vec<u8>| push_cell_as(column, cell, escaping, out);
    if change.unchanged.is_some() {
        return push_object(change.newest(), push_cell, out);
    }
    let columns = change.table.columns.iter().zip(&change.text.columns).zip(image.cells());
    push_object(columns.map(|((column, label), cell)| (column, label, cell)), push_cell, out);
}

/// Appends columns as a JSON object. Absent columns are left out.
#[inline]
pub(super) fn push_object<'a>(
    columns: impl Iterator<Item = Labelled<'a>>,
    push_value: impl Fn(&Column, Cell<'_>, &mut Vec<u8>),
    out: &mut Vec<u8>,
) {
    let start = out.len();
    push_columns(columns, push_value, out);
    match out.get_mut(start) {
        Some(comma) => *comma = b'{',
        None => out.push(b'{'),
    }
    out.push(b'}');
}

/// Appends columns with a comma before each: `,"id":7,"note":null`. Absent columns are left out.
#[inline]
pub(super) fn push_columns<'a>(
    columns: impl Iterator<Item = Labelled<'a>>,
    push_value: impl Fn(&Column, Cell<'_>, &mut Vec<u8>),
    out: &mut Vec<u8>,
) {
    for (column, label, cell) in columns {
        if cell != Cell::Absent {
            label.push_to(out);
            push_value(column, cell, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Envelope, Format};
    use super::*;
    use rowmill_batch::{Builder, Kind, RowHeader, TableId, TransactionHeader};

    /// `CREATE TABLE shop.t (a INT, b INT, n INT, g INT, PRIMARY KEY (a, b))`, with the key's columns in any order.
    fn table(key: &[u32]) -> Table {
        let column = |(index, name): (u32, &str)| Column {
            name: name.to_owned(),
            kind: Kind::Int,
            mysql_type: "int".to_owned(),
            nullable: true,
            key: key.contains(&index),
        };
        Table {
            id: TableId(0),
            generation: 0,
            schema: "shop".to_owned(),
            name: "t".to_owned(),
            columns: (0..).zip(["a", "b", "n", "g"]).map(column).collect(),
            key: key.iter().copied().map(ColumnIndex).collect(),
        }
    }

    const ABSENT: i64 = i64::MIN;
    const NULL: i64 = i64::MAX;

    /// Returns an update's events, one line each.
    fn written(key: &[u32], before: [i64; 4], after: [i64; 4], format: Format) -> Vec<String> {
        let mut builder = Builder::with_capacity(0);
        builder.transaction(&TransactionHeader {
            file: "binlog.000001",
            position: 4,
            gtid: "",
            commit_time_us: 0,
            server_id: 1,
            thread_id: 0,
        });
        builder.begin_row(&RowHeader {
            table: TableId(0),
            operation: Operation::Update,
            columns: 4,
            index_in_transaction: 0,
            index_in_event: 0,
            event_position: 4,
            time_us: 0,
        });
        for image in [before, after] {
            builder.begin_image(4);
            for value in image {
                match value {
                    ABSENT => builder.absent(),
                    NULL => builder.null(),
                    value => builder.cell(Cell::Value(&value.to_le_bytes())),
                }
            }
            builder.end_image();
        }
        builder.end_row();
        let bytes = builder.finish();
        let batch = bytes.view();
        let (table, row) = (table(key), batch.row(rowmill_batch::RowIndex(0)));
        let source = SourceName { version: String::new(), name: String::new(), connector: Connector::MySql };
        let mut envelope = Envelope::new(format, Escaping::Plain, source);
        let write = |part: &KeyChange| {
            let mut out = Vec::new();
            envelope.write(&table, &batch, &row, *part, 0, &mut out);
            let message: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
            match format {
                Format::Debezium => format!("{} {} {}", message["op"], message["before"], message["after"]),
                Format::CloudEvents => format!("{} {}", message["data"]["before"], message["data"]["after"]),
                Format::Maxwell => format!("{} {}", message["type"], message["data"]),
                Format::Row => format!("{} {} {}", message["a"], message["b"], message["n"]),
            }
        };
        KeyChange::for_row(&table, &row).iter().map(write).collect()
    }

    fn debezium(key: &[u32], before: [i64; 4], after: [i64; 4]) -> Vec<String> {
        written(key, before, after, Format::Debezium)
    }

    #[test]
    fn an_update_of_the_key_is_two_events() {
        let full = debezium(&[0], [1, 2, 3, 4], [9, 2, 3, 4]);
        assert_eq!(full, [r#""d" {"a":1,"b":2,"g":4,"n":3} null"#, r#""c" null {"a":9,"b":2,"g":4,"n":3}"#]);
        let other = debezium(&[0], [1, 2, 3, 4], [1, 9, 3, 4]);
        assert_eq!(other, [r#""u" {"a":1,"b":2,"g":4,"n":3} {"a":1,"b":9,"g":4,"n":3}"#]);
        assert_eq!(debezium(&[], [1, 2, 3, 4], [9, 2, 3, 4]).len(), 1, "without a key");
        assert_eq!(debezium(&[0], [1, 2, 3, 4], [NULL, 2, 3, 4]).len(), 2);
    }

    /// MariaDB 11.8 leaves generated columns out of full images.
    #[test]
    fn images_may_lack_generated_columns() {
        let events = debezium(&[0], [1, 2, 3, ABSENT], [9, 2, 3, ABSENT]);
        assert_eq!(events, [r#""d" {"a":1,"b":2,"n":3} null"#, r#""c" null {"a":9,"b":2,"n":3}"#]);
        assert_eq!(debezium(&[0], [1, 2, 3, ABSENT], [1, 2, 4, ABSENT]).len(), 1);
    }

    /// `binlog_row_image=MINIMAL` and `NOBLOB`: columns that did not change are in one of the images, or in neither.
    #[test]
    fn images_may_lack_what_did_not_change() {
        // Only a part of the key changed: the other part is in the before image.
        let minimal = ([1, 2, ABSENT, ABSENT], [ABSENT, 9, ABSENT, ABSENT]);
        let events = debezium(&[0, 1], minimal.0, minimal.1);
        assert_eq!(events, [r#""d" {"a":1,"b":2} null"#, r#""c" null {"a":1,"b":9}"#]);
        let events = written(&[0, 1], minimal.0, minimal.1, Format::CloudEvents);
        assert_eq!(events, [r#"{"a":1,"b":2} null"#, r#"null {"a":1,"b":9}"#]);
        let events = written(&[0, 1], minimal.0, minimal.1, Format::Maxwell);
        assert_eq!(events, [r#""delete" {"a":1,"b":2}"#, r#""insert" {"a":1,"b":9}"#]);
        assert_eq!(written(&[0, 1], minimal.0, minimal.1, Format::Row), ["1 2 null", "1 9 null"]);
        // No part of the key changed.
        assert_eq!(debezium(&[0, 1], [1, 2, ABSENT, ABSENT], [ABSENT, ABSENT, 5, ABSENT]).len(), 1);
        assert_eq!(debezium(&[0, 1], [1, 2, ABSENT, ABSENT], [ABSENT, 2, 5, ABSENT]).len(), 1);
        // The old key is unknown.
        assert_eq!(debezium(&[0], [ABSENT, 2, 3, 4], [9, 2, 3, 4]).len(), 1);
        let noblob = debezium(&[0], [1, 2, ABSENT, 4], [9, 2, 7, ABSENT]);
        assert_eq!(noblob, [r#""d" {"a":1,"b":2,"g":4} null"#, r#""c" null {"a":9,"b":2,"g":4,"n":7}"#]);
    }
}
