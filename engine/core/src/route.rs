//! The IDs of a message: rows come in; message groups, within which order is kept, deduplication IDs and the addresses of
//! destinations, such as queue URLs, go out.

use std::fmt::Write;

use rowmill_batch::{Batch, Cell, Column, Image, Kind, Row, Table};
use sha2::{Digest, Sha256};

use crate::binlog::{SchemaChange, SkippedChange};

/// The most characters of message groups and deduplication IDs: SQS's limit.
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html>
const ID_CHARS_MAX: usize = 128;

/// A template of message groups: text with `{schema}`, `{table}` and `{key}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupTemplate {
    parts: Vec<Part>,
}

/// A template of queue URLs: text with `{schema}` and `{table}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableTemplate {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Schema,
    Table,
    Key,
}

/// The error of a template that cannot be parsed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// An unknown placeholder.
    #[error("unknown placeholder `{{{placeholder}}}`; available: {known}")]
    UnknownPlaceholder {
        /// The name between the braces.
        placeholder: String,
        /// The placeholders that are available.
        known: &'static str,
    },
    /// An opening brace without its closing brace.
    #[error("cannot parse the template: a `{{` has no closing `}}`")]
    OpenBrace,
}

/// Parses a template. With `is_of_row` it may contain `{key}`, which only rows have.
fn parse(template: &str, is_of_row: bool) -> Result<Vec<Part>, TemplateError> {
    let mut parts = Vec::new();
    let mut rest = template;
    while let Some((text, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').ok_or(TemplateError::OpenBrace)?;
        if !text.is_empty() {
            parts.push(Part::Text(text.to_owned()));
        }
        parts.push(match name {
            "schema" => Part::Schema,
            "table" => Part::Table,
            "key" if is_of_row => Part::Key,
            other => {
                let known = if is_of_row { "{schema}, {table}, {key}" } else { "{schema}, {table}" };
                return Err(TemplateError::UnknownPlaceholder { placeholder: other.to_owned(), known });
            }
        });
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.to_owned()));
    }
    Ok(parts)
}

impl TableTemplate {
    /// Parses a template.
    ///
    /// # Errors
    /// If it has an unknown placeholder or an opening brace without a closing one.
    pub fn parse(template: &str) -> Result<Self, TemplateError> {
        parse(template, false).map(|parts| Self { parts })
    }

    /// Returns the text if it is the same for all tables.
    pub fn fixed(&self) -> Option<&str> {
        match &self.parts[..] {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Whether the text ends with `end` for all tables.
    pub fn ends_with(&self, end: &str) -> bool {
        matches!(self.parts.last(), Some(Part::Text(text)) if text.ends_with(end))
    }

    /// Returns the URL for a table. Characters of names other than ASCII letters, digits and `-._~` are
    /// percent-encoded, so that any name stays within one segment of the path.
    pub fn of(&self, table: &Table) -> String {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Schema => push_segment(&table.schema, &mut out),
                Part::Table => push_segment(&table.name, &mut out),
                Part::Key => unreachable!("a table has no key of a row"),
            }
        }
        out
    }
}

impl std::fmt::Display for TableTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.parts.iter().try_for_each(|part| match part {
            Part::Text(text) => f.write_str(text),
            Part::Schema => f.write_str("{schema}"),
            Part::Table => f.write_str("{table}"),
            Part::Key => f.write_str("{key}"),
        })
    }
}

impl Default for GroupTemplate {
    /// Returns `{table}:{key}`: one group for each row of each table. Tables of one name in several schemas share
    /// groups.
    fn default() -> Self {
        Self { parts: vec![Part::Table, Part::Text(":".to_owned()), Part::Key] }
    }
}

impl GroupTemplate {
    /// Parses a template.
    ///
    /// # Errors
    /// If it has an unknown placeholder or an opening brace without a closing one.
    pub fn parse(template: &str) -> Result<Self, TemplateError> {
        parse(template, true).map(|parts| Self { parts })
    }

    /// Returns the message group of a row. With the default template, a table without a primary key is one group.
    pub fn group(&self, table: &Table, row: &Row<'_>) -> String {
        self.group_of(table, row.newest(), row.before())
    }

    /// Returns the message group of the old row, for an update that changes the primary key.
    pub fn old_group(&self, table: &Table, row: &Row<'_>) -> String {
        self.group_of(table, row.before().unwrap_or_else(|| row.newest()), None)
    }

    fn group_of(&self, table: &Table, image: Image<'_>, otherwise: Option<Image<'_>>) -> String {
        let mut group = String::with_capacity(32);
        for part in &self.parts {
            match part {
                Part::Text(text) => group.push_str(text),
                Part::Schema => group.push_str(&table.schema),
                Part::Table => group.push_str(&table.name),
                Part::Key => push_key(table, image, otherwise, &mut group),
            }
        }
        message_id(group)
    }
}

fn push_key(table: &Table, image: Image<'_>, otherwise: Option<Image<'_>>, out: &mut String) {
    for (nth, &column) in table.key.iter().enumerate() {
        if nth > 0 {
            out.push(',');
        }
        // Without full row images a key column that did not change is in the before image only.
        let cell = match (image.cell(column), otherwise) {
            (Cell::Absent, Some(before)) => before.cell(column),
            (cell, _) => cell,
        };
        push_cell(&table.columns[column.0 as usize], cell, out);
    }
}

fn push_cell(column: &Column, cell: Cell<'_>, out: &mut String) {
    match (column.kind, cell) {
        (_, Cell::Null | Cell::Absent | Cell::Changes(_)) => out.push_str("null"),
        (Kind::Int, cell) => out.push_str(itoa::Buffer::new().format(cell.int().unwrap_or_default())),
        (Kind::Uint | Kind::Year | Kind::Bit, cell) => {
            out.push_str(itoa::Buffer::new().format(cell.uint().unwrap_or_default()));
        }
        (Kind::Float, cell) => out.push_str(zmij::Buffer::new().format(cell.float().unwrap_or_default())),
        (_, Cell::Value(bytes)) => match std::str::from_utf8(bytes) {
            Ok(text) if column.kind.is_text() => out.push_str(text),
            _ => push_hex(bytes, out),
        },
    }
}

/// Appends a name percent-encoded, except for the unreserved characters.
/// <https://www.rfc-editor.org/rfc/rfc3986#section-2.3>
fn push_segment(name: &str, out: &mut String) {
    for byte in name.bytes() {
        match byte {
            b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
            byte => write!(out, "%{byte:02X}").expect("writing to memory doesn't fail"),
        }
    }
}

fn push_hex(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        write!(out, "{byte:02x}").expect("writing to memory doesn't fail");
    }
}

/// Returns an ID that every sink accepts: `id` itself, or its SHA-256 in hexadecimal if it is longer than 128 characters, is
/// empty, or has characters other than ASCII's letters, digits and punctuation.
pub fn message_id(id: String) -> String {
    // All bytes are checked, sixteen at a time: this is faster than stopping at the first that is not allowed.
    let is_other = |any: bool, byte: u8| any | !byte.is_ascii_graphic();
    if !id.is_empty() && id.len() <= ID_CHARS_MAX && !id.bytes().fold(false, is_other) {
        return id;
    }
    let mut hashed = String::with_capacity(64);
    push_hex(&Sha256::digest(id.as_bytes()), &mut hashed);
    hashed
}

/// Returns the deduplication ID of one of a row's messages: a pure function of the change's position in the binlog,
/// so that the same change has the same ID when it is read again. The statement's time distinguishes the binlogs of a
/// server whose file names began anew (`RESET BINARY LOGS AND GTIDS`).
pub fn deduplication_id(server: &str, batch: &Batch<'_>, row: &Row<'_>, output: u32) -> String {
    let header = row.header();
    let file = batch.transaction(row.transaction()).header().file;
    let mut id = String::with_capacity(ID_CHARS_MAX);
    id.push_str(server);
    id.push('-');
    id.push_str(itoa::Buffer::new().format(header.time_us / 1_000_000));
    id.push('-');
    id.push_str(file);
    for number in [header.event_position, header.index_in_event.into(), output.into()] {
        id.push('-');
        id.push_str(itoa::Buffer::new().format(number));
    }
    message_id(id)
}

/// Returns the deduplication ID of a schema change, by the same rule.
pub fn schema_change_id(server: &str, change: &SchemaChange) -> String {
    let time_s = change.time_us / 1_000_000;
    message_id(format!("{server}-{time_s}-{}-{}-schema", change.file, change.event_position))
}

/// Returns the deduplication ID of the dead letter for a change that cannot be decoded, by the same rule.
pub fn skipped_id(server: &str, SkippedChange { error, row, time_us, .. }: &SkippedChange) -> String {
    let (time_s, position) = (time_us / 1_000_000, &error.position);
    message_id(format!("{server}-{time_s}-{}-{}-{row}-skipped", position.file, position.offset))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rowmill_batch::{Builder, ColumnIndex, Operation, PackedBatch, RowHeader, TableId, TransactionHeader};

    fn table() -> Table {
        let column = |name: &str, kind, key| Column {
            name: name.to_owned(),
            kind,
            mysql_type: String::new(),
            nullable: false,
            key,
        };
        Table {
            id: TableId(0),
            generation: 0,
            schema: "shop".to_owned(),
            name: "lines".to_owned(),
            columns: vec![column("order", Kind::Int, true), column("sku", Kind::Text, true)],
            key: vec![ColumnIndex(1), ColumnIndex(0)],
        }
    }

    fn batch(sku: &str) -> PackedBatch {
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
            operation: Operation::Insert,
            columns: 2,
            index_in_transaction: 0,
            index_in_event: 3,
            event_position: 77,
            time_us: 5_000_000,
        });
        builder.begin_image(2);
        builder.cell(Cell::Value(&(-7i64).to_le_bytes()));
        builder.cell(Cell::Value(sku.as_bytes()));
        builder.end_image();
        builder.end_row();
        builder.finish()
    }

    #[test]
    fn groups_follow_the_template_and_the_keys_order() {
        let bytes = batch("A-1");
        let row = bytes.view().rows().next().expect("a row");
        assert_eq!(GroupTemplate::default().group(&table(), &row), "lines:A-1,-7");
        assert_eq!(GroupTemplate::default().old_group(&table(), &row), "lines:A-1,-7", "without a before image");
        let template = GroupTemplate::parse("x-{schema}.{table}").expect("a template");
        assert_eq!(template.group(&table(), &row), "x-shop.lines");
        let error = GroupTemplate::parse("{id}").expect_err("unknown").to_string();
        assert_eq!(error, "unknown placeholder `{id}`; available: {schema}, {table}, {key}");
        assert_eq!(GroupTemplate::parse("{table"), Err(TemplateError::OpenBrace));
    }

    #[test]
    fn a_name_may_be_a_tables() {
        let template = TableTemplate::parse("https://queues/{schema}-{table}.fifo").expect("a template");
        assert_eq!(template.of(&table()), "https://queues/shop-lines.fifo");
        assert_eq!(template.to_string(), "https://queues/{schema}-{table}.fifo");
        assert_eq!(template.fixed(), None);
        assert!(template.ends_with(".fifo"));
        let fixed = TableTemplate::parse("https://queues/all").expect("a template");
        assert_eq!((fixed.fixed(), fixed.ends_with(".fifo")), (Some("https://queues/all"), false));
        let error = TableTemplate::parse("{key}").expect_err("a row's").to_string();
        assert_eq!(error, "unknown placeholder `{key}`; available: {schema}, {table}");
    }

    #[test]
    fn no_name_of_a_table_leads_out_of_its_place_in_a_url() {
        let template = TableTemplate::parse("https://queues/1/{schema}-{table}.fifo").expect("a template");
        for (schema, name, url) in [
            ("my.db", "a_b-c", "https://queues/1/my.db-a_b-c.fifo"),
            ("../2", "x?y#z", "https://queues/1/..%2F2-x%3Fy%23z.fifo"),
            ("a b", "%41☃", "https://queues/1/a%20b-%2541%E2%98%83.fifo"),
        ] {
            let table = Table { schema: schema.to_owned(), name: name.to_owned(), ..table() };
            assert_eq!(template.of(&table), url);
        }
    }

    #[test]
    fn what_sqs_refuses_is_hashed() {
        let bytes = batch("a b");
        let row = bytes.view().rows().next().expect("a row");
        let group = GroupTemplate::default().group(&table(), &row);
        assert_eq!(group.len(), 64);
        assert_ne!(group, message_id("lines:a c,-7".to_owned()));
        assert_eq!(message_id("x".repeat(129)).len(), 64);
        assert_eq!(message_id(String::new()).len(), 64);
    }

    #[test]
    fn a_deduplication_id_says_the_place() {
        let bytes = batch("A-1");
        let batch = bytes.view();
        let row = batch.rows().next().expect("a row");
        assert_eq!(deduplication_id("uuid", &batch, &row, 1), "uuid-5-binlog.000001-77-3-1");
    }
}
