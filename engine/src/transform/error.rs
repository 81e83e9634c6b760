//! A transform that failed.

use std::sync::Arc;

use rowmill_core::batch::{Batch, Row, Table};

/// What a transform did wrong on a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PluginError {
    /// It trapped, ran out of time or memory, or can't be made: its instance can't be used any more.
    Trap(String),
    /// It says that it can't.
    Reject(String),
    /// It says that it may succeed if it is tried again.
    Retry(String),
    /// What it returned makes no sense.
    Malformed(String),
}

impl std::fmt::Display for PluginError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Trap(message) | Self::Reject(message) | Self::Retry(message) => f.write_str(message),
            Self::Malformed(fault) => {
                write!(f, "it returned a malformed verdict: {fault}; the plugin or its SDK has a bug")
            }
        }
    }
}

/// A row that a transform failed on: which transform, which row, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("plugin `{plugin}` failed on a row of {table} at {file}:{position} (row {row} there): {fault}")]
pub struct TransformError {
    /// The plugin's name.
    pub plugin: String,
    /// The table.
    pub table: String,
    /// The binlog file.
    pub file: String,
    /// Where the row's event begins in it.
    pub position: u64,
    /// Its place in that event.
    pub row: u32,
    /// What happened.
    pub fault: String,
}

impl TransformError {
    pub(super) fn new(plugin: &str, batch: &Batch<'_>, row: &Row<'_>, tables: &[Arc<Table>], fault: String) -> Self {
        let header = row.header();
        let table = tables.get(header.table.0 as usize);
        Self {
            plugin: plugin.to_owned(),
            table: table.map_or_else(|| "an unknown table".to_owned(), |table| table.to_string()),
            file: batch.transaction(row.transaction()).header().file.to_owned(),
            position: header.event_position,
            row: header.index_in_event,
            fault,
        }
    }
}
