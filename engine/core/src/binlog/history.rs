//! Fingerprints: the evidence that a position belongs to a server's history. They are made while the binlog is read, and
//! checked before the reading continues.
//!
//! Events come in; [`Fingerprint`]s go out, and [`FingerprintCheck`] tells whether one matches the events that a server
//! sends. A file is identified by its format description, which has the server's version and the second in which the file
//! began; a position in the file by the transaction that ends there: its events' times, server IDs, sizes and checksums.

use super::error::DecodeErrorKind;
use super::event::{Checksums, EventHeader};
use super::event_kind::EventKind;
use super::gtid_event;
use super::savepoint::Collation;
use crate::gtid::{Gtid, GtidSet};
use crate::position::{BinlogPosition, EndDigest, EndMark, Fingerprint};

/// The most bytes of a transaction that are compared, since they must be read again. Of a larger transaction only the last
/// event is compared.
const COMPARED_BYTES_MAX: u64 = 1 << 20;

/// The offsets of fields in a format description's body.
/// <https://dev.mysql.com/doc/dev/mysql-server/latest/classmysql_1_1binlog_1_1event_1_1Format__description__event.html>
mod format {
    pub const SERVER_VERSION: std::ops::Range<usize> = 2..52;
    /// The time at which the server started. A server clears the field if it starts sending within a file.
    pub const CREATED: std::ops::Range<usize> = 52..56;
    pub const HEADER_LEN: usize = 56;
    /// The lengths of the events' fixed parts, from type 1 on.
    pub const POST_HEADER_LENS: usize = 57;
    /// The length of the checksum algorithm's number. Space for a checksum follows it even if the file has no checksums.
    pub const ALGORITHM_LEN: usize = 1;
}

/// The contents of the format description at the head of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileFormat {
    /// The file's identity, which differs from that of other files with the same name.
    pub identity: u32,
    pub is_mariadb: bool,
    /// The server's collation of savepoint names.
    pub savepoints: Collation,
}

impl FileFormat {
    /// Parses a format description from its whole event, which ends with a checksum or with space for one.
    ///
    /// # Errors
    /// If the file's events have a layout that this crate does not support.
    pub fn parse(header: &EventHeader, event: &[u8]) -> Result<Self, DecodeErrorKind> {
        const CHECKSUM_LEN: usize = 4;
        let body =
            event.get(EventHeader::LEN..event.len().saturating_sub(CHECKSUM_LEN)).ok_or(DecodeErrorKind::Truncated)?;
        let version = body.get(format::SERVER_VERSION).ok_or(DecodeErrorKind::Truncated)?;
        let header_len = *body.get(format::HEADER_LEN).ok_or(DecodeErrorKind::Truncated)?;
        let lens_end = body.len().saturating_sub(format::ALGORITHM_LEN);
        let post_header_lens = body.get(format::POST_HEADER_LENS..lens_end).ok_or(DecodeErrorKind::Truncated)?;
        let binlog_version = u16::from_le_bytes([body[0], body[1]]);
        if binlog_version != 4 || usize::from(header_len) != EventHeader::LEN {
            return Err(unreadable(format!(
                "a binlog of version {binlog_version} with event headers of {header_len} bytes, instead of 4 and {}",
                EventHeader::LEN
            )));
        }
        for (kind, len) in FIXED_PARTS {
            let said = usize::from(kind.0).checked_sub(1).and_then(|index| post_header_lens.get(index));
            // A server does not write events whose length is missing here or 0.
            if let Some(&said) = said.filter(|&&said| said != 0 && said != len) {
                return Err(unreadable(format!(
                    "a binlog whose events of type {} have a fixed part of {said} bytes, instead of {len}",
                    kind.0
                )));
            }
        }
        let mut crc = libdeflater::Crc::new();
        crc.update(&header.timestamp_s.to_le_bytes());
        crc.update(&header.server_id.to_le_bytes());
        crc.update(&body[..format::CREATED.start]);
        crc.update(&body[format::CREATED.end..lens_end]);
        let is_mariadb = version.windows(7).any(|word| word == b"MariaDB");
        Ok(Self { identity: crc.sum(), is_mariadb, savepoints: Collation::of_version(version, is_mariadb) })
    }
}

/// The lengths of the events' fixed parts that this crate supports; servers before MySQL 5.1 wrote others.
const FIXED_PARTS: [(EventKind, u8); 9] = [
    (EventKind::QUERY, 13),
    (EventKind::ROTATE, 8),
    (EventKind::TABLE_MAP, 8),
    (EventKind::WRITE_ROWS_V1, 8),
    (EventKind::UPDATE_ROWS_V1, 8),
    (EventKind::DELETE_ROWS_V1, 8),
    (EventKind::WRITE_ROWS, 10),
    (EventKind::UPDATE_ROWS, 10),
    (EventKind::DELETE_ROWS, 10),
];

fn unreadable(what: String) -> DecodeErrorKind {
    DecodeErrorKind::Unsupported { what, fix: "read a binlog of MySQL 5.7 or later, or of MariaDB 10.5 or later" }
}

/// The digest of the events since a transaction began.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Trail {
    /// The transaction's offset in the file.
    begin: u64,
    digest: EndDigest,
    /// The last event.
    last: Mark,
}

/// The fields of an event that are compared.
#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    timestamp_s: u32,
    server_id: u32,
    size: u32,
    /// The checksum, or the last bytes of the content if the file has no checksums.
    last_bytes: u32,
}

impl Mark {
    #[inline]
    fn of(header: &EventHeader, event: &[u8]) -> Self {
        let last_bytes = event.last_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        let EventHeader { timestamp_s, server_id, size, .. } = *header;
        Self { timestamp_s, server_id, size, last_bytes }
    }

    #[inline]
    fn added_to(self, digest: EndDigest) -> EndDigest {
        digest.with(self.timestamp_s, self.server_id, self.size, self.last_bytes)
    }
}

impl Trail {
    /// Begins a transaction at an offset.
    #[inline]
    pub fn begin(&mut self, offset: u64) {
        *self = Self { begin: offset, ..Self::default() };
    }

    /// Adds an event of the transaction.
    #[inline]
    pub fn push(&mut self, header: &EventHeader, event: &[u8]) {
        self.last = Mark::of(header, event);
        self.digest = self.last.added_to(self.digest);
    }

    /// Returns the mark of the events that end at an offset; `None` if there are none.
    pub fn mark(&self, end: u64) -> Option<EndMark> {
        let bytes = end.checked_sub(self.begin).filter(|bytes| *bytes > 0)?;
        if bytes <= COMPARED_BYTES_MAX {
            return Some(EndMark { bytes, digest: self.digest.0 });
        }
        Some(EndMark { bytes: self.last.size.into(), digest: self.last.added_to(EndDigest::default()).0 })
    }
}

/// Returns a file's fingerprint if the event is its format description, and `None` for other events.
///
/// # Errors
/// If the file's events have a layout that this crate does not support.
pub fn file_fingerprint(event: &[u8]) -> Result<Option<Fingerprint>, DecodeErrorKind> {
    let header = EventHeader::parse(event)?;
    if header.kind != EventKind::FORMAT_DESCRIPTION {
        return Ok(None);
    }
    Ok(Some(Fingerprint { file: FileFormat::parse(&header, event)?.identity, end: None }))
}

/// A comparison of a fingerprint with the events that a server sends from [`FingerprintCheck::from`] on.
#[derive(Debug)]
pub struct FingerprintCheck {
    expected: Fingerprint,
    file_fits: bool,
    bytes: u64,
    digest: EndDigest,
}

/// The result of a [`FingerprintCheck`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// No result yet: the check needs more events.
    Open,
    /// The position belongs to the server's history.
    Fits,
    /// The file is another one than that of the fingerprint.
    OtherFile,
    /// The file may be the same, but other events end at the position.
    OtherEvents,
}

impl FingerprintCheck {
    /// Creates a check for a fingerprint.
    pub fn new(expected: Fingerprint) -> Self {
        Self { expected, file_fits: false, bytes: 0, digest: EndDigest::default() }
    }

    /// Returns the position from which the server must send events to check a position's fingerprint.
    pub fn from(&self, position: &BinlogPosition) -> BinlogPosition {
        let bytes = self.expected.end.map_or(0, |end| end.bytes);
        let offset = position.offset.saturating_sub(bytes).max(BinlogPosition::FIRST_EVENT);
        BinlogPosition { file: position.file.clone(), offset }
    }

    /// Takes the next event, and returns the finding so far. If the binlog ends while the finding is open, the caller must
    /// take it for [`Finding::OtherEvents`].
    pub fn next(&mut self, event: &[u8]) -> Finding {
        let Ok(header) = EventHeader::parse(event) else { return Finding::OtherEvents };
        match header.kind {
            EventKind::FORMAT_DESCRIPTION if !self.file_fits => {
                let identity = FileFormat::parse(&header, event).map(|format| format.identity);
                if identity != Ok(self.expected.file) {
                    return Finding::OtherFile;
                }
                self.file_fits = true;
                if self.expected.end.is_none() {
                    return Finding::Fits;
                }
            }
            EventKind::ROTATE if header.is_artificial() || header.log_pos == 0 => {}
            EventKind::HEARTBEAT | EventKind::HEARTBEAT_V2 | EventKind::MARIADB_START_ENCRYPTION => {}
            _ if header.is_artificial() || !self.file_fits => {}
            _ => {
                let Some(end) = self.expected.end else { return Finding::Fits };
                self.bytes += u64::from(header.size);
                self.digest = Mark::of(&header, event).added_to(self.digest);
                if self.bytes >= end.bytes {
                    let fits = self.bytes == end.bytes && self.digest.0 == end.digest;
                    return if fits { Finding::Fits } else { Finding::OtherEvents };
                }
            }
        }
        Finding::Open
    }
}

/// A scan of a file for GTIDs alone: those at its head, of the transactions before the file, and those of its transactions.
#[derive(Debug)]
pub struct GtidScan {
    checksums: Checksums,
    files: usize,
    gtids: Option<GtidSet>,
}

/// A transaction found by a [`GtidScan`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Met {
    /// The transaction's offset in its file, below 4 GiB.
    pub offset: u64,
    /// The transaction's GTID; `None` if the server assigns none.
    pub gtid: Option<Gtid>,
}

impl Default for GtidScan {
    fn default() -> Self {
        Self { checksums: Checksums::Unknown, files: 0, gtids: None }
    }
}

impl GtidScan {
    /// Returns the transactions before the next event, once the file's head was read.
    pub fn gtids(&self) -> Option<&GtidSet> {
        self.gtids.as_ref()
    }

    /// Returns the number of files whose heads were read.
    pub fn files(&self) -> usize {
        self.files
    }

    /// Takes the next event, and returns the transaction that begins with it. The transaction is not in [`GtidScan::gtids`]
    /// until the caller adds it with [`GtidScan::add`].
    ///
    /// # Errors
    /// If the event cannot be read.
    pub fn next(&mut self, event: &[u8]) -> Result<Option<Met>, DecodeErrorKind> {
        let header = EventHeader::parse(event)?;
        let body = self.checksums.open(&header, event)?;
        let begin = match header.kind {
            EventKind::FORMAT_DESCRIPTION => {
                FileFormat::parse(&header, event)?;
                self.files += 1;
                None
            }
            EventKind::PREVIOUS_GTIDS => {
                let before = gtid_event::previous_mysql(body)?;
                self.gtids.get_or_insert(before);
                None
            }
            EventKind::MARIADB_GTID_LIST if !header.is_artificial() && header.log_pos != 0 => {
                let before = gtid_event::previous_mariadb(body)?;
                self.gtids.get_or_insert(before);
                None
            }
            _ => gtid_event::begin(&header, body)?,
        };
        let offset = u64::from(header.log_pos.saturating_sub(header.size));
        Ok(begin.map(|begin| Met { offset, gtid: begin.gtid }))
    }

    /// Adds a transaction to those before the next event.
    pub fn add(&mut self, gtid: &Gtid) {
        if let Some(gtids) = &mut self.gtids {
            gtids.add(gtid);
        }
    }
}

#[cfg(test)]
mod tests;
