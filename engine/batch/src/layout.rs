//! The layout that [`Builder`](crate::Builder) and [`Batch`](crate::Batch) share; `wit/packed-batch.md` specifies it.

use crate::schema::{Operation, TableId};

/// The first four bytes of a batch: the format and its version.
pub const MAGIC: [u8; 4] = *b"RMB1";

pub(crate) const HEADER_LEN: usize = 32;
pub(crate) const ROW_HEADER_LEN: usize = 40;
pub(crate) const TRANSACTION_HEADER_LEN: usize = 32;

/// The bit of a row header's flags byte that marks the last row of its transaction.
pub(crate) const FLAG_LAST_IN_TRANSACTION: u8 = 1;

/// The states of a column in an image, two bits each.
pub(crate) mod state {
    pub const ABSENT: u8 = 0;
    pub const NULL: u8 = 1;
    pub const VALUE: u8 = 2;
    pub const CHANGES: u8 = 3;
}

/// Returns how many bytes the column states of an image take, padded so that the columns' ends are aligned.
pub(crate) const fn states_len(columns: usize) -> usize {
    columns.div_ceil(4).next_multiple_of(4)
}

/// A row's metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowHeader {
    /// The row's table.
    pub table: TableId,
    /// The operation that changed the row.
    pub operation: Operation,
    /// The number of columns of the table.
    pub columns: u16,
    /// The row's index among the rows of its transaction, from 0.
    pub index_in_transaction: u32,
    /// The row's index among the rows of its binlog event, from 0.
    pub index_in_event: u32,
    /// The offset of the row's event in the binlog file, in bytes.
    pub event_position: u64,
    /// When the statement ran, in microseconds since 1970.
    pub time_us: i64,
}

/// A transaction's metadata, which its rows share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransactionHeader<'a> {
    /// The binlog file's name.
    pub file: &'a str,
    /// The offset in the file at which the transaction begins, in bytes.
    pub position: u64,
    /// The transaction's GTID; empty where the server assigns none.
    pub gtid: &'a str,
    /// When the transaction was committed, in microseconds since 1970; 0 where unknown.
    pub commit_time_us: i64,
    /// The ID of the server on which the transaction first ran.
    pub server_id: u32,
    /// The ID of the session in which the transaction ran; 0 where unknown.
    pub thread_id: u32,
}
