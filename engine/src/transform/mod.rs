//! The transforms: every `.wasm` file of the plugins directory, in file-name order. A batch passes
//! through all of them; what each says is checked before it is used.

mod error;
mod instance;
mod load;
mod manifest;
mod module;
mod orders;
mod plugin;
mod query;
mod recipe;
mod reload;
mod verdict;
mod wasi;

use std::sync::Arc;

use bytestring::ByteString;
use rowmill_core::batch::{Batch, Builder, Operation, RowIndex, Table};

pub use error::TransformError;
pub use load::{Loader, Settings};
pub use plugin::Plugin;
pub use reload::{CurrentChain, Reloader};

use error::Fault;
use instance::{Instance, Interest};
use manifest::OnError;
use verdict::{Decision, Edits};

/// What transforms made of a batch.
#[derive(Debug)]
pub struct Transformed {
    /// A packed batch, of which [`Transformed::rows`] names some.
    pub bytes: Arc<Vec<u8>>,
    /// The rows that are left, in binlog order.
    pub rows: Vec<Passed>,
    /// The messages that transforms made, in the order of the rows that they were made of.
    pub emitted: Vec<Emitted>,
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

/// A message that a transform made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emitted {
    /// The batch that has the row it was made of.
    pub batch: Arc<Vec<u8>>,
    /// The row in that batch.
    pub row: RowIndex,
    /// The row's place in the batch that was decoded.
    pub origin: u32,
    /// Where it goes.
    pub reroute: Reroute,
    /// Its deduplication id, if the transform gave one.
    pub deduplication_id: Option<ByteString>,
    /// Its body.
    pub body: ByteString,
    /// Its attributes: names and values.
    pub attributes: Vec<(String, String)>,
}

/// All transforms, in their order. One version of them: what is replaced while the engine runs makes
/// another chain.
#[derive(Debug, Default)]
pub struct Chain {
    plugins: Vec<Arc<Plugin>>,
}

impl Chain {
    /// Of plugins in their order.
    pub fn new(plugins: Vec<Arc<Plugin>>) -> Self {
        Self { plugins }
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
        let mut state = Transformed { bytes, rows, emitted: Vec::new(), dead: Vec::new(), stop: None };
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
    let mut left = Rewriter::new();
    for passed in rows {
        let single = Arc::new(rewrite(&batch, std::slice::from_ref(&passed), None));
        let row = Passed { row: RowIndex(0), ..passed };
        let mut alone =
            Transformed { bytes: single, rows: vec![row], emitted: Vec::new(), dead: Vec::new(), stop: None };
        run_one(plugin, tables, &mut alone);
        let Transformed { bytes, rows, emitted, dead, stop } = alone;
        let single = Batch::parse(&bytes).expect("batches are written by the builder");
        for passed in rows {
            let row = left.copy(&single, passed.row, None);
            state.rows.push(Passed { row, ..passed });
        }
        state.emitted.extend(emitted);
        state.dead.extend(dead);
        if stop.is_some() {
            state.stop = stop;
            break;
        }
    }
    state.bytes = Arc::new(left.builder.finish());
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
        let decision = verdict::check(instance, answer, &bytes, &batch, tables, manifest.limits.output)?;
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
    let mut fate = |passed: &Passed| {
        let row = batch.row(passed.row);
        let id = row.table();
        // Rows of one table mostly follow each other.
        let interest = match last {
            Some((known, interest)) if known == id => interest,
            _ => {
                let interest = instance.interest(&tables[id.0 as usize], manifest)?;
                last = Some((id, interest));
                interest
            }
        };
        Ok(match interest {
            Interest::Pass => Fate::Keep,
            Interest::Drop => Fate::Drop,
            Interest::All => Fate::Ask,
            Interest::Operations { inserts, updates, deletes } => {
                let wanted = match row.operation() {
                    Operation::Insert => inserts,
                    Operation::Update => updates,
                    Operation::Delete => deletes,
                };
                if wanted { Fate::Ask } else { Fate::Keep }
            }
        })
    };
    rows.iter().map(&mut fate).collect()
}

impl Transformed {
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
        match self.emitted.is_empty() {
            true => self.emitted = emitted,
            false => self.emitted.append(&mut emitted),
        }
        for (row, reroute) in reroutes {
            self.rows[row.0 as usize].reroute = Some(reroute);
        }
        let failed: Vec<(RowIndex, u32, String)> =
            fails.into_iter().map(|(row, fault)| (row, self.rows[row.0 as usize].origin, fault)).collect();
        self.rows.retain(|passed| {
            let index = passed.row.0 as usize;
            match fates[index] {
                Fate::Keep => true,
                Fate::Drop => false,
                Fate::Ask => keep[index],
            }
        });
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

/// What becomes of a row at a transform.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Keep,
    Drop,
    Ask,
}

/// A batch of the named rows, edited.
fn rewrite(batch: &Batch<'_>, rows: &[Passed], edits: Option<&Edits>) -> Vec<u8> {
    let mut out = Rewriter::new();
    for passed in rows {
        out.copy(batch, passed.row, edits);
    }
    out.builder.finish()
}

/// Copies rows of batches into a new one.
struct Rewriter {
    builder: Builder,
    /// Of the last row's transaction: its file, and where it begins there.
    transaction: Option<(String, u64)>,
}

impl Rewriter {
    fn new() -> Self {
        Self { builder: Builder::with_capacity(64 << 10), transaction: None }
    }

    /// Gives where the row is now.
    fn copy(&mut self, batch: &Batch<'_>, row: RowIndex, edits: Option<&Edits>) -> RowIndex {
        let builder = &mut self.builder;
        let edits = edits.map(|edits| edits.of_row(row)).filter(|edits| !edits.is_empty());
        let row = batch.row(row);
        let transaction = batch.transaction(row.transaction()).header();
        let is_same = |(file, position): &(String, u64)| *position == transaction.position && file == transaction.file;
        if !self.transaction.as_ref().is_some_and(is_same) {
            self.transaction = Some((transaction.file.to_owned(), transaction.position));
            builder.transaction(&transaction);
        }
        match edits {
            None => builder.copy_row_unchanged(&row),
            Some(edits) => builder.copy_row(&row, |image, column, builder| match edits.get(image, column) {
                Some(cell) => {
                    builder.cell(cell);
                    true
                }
                None => false,
            }),
        }
        RowIndex(builder.rows() as u32 - 1)
    }
}
