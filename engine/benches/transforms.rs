//! Measures the cost of a row in a transform, by language, with the examples of all SDKs. Prints a table for docs/transforms.md
//! or, for a profiler, measures a single example: `cargo bench --bench transforms -- rust/reshape`.
//!
//! Needs the examples, which `tests/tools/guests` and `tests/tools/languages` build.

use std::path::Path;
use std::time::{Duration, Instant};

use rowmill::cli::plugin::Gauge;
use rowmill::fixture::sample_rows;
use rowmill_core::batch::{Batch, Cell, Image, Kind, RowIndex, Table};
use wasmtime::component::{Component, Linker};
use wasmtime::{Config, Engine, Store};

/// By language: directory, ending of the examples' names, and name in the table.
const LANGUAGES: [(&str, &str, &str); 10] = [
    ("rust", "", "Rust, messages by a recipe"),
    ("rust", "_rows", "Rust, messages of its own"),
    ("c", "", "C"),
    ("zig", "", "Zig"),
    ("assemblyscript", "", "AssemblyScript"),
    ("go", "", "Go"),
    ("js", "", "JavaScript, by conditions and recipes"),
    ("python", "", "Python, by conditions and recipes"),
    ("js", "_rows", "JavaScript, row by row"),
    ("python", "_rows", "Python, row by row"),
];
const EXAMPLES: [&str; 4] = ["filter", "paid", "reshape", "route"];

/// Measurements of each example. The best one counts, since other processes share the machine.
const ROUNDS: usize = 6;

fn main() {
    let guests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guests");
    let cost = |name: &str| {
        let mut gauge = Gauge::load(&guests.join(name).with_extension("wasm"))?;
        let each = (0..ROUNDS).map(|_| Ok(gauge.cost()?.each_ns)).collect::<anyhow::Result<Vec<f64>>>()?;
        Ok::<_, anyhow::Error>(each.into_iter().fold(f64::INFINITY, f64::min))
    };
    if let Some(one) = std::env::args().nth(1).filter(|argument| argument.contains('/')) {
        println!("{one}: {:.0}", cost(&one).expect("it runs"));
        return;
    }
    println!("| language | {} |\n| --- |{}", EXAMPLES.join(" | "), " --- |".repeat(EXAMPLES.len()));
    for (directory, ending, name) in LANGUAGES {
        let cell = |example: &&str| {
            let name = format!("{directory}/{example}{ending}");
            if !ending.is_empty() && !guests.join(&name).with_extension("wasm").exists() {
                return "-".to_owned();
            }
            cost(&name).map_or_else(|error| format!("{error:#}"), |each| format!("{each:.0}"))
        };
        println!("| {name} | {} |", EXAMPLES.iter().map(cell).collect::<Vec<_>>().join(" | "));
    }
    println!(
        "| Rust, typed records instead of the packed batch | {:.0} | - | - | - |",
        records(&guests.join("records.wasm"))
    );
}

mod bindings {
    #![allow(missing_docs)]
    wasmtime::component::bindgen!({ path: "../tests/guests/records/wit", world: "records" });
}
use bindings::{Change, Records, Value};

/// Returns the cost of a row, in nanoseconds, where rows cross as typed records, made of the same batch.
fn records(module: &Path) -> f64 {
    let bytes = std::fs::read(module).expect("tests/tools/guests builds it");
    let encoder = wit_component::ComponentEncoder::default().module(&bytes).expect("a module");
    let component = encoder.validate(true).encode().expect("a component");
    let mut config = Config::new();
    config.epoch_interruption(true);
    let engine = Engine::new(&config).expect("an engine");
    let component = Component::new(&engine, component).expect("it compiles");
    let mut store = Store::new(&engine, ());
    store.set_epoch_deadline(u64::MAX / 2);
    let guest = Records::instantiate(&mut store, &component, &Linker::new(&engine)).expect("it starts");

    let (bytes, tables) = sample_rows();
    let (batch, table) = (bytes.view(), &*tables[0]);
    let status = table.column("status").expect("a column").0;
    let mut best = f64::INFINITY;
    for _ in 0..10 * ROUNDS {
        let (started, mut rows) = (Instant::now(), 0);
        while started.elapsed() < Duration::from_millis(50) {
            let changes: Vec<Change> =
                (0..batch.len() as u32).map(|row| change(table, &batch, RowIndex(row))).collect();
            let kept = guest.call_filter(&mut store, &changes, status).expect("it doesn't trap");
            assert!(!kept.is_empty());
            rows += batch.len();
        }
        best = best.min(started.elapsed().as_nanos() as f64 / rows as f64);
    }
    best
}

fn change(table: &Table, batch: &Batch<'_>, row: RowIndex) -> Change {
    let row = batch.row(row);
    let values = |image: Image<'_>| {
        table.columns.iter().zip(image.cells()).map(|(column, cell)| value(column.kind, cell)).collect()
    };
    Change { before: row.before().map(values), after: row.after().map(values) }
}

fn value(kind: Kind, cell: Cell<'_>) -> Value {
    let Cell::Value(bytes) = cell else { return Value::Null };
    match kind {
        Kind::Int | Kind::Uint | Kind::Year | Kind::Bit => Value::Integer(cell.int().unwrap_or_default()),
        Kind::Float => Value::Floating(cell.float().unwrap_or_default()),
        Kind::Bytes | Kind::Geometry | Kind::Vector => Value::Bytes(bytes.to_vec()),
        _ => Value::Text(cell.text().unwrap_or_default().to_owned()),
    }
}
