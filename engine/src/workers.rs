//! The stage between source and sinks: transforms and envelopes, on several threads. Batches are
//! taken in binlog order, worked on in parallel, and handed to the sinks in binlog order again.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rowmill_core::batch::{Batch, RowIndex, Table};
use rowmill_core::binlog::RowBatch;
use rowmill_core::position::{Past, Progress, Resume};
use rowmill_core::progress::Cost;
use tokio::sync::mpsc;

use crate::dispatch::Dispatcher;
use crate::failpoint::{self, Step};
use crate::ledger::Ledger;
use crate::sink::{Delivery, Message};
use crate::source::Outlet;
use crate::transform::{Chain, CurrentChain, Stop};
use crate::turnstile::Turnstile;

/// Batches that wait between two stages.
pub const BATCHES_WAITING_MAX: usize = 2;

/// Hands batches to workers, to each in turn: as they pass the exit in the batches' order, none could be further ahead
/// of another in any other way.
#[derive(Debug)]
pub struct Intake {
    jobs: Vec<mpsc::Sender<Job>>,
    next_number: u64,
    tables: Arc<[Arc<Table>]>,
    newest_chain: CurrentChain,
    chain: Arc<Chain>,
    /// That of the last batch.
    resume: Resume,
}

/// What all workers share.
#[derive(Debug)]
pub struct Workshop {
    exit: Turnstile,
    /// The sinks'; `None` of one that keeps nothing.
    outlets: Vec<Option<mpsc::Sender<Delivery>>>,
    ledger: Ledger,
}

/// A batch, and what it is to be worked on with.
#[derive(Debug)]
pub struct Job {
    number: u64,
    batch: RowBatch,
    tables: Arc<[Arc<Table>]>,
    chain: Arc<Chain>,
    /// From where to read on before this batch.
    before: Resume,
}

/// What became of a batch.
struct Done {
    /// By sink.
    messages: Vec<Vec<Message>>,
    resume: Resume,
    cost: Cost,
    stop: Option<Stop>,
}

impl Intake {
    /// Of batches the first of which follows on `start`. Gives what each of the `workers` takes.
    pub fn new(start: Resume, chain: CurrentChain, workers: usize) -> (Self, Vec<mpsc::Receiver<Job>>) {
        let (jobs, jobs_out) = (0..workers).map(|_| mpsc::channel(BATCHES_WAITING_MAX.div_ceil(workers))).unzip();
        let (tables, newest) = (Arc::new([]), chain.newest());
        (Self { jobs, next_number: 0, tables, newest_chain: chain, chain: newest, resume: start }, jobs_out)
    }

    fn job(&mut self, mut batch: RowBatch) -> Job {
        let number = self.next_number;
        self.next_number += 1;
        let newest = self.newest_chain.newest();
        if !Arc::ptr_eq(&newest, &self.chain) {
            newest.begin_at(number, &self.chain);
            self.chain = newest;
        }
        if !batch.new_tables.is_empty() {
            self.tables = self.tables.iter().cloned().chain(batch.new_tables.drain(..)).collect();
        }
        let before = std::mem::replace(&mut self.resume, batch.resume.clone());
        Job { number, batch, tables: Arc::clone(&self.tables), chain: Arc::clone(&self.chain), before }
    }
}

impl Outlet for Intake {
    async fn hand_on(&mut self, batch: RowBatch) -> bool {
        let job = self.job(batch);
        let worker = job.number as usize % self.jobs.len();
        self.jobs[worker].send(job).await.is_ok()
    }
}

impl Workshop {
    /// Hands messages to `outlets`, which are the sinks'; `None` of one that keeps nothing.
    pub fn new(outlets: Vec<Option<mpsc::Sender<Delivery>>>, ledger: Ledger) -> Self {
        Self { exit: Turnstile::default(), outlets, ledger }
    }

    /// Works until there are no more batches, or until another worker failed. Several do so at once,
    /// each with a dispatcher of its own.
    ///
    /// # Errors
    /// If a transform fails on a row that mustn't be passed over, or a row has no route. What is before
    /// that row was handed to the sinks.
    pub fn work(&self, mut jobs: mpsc::Receiver<Job>, mut dispatcher: Dispatcher) -> anyhow::Result<()> {
        while let Some(job) = jobs.blocking_recv() {
            let chain = Arc::clone(&job.chain);
            let goes_on = self.job(job, &mut dispatcher);
            if !matches!(goes_on, Ok(true)) {
                // Who waits for this batch's turn mustn't wait for ever.
                chain.close();
                self.exit.close();
                return goes_on.map(|_| ());
            }
        }
        Ok(())
    }

    /// False if the others don't go on either: whoever failed first says why.
    fn job(&self, job: Job, dispatcher: &mut Dispatcher) -> anyhow::Result<bool> {
        let number = job.number;
        let done = done(job, dispatcher);
        let Some(_turn) = self.exit.wait(number) else { return Ok(false) };
        let Some(Done { messages, resume, cost, stop }) = done? else { return Ok(false) };
        let is_taken = self.hand_on(messages, resume, cost);
        failpoint::reached(Step::HandedOn);
        match stop {
            Some(stop) => Err(stop.error.into()),
            None => Ok(is_taken),
        }
    }

    /// False if a sink takes no messages any more: it says why.
    fn hand_on(&self, by_sink: Vec<Vec<Message>>, resume: Resume, cost: Cost) -> bool {
        let ticket = self.ledger.open(resume, cost);
        let sinks_used = by_sink.iter().filter(|messages| !messages.is_empty()).count();
        if sinks_used == 0 {
            self.ledger.pass(ticket);
            return true;
        }
        let mut receipts = ticket.split(sinks_used).into_iter();
        for (messages, outlet) in by_sink.into_iter().zip(&self.outlets) {
            if messages.is_empty() {
                continue;
            }
            let receipt = receipts.next().expect("a receipt for each sink used");
            match outlet {
                None => self.ledger.settle(receipt),
                Some(outlet) if outlet.blocking_send(Delivery { messages, receipt }).is_ok() => {}
                Some(_) => return false,
            }
        }
        true
    }
}

/// Transforms and messages of a batch. `None` if everything stops because of an earlier one.
fn done(job: Job, dispatcher: &mut Dispatcher) -> anyhow::Result<Option<Done>> {
    let Job { number, batch, tables, chain, before } = job;
    let cost = batch.cost();
    let Some(mut transformed) = chain.transform(number, &batch, &tables)? else { return Ok(None) };
    failpoint::reached(Step::Transformed);
    let RowBatch { bytes, schema_change, resume, .. } = batch;
    let stop = transformed.stop.take();
    let now_us = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros() as i64);
    let server = Arc::clone(&resume.server);
    let mut messages = dispatcher.messages(transformed, Arc::clone(&server), &tables, now_us)?;
    if let Some(change) = schema_change {
        dispatcher.schema_change(&change, &server, now_us, &mut messages);
    }
    let resume = match &stop {
        Some(stop) => resume_before(before, &bytes, RowIndex(stop.origin)),
        None => resume,
    };
    Ok(Some(Done { messages, resume, cost, stop }))
}

/// From where to read on so that a row comes next. `before` is from where to read on before its batch.
fn resume_before(before: Resume, bytes: &[u8], row: RowIndex) -> Resume {
    let batch = Batch::parse(bytes).expect("batches are written by the builder");
    let row = batch.row(row);
    let file = batch.transaction(row.transaction()).header().file.to_owned();
    let header = row.header();
    let progress = Progress { event: header.event_position, rows: header.index_in_event };
    before.past_to(Past { file, progress })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rowmill_core::position::BinlogPosition;
    use tokio::time::Instant;

    use super::*;
    use crate::config::InFlight;
    use crate::ledger;
    use crate::sink::Body;
    use crate::source::Budget;

    fn message() -> Message {
        let (group, deduplication_id, attributes) = Default::default();
        Message { body: Body::default(), group, deduplication_id, attributes, table: None, queue: None }
    }

    #[test]
    fn what_goes_nowhere_is_settled_and_nothing_else() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let (ledger, mut advances, losses) = ledger::open(Budget::new(InFlight::default()));
        let mut advances = || {
            let next = async { tokio::time::timeout(Duration::from_millis(20), advances.next(Instant::now())).await };
            runtime.block_on(next).is_ok()
        };
        let (outlet, mut inlet) = mpsc::channel(1);
        let workshop = Workshop::new(vec![None, Some(outlet)], ledger.clone());
        let hand_on = |by_sink| {
            let resume = Resume::at("server", BinlogPosition::new("binlog.1", 4));
            workshop.hand_on(by_sink, resume, Cost { rows: 1, bytes: 1 })
        };

        assert!(hand_on(vec![vec![message()], vec![]]));
        assert!(advances());
        assert!(hand_on(vec![vec![message()], vec![message()]]));
        assert!(!advances(), "a sink has a message that it didn't deliver yet");
        ledger.settle(inlet.try_recv().expect("a delivery").receipt);
        assert!(advances());
        drop(inlet);
        assert!(!hand_on(vec![vec![], vec![message()]]), "nobody takes it");
        assert_eq!(losses.count(), 1);
    }
}
