//! Binlogs for tests: events as values in, a server's files and its dumps out.
//!
//! A [`BinlogWriter`] lays events out as MySQL and MariaDB do: headers, positions, checksums, a file's head, and what a
//! dump adds (the artificial rotation, the format description without a position). Formats:
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/namespacemysql_1_1binlog_1_1event.html> and
//! <https://mariadb.com/kb/en/replication-protocol/>; the constants of the format descriptions are those of `tests/data`.

// It writes what tests ask for; what can't be written is a fault of the test.
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

/// In an event's flags: made for one connection, not in the file.
const ARTIFICIAL: u16 = 0x20;

/// Whose format is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// MySQL 9.7.
    MySql,
    /// MariaDB 11.8.
    MariaDb,
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
    rows: usize,
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
        self.push(span, bytes, event.rows());
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

    /// An event that is in no file, as one that the server makes for a connection.
    pub fn artificial(&self, event: &Event) -> EventBytes {
        const ARTIFICIAL: u16 = 0x20;
        self.frame(event.kind(), event.flags() | ARTIFICIAL, 0, &event.body()).into()
    }

    /// How many rows a file has, by its index: those of all tables.
    pub fn rows_of(&self, index: usize) -> usize {
        self.files[index].events.iter().map(|event| event.rows).sum()
    }

    /// How many files there are.
    pub fn file_count(&self) -> usize {
        self.files.len()
    }

    /// What a server sends to a reader that asks for events from a position on: the artificial rotation, the format description
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

    /// The last file that has all that is missing of a set.
    pub fn file_before(&self, executed: &GtidSet) -> BinlogPosition {
        let file = self.files.iter().rfind(|file| file.previous.is_subset_of(executed)).unwrap_or(&self.files[0]);
        BinlogPosition::new(file.name.clone(), BinlogPosition::FIRST_EVENT)
    }

    /// What a server sends to a reader that asks for the transactions that aren't in a set: from the beginning of the last file that
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
