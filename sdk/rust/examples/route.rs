//! Sends German orders to another sink, in a group for each country, and hides e-mail addresses.

use rowmill_sdk::{Interest, Operation, Outcome, Row, Table, Transform, export};

#[derive(Default)]
struct Route;

impl Transform for Route {
    fn interest(&mut self, table: &Table) -> Interest {
        Interest::only(table.is("shop.orders"))
    }

    fn row(&mut self, row: &Row<'_>) -> Outcome {
        let kept = match row.text("country") {
            Some("DE") => row.keep().to("europe").in_group("DE"),
            _ => row.keep(),
        };
        let has_address = row.operation() != Operation::Delete && row.text("email").is_some();
        if has_address { kept.set("email", "hidden") } else { kept }
    }
}

export!(Route);
