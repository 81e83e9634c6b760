//! A plugin and its pool of instances. An instance is lent to one thread at a time, and replaced after a trap.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rowmill_core::batch::{Batch, PackedBatch, Table};
use rowmill_pipeline::sequencer::Sequencer;
use tracing::{info, warn};

use super::error::{PluginError, TransformError};
use super::interest::{Disposition, Interest};
use super::manifest::{Manifest, OnError};
use super::wasm::bindings::{INTERFACE, VERSION};
use super::wasm::instance::{Code, Instance, InstanceTemplate};
use super::wasm::limits::OUTPUT_A_ROW;
use super::{Chain, Decided, Passed, RETRY_PAUSES_MAX, Transform, rewrite};
use crate::retry::is_logged;

/// The pauses before the retries of a batch, if the plugin asks for them.
const RETRY_DELAYS: [Duration; 3] = [Duration::from_millis(50), Duration::from_millis(250), Duration::from_secs(1)];

/// A loaded plugin.
pub struct Plugin {
    blueprint: InstanceTemplate,
    /// The SHA-256 digest of the plugin's files, which tells its versions apart.
    pub(super) digest: [u8; 32],
    instances: Mutex<Instances>,
    returned: Condvar,
    instances_max: usize,
    /// Orders the batches of a plugin that has one instance.
    in_order: Option<Sequencer>,
    skipped: AtomicU64,
    /// The number of batches on which the plugin failed as a whole, and on none of their rows.
    failed_as_a_whole: AtomicU64,
}

#[derive(Default)]
struct Instances {
    idle: Vec<Instance>,
    made: usize,
    /// The number of threads that wait for an instance.
    waiting: usize,
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Plugin {
    /// Creates a plugin with `first` as its first instance.
    pub(super) fn new(blueprint: InstanceTemplate, digest: [u8; 32], first: Instance, threads: usize) -> Self {
        let instances_max = blueprint.manifest.instances.unwrap_or(threads).min(threads).max(1);
        // With one thread batches are in order without a sequencer.
        let in_order = (instances_max == 1 && threads > 1).then(Sequencer::default);
        Self {
            blueprint,
            digest,
            instances: Mutex::new(Instances { idle: vec![first], made: 1, waiting: 0 }),
            returned: Condvar::new(),
            instances_max,
            in_order,
            skipped: AtomicU64::new(0),
            failed_as_a_whole: AtomicU64::new(0),
        }
    }

    /// Returns the plugin's name: that of its file, without `.wasm`.
    pub fn name(&self) -> &str {
        &self.blueprint.name
    }

    /// Returns what the plugin is and what it may do, for people: names and values.
    pub fn describe(&self) -> Vec<(&'static str, String)> {
        let InstanceTemplate { engine, code, manifest, .. } = &self.blueprint;
        let (what, imports): (String, Vec<String>) = match code {
            Code::Component(transform) => {
                let component_type = transform.instance_pre().component().component_type();
                let imports = component_type.imports(engine).map(|(name, _)| name.to_owned()).collect();
                (format!("component of {}@{VERSION}", INTERFACE.trim_end_matches('/')), imports)
            }
            Code::Module(module) => {
                let import = |import: wasmtime::ImportType<'_>| format!("{}.{}", import.module(), import.name());
                ("core module (wit/core-module.md)".to_owned(), module.module().imports().map(import).collect())
            }
        };
        let Manifest { tables, limits, instances, grants, on_error, settings } = manifest;
        vec![
            ("type", what),
            ("imports", if imports.is_empty() { "nothing".to_owned() } else { imports.join(", ") }),
            ("tables", tables.as_ref().map_or_else(|| "all".to_owned(), ToString::to_string)),
            ("on error", format!("{on_error:?}").to_lowercase()),
            (
                "limits",
                format!(
                    "memory {} bytes, deadline {:?}, output {} bytes",
                    limits.memory, limits.deadline, limits.output
                ),
            ),
            ("instances", instances.map_or_else(|| "one per thread".to_owned(), |count| count.to_string())),
            ("granted", format!("clock {}, environment {:?}", grants.clock, grants.env)),
            ("settings", settings.clone()),
        ]
    }

    /// Returns whether the plugin has one instance, which sees all rows in order and may keep state.
    pub fn is_stateful(&self) -> bool {
        self.manifest().instances == Some(1)
    }

    pub(super) fn manifest(&self) -> &Manifest {
        &self.blueprint.manifest
    }

    /// Lends an instance to `work`, which is retried with the same instance if the plugin says that a retry may succeed, as
    /// long as `pauses` lasts.
    pub(super) fn with_instance<T>(
        &self,
        pauses: &mut Duration,
        mut work: impl FnMut(&mut Instance) -> Result<T, PluginError>,
    ) -> Result<T, PluginError> {
        let mut instance = self.lend()?;
        let mut result = work(&mut instance);
        for delay in RETRY_DELAYS {
            if !matches!(result, Err(PluginError::Retry(_))) {
                break;
            }
            let Some(left) = pauses.checked_sub(delay) else { break };
            *pauses = left;
            std::thread::sleep(delay);
            result = work(&mut instance);
        }
        match &result {
            Err(PluginError::Trap(_)) => self.discard(instance),
            _ => self.give_back(instance),
        }
        result
    }

    fn instances(&self) -> MutexGuard<'_, Instances> {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lend(&self) -> Result<Instance, PluginError> {
        let mut instances = self.instances();
        loop {
            if let Some(instance) = instances.idle.pop() {
                return Ok(instance);
            }
            if instances.made < self.instances_max {
                instances.made += 1;
                break;
            }
            instances.waiting += 1;
            instances = self.returned.wait(instances).unwrap_or_else(PoisonError::into_inner);
            instances.waiting -= 1;
        }
        drop(instances);
        Instance::new(&self.blueprint).map_err(|error| {
            self.instances().made -= 1;
            self.returned.notify_one();
            PluginError::Trap(format!("{error:#}"))
        })
    }

    fn give_back(&self, instance: Instance) {
        let mut instances = self.instances();
        instances.idle.push(instance);
        // A notification costs a system call even without a waiting thread.
        if instances.waiting > 0 {
            self.returned.notify_one();
        }
    }

    fn discard(&self, instance: Instance) {
        drop(instance);
        self.instances().made -= 1;
        self.returned.notify_one();
    }

    /// Returns the plugin's counters.
    pub(crate) fn counters(&self) -> BTreeMap<String, u64> {
        self.blueprint.counters.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Chain {
    /// Creates a chain of plugins, in order.
    pub fn new(plugins: Vec<Arc<Plugin>>) -> Self {
        Self::of(plugins.into_iter().map(|plugin| plugin as Arc<dyn Transform>).collect())
    }
}

impl Transform for Plugin {
    fn name(&self) -> &str {
        self.name()
    }

    fn interest(&self, table: &Table) -> Result<Interest, PluginError> {
        self.with_instance(&mut { RETRY_PAUSES_MAX }, |instance| instance.interest(table, self.manifest()).cloned())
    }

    fn decide(
        &self,
        packed: &PackedBatch,
        rows: &[Passed],
        tables: &Arc<[Arc<Table>]>,
        pauses: &mut Duration,
    ) -> Result<Decided, PluginError> {
        let manifest = self.manifest();
        self.with_instance(pauses, |instance| {
            let batch = packed.view();
            let dispositions = dispositions(manifest, instance, &batch, rows, tables)?;
            if !dispositions.contains(&Disposition::Ask) {
                return Ok(Decided { dispositions, decision: None });
            }
            // The plugin sees only the remaining rows.
            let seen = match rows.len() == batch.len() {
                true => packed.clone(),
                false => rewrite(&batch, rows, None),
            };
            let batch = seen.view();
            let asked = (0..)
                .zip(&dispositions)
                .filter(|(_, disposition)| **disposition == Disposition::Ask)
                .map(|(index, _)| index)
                .collect();
            let output_max = manifest.limits.output.saturating_add(batch.len() * OUTPUT_A_ROW);
            let outcome = instance.process(&seen, batch.len(), tables, asked, output_max)?;
            let mut decision = outcome.decide(instance, &batch, tables)?;
            if dispositions.iter().any(|disposition| *disposition != Disposition::Ask) {
                decision.retain(|row| dispositions[row.0 as usize] == Disposition::Ask);
            }
            Ok(Decided { dispositions, decision: Some((seen, decision)) })
        })
    }

    fn on_error(&self, error: &TransformError) -> OnError {
        let on_error = if self.blueprint.force_dead_letter { OnError::DeadLetter } else { self.manifest().on_error };
        if on_error == OnError::Skip {
            let skipped = self.skipped.fetch_add(1, Ordering::Relaxed) + 1;
            if is_logged(skipped) {
                warn!(plugin = self.name(), skipped, %error, "row skipped");
            }
        }
        on_error
    }

    fn rows_seen_alone(&self, batch: &Batch<'_>, rows: &[Passed], tables: &[Arc<Table>]) -> Option<Vec<bool>> {
        if !self.is_stateful() {
            return None;
        }
        let dispositions = self.with_instance(&mut Duration::default(), |instance| {
            dispositions(self.manifest(), instance, batch, rows, tables)
        });
        Some(match dispositions {
            Ok(dispositions) => dispositions.iter().map(|disposition| *disposition == Disposition::Ask).collect(),
            Err(_) => vec![true; rows.len()], // the error recurs for the rows that it is about
        })
    }

    fn failed_as_a_whole(&self, error: &PluginError) {
        let batches = self.failed_as_a_whole.fetch_add(1, Ordering::Relaxed) + 1;
        if is_logged(batches) {
            warn!(plugin = self.name(), batches, %error, "failed on a batch, but on none of its rows alone");
        }
    }

    fn sequencer(&self) -> Option<&Sequencer> {
        self.in_order.as_ref()
    }

    fn log_counters(&self) {
        let counters = self.blueprint.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let skipped = self.skipped.load(Ordering::Relaxed);
        let counters: &BTreeMap<String, u64> = &counters;
        if skipped > 0 || !counters.is_empty() {
            info!(plugin = self.name(), skipped, ?counters, "plugin counters");
        }
    }
}

/// Returns the rows' dispositions, which are known before the plugin sees the rows.
fn dispositions(
    manifest: &Manifest,
    instance: &mut Instance,
    batch: &Batch<'_>,
    rows: &[Passed],
    tables: &[Arc<Table>],
) -> Result<Vec<Disposition>, PluginError> {
    let mut last = None;
    let disposition = |passed: &Passed| {
        let row = batch.row(passed.row);
        let id = row.table();
        // Consecutive rows are mostly of one table.
        if last.as_ref().is_none_or(|(known, _)| *known != id) {
            last = Some((id, instance.interest(&tables[id.0 as usize], manifest)?.clone()));
        }
        Ok(last.as_ref().map_or(Disposition::Ask, |(_, interest)| interest.disposition(row.operation())))
    };
    rows.iter().map(disposition).collect()
}
