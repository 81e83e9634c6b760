//! The decoder's output.

use std::sync::Arc;

use rowmill_batch::{PackedBatch, Table};
use rowmill_pipeline::ack::Cost;

use super::super::deferred::DeferredColumns;
use super::super::error::Missing;
use super::super::query::SchemaChange;
use super::super::skipped::SkippedChange;
#[cfg(doc)]
use super::Decoder;
use crate::position::ResumePoint;

/// The rows at which a batch is full.
pub const BATCH_ROWS_MAX: usize = 2048;
/// The bytes at which a batch is full, deferred columns included. A single row may be larger.
pub const BATCH_BYTES_MAX: usize = 512 << 10;

/// A batch of decoded rows, in binlog order. A batch without rows moves the resume point, and may carry a schema change or
/// a skipped change.
#[derive(Debug, Clone)]
pub struct RowBatch {
    /// The packed rows. Deferred columns are absent in them.
    pub packed: PackedBatch,
    /// The deferred columns, if there are any.
    pub deferred: Option<Arc<DeferredColumns>>,
    /// The number of rows.
    pub rows: usize,
    /// A schema change, which follows the rows of earlier batches. The batch then has no rows.
    pub schema_change: Option<Box<SchemaChange>>,
    /// A change that could not be decoded, which follows the rows of earlier batches. The batch then has no rows.
    pub skipped: Option<Box<SkippedChange>>,
    /// Whether a row of this batch that cannot be decoded is to be skipped ([`Decoder::with_skipping`]).
    pub skips_undecodable: bool,
    /// The table versions that are new in this batch, in the order of their IDs, all of one generation. If it is a new
    /// generation, neither this batch's rows nor later ones refer to tables of earlier generations.
    pub new_tables: Vec<Arc<Table>>,
    /// The resume point before this batch: that of the batch before it, or the start point.
    pub before: Arc<ResumePoint>,
    /// The resume point once all rows up to the end of this batch are done.
    pub resume: ResumePoint,
}

impl RowBatch {
    /// Returns the bytes of the rows, with their deferred columns.
    pub(in crate::binlog) fn row_bytes(&self) -> usize {
        self.packed.as_bytes().len() + self.deferred.as_ref().map_or(0, |deferred| deferred.bytes())
    }

    /// Returns the batch's share of the in-flight budget. A schema change or skipped change counts as a row.
    pub fn cost(&self) -> Cost {
        let change = self.schema_change.as_ref().map_or((0, 0), |change| (1, change.statement.len()));
        let skipped = self.skipped.as_ref().map_or((0, 0), |skipped| (1, skipped.content.kept()));
        let bytes = u32::try_from(self.row_bytes() + change.1 + skipped.1).unwrap_or(u32::MAX);
        Cost { rows: self.rows as u32 + change.0 + skipped.0, bytes }
    }
}

/// The result of [`Decoder::next`]: a batch, or what the decoder needs next.
#[derive(Debug)]
pub enum Next {
    /// A complete batch.
    Batch(Box<RowBatch>),
    /// A request for a table's columns from information_schema: see [`Decoder::learn`].
    Columns {
        /// The table's schema.
        schema: String,
        /// The table's name.
        table: String,
        /// What the table map lacks.
        missing: Missing,
    },
    /// The event is done: the decoder needs the next one.
    Event,
}
