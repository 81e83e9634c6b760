//! Never looks at a row: it asks the host about the whole batch, and lets it write the messages.

use std::cell::Cell;

use rowmill_sdk::bindings::rowmill::transform::query::{self, Condition, Rule, Test, View};
use rowmill_sdk::bindings::rowmill::transform::types::{Field, GroupPart, Part, Recipe, Write};
use rowmill_sdk::bindings::rowmill::transform::{host, types};
use rowmill_sdk::bindings::{Failure, Guest, Interest, Table, Verdict};

thread_local! {
    static RECIPE: Cell<u32> = const { Cell::new(0) };
}

struct Asker;

impl Guest for Asker {
    fn configure(_: String) -> Result<(), String> {
        let field = |name: &str, value| Field { name: name.to_owned(), value };
        let fields = vec![
            field("what", Part::Constant("{\"kind\": \"item\"}".to_owned())),
            field("id", Part::Column("id".to_owned())),
            field("was", Part::Before("state".to_owned())),
            field("now", Part::Column("state".to_owned())),
            field("op", Part::Operation),
            field("of", Part::Table),
            field("in", Part::Schema),
            field("row", Part::Row),
            field("old", Part::RowBefore),
            field("at", Part::Time),
        ];
        RECIPE.set(host::add_recipe(&Recipe { fields, group: vec![GroupPart::Column("id".to_owned())] }));
        Ok(())
    }

    fn describe(table: Table) -> Result<Interest, String> {
        Ok(if table.name == "items" { Interest::All } else { Interest::Pass })
    }

    fn process(_: u32) -> Result<Verdict, Failure> {
        let condition = |column: &str, view, test| Condition { column: column.to_owned(), view, test, negated: false };
        let text = str::to_owned;
        let select = |conditions: &[Condition]| {
            query::select(&Rule {
                tables: vec!["shop.items".to_owned()],
                inserts: true,
                updates: true,
                deletes: true,
                all_of: conditions.to_vec(),
            })
        };
        let not = |condition: Condition| Condition { negated: true, ..condition };

        // Each of these is a question of the tests; the answers go into one message of the last row.
        let answers = [
            ("equal", select(&[condition("state", View::Newest, Test::Equal(text("paid")))])),
            ("number", select(&[condition("id", View::After, Test::Equal(text("2")))])),
            ("one_of", select(&[condition("state", View::After, Test::OneOf(vec![text("paid"), text("new")]))])),
            ("prefix", select(&[condition("state", View::After, Test::Prefix(text("pa")))])),
            ("between", select(&[condition("price", View::After, Test::Between((text("9.5"), text("100"))))])),
            ("from", select(&[condition("at", View::After, Test::Between((text("2026-02-01"), text(""))))])),
            ("null", select(&[condition("note", View::After, Test::Null)])),
            ("changed", select(&[condition("price", View::After, Test::Changed)])),
            ("changed_to", select(&[condition("state", View::After, Test::ChangedTo(text("paid")))])),
            ("not", select(&[not(condition("state", View::After, Test::Equal(text("paid"))))])),
            (
                "all_of",
                select(&[
                    condition("state", View::After, Test::Equal(text("paid"))),
                    condition("price", View::After, Test::Between((text(""), text("10")))),
                ]),
            ),
            ("asked", query::asked()),
        ];
        let answers = answers.map(|(name, rows)| format!("\"{name}\":{rows:?}")).join(",");
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
        let emit = types::Emit { row: last, sink: None, group_len: 0, dedup_len: 0, body_len: body.len() as u32 };
        Ok(Verdict {
            keep: Vec::new(),
            reroutes: Vec::new(),
            edits: Vec::new(),
            emits: vec![emit],
            attributes: Vec::new(),
            writes: vec![Write { recipe: RECIPE.get(), sink: None, rows: asked }],
            fails: Vec::new(),
            arena: body.into_bytes(),
        })
    }
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}

rowmill_sdk::bindings::export_transform!(Asker with_types_in rowmill_sdk::bindings);
