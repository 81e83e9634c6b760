//! What was delivered: the rows that messages add up to, and how their values are compared with the server's own text.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Rows by table and ID, with the last known value of each column.
#[derive(Debug, Default)]
pub struct State(pub(crate) BTreeMap<(String, i64), KnownRow>);

#[derive(Debug, Default)]
pub(crate) struct KnownRow {
    pub columns: BTreeMap<String, Value>,
    /// The columns of its newest message.
    pub newest: BTreeSet<String>,
}

impl State {
    /// Applies messages, one a line, and returns the rows that result.
    ///
    /// # Panics
    /// If a line is not a message in Debezium's envelope.
    pub fn of_messages(lines: &str) -> Self {
        let mut rows = BTreeMap::new();
        // The row deleted last, and the position of the binlog row that deleted it.
        let mut deleted = (Value::Null, KnownRow::default());
        for line in lines.lines() {
            let message: Value = serde_json::from_str(line).expect("JSON");
            let source = &message["source"];
            let table = source["table"].as_str().expect("a table").to_owned();
            let place = serde_json::json!([source["file"], source["pos"], source["row"]]);
            let id = |image: &Value| image["id"].as_i64();
            let (before, after) = (&message["before"], &message["after"]);
            let old: Option<KnownRow> = id(before).and_then(|id| rows.remove(&(table.clone(), id)));
            let Some(columns) = after.as_object() else {
                deleted = (place, old.unwrap_or_default());
                continue;
            };
            // A partial row image leaves out unchanged columns, also for a row whose key changed, which makes two messages with
            // one position.
            let mut row = match old {
                Some(row) => row,
                None if deleted.0 == place => std::mem::take(&mut deleted.1),
                None => KnownRow::default(),
            };
            row.columns.extend(columns.iter().map(|(name, value)| (name.clone(), value.clone())));
            row.newest = columns.keys().cloned().collect();
            let id = row.columns.get("id").and_then(Value::as_i64).expect("an id");
            rows.insert((table, id), row);
        }
        Self(rows)
    }
}

/// How a value in the envelope is compared with the server's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compare {
    /// The same text; a number's digits.
    Text,
    /// The same `FLOAT`.
    Float,
    /// The same `DOUBLE`.
    Double,
    /// `2026-11-24` or `10:11:12`, marked as UTC.
    Temporal,
    /// `2026-11-24 10:11:12`, marked as UTC.
    Datetime,
    /// A boolean.
    Bit1,
    /// A number of bits as bytes, the lowest first.
    Bits(usize),
    /// Bytes in base64; the server returns them in hexadecimal.
    Bytes,
    /// Well-known binary and SRID.
    Geometry,
    /// Floats; the server returns their bytes in hexadecimal.
    Vector,
}

impl Compare {
    /// Returns the SELECT expression for the value.
    pub fn select(self, name: &str) -> String {
        match self {
            Self::Text | Self::Temporal | Self::Datetime => format!("CONVERT(CAST(`{name}` AS CHAR) USING utf8mb4)"),
            Self::Float | Self::Double => format!("CAST(`{name}` AS DOUBLE)"),
            Self::Bit1 | Self::Bits(_) => format!("CAST(`{name}` + 0 AS CHAR)"),
            Self::Bytes | Self::Geometry | Self::Vector => format!("HEX(`{name}`)"),
        }
    }

    /// Whether a delivered value is the server's.
    pub fn is_same(self, got: &Value, expected: Option<&str>) -> bool {
        let Some(expected) = expected else { return got.is_null() };
        let text = match got {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let hex = |text: &str| {
            let bytes = base64_simd::STANDARD.decode_to_vec(text).unwrap_or_default();
            bytes.iter().map(|byte| format!("{byte:02X}")).collect::<String>()
        };
        match self {
            // ZEROFILL is a display width.
            Self::Text if got.is_number() => text.parse::<i128>().ok() == expected.parse::<i128>().ok(),
            Self::Text => text == expected,
            Self::Float => text.parse::<f32>().ok() == expected.parse::<f64>().ok().map(|number| number as f32),
            Self::Double => text.parse::<f64>().ok() == expected.parse::<f64>().ok(),
            Self::Temporal => text == format!("{expected}Z"),
            Self::Datetime => text == format!("{}Z", expected.replace(' ', "T")),
            Self::Bit1 => *got == Value::Bool(expected == "1"),
            Self::Bits(bits) => {
                let number: u64 = expected.parse().unwrap_or_default();
                let bytes = &number.to_le_bytes()[..bits.div_ceil(8)];
                text == base64_simd::STANDARD.encode_to_string(bytes)
            }
            Self::Bytes => hex(&text) == expected,
            Self::Geometry => {
                let srid = got["srid"].as_u64().unwrap_or_default() as u32;
                let srid: String = srid.to_le_bytes().iter().map(|byte| format!("{byte:02X}")).collect();
                format!("{srid}{}", hex(got["wkb"].as_str().unwrap_or_default())) == expected
            }
            Self::Vector => {
                let numbers = got.as_array().map(Vec::as_slice).unwrap_or_default();
                let bytes =
                    numbers.iter().flat_map(|number| (number.as_f64().unwrap_or_default() as f32).to_le_bytes());
                bytes.map(|byte| format!("{byte:02X}")).collect::<String>() == expected
            }
        }
    }
}
