//! The transforms: every `.wasm` file of the plugins directory, in file-name order. A batch passes
//! through all of them; what each says is checked before it is used.

mod error;
mod instance;
mod late;
mod load;
mod manifest;
mod message;
mod module;
mod orders;
mod plugin;
mod query;
mod recipe;
mod reload;
mod verdict;
mod want;
mod wasi;

use std::sync::Arc;

use bytestring::ByteString;
use rowmill_core::batch::{Batch, Builder, RowIndex, Table};

pub use error::TransformError;
pub use load::{Loader, Settings};
pub use message::{Emitted, MessageText};
pub use plugin::Plugin;
pub use reload::{CurrentChain, Reloader};

use error::Fault;
use instance::Instance;
use manifest::OnError;
use verdict::{Decision, Edits};
use want::Fate;

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
    /// Everything stops before this row: nothing of it and of those behind it is above.
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
    /// What a transform failed on.
    pub error: TransformError,
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

/// Where a transform sends a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reroute {
    /// The sink; `None`: as the routes say.
    pub sink: Option<usize>,
    /// The message group; `None`: as the routes say.
    pub group: Option<ByteString>,
}

/// All transforms, in their order. One version of them: what is replaced while the engine runs makes
/// another chain.
#[derive(Debug, Default)]
pub struct Chain {
    plugins: Vec<Arc<Plugin>>,
    /// Counts the versions.
    version: u64,
}

impl Chain {
    /// Of plugins in their order.
    pub fn new(plugins: Vec<Arc<Plugin>>) -> Self {
        Self { plugins, version: 0 }
    }

    /// Tells it from earlier chains.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The plugins, in their order.
    pub fn plugins(&self) -> &[Arc<Plugin>] {
        &self.plugins
    }

    /// This chain takes the place of `earlier`, from the batch of a number on.
    pub fn begin_at(&self, number: u64, earlier: &Self) {
        let is_new = |plugin: &&Arc<Plugin>| !earlier.plugins.iter().any(|known| Arc::ptr_eq(known, plugin));
        self.plugins.iter().filter(is_new).for_each(|plugin| plugin.begin_at(number));
    }

    /// Everything stops: batches that wait for their turn don't get it any more.
    pub fn close(&self) {
        self.plugins.iter().for_each(|plugin| plugin.close());
    }

    /// Logs what the plugins counted.
    pub fn log_counters(&self) {
        self.plugins.iter().for_each(|plugin| plugin.log_counters());
    }

    /// Passes a batch of `rows` rows through the transforms. Batches are numbered in their order, and
    /// every one must pass. `None` if everything stops because of an earlier one.
    pub fn run(&self, number: u64, bytes: Arc<Vec<u8>>, rows: u32, tables: &Arc<[Arc<Table>]>) -> Option<Transformed> {
        let rows = (0..rows).map(|row| Passed { row: RowIndex(row), origin: row, reroute: None }).collect();
        let mut state = Transformed::of(bytes, rows);
        for plugin in &self.plugins {
            let _turn = plugin.turn(number)?;
            if !state.rows.is_empty() {
                run_one(plugin, tables, &mut state);
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
fn run_one(plugin: &Plugin, tables: &Arc<[Arc<Table>]>, state: &mut Transformed) {
    let whole = match attempt(plugin, tables, state) {
        Ok(()) => return,
        Err(fault) => fault,
    };
    if let [only] = &state.rows[..] {
        let only = only.clone();
        state.rows.clear();
        let bytes = Arc::clone(&state.bytes);
        state.fail(plugin, tables, &bytes, only.row, only.origin, whole.to_string());
        return;
    }
    let (bytes, rows) = (Arc::clone(&state.bytes), std::mem::take(&mut state.rows));
    let batch = Batch::parse(&bytes).expect("batches are written by the builder");
    let mut left = Builder::with_capacity(bytes.len());
    for passed in rows {
        let single = Arc::new(rewrite(&batch, std::slice::from_ref(&passed), None));
        let row = Passed { row: RowIndex(0), ..passed };
        let mut alone = Transformed::of(single, vec![row]);
        run_one(plugin, tables, &mut alone);
        let Transformed { bytes, rows, emitted, seen, dead, stop } = alone;
        let single = Batch::parse(&bytes).expect("batches are written by the builder");
        for passed in rows {
            left.copy_row(&single, passed.row);
            state.rows.push(Passed { row: RowIndex(left.rows() as u32 - 1), ..passed });
        }
        state.emit(emitted, seen);
        state.dead.extend(dead);
        if stop.is_some() {
            state.stop = stop;
            break;
        }
    }
    state.bytes = Arc::new(left.finish());
}

/// Lets a transform decide on a batch. If it fails, `state` is as it was.
fn attempt(plugin: &Plugin, tables: &Arc<[Arc<Table>]>, state: &mut Transformed) -> Result<(), Fault> {
    let manifest = plugin.manifest();
    let (fates, decided) = plugin.with_instance(|instance| {
        let batch = Batch::parse(&state.bytes).expect("batches are written by the builder");
        let fates = fates(manifest, instance, &batch, &state.rows, tables)?;
        if !fates.contains(&Fate::Ask) {
            return Ok((fates, None));
        }
        // The guest sees the rows that are left, and those only.
        let bytes = match state.rows.len() == batch.len() {
            true => Arc::clone(&state.bytes),
            false => Arc::new(rewrite(&batch, &state.rows, None)),
        };
        let batch = Batch::parse(&bytes).expect("batches are written by the builder");
        let asked = (0..).zip(&fates).filter(|(_, fate)| **fate == Fate::Ask).map(|(index, _)| index).collect();
        let answer = instance.process(&bytes, batch.len(), tables, asked)?;
        let decision = verdict::check(instance, answer, &batch, tables, manifest.limits.output)?;
        Ok((fates, Some((bytes, decision))))
    })?;
    let Some((bytes, decision)) = decided else {
        let mut fates = fates.into_iter();
        state.rows.retain(|_| fates.next() == Some(Fate::Keep));
        return Ok(());
    };
    state.decide(plugin, tables, bytes, &fates, decision);
    Ok(())
}

/// What becomes of rows before the transform is asked.
fn fates(
    manifest: &manifest::Manifest,
    instance: &mut Instance,
    batch: &Batch<'_>,
    rows: &[Passed],
    tables: &[Arc<Table>],
) -> Result<Vec<Fate>, Fault> {
    let mut last = None;
    let fate = |passed: &Passed| {
        let row = batch.row(passed.row);
        let id = row.table();
        // Rows of one table mostly follow each other.
        if last.as_ref().is_none_or(|(known, _)| *known != id) {
            last = Some((id, instance.interest(&tables[id.0 as usize], manifest)?.clone()));
        }
        Ok(last.as_ref().map_or(Fate::Ask, |(_, interest)| interest.fate(row.operation())))
    };
    rows.iter().map(fate).collect()
}

impl Transformed {
    fn of(bytes: Arc<Vec<u8>>, rows: Vec<Passed>) -> Self {
        Self { bytes, rows, emitted: Vec::new(), seen: Vec::new(), dead: Vec::new(), stop: None }
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
        plugin: &Plugin,
        tables: &[Arc<Table>],
        bytes: Arc<Vec<u8>>,
        fates: &[Fate],
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
        let stays = |index: usize| match fates[index] {
            Fate::Keep => true,
            Fate::Drop => false,
            Fate::Ask => keep[index],
        };
        if (0..fates.len()).any(stays) {
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
            self.fail(plugin, tables, &seen, row, origin, fault);
        }
    }

    /// A transform failed on a row of `bytes`, which isn't among the rows any more.
    fn fail(
        &mut self,
        plugin: &Plugin,
        tables: &[Arc<Table>],
        bytes: &Arc<Vec<u8>>,
        row: RowIndex,
        origin: u32,
        fault: String,
    ) {
        let batch = Batch::parse(bytes).expect("batches are written by the builder");
        let error = TransformError::new(plugin.name(), &batch, &batch.row(row), tables, fault);
        match plugin.on_error(&error) {
            OnError::Skip => {}
            OnError::DeadLetter => self.dead.push(DeadRow { batch: Arc::clone(bytes), row, origin, error }),
            OnError::Halt => {
                if self.stop.as_ref().is_none_or(|stop| origin < stop.origin) {
                    self.rows.retain(|passed| passed.origin < origin);
                    self.emitted.retain(|emitted| emitted.origin < origin);
                    self.dead.retain(|dead| dead.origin < origin);
                    self.stop = Some(Stop { origin, error });
                }
            }
        }
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
