//! Inspects a module: what it is, and the time that it takes per row.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::FutureExt;

use super::module_in;
use crate::fixture::{Rows, sample};
use crate::transform::{Chain, Loader, Plugin, Settings};

/// How long rows are passed through a plugin to measure the time per row.
const MEASURED_FOR: Duration = Duration::from_millis(500);

/// Describes a module: its world and version, its imports, its limits, and the time per row. The rows are those of
/// `rows`, a file of lines of JSON, else sample rows of a table with ten columns.
///
/// # Errors
/// If the module cannot be loaded, or the rows cannot be read.
pub fn inspect(path: &Path, rows: Option<&Path>) -> anyhow::Result<String> {
    let module = module_in(path)?;
    let text = match rows {
        Some(path) => std::fs::read_to_string(path).with_context(|| path.display().to_string())?,
        None => sample(),
    };
    let rows = Rows::parse(&text).map_err(|error| anyhow::anyhow!(error))?;
    let size = std::fs::metadata(&module).with_context(|| module.display().to_string())?.len();
    let loader = Loader::new(Settings::for_tests(rows.sinks.clone()))?;
    let started = Instant::now();
    let plugin = loader.load(&module)?;
    let loading = started.elapsed();
    let mut out = String::new();
    writeln!(out, "file       {} ({size} bytes)", module.display())?;
    writeln!(out, "compiled   in {loading:.0?}")?;
    for (name, value) in plugin.describe() {
        writeln!(out, "{name:<10} {value}")?;
    }
    let count = rows.packed.view().len();
    match Gauge::new(plugin, rows).cost() {
        Err(error) => writeln!(out, "rows       {error:#}")?,
        Ok(Cost { each_ns, kept }) => {
            writeln!(out, "per row    {each_ns:.0} ns, in batches of {count} rows of which {kept} are kept")?;
        }
    }
    Ok(out)
}

/// A plugin, and rows that are passed through it again and again to measure the time per row.
#[derive(Debug)]
pub struct Gauge {
    chain: Chain,
    rows: Rows,
    /// The number of the next batch.
    next: u64,
}

/// The time per row of a plugin.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// The time per row in nanoseconds.
    pub each_ns: f64,
    /// The number of rows of a batch that are kept.
    pub kept: usize,
}

impl Gauge {
    /// Loads a module, to be measured on the sample rows.
    ///
    /// # Errors
    /// If the module cannot be loaded.
    pub fn load(module: &Path) -> anyhow::Result<Self> {
        let rows = Rows::parse(&sample()).map_err(|error| anyhow::anyhow!(error))?;
        let plugin = Loader::new(Settings::for_tests(rows.sinks.clone()))?.load(module)?;
        Ok(Self::new(plugin, rows))
    }

    fn new(plugin: Arc<Plugin>, rows: Rows) -> Self {
        Self { chain: Chain::new(vec![plugin]), rows, next: 0 }
    }

    /// Measures the time per row: the best of ten runs, as other processes may use the machine.
    ///
    /// # Errors
    /// The plugin's error, if it fails on a row.
    pub fn cost(&mut self) -> anyhow::Result<Cost> {
        let count = self.rows.packed.view().len();
        let mut cost = Cost { each_ns: f64::INFINITY, kept: 0 };
        for _ in 0..10 {
            let (started, first) = (Instant::now(), self.next);
            while started.elapsed() < MEASURED_FOR / 10 {
                let packed = self.rows.packed.clone();
                let done = self.chain.run(self.next, packed, count as u32, &self.rows.tables).now_or_never().flatten();
                let done = done.context("the batch waits for another one")?;
                if let Some(dead) = done.dead.first() {
                    anyhow::bail!("{}", dead.error);
                }
                cost.kept = done.rows.len();
                self.next += 1;
            }
            let rows = (self.next - first) as f64 * count as f64;
            cost.each_ns = cost.each_ns.min(started.elapsed().as_nanos() as f64 / rows);
        }
        Ok(cost)
    }
}
