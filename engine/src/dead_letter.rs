//! The dead-letter record: a JSON object for a change or a message that is not delivered, of the same shape for every cause.
//!
//! In: what failed and why, where it came from and where it was to go. Out: the record's text. `docs/operations.md` has the
//! reference.

use rowmill_core::envelope::push_string;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

/// The stage that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The change cannot be decoded.
    Source,
    /// A transform failed on the row.
    Transform,
    /// A sink rejected the message.
    Sink,
}

/// A dead-letter record.
#[derive(Debug, Serialize)]
pub struct DeadLetter<'a> {
    /// The stage that failed.
    pub stage: Stage,
    /// The name of the transform or of the sink.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<&'a str>,
    /// The cause, for programs: a service's code as the service writes it, else one of Rowmill's in kebab case.
    pub code: &'a str,
    /// The cause, for people.
    pub error: &'a str,
    /// Where the change was read, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Origin<'a>>,
    /// Where a rejected message was to go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<Destination<'a>>,
    /// The change or the message itself.
    #[serde(skip)]
    pub content: Content<'a>,
}

/// Where a change was read.
#[derive(Debug, Clone, Serialize)]
pub struct Origin<'a> {
    /// The table, `schema.table`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<&'a str>,
    /// The binlog file.
    pub file: &'a str,
    /// Where the event begins, in bytes from the file's start.
    pub pos: u64,
    /// The row's index in the event.
    pub row: u32,
    /// The event's type, of a change that cannot be decoded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_type: Option<u8>,
    /// The transaction's GTID; empty where it is not known, as for rejected messages.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub gtid: &'a str,
    /// When the transaction was committed, in milliseconds since 1970, if that is known; of a change that cannot be decoded,
    /// when its statement began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ts_ms: Option<i64>,
}

/// Where a message was to go.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Destination<'a> {
    /// The sink's name.
    pub sink: &'a str,
    /// The URL of the queue, where the sink has one for each table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<&'a str>,
    /// The message group; may be empty where the sink needs none.
    pub group: &'a str,
    /// The deduplication ID; may be empty where the sink needs none.
    pub deduplication_id: &'a str,
    /// The attributes: names and values. Of a duplicate name the first value is written; `error` has both.
    #[serde(serialize_with = "attributes")]
    pub attributes: &'a [(String, String)],
}

/// The change or the message itself.
#[derive(Debug, Clone, Copy)]
pub enum Content<'a> {
    /// The row as the sink's format has it: JSON.
    Change(&'a str),
    /// The message's body.
    Body(&'a str),
    /// The beginning of a statement, and the length of all of it in bytes.
    Statement(&'a str, usize),
    /// The beginning of a row's images as the binlog has them, in base64, and the length of all of them in bytes.
    Images(&'a str, usize),
    /// The beginning of a row event's body, in base64, and the length of all of it in bytes.
    Event(&'a str, usize),
}

impl DeadLetter<'_> {
    /// Returns the record: a JSON object.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_vec(self).expect("texts and numbers are JSON");
        text.pop(); // the closing brace
        let (label, content, bytes) = match self.content {
            Content::Change(json) => ("change", json, None),
            Content::Body(body) => ("body", body, None),
            Content::Statement(statement, bytes) => ("statement", statement, Some(bytes)),
            Content::Images(images, bytes) => ("images", images, Some(bytes)),
            Content::Event(event, bytes) => ("event", event, Some(bytes)),
        };
        if let Some(bytes) = bytes {
            text.extend_from_slice(format!(",\"bytes\":{bytes}").as_bytes());
        }
        text.extend_from_slice(format!(",\"{label}\":").as_bytes());
        match self.content {
            Content::Change(json) => text.extend_from_slice(json.as_bytes()),
            _ => push_string(content, &mut text),
        }
        text.push(b'}');
        escape_noncharacters(String::from_utf8(text).expect("JSON is written as UTF-8"))
    }
}

/// Escapes the two characters in a JSON text that are neither escaped by serde_json nor accepted by SQS.
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html>
pub fn escape_noncharacters(json: String) -> String {
    if !json.contains(['\u{fffe}', '\u{ffff}']) {
        return json;
    }
    json.replace('\u{fffe}', "\\ufffe").replace('\u{ffff}', "\\uffff")
}

fn attributes<S: Serializer>(attributes: &[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    for (nth, (name, value)) in attributes.iter().enumerate() {
        if !attributes[..nth].iter().any(|(earlier, _)| earlier == name) {
            map.serialize_entry(name, value)?;
        }
    }
    map.end()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn record(content: Content<'_>) -> Value {
        let attributes: Vec<(String, String)> =
            [("a", "1"), ("b\"", "2"), ("a", "3")].map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let letter = DeadLetter {
            stage: Stage::Sink,
            name: Some("orders"),
            code: "InvalidMessageContents",
            error: "a \"quote\"\n",
            source: Some(Origin {
                table: Some("shop.orders"),
                file: "binlog.000007",
                pos: 1234,
                row: 5,
                event_type: None,
                gtid: "",
                ts_ms: Some(1_800_000_000_000),
            }),
            destination: Some(Destination {
                sink: "orders",
                queue: None,
                group: "orders:1",
                deduplication_id: "id",
                attributes: &attributes,
            }),
            content,
        };
        serde_json::from_str(&letter.to_json()).expect("JSON")
    }

    #[test]
    fn a_rejected_message_has_all_that_is_needed_to_send_it_again() {
        let expected = json!({
            "stage": "sink", "name": "orders", "code": "InvalidMessageContents", "error": "a \"quote\"\n",
            "source": {"table": "shop.orders", "file": "binlog.000007", "pos": 1234, "row": 5, "ts_ms": 1_800_000_000_000_i64},
            "destination": {"sink": "orders", "group": "orders:1", "deduplication_id": "id", "attributes": {"a": "1", "b\"": "2"}},
            "body": "{\"x\":1}",
        });
        assert_eq!(record(Content::Body("{\"x\":1}")), expected);
    }

    #[test]
    fn no_character_is_left_that_sqs_refuses() {
        let text = "\u{1}\u{fffe}\u{ffff}";
        let letter = DeadLetter {
            stage: Stage::Source,
            name: None,
            code: "statement",
            error: text,
            source: None,
            destination: None,
            content: Content::Body(text),
        };
        let json = letter.to_json();
        assert!(!json.contains(['\u{1}', '\u{fffe}', '\u{ffff}']), "{json}");
        let value: Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!((&value["error"], &value["body"]), (&json!(text), &json!(text)));
    }

    #[test]
    fn a_change_is_json_and_a_cut_content_has_its_length() {
        assert_eq!(record(Content::Change("{\"x\":1}"))["change"], json!({"x": 1}));
        let cut = record(Content::Statement("INSERT INTO", 40_000));
        assert_eq!((&cut["statement"], &cut["bytes"]), (&json!("INSERT INTO"), &json!(40_000)));
    }
}
