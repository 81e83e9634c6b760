//! Acknowledgements of binlog batches: progress is a [`ResumePoint`], and each row has a position in the binlog.
//!
//! Batches come in as they are read. Out go the watermark, for the checkpoint writer, and the row at which the pipeline
//! stopped. The rules that protect the checkpoint are in [`rowmill_pipeline::ack`].

use std::sync::{Arc, OnceLock};

use rowmill_core::batch::{Batch, Row, Table};
use rowmill_core::position::{BinlogPosition, EventOffset, PartialTransaction, ResumePoint};
use rowmill_pipeline::ack;
pub use rowmill_pipeline::ack::{Cost, Stopped};
use tracing::error;

/// The acknowledgement of a part of a batch.
pub type Ack = ack::Ack<ResumePoint, BatchOrigin>;
/// Opens batches, in binlog order.
pub type AckOpener = ack::AckOpener<ResumePoint, BatchOrigin>;
/// The checkpoint writer's end: the watermark.
pub type CheckpointFeed = ack::CheckpointFeed<ResumePoint>;
/// The supervisor's end: whether the pipeline was stopped.
pub type AckObserver = ack::AckObserver<ResumePoint>;
/// An advance of the watermark.
pub type Advance = ack::Advance<ResumePoint>;

/// The origin of a batch: its start in the binlog, and the positions of its rows.
#[derive(Debug)]
pub struct BatchOrigin {
    /// The resume point before the batch.
    before: Arc<ResumePoint>,
    places: OnceLock<RowPositions>,
}

/// The binlog positions of the rows of a batch that have messages, by row index in the batch. They are looked up when a row
/// stops the pipeline.
#[derive(Debug, Default)]
pub struct RowPositions {
    /// The binlog files, usually one.
    files: Vec<String>,
    /// The tables, each once for consecutive runs.
    tables: Vec<Arc<Table>>,
    /// Ordered by the first row.
    runs: Vec<Run>,
}

/// The position of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowPosition {
    /// The table, `schema.table`, if the row is one of a table.
    pub table: Option<String>,
    /// Where the transaction begins.
    pub transaction: BinlogPosition,
    /// The event and the row's index in it.
    pub offset: EventOffset,
    /// When the transaction was committed, in microseconds since 1970; 0 where unknown.
    pub commit_time_us: i64,
}

/// Consecutive rows of an event.
#[derive(Debug, Clone, Copy)]
struct Run {
    /// The first row's index in the batch.
    row: u32,
    /// The first row's index in the event.
    index: u32,
    /// Where the event begins, in bytes from the file's start.
    event: u64,
    /// Where the transaction begins, in bytes from the file's start.
    transaction: u64,
    file: u32,
    /// The table's index in [`RowPositions::tables`], if the row is one of a table.
    table: Option<u32>,
    /// When the transaction was committed, in microseconds since 1970; 0 where unknown.
    commit_time_us: i64,
    /// The transaction's index in the batch.
    nth_transaction: usize,
}

/// Why the pipeline stops before a row or an event.
#[derive(Debug, thiserror::Error)]
#[error("{error:#}")]
pub struct StopError {
    /// What tells the server that the position is of from others; empty where the reader is still to say it.
    pub server: Arc<str>,
    /// Where the transaction of the row or event begins.
    pub transaction: BinlogPosition,
    /// The cause.
    pub error: anyhow::Error,
}

impl BatchOrigin {
    /// Makes the origin of a batch that follows a resume point.
    pub fn after(before: Arc<ResumePoint>) -> Self {
        Self { before, places: OnceLock::new() }
    }

    /// Returns the position of a row of the batch, by its index in it.
    pub fn position(&self, row: u32) -> Option<RowPosition> {
        self.places.get()?.find(row)
    }

    /// Sets the positions of the batch's rows. Only the first call has an effect.
    pub fn set_places(&self, places: RowPositions) {
        let _ = self.places.set(places);
    }
}

impl RowPositions {
    /// Adds a row of `batch`; `index` is the row's index in the batch as decoded. Rows are added in order, or [`RowPositions::sort`]
    /// is called after the last one.
    #[inline]
    pub fn row(&mut self, index: u32, row: &Row<'_>, table: &Arc<Table>, batch: &Batch<'_>) {
        let (event, index_in_event) = (row.event_position(), row.index_in_event());
        let is_next = |last: &Run| {
            (last.event, last.nth_transaction) == (event, row.transaction())
                && index >= last.row
                && index_in_event.wrapping_sub(last.index) == index.wrapping_sub(last.row)
        };
        if self.runs.last().is_some_and(is_next) {
            return;
        }
        let transaction = batch.transaction(row.transaction()).header();
        let file = self.file(transaction.file);
        if self.tables.last().is_none_or(|last| !Arc::ptr_eq(last, table)) {
            self.tables.push(Arc::clone(table));
        }
        self.runs.push(Run {
            table: Some(self.tables.len() as u32 - 1),
            commit_time_us: transaction.commit_time_us,
            row: index,
            index: index_in_event,
            event,
            transaction: transaction.position,
            file,
            nth_transaction: row.transaction(),
        });
    }

    /// Adds a message that is not made of a row of the batch: a dead letter of a change that cannot be decoded, or a schema
    /// change. `index` is its index in the batch, `event` where its event begins, in bytes from the file's start.
    pub fn other(&mut self, index: u32, transaction: &BinlogPosition, event: u64, index_in_event: u32) {
        let file = self.file(&transaction.file);
        let transaction = transaction.offset;
        self.runs.push(Run {
            table: None,
            commit_time_us: 0,
            row: index,
            index: index_in_event,
            event,
            transaction,
            file,
            nth_transaction: usize::MAX,
        });
    }

    /// Sorts the rows by their index.
    pub fn sort(&mut self) {
        self.runs.sort_by_key(|run| run.row);
    }

    /// Returns the position of a row.
    fn find(&self, row: u32) -> Option<RowPosition> {
        let run = self.runs[..self.runs.partition_point(|run| run.row <= row)].last()?;
        Some(RowPosition {
            table: run.table.map(|index| self.tables[index as usize].to_string()),
            transaction: BinlogPosition::new(self.files[run.file as usize].clone(), run.transaction),
            offset: EventOffset { event: run.event, rows: run.index + (row - run.row) },
            commit_time_us: run.commit_time_us,
        })
    }

    fn file(&mut self, name: &str) -> u32 {
        // Rows of a file are consecutive.
        if self.files.last().is_none_or(|last| last != name) {
            self.files.push(name.to_owned());
        }
        self.files.len() as u32 - 1
    }
}

/// Stops the pipeline at the row of an ack: neither this row nor a later one is to be delivered, and the checkpoint ends up
/// directly before it.
pub fn stop(ack: Ack, error: anyhow::Error) {
    let BatchOrigin { before, .. } = ack.batch();
    let place = ack.batch().position(ack.row());
    // Every row that may stop the pipeline has a position; otherwise the whole batch would be delivered again.
    let (transaction, before) = match place {
        Some(RowPosition { transaction, offset: progress, .. }) => {
            let partial = PartialTransaction { file: transaction.file.clone(), progress };
            (transaction, ResumePoint::clone(before).advanced_to(partial))
        }
        None => (before.position.clone(), ResumePoint::clone(before)),
    };
    error!(error = format!("{error:#}"), %transaction, "stopping: rows before this row are delivered first");
    let server = Arc::clone(&before.server);
    ack.stop(before, StopError { server, transaction, error }.into());
}

/// Stops the pipeline after the last batch, as the next event cannot be read.
pub fn stop_reading(acks: &mut AckOpener, error: StopError) {
    let StopError { transaction, error: why, .. } = &error;
    error!(error = format!("{why:#}"), %transaction, "stopping: rows before this event are delivered first");
    acks.stop(error.into());
}

#[cfg(test)]
pub(crate) mod tests {
    use futures_util::FutureExt;
    use rowmill_core::position::{BinlogPosition, ResumePoint};

    use super::*;

    pub(crate) const LIMITS: Cost = Cost { rows: 1_000, bytes: 1_000_000 };

    pub(crate) fn resume(offset: u64) -> ResumePoint {
        ResumePoint::at("server", BinlogPosition::new("binlog.000001", offset))
    }

    /// Opens a batch with one row that follows `before`.
    pub(crate) fn open(acks: &mut AckOpener, before: u64, after: u64) -> Ack {
        let opened = acks.open(BatchOrigin::after(Arc::new(resume(before))), resume(after), Cost { rows: 1, bytes: 1 });
        opened.now_or_never().expect("room").expect("nothing stopped it")
    }

    /// Returns an ack of a tracker that is not used otherwise.
    pub(crate) fn ack() -> Ack {
        open(&mut ack::tracker(LIMITS).0, 4, 8)
    }

    #[test]
    fn a_stop_is_directly_before_its_row() {
        let (mut acks, mut feed, observer) = ack::tracker(LIMITS);
        let ack = open(&mut acks, 100, 900);
        let mut places = RowPositions::default();
        places.other(3, &BinlogPosition::new("binlog.000002", 250), 300, 5);
        places.other(0, &BinlogPosition::new("binlog.000001", 200), 200, 0);
        places.sort();
        ack.batch().set_places(places);
        let part = ack.part(5);
        ack.acknowledge();
        stop(part, anyhow::anyhow!("no"));
        let error = observer.stop().expect("a stop").cause.downcast::<StopError>().expect("ours");
        assert_eq!(error.transaction, BinlogPosition::new("binlog.000002", 250));
        let partial =
            PartialTransaction { file: "binlog.000002".to_owned(), progress: EventOffset { event: 300, rows: 7 } };
        assert_eq!(feed.take().map(|advance| advance.progress), Some(resume(100).advanced_to(partial)));
    }

    /// A row that is added after a later one of its event has a position of its own.
    #[test]
    fn rows_may_be_added_out_of_order() {
        use rowmill_core::batch::{Builder, Operation, RowHeader, TableId, TransactionHeader};
        let table = Arc::new(Table {
            id: TableId(0),
            generation: 0,
            schema: "shop".to_owned(),
            name: "t".to_owned(),
            columns: Vec::new(),
            key: Vec::new(),
        });
        let (file, gtid) = ("binlog.000007", "");
        let mut builder = Builder::with_capacity(0);
        let transaction =
            TransactionHeader { file, position: 200, gtid, commit_time_us: 7, server_id: 1, thread_id: 1 };
        builder.transaction(&transaction);
        for index in 0..6 {
            let (operation, event_position) = (Operation::Insert, if index < 2 { 300 } else { 400 });
            builder.begin_row(&RowHeader {
                table: table.id,
                operation,
                columns: 0,
                index_in_transaction: index,
                index_in_event: if index < 2 { index } else { index - 2 },
                event_position,
                time_us: 0,
            });
            builder.begin_image(0);
            builder.end_image();
            builder.end_row();
        }
        let bytes = builder.finish();
        let batch = bytes.view();
        let mut positions = RowPositions::default();
        for index in [4, 5, 2, 0] {
            positions.row(index, &batch.row(rowmill_core::batch::RowIndex(index)), &table, &batch);
        }
        positions.sort();
        let found = |index| positions.find(index).map(|found| (found.offset.event, found.offset.rows, found.table));
        let expected = |event, rows| Some((event, rows, Some("shop.t".to_owned())));
        assert_eq!((found(0), found(2)), (expected(300, 0), expected(400, 0)));
        assert_eq!((found(4), found(5)), (expected(400, 2), expected(400, 3)));
        assert_eq!(positions.find(5).map(|found| found.commit_time_us), Some(7));
    }
}
