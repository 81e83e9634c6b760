//! The state of an instance, and the host functions that a plugin calls.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rowmill_core::batch::{ColumnIndex, ImageKind, PackedBatch, RowIndex, Table};
use tracing::{debug, error, info, trace, warn};
use wasmtime::component::{ComponentType, HasSelf, Lift, Linker, LinkerInstance, WasmList, WasmStr};
use wasmtime::{AsContext, StoreContext, StoreContextMut};

use super::super::error::PluginError;
use super::super::interest::Interests;
use super::super::manifest::Grants;
use super::super::outcome::{EditTarget, Outcome, Packed, not_utf8};
use super::super::query::{self as ask, BatchQuery, Conditions};
use super::super::recipe::Recipes;
use super::bindings::host::{self, Level};
use super::bindings::{outcome, query, types};
use super::limits::{
    self, COUNTERS_MAX, HANDLES_MAX, LINE_BYTES_MAX, LINES_MAX, NAME_BYTES_MAX, PRINTED_BYTES_MAX, Resources,
};

/// The maximum size of an answer to `configure` and `describe`, in bytes.
pub(super) const ANSWER_BYTES_MAX: usize = 1 << 20;

/// The target of the lines that plugins log.
pub(crate) const LOG_TARGET: &str = "rowmill::plugin";

/// The name of a sink that stands for each other sink that a plugin may name, where nothing is delivered.
pub(in crate::transform) const ANY_SINK: &str = "*";

/// A plugin's own counters, by name.
pub(in crate::transform) type Counters = Arc<Mutex<BTreeMap<String, u64>>>;

/// The state that host functions read and change.
pub(in crate::transform) struct PluginState {
    name: Arc<str>,
    sinks: Arc<[String]>,
    grants: Grants,
    counters: Counters,
    /// What the current call added to counters. It counts when the call succeeds.
    counted: BTreeMap<String, u64>,
    current: Current,
    interests: Interests,
    recipes: Recipes,
    conditions: Conditions,
    /// The first invalid recipe, query or part of an outcome in the call, which is reported when the call is over.
    error: Option<PluginError>,
    /// What the plugin said so far in the current call.
    outcome: Outcome,
    /// The last error that the plugin logged or printed during the call, which mostly explains a trap.
    last_error: Option<String>,
    /// The beginnings of lines that are not yet printed completely, to stdout and to stderr.
    lines: [String; 2],
    /// The bytes printed in this call.
    printed_bytes: usize,
    /// The number of lines logged in this call.
    logged: usize,
    /// The maximum size of this call's answer, in bytes.
    answer_max: usize,
    /// The number of times that the clock without a time of day was read.
    ticks: u64,
    /// The number of open handles of WASI.
    handles: usize,
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
    fn select(&mut self, condition: String) -> Vec<u32> {
        self.select_rows(&condition)
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

impl host::Host for PluginState {
    fn sink(&mut self, name: String) -> Option<u32> {
        self.sink_number(&name)
    }

    fn add_recipe(&mut self, recipe: String) -> u32 {
        self.recipe_number(&recipe)
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
        let answer = question(self.current.asked(&self.interests)).map_err(PluginError::Reject);
        self.or_error(answer)
    }

    /// Returns a value. An error makes the call fail when it is over.
    fn or_error<T: Default>(&mut self, result: Result<T, PluginError>) -> T {
        result.unwrap_or_else(|error| {
            self.error.get_or_insert(error);
            T::default()
        })
    }

    /// Adds to the outcome. What makes no sense makes the call fail.
    pub(super) fn say(&mut self, say: impl FnOnce(&mut Outcome, &BatchQuery<'_>) -> Result<(), PluginError>) {
        let done = say(&mut self.outcome, &self.current.asked(&self.interests));
        self.or_error(done);
    }

    /// Adds to the outcome of the rows that are meant.
    fn say_of(
        &mut self,
        rows: outcome::Rows,
        say: impl FnOnce(&mut Outcome, &BatchQuery<'_>, Vec<RowIndex>) -> Result<(), PluginError>,
    ) {
        let asked = self.current.asked(&self.interests);
        let rows = asked.rows_of(rows, &mut self.conditions);
        let done = rows.and_then(|rows| say(&mut self.outcome, &asked, rows));
        self.or_error(done);
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
            counted: BTreeMap::new(),
            current: Current::default(),
            interests: Interests::default(),
            recipes: Recipes::default(),
            conditions: Conditions::default(),
            error: None,
            outcome: Outcome::default(),
            last_error: None,
            lines: Default::default(),
            printed_bytes: 0,
            logged: 0,
            answer_max: ANSWER_BYTES_MAX,
            ticks: 0,
            handles: 0,
            resources,
        }
    }

    /// Begins a call about a batch, whose answer may have `answer_max` bytes.
    pub(super) fn begin_call(&mut self, batch: Current, answer_max: usize) {
        // A call that returned an error may have left one.
        self.error = None;
        self.last_error = None;
        self.counted.clear();
        (self.printed_bytes, self.logged) = (0, 0);
        self.answer_max = answer_max;
        self.outcome = Outcome::within(answer_max, self.sinks.len());
        self.current = batch;
    }

    /// Ends the call, and returns what the plugin said.
    pub(super) fn end_call(&mut self) -> Outcome {
        self.current = Current::default();
        self.answer_max = ANSWER_BYTES_MAX; // of all other calls
        std::mem::take(&mut self.outcome)
    }

    /// Takes the first invalid recipe, query or part of an outcome, if there is one.
    pub fn take_error(&mut self) -> Option<PluginError> {
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
}

/// The functions that components and core modules share.
impl PluginState {
    /// Adds a recipe, and returns its number; `u32::MAX` if the text is not a recipe, which makes the call fail.
    pub fn recipe_number(&mut self, recipe: &str) -> u32 {
        let number = self.recipes.add(recipe).map_err(PluginError::Reject).map(Some);
        self.or_error(number).unwrap_or(u32::MAX)
    }

    /// Returns the rows for which a condition holds.
    pub fn select_rows(&mut self, condition: &str) -> Vec<u32> {
        let selected = self.current.asked(&self.interests).select(condition, &mut self.conditions);
        self.or_error(selected.map_err(PluginError::Reject))
    }

    /// Returns the index of the sink of this name.
    pub fn sink_number(&self, name: &str) -> Option<u32> {
        self.sinks.iter().position(|sink| *sink == name || sink == ANY_SINK).map(|index| index as u32)
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
                error!(target: LOG_TARGET, plugin, "{message}");
                self.last_error = Some(message);
            }
            1 => warn!(target: LOG_TARGET, plugin, "{message}"),
            2 => info!(target: LOG_TARGET, plugin, "{message}"),
            3 => debug!(target: LOG_TARGET, plugin, "{message}"),
            _ => trace!(target: LOG_TARGET, plugin, "{message}"),
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
        let line = &mut self.lines[usize::from(is_error)];
        line.push_str(&piece);
        let mut whole = Vec::new();
        while let Some((first, rest)) = line.split_once('\n') {
            whole.push(first.trim_end().to_owned());
            *line = rest.to_owned();
        }
        if line.len() >= LINE_BYTES_MAX {
            whole.push(std::mem::take(line));
        }
        whole.into_iter().for_each(|line| self.write_log(LEVEL_INFO, line));
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

    /// Counts a handle of WASI, which takes memory of the host. Returns false if there are too many.
    pub fn add_handle(&mut self) -> bool {
        self.handles += 1;
        self.handles <= HANDLES_MAX
    }

    pub fn drop_handle(&mut self) {
        self.handles = self.handles.saturating_sub(1);
    }

    pub fn add_to_counter(&mut self, counter: String, n: u64) {
        if let Some(count) = self.counted.get_mut(&counter) {
            *count = count.saturating_add(n);
            return;
        }
        let known = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = |counter: &String| !known.contains_key(counter);
        let count = known.len() + self.counted.keys().filter(|counter| is_new(counter)).count();
        if is_new(&counter) && (count >= COUNTERS_MAX || counter.len() > NAME_BYTES_MAX) {
            let error =
                format!("more than {COUNTERS_MAX} counters, or a counter's name of more than {NAME_BYTES_MAX} bytes");
            self.error.get_or_insert(PluginError::Reject(error));
            return;
        }
        self.counted.insert(counter, n);
    }

    /// Adds what a call that succeeded counted to the counters.
    pub fn count_call(&mut self) {
        if self.counted.is_empty() {
            return;
        }
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        for (counter, n) in std::mem::take(&mut self.counted) {
            let count = counters.entry(counter).or_default();
            *count = count.saturating_add(n);
        }
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
    host::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    // Not generated by bindgen, so that the rows are copied once only, from the batch to the plugin's memory.
    linker
        .instance("rowmill:transform/batch@0.1.0")?
        .func_wrap("rows", |store: StoreContextMut<'_, PluginState>, (): ()| {
            Ok((store.data().current.rows.shared_bytes(),))
        })?;
    add_outcome(&mut linker.instance("rowmill:transform/outcome@0.1.0")?)
}

/// A message as it is in the plugin's memory.
#[derive(ComponentType, Lift)]
#[component(record)]
struct Message {
    row: u32,
    sink: Option<u32>,
    group: WasmStr,
    #[component(name = "deduplication-id")]
    deduplication_id: WasmStr,
    body: WasmStr,
    attributes: WasmList<(WasmStr, WasmStr)>,
}

/// A new value as it is in the plugin's memory.
#[derive(ComponentType, Lift)]
#[component(variant)]
enum Value {
    #[component(name = "absent")]
    Absent,
    #[component(name = "null")]
    Null,
    #[component(name = "packed")]
    Packed(WasmList<u8>),
}

#[derive(ComponentType, Lift)]
#[component(record)]
struct Edit {
    row: u32,
    image: types::Image,
    column: u32,
    value: Value,
}

/// Adds the functions of `outcome`. They are not generated by bindgen, so that texts and values are copied once only.
fn add_outcome(linker: &mut LinkerInstance<'_, PluginState>) -> wasmtime::Result<()> {
    type Context<'a> = StoreContextMut<'a, PluginState>;
    linker.func_wrap("keep", |mut store: Context<'_>, (rows,): (outcome::Rows,)| {
        store.data_mut().say_of(rows, |outcome, _, rows| outcome.keep(rows));
        Ok(())
    })?;
    linker.func_wrap(
        "reroute",
        |mut store: Context<'_>, (rows, sink, group): (outcome::Rows, Option<u32>, Option<outcome::Group>)| {
            store.data_mut().say_of(rows, |outcome, asked, rows| outcome.reroute(asked, rows, sink, group));
            Ok(())
        },
    )?;
    for (name, target) in [("set", EditTarget::Now), ("replace", EditTarget::BothWherePresent)] {
        linker.func_wrap(
            name,
            move |mut store: Context<'_>, (rows, column, value): (outcome::Rows, String, Option<String>)| {
                let set = |outcome: &mut Outcome, asked: &BatchQuery<'_>, rows| {
                    outcome.set(asked, rows, &column, value.as_deref(), target)
                };
                store.data_mut().say_of(rows, set);
                Ok(())
            },
        )?;
    }
    linker.func_wrap("write", |mut store: Context<'_>, (rows, recipe, sink): (outcome::Rows, u32, Option<u32>)| {
        store.data_mut().say_of(rows, |outcome, _, rows| outcome.write(&rows, recipe, sink));
        Ok(())
    })?;
    linker.func_wrap("fail", |mut store: Context<'_>, (row, message): (u32, String)| {
        store.data_mut().say(|outcome, asked| outcome.fail(asked.known(row)?, message));
        Ok(())
    })?;
    linker.func_wrap("edit", |mut store: Context<'_>, (edits,): (WasmList<Edit>,)| {
        let edits = edits.iter(&mut store)?.collect::<wasmtime::Result<Vec<_>>>()?;
        with_outcome(store, |store, outcome, asked| {
            for Edit { row, image, column, value } in &edits {
                let image = match image {
                    types::Image::Before => ImageKind::Before,
                    types::Image::After => ImageKind::After,
                };
                let value = match value {
                    Value::Absent => Packed::Absent,
                    Value::Null => Packed::Null,
                    Value::Packed(bytes) => Packed::Value(bytes.as_le_slice(store)),
                };
                outcome.edit(asked, asked.known(*row)?, image, ColumnIndex(*column), value)?;
            }
            Ok(())
        })
    })?;
    linker.func_wrap("emit", |mut store: Context<'_>, (messages,): (WasmList<Message>,)| {
        let messages = messages.iter(&mut store)?.collect::<wasmtime::Result<Vec<_>>>()?;
        // The lists are read before the texts, which borrow the store.
        let attributes = |message: &Message| message.attributes.iter(&mut store)?.collect::<wasmtime::Result<Vec<_>>>();
        let attributes = messages.iter().map(attributes).collect::<wasmtime::Result<Vec<_>>>()?;
        with_outcome(store, |store, outcome, asked| {
            for (message, attributes) in messages.iter().zip(&attributes) {
                let Message { row, sink, group, deduplication_id, body, .. } = message;
                let texts = [&*text(group, store)?, &text(deduplication_id, store)?, &text(body, store)?];
                let number = outcome.emit(asked.known(*row)?, *sink, texts)?;
                for (name, value) in attributes {
                    outcome.attribute(number, &text(name, store)?, &text(value, store)?)?;
                }
            }
            Ok(())
        })
    })
}

/// Adds to the outcome from the plugin's memory.
fn with_outcome(
    mut store: StoreContextMut<'_, PluginState>,
    say: impl FnOnce(&StoreContext<'_, PluginState>, &mut Outcome, &BatchQuery<'_>) -> Result<(), PluginError>,
) -> wasmtime::Result<()> {
    // The memory cannot be borrowed beside the state.
    let mut outcome = std::mem::take(&mut store.data_mut().outcome);
    let state = store.data();
    let done = say(&store.as_context(), &mut outcome, &state.current.asked(&state.interests));
    let state = store.data_mut();
    state.outcome = outcome;
    state.or_error(done);
    Ok(())
}

/// Reads a text in the plugin's memory.
fn text<'a>(text: &WasmStr, store: &'a StoreContext<'_, PluginState>) -> Result<Cow<'a, str>, PluginError> {
    text.to_str(store).map_err(|_| not_utf8())
}
