//! Places in the binlog.

use std::fmt;

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

/// How far behind a position the rows of the same file are already past: all in events that begin
/// before `event`, and the first `rows` of that one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Progress {
    /// Where the event begins in the file.
    pub event: u64,
    /// Rows of it that are past.
    pub rows: u32,
}

/// From where to read on so that nothing is missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resume {
    /// Between two transactions.
    pub position: BinlogPosition,
    /// What is already past behind it: within a transaction, or beyond what a position can say.
    pub partial: Option<Progress>,
    /// The last transaction that is wholly past, where the server numbers them: for people to read.
    pub gtid: String,
}

impl Resume {
    /// To read on at a place between two transactions.
    pub fn at(position: BinlogPosition) -> Self {
        Self { position, partial: None, gtid: String::new() }
    }
}

impl fmt::Display for Resume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.position)?;
        if let Some(Progress { event, rows }) = self.partial {
            write!(f, " (past it, all before {event} and {rows} rows of the event there are done)")?;
        }
        Ok(())
    }
}
