//! What a module is, and what it costs.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::module_in;
use super::rows::{Rows, batch};
use crate::transform::{Chain, Loader, Settings};

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
    for (name, value) in loader.describe(&module)? {
        writeln!(out, "{name:<10} {value}")?;
    }
    let chain = Chain::new(vec![Arc::clone(&plugin)]);
    let count = batch(&rows.bytes).len();
    let started = Instant::now();
    let (mut number, mut kept) = (0u64, 0);
    while started.elapsed() < MEASURED_FOR {
        let done = chain.run(number, Arc::clone(&rows.bytes), count as u32, &rows.tables).context("nothing stops")?;
        if let Some(dead) = done.dead.first() {
            writeln!(out, "rows       {}", dead.error)?;
            return Ok(out);
        }
        kept = done.rows.len();
        number += 1;
    }
    let each = started.elapsed().as_nanos() as f64 / (number as f64 * count as f64);
    writeln!(out, "a row      {each:.0} ns, in batches of {count} of which it keeps {kept}")?;
    Ok(out)
}

/// Rows of ten columns and about 250 bytes.
fn sample() -> String {
    let mut text = "{\"sinks\": [\"order-management\", \"events\", \"warehouse\"]}\n{\"table\": \"shop.orders\", \"columns\": [\"id bigint\", \"customer_id bigint\", \
        \"status varchar(20)\", \"total decimal(10,2)\", \"currency char(3)\", \"email varchar(100)\", \"note text\", \
        \"created_at datetime\", \"updated_at timestamp\", \"flags int unsigned\"], \"key\": [\"id\"]}\n"
        .to_owned();
    for id in 0..BATCH_ROWS {
        // A tenth becomes paid.
        let status = if id % 10 == 0 { "paid" } else { "new" };
        let row = |status: &str| {
            format!(
                "{{\"id\": {id}, \"customer_id\": {}, \"status\": \"{status}\", \"total\": \"{}.50\", \"currency\": \"EUR\", \
                 \"email\": \"customer{id}@example.com\", \"note\": \"{}\", \"created_at\": \"2026-11-24 10:00:00\", \
                 \"updated_at\": \"2026-11-24 10:11:12\", \"flags\": 7}}",
                id * 7,
                id * 13,
                "words about the order ".repeat(4)
            )
        };
        let line = format!(
            "{{\"op\": \"u\", \"table\": \"shop.orders\", \"before\": {}, \"after\": {}}}\n",
            row("new"),
            row(status)
        );
        text.push_str(&line);
    }
    text
}
