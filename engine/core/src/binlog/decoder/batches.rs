//! Filling batches with rows: when a batch is full, and whether it is emitted or held back.

use std::mem;
use std::sync::Arc;

use rowmill_batch::{PackedBatch, RowHeader, TransactionHeader};

use super::super::deferred::BatchAssembler;
use super::super::error::{DecodeError, DecodeErrorKind};
use super::super::event::EventHeader;
use super::super::event_kind::EventKind;
use super::super::mariadb;
use super::super::query::SchemaChange;
use super::super::rows::{RowsEvent, RowsKind};
use super::super::skipped::{SkippedChange, SkippedContent};
use super::super::tables::Unreadable;
use super::super::transaction::{HELD_BYTES_MAX, Transaction};
use super::{Decoder, RowBatch, Span};
use crate::position::{BinlogPosition, EventOffset, PartialTransaction, ResumePoint};

/// The content of a batch without rows.
pub(super) enum WithoutRows {
    SchemaChange(SchemaChange),
    Skipped(SkippedChange),
}

impl Decoder {
    /// Processes a row event: decodes its rows into batches.
    pub(super) fn rows(
        &mut self,
        kind: RowsKind,
        header: &EventHeader,
        body: &[u8],
        span: Span,
    ) -> Result<(), DecodeErrorKind> {
        let Some(number) = RowsEvent::table_number(body)? else { return Ok(()) };
        let Some(known) = self.tables.by_number(number) else { return Err(DecodeErrorKind::NoTableMap(number)) };
        let Some(version) = known else {
            return if self.skips_undecodable {
                self.skip_unreadable(number, kind, header, body, span)
            } else {
                Ok(())
            };
        };
        let unpacked;
        let mut rows = RowsEvent::parse(kind, body)?;
        if let Some(packed) = rows.packed() {
            unpacked = mariadb::unpack(packed)?;
            rows.unpacked(&unpacked);
        }
        if rows.columns() != version.columns.widths.len() {
            return Err(DecodeErrorKind::Malformed("a row event whose columns differ from its table map"));
        }
        let Some(transaction) = &self.transaction else {
            return Err(DecodeErrorKind::Malformed("rows outside a transaction"));
        };
        let mut place = EventOffset { event: span.begin, rows: transaction.payload_offset.unwrap_or(0) };
        while !rows.is_done() {
            if self.is_full() {
                self.cut_within(place)?;
            }
            let filled = self.fill(&mut rows, header, &mut place);
            self.rows_of_event = place.rows;
            if let Err(cause) = filled {
                self.skip_row(cause, &mut rows, header, body, &mut place)?;
            }
        }
        Ok(())
    }

    /// Adds rows of an event to the batch, at least one, until the event ends or the batch is full.
    ///
    /// `place` is the offset of the next row, and moves with `rows`. After an error, both are before the row that cannot be
    /// decoded.
    fn fill(
        &mut self,
        rows: &mut RowsEvent<'_>,
        header: &EventHeader,
        place: &mut EventOffset,
    ) -> Result<(), DecodeErrorKind> {
        if !self.batch_has_transaction {
            self.begin_in_batch();
        }
        let Self { tables, projections, select, batch, position, partial, .. } = self;
        let (Some(Some(version)), Some(transaction)) = (tables.by_number(rows.table_number), &mut self.transaction)
        else {
            return Err(DecodeErrorKind::NoTableMap(rows.table_number));
        };
        if batch.count() == 0 {
            projections.refresh(&**select);
        }
        let projection_version = projections.version();
        let plan = projections.for_table(version, &**select).for_operation(rows.operation());
        let layout = plan.map(|_| batch.layout(rows, version, projection_version));
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
            let read = batch.begin_row(&header, rows, version, plan);
            if let Err(cause) = read {
                batch.abandon_row();
                rows.rewind(at);
                return Err(cause);
            }
            // Whether an earlier run processed an XA transaction is decided by its commit.
            if transaction.xa.is_none() && is_past(partial.as_ref(), &position.file, *place) {
                batch.abandon_row();
                transaction.has_past_rows = true;
            } else {
                match layout {
                    None => batch.end_row(),
                    Some(layout) => batch.end_projected_row(layout, &at[..at.len() - rows.rest().len()]),
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

    /// Skips the next row, which cannot be decoded, or all rows to the event's end if the row's end is unknown.
    ///
    /// # Errors
    /// `cause`, unless changes are skipped.
    #[cold]
    fn skip_row(
        &mut self,
        cause: DecodeErrorKind,
        rows: &mut RowsEvent<'_>,
        header: &EventHeader,
        body: &[u8],
        place: &mut EventOffset,
    ) -> Result<(), DecodeErrorKind> {
        let Some(Some(version)) = self.tables.by_number(rows.table_number).filter(|_| self.skips_undecodable) else {
            return Err(cause);
        };
        let (version, kind) = (Arc::clone(version), rows.kind().event_kind());
        let at = rows.rest();
        let skipped = *place;
        let content = match self.batch.skip_row(rows, &version) {
            Ok(()) => SkippedContent::images(&at[..at.len() - rows.rest().len()]),
            Err(_) => {
                rows.finish();
                SkippedContent::event(body)
            }
        };
        if let (SkippedContent::Images(_), Some(transaction)) = (&content.0, &mut self.transaction) {
            transaction.rows += 1;
            place.rows += 1;
        }
        self.skip(cause, kind, Some(version.table.to_string()), header, skipped, content)
    }

    /// Skips an event's rows, with a record of the event if the table is selected but its columns cannot be determined.
    fn skip_unreadable(
        &mut self,
        number: u64,
        kind: RowsKind,
        header: &EventHeader,
        body: &[u8],
        span: Span,
    ) -> Result<(), DecodeErrorKind> {
        let Some(Unreadable { table, cause }) = self.tables.unreadable(number).cloned() else { return Ok(()) };
        let offset = self.transaction.as_ref().and_then(|transaction| transaction.payload_offset);
        let place = EventOffset { event: span.begin, rows: offset.unwrap_or(0) };
        self.skip(cause, kind.event_kind(), Some(table), header, place, SkippedContent::event(body))
    }

    /// Emits a record of a skipped change, unless an earlier run did.
    ///
    /// # Errors
    /// `cause`, unless changes are skipped.
    pub(super) fn skip(
        &mut self,
        cause: DecodeErrorKind,
        kind: EventKind,
        table: Option<String>,
        header: &EventHeader,
        place: EventOffset,
        (content, bytes): (SkippedContent, usize),
    ) -> Result<(), DecodeErrorKind> {
        if !self.skips_undecodable {
            return Err(cause);
        }
        if self.is_done_at(place) {
            return Ok(());
        }
        let begin = self.transaction.as_ref().map(|transaction| transaction.begin);
        let gtid = self.transaction.as_ref().and_then(|transaction| transaction.gtid.as_ref());
        let gtid = gtid.map_or_else(String::new, ToString::to_string);
        let position = BinlogPosition::new(self.position.file.clone(), place.event);
        let error = Box::new(DecodeError { position, transaction: begin, kind, table, cause });
        let time_us = i64::from(header.timestamp_s) * 1_000_000;
        self.cut_without_rows(WithoutRows::Skipped(SkippedChange {
            error,
            row: place.rows,
            gtid,
            time_us,
            content,
            bytes,
        }));
        Ok(())
    }

    /// Whether an earlier run processed the row at an offset of the current file.
    pub(super) fn is_past(&self, place: EventOffset) -> bool {
        is_past(self.partial.as_ref(), &self.position.file, place)
    }

    /// Begins the open transaction in the current batch.
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

    /// Ends the batch, which is full within a transaction: emits it or holds it back. `place` is the offset of the next
    /// row.
    fn cut_within(&mut self, place: EventOffset) -> Result<(), DecodeErrorKind> {
        let partial = Some(PartialTransaction { file: self.position.file.clone(), progress: place });
        let Some(Transaction { hold, .. }) = &mut self.transaction else { return Ok(()) };
        if !hold.on || hold.overflowed {
            hold.emissions += 1;
            hold.divided();
            self.resume.partial = partial;
            self.cut();
            return Ok(());
        }
        // The batch's rows of earlier transactions are committed, and are emitted by themselves.
        let earlier = hold.divided();
        if earlier > 0 {
            let (committed, open) = mem::replace(&mut self.batch, BatchAssembler::with_capacity(0)).divide(earlier);
            self.batch = committed;
            self.cut();
            self.batch_has_transaction = open.count() > 0;
            self.batch = open;
            if !self.is_full() {
                return Ok(());
            }
        }
        let resume = ResumePoint { partial: partial.clone(), ..self.resume() };
        let batch = self.take_batch(resume);
        let Some(Transaction { hold, xa, .. }) = &mut self.transaction else { return Ok(()) };
        hold.batches.push(batch);
        if hold.bytes() + self.prepared.bytes() > HELD_BYTES_MAX {
            if xa.is_some() {
                return Err(DecodeErrorKind::Unsupported {
                    what: format!("more than {HELD_BYTES_MAX} bytes of prepared, uncommitted XA transactions"),
                    fix: "commit or roll back prepared transactions sooner, or start from a position after them",
                });
            }
            hold.emissions += 1;
            hold.overflowed = true;
            self.ready.extend(hold.batches.drain(..));
            self.resume.partial = partial;
        }
        Ok(())
    }

    /// Whether the current batch is full.
    pub(super) fn is_full(&self) -> bool {
        self.batch.is_full(self.batch_max)
    }

    /// Ends the current batch, and emits it.
    pub(super) fn cut(&mut self) {
        let resume = self.resume();
        let batch = self.take_batch(resume);
        self.ready.push_back(batch);
        self.moved = false;
    }

    /// Emits a batch without rows, which does not move the resume point. If the current batch has committed rows only,
    /// it is emitted first; if it has rows of the open transaction, it stays the current one.
    pub(super) fn cut_without_rows(&mut self, what: WithoutRows) {
        if !self.batch_has_transaction && self.moved {
            self.cut();
            if let Some(transaction) = &mut self.transaction {
                transaction.hold.divided();
            }
        }
        let resume = self.ready.back().map_or(&*self.emitted_resume, |batch| &batch.resume).clone();
        let packed = PackedBatch::default();
        let (schema_change, skipped) = match what {
            WithoutRows::SchemaChange(change) => (Some(Box::new(change)), None),
            WithoutRows::Skipped(skipped) => (None, Some(Box::new(skipped))),
        };
        self.ready.push_back(RowBatch {
            packed,
            deferred: None,
            rows: 0,
            schema_change,
            skipped,
            skips_undecodable: self.skips_undecodable,
            new_tables: Vec::new(),
            before: Arc::clone(&self.emitted_resume),
            resume,
        });
    }

    /// Ends the current batch and returns it, with `resume` as its resume point.
    pub(super) fn take_batch(&mut self, resume: ResumePoint) -> RowBatch {
        let rows = self.batch.count();
        let next = self.batch.successor();
        let (packed, deferred) = mem::replace(&mut self.batch, next).finish();
        self.batch_has_transaction = false;
        let deferred = deferred.map(Arc::new);
        RowBatch {
            packed,
            deferred,
            rows,
            schema_change: None,
            skipped: None,
            skips_undecodable: self.skips_undecodable,
            new_tables: Vec::new(),
            before: Arc::clone(&self.emitted_resume),
            resume,
        }
    }

    /// Begins a new generation of tables, between two transactions.
    #[cold]
    pub(super) fn begin_table_generation(&mut self) {
        // Prepared rows are emitted at their commit, and refer to tables of this generation.
        if !self.prepared.is_empty() {
            return;
        }
        if self.batch.count() > 0 {
            self.cut();
        }
        let new_tables = self.tables.begin_generation();
        if let Some(batch) = self.ready.front_mut() {
            batch.new_tables = new_tables;
        }
    }

    /// Returns the next batch that is ready.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<RowBatch> {
        if self.ready.is_empty() { None } else { self.pop_ready() }
    }

    fn pop_ready(&mut self) -> Option<RowBatch> {
        let mut batch = self.ready.pop_front()?;
        // The first batch to leave the decoder takes the new tables. Were they assigned earlier, a batch that is held
        // back could take tables that a batch emitted before it needs.
        batch.new_tables.append(&mut self.tables.take_new());
        batch.before = mem::replace(&mut self.emitted_resume, Arc::new(batch.resume.clone()));
        Some(batch)
    }

    /// Returns the resume point after the last transaction, with the set of executed transactions.
    pub(super) fn resume(&self) -> ResumePoint {
        let gtids = self.resume.gtids.clone().or_else(|| self.gtids.clone());
        ResumePoint { gtids, ..self.resume.clone() }
    }
}

/// Whether an earlier run, which processed all rows before `partial`, processed the row at `place` of a file.
fn is_past(partial: Option<&PartialTransaction>, file: &str, place: EventOffset) -> bool {
    partial.is_some_and(|partial| partial.file != file || place < partial.progress)
}
