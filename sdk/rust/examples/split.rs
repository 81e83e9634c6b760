//! Makes a message of each line of a new order, and drops the orders themselves.

use rowmill_sdk::{Failure, Interest, Operation, Outcome, Recipe, Row, Table, Transform, export};

struct Split {
    line: Recipe,
}

impl Default for Split {
    fn default() -> Self {
        Self {
            line: Recipe::new(
                r#"{
                    "for_each": "lines",
                    "body": {
                        "order": "{id}", "line": "{item_number()}",
                        "sku": "{item()->'$.sku'}", "quantity": "{item()->'$.quantity'}"
                    },
                    "group": "order-{id}"
                }"#,
            ),
        }
    }
}

impl Transform for Split {
    fn interest(&mut self, table: &Table) -> Interest {
        Interest::only(table.is("shop.orders")).columns(&["id", "lines"])
    }

    fn row(&mut self, row: &Row<'_>) -> Result<Outcome, Failure> {
        if row.operation() == Operation::Insert {
            row.write(&self.line);
        }
        Ok(row.drop())
    }
}

export!(Split);
