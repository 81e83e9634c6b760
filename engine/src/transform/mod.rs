//! Runs the transforms: every `.wasm` file of the plugins directory, in file-name order.
//!
//! A packed batch comes in and passes through the transforms, one after another. Out come the remaining rows, emitted
//! messages, dead letters and, if a row must not be passed, the place where the engine stops. Each verdict is validated
//! before it is used. Nothing is delivered or acknowledged here.

mod decision;
mod deferred;
mod error;
mod expression;
#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod hostile;
mod interest;
mod manifest;
mod message;
mod outcome;
mod plugin;
mod query;
mod recipe;
mod reload;
mod value;
mod wasm;

use std::sync::Arc;
use std::time::Duration;

use rowmill_core::batch::{Batch, Builder, PackedBatch, RowIndex, Table};
use rowmill_core::binlog::SkippedChange;
use rowmill_pipeline::sequencer::Sequencer;

pub use error::TransformError;
pub(crate) use expression::time_us;
pub use message::{Emitted, MessageText, Reroute};
pub use plugin::Plugin;
pub use query::RowCondition;
pub use reload::{CurrentChain, Reloader};
pub(crate) use value::check as check_value;
pub(crate) use wasm::LOG_TARGET;
pub use wasm::load::{Loader, Settings};

use decision::{Decision, Edits};
use error::PluginError;
use interest::{Disposition, Interest};
use manifest::OnError;
#[cfg(test)]
pub(crate) use manifest::OnError as OnTransformError;

/// The maximum sum of the pauses before retries, for each transform and batch. It includes the retries of single rows.
const RETRY_PAUSES_MAX: Duration = Duration::from_secs(10);

/// A transform of a chain.
pub(crate) trait Transform: std::fmt::Debug + Send + Sync {
    /// Returns the transform's name.
    fn name(&self) -> &str;

    /// Returns the transform's interest in a table.
    fn interest(&self, table: &Table) -> Result<Interest, PluginError>;

    /// Decides on the `rows` of a batch. Takes the pauses before retries from `pauses`, and does not retry without them.
    fn decide(
        &self,
        packed: &PackedBatch,
        rows: &[Passed],
        tables: &Arc<[Arc<Table>]>,
        pauses: &mut Duration,
    ) -> Result<Decided, PluginError>;

    /// Returns how a row that the transform failed on is handled.
    fn on_error(&self, error: &TransformError) -> OnError;

    /// For a transform with one instance, which may keep state: returns for each row whether the transform is asked about it.
    /// It is asked about each of these rows alone: a row is then seen once, whatever happens to its neighbours. `None`: the
    /// transform keeps no state.
    fn rows_seen_alone(&self, batch: &Batch<'_>, rows: &[Passed], tables: &[Arc<Table>]) -> Option<Vec<bool>>;

    /// Records that the transform failed on a batch, and then on none of its rows alone. It costs time, and hides a fault of
    /// the transform.
    fn failed_as_a_whole(&self, error: &PluginError);

    /// Returns the sequencer that orders the batches, if the transform must see them in order.
    fn sequencer(&self) -> Option<&Sequencer>;

    /// Logs the transform's counters.
    fn log_counters(&self);
}

/// A transform's decision on the rows of a batch.
#[derive(Debug)]
pub(crate) struct Decided {
    /// The rows' dispositions, in order.
    dispositions: Vec<Disposition>,
    /// A batch of these rows alone, and the validated verdict on it. `None` if the transform was asked about no row.
    decision: Option<(PackedBatch, Decision)>,
}

/// A batch after the transforms.
#[derive(Debug)]
pub struct Transformed {
    /// A packed batch that contains the rows of `rows`, and possibly others.
    pub packed: PackedBatch,
    /// The remaining rows, in binlog order.
    pub rows: Vec<Passed>,
    /// The messages that transforms made, in the order of the rows that they are made of.
    pub emitted: Vec<Emitted>,
    /// The batches that contain the rows of `emitted`; [`Emitted::batch`] is an index into this list.
    pub seen: Vec<PackedBatch>,
    /// Rows for the dead-letter sink, in binlog order.
    pub dead: Vec<DeadRow>,
    /// Rows that cannot be decoded and are skipped, by their index in the decoded batch. None of the fields above has
    /// anything of them.
    pub skipped: Vec<(u32, SkippedChange)>,
    /// The row before which the engine stops. None of the fields above has anything of this row or of later ones.
    pub stop: Option<Stop>,
    /// Whether a transform failed on a row.
    is_failed: bool,
    /// The error of a transform on the batch as a whole that it did not return for any row alone.
    pub hidden_error: Option<String>,
}

/// A row for the dead-letter sink.
#[derive(Debug)]
pub struct DeadRow {
    /// The batch that contains the row.
    pub batch: PackedBatch,
    /// The row's index in that batch.
    pub row: RowIndex,
    /// The row's index in the decoded batch.
    pub origin: u32,
    /// The reason.
    pub error: TransformError,
}

/// The row before which the engine stops.
#[derive(Debug)]
pub struct Stop {
    /// The row's index in the decoded batch.
    pub origin: u32,
    /// Why the row must not be passed.
    pub error: anyhow::Error,
}

/// A row that passed all transforms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    /// The row's index in [`Transformed::bytes`].
    pub row: RowIndex,
    /// The row's index in the decoded batch, which also orders it among the emitted messages.
    pub origin: u32,
    /// The destination that a transform set in place of the route's.
    pub reroute: Option<Reroute>,
}

/// All transforms, in order. A change of the plugins directory makes a new chain.
#[derive(Debug, Default)]
pub struct Chain {
    transforms: Vec<Arc<dyn Transform>>,
    /// One more than the version of the chain that this one replaced.
    version: u64,
}

impl Chain {
    /// Creates a chain of transforms, in order.
    pub(crate) fn of(transforms: Vec<Arc<dyn Transform>>) -> Self {
        Self { transforms, version: 0 }
    }

    /// Returns the chain's version, which tells it from earlier chains.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Returns whether there are no transforms, so that rows pass unchanged.
    pub fn is_empty(&self) -> bool {
        self.transforms.is_empty()
    }

    /// Returns the transforms' names, in order.
    pub fn names(&self) -> Vec<&str> {
        self.transforms.iter().map(|transform| transform.name()).collect()
    }

    /// Asks each transform about a table. Returns the transforms' names, and whether each decides on the table's rows or drops
    /// them, or its error.
    pub fn interests<'a>(&'a self, table: &'a Table) -> impl Iterator<Item = (&'a str, Result<bool, String>)> {
        self.transforms.iter().map(|transform| {
            let interest = transform.interest(table).map_err(|error| error.to_string());
            (transform.name(), interest.map(|interest| interest != Interest::Pass))
        })
    }

    /// Replaces the chain `earlier` from batch `number` on: the sequencers of new transforms begin there.
    pub fn begin_at(&self, number: u64, earlier: &Self) {
        for transform in &self.transforms {
            let is_known =
                earlier.transforms.iter().any(|known| std::ptr::addr_eq(Arc::as_ptr(known), Arc::as_ptr(transform)));
            if let (false, Some(sequencer)) = (is_known, transform.sequencer()) {
                sequencer.begin_at(number);
            }
        }
    }

    /// Closes the sequencers, as the engine stops: batches that wait for their turn no longer get it.
    pub fn close(&self) {
        self.transforms.iter().filter_map(|transform| transform.sequencer()).for_each(Sequencer::close);
    }

    /// Logs the transforms' counters.
    pub fn log_counters(&self) {
        self.transforms.iter().for_each(|transform| transform.log_counters());
    }

    /// Passes a batch of `rows` rows through the transforms.
    ///
    /// Batches are numbered in order, and every batch must pass. Returns `None` if the engine stops because of an earlier
    /// batch.
    pub async fn run(
        &self,
        number: u64,
        packed: PackedBatch,
        rows: u32,
        tables: &Arc<[Arc<Table>]>,
    ) -> Option<Transformed> {
        let rows = (0..rows).map(|row| Passed { row: RowIndex(row), origin: row, reroute: None }).collect();
        let mut state = Transformed::of(packed, rows);
        for transform in &self.transforms {
            let permit = match transform.sequencer() {
                Some(sequencer) => Some(sequencer.wait(number).await?),
                None => None,
            };
            if !state.rows.is_empty() {
                run_one(&**transform, tables, &mut state, &mut { RETRY_PAUSES_MAX });
            }
            if let Some(permit) = permit {
                permit.pass();
            }
        }
        // Each transform appended its messages and dead letters; the later stages expect them in the order of the rows.
        state.emitted.sort_by_key(|emitted| emitted.origin);
        state.dead.sort_by_key(|dead| dead.origin);
        Some(state)
    }
}

/// Passes the remaining rows of a batch through one transform.
///
/// If the transform fails on the batch as a whole, each row is tried in a batch of its own, so that only the failing
/// rows are affected. A transform with state is given each row in a batch of its own at once. `pauses` is the time that
/// retries may still wait.
fn run_one(transform: &dyn Transform, tables: &Arc<[Arc<Table>]>, state: &mut Transformed, pauses: &mut Duration) {
    let mut whole = None;
    let alone = match state.rows.len() {
        1 => None,
        _ => transform.rows_seen_alone(&state.packed.view(), &state.rows, tables).filter(|alone| alone.contains(&true)),
    };
    if alone.is_none() {
        match attempt(transform, tables, state, pauses) {
            Ok(()) => return,
            Err(error) => whole = Some(error),
        }
    }
    if let ([only], Some(error)) = (&state.rows[..], &whole) {
        let only = only.clone();
        state.rows.clear();
        let packed = state.packed.clone();
        state.fail(transform, tables, &packed, only.row, only.origin, error);
        return;
    }
    let mut is_failed = false;
    let (packed, rows) = (state.packed.clone(), std::mem::take(&mut state.rows));
    let batch = packed.view();
    let mut left = Builder::with_capacity(packed.as_bytes().len());
    let is_alone = |index: usize| alone.as_ref().is_none_or(|alone| alone[index]);
    let mut start = 0;
    while start < rows.len() {
        let others = (start + 1..rows.len()).take_while(|&index| !is_alone(start) && !is_alone(index)).count();
        let part = &rows[start..=start + others];
        start += part.len();
        let renumbered = (0..).zip(part).map(|(row, passed)| Passed { row: RowIndex(row), ..passed.clone() });
        let mut done = Transformed::of(rewrite(&batch, part, None), renumbered.collect());
        run_one(transform, tables, &mut done, pauses);
        let Transformed { packed, rows, emitted, seen, dead, stop, is_failed: failed, .. } = done;
        let part = packed.view();
        for passed in rows {
            left.copy_row(&part, passed.row);
            state.rows.push(Passed { row: RowIndex(left.rows() as u32 - 1), ..passed });
        }
        state.emit(emitted, seen);
        state.dead.extend(dead);
        is_failed |= failed;
        if let Some(stop) = stop {
            state.stop_at(stop);
            break;
        }
    }
    state.packed = left.finish();
    state.is_failed |= is_failed;
    // A retry that came in time for the single rows is no fault.
    if let Some(error) = whole.filter(|error| !is_failed && !matches!(error, PluginError::Retry(_))) {
        transform.failed_as_a_whole(&error);
        state.hidden_error.get_or_insert_with(|| error.to_string());
    }
}

/// Lets a transform decide on a batch. On an error, `state` is unchanged.
fn attempt(
    transform: &dyn Transform,
    tables: &Arc<[Arc<Table>]>,
    state: &mut Transformed,
    pauses: &mut Duration,
) -> Result<(), PluginError> {
    let Decided { dispositions, decision } = transform.decide(&state.packed, &state.rows, tables, pauses)?;
    match decision {
        Some((packed, decision)) => state.decide(transform, tables, packed, &dispositions, decision),
        None => {
            let mut dispositions = dispositions.into_iter();
            state.rows.retain(|_| dispositions.next() == Some(Disposition::Keep));
        }
    }
    Ok(())
}

impl Transformed {
    fn of(packed: PackedBatch, rows: Vec<Passed>) -> Self {
        let (emitted, seen, dead, skipped) = Default::default();
        Self { packed, rows, emitted, seen, dead, skipped, stop: None, is_failed: false, hidden_error: None }
    }

    /// Adds messages that are made of rows of the batches `seen`.
    fn emit(&mut self, mut emitted: Vec<Emitted>, seen: Vec<PackedBatch>) {
        if emitted.is_empty() {
            return;
        }
        if self.emitted.is_empty() {
            (self.emitted, self.seen) = (emitted, seen);
            return;
        }
        let first = self.seen.len() as u32;
        emitted.iter_mut().for_each(|message| message.batch += first);
        self.emitted.append(&mut emitted);
        self.seen.extend(seen);
    }

    /// Applies a transform's decision on the rows, which are those of `packed`.
    fn decide(
        &mut self,
        transform: &dyn Transform,
        tables: &[Arc<Table>],
        packed: PackedBatch,
        dispositions: &[Disposition],
        decision: Decision,
    ) {
        let Decision { keep, reroutes, edits, mut emitted, fails } = decision;
        (0..).zip(&mut self.rows).for_each(|(index, passed)| passed.row = RowIndex(index));
        self.packed = packed;
        emitted.iter_mut().for_each(|message| message.origin = self.rows[message.row.0 as usize].origin);
        self.emit(emitted, vec![self.packed.clone()]);
        for (row, reroute) in reroutes {
            self.rows[row.0 as usize].reroute = Some(reroute);
        }
        let failed: Vec<(RowIndex, u32, String)> =
            fails.into_iter().map(|(row, error)| (row, self.rows[row.0 as usize].origin, error)).collect();
        let stays = |index: usize| match dispositions[index] {
            Disposition::Keep => true,
            Disposition::Drop => false,
            Disposition::Ask => keep[index],
        };
        if (0..dispositions.len()).any(stays) {
            self.rows.retain(|passed| stays(passed.row.0 as usize));
        } else {
            self.rows.clear(); // the usual case of a transform that only makes messages
        }
        let seen = self.packed.clone();
        if !edits.is_empty() {
            let batch = seen.view();
            self.packed = rewrite(&batch, &self.rows, Some(&edits));
            (0..).zip(&mut self.rows).for_each(|(index, passed)| passed.row = RowIndex(index));
        }
        for (row, origin, error) in failed {
            self.fail(transform, tables, &seen, row, origin, &PluginError::Reject(error));
        }
    }

    /// Handles a transform's failure on a row of `packed` that is no longer among the rows.
    fn fail(
        &mut self,
        transform: &dyn Transform,
        tables: &[Arc<Table>],
        packed: &PackedBatch,
        row: RowIndex,
        origin: u32,
        error: &PluginError,
    ) {
        self.is_failed = true;
        let batch = packed.view();
        let error = TransformError::new(transform.name(), &batch, &batch.row(row), tables, error);
        match transform.on_error(&error) {
            OnError::Skip => {}
            OnError::DeadLetter => self.dead.push(DeadRow { batch: packed.clone(), row, origin, error }),
            OnError::Halt => self.stop_at(Stop { origin, error: error.into() }),
        }
    }

    /// Replaces each origin, an index among the rows that the transforms were given, by the row's index in the decoded batch,
    /// which `origins` has for each of these rows.
    fn set_origins(&mut self, origins: &[u32]) {
        let rows = self.rows.iter_mut().map(|passed| &mut passed.origin);
        let messages = self.emitted.iter_mut().map(|emitted| &mut emitted.origin);
        let dead = self.dead.iter_mut().map(|dead| &mut dead.origin);
        let stop = self.stop.iter_mut().map(|stop| &mut stop.origin);
        rows.chain(messages).chain(dead).chain(stop).for_each(|origin| *origin = origins[*origin as usize]);
    }

    /// Removes a row that cannot be decoded, and everything that transforms made of it.
    fn skip(&mut self, origin: u32, skipped: SkippedChange) {
        if self.stop.as_ref().is_some_and(|stop| stop.origin <= origin) {
            return;
        }
        self.rows.retain(|passed| passed.origin != origin);
        self.emitted.retain(|emitted| emitted.origin != origin);
        self.dead.retain(|dead| dead.origin != origin);
        self.skipped.push((origin, skipped));
    }

    /// Stops before a row: removes this row, the rows after it, and everything that transforms made of them.
    fn stop_at(&mut self, stop: Stop) {
        if self.stop.as_ref().is_some_and(|known| known.origin <= stop.origin) {
            return;
        }
        self.rows.retain(|passed| passed.origin < stop.origin);
        #[cfg(test)]
        let keeps_messages = crate::simulation::is_mutated(crate::simulation::Mutation::StopKeepsMessages);
        #[cfg(not(test))]
        let keeps_messages = false;
        self.emitted.retain(|emitted| keeps_messages || emitted.origin < stop.origin);
        self.dead.retain(|dead| dead.origin < stop.origin);
        self.skipped.retain(|(origin, _)| *origin < stop.origin);
        self.stop = Some(stop);
    }
}

/// Returns a batch of the given rows, with the edits applied.
fn rewrite(batch: &Batch<'_>, rows: &[Passed], edits: Option<&Edits>) -> PackedBatch {
    let mut out = Builder::with_capacity(batch.bytes_of(rows.len()));
    for &Passed { row, .. } in rows {
        match edits.map(|edits| edits.of_row(row)).filter(|edits| !edits.is_empty()) {
            None => out.copy_row(batch, row),
            Some(edits) => out.copy_row_edited(batch, row, |image, column, out| match edits.get(image, column) {
                Some(cell) => {
                    out.cell(cell);
                    true
                }
                None => false,
            }),
        }
    }
    out.finish()
}
