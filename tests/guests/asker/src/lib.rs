//! Never looks at a row: it asks the host about the whole batch, and lets it write the messages.

use std::cell::Cell;

use rowmill_sdk::bindings::rowmill::transform::query::{self, View};
use rowmill_sdk::bindings::rowmill::transform::{host, outcome};
use rowmill_sdk::bindings::{Failure, Guest, Interest, Table};

const MESSAGES: &str = r#"{
    "body": {
        "what": {"kind": "item"}, "id": "{id}", "was": "{old.state}", "now": "{state}", "op": "{op()}", "of": "{table()}",
        "in": "{schema()}", "row": "{row()}", "old": "{old_row()}", "at": "{unix_millis(commit_time())}"
    },
    "group": "{id}"
}"#;

thread_local! {
    static RECIPE: Cell<u32> = const { Cell::new(0) };
}

struct Asker;

impl Guest for Asker {
    fn configure(_: String) -> Result<(), String> {
        RECIPE.set(host::add_recipe(MESSAGES));
        Ok(())
    }

    fn describe(table: Table) -> Result<Interest, String> {
        Ok(if table.name == "items" { Interest::All } else { Interest::Pass })
    }

    fn process(_: u32) -> Result<(), Failure> {
        // Each of these is a question of the tests; the answers go into one message of the last row.
        let answers = [
            ("equal", "state = 'paid'"),
            ("number", "new.id = 2"),
            ("one_of", "new.state in ('paid', 'new')"),
            ("prefix", "new.state like 'pa%'"),
            ("between", "new.price between 9.5 and '100'"),
            ("from", "new.at >= '2026-02-01'"),
            ("null", "new.note is null"),
            ("changed", "changed(price)"),
            ("changed_to", "changed_to(state, 'paid')"),
            ("not", "not new.state = 'paid'"),
            ("all_of", "new.state = 'paid' and new.price <= 10"),
        ];
        let select = |(name, condition)| (name, query::select(&format!("table() = 'items' and ({condition})")));
        let answers = answers.into_iter().map(select).chain([("asked", query::asked())]);
        let answers = answers.map(|(name, rows)| format!("\"{name}\":{rows:?}")).collect::<Vec<_>>().join(",");
        let columns = format!(
            "\"texts\":{:?},\"prices\":{:?},\"kinds\":{:?},\"has\":{:?},\"blobs\":{:?},\"operations\":{:?}",
            query::texts("state", View::Before),
            query::texts("PRICE", View::Newest),
            (
                query::floats("price", View::Newest).iter().flatten().next(),
                query::texts("id", View::After).iter().flatten().next()
            ),
            (query::has("note", View::Before), query::has("no_such_column", View::Newest)),
            query::blobs("raw", View::After),
            query::operations(),
        );
        let integers = query::integers("id", View::Newest);
        let json = query::json(View::After);
        let known = query::times().iter().all(|time| *time > 0) && !query::tables().is_empty();
        let granted = host::now().is_some() && host::env("ROWMILL_TEST_GRANTED").is_some();
        let body = format!(
            "{{{answers},\"debug\":{},\"integers\":{},\"json\":{},\"known\":{known},\"granted\":{granted}}}",
            quoted(&columns),
            quoted(&format!("{integers:?}")),
            json.iter().flatten().next().map_or("null", String::as_str),
        );
        let asked = query::asked();
        let last = asked.last().copied().unwrap_or_default();
        let message =
            outcome::Message { row: last, sink: None, group: "", deduplication_id: "", body: &body, attributes: &[] };
        outcome::emit(&[message]);
        outcome::write(outcome::Rows::These(&asked), RECIPE.get(), None);
        Ok(())
    }
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}

rowmill_sdk::bindings::export_transform!(Asker with_types_in rowmill_sdk::bindings);
