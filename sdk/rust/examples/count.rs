//! Counts the new orders of each status since its start, and makes a message of each count. It needs `instances = 1` in its
//! `.toml`, so that one instance sees all orders, each once.

use std::collections::HashMap;

use rowmill_sdk::{Failure, Interest, Operation, Outcome, Row, Table, Transform, export};

#[derive(Default)]
struct Count {
    counts: HashMap<String, u64>,
}

impl Transform for Count {
    fn interest(&mut self, table: &Table) -> Interest {
        Interest::only(table.is("shop.orders")).columns(&["id", "status"])
    }

    fn row(&mut self, row: &Row<'_>) -> Result<Outcome, Failure> {
        if row.operation() != Operation::Insert {
            return Ok(row.drop());
        }
        let id = row.int("id")?.unwrap_or_default();
        let status = row.text("status")?.ok_or_else(|| Failure::reject(format!("order {id} has no status")))?;
        let count = self.counts.entry(status.to_owned()).or_default();
        *count += 1;
        row.send(|message| {
            message.group.push_str(status);
            message.object().text("status", Some(status)).number("count", Some(*count));
            Ok(())
        })?;
        Ok(row.drop())
    }
}

export!(Count);
