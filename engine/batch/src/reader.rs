//! The reader of batches, which returns rows, images and columns in place, without copies.

use crate::layout::{
    FLAG_LAST_IN_TRANSACTION, HEADER_LEN, MAGIC, ROW_HEADER_LEN, RowHeader, TRANSACTION_HEADER_LEN, TransactionHeader,
    state, states_len,
};
use crate::schema::{ColumnIndex, ImageKind, Operation, RowIndex, TableId};

/// The reason why bytes are not a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FormatError {
    /// The first four bytes are not [`MAGIC`]: another format, or another version.
    Magic,
    /// The lengths in the header do not match the bytes.
    Length,
}

impl std::fmt::Display for FormatError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Magic => "cannot read the packed batch: it does not begin with the mark of version 1",
            Self::Length => "cannot read the packed batch: the lengths in its header do not match its bytes",
        })
    }
}

impl std::error::Error for FormatError {}

/// A batch that is read in place.
///
/// [`Batch::parse`] checks the header only. The accessors panic on wrong offsets within a batch, which no
/// [`Builder`](crate::Builder) writes; they never read out of bounds.
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
    /// Reads and checks the header.
    ///
    /// # Errors
    /// If the bytes are not a batch of this version.
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

    /// Returns how many rows the batch has.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Estimates how many bytes a batch of `rows` of this batch's rows takes, with an eighth to spare.
    pub fn bytes_of(&self, rows: usize) -> usize {
        let exact = self.bytes.len() * rows / self.rows.max(1);
        exact + exact / 8 + HEADER_LEN
    }

    /// Whether the batch has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Returns how many transactions the batch has.
    pub fn transactions(&self) -> usize {
        self.transactions
    }

    /// Returns the row at an index.
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

    /// Iterates over the rows, in binlog order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = Row<'a>> + use<'a> {
        let batch = *self;
        (0..self.rows as u32).map(move |index| batch.row(RowIndex(index)))
    }

    /// Returns the transaction at an index, such as [`Row::transaction`] returns.
    ///
    /// # Panics
    /// If there is none.
    pub fn transaction(&self, index: usize) -> Transaction<'a> {
        assert!(index < self.transactions, "transaction {index} of {}", self.transactions);
        let at = u32_at(self.bytes, self.transactions_at + 4 * index) as usize;
        Transaction { bytes: &self.bytes[at..] }
    }
}

/// A transaction of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Transaction<'a> {
    bytes: &'a [u8],
}

impl<'a> Transaction<'a> {
    fn text_lens(&self) -> (usize, usize) {
        (u32_at(self.bytes, 24) as usize, u32_at(self.bytes, 28) as usize)
    }

    /// Returns the transaction's bytes: its header, file name and GTID.
    pub(crate) fn bytes(&self) -> &'a [u8] {
        let (file_len, gtid_len) = self.text_lens();
        &self.bytes[..TRANSACTION_HEADER_LEN + file_len + gtid_len]
    }

    /// Returns the transaction's metadata.
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

/// A row change of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    bytes: &'a [u8],
}

impl<'a> Row<'a> {
    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether both rows have the same images, byte for byte.
    pub fn has_images_of(&self, other: &Row<'_>) -> bool {
        self.bytes[ROW_HEADER_LEN..] == other.bytes[ROW_HEADER_LEN..]
    }

    /// Returns the ID of the row's table version.
    #[inline]
    pub fn table(&self) -> TableId {
        TableId(u32_at(self.bytes, 0))
    }

    /// Returns the operation that changed the row.
    ///
    /// # Panics
    /// If the batch is malformed.
    #[inline]
    pub fn operation(&self) -> Operation {
        Operation::from_code(self.bytes[4]).expect("a builder writes known operations only")
    }

    /// Whether the row is the last of its transaction.
    pub fn is_last_in_transaction(&self) -> bool {
        self.bytes[5] & FLAG_LAST_IN_TRANSACTION != 0
    }

    /// Returns where the row's event begins, in bytes from the file's start.
    #[inline]
    pub fn event_position(&self) -> u64 {
        u64_at(self.bytes, 24)
    }

    /// Returns the row's index in its event.
    #[inline]
    pub fn index_in_event(&self) -> u32 {
        u32_at(self.bytes, 16)
    }

    /// Returns the index of the row's transaction in the batch.
    #[inline]
    pub fn transaction(&self) -> usize {
        u32_at(self.bytes, 8) as usize
    }

    /// Returns the row's metadata.
    pub fn header(&self) -> RowHeader {
        RowHeader {
            table: self.table(),
            operation: self.operation(),
            columns: self.columns() as u16,
            index_in_transaction: u32_at(self.bytes, 12),
            index_in_event: self.index_in_event(),
            event_position: self.event_position(),
            time_us: u64_at(self.bytes, 32) as i64,
        }
    }

    /// Returns how many columns the row's table has.
    #[inline]
    pub fn columns(&self) -> usize {
        usize::from(u16::from_le_bytes([self.bytes[6], self.bytes[7]]))
    }

    /// Returns the before image, which updates and deletes have.
    #[inline]
    pub fn before(&self) -> Option<Image<'a>> {
        self.operation().has_before().then(|| self.image_at(ROW_HEADER_LEN))
    }

    /// Returns the after image, which inserts, updates and reads have.
    #[inline]
    pub fn after(&self) -> Option<Image<'a>> {
        self.operation().has_after().then(|| self.newest())
    }

    /// Returns one of the row's images, if the row has it.
    #[inline]
    pub fn image(&self, kind: ImageKind) -> Option<Image<'a>> {
        match kind {
            ImageKind::Before => self.before(),
            ImageKind::After => self.after(),
        }
    }

    /// Returns the newest image: the after image, or a delete's before image.
    #[inline]
    pub fn newest(&self) -> Image<'a> {
        match self.operation() {
            Operation::Update => {
                let before_len = u32_at(self.bytes, ROW_HEADER_LEN) as usize;
                self.image_at(ROW_HEADER_LEN + before_len)
            }
            Operation::Insert | Operation::Delete | Operation::Read => self.image_at(ROW_HEADER_LEN),
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

/// A column's content in a row image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell<'a> {
    /// The row image does not have the column (`binlog_row_image` is not `FULL`), or no transform wants it. The value
    /// is unknown, which is not NULL.
    Absent,
    /// NULL.
    Null,
    /// The packed value, in the encoding of the column's [`Kind`](crate::Kind).
    Value(&'a [u8]),
    /// The changes of the value instead of the value, as JSON text: a partial update of a JSON document whose old
    /// value the row image does not have.
    Changes(&'a [u8]),
}

impl<'a> Cell<'a> {
    /// Returns the value's bytes, if there is a value.
    #[inline]
    pub fn value(self) -> Option<&'a [u8]> {
        match self {
            Self::Value(bytes) => Some(bytes),
            Self::Null | Self::Absent | Self::Changes(_) => None,
        }
    }

    /// Returns the value as text, if there is a value and it is UTF-8.
    #[inline]
    pub fn text(self) -> Option<&'a str> {
        std::str::from_utf8(self.value()?).ok()
    }

    /// Returns the value as a signed integer, if there is a value of 8 bytes.
    #[inline]
    pub fn int(self) -> Option<i64> {
        Some(i64::from_le_bytes(self.value()?.try_into().ok()?))
    }

    /// Returns the value as an unsigned integer, if there is a value of 8 bytes.
    #[inline]
    pub fn uint(self) -> Option<u64> {
        Some(u64::from_le_bytes(self.value()?.try_into().ok()?))
    }

    /// Returns the value as a float, if there is a value of 8 bytes.
    #[inline]
    pub fn float(self) -> Option<f64> {
        Some(f64::from_le_bytes(self.value()?.try_into().ok()?))
    }
}

/// A row image: the row's columns before or after the change.
#[derive(Debug, Clone, Copy)]
pub struct Image<'a> {
    /// The columns' states, four to a byte.
    states: &'a [u8],
    /// The columns' ends, in bytes from the start of `data`.
    ends: &'a [[u8; 4]],
    data: &'a [u8],
}

impl<'a> Image<'a> {
    /// Returns how many columns the table has.
    pub fn columns(&self) -> usize {
        self.ends.len()
    }

    /// Returns a column's content.
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

    /// Iterates over the columns, in the table's order.
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

/// Returns a column's content. `states` is the byte with the states of this column and its neighbours; `data` returns
/// the column's bytes.
#[inline]
fn cell<'a>(states: u8, column: usize, data: impl FnOnce() -> &'a [u8]) -> Cell<'a> {
    match states >> (column % 4 * 2) & 3 {
        state::VALUE => Cell::Value(data()),
        state::NULL => Cell::Null,
        state::CHANGES => Cell::Changes(data()),
        _ => Cell::Absent,
    }
}
