//! Rows into batches: when a batch is full, and whether it is handed on or held back.

use std::fmt::Write;
use std::mem;
use std::sync::Arc;

use rowmill_batch::{Builder, RowHeader, TransactionHeader};

use super::super::error::Fault;
use super::super::event::EventHeader;
use super::super::late::Rows;
use super::super::query::SchemaChange;
use super::super::rows::RowsEvent;
use super::super::tables::TableVersion;
use super::super::transaction::{HELD_BYTES_MAX, Transaction};
use super::{Decoder, RowBatch, Span};
use crate::position::{Past, Progress, Resume};

impl Decoder {
    pub(super) fn rows(&mut self, mut rows: RowsEvent<'_>, header: &EventHeader, span: Span) -> Result<(), Fault> {
        let Some(known) = self.tables.of_number(rows.table_number) else {
            return Err(Fault::NoTableMap(rows.table_number));
        };
        let Some(version) = known.map(Arc::clone) else { return Ok(()) };
        if rows.columns() != version.columns.codecs.len() {
            return Err(Fault::Malformed("a row event with other columns than its table map"));
        }
        let Some(mut transaction) = self.transaction.take() else {
            return Err(Fault::Malformed("rows outside a transaction"));
        };
        let result = self.rows_of(&mut rows, &version, header, span, &mut transaction);
        self.transaction = Some(transaction);
        result
    }

    pub(super) fn rows_of(
        &mut self,
        rows: &mut RowsEvent<'_>,
        version: &Arc<TableVersion>,
        header: &EventHeader,
        span: Span,
        transaction: &mut Transaction,
    ) -> Result<(), Fault> {
        let mut place = Progress { event: span.begin, rows: transaction.payload_rows.unwrap_or(0) };
        let (needs, needs_version) = self.needs.of(version, &*self.select);
        let needed = needs.of(rows.operation());
        let mut form = None;
        while !rows.is_done() {
            if self.is_full() {
                self.cut_within(transaction, place)?;
                form = None;
            }
            if !self.batch_has_transaction {
                self.begin_in_batch(transaction);
            }
            let header = RowHeader {
                table: version.table.id,
                operation: rows.operation(),
                columns: version.columns.codecs.len() as u16,
                index_in_transaction: transaction.rows,
                index_in_event: place.rows,
                event_position: place.event,
                time_us: i64::from(header.timestamp_s) * 1_000_000,
            };
            let at = rows.rest();
            let read = self.batch.begin_row(&header, rows, version, needed);
            read.inspect_err(|_| self.batch.abandon_row())?;
            // What is past of an XA transaction is decided by its commit.
            if transaction.is_past || transaction.xa.is_none() && self.is_past(place) {
                self.batch.abandon_row();
            } else {
                match needed {
                    None => self.batch.end_row(),
                    Some(_) => {
                        let images = &at[..at.len() - rows.rest().len()];
                        let form = *form.get_or_insert_with(|| self.batch.form(rows, version, needs_version));
                        self.batch.end_row_in_part(form, images);
                    }
                }
                self.moved = true;
            }
            transaction.rows += 1;
            place.rows += 1;
        }
        if let Some(payload_rows) = &mut transaction.payload_rows {
            *payload_rows = place.rows;
        }
        Ok(())
    }

    /// Whether an earlier run was done with the row at a place of the current file.
    pub(super) fn is_past(&self, place: Progress) -> bool {
        self.skip.as_ref().is_some_and(|past| past.file != self.position.file || place < past.progress)
    }

    pub(super) fn begin_in_batch(&mut self, transaction: &Transaction) {
        self.gtid_text.clear();
        if let Some(gtid) = &transaction.gtid {
            write!(self.gtid_text, "{gtid}").expect("memory takes any text");
        }
        self.batch.transaction(&TransactionHeader {
            file: &self.position.file,
            position: transaction.begin,
            gtid: &self.gtid_text,
            commit_time_us: transaction.commit_time_us,
            server_id: transaction.server_id,
            thread_id: transaction.thread_id,
        });
        self.batch_has_transaction = true;
    }

    /// The batch is full within a transaction: it is handed on, or held back. `place` is that of the
    /// next row.
    pub(super) fn cut_within(&mut self, transaction: &mut Transaction, place: Progress) -> Result<(), Fault> {
        let past = Some(Past { file: self.position.file.clone(), progress: place });
        let hold = &mut transaction.hold;
        if !hold.on || hold.handed_on > 0 {
            hold.handed_on += 1;
            self.resume.past = past;
            self.cut();
            return Ok(());
        }
        // What is before the transaction in the batch is committed.
        if hold.earlier > 0 {
            let (committed, open) = mem::replace(&mut self.batch, Rows::with_capacity(0)).divide(hold.earlier);
            self.batch = committed;
            self.cut();
            self.batch_has_transaction = open.count() > 0;
            self.batch = open;
            hold.divided();
            if !self.is_full() {
                return Ok(());
            }
        }
        let resume = Resume { past, ..self.resume() };
        let batch = self.take_batch(resume);
        hold.batches.push(batch);
        if hold.bytes() + self.prepared.bytes() > HELD_BYTES_MAX {
            if transaction.xa.is_some() {
                return Err(Fault::Unsupported {
                    what: format!(
                        "XA transactions of more than {HELD_BYTES_MAX} bytes that are prepared and not committed"
                    ),
                    mend: "commit or roll back prepared transactions sooner; or start from a position after them",
                });
            }
            hold.handed_on += 1;
            self.ready.extend(hold.batches.drain(..));
        }
        Ok(())
    }

    pub(super) fn is_full(&self) -> bool {
        // One row at least, whatever the bounds.
        self.batch.count() > 0
            && (self.batch.count() >= self.batch_rows_max || self.batch.bytes() >= self.batch_bytes_max)
    }

    /// Hands on what the batch has.
    pub(super) fn cut(&mut self) {
        let resume = self.resume();
        let batch = self.take_batch(resume);
        self.ready.push_back(batch);
        self.moved = false;
    }

    /// Hands on a schema change, behind the committed rows before it.
    pub(super) fn cut_schema_change(&mut self, change: SchemaChange) {
        if !self.batch_has_transaction && self.moved {
            self.cut();
            self.transaction.iter_mut().for_each(|transaction| transaction.hold.divided());
        }
        let resume = self.ready.back().map_or(&self.handed_on, |batch| &batch.resume).clone();
        let bytes = Arc::new(Builder::with_capacity(0).finish());
        let schema_change = Some(Box::new(change));
        self.ready.push_back(RowBatch {
            bytes,
            undecoded: None,
            rows: 0,
            schema_change,
            new_tables: Vec::new(),
            resume,
        });
    }

    pub(super) fn take_batch(&mut self, resume: Resume) -> RowBatch {
        let rows = self.batch.count();
        let next = self.batch.successor();
        let (bytes, undecoded) = mem::replace(&mut self.batch, next).finish();
        self.batch_has_transaction = false;
        let (bytes, undecoded) = (Arc::new(bytes), undecoded.map(Arc::new));
        RowBatch { bytes, undecoded, rows, schema_change: None, new_tables: Vec::new(), resume }
    }

    pub(super) fn pop(&mut self) -> Option<RowBatch> {
        let mut batch = self.ready.pop_front()?;
        // Here and not before: a batch that is held back must not keep what an earlier one needs.
        batch.new_tables = self.tables.take_new();
        self.handed_on.clone_from(&batch.resume);
        Some(batch)
    }

    /// From where to read on behind the last transaction, with the set of what was executed.
    pub(super) fn resume(&self) -> Resume {
        let gtids = self.resume.gtids.clone().or_else(|| self.gtids.clone());
        Resume { gtids, ..self.resume.clone() }
    }
}
