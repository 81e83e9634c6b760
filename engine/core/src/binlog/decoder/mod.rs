//! The decoder's event loop: follows transactions and positions, and collects rows into batches.

mod batches;
mod row_batch;
#[cfg(test)]
mod skip_tests;
#[cfg(test)]
mod tests;
mod transactions;

use std::collections::VecDeque;
use std::mem;
use std::ops::Range;
use std::sync::Arc;

use rowmill_batch::shown_name;
use rowmill_pipeline::ack::Cost;

use super::altered::Altered;
use super::catalog::CatalogColumn;
use super::columns::Family;
use super::deferred::{BatchAssembler, BatchLimits, ProjectionCache};
use super::error::{DecodeError, DecodeErrorKind, Missing};
use super::event::{Checksums, EventHeader};
use super::event_kind::EventKind;
use super::gtid_event;
use super::history::{FileFormat, Trail};
use super::mariadb;
use super::payload::Payload;
use super::projection::TableSelector;
use super::query::Query;
use super::rows::{RowsEvent, RowsKind};
use super::savepoint::Collation;
use super::table_map::TableName;
use super::tables::{Certainty, TableMapError, Tables};
use super::transaction::{PreparedXa, Transaction};
use crate::envelope::Connector;
pub use row_batch::{BATCH_BYTES_MAX, BATCH_ROWS_MAX, Next, RowBatch};

use crate::gtid::{GtidSet, GtidText, Newest};
use crate::position::{BinlogPosition, EventOffset, PartialTransaction, ResumePoint};

/// An upper bound of an event's rows: each takes at least one byte, and an event has at most 1 GiB.
const MAX_EVENT_ROWS: u64 = 1 << 30;

/// Decodes a binlog's events, in order, into batches.
pub struct Decoder {
    select: Box<dyn TableSelector>,
    /// Whether schema changes are emitted.
    schema_changes: bool,
    /// Whether changes that cannot be decoded are skipped.
    skips_undecodable: bool,
    tables: Tables,
    projections: ProjectionCache,
    /// Whether statements that may change columns are collected in `alterations`.
    wants_alterations: bool,
    alterations: Vec<(BinlogPosition, Altered)>,
    checksums: Checksums,
    family: Family,
    /// The server's collation of savepoint names.
    savepoints: Collation,
    /// The progress within the current event.
    event_state: EventState,
    /// The end of the last event that is done: the start of the current one.
    position: BinlogPosition,
    transaction: Option<Transaction>,
    prepared: PreparedXa,
    /// The number of transactions begun so far.
    sequence: u64,
    /// The place up to which an earlier run processed all rows; they are not emitted again.
    partial: Option<PartialTransaction>,
    /// All transactions that were committed, where they are known.
    gtids: Option<Arc<GtidSet>>,
    /// When starting by MariaDB's GTIDs: for each domain and server, the last transaction of an earlier run, until the
    /// reading reaches it.
    awaited: Vec<(u32, Newest)>,
    /// The identity of the current file, which differs from that of other files with the same name.
    file: Option<u32>,
    /// The events that end at the position, for its fingerprint.
    trail: Trail,
    /// The resume point after the last transaction. Its `partial` is within the open transaction once rows of that were
    /// emitted.
    resume: ResumePoint,
    /// The resume point of the last batch that [`Decoder::next`], [`Decoder::give_up`] or [`Decoder::flush`] returned.
    emitted_resume: Arc<ResumePoint>,
    /// The batch that is being filled.
    batch: BatchAssembler,
    /// The size at which the batch is full.
    batch_max: BatchLimits,
    /// Whether the batch's newest transaction is the open one.
    batch_has_transaction: bool,
    /// The text of that transaction's GTID.
    gtid_text: GtidText,
    /// The batches to return next.
    ready: VecDeque<RowBatch>,
    /// Whether there may be something that no batch has yet: a row in `batch`, or a change of the resume point.
    moved: bool,
    /// The number of rows decoded so far of the current event.
    rows_of_event: u32,
    /// The error that stopped the decoding, returned once everything before it is emitted.
    failed: Option<Box<DecodeError>>,
}

/// The progress within an event.
#[derive(Debug, Default)]
enum EventState {
    /// The event was not begun, or must be begun again.
    #[default]
    Nothing,
    /// The whole event is done.
    All,
    /// Some events of a compressed transaction are done.
    Part(Box<OpenPayload>),
}

/// A compressed transaction of which some events are done.
#[derive(Debug)]
struct OpenPayload {
    payload: Payload,
    /// The body's byte range in the outer event.
    body: Range<usize>,
    span: Span,
}

/// An event's byte range in its file.
#[derive(Debug, Clone, Copy)]
struct Span {
    begin: u64,
    end: u64,
}

/// The reason why an event was not processed.
#[derive(Debug)]
enum EventError {
    /// The event, or an event inside it, cannot be decoded.
    Failed { cause: DecodeErrorKind, kind: EventKind, table: Option<String> },
    /// Columns must be looked up first; the event is processed again after that.
    Columns { schema: String, table: String, missing: Missing },
}

impl EventError {
    /// Creates the error of an event of this type.
    fn of(cause: DecodeErrorKind, kind: EventKind) -> Self {
        Self::Failed { cause, kind, table: None }
    }
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").field("position", &self.position).field("rows", &self.batch.count()).finish()
    }
}

impl Decoder {
    /// Creates a decoder that starts at `resume`: the first event must be the first that the server sends for that
    /// position. Rows of tables that `select` does not select are skipped.
    pub fn new(resume: ResumePoint, select: Box<dyn TableSelector>) -> Self {
        Self {
            select,
            schema_changes: false,
            skips_undecodable: false,
            tables: Tables::default(),
            projections: ProjectionCache::default(),
            wants_alterations: false,
            alterations: Vec::new(),
            checksums: Checksums::Unknown,
            family: Family::MySql,
            savepoints: Collation::default(),
            event_state: EventState::Nothing,
            position: resume.position.clone(),
            transaction: None,
            prepared: PreparedXa::default(),
            sequence: 0,
            partial: resume.partial.clone(),
            gtids: resume.gtids.clone().filter(|_| !is_by_mariadb_gtids(&resume)),
            awaited: awaited(&resume),
            file: None,
            trail: Trail::default(),
            emitted_resume: Arc::new(resume.clone()),
            resume,
            batch: BatchAssembler::first(),
            batch_max: BatchLimits { rows: BATCH_ROWS_MAX, bytes: BATCH_BYTES_MAX },
            batch_has_transaction: false,
            gtid_text: GtidText::default(),
            ready: VecDeque::new(),
            moved: false,
            rows_of_event: 0,
            failed: None,
        }
    }

    /// Emits schema changes as well ([`RowBatch::schema_change`]), if `wanted`.
    ///
    /// These are the changes of schemas with selected tables, and the changes whose event does not name the schemas.
    pub fn with_schema_changes(self, wanted: bool) -> Self {
        Self { schema_changes: wanted, ..self }
    }

    /// Skips changes that cannot be decoded, if `wanted`, and emits a record of each ([`RowBatch::skipped`]).
    ///
    /// Only changes that nothing else depends on are skipped: changes logged as statements, rows with values that cannot be
    /// decoded, and rows of tables whose columns cannot be determined. Any other decode error still stops the decoder.
    pub fn with_skipping(self, wanted: bool) -> Self {
        Self { skips_undecodable: wanted, ..self }
    }

    /// Collects the statements that may change columns, if `wanted`, for [`Decoder::take_alterations`].
    pub fn with_alterations(self, wanted: bool) -> Self {
        Self { wants_alterations: wanted, ..self }
    }

    /// Limits the cost of a batch from now on; the decoder's own limits still apply.
    pub fn bound_batches(&mut self, Cost { rows, bytes }: Cost) {
        self.batch_max =
            BatchLimits { rows: BATCH_ROWS_MAX.min(rows as usize), bytes: BATCH_BYTES_MAX.min(bytes as usize) };
    }

    /// Continues decoding an event, given from its header to its checksum.
    ///
    /// The caller passes the same bytes until the result is [`Next::Event`]. Of a compressed transaction one inner
    /// event is decoded at a time, so that the rows of a large one are never all in memory.
    ///
    /// # Errors
    /// If the event cannot be decoded with certainty. All rows before the error that may be delivered have been emitted
    /// by then: those of earlier transactions, and those of the open transaction unless they are held back. The last
    /// batch's [`RowBatch::resume`] is directly before the error. Every later call returns the same error, until
    /// [`Decoder::rewind`].
    pub fn next(&mut self, event: &[u8]) -> Result<Next, Box<DecodeError>> {
        loop {
            if let Some(batch) = self.pop() {
                return Ok(Next::Batch(Box::new(batch)));
            }
            if let Some(error) = &self.failed {
                return Err(error.clone());
            }
            let step = match mem::take(&mut self.event_state) {
                EventState::All => return Ok(Next::Event),
                EventState::Nothing => self.begin_event(event),
                EventState::Part(open) => self.continue_payload(event, open),
            };
            match step {
                Ok(()) => {}
                Err(EventError::Columns { schema, table, missing }) => {
                    return Ok(Next::Columns { schema, table, missing });
                }
                Err(EventError::Failed { cause, kind, table }) => {
                    let transaction = self.transaction.as_ref().map(|transaction| transaction.begin);
                    self.cut_before_event();
                    self.failed = Some(Box::new(DecodeError {
                        position: self.position.clone(),
                        transaction,
                        kind,
                        table,
                        cause,
                    }));
                }
            }
        }
    }

    /// Gives up on the current event, because something outside the decoder is missing, such as a table's columns.
    ///
    /// Returns all rows before the event that may be delivered, batch by batch, as before an error of [`Decoder::next`].
    pub fn give_up(&mut self) -> Option<RowBatch> {
        if self.ready.is_empty() {
            self.cut_before_event();
        }
        self.pop()
    }

    /// Returns the start of the open transaction, or of the next event if no transaction is open. To be called before
    /// [`Decoder::give_up`], which discards a transaction that is held back.
    pub fn transaction_begin(&self) -> BinlogPosition {
        let offset = self.transaction.as_ref().map_or(self.position.offset, |transaction| transaction.begin);
        BinlogPosition { offset, ..self.position.clone() }
    }

    /// Queues all rows before the current event, or before its row that cannot be decoded, in a last batch. Rows of the
    /// open transaction that are held back are discarded.
    fn cut_before_event(&mut self) {
        if let Some(transaction) = &self.transaction {
            if transaction.hold.on && !transaction.hold.overflowed {
                // Whether the transaction's rows were committed is unknown.
                let earlier = transaction.hold.earlier;
                self.transaction = None;
                self.batch_has_transaction = false;
                self.batch.truncate(earlier);
            } else if transaction.rows > 0 {
                let rows = self.rows_of_event.max(transaction.payload_offset.unwrap_or(0));
                let progress = EventOffset { event: self.position.offset, rows };
                // The resume point must not go back to rows that an earlier run processed.
                if !self.is_past(progress) {
                    self.resume.partial = Some(PartialTransaction { file: self.position.file.clone(), progress });
                }
            }
        }
        if self.moved {
            self.cut();
        }
    }

    /// Whether [`Decoder::take_alterations`] would return any.
    #[inline]
    pub fn has_alterations(&self) -> bool {
        !self.alterations.is_empty()
    }

    /// Returns the tables that the statements since the last call may have altered, with each statement's position. Needs
    /// [`Decoder::with_alterations`].
    pub fn take_alterations(&mut self) -> Vec<(BinlogPosition, Altered)> {
        mem::take(&mut self.alterations)
    }

    /// Sets a table's columns, as requested by [`Next::Columns`]. Columns that do not match the table map are an error.
    pub fn learn(&mut self, schema: String, table: String, columns: Vec<CatalogColumn>) {
        self.tables.learn(schema, table, columns, Certainty::Certain);
    }

    /// Whether a table's columns are known by [`Decoder::learn`] and match the table's maps since then, if there were any.
    pub fn knows_columns(&self, schema: &str, table: &str) -> bool {
        self.tables.knows(schema, table)
    }

    /// Sets a table's presumed columns: if they do not match the table map, they are requested once more.
    pub fn learn_guess(&mut self, schema: String, table: String, columns: Vec<CatalogColumn>) {
        self.tables.learn(schema, table, columns, Certainty::Guess);
    }

    /// Marks the columns requested by [`Next::Columns`] as impossible to determine, for a reason other than the
    /// connection: the table's rows are skipped. Needs [`Decoder::with_skipping`].
    pub fn give_up_columns(&mut self, schema: String, table: String, why: String) {
        self.tables.give_up(schema, table, why);
    }

    /// Returns the rows so far, even if they are few: the caller calls this when the server has no further event, so
    /// that rows do not wait for one. Returns `None` within a transaction, since its end follows soon, and if nothing
    /// has happened since the last batch.
    pub fn flush(&mut self) -> Option<RowBatch> {
        if self.transaction.is_none() && self.moved {
            self.cut();
        }
        self.pop()
    }

    /// Discards everything that was not emitted, after a lost connection, and returns the resume point.
    pub fn rewind(&mut self) -> ResumePoint {
        self.transaction = None;
        self.prepared = PreparedXa::default();
        self.ready.clear();
        self.tables.forget_numbers();
        self.alterations.clear();
        self.checksums = Checksums::Unknown;
        self.event_state = EventState::Nothing;
        self.resume = ResumePoint::clone(&self.emitted_resume);
        self.position = self.resume.position.clone();
        self.partial = self.resume.partial.clone();
        self.gtids = self.resume.gtids.clone().filter(|_| !is_by_mariadb_gtids(&self.resume));
        self.awaited = awaited(&self.resume);
        self.file = None;
        self.trail = Trail::default();
        self.batch = BatchAssembler::first();
        self.batch_has_transaction = false;
        self.moved = false;
        self.failed = None;
        self.resume.clone()
    }

    /// Moves the decoder to `resume`, on another server or at another position. Everything that was not emitted is
    /// discarded.
    pub fn relocate(&mut self, resume: ResumePoint) {
        self.emitted_resume = Arc::new(resume);
        self.rewind();
    }

    /// Returns the resume point directly before the rows that were not emitted yet.
    pub fn resume_before(&self) -> &ResumePoint {
        &self.emitted_resume
    }

    /// Returns the server's family, which is known once a file's first event is read.
    pub fn connector(&self) -> Connector {
        match self.family {
            Family::MySql => Connector::MySql,
            Family::MariaDb => Connector::MariaDb,
        }
    }

    /// Returns the position up to which the binlog was read.
    pub fn position(&self) -> &BinlogPosition {
        &self.position
    }

    /// Returns the transactions committed before [`Decoder::position`], if known. Valid between two transactions only.
    pub fn gtids(&self) -> Option<&Arc<GtidSet>> {
        self.gtids.as_ref()
    }

    /// Begins an event, and processes all of it unless it is a compressed transaction.
    fn begin_event(&mut self, bytes: &[u8]) -> Result<(), EventError> {
        self.rows_of_event = 0;
        let header = EventHeader::parse(bytes).map_err(|cause| EventError::of(cause, EventKind(0)))?;
        let kind = header.kind;
        let body = self.checksums.open(&header, bytes).map_err(|cause| EventError::of(cause, kind))?;
        let at = self.position.offset;
        let span = header
            .span_after(at)
            .map_or(Span { begin: at, end: at }, |Range { start: begin, end }| Span { begin, end });
        // A table map is processed again once its table's columns are known: its first pass must leave no trace in
        // `trail`.
        let trail = (kind == EventKind::TABLE_MAP).then_some(self.trail);
        if span.begin < span.end {
            if self.transaction.is_none() {
                self.trail.begin(span.begin);
            }
            self.trail.push(&header, bytes);
        }
        if kind == EventKind::FORMAT_DESCRIPTION {
            self.begin_file(&header, bytes).map_err(|cause| EventError::of(cause, kind))?;
        }
        if kind == EventKind::TRANSACTION_PAYLOAD {
            let payload = Payload::begin(body).map_err(|cause| EventError::of(cause, kind))?;
            let body = EventHeader::LEN..EventHeader::LEN + body.len();
            self.event_state = EventState::Part(Box::new(OpenPayload { payload, body, span }));
            return Ok(());
        }
        if let Err(halt) = self.dispatch(&header, body, span) {
            trail.into_iter().for_each(|before| self.trail = before);
            return Err(halt);
        }
        if kind != EventKind::ROTATE {
            self.position.offset = span.end;
        }
        self.event_state = EventState::All;
        Ok(())
    }

    /// Processes the next event of a compressed transaction.
    fn continue_payload(&mut self, bytes: &[u8], mut open: Box<OpenPayload>) -> Result<(), EventError> {
        let OpenPayload { payload, body, span } = &mut *open;
        let packed = bytes.get(body.clone()).unwrap_or_default();
        // Rows are numbered from this offset with 32 bits.
        let Ok(offset) = u32::try_from(payload.offset() + MAX_EVENT_ROWS) else {
            let cause = DecodeErrorKind::Unsupported {
                what: "a compressed transaction of more than 3 GiB".to_owned(),
                fix: "turn `binlog_transaction_compression` off for such transactions",
            };
            return Err(EventError::of(cause, EventKind::TRANSACTION_PAYLOAD));
        };
        let offset = offset - MAX_EVENT_ROWS as u32;
        let event = payload.event(packed).map_err(|cause| EventError::of(cause, EventKind::TRANSACTION_PAYLOAD))?;
        let Some((header, body)) = event else {
            self.position.offset = span.end;
            self.event_state = EventState::All;
            return Ok(());
        };
        if let Some(transaction) = &mut self.transaction {
            transaction.payload_offset = Some(offset);
        }
        let outcome = self.dispatch(&header, body, *span);
        // An event that needs a table's columns is processed again.
        if outcome.is_ok() {
            payload.take();
        }
        self.event_state = EventState::Part(open);
        outcome
    }

    /// Processes a format description, which comes at the head of a file and of each connection.
    fn begin_file(&mut self, header: &EventHeader, event: &[u8]) -> Result<(), DecodeErrorKind> {
        let FileFormat { identity, is_mariadb, savepoints } = FileFormat::parse(header, event)?;
        self.family = if is_mariadb { Family::MariaDb } else { Family::MySql };
        self.file = Some(identity);
        self.savepoints = savepoints;
        let known = self.resume.fingerprint.map(|fingerprint| fingerprint.file);
        let is_at_head = self.position.offset == BinlogPosition::FIRST_EVENT && self.transaction.is_none();
        if is_at_head && (self.resume.position != self.position || known != self.file) {
            self.boundary();
        }
        Ok(())
    }

    /// Processes an event, which may be inside a compressed transaction. `span` is the range of the outer event.
    fn dispatch(&mut self, header: &EventHeader, body: &[u8], span: Span) -> Result<(), EventError> {
        let kind = header.kind;
        let halt = |cause, table| EventError::Failed { cause, kind, table };
        if let Some(rows_kind) = RowsKind::of(kind) {
            if self.is_done_with() {
                return Ok(());
            }
            return self.rows(rows_kind, header, body, span).map_err(|cause| {
                let number = RowsEvent::table_number(body).ok().flatten();
                halt(cause, number.and_then(|number| self.tables.name(number)))
            });
        }
        if kind == EventKind::TABLE_MAP {
            if self.is_done_with() {
                return Ok(());
            }
            return self.tables.map(body, self.family, &*self.select, self.skips_undecodable).map_err(
                |cause| match cause {
                    TableMapError::Missing { schema, table, missing } => EventError::Columns { schema, table, missing },
                    TableMapError::Decode(cause) => {
                        let name = TableName::parse(body).ok();
                        halt(cause, name.map(|name| shown_name(name.schema, name.table)))
                    }
                },
            );
        }
        self.control(header, body, span).map_err(|cause| halt(cause, None))
    }

    /// Processes an event that has no rows.
    fn control(&mut self, header: &EventHeader, body: &[u8], span: Span) -> Result<(), DecodeErrorKind> {
        match header.kind {
            EventKind::GTID => self.begin(header, span, gtid_event::mysql(body, false)?),
            EventKind::ANONYMOUS_GTID => self.begin(header, span, gtid_event::mysql(body, true)?),
            EventKind::GTID_TAGGED => self.begin(header, span, gtid_event::mysql_tagged(body)?),
            EventKind::MARIADB_GTID => {
                let begin = gtid_event::mariadb(body, header.server_id)?;
                let (begun, xa) = (!begin.standalone, begin.prepared_xa.clone());
                self.begin(header, span, begin)?;
                if let Some(transaction) = &mut self.transaction {
                    transaction.begun = begun;
                    transaction.xa = xa;
                    transaction.hold.on = true;
                }
                Ok(())
            }
            EventKind::PREVIOUS_GTIDS => self.previous_gtids(gtid_event::previous_mysql(body)?),
            EventKind::MARIADB_GTID_LIST => {
                if header.is_artificial() || header.log_pos == 0 {
                    return Ok(());
                }
                self.previous_gtids(gtid_event::previous_mariadb(body)?)
            }
            EventKind::QUERY => self.query(header, Query::parse(body)?, span),
            EventKind::MARIADB_QUERY_COMPRESSED => {
                let query = Query::parse(body)?;
                let text = mariadb::unpack(query.text)?;
                self.query(header, query.with_text(&text), span)
            }
            EventKind::XID => self.commit(span.end),
            EventKind::XA_PREPARE => self.prepare_xa(body, span),
            EventKind::ROTATE => self.rotate(header, body),
            EventKind::INCIDENT => {
                let text = body.get(3..).unwrap_or_default();
                Err(DecodeErrorKind::Incident(String::from_utf8_lossy(text).into_owned()))
            }
            EventKind::FORMAT_DESCRIPTION // see `begin_file`
            | EventKind::STOP
            | EventKind::HEARTBEAT
            | EventKind::HEARTBEAT_V2
            | EventKind::IGNORABLE
            | EventKind::ROWS_QUERY
            | EventKind::TRANSACTION_CONTEXT
            | EventKind::VIEW_CHANGE
            | EventKind::MARIADB_ANNOTATE_ROWS
            | EventKind::MARIADB_BINLOG_CHECKPOINT => Ok(()),
            // Context for the statement that follows, which is an event of its own.
            EventKind::INTVAR | EventKind::RAND | EventKind::USER_VAR | EventKind::BEGIN_LOAD_QUERY => Ok(()),
            EventKind::EXECUTE_LOAD_QUERY => self.query(header, Query::parse_load(body)?, span),
            // A server sends decrypted events, and marks this one as ignorable. In the encrypted file this event is not
            // marked, and the events after it cannot be read.
            EventKind::MARIADB_START_ENCRYPTION if header.is_ignorable() => Ok(()),
            EventKind::MARIADB_START_ENCRYPTION => Err(DecodeErrorKind::Unsupported {
                what: "an encrypted binlog file".to_owned(),
                fix: "read the file from its server, which decrypts it",
            }),
            _ if header.is_ignorable() => Ok(()),
            _ => Err(DecodeErrorKind::UnknownEvent),
        }
    }
}

/// Whether a resume point consists of MariaDB's GTIDs alone: the reading then begins at the head of a file, and skips
/// the transactions that the GTIDs cover.
fn is_by_mariadb_gtids(resume: &ResumePoint) -> bool {
    resume.position.file.is_empty() && matches!(resume.gtids.as_deref(), Some(GtidSet::MariaDb(_)))
}

/// Returns the initial value of [`Decoder::awaited`].
fn awaited(resume: &ResumePoint) -> Vec<(u32, Newest)> {
    let gtids = resume.gtids.as_deref().filter(|_| is_by_mariadb_gtids(resume));
    gtids.into_iter().flat_map(GtidSet::newest_of_servers).collect()
}
