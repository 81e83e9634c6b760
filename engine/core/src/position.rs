//! Places in the binlog.

use std::fmt;
use std::sync::Arc;

use crate::gtid::GtidSet;

/// A place between two events of a binlog file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BinlogPosition {
    /// The file's name, as the server gives it: `binlog.000042`.
    pub file: String,
    /// Bytes from the start of the file. The first event is at 4.
    pub offset: u64,
}

impl BinlogPosition {
    /// Where a binlog file's first event is: behind its magic number.
    pub const FIRST_EVENT: u64 = 4;

    /// A place in a file.
    pub fn new(file: impl Into<String>, offset: u64) -> Self {
        Self { file: file.into(), offset }
    }
}

impl fmt::Display for BinlogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.offset)
    }
}

/// A place among rows: all in events that begin before `event`, and the first `rows` of that one, are past.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventOffset {
    /// Where the event begins in its file.
    pub event: u64,
    /// Rows of it that are past.
    pub rows: u32,
}

/// How far behind a [`ResumePoint`]'s position the rows are already past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartialTransaction {
    /// The file; all rows between the position and its beginning are past.
    pub file: String,
    /// How far in that file.
    pub progress: EventOffset,
}

/// What shows that a position belongs to a history: the file that it is in and the events that end there. After a
/// `RESET`, on a restored copy or on another server of the same name, the same position has others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    /// Of the file's format description: which server wrote it, when it began, and in which format.
    pub file: u32,
    /// Of what ends at the position; `None` at the head of a file, and where nothing was read before it.
    pub end: Option<EndMark>,
}

/// The events that end at a position: a whole transaction, or the last event of a large one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndMark {
    /// How many bytes they have: they begin so far before the position.
    pub bytes: u64,
    /// What [`EndDigest`] makes of them.
    pub digest: u64,
}

/// Adds up events to an [`EndMark`]'s digest: when they were written, by whom, how long they are, and the checksums that
/// they end with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EndDigest(pub u64);

impl EndDigest {
    /// The same with one more event.
    #[inline]
    #[must_use]
    pub fn with(self, timestamp_s: u32, server_id: u32, size: u32, last_bytes: u32) -> Self {
        const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
        let mix = |digest: u64, word: u64| (digest.rotate_left(23) ^ word).wrapping_mul(FACTOR);
        let event = u64::from(timestamp_s) << 32 | u64::from(server_id);
        Self(mix(mix(self.0, event), u64::from(size) << 32 | u64::from(last_bytes)))
    }
}

/// From where to read on so that nothing is missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResumePoint {
    /// What tells the server that the position is of from others.
    pub server: Arc<str>,
    /// Between two transactions.
    pub position: BinlogPosition,
    /// What is already past behind it: within a transaction, behind a prepared one that isn't
    /// committed yet, or beyond what a position can say.
    pub partial: Option<PartialTransaction>,
    /// The transactions that are wholly before the position, where the server numbers them and it is
    /// known which they are.
    pub gtids: Option<Arc<GtidSet>>,
    /// What shows that the position belongs to the server's history; `None` where it is said by GTIDs alone.
    pub fingerprint: Option<Fingerprint>,
}

impl ResumePoint {
    /// To read on at a place between two transactions of a server's binlog.
    pub fn at(server: impl Into<Arc<str>>, position: BinlogPosition) -> Self {
        Self { server: server.into(), position, partial: None, gtids: None, fingerprint: None }
    }
}

impl ResumePoint {
    /// The same place, with all before `past` done. One that isn't ahead changes nothing: the rows of an
    /// XA transaction lie where it was prepared, far back.
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
            write!(f, " (plus what is before {file}:{event}, and {rows} rows of the event there)")?;
        }
        Ok(())
    }
}

impl BinlogPosition {
    /// Whether it is before another position of the same server.
    pub fn is_before(&self, other: &Self) -> bool {
        (file_number(&self.file), self.offset) < (file_number(&other.file), other.offset)
    }
}

/// The number that a binlog file's name ends with: files of a server ascend by it.
pub fn file_number(file: &str) -> Option<u64> {
    file.rsplit_once('.')?.1.parse().ok()
}
