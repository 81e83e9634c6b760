//! The beginnings and ends of transactions, and the resume points that follow from them.

use std::mem;
use std::sync::Arc;

use super::super::altered::Altered;
use super::super::bytes::Bytes;
use super::super::deferred::BatchAssembler;
use super::super::error::DecodeErrorKind;
use super::super::event::EventHeader;
use super::super::gtid_event::Begin;
use super::super::query::{Query, SchemaChange};
use super::super::skipped::SkippedContent;
use super::super::statement::Statement;
use super::super::transaction::{HELD_BYTES_MAX, NotRolledBack, PendingTransaction, RolledBack, Transaction};
use super::batches::WithoutRows;
use super::{Decoder, RowBatch, Span};
use crate::gtid::{Gtid, GtidSet, Newest};
use crate::position::{BinlogPosition, EventOffset, Fingerprint, PartialTransaction, ResumePoint, file_number};

impl Decoder {
    /// Begins a transaction.
    pub(super) fn begin(&mut self, header: &EventHeader, span: Span, begin: Begin) -> Result<(), DecodeErrorKind> {
        if self.transaction.is_some() {
            return Err(DecodeErrorKind::Malformed("a transaction that begins within another"));
        }
        self.tables.forget_numbers_if_many();
        if self.tables.is_full() {
            self.begin_table_generation();
        }
        self.sequence += 1;
        let is_past = match &begin.gtid {
            // A MySQL GTID is never reused: a transaction in the set is the one that was read, at whatever position.
            Some(gtid @ Gtid::MySql { .. }) => self.gtids.as_ref().is_some_and(|gtids| gtids.contains(gtid)),
            Some(gtid @ Gtid::MariaDb { .. }) if !self.awaited.is_empty() => self.is_before_start(gtid)?,
            _ => false,
        };
        self.transaction = Some(Transaction {
            begin: span.begin,
            gtid: begin.gtid,
            commit_time_us: begin.commit_time_us,
            server_id: header.server_id,
            thread_id: 0,
            rows: 0,
            is_past,
            has_past_rows: false,
            begun: false,
            is_void: begin.is_void,
            payload_offset: None,
            xa: None,
            hold: PendingTransaction::new(self.batch.count()),
        });
        Ok(())
    }

    /// Whether an earlier run processed a MariaDB transaction. The sequence numbers of a server in a domain show this
    /// until the last transaction of that run is reached. After it they do not, because they may decrease
    /// (`gtid_strict_mode = OFF`).
    ///
    /// # Errors
    /// If the last transaction of the earlier run is not in the binlog.
    fn is_before_start(&mut self, gtid: &Gtid) -> Result<bool, DecodeErrorKind> {
        let Gtid::MariaDb { domain, server, sequence } = *gtid else { return Ok(false) };
        let is_same = |(of, newest): &(u32, Newest)| (*of, newest.server) == (domain, server);
        let Some(done) = self.awaited.iter().find(|of| is_same(of)).map(|(_, newest)| newest.sequence) else {
            return Ok(false);
        };
        // The number after `done`, like `done` itself, shows that no transaction is missing.
        if sequence > done.saturating_add(1) {
            let done = Gtid::MariaDb { domain, server, sequence: done };
            return Err(DecodeErrorKind::MissingGtid { done: done.to_string(), found: gtid.to_string() });
        }
        Ok(sequence <= done)
    }

    /// Processes a statement.
    pub(super) fn query(&mut self, header: &EventHeader, query: Query<'_>, span: Span) -> Result<(), DecodeErrorKind> {
        if self.transaction.is_none() {
            // On servers without GTID events, a statement begins its own transaction.
            self.begin(header, span, Begin::default())?;
        }
        let Some(transaction) = &mut self.transaction else { return Ok(()) };
        match query.statement() {
            Statement::Begin => {
                transaction.begun = true;
                transaction.thread_id = query.thread_id;
                Ok(())
            }
            // The rows of the new table follow as row events only in a transaction with a BEGIN.
            Statement::CreateTable if !transaction.begun && query.creates_rows() => {
                self.forget_learned(&query, span);
                self.change(header, &query, span)
            }
            // Older servers log that a MEMORY table is empty after a restart as a DELETE in a transaction without a BEGIN.
            // Other DELETE statements have a BEGIN. Without one, the statement is treated as a TRUNCATE.
            Statement::DeleteAll if transaction.begun => self.change(header, &query, span),
            Statement::CreateTable | Statement::DeleteAll | Statement::Schema => {
                let (begun, is_void) = (transaction.begun, transaction.is_void);
                if !is_void {
                    self.forget_learned(&query, span);
                    self.schema_change(header, &query, span);
                }
                if begun { Ok(()) } else { self.commit(span.end) }
            }
            Statement::Commit => self.commit(span.end),
            Statement::Rollback => self.roll_back(span.end),
            Statement::Savepoint(name) => {
                transaction.hold.on = true;
                transaction.hold.savepoint(self.savepoints.key(&name), self.batch.count(), transaction.rows);
                Ok(())
            }
            Statement::RollbackTo(name) => self.roll_back_to(name),
            Statement::XaStart(id) => {
                transaction.begun = true;
                transaction.xa = Some(id);
                transaction.hold.on = true;
                transaction.thread_id = query.thread_id;
                Ok(())
            }
            Statement::XaEnd => Ok(()),
            Statement::XaCommit(id) => self.commit_xa(&id, span),
            Statement::XaRollback(id) => {
                self.prepared.remove(&id);
                self.commit(span.end)
            }
            Statement::Change => self.change(header, &query, span),
            Statement::Other => {
                if transaction.begun {
                    Ok(())
                } else {
                    self.commit(span.end)
                }
            }
        }
    }

    /// Processes a change that is logged as a statement: an error or a skipped change, unless its schema has no selected
    /// tables or an earlier run processed it.
    fn change(&mut self, header: &EventHeader, query: &Query<'_>, span: Span) -> Result<(), DecodeErrorKind> {
        let place = EventOffset { event: span.begin, rows: 0 };
        if !self.is_done_at(place) && query.may_change(|schema| self.select.schema(schema)) {
            let content = SkippedContent::statement(query.readable());
            self.skip(DecodeErrorKind::Statement(query.shown()), header.kind, None, header, place, content)?;
        }
        let begun = self.transaction.as_ref().is_some_and(|transaction| transaction.begun);
        if begun { Ok(()) } else { self.commit(span.end) }
    }

    /// Discards the open transaction's rows since a savepoint.
    fn roll_back_to(&mut self, name: String) -> Result<(), DecodeErrorKind> {
        let Some(transaction) = &mut self.transaction else { return Ok(()) };
        match transaction.hold.roll_back_to(&self.savepoints.key(&name)) {
            Err(NotRolledBack::Emitted) => Err(self.rolled_back_too_late()),
            Err(NotRolledBack::Unknown) => Err(DecodeErrorKind::UnknownSavepoint(name)),
            Ok(RolledBack { rows, batch_rows, batch }) => {
                transaction.rows = rows;
                match batch {
                    Some(batch) => {
                        self.batch_has_transaction = batch.count() > 0;
                        self.batch = batch;
                    }
                    None => self.batch.truncate(batch_rows),
                }
                Ok(())
            }
        }
    }

    /// Whether an earlier run processed the whole open transaction. False for an XA transaction, whose commit decides.
    pub(super) fn is_done_with(&self) -> bool {
        self.transaction.as_ref().is_some_and(|transaction| transaction.is_past && transaction.xa.is_none())
    }

    /// Whether a schema change may concern a schema with selected tables.
    fn may_be_wanted(&self, query: &Query<'_>) -> bool {
        query
            .changed_schemas()
            .is_none_or(|schemas| schemas.is_empty() || schemas.iter().any(|schema| self.select.schema(schema)))
    }

    /// Forgets the looked-up columns of the tables that a statement may have altered, and records the statement if wanted.
    fn forget_learned(&mut self, query: &Query<'_>, span: Span) {
        if !self.wants_alterations && !self.tables.has_learned() {
            return;
        }
        let Some(altered) = Altered::by(&query.readable(), query.changed_schemas()) else { return };
        self.tables.forget_learned(&altered);
        if self.wants_alterations {
            self.alterations.push((BinlogPosition::new(self.position.file.clone(), span.begin), altered));
        }
    }

    /// Emits a schema change, if schema changes are wanted and no earlier run processed it.
    fn schema_change(&mut self, header: &EventHeader, query: &Query<'_>, span: Span) {
        let Some(transaction) = &self.transaction else { return };
        let is_past = self.is_done_at(EventOffset { event: span.begin, rows: 0 });
        if !self.schema_changes || is_past || !self.may_be_wanted(query) {
            return;
        }
        let change = SchemaChange {
            schema: query.about().map(str::to_owned),
            statement: query.readable(),
            file: self.position.file.clone(),
            transaction_position: transaction.begin,
            event_position: span.begin,
            gtid: transaction.gtid.as_ref().map(ToString::to_string).unwrap_or_default(),
            time_us: i64::from(header.timestamp_s) * 1_000_000,
            commit_time_us: transaction.commit_time_us,
            server_id: transaction.server_id,
            thread_id: query.thread_id,
        };
        self.cut_without_rows(WithoutRows::SchemaChange(change));
    }

    /// Commits the open transaction, which ends at `end`.
    pub(super) fn commit(&mut self, end: u64) -> Result<(), DecodeErrorKind> {
        let Some(transaction) = self.transaction.take() else {
            return Err(DecodeErrorKind::Malformed("a commit without a transaction"));
        };
        if self.batch_has_transaction {
            self.batch.mark_last_in_transaction();
        }
        self.batch_has_transaction = false;
        self.ready.extend(transaction.hold.batches);
        self.end_transaction(transaction.gtid, end);
        Ok(())
    }

    /// Rolls back the open transaction, which ends at `end`.
    pub(super) fn roll_back(&mut self, end: u64) -> Result<(), DecodeErrorKind> {
        let gtid = self.transaction.as_ref().and_then(|transaction| transaction.gtid.clone());
        self.discard_transaction()?;
        self.end_transaction(gtid, end);
        Ok(())
    }

    /// Discards the open transaction's rows.
    pub(super) fn discard_transaction(&mut self) -> Result<(), DecodeErrorKind> {
        // An earlier run may have emitted rows of the transaction without reading that it was rolled back.
        let offset = self.transaction.as_ref().and_then(|transaction| transaction.payload_offset);
        let is_known = self.is_past(EventOffset { event: self.position.offset, rows: offset.unwrap_or(0) });
        let is_discarded =
            |of: &mut Transaction| of.hold.emissions == 0 && (!of.has_past_rows || of.is_past || is_known);
        let Some(Transaction { hold, .. }) = self.transaction.take_if(is_discarded) else {
            return Err(self.rolled_back_too_late());
        };
        self.batch.truncate(hold.earlier);
        self.batch_has_transaction = false;
        Ok(())
    }

    /// Moves the position and the resume point after the transaction that was open, and emits the batch if it is full.
    pub(super) fn end_transaction(&mut self, gtid: Option<Gtid>, end: u64) {
        // Not before the transaction's end: after a crash that cuts a transaction off, the next one has the same
        // number.
        if let (Some(Gtid::MariaDb { domain, server, sequence }), false) = (&gtid, self.awaited.is_empty()) {
            self.awaited.retain(|(of, done)| (of, done.server) != (domain, *server) || done.sequence > *sequence);
        }
        if let (Some(gtid), Some(gtids)) = (&gtid, &mut self.gtids) {
            Arc::make_mut(gtids).add(gtid);
        }
        self.position.offset = end;
        self.boundary();
        if self.is_full() {
            self.cut();
        }
    }

    /// Processes an XA PREPARE event, which may also commit the transaction in one phase.
    pub(super) fn prepare_xa(&mut self, body: &[u8], span: Span) -> Result<(), DecodeErrorKind> {
        let one_phase = Bytes(body).u8()? != 0;
        if one_phase && self.is_past_commit(span) {
            return self.roll_back(span.end); // an earlier run processed the transaction
        }
        if one_phase {
            return self.commit(span.end);
        }
        let Some(mut transaction) = self.transaction.take() else {
            return Err(DecodeErrorKind::Malformed("an XA PREPARE without a transaction"));
        };
        let Some(id) = transaction.xa.take() else {
            return Err(DecodeErrorKind::Malformed("an XA PREPARE without an XA START"));
        };
        let PendingTransaction { earlier, mut batches, .. } = transaction.hold;
        if self.batch_has_transaction {
            self.batch.mark_last_in_transaction();
        }
        // The batch's rows of earlier transactions are committed, and stay in the current batch.
        let (committed, open) = mem::replace(&mut self.batch, BatchAssembler::with_capacity(0)).divide(earlier);
        self.batch = open;
        if self.batch.count() > 0 {
            let resume = self.resume();
            batches.push(self.take_batch(resume));
        }
        self.batch = committed;
        self.batch_has_transaction = false;
        let before = ResumePoint { partial: None, ..self.resume() };
        self.prepared.insert(id, batches, before, self.sequence);
        self.end_transaction(transaction.gtid, span.end);
        Ok(())
    }

    /// Processes the commit of a prepared XA transaction: emits its rows.
    pub(super) fn commit_xa(&mut self, id: &str, span: Span) -> Result<(), DecodeErrorKind> {
        let is_past = self.is_past_commit(span);
        match self.prepared.remove(id) {
            Some(_) if is_past => {}
            Some(prepared) => {
                if self.moved {
                    self.cut();
                }
                // The rows have the positions at which they were prepared, which say nothing about progress: only after
                // the last batch does the resume point move, to after the commit.
                let resume = self.resume();
                let has_rows = !prepared.batches.is_empty();
                let batches = prepared.batches.into_iter();
                self.ready.extend(batches.map(|batch| RowBatch { resume: resume.clone(), ..batch }));
                self.commit(span.end)?;
                let resume = self.resume();
                if let Some(last) = self.ready.back_mut().filter(|_| has_rows) {
                    last.resume = resume;
                    self.moved = false;
                }
                return Ok(());
            }
            None if is_past => {}
            None => return Err(DecodeErrorKind::UnknownXa(id.to_owned())),
        }
        self.commit(span.end)
    }

    /// Whether an earlier run processed the whole open transaction, or its change at `place`.
    pub(super) fn is_done_at(&self, place: EventOffset) -> bool {
        self.transaction.as_ref().is_some_and(|transaction| transaction.is_past) || self.is_past(place)
    }

    /// Whether an earlier run processed the transaction that the event commits.
    fn is_past_commit(&self, span: Span) -> bool {
        self.is_done_at(EventOffset { event: span.begin, rows: 0 })
    }

    /// Returns the error of a rollback of rows that were emitted.
    pub(super) fn rolled_back_too_late(&self) -> DecodeErrorKind {
        let begin = self.transaction.as_ref().map_or(self.position.offset, |transaction| transaction.begin);
        let since = BinlogPosition::new(self.position.file.clone(), begin);
        DecodeErrorKind::RolledBack { held_bytes: HELD_BYTES_MAX, since }
    }

    /// Processes a rotation: the next event is in another file.
    pub(super) fn rotate(&mut self, header: &EventHeader, body: &[u8]) -> Result<(), DecodeErrorKind> {
        let mut bytes = Bytes(body);
        let offset = bytes.u64()?;
        let file = std::str::from_utf8(bytes.0).map_err(|_| DecodeErrorKind::Malformed("a binlog file's name"))?;
        // The first rotation of a connection repeats the requested position.
        if self.position.file == file && self.position.offset == offset {
            return Ok(());
        }
        if self.transaction.is_some() {
            if !header.is_artificial() {
                return Err(DecodeErrorKind::Malformed("the file ends within a transaction"));
            }
            // The server crashed while it wrote the transaction, which was therefore never committed.
            self.discard_transaction()?;
        }
        if self.position.file != file {
            let is_before_file = |partial: &PartialTransaction| {
                file_number(&partial.file).zip(file_number(file)).is_none_or(|(a, b)| b > a)
            };
            self.partial.take_if(|partial| partial.file != file && is_before_file(partial));
        }
        // The resume point moves to the new file only at its format description, which follows.
        self.position = BinlogPosition::new(file, offset);
        self.file = None;
        Ok(())
    }

    /// Processes the GTID set at a file's head: the transactions executed before the file.
    pub(super) fn previous_gtids(&mut self, set: GtidSet) -> Result<(), DecodeErrorKind> {
        let is_met = |domain: u32, done: Newest| {
            let met = set.newest(domain, done.server);
            met.is_some_and(|met| met >= done.sequence)
        };
        self.awaited.retain(|(domain, done)| !is_met(*domain, *done));
        // A set that is known already is kept, since MariaDB's list may lack domains that the server forgot. The set at
        // a file's head includes prepared transactions, whose rows were not emitted: as the resume point is before
        // them, it must not count them as processed.
        if self.gtids.is_none() && self.prepared.oldest().is_none() {
            self.gtids = Some(Arc::new(set));
            self.moved = true; // the position is still the file's head, but the transactions before it are known now
        }
        Ok(())
    }

    /// Moves the resume point to the current position, which is between two transactions.
    pub(super) fn boundary(&mut self) {
        self.moved = true;
        let BinlogPosition { file, offset } = &self.position;
        let here = EventOffset { event: *offset, rows: 0 };
        // An earlier run may have processed rows after this position.
        let further = if self.is_past(here) { self.partial.clone() } else { None };
        // In three cases the resume point keeps an earlier position, and `partial` says up to where the rows after that
        // position are processed: a dump cannot start past 4 GiB of a file; a prepared transaction must be read again;
        // and on another server GTIDs alone identify the resume point until all awaited transactions are reached.
        let is_earlier = *offset > u64::from(u32::MAX) || !self.awaited.is_empty();
        let stays = self.prepared.oldest().cloned().or_else(|| is_earlier.then(|| self.resume.clone()));
        match stays {
            Some(earlier) => {
                self.resume = earlier;
                self.resume.partial =
                    further.or_else(|| Some(PartialTransaction { file: file.clone(), progress: here }));
            }
            None => {
                self.resume.position.clone_from(&self.position);
                self.resume.partial = further;
                self.resume.gtids = None;
                let end = self.trail.mark(*offset);
                self.resume.fingerprint = self.file.map(|file| Fingerprint { file, end });
            }
        }
    }
}
