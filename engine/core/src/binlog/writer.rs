//! Binlogs for tests: events as values in, a server's files and its dumps out.
//!
//! A [`BinlogWriter`] lays events out as MySQL and MariaDB do: headers, positions, checksums, a file's head, and what a
//! dump adds (the artificial rotation, the format description without a position). Formats:
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/namespacemysql_1_1binlog_1_1event.html> and
//! <https://mariadb.com/kb/en/replication-protocol/>; the constants of the format descriptions are those of `tests/data`.

// It writes what tests ask for; what can't be written is a fault of the test.
#![allow(clippy::missing_panics_doc)]

use std::fmt;

use libdeflater::{CompressionLvl, Compressor};

use super::event::{EventHeader, EventKind};
use crate::gtid::{Gtid, GtidSet, Newest};
use crate::position::BinlogPosition;

/// In an event's flags: made for one connection, not in the file.
const ARTIFICIAL: u16 = 0x20;
/// In an event's flags: readers that don't know it may pass over it.
const IGNORABLE: u16 = 0x80;

/// Whose format is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// MySQL 9.7.
    MySql,
    /// MariaDB 11.8.
    MariaDb,
}

/// An event, without its header and checksum.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The executed transactions at the head of a MySQL file.
    PreviousGtids(GtidSet),
    /// The same of a MariaDB file.
    GtidList(GtidSet),
    /// A MySQL transaction's beginning: anonymous without a GTID, in the tagged format if the GTID has a tag.
    Gtid {
        /// `None`: anonymous.
        gtid: Option<Gtid>,
        /// In microseconds since 1970.
        commit_time_us: u64,
    },
    /// A MariaDB transaction's beginning. The header has its server.
    MariaDbGtid {
        /// The replication domain.
        domain: u32,
        /// The number in the domain.
        sequence: u64,
        /// Whether one statement follows, without a commit of its own.
        standalone: bool,
        /// A group commit's id.
        commit_id: Option<u64>,
        /// The XA transaction that is prepared at the end.
        prepared: Option<XaId>,
    },
    /// A statement.
    Query(Statement),
    /// A statement, packed (MariaDB).
    CompressedQuery(Statement),
    /// The description of a table.
    TableMap {
        /// The server's number of the table.
        number: u64,
        /// Its columns.
        table: TableDefinition,
    },
    /// Changed rows.
    Rows(Rows),
    /// A commit.
    Xid(u64),
    /// The preparation of an XA transaction, or its commit in one phase.
    XaPrepare {
        /// Whether it is committed by this.
        one_phase: bool,
        /// Its id.
        id: XaId,
    },
    /// The end of a file.
    Rotate {
        /// The next file.
        file: String,
        /// Where to begin in it.
        offset: u64,
    },
    /// The server's end.
    Stop,
    /// A sign of life, which no file has.
    Heartbeat {
        /// The current file.
        file: String,
    },
    /// The text of a statement whose rows follow (MySQL).
    RowsQuery(String),
    /// The text of a statement whose rows follow (MariaDB).
    AnnotateRows(String),
    /// MariaDB's oldest file that recovery needs.
    BinlogCheckpoint(String),
    /// A compressed transaction's events (MySQL).
    Payload {
        /// The events inside.
        events: Vec<Event>,
        /// Whether they're packed by zstd.
        zstd: bool,
    },
    /// The report of lost events.
    Incident(String),
    /// Anything else.
    Other {
        /// The event's type.
        kind: EventKind,
        /// Whether readers may pass over it.
        ignorable: bool,
        /// What follows its header.
        body: Vec<u8>,
    },
}

/// A statement that is logged as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Statement {
    /// The session in which it ran.
    pub thread_id: u32,
    /// The session's schema.
    pub schema: String,
    /// The schemas that it changed, where it says so.
    pub changed_schemas: Option<Vec<String>>,
    /// The statement.
    pub text: String,
}

/// The id of an XA transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XaId {
    /// The format's number.
    pub format: u32,
    /// The global part.
    pub global: Vec<u8>,
    /// The branch.
    pub branch: Vec<u8>,
}

/// As the servers write it in statements: `X'7831',X'',1`.
impl fmt::Display for XaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { format, global, branch } = self;
        for part in [global, branch] {
            f.write_str("X'")?;
            part.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
            f.write_str("',")?;
        }
        write!(f, "{format}")
    }
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableDefinition {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Its columns.
    pub columns: Vec<ColumnDefinition>,
    /// The indexes of the primary key's columns.
    pub key: Vec<usize>,
    /// Whether the table map has the columns' names and the key (`binlog_row_metadata=FULL`).
    pub named: bool,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnDefinition {
    /// Its name.
    pub name: String,
    /// Its type.
    pub column_type: ColumnType,
    /// Whether it may be NULL.
    pub nullable: bool,
}

/// The types that the writer knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnType {
    /// `INT`.
    Int,
    /// `BIGINT UNSIGNED`.
    BigintUnsigned,
    /// `DOUBLE`.
    Double,
    /// `VARCHAR` in utf8mb4, of at most so many bytes.
    Varchar {
        /// Four for each character.
        bytes_max: u16,
    },
    /// `LONGTEXT` in utf8mb4.
    Longtext,
}

/// A column of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// The image doesn't have the column.
    Absent,
    /// NULL.
    Null,
    /// Of an `INT`.
    Int(i32),
    /// Of a `BIGINT UNSIGNED`.
    Uint(u64),
    /// Of a `DOUBLE`.
    Double(f64),
    /// Of a `VARCHAR` or `LONGTEXT`.
    Text(String),
}

/// What happened to the rows of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// They are new.
    Write,
    /// They changed.
    Update,
    /// They are gone.
    Delete,
}

/// A row event. All images of one kind have the same columns.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows {
    /// The server's number of the table.
    pub number: u64,
    /// What happened to the rows.
    pub change: Change,
    /// How the rows are laid out.
    pub layout: RowsLayout,
    /// The rows: before (empty for `Write`) and after (empty for `Delete`).
    pub rows: Vec<(Vec<Value>, Vec<Value>)>,
    /// The types of the table's columns.
    pub columns: Vec<ColumnType>,
}

/// How a row event is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowsLayout {
    /// Version 1: MariaDB's.
    V1,
    /// Version 2: MySQL's.
    V2,
    /// Version 1 with packed rows (MariaDB's `log_bin_compress`).
    CompressedV1,
}

/// Where an event lies in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Its first byte.
    pub begin: u64,
    /// The byte after its last.
    pub end: u64,
}

/// The event itself, as a dump gives it to a reader.
pub type EventBytes = std::sync::Arc<[u8]>;

#[derive(Debug)]
struct File {
    name: String,
    /// What was executed before it.
    previous: GtidSet,
    events: Vec<Written>,
}

#[derive(Debug)]
struct Written {
    span: Span,
    bytes: EventBytes,
    /// The transaction that it is of.
    gtid: Option<Gtid>,
}

/// A server's binlog in the making.
#[derive(Debug)]
pub struct BinlogWriter {
    server: Server,
    checksums: bool,
    file_prefix: String,
    files: Vec<File>,
    offset: u64,
    /// The transactions that were executed.
    executed: GtidSet,
    /// The transaction that is open.
    open: Option<Gtid>,
    /// What events say of their time.
    pub timestamp_s: u32,
    /// The server that events say they come from.
    pub server_id: u32,
    /// Whether events say where they end. MariaDB's within transactions don't.
    pub positions: bool,
}

impl BinlogWriter {
    /// A server's first file, which has its head only. Files are called `prefix.000001` and so on.
    pub fn new(server: Server, checksums: bool, file_prefix: &str) -> Self {
        let executed = match server {
            Server::MySql => GtidSet::mysql(),
            Server::MariaDb => GtidSet::mariadb(),
        };
        let mut writer = Self {
            server,
            checksums,
            file_prefix: file_prefix.to_owned(),
            files: Vec::new(),
            offset: 0,
            executed,
            open: None,
            timestamp_s: 1_790_000_000,
            server_id: 1,
            positions: true,
        };
        writer.begin_file();
        writer
    }

    /// Where the next event begins.
    pub fn position(&self) -> BinlogPosition {
        BinlogPosition::new(self.file(), self.offset)
    }

    /// The current file's name.
    pub fn file(&self) -> &str {
        self.files.last().map_or("", |file| &file.name)
    }

    /// The transactions that were executed: [`BinlogWriter::execute`].
    pub fn executed(&self) -> &GtidSet {
        &self.executed
    }

    /// A transaction begins: its events are what a dump by GTIDs leaves out if the reader has it.
    pub fn open(&mut self, gtid: Option<Gtid>) {
        self.open = gtid;
    }

    /// The open transaction is complete. Without this a crash cut it off.
    pub fn execute(&mut self) {
        if let Some(gtid) = self.open.take() {
            self.executed.add(&gtid);
        }
    }

    /// Appends an event to the file.
    pub fn write(&mut self, event: &Event) -> Span {
        let log_pos = |end: u64| if self.positions { end as u32 } else { 0 };
        let begin = self.offset;
        let (flags, body) = (event.flags(), event.body());
        let size = EventHeader::LEN + body.len() + if self.checksums { 4 } else { 0 };
        let span = Span { begin, end: begin + size as u64 };
        let bytes = self.frame(event.kind(), flags, log_pos(span.end), &body);
        self.push(span, bytes);
        span
    }

    /// Ends the file as the server does when it is full, and begins the next one.
    pub fn rotate(&mut self) {
        let (file, offset) = (self.file_name(self.files.len() + 1), BinlogPosition::FIRST_EVENT);
        self.write(&Event::Rotate { file, offset });
        self.begin_file();
    }

    /// Begins the next file as after a crash: the file before just ends, maybe within a transaction.
    pub fn crash(&mut self) {
        self.open = None;
        self.begin_file();
    }

    /// The next event begins so many bytes later: what lies between was lost to no reader, and makes a file large.
    pub fn skip(&mut self, bytes: u64) {
        self.offset += bytes;
    }

    /// A file as it is on disk, by its index; of one without gaps.
    pub fn file_bytes(&self, index: usize) -> Vec<u8> {
        let events = self.files[index].events.iter().flat_map(|event| event.bytes.iter().copied());
        b"\xfebin".iter().copied().chain(events).collect()
    }

    /// Whether events end with a checksum.
    pub fn has_checksums(&self) -> bool {
        self.checksums
    }

    /// An event that is in no file, without a position.
    pub fn loose(&self, event: &Event) -> EventBytes {
        self.frame(event.kind(), event.flags(), 0, &event.body()).into()
    }

    /// How many files there are.
    pub fn file_count(&self) -> usize {
        self.files.len()
    }

    /// What a server sends whom asks for events from a position on: the artificial rotation, the format description
    /// (without a position, unless the position is the file's beginning) and the events.
    pub fn dump(&self, from: &BinlogPosition) -> Vec<EventBytes> {
        let index = self.files.iter().position(|file| file.name == from.file).expect("a file that there is");
        let mut events = vec![self.artificial_rotate(&from.file, from.offset)];
        let is_head = from.offset == BinlogPosition::FIRST_EVENT;
        if !is_head {
            events.push(self.format_description(0).into());
        }
        let file = &self.files[index];
        assert!(
            is_head
                || from.offset == self.end(file)
                || file.events.iter().any(|event| event.span.begin == from.offset)
                || self.is_gap(file, from.offset),
            "{from} isn't between two events"
        );
        let rest = file.events.iter().filter(|event| event.span.begin >= from.offset);
        events.extend(rest.map(|event| event.bytes.clone()));
        for file in &self.files[index + 1..] {
            events.push(self.artificial_rotate(&file.name, BinlogPosition::FIRST_EVENT));
            events.extend(file.events.iter().map(|event| event.bytes.clone()));
        }
        events
    }

    /// What a server sends whom asks for the transactions that aren't in a set: from the beginning of the last file that
    /// has all that is missing; MySQL says by a heartbeat how far it is after those that it leaves out.
    pub fn dump_by_gtids(&self, executed: &GtidSet) -> Vec<EventBytes> {
        let first = self.files.iter().rposition(|file| file.previous.is_subset_of(executed)).unwrap_or(0);
        let mut events = Vec::new();
        for file in &self.files[first..] {
            events.push(self.artificial_rotate(&file.name, BinlogPosition::FIRST_EVENT));
            let mut left_out_to = None;
            for event in &file.events {
                if event.gtid.as_ref().is_some_and(|gtid| executed.contains(gtid)) {
                    left_out_to = Some(event.span.end);
                    continue;
                }
                if let Some(end) = left_out_to.take()
                    && self.server == Server::MySql
                {
                    events.push(self.heartbeat(&file.name, end));
                }
                events.push(event.bytes.clone());
            }
        }
        events
    }

    /// What a server sends while nothing happens.
    pub fn heartbeat(&self, file: &str, offset: u64) -> EventBytes {
        let event = Event::Heartbeat { file: file.to_owned() };
        self.timeless(event.kind(), 0, offset as u32, &event.body()).into()
    }

    fn end(&self, file: &File) -> u64 {
        if file.name == self.file() { self.offset } else { file.events.last().map_or(4, |event| event.span.end) }
    }

    fn is_gap(&self, file: &File, offset: u64) -> bool {
        offset <= self.end(file)
            && !file.events.iter().any(|event| (event.span.begin + 1..event.span.end).contains(&offset))
    }

    fn artificial_rotate(&self, file: &str, offset: u64) -> EventBytes {
        let event = Event::Rotate { file: file.to_owned(), offset };
        self.timeless(event.kind(), ARTIFICIAL, 0, &event.body()).into()
    }

    fn begin_file(&mut self) {
        let name = self.file_name(self.files.len() + 1);
        self.files.push(File { name, previous: self.executed.clone(), events: Vec::new() });
        self.offset = BinlogPosition::FIRST_EVENT;
        let size = self.format_description(0).len() as u64;
        let span = Span { begin: self.offset, end: self.offset + size };
        let positions = std::mem::replace(&mut self.positions, true);
        let bytes = self.format_description(span.end as u32);
        self.push(span, bytes);
        match self.server {
            Server::MySql => {
                self.write(&Event::PreviousGtids(self.executed.clone()));
            }
            Server::MariaDb => {
                self.write(&Event::GtidList(self.executed.clone()));
                self.write(&Event::BinlogCheckpoint(self.file_name(1)));
            }
        }
        self.positions = positions;
    }

    fn file_name(&self, number: usize) -> String {
        format!("{}.{number:06}", self.file_prefix)
    }

    fn push(&mut self, span: Span, bytes: Vec<u8>) {
        let written = Written { span, bytes: bytes.into(), gtid: self.open.clone() };
        self.offset = span.end;
        self.files.last_mut().expect("a file").events.push(written);
    }

    fn timeless(&self, kind: EventKind, flags: u16, log_pos: u32, body: &[u8]) -> Vec<u8> {
        frame(Header { timestamp_s: 0, server_id: self.server_id, kind, flags, log_pos }, body, self.checksums)
    }

    fn frame(&self, kind: EventKind, flags: u16, log_pos: u32, body: &[u8]) -> Vec<u8> {
        let Self { timestamp_s, server_id, .. } = *self;
        frame(Header { timestamp_s, server_id, kind, flags, log_pos }, body, self.checksums)
    }

    fn format_description(&self, log_pos: u32) -> Vec<u8> {
        const HEADER_LENS: [(usize, u8); 18] = [
            (2, 13),
            (4, 8),
            (9, 4),
            (11, 4),
            (15, 99),
            (17, 4),
            (18, 26),
            (19, 8),
            (26, 2),
            (30, 10),
            (31, 10),
            (32, 10),
            (33, 42),
            (34, 42),
            (36, 18),
            (37, 52),
            (39, 10),
            (40, 40),
        ];
        const MARIADB_HEADER_LENS: [(usize, u8); 32] = [
            (1, 56),
            (2, 13),
            (4, 8),
            (6, 18),
            (8, 4),
            (9, 4),
            (10, 4),
            (11, 4),
            (12, 18),
            (15, 228),
            (17, 4),
            (18, 26),
            (19, 8),
            (23, 8),
            (24, 8),
            (25, 8),
            (26, 2),
            (30, 10),
            (31, 10),
            (32, 10),
            (39, 10),
            (40, 10),
            (41, 10),
            (161, 4),
            (162, 19),
            (163, 4),
            (165, 13),
            (166, 8),
            (167, 8),
            (168, 8),
            (169, 10),
            (170, 10),
        ];
        let (version, lens, count): (&[u8], &[(usize, u8)], usize) = match self.server {
            Server::MySql => (b"9.7.4", &HEADER_LENS, 42),
            Server::MariaDb => (b"11.8.9-MariaDB-log", &MARIADB_HEADER_LENS, 171),
        };
        let mut body = vec![4, 0];
        body.extend(version);
        body.resize(52, 0);
        body.extend([0; 4]); // when it was made
        body.push(EventHeader::LEN as u8);
        let lens_at = body.len();
        body.resize(lens_at + count, 0);
        for &(kind, len) in lens {
            body[lens_at + kind - 1] = len;
        }
        if self.server == Server::MariaDb {
            body[lens_at + 170] = 10;
        }
        body.push(u8::from(self.checksums));
        if !self.checksums {
            body.extend([0; 4]); // room for it is there in any case
        }
        self.frame(EventKind::FORMAT_DESCRIPTION, 0, log_pos, &body)
    }
}

#[derive(Debug, Clone, Copy)]
struct Header {
    timestamp_s: u32,
    server_id: u32,
    kind: EventKind,
    flags: u16,
    log_pos: u32,
}

fn frame(header: Header, body: &[u8], checksum: bool) -> Vec<u8> {
    let size = EventHeader::LEN + body.len() + if checksum { 4 } else { 0 };
    let mut bytes = Vec::with_capacity(size);
    bytes.extend(header.timestamp_s.to_le_bytes());
    bytes.push(header.kind.0);
    bytes.extend(header.server_id.to_le_bytes());
    bytes.extend((size as u32).to_le_bytes());
    bytes.extend(header.log_pos.to_le_bytes());
    bytes.extend(header.flags.to_le_bytes());
    bytes.extend(body);
    if checksum {
        bytes.extend(libdeflater::crc32(&bytes).to_le_bytes());
    }
    bytes
}

impl Event {
    /// The event's type.
    pub fn kind(&self) -> EventKind {
        match self {
            Self::PreviousGtids(_) => EventKind::PREVIOUS_GTIDS,
            Self::GtidList(_) => EventKind::MARIADB_GTID_LIST,
            Self::Gtid { gtid: None, .. } => EventKind::ANONYMOUS_GTID,
            Self::Gtid { gtid: Some(Gtid::MySql { source, .. }), .. } if source.tag.is_some() => EventKind::GTID_TAGGED,
            Self::Gtid { .. } => EventKind::GTID,
            Self::MariaDbGtid { .. } => EventKind::MARIADB_GTID,
            Self::Query(_) => EventKind::QUERY,
            Self::CompressedQuery(_) => EventKind::MARIADB_QUERY_COMPRESSED,
            Self::TableMap { .. } => EventKind::TABLE_MAP,
            Self::Rows(rows) => rows.kind(),
            Self::Xid(_) => EventKind::XID,
            Self::XaPrepare { .. } => EventKind::XA_PREPARE,
            Self::Rotate { .. } => EventKind::ROTATE,
            Self::Stop => EventKind::STOP,
            Self::Heartbeat { .. } => EventKind::HEARTBEAT,
            Self::RowsQuery(_) => EventKind::ROWS_QUERY,
            Self::AnnotateRows(_) => EventKind::MARIADB_ANNOTATE_ROWS,
            Self::BinlogCheckpoint(_) => EventKind::MARIADB_BINLOG_CHECKPOINT,
            Self::Payload { .. } => EventKind::TRANSACTION_PAYLOAD,
            Self::Incident(_) => EventKind::INCIDENT,
            Self::Other { kind, .. } => *kind,
        }
    }

    fn flags(&self) -> u16 {
        match self {
            Self::PreviousGtids(_) | Self::RowsQuery(_) | Self::Other { ignorable: true, .. } => IGNORABLE,
            _ => 0,
        }
    }

    /// What follows the header, without a checksum.
    pub fn body(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::PreviousGtids(set) => out = set.encode(),
            Self::GtidList(set) => {
                let GtidSet::MariaDb(domains) = set else { panic!("MariaDB's") };
                out.extend((domains.values().map(Vec::len).sum::<usize>() as u32).to_le_bytes());
                for (domain, Newest { server, sequence }) in
                    domains.iter().flat_map(|(domain, newest)| newest.iter().map(move |newest| (domain, newest)))
                {
                    out.extend(domain.to_le_bytes());
                    out.extend(server.to_le_bytes());
                    out.extend(sequence.to_le_bytes());
                }
            }
            Self::Gtid { gtid, commit_time_us } => gtid_body(gtid.as_ref(), *commit_time_us, &mut out),
            Self::MariaDbGtid { domain, sequence, standalone, commit_id, prepared } => {
                const HEADER_LEN: usize = 19;
                let flags =
                    u8::from(*standalone) | u8::from(commit_id.is_some()) << 1 | u8::from(prepared.is_some()) << 6;
                out.extend(sequence.to_le_bytes());
                out.extend(domain.to_le_bytes());
                out.push(flags);
                out.extend(commit_id.map(u64::to_le_bytes).into_iter().flatten());
                if let Some(XaId { format, global, branch }) = prepared {
                    out.extend(format.to_le_bytes());
                    out.extend([global.len() as u8, branch.len() as u8]);
                    out.extend(global.iter().chain(branch));
                }
                out.resize(out.len().max(HEADER_LEN), 0);
            }
            Self::Query(statement) => statement.write(statement.text.as_bytes(), &mut out),
            Self::CompressedQuery(statement) => statement.write(&deflated(statement.text.as_bytes()), &mut out),
            Self::TableMap { number, table } => table.write(*number, &mut out),
            Self::Rows(rows) => rows.write(&mut out),
            Self::Xid(number) => out.extend(number.to_le_bytes()),
            Self::XaPrepare { one_phase, id: XaId { format, global, branch } } => {
                out.push(u8::from(*one_phase));
                for number in [*format, global.len() as u32, branch.len() as u32] {
                    out.extend(number.to_le_bytes());
                }
                out.extend(global.iter().chain(branch));
            }
            Self::Rotate { file, offset } => {
                out.extend(offset.to_le_bytes());
                out.extend(file.as_bytes());
            }
            Self::Stop => {}
            Self::Heartbeat { file } => out.extend(file.as_bytes()),
            Self::RowsQuery(text) => {
                out.push(text.len().min(255) as u8);
                out.extend(text.as_bytes());
            }
            Self::AnnotateRows(text) => out.extend(text.as_bytes()),
            Self::BinlogCheckpoint(file) => {
                out.extend((file.len() as u32).to_le_bytes());
                out.extend(file.as_bytes());
            }
            Self::Payload { events, zstd } => payload_body(events, *zstd, &mut out),
            Self::Incident(text) => {
                out.extend([1, 0, text.len() as u8]);
                out.extend(text.as_bytes());
            }
            Self::Other { body, .. } => out.extend(body),
        }
        out
    }
}

fn gtid_body(gtid: Option<&Gtid>, commit_time_us: u64, out: &mut Vec<u8>) {
    let (uuid, tag, number) = match gtid {
        None => ([0; 16], None, 0),
        Some(Gtid::MySql { source, number }) => (source.uuid, source.tag.as_deref(), *number),
        Some(Gtid::MariaDb { .. }) => panic!("MySQL's"),
    };
    if let Some(tag) = tag {
        let mut fields = Vec::new();
        let mut field = |numbers: &[u64]| numbers.iter().for_each(|number| serialize(*number, &mut fields));
        field(&[0, 1, 1]);
        uuid.iter().for_each(|byte| field(&[u64::from(*byte)]));
        field(&[2, number << 1, 3, tag.len() as u64]);
        fields.extend(tag.as_bytes());
        let mut field = |numbers: &[u64]| numbers.iter().for_each(|number| serialize(*number, &mut fields));
        field(&[4, 2, 5, 4, 6, commit_time_us, 8, 0, 9, 90_704]);
        serialize(1, out); // the format's version
        serialize(fields.len() as u64 + 4, out);
        serialize(12, out);
        out.extend(fields);
        return;
    }
    out.push(1); // it may hold other things than rows
    out.extend(uuid);
    out.extend(number.to_le_bytes());
    out.push(2); // a logical clock follows
    out.extend(0i64.to_le_bytes());
    out.extend(1i64.to_le_bytes());
    out.extend(&commit_time_us.to_le_bytes()[..7]);
    out.push(0); // the transaction's length: unknown
    out.extend(90_704u32.to_le_bytes());
}

/// A number in MySQL's serialization format: as many low one bits as bytes follow the first.
fn serialize(number: u64, out: &mut Vec<u8>) {
    let bits = 64 - number.leading_zeros() as usize;
    match (1..=8).find(|len| bits <= 7 * len) {
        Some(len) => out.extend(&(number << len | ((1 << (len - 1)) - 1)).to_le_bytes()[..len]),
        None => {
            out.push(0xff);
            out.extend(number.to_le_bytes());
        }
    }
}

/// A number as the client protocol encodes it.
fn lenenc(number: usize, out: &mut Vec<u8>) {
    match number {
        0..=250 => out.push(number as u8),
        251..=0xffff => {
            out.push(0xfc);
            out.extend(&number.to_le_bytes()[..2]);
        }
        0x1_0000..=0xff_ffff => {
            out.push(0xfd);
            out.extend(&number.to_le_bytes()[..3]);
        }
        _ => {
            out.push(0xfe);
            out.extend((number as u64).to_le_bytes());
        }
    }
}

fn payload_body(events: &[Event], zstd: bool, out: &mut Vec<u8>) {
    let mut unpacked = Vec::new();
    for event in events {
        let header =
            Header { timestamp_s: 1_790_000_000, server_id: 1, kind: event.kind(), flags: event.flags(), log_pos: 0 };
        unpacked.extend(frame(header, &event.body(), false));
    }
    let packed = if zstd { zstd::encode_all(&unpacked[..], 1).expect("packed") } else { unpacked.clone() };
    for (field, number) in [(2, if zstd { 0 } else { 255 }), (3, unpacked.len()), (1, packed.len())] {
        let mut value = Vec::new();
        lenenc(number, &mut value);
        lenenc(field, out);
        lenenc(value.len(), out);
        out.extend(value);
    }
    out.push(0);
    out.extend(packed);
}

/// MariaDB's header of a packed part, and the part.
fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut compressor = Compressor::new(CompressionLvl::default());
    let mut packed = vec![0; compressor.zlib_compress_bound(bytes.len())];
    let len = compressor.zlib_compress(bytes, &mut packed).expect("room for all of it");
    let mut out = vec![0x80 | 4];
    out.extend((bytes.len() as u32).to_be_bytes());
    out.extend(&packed[..len]);
    out
}

impl Statement {
    /// A statement in no schema.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    fn write(&self, text: &[u8], out: &mut Vec<u8>) {
        const UPDATED_DB_NAMES: u8 = 12;
        let mut status = Vec::new();
        if let Some(schemas) = &self.changed_schemas {
            status.extend([UPDATED_DB_NAMES, schemas.len() as u8]);
            schemas.iter().for_each(|schema| status.extend(schema.bytes().chain([0])));
        }
        out.extend(self.thread_id.to_le_bytes());
        out.extend(0u32.to_le_bytes()); // how long it took
        out.push(self.schema.len() as u8);
        out.extend(0u16.to_le_bytes()); // its error
        out.extend((status.len() as u16).to_le_bytes());
        out.extend(status);
        out.extend(self.schema.bytes().chain([0]));
        out.extend(text);
    }
}

impl TableDefinition {
    fn write(&self, number: u64, out: &mut Vec<u8>) {
        out.extend(&number.to_le_bytes()[..6]);
        out.extend(1u16.to_le_bytes());
        for name in [&self.schema, &self.name] {
            out.push(name.len() as u8);
            out.extend(name.bytes().chain([0]));
        }
        lenenc(self.columns.len(), out);
        let mut types: Vec<u8> = Vec::new();
        for column in &self.columns {
            let (code, meta): (u8, &[u8]) = match column.column_type {
                ColumnType::Int => (3, &[]),
                ColumnType::BigintUnsigned => (8, &[]),
                ColumnType::Double => (5, &[8]),
                ColumnType::Varchar { bytes_max } => (15, &bytes_max.to_le_bytes()),
                ColumnType::Longtext => (252, &[4]),
            };
            out.push(code);
            types.extend(meta);
        }
        lenenc(types.len(), out);
        out.extend(types);
        out.extend(bitmap(self.columns.iter().map(|column| column.nullable)));
        self.write_metadata(out);
    }

    fn write_metadata(&self, out: &mut Vec<u8>) {
        const SIGNEDNESS: u8 = 1;
        const DEFAULT_CHARSET: u8 = 2;
        const COLUMN_NAMES: u8 = 4;
        const SIMPLE_PRIMARY_KEY: u8 = 8;
        const UTF8MB4: usize = 255;
        let mut field = |number: u8, value: &[u8]| {
            out.push(number);
            lenenc(value.len(), out);
            out.extend(value);
        };
        let is_text =
            |column: &ColumnDefinition| matches!(column.column_type, ColumnType::Varchar { .. } | ColumnType::Longtext);
        let numbers = self.columns.iter().filter(|column| !is_text(column));
        let unsigned = numbers.map(|column| column.column_type == ColumnType::BigintUnsigned);
        let signedness: Vec<u8> = bitmap(unsigned).into_iter().map(u8::reverse_bits).collect();
        if !signedness.is_empty() {
            field(SIGNEDNESS, &signedness);
        }
        if self.columns.iter().any(is_text) {
            let mut value = Vec::new();
            lenenc(UTF8MB4, &mut value);
            field(DEFAULT_CHARSET, &value);
        }
        if !self.named {
            return;
        }
        let mut names = Vec::new();
        for column in &self.columns {
            lenenc(column.name.len(), &mut names);
            names.extend(column.name.bytes());
        }
        field(COLUMN_NAMES, &names);
        if !self.key.is_empty() {
            let mut key = Vec::new();
            self.key.iter().for_each(|column| lenenc(*column, &mut key));
            field(SIMPLE_PRIMARY_KEY, &key);
        }
    }
}

impl Rows {
    fn kind(&self) -> EventKind {
        let of_write = match self.layout {
            RowsLayout::V1 => EventKind::WRITE_ROWS_V1,
            RowsLayout::V2 => EventKind::WRITE_ROWS,
            RowsLayout::CompressedV1 => EventKind::MARIADB_WRITE_ROWS_COMPRESSED_V1,
        };
        match self.change {
            Change::Write => of_write,
            Change::Update => EventKind(of_write.0 + 1),
            Change::Delete => EventKind(of_write.0 + 2),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(&self.number.to_le_bytes()[..6]);
        out.extend(1u16.to_le_bytes()); // the statement's end
        if self.layout == RowsLayout::V2 {
            out.extend(2u16.to_le_bytes()); // no extra data
        }
        lenenc(self.columns.len(), out);
        let (first_before, first_after) = self.rows.first().expect("a row");
        for first in [first_before, first_after] {
            assert!(first.is_empty() || first.len() == self.columns.len(), "an image has all columns, present or not");
            out.extend(present(first));
        }
        let mut images = Vec::new();
        for (before, after) in &self.rows {
            assert_eq!((present(before), present(after)), (present(first_before), present(first_after)));
            image(before, &self.columns, &mut images);
            image(after, &self.columns, &mut images);
        }
        match self.layout {
            RowsLayout::CompressedV1 => out.extend(deflated(&images)),
            RowsLayout::V1 | RowsLayout::V2 => out.extend(images),
        }
    }
}

fn present(image: &[Value]) -> Vec<u8> {
    bitmap(image.iter().map(|value| *value != Value::Absent))
}

fn bitmap(bits: impl IntoIterator<Item = bool>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, bit) in bits.into_iter().enumerate() {
        if index % 8 == 0 {
            bytes.push(0);
        }
        bytes[index / 8] |= u8::from(bit) << (index % 8);
    }
    bytes
}

/// Which of the columns that are there are NULL, and the values of the others.
fn image(values: &[Value], types: &[ColumnType], out: &mut Vec<u8>) {
    let there = values.iter().zip(types).filter(|(value, _)| **value != Value::Absent);
    out.extend(bitmap(there.clone().map(|(value, _)| *value == Value::Null)));
    for (value, column_type) in there {
        match (value, column_type) {
            (Value::Absent | Value::Null, _) => {}
            (Value::Int(number), ColumnType::Int) => out.extend(number.to_le_bytes()),
            (Value::Uint(number), ColumnType::BigintUnsigned) => out.extend(number.to_le_bytes()),
            (Value::Double(number), ColumnType::Double) => out.extend(number.to_le_bytes()),
            (Value::Text(text), column_type) => {
                let len_bytes = match column_type {
                    ColumnType::Varchar { bytes_max: ..=255 } => 1,
                    ColumnType::Varchar { .. } => 2,
                    ColumnType::Longtext => 4,
                    _ => panic!("{text} in a column of {column_type:?}"),
                };
                out.extend(&text.len().to_le_bytes()[..len_bytes]);
                out.extend(text.as_bytes());
            }
            (value, column_type) => panic!("{value:?} in a column of {column_type:?}"),
        }
    }
}
