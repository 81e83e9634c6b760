//! Inspects a module: what it is, and the time that it takes per row.

use std::collections::HashSet;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures_util::FutureExt;
use rowmill_core::batch::{Builder, PackedBatch, RowIndex, Table};
use tracing::subscriber::{NoSubscriber, with_default};

use super::{module_in, rows_in};
use crate::fixture::{BATCH_ROWS, Rows};
use crate::transform::{Chain, Loader, Plugin, Settings, Transformed};

/// How long rows are passed through a plugin to measure the time per row.
const MEASURED_FOR: Duration = Duration::from_millis(500);

/// Describes a module: its world and version, its imports, its limits, and the time per row. The rows are those of
/// `rows`, a file of lines of JSON, else sample rows of a table with ten columns.
///
/// # Errors
/// If the module cannot be loaded, or the rows cannot be read.
pub fn inspect(path: &Path, rows: Option<&Path>) -> anyhow::Result<String> {
    let module = module_in(path)?;
    let rows = rows_in(rows)?;
    let size = std::fs::metadata(&module).with_context(|| module.display().to_string())?.len();
    let loader = Loader::new(Settings::for_tests(rows.sinks.clone()).with_any_sink())?;
    // Without a cache, to measure the compilation.
    let started = Instant::now();
    let plugin = loader.load(&module)?;
    let loading = started.elapsed();
    let mut out = String::new();
    writeln!(out, "file       {} ({size} bytes)", module.display())?;
    writeln!(out, "compiled   in {loading:.0?}")?;
    for (name, value) in plugin.describe() {
        writeln!(out, "{name:<10} {value}")?;
    }
    let mut gauge = Gauge::new(plugin, rows);
    if let Some((failed, first)) = gauge.leave_out_failing()? {
        writeln!(out, "failing    {failed} rows, which are left out below; the first: {first}")?;
    }
    gauge.repeat();
    // A plugin that logs would log each row many thousand times.
    let Cost { each_ns, batch_ns, rows, kept, made } = with_default(NoSubscriber::new(), || gauge.cost())?;
    match rows {
        0 => writeln!(out, "per row    no row is left to measure")?,
        rows => writeln!(
            out,
            "per row    {each_ns:.0} ns, in batches of {rows} rows of which {kept} are kept, and {made} messages are made; a \
             batch of one row takes {batch_ns:.0} ns"
        )?,
    }
    Ok(out)
}

/// A plugin, and rows that are passed through it again and again to measure the time per row.
#[derive(Debug)]
pub struct Gauge {
    chain: Chain,
    tables: Arc<[Arc<Table>]>,
    packed: PackedBatch,
    /// The number of the next batch.
    next: u64,
}

/// The time per row of a plugin.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// The time per row in nanoseconds, in batches of `rows` rows.
    pub each_ns: f64,
    /// The time of a batch of one row, in nanoseconds.
    pub batch_ns: f64,
    /// The number of rows of a batch.
    pub rows: usize,
    /// The number of rows of a batch that are kept.
    pub kept: usize,
    /// The number of messages made of a batch.
    pub made: usize,
}

impl Gauge {
    /// Loads a module, to be measured on the sample rows.
    ///
    /// # Errors
    /// If the module cannot be loaded.
    pub fn load(module: &Path) -> anyhow::Result<Self> {
        let rows = rows_in(None)?;
        let plugin = Loader::new(Settings::for_tests(rows.sinks.clone()).with_any_sink())?.load(module)?;
        Ok(Self::new(plugin, rows))
    }

    fn new(plugin: Arc<Plugin>, Rows { tables, packed, .. }: Rows) -> Self {
        Self { chain: Chain::new(vec![plugin]), tables, packed, next: 0 }
    }

    /// Repeats few rows to a batch of [`BATCH_ROWS`], as each row of a small batch costs more.
    fn repeat(&mut self) {
        let given = self.packed.view().len();
        if (1..BATCH_ROWS).contains(&given) {
            self.packed = rows_of(&self.packed, (0..BATCH_ROWS).map(|index| index % given).collect());
        }
    }

    /// Leaves out the rows that the plugin fails on. Returns their number and the first error, if there are any.
    fn leave_out_failing(&mut self) -> anyhow::Result<Option<(usize, String)>> {
        let done = self.run(self.packed.clone())?;
        let Some(first) = done.dead.first().map(|dead| dead.error.to_string()) else { return Ok(None) };
        let failed: HashSet<usize> = done.dead.iter().map(|dead| dead.origin as usize).collect();
        let all = (0..self.packed.view().len()).filter(|row| !failed.contains(row)).collect();
        self.packed = rows_of(&self.packed, all);
        Ok(Some((failed.len(), first)))
    }

    fn run(&mut self, packed: PackedBatch) -> anyhow::Result<Transformed> {
        let count = packed.view().len() as u32;
        let done = self.chain.run(self.next, packed, count, &self.tables).now_or_never().flatten();
        self.next += 1;
        done.context("the batch waits for another one")
    }

    /// Measures the time per row and per batch: the best of ten runs, as other processes may use the machine.
    ///
    /// # Errors
    /// The plugin's error, if it fails on a row.
    pub fn cost(&mut self) -> anyhow::Result<Cost> {
        let (whole, rows) = (self.packed.clone(), self.packed.view().len());
        let Transformed { rows: kept, emitted, .. } = self.run(whole.clone())?;
        let all_ns = self.time(&whole)?;
        let one = rows_of(&whole, (0..rows.min(1)).collect());
        let batch_ns = self.time(&one)?;
        Ok(Cost { each_ns: all_ns / rows.max(1) as f64, batch_ns, rows, kept: kept.len(), made: emitted.len() })
    }

    /// Returns the time of a batch in nanoseconds.
    fn time(&mut self, batch: &PackedBatch) -> anyhow::Result<f64> {
        let mut best = f64::INFINITY;
        for _ in 0..10 {
            let (started, first) = (Instant::now(), self.next);
            while started.elapsed() < MEASURED_FOR / 10 {
                if let Some(dead) = self.run(batch.clone())?.dead.first() {
                    bail!("{}", dead.error);
                }
            }
            best = best.min(started.elapsed().as_nanos() as f64 / (self.next - first) as f64);
        }
        Ok(best)
    }
}

/// Returns a batch of these rows of another batch.
fn rows_of(packed: &PackedBatch, rows: Vec<usize>) -> PackedBatch {
    let batch = packed.view();
    let mut out = Builder::with_capacity(packed.as_bytes().len());
    rows.into_iter().for_each(|row| out.copy_row(&batch, RowIndex(row as u32)));
    out.finish()
}
