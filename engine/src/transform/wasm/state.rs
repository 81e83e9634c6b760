//! The state of an instance, and the host functions that a plugin calls.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rowmill_core::batch::{PackedBatch, Table};
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

/// The maximum size of an answer to `configure` and `describe`, in bytes.
pub(super) const ANSWER_BYTES_MAX: usize = 1 << 20;

/// A plugin's own counters, by name.
pub(in crate::transform) type Counters = Arc<Mutex<BTreeMap<String, u64>>>;

/// The state that host functions read and change.
pub(in crate::transform) struct PluginState {
    name: Arc<str>,
    sinks: Arc<[String]>,
    grants: Grants,
    counters: Counters,
    current: Current,
    interests: Interests,
    recipes: Recipes,
    /// The first invalid recipe, query or command of the call, which is reported when the call is over.
    error: Option<String>,
    /// The host commands of the current call.
    commands: HostCommands,
    /// The last error that the plugin logged or printed during the call, which mostly explains a trap.
    last_error: Option<String>,
    /// The beginning of a line that is not yet printed completely.
    line: String,
    /// The bytes printed in this call.
    printed_bytes: usize,
    /// The number of lines logged in this call.
    logged: usize,
    /// The maximum size of this call's answer, in bytes.
    answer_max: usize,
    /// The number of times that the clock without a time of day was read.
    ticks: u64,
    resources: Resources,
}

/// The batch of the current call.
#[derive(Default)]
pub(super) struct Current {
    pub rows: PackedBatch,
    pub tables: Arc<[Arc<Table>]>,
    /// The rows that the plugin decides on.
    pub asked: Vec<u32>,
}

impl types::Host for PluginState {}

impl query::Host for PluginState {
    fn select(&mut self, rule: query::Rule) -> Vec<u32> {
        self.ask(|asked| asked.select(&rule))
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

    fn has(&mut self, column: String, view: query::View) -> Vec<bool> {
        self.ask(|asked| asked.has(&column, view))
    }

    fn texts(&mut self, column: String, view: query::View) -> Vec<Option<String>> {
        self.ask(|asked| asked.column(&column, view, ask::text))
    }

    fn integers(&mut self, column: String, view: query::View) -> Vec<Option<i64>> {
        self.ask(|asked| asked.column(&column, view, ask::integer))
    }

    fn unsigned(&mut self, column: String, view: query::View) -> Vec<Option<u64>> {
        self.ask(|asked| asked.column(&column, view, ask::unsigned))
    }

    fn floats(&mut self, column: String, view: query::View) -> Vec<Option<f64>> {
        self.ask(|asked| asked.column(&column, view, ask::float))
    }

    fn blobs(&mut self, column: String, view: query::View) -> Vec<Option<Vec<u8>>> {
        self.ask(|asked| asked.column(&column, view, ask::blob))
    }

    fn json(&mut self, view: query::View) -> Vec<Option<String>> {
        self.ask(|asked| asked.json(view))
    }
}

impl bulk::Host for PluginState {
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
        self.recipes.add(recipe).unwrap_or_else(|error| {
            self.error.get_or_insert(error);
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
    /// Returns the scope of queries. Outside of `process` there is no batch, and the scope is a batch without rows.
    fn asked<'a>(&'a self, interests: &'a Interests) -> BatchQuery<'a> {
        BatchQuery { batch: self.rows.view(), tables: &self.tables, rows: &self.asked, interests }
    }
}

impl PluginState {
    /// Answers a query. An invalid query makes the call fail.
    fn ask<T: Default>(&mut self, question: impl FnOnce(BatchQuery<'_>) -> Result<T, String>) -> T {
        question(self.current.asked(&self.interests)).unwrap_or_else(|new| {
            self.error.get_or_insert(new);
            T::default()
        })
    }

    fn command(&mut self, command: impl FnOnce(&mut HostCommands, &BatchQuery<'_>) -> Result<(), String>) {
        if let Err(new) = command(&mut self.commands, &self.current.asked(&self.interests)) {
            self.error.get_or_insert(new);
        }
    }
}

/// The functions for `Instance`.
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
            error: None,
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

    /// Begins a call about a batch, whose answer may have `answer_max` bytes.
    pub(super) fn begin_call(&mut self, batch: Current, answer_max: usize) {
        // A call that returned an error may have left one.
        self.error = None;
        self.last_error = None;
        (self.printed_bytes, self.logged) = (0, 0);
        self.answer_max = answer_max;
        self.commands = HostCommands::within(answer_max);
        self.current = batch;
    }

    /// Ends the call, and returns the plugin's host commands.
    pub(super) fn end_call(&mut self) -> HostCommands {
        self.current = Current::default();
        self.answer_max = ANSWER_BYTES_MAX; // of all other calls
        std::mem::take(&mut self.commands)
    }

    /// Takes the first invalid recipe, query or command of the plugin, if there is one.
    pub fn take_error(&mut self) -> Option<String> {
        self.error.take()
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

    /// Returns the recipes, and the interests that their columns are checked against.
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

/// The functions that components and core modules share.
impl PluginState {
    /// Returns the index of the sink of this name.
    pub fn sink_number(&self, name: &str) -> Option<u32> {
        self.sinks.iter().position(|sink| *sink == name).map(|index| index as u32)
    }

    /// Logs a line. Levels are numbered as in the WIT world: from 0 (error) to 4 (trace).
    pub fn write_log(&mut self, level: u32, message: String) {
        let plugin = Arc::clone(&self.name);
        let plugin = &*plugin;
        let message = limits::cut(message, LINE_BYTES_MAX);
        self.logged += 1;
        if self.logged > LINES_MAX {
            if self.logged == LINES_MAX + 1 {
                warn!(plugin, "more than {LINES_MAX} log lines in one call; dropping the others");
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

    /// Logs printed output line by line. Output to stderr is kept to explain a trap, if one follows.
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

    /// Returns the number of bytes that the plugin may still print in this call.
    pub fn print_room(&self) -> usize {
        PRINTED_BYTES_MAX.saturating_sub(self.printed_bytes)
    }

    /// Returns the maximum size of this call's answer, in bytes.
    pub fn answer_max(&self) -> usize {
        self.answer_max
    }

    /// Returns the time of a clock that advances with each read, and has no relation to the time of day.
    pub fn next_tick_ns(&mut self) -> u64 {
        self.ticks += 1;
        self.ticks * 1000
    }

    pub fn add_to_counter(&mut self, counter: String, n: u64) {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = counters.contains_key(&counter);
        if !is_known && (counters.len() >= COUNTERS_MAX || counter.len() > NAME_BYTES_MAX) {
            let error =
                format!("more than {COUNTERS_MAX} counters, or a counter's name of more than {NAME_BYTES_MAX} bytes");
            self.error.get_or_insert(error);
            return;
        }
        let count = counters.entry(counter).or_default();
        *count = count.saturating_add(n);
    }

    /// Returns the time in microseconds since 1970, if the clock is granted.
    pub fn granted_time(&self) -> Option<u64> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.grants.clock.then_some(now.as_micros() as u64)
    }

    /// Returns the time in microseconds since 1970 if the clock is granted, else the commit time of the batch's first row.
    pub fn clock_us(&self) -> u64 {
        let of_batch = || self.current.asked(&self.interests).times().next().unwrap_or_default();
        // Runtimes treat 0 as a broken clock.
        self.granted_time().unwrap_or_else(|| of_batch().max(1) as u64)
    }

    pub fn granted_variable(&self, name: &str) -> Option<String> {
        self.grants.env.iter().any(|granted| granted == name).then(|| std::env::var(name).ok()).flatten()
    }
}

/// Adds the imports of the WIT world to a linker.
pub(in crate::transform) fn add_to_linker(linker: &mut Linker<PluginState>) -> wasmtime::Result<()> {
    types::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    query::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    bulk::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    host::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    // Not generated by bindgen, so that the rows are copied once only, from the batch to the plugin's memory.
    linker
        .instance("rowmill:transform/batch@0.1.0")?
        .func_wrap("rows", |store: wasmtime::StoreContextMut<'_, PluginState>, (): ()| {
            Ok((store.data().current.rows.shared_bytes(),))
        })
}
