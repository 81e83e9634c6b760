//! The decoder: follows transactions and positions, and gathers rows into batches.

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::Arc;

use rowmill_batch::{Builder, RowHeader, Table, TableId, TransactionHeader};

use super::bytes::Bytes;
use super::error::{DecodeError, Fault};
use super::event::{Event, EventHeader, EventKind};
use super::rows::{RowsEvent, operation_of};
use super::table_map::{self, Columns, TableName};
use crate::position::{BinlogPosition, Progress, Resume};
use crate::progress::Cost;

/// A batch is handed on when it has this many rows,
pub const BATCH_ROWS_MAX: usize = 256;
/// or this many bytes. A single row may be larger.
pub const BATCH_BYTES_MAX: usize = 1 << 20;

/// Most batches are far smaller than [`BATCH_BYTES_MAX`].
const BATCH_CAPACITY: usize = 96 << 10;
/// Table maps are repeated before every statement, so that forgetting old ones costs little.
const TABLE_NUMBERS_MAX: usize = 4096;

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

/// Decides which tables' rows are decoded, by schema and name.
pub type SelectTable = Box<dyn Fn(&str, &str) -> bool + Send>;

/// Decodes a binlog's events, in their order, into batches.
pub struct Decoder {
    select: SelectTable,
    tables: Tables,
    position: BinlogPosition,
    transaction: Option<Transaction>,
    /// Rows of the first file that an earlier run was done with.
    skip: Option<Progress>,
    resume: Resume,
    batch: Builder,
    /// Whether the batch's newest transaction is the one that is open.
    batch_has_transaction: bool,
    ready: VecDeque<RowBatch>,
    /// Whether `resume` moved since the last batch.
    moved: bool,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").field("position", &self.position).field("rows", &self.batch.rows()).finish()
    }
}

/// The transaction that is being read.
#[derive(Debug)]
struct Transaction {
    begin: u64,
    gtid: String,
    commit_time_us: i64,
    server_id: u32,
    thread_id: u32,
    rows: u32,
    /// Whether its end is a commit of its own, or that of the one statement in it.
    begun: bool,
    /// Whether what comes next was unpacked from a compressed payload, and how far its rows were read.
    payload: Option<Payload>,
}

/// Events of a compressed payload have no place of their own: they count as rows of the payload's event.
#[derive(Debug, Clone, Copy)]
struct Payload {
    event: u64,
    rows: u32,
}

/// Where an event lies in its file.
#[derive(Debug, Clone, Copy)]
struct Span {
    begin: u64,
    end: u64,
}

impl Decoder {
    /// Reads on at `resume`: the first event must be one that the server sends for that position.
    /// Rows of tables that `select` refuses are passed over.
    pub fn new(resume: Resume, select: SelectTable) -> Self {
        Self {
            select,
            tables: Tables::default(),
            position: resume.position.clone(),
            transaction: None,
            skip: resume.partial,
            resume,
            batch: Builder::with_capacity(BATCH_CAPACITY),
            batch_has_transaction: false,
            ready: VecDeque::new(),
            moved: false,
        }
    }

    /// Takes the next event. Batches that it filled are then in [`Decoder::pop`].
    ///
    /// # Errors
    /// If the event can't be decoded with certainty. The decoder must not be used any more.
    pub fn event(&mut self, event: &Event<'_>) -> Result<(), DecodeError> {
        let span = self.span(&event.header);
        let outcome = self.dispatch(event, span).map_err(|(fault, table)| DecodeError {
            position: BinlogPosition::new(self.position.file.clone(), span.begin),
            kind: event.header.kind,
            table,
            fault,
        });
        if event.header.kind != EventKind::ROTATE {
            self.position.offset = span.end;
        }
        outcome
    }

    /// The next full batch.
    pub fn pop(&mut self) -> Option<RowBatch> {
        self.ready.pop_front()
    }

    /// What there is, though it may be little: called when no event is waiting, so that rows don't.
    /// `None` within a transaction (its end is near) and where nothing happened.
    pub fn flush(&mut self) -> Option<RowBatch> {
        if self.transaction.is_none() && self.moved {
            self.cut();
        }
        self.pop()
    }

    /// How far the binlog was read.
    pub fn position(&self) -> &BinlogPosition {
        &self.position
    }

    /// Files may be larger than the header's 32 bits can say: take the nearest position ahead.
    fn span(&self, header: &EventHeader) -> Span {
        let at = self.position.offset;
        if let Some(payload) = self.transaction.as_ref().and_then(|transaction| transaction.payload) {
            return Span { begin: payload.event, end: at };
        }
        if header.is_artificial() || matches!(header.kind, EventKind::HEARTBEAT | EventKind::HEARTBEAT_V2) {
            return Span { begin: at, end: at };
        }
        let end = (at & !0xffff_ffff) | u64::from(header.log_pos);
        let end = if end < at { end + (1 << 32) } else { end };
        Span { begin: end.saturating_sub(u64::from(header.size)), end }
    }

    fn dispatch(&mut self, event: &Event<'_>, span: Span) -> Result<(), (Fault, Option<String>)> {
        let kind = event.header.kind;
        if let Some((operation, version)) = operation_of(kind) {
            let Some(rows) = RowsEvent::parse(operation, version, event.body).map_err(|fault| (fault, None))? else {
                return Ok(());
            };
            let number = rows.table_number;
            return self.rows(rows, &event.header, span).map_err(|fault| (fault, self.tables.name(number)));
        }
        if kind == EventKind::TABLE_MAP {
            return self.tables.map(event.body, &self.select).map_err(|fault| {
                let name = TableName::parse(event.body).ok();
                (fault, name.map(|name| format!("{}.{}", name.schema, name.table)))
            });
        }
        self.control(event, span).map_err(|fault| (fault, None))
    }

    /// Events that aren't rows.
    fn control(&mut self, event: &Event<'_>, span: Span) -> Result<(), Fault> {
        let Event { header, body } = event;
        let mut bytes = Bytes(body);
        match header.kind {
            EventKind::GTID => {
                let (gtid, commit_time_us) = mysql_gtid(&mut bytes)?;
                self.begin(header, span, gtid, commit_time_us)
            }
            EventKind::ANONYMOUS_GTID => {
                let (_, commit_time_us) = mysql_gtid(&mut bytes)?;
                self.begin(header, span, String::new(), commit_time_us)
            }
            EventKind::GTID_TAGGED => self.begin(header, span, String::new(), 0),
            EventKind::MARIADB_GTID => {
                const STANDALONE: u8 = 1;
                let (sequence, domain, flags) = (bytes.u64()?, bytes.u32()?, bytes.u8()?);
                self.begin(header, span, format!("{domain}-{}-{sequence}", header.server_id), 0)?;
                if let Some(transaction) = &mut self.transaction {
                    transaction.begun = flags & STANDALONE == 0;
                }
                Ok(())
            }
            EventKind::QUERY => self.query(header, &mut bytes, span),
            EventKind::XID => self.commit(span.end),
            EventKind::TRANSACTION_PAYLOAD => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.payload = Some(Payload { event: span.begin, rows: 0 });
                }
                Ok(())
            }
            EventKind::ROTATE => {
                let offset = bytes.u64()?;
                let file = std::str::from_utf8(bytes.0).map_err(|_| Fault::Malformed("a binlog file's name"))?;
                if self.transaction.is_some() {
                    return Err(Fault::Malformed("a binlog file that ends within a transaction"));
                }
                // The first rotation of a connection repeats where it was asked to begin.
                if self.position.file != file || self.position.offset != offset {
                    if self.position.file != file {
                        self.skip = None;
                    }
                    self.position = BinlogPosition::new(file, offset);
                    self.boundary();
                }
                Ok(())
            }
            EventKind::INCIDENT => {
                bytes.u16()?;
                Err(Fault::Incident(String::from_utf8_lossy(bytes.0.get(1..).unwrap_or_default()).into_owned()))
            }
            EventKind::FORMAT_DESCRIPTION
            | EventKind::STOP
            | EventKind::PREVIOUS_GTIDS
            | EventKind::HEARTBEAT
            | EventKind::HEARTBEAT_V2
            | EventKind::IGNORABLE
            | EventKind::ROWS_QUERY
            | EventKind::TRANSACTION_CONTEXT
            | EventKind::VIEW_CHANGE
            | EventKind::MARIADB_ANNOTATE_ROWS
            | EventKind::MARIADB_BINLOG_CHECKPOINT
            | EventKind::MARIADB_GTID_LIST => Ok(()),
            // Context for a statement that follows; the statement itself is what counts.
            EventKind::INTVAR | EventKind::RAND | EventKind::USER_VAR => Ok(()),
            EventKind::BEGIN_LOAD_QUERY | EventKind::EXECUTE_LOAD_QUERY => {
                Err(Fault::Statement("LOAD DATA".to_owned()))
            }
            EventKind::PARTIAL_UPDATE_ROWS => Err(Fault::Unsupported {
                what: "a partial JSON update".to_owned(),
                mend: "run `SET PERSIST binlog_row_value_options = ''` and start from a position after it",
            }),
            EventKind::XA_PREPARE => {
                Err(Fault::Unsupported { what: "an XA transaction".to_owned(), mend: "start from a position after it" })
            }
            _ if header.is_ignorable() => Ok(()),
            _ => Err(Fault::UnknownEvent),
        }
    }

    fn begin(&mut self, header: &EventHeader, span: Span, gtid: String, commit_time_us: i64) -> Result<(), Fault> {
        if self.transaction.is_some() {
            return Err(Fault::Malformed("a transaction that begins within another"));
        }
        self.tables.forget_numbers_if_many();
        self.transaction = Some(Transaction {
            begin: span.begin,
            gtid,
            commit_time_us,
            server_id: header.server_id,
            thread_id: 0,
            rows: 0,
            begun: false,
            payload: None,
        });
        Ok(())
    }

    fn query(&mut self, header: &EventHeader, bytes: &mut Bytes<'_>, span: Span) -> Result<(), Fault> {
        let thread_id = bytes.u32()?;
        bytes.u32()?; // execution time
        let schema_len = usize::from(bytes.u8()?);
        bytes.u16()?; // error code
        let status_len = usize::from(bytes.u16()?);
        bytes.take(status_len + schema_len + 1)?;
        let text = String::from_utf8_lossy(bytes.0);
        let words = text.split_ascii_whitespace().take(2).map(str::to_ascii_uppercase).collect::<Vec<_>>();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();

        if self.transaction.is_none() {
            // Servers without GTID events: a statement begins its own transaction.
            self.begin(header, span, String::new(), 0)?;
        }
        let Some(transaction) = &mut self.transaction else { return Ok(()) };
        match words[..] {
            ["BEGIN"] => {
                transaction.begun = true;
                transaction.thread_id = thread_id;
                Ok(())
            }
            ["XA", ..] => {
                Err(Fault::Unsupported { what: "an XA transaction".to_owned(), mend: "start from a position after it" })
            }
            ["COMMIT"] | ["ROLLBACK"] => self.commit(span.end),
            ["SAVEPOINT" | "ROLLBACK" | "RELEASE", ..] if transaction.begun => Ok(()),
            // DDL and the like stand alone; a statement within BEGIN and COMMIT changes rows.
            _ if transaction.begun => Err(Fault::Statement(text.chars().take(200).collect())),
            _ => self.commit(span.end),
        }
    }

    fn rows(&mut self, mut rows: RowsEvent<'_>, header: &EventHeader, span: Span) -> Result<(), Fault> {
        let Some(known) = self.tables.by_number.get(&rows.table_number) else {
            return Err(Fault::NoTableMap(rows.table_number));
        };
        let Some(version) = known.version.clone() else { return Ok(()) };
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
        let mut place = match transaction.payload {
            Some(Payload { event, rows }) => Progress { event, rows },
            None => Progress { event: span.begin, rows: 0 },
        };
        while !rows.is_done() {
            if self.batch.rows() >= BATCH_ROWS_MAX || self.batch.len() >= BATCH_BYTES_MAX {
                self.resume.partial = Some(place);
                self.cut();
            }
            if !self.batch_has_transaction {
                self.batch.transaction(&TransactionHeader {
                    file: &self.position.file,
                    position: transaction.begin,
                    gtid: &transaction.gtid,
                    commit_time_us: transaction.commit_time_us,
                    server_id: transaction.server_id,
                    thread_id: transaction.thread_id,
                });
                self.batch_has_transaction = true;
            }
            self.batch.begin_row(&RowHeader {
                table: version.id,
                operation: rows.operation,
                columns: version.columns.codecs.len() as u16,
                index_in_transaction: transaction.rows,
                index_in_event: place.rows,
                event_position: place.event,
                time_us: i64::from(header.timestamp_s) * 1_000_000,
            });
            rows.next_row(&version.columns, &mut self.batch).inspect_err(|_| self.batch.abandon_row())?;
            if self.skip.is_some_and(|past| place < past) {
                self.batch.abandon_row(); // an earlier run was done with it
            } else {
                self.batch.end_row();
                self.moved = true;
            }
            transaction.rows += 1;
            place.rows += 1;
        }
        if let Some(payload) = &mut transaction.payload {
            payload.rows = place.rows;
        }
        Ok(())
    }

    /// The open transaction ends at `end`.
    fn commit(&mut self, end: u64) -> Result<(), Fault> {
        let Some(transaction) = self.transaction.take() else {
            return Err(Fault::Malformed("a commit without a transaction"));
        };
        if self.batch_has_transaction {
            self.batch.mark_last_in_transaction();
        }
        self.batch_has_transaction = false;
        if !transaction.gtid.is_empty() {
            self.resume.gtid = transaction.gtid;
        }
        self.position.offset = end;
        self.boundary();
        if self.batch.rows() >= BATCH_ROWS_MAX || self.batch.len() >= BATCH_BYTES_MAX {
            self.cut();
        }
        Ok(())
    }

    /// The current position is between two transactions.
    fn boundary(&mut self) {
        self.moved = true;
        // A dump can't be asked to begin past 4 GiB of a file: from there on the last position
        // before it stands, and the progress says how far from it the rows are past.
        if self.position.offset <= u64::from(u32::MAX) {
            self.resume.position.clone_from(&self.position);
            self.resume.partial = None;
        } else {
            self.resume.partial = Some(Progress { event: self.position.offset, rows: 0 });
        }
    }

    /// Hands on what the batch has.
    fn cut(&mut self) {
        let rows = self.batch.rows();
        let builder = mem::replace(&mut self.batch, Builder::with_capacity(BATCH_CAPACITY));
        self.ready.push_back(RowBatch {
            bytes: Arc::new(builder.finish()),
            rows,
            new_tables: mem::take(&mut self.tables.new),
            resume: self.resume.clone(),
        });
        self.batch_has_transaction = false;
        self.moved = false;
    }
}

/// Reads a GTID event: the transaction's id and when it was committed here, in microseconds.
/// <https://dev.mysql.com/doc/dev/mysql-server/latest/classmysql_1_1binlog_1_1event_1_1Gtid__event.html>
fn mysql_gtid(bytes: &mut Bytes<'_>) -> Result<(String, i64), Fault> {
    bytes.u8()?; // flags
    let mut uuid = String::with_capacity(36 + 20);
    for (index, byte) in bytes.take(16)?.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            uuid.push('-');
        }
        uuid.push_str(&format!("{byte:02x}"));
    }
    let number = bytes.u64()?;
    // MySQL 5.7 and later: a logical clock of 17 bytes; 8.0: the commit's time, 7 bytes, its top bit a flag.
    let commit_time_us = bytes.take(17).and_then(|_| bytes.uint(7)).map_or(0, |time| time & !(1 << 55));
    Ok((format!("{uuid}:{number}"), commit_time_us as i64))
}

/// The tables met so far. The server numbers them anew whenever it opens them, and repeats their
/// maps before every statement; a version gets an id of its own only if its content is new.
#[derive(Debug, Default)]
struct Tables {
    by_number: HashMap<u64, KnownTable>,
    versions: Vec<Arc<TableVersion>>,
    new: Vec<Arc<Table>>,
}

#[derive(Debug)]
struct KnownTable {
    /// The table map's body, to see that nothing changed.
    map: Vec<u8>,
    /// `None` where the table isn't selected.
    version: Option<Arc<TableVersion>>,
}

#[derive(Debug)]
struct TableVersion {
    id: TableId,
    name: (String, String),
    columns: Columns,
}

impl Tables {
    fn map(&mut self, body: &[u8], select: &SelectTable) -> Result<(), Fault> {
        let number = table_map::table_number(body)?;
        if self.by_number.get(&number).is_some_and(|known| known.map == body) {
            return Ok(());
        }
        let name = TableName::parse(body)?;
        let version = if select(name.schema, name.table) { Some(self.version(name)?) } else { None };
        self.by_number.insert(number, KnownTable { map: body.to_vec(), version });
        Ok(())
    }

    fn version(&mut self, name: TableName<'_>) -> Result<Arc<TableVersion>, Fault> {
        let columns = name.columns()?;
        let same = |version: &&Arc<TableVersion>| {
            version.name.0 == name.schema && version.name.1 == name.table && version.columns == columns
        };
        if let Some(version) = self.versions.iter().rev().find(same) {
            return Ok(Arc::clone(version));
        }
        let id = TableId(self.versions.len() as u32);
        self.new.push(Arc::new(Table {
            id,
            schema: name.schema.to_owned(),
            name: name.table.to_owned(),
            columns: columns.columns.clone(),
            key: columns.key.clone(),
        }));
        let version = Arc::new(TableVersion { id, name: (name.schema.to_owned(), name.table.to_owned()), columns });
        self.versions.push(Arc::clone(&version));
        Ok(version)
    }

    fn name(&self, number: u64) -> Option<String> {
        let version = self.by_number.get(&number)?.version.as_ref()?;
        Some(format!("{}.{}", version.name.0, version.name.1))
    }

    fn forget_numbers_if_many(&mut self) {
        if self.by_number.len() > TABLE_NUMBERS_MAX {
            self.by_number.clear();
        }
    }
}
