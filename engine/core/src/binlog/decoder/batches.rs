//! Rows into batches: when a batch is full, and whether it is handed on or held back.

use std::mem;
use std::sync::Arc;

use rowmill_batch::{Builder, RowHeader, TransactionHeader};

use super::super::error::Fault;
use super::super::event::EventHeader;
use super::super::late::Rows;
use super::super::mariadb;
use super::super::query::SchemaChange;
use super::super::rows::{RowsEvent, RowsKind};
use super::super::transaction::{HELD_BYTES_MAX, Transaction};
use super::{Decoder, RowBatch, Span};
use crate::position::{Past, Progress, Resume};

impl Decoder {
    pub(super) fn rows(&mut self, kind: RowsKind, header: &EventHeader, body: &[u8], span: Span) -> Result<(), Fault> {
        let Some(number) = RowsEvent::table_number(body)? else { return Ok(()) };
        let Some(known) = self.tables.of_number(number) else { return Err(Fault::NoTableMap(number)) };
        let Some(version) = known else { return Ok(()) };
        let unpacked;
        let mut rows = RowsEvent::parse(kind, body)?;
        if let Some(packed) = rows.packed() {
            unpacked = mariadb::unpack(packed)?;
            rows.unpacked(&unpacked);
        }
        if rows.columns() != version.columns.widths.len() {
            return Err(Fault::Malformed("a row event with other columns than its table map"));
        }
        let Some(transaction) = &self.transaction else { return Err(Fault::Malformed("rows outside a transaction")) };
        let mut place = Progress { event: span.begin, rows: transaction.payload_offset.unwrap_or(0) };
        while !rows.is_done() {
            if self.is_full() {
                self.cut_within(place)?;
            }
            let filled = self.fill(&mut rows, header, &mut place);
            self.rows_of_event = place.rows;
            filled?;
        }
        Ok(())
    }

    /// Takes rows of an event, at least one, until there are no more or the batch is full. The first is at `place`, which
    /// moves with them.
    fn fill(&mut self, rows: &mut RowsEvent<'_>, header: &EventHeader, place: &mut Progress) -> Result<(), Fault> {
        if !self.batch_has_transaction {
            self.begin_in_batch();
        }
        let Self { tables, needs, select, batch, position, skip, .. } = self;
        let (Some(Some(version)), Some(transaction)) = (tables.of_number(rows.table_number), &mut self.transaction)
        else {
            return Err(Fault::NoTableMap(rows.table_number));
        };
        if batch.count() == 0 {
            needs.renew(&**select);
        }
        let needs_version = needs.version();
        let needed = needs.of(version, &**select).of(rows.operation());
        let form = needed.map(|_| batch.form(rows, version, needs_version));
        loop {
            let header = RowHeader {
                table: version.table.id,
                operation: rows.operation(),
                columns: version.columns.columns.len() as u16,
                index_in_transaction: transaction.rows,
                index_in_event: place.rows,
                event_position: place.event,
                time_us: i64::from(header.timestamp_s) * 1_000_000,
            };
            let at = rows.rest();
            let read = batch.begin_row(&header, rows, version, needed);
            read.inspect_err(|_| batch.abandon_row())?;
            // What is past of an XA transaction is decided by its commit.
            if transaction.xa.is_none() && is_past(skip.as_ref(), &position.file, *place) {
                batch.abandon_row();
            } else {
                match form {
                    None => batch.end_row(),
                    Some(form) => batch.end_row_in_part(form, &at[..at.len() - rows.rest().len()]),
                }
                self.moved = true;
            }
            transaction.rows += 1;
            place.rows += 1;
            if rows.is_done() || batch.is_full(self.batch_max) {
                break;
            }
        }
        Ok(())
    }

    /// Whether an earlier run was done with the row at a place of the current file.
    pub(super) fn is_past(&self, place: Progress) -> bool {
        is_past(self.skip.as_ref(), &self.position.file, place)
    }

    fn begin_in_batch(&mut self) {
        let Some(transaction) = &self.transaction else { return };
        self.batch.transaction(&TransactionHeader {
            file: &self.position.file,
            position: transaction.begin,
            gtid: self.gtid_text.of(transaction.gtid.as_ref()),
            commit_time_us: transaction.commit_time_us,
            server_id: transaction.server_id,
            thread_id: transaction.thread_id,
        });
        self.batch_has_transaction = true;
    }

    /// The batch is full within a transaction: it is handed on, or held back. `place` is that of the
    /// next row.
    fn cut_within(&mut self, place: Progress) -> Result<(), Fault> {
        let past = Some(Past { file: self.position.file.clone(), progress: place });
        let Some(Transaction { hold, .. }) = &mut self.transaction else { return Ok(()) };
        if !hold.on || hold.overflowed {
            hold.handed_on += 1;
            hold.divided();
            self.resume.past = past;
            self.cut();
            return Ok(());
        }
        // What is before the transaction in the batch is committed.
        let earlier = hold.divided();
        if earlier > 0 {
            let (committed, open) = mem::replace(&mut self.batch, Rows::with_capacity(0)).divide(earlier);
            self.batch = committed;
            self.cut();
            self.batch_has_transaction = open.count() > 0;
            self.batch = open;
            if !self.is_full() {
                return Ok(());
            }
        }
        let resume = Resume { past: past.clone(), ..self.resume() };
        let batch = self.take_batch(resume);
        let Some(Transaction { hold, xa, .. }) = &mut self.transaction else { return Ok(()) };
        hold.batches.push(batch);
        if hold.bytes() + self.prepared.bytes() > HELD_BYTES_MAX {
            if xa.is_some() {
                return Err(Fault::Unsupported {
                    what: format!(
                        "XA transactions of more than {HELD_BYTES_MAX} bytes that are prepared and not committed"
                    ),
                    mend: "commit or roll back prepared transactions sooner; or start from a position after them",
                });
            }
            hold.handed_on += 1;
            hold.overflowed = true;
            self.ready.extend(hold.batches.drain(..));
            self.resume.past = past;
        }
        Ok(())
    }

    pub(super) fn is_full(&self) -> bool {
        self.batch.is_full(self.batch_max)
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
            if let Some(transaction) = &mut self.transaction {
                transaction.hold.divided();
            }
        }
        let resume = self.ready.back().map_or(&*self.handed_on, |batch| &batch.resume).clone();
        let bytes = Arc::new(Builder::with_capacity(0).finish());
        let schema_change = Some(Box::new(change));
        self.ready.push_back(RowBatch {
            bytes,
            undecoded: None,
            rows: 0,
            schema_change,
            new_tables: Vec::new(),
            before: Arc::clone(&self.handed_on),
            resume,
        });
    }

    pub(super) fn take_batch(&mut self, resume: Resume) -> RowBatch {
        let rows = self.batch.count();
        let next = self.batch.successor();
        let (bytes, undecoded) = mem::replace(&mut self.batch, next).finish();
        self.batch_has_transaction = false;
        let (bytes, undecoded) = (Arc::new(bytes), undecoded.map(Arc::new));
        RowBatch {
            bytes,
            undecoded,
            rows,
            schema_change: None,
            new_tables: Vec::new(),
            before: Arc::clone(&self.handed_on),
            resume,
        }
    }

    #[inline]
    pub(super) fn pop(&mut self) -> Option<RowBatch> {
        if self.ready.is_empty() { None } else { self.pop_ready() }
    }

    fn pop_ready(&mut self) -> Option<RowBatch> {
        let mut batch = self.ready.pop_front()?;
        // Here and not before: a batch that is held back must not keep what an earlier one needs.
        batch.new_tables = self.tables.take_new();
        batch.before = mem::replace(&mut self.handed_on, Arc::new(batch.resume.clone()));
        Some(batch)
    }

    /// From where to read on behind the last transaction, with the set of what was executed.
    pub(super) fn resume(&self) -> Resume {
        let gtids = self.resume.gtids.clone().or_else(|| self.gtids.clone());
        Resume { gtids, ..self.resume.clone() }
    }
}

/// Whether an earlier run, which got to `skip`, was done with the row at a place of a file.
fn is_past(skip: Option<&Past>, file: &str, place: Progress) -> bool {
    skip.is_some_and(|past| past.file != file || place < past.progress)
}
