//! Changes that can't be decoded and are passed over, where the user prefers that to a stop.
//!
//! Only what nothing else depends on may be passed over: a statement that changes rows, a row, the rows of a table whose
//! columns can't be known. Whatever leaves open which rows are missing, such as a damaged event, stops the decoder in any
//! case.

use super::error::DecodeError;

/// So much of a change is kept. The rest can be had from the binlog, at its place, as long as the server keeps that.
const CONTENT_MAX: usize = 32 << 10;

/// A change that couldn't be decoded, and was passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedChange {
    /// Why, of what kind its event is, and where.
    pub error: Box<DecodeError>,
    /// The first of its rows in that event, counted as [`RowHeader::index_in_event`](rowmill_batch::RowHeader). 0 of a
    /// statement.
    pub row: u32,
    /// Its transaction's GTID; empty where there are none.
    pub gtid: String,
    /// When its statement began, in microseconds since 1970.
    pub time_us: i64,
    /// What is known of it.
    pub content: SkippedContent,
    /// How many bytes the content has, of which so many are kept as a dead letter can hold.
    pub bytes: usize,
}

/// What is known of a change that can't be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SkippedContent {
    /// A statement's text.
    Statement(String),
    /// A row's images, as the binlog has them.
    Images(Vec<u8>),
    /// A row event from behind its header to before its checksum: all of its rows, or those from [`SkippedChange::row`] on,
    /// can't be decoded.
    Event(Vec<u8>),
}

impl SkippedContent {
    /// As much of a statement as is kept, and how many bytes it has.
    pub(super) fn statement(mut text: String) -> (Self, usize) {
        let bytes = text.len();
        text.truncate(text.floor_char_boundary(CONTENT_MAX));
        (Self::Statement(text), bytes)
    }

    /// The same of a row's images.
    pub(super) fn images(images: &[u8]) -> (Self, usize) {
        (Self::Images(kept(images)), images.len())
    }

    /// The same of an event.
    pub(super) fn event(body: &[u8]) -> (Self, usize) {
        (Self::Event(kept(body)), body.len())
    }

    /// How many bytes of it are kept.
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
