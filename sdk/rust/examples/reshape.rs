//! Makes a small message of each change of an order, in a group for each customer.

use rowmill_sdk::{Failure, Interest, Operation, Outcome, Part, Recipe, Row, Table, Transform, export};

struct Reshape {
    change: Recipe,
    deletion: Recipe,
}

impl Default for Reshape {
    fn default() -> Self {
        let of_customer = || Recipe::new().group_text("customer-").group_column("customer");
        Self {
            change: of_customer().columns(&["id", "customer", "status", "total", "email"]),
            deletion: of_customer().columns(&["id"]).field("deleted", Part::Json("true")),
        }
    }
}

impl Transform for Reshape {
    fn interest(&mut self, table: &Table) -> Interest {
        Interest::only(table.is("shop.orders"))
    }

    fn row(&mut self, row: &Row<'_>) -> Result<Outcome, Failure> {
        match row.operation() {
            Operation::Delete => row.write(&self.deletion),
            Operation::Insert | Operation::Update => row.write(&self.change),
        }
        Ok(row.drop())
    }
}

export!(Reshape);
