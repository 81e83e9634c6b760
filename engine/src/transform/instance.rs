//! One plugin, running: the only place that calls into WebAssembly.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{anyhow, bail};
use rowmill_core::batch::{Batch, Kind, Table, TableId};
use tracing::{debug, error, info, trace, warn};
use wasmtime::component::{Component, HasSelf, Linker};
use wasmtime::{Engine, Store, StoreLimits, StoreLimitsBuilder};

use super::error::TransformError;
use super::load::epochs;

mod bindings {
    #![allow(missing_docs)]
    wasmtime::component::bindgen!({ path: "../wit", world: "transform" });
}

pub(super) use bindings::Verdict;
use bindings::rowmill::transform::host::{self, Level};
pub(super) use bindings::rowmill::transform::types;
use bindings::{Failure, Transform};

/// How often the clock of deadlines moves.
pub(super) const EPOCH: Duration = Duration::from_millis(10);

/// What a plugin may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of linear memory.
    pub memory: usize,
    /// Time for one call.
    pub deadline: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory: 256 << 20, deadline: Duration::from_secs(1) }
    }
}

/// What a plugin's calls of the host see.
pub(super) struct PluginState {
    name: String,
    sinks: Arc<[String]>,
    rows: Arc<Vec<u8>>,
    limits: StoreLimits,
}

impl types::Host for PluginState {}

impl host::Host for PluginState {
    fn sink(&mut self, name: String) -> Option<u32> {
        self.sinks.iter().position(|sink| *sink == name).map(|index| index as u32)
    }

    fn log(&mut self, level: Level, message: String) {
        let plugin = &self.name;
        match level {
            Level::Error => error!(plugin, "{message}"),
            Level::Warn => warn!(plugin, "{message}"),
            Level::Info => info!(plugin, "{message}"),
            Level::Debug => debug!(plugin, "{message}"),
            Level::Trace => trace!(plugin, "{message}"),
        }
    }
}

/// Offers plugins what their world imports.
pub(super) fn add_to_linker(linker: &mut Linker<PluginState>) -> wasmtime::Result<()> {
    types::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    host::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    // By hand, not by bindgen: the rows go from the batch into the guest's memory, copied once.
    linker
        .instance("rowmill:transform/batch@0.1.0")?
        .func_wrap("rows", |store: wasmtime::StoreContextMut<'_, PluginState>, (): ()| {
            Ok((Arc::clone(&store.data().rows),))
        })
}

/// What a plugin decides on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interest {
    Pass,
    Drop,
    All,
    Operations { inserts: bool, updates: bool, deletes: bool },
}

/// A plugin that is loaded.
pub(super) struct Instance {
    name: String,
    store: Store<PluginState>,
    transform: Transform,
    /// By table id.
    interests: Vec<Interest>,
    deadline_epochs: u64,
}

impl Instance {
    pub fn new(
        engine: &Engine,
        linker: &Linker<PluginState>,
        component: &Component,
        name: &str,
        sinks: &[String],
        limits: Limits,
    ) -> anyhow::Result<Self> {
        let state = PluginState {
            name: name.to_owned(),
            sinks: sinks.into(),
            rows: Arc::default(),
            limits: StoreLimitsBuilder::new().memory_size(limits.memory).trap_on_grow_failure(true).build(),
        };
        let mut store = Store::new(engine, state);
        store.limiter(|state| &mut state.limits);
        let deadline_epochs = epochs(limits.deadline);
        store.set_epoch_deadline(deadline_epochs);
        let transform = Transform::instantiate(&mut store, component, linker)
            .map_err(|error| anyhow!("it isn't a transform, or it fails when it starts: {error:#}"))?;
        Ok(Self { name: name.to_owned(), store, transform, interests: Vec::new(), deadline_epochs })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Hands over the settings.
    pub fn configure(&mut self, settings: &str) -> anyhow::Result<()> {
        self.store.set_epoch_deadline(self.deadline_epochs);
        match self.transform.call_configure(&mut self.store, settings) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(message)) => bail!("it refuses its settings: {message}"),
            Err(trap) => bail!("it failed when it was given its settings: {trap:#}"),
        }
    }

    /// Tells the plugin of a table, and learns whether it decides on its rows.
    pub fn describe(&mut self, table: &Table) -> Result<(), TransformError> {
        self.store.set_epoch_deadline(self.deadline_epochs);
        let answer = self.transform.call_describe(&mut self.store, &wit_table(table));
        let interest = match answer {
            Ok(Ok(interest)) => interest,
            Ok(Err(message)) => return Err(TransformError::on_table(&self.name, table, message)),
            Err(trap) => return Err(TransformError::on_table(&self.name, table, format!("{trap:#}"))),
        };
        let interest = match interest {
            types::Interest::Pass => Interest::Pass,
            types::Interest::Drop => Interest::Drop,
            types::Interest::All => Interest::All,
            types::Interest::Want(types::Want { inserts, updates, deletes, .. }) => {
                Interest::Operations { inserts, updates, deletes }
            }
        };
        debug_assert_eq!(self.interests.len(), table.id.0 as usize, "tables come in the order of their ids");
        self.interests.push(interest);
        Ok(())
    }

    /// Whether the plugin decides on a table's rows.
    pub fn interest(&self, table: TableId) -> Interest {
        self.interests[table.0 as usize]
    }

    /// Lets the plugin decide on a batch.
    pub fn process(
        &mut self,
        bytes: &Arc<Vec<u8>>,
        batch: &Batch<'_>,
        tables: &[Arc<Table>],
    ) -> Result<Verdict, TransformError> {
        self.store.data_mut().rows = Arc::clone(bytes);
        self.store.set_epoch_deadline(self.deadline_epochs);
        let answer = self.transform.call_process(&mut self.store, batch.len() as u32);
        self.store.data_mut().rows = Arc::default();
        let fault = match answer {
            Ok(Ok(verdict)) => return Ok(verdict),
            Ok(Err(Failure::Retry(message) | Failure::Reject(message))) => message,
            Err(trap) => format!("{trap:#}"),
        };
        Err(TransformError::on_batch(&self.name, batch, tables, fault))
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
