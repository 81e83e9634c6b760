//! The stage between source and sinks: transforms and envelopes, on several threads. Batches are
//! taken in binlog order, worked on in parallel, and handed to the sinks in binlog order again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rowmill_core::batch::{Batch, RowIndex, Table};
use rowmill_core::binlog::RowBatch;
use rowmill_core::position::{Past, Progress, Resume};
use rowmill_core::progress::{Cost, Watermark};
use tokio::sync::mpsc;

use crate::dispatch::Dispatcher;
use crate::failpoint::{self, Step};
use crate::sink::{Delivery, Message, Settled};
use crate::transform::{Chain, CurrentChain, Stop};
use crate::turnstile::Turnstile;

/// The watermark, which is opened here and settled elsewhere.
pub type SharedWatermark = Arc<Mutex<Watermark>>;

/// What all workers share.
#[derive(Debug)]
pub struct Workshop {
    feed: Mutex<Feed>,
    exit: Turnstile,
    outlets: Vec<mpsc::Sender<Delivery>>,
    watermark: SharedWatermark,
    settled: Settled,
}

/// Where batches come from.
#[derive(Debug)]
struct Feed {
    batches: mpsc::Receiver<RowBatch>,
    next_number: u64,
    tables: Arc<[Arc<Table>]>,
    newest_chain: CurrentChain,
    chain: Arc<Chain>,
    /// That of the last batch.
    resume: Resume,
}

/// A batch, and what it is to be worked on with.
struct Job {
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

impl Workshop {
    /// Takes `batches`, the first of which follows on `start`; `outlets` are the sinks'.
    pub fn new(
        batches: mpsc::Receiver<RowBatch>,
        start: Resume,
        chain: CurrentChain,
        outlets: Vec<mpsc::Sender<Delivery>>,
        watermark: SharedWatermark,
        settled: Settled,
    ) -> Self {
        let feed = Feed {
            batches,
            next_number: 0,
            tables: Arc::new([]),
            chain: chain.newest(),
            newest_chain: chain,
            resume: start,
        };
        Self { feed: Mutex::new(feed), exit: Turnstile::default(), outlets, watermark, settled }
    }

    /// Works until there are no more batches, or until another worker failed. Several do so at once,
    /// each with a dispatcher of its own.
    ///
    /// # Errors
    /// If a transform fails on a row that mustn't be passed over, or a row has no route. What is before
    /// that row was handed to the sinks.
    pub fn work(&self, mut dispatcher: Dispatcher) -> anyhow::Result<()> {
        while let Some(job) = self.next_job() {
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

    fn next_job(&self) -> Option<Job> {
        self.feed.lock().unwrap_or_else(PoisonError::into_inner).next_job()
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
        let ticket = self.watermark.lock().unwrap_or_else(PoisonError::into_inner).open(resume, cost);
        let sinks_used = by_sink.iter().filter(|messages| !messages.is_empty()).count();
        if sinks_used == 0 {
            // Who takes tickets ends last, unless it failed: that is then the error to report.
            let _ = self.settled.send(ticket);
            return true;
        }
        let mut receipts = ticket.split(sinks_used).into_iter();
        for (messages, outlet) in by_sink.into_iter().zip(&self.outlets) {
            if messages.is_empty() {
                continue;
            }
            let receipt = receipts.next().expect("a receipt for each sink used");
            if outlet.blocking_send(Delivery { messages, receipt }).is_err() {
                return false;
            }
        }
        true
    }
}

impl Feed {
    fn next_job(&mut self) -> Option<Job> {
        let mut batch = self.batches.blocking_recv()?;
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
        Some(Job { number, batch, tables: Arc::clone(&self.tables), chain: Arc::clone(&self.chain), before })
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
