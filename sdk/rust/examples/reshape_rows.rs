//! Makes a small message of each change of an order, in a group for each customer: written by the transform itself, which can
//! make any body so. `reshape.rs` has the engine write it, which is faster.

use rowmill_sdk::{Failure, Interest, Operation, Outcome, Row, Table, Transform, export};

#[derive(Default)]
struct Reshape;

impl Transform for Reshape {
    fn interest(&mut self, table: &Table) -> Interest {
        Interest::only(table.is("shop.orders"))
    }

    fn row(&mut self, row: &Row<'_>) -> Result<Outcome, Failure> {
        row.send(|message| {
            message.group.push_str("customer-");
            message.group_column(row, "customer")?;
            let mut body = message.object();
            body.column(row, "id")?;
            if row.operation() == Operation::Delete {
                body.json("deleted", "true");
                return Ok(());
            }
            for column in ["customer", "status", "total", "email"] {
                body.column(row, column)?;
            }
            Ok(())
        })?;
        Ok(row.drop())
    }
}

export!(Reshape);
