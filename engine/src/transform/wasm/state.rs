//! What a plugin's calls of the host see and do: the state of an instance.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rowmill_core::batch::{Batch, Builder, Table};
use tracing::{debug, error, info, trace, warn};
use wasmtime::component::{HasSelf, Linker};

use super::super::host_commands::{EditTarget, HostCommands};
use super::super::interest::Interests;
use super::super::manifest::Grants;
use super::super::query::{self as ask, BatchQuery};
use super::super::recipe::Recipes;
use super::bindings::host::{self, Level};
use super::bindings::{bulk, query, types};
use super::limits::{self, COUNTERS_MAX, LINE_BYTES_MAX, LINES_MAX, NAME_BYTES_MAX, PRINTED_BYTES_MAX, Resources};

/// Bytes of an answer that is about no rows.
pub(super) const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Counters that a plugin keeps by itself.
pub(in crate::transform) type Counters = Arc<Mutex<BTreeMap<String, u64>>>;

/// What a plugin's calls of the host see.
pub(in crate::transform) struct PluginState {
    name: Arc<str>,
    sinks: Arc<[String]>,
    grants: Grants,
    counters: Counters,
    current: Current,
    interests: Interests,
    recipes: Recipes,
    /// What is wrong with a recipe or an order; said when the call is over.
    fault: Option<String>,
    /// Of the current call.
    commands: HostCommands,
    /// The last error that it logged during the call: mostly why it traps then.
    last_error: Option<String>,
    /// A line that it began to print.
    line: String,
    /// What it printed in this call.
    printed_bytes: usize,
    /// Lines that it logged in this call.
    logged: usize,
    /// Bytes that it may answer in this call.
    answer_max: usize,
    /// How often it looked at a clock.
    ticks: u64,
    resources: Resources,
}

/// The batch that a plugin was called for.
#[derive(Default)]
pub(super) struct Current {
    pub rows: Arc<Vec<u8>>,
    pub tables: Arc<[Arc<Table>]>,
    /// The rows that it decides on.
    pub asked: Vec<u32>,
}

impl types::Host for PluginState {}

impl query::Host for PluginState {
    fn select(&mut self, all_of: Vec<query::Condition>) -> Vec<u32> {
        self.ask(|asked| asked.select(&all_of))
    }

    fn asked(&mut self) -> Vec<u32> {
        self.current.asked.clone()
    }

    fn operations(&mut self) -> Vec<u8> {
        self.ask(|asked| Ok(asked.operations()))
    }

    fn tables(&mut self) -> Vec<u32> {
        self.ask(|asked| Ok(asked.tables()))
    }

    fn times(&mut self) -> Vec<i64> {
        self.ask(|asked| Ok(asked.times().collect()))
    }

    fn texts(&mut self, column: String, view: query::View) -> Vec<Option<String>> {
        self.ask(|asked| asked.column(&column, view, ask::text))
    }

    fn integers(&mut self, column: String, view: query::View) -> Vec<Option<i64>> {
        self.ask(|asked| asked.column(&column, view, ask::integer))
    }

    fn floats(&mut self, column: String, view: query::View) -> Vec<Option<f64>> {
        self.ask(|asked| asked.column(&column, view, ask::float))
    }

    fn blobs(&mut self, column: String, view: query::View) -> Vec<Option<Vec<u8>>> {
        self.ask(|asked| asked.column(&column, view, |_, bytes| Some(bytes.to_vec())))
    }

    fn json(&mut self, view: query::View) -> Vec<Option<String>> {
        self.ask(|asked| asked.json(view))
    }
}

impl bulk::Host for PluginState {
    fn pick(&mut self, rule: bulk::Rule) -> Vec<u32> {
        self.ask(|asked| asked.pick(&rule))
    }

    fn keep(&mut self, rows: bulk::Rows) {
        self.command(|commands, asked| commands.keep(asked, rows));
    }

    fn reroute(&mut self, rows: bulk::Rows, sink: Option<u32>, group: Vec<types::GroupPart>) {
        self.command(|commands, asked| commands.reroute(asked, rows, sink, group));
    }

    fn set(&mut self, rows: bulk::Rows, column: String, value: Option<String>) {
        self.command(|commands, asked| commands.edit(asked, rows, &column, value, EditTarget::Now));
    }

    fn replace(&mut self, rows: bulk::Rows, column: String, value: Option<String>) {
        self.command(|commands, asked| commands.edit(asked, rows, &column, value, EditTarget::BothWherePresent));
    }

    fn write(&mut self, rows: bulk::Rows, recipe: u32, sink: Option<u32>) {
        self.command(|commands, asked| commands.write(asked, rows, recipe, sink));
    }

    fn emit(&mut self, messages: Vec<bulk::Message>) {
        self.command(|commands, asked| commands.emit(asked, messages));
    }

    fn fail(&mut self, row: u32, message: String) {
        self.command(|commands, asked| commands.fail(asked, row, message));
    }
}

impl host::Host for PluginState {
    fn sink(&mut self, name: String) -> Option<u32> {
        self.sink_number(&name)
    }

    fn add_recipe(&mut self, recipe: types::Recipe) -> u32 {
        self.recipes.add(recipe).unwrap_or_else(|fault| {
            self.fault.get_or_insert(fault);
            0
        })
    }

    fn log(&mut self, level: Level, message: String) {
        self.write_log(level as u32, message);
    }

    fn count(&mut self, counter: String, n: u64) {
        self.add_to_counter(counter, n);
    }

    fn now(&mut self) -> Option<u64> {
        self.granted_time()
    }

    fn env(&mut self, name: String) -> Option<String> {
        self.granted_variable(&name)
    }
}

impl Current {
    /// There is none outside `process`: then it's as one without rows.
    fn asked<'a>(&'a self, interests: &'a Interests) -> BatchQuery<'a> {
        static NONE: LazyLock<Vec<u8>> = LazyLock::new(|| Builder::with_capacity(0).finish());
        let batch = Batch::parse(&self.rows).or_else(|_| Batch::parse(&NONE));
        let batch = batch.expect("batches are written by the builder");
        BatchQuery { batch, tables: &self.tables, rows: &self.asked, interests }
    }
}

impl PluginState {
    /// A question that makes no sense is a fault of the call.
    fn ask<T: Default>(&mut self, question: impl FnOnce(BatchQuery<'_>) -> Result<T, String>) -> T {
        question(self.current.asked(&self.interests)).unwrap_or_else(|new| {
            self.fault.get_or_insert(new);
            T::default()
        })
    }

    fn command(&mut self, command: impl FnOnce(&mut HostCommands, &BatchQuery<'_>) -> Result<(), String>) {
        if let Err(new) = command(&mut self.commands, &self.current.asked(&self.interests)) {
            self.fault.get_or_insert(new);
        }
    }
}

/// What its instance does with it.
impl PluginState {
    pub fn new(name: Arc<str>, sinks: Arc<[String]>, grants: Grants, counters: Counters, resources: Resources) -> Self {
        Self {
            name,
            sinks,
            grants,
            counters,
            current: Current::default(),
            interests: Interests::default(),
            recipes: Recipes::default(),
            fault: None,
            commands: HostCommands::default(),
            last_error: None,
            line: String::new(),
            printed_bytes: 0,
            logged: 0,
            answer_max: ANSWER_BYTES_MAX,
            ticks: 0,
            resources,
        }
    }

    /// A call about a batch begins; it may answer `answer_max` bytes.
    pub(super) fn begin_call(&mut self, batch: Current, answer_max: usize) {
        // A call that was given up may have left one.
        self.fault = None;
        self.last_error = None;
        (self.printed_bytes, self.logged) = (0, 0);
        self.answer_max = answer_max;
        self.commands = HostCommands::within(answer_max);
        self.current = batch;
    }

    /// The call is over. Returns what the plugin had the host do.
    pub(super) fn end_call(&mut self) -> HostCommands {
        self.current = Current::default();
        std::mem::take(&mut self.commands)
    }

    /// What is wrong with what the plugin told the host, if something is.
    pub fn take_fault(&mut self) -> Option<String> {
        self.fault.take()
    }

    pub fn take_last_error(&mut self) -> Option<String> {
        self.last_error.take()
    }

    pub fn interests(&self) -> &Interests {
        &self.interests
    }

    pub fn interests_mut(&mut self) -> &mut Interests {
        &mut self.interests
    }

    /// The recipes, and the interests by which they find columns.
    pub fn recipes(&mut self) -> (&mut Recipes, &Interests) {
        (&mut self.recipes, &self.interests)
    }

    pub fn resources(&mut self) -> &mut dyn wasmtime::ResourceLimiter {
        &mut self.resources
    }

    pub fn sink_count(&self) -> usize {
        self.sinks.len()
    }
}

/// What both kinds of guests may ask for.
impl PluginState {
    /// A sink's number.
    pub fn sink_number(&self, name: &str) -> Option<u32> {
        self.sinks.iter().position(|sink| *sink == name).map(|index| index as u32)
    }

    /// Logs a line. Levels are numbered as in the world: from 0, an error, to 4.
    pub fn write_log(&mut self, level: u32, message: String) {
        let plugin = Arc::clone(&self.name);
        let plugin = &*plugin;
        let message = limits::cut(message, LINE_BYTES_MAX);
        self.logged += 1;
        if self.logged > LINES_MAX {
            if self.logged == LINES_MAX + 1 {
                warn!(plugin, "it logs more than {LINES_MAX} lines in one call: the others are dropped");
            }
            return;
        }
        match level {
            0 => {
                error!(plugin, "{message}");
                self.last_error = Some(message);
            }
            1 => warn!(plugin, "{message}"),
            2 => info!(plugin, "{message}"),
            3 => debug!(plugin, "{message}"),
            _ => trace!(plugin, "{message}"),
        }
    }

    /// It prints: whole lines go to the log. What it prints as an error is why it traps, if it does.
    pub fn print(&mut self, piece: &[u8], is_error: bool) {
        const LEVEL_INFO: u32 = 2;
        let room = self.print_room();
        self.printed_bytes += piece.len();
        let piece = String::from_utf8_lossy(&piece[..piece.len().min(room)]);
        if is_error {
            self.last_error.get_or_insert_default().push_str(&piece);
        }
        self.line.push_str(&piece);
        while let Some((line, rest)) = self.line.split_once('\n') {
            let (line, rest) = (line.trim_end().to_owned(), rest.to_owned());
            self.line = rest;
            self.write_log(LEVEL_INFO, line);
        }
        if self.line.len() >= LINE_BYTES_MAX {
            let line = std::mem::take(&mut self.line);
            self.write_log(LEVEL_INFO, line);
        }
    }

    /// How many bytes it may still print in this call.
    pub fn print_room(&self) -> usize {
        PRINTED_BYTES_MAX.saturating_sub(self.printed_bytes)
    }

    /// How many bytes it may answer in this call.
    pub fn answer_max(&self) -> usize {
        self.answer_max
    }

    /// Of a clock that goes on with every look at it, and tells nothing.
    pub fn next_tick_ns(&mut self) -> u64 {
        self.ticks += 1;
        self.ticks * 1000
    }

    pub fn add_to_counter(&mut self, counter: String, n: u64) {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = counters.contains_key(&counter);
        if !is_known && (counters.len() >= COUNTERS_MAX || counter.len() > NAME_BYTES_MAX) {
            let fault = format!(
                "it counts under more than {COUNTERS_MAX} names, or under one of more than {NAME_BYTES_MAX} bytes"
            );
            self.fault.get_or_insert(fault);
            return;
        }
        let count = counters.entry(counter).or_default();
        *count = count.saturating_add(n);
    }

    /// The time in microseconds since 1970, if it is granted.
    pub fn granted_time(&self) -> Option<u64> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.grants.clock.then_some(now.as_micros() as u64)
    }

    /// What a clock shows: the time if it is granted, else when the batch's first change was committed.
    pub fn clock_us(&self) -> u64 {
        let of_batch = || self.current.asked(&self.interests).times().next().unwrap_or_default();
        // Runtimes take 0 for a broken clock.
        self.granted_time().unwrap_or_else(|| of_batch().max(1) as u64)
    }

    pub fn granted_variable(&self, name: &str) -> Option<String> {
        self.grants.env.iter().any(|granted| granted == name).then(|| std::env::var(name).ok()).flatten()
    }
}

/// Offers plugins what their world imports.
pub(in crate::transform) fn add_to_linker(linker: &mut Linker<PluginState>) -> wasmtime::Result<()> {
    types::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    query::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    bulk::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    host::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    // By hand, not by bindgen: the rows go from the batch into the guest's memory, copied once.
    linker
        .instance("rowmill:transform/batch@0.1.0")?
        .func_wrap("rows", |store: wasmtime::StoreContextMut<'_, PluginState>, (): ()| {
            Ok((Arc::clone(&store.data().current.rows),))
        })
}
