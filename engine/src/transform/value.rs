//! Validates the values that transforms write to columns. This is the only check: the code that writes values into
//! messages relies on it.

use bytes::Bytes;
use rowmill_core::batch::{Column, Kind, Table};

/// The maximum number of digits of a MySQL `DECIMAL`.
const DECIMAL_DIGITS_MAX: usize = 65;

/// Parses a text, with binary values in base64, to a value as packed in a batch.
///
/// # Errors
/// If the text is not a valid value of the column.
pub(super) fn parse(table: &Table, column: &Column, text: &str) -> Result<Bytes, String> {
    let bytes = match column.kind {
        Kind::Int => text.parse::<i64>().ok().map(|number| number.to_le_bytes().to_vec()),
        Kind::Uint | Kind::Year | Kind::Bit => text.parse::<u64>().ok().map(|number| number.to_le_bytes().to_vec()),
        Kind::Float => text.parse::<f64>().ok().map(|number| number.to_le_bytes().to_vec()),
        Kind::Bytes | Kind::Geometry | Kind::Vector => base64_simd::STANDARD.decode_to_vec(text.as_bytes()).ok(),
        _ => Some(text.as_bytes().to_vec()),
    };
    let bytes = bytes.filter(|bytes| is_value(column, bytes));
    bytes.map(Bytes::from).ok_or_else(|| refusal(table, column, text))
}

/// Checks that bytes are a valid value of the column as packed in a batch.
///
/// # Errors
/// If they are not.
pub(crate) fn check(table: &Table, column: &Column, bytes: &[u8]) -> Result<(), String> {
    if is_value(column, bytes) {
        return Ok(());
    }
    if column.kind.is_number() && bytes.len() != 8 {
        return Err(format!("value of {} bytes for {table}.{}, whose values have 8 bytes", bytes.len(), column.name));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if column.kind.is_text() => Err(refusal(table, column, text)),
        Err(_) if column.kind.is_text() => Err(format!("value for {table}.{} that is not UTF-8", column.name)),
        _ => Err(format!("invalid value for {table}.{} ({})", column.name, column.mysql_type)),
    }
}

pub(super) fn refusal(table: &Table, column: &Column, text: &str) -> String {
    const SHOWN_MAX: usize = 200;
    let shown: String = text.chars().take(SHOWN_MAX).collect();
    let form = match column.kind {
        Kind::Decimal => "; write it as -12.50",
        Kind::Date => "; write it as 2026-11-26",
        Kind::Time => "; write it as 08:30:00 or -838:59:59.000000",
        Kind::Datetime | Kind::Timestamp => "; write it as 2026-11-26 08:30:00 or 2026-11-26 08:30:00.000000",
        Kind::Json => "; write JSON on one line",
        Kind::Float => "; write a finite number",
        Kind::Bytes | Kind::Geometry | Kind::Vector => "; write base64",
        _ => "",
    };
    format!("`{shown}` is not a valid value of {table}.{} ({}){form}", column.name, column.mysql_type)
}

/// Returns whether bytes are a value of the column, as [`Kind`] describes it.
fn is_value(column: &Column, bytes: &[u8]) -> bool {
    match column.kind {
        Kind::Int | Kind::Uint | Kind::Year | Kind::Bit => bytes.len() == 8,
        Kind::Float => bytes.first_chunk().filter(|_| bytes.len() == 8).is_some_and(|bytes| {
            let number = f64::from_le_bytes(*bytes);
            // A finite double may be infinite as a `FLOAT`, which is how the value is written.
            if column.mysql_type == "float" { (number as f32).is_finite() } else { number.is_finite() }
        }),
        Kind::Decimal => is_decimal(bytes),
        Kind::Date => is_date(bytes),
        Kind::Time => is_time(bytes.strip_prefix(b"-").unwrap_or(bytes), 2..=3),
        Kind::Datetime | Kind::Timestamp => match bytes.split_at_checked(10) {
            Some((date, [b' ', time @ ..])) => is_date(date) && is_time(time, 2..=2),
            _ => false,
        },
        Kind::Json => is_json(bytes),
        Kind::Text | Kind::Enum | Kind::Set => std::str::from_utf8(bytes).is_ok(),
        Kind::Bytes | Kind::Geometry | Kind::Vector => true,
    }
}

/// Returns whether bytes are JSON on one line: some formats copy it unchanged.
fn is_json(bytes: &[u8]) -> bool {
    let has_control = bytes.iter().any(u8::is_ascii_control);
    !has_control && serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok()
}

fn is_digits(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit)
}

/// Returns whether bytes are a decimal number without plus sign, exponent and leading zeros, which is also a JSON number.
fn is_decimal(bytes: &[u8]) -> bool {
    let digits = bytes.strip_prefix(b"-").unwrap_or(bytes);
    let mut parts = digits.splitn(2, |byte| *byte == b'.');
    let (integer, fraction) = (parts.next().unwrap_or_default(), parts.next());
    is_digits(integer)
        && (integer.len() == 1 || integer[0] != b'0')
        && fraction.is_none_or(is_digits)
        && digits.len() <= DECIMAL_DIGITS_MAX + 1
}

/// Returns whether bytes have the form of a date. Zero dates and zero parts are valid in MySQL.
fn is_date(bytes: &[u8]) -> bool {
    match bytes {
        [year @ .., b'-', m1, m2, b'-', d1, d2] => {
            year.len() == 4 && is_digits(year) && is_digits(&[*m1, *m2, *d1, *d2])
        }
        _ => false,
    }
}

fn is_time(bytes: &[u8], hour_digits: std::ops::RangeInclusive<usize>) -> bool {
    let mut parts = bytes.splitn(2, |byte| *byte == b'.');
    let (time, fraction) = (parts.next().unwrap_or_default(), parts.next());
    let is_clock = match time {
        [hours @ .., b':', m1, m2, b':', s1, s2] => {
            hour_digits.contains(&hours.len()) && is_digits(hours) && is_digits(&[*m1, *m2, *s1, *s2])
        }
        _ => false,
    };
    is_clock && fraction.is_none_or(|fraction| is_digits(fraction) && fraction.len() <= 6)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rowmill_core::batch::{Builder, ColumnIndex, Operation, RowHeader, RowIndex, TableId, TransactionHeader};
    use rowmill_core::envelope::{Connector, Envelope, Escaping, Format, KeyChange, SourceName};
    use serde_json::Value;

    use super::*;
    use crate::fixture::KINDS;

    fn table(kind: Kind, mysql_type: &str) -> Table {
        let (name, mysql_type) = ("v".to_owned(), mysql_type.to_owned());
        let column = Column { name, kind, mysql_type, nullable: true, key: true };
        let (schema, name) = ("shop".to_owned(), "t".to_owned());
        Table { id: TableId(0), generation: 0, schema, name, columns: vec![column], key: vec![ColumnIndex(0)] }
    }

    #[test]
    fn values_are_of_their_columns_kind() {
        let is_taken = |kind, mysql_type: &str, text: &str| {
            let table = table(kind, mysql_type);
            let parsed = parse(&table, &table.columns[0], text);
            if let Ok(bytes) = &parsed {
                assert_eq!(check(&table, &table.columns[0], bytes), Ok(()));
            }
            parsed.is_ok()
        };
        let nines = "9".repeat(65);
        for (kind, mysql_type, taken, refused) in [
            (Kind::Int, "bigint", &["-1", "9223372036854775807"][..], &["", "1.0", "9223372036854775808", " 1"][..]),
            (Kind::Uint, "bigint unsigned", &["18446744073709551615"], &["-1", "1e3"]),
            (Kind::Float, "double", &["1e300", "-0.5"], &["NaN", "inf", "1e400", "x"]),
            (Kind::Float, "float", &["1e30"], &["1e300"]),
            (
                Kind::Decimal,
                "decimal",
                &["0", "-12.50", "0.00", &nines],
                &["", "-", "+1", ".5", "1.", "1e3", "01", "1\"", "1.2.3", "0x1", "१"],
            ),
            (
                Kind::Date,
                "date",
                &["2026-11-26", "0000-00-00"],
                &["", "2026-1-26", "26-11-2026", "2026-11-26 ", "x\",\"y"],
            ),
            (
                Kind::Time,
                "time",
                &["08:30:00", "-838:59:59.000001"],
                &["8:30:00", "08:30", "08:30:00.", "08:30:00.1234567"],
            ),
            (
                Kind::Datetime,
                "datetime",
                &["2026-11-26 08:30:00", "2026-11-26 08:30:00.5"],
                &[
                    "2026-11-26T08:30:00",
                    "2026-11-26 08:30:00Z",
                    "2026-11-26 -8:30:00",
                    "2026-11-26 838:30:00",
                    "2026-11-26",
                ],
            ),
            (
                Kind::Json,
                "json",
                &["{\"a\": [1, null]}", "\"x\""],
                &["", "{", "{\"a\": 1}\n", "nul", "1 2", "{'a': 1}"],
            ),
            (Kind::Bytes, "blob", &["", "AAE="], &["AAE", "@"]),
        ] {
            for text in taken {
                assert!(is_taken(kind, mysql_type, text), "{mysql_type} {text}");
            }
            for text in refused {
                assert!(!is_taken(kind, mysql_type, text), "{mysql_type} {text}");
            }
        }
        let table = table(Kind::Datetime, "datetime");
        let refused = parse(&table, &table.columns[0], "soon").expect_err("refused");
        let form = "write it as 2026-11-26 08:30:00 or 2026-11-26 08:30:00.000000";
        assert_eq!(refused, format!("`soon` is not a valid value of shop.t.v (datetime); {form}"));
    }

    /// Values that a plugin may return: arbitrary bytes, and texts that are close to valid values.
    fn given() -> impl Strategy<Value = Vec<u8>> {
        let near = prop::sample::select(vec![
            "2026-11-26",
            "2026-11-26 08:30:00.000000",
            "-12.50",
            "{\"a\": \"\\u00fc\"}",
            "[1,2]",
            "\"",
            "\\",
            "null",
            "08:30:00",
        ]);
        let spliced =
            (near, any::<prop::sample::Index>(), "[\\x00-\\x7fäß\u{10ffff}]{0,3}").prop_map(|(near, at, more)| {
                let at = at.index(near.len() + 1);
                [&near.as_bytes()[..at], more.as_bytes(), &near.as_bytes()[at..]].concat()
            });
        prop_oneof![
            any::<Vec<u8>>(),
            any::<[u8; 8]>().prop_map(Vec::from),
            any::<f64>().prop_map(|number| number.to_le_bytes().to_vec()),
            spliced,
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(20_000) })]

        /// Any value that is accepted makes a message that is JSON in each format. Within a request the message is text that
        /// parses to the same JSON.
        #[test]
        fn what_is_taken_is_json_in_every_message(which in 0..KINDS.len(), bytes in given()) {
            let (kind, mysql_type) = KINDS[which];
            let table = table(kind, mysql_type);
            if check(&table, &table.columns[0], &bytes).is_err() {
                return Ok(());
            }
            let mut builder = Builder::with_capacity(0);
            let (file, gtid) = ("binlog.000001", "");
            builder.transaction(&TransactionHeader { file, position: 4, gtid, commit_time_us: 0, server_id: 1, thread_id: 1 });
            builder.begin_row(&RowHeader {
                table: table.id,
                operation: Operation::Insert,
                columns: 1,
                index_in_transaction: 0,
                index_in_event: 0,
                event_position: 9,
                time_us: 0,
            });
            builder.begin_image(1);
            builder.cell(rowmill_core::batch::Cell::Value(&bytes));
            builder.end_image();
            builder.end_row();
            let packed = builder.finish();
            let batch = packed.view();
            let source = || SourceName { version: "0".to_owned(), name: "n".to_owned(), connector: Connector::MySql };
            for format in [Format::Debezium, Format::Row, Format::CloudEvents, Format::Maxwell] {
                let written = |escaping| {
                    let mut out = Vec::new();
                    let row = batch.row(RowIndex(0));
                    Envelope::new(format, escaping, source()).write(&table, &batch, &row, KeyChange::None, 0, &mut out);
                    out
                };
                let plain = written(Escaping::Plain);
                let read: Value = serde_json::from_slice(&plain)
                    .map_err(|error| TestCaseError::fail(format!("{format:?}: {error}: {}", String::from_utf8_lossy(&plain))))?;
                prop_assert!(!plain.contains(&b'\n'));
                let request = [&b"{\"MessageBody\":\""[..], &written(Escaping::Escaped), b"\"}"].concat();
                let request: Value = serde_json::from_slice(&request)
                    .map_err(|error| TestCaseError::fail(format!("{format:?}: {error}")))?;
                prop_assert_eq!(request.as_object().map(serde_json::Map::len), Some(1));
                let body = request["MessageBody"].as_str().unwrap_or_default();
                prop_assert_eq!(serde_json::from_str::<Value>(body).ok(), Some(read), "{:?}", format);
            }
        }
    }
}
