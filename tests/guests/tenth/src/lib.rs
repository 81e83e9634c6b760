//! Keeps a tenth of the benchmark's rows: the paid orders, and the others by a number.

use rowmill_sdk::{Failure, Interest, Outcome, Row, Table, Transform, export};

#[derive(Default)]
struct Tenth;

impl Transform for Tenth {
    fn interest(&mut self, table: &Table) -> Interest {
        Interest::All.columns(if table.name() == "orders" { &["status"] } else { &["k"] })
    }

    fn row(&mut self, row: &Row<'_>) -> Result<Outcome, Failure> {
        let is_kept = match row.table().name() {
            "orders" => row.changed_to("status", "paid")?,
            _ => row.int("k")?.is_some_and(|k| k % 10 == 0),
        };
        Ok(if is_kept { row.keep() } else { row.drop() })
    }
}

export!(Tenth);
