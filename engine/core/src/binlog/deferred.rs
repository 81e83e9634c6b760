//! Deferred columns. Transforms mostly decide on a row by a few of its columns: the columns of the projection are
//! decoded immediately, and the row's images are kept beside them as in the binlog. [`DeferredColumns::decode_rows`]
//! decodes all columns of the rows that need them.

use std::sync::Arc;

use rowmill_batch::{Batch, Builder, PackedBatch, RowHeader, RowIndex, Table, TransactionHeader};

use super::error::{DecodeError, DecodeErrorKind, RowError};
use super::projection::{RowProjection, TableProjection, TableSelector};
use super::projection_plan::RowPlan;
use super::rows::{RowsEvent, RowsKind};
use super::skipped::{SkippedChange, SkippedContent};
use super::tables::TableVersion;
use crate::by_table::ByTable;
use crate::position::BinlogPosition;

/// The initial capacity of a batch that has no predecessor, in bytes.
const FIRST_CAPACITY: usize = 128 << 10;

/// A cache of the tables' projections, valid for one [`TableSelector::version`].
#[derive(Debug, Default)]
pub(super) struct ProjectionCache {
    version: u64,
    by_table: ByTable<TableProjection<RowPlan>>,
    /// Tables whose projection is not known yet: all of their columns are decoded.
    unknown: Vec<Arc<Table>>,
}

impl ProjectionCache {
    /// Forgets projections that may have changed, or that were unknown. Called before a batch's first row, so that
    /// projections stay the same within a batch.
    pub fn refresh(&mut self, select: &dyn TableSelector) {
        let version = select.version();
        if self.version != version {
            *self = Self { version, ..Self::default() };
        }
        for table in self.unknown.drain(..) {
            *self.by_table.entry(&table) = None;
        }
    }

    /// Returns the [`TableSelector::version`] of the projections.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Returns the projection of a table's rows.
    pub fn for_table(
        &mut self,
        TableVersion { table, columns }: &TableVersion,
        select: &dyn TableSelector,
    ) -> &TableProjection<RowPlan> {
        let unknown = &mut self.unknown;
        self.by_table.entry(table).get_or_insert_with(|| {
            let projection = select.projection(table).unwrap_or_else(|| {
                unknown.push(Arc::clone(table));
                TableProjection::default()
            });
            projection.map(|plan| RowPlan::new(plan, columns))
        })
    }
}

/// The row images, as in the binlog, of a batch's rows whose columns were not all decoded.
#[derive(Debug, Default)]
pub struct DeferredColumns {
    images: Vec<u8>,
    /// One for each row of the batch.
    rows: Vec<DeferredRow>,
    layouts: Vec<Arc<ImageLayout>>,
    /// The [`TableSelector::version`] at the first row with deferred columns.
    version: u64,
}

/// A row's images in [`DeferredColumns`].
#[derive(Debug, Clone, Copy)]
struct DeferredRow {
    /// The end of the row's images, which begin at the previous row's end. Empty if all columns were decoded.
    end: usize,
    layout: LayoutIndex,
}

/// The index of a layout in a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct LayoutIndex(u32);

/// The layout of the images of an event's rows.
#[derive(Debug)]
struct ImageLayout {
    kind: RowsKind,
    table: Arc<TableVersion>,
    before_present: Box<[u8]>,
    after_present: Box<[u8]>,
}

impl ImageLayout {
    fn matches_event(&self, table: &Arc<TableVersion>, event: &RowsEvent<'_>) -> bool {
        // One of the two is mostly empty, and comparing empty slices as slices is slow: see `gtid::Source`.
        let is_same = |known: &[u8], present: &[u8]| known.iter().eq(present);
        let (before, after) = event.present();
        Arc::ptr_eq(&self.table, table)
            && self.kind == event.kind()
            && is_same(&self.before_present, before)
            && is_same(&self.after_present, after)
    }
}

impl DeferredColumns {
    /// Returns the [`TableSelector::version`] of the batch's projections. If it has changed since, projections may have
    /// grown: the batch's rows must be decoded whole before they are used.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Returns the size in bytes.
    pub fn bytes(&self) -> usize {
        self.images.len() + size_of_val(&*self.rows)
    }

    /// Adds the images of the next row; empty images if all of its columns were decoded.
    fn add_row(&mut self, layout: LayoutIndex, images: &[u8]) {
        self.images.extend_from_slice(images);
        self.rows.push(DeferredRow { end: self.images.len(), layout });
    }

    /// Returns the layout and the images of a row; `None` if all of its columns were decoded.
    fn row_images(&self, RowIndex(row): RowIndex) -> Option<(&Arc<ImageLayout>, &[u8])> {
        let row = row as usize;
        let DeferredRow { end, layout } = self.rows[row];
        let start = row.checked_sub(1).map_or(0, |before| self.rows[before].end);
        (start < end).then(|| (&self.layouts[layout.0 as usize], &self.images[start..end]))
    }

    /// Packs rows with all their columns. `batch` has the packed rows of the batch to which the deferred columns
    /// belong.
    ///
    /// Rows that cannot be decoded with certainty are left out of the packed batch, and returned as errors, in order.
    pub fn decode_rows(
        &self,
        batch: &Batch<'_>,
        rows: impl IntoIterator<Item = RowIndex>,
    ) -> (PackedBatch, Vec<RowError>) {
        let mut errors = Vec::new();
        let mut out = Builder::with_capacity(self.images.len());
        for index in rows {
            let Some((layout, images)) = self.row_images(index) else {
                out.copy_row(batch, index);
                continue;
            };
            let row = batch.row(index);
            out.transaction_of(batch, &row);
            let ImageLayout { kind, table, before_present, after_present } = &**layout;
            let header = row.header();
            let mut event = RowsEvent::from_parts(*kind, &table.columns, (before_present, after_present), images);
            out.begin_row(&header);
            let read = event.next_row(&table.columns, None, &mut out);
            let read = read.and_then(|()| if out.is_too_large() { Err(DecodeErrorKind::RowTooLarge) } else { Ok(()) });
            if let Err(cause) = read {
                out.abandon_row();
                let TransactionHeader { file, position, .. } = batch.transaction(row.transaction()).header();
                let error = DecodeError {
                    position: BinlogPosition::new(file, header.event_position),
                    transaction: Some(position),
                    kind: kind.event_kind(),
                    table: Some(table.table.to_string()),
                    cause,
                };
                errors.push(RowError { row: index, error: Box::new(error) });
                continue;
            }
            out.end_row();
            if row.is_last_in_transaction() {
                out.mark_last_in_transaction();
            }
        }
        (out.finish(), errors)
    }

    /// Returns the record of a row that cannot be decoded and is skipped.
    pub fn skipped(&self, batch: &Batch<'_>, RowError { row, error }: RowError) -> SkippedChange {
        let (content, bytes) = SkippedContent::images(self.row_images(row).map_or(&[], |(_, images)| images));
        let row = batch.row(row);
        let RowHeader { index_in_event, time_us, .. } = row.header();
        let gtid = batch.transaction(row.transaction()).header().gtid.to_owned();
        SkippedChange { error, row: index_in_event, gtid, time_us, content, bytes }
    }
}

/// The size at which a batch is full, if it has at least one row.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchLimits {
    pub rows: usize,
    pub bytes: usize,
}

/// A batch under construction: the decoded and the deferred columns of its rows.
#[derive(Debug)]
pub(super) struct BatchAssembler {
    decoded: Builder,
    deferred: DeferredColumns,
}

impl BatchAssembler {
    /// Creates the first batch, with an initial capacity.
    pub fn first() -> Self {
        let deferred = DeferredColumns { images: Vec::with_capacity(FIRST_CAPACITY), ..DeferredColumns::default() };
        Self { decoded: Builder::with_capacity(FIRST_CAPACITY), deferred }
    }

    pub fn with_capacity(capacity: usize) -> Self {
        Self { decoded: Builder::with_capacity(capacity), deferred: DeferredColumns::default() }
    }

    /// Creates an empty batch with a little more capacity than this one's size, since batches are mostly like the last one.
    pub fn successor(&self) -> Self {
        let expected = |len: usize| len + len / 8;
        let deferred = DeferredColumns {
            images: Vec::with_capacity(expected(self.deferred.images.len())),
            ..DeferredColumns::default()
        };
        Self { decoded: Builder::with_capacity(expected(self.decoded.len())), deferred }
    }

    /// Returns the number of finished rows.
    pub fn count(&self) -> usize {
        self.decoded.rows()
    }

    pub fn is_full(&self, max: BatchLimits) -> bool {
        let count = self.count();
        count >= max.rows.max(1) || count > 0 && self.decoded.len() + self.deferred.images.len() >= max.bytes
    }

    pub fn transaction(&mut self, transaction: &TransactionHeader<'_>) {
        self.decoded.transaction(transaction);
    }

    /// Reads a row of an event. The row joins the batch at [`BatchAssembler::end_row`].
    #[inline(always)] // the other caller, `skip_row`, is cold
    pub fn begin_row(
        &mut self,
        header: &RowHeader,
        event: &mut RowsEvent<'_>,
        table: &TableVersion,
        plan: Option<&RowPlan>,
    ) -> Result<(), DecodeErrorKind> {
        self.decoded.begin_row(header);
        event.next_row(&table.columns, plan, &mut self.decoded)?;
        if self.decoded.is_too_large() { Err(DecodeErrorKind::RowTooLarge) } else { Ok(()) }
    }

    /// Moves to the end of an event's next row, which cannot be decoded.
    ///
    /// # Errors
    /// If the row's end is unknown. The event is then at an unspecified offset.
    #[cold]
    pub fn skip_row(&mut self, event: &mut RowsEvent<'_>, table: &TableVersion) -> Result<(), DecodeErrorKind> {
        let nothing = RowPlan::new(RowProjection::default(), &table.columns);
        let header = RowHeader {
            table: table.table.id,
            operation: event.operation(),
            columns: table.columns.columns.len() as u16,
            index_in_transaction: 0,
            index_in_event: 0,
            event_position: 0,
            time_us: 0,
        };
        let read = self.begin_row(&header, event, table, Some(&nothing));
        self.abandon_row();
        read
    }

    /// Discards the row begun last.
    pub fn abandon_row(&mut self) {
        self.decoded.abandon_row();
    }

    /// Ends the row begun last, of which all columns were decoded.
    pub fn end_row(&mut self) {
        self.decoded.end_row();
        self.deferred.add_row(LayoutIndex(0), &[]);
    }

    /// Returns the layout of an event's images, and adds it to the batch if the last layout differs. `version` is the
    /// [`TableSelector::version`] of the rows' projections.
    pub fn layout(&mut self, event: &RowsEvent<'_>, table: &Arc<TableVersion>, version: u64) -> LayoutIndex {
        let deferred = &mut self.deferred;
        if deferred.layouts.is_empty() {
            deferred.version = version;
        }
        if !deferred.layouts.last().is_some_and(|layout| layout.matches_event(table, event)) {
            let (before, after) = event.present();
            let (before_present, after_present) = (before.into(), after.into());
            deferred.layouts.push(Arc::new(ImageLayout {
                kind: event.kind(),
                table: Arc::clone(table),
                before_present,
                after_present,
            }));
        }
        LayoutIndex(deferred.layouts.len() as u32 - 1)
    }

    /// Ends the row begun last, of which the columns of the projection were decoded. `images` are the row's images in
    /// the event.
    pub fn end_projected_row(&mut self, layout: LayoutIndex, images: &[u8]) {
        self.decoded.end_row();
        self.deferred.add_row(layout, images);
    }

    /// Marks the newest row as the last of its transaction.
    pub fn mark_last_in_transaction(&mut self) {
        self.decoded.mark_last_in_transaction();
    }

    /// Discards all rows but the first `count`.
    pub fn truncate(&mut self, count: usize) {
        self.decoded.truncate_rows(count);
        self.deferred.rows.truncate(count);
        let end = self.deferred.rows.last().map_or(0, |row| row.end);
        self.deferred.images.truncate(end);
    }

    /// Returns the packed batch, and its deferred columns if there are any.
    pub fn finish(self) -> (PackedBatch, Option<DeferredColumns>) {
        let deferred = (!self.deferred.images.is_empty()).then_some(self.deferred);
        (self.decoded.finish(), deferred)
    }

    /// Copies the rows `from..to` of a batch.
    pub fn from_rows(decoded: &PackedBatch, deferred: Option<&DeferredColumns>, from: usize, to: usize) -> Self {
        let batch = decoded.view();
        let mut rows = Self::with_capacity(decoded.as_bytes().len());
        if let Some(deferred) = deferred {
            rows.deferred.version = deferred.version;
        }
        for index in (from..to).map(|index| RowIndex(index as u32)) {
            rows.decoded.copy_row(&batch, index);
            let (layout, images) = deferred.and_then(|deferred| deferred.row_images(index)).unzip();
            if let Some(layout) =
                layout.filter(|&layout| !rows.deferred.layouts.last().is_some_and(|last| Arc::ptr_eq(last, layout)))
            {
                rows.deferred.layouts.push(Arc::clone(layout));
            }
            let layout = LayoutIndex(rows.deferred.layouts.len().saturating_sub(1) as u32);
            rows.deferred.add_row(layout, images.unwrap_or_default());
        }
        rows
    }

    /// Divides the batch before the row at index `at`.
    pub fn divide(self, at: usize) -> (Self, Self) {
        let count = self.count();
        let (decoded, deferred) = self.finish();
        (Self::from_rows(&decoded, deferred.as_ref(), 0, at), Self::from_rows(&decoded, deferred.as_ref(), at, count))
    }
}

#[cfg(test)]
mod tests {
    use rowmill_batch::{Row, Table};
    use rowmill_pipeline::ack::Cost;

    use super::*;
    use crate::binlog::model::Columns;
    use crate::binlog::{Decoder, Next, RowBatch};
    use crate::position::ResumePoint;

    /// All tables, with the model's projections.
    struct AllTables(Columns);

    impl TableSelector for AllTables {
        fn table(&self, _schema: &str, _table: &str) -> bool {
            true
        }

        fn schema(&self, _schema: &str) -> bool {
            true
        }

        fn projection(&self, table: &Table) -> Option<TableProjection> {
            self.0.projection(table)
        }

        fn version(&self) -> u64 {
            self.0.version()
        }
    }

    fn decode(path: &std::path::Path, seed: Option<u64>, mut take: impl FnMut(RowBatch)) {
        let file = std::fs::read(path).expect("kept");
        let resume = ResumePoint::at("server", BinlogPosition::new("binlog.000001", BinlogPosition::FIRST_EVENT));
        let mut decoder = Decoder::new(resume, Box::new(AllTables(Columns { seed, asked: 0.into() })));
        // Many batches, as projections may change between them.
        decoder.bound_batches(Cost { rows: 25, bytes: u32::MAX });
        let mut rest = &file[4..];
        while let Some(size) = rest.get(9..13).and_then(|size| size.first_chunk()) {
            let (event, after) = rest.split_at(u32::from_le_bytes(*size) as usize);
            rest = after;
            loop {
                match decoder.next(event).expect("decoded") {
                    Next::Batch(batch) => take(*batch),
                    Next::Event => break,
                    Next::Columns { .. } => panic!("the files name their columns"),
                }
            }
        }
        decoder.flush().into_iter().for_each(take);
    }

    fn shown(batch: &Batch<'_>, row: &Row<'_>) -> String {
        let images = [row.before(), row.after()].map(|image| image.map(|image| image.cells().collect::<Vec<_>>()));
        let (transaction, last) = (batch.transaction(row.transaction()).header(), row.is_last_in_transaction());
        format!("{transaction:?} {:?} {last} {images:?}", row.header())
    }

    #[test]
    fn rows_decoded_late_are_the_same() {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data");
        let (mut files, mut in_part, mut less) = (0, 0, 0);
        for entry in std::fs::read_dir(directory).expect("kept") {
            let path = entry.expect("kept").path();
            if path.extension().is_none_or(|extension| extension != "binlog") {
                continue;
            }
            files += 1;
            let mut expected = Vec::new();
            decode(&path, None, |batch| {
                assert!(batch.deferred.is_none());
                let parsed = batch.packed.view();
                expected.extend(parsed.rows().map(|row| shown(&parsed, &row)));
            });
            for seed in 1..=10 {
                let mut expected = expected.iter();
                decode(&path, Some(seed), |batch| {
                    let parsed = batch.packed.view();
                    let indexes = (0..parsed.len() as u32).map(RowIndex);
                    let whole = match &batch.deferred {
                        Some(deferred) => {
                            let (whole, errors) = deferred.decode_rows(&parsed, indexes);
                            assert_eq!(errors, []);
                            whole
                        }
                        None => batch.packed.clone(),
                    };
                    let whole = whole.view();
                    for (row, decoded) in whole.rows().zip(parsed.rows()) {
                        assert_eq!(Some(&shown(&whole, &row)), expected.next(), "{}", path.display());
                        in_part += usize::from(!row.has_images_of(&decoded));
                    }
                    less += usize::from(batch.deferred.is_some());
                });
                assert_eq!(expected.next(), None);
            }
        }
        assert!(files == 4 && in_part > 2000 && less > 20, "{files} files, {in_part} rows, {less} batches");
    }

    #[test]
    fn damaged_rows_are_errors_with_their_place() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/mysql-9.7.binlog");
        let (mut refused, mut cut_off) = (0, 0);
        decode(&path, Some(2), |batch| {
            let Some(deferred) = batch.deferred.and_then(Arc::into_inner) else { return };
            let parsed = batch.packed.view();
            let mut deferred = deferred;
            for row in (0..parsed.len() as u32).map(RowIndex) {
                let Some((_, images)) = deferred.row_images(row) else { continue };
                let range = images.as_ptr() as usize - deferred.images.as_ptr() as usize;
                let range = range..range + images.len();
                let kept = deferred.images[range.clone()].to_vec();
                for at in (0..kept.len()).step_by(7) {
                    deferred.images[range.start + at] ^= 0xff;
                    refused += deferred.decode_rows(&parsed, [row]).1.len();
                    deferred.images[range.clone()].copy_from_slice(&kept);
                }
                let end = deferred.rows[row.0 as usize].end;
                deferred.rows[row.0 as usize].end = end - 1;
                if let Some(RowError { error, .. }) = deferred.decode_rows(&parsed, [row]).1.pop() {
                    cut_off += 1;
                    let header = parsed.row(row).header();
                    assert_eq!(
                        (error.position.offset, error.cause),
                        (header.event_position, DecodeErrorKind::Truncated)
                    );
                    assert!(error.table.is_some_and(|table| table.starts_with("kept.")));
                }
                deferred.rows[row.0 as usize].end = end;
            }
        });
        assert!(refused > 100 && cut_off > 20, "{refused} refused, {cut_off} cut off");
    }
}
