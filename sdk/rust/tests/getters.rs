//! Calls the getter that the column `ask` of a row names, and sends what it returns: `text name before`. The case
//! `sdk/cases/getters` has the results that the SDKs of all languages must give.

use rowmill_sdk::{ColumnError, Failure, Interest, Outcome, Row, Table, Transform, View, export};

#[derive(Default)]
struct Getters;

impl Transform for Getters {
    fn interest(&mut self, table: &Table) -> Interest {
        match table.name() {
            "misspelt" => Interest::All.columns(&["ask", "statuss"]),
            "declared" => Interest::All.columns(&["ask", "NAME"]),
            _ => Interest::only(table.schema() == "shop"),
        }
    }

    fn row(&mut self, row: &Row<'_>) -> Result<Outcome, Failure> {
        let ask = row.text("ask")?.unwrap_or_default();
        let mut words = ask.split(' ');
        let (getter, column) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let last = words.next();
        let value = match getter {
            "changed_to" => row.changed_to(column, last.unwrap_or_default())?.to_string(),
            "changed" => row.changed(column)?.to_string(),
            "set" => return Ok(row.keep().set(column, "x")),
            "set_int" => return Ok(row.keep().set_int(column, 7)),
            "replace" => return Ok(row.replace(column, "x")?),
            "fail" => return Err(Failure::reject("asked to")),
            _ => read(row, getter, column, last)?,
        };
        row.send(|message| {
            message.object().json("value", &value);
            Ok(())
        })?;
        Ok(row.drop())
    }
}

/// Returns a column of an image as JSON.
fn read(row: &Row<'_>, getter: &str, column: &str, image: Option<&str>) -> Result<String, Failure> {
    let view: View<'_> = match image {
        Some("before") => row.before().ok_or_else(|| Failure::reject("the row has no before image"))?,
        Some("after") => row.after().ok_or_else(|| Failure::reject("the row has no after image"))?,
        _ => row.newest(),
    };
    let value: Result<Option<String>, ColumnError> = match getter {
        "text" => view.text(column).map(|text| text.map(quoted)),
        "int" => view.int(column).map(|number| number.map(|number| number.to_string())),
        "uint" => view.uint(column).map(|number| number.map(|number| number.to_string())),
        "float" => view.float(column).map(|number| number.map(|number| number.to_string())),
        "bytes" => view.bytes(column).map(|bytes| bytes.map(|bytes| quoted(&hex(bytes)))),
        "has" => Ok(Some(view.has(column).to_string())),
        other => return Err(Failure::reject(format!("unknown getter `{other}`"))),
    };
    Ok(value?.unwrap_or_else(|| "null".to_owned()))
}

fn quoted(text: &str) -> String {
    let mut out = Vec::new();
    rowmill_sdk::json::push_string(text, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

export!(Getters);
