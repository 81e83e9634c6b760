//! Acknowledgements: batches come in, in binlog order, each with its progress and its share of the in-flight budget;
//! the watermark goes out, and never passes a row that is not acknowledged.
//!
//! The reader opens an [`Ack`] for each batch, in binlog order, and takes the batch's share of the in-flight budget
//! with it. The ack is split into parts, one for each sink and message. A batch is acknowledged when all its parts
//! are. A part is acknowledged when its messages are durable at their sink or as dead letters, or when it needs no
//! delivery. The watermark is the end of the longest run of acknowledged batches.
//!
//! Invariants, whatever the order of calls, and whichever thread panics (checked against a model by proptest, and by
//! loom in every order of threads):
//!
//! - the watermark never passes a row that is not acknowledged, and never goes back;
//! - an [`Ack`] that is dropped without being acknowledged (an early return, a panic, an aborted task) keeps the
//!   watermark before its batch for good;
//! - [`Ack::stop`] lets the watermark advance to the row that stopped the pipeline, and no further; of several such
//!   rows the first counts, in whatever order they are found;
//! - a batch holds its share of the budget until its progress is durable ([`CheckpointFeed::release`]).
//!
//! So a restart at the watermark delivers at least everything that is not delivered yet.

use std::collections::VecDeque;
use std::error::Error;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::sync::PoisonError;
use std::task::{Context, Poll, Waker};

use crate::sync::{Arc, AtomicU32, AtomicU64, AtomicUsize, Mutex, MutexGuard, Ordering};

/// A batch's share of the in-flight budget.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Rows as read from the binlog, before the transforms; a change that is no row counts as one.
    pub rows: u32,
    /// Bytes of the batch in memory.
    pub bytes: u32,
}

/// A move of the watermark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advance<P> {
    /// The progress that the watermark reached.
    pub progress: P,
    /// Rows of the batches that the watermark passed.
    pub rows: u64,
    /// Bytes of the batches that the watermark passed.
    pub bytes: u64,
}

/// The error of opening a batch after something stopped the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped;

/// The reason why the watermark must not pass a row or the last batch.
pub type StopCause = Box<dyn Error + Send + Sync>;

/// The rows that are not delivered when the pipeline has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Undelivered {
    /// Rows of batches that are not acknowledged as a whole.
    pub rows: u64,
    /// Whether the progress at the watermark is durable.
    pub is_durable: bool,
}

/// The first row that the watermark must not pass, when the pipeline has ended.
#[derive(Debug)]
pub struct StopReport {
    /// The reason why the watermark must not pass the row.
    pub cause: StopCause,
    /// Whether everything before the row is acknowledged, and the progress directly before the row is durable.
    pub is_reached: bool,
}

/// Creates the ends of a pipeline's acknowledgement tracker, with an in-flight budget of `limits`.
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

/// The reader's end, which opens batches. When it is dropped, no batch follows.
#[derive(Debug)]
pub struct AckOpener<P, B = ()>(Arc<Shared<P>>, PhantomData<fn(B)>);

/// The checkpoint writer's end, which returns the moves of the watermark.
#[derive(Debug)]
pub struct CheckpointFeed<P>(Arc<Shared<P>>);

/// The supervisor's end, which reports what stopped the pipeline.
#[derive(Debug)]
pub struct AckObserver<P>(Arc<Shared<P>>);

/// The duty to acknowledge a part of a batch: all of the batch, or the messages of one of its rows. All parts of a
/// batch share the value of type `B` with which the batch was opened.
#[derive(Debug)]
#[must_use = "an ack that is dropped keeps the watermark before its batch"]
pub struct Ack<P, B = ()> {
    batch: Arc<BatchAck<P, B>>,
    /// The first row of the batch that this part covers, as an index into the batch.
    row: u32,
    is_resolved: bool,
}

/// The state that the parts of a batch share.
#[derive(Debug)]
struct BatchAck<P, B> {
    shared: Arc<Shared<P>>,
    batch: B,
    sequence: u64,
    /// Parts that are not resolved: neither acknowledged nor stopped nor dropped.
    open_parts: AtomicUsize,
    /// The lowest row of the parts that were dropped or stopped; [`NO_ROW`] if there is none.
    lowest_lost_row: AtomicU32,
}

const NO_ROW: u32 = u32::MAX;

#[derive(Debug)]
struct Shared<P> {
    limits: Cost,
    /// The sequence number of the batch of [`State::stop`]; `u64::MAX` without a stop.
    stop_sequence: AtomicU64,
    state: Mutex<State<P>>,
}

#[derive(Debug)]
struct State<P> {
    /// The sequence number of the first entry.
    first: u64,
    entries: VecDeque<Entry<P>>,
    /// Entries that have open parts.
    unresolved: usize,
    /// The sum of the shares of all batches that are opened and not released.
    in_flight: Held,
    /// The move of the watermark since the checkpoint writer's last [`CheckpointFeed::take`].
    pending: Option<Advance<P>>,
    /// The first row that must not be delivered.
    stop: Option<Stop<P>>,
    /// Batches that lost a part although nothing stopped the pipeline before them.
    lost: u64,
    /// Whether the advance last taken from `pending` is not durable yet.
    is_releasing: bool,
    /// Whether an entry blocks the watermark for good.
    is_blocked: bool,
    /// Whether the reader's end is dropped: no batch follows.
    is_closed: bool,
    reader: Option<Waker>,
    checkpoint_writer: Option<Waker>,
    observer: Option<Waker>,
}

#[derive(Debug)]
struct Stop<P> {
    sequence: u64,
    row: u32,
    /// Whether the stop is after the last batch, rather than at a row of a batch.
    is_after_all: bool,
    /// The progress directly before the row; `None` once the watermark is there.
    progress: Option<P>,
    /// The reason, until [`AckObserver::stop`] takes it.
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
    /// Everything before the row that stopped the pipeline is acknowledged.
    Partial,
    Lost,
}

/// The sum of several batches' shares of the budget.
#[derive(Debug, Clone, Copy, Default)]
struct Held {
    rows: u64,
    bytes: u64,
}

impl<P, B> AckOpener<P, B> {
    /// Waits until the in-flight budget has room for a batch, and opens the batch. The batch's acks share `batch`;
    /// `progress` is reached once the whole batch is acknowledged. A batch that is larger than the whole budget waits
    /// until nothing else is in flight.
    ///
    /// Cancel safe: a cancelled call opens no batch.
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

    /// Stops the pipeline after the last batch that was opened, because what follows cannot be read. All opened batches
    /// are still to be delivered.
    pub fn stop(&mut self, cause: StopCause) {
        let mut state = self.0.state();
        let sequence = state.first + state.entries.len() as u64;
        self.0.stop(&mut state, Stop { sequence, row: 0, is_after_all: true, progress: None, cause: Some(cause) });
        wake(state, |state| [state.observer.take(), None, None]);
    }

    /// Returns the in-flight budget: the most that all batches together may take.
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
    /// Waits until the watermark has moved since the last [`CheckpointFeed::take`]. Returns false if it will not move
    /// any more.
    pub async fn wait_for_advance(&mut self) -> bool {
        self.wait_for(|state, _| match &state.pending {
            Some(_) => Some(true),
            None => state.is_finished().then_some(false),
        })
        .await
    }

    /// Waits until a checkpoint should be written without delay: the reader is short of room, or nothing follows.
    pub async fn wait_until_urgent(&mut self) {
        self.wait_for(|state, limits| (state.is_finished() || state.is_urgent(limits)).then_some(())).await;
    }

    /// Returns the move of the watermark since the last call.
    pub fn take(&mut self) -> Option<Advance<P>> {
        let mut state = self.0.state();
        state.is_releasing |= state.pending.is_some();
        state.pending.take()
    }

    /// Returns an advance's share to the budget. Called once the advance's progress is durable.
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

    /// Returns the first row that the watermark must not pass. `None` if there is none, or if an earlier call
    /// returned its cause.
    pub fn stop(&self) -> Option<StopReport> {
        let mut state = self.0.state();
        let has_passed_all = state.entries.is_empty();
        let is_durable = state.pending.is_none() && !state.is_releasing;
        let next = state.first;
        let stop = state.stop.as_mut()?;
        // The stop is after the last batch, or the watermark is directly before its row.
        let is_passed =
            if stop.is_after_all { has_passed_all && next == stop.sequence } else { stop.progress.is_none() };
        Some(StopReport { cause: stop.cause.take()?, is_reached: is_passed && is_durable })
    }

    /// Returns how many rows are not delivered, and whether the watermark is durable.
    pub fn undelivered(&self) -> Undelivered {
        let state = self.0.state();
        let rows = state.entries.iter().map(|entry| u64::from(entry.cost.rows)).sum();
        Undelivered { rows, is_durable: state.pending.is_none() && !state.is_releasing }
    }

    /// Returns how many batches lost a part although nothing stopped the pipeline before them: a part's owner failed
    /// and dropped its ack.
    pub fn lost_batches(&self) -> u64 {
        self.0.state().lost
    }
}

impl<P, B> Ack<P, B> {
    /// Returns a further part of the same batch, for the messages of `row`.
    pub fn part(&self, row: u32) -> Self {
        self.batch.open_parts.fetch_add(1, Ordering::Relaxed);
        Self { batch: Arc::clone(&self.batch), row, is_resolved: false }
    }

    /// Returns the first row of the batch that this part covers.
    pub fn row(&self) -> u32 {
        self.row
    }

    /// Whether another ack is a part of the same batch.
    pub fn is_of_batch(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.batch, &other.batch)
    }

    /// Returns the value that all parts of the batch share.
    pub fn batch(&self) -> &B {
        &self.batch.batch
    }

    /// Acknowledges this part: it is delivered, or needs no delivery.
    pub fn acknowledge(mut self) {
        self.is_resolved = true;
        self.batch.resolve_part();
    }

    /// Stops the pipeline at this part's row: the row and everything after it must not be delivered, while everything
    /// before it still is to be. `before` is the progress directly before the row.
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

    /// Whether this part must not be delivered, because its row or an earlier one stopped the pipeline.
    pub fn is_stopped(&self) -> bool {
        self.is_stopped_at(self.row)
    }

    /// Whether the messages of a row of the batch must not be delivered.
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
        // `AcqRel`: the part that is resolved last sees what the others wrote to `lowest_lost_row`.
        if self.open_parts.fetch_sub(1, Ordering::AcqRel) == 1 {
            let row = self.lowest_lost_row.load(Ordering::Relaxed);
            self.shared.resolve(self.sequence, (row != NO_ROW).then_some(row));
        }
    }
}

impl<P> Shared<P> {
    /// Locks the state, even after a panic of another thread: no code panics in the middle of a change to it.
    fn state(&self) -> MutexGuard<'_, State<P>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a stop. Of several stops the one at the first row counts.
    fn stop(&self, state: &mut State<P>, stop: Stop<P>) {
        let place = (stop.sequence, stop.row);
        if state.stop.as_ref().is_none_or(|known| place < (known.sequence, known.row)) {
            self.stop_sequence.store(stop.sequence, Ordering::Release);
            state.stop = Some(stop);
        }
    }

    /// Returns a batch's share: a batch that is larger than the whole budget takes all of it.
    fn share(&self, cost: Cost) -> Cost {
        Cost { rows: cost.rows.min(self.limits.rows), bytes: cost.bytes.min(self.limits.bytes) }
    }

    /// Records the outcome of a batch that has no open part any more, and moves the watermark.
    fn resolve(&self, sequence: u64, lowest_lost_row: Option<u32>) {
        let mut state = self.state();
        let outcome = match (lowest_lost_row, &state.stop) {
            (None, _) => Outcome::Acknowledged,
            (Some(row), Some(stop)) if stop.sequence == sequence && stop.row <= row => Outcome::Partial,
            (Some(_), _) => Outcome::Lost,
        };
        // No underflow: only resolved batches are before `first`.
        let index = (sequence - state.first) as usize;
        state.entries[index].outcome = outcome;
        state.unresolved -= 1;
        let is_after_stop = state.stop.as_ref().is_some_and(|stop| stop.sequence < sequence);
        let is_loss = outcome == Outcome::Lost && !is_after_stop;
        state.lost += u64::from(is_loss);
        let had_pending = state.pending.is_some();
        state.advance();
        let is_news = !had_pending && state.pending.is_some();
        // A reader that waits for room needs the next checkpoint at once.
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
    /// Opens a batch and returns its sequence number.
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

    /// Whether the reader may be waiting for delivered batches whose progress is not durable yet: they hold at least
    /// half of the budget, and more than half of it is in flight.
    fn is_urgent(&self, limits: Cost) -> bool {
        let Some(pending) = &self.pending else { return false };
        let is_short = |in_flight: u64, limit: u32, delivered: u64| {
            in_flight * 2 > u64::from(limit) && delivered * 2 >= u64::from(limit)
        };
        is_short(self.in_flight.rows, limits.rows, pending.rows)
            || is_short(self.in_flight.bytes, limits.bytes, pending.bytes)
    }

    /// Moves the watermark over the batches that are acknowledged.
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

/// Wakes the chosen tasks after the state is unlocked, since they lock it at once.
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
