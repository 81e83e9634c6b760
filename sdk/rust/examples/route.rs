//! Sends German orders to another sink, in a group for each country, and hides e-mail addresses.

use rowmill_sdk::{Failure, Interest, Outcome, Row, Table, Transform, export};

#[derive(Default)]
struct Route;

impl Transform for Route {
    fn interest(&mut self, table: &Table) -> Interest {
        Interest::only(table.is("shop.orders")).columns(&["country", "email"])
    }

    fn sinks(&self) -> &'static [&'static str] {
        &["europe"]
    }

    fn row(&mut self, row: &Row<'_>) -> Result<Outcome, Failure> {
        let kept = row.replace("email", "hidden")?;
        Ok(match row.text("country")? {
            Some("DE") => kept.to("europe").in_group("DE"),
            _ => kept,
        })
    }
}

export!(Route);
