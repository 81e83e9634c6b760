//! Makes a small message of each change of an order, in a group for each customer.

use rowmill_sdk::json::{push_number, push_text};
use rowmill_sdk::{Interest, Message, Operation, Outcome, Row, Table, Transform, export};

#[derive(Default)]
struct Reshape;

impl Transform for Reshape {
    fn interest(&mut self, table: &Table) -> Interest {
        Interest::only(table.is("shop.orders"))
    }

    fn row(&mut self, row: &Row<'_>) -> Outcome {
        let mut body = String::with_capacity(256);
        body.push_str("{\"id\":");
        push_number(&mut body, row.int("id"));
        if row.operation() == Operation::Delete {
            body.push_str(",\"deleted\":true}");
        } else {
            body.push_str(",\"customer\":");
            push_number(&mut body, row.uint("customer"));
            for column in ["status", "total", "email"] {
                body.extend([",\"", column, "\":"]);
                push_text(&mut body, row.text(column));
            }
            body.push('}');
        }
        let customer = row.uint("customer").map(|customer| customer.to_string()).unwrap_or_default();
        row.drop().emit(Message { body, group: Some(format!("customer-{customer}")), ..Message::default() })
    }
}

export!(Reshape);
