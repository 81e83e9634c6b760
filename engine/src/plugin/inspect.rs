//! What a module is, and what it costs.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::FutureExt;
use rowmill_core::batch::Table;

use super::module_in;
use super::rows::{Rows, batch};
use crate::transform::{Chain, Loader, Plugin, Settings};

/// For so long rows are passed through it, to see what one costs.
const MEASURED_FOR: Duration = Duration::from_millis(500);
/// As the engine's batches are.
const BATCH_ROWS: usize = 256;

/// Says what a module is: its world and version, its imports, its limits, and what a row costs. Rows are those of
/// `rows`, a file of lines of JSON, else of a table with ten columns.
///
/// # Errors
/// If it can't be loaded.
pub fn inspect(path: &Path, rows: Option<&Path>) -> anyhow::Result<String> {
    let module = module_in(path)?;
    let text = match rows {
        Some(path) => std::fs::read_to_string(path).with_context(|| path.display().to_string())?,
        None => sample(),
    };
    let rows = Rows::parse(&text).map_err(|fault| anyhow::anyhow!(fault))?;
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
    let count = batch(&rows.bytes).len();
    match Gauge::new(plugin, rows).cost() {
        Err(error) => writeln!(out, "rows       {error:#}")?,
        Ok(Cost { each_ns, kept }) => {
            writeln!(out, "a row      {each_ns:.0} ns, in batches of {count} of which it keeps {kept}")?;
        }
    }
    Ok(out)
}

/// A plugin, and rows that are passed through it again and again, to see what one costs.
#[derive(Debug)]
pub struct Gauge {
    chain: Chain,
    rows: Rows,
    /// The number of the next batch.
    next: u64,
}

/// What a row costs in a plugin.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// In nanoseconds.
    pub each_ns: f64,
    /// How many of a batch are left.
    pub kept: usize,
}

impl Gauge {
    /// Loads a module for the rows that [`inspect`] takes where it isn't given others.
    ///
    /// # Errors
    /// If it can't be loaded.
    pub fn load(module: &Path) -> anyhow::Result<Self> {
        let rows = Rows::parse(&sample()).map_err(|fault| anyhow::anyhow!(fault))?;
        let plugin = Loader::new(Settings::for_tests(rows.sinks.clone()))?.load(module)?;
        Ok(Self::new(plugin, rows))
    }

    fn new(plugin: Arc<Plugin>, rows: Rows) -> Self {
        Self { chain: Chain::new(vec![plugin]), rows, next: 0 }
    }

    /// What a row costs: the best of ten times, as others had the machine to share.
    ///
    /// # Errors
    /// If the plugin fails on a row: why.
    pub fn cost(&mut self) -> anyhow::Result<Cost> {
        let count = batch(&self.rows.bytes).len();
        let mut cost = Cost { each_ns: f64::INFINITY, kept: 0 };
        for _ in 0..10 {
            let (started, first) = (Instant::now(), self.next);
            while started.elapsed() < MEASURED_FOR / 10 {
                let bytes = Arc::clone(&self.rows.bytes);
                let done = self.chain.run(self.next, bytes, count as u32, &self.rows.tables).now_or_never().flatten();
                let done = done.context("one batch after another waits for none")?;
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

/// The rows that [`inspect`] takes where it isn't given others: a packed batch, and the tables of its rows.
///
/// # Panics
/// If they can't be read, which a test of this crate would say.
pub fn sample_rows() -> (Arc<Vec<u8>>, Arc<[Arc<Table>]>) {
    let rows = Rows::parse(&sample()).expect("our own rows can be read");
    (rows.bytes, rows.tables)
}

/// Rows of ten columns and about 250 bytes.
fn sample() -> String {
    let mut text = "{\"sinks\": [\"order-management\", \"events\", \"europe\"]}\n{\"table\": \"shop.orders\", \"columns\": [\"id bigint\", \
        \"customer int unsigned\", \"status varchar(20)\", \"total decimal(10,2)\", \"country char(2)\", \"email varchar(100)\", \
        \"rating double\", \"note text\", \"created_at datetime\", \"updated_at timestamp\"], \"key\": [\"id\"]}\n"
        .to_owned();
    for id in 0..BATCH_ROWS {
        // A tenth is paid, a fifth is German.
        let status = if id % 10 == 0 { "paid" } else { "new" };
        let country = if id % 5 == 1 { "DE" } else { "FR" };
        let note = "words about the order ".repeat(3);
        text.push_str(&format!(
            "{{\"op\": \"c\", \"table\": \"shop.orders\", \"after\": {{\"id\": {id}, \"customer\": {}, \"status\": \"{status}\", \
             \"total\": \"{}.50\", \"country\": \"{country}\", \"email\": \"customer{id}@example.com\", \"rating\": 4.5, \
             \"note\": \"{note}\", \"created_at\": \"2026-11-24 10:00:00\", \"updated_at\": \"2026-11-24 10:11:12\"}}}}\n",
            id * 7,
            id * 13
        ));
    }
    text
}
