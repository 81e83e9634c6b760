//! One instance of a plugin: with `module`, the only place that calls into WebAssembly.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{anyhow, bail};
use rowmill_core::batch::{Batch, Builder, Kind, RowIndex, Table};
use tracing::{debug, error, info, trace, warn};
use wasmtime::component::{HasSelf, Linker};
use wasmtime::{Engine, InstancePre, Store};

use super::error::Fault;
use super::limits::{self, COUNTERS_MAX, LINE_BYTES_MAX, LINES_MAX, NAME_BYTES_MAX, PRINTED_BYTES_MAX, Resources};
use super::manifest::{Grants, Manifest};
use super::module::ModuleGuest;
use super::orders::{Orders, Place};
use super::query::{self as ask, Asked};
use super::recipe::{Recipes, Written};
use super::ticker::{EPOCH, Ticker};
use super::want::{Interest, Interests};

mod bindings {
    #![allow(missing_docs)]
    wasmtime::component::bindgen!({ path: "../wit", world: "transform" });
}

use bindings::Transform;
use bindings::rowmill::transform::host::{self, Level};
pub(super) use bindings::rowmill::transform::{bulk, query, types};
pub(super) use bindings::{Failure, TransformPre, Verdict};

/// Bytes of an answer that is about no rows.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Counters that a plugin keeps by itself.
pub(super) type Counters = Arc<Mutex<BTreeMap<String, u64>>>;

/// What a plugin's calls of the host see.
pub(super) struct PluginState {
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
    orders: Orders,
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
struct Current {
    rows: Arc<Vec<u8>>,
    tables: Arc<[Arc<Table>]>,
    /// The rows that it decides on.
    asked: Vec<u32>,
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
        self.order(|orders, asked| orders.keep(asked, rows));
    }

    fn reroute(&mut self, rows: bulk::Rows, sink: Option<u32>, group: Vec<types::GroupPart>) {
        self.order(|orders, asked| orders.reroute(asked, rows, sink, group));
    }

    fn set(&mut self, rows: bulk::Rows, column: String, value: Option<String>) {
        self.order(|orders, asked| orders.edit(asked, rows, &column, value, Place::Now));
    }

    fn replace(&mut self, rows: bulk::Rows, column: String, value: Option<String>) {
        self.order(|orders, asked| orders.edit(asked, rows, &column, value, Place::WhereItHasAValue));
    }

    fn write(&mut self, rows: bulk::Rows, recipe: u32, sink: Option<u32>) {
        self.order(|orders, asked| orders.write(asked, rows, recipe, sink));
    }

    fn emit(&mut self, messages: Vec<bulk::Message>) {
        self.order(|orders, asked| orders.emit(asked, messages));
    }

    fn fail(&mut self, row: u32, message: String) {
        self.order(|orders, asked| orders.fail(asked, row, message));
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
    fn asked<'a>(&'a self, interests: &'a Interests) -> Asked<'a> {
        static NONE: LazyLock<Vec<u8>> = LazyLock::new(|| Builder::with_capacity(0).finish());
        let batch = Batch::parse(&self.rows).or_else(|_| Batch::parse(&NONE));
        let batch = batch.expect("batches are written by the builder");
        Asked { batch, tables: &self.tables, rows: &self.asked, interests }
    }
}

impl PluginState {
    /// A question that makes no sense is a fault of the call.
    fn ask<T: Default>(&mut self, question: impl FnOnce(Asked<'_>) -> Result<T, String>) -> T {
        question(self.current.asked(&self.interests)).unwrap_or_else(|new| {
            self.fault.get_or_insert(new);
            T::default()
        })
    }

    fn order(&mut self, order: impl FnOnce(&mut Orders, &Asked<'_>) -> Result<(), String>) {
        if let Err(new) = order(&mut self.orders, &self.current.asked(&self.interests)) {
            self.fault.get_or_insert(new);
        }
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
pub(super) fn add_to_linker(linker: &mut Linker<PluginState>) -> wasmtime::Result<()> {
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

/// What a plugin said of a batch.
pub(super) struct Answer {
    pub verdict: Verdict,
    pub orders: Orders,
}

/// What there is to call.
enum Guest {
    Component(Transform),
    Module(Box<ModuleGuest>),
}

/// An instance of a plugin, ready to be called.
pub(super) struct Instance {
    store: Store<PluginState>,
    guest: Guest,
    first_answers: Arc<Mutex<Interests>>,
    ticker: Arc<Ticker>,
    deadline_epochs: u64,
}

/// Compiled code, its imports given.
pub(super) enum Code {
    Component(TransformPre<PluginState>),
    Module(InstancePre<PluginState>),
}

/// What an instance is made of.
pub(super) struct Blueprint {
    pub engine: Engine,
    /// Of the engine's deadlines.
    pub ticker: Arc<Ticker>,
    pub code: Code,
    pub name: Arc<str>,
    pub manifest: Manifest,
    pub sinks: Arc<[String]>,
    pub counters: Counters,
    /// What the first instance that was asked said of each table: what rows are decoded for.
    pub first_answers: Arc<Mutex<Interests>>,
    /// Whether rows that it fails on are dead letters, whatever its manifest says.
    pub sets_aside: bool,
}

impl Instance {
    /// Makes an instance, and hands it its settings.
    ///
    /// # Errors
    /// If it traps at its start, or refuses its settings.
    pub fn new(blueprint: &Blueprint) -> anyhow::Result<Self> {
        let Manifest { limits, grants, settings, .. } = &blueprint.manifest;
        let state = PluginState {
            name: Arc::clone(&blueprint.name),
            sinks: Arc::clone(&blueprint.sinks),
            grants: grants.clone(),
            counters: Arc::clone(&blueprint.counters),
            current: Current::default(),
            interests: Interests::default(),
            recipes: Recipes::default(),
            fault: None,
            orders: Orders::default(),
            last_error: None,
            line: String::new(),
            printed_bytes: 0,
            logged: 0,
            answer_max: ANSWER_BYTES_MAX,
            ticks: 0,
            resources: Resources::new(limits.memory),
        };
        let ticker = Arc::clone(&blueprint.ticker);
        let _running = ticker.run();
        let mut store = Store::new(&blueprint.engine, state);
        store.limiter(|state| &mut state.resources);
        store.set_hostcall_fuel(ANSWER_BYTES_MAX);
        let deadline_epochs = (limits.deadline.as_millis().div_ceil(EPOCH.as_millis()) + 1) as u64;
        store.set_epoch_deadline(deadline_epochs);
        let guest = match &blueprint.code {
            Code::Component(transform) => transform.instantiate(&mut store).map(Guest::Component),
            Code::Module(module) => ModuleGuest::new(&mut store, module).map(|guest| Guest::Module(Box::new(guest))),
        };
        let guest = guest.map_err(|error| anyhow!("it isn't a transform, or it fails when it starts: {error:#}"))?;
        store.set_epoch_deadline(deadline_epochs);
        let configured = match &guest {
            Guest::Component(transform) => transform.call_configure(&mut store, settings),
            Guest::Module(module) => module.configure(&mut store, settings),
        };
        match configured {
            Ok(Ok(())) => {}
            Ok(Err(message)) => bail!("it refuses its settings: {message}"),
            Err(trap) => bail!("it failed when it was given its settings: {trap:#}"),
        }
        match store.data_mut().fault.take() {
            Some(fault) => bail!("{fault}"),
            None => Ok(Self {
                store,
                guest,
                first_answers: Arc::clone(&blueprint.first_answers),
                deadline_epochs,
                ticker: Arc::clone(&ticker),
            }),
        }
    }

    /// What the plugin wants of a table's rows: asks it if it wasn't asked before.
    pub fn interest(&mut self, table: &Table, manifest: &Manifest) -> Result<&Interest, Fault> {
        if self.store.data().interests.get(table).is_none() {
            let is_meant = manifest.tables.as_ref().is_none_or(|tables| tables.matches(&table.schema, &table.name));
            let interest = if is_meant { self.describe(table)? } else { Interest::Pass };
            let mut first = self.first_answers.lock().unwrap_or_else(PoisonError::into_inner);
            first.agree(table, &interest).map_err(Fault::Reject)?;
            drop(first);
            self.store.data_mut().interests.insert(table, interest);
        }
        Ok(self.interests().get(table).expect("it was asked"))
    }

    /// What the plugin wants of tables, as far as it was asked.
    pub fn interests(&self) -> &Interests {
        &self.store.data().interests
    }

    fn describe(&mut self, table: &Table) -> Result<Interest, Fault> {
        let _running = self.ticker.run();
        self.store.set_epoch_deadline(self.deadline_epochs);
        let answer = match &self.guest {
            Guest::Component(transform) => transform.call_describe(&mut self.store, &wit_table(table)),
            Guest::Module(module) => module.describe(&mut self.store, table),
        };
        let interest = match answer {
            Ok(Ok(interest)) => interest,
            Ok(Err(message)) => return Err(Fault::Reject(format!("it refuses the table: {message}"))),
            Err(trap) => return Err(self.trap(&trap)),
        };
        self.faults()?;
        Interest::new(interest, table).map_err(Fault::Malformed)
    }

    /// Lets the plugin decide on the `asked` rows of a batch; it may see the others. It may have the host hold `output_max` bytes
    /// for it, and answer as many.
    pub fn process(
        &mut self,
        rows: &Arc<Vec<u8>>,
        count: usize,
        tables: &Arc<[Arc<Table>]>,
        asked: Vec<u32>,
        output_max: usize,
    ) -> Result<Answer, Fault> {
        let state = self.store.data_mut();
        // A call that was given up may have left one.
        state.fault = None;
        state.last_error = None;
        (state.printed_bytes, state.logged) = (0, 0);
        state.answer_max = output_max;
        state.orders = Orders::within(output_max);
        self.store.set_hostcall_fuel(output_max);
        self.store.data_mut().current = Current { rows: Arc::clone(rows), tables: Arc::clone(tables), asked };
        let running = self.ticker.run();
        self.store.set_epoch_deadline(self.deadline_epochs);
        let answer = match &self.guest {
            Guest::Component(transform) => transform.call_process(&mut self.store, count as u32),
            Guest::Module(module) => module.process(&mut self.store, rows),
        };
        drop(running);
        self.store.data_mut().current = Current::default();
        let orders = std::mem::take(&mut self.store.data_mut().orders);
        let verdict = match answer {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(Failure::Retry(message))) => return Err(Fault::Retry(message)),
            Ok(Err(Failure::Reject(message))) => return Err(Fault::Reject(message)),
            Err(trap) => return Err(self.trap(&trap)),
        };
        self.faults()?;
        Ok(Answer { verdict, orders })
    }

    /// How many sinks it may name.
    pub fn sinks(&self) -> usize {
        self.store.data().sinks.len()
    }

    /// The messages of rows by one of the plugin's recipes; `None` if they have more than `bytes_max`.
    pub fn messages(
        &mut self,
        recipe: u32,
        batch: &Batch<'_>,
        rows: &[RowIndex],
        tables: &[Arc<Table>],
        bytes_max: usize,
    ) -> Result<Option<Written>, Fault> {
        let PluginState { recipes, interests, .. } = self.store.data_mut();
        let recipe = recipes.by_number(recipe).map_err(Fault::Malformed)?;
        Ok(recipe.messages(batch, rows, tables, interests, bytes_max))
    }

    /// A trap, with what the guest said before it.
    fn trap(&mut self, trap: &wasmtime::Error) -> Fault {
        const TOO_MUCH: &str = "fuel allocated for hostcalls has been exhausted";
        let state = self.store.data_mut();
        let mut text = format!("{trap:#}");
        if text.contains(TOO_MUCH) {
            text = format!(
                "it gives the host more than {} bytes in one call; raise `output` in its .toml",
                state.answer_max
            );
        }
        Fault::Trap(match state.last_error.take() {
            Some(message) => format!("{message}: {text}"),
            None => text,
        })
    }

    fn faults(&mut self) -> Result<(), Fault> {
        self.store.data_mut().fault.take().map_or(Ok(()), |fault| Err(Fault::Reject(fault)))
    }
}

fn wit_table(table: &Table) -> types::Table {
    types::Table {
        id: table.id.0,
        schema: table.schema.clone(),
        name: table.name.clone(),
        columns: table
            .columns
            .iter()
            .map(|column| types::Column {
                name: column.name.clone(),
                kind: wit_kind(column.kind),
                mysql_type: column.mysql_type.clone(),
                nullable: column.nullable,
                key: column.key,
            })
            .collect(),
    }
}

fn wit_kind(kind: Kind) -> types::Kind {
    match kind {
        Kind::Int => types::Kind::Int,
        Kind::Uint => types::Kind::Uint,
        Kind::Float => types::Kind::Float,
        Kind::Decimal => types::Kind::Decimal,
        Kind::Text => types::Kind::Text,
        Kind::Bytes => types::Kind::Bytes,
        Kind::Json => types::Kind::Json,
        Kind::Date => types::Kind::Date,
        Kind::Time => types::Kind::Time,
        Kind::Datetime => types::Kind::Datetime,
        Kind::Timestamp => types::Kind::Timestamp,
        Kind::Year => types::Kind::Year,
        Kind::Bit => types::Kind::Bit,
        Kind::Enum => types::Kind::Enum,
        Kind::Set => types::Kind::Set,
        Kind::Geometry => types::Kind::Geometry,
        Kind::Vector => types::Kind::Vector,
    }
}
