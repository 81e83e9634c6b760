//! A transform that failed on a batch.

use rowmill_core::batch::{Batch, RowIndex, Table};
use std::sync::Arc;

/// A transform that failed: which, on what, and why.
#[derive(Debug, thiserror::Error)]
#[error("plugin `{plugin}` failed on {subject}: {fault}")]
pub struct TransformError {
    /// The plugin's name.
    pub plugin: String,
    /// The rows or the table.
    pub subject: String,
    /// What happened.
    pub fault: String,
}

impl TransformError {
    pub(super) fn on_table(plugin: &str, table: &Table, fault: impl Into<String>) -> Self {
        Self { plugin: plugin.to_owned(), subject: format!("the description of table {table}"), fault: fault.into() }
    }

    pub(super) fn on_batch(plugin: &str, batch: &Batch<'_>, tables: &[Arc<Table>], fault: impl Into<String>) -> Self {
        let first = batch.rows().next();
        let place = first.map_or_else(String::new, |row| format!(", the first {}", place(batch, &row, tables)));
        let rows = batch.len();
        Self { plugin: plugin.to_owned(), subject: format!("a batch of {rows} rows{place}"), fault: fault.into() }
    }

    pub(super) fn on_row(
        plugin: &str,
        batch: &Batch<'_>,
        row: RowIndex,
        tables: &[Arc<Table>],
        fault: impl Into<String>,
    ) -> Self {
        let subject = format!("a row {}", place(batch, &batch.row(row), tables));
        Self { plugin: plugin.to_owned(), subject, fault: fault.into() }
    }
}

fn place(batch: &Batch<'_>, row: &rowmill_core::batch::Row<'_>, tables: &[Arc<Table>]) -> String {
    let header = row.header();
    let file = batch.transaction(row.transaction()).header().file;
    let table =
        tables.get(header.table.0 as usize).map_or_else(|| "an unknown table".to_owned(), |table| table.to_string());
    format!("of {table} at {file}:{} (row {})", header.event_position, header.index_in_event)
}
