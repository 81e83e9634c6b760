//! Keeps orders that became paid; drops all other changes of orders.

use rowmill_sdk::{Failure, Interest, Outcome, Row, Table, Transform, export};

#[derive(Default)]
struct Filter;

impl Transform for Filter {
    fn interest(&mut self, table: &Table) -> Interest {
        Interest::only(table.is("shop.orders")).columns(&["status"])
    }

    fn row(&mut self, row: &Row<'_>) -> Result<Outcome, Failure> {
        Ok(if row.changed_to("status", "paid")? { row.keep() } else { row.drop() })
    }
}

export!(Filter);
