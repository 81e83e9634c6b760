//! The layout that writing and reading a batch share: `wit/packed-batch.md` specifies it.

use crate::schema::{Operation, TableId};

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
    pub const CHANGES: u8 = 3;
}

/// Bytes that the column states of an image take, padded so that the end offsets are aligned.
pub(crate) const fn states_len(columns: usize) -> usize {
    columns.div_ceil(4).next_multiple_of(4)
}

/// What a row says of itself beside its columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowHeader {
    /// The row's table.
    pub table: TableId,
    /// What happened to it.
    pub operation: Operation,
    /// Columns of the table.
    pub columns: u16,
    /// Its place among its transaction's rows, from 0.
    pub index_in_transaction: u32,
    /// Its place among its binlog event's rows, from 0.
    pub index_in_event: u32,
    /// Where its binlog event begins in the file.
    pub event_position: u64,
    /// When the statement ran, in microseconds since 1970.
    pub time_us: i64,
}

/// What rows share with their transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransactionHeader<'a> {
    /// The binlog file's name.
    pub file: &'a str,
    /// Where the transaction begins in it.
    pub position: u64,
    /// Its global id, empty where the server gives none.
    pub gtid: &'a str,
    /// When it was committed, in microseconds since 1970; 0 where unknown.
    pub commit_time_us: i64,
    /// The server on which it first ran.
    pub server_id: u32,
    /// The session in which it ran; 0 where unknown.
    pub thread_id: u32,
}
