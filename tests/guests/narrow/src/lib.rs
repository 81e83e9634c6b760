//! Wants of each table its first column alone, and not as it was, and keeps all rows: so what it hands on was decoded
//! late.

use rowmill_sdk::bindings::rowmill::transform::{outcome, types};
use rowmill_sdk::bindings::{Failure, Guest, Interest, Table};

struct Narrow;

impl Guest for Narrow {
    fn configure(_settings: String) -> Result<(), String> {
        Ok(())
    }

    fn describe(table: Table) -> Result<Interest, String> {
        let columns = table.columns.into_iter().take(1).map(|column| column.name).collect();
        Ok(Interest::Want(types::Want { columns, before: false, inserts: true, updates: true, deletes: true }))
    }

    fn process(rows: u32) -> Result<(), Failure> {
        outcome::keep(outcome::Rows::These(&(0..rows).collect::<Vec<_>>()));
        Ok(())
    }
}

rowmill_sdk::bindings::export_transform!(Narrow with_types_in rowmill_sdk::bindings);
