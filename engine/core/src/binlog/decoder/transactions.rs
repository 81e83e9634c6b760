//! Where transactions begin and how they end, and what positions follow from that.

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
    pub(super) fn begin(&mut self, header: &EventHeader, span: Span, begin: Begin) -> Result<(), DecodeErrorKind> {
        if self.transaction.is_some() {
            return Err(DecodeErrorKind::Malformed("a transaction that begins within another"));
        }
        self.tables.forget_numbers_if_many();
        if self.tables.are_too_many() {
            self.begin_table_generation();
        }
        self.sequence += 1;
        let is_past = match &begin.gtid {
            // A number is given once: a transaction that is in the set is the one that was read, wherever it comes.
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

    /// Whether a transaction of MariaDB's was done with by an earlier run. Sequences tell that of each domain and server up
    /// to the last one that the run had, and not after: they may step down (`gtid_strict_mode = OFF`).
    fn is_before_start(&mut self, gtid: &Gtid) -> Result<bool, DecodeErrorKind> {
        let Gtid::MariaDb { domain, server, sequence } = *gtid else { return Ok(false) };
        let is_same = |(of, newest): &(u32, Newest)| (*of, newest.server) == (domain, server);
        let Some(done) = self.awaited.iter().find(|of| is_same(of)).map(|(_, newest)| newest.sequence) else {
            return Ok(false);
        };
        // The next number shows that nothing is missing as well as the same one does.
        if sequence > done.saturating_add(1) {
            let done = Gtid::MariaDb { domain, server, sequence: done };
            return Err(DecodeErrorKind::MissingGtid { done: done.to_string(), found: gtid.to_string() });
        }
        Ok(sequence <= done)
    }

    pub(super) fn query(&mut self, header: &EventHeader, query: Query<'_>, span: Span) -> Result<(), DecodeErrorKind> {
        if self.transaction.is_none() {
            // Servers without GTID events: a statement begins its own transaction.
            self.begin(header, span, Begin::default())?;
        }
        let Some(transaction) = &mut self.transaction else { return Ok(()) };
        match query.statement() {
            Statement::Begin => {
                transaction.begun = true;
                transaction.thread_id = query.thread_id;
                Ok(())
            }
            // In a transaction of its own, which says that it begins, rows follow.
            Statement::CreateTable if !transaction.begun && query.creates_rows() => {
                self.forget_learned(&query, span);
                self.change(header, &query, span)
            }
            // Tables in memory are empty when the server was started again: older ones log it so, as a transaction
            // without a beginning, which others' deletions have. It is what TRUNCATE is.
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

    /// A change that is logged as a statement: of a schema of which no tables are selected it doesn't matter, nor does one
    /// that an earlier run was done with.
    fn change(&mut self, header: &EventHeader, query: &Query<'_>, span: Span) -> Result<(), DecodeErrorKind> {
        let place = EventOffset { event: span.begin, rows: 0 };
        if !self.is_done_at(place) && query.may_change(|schema| self.select.schema(schema)) {
            let content = SkippedContent::statement(query.readable());
            self.skip(DecodeErrorKind::Statement(query.shown()), header.kind, None, header, place, content)?;
        }
        let begun = self.transaction.as_ref().is_some_and(|transaction| transaction.begun);
        if begun { Ok(()) } else { self.commit(span.end) }
    }

    /// Forgets the open transaction's rows since a savepoint.
    fn roll_back_to(&mut self, name: String) -> Result<(), DecodeErrorKind> {
        let Some(transaction) = &mut self.transaction else { return Ok(()) };
        match transaction.hold.roll_back_to(&self.savepoints.key(&name)) {
            Err(NotRolledBack::HandedOn) => Err(self.rolled_back_too_late()),
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

    /// Whether an earlier run was done with the open transaction, whatever is in it. Rows of a prepared one count: its commit
    /// decides.
    pub(super) fn is_done_with(&self) -> bool {
        self.transaction.as_ref().is_some_and(|transaction| transaction.is_past && transaction.xa.is_none())
    }

    /// Whether a schema change may be of a schema of which tables are selected.
    fn may_be_wanted(&self, query: &Query<'_>) -> bool {
        query
            .changed_schemas()
            .is_none_or(|schemas| schemas.is_empty() || schemas.iter().any(|schema| self.select.schema(schema)))
    }

    /// Columns that were learned may be wrong after a statement that names their table.
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

    /// Hands on what a statement changed, if that is wanted and wasn't done by an earlier run.
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

    /// The open transaction ends at `end`, committed.
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

    /// The open transaction ends at `end`; none of its rows ever happened.
    pub(super) fn roll_back(&mut self, end: u64) -> Result<(), DecodeErrorKind> {
        let gtid = self.transaction.as_ref().and_then(|transaction| transaction.gtid.clone());
        self.discard_transaction()?;
        self.end_transaction(gtid, end);
        Ok(())
    }

    /// Forgets the rows of the open transaction.
    pub(super) fn discard_transaction(&mut self) -> Result<(), DecodeErrorKind> {
        // An earlier run may have emitted rows of it, and wasn't told that they never happened.
        let offset = self.transaction.as_ref().and_then(|transaction| transaction.payload_offset);
        let is_known = self.is_past(EventOffset { event: self.position.offset, rows: offset.unwrap_or(0) });
        let is_discarded =
            |of: &mut Transaction| of.hold.handed_on == 0 && (!of.has_past_rows || of.is_past || is_known);
        let Some(Transaction { hold, .. }) = self.transaction.take_if(is_discarded) else {
            return Err(self.rolled_back_too_late());
        };
        self.batch.truncate(hold.earlier);
        self.batch_has_transaction = false;
        Ok(())
    }

    pub(super) fn end_transaction(&mut self, gtid: Option<Gtid>, end: u64) {
        // Not before its end: one that a crash cut off leaves its number to the next.
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

    /// An XA transaction is prepared here, or committed in one phase.
    pub(super) fn prepare_xa(&mut self, body: &[u8], span: Span) -> Result<(), DecodeErrorKind> {
        let one_phase = Bytes(body).u8()? != 0;
        if one_phase && self.is_past_commit(span) {
            return self.roll_back(span.end); // an earlier run was done with it
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
        // What stands in the batch before it is committed.
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

    pub(super) fn commit_xa(&mut self, id: &str, span: Span) -> Result<(), DecodeErrorKind> {
        let is_past = self.is_past_commit(span);
        match self.prepared.remove(id) {
            Some(_) if is_past => {}
            Some(prepared) => {
                if self.moved {
                    self.cut();
                }
                // Its rows lie far back: from where to read on doesn't follow from them, but from its end.
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

    /// Whether an earlier run was done with the open transaction, or with what is at a place in it.
    pub(super) fn is_done_at(&self, place: EventOffset) -> bool {
        self.transaction.as_ref().is_some_and(|transaction| transaction.is_past) || self.is_past(place)
    }

    /// Whether an earlier run was done with the transaction that the event commits.
    fn is_past_commit(&self, span: Span) -> bool {
        self.is_done_at(EventOffset { event: span.begin, rows: 0 })
    }

    pub(super) fn rolled_back_too_late(&self) -> DecodeErrorKind {
        let begin = self.transaction.as_ref().map_or(self.position.offset, |transaction| transaction.begin);
        let since = BinlogPosition::new(self.position.file.clone(), begin);
        DecodeErrorKind::RolledBack { held_bytes: HELD_BYTES_MAX, since }
    }

    pub(super) fn rotate(&mut self, header: &EventHeader, body: &[u8]) -> Result<(), DecodeErrorKind> {
        let mut bytes = Bytes(body);
        let offset = bytes.u64()?;
        let file = std::str::from_utf8(bytes.0).map_err(|_| DecodeErrorKind::Malformed("a binlog file's name"))?;
        // The first rotation of a connection repeats where it was asked to begin.
        if self.position.file == file && self.position.offset == offset {
            return Ok(());
        }
        if self.transaction.is_some() {
            if !header.is_artificial() {
                return Err(DecodeErrorKind::Malformed("a transaction that the file's end cuts off"));
            }
            // The server crashed while it wrote it: it never was committed.
            self.discard_transaction()?;
        }
        if self.position.file != file {
            let is_before_file = |partial: &PartialTransaction| {
                file_number(&partial.file).zip(file_number(file)).is_none_or(|(a, b)| b > a)
            };
            self.skip.take_if(|partial| partial.file != file && is_before_file(partial));
        }
        // Its format description, which follows, makes it a place to read on from.
        self.position = BinlogPosition::new(file, offset);
        self.file = None;
        Ok(())
    }

    /// What the head of a file says was executed before it.
    pub(super) fn previous_gtids(&mut self, set: GtidSet) -> Result<(), DecodeErrorKind> {
        let is_met = |domain: u32, done: Newest| {
            let met = set.newest(domain, done.server);
            met.is_some_and(|met| met >= done.sequence)
        };
        self.awaited.retain(|(domain, done)| !is_met(*domain, *done));
        // MariaDB's list may lack domains that were forgotten; what is known by counting stays. The set has transactions
        // that are prepared, and the reading goes on before those: they must not count as past there.
        if self.gtids.is_none() && self.prepared.oldest().is_none() {
            self.gtids = Some(Arc::new(set));
            self.moved = true; // the place is still the head of the file; what is before it is known now
        }
        Ok(())
    }

    /// The current position is between two transactions.
    pub(super) fn boundary(&mut self) {
        self.moved = true;
        let BinlogPosition { file, offset } = &self.position;
        let here = EventOffset { event: *offset, rows: 0 };
        // An earlier run may have been further.
        let further = if self.is_past(here) { self.skip.clone() } else { None };
        // A dump can't be asked to begin past 4 GiB of a file, nor may a prepared transaction be missed, and before all
        // awaited transactions were met, GTIDs alone say where another server goes on: then an earlier position stands,
        // and the rest says how far from it all is past.
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
