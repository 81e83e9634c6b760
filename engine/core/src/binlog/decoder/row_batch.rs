//! What the decoder hands out.

use std::sync::Arc;

use rowmill_batch::Table;
use rowmill_pipeline::ack::Cost;

use super::super::deferred::DeferredColumns;
use super::super::error::Missing;
use super::super::query::SchemaChange;
use super::super::skipped::SkippedChange;
#[cfg(doc)]
use super::Decoder;
use crate::position::ResumePoint;

/// A batch is handed on when it has this many rows,
pub const BATCH_ROWS_MAX: usize = 2048;
/// or this many bytes. A single row may be larger.
pub const BATCH_BYTES_MAX: usize = 512 << 10;

/// Decoded rows, in binlog order. May have no rows: then it says how far the binlog was read, and maybe
/// that tables were changed.
#[derive(Debug, Clone)]
pub struct RowBatch {
    /// The rows, packed: what was decoded of them.
    pub bytes: Arc<Vec<u8>>,
    /// The rest, if there is one.
    pub deferred: Option<Arc<DeferredColumns>>,
    /// How many there are.
    pub rows: usize,
    /// A statement that changed tables or schemas behind the rows of earlier batches; this one has none.
    pub schema_change: Option<Box<SchemaChange>>,
    /// A change after the rows of earlier batches that couldn't be decoded; this batch has no rows.
    pub skipped: Option<Box<SkippedChange>>,
    /// Whether a row of this batch that can't be decoded is to be passed over ([`Decoder::with_skips`]).
    pub skips: bool,
    /// Table versions that no earlier batch had, in the order of their ids. They are all of one generation: where it isn't
    /// that of the tables before, the rows of this batch and of later ones name none of those any more.
    pub new_tables: Vec<Arc<Table>>,
    /// From where to read on before this batch: what the batch before it, or the place that the reading began at, says.
    pub before: Arc<ResumePoint>,
    /// From where to read on once all rows of this batch (and of those before it) are done with.
    pub resume: ResumePoint,
}

impl RowBatch {
    /// Bytes of its rows.
    pub(in crate::binlog) fn row_bytes(&self) -> usize {
        self.bytes.len() + self.deferred.as_ref().map_or(0, |deferred| deferred.bytes())
    }

    /// What the batch takes of the in-flight budget.
    pub fn cost(&self) -> Cost {
        let change = self.schema_change.as_ref().map_or((0, 0), |change| (1, change.statement.len()));
        let skipped = self.skipped.as_ref().map_or((0, 0), |skipped| (1, skipped.content.kept()));
        let bytes = u32::try_from(self.row_bytes() + change.1 + skipped.1).unwrap_or(u32::MAX);
        Cost { rows: self.rows as u32 + change.0 + skipped.0, bytes }
    }
}

/// What the decoder has, or needs, next.
#[derive(Debug)]
pub enum Next {
    /// A batch that is full.
    Batch(Box<RowBatch>),
    /// This table's columns as information_schema has them: see [`Decoder::learn`].
    Columns {
        /// The table's schema.
        schema: String,
        /// Its name.
        table: String,
        /// What its table map lacks.
        missing: Missing,
    },
    /// The event is done with: the next one may come.
    Event,
}
