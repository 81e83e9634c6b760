//! The transforms: every `.wasm` file of the plugins directory, in file-name order. A batch passes
//! through all of them; what each says is checked before it is used.

mod error;
mod instance;
mod load;
mod verdict;

use std::path::Path;
use std::sync::Arc;

use rowmill_core::batch::{Batch, Builder, Operation, RowIndex, Table, TableId};
use rowmill_core::binlog::RowBatch;

pub use error::TransformError;
pub use instance::Limits;

use instance::{Instance, Interest};
use verdict::{Decision, Edits};

/// Rows that passed all transforms, and the messages that they made on the way.
#[derive(Debug)]
pub struct Transformed {
    /// A packed batch, of which [`Transformed::rows`] names some.
    pub bytes: Arc<Vec<u8>>,
    /// The rows that are left, in binlog order.
    pub rows: Vec<Passed>,
    /// The messages that transforms made, in the order of the rows that they were made of.
    pub emitted: Vec<Emitted>,
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
    pub group: Option<String>,
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
    pub deduplication_id: Option<String>,
    /// Its body.
    pub body: String,
    /// Its attributes: names and values.
    pub attributes: Vec<(String, String)>,
}

/// All transforms, in their order.
pub struct Chain {
    plugins: Vec<Instance>,
    tables: Vec<Arc<Table>>,
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.plugins.iter().map(Instance::name)).finish()
    }
}

impl Chain {
    /// Loads the plugins of a directory. `sinks` are the names that they may send rows to.
    ///
    /// # Errors
    /// If one of them can't be loaded: the error names the file and what mends it.
    pub fn load(directory: Option<&Path>, sinks: &[String], limits: Limits) -> anyhow::Result<Self> {
        let plugins = match directory {
            Some(directory) => load::directory(directory, sinks, limits)?,
            None => Vec::new(),
        };
        Ok(Self { plugins, tables: Vec::new() })
    }

    /// The plugins' names, in their order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.plugins.iter().map(Instance::name)
    }

    /// The table of an id that a batch had.
    pub fn table(&self, id: TableId) -> &Arc<Table> {
        &self.tables[id.0 as usize]
    }

    /// Passes a batch through the transforms.
    ///
    /// # Errors
    /// If one of them fails on it. The batch went nowhere.
    pub fn run(&mut self, batch: RowBatch) -> Result<Transformed, TransformError> {
        for table in &batch.new_tables {
            for plugin in &mut self.plugins {
                plugin.describe(table)?;
            }
            self.tables.push(Arc::clone(table));
        }
        let rows = (0..batch.rows as u32).map(|row| Passed { row: RowIndex(row), origin: row, reroute: None });
        let mut state = Transformed { bytes: batch.bytes, rows: rows.collect(), emitted: Vec::new() };
        for plugin in &mut self.plugins {
            if state.rows.is_empty() {
                break;
            }
            run_one(plugin, &self.tables, &mut state)?;
        }
        // Transforms ran one after another; consumers see a row's messages in the row's order.
        state.emitted.sort_by_key(|emitted| emitted.origin);
        Ok(state)
    }
}

/// Passes what is left of a batch through one transform.
fn run_one(plugin: &mut Instance, tables: &[Arc<Table>], state: &mut Transformed) -> Result<(), TransformError> {
    let batch = Batch::parse(&state.bytes).expect("batches are written by the builder");
    let decides = |plugin: &Instance, row: RowIndex| {
        let row = batch.row(row);
        match plugin.interest(row.table()) {
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
        }
    };
    let fates: Vec<Fate> = state.rows.iter().map(|passed| decides(plugin, passed.row)).collect();
    if !fates.contains(&Fate::Ask) {
        let mut fates = fates.into_iter();
        state.rows.retain(|_| fates.next() == Some(Fate::Keep));
        return Ok(());
    }

    // The guest sees the rows that are left, and those only.
    if state.rows.len() < batch.len() {
        state.bytes = Arc::new(rewrite(&batch, &state.rows, None));
        (0..).zip(&mut state.rows).for_each(|(index, passed)| passed.row = RowIndex(index));
    }
    let batch = Batch::parse(&state.bytes).expect("batches are written by the builder");
    let verdict = plugin.process(&state.bytes, &batch, tables)?;
    let Decision { keep, reroutes, edits, emitted } = verdict::check(plugin.name(), verdict, &batch, tables)?;

    for mut message in emitted {
        message.origin = state.rows[message.row.0 as usize].origin;
        message.batch = Arc::clone(&state.bytes);
        state.emitted.push(message);
    }
    for (row, reroute) in reroutes {
        state.rows[row.0 as usize].reroute = Some(reroute);
    }
    let mut index = 0;
    state.rows.retain(|passed| {
        let fate = fates[index];
        index += 1;
        match fate {
            Fate::Keep => true,
            Fate::Drop => false,
            Fate::Ask => keep[passed.row.0 as usize],
        }
    });
    if !edits.is_empty() {
        let bytes = rewrite(&batch, &state.rows, Some(&edits));
        (0..).zip(&mut state.rows).for_each(|(index, passed)| passed.row = RowIndex(index));
        state.bytes = Arc::new(bytes);
    }
    Ok(())
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
    let mut builder = Builder::with_capacity(64 << 10);
    let mut transaction = None;
    for passed in rows {
        let row = batch.row(passed.row);
        if transaction != Some(row.transaction()) {
            transaction = Some(row.transaction());
            builder.transaction(&batch.transaction(row.transaction()).header());
        }
        match edits.filter(|edits| edits.of_row(passed.row)) {
            None => builder.copy_row_unchanged(&row),
            Some(edits) => {
                builder.copy_row(&row, |image, column, builder| match edits.get(passed.row, image, column) {
                    Some(cell) => {
                        builder.cell(cell);
                        true
                    }
                    None => false,
                })
            }
        }
    }
    builder.finish()
}
