//! Fails orders with a negative total, and keeps all others. The first order of `later@example.com` is tried again.

use rowmill_sdk::{Failure, Interest, Operation, Outcome, Row, Table, Transform, export};

#[derive(Default)]
struct Validate {
    has_rates: bool,
}

impl Transform for Validate {
    fn interest(&mut self, table: &Table) -> Interest {
        Interest::only(table.is("shop.orders")).columns(&["id", "email", "total"])
    }

    fn row(&mut self, row: &Row<'_>) -> Result<Outcome, Failure> {
        if !self.has_rates && row.text("email")? == Some("later@example.com") {
            self.has_rates = true;
            return Err(Failure::retry("the rates are not there yet"));
        }
        match row.text("total")? {
            Some(total) if total.starts_with('-') && row.operation() != Operation::Delete => {
                let id = row.int("id")?.unwrap_or_default();
                Err(Failure::reject(format!("order {id}: the total {total} is negative")))
            }
            _ => Ok(row.keep()),
        }
    }
}

export!(Validate);
