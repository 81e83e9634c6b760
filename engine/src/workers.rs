//! The stage between source and sinks: transforms and routing, on several threads.
//!
//! In: batches in binlog order. Out: messages, handed to the sinks in binlog order. In between, workers process batches
//! concurrently.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rowmill_core::batch::{RowIndex, Table};
use rowmill_core::binlog::{RowBatch, SkippedChange};
use rowmill_pipeline::sequencer::{Sequencer, Turn};
use tokio::sync::mpsc;
use tracing::warn;

use crate::ack::{self, Ack, AckOpener, BatchOrigin, Cost, StopError};
use crate::failpoint::{self, Step};
use crate::retry::is_logged;
use crate::router::{RoutedBatch, Router};
#[cfg(test)]
use crate::simulation::Mutation;
use crate::sink::{Delivery, Message, Outlet};
use crate::source::BatchConsumer;
use crate::transform::{Chain, CurrentChain, Stop};

/// The number of batches that may wait between two stages.
pub const BATCHES_WAITING_MAX: usize = 2;

/// Opens an ack for each batch, in binlog order, and hands batches to the workers round-robin: their output is ordered, so
/// another assignment would not add parallelism.
#[derive(Debug)]
pub struct Intake {
    acks: AckOpener,
    tasks: Vec<mpsc::Sender<Task>>,
    exit: Arc<Sequencer>,
    next_number: u64,
    tables: Arc<[Arc<Table>]>,
    newest_chain: CurrentChain,
    chain: Arc<Chain>,
}

/// A batch and the work to be done on it.
#[derive(Debug)]
pub struct Task {
    number: u64,
    /// The batch's place in the order of output.
    turn: Turn,
    batch: RowBatch,
    ack: Ack,
    tables: Arc<[Arc<Table>]>,
    chain: Arc<Chain>,
}

/// Processes tasks one after another, and hands their messages to the sinks. Several workers run concurrently.
#[derive(Debug)]
pub struct Worker {
    tasks: mpsc::Receiver<Task>,
    router: Router,
    /// One for each sink; `None` for a sink that discards messages.
    outlets: Arc<[Option<Outlet>]>,
    skips: Arc<SkipCounter>,
}

/// Counts and logs changes that cannot be decoded and become dead letters.
#[derive(Debug, Default)]
pub struct SkipCounter(AtomicU64);

impl SkipCounter {
    fn count(&self, skipped: &SkippedChange) {
        let skipped_so_far = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        if is_logged(skipped_so_far) {
            warn!(skipped_so_far, row = skipped.row, error = %skipped.error, "undecodable change sent as a dead letter");
        }
    }
}

impl Intake {
    /// Returns an intake that opens acks with `acks`, and the tasks of each of the `workers`.
    pub fn new(acks: AckOpener, chain: CurrentChain, workers: usize) -> (Self, Vec<mpsc::Receiver<Task>>) {
        let (tasks, tasks_out) = (0..workers).map(|_| mpsc::channel(BATCHES_WAITING_MAX.div_ceil(workers))).unzip();
        let newest = chain.newest();
        let intake = Self {
            acks,
            tasks,
            exit: Arc::default(),
            next_number: 0,
            tables: Arc::new([]),
            newest_chain: chain,
            chain: newest,
        };
        (intake, tasks_out)
    }

    fn task(&mut self, mut batch: RowBatch, ack: Ack) -> Task {
        let number = self.next_number;
        self.next_number += 1;
        let newest = self.newest_chain.newest();
        if !Arc::ptr_eq(&newest, &self.chain) {
            newest.begin_at(number, &self.chain);
            self.chain = newest;
        }
        if let Some(generation) = batch.new_tables.first().map(|table| table.generation) {
            let known = self.tables.iter().filter(|table| table.generation == generation).cloned();
            self.tables = known.chain(batch.new_tables.drain(..)).collect();
        }
        let turn = Turn::reserve(&self.exit, number);
        Task { number, turn, batch, ack, tables: Arc::clone(&self.tables), chain: Arc::clone(&self.chain) }
    }
}

impl BatchConsumer for Intake {
    fn batch_limits(&self) -> Cost {
        self.acks.limits()
    }

    async fn forward(&mut self, batch: RowBatch) -> bool {
        failpoint::delay(Step::Decoded).await;
        let worker = self.next_number as usize % self.tasks.len();
        // The place in the channel is reserved first, so that no ack is opened and then dropped because the source stops.
        let tasks = self.tasks[worker].clone();
        let Ok(place) = tasks.reserve().await else { return false };
        let origin = BatchOrigin::after(Arc::clone(&batch.before));
        let Ok(ack) = self.acks.open(origin, batch.resume.clone(), batch.cost()).await else { return false };
        failpoint::reached(Step::Decoded);
        place.send(self.task(batch, ack));
        true
    }

    fn stop(&mut self, error: StopError) {
        ack::stop_reading(&mut self.acks, error);
    }
}

impl Worker {
    /// Creates a worker that processes `tasks` and hands messages to `outlets`, one for each sink; `None` for a sink that
    /// discards messages. All workers share `skips`.
    pub fn new(
        tasks: mpsc::Receiver<Task>,
        router: Router,
        outlets: Arc<[Option<Outlet>]>,
        skips: Arc<SkipCounter>,
    ) -> Self {
        Self { tasks, router, outlets, skips }
    }

    /// Processes tasks until there are no more, or until a row stops the pipeline: one that a transform fails on, that has
    /// no route, or that cannot be decoded. All messages before that row are handed to the sinks first. Blocks its thread
    /// while transforms run.
    pub async fn run(mut self) {
        while let Some(task) = self.tasks.recv().await {
            let chain = Arc::clone(&task.chain);
            let goes_on = self.task(task).await;
            if !goes_on {
                // Workers that wait until this batch has passed a plugin with one instance must not wait for ever.
                chain.close();
                return;
            }
        }
    }

    /// Processes a task. Returns false if the pipeline is stopping.
    async fn task(&mut self, task: Task) -> bool {
        let Task { number, mut turn, batch, ack, tables, chain } = task;
        let Some(mut transformed) = chain.transform(number, &batch, &tables).await else { return false };
        failpoint::reached(Step::Transformed);
        failpoint::delay(Step::Transformed).await;
        let RowBatch { packed, schema_change, skipped, resume, .. } = batch;
        transformed.skipped.extend(skipped.map(|skipped| (0, *skipped)));
        transformed.skipped.iter().for_each(|(_, skipped)| self.skips.count(skipped));
        let now_us = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros() as i64);
        let mut routed = self.router.messages(transformed, Arc::clone(&resume.server), &tables, now_us);
        if let (Some(change), None) = (schema_change, &routed.stop) {
            self.router.schema_change(&change, &resume.server, now_us, &mut routed);
        }
        let RoutedBatch { by_sink, mut places, stop } = routed;
        if let Some(Stop { origin, .. }) = stop {
            let batch = packed.view();
            let row = batch.row(RowIndex(origin));
            places.row(origin, &row, &tables[row.table().0 as usize], &batch);
        }
        places.sort();
        ack.batch().set_places(places);

        let Some(permit) = turn.wait().await else { return false };
        if ack.is_stopped() {
            return false;
        }
        let is_taken = self.forward(by_sink, &ack).await;
        failpoint::reached(Step::HandedOn);
        failpoint::delay(Step::HandedOn).await;
        #[cfg(test)]
        if crate::simulation::is_mutated(Mutation::HandOverDecides) {
            if stop.is_some() {
                crate::simulation::forget(ack);
                permit.pass();
                failpoint::delay(Step::HandedOn).await;
                return false;
            }
            crate::simulation::acknowledge_forgotten();
        }
        if let Some(Stop { origin, error }) = stop {
            // Stopped before the next batch may pass, as that batch must not be delivered.
            ack::stop(ack.part(origin), error);
            if is_taken {
                ack.acknowledge();
            }
            return false;
        }
        if is_taken {
            ack.acknowledge();
            permit.pass();
        }
        is_taken
    }

    /// Hands messages to the sinks. Returns false if a sink has ended; the sink reports the error.
    async fn forward(&self, by_sink: Vec<Vec<Message>>, ack: &Ack) -> bool {
        for (messages, outlet) in by_sink.into_iter().zip(&*self.outlets) {
            let (Some(first), Some(outlet)) = (messages.first(), outlet) else { continue };
            debug_assert!(messages.is_sorted_by_key(|message| message.row), "the first is of the first row");
            let ack = ack.part(first.row);
            #[cfg(test)]
            let ack = mutated(ack);
            if outlet.send(Delivery { messages, ack }).await.is_err() {
                return false;
            }
        }
        true
    }
}

/// Acknowledges early and returns another ack instead, where the simulation asks for this bug.
#[cfg(test)]
fn mutated(ack: Ack) -> Ack {
    if !crate::simulation::is_mutated(Mutation::EarlyAck) {
        return ack;
    }
    ack.acknowledge();
    ack::tests::ack()
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use rowmill_core::envelope::Connector;
    use rowmill_pipeline::ack::tracker;

    use super::*;
    use crate::ack::tests::{LIMITS, open};
    use crate::config::Destinations;
    use crate::sink;

    fn message() -> Message {
        Message::default()
    }

    #[tokio::test]
    async fn what_a_sink_has_is_not_delivered_before_it_says_so() {
        let (mut acks, mut feed, observer) = tracker(LIMITS);
        let (outlet, mut inlet) = sink::outlet(1, sink::Overflow::new(0));
        let (_, tasks) = mpsc::channel(1);
        let router = Router::new(Destinations::default(), Vec::new(), String::new(), Connector::MySql);
        let worker = Worker::new(tasks, router, Arc::new([None, Some(outlet)]), Arc::default());
        let mut forward = |by_sink| {
            let ack = open(&mut acks, 4, 8);
            let is_taken = worker.forward(by_sink, &ack).now_or_never().expect("room or an end");
            if is_taken {
                ack.acknowledge();
            }
            is_taken
        };

        assert!(forward(vec![vec![message()], vec![]]));
        assert!(feed.take().is_some(), "a discarding sink needs no delivery");
        assert!(forward(vec![vec![message()], vec![message()]]));
        assert!(feed.take().is_none(), "a sink has a message that is not delivered yet");
        inlet.try_recv().expect("a delivery").ack.acknowledge();
        assert!(feed.take().is_some());
        drop(inlet);
        assert!(!forward(vec![vec![], vec![message()]]), "the sink has ended");
        assert_eq!(observer.lost_batches(), 1);
    }
}
