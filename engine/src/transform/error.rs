//! The errors of transforms.

use std::sync::Arc;

use rowmill_core::batch::{Batch, Row, Table};

/// An error of a plugin, mostly on a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PluginError {
    /// A trap, an exceeded time or memory limit, or an instance that cannot be created. The instance cannot be used again.
    Trap(String),
    /// A final refusal: by the plugin, or by the host because of an exceeded limit or an invalid request.
    Reject(String),
    /// A failure of which the plugin says that a retry may succeed.
    Retry(String),
    /// An invalid answer.
    Malformed(String),
}

impl PluginError {
    /// Returns the code of the error, for programs.
    fn code(&self) -> &'static str {
        match self {
            Self::Trap(_) => "trapped",
            Self::Reject(_) => "rejected",
            Self::Retry(_) => "retries-exhausted",
            Self::Malformed(_) => "malformed-verdict",
        }
    }
}

impl std::fmt::Display for PluginError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Trap(message) | Self::Reject(message) | Self::Retry(message) => f.write_str(message),
            Self::Malformed(error) => {
                write!(f, "malformed verdict: {error}; the plugin or its SDK has a bug")
            }
        }
    }
}

/// A transform's failure on a row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("plugin `{plugin}` failed on a row of {table} at {file}:{position} (row {row} of the event): {message}")]
pub struct TransformError {
    /// The plugin's name.
    pub plugin: String,
    /// The table.
    pub table: String,
    /// The binlog file of the row's event.
    pub file: String,
    /// The position of the row's event in the file, in bytes.
    pub position: u64,
    /// The row's index in that event.
    pub row: u32,
    /// The code of the error, for programs.
    pub code: &'static str,
    /// The cause.
    pub message: String,
}

impl TransformError {
    pub(super) fn new(
        plugin: &str,
        batch: &Batch<'_>,
        row: &Row<'_>,
        tables: &[Arc<Table>],
        error: &PluginError,
    ) -> Self {
        let header = row.header();
        let table = tables.get(header.table.0 as usize);
        Self {
            plugin: plugin.to_owned(),
            table: table.map_or_else(|| "an unknown table".to_owned(), |table| table.to_string()),
            file: batch.transaction(row.transaction()).header().file.to_owned(),
            position: header.event_position,
            row: header.index_in_event,
            code: error.code(),
            message: error.to_string(),
        }
    }
}
