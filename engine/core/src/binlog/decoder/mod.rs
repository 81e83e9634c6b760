//! The decoder: follows transactions and positions, and gathers rows into batches.

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

/// More rows than an event has: each takes a byte, and an event at most 1 GiB.
const MAX_EVENT_ROWS: u64 = 1 << 30;

/// Decodes a binlog's events, in their order, into batches.
pub struct Decoder {
    select: Box<dyn TableSelector>,
    /// Whether schema changes are wanted.
    schema_changes: bool,
    /// Whether changes that can't be decoded are passed over.
    skips: bool,
    tables: Tables,
    projections: ProjectionCache,
    /// Whether statements that may change columns are collected in `alterations`.
    wants_alterations: bool,
    alterations: Vec<(BinlogPosition, Altered)>,
    checksums: Checksums,
    family: Family,
    /// How the server compares the names of savepoints.
    savepoints: Collation,
    /// How much of the event that is being read was done.
    done: EventState,
    position: BinlogPosition,
    transaction: Option<Transaction>,
    prepared: PreparedXa,
    /// Counts transactions.
    sequence: u64,
    /// Rows that an earlier run was done with.
    skip: Option<PartialTransaction>,
    /// All transactions that were committed, where that is known.
    gtids: Option<Arc<GtidSet>>,
    /// Read by MariaDB's GTIDs: of each domain and server the last transaction of an earlier run that wasn't met yet.
    awaited: Vec<(u32, Newest)>,
    /// What tells the file that is being read from others of its name.
    file: Option<u32>,
    /// What ends at the position.
    trail: Trail,
    /// From where to read on behind the last transaction.
    resume: ResumePoint,
    /// That of the last batch that was handed on.
    handed_on: Arc<ResumePoint>,
    batch: BatchAssembler,
    /// When it is full.
    batch_max: BatchLimits,
    /// Whether the batch's newest transaction is the one that is open.
    batch_has_transaction: bool,
    /// Of that transaction.
    gtid_text: GtidText,
    ready: VecDeque<RowBatch>,
    /// Whether `resume` moved since the last batch.
    moved: bool,
    /// How many rows of the event that is being read were decoded.
    rows_of_event: u32,
    /// Why nothing is decoded any more, once all before it is handed over.
    failed: Option<Box<DecodeError>>,
}

/// How much of an event was done.
#[derive(Debug, Default)]
enum EventState {
    #[default]
    Nothing,
    All,
    /// Some events of a compressed transaction.
    Part(Box<OpenPayload>),
}

/// A compressed transaction of which some events are done.
#[derive(Debug)]
struct OpenPayload {
    payload: Payload,
    /// Where its body is in the event that holds it.
    body: Range<usize>,
    span: Span,
}

/// Where an event lies in its file.
#[derive(Debug, Clone, Copy)]
struct Span {
    begin: u64,
    end: u64,
}

/// Why an event can't be taken: a fault of an event, which may be one inside another, or columns that
/// must be known first.
#[derive(Debug)]
enum EventOutcome {
    Failed { fault: DecodeErrorKind, kind: EventKind, table: Option<String> },
    Columns { schema: String, table: String, missing: Missing },
}

impl EventOutcome {
    /// A fault of an event of this kind.
    fn of(fault: DecodeErrorKind, kind: EventKind) -> Self {
        Self::Failed { fault, kind, table: None }
    }
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").field("position", &self.position).field("rows", &self.batch.count()).finish()
    }
}

impl Decoder {
    /// Reads on at `resume`: the first event must be one that the server sends for that position.
    /// Rows of tables that `select` refuses are passed over.
    pub fn new(resume: ResumePoint, select: Box<dyn TableSelector>) -> Self {
        Self {
            select,
            schema_changes: false,
            skips: false,
            tables: Tables::default(),
            projections: ProjectionCache::default(),
            wants_alterations: false,
            alterations: Vec::new(),
            checksums: Checksums::Unknown,
            family: Family::MySql,
            savepoints: Collation::default(),
            done: EventState::Nothing,
            position: resume.position.clone(),
            transaction: None,
            prepared: PreparedXa::default(),
            sequence: 0,
            skip: resume.partial.clone(),
            gtids: resume.gtids.clone().filter(|_| !is_by_mariadb_gtids(&resume)),
            awaited: awaited(&resume),
            file: None,
            trail: Trail::default(),
            handed_on: Arc::new(resume.clone()),
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

    /// Hands on schema changes as well ([`RowBatch::schema_change`]), if they are `wanted`: those that
    /// the event says or leaves open to be about schemas of which tables are selected.
    pub fn with_schema_changes(self, wanted: bool) -> Self {
        Self { schema_changes: wanted, ..self }
    }

    /// Skips changes that can't be decoded, if nothing else depends on them, and emits a record of each
    /// ([`RowBatch::skipped`]): changes that are logged as statements, rows with values that can't be decoded, rows of
    /// tables whose columns can't be known. What else can't be decoded is an error all the same.
    pub fn with_skips(self, wanted: bool) -> Self {
        Self { skips: wanted, ..self }
    }

    /// Collects the statements that may change columns, if that is `wanted`, for [`Decoder::take_alterations`].
    pub fn with_alterations(self, wanted: bool) -> Self {
        Self { wants_alterations: wanted, ..self }
    }

    /// From now on a batch is full when it costs so much, if it isn't before.
    pub fn bound_batches(&mut self, Cost { rows, bytes }: Cost) {
        self.batch_max =
            BatchLimits { rows: BATCH_ROWS_MAX.min(rows as usize), bytes: BATCH_BYTES_MAX.min(bytes as usize) };
    }

    /// Goes on with an event, from its header to its checksum. Called with the same bytes again and
    /// again until it gives [`Next::Event`]: so that no event, and be it a compressed transaction of
    /// a million rows, fills more than a batch at a time.
    ///
    /// # Errors
    /// If the event can't be decoded with certainty. All that is decoded before the fault, and may be delivered, was
    /// handed over before: the rows of earlier transactions, and those of the open one unless they are held back. The
    /// last batch's [`RowBatch::resume`] stands directly before the fault. From then on the decoder gives this error
    /// alone, until [`Decoder::rewind`].
    pub fn next(&mut self, event: &[u8]) -> Result<Next, Box<DecodeError>> {
        loop {
            if let Some(batch) = self.pop() {
                return Ok(Next::Batch(Box::new(batch)));
            }
            if let Some(error) = &self.failed {
                return Err(error.clone());
            }
            let step = match mem::take(&mut self.done) {
                EventState::All => return Ok(Next::Event),
                EventState::Nothing => self.begin_event(event),
                EventState::Part(open) => self.go_on(event, open),
            };
            match step {
                Ok(()) => {}
                Err(EventOutcome::Columns { schema, table, missing }) => {
                    return Ok(Next::Columns { schema, table, missing });
                }
                Err(EventOutcome::Failed { fault, kind, table }) => {
                    let transaction = self.transaction.as_ref().map(|transaction| transaction.begin);
                    self.cut_before_event();
                    self.failed = Some(Box::new(DecodeError {
                        position: self.position.clone(),
                        transaction,
                        kind,
                        table,
                        fault,
                    }));
                }
            }
        }
    }

    /// The event that is being read can't be decoded for want of something outside, such as a table's columns: gives
    /// what may be delivered of all before it, batch by batch, as before an error of [`Decoder::next`].
    pub fn give_up(&mut self) -> Option<RowBatch> {
        if self.ready.is_empty() {
            self.cut_before_event();
        }
        self.pop()
    }

    /// Where the transaction that is being read begins, or else the next event.
    pub fn transaction_begin(&self) -> BinlogPosition {
        let offset = self.transaction.as_ref().map_or(self.position.offset, |transaction| transaction.begin);
        BinlogPosition { offset, ..self.position.clone() }
    }

    /// Hands over what is decoded before the event that is being read, or before the row of it that can't be decoded.
    fn cut_before_event(&mut self) {
        if let Some(transaction) = &self.transaction {
            if transaction.hold.on && !transaction.hold.overflowed {
                // Nobody knows whether its rows were committed.
                let earlier = transaction.hold.earlier;
                self.transaction = None;
                self.batch_has_transaction = false;
                self.batch.truncate(earlier);
            } else if transaction.rows > 0 {
                let rows = self.rows_of_event.max(transaction.payload_offset.unwrap_or(0));
                let progress = EventOffset { event: self.position.offset, rows };
                // The resume point doesn't go back to what an earlier run was done with.
                if !self.is_past(progress) {
                    self.resume.partial = Some(PartialTransaction { file: self.position.file.clone(), progress });
                }
            }
        }
        if self.moved {
            self.cut();
        }
    }

    /// What statements that were met since this was asked last may have changed, and where each begins. Only for a decoder
    /// [`with_alterations`](Self::with_alterations).
    #[inline]
    pub fn take_alterations(&mut self) -> Vec<(BinlogPosition, Altered)> {
        mem::take(&mut self.alterations)
    }

    /// A table's columns, as [`Next::Columns`] asked for. Where they don't fit the rows that is an error.
    pub fn learn(&mut self, schema: String, table: String, columns: Vec<CatalogColumn>) {
        self.tables.learn(schema, table, columns, Certainty::Certain);
    }

    /// Whether a table's columns are known by [`Decoder::learn`], and fit its rows if any came since.
    pub fn knows_columns(&self, schema: &str, table: &str) -> bool {
        self.tables.knows(schema, table)
    }

    /// A table's columns, as they are thought to be: if they don't fit the rows they are asked for once more.
    pub fn try_columns(&mut self, schema: String, table: String, columns: Vec<CatalogColumn>) {
        self.tables.learn(schema, table, columns, Certainty::Guess);
    }

    /// A table's columns, as [`Next::Columns`] asked for, can't be known, for a reason that isn't the connection's: its rows
    /// are passed over. Only for a decoder [`with_skips`](Self::with_skips).
    pub fn give_up_columns(&mut self, schema: String, table: String, why: String) {
        self.tables.give_up(schema, table, why);
    }

    /// What there is, though it may be little: called when no event is waiting, so that rows don't.
    /// `None` within a transaction (its end is near) and where nothing happened.
    pub fn flush(&mut self) -> Option<RowBatch> {
        if self.transaction.is_none() && self.moved {
            self.cut();
        }
        self.pop()
    }

    /// Forgets what wasn't handed on, because the connection was lost: gives from where to read on.
    pub fn rewind(&mut self) -> ResumePoint {
        self.transaction = None;
        self.prepared = PreparedXa::default();
        self.ready.clear();
        self.tables.forget_numbers();
        self.alterations.clear();
        self.checksums = Checksums::Unknown;
        self.done = EventState::Nothing;
        self.resume = ResumePoint::clone(&self.handed_on);
        self.position = self.resume.position.clone();
        self.skip = self.resume.partial.clone();
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

    /// What comes next is of another server, or from another place: from `resume` on. What wasn't
    /// handed on is forgotten.
    pub fn relocate(&mut self, resume: ResumePoint) {
        self.handed_on = Arc::new(resume);
        self.rewind();
    }

    /// A place between two transactions, before all rows that weren't handed on yet.
    pub fn resume_before(&self) -> &ResumePoint {
        &self.handed_on
    }

    /// The family of the server, once a file's first event was read.
    pub fn connector(&self) -> Connector {
        match self.family {
            Family::MySql => Connector::MySql,
            Family::MariaDb => Connector::MariaDb,
        }
    }

    /// How far the binlog was read.
    pub fn position(&self) -> &BinlogPosition {
        &self.position
    }

    /// The transactions that were committed before [`Decoder::position`], if that is between two of them and known.
    pub fn gtids(&self) -> Option<&Arc<GtidSet>> {
        self.gtids.as_ref()
    }

    fn begin_event(&mut self, bytes: &[u8]) -> Result<(), EventOutcome> {
        self.rows_of_event = 0;
        let header = EventHeader::parse(bytes).map_err(|fault| EventOutcome::of(fault, EventKind(0)))?;
        let kind = header.kind;
        let body = self.checksums.open(&header, bytes).map_err(|fault| EventOutcome::of(fault, kind))?;
        let at = self.position.offset;
        let span = header
            .span_after(at)
            .map_or(Span { begin: at, end: at }, |Range { start: begin, end }| Span { begin, end });
        // A table map may come again, once its table's columns are known.
        let trail = (kind == EventKind::TABLE_MAP).then_some(self.trail);
        if span.begin < span.end {
            if self.transaction.is_none() {
                self.trail.begin(span.begin);
            }
            self.trail.push(&header, bytes);
        }
        if kind == EventKind::FORMAT_DESCRIPTION {
            self.begin_file(&header, bytes).map_err(|fault| EventOutcome::of(fault, kind))?;
        }
        if kind == EventKind::TRANSACTION_PAYLOAD {
            let payload = Payload::begin(body).map_err(|fault| EventOutcome::of(fault, kind))?;
            let body = EventHeader::LEN..EventHeader::LEN + body.len();
            self.done = EventState::Part(Box::new(OpenPayload { payload, body, span }));
            return Ok(());
        }
        if let Err(halt) = self.dispatch(&header, body, span) {
            trail.into_iter().for_each(|before| self.trail = before);
            return Err(halt);
        }
        if kind != EventKind::ROTATE {
            self.position.offset = span.end;
        }
        self.done = EventState::All;
        Ok(())
    }

    /// The next event of a compressed transaction.
    fn go_on(&mut self, bytes: &[u8], mut open: Box<OpenPayload>) -> Result<(), EventOutcome> {
        let OpenPayload { payload, body, span } = &mut *open;
        let packed = bytes.get(body.clone()).unwrap_or_default();
        // Rows are numbered from there by 32 bits.
        let Ok(offset) = u32::try_from(payload.offset() + MAX_EVENT_ROWS) else {
            let fault = DecodeErrorKind::Unsupported {
                what: "a compressed transaction of more than 3 GiB".to_owned(),
                mend: "turn `binlog_transaction_compression` off for such transactions",
            };
            return Err(EventOutcome::of(fault, EventKind::TRANSACTION_PAYLOAD));
        };
        let offset = offset - MAX_EVENT_ROWS as u32;
        let event = payload.event(packed).map_err(|fault| EventOutcome::of(fault, EventKind::TRANSACTION_PAYLOAD))?;
        let Some((header, body)) = event else {
            self.position.offset = span.end;
            self.done = EventState::All;
            return Ok(());
        };
        if let Some(transaction) = &mut self.transaction {
            transaction.payload_offset = Some(offset);
        }
        let outcome = self.dispatch(&header, body, *span);
        // An event that projections a table's columns comes again.
        if outcome.is_ok() {
            payload.take();
        }
        self.done = EventState::Part(open);
        outcome
    }

    /// A format description: at the head of a file, and of each connection.
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

    fn dispatch(&mut self, header: &EventHeader, body: &[u8], span: Span) -> Result<(), EventOutcome> {
        let kind = header.kind;
        let halt = |fault, table| EventOutcome::Failed { fault, kind, table };
        if let Some(rows_kind) = RowsKind::of(kind) {
            if self.is_done_with() {
                return Ok(());
            }
            return self.rows(rows_kind, header, body, span).map_err(|fault| {
                let number = RowsEvent::table_number(body).ok().flatten();
                halt(fault, number.and_then(|number| self.tables.name(number)))
            });
        }
        if kind == EventKind::TABLE_MAP {
            if self.is_done_with() {
                return Ok(());
            }
            return self.tables.map(body, self.family, &*self.select, self.skips).map_err(|fault| match fault {
                TableMapError::Missing { schema, table, missing } => EventOutcome::Columns { schema, table, missing },
                TableMapError::Decode(fault) => {
                    let name = TableName::parse(body).ok();
                    halt(fault, name.map(|name| format!("{}.{}", name.schema, name.table)))
                }
            });
        }
        self.control(header, body, span).map_err(|fault| halt(fault, None))
    }

    /// Events that aren't rows.
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
            // Context for a statement that follows; the statement itself is what counts.
            EventKind::INTVAR | EventKind::RAND | EventKind::USER_VAR | EventKind::BEGIN_LOAD_QUERY => Ok(()),
            EventKind::EXECUTE_LOAD_QUERY => self.query(header, Query::parse_load(body)?, span),
            // What a server sends is decrypted: it marks the event as ignorable then. In the encrypted file it isn't marked,
            // and what follows can't be read.
            EventKind::MARIADB_START_ENCRYPTION if header.is_ignorable() => Ok(()),
            EventKind::MARIADB_START_ENCRYPTION => Err(DecodeErrorKind::Unsupported {
                what: "an encrypted binlog file".to_owned(),
                mend: "read it from its server, which decrypts it",
            }),
            _ if header.is_ignorable() => Ok(()),
            _ => Err(DecodeErrorKind::UnknownEvent),
        }
    }
}

/// Whether a place is said by MariaDB's GTIDs alone: then the reading begins with a file that has them, and passes over
/// what they cover.
fn is_by_mariadb_gtids(resume: &ResumePoint) -> bool {
    resume.position.file.is_empty() && matches!(resume.gtids.as_deref(), Some(GtidSet::MariaDb(_)))
}

fn awaited(resume: &ResumePoint) -> Vec<(u32, Newest)> {
    let gtids = resume.gtids.as_deref().filter(|_| is_by_mariadb_gtids(resume));
    gtids.into_iter().flat_map(GtidSet::newest_of_servers).collect()
}
