//! The packed row batch: how rows cross between the engine and its transforms.
//!
//! The binlog decoder writes row changes into a [`Builder`]; everyone after it (the transforms,
//! the route, the envelope) reads the same bytes in place through a [`Batch`]. A guest reaches any
//! column of any row in O(1) and copies none. The layout is specified in `wit/packed-batch.md`.
//!
//! This crate knows neither MySQL's encodings nor WebAssembly; it has no dependencies, so that
//! the guest SDK can share it with the engine.

mod builder;
mod reader;
mod schema;

pub use builder::{Builder, RowHeader, TransactionHeader};
pub use reader::{Batch, Cell, FormatError, Image, Row, Transaction};
pub use schema::{Column, ColumnIndex, ImageKind, Kind, Operation, RowIndex, Table, TableId};

/// The first four bytes of a batch: the format and its version.
pub const MAGIC: [u8; 4] = *b"RMB1";

pub(crate) const HEADER_LEN: usize = 32;
pub(crate) const ROW_HEADER_LEN: usize = 40;
pub(crate) const TRANSACTION_HEADER_LEN: usize = 32;

/// In [`ROW_HEADER_LEN`]'s flags byte: the last row of its transaction.
pub(crate) const FLAG_LAST_IN_TRANSACTION: u8 = 1;

/// The state of a column in an image, two bits each.
pub(crate) mod state {
    pub const ABSENT: u8 = 0;
    pub const NULL: u8 = 1;
    pub const VALUE: u8 = 2;
}

/// Bytes that the column states of an image take, padded so that the end offsets are aligned.
pub(crate) const fn states_len(columns: usize) -> usize {
    columns.div_ceil(4).next_multiple_of(4)
}
