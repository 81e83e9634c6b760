//! The newest row changes of a server, as lines that `rowmill tail --record` writes.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::anyhow;
use serde::Deserialize;

use crate::fixture::Rows;

/// The rows that are kept, and their bytes.
const ROWS_MAX: usize = 1_000;
const BYTES_MAX: usize = 16 << 20;

/// The newest rows: one thread writes their lines, another takes them.
#[derive(Debug, Clone, Default)]
pub struct Recording {
    /// The names of the sinks that a transform may name.
    sinks: Vec<String>,
    recorded: Arc<Mutex<Recorded>>,
}

/// What a line says of itself: a table's line has no operation.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Line {
    op: Option<char>,
    table: String,
}

#[derive(Debug, Default)]
struct Recorded {
    /// The beginning of a line whose end is not yet written.
    begun: Vec<u8>,
    /// The names and lines of tables, in the order of their IDs.
    tables: Vec<(String, String)>,
    rows: VecDeque<String>,
    bytes: usize,
    /// The number of rows at the end of `rows` that were not taken.
    new: usize,
    /// The number of rows that were dropped before they were taken.
    missed: usize,
    /// Whether a table has changed since rows were taken: the rows before it are of another version of it.
    has_new_version: bool,
    /// The error that ended the reading.
    end: Option<anyhow::Error>,
}

/// Rows of a recording.
#[derive(Debug)]
pub(super) struct Taken {
    pub rows: Rows,
    /// The number of rows that came, but were dropped as they were too many.
    pub missed: usize,
    /// Whether a table has another version than before.
    pub has_new_version: bool,
}

impl Recording {
    /// Begins a recording, where the configuration has these sinks.
    pub fn new(sinks: Vec<String>) -> Self {
        Self { sinks, ..Self::default() }
    }

    pub(super) fn sinks(&self) -> &[String] {
        &self.sinks
    }

    fn recorded(&self) -> MutexGuard<'_, Recorded> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the recording.
    pub fn end(&self, result: anyhow::Result<()>) {
        self.recorded().end = Some(result.err().unwrap_or_else(|| anyhow!("the server ended the stream")));
    }

    /// Returns the rows that came since the last call, or all that are kept; `None` if there are none.
    ///
    /// # Errors
    /// If the reading has ended.
    pub(super) fn take(&self, all: bool) -> anyhow::Result<Option<Taken>> {
        let mut recorded = self.recorded();
        if recorded.new == 0
            && let Some(end) = recorded.end.take()
        {
            return Err(end);
        }
        let count = if all { recorded.rows.len() } else { recorded.new };
        if count == 0 {
            return Ok(None);
        }
        let first = recorded.rows.len() - count;
        let mut lines: String = recorded.tables.iter().map(|(_, line)| line.as_str()).collect();
        lines.extend(recorded.rows.range(first..).map(String::as_str));
        let missed = std::mem::take(&mut recorded.missed);
        let has_new_version = std::mem::take(&mut recorded.has_new_version);
        recorded.new = 0;
        // Meanwhile rows come.
        drop(recorded);
        let mut rows = Rows::parse(&lines).map_err(|error| anyhow!("a row cannot be recorded: {error}"))?;
        rows.sinks.clone_from(&self.sinks);
        Ok(Some(Taken { rows, missed, has_new_version }))
    }
}

impl Recorded {
    fn line(&mut self, line: String) {
        let Line { op, table } = serde_json::from_str(&line).unwrap_or_default();
        if op.is_none() {
            if self.tables.iter().any(|(known, _)| *known == table) {
                self.missed += self.new;
                (self.new, self.bytes, self.has_new_version) = (0, 0, true);
                self.rows.clear();
            }
            self.tables.push((table, line));
            return;
        }
        self.bytes += line.len();
        self.rows.push_back(line);
        self.new += 1;
        while self.rows.len() > ROWS_MAX || self.bytes > BYTES_MAX {
            self.bytes -= self.rows.pop_front().map_or(0, |oldest| oldest.len());
            if self.new > self.rows.len() {
                self.new = self.rows.len();
                self.missed += 1;
            }
        }
    }
}

impl Write for Recording {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut recorded = self.recorded();
        let mut begun = std::mem::take(&mut recorded.begun);
        begun.extend_from_slice(bytes);
        let mut rest = &begun[..];
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            let (line, after) = rest.split_at(end + 1);
            recorded.line(String::from_utf8_lossy(line).into_owned());
            rest = after;
        }
        recorded.begun = rest.to_vec();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "{\"table\": \"shop.orders\", \"columns\": [\"id bigint\"], \"key\": [\"id\"]}\n";

    fn row(id: usize) -> String {
        format!("{{\"op\": \"c\", \"table\": \"shop.orders\", \"after\": {{\"id\": {id}}}}}\n")
    }

    #[test]
    fn rows_are_taken_once_and_the_newest_are_kept() {
        let mut recording = Recording::default();
        assert!(recording.take(false).expect("goes on").is_none());
        let first = row(1);
        let (begin, end) = first.split_at(10);
        recording.write_all(format!("{TABLE}{begin}").as_bytes()).expect("written");
        assert!(recording.take(false).expect("goes on").is_none(), "the line has no end yet");
        recording.write_all(end.as_bytes()).expect("written");
        let taken = recording.take(false).expect("goes on").expect("a row");
        assert_eq!((taken.rows.singles.len(), taken.missed), (1, 0));
        assert!(recording.take(false).expect("goes on").is_none());
        for id in 0..ROWS_MAX + 5 {
            recording.write_all(row(id).as_bytes()).expect("written");
        }
        let taken = recording.take(false).expect("goes on").expect("rows");
        assert_eq!((taken.rows.singles.len(), taken.missed, taken.has_new_version), (ROWS_MAX, 5, false));
        let taken = recording.take(true).expect("goes on").expect("rows");
        assert_eq!((taken.rows.singles.len(), taken.missed), (ROWS_MAX, 0));
    }

    #[test]
    fn another_version_of_a_table_begins_anew() {
        let mut recording = Recording::default();
        let other = "{\"table\": \"shop.orders\", \"columns\": [\"id bigint\", \"note text\"], \"key\": [\"id\"]}\n";
        recording.write_all(format!("{TABLE}{}{other}{}", row(1), row(2)).as_bytes()).expect("written");
        let taken = recording.take(false).expect("goes on").expect("rows");
        assert_eq!((taken.rows.singles.len(), taken.missed, taken.has_new_version), (1, 1, true));
        recording.end(Err(anyhow!("the server is gone")));
        assert_eq!(recording.take(false).expect_err("ended").to_string(), "the server is gone");
    }
}
