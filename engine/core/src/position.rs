//! Positions in the binlog, and resume points.

use std::fmt;
use std::sync::Arc;

use crate::gtid::GtidSet;

/// A position: a place between two events of a binlog file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BinlogPosition {
    /// The file's name, as the server has it: `binlog.000042`.
    pub file: String,
    /// The offset from the start of the file, in bytes. The first event is at 4.
    pub offset: u64,
}

impl BinlogPosition {
    /// The offset of a binlog file's first event: after the file's magic number.
    pub const FIRST_EVENT: u64 = 4;

    /// Creates a position in a file.
    pub fn new(file: impl Into<String>, offset: u64) -> Self {
        Self { file: file.into(), offset }
    }
}

impl fmt::Display for BinlogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.offset)
    }
}

/// A place among the rows of a file: after all rows of the events that begin before `event`, and after the first
/// `rows` rows of the event at `event`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventOffset {
    /// The offset at which the event begins in its file, in bytes.
    pub event: u64,
    /// How many of the event's rows are before the place.
    pub rows: u32,
}

/// How far the rows after a [`ResumePoint`]'s position are done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartialTransaction {
    /// The file of the place. All rows from the position to the start of this file are done.
    pub file: String,
    /// The place in that file up to which all rows are done.
    pub progress: EventOffset,
}

/// The evidence that a position belongs to a history: its file, and the events that end there. After a `RESET`, on a
/// restored copy or on another server of the same name, these differ at the same position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    /// The fingerprint of the file's format description event: which server wrote the file, when the server began it,
    /// and in which format.
    pub file: u32,
    /// The events that end at the position; `None` at the start of a file, and where nothing was read before the
    /// position.
    pub end: Option<EndMark>,
}

/// The evidence of the events that end at a position: of a whole transaction, or of the last event of a large one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndMark {
    /// The events' size in bytes: they begin so many bytes before the position.
    pub bytes: u64,
    /// The events' [`EndDigest`].
    pub digest: u64,
}

/// A digest of events for an [`EndMark`]: of when and by which server they were written, of their sizes, and of the
/// checksums with which they end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EndDigest(pub u64);

impl EndDigest {
    /// Returns the digest with one more event.
    #[inline]
    #[must_use]
    pub fn with(self, timestamp_s: u32, server_id: u32, size: u32, last_bytes: u32) -> Self {
        const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
        let mix = |digest: u64, word: u64| (digest.rotate_left(23) ^ word).wrapping_mul(FACTOR);
        let event = u64::from(timestamp_s) << 32 | u64::from(server_id);
        Self(mix(mix(self.0, event), u64::from(size) << 32 | u64::from(last_bytes)))
    }
}

/// A resume point: where the reading continues so that nothing is missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResumePoint {
    /// The identity of the server to which the position belongs.
    pub server: Arc<str>,
    /// The position, between two transactions.
    pub position: BinlogPosition,
    /// How far rows after the position are done: within a transaction, after a prepared transaction that is not
    /// committed yet, or past 4 GiB of a file, where no binlog dump can start.
    pub partial: Option<PartialTransaction>,
    /// The transactions that are wholly before the position; `None` where the server assigns no GTIDs or the set is
    /// not known.
    pub gtids: Option<Arc<GtidSet>>,
    /// The evidence that the position belongs to the server's history; `None` where GTIDs alone identify the resume
    /// point.
    pub fingerprint: Option<Fingerprint>,
}

impl ResumePoint {
    /// Creates a resume point at a position between two transactions of a server's binlog.
    pub fn at(server: impl Into<Arc<str>>, position: BinlogPosition) -> Self {
        Self { server: server.into(), position, partial: None, gtids: None, fingerprint: None }
    }
}

impl ResumePoint {
    /// Returns the resume point with all rows before `partial` done. A `partial` that is not after what is known to be
    /// done changes nothing: the rows of an XA transaction have the positions at which it was prepared, which may be
    /// much earlier.
    pub fn advanced_to(self, partial: PartialTransaction) -> Self {
        let place = |file: &str, progress: EventOffset| (file_number(file), progress);
        let known = match &self.partial {
            Some(partial) => place(&partial.file, partial.progress),
            None => place(&self.position.file, EventOffset { event: self.position.offset, rows: 0 }),
        };
        if place(&partial.file, partial.progress) > known { Self { partial: Some(partial), ..self } } else { self }
    }
}

impl fmt::Display for ResumePoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.position)?;
        if let Some(PartialTransaction { file, progress: EventOffset { event, rows } }) = &self.partial {
            write!(f, " (plus all rows before {file}:{event} and the first {rows} rows of the event there)")?;
        }
        Ok(())
    }
}

impl BinlogPosition {
    /// Whether the position is before another position of the same server.
    pub fn is_before(&self, other: &Self) -> bool {
        (file_number(&self.file), self.offset) < (file_number(&other.file), other.offset)
    }
}

/// Returns the number with which a binlog file's name ends. A server's files ascend by it.
pub fn file_number(file: &str) -> Option<u64> {
    file.rsplit_once('.')?.1.parse().ok()
}
