//! Acknowledgements of batches of the binlog: progress is a place to resume at, and each row knows its own.
//!
//! In: batches, as they are read. Out: how far all is delivered, for the checkpoint writer, and where the pipeline
//! stopped. What guards the checkpoint is in [`rowmill_pipeline::ack`].

use std::sync::{Arc, OnceLock};

use rowmill_core::batch::{Batch, Row};
use rowmill_core::position::{BinlogPosition, EventOffset, PartialTransaction, ResumePoint};
use rowmill_pipeline::ack;
pub use rowmill_pipeline::ack::{Cost, Stopped};
use tracing::error;

/// The duty to acknowledge a part of a batch.
pub type Ack = ack::Ack<ResumePoint, BatchOrigin>;
/// Opens batches, in their order.
pub type AckOpener = ack::AckOpener<ResumePoint, BatchOrigin>;
/// How far all is acknowledged.
pub type CheckpointFeed = ack::CheckpointFeed<ResumePoint>;
/// Whether something stopped the pipeline.
pub type AckObserver = ack::AckObserver<ResumePoint>;
/// How far the watermark moved.
pub type Advance = ack::Advance<ResumePoint>;

/// Where a batch begins, and where its rows are.
#[derive(Debug)]
pub struct BatchOrigin {
    /// The resume point before the batch.
    before: Arc<ResumePoint>,
    places: OnceLock<Places>,
}

/// Where rows of a batch are in the binlog, by their index in the batch: those of which there are messages. What stops the
/// pipeline is looked up.
#[derive(Debug, Default)]
pub struct Places {
    /// The binlog files, mostly one.
    files: Vec<String>,
    /// In the order of their first rows.
    runs: Vec<Run>,
}

/// Rows of an event.
#[derive(Debug, Clone, Copy)]
struct Run {
    /// The first one's index in the batch.
    row: u32,
    /// And in the event.
    index: u32,
    /// Where the event begins.
    event: u64,
    /// Where its transaction begins.
    transaction: u64,
    file: u32,
    /// The transaction's index in the batch.
    nth_transaction: usize,
}

/// Why a row or an event must not be passed.
#[derive(Debug, thiserror::Error)]
#[error("{error:#}")]
pub struct StopError {
    /// Where its transaction begins.
    pub transaction: BinlogPosition,
    /// What is wrong.
    pub error: anyhow::Error,
}

impl BatchOrigin {
    /// A batch that follows a resume point.
    pub fn after(before: Arc<ResumePoint>) -> Self {
        Self { before, places: OnceLock::new() }
    }

    /// Where its rows are. The first call counts.
    pub fn set_places(&self, places: Places) {
        let _ = self.places.set(places);
    }
}

impl Places {
    /// Adds a row, which has an index in the batch that was decoded, and is in this batch now. Rows come in their order, or
    /// [`Places::sort`] is called after the last one.
    #[inline]
    pub fn row(&mut self, index: u32, row: &Row<'_>, batch: &Batch<'_>) {
        let header = row.header();
        let is_next = |last: &Run| {
            (last.event, last.nth_transaction) == (header.event_position, row.transaction())
                && header.index_in_event.wrapping_sub(last.index) == index.wrapping_sub(last.row)
        };
        if self.runs.last().is_some_and(is_next) {
            return;
        }
        let transaction = batch.transaction(row.transaction()).header();
        let file = self.file(transaction.file);
        self.runs.push(Run {
            row: index,
            index: header.index_in_event,
            event: header.event_position,
            transaction: transaction.position,
            file,
            nth_transaction: row.transaction(),
        });
    }

    /// Adds what has this index in the batch and isn't one of the rows that messages are made of: it is in an event, where
    /// `index_in_event` says.
    pub fn other(&mut self, index: u32, transaction: &BinlogPosition, event: u64, index_in_event: u32) {
        let file = self.file(&transaction.file);
        let transaction = transaction.offset;
        self.runs.push(Run {
            row: index,
            index: index_in_event,
            event,
            transaction,
            file,
            nth_transaction: usize::MAX,
        });
    }

    /// Puts rows in their order.
    pub fn sort(&mut self) {
        self.runs.sort_by_key(|run| run.row);
    }

    /// Where a row's transaction begins, and where the row is in its file.
    fn find(&self, row: u32) -> Option<(BinlogPosition, EventOffset)> {
        let run = self.runs[..self.runs.partition_point(|run| run.row <= row)].last()?;
        let transaction = BinlogPosition::new(self.files[run.file as usize].clone(), run.transaction);
        Some((transaction, EventOffset { event: run.event, rows: run.index + (row - run.row) }))
    }

    fn file(&mut self, name: &str) -> u32 {
        // Rows of a file follow each other.
        if self.files.last().is_none_or(|last| last != name) {
            self.files.push(name.to_owned());
        }
        self.files.len() as u32 - 1
    }
}

/// Stops the pipeline at the row of an ack: neither it nor what is after it is to be delivered, and the checkpoint gets
/// directly before it.
pub fn stop(ack: Ack, error: anyhow::Error) {
    let BatchOrigin { before, places } = ack.batch();
    let place = places.get().and_then(|places| places.find(ack.row()));
    // Rows that may stop the pipeline have places; without one the whole batch comes again.
    let (transaction, before) = match place {
        Some((transaction, progress)) => {
            let partial = PartialTransaction { file: transaction.file.clone(), progress };
            (transaction, ResumePoint::clone(before).advanced_to(partial))
        }
        None => (before.position.clone(), ResumePoint::clone(before)),
    };
    error!(error = format!("{error:#}"), %transaction, "stopping: what is before this row is delivered first");
    ack.stop(before, StopError { transaction, error }.into());
}

/// Stops the pipeline after the last batch: what follows can't be read.
pub fn stop_reading(acks: &mut AckOpener, error: StopError) {
    let StopError { transaction, error: why } = &error;
    error!(error = format!("{why:#}"), %transaction, "stopping: what is before this event is delivered first");
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

    /// Opens a batch of a row that follows `before`.
    pub(crate) fn open(acks: &mut AckOpener, before: u64, after: u64) -> Ack {
        let opened = acks.open(BatchOrigin::after(Arc::new(resume(before))), resume(after), Cost { rows: 1, bytes: 1 });
        opened.now_or_never().expect("room").expect("nothing stopped it")
    }

    /// One that nobody waits for.
    pub(crate) fn ack() -> Ack {
        open(&mut ack::tracker(LIMITS).0, 4, 8)
    }

    #[test]
    fn a_stop_is_directly_before_its_row() {
        let (mut acks, mut feed, observer) = ack::tracker(LIMITS);
        let ack = open(&mut acks, 100, 900);
        let mut places = Places::default();
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
}
