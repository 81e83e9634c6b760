//! Writes row changes as lines of JSON, for people and for tests.

use std::io::Write;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use rowmill_core::batch::Table;
use rowmill_core::binlog::RowBatch;
use rowmill_core::envelope::{Connector, Envelope, Escaping, Format, KeyChange, SourceName};

use crate::fixture::{row_json, table_json};
use crate::transform::RowCondition;

/// The form of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Debezium's envelope.
    Envelope,
    /// The format that `rowmill plugin test` reads: each table's line precedes its first row.
    Record,
}

/// The rows that are written, and how.
#[derive(Debug)]
pub struct Selection {
    /// The form of a line.
    pub form: Form,
    /// The condition for which a row is written.
    pub condition: Option<RowCondition>,
    /// The number of rows after which the output ends.
    pub limit: Option<u64>,
}

/// A writer of rows as lines.
#[derive(Debug)]
pub struct Printer<'a, W> {
    out: &'a mut W,
    selection: Selection,
    envelope: Envelope,
    /// The tables by ID, and whether the line of each was written.
    tables: Vec<(Arc<Table>, bool)>,
    line: Vec<u8>,
}

impl<'a, W: Write> Printer<'a, W> {
    /// Makes a printer that writes to `out`.
    pub fn new(out: &'a mut W, selection: Selection) -> Self {
        let (version, name) = (env!("CARGO_PKG_VERSION").to_owned(), "rowmill".to_owned());
        let source = SourceName { version, name, connector: Connector::MySql };
        Self {
            out,
            selection,
            envelope: Envelope::new(Format::Debezium, Escaping::Plain, source),
            tables: Vec::new(),
            line: Vec::new(),
        }
    }

    /// Sets the server family of the batches that follow; MySQL by default.
    pub fn set_connector(&mut self, connector: Connector) {
        self.envelope.set_connector(connector);
    }

    /// Writes a batch's rows and its schema change. Returns false if the reader closed the output, or the limit of rows is
    /// reached.
    ///
    /// # Errors
    /// If the output cannot be written, or the condition makes no sense for a row.
    pub fn print(&mut self, batch: &RowBatch) -> anyhow::Result<bool> {
        if let Some(new) = batch.new_tables.first() {
            self.tables.retain(|(table, _)| table.generation == new.generation);
        }
        self.tables.extend(batch.new_tables.iter().map(|table| (Arc::clone(table), false)));
        let parsed = batch.packed.view();
        let now_us = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros() as i64);
        for row in parsed.rows() {
            self.line.clear();
            let (table, is_written) = &mut self.tables[row.table().0 as usize];
            let Selection { form, condition, limit } = &mut self.selection;
            if let Some(condition) = condition
                && !condition.holds(table, &parsed, row).map_err(|error| anyhow!("--where: {error}"))?
            {
                continue;
            }
            match limit {
                Some(0) => return Ok(false),
                Some(left) => *left -= 1,
                None => {}
            }
            match form {
                Form::Envelope => {
                    for &part in KeyChange::for_row(table, &row) {
                        self.envelope.write(table, &parsed, &row, part, now_us, &mut self.line);
                        self.line.push(b'\n');
                    }
                }
                Form::Record => {
                    if !std::mem::replace(is_written, true) {
                        writeln!(self.line, "{}", table_json(table))?;
                    }
                    writeln!(self.line, "{}", row_json(table, &row))?;
                }
            }
            if !self.write_line()? || self.selection.limit == Some(0) {
                return Ok(false);
            }
        }
        let Some(change) = batch.schema_change.as_ref().filter(|_| self.selection.form == Form::Envelope) else {
            return Ok(true);
        };
        self.line.clear();
        self.envelope.write_schema_change(change, now_us, &mut self.line);
        self.line.push(b'\n');
        self.write_line()
    }

    /// Flushes the output. Returns false if the reader closed it.
    ///
    /// # Errors
    /// If the output cannot be written.
    pub fn flush(&mut self) -> anyhow::Result<bool> {
        taken(self.out.flush())
    }

    fn write_line(&mut self) -> anyhow::Result<bool> {
        taken(self.out.write_all(&self.line))
    }
}

/// Returns the result of a write to standard output: false if the reader closed the pipe, which is no failure.
///
/// # Errors
/// If the output cannot be written.
pub fn taken(result: std::io::Result<()>) -> anyhow::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("cannot write to standard output"),
    }
}
