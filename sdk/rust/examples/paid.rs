//! Makes a message of each order that became paid, and drops the orders themselves.

use rowmill_sdk::{Condition, Failure, Interest, Outcome, Recipe, Row, Table, Transform, export};

struct Paid {
    is_paid: Condition,
    message: Recipe,
}

impl Default for Paid {
    fn default() -> Self {
        Self {
            is_paid: Condition::new("changed_to(status, 'paid')"),
            message: Recipe::new(
                r#"{
                    "body": {"event": "order_paid", "order": "{id}", "customer": "{customer}", "total": "{total}"},
                    "group": "customer-{customer}",
                    "deduplication_id": "paid-{id}",
                    "attributes": {"event": "order_paid"}
                }"#,
            )
            .to("order-management"),
        }
    }
}

impl Transform for Paid {
    fn sinks(&self) -> &'static [&'static str] {
        &["order-management"]
    }

    fn interest(&mut self, table: &Table) -> Interest {
        Interest::only(table.is("shop.orders")).columns(&["id", "customer", "status", "total"])
    }

    fn row(&mut self, row: &Row<'_>) -> Result<Outcome, Failure> {
        if row.holds(&self.is_paid) {
            row.write(&self.message);
        }
        Ok(row.drop())
    }
}

export!(Paid);
