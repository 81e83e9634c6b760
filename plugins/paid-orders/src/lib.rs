//! Sends orders that become paid to the order-management queue, and drops other changes of orders. Changes of other tables
//! pass unchanged.

use rowmill_sdk::{Failure, Interest, Outcome, Row, Table, Transform, export};

#[derive(Default)]
struct PaidOrders;

impl Transform for PaidOrders {
    fn interest(&mut self, table: &Table) -> Interest {
        Interest::only(table.name() == "orders").columns(&["status"])
    }

    fn row(&mut self, row: &Row<'_>) -> Result<Outcome, Failure> {
        Ok(if row.changed_to("status", "paid")? { row.keep().to("order-management") } else { row.drop() })
    }
}

export!(PaidOrders);
