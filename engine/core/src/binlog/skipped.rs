//! Changes that cannot be decoded and are skipped, if the user prefers that to a stop.
//!
//! Only changes that nothing else depends on may be skipped: a statement that changes rows, a row, the rows of a table whose
//! columns cannot be determined. An error that leaves unknown which rows are missing, such as a damaged event, always stops
//! the decoder.

use super::error::DecodeError;

/// The most bytes that are kept of a change. The rest is in the binlog, at the change's position, for as long as the server
/// keeps the file.
const CONTENT_MAX: usize = 32 << 10;

/// A change that could not be decoded, and was skipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedChange {
    /// The cause, with the event's type and position.
    pub error: Box<DecodeError>,
    /// The change's first row in that event, counted as [`RowHeader::index_in_event`](rowmill_batch::RowHeader). 0 for a
    /// statement.
    pub row: u32,
    /// The transaction's GTID; empty if it has none.
    pub gtid: String,
    /// The time at which the change's statement began, in microseconds since 1970.
    pub time_us: i64,
    /// The change's content, truncated to the bytes that a dead letter can hold.
    pub content: SkippedContent,
    /// The size of the whole content in bytes.
    pub bytes: usize,
}

/// The content of a change that cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SkippedContent {
    /// A statement's text.
    Statement(String),
    /// A row's images, as in the binlog.
    Images(Vec<u8>),
    /// A row event without its header and checksum, whose rows, or those from [`SkippedChange::row`] on, cannot be decoded.
    Event(Vec<u8>),
}

impl SkippedContent {
    /// Returns the kept part of a statement, and the size of the whole in bytes.
    pub(super) fn statement(mut text: String) -> (Self, usize) {
        let bytes = text.len();
        text.truncate(text.floor_char_boundary(CONTENT_MAX));
        (Self::Statement(text), bytes)
    }

    /// Returns the kept part of a row's images, and the size of the whole in bytes.
    pub(super) fn images(images: &[u8]) -> (Self, usize) {
        (Self::Images(kept(images)), images.len())
    }

    /// Returns the kept part of an event, and the size of the whole in bytes.
    pub(super) fn event(body: &[u8]) -> (Self, usize) {
        (Self::Event(kept(body)), body.len())
    }

    /// Returns the number of bytes that are kept.
    pub fn kept(&self) -> usize {
        match self {
            Self::Statement(text) => text.len(),
            Self::Images(bytes) | Self::Event(bytes) => bytes.len(),
        }
    }
}

fn kept(bytes: &[u8]) -> Vec<u8> {
    bytes[..bytes.len().min(CONTENT_MAX)].to_vec()
}
