//! Reading a batch in place.

use crate::layout::{
    FLAG_LAST_IN_TRANSACTION, HEADER_LEN, MAGIC, ROW_HEADER_LEN, RowHeader, TRANSACTION_HEADER_LEN, TransactionHeader,
    state, states_len,
};
use crate::schema::{ColumnIndex, ImageKind, Operation, RowIndex, TableId};

/// Bytes that aren't a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FormatError {
    /// The first four bytes aren't [`MAGIC`]: another format or another version of it.
    Magic,
    /// The header's lengths don't fit the bytes.
    Length,
}

impl std::fmt::Display for FormatError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Magic => "not a packed batch of version 1",
            Self::Length => "the packed batch's lengths don't fit its bytes",
        })
    }
}

impl std::error::Error for FormatError {}

/// A batch, read in place.
///
/// The header is checked by [`Batch::parse`]; a batch whose inner offsets lie (which no
/// [`Builder`](crate::Builder) writes) makes the accessors panic, never read out of bounds.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    bytes: &'a [u8],
    rows: usize,
    rows_at: usize,
    transactions: usize,
    transactions_at: usize,
}

#[inline]
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut array = [0; 4];
    array.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(array)
}

#[inline]
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut array = [0; 8];
    array.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(array)
}

impl<'a> Batch<'a> {
    /// Reads the header.
    ///
    /// # Errors
    /// If the bytes are no batch of this version.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FormatError> {
        if bytes.len() < HEADER_LEN {
            return Err(FormatError::Length);
        }
        if bytes[0..4] != MAGIC {
            return Err(FormatError::Magic);
        }
        let batch = Self {
            bytes,
            rows: u32_at(bytes, 4) as usize,
            rows_at: u32_at(bytes, 8) as usize,
            transactions: u32_at(bytes, 12) as usize,
            transactions_at: u32_at(bytes, 16) as usize,
        };
        let total = u32_at(bytes, 20) as usize;
        let fits = |at: usize, count: usize| count.checked_mul(4).and_then(|len| at.checked_add(len)) <= Some(total);
        if total != bytes.len() || !fits(batch.rows_at, batch.rows) || !fits(batch.transactions_at, batch.transactions)
        {
            return Err(FormatError::Length);
        }
        Ok(batch)
    }

    /// How many rows it has.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// About how many bytes a batch of `rows` of its rows has, with a little room.
    pub fn bytes_of(&self, rows: usize) -> usize {
        let exact = self.bytes.len() * rows / self.rows.max(1);
        exact + exact / 8 + HEADER_LEN
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// How many transactions its rows belong to.
    pub fn transactions(&self) -> usize {
        self.transactions
    }

    /// The row at an index.
    ///
    /// # Panics
    /// If there is none.
    #[inline]
    pub fn row(&self, index: RowIndex) -> Row<'a> {
        assert!((index.0 as usize) < self.rows, "row {} of {}", index.0, self.rows);
        let at = u32_at(self.bytes, self.rows_at + 4 * index.0 as usize) as usize;
        let len = u32_at(self.bytes, at + 20) as usize;
        Row { bytes: &self.bytes[at..at + len] }
    }

    /// The rows in binlog order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = Row<'a>> + use<'a> {
        let batch = *self;
        (0..self.rows as u32).map(move |index| batch.row(RowIndex(index)))
    }

    /// The transaction at an index, which is what [`Row::transaction`] gives.
    ///
    /// # Panics
    /// If there is none.
    pub fn transaction(&self, index: usize) -> Transaction<'a> {
        assert!(index < self.transactions, "transaction {index} of {}", self.transactions);
        let at = u32_at(self.bytes, self.transactions_at + 4 * index) as usize;
        Transaction { bytes: &self.bytes[at..] }
    }
}

/// What rows share with their transaction.
#[derive(Debug, Clone, Copy)]
pub struct Transaction<'a> {
    bytes: &'a [u8],
}

impl<'a> Transaction<'a> {
    fn text_lens(&self) -> (usize, usize) {
        (u32_at(self.bytes, 24) as usize, u32_at(self.bytes, 28) as usize)
    }

    /// Its own bytes, without what follows it in the batch.
    pub(crate) fn bytes(&self) -> &'a [u8] {
        let (file_len, gtid_len) = self.text_lens();
        &self.bytes[..TRANSACTION_HEADER_LEN + file_len + gtid_len]
    }

    /// All that is known of it.
    pub fn header(&self) -> TransactionHeader<'a> {
        let (file_len, gtid_len) = self.text_lens();
        let file_at = TRANSACTION_HEADER_LEN;
        let gtid_at = file_at + file_len;
        let text = |at: usize, len: usize| std::str::from_utf8(&self.bytes[at..at + len]).unwrap_or_default();
        TransactionHeader {
            position: u64_at(self.bytes, 0),
            commit_time_us: u64_at(self.bytes, 8) as i64,
            server_id: u32_at(self.bytes, 16),
            thread_id: u32_at(self.bytes, 20),
            file: text(file_at, file_len),
            gtid: text(gtid_at, gtid_len),
        }
    }
}

/// One row change.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    bytes: &'a [u8],
}

impl<'a> Row<'a> {
    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether another row's images are the same, byte for byte.
    pub fn has_images_of(&self, other: &Row<'_>) -> bool {
        self.bytes[ROW_HEADER_LEN..] == other.bytes[ROW_HEADER_LEN..]
    }

    /// The row's table.
    #[inline]
    pub fn table(&self) -> TableId {
        TableId(u32_at(self.bytes, 0))
    }

    /// What happened to it.
    ///
    /// # Panics
    /// If the batch is malformed.
    #[inline]
    pub fn operation(&self) -> Operation {
        Operation::from_code(self.bytes[4]).expect("a builder writes known operations only")
    }

    /// Whether it's the last row of its transaction.
    pub fn is_last_in_transaction(&self) -> bool {
        self.bytes[5] & FLAG_LAST_IN_TRANSACTION != 0
    }

    /// The index of its transaction in the batch.
    pub fn transaction(&self) -> usize {
        u32_at(self.bytes, 8) as usize
    }

    /// What it says of itself beside its columns.
    pub fn header(&self) -> RowHeader {
        RowHeader {
            table: self.table(),
            operation: self.operation(),
            columns: self.columns() as u16,
            index_in_transaction: u32_at(self.bytes, 12),
            index_in_event: u32_at(self.bytes, 16),
            event_position: u64_at(self.bytes, 24),
            time_us: u64_at(self.bytes, 32) as i64,
        }
    }

    /// Columns of its table.
    #[inline]
    pub fn columns(&self) -> usize {
        usize::from(u16::from_le_bytes([self.bytes[6], self.bytes[7]]))
    }

    /// The row as it was, for updates and deletes.
    #[inline]
    pub fn before(&self) -> Option<Image<'a>> {
        self.operation().has_before().then(|| self.image_at(ROW_HEADER_LEN))
    }

    /// The row as it is now, for inserts and updates.
    #[inline]
    pub fn after(&self) -> Option<Image<'a>> {
        self.operation().has_after().then(|| self.newest())
    }

    /// One of its images, if it has it.
    #[inline]
    pub fn image(&self, kind: ImageKind) -> Option<Image<'a>> {
        match kind {
            ImageKind::Before => self.before(),
            ImageKind::After => self.after(),
        }
    }

    /// The row as last known: after, or before for a delete.
    #[inline]
    pub fn newest(&self) -> Image<'a> {
        match self.operation() {
            Operation::Update => {
                let before_len = u32_at(self.bytes, ROW_HEADER_LEN) as usize;
                self.image_at(ROW_HEADER_LEN + before_len)
            }
            Operation::Insert | Operation::Delete => self.image_at(ROW_HEADER_LEN),
        }
    }

    #[inline]
    fn image_at(&self, at: usize) -> Image<'a> {
        let len = u32_at(self.bytes, at) as usize;
        let columns = self.columns();
        let (head, data) = self.bytes[at..at + len].split_at(4 + states_len(columns) + 4 * columns);
        let (states, ends) = head[4..].split_at(states_len(columns));
        Image { states, ends: ends.as_chunks().0, data }
    }
}

/// A column in an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell<'a> {
    /// The row image doesn't have the column (`binlog_row_image` isn't `FULL`): not NULL, unknown.
    Absent,
    /// NULL.
    Null,
    /// The packed value; the column's [`Kind`](crate::Kind) says how to read it.
    Value(&'a [u8]),
    /// Not the value but what changed in it: a partial update of a JSON document whose old value the
    /// row image doesn't have, as JSON text.
    Changes(&'a [u8]),
}

impl<'a> Cell<'a> {
    /// The value's bytes, if there is a value.
    #[inline]
    pub fn value(self) -> Option<&'a [u8]> {
        match self {
            Self::Value(bytes) => Some(bytes),
            Self::Null | Self::Absent | Self::Changes(_) => None,
        }
    }

    /// The value as text, if there is one and it's UTF-8.
    #[inline]
    pub fn text(self) -> Option<&'a str> {
        std::str::from_utf8(self.value()?).ok()
    }

    /// The value as an integer, if there is one of 8 bytes.
    #[inline]
    pub fn int(self) -> Option<i64> {
        Some(i64::from_le_bytes(self.value()?.try_into().ok()?))
    }

    /// The value as an unsigned integer, if there is one of 8 bytes.
    #[inline]
    pub fn uint(self) -> Option<u64> {
        Some(u64::from_le_bytes(self.value()?.try_into().ok()?))
    }

    /// The value as a float, if there is one of 8 bytes.
    #[inline]
    pub fn float(self) -> Option<f64> {
        Some(f64::from_le_bytes(self.value()?.try_into().ok()?))
    }
}

/// A row at one point in time: before or after the change.
#[derive(Debug, Clone, Copy)]
pub struct Image<'a> {
    /// Four columns to a byte.
    states: &'a [u8],
    /// Where each column ends.
    ends: &'a [[u8; 4]],
    data: &'a [u8],
}

impl<'a> Image<'a> {
    /// Columns of the table.
    pub fn columns(&self) -> usize {
        self.ends.len()
    }

    /// A column.
    ///
    /// # Panics
    /// If the table has no such column.
    #[inline]
    pub fn cell(&self, column: ColumnIndex) -> Cell<'a> {
        let Self { states, ends, data } = *self;
        let column = column.0 as usize;
        assert!(column < ends.len(), "column {column} of {}", ends.len());
        let end_of = |column: usize| u32::from_le_bytes(ends[column]) as usize;
        cell(states[column / 4], column, || {
            let start = column.checked_sub(1).map_or(0, end_of);
            &data[start..end_of(column)]
        })
    }

    /// The columns in order.
    #[inline]
    pub fn cells(&self) -> impl ExactSizeIterator<Item = Cell<'a>> + use<'a> {
        let Self { states, ends, data } = *self;
        let mut start = 0;
        ends.iter().enumerate().map(move |(column, end)| {
            let end = u32::from_le_bytes(*end) as usize;
            let start = std::mem::replace(&mut start, end);
            cell(states[column / 4], column, || &data[start..end])
        })
    }
}

/// A column, by the byte that has its state among those of its neighbours; `data` is what it has, if it has anything.
#[inline]
fn cell<'a>(states: u8, column: usize, data: impl FnOnce() -> &'a [u8]) -> Cell<'a> {
    match states >> (column % 4 * 2) & 3 {
        state::VALUE => Cell::Value(data()),
        state::NULL => Cell::Null,
        state::CHANGES => Cell::Changes(data()),
        _ => Cell::Absent,
    }
}
