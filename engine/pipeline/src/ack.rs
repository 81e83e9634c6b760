//! Acknowledgements: which batches are delivered, and up to where all of them are.
//!
//! The reader opens an [`Ack`] for each batch, in the order of the binlog, and takes the batch's share of the in-flight
//! budget with it. The ack is split into parts, one for each sink and message. A batch is acknowledged when all its
//! parts are: each is durable at its sink, dropped on purpose, or durable as a dead letter. The watermark follows the
//! longest run of acknowledged batches from the start.
//!
//! Invariants, whatever the order of calls, and whichever thread panics (checked against a model by proptest, and by
//! loom in every order of threads):
//!
//! - the watermark never passes a row that is not acknowledged, and never goes back;
//! - an [`Ack`] that is dropped without being acknowledged (an early return, a panic, a task that is aborted) keeps the
//!   watermark before its batch for good;
//! - [`Ack::stop`] lets the watermark get to the row that stopped the pipeline, and no further; of several such rows the
//!   first counts, whichever was found first;
//! - batches hold their share of the budget until their progress is durable ([`CheckpointFeed::release`]);
//! - so a restart at the watermark delivers a superset of what is not delivered.

use std::collections::VecDeque;
use std::error::Error;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::sync::PoisonError;
use std::task::{Context, Poll, Waker};

use crate::sync::{Arc, AtomicU32, AtomicU64, AtomicUsize, Mutex, MutexGuard, Ordering};

/// What a batch takes of the in-flight budget.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Rows as read, before transforms.
    pub rows: u32,
    /// Bytes of the packed batch.
    pub bytes: u32,
}

/// How far the watermark moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advance<P> {
    /// The progress of the last batch that it passed.
    pub progress: P,
    /// Rows of the batches that it passed.
    pub rows: u64,
    /// Bytes of these batches.
    pub bytes: u64,
}

/// No batch may be opened any more: something stopped the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped;

/// Why a row, or what follows the last batch, must not be passed.
pub type StopCause = Box<dyn Error + Send + Sync>;

/// What isn't delivered when all has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Rows of batches that aren't acknowledged whole.
    pub rows: u64,
    /// Whether the progress up to where all is acknowledged is durable.
    pub is_durable: bool,
}

/// The first row that must not be passed, when all has ended.
#[derive(Debug)]
pub struct StopReport {
    /// Why.
    pub cause: StopCause,
    /// Whether all before it is acknowledged, and the progress directly before it durable.
    pub is_reached: bool,
}

/// Makes the ends of a pipeline's acknowledgements, with an in-flight budget of `limits`.
pub fn tracker<P, B>(limits: Cost) -> (AckOpener<P, B>, CheckpointFeed<P>, AckObserver<P>) {
    let shared = Arc::new(Shared {
        limits,
        stop_sequence: AtomicU64::new(u64::MAX),
        state: Mutex::new(State {
            first: 0,
            entries: VecDeque::new(),
            unresolved: 0,
            in_flight: Held::default(),
            pending: None,
            stop: None,
            lost: 0,
            is_releasing: false,
            is_blocked: false,
            is_closed: false,
            reader: None,
            checkpoint_writer: None,
            observer: None,
        }),
    });
    (AckOpener(Arc::clone(&shared), PhantomData), CheckpointFeed(Arc::clone(&shared)), AckObserver(shared))
}

/// The reader's end: opens batches. When it is dropped, no batch follows.
#[derive(Debug)]
pub struct AckOpener<P, B = ()>(Arc<Shared<P>>, PhantomData<fn(B)>);

/// The checkpoint writer's end: tells how far all is acknowledged.
#[derive(Debug)]
pub struct CheckpointFeed<P>(Arc<Shared<P>>);

/// The supervisor's end: tells whether something stopped the pipeline.
#[derive(Debug)]
pub struct AckObserver<P>(Arc<Shared<P>>);

/// The duty to acknowledge a part of a batch: all of it, or what is made of one of its rows. All parts of a batch share
/// what it was opened with, a `B`.
#[derive(Debug)]
#[must_use = "an ack that is dropped keeps the watermark before its batch"]
pub struct Ack<P, B = ()> {
    batch: Arc<BatchAck<P, B>>,
    /// The first row of the batch that this part is about.
    row: u32,
    is_resolved: bool,
}

/// What the parts of a batch share.
#[derive(Debug)]
struct BatchAck<P, B> {
    shared: Arc<Shared<P>>,
    batch: B,
    sequence: u64,
    /// Parts that are neither acknowledged nor dropped.
    open_parts: AtomicUsize,
    /// The lowest row of a part that was dropped or stopped; [`NO_ROW`] if none was.
    lowest_lost_row: AtomicU32,
}

const NO_ROW: u32 = u32::MAX;

#[derive(Debug)]
struct Shared<P> {
    limits: Cost,
    /// The batch of [`State::stop`]; `u64::MAX` without one.
    stop_sequence: AtomicU64,
    state: Mutex<State<P>>,
}

#[derive(Debug)]
struct State<P> {
    /// The sequence number of the first entry.
    first: u64,
    entries: VecDeque<Entry<P>>,
    /// Entries of which parts are open.
    unresolved: usize,
    /// What was opened and not released.
    in_flight: Held,
    /// How far the watermark moved since the checkpoint writer asked last.
    pending: Option<Advance<P>>,
    /// The first row that must not be delivered.
    stop: Option<Stop<P>>,
    /// Batches of which a part was dropped, though nothing stopped the pipeline before them.
    lost: u64,
    /// What was taken from `pending` last is not durable yet.
    is_releasing: bool,
    /// The watermark will not move any more.
    is_blocked: bool,
    /// No batch follows.
    is_closed: bool,
    reader: Option<Waker>,
    checkpoint_writer: Option<Waker>,
    observer: Option<Waker>,
}

#[derive(Debug)]
struct Stop<P> {
    sequence: u64,
    row: u32,
    /// Whether it is no row of a batch but what follows the last one.
    is_after_all: bool,
    /// The progress directly before the row; `None` once the watermark is there.
    progress: Option<P>,
    /// Why the row must not be passed, until it is asked for.
    cause: Option<StopCause>,
}

#[derive(Debug)]
struct Entry<P> {
    progress: P,
    cost: Cost,
    outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Open,
    Acknowledged,
    /// All before the row that stopped the pipeline is acknowledged.
    Partial,
    Lost,
}

/// What several batches hold of the budget.
#[derive(Debug, Clone, Copy, Default)]
struct Held {
    rows: u64,
    bytes: u64,
}

impl<P, B> AckOpener<P, B> {
    /// Waits until the in-flight budget has room for a batch, and opens it. `batch` is what its acks share, `progress`
    /// what is reached once all of it is delivered. One that is larger than the whole budget waits until nothing else is
    /// in flight. Cancel safe: a batch is opened or it isn't.
    ///
    /// # Errors
    /// If something stopped the pipeline: the batch would not be delivered.
    pub async fn open(&mut self, batch: B, progress: P, cost: Cost) -> Result<Ack<P, B>, Stopped> {
        let cost = self.0.share(cost);
        let mut parts = Some((batch, progress));
        poll_fn(|context| {
            let mut state = self.0.state();
            if state.is_stopped() {
                return Poll::Ready(Err(Stopped));
            }
            if !state.in_flight.has_room(cost, self.0.limits) {
                let is_urgent = state.is_urgent(self.0.limits);
                set_waker(&mut state.reader, context);
                if is_urgent {
                    wake(state, |state| [state.checkpoint_writer.take(), None, None]);
                }
                return Poll::Pending;
            }
            let Some((batch, progress)) = parts.take() else { return Poll::Ready(Err(Stopped)) };
            let sequence = state.open(progress, cost);
            let batch = BatchAck {
                shared: Arc::clone(&self.0),
                batch,
                sequence,
                open_parts: AtomicUsize::new(1),
                lowest_lost_row: AtomicU32::new(NO_ROW),
            };
            Poll::Ready(Ok(Ack { batch: Arc::new(batch), row: 0, is_resolved: false }))
        })
        .await
    }

    /// What follows the last batch that was opened can't be read. What is before it still is to be delivered.
    pub fn stop(&mut self, cause: StopCause) {
        let mut state = self.0.state();
        let sequence = state.first + state.entries.len() as u64;
        self.0.stop(&mut state, Stop { sequence, row: 0, is_after_all: true, progress: None, cause: Some(cause) });
        wake(state, |state| [state.observer.take(), None, None]);
    }

    /// What all batches may take together.
    pub fn limits(&self) -> Cost {
        self.0.limits
    }
}

impl<P, B> Drop for AckOpener<P, B> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.is_closed = true;
        wake(state, |state| [state.checkpoint_writer.take(), None, None]);
    }
}

impl<P> CheckpointFeed<P> {
    /// Waits until the watermark moved since [`CheckpointFeed::take`]. False if it will not move any more.
    pub async fn moved(&mut self) -> bool {
        self.wait_for(|state, _| match &state.pending {
            Some(_) => Some(true),
            None => state.is_finished().then_some(false),
        })
        .await
    }

    /// Waits until a checkpoint should be written without delay: the reader is short of room, or nothing follows.
    pub async fn urgent(&mut self) {
        self.wait_for(|state, limits| (state.is_finished() || state.is_urgent(limits)).then_some(())).await;
    }

    /// How far the watermark moved since the last call.
    pub fn take(&mut self) -> Option<Advance<P>> {
        let mut state = self.0.state();
        state.is_releasing |= state.pending.is_some();
        state.pending.take()
    }

    /// The progress of an advance is durable: gives its share of the budget back.
    pub fn release(&mut self, advance: &Advance<P>) {
        let mut state = self.0.state();
        state.in_flight.rows -= advance.rows;
        state.in_flight.bytes -= advance.bytes;
        state.is_releasing = false;
        wake(state, |state| [state.reader.take(), None, None]);
    }

    async fn wait_for<T>(&mut self, mut ready: impl FnMut(&State<P>, Cost) -> Option<T>) -> T {
        poll_fn(|context| {
            let mut state = self.0.state();
            if let Some(value) = ready(&state, self.0.limits) {
                return Poll::Ready(value);
            }
            set_waker(&mut state.checkpoint_writer, context);
            Poll::Pending
        })
        .await
    }
}

impl<P> AckObserver<P> {
    /// Waits until something stops the pipeline: a row that must not be passed, or an ack that is dropped.
    pub async fn stopped(&self) {
        poll_fn(|context| {
            let mut state = self.0.state();
            if state.is_stopped() {
                return Poll::Ready(());
            }
            set_waker(&mut state.observer, context);
            Poll::Pending
        })
        .await;
    }

    /// The first row that must not be passed, if there is one. Its cause is given once.
    pub fn stop(&self) -> Option<StopReport> {
        let mut state = self.0.state();
        let has_passed_all = state.entries.is_empty();
        let is_durable = state.pending.is_none() && !state.is_releasing;
        let next = state.first;
        let stop = state.stop.as_mut()?;
        // After the last batch, or in one of which all before the row is acknowledged.
        let is_passed =
            if stop.is_after_all { has_passed_all && next == stop.sequence } else { stop.progress.is_none() };
        Some(StopReport { cause: stop.cause.take()?, is_reached: is_passed && is_durable })
    }

    /// What isn't delivered, and whether the progress of what is has become durable.
    pub fn left(&self) -> Left {
        let state = self.0.state();
        let rows = state.entries.iter().map(|entry| u64::from(entry.cost.rows)).sum();
        Left { rows, is_durable: state.pending.is_none() && !state.is_releasing }
    }

    /// Batches of which a part was dropped without being acknowledged, though nothing stopped the pipeline before them:
    /// whoever held it failed.
    pub fn lost(&self) -> u64 {
        self.0.state().lost
    }
}

impl<P, B> Ack<P, B> {
    /// A further part of the same batch: what is made of `row` and nothing before it.
    pub fn part(&self, row: u32) -> Self {
        self.batch.open_parts.fetch_add(1, Ordering::Relaxed);
        Self { batch: Arc::clone(&self.batch), row, is_resolved: false }
    }

    /// The first row of the batch that this part is about.
    pub fn row(&self) -> u32 {
        self.row
    }

    /// Whether another ack is a part of the same batch.
    pub fn is_of_batch(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.batch, &other.batch)
    }

    /// What all parts of the batch share.
    pub fn batch(&self) -> &B {
        &self.batch.batch
    }

    /// This part is delivered, or need not be.
    pub fn acknowledge(mut self) {
        self.is_resolved = true;
        self.batch.resolve_part();
    }

    /// This part's row must not be passed: it and all after it are not to be delivered. `before` is the progress directly
    /// before the row. What is before it still is to be delivered.
    pub fn stop(mut self, before: P, cause: StopCause) {
        self.is_resolved = true;
        let shared = &self.batch.shared;
        let mut state = shared.state();
        let (sequence, row) = (self.batch.sequence, self.row);
        shared
            .stop(&mut state, Stop { sequence, row, is_after_all: false, progress: Some(before), cause: Some(cause) });
        wake(state, |state| [state.observer.take(), state.reader.take(), None]);
        self.batch.lose_part(self.row);
    }

    /// Whether this part is not to be delivered, because its row or one before it stopped the pipeline.
    pub fn is_stopped(&self) -> bool {
        self.is_stopped_at(self.row)
    }

    /// Whether what is made of a row of the batch is not to be delivered.
    pub fn is_stopped_at(&self, row: u32) -> bool {
        if self.batch.sequence < self.batch.shared.stop_sequence.load(Ordering::Acquire) {
            return false;
        }
        let state = self.batch.shared.state();
        state.stop.as_ref().is_some_and(|stop| (self.batch.sequence, row) >= (stop.sequence, stop.row))
    }
}

impl<P, B> Drop for Ack<P, B> {
    fn drop(&mut self) {
        if !self.is_resolved {
            self.batch.lose_part(self.row);
        }
    }
}

impl<P, B> BatchAck<P, B> {
    fn lose_part(&self, row: u32) {
        self.lowest_lost_row.fetch_min(row, Ordering::Relaxed);
        self.resolve_part();
    }

    fn resolve_part(&self) {
        // Release: what other parts did to `lowest_lost_row` is seen by the last one.
        if self.open_parts.fetch_sub(1, Ordering::AcqRel) == 1 {
            let row = self.lowest_lost_row.load(Ordering::Relaxed);
            self.shared.resolve(self.sequence, (row != NO_ROW).then_some(row));
        }
    }
}

impl<P> Shared<P> {
    /// A panic of another thread leaves the state whole: nothing here panics while it changes it.
    fn state(&self) -> MutexGuard<'_, State<P>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of several stops the first row's counts.
    fn stop(&self, state: &mut State<P>, stop: Stop<P>) {
        let place = (stop.sequence, stop.row);
        if state.stop.as_ref().is_none_or(|known| place < (known.sequence, known.row)) {
            self.stop_sequence.store(stop.sequence, Ordering::Release);
            state.stop = Some(stop);
        }
    }

    /// What a batch takes: one that is larger than the whole budget takes all of it.
    fn share(&self, cost: Cost) -> Cost {
        Cost { rows: cost.rows.min(self.limits.rows), bytes: cost.bytes.min(self.limits.bytes) }
    }

    /// No part of a batch is open any more.
    fn resolve(&self, sequence: u64, lowest_lost_row: Option<u32>) {
        let mut state = self.state();
        let outcome = match (lowest_lost_row, &state.stop) {
            (None, _) => Outcome::Acknowledged,
            (Some(row), Some(stop)) if stop.sequence == sequence && stop.row <= row => Outcome::Partial,
            (Some(_), _) => Outcome::Lost,
        };
        // Entries before `first` are resolved.
        let index = (sequence - state.first) as usize;
        state.entries[index].outcome = outcome;
        state.unresolved -= 1;
        let is_after_stop = state.stop.as_ref().is_some_and(|stop| stop.sequence < sequence);
        let is_loss = outcome == Outcome::Lost && !is_after_stop;
        state.lost += u64::from(is_loss);
        let had_pending = state.pending.is_some();
        state.advance();
        let is_news = !had_pending && state.pending.is_some();
        // Whoever waits for room needs the next checkpoint at once.
        let wakes_writer = is_news || state.is_finished() || state.is_urgent(self.limits);
        wake(state, |state| {
            [
                if wakes_writer { state.checkpoint_writer.take() } else { None },
                if is_loss { state.observer.take() } else { None },
                if is_loss { state.reader.take() } else { None },
            ]
        });
    }
}

impl<P> State<P> {
    /// The sequence number of the batch that it opens.
    fn open(&mut self, progress: P, cost: Cost) -> u64 {
        self.entries.push_back(Entry { progress, cost, outcome: Outcome::Open });
        self.unresolved += 1;
        self.in_flight.add(cost);
        self.first + self.entries.len() as u64 - 1
    }

    fn is_stopped(&self) -> bool {
        self.stop.is_some() || self.lost > 0
    }

    /// Whether the watermark will not move any more.
    fn is_finished(&self) -> bool {
        self.is_blocked || self.is_closed && self.unresolved == 0
    }

    /// Whether the reader may be waiting for what is delivered and not yet durable: it holds half of the budget, and less
    /// than half is left.
    fn is_urgent(&self, limits: Cost) -> bool {
        let Some(pending) = &self.pending else { return false };
        let is_short = |in_flight: u64, limit: u32, delivered: u64| {
            in_flight * 2 > u64::from(limit) && delivered * 2 >= u64::from(limit)
        };
        is_short(self.in_flight.rows, limits.rows, pending.rows)
            || is_short(self.in_flight.bytes, limits.bytes, pending.bytes)
    }

    /// Moves the watermark over what is acknowledged.
    fn advance(&mut self) {
        while !self.is_blocked {
            let Some(entry) = self.entries.front() else { return };
            match entry.outcome {
                Outcome::Open => return,
                Outcome::Lost => self.is_blocked = true,
                Outcome::Acknowledged => {
                    let Some(Entry { progress, cost, .. }) = self.entries.pop_front() else { return };
                    self.first += 1;
                    self.pass(progress, cost);
                }
                Outcome::Partial => {
                    self.is_blocked = true;
                    if let Some(progress) = self.stop.as_mut().and_then(|stop| stop.progress.take()) {
                        self.pass(progress, Cost::default());
                    }
                }
            }
        }
    }

    fn pass(&mut self, progress: P, cost: Cost) {
        let (rows, bytes) = (u64::from(cost.rows), u64::from(cost.bytes));
        match &mut self.pending {
            Some(pending) => {
                pending.progress = progress;
                pending.rows += rows;
                pending.bytes += bytes;
            }
            none => *none = Some(Advance { progress, rows, bytes }),
        }
    }
}

impl Held {
    fn add(&mut self, cost: Cost) {
        self.rows += u64::from(cost.rows);
        self.bytes += u64::from(cost.bytes);
    }

    fn has_room(self, cost: Cost, limits: Cost) -> bool {
        self.rows + u64::from(cost.rows) <= u64::from(limits.rows)
            && self.bytes + u64::from(cost.bytes) <= u64::from(limits.bytes)
    }
}

/// Wakes who is chosen, once the state is unlocked: who is woken asks for it at once.
fn wake<P>(mut state: MutexGuard<'_, State<P>>, choose: impl FnOnce(&mut State<P>) -> [Option<Waker>; 3]) {
    let wakers = choose(&mut state);
    drop(state);
    wakers.into_iter().flatten().for_each(Waker::wake);
}

fn set_waker(waker: &mut Option<Waker>, context: &Context<'_>) {
    match waker {
        Some(known) => known.clone_from(context.waker()),
        none => *none = Some(context.waker().clone()),
    }
}

#[cfg(all(test, loom))]
mod model;
#[cfg(all(test, not(loom)))]
mod tests;
