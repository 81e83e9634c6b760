//! Finding a transaction's end without decoding its rows, to continue after the transaction.

use std::ops::Range;

use super::event::{Checksums, EventHeader};
use super::event_kind::EventKind;
use super::gtid_event;
use super::query::Query;
use super::statement::Statement;
use crate::position::BinlogPosition;

/// The end of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionEnd {
    /// The position after the transaction's last event.
    pub position: BinlogPosition,
    /// The transaction's GTID, if it has one.
    pub gtid: Option<String>,
}

/// A search for the end of the transaction that begins at a position. It takes each event of the file once, from that
/// position or an earlier one on.
#[derive(Debug)]
pub struct EndFinder {
    begin: BinlogPosition,
    /// The end of the last event, as an offset in the file.
    end: u64,
    checksums: Checksums,
    gtid: Option<String>,
    has_begun: bool,
    /// Whether the transaction ends with a commit. If not, its first statement ends it: MariaDB's GTID event says so, and on
    /// other servers a statement without BEGIN.
    is_open: bool,
    /// Whether the end cannot be found: the transaction is only prepared (XA), or the file ends before it begins.
    cannot_end: bool,
}

impl EndFinder {
    /// Creates a search for the end of the transaction that begins at `begin`. The events come from the file's offset `from`
    /// on.
    pub fn new(begin: BinlogPosition, from: u64) -> Self {
        Self {
            begin,
            end: from,
            checksums: Checksums::Unknown,
            gtid: None,
            has_begun: false,
            is_open: false,
            cannot_end: false,
        }
    }

    /// Takes the next event, and returns the transaction's end once it is known. Events that cannot be read are skipped.
    pub fn event(&mut self, event: &[u8]) -> Option<TransactionEnd> {
        let header = EventHeader::parse(event).ok()?;
        let kind = header.kind;
        if matches!(kind, EventKind::HEARTBEAT | EventKind::HEARTBEAT_V2) || self.cannot_end {
            return None;
        }
        let body = self.checksums.open(&header, event).unwrap_or(event.get(EventHeader::LEN..)?);
        if kind == EventKind::ROTATE && header.is_artificial() && self.has_begun {
            return Some(self.found(self.end)); // the server crashed while it wrote the transaction
        }
        let Range { start: begin, end } = header.span_after(self.end)?;
        self.end = end;
        if begin < self.begin.offset || kind == EventKind::FORMAT_DESCRIPTION {
            self.cannot_end = matches!(kind, EventKind::ROTATE | EventKind::STOP);
            return None;
        }
        let gtid = match gtid_event::begin(&header, body) {
            Ok(None) => return self.after(kind, body, begin),
            gtid => gtid.ok().flatten(),
        };
        if self.has_begun {
            return Some(self.found(begin)); // the next transaction begins here
        }
        self.has_begun = true;
        if let Some(gtid_event::Begin { gtid, standalone, .. }) = gtid {
            self.gtid = gtid.map(|gtid| gtid.to_string());
            self.is_open = kind == EventKind::MARIADB_GTID && !standalone;
        }
        None
    }

    /// Processes an event that is not a GTID.
    fn after(&mut self, kind: EventKind, body: &[u8], begin: u64) -> Option<TransactionEnd> {
        self.has_begun = true;
        let ends = match kind {
            // A prepared transaction ends with a later commit: there is no position after this transaction alone.
            EventKind::XA_PREPARE if body.first() == Some(&0) => {
                self.cannot_end = true;
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
        // A compressed text is long: it is not a statement that begins or ends a transaction.
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
