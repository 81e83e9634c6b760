//! Binlogs for tests: events as values in, a server's files and its dumps out.
//!
//! A [`BinlogWriter`] encodes events as MySQL and MariaDB do: headers, positions, checksums, a file's head, and the
//! events that a dump adds (the artificial rotation, the format description without a position). Formats:
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/namespacemysql_1_1binlog_1_1event.html> and
//! <https://mariadb.com/kb/en/replication-protocol/>; the constants of the format descriptions are those of `tests/data`.

// An event that can't be written is an error of the test.
#![allow(clippy::missing_panics_doc)]

mod event;
mod layout;

use super::event::EventHeader;
use super::event_kind::EventKind;
use crate::gtid::{Gtid, GtidSet};
use crate::position::BinlogPosition;

pub use event::{
    Change, ColumnDefinition, ColumnType, Event, Rows, RowsLayout, Statement, TableDefinition, Value, XaId,
};
use layout::{Header, frame};

/// The flag of an event that is made for one connection, and isn't in the file.
const ARTIFICIAL: u16 = 0x20;

/// The server whose format is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// MySQL 9.7.
    MySql,
    /// MariaDB 11.8.
    MariaDb,
}

/// The range of an event in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The position of the event's first byte.
    pub begin: u64,
    /// The position after the event's last byte.
    pub end: u64,
}

/// The bytes of an event, as a dump sends them.
pub type EventBytes = std::sync::Arc<[u8]>;

#[derive(Debug)]
struct File {
    name: String,
    /// The transactions that were executed before the file.
    previous: GtidSet,
    events: Vec<Written>,
}

#[derive(Debug)]
struct Written {
    span: Span,
    bytes: EventBytes,
    /// The GTID of the event's transaction.
    gtid: Option<Gtid>,
    rows: usize,
}

/// A server's binlog that is being written.
#[derive(Debug)]
pub struct BinlogWriter {
    server: Server,
    checksums: bool,
    file_prefix: String,
    files: Vec<File>,
    offset: u64,
    /// The executed transactions.
    executed: GtidSet,
    /// The GTID of the open transaction.
    open: Option<Gtid>,
    /// The timestamp of events, in seconds since 1970.
    pub timestamp_s: u32,
    /// The server ID of events.
    pub server_id: u32,
    /// Whether events have their end position. MariaDB's don't within transactions.
    pub positions: bool,
}

impl BinlogWriter {
    /// Begins a server's first file, with its head only. Files are named `prefix.000001` and so on.
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

    /// Returns the position of the next event.
    pub fn position(&self) -> BinlogPosition {
        BinlogPosition::new(self.file(), self.offset)
    }

    /// Returns the current file's name.
    pub fn file(&self) -> &str {
        self.files.last().map_or("", |file| &file.name)
    }

    /// Returns the executed transactions: see [`BinlogWriter::execute`].
    pub fn executed(&self) -> &GtidSet {
        &self.executed
    }

    /// Opens a transaction, whose events a dump by GTIDs omits if the reader has the transaction.
    pub fn open(&mut self, gtid: Option<Gtid>) {
        self.open = gtid;
    }

    /// Completes the open transaction. Without this call a crash cuts it off.
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
        self.push(span, bytes, event.rows());
        span
    }

    /// Ends the file as the server does when it is full, and begins the next one.
    pub fn rotate(&mut self) {
        let (file, offset) = (self.file_name(self.files.len() + 1), BinlogPosition::FIRST_EVENT);
        self.write(&Event::Rotate { file, offset });
        self.begin_file();
    }

    /// Begins the next file as after a crash: the previous file ends without a rotation, maybe within a transaction.
    pub fn crash(&mut self) {
        self.open = None;
        self.begin_file();
    }

    /// Leaves a gap of `bytes` bytes before the next event, which makes a file large.
    pub fn skip(&mut self, bytes: u64) {
        self.offset += bytes;
    }

    /// Returns a file as it is on disk, by its index; the file must have no gaps.
    pub fn file_bytes(&self, index: usize) -> Vec<u8> {
        let events = self.files[index].events.iter().flat_map(|event| event.bytes.iter().copied());
        b"\xfebin".iter().copied().chain(events).collect()
    }

    /// Whether events end with a checksum.
    pub fn has_checksums(&self) -> bool {
        self.checksums
    }

    /// Returns an event that is in no file, without a position.
    pub fn loose(&self, event: &Event) -> EventBytes {
        self.frame(event.kind(), event.flags(), 0, &event.body()).into()
    }

    /// Returns an event that is in no file, as the server makes one for a connection.
    pub fn artificial(&self, event: &Event) -> EventBytes {
        const ARTIFICIAL: u16 = 0x20;
        self.frame(event.kind(), event.flags() | ARTIFICIAL, 0, &event.body()).into()
    }

    /// Returns the number of rows in a file, by its index, of all tables.
    pub fn rows_of(&self, index: usize) -> usize {
        self.files[index].events.iter().map(|event| event.rows).sum()
    }

    /// Returns the number of files.
    pub fn file_count(&self) -> usize {
        self.files.len()
    }

    /// Returns what a server sends for a request by position: the artificial rotation, the format description (without
    /// a position, unless the request is for the file's beginning) and the events.
    pub fn dump(&self, from: &BinlogPosition) -> Vec<EventBytes> {
        let index = self.files.iter().position(|file| file.name == from.file).expect("an existing file");
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

    /// Returns the beginning of the last file that has, with the files after it, all transactions that `executed`
    /// lacks.
    pub fn file_before(&self, executed: &GtidSet) -> BinlogPosition {
        let file = self.files.iter().rfind(|file| file.previous.is_subset_of(executed)).unwrap_or(&self.files[0]);
        BinlogPosition::new(file.name.clone(), BinlogPosition::FIRST_EVENT)
    }

    /// Returns what a server sends for a request by GTIDs: the events of transactions that `executed` lacks, from the
    /// beginning of the last file that has, with the files after it, all of them. After omitted events MySQL sends a
    /// heartbeat with the position.
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

    /// Returns a heartbeat, which a server sends while there are no events.
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
        self.push(span, bytes, 0);
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

    fn push(&mut self, span: Span, bytes: Vec<u8>, rows: usize) {
        let written = Written { span, bytes: bytes.into(), gtid: self.open.clone(), rows };
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
        body.extend([0; 4]); // creation time
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
            body.extend([0; 4]); // the checksum's space is always there
        }
        self.frame(EventKind::FORMAT_DESCRIPTION, 0, log_pos, &body)
    }
}
