//! The schema history: columns that were looked up because table maps do not describe them fully, and the positions between
//! which they hold.
//!
//! The schema history is stored beside the checkpoint, so that a restart need not look the columns up again: by then a table
//! may have been changed, and its old columns cannot be found out any more.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rowmill_core::binlog::{Altered, CatalogColumn};
use rowmill_core::position::{BinlogPosition, ResumePoint};
use serde::{Deserialize, Serialize};

const VERSION: u32 = 1;
/// The minimum interval between writes of a long text, which has `LONG_TEXT` bytes or more.
const WRITE_INTERVAL: Duration = Duration::from_secs(5);
const LONG_TEXT: usize = 256 << 10;

/// Known columns of tables. Shared by the source, which adds them, and the checkpoint writer.
#[derive(Debug)]
pub struct SchemaHistory(Mutex<Known>);

/// Identifies a state of a process's schema history. In a checkpoint: the history that the checkpoint needs, in this state
/// or a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// A random ID of the process's history.
    pub history: u64,
    /// Number of changes of the history.
    pub sequence: u64,
}

#[derive(Debug)]
struct Known {
    id: u64,
    /// The identity of the server that the positions belong to.
    server: String,
    tables: HashMap<(String, String), Vec<Version>>,
    /// Number of changes: versions that were added or ended.
    sequence: u64,
    /// The sequence number at which a version last ended.
    ended: u64,
    /// The last write.
    written: Option<Written>,
}

/// The last write of the schema history.
#[derive(Debug)]
struct Written {
    sequence: u64,
    bytes: usize,
    at: Instant,
}

/// The columns of a table, for rows between two positions.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Version {
    from: BinlogPosition,
    /// `None` while the version still holds.
    until: Option<BinlogPosition>,
    columns: Vec<CatalogColumn>,
}

/// A text that is to be written before a checkpoint.
#[derive(Debug)]
pub struct HistoryText {
    /// Identifies the text's content.
    pub mark: Mark,
    /// The text.
    pub text: String,
}

impl SchemaHistory {
    /// Makes an empty history of a server's tables.
    pub fn new(server: &str) -> Self {
        Self(Mutex::new(Known::new(server, HashMap::new(), 0)))
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Parses a history of a server's tables. `needed` is the mark in the checkpoint; `is_selected` tells whether a table's
    /// rows are still read.
    ///
    /// # Errors
    /// If the text is damaged, or does not belong to the checkpoint or the server.
    pub fn read(
        text: &str,
        needed: Mark,
        server: &str,
        is_selected: impl Fn(&str, &str) -> bool,
    ) -> anyhow::Result<Self> {
        let mut document: Document = serde_json::from_str(text).context("it is damaged")?;
        if document.version != VERSION {
            bail!("it has version {}, and this rowmill reads version {VERSION}", document.version);
        }
        let said = std::mem::take(&mut document.checksum);
        let found = checksum(&document);
        if said != found {
            bail!("it is damaged: its checksum is `{said}`, that of its content {found}");
        }
        let Document { mark, previous, .. } = &document;
        let is_of_checkpoint = mark.history == needed.history && mark.sequence >= needed.sequence
            || previous.is_some_and(|previous| previous == needed);
        if !is_of_checkpoint {
            bail!("it does not belong to the checkpoint");
        }
        if document.server != server {
            bail!("it belongs to another server");
        }
        let tables = document.tables.into_iter().filter(|table| is_selected(&table.schema, &table.table));
        let tables = tables.map(|TableDocument { schema, table, versions }| {
            ((schema, table), versions.into_iter().map(VersionDocument::read).collect())
        });
        // This process writes the history under its own ID before it writes a checkpoint.
        Ok(Self(Mutex::new(Known::new(server, tables.collect(), 1))))
    }

    /// Returns the known columns of a table for rows at a position.
    pub fn columns(&self, schema: &str, table: &str, rows: &BinlogPosition) -> Option<Vec<CatalogColumn>> {
        let known = self.lock();
        let versions = known.tables.get(&(schema.to_owned(), table.to_owned()))?;
        let holds = |version: &&Version| {
            !rows.is_before(&version.from) && version.until.as_ref().is_none_or(|until| rows.is_before(until))
        };
        Some(versions.iter().find(holds)?.columns.clone())
    }

    /// Adds the columns of a table for rows from a position on, until a statement changes them.
    pub fn learn(&self, schema: &str, table: &str, rows: BinlogPosition, columns: Vec<CatalogColumn>) {
        let mut known = self.lock();
        known.sequence += 1;
        let version = Version { from: rows, until: None, columns };
        let versions = known.tables.entry((schema.to_owned(), table.to_owned())).or_default();
        // An open version from a later position, read before a rewind, is the same as this one.
        versions.retain(|known| known.until.is_some());
        versions.push(version);
    }

    /// Removes the columns of a table, which proved to be wrong.
    pub fn forget(&self, schema: &str, table: &str) {
        let mut known = self.lock();
        if known.tables.remove(&(schema.to_owned(), table.to_owned())).is_some() {
            known.sequence += 1;
            known.ended = known.sequence;
        }
    }

    /// Ends the versions whose columns a statement at a position may have renamed. Other changes end no version: columns that
    /// do not fit a table map are looked up again.
    pub fn alter(&self, at: &BinlogPosition, altered: &Altered) {
        let mut known = self.lock();
        let mut has_ended = false;
        for ((schema, table), versions) in &mut known.tables {
            let holds = |version: &&mut Version| version.until.is_none() && !at.is_before(&version.from);
            let mut holding = versions.iter_mut().filter(holds).peekable();
            if holding.peek().is_some() && altered.may_rename(schema, table) {
                holding.for_each(|version| version.until = Some(at.clone()));
                has_ended = true;
            }
        }
        if has_ended {
            known.sequence += 1;
            known.ended = known.sequence;
        }
    }

    /// Sets the server that is being read. If it is another server than before, the history is cleared, as positions differ.
    pub fn reads(&self, server: &str) {
        let mut known = self.lock();
        if known.server != server {
            known.server = server.to_owned();
            known.tables.clear();
            known.sequence += 1;
            known.ended = known.sequence;
        }
    }

    /// Removes versions that hold for no row after a resume point.
    pub fn forget_before(&self, ResumePoint { server, position, .. }: &ResumePoint) {
        let mut known = self.lock();
        if known.server != **server {
            return;
        }
        known.tables.retain(|_, versions| {
            versions.retain(|version| version.until.as_ref().is_none_or(|until| position.is_before(until)));
            !versions.is_empty()
        });
    }

    /// Returns the text to write before the next checkpoint, if a write is due; a long text may wait, unless `urgent`.
    /// `previous` is the mark that the newest checkpoint needs, if another process wrote that checkpoint.
    pub fn text(&self, previous: Option<Mark>, urgent: bool) -> Option<HistoryText> {
        let known = self.lock();
        let is_due = known.sequence > 0
            && known.written.as_ref().is_none_or(|Written { sequence, bytes, at }| {
                known.sequence > *sequence && (urgent || *bytes < LONG_TEXT || at.elapsed() >= WRITE_INTERVAL)
            });
        let mark = Mark { history: known.id, sequence: known.sequence };
        is_due.then(|| HistoryText { mark, text: known.document(mark, previous) })
    }

    /// Records that a text of [`SchemaHistory::text`] was written; `bytes` is its length.
    pub fn is_written(&self, Mark { sequence, .. }: Mark, bytes: usize) {
        self.lock().written = Some(Written { sequence, bytes, at: Instant::now() });
    }

    /// Returns the mark for the next checkpoint: that of the last write, unless a version has ended since.
    pub fn needed(&self) -> Option<Mark> {
        let known = self.lock();
        let written = known.written.as_ref().filter(|written| written.sequence >= known.ended)?;
        Some(Mark { history: known.id, sequence: written.sequence })
    }
}

impl Known {
    fn new(server: &str, tables: HashMap<(String, String), Vec<Version>>, sequence: u64) -> Self {
        Self { id: rand::random(), server: server.to_owned(), tables, sequence, ended: 0, written: None }
    }

    fn document(&self, mark: Mark, previous: Option<Mark>) -> String {
        let table = |((schema, table), versions): (&(String, String), &Vec<Version>)| TableDocument {
            schema: schema.clone(),
            table: table.clone(),
            versions: versions.iter().map(VersionDocument::of).collect(),
        };
        let mut document = Document {
            version: VERSION,
            mark,
            previous,
            server: self.server.clone(),
            tables: self.tables.iter().map(table).collect(),
            checksum: String::new(),
        };
        document.checksum = checksum(&document);
        serde_json::to_string(&document).expect("numbers and texts are JSON") + "\n"
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    /// The mark in checkpoints that need this history.
    mark: Mark,
    /// The mark in the checkpoint that this process resumed from, until it has written one itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<Mark>,
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

/// Returns the CRC-32 of a document's compact JSON, in hex. The document's own checksum must be empty.
pub(crate) fn checksum(document: &impl Serialize) -> String {
    let text = serde_json::to_vec(document).expect("numbers and texts are JSON");
    format!("{:08x}", libdeflater::crc32(&text))
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
        Altered::of_statement(statement).expect("it alters")
    }

    fn resume(server: &str, offset: u64) -> ResumePoint {
        ResumePoint::at(server, at(offset))
    }

    /// `t` has the column `a`, then `b`; `u` has `c`.
    fn history() -> SchemaHistory {
        let history = SchemaHistory::new("uuid");
        history.learn("shop", "t", at(100), columns("a"));
        history.learn("shop", "u", at(150), columns("c"));
        history.alter(&at(200), &altered("ALTER TABLE t RENAME COLUMN a TO b"));
        history.learn("shop", "t", at(300), columns("b"));
        history
    }

    #[test]
    fn columns_hold_from_one_place_to_another() {
        let history = history();
        let t = [99, 100, 199, 200, 299, 300].map(|offset| name(&history, "t", offset));
        assert_eq!(t.map(Option::unwrap_or_default), ["", "a", "a", "", "", "b"]);
        assert_eq!(name(&history, "u", 9999).as_deref(), Some("c"), "the statement names another table");
        // Reading the statement once more changes nothing.
        history.alter(&at(200), &altered("ALTER TABLE t RENAME COLUMN a TO b"));
        assert_eq!(name(&history, "t", 300).as_deref(), Some("b"));
        history.forget_before(&resume("another", 250));
        history.forget_before(&resume("uuid", 199));
        assert_eq!(name(&history, "t", 199).as_deref(), Some("a"));
        history.forget_before(&resume("uuid", 200));
        assert_eq!((name(&history, "t", 199), name(&history, "t", 300).as_deref()), (None, Some("b")));
        history.reads("uuid");
        assert_eq!(name(&history, "u", 9999).as_deref(), Some("c"));
        history.reads("another");
        assert_eq!(name(&history, "u", 9999), None, "its positions are others");
    }

    #[test]
    fn what_does_not_hold_any_more_is_never_needed() {
        let history = SchemaHistory::new("uuid");
        let text = |urgent| history.text(None, urgent);
        assert!(text(true).is_none() && history.needed().is_none(), "nothing was asked for: nothing is written");
        history.learn("shop", "t", at(100), columns("a"));
        let first = text(false).expect("due").mark;
        assert_eq!(history.needed(), None, "it isn't written yet");
        history.is_written(first, LONG_TEXT);
        // A long text with new versions may wait; the checkpoint needs the one that is already written.
        history.learn("shop", "u", at(150), columns("c"));
        assert_eq!((text(false).is_some(), text(true).is_some(), history.needed()), (false, true, Some(first)));
        history.is_written(first, LONG_TEXT - 1);
        assert!(text(false).is_some(), "a short text is written each time");
        history.is_written(first, LONG_TEXT);
        // A long text with ended versions may wait, too, but then no checkpoint refers to the history.
        history.alter(&at(200), &altered("DROP TABLE t"));
        assert_eq!((text(false).is_some(), history.needed()), (false, None));
        let second = text(true).expect("it ended").mark;
        history.is_written(second, LONG_TEXT);
        assert_eq!(history.needed(), Some(second));
        history.forget("shop", "u");
        assert_eq!((name(&history, "u", 200), history.needed()), (None, None));
    }

    #[test]
    fn it_is_read_where_it_belongs_to_the_checkpoint() {
        let before = Mark { history: 6, sequence: 3 };
        let HistoryText { mark, text } = history().text(Some(before), false).expect("it was never written");
        let read = |needed, server| SchemaHistory::read(&text, needed, server, |_, table| table != "u");
        for needed in [mark, Mark { sequence: 1, ..mark }, before] {
            let history = read(needed, "uuid").expect("it belongs to it");
            let t = (name(&history, "t", 199), name(&history, "t", 300));
            assert_eq!(t, (Some("a".to_owned()), Some("b".to_owned())));
            assert_eq!(name(&history, "u", 300), None, "it isn't selected any more");
            let own = history.text(Some(needed), false).expect("it is written before a checkpoint is");
            assert_ne!(own.mark.history, mark.history, "each process has its own");
        }
        let other = Mark { history: !mark.history, ..mark };
        let later = Mark { sequence: mark.sequence + 1, ..mark };
        for (needed, server) in
            [(later, "uuid"), (other, "uuid"), (Mark { sequence: 2, ..before }, "uuid"), (mark, "another")]
        {
            read(needed, server).expect_err("it doesn't belong to it");
        }
        for (index, byte) in text.trim_end().bytes().enumerate() {
            let mut damaged = text.clone().into_bytes();
            damaged[index] = if byte == b'1' { b'2' } else { b'1' };
            let damaged = String::from_utf8(damaged).expect("ASCII");
            assert!(SchemaHistory::read(&damaged, mark, "uuid", |_, _| true).is_err(), "{damaged}");
        }
    }
}
