//! Makes a small message of each change of an order, in a group for each customer.

use rowmill_sdk::{Failure, Interest, Operation, Outcome, Recipe, Row, Table, Transform, export};

struct Reshape {
    change: Recipe,
    deletion: Recipe,
}

impl Default for Reshape {
    fn default() -> Self {
        Self {
            change: Recipe::new(
                r#"{
                    "body": {
                        "id": "{id}", "customer": "{customer}", "status": "{status}", "total": "{total}", "email": "{email}"
                    },
                    "group": "customer-{customer}"
                }"#,
            ),
            deletion: Recipe::new(r#"{"body": {"id": "{id}", "deleted": true}, "group": "customer-{customer}"}"#),
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
            Operation::Insert | Operation::Update | Operation::Read => row.write(&self.change),
        }
        Ok(row.drop())
    }
}

export!(Reshape);
