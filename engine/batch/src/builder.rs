//! The writer of batches: values come in, a packed batch goes out.
//!
//! The order of calls is: [`Builder::transaction`] for each transaction; then for each of its rows
//! [`Builder::begin_row`], for each image of the row [`Builder::begin_image`], the columns in order and
//! [`Builder::end_image`], and [`Builder::end_row`]. [`Builder::finish`] returns the batch.

use std::sync::LazyLock;

use crate::layout::{
    FLAG_LAST_IN_TRANSACTION, HEADER_LEN, MAGIC, ROW_HEADER_LEN, RowHeader, TRANSACTION_HEADER_LEN, TransactionHeader,
    state, states_len,
};
use crate::packed::PackedBatch;
use crate::reader::{Batch, Cell, Row};
use crate::schema::{ColumnIndex, ImageKind, RowIndex};

/// A batch that is being written.
#[derive(Debug)]
pub struct Builder {
    bytes: Vec<u8>,
    row_offsets: Vec<u32>,
    transaction_offsets: Vec<u32>,
    /// The offset of the row that was begun last.
    row_at: usize,
    image: OpenImage,
}

/// The image that is being written, as offsets into the batch.
#[derive(Debug, Default, Clone, Copy)]
struct OpenImage {
    at: usize,
    columns: usize,
    /// The index of the next column.
    column: usize,
    /// The offset of the array of the columns' ends.
    ends_at: usize,
    /// The offset of the columns' values, from which their ends count.
    data_at: usize,
}

/// The beginning of an image of which each column is known to have a value or to be absent. It is copied as a whole, which
/// takes less time than to write column by column which of them have values.
#[derive(Debug)]
pub struct ImageHead {
    /// The length, which is not known yet, the columns' states, and ends of 0.
    bytes: Vec<u8>,
    columns: usize,
}

impl ImageHead {
    /// Creates the head of an image of `columns` columns, of which those for which `has_value` is true have values.
    pub fn new(columns: usize, has_value: impl Fn(usize) -> bool) -> Self {
        let mut bytes = vec![0; 4 + states_len(columns) + 4 * columns];
        for column in (0..columns).filter(|&column| has_value(column)) {
            bytes[4 + column / 4] |= state::VALUE << (column % 4 * 2);
        }
        Self { bytes, columns }
    }
}

impl Builder {
    /// Creates an empty batch that can grow to about `capacity` bytes without another allocation.
    pub fn with_capacity(capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(capacity);
        bytes.resize(HEADER_LEN, 0);
        Self { bytes, row_offsets: Vec::new(), transaction_offsets: Vec::new(), row_at: 0, image: OpenImage::default() }
    }

    /// Returns how many rows are finished so far.
    pub fn rows(&self) -> usize {
        self.row_offsets.len()
    }

    /// Returns how many bytes are written so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether no row is finished yet.
    pub fn is_empty(&self) -> bool {
        self.row_offsets.is_empty()
    }

    /// Begins a transaction, to which the following rows belong.
    pub fn transaction(&mut self, transaction: &TransactionHeader<'_>) {
        self.align();
        self.transaction_offsets.push(self.bytes.len() as u32);
        let TransactionHeader { file, position, gtid, commit_time_us, server_id, thread_id } = transaction;
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&position.to_le_bytes());
        self.bytes.extend_from_slice(&commit_time_us.to_le_bytes());
        self.bytes.extend_from_slice(&server_id.to_le_bytes());
        self.bytes.extend_from_slice(&thread_id.to_le_bytes());
        self.bytes.extend_from_slice(&(file.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&(gtid.len() as u32).to_le_bytes());
        debug_assert_eq!(self.bytes.len() - start, TRANSACTION_HEADER_LEN);
        self.bytes.extend_from_slice(file.as_bytes());
        self.bytes.extend_from_slice(gtid.as_bytes());
    }

    /// Begins the transaction of another batch's row, unless that transaction is already the newest of this batch.
    /// Called before the row is copied.
    pub fn transaction_of(&mut self, batch: &Batch<'_>, row: &Row<'_>) {
        let transaction = batch.transaction(row.transaction());
        let newest = self.transaction_offsets.last().map(|&at| &self.bytes[at as usize..]);
        if newest.is_none_or(|newest| !newest.starts_with(transaction.bytes())) {
            self.transaction(&transaction.header());
        }
    }

    /// Begins a row of the newest transaction.
    #[inline]
    pub fn begin_row(&mut self, row: &RowHeader) {
        debug_assert!(!self.transaction_offsets.is_empty(), "a row belongs to a transaction");
        self.align();
        self.row_at = self.bytes.len();
        let transaction = self.transaction_offsets.len() as u32 - 1;
        let mut header = [0u8; ROW_HEADER_LEN];
        header[0..4].copy_from_slice(&row.table.0.to_le_bytes());
        header[4] = row.operation.code();
        header[6..8].copy_from_slice(&row.columns.to_le_bytes());
        header[8..12].copy_from_slice(&transaction.to_le_bytes());
        header[12..16].copy_from_slice(&row.index_in_transaction.to_le_bytes());
        header[16..20].copy_from_slice(&row.index_in_event.to_le_bytes());
        header[24..32].copy_from_slice(&row.event_position.to_le_bytes());
        header[32..40].copy_from_slice(&row.time_us.to_le_bytes());
        self.bytes.extend_from_slice(&header);
    }

    /// Begins an image of the row. An update's before image comes first.
    #[inline]
    pub fn begin_image(&mut self, columns: usize) {
        let at = self.bytes.len();
        let ends_at = at + 4 + states_len(columns);
        let data_at = ends_at + 4 * columns;
        self.bytes.resize(data_at, 0);
        self.image = OpenImage { at, columns, column: 0, ends_at, data_at };
    }

    /// Begins an image with a known head: instead of [`Builder::end_value`], the caller ends each value by
    /// [`Builder::end_known_value`], and skips the absent columns by [`Builder::absent_before`].
    #[inline]
    pub fn begin_known_image(&mut self, head: &ImageHead) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&head.bytes);
        let data_at = self.bytes.len();
        self.image = OpenImage { at, columns: head.columns, column: 0, ends_at: data_at - 4 * head.columns, data_at };
    }

    /// Ends a column that has a value by the image's head, after its value was appended to [`Builder::value`].
    #[inline]
    pub fn end_known_value(&mut self) {
        let image = &mut self.image;
        debug_assert!(image.column < image.columns, "more columns than the image was begun with");
        let end = (self.bytes.len() - image.data_at) as u32;
        let end_at = image.ends_at + 4 * image.column;
        self.bytes[end_at..end_at + 4].copy_from_slice(&end.to_le_bytes());
        image.column += 1;
    }

    /// Returns the buffer to which the caller appends the next column's value, and then calls [`Builder::end_value`].
    #[inline]
    pub fn value(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Ends the column whose value was appended to [`Builder::value`].
    #[inline]
    pub fn end_value(&mut self) {
        self.end_column(state::VALUE);
    }

    /// Ends the column whose changes, rather than its value, were appended to [`Builder::value`].
    pub fn end_changes(&mut self) {
        self.end_column(state::CHANGES);
    }

    /// Writes NULL as the next column.
    #[inline]
    pub fn null(&mut self) {
        self.end_column(state::NULL);
    }

    /// Writes the next column as absent from the row image.
    #[inline]
    pub fn absent(&mut self) {
        self.end_column(state::ABSENT);
    }

    /// Writes the next column and all others before `column` as absent from the row image.
    #[inline]
    pub fn absent_before(&mut self, column: usize) {
        let image = &mut self.image;
        debug_assert!(
            (image.column..=image.columns).contains(&column),
            "columns that are written already, or more than the image has"
        );
        let end = (self.bytes.len() - image.data_at) as u32;
        // The ends are 0 already where no data was written yet.
        if end > 0 {
            let ends = image.ends_at + 4 * image.column..image.ends_at + 4 * column;
            self.bytes[ends].as_chunks_mut().0.fill(end.to_le_bytes());
        }
        image.column = column;
    }

    /// Writes a column's content, as read from another batch, as the next column.
    pub fn cell(&mut self, cell: Cell<'_>) {
        match cell {
            Cell::Absent => self.absent(),
            Cell::Null => self.null(),
            Cell::Value(bytes) => {
                self.bytes.extend_from_slice(bytes);
                self.end_value();
            }
            Cell::Changes(bytes) => {
                self.bytes.extend_from_slice(bytes);
                self.end_changes();
            }
        }
    }

    #[inline]
    fn end_column(&mut self, state: u8) {
        let OpenImage { at, column, .. } = self.image;
        self.end_known_value();
        self.bytes[at + 4 + column / 4] |= state << (column % 4 * 2);
    }

    /// Ends the image.
    ///
    /// # Panics
    /// In debug builds, if a column is missing.
    #[inline]
    pub fn end_image(&mut self) {
        debug_assert_eq!(self.image.column, self.image.columns, "a column is missing");
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        let at = self.image.at;
        let len = (self.bytes.len() - at) as u32;
        self.bytes[at..at + 4].copy_from_slice(&len.to_le_bytes());
    }

    /// Ends the row.
    #[inline]
    pub fn end_row(&mut self) {
        let len = (self.bytes.len() - self.row_at) as u32;
        self.bytes[self.row_at + 20..self.row_at + 24].copy_from_slice(&len.to_le_bytes());
        self.row_offsets.push(self.row_at as u32);
    }

    /// Removes the row that was begun last, so that a row that fails to decode leaves no trace.
    pub fn abandon_row(&mut self) {
        self.bytes.truncate(self.row_at);
    }

    /// Removes all rows except the first `rows`. Transactions that begin before the first removed row stay, even
    /// without rows.
    pub fn truncate_rows(&mut self, rows: usize) {
        if let Some(&at) = self.row_offsets.get(rows) {
            // Transactions that begin after this row are cut off with its bytes.
            self.transaction_offsets.retain(|&offset| offset < at);
            self.bytes.truncate(at as usize);
            self.row_offsets.truncate(rows);
        }
    }

    /// Whether the batch is too large for its 32-bit offsets.
    pub fn is_too_large(&self) -> bool {
        u32::try_from(self.bytes.len()).is_err()
    }

    /// Marks the newest row as the last of its transaction.
    pub fn mark_last_in_transaction(&mut self) {
        if let Some(&at) = self.row_offsets.last() {
            self.bytes[at as usize + 5] |= FLAG_LAST_IN_TRANSACTION;
        }
    }

    /// Copies a row of another batch with edits, and its transaction unless that is already the newest of this batch.
    /// `write` is called for each column of each image: it writes the column and returns true, or returns false to have
    /// the column copied.
    pub fn copy_row_edited(
        &mut self,
        batch: &Batch<'_>,
        row: RowIndex,
        mut write: impl FnMut(ImageKind, ColumnIndex, &mut Self) -> bool,
    ) {
        let row = batch.row(row);
        self.transaction_of(batch, &row);
        self.begin_row(&row.header());
        for (kind, image) in [(ImageKind::Before, row.before()), (ImageKind::After, row.after())] {
            let Some(image) = image else { continue };
            self.begin_image(image.columns());
            for (column, cell) in (0..).map(ColumnIndex).zip(image.cells()) {
                if !write(kind, column, self) {
                    self.cell(cell);
                }
            }
            self.end_image();
        }
        self.end_row();
        if row.is_last_in_transaction() {
            self.mark_last_in_transaction();
        }
    }

    /// Copies a row of another batch unchanged, as one block of memory, and its transaction unless that is already the
    /// newest of this batch.
    pub fn copy_row(&mut self, batch: &Batch<'_>, row: RowIndex) {
        let row = batch.row(row);
        self.transaction_of(batch, &row);
        self.align();
        self.row_at = self.bytes.len();
        self.bytes.extend_from_slice(row.bytes());
        let transaction = self.transaction_offsets.len() as u32 - 1;
        self.bytes[self.row_at + 8..self.row_at + 12].copy_from_slice(&transaction.to_le_bytes());
        self.row_offsets.push(self.row_at as u32);
    }

    #[inline]
    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
    }

    /// Completes the batch and returns it.
    pub fn finish(mut self) -> PackedBatch {
        self.align();
        let rows_at = self.bytes.len() as u32;
        for offset in &self.row_offsets {
            self.bytes.extend_from_slice(&offset.to_le_bytes());
        }
        let transactions_at = self.bytes.len() as u32;
        for offset in &self.transaction_offsets {
            self.bytes.extend_from_slice(&offset.to_le_bytes());
        }
        let total = self.bytes.len() as u32;
        self.bytes[0..4].copy_from_slice(&MAGIC);
        self.bytes[4..8].copy_from_slice(&(self.row_offsets.len() as u32).to_le_bytes());
        self.bytes[8..12].copy_from_slice(&rows_at.to_le_bytes());
        self.bytes[12..16].copy_from_slice(&(self.transaction_offsets.len() as u32).to_le_bytes());
        self.bytes[16..20].copy_from_slice(&transactions_at.to_le_bytes());
        self.bytes[20..24].copy_from_slice(&total.to_le_bytes());
        PackedBatch::of_builder(self.bytes)
    }
}

impl Default for PackedBatch {
    /// Returns a batch without rows.
    fn default() -> Self {
        static EMPTY: LazyLock<PackedBatch> = LazyLock::new(|| Builder::with_capacity(0).finish());
        EMPTY.clone()
    }
}
