//! Keeps orders that became paid, by typed rows.

mod rows;

use rowmill_sdk::{Failure, Interest, Outcome, Row, Table, Transform, export};
use rows::{Orders, OrdersColumns, OrdersStatus};

#[derive(Default)]
struct Filter;

impl Transform for Filter {
    fn interest(&mut self, table: &Table) -> Interest {
        Interest::only(table.is(Orders::TABLE))
    }

    fn row(&mut self, row: &Row<'_>) -> Result<Outcome, Failure> {
        let order = Orders::of(row)?;
        let status = order.status()?;
        if status == Some(OrdersStatus::New) {
            let id: i64 = order.id()?;
            let customer: Option<u64> = order.customer()?;
            let rating: Option<f64> = order.rating()?;
            let total: Option<&str> = order.total()?;
            assert!(id == 1 && customer == Some(7) && rating.is_none() && total == Some("9.50"));
        }
        let old = row.before().filter(|image| image.has(OrdersColumns::STATUS)).and(order.before());
        let old = old.map(|order| order.status()).transpose()?.flatten();
        let is_paid = status == Some(OrdersStatus::Paid) && old != status;
        let is_changed = row.changed_to(OrdersColumns::STATUS, OrdersStatus::Paid.text())?;
        Ok(if is_paid && is_changed { row.keep() } else { row.drop() })
    }
}

export!(Filter);
