//! One instance of a plugin: with [`core_module`](super::core_module), the only place that calls into WebAssembly.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{anyhow, bail};
use rowmill_core::batch::{Batch, PackedBatch, RowIndex, Table};
use wasmtime::{Engine, InstancePre, Store, WasmBacktrace};

use super::super::error::PluginError;
use super::super::interest::{Interest, Interests};
use super::super::manifest::Manifest;
use super::super::outcome::Outcome;
use super::super::recipe::RenderedMessages;
use super::bindings::{Failure, Transform, TransformPre, wit_table};
use super::core_module::ModuleGuest;
use super::limits::Resources;
use super::state::{ANSWER_BYTES_MAX, Counters, Current, PluginState};
use super::ticker::{EPOCH, Ticker};

/// The beginnings of the names of functions of Rust's library. Innermost they report a panic, and are not where it happened.
const LIBRARY_FUNCTIONS: [&str; 5] = ["core::", "alloc::", "std::", "rust_", "__rust"];

/// Returns the calls of a backtrace, innermost first, a line each. Those that only report a panic are left out.
fn shown_calls(backtrace: &WasmBacktrace) -> String {
    let text = backtrace.to_string();
    let calls = text.lines().filter_map(|line| {
        let call = line.trim_start().split_once(": ")?.1;
        Some(without_hashes(call.split_once(" - ").map_or(call, |(_, name)| name)))
    });
    let is_reporting = |call: &String| {
        let function = call.split_once('!').map_or(call.as_str(), |(_, function)| function);
        LIBRARY_FUNCTIONS.iter().any(|name| function.trim_start_matches('<').starts_with(name))
    };
    calls.skip_while(is_reporting).map(|call| format!("\n  in {call}")).collect()
}

/// Removes the hashes of crates from a name in Rust: `std[a543996e6e7dbf1e]::panicking` is `std::panicking`.
fn without_hashes(name: &str) -> String {
    let mut parts = name.split('[');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(']') {
            Some((hash, rest)) if hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                out.push_str(rest)
            }
            _ => out.extend(["[", part]),
        }
    }
    out
}

/// The exported functions of an instance.
enum Guest {
    Component(Transform),
    Module(Box<ModuleGuest>),
}

/// An instance of a plugin, ready to be called.
pub(in crate::transform) struct Instance {
    store: Store<PluginState>,
    guest: Guest,
    agreed_interests: Arc<Mutex<Interests>>,
    ticker: Arc<Ticker>,
    deadline_epochs: u64,
}

/// Compiled code with resolved imports.
pub(in crate::transform) enum Code {
    Component(TransformPre<PluginState>),
    Module(InstancePre<PluginState>),
}

/// The parts that each instance of a plugin is created from.
pub(in crate::transform) struct InstanceTemplate {
    pub engine: Engine,
    /// The clock of the engine's deadlines.
    pub ticker: Arc<Ticker>,
    pub code: Code,
    pub name: Arc<str>,
    pub manifest: Manifest,
    pub sinks: Arc<[String]>,
    pub counters: Counters,
    /// The first answer to `describe` of any instance for each table: rows are decoded for it.
    pub agreed_interests: Arc<Mutex<Interests>>,
    /// Whether rows that the plugin fails on become dead letters, whatever its manifest says.
    pub force_dead_letter: bool,
}

impl Instance {
    /// Creates an instance, and passes it the settings.
    ///
    /// # Errors
    /// If the instance traps at its start, or refuses the settings.
    pub fn new(template: &InstanceTemplate) -> anyhow::Result<Self> {
        let Manifest { limits, grants, settings, .. } = &template.manifest;
        let state = PluginState::new(
            Arc::clone(&template.name),
            Arc::clone(&template.sinks),
            grants.clone(),
            Arc::clone(&template.counters),
            Resources::new(limits.memory),
        );
        let ticker = Arc::clone(&template.ticker);
        let _running = ticker.run();
        let mut store = Store::new(&template.engine, state);
        store.limiter(PluginState::resources);
        store.set_hostcall_fuel(ANSWER_BYTES_MAX);
        let deadline_epochs = (limits.deadline.as_millis().div_ceil(EPOCH.as_millis()) + 1) as u64;
        store.set_epoch_deadline(deadline_epochs);
        let guest = match &template.code {
            Code::Component(transform) => transform.instantiate(&mut store).map(Guest::Component),
            Code::Module(module) => ModuleGuest::new(&mut store, module).map(|guest| Guest::Module(Box::new(guest))),
        };
        let guest = guest.map_err(|error| anyhow!("cannot start an instance: {error:#}"))?;
        store.set_epoch_deadline(deadline_epochs);
        let configured = match &guest {
            Guest::Component(transform) => transform.call_configure(&mut store, settings),
            Guest::Module(module) => module.configure(&mut store, settings),
        };
        match configured {
            Ok(Ok(())) => {}
            Ok(Err(message)) => bail!("`configure` failed: {message}"),
            Err(trap) => bail!("`configure` failed: {trap:#}"),
        }
        store.data_mut().count_call();
        match store.data_mut().take_error() {
            Some(error) => bail!("{error}"),
            None => Ok(Self {
                store,
                guest,
                agreed_interests: Arc::clone(&template.agreed_interests),
                deadline_epochs,
                ticker: Arc::clone(&ticker),
            }),
        }
    }

    /// Returns the plugin's interest in a table. Each instance is asked once for each table.
    pub fn interest(&mut self, table: &Table, manifest: &Manifest) -> Result<&Interest, PluginError> {
        if self.interests().get(table).is_none() {
            let is_meant = manifest.tables.as_ref().is_none_or(|tables| tables.matches(&table.schema, &table.name));
            let interest = if is_meant { self.describe(table)? } else { Interest::Pass };
            let mut first = self.agreed_interests.lock().unwrap_or_else(PoisonError::into_inner);
            first.agree(table, &interest).map_err(PluginError::Reject)?;
            drop(first);
            self.store.data_mut().interests_mut().insert(table, interest);
        }
        Ok(self.interests().get(table).expect("inserted above"))
    }

    /// Returns the plugin's interests in tables, as far as it was asked.
    pub fn interests(&self) -> &Interests {
        self.store.data().interests()
    }

    fn describe(&mut self, table: &Table) -> Result<Interest, PluginError> {
        let _running = self.ticker.run();
        self.store.set_hostcall_fuel(ANSWER_BYTES_MAX);
        self.store.set_epoch_deadline(self.deadline_epochs);
        let answer = match &self.guest {
            Guest::Component(transform) => transform.call_describe(&mut self.store, &wit_table(table)),
            Guest::Module(module) => module.describe(&mut self.store, table),
        };
        let interest = match answer {
            Ok(Ok(interest)) => interest,
            Ok(Err(message)) => return Err(PluginError::Reject(format!("`describe` refused the table: {message}"))),
            Err(trap) => return Err(self.trap(&trap)),
        };
        self.check_error()?;
        Interest::new(interest, table).map_err(PluginError::Reject)
    }

    /// Lets the plugin decide on the `asked` rows of a batch; the plugin sees the other rows, too. What it says of them may take
    /// `output_max` bytes.
    pub fn process(
        &mut self,
        rows: &PackedBatch,
        count: usize,
        tables: &Arc<[Arc<Table>]>,
        asked: Vec<u32>,
        output_max: usize,
    ) -> Result<Outcome, PluginError> {
        let batch = Current { rows: rows.clone(), tables: Arc::clone(tables), asked };
        self.store.data_mut().begin_call(batch, output_max);
        self.store.set_hostcall_fuel(output_max);
        let running = self.ticker.run();
        self.store.set_epoch_deadline(self.deadline_epochs);
        let answer = match &self.guest {
            Guest::Component(transform) => transform.call_process(&mut self.store, count as u32),
            Guest::Module(module) => module.process(&mut self.store, rows.as_bytes()),
        };
        drop(running);
        let outcome = self.store.data_mut().end_call();
        match answer {
            Ok(Ok(())) => {}
            Ok(Err(Failure::Retry(message))) => return Err(PluginError::Retry(message)),
            Ok(Err(Failure::Reject(message))) => return Err(PluginError::Reject(message)),
            Err(trap) => return Err(self.trap(&trap)),
        }
        self.check_error()?;
        self.store.data_mut().count_call();
        Ok(outcome)
    }

    /// Renders the messages of rows by one of the plugin's recipes. `None` if they take more than `bytes_max` bytes.
    pub fn messages(
        &mut self,
        recipe: u32,
        batch: &Batch<'_>,
        rows: &[RowIndex],
        tables: &[Arc<Table>],
        bytes_max: usize,
    ) -> Result<Option<RenderedMessages>, PluginError> {
        let (recipes, interests) = self.store.data_mut().recipes();
        let recipe = recipes.by_number(recipe).map_err(PluginError::Malformed)?;
        Ok(recipe.messages(batch, rows, tables, interests, bytes_max))
    }

    /// Converts a trap to an error. Its first line is the plugin's last error message, if there is one, else the cause of the
    /// trap; then follow the cause and the calls that led to it.
    fn trap(&mut self, trap: &wasmtime::Error) -> PluginError {
        const TOO_MUCH: &str = "fuel allocated for hostcalls has been exhausted";
        const HEAP_FULL: &str = "GC heap out of memory";
        let state = self.store.data_mut();
        // The backtrace is one of the causes, and follows in another form.
        let backtrace = trap.downcast_ref::<WasmBacktrace>();
        let is_backtrace = |cause: &String| backtrace.is_some_and(|backtrace| *cause == backtrace.to_string());
        let causes = trap.chain().map(ToString::to_string).filter(|cause| !is_backtrace(cause));
        let mut cause = causes.collect::<Vec<_>>().join(": ");
        if cause.contains(TOO_MUCH) {
            let bytes = state.answer_max();
            cause = format!("more than {bytes} bytes passed to the host in one call; raise `output` in its .toml");
        }
        if cause.contains(HEAP_FULL) {
            cause.push_str("; raise `memory` in its .toml");
        }
        let calls = backtrace.map_or_else(String::new, shown_calls);
        PluginError::Trap(match state.take_last_error() {
            Some(message) => format!("{}\n{cause}{calls}", message.trim_end()),
            None => format!("{cause}{calls}"),
        })
    }

    fn check_error(&mut self) -> Result<(), PluginError> {
        self.store.data_mut().take_error().map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_without_the_hashes_of_crates() {
        for (name, shown) in [
            ("a.wasm!std[a543996e6e7dbf1e]::panicking::f::{closure#0}", "a.wasm!std::panicking::f::{closure#0}"),
            ("a.wasm!<[u8] as core[c5930c85a12de822]::fmt::Debug>::fmt", "a.wasm!<[u8] as core::fmt::Debug>::fmt"),
            ("a.wasm!process", "a.wasm!process"),
        ] {
            assert_eq!(without_hashes(name), shown);
        }
    }
}
