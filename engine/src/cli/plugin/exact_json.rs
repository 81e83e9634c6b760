//! JSON compared exactly: numbers by their digits, and fields with the same name each.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// A JSON value as it is written. Blanks between tokens, escapes within strings and the order of fields do not count.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Exact {
    /// `null`, `true`, `false`, or the digits of a number: `1.50` is not `1.5`.
    Token(String),
    Text(String),
    List(Vec<Exact>),
    /// Ordered by name and value.
    Fields(Vec<(String, Exact)>),
}

impl Exact {
    /// Parses a JSON text.
    ///
    /// # Errors
    /// If it is not JSON.
    pub fn parse(text: &str) -> serde_json::Result<Self> {
        let text = text.trim();
        match text.as_bytes().first() {
            Some(b'{') => {
                let RawFields(fields) = serde_json::from_str(text)?;
                let field = |(name, value): (String, Box<RawValue>)| Ok((name, Self::parse(value.get())?));
                let mut fields = fields.into_iter().map(field).collect::<serde_json::Result<Vec<_>>>()?;
                fields.sort();
                Ok(Self::Fields(fields))
            }
            Some(b'[') => {
                let items: Vec<Box<RawValue>> = serde_json::from_str(text)?;
                items.iter().map(|item| Self::parse(item.get())).collect::<serde_json::Result<_>>().map(Self::List)
            }
            Some(b'"') => serde_json::from_str(text).map(Self::Text),
            _ => serde_json::from_str::<&RawValue>(text).map(|token| Self::Token(token.get().to_owned())),
        }
    }
}

/// The fields of an object in their order, also those whose name occurs twice.
struct RawFields(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for RawFields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = RawFields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(RawFields(fields))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_compared() {
        let parse = |text: &str| Exact::parse(text).expect("JSON");
        for (a, b) in [
            (r#"{"a": 1, "b": [1, {"c": null}]}"#, r#"{"b":[1,{"c":null}],"a":1}"#),
            (r#""A\n""#, r#""\u0041\u000a""#),
            (r#"{"a":1,"a":2}"#, r#"{"a":2,"a":1}"#),
        ] {
            assert_eq!(parse(a), parse(b));
        }
        for (a, b) in [
            (r#"{"total":214748364678525163.11}"#, r#"{"total":214748364678525163.54}"#),
            ("1.50", "1.5"),
            ("1", "1.0"),
            (r#"{"a":1,"a":2}"#, r#"{"a":2}"#),
            ("[1,2]", "[2,1]"),
            ("\"1\"", "1"),
        ] {
            assert_ne!(parse(a), parse(b), "{a} {b}");
        }
        for text in ["", "{", "[1,]", "nul", "{\"a\":}", "1 2"] {
            assert!(Exact::parse(text).is_err(), "{text}");
        }
    }
}
