//! Acknowledgements of batches of the binlog: progress is a place to resume at, and each row knows its own.
//!
//! In: batches, as they are read. Out: how far all is delivered, for the checkpoint writer, and where the pipeline
//! stopped. What guards the checkpoint is in [`rowmill_pipeline::ack`].

use std::sync::{Arc, OnceLock};

use rowmill_core::batch::{Batch, Row};
use rowmill_core::position::{BinlogPosition, Past, Progress, Resume};
use rowmill_pipeline::ack;
pub use rowmill_pipeline::ack::{Cost, Stopped};
use tracing::error;

/// The duty to acknowledge a part of a batch.
pub type Ack = ack::Ack<Resume, BatchOrigin>;
/// Opens batches, in their order.
pub type AckOpener = ack::AckOpener<Resume, BatchOrigin>;
/// How far all is acknowledged.
pub type CheckpointFeed = ack::CheckpointFeed<Resume>;
/// Whether something stopped the pipeline.
pub type AckObserver = ack::AckObserver<Resume>;
/// How far the watermark moved.
pub type Advance = ack::Advance<Resume>;

/// Where a batch begins.
#[derive(Debug)]
pub struct BatchOrigin {
    /// The resume point before the batch.
    before: Arc<Resume>,
    /// The binlog files of its rows, mostly one.
    files: OnceLock<Vec<String>>,
}

/// Where a row is in the binlog: in one of its batch's files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RowPlace {
    file: u32,
    /// Where its transaction begins.
    transaction: u64,
    /// Where its event begins.
    event: u64,
    /// Its index in that event.
    index: u32,
}

/// Finds rows' places, and the files that they are in.
#[derive(Debug, Default)]
pub struct Places {
    files: Vec<String>,
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
    pub fn after(before: Arc<Resume>) -> Self {
        Self { before, files: OnceLock::new() }
    }

    /// The files that the places of its rows are in. The first call counts.
    pub fn set_files(&self, places: Places) {
        let _ = self.files.set(places.files);
    }

    fn file(&self, place: RowPlace) -> &str {
        let file = self.files.get().and_then(|files| files.get(place.file as usize));
        file.map_or(&self.before.position.file, String::as_str)
    }
}

impl RowPlace {
    /// The place of another row of the same transaction.
    pub fn of_sibling(self, row: &Row<'_>) -> Self {
        let header = row.header();
        Self { event: header.event_position, index: header.index_in_event, ..self }
    }
}

impl Places {
    /// The place of a row of a batch.
    pub fn of_row(&mut self, row: &Row<'_>, batch: &Batch<'_>) -> RowPlace {
        let transaction = batch.transaction(row.transaction()).header();
        let file = self.file(transaction.file);
        RowPlace { file, transaction: transaction.position, event: 0, index: 0 }.of_sibling(row)
    }

    /// A place in an event of which the batch has no rows.
    pub fn of_event(&mut self, file: &str, transaction: u64, event: u64, index: u32) -> RowPlace {
        RowPlace { file: self.file(file), transaction, event, index }
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
pub fn stop(ack: Ack, place: RowPlace, error: anyhow::Error) {
    let file = ack.batch().file(place).to_owned();
    let progress = Progress { event: place.event, rows: place.index };
    let before = Resume::clone(&ack.batch().before).past_to(Past { file: file.clone(), progress });
    let transaction = BinlogPosition::new(file, place.transaction);
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
    use rowmill_core::position::{BinlogPosition, Resume};

    use super::*;

    pub(crate) const LIMITS: Cost = Cost { rows: 1_000, bytes: 1_000_000 };

    pub(crate) fn resume(offset: u64) -> Resume {
        Resume::at("server", BinlogPosition::new("binlog.000001", offset))
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
        let first = places.of_event("binlog.000001", 200, 200, 0);
        let place = RowPlace { event: 300, index: 7, ..places.of_event("binlog.000002", 250, 250, 0) };
        ack.batch().set_files(places);
        assert_eq!((first.file, place.file), (0, 1));
        let part = ack.part(5);
        ack.acknowledge();
        stop(part, place, anyhow::anyhow!("no"));
        let error = observer.stop().expect("a stop").cause.downcast::<StopError>().expect("ours");
        assert_eq!(error.transaction, BinlogPosition::new("binlog.000002", 250));
        let past = Past { file: "binlog.000002".to_owned(), progress: Progress { event: 300, rows: 7 } };
        assert_eq!(feed.take().map(|advance| advance.progress), Some(resume(100).past_to(past)));
    }
}
