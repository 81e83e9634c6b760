//! Makes a flat message of each line of an order, with a column renamed and two computed, and drops the lines themselves.

use rowmill_sdk::{Failure, Interest, Operation, Outcome, Recipe, Row, Table, Transform, export};

struct Flatten {
    line: Recipe,
}

impl Default for Flatten {
    fn default() -> Self {
        Self {
            line: Recipe::new(
                r#"{
                    "body": {
                        "*": "{row_except(price, note)}",
                        "unit_price": "{price}",
                        "sum": "{price * quantity}",
                        "day": "{date_format(created_at, '%Y-%m-%d')}"
                    }
                }"#,
            ),
        }
    }
}

impl Transform for Flatten {
    fn interest(&mut self, table: &Table) -> Interest {
        Interest::only(table.is("shop.lines"))
    }

    fn row(&mut self, row: &Row<'_>) -> Result<Outcome, Failure> {
        if row.operation() != Operation::Delete {
            row.write(&self.line);
        }
        Ok(row.drop())
    }
}

export!(Flatten);
