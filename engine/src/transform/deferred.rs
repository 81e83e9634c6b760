//! Deferred columns: transforms see the columns of the projection only; the other columns are decoded only for the rows
//! that remain after the transforms, and for dead letters.

use std::sync::Arc;

use rowmill_core::batch::{Batch, Builder, PackedBatch, RowIndex, Table};
use rowmill_core::binlog::{RowBatch, RowError, TableProjection};

use super::interest;
use super::{Chain, Stop, Transformed};

impl Chain {
    /// Returns the columns of a table that the transforms need to decide on its rows.
    ///
    /// If a transform's interest cannot be determined, these are all columns, and the first row of the table shows the
    /// error.
    pub fn projection(&self, table: &Table) -> TableProjection {
        let interests: Result<Vec<_>, _> = self.transforms.iter().map(|transform| transform.interest(table)).collect();
        interests.map_or_else(|_| TableProjection::default(), |interests| interest::table_projection(table, &interests))
    }

    /// Passes a batch through the transforms, and decodes the deferred columns of the remaining rows.
    ///
    /// A row that cannot be decoded is skipped if the batch says so; otherwise the engine stops before it. Batches are
    /// numbered in order, and every batch must pass. Returns `None` if the engine stops because of an earlier batch.
    pub async fn transform(&self, number: u64, batch: &RowBatch, tables: &Arc<[Arc<Table>]>) -> Option<Transformed> {
        let RowBatch { packed, rows, deferred, skips_undecodable, .. } = batch;
        let count = *rows as u32;
        let Some(deferred) = deferred else { return self.run(number, packed.clone(), count, tables).await };
        let decoded = packed.view();
        let leave_out = |transformed: &mut Transformed, errors: Vec<RowError>| {
            for error in errors {
                if *skips_undecodable {
                    transformed.skip(error.row.0, deferred.skipped(&decoded, error));
                } else {
                    transformed.stop_at(Stop { origin: error.row.0, error: error.error.into() });
                }
            }
        };
        if deferred.version() == self.version {
            let transformed = self.run(number, packed.clone(), count, tables).await?;
            let whole = |rows: &[RowIndex]| deferred.decode_rows(&decoded, rows.iter().copied());
            return Some(transformed.completed(packed, whole, leave_out));
        }
        // The batch was decoded with another chain's projection: this chain gets all columns.
        let (whole, errors) = deferred.decode_rows(&decoded, (0..count).map(RowIndex));
        if errors.is_empty() {
            return self.run(number, whole, count, tables).await;
        }
        let is_left_out = |row: &u32| match *skips_undecodable {
            true => errors.iter().any(|error| error.row.0 == *row),
            false => errors[0].row.0 <= *row,
        };
        let origins: Vec<u32> = (0..count).filter(|row| !is_left_out(row)).collect();
        let (whole, _) = deferred.decode_rows(&decoded, origins.iter().copied().map(RowIndex));
        let mut transformed = self.run(number, whole, origins.len() as u32, tables).await?;
        transformed.set_origins(&origins);
        leave_out(&mut transformed, errors);
        Some(transformed)
    }

    /// Passes a batch with all columns through the transforms as if it had been decoded with their projection: columns that
    /// none of them wants are absent. For `rowmill plugin test`.
    pub async fn transform_in_part(
        &self,
        number: u64,
        packed: &PackedBatch,
        tables: &Arc<[Arc<Table>]>,
    ) -> Option<Transformed> {
        let batch = packed.view();
        let projection: Vec<TableProjection> = tables.iter().map(|table| self.projection(table)).collect();
        let mut out = Builder::with_capacity(packed.as_bytes().len());
        for (index, row) in (0..).map(RowIndex).zip(batch.rows()) {
            let Some(projection) = projection[row.table().0 as usize].for_operation(row.operation()) else {
                out.copy_row(&batch, index);
                continue;
            };
            out.copy_row_edited(&batch, index, |image, column, out| {
                let is_needed = projection.image(image).contains(column);
                if !is_needed {
                    out.absent();
                }
                !is_needed
            });
        }
        let part = out.finish();
        let transformed = self.run(number, part.clone(), batch.len() as u32, tables).await?;
        let whole = |rows: &[RowIndex]| {
            let mut out = Builder::with_capacity(packed.as_bytes().len());
            rows.iter().for_each(|&row| out.copy_row(&batch, row));
            (out.finish(), Vec::new())
        };
        Some(transformed.completed(&part, whole, |_, _| {}))
    }
}

impl Transformed {
    /// Replaces the remaining rows and the dead letters with rows of all columns, with the transforms' changes applied.
    ///
    /// `decoded` is the batch that the first transform was given, `whole` decodes rows of it with all columns, and
    /// `leave_out` removes rows that cannot be decoded.
    fn completed(
        mut self,
        decoded: &PackedBatch,
        whole: impl Fn(&[RowIndex]) -> (PackedBatch, Vec<RowError>),
        leave_out: impl Fn(&mut Self, Vec<RowError>),
    ) -> Self {
        // Ends, since each round has fewer rows.
        while let Err(errors) = self.complete(decoded, &whole) {
            leave_out(&mut self, errors);
        }
        self
    }

    /// Does one round of [`Transformed::completed`].
    ///
    /// # Errors
    /// The rows that cannot be decoded; then nothing is changed.
    fn complete(
        &mut self,
        decoded: &PackedBatch,
        whole: &impl Fn(&[RowIndex]) -> (PackedBatch, Vec<RowError>),
    ) -> Result<(), Vec<RowError>> {
        let batch = decoded.view();
        let mut errors = Vec::new();
        let mut complete = |seen: &PackedBatch, rows: &[(RowIndex, u32)]| {
            let origins: Vec<RowIndex> = rows.iter().map(|&(_, origin)| RowIndex(origin)).collect();
            let (whole, faults) = whole(&origins);
            if !faults.is_empty() {
                errors.extend(faults);
                return PackedBatch::default();
            }
            if seen.shares(decoded) { whole } else { changed(&whole, seen, &batch, rows) }
        };
        let rows: Vec<(RowIndex, u32)> = self.rows.iter().map(|passed| (passed.row, passed.origin)).collect();
        let packed = complete(&self.packed, &rows);
        let dead_batches: Vec<_> =
            self.dead.iter().map(|dead| complete(&dead.batch, &[(dead.row, dead.origin)])).collect();
        if !errors.is_empty() {
            return Err(errors);
        }
        self.packed = packed;
        (0..).zip(&mut self.rows).for_each(|(index, passed)| passed.row = RowIndex(index));
        for (dead, batch) in self.dead.iter_mut().zip(dead_batches) {
            (dead.batch, dead.row) = (batch, RowIndex(0));
        }
        Ok(())
    }
}

/// Returns the rows of `whole`, with the changes that transforms made: the cells that differ between `decoded` and
/// `seen`. `rows` has each row's index in `seen` and in `decoded`, in the order of `whole`.
fn changed(whole: &PackedBatch, seen: &PackedBatch, decoded: &Batch<'_>, rows: &[(RowIndex, u32)]) -> PackedBatch {
    let (whole, seen) = (whole.view(), seen.view());
    let mut out = Builder::with_capacity(whole.bytes_of(whole.len()));
    for (row, &(now, origin)) in (0..).map(RowIndex).zip(rows) {
        let (now, was) = (seen.row(now), decoded.row(RowIndex(origin)));
        if now.has_images_of(&was) {
            out.copy_row(&whole, row);
            continue;
        }
        out.copy_row_edited(&whole, row, |image, column, out| {
            let (Some(now), Some(was)) = (now.image(image), was.image(image)) else { return false };
            let is_changed = now.cell(column) != was.cell(column);
            if is_changed {
                out.cell(now.cell(column));
            }
            is_changed
        });
    }
    out.finish()
}
