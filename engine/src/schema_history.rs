//! Columns of tables whose maps in the binlog don't say all of them: what was looked up, and from where to where in the
//! binlog it holds.
//!
//! It is kept beside the checkpoint, so that a restart doesn't look them up again: by then a table may have been changed,
//! and what its columns were is not to be found out any more.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rowmill_core::binlog::{Altered, CatalogColumn};
use rowmill_core::position::BinlogPosition;
use serde::{Deserialize, Serialize};

const VERSION: u32 = 1;
/// A long text is written no more often than this, unless something in it doesn't hold any more.
const WRITE_INTERVAL: Duration = Duration::from_secs(5);
const LONG_TEXT: usize = 256 << 10;

/// What is known of columns. Shared by the source, which learns them, and the checkpoint's writer.
#[derive(Debug)]
pub struct SchemaHistory(Mutex<Known>);

#[derive(Debug)]
struct Known {
    /// The server whose binlog's positions these are.
    server: String,
    tables: HashMap<(String, String), Vec<Version>>,
    /// Counts what was learned and what ended.
    sequence: u64,
    /// The sequence when a version ended last.
    ended: u64,
    /// What was written.
    written: Option<Written>,
}

/// What was written last, and when.
#[derive(Debug)]
struct Written {
    sequence: u64,
    bytes: usize,
    at: Instant,
}

/// Columns of a table, for the rows from one position to another.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Version {
    from: BinlogPosition,
    /// `None`: it holds still.
    until: Option<BinlogPosition>,
    columns: Vec<CatalogColumn>,
}

/// A text of the history, and what a checkpoint says of it: how much it has, at least.
#[derive(Debug)]
pub struct HistoryText {
    /// Counts changes.
    pub sequence: u64,
    /// The text, if it is to be written.
    pub text: Option<String>,
}

impl SchemaHistory {
    /// Nothing is known of a server's tables.
    pub fn new(server: &str) -> Self {
        let (tables, server) = (HashMap::new(), server.to_owned());
        Self(Mutex::new(Known { server, tables, sequence: 0, ended: 0, written: None }))
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A server's tables, as far as a text says. `epoch` and `sequence` are what the checkpoint says; `is_selected` whether
    /// a table's rows are still read.
    ///
    /// # Errors
    /// If the text isn't whole, or isn't what was written before the checkpoint.
    pub fn read(
        text: &str,
        (epoch, sequence): (u64, u64),
        server: &str,
        is_selected: impl Fn(&str, &str) -> bool,
    ) -> anyhow::Result<Self> {
        let mut document: Document = serde_json::from_str(text).context("it is damaged")?;
        if document.version != VERSION {
            bail!("it has version {}, and this rowmill reads version {VERSION}", document.version);
        }
        let checksum = document.checksum();
        if document.checksum != checksum {
            bail!("it is damaged: its checksum is `{}`, its content's {checksum}", document.checksum);
        }
        let is_of_checkpoint = document.epoch == epoch && document.sequence >= sequence
            || document.previous.is_some_and(|previous| previous == (epoch, sequence));
        if !is_of_checkpoint {
            bail!("it doesn't belong to the checkpoint");
        }
        if document.server != server {
            bail!("it is of another server");
        }
        let tables = document.tables.into_iter().filter(|table| is_selected(&table.schema, &table.table));
        let tables = tables.map(|TableDocument { schema, table, versions }| {
            ((schema, table), versions.into_iter().map(VersionDocument::read).collect())
        });
        let (tables, server) = (tables.collect(), server.to_owned());
        // It is written with this process's epoch before a checkpoint is.
        Ok(Self(Mutex::new(Known { server, tables, sequence: sequence + 1, ended: 0, written: None })))
    }

    /// The columns of a table that has rows at a position.
    pub fn columns(&self, schema: &str, table: &str, rows: &BinlogPosition) -> Option<Vec<CatalogColumn>> {
        let known = self.lock();
        let versions = known.tables.get(&(schema.to_owned(), table.to_owned()))?;
        let holds = |version: &&Version| {
            !rows.is_before(&version.from) && version.until.as_ref().is_none_or(|until| rows.is_before(until))
        };
        Some(versions.iter().find(holds)?.columns.clone())
    }

    /// A table with rows at a position has these columns, until a statement changes them.
    pub fn learn(&self, schema: &str, table: &str, rows: &BinlogPosition, columns: &[CatalogColumn]) {
        let mut known = self.lock();
        known.sequence += 1;
        let version = Version { from: rows.clone(), until: None, columns: columns.to_vec() };
        let versions = known.tables.entry((schema.to_owned(), table.to_owned())).or_default();
        // One from further on, of a reading that went ahead and was begun again, is this one.
        versions.retain(|known| known.until.is_some());
        versions.push(version);
    }

    /// A statement at a position may have changed columns.
    pub fn alter(&self, at: &BinlogPosition, altered: &Altered) {
        let mut known = self.lock();
        let mut has_ended = false;
        for ((schema, table), versions) in &mut known.tables {
            let holds = |version: &&mut Version| version.until.is_none() && !at.is_before(&version.from);
            let mut holding = versions.iter_mut().filter(holds).peekable();
            if holding.peek().is_some() && altered.may_be(schema, table) {
                holding.for_each(|version| version.until = Some(at.clone()));
                has_ended = true;
            }
        }
        if has_ended {
            known.sequence += 1;
            known.ended = known.sequence;
        }
    }

    /// The stream goes on at a server. The positions of another one than before mean nothing there.
    pub fn reads(&self, server: &str) {
        let mut known = self.lock();
        if known.server != server {
            known.server = server.to_owned();
            known.tables.clear();
            known.sequence += 1;
            known.ended = known.sequence;
        }
    }

    /// Forgets what holds for no row from a position on.
    pub fn forget_before(&self, position: &BinlogPosition) {
        let mut known = self.lock();
        known.tables.retain(|_, versions| {
            versions.retain(|version| version.until.as_ref().is_none_or(|until| position.is_before(until)));
            !versions.is_empty()
        });
    }

    /// What is to be written before the next checkpoint is. `None` if nothing was ever known.
    pub fn text(&self, epoch: u64, previous: Option<(u64, u64)>) -> Option<HistoryText> {
        let known = self.lock();
        if known.sequence == 0 {
            return None;
        }
        let is_due = known.written.as_ref().is_none_or(|Written { sequence, bytes, at }| {
            let is_in_time = *bytes < LONG_TEXT || at.elapsed() >= WRITE_INTERVAL;
            known.ended > *sequence || known.sequence > *sequence && is_in_time
        });
        let sequence = match &known.written {
            Some(written) if !is_due => written.sequence,
            _ => known.sequence,
        };
        Some(HistoryText { sequence, text: is_due.then(|| known.document(epoch, previous)) })
    }

    /// What [`SchemaHistory::text`] gave, of so many bytes, is written.
    pub fn is_written(&self, sequence: u64, bytes: usize) {
        self.lock().written = Some(Written { sequence, bytes, at: Instant::now() });
    }
}

impl Known {
    fn document(&self, epoch: u64, previous: Option<(u64, u64)>) -> String {
        let table = |((schema, table), versions): (&(String, String), &Vec<Version>)| TableDocument {
            schema: schema.clone(),
            table: table.clone(),
            versions: versions.iter().map(VersionDocument::of).collect(),
        };
        let mut document = Document {
            version: VERSION,
            epoch,
            previous,
            sequence: self.sequence,
            server: self.server.clone(),
            tables: self.tables.iter().map(table).collect(),
            checksum: String::new(),
        };
        document.checksum = document.checksum();
        serde_json::to_string(&document).expect("numbers and texts are JSON") + "\n"
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    /// Of the process that wrote it: its checkpoints have the same.
    epoch: u64,
    /// Epoch and sequence of the checkpoint that this process went on from, which has no newer one yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<(u64, u64)>,
    /// Counts changes within an epoch.
    sequence: u64,
    server: String,
    tables: Vec<TableDocument>,
    /// CRC-32 of the JSON of all above, in hex.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    checksum: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TableDocument {
    schema: String,
    table: String,
    versions: Vec<VersionDocument>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VersionDocument {
    from: (String, u64),
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<(String, u64)>,
    columns: Vec<ColumnDocument>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ColumnDocument {
    name: String,
    r#type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    charset: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<u32>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    hidden: bool,
}

impl Document {
    /// Of all but itself.
    fn checksum(&mut self) -> String {
        let kept = std::mem::take(&mut self.checksum);
        let text = serde_json::to_vec(self).expect("numbers and texts are JSON");
        self.checksum = kept;
        format!("{:08x}", libdeflater::crc32(&text))
    }
}

impl VersionDocument {
    fn of(Version { from, until, columns }: &Version) -> Self {
        let place = |BinlogPosition { file, offset }: &BinlogPosition| (file.clone(), *offset);
        let columns =
            columns.iter().cloned().map(|CatalogColumn { name, column_type, charset, key_position, is_hidden }| {
                ColumnDocument { name, r#type: column_type, charset, key: key_position, hidden: is_hidden }
            });
        Self { from: place(from), until: until.as_ref().map(place), columns: columns.collect() }
    }

    fn read(self) -> Version {
        let place = |(file, offset): (String, u64)| BinlogPosition::new(file, offset);
        let columns = self.columns.into_iter().map(|ColumnDocument { name, r#type, charset, key, hidden }| {
            CatalogColumn { name, column_type: r#type, charset, key_position: key, is_hidden: hidden }
        });
        Version { from: place(self.from), until: self.until.map(place), columns: columns.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> BinlogPosition {
        BinlogPosition::new("binlog.000001", offset)
    }

    fn columns(name: &str) -> Vec<CatalogColumn> {
        let (column_type, charset) = ("varchar(10)".to_owned(), Some("utf8mb4".to_owned()));
        vec![CatalogColumn { name: name.to_owned(), column_type, charset, key_position: Some(1), is_hidden: false }]
    }

    fn name(history: &SchemaHistory, table: &str, offset: u64) -> Option<String> {
        Some(history.columns("shop", table, &at(offset))?.first()?.name.clone())
    }

    fn altered(statement: &str) -> Altered {
        let change = rowmill_core::binlog::SchemaChange {
            schema: None,
            statement: statement.to_owned(),
            file: String::new(),
            transaction_position: 0,
            event_position: 0,
            gtid: String::new(),
            time_us: 0,
            commit_time_us: 0,
            server_id: 1,
            thread_id: 1,
        };
        change.altered()
    }

    /// `t` has the column `a`, then `b`; `u` has `c`.
    fn history() -> SchemaHistory {
        let history = SchemaHistory::new("uuid");
        history.learn("shop", "t", &at(100), &columns("a"));
        history.learn("shop", "u", &at(150), &columns("c"));
        history.alter(&at(200), &altered("ALTER TABLE t RENAME COLUMN a TO b"));
        history.learn("shop", "t", &at(300), &columns("b"));
        history
    }

    #[test]
    fn columns_hold_from_one_place_to_another() {
        let history = history();
        let t = [99, 100, 199, 200, 299, 300].map(|offset| name(&history, "t", offset));
        assert_eq!(t.map(Option::unwrap_or_default), ["", "a", "a", "", "", "b"]);
        assert_eq!(name(&history, "u", 9999).as_deref(), Some("c"), "the statement names another table");
        // Read once more, the statement says nothing new.
        history.alter(&at(200), &altered("ALTER TABLE t RENAME COLUMN a TO b"));
        assert_eq!(name(&history, "t", 300).as_deref(), Some("b"));
        history.forget_before(&at(199));
        assert_eq!(name(&history, "t", 199).as_deref(), Some("a"));
        history.forget_before(&at(200));
        assert_eq!((name(&history, "t", 199), name(&history, "t", 300).as_deref()), (None, Some("b")));
        history.reads("uuid");
        assert_eq!(name(&history, "u", 9999).as_deref(), Some("c"));
        history.reads("another");
        assert_eq!(name(&history, "u", 9999), None, "its positions are others");
    }

    #[test]
    fn what_does_not_hold_any_more_is_written_before_the_next_checkpoint() {
        let history = SchemaHistory::new("uuid");
        assert!(history.text(7, None).is_none(), "nothing was asked for: nothing is written");
        history.learn("shop", "t", &at(100), &columns("a"));
        let first = history.text(7, None).expect("known");
        assert!(first.text.is_some());
        history.is_written(first.sequence, LONG_TEXT);
        // What is new may wait, where it takes long; the checkpoint needs what is written already.
        history.learn("shop", "u", &at(150), &columns("c"));
        let second = history.text(7, None).expect("known");
        assert_eq!((second.sequence, second.text), (first.sequence, None));
        history.is_written(first.sequence, LONG_TEXT - 1);
        assert!(history.text(7, None).is_some_and(|text| text.text.is_some()), "a short text is written each time");
        history.is_written(first.sequence, LONG_TEXT);
        history.alter(&at(200), &altered("DROP TABLE t"));
        let third = history.text(7, None).expect("known");
        assert!(third.text.is_some() && third.sequence > first.sequence);
    }

    #[test]
    fn it_is_read_where_it_belongs_to_the_checkpoint() {
        let HistoryText { sequence, text } = history().text(7, Some((6, 3))).expect("known");
        let text = text.expect("it was never written");
        let read = |of, server| SchemaHistory::read(&text, of, server, |_, table| table != "u");
        for of in [(7, sequence), (7, 1), (6, 3)] {
            let history = read(of, "uuid").expect("it belongs to it");
            assert_eq!(
                (name(&history, "t", 199).as_deref(), name(&history, "t", 300).as_deref()),
                (Some("a"), Some("b"))
            );
            assert_eq!(name(&history, "u", 300), None, "it isn't selected any more");
            assert!(history.text(8, Some(of)).expect("known").text.is_some(), "it is written before a checkpoint is");
        }
        for (of, server) in [((7, sequence + 1), "uuid"), ((8, 1), "uuid"), ((6, 2), "uuid"), ((7, 1), "another")] {
            read(of, server).expect_err("it doesn't belong to it");
        }
        for (index, byte) in text.trim_end().bytes().enumerate() {
            let mut damaged = text.clone().into_bytes();
            damaged[index] = if byte == b'1' { b'2' } else { b'1' };
            let damaged = String::from_utf8(damaged).expect("ASCII");
            assert!(SchemaHistory::read(&damaged, (7, sequence), "uuid", |_, _| true).is_err(), "{damaged}");
        }
    }
}
