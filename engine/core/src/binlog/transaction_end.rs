//! Where a transaction ends, of which no more is decoded: for who goes on after it.

use std::ops::Range;

use super::event::{Checksums, EventHeader};
use super::event_kind::EventKind;
use super::gtid_event;
use super::query::Query;
use super::statement::Statement;
use crate::position::BinlogPosition;

/// Where a transaction ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionEnd {
    /// After its last event.
    pub position: BinlogPosition,
    /// Its GTID, if it has one.
    pub gtid: Option<String>,
}

/// Finds where the transaction ends that begins at a place. In: events of its file from there or from before on, each once.
#[derive(Debug)]
pub struct EndFinder {
    begin: BinlogPosition,
    /// Where the last event ended.
    end: u64,
    checksums: Checksums,
    gtid: Option<String>,
    has_begun: bool,
    /// Whether a statement alone ends it (MariaDB's GTID says so; other servers' statements without BEGIN do).
    is_open: bool,
    /// Whether its end isn't found: it is an XA transaction that is prepared only, or the file ends before it.
    is_hopeless: bool,
}

impl EndFinder {
    /// For the transaction that begins at a place. Events come from the offset `from` of its file on.
    pub fn new(begin: BinlogPosition, from: u64) -> Self {
        Self {
            begin,
            end: from,
            checksums: Checksums::Unknown,
            gtid: None,
            has_begun: false,
            is_open: false,
            is_hopeless: false,
        }
    }

    /// Takes the next event. Gives the transaction's end once it is known. Events that can't be read are passed over.
    pub fn event(&mut self, event: &[u8]) -> Option<TransactionEnd> {
        let header = EventHeader::parse(event).ok()?;
        let kind = header.kind;
        if matches!(kind, EventKind::HEARTBEAT | EventKind::HEARTBEAT_V2) || self.is_hopeless {
            return None;
        }
        let body = self.checksums.open(&header, event).unwrap_or(event.get(EventHeader::LEN..)?);
        if kind == EventKind::ROTATE && header.is_artificial() && self.has_begun {
            return Some(self.found(self.end)); // the server crashed while it wrote it
        }
        let Range { start: begin, end } = header.span_after(self.end)?;
        self.end = end;
        if begin < self.begin.offset || kind == EventKind::FORMAT_DESCRIPTION {
            self.is_hopeless = matches!(kind, EventKind::ROTATE | EventKind::STOP);
            return None;
        }
        let gtid = match gtid_event::begin(&header, body) {
            Ok(None) => return self.after(kind, body, begin),
            gtid => gtid.ok().flatten(),
        };
        if self.has_begun {
            return Some(self.found(begin)); // the next one
        }
        self.has_begun = true;
        if let Some(gtid_event::Begin { gtid, standalone, .. }) = gtid {
            self.gtid = gtid.map(|gtid| gtid.to_string());
            self.is_open = kind == EventKind::MARIADB_GTID && !standalone;
        }
        None
    }

    /// An event that isn't a GTID.
    fn after(&mut self, kind: EventKind, body: &[u8], begin: u64) -> Option<TransactionEnd> {
        self.has_begun = true;
        let ends = match kind {
            // A prepared transaction ends by a commit far off: nothing goes on after it alone.
            EventKind::XA_PREPARE if body.first() == Some(&0) => {
                self.is_hopeless = true;
                return None;
            }
            EventKind::XID | EventKind::XA_PREPARE | EventKind::TRANSACTION_PAYLOAD => true,
            EventKind::STOP | EventKind::ROTATE => return Some(self.found(begin)),
            EventKind::QUERY | EventKind::MARIADB_QUERY_COMPRESSED => self.query(kind, body),
            EventKind::EXECUTE_LOAD_QUERY => !self.is_open,
            _ => false,
        };
        ends.then(|| self.found(self.end))
    }

    /// Whether a statement ends the transaction.
    fn query(&mut self, kind: EventKind, body: &[u8]) -> bool {
        // A text that is packed is long: it is none of those that begin or end one.
        let Ok(query) = Query::parse(body) else { return false };
        if kind == EventKind::MARIADB_QUERY_COMPRESSED {
            return !self.is_open;
        }
        match query.statement() {
            Statement::Begin | Statement::XaStart(_) => {
                self.is_open = true;
                false
            }
            Statement::Commit | Statement::Rollback => true,
            _ => !self.is_open,
        }
    }

    fn found(&self, offset: u64) -> TransactionEnd {
        TransactionEnd { position: BinlogPosition { offset, ..self.begin.clone() }, gtid: self.gtid.clone() }
    }
}
