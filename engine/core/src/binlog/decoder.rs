//! The decoder: follows transactions and positions, and gathers rows into batches.

use std::collections::VecDeque;
use std::mem;
use std::ops::Range;
use std::sync::Arc;

use rowmill_batch::{Builder, RowHeader, Table, TransactionHeader};

use super::bytes::Bytes;
use super::catalog::CatalogColumn;
use super::error::{DecodeError, Fault};
use super::event::{Checksums, Event, EventHeader, EventKind};
use super::gtid_event::{self, Begin};
use super::mariadb;
use super::payload::Payload;
use super::query::{Query, Statement};
use super::rows::{RowsEvent, RowsKind};
use super::table_map::{Family, TableName};
use super::tables::{MapFault, Select, TableVersion, Tables};
use super::transaction::{HELD_BYTES_MAX, Hold, PreparedXa, RolledBack, Transaction, divide};
use crate::gtid::GtidSet;
use crate::position::{BinlogPosition, Past, Progress, Resume, file_number};
use crate::progress::Cost;

/// A batch is handed on when it has this many rows,
pub const BATCH_ROWS_MAX: usize = 256;
/// or this many bytes. A single row may be larger.
pub const BATCH_BYTES_MAX: usize = 1 << 20;

/// Most batches are far smaller than [`BATCH_BYTES_MAX`].
const BATCH_CAPACITY: usize = 96 << 10;

/// Decoded rows, in binlog order. May have no rows: then it says only how far the binlog was read.
#[derive(Debug)]
pub struct RowBatch {
    /// The rows, packed.
    pub bytes: Arc<Vec<u8>>,
    /// How many there are.
    pub rows: usize,
    /// Table versions that no earlier batch had, in the order of their ids.
    pub new_tables: Vec<Arc<Table>>,
    /// From where to read on once all rows of this batch (and of those before it) are done with.
    pub resume: Resume,
}

impl RowBatch {
    /// What the batch takes of the in-flight budget.
    pub fn cost(&self) -> Cost {
        Cost { rows: self.rows as u32, bytes: u32::try_from(self.bytes.len()).unwrap_or(u32::MAX) }
    }
}

/// What the decoder has or needs next.
#[derive(Debug)]
pub enum Next {
    /// A batch that is full.
    Batch(RowBatch),
    /// This table's columns as information_schema has them: see [`Decoder::learn`].
    Columns {
        /// The table's schema.
        schema: String,
        /// Its name.
        table: String,
    },
    /// The event is done with: the next one may come.
    Event,
}

/// Decodes a binlog's events, in their order, into batches.
pub struct Decoder {
    select: Box<dyn Select>,
    tables: Tables,
    checksums: Checksums,
    family: Family,
    /// How much of the event that is being read was done.
    done: Done,
    position: BinlogPosition,
    transaction: Option<Transaction>,
    prepared: PreparedXa,
    /// Counts transactions.
    sequence: u64,
    /// Rows that an earlier run was done with.
    skip: Option<Past>,
    /// All transactions that were committed, where that is known.
    gtids: Option<Arc<GtidSet>>,
    /// From where to read on behind the last transaction.
    resume: Resume,
    /// That of the last batch that was handed on.
    handed_on: Resume,
    batch: Builder,
    /// Whether the batch's newest transaction is the one that is open.
    batch_has_transaction: bool,
    ready: VecDeque<RowBatch>,
    /// Whether `resume` moved since the last batch.
    moved: bool,
}

/// How much of an event was done.
#[derive(Debug)]
enum Done {
    Nothing,
    All,
    /// Some events of a compressed transaction.
    Payload {
        payload: Box<Payload>,
        body: Range<usize>,
        span: Span,
    },
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
enum Halt {
    Fault { fault: Fault, kind: EventKind, table: Option<String> },
    Columns { schema: String, table: String },
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").field("position", &self.position).field("rows", &self.batch.rows()).finish()
    }
}

impl Decoder {
    /// Reads on at `resume`: the first event must be one that the server sends for that position.
    /// Rows of tables that `select` refuses are passed over.
    pub fn new(resume: Resume, select: Box<dyn Select>) -> Self {
        Self {
            select,
            tables: Tables::default(),
            checksums: Checksums::Unknown,
            family: Family::MySql,
            done: Done::Nothing,
            position: resume.position.clone(),
            transaction: None,
            prepared: PreparedXa::default(),
            sequence: 0,
            skip: resume.past.clone(),
            gtids: resume.gtids.clone(),
            handed_on: resume.clone(),
            resume,
            batch: Builder::with_capacity(BATCH_CAPACITY),
            batch_has_transaction: false,
            ready: VecDeque::new(),
            moved: false,
        }
    }

    /// Goes on with an event, from its header to its checksum. Called with the same bytes again and
    /// again until it gives [`Next::Event`]: so that no event, and be it a compressed transaction of
    /// a million rows, fills more than a batch at a time.
    ///
    /// # Errors
    /// If the event can't be decoded with certainty. Nothing of it is in a batch; the decoder must
    /// not be used any more.
    pub fn next(&mut self, event: &[u8]) -> Result<Next, DecodeError> {
        loop {
            if let Some(batch) = self.pop() {
                return Ok(Next::Batch(batch));
            }
            let step = match mem::replace(&mut self.done, Done::Nothing) {
                Done::All => return Ok(Next::Event),
                Done::Nothing => self.begin_event(event),
                Done::Payload { payload, body, span } => self.go_on(event, payload, body, span),
            };
            match step {
                Ok(()) => {}
                Err(Halt::Columns { schema, table }) => return Ok(Next::Columns { schema, table }),
                Err(Halt::Fault { fault, kind, table }) => {
                    return Err(DecodeError { position: self.position.clone(), kind, table, fault });
                }
            }
        }
    }

    /// A table's columns, as [`Next::Columns`] asked for.
    pub fn learn(&mut self, schema: String, table: String, columns: Vec<CatalogColumn>) {
        self.tables.learn(schema, table, columns);
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
    pub fn rewind(&mut self) -> Resume {
        self.transaction = None;
        self.prepared = PreparedXa::default();
        self.ready.clear();
        self.tables.forget_numbers();
        self.checksums = Checksums::Unknown;
        self.done = Done::Nothing;
        self.resume = self.handed_on.clone();
        self.position = self.resume.position.clone();
        self.skip = self.resume.past.clone();
        self.gtids = self.resume.gtids.clone();
        self.batch = Builder::with_capacity(BATCH_CAPACITY);
        self.batch_has_transaction = false;
        self.moved = false;
        self.resume.clone()
    }

    /// What comes next is of another server, or from another place: from `resume` on. What wasn't
    /// handed on is forgotten.
    pub fn relocate(&mut self, resume: Resume) {
        self.handed_on = resume;
        self.rewind();
    }

    /// How far the binlog was read.
    pub fn position(&self) -> &BinlogPosition {
        &self.position
    }

    fn pop(&mut self) -> Option<RowBatch> {
        let mut batch = self.ready.pop_front()?;
        // Here and not before: a batch that is held back must not keep what an earlier one needs.
        batch.new_tables = self.tables.take_new();
        self.handed_on.clone_from(&batch.resume);
        Some(batch)
    }

    fn begin_event(&mut self, bytes: &[u8]) -> Result<(), Halt> {
        let kind = EventHeader::parse(bytes).map_or(EventKind(0), |header| header.kind);
        let event = self.checksums.open(bytes).map_err(|fault| Halt::Fault { fault, kind, table: None })?;
        let span = self.span(&event.header);
        if kind == EventKind::TRANSACTION_PAYLOAD {
            let payload = Payload::begin(event.body).map_err(|fault| Halt::Fault { fault, kind, table: None })?;
            if let Some(transaction) = &mut self.transaction {
                transaction.payload_rows = Some(0);
            }
            let body = EventHeader::LEN..EventHeader::LEN + event.body.len();
            self.done = Done::Payload { payload: Box::new(payload), body, span };
            return Ok(());
        }
        self.dispatch(&event, span)?;
        if kind != EventKind::ROTATE {
            self.position.offset = span.end;
        }
        self.done = Done::All;
        Ok(())
    }

    /// The next event of a compressed transaction.
    fn go_on(&mut self, bytes: &[u8], mut payload: Box<Payload>, body: Range<usize>, span: Span) -> Result<(), Halt> {
        let kind = EventKind::TRANSACTION_PAYLOAD;
        let packed = bytes.get(body.clone()).unwrap_or_default();
        let event = payload.event(packed).map_err(|fault| Halt::Fault { fault, kind, table: None })?;
        let Some(event) = event else {
            self.position.offset = span.end;
            self.done = Done::All;
            return Ok(());
        };
        let outcome = self.dispatch(&event, span);
        // An event that needs a table's columns comes again.
        if outcome.is_ok() {
            payload.take();
        }
        self.done = Done::Payload { payload, body, span };
        outcome
    }

    /// Where an event lies. A file may be larger than the header's 32 bits can say: the nearest
    /// position ahead counts. MariaDB leaves positions within a transaction out.
    fn span(&self, header: &EventHeader) -> Span {
        let at = self.position.offset;
        let is_in_file = match header.kind {
            EventKind::HEARTBEAT | EventKind::HEARTBEAT_V2 => false,
            EventKind::FORMAT_DESCRIPTION | EventKind::ROTATE | EventKind::MARIADB_GTID_LIST => header.log_pos != 0,
            _ => true,
        };
        if !is_in_file || header.is_artificial() {
            return Span { begin: at, end: at };
        }
        if header.log_pos == 0 {
            return Span { begin: at, end: at + u64::from(header.size) };
        }
        let end = (at & !0xffff_ffff) | u64::from(header.log_pos);
        let end = if end < at { end + (1 << 32) } else { end };
        Span { begin: end.saturating_sub(u64::from(header.size)), end }
    }

    fn dispatch(&mut self, event: &Event<'_>, span: Span) -> Result<(), Halt> {
        let kind = event.header.kind;
        let halt = |fault, table| Halt::Fault { fault, kind, table };
        if let Some(rows_kind) = RowsKind::of(kind) {
            let rows = RowsEvent::parse(rows_kind, event.body).map_err(|fault| halt(fault, None))?;
            let Some(rows) = rows else { return Ok(()) };
            let unpacked;
            let rows = match rows.packed() {
                None => rows,
                Some(packed) => {
                    unpacked = mariadb::unpack(packed).map_err(|fault| halt(fault, None))?;
                    rows.with_rows(&unpacked)
                }
            };
            let number = rows.table_number;
            return self.rows(rows, &event.header, span).map_err(|fault| halt(fault, self.tables.name(number)));
        }
        if kind == EventKind::TABLE_MAP {
            return self.tables.map(event.body, self.family, &*self.select).map_err(|fault| match fault {
                MapFault::Unnamed { schema, table } => Halt::Columns { schema, table },
                MapFault::Fault(fault) => {
                    let name = TableName::parse(event.body).ok();
                    halt(fault, name.map(|name| format!("{}.{}", name.schema, name.table)))
                }
            });
        }
        self.control(event, span).map_err(|fault| halt(fault, None))
    }

    /// Events that aren't rows.
    fn control(&mut self, event: &Event<'_>, span: Span) -> Result<(), Fault> {
        let Event { header, body } = event;
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
                Err(Fault::Incident(String::from_utf8_lossy(text).into_owned()))
            }
            EventKind::FORMAT_DESCRIPTION => {
                // The binlog format's version, then the server's, of 50 bytes.
                let version = body.get(2..52).ok_or(Fault::Truncated)?;
                let is_mariadb = version.windows(7).any(|word| word == b"MariaDB");
                self.family = if is_mariadb { Family::MariaDb } else { Family::MySql };
                Ok(())
            }
            EventKind::STOP
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
            EventKind::EXECUTE_LOAD_QUERY => Err(Fault::Statement("LOAD DATA".to_owned())),
            EventKind::MARIADB_START_ENCRYPTION => Err(Fault::Unsupported {
                what: "an encrypted binlog file".to_owned(),
                mend: "read it from its server, which decrypts it",
            }),
            _ if header.is_ignorable() => Ok(()),
            _ => Err(Fault::UnknownEvent),
        }
    }

    fn rotate(&mut self, header: &EventHeader, body: &[u8]) -> Result<(), Fault> {
        let mut bytes = Bytes(body);
        let offset = bytes.u64()?;
        let file = std::str::from_utf8(bytes.0).map_err(|_| Fault::Malformed("a binlog file's name"))?;
        // The first rotation of a connection repeats where it was asked to begin.
        if self.position.file == file && self.position.offset == offset {
            return Ok(());
        }
        if self.transaction.is_some() {
            if !header.is_artificial() {
                return Err(Fault::Malformed("a transaction that the file's end cuts off"));
            }
            // The server crashed while it wrote it: it never was committed.
            self.discard_transaction()?;
        }
        if self.position.file != file {
            let is_behind = |past: &Past| file_number(&past.file).zip(file_number(file)).is_none_or(|(a, b)| b > a);
            self.skip.take_if(|past| past.file != file && is_behind(past));
        }
        self.position = BinlogPosition::new(file, offset);
        self.boundary();
        Ok(())
    }

    /// What the head of a file says was executed before it.
    fn previous_gtids(&mut self, set: GtidSet) -> Result<(), Fault> {
        // MariaDB's list may lack domains that were forgotten; what is known by counting stays.
        if self.gtids.is_none() {
            self.gtids = Some(Arc::new(set));
            self.boundary();
        }
        Ok(())
    }

    fn begin(&mut self, header: &EventHeader, span: Span, begin: Begin) -> Result<(), Fault> {
        if self.transaction.is_some() {
            return Err(Fault::Malformed("a transaction that begins within another"));
        }
        self.tables.forget_numbers_if_many();
        self.sequence += 1;
        // Read from the beginning of a file by its position, a server sends what it doesn't by GTIDs.
        let is_past = begin.gtid.as_ref().zip(self.gtids.as_ref()).is_some_and(|(gtid, gtids)| gtids.contains(gtid));
        self.transaction = Some(Transaction {
            begin: span.begin,
            gtid: begin.gtid,
            commit_time_us: begin.commit_time_us,
            server_id: header.server_id,
            thread_id: 0,
            rows: 0,
            is_past,
            begun: false,
            payload_rows: None,
            xa: None,
            hold: Hold::new(self.batch.rows()),
        });
        Ok(())
    }

    fn query(&mut self, header: &EventHeader, query: Query<'_>, span: Span) -> Result<(), Fault> {
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
            Statement::CreateWithRows => {
                transaction.begun = true;
                self.tables.forget_learned();
                Ok(())
            }
            Statement::Commit => self.commit(span.end),
            Statement::Rollback => self.roll_back(span.end),
            Statement::Savepoint(name) => {
                transaction.hold.on = true;
                transaction.hold.savepoint(name, self.batch.rows(), transaction.rows);
                Ok(())
            }
            Statement::RollbackTo(name) => {
                let Some(RolledBack { rows, batch_rows, batch }) = transaction.hold.roll_back_to(&name) else {
                    return Err(self.rolled_back_too_late());
                };
                transaction.rows = rows;
                match batch {
                    Some(batch) => {
                        self.batch_has_transaction = batch.rows() > 0;
                        self.batch = batch;
                    }
                    None => self.batch.truncate_rows(batch_rows),
                }
                Ok(())
            }
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
            Statement::Change => {
                let elsewhere = query.changed_schemas().is_some_and(|schemas| {
                    !schemas.is_empty() && !schemas.iter().any(|schema| self.select.schema(schema))
                });
                if !elsewhere {
                    return Err(Fault::Statement(query.shown()));
                }
                if transaction.begun { Ok(()) } else { self.commit(span.end) }
            }
            Statement::Other => {
                self.tables.forget_learned();
                if transaction.begun { Ok(()) } else { self.commit(span.end) }
            }
        }
    }

    fn rows(&mut self, mut rows: RowsEvent<'_>, header: &EventHeader, span: Span) -> Result<(), Fault> {
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

    fn rows_of(
        &mut self,
        rows: &mut RowsEvent<'_>,
        version: &TableVersion,
        header: &EventHeader,
        span: Span,
        transaction: &mut Transaction,
    ) -> Result<(), Fault> {
        let mut place = Progress { event: span.begin, rows: transaction.payload_rows.unwrap_or(0) };
        while !rows.is_done() {
            if self.is_full() {
                self.cut_within(transaction, place)?;
            }
            if !self.batch_has_transaction {
                self.begin_in_batch(transaction);
            }
            self.batch.begin_row(&RowHeader {
                table: version.id,
                operation: rows.operation(),
                columns: version.columns.codecs.len() as u16,
                index_in_transaction: transaction.rows,
                index_in_event: place.rows,
                event_position: place.event,
                time_us: i64::from(header.timestamp_s) * 1_000_000,
            });
            let read = rows.next_row(&version.columns, &mut self.batch);
            let read = read.and_then(|()| if self.batch.is_too_large() { Err(Fault::RowTooLarge) } else { Ok(()) });
            read.inspect_err(|_| self.batch.abandon_row())?;
            // What is past of an XA transaction is decided by its commit.
            if transaction.is_past || transaction.xa.is_none() && self.is_past(place) {
                self.batch.abandon_row();
            } else {
                self.batch.end_row();
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
    fn is_past(&self, place: Progress) -> bool {
        self.skip.as_ref().is_some_and(|past| past.file != self.position.file || place < past.progress)
    }

    fn begin_in_batch(&mut self, transaction: &Transaction) {
        let gtid = transaction.gtid.as_ref().map(ToString::to_string).unwrap_or_default();
        self.batch.transaction(&TransactionHeader {
            file: &self.position.file,
            position: transaction.begin,
            gtid: &gtid,
            commit_time_us: transaction.commit_time_us,
            server_id: transaction.server_id,
            thread_id: transaction.thread_id,
        });
        self.batch_has_transaction = true;
    }

    fn is_full(&self) -> bool {
        self.batch.rows() >= BATCH_ROWS_MAX || self.batch.len() >= BATCH_BYTES_MAX
    }

    /// The batch is full within a transaction: it is handed on, or held back. `place` is that of the
    /// next row.
    fn cut_within(&mut self, transaction: &mut Transaction, place: Progress) -> Result<(), Fault> {
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
            let bytes = mem::replace(&mut self.batch, Builder::with_capacity(0)).finish();
            let (committed, open) = divide(&bytes, hold.earlier);
            self.batch = committed;
            self.cut();
            self.batch_has_transaction = open.rows() > 0;
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

    /// The open transaction ends at `end`, committed.
    fn commit(&mut self, end: u64) -> Result<(), Fault> {
        let Some(transaction) = self.transaction.take() else {
            return Err(Fault::Malformed("a commit without a transaction"));
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
    fn roll_back(&mut self, end: u64) -> Result<(), Fault> {
        let gtid = self.transaction.as_ref().and_then(|transaction| transaction.gtid.clone());
        self.discard_transaction()?;
        self.end_transaction(gtid, end);
        Ok(())
    }

    /// Forgets the rows of the open transaction.
    fn discard_transaction(&mut self) -> Result<(), Fault> {
        let Some(Transaction { hold, .. }) = self.transaction.take_if(|transaction| transaction.hold.handed_on == 0)
        else {
            return Err(self.rolled_back_too_late());
        };
        self.batch.truncate_rows(hold.earlier);
        self.batch_has_transaction = false;
        Ok(())
    }

    fn end_transaction(&mut self, gtid: Option<crate::gtid::Gtid>, end: u64) {
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
    fn prepare_xa(&mut self, body: &[u8], span: Span) -> Result<(), Fault> {
        let one_phase = Bytes(body).u8()? != 0;
        if one_phase && self.is_past(Progress { event: span.begin, rows: 0 }) {
            return self.roll_back(span.end); // an earlier run was done with it
        }
        if one_phase {
            return self.commit(span.end);
        }
        let Some(mut transaction) = self.transaction.take() else {
            return Err(Fault::Malformed("an XA PREPARE without a transaction"));
        };
        let Some(id) = transaction.xa.take() else { return Err(Fault::Malformed("an XA PREPARE without an XA START")) };
        let Hold { earlier, mut batches, .. } = transaction.hold;
        if self.batch_has_transaction {
            self.batch.mark_last_in_transaction();
        }
        // What stands in the batch before it is committed.
        let bytes = mem::replace(&mut self.batch, Builder::with_capacity(BATCH_CAPACITY)).finish();
        let (committed, open) = divide(&bytes, earlier);
        self.batch = open;
        if self.batch.rows() > 0 {
            let resume = self.resume();
            batches.push(self.take_batch(resume));
        }
        self.batch = committed;
        self.batch_has_transaction = false;
        let before = Resume { past: None, ..self.resume() };
        self.prepared.insert(id, batches, before, self.sequence);
        self.end_transaction(transaction.gtid, span.end);
        Ok(())
    }

    fn commit_xa(&mut self, id: &str, span: Span) -> Result<(), Fault> {
        let place = Progress { event: span.begin, rows: 0 };
        match self.prepared.remove(id) {
            Some(_) if self.is_past(place) => {}
            Some(prepared) => {
                if self.moved {
                    self.cut();
                }
                // Its rows lie far back: from where to read on doesn't follow from them.
                let resume = self.resume();
                let batches = prepared.batches.into_iter();
                self.ready.extend(batches.map(|batch| RowBatch { resume: resume.clone(), ..batch }));
            }
            None if self.is_past(place) => {}
            None => return Err(Fault::UnknownXa(id.to_owned())),
        }
        self.commit(span.end)
    }

    fn rolled_back_too_late(&self) -> Fault {
        let begin = self.transaction.as_ref().map_or(self.position.offset, |transaction| transaction.begin);
        let since = BinlogPosition::new(self.position.file.clone(), begin);
        Fault::RolledBack { held_bytes: HELD_BYTES_MAX, since }
    }

    /// The current position is between two transactions.
    fn boundary(&mut self) {
        self.moved = true;
        let BinlogPosition { file, offset } = &self.position;
        // A dump can't be asked to begin past 4 GiB of a file, nor may a prepared transaction be
        // missed: then an earlier position stands, and the rest says how far from it all is past.
        let stays =
            self.prepared.oldest().cloned().or_else(|| (*offset > u64::from(u32::MAX)).then(|| self.resume.clone()));
        match stays {
            Some(earlier) => {
                self.resume = earlier;
                let progress = Progress { event: *offset, rows: 0 };
                self.resume.past = Some(Past { file: file.clone(), progress });
            }
            None => {
                self.resume.position.clone_from(&self.position);
                self.resume.past = None;
                self.resume.gtids = None;
            }
        }
    }

    /// From where to read on behind the last transaction, with the set of what was executed.
    fn resume(&self) -> Resume {
        let gtids = self.resume.gtids.clone().or_else(|| self.gtids.clone());
        Resume { gtids, ..self.resume.clone() }
    }

    /// Hands on what the batch has.
    fn cut(&mut self) {
        let resume = self.resume();
        let batch = self.take_batch(resume);
        self.ready.push_back(batch);
        self.moved = false;
    }

    fn take_batch(&mut self, resume: Resume) -> RowBatch {
        let rows = self.batch.rows();
        let builder = mem::replace(&mut self.batch, Builder::with_capacity(BATCH_CAPACITY));
        self.batch_has_transaction = false;
        RowBatch { bytes: Arc::new(builder.finish()), rows, new_tables: Vec::new(), resume }
    }
}
