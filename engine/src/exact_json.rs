//! JSON compared exactly: numbers by their digits, and fields with the same name each.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// A JSON value as it is written. Blanks between tokens, escapes within strings and the order of fields do not count.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Exact {
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

    /// Appends the value in MySQL's form of a document: keys ordered by their length and then by their bytes, a blank after each
    /// colon and comma.
    /// <https://dev.mysql.com/doc/refman/9.7/en/json.html#json-normalization>
    pub fn push_mysql(&self, out: &mut String) {
        match self {
            Self::Token(token) => out.push_str(token),
            Self::Text(text) => push_text(text, out),
            Self::List(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    out.push_str(if index > 0 { ", " } else { "" });
                    item.push_mysql(out);
                }
                out.push(']');
            }
            Self::Fields(fields) => {
                let mut fields: Vec<&(String, Self)> = fields.iter().collect();
                fields.sort_by_key(|(name, _)| (name.len(), name));
                out.push('{');
                for (index, (name, item)) in fields.into_iter().enumerate() {
                    out.push_str(if index > 0 { ", " } else { "" });
                    push_text(name, out);
                    out.push_str(": ");
                    item.push_mysql(out);
                }
                out.push('}');
            }
        }
    }
}

fn push_text(text: &str, out: &mut String) {
    out.push_str(&serde_json::Value::from(text).to_string());
}

/// The fields of an object in their order, also those whose name occurs twice.
pub(crate) struct RawFields(pub Vec<(String, Box<RawValue>)>);

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
