//! The transforms: every `.wasm` file of the plugins directory, in file-name order. A batch passes
//! through all of them; what each says is checked before it is used.

mod decision;
mod deferred;
mod error;
#[cfg(test)]
pub(crate) mod fake;
mod host_commands;
#[cfg(test)]
mod hostile;
mod interest;
mod manifest;
mod message;
mod plugin;
mod query;
mod recipe;
mod reload;
mod value;
mod verdict;
mod wasm;

use std::sync::Arc;

use rowmill_core::batch::{Batch, Builder, RowIndex, Table};
use rowmill_core::binlog::SkippedChange;
use rowmill_pipeline::sequencer::Sequencer;

pub use error::TransformError;
pub use message::{Emitted, MessageText, Reroute};
pub use plugin::Plugin;
pub use reload::{CurrentChain, Reloader};
pub use wasm::load::{Loader, Settings};

use decision::{Decision, Edits};
use error::PluginError;
use interest::{Disposition, Interest};
use manifest::OnError;
#[cfg(test)]
pub(crate) use manifest::OnError as OnTransformError;

/// A transform of a chain: which columns of a table it needs, and what becomes of rows.
pub(crate) trait Transform: std::fmt::Debug + Send + Sync {
    /// Its name.
    fn name(&self) -> &str;

    /// What of a table's rows it needs.
    fn interest(&self, table: &Table) -> Result<Interest, PluginError>;

    /// Decides on the `rows` of a batch.
    fn decide(&self, bytes: &Arc<Vec<u8>>, rows: &[Passed], tables: &Arc<[Arc<Table>]>)
    -> Result<Decided, PluginError>;

    /// What becomes of a row that it failed on.
    fn on_error(&self, error: &TransformError) -> OnError;

    /// Lets batches pass in their order, where it must see them so.
    fn sequencer(&self) -> Option<&Sequencer>;

    /// Logs what it counted.
    fn log_counters(&self);
}

/// What a transform decided on rows.
#[derive(Debug)]
pub(crate) struct Decided {
    /// By row.
    dispositions: Vec<Disposition>,
    /// On those that it was asked about, which are rows of this batch. `None` if it was asked about none.
    decision: Option<(Arc<Vec<u8>>, Decision)>,
}

/// What transforms made of a batch.
#[derive(Debug)]
pub struct Transformed {
    /// A packed batch, of which [`Transformed::rows`] names some.
    pub bytes: Arc<Vec<u8>>,
    /// The rows that are left, in binlog order.
    pub rows: Vec<Passed>,
    /// The messages that transforms made, in the order of the rows that they were made of.
    pub emitted: Vec<Emitted>,
    /// The batches that have those rows.
    pub seen: Vec<Arc<Vec<u8>>>,
    /// Rows for the sink of dead letters, in binlog order.
    pub dead: Vec<DeadRow>,
    /// Rows that can't be decoded and are passed over, by their places in the batch: nothing of them is above.
    pub skipped: Vec<(u32, SkippedChange)>,
    /// Everything stops before this row: nothing of it and of those after it is above.
    pub stop: Option<Stop>,
}

/// A row that goes to the sink of dead letters.
#[derive(Debug)]
pub struct DeadRow {
    /// The batch that has it.
    pub batch: Arc<Vec<u8>>,
    /// The row in that batch.
    pub row: RowIndex,
    /// Its place in the batch that was decoded.
    pub origin: u32,
    /// Why.
    pub error: TransformError,
}

/// Where everything stops, and why.
#[derive(Debug)]
pub struct Stop {
    /// The row's place in the batch that was decoded.
    pub origin: u32,
    /// Why it must not be passed.
    pub error: anyhow::Error,
}

/// A row that passed all transforms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    /// Where it is in [`Transformed::bytes`].
    pub row: RowIndex,
    /// Its place in the batch that was decoded: what it's compared by with emitted messages.
    pub origin: u32,
    /// Where a transform sends it instead of where the routes would.
    pub reroute: Option<Reroute>,
}

/// All transforms, in their order. One version of them: what is replaced while the engine runs makes
/// another chain.
#[derive(Debug, Default)]
pub struct Chain {
    transforms: Vec<Arc<dyn Transform>>,
    /// Counts the versions.
    version: u64,
}

impl Chain {
    /// Of plugins in their order.
    pub fn new(plugins: Vec<Arc<Plugin>>) -> Self {
        Self::of(plugins.into_iter().map(|plugin| plugin as Arc<dyn Transform>).collect())
    }

    /// Of transforms in their order.
    pub(crate) fn of(transforms: Vec<Arc<dyn Transform>>) -> Self {
        Self { transforms, version: 0 }
    }

    /// Tells it from earlier chains.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether there are no transforms: rows pass as they are.
    pub fn is_empty(&self) -> bool {
        self.transforms.is_empty()
    }

    /// The transforms' names, in their order.
    pub fn names(&self) -> Vec<&str> {
        self.transforms.iter().map(|transform| transform.name()).collect()
    }

    /// This chain takes the place of `earlier`, from the batch of a number on.
    pub fn begin_at(&self, number: u64, earlier: &Self) {
        for transform in &self.transforms {
            let is_known =
                earlier.transforms.iter().any(|known| std::ptr::addr_eq(Arc::as_ptr(known), Arc::as_ptr(transform)));
            if let (false, Some(sequencer)) = (is_known, transform.sequencer()) {
                sequencer.begin_at(number);
            }
        }
    }

    /// Everything stops: batches that wait for their turn don't get it any more.
    pub fn close(&self) {
        self.transforms.iter().filter_map(|transform| transform.sequencer()).for_each(Sequencer::close);
    }

    /// Logs what the transforms counted.
    pub fn log_counters(&self) {
        self.transforms.iter().for_each(|transform| transform.log_counters());
    }

    /// Passes a batch of `rows` rows through the transforms. Batches are numbered in their order, and
    /// every one must pass. `None` if everything stops because of an earlier one.
    pub async fn run(
        &self,
        number: u64,
        bytes: Arc<Vec<u8>>,
        rows: u32,
        tables: &Arc<[Arc<Table>]>,
    ) -> Option<Transformed> {
        let rows = (0..rows).map(|row| Passed { row: RowIndex(row), origin: row, reroute: None }).collect();
        let mut state = Transformed::of(bytes, rows);
        for transform in &self.transforms {
            let permit = match transform.sequencer() {
                Some(sequencer) => Some(sequencer.wait(number).await?),
                None => None,
            };
            if !state.rows.is_empty() {
                run_one(&**transform, tables, &mut state);
            }
            if let Some(permit) = permit {
                permit.pass();
            }
        }
        // Transforms ran one after another; consumers see a row's messages in the row's order.
        state.emitted.sort_by_key(|emitted| emitted.origin);
        state.dead.sort_by_key(|dead| dead.origin);
        Some(state)
    }
}

/// Passes what is left of a batch through one transform. Where it fails on the whole, each row is tried by
/// itself, so that only the row that it fails on suffers.
fn run_one(transform: &dyn Transform, tables: &Arc<[Arc<Table>]>, state: &mut Transformed) {
    let whole = match attempt(transform, tables, state) {
        Ok(()) => return,
        Err(fault) => fault,
    };
    if let [only] = &state.rows[..] {
        let only = only.clone();
        state.rows.clear();
        let bytes = Arc::clone(&state.bytes);
        state.fail(transform, tables, &bytes, only.row, only.origin, whole.to_string());
        return;
    }
    let (bytes, rows) = (Arc::clone(&state.bytes), std::mem::take(&mut state.rows));
    let batch = Batch::parse(&bytes).expect("batches are written by the builder");
    let mut left = Builder::with_capacity(bytes.len());
    for passed in rows {
        let single = Arc::new(rewrite(&batch, std::slice::from_ref(&passed), None));
        let row = Passed { row: RowIndex(0), ..passed };
        let mut alone = Transformed::of(single, vec![row]);
        run_one(transform, tables, &mut alone);
        let Transformed { bytes, rows, emitted, seen, dead, stop, .. } = alone;
        let single = Batch::parse(&bytes).expect("batches are written by the builder");
        for passed in rows {
            left.copy_row(&single, passed.row);
            state.rows.push(Passed { row: RowIndex(left.rows() as u32 - 1), ..passed });
        }
        state.emit(emitted, seen);
        state.dead.extend(dead);
        if let Some(stop) = stop {
            state.stop_at(stop);
            break;
        }
    }
    state.bytes = Arc::new(left.finish());
}

/// Lets a transform decide on a batch. If it fails, `state` is as it was.
fn attempt(transform: &dyn Transform, tables: &Arc<[Arc<Table>]>, state: &mut Transformed) -> Result<(), PluginError> {
    let Decided { dispositions, decision } = transform.decide(&state.bytes, &state.rows, tables)?;
    match decision {
        Some((bytes, decision)) => state.decide(transform, tables, bytes, &dispositions, decision),
        None => {
            let mut dispositions = dispositions.into_iter();
            state.rows.retain(|_| dispositions.next() == Some(Disposition::Keep));
        }
    }
    Ok(())
}

impl Transformed {
    fn of(bytes: Arc<Vec<u8>>, rows: Vec<Passed>) -> Self {
        let (emitted, seen, dead, skipped) = Default::default();
        Self { bytes, rows, emitted, seen, dead, skipped, stop: None }
    }

    /// Adds messages that were made of rows of the batches `seen`.
    fn emit(&mut self, mut emitted: Vec<Emitted>, seen: Vec<Arc<Vec<u8>>>) {
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

    /// Does what a transform decided on its rows, which are those of `bytes`.
    fn decide(
        &mut self,
        transform: &dyn Transform,
        tables: &[Arc<Table>],
        bytes: Arc<Vec<u8>>,
        dispositions: &[Disposition],
        decision: Decision,
    ) {
        let Decision { keep, reroutes, edits, mut emitted, fails } = decision;
        (0..).zip(&mut self.rows).for_each(|(index, passed)| passed.row = RowIndex(index));
        self.bytes = bytes;
        emitted.iter_mut().for_each(|message| message.origin = self.rows[message.row.0 as usize].origin);
        self.emit(emitted, vec![Arc::clone(&self.bytes)]);
        for (row, reroute) in reroutes {
            self.rows[row.0 as usize].reroute = Some(reroute);
        }
        let failed: Vec<(RowIndex, u32, String)> =
            fails.into_iter().map(|(row, fault)| (row, self.rows[row.0 as usize].origin, fault)).collect();
        let stays = |index: usize| match dispositions[index] {
            Disposition::Keep => true,
            Disposition::Drop => false,
            Disposition::Ask => keep[index],
        };
        if (0..dispositions.len()).any(stays) {
            self.rows.retain(|passed| stays(passed.row.0 as usize));
        } else {
            self.rows.clear(); // mostly, where messages are made of them
        }
        let seen = Arc::clone(&self.bytes);
        if !edits.is_empty() {
            let batch = Batch::parse(&seen).expect("batches are written by the builder");
            self.bytes = Arc::new(rewrite(&batch, &self.rows, Some(&edits)));
            (0..).zip(&mut self.rows).for_each(|(index, passed)| passed.row = RowIndex(index));
        }
        for (row, origin, fault) in failed {
            self.fail(transform, tables, &seen, row, origin, fault);
        }
    }

    /// A transform failed on a row of `bytes`, which isn't among the rows any more.
    fn fail(
        &mut self,
        transform: &dyn Transform,
        tables: &[Arc<Table>],
        bytes: &Arc<Vec<u8>>,
        row: RowIndex,
        origin: u32,
        fault: String,
    ) {
        let batch = Batch::parse(bytes).expect("batches are written by the builder");
        let error = TransformError::new(transform.name(), &batch, &batch.row(row), tables, fault);
        match transform.on_error(&error) {
            OnError::Skip => {}
            OnError::DeadLetter => self.dead.push(DeadRow { batch: Arc::clone(bytes), row, origin, error }),
            OnError::Halt => self.stop_at(Stop { origin, error: error.into() }),
        }
    }

    /// The rows that transforms were given were those of the batch at `origins`.
    fn set_origins(&mut self, origins: &[u32]) {
        let rows = self.rows.iter_mut().map(|passed| &mut passed.origin);
        let messages = self.emitted.iter_mut().map(|emitted| &mut emitted.origin);
        let dead = self.dead.iter_mut().map(|dead| &mut dead.origin);
        let stop = self.stop.iter_mut().map(|stop| &mut stop.origin);
        rows.chain(messages).chain(dead).chain(stop).for_each(|origin| *origin = origins[*origin as usize]);
    }

    /// Leaves nothing of a row that can't be decoded, whichever transform kept it or made messages of it.
    fn skip(&mut self, origin: u32, skipped: SkippedChange) {
        if self.stop.as_ref().is_some_and(|stop| stop.origin <= origin) {
            return;
        }
        self.rows.retain(|passed| passed.origin != origin);
        self.emitted.retain(|emitted| emitted.origin != origin);
        self.dead.retain(|dead| dead.origin != origin);
        self.skipped.push((origin, skipped));
    }

    /// Leaves nothing of a row and of those after it, whichever transform kept them or made messages of them.
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

/// A batch of the named rows, edited.
fn rewrite(batch: &Batch<'_>, rows: &[Passed], edits: Option<&Edits>) -> Vec<u8> {
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
