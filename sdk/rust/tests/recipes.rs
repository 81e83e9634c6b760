//! Leaves conditions and messages to the engine: see sdk/cases/recipes.

use rowmill_sdk::{Condition, Failure, Interest, Outcome, Recipe, Row, Table, Transform, export};

struct Recipes {
    is_paid: Condition,
    has_lines: Condition,
    was_paid: Condition,
    is_kept: Condition,
    paid: Recipe,
    line: Recipe,
    deletion: Recipe,
}

impl Default for Recipes {
    fn default() -> Self {
        Self {
            is_paid: Condition::new("changed_to(status, 'paid')"),
            has_lines: Condition::new("op() = 'c' and lines is not null"),
            was_paid: Condition::new("old.status = 'paid' and op() = 'd'"),
            is_kept: Condition::new("email like '%@example.com' or price > quantity * 100"),
            paid: Recipe::new(
                r#"{
                    "body": {"event": "order_paid", "id": "{id}", "sum": "{price * quantity}"},
                    "group": "customer-{customer}",
                    "deduplication_id": "paid-{id}",
                    "attributes": {"event": "order_paid", "status": "{status}"}
                }"#,
            ),
            line: Recipe::new(
                r#"{
                    "for_each": "lines",
                    "body": {"order": "{id}", "line": "{item_number()}", "sku": "{item()->'$.sku'}"},
                    "group": "order-{id}"
                }"#,
            )
            .to("lines"),
            deletion: Recipe::new(
                r#"{
                    "body": {
                        "*": "{old_row_except(email, price)}",
                        "cost": "{number(price)}",
                        "day": "{date_format(created_at, '%d.%m.%Y')}"
                    }
                }"#,
            ),
        }
    }
}

impl Transform for Recipes {
    fn interest(&mut self, table: &Table) -> Interest {
        Interest::only(table.is("shop.orders"))
    }

    fn row(&mut self, row: &Row<'_>) -> Result<Outcome, Failure> {
        for (condition, recipe) in
            [(&self.is_paid, &self.paid), (&self.has_lines, &self.line), (&self.was_paid, &self.deletion)]
        {
            if row.holds(condition) {
                row.write(recipe);
            }
        }
        Ok(if row.holds(&self.is_kept) { row.keep() } else { row.drop() })
    }
}

export!(Recipes);
