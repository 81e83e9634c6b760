//! Values within a JSON document, found by scanning its text.

/// A path in MySQL's syntax: `$.name`, `$."a name"`, `$[0]`, `$[last]`, and any sequence of these steps.
/// <https://dev.mysql.com/doc/refman/9.7/en/json.html#json-path-syntax>
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::transform) struct Path(Vec<Step>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Member(String),
    Item(usize),
    Last,
}

impl Path {
    /// # Errors
    /// If the text is not such a path.
    pub fn parse(text: &str) -> Result<Self, String> {
        let invalid = || format!("`{text}` is not a path such as '$.items[0].name',");
        let mut steps = Vec::new();
        let mut rest = text.trim().strip_prefix('$').ok_or_else(invalid)?;
        while !rest.is_empty() {
            if let Some(member) = rest.strip_prefix('.') {
                let end = if member.starts_with('"') {
                    string_end(member.as_bytes(), 0).ok_or_else(invalid)?
                } else {
                    member.find(['.', '[']).unwrap_or(member.len())
                };
                let (name, after) = member.split_at(end);
                let name = match name.as_bytes() {
                    [b'"', ..] => serde_json::from_str(name).map_err(|_| invalid())?,
                    [] => return Err(invalid()),
                    _ if name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '$') => name.to_owned(),
                    _ => return Err(invalid()),
                };
                steps.push(Step::Member(name));
                rest = after;
            } else {
                let (index, after) =
                    rest.strip_prefix('[').and_then(|rest| rest.split_once(']')).ok_or_else(invalid)?;
                steps.push(match index {
                    "last" => Step::Last,
                    _ => Step::Item(index.parse().map_err(|_| invalid())?),
                });
                rest = after;
            }
        }
        Ok(Self(steps))
    }

    /// Returns the value at this path of a document, as JSON text.
    pub fn find<'a>(&self, document: &'a str) -> Option<&'a str> {
        let mut value = document.trim();
        for step in &self.0 {
            value = match step {
                Step::Member(name) => members(value)?.find(|(key, _)| is_key(key, name))?.1,
                Step::Item(index) => items(value)?.nth(*index)?,
                Step::Last => items(value)?.last()?,
            };
        }
        Some(value)
    }
}

/// Whether a key, with its quotes, is this name.
fn is_key(key: &str, name: &str) -> bool {
    if key.contains('\\') {
        serde_json::from_str::<String>(key).is_ok_and(|key| key == name)
    } else {
        key.len() == name.len() + 2 && key[1..].starts_with(name)
    }
}

/// Returns the items of a JSON array, as JSON texts. `None` if the value is not an array.
pub(in crate::transform) fn items(array: &str) -> Option<impl Iterator<Item = &str>> {
    let mut rest = Rest::within(array, b'[')?;
    Some(std::iter::from_fn(move || rest.value()))
}

/// Returns the keys of a JSON object, with their quotes, and its values. `None` if the value is not an object.
pub(super) fn members(object: &str) -> Option<impl Iterator<Item = (&str, &str)>> {
    let mut rest = Rest::within(object, b'{')?;
    Some(std::iter::from_fn(move || rest.value().zip(rest.value())))
}

/// The values of an array, or the keys and values of an object, from a place on.
struct Rest<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Rest<'a> {
    fn within(text: &'a str, open: u8) -> Option<Self> {
        text.as_bytes().starts_with(&[open]).then_some(Self { text, at: 1 })
    }

    /// Takes the next value. The text is known to be JSON.
    fn value(&mut self) -> Option<&'a str> {
        let bytes = self.text.as_bytes();
        let is_between = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b',' | b':');
        let start = self.at + bytes.get(self.at..)?.iter().position(|byte| !is_between(byte))?;
        let end = value_end(bytes, start).filter(|&end| end > start)?;
        self.at = end;
        self.text.get(start..end)
    }
}

/// Returns the end of the value that begins at `start`.
fn value_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut depth = 0usize;
    let mut at = start;
    loop {
        match bytes.get(at)? {
            b'"' => at = string_end(bytes, at)?,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' => {
                depth = depth.checked_sub(1)?;
                at += 1;
            }
            b',' | b':' | b' ' | b'\t' | b'\r' | b'\n' if depth > 0 => {
                at += 1;
                continue;
            }
            // A number, `true`, `false` or `null`.
            _ => {
                let is_end = |byte: &u8| matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n');
                let token = &bytes[at..];
                at += token.iter().position(is_end).unwrap_or(token.len()).max(1);
            }
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

/// Returns the end of the string whose first quote is at `start`.
fn string_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        at += bytes.get(at..)?.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
        if bytes[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn paths_find_what_mysql_finds() {
        let document = r#"{"a": {"b c": [1, {"d": "x\"}]"}, [], null]}, "ü": -1.50e3, "q\"": true}"#;
        for (path, found) in [
            ("$", Some(document)),
            ("$.a.\"b c\"[0]", Some("1")),
            ("$.a.\"b c\"[1].d", Some(r#""x\"}]""#)),
            ("$.a.\"b c\"[2]", Some("[]")),
            ("$.a.\"b c\"[last]", Some("null")),
            ("$.a.\"b c\"[4]", None),
            ("$.ü", Some("-1.50e3")),
            ("$.\"q\\\"\"", Some("true")),
            ("$.a.b", None),
            ("$.ü.x", None),
            ("$.ü[0]", None),
        ] {
            assert_eq!(Path::parse(path).expect(path).find(document), found, "{path}");
        }
        for path in ["", "a", "$.", "$[", "$[x]", "$[-1]", "$.a b", "$.\"a", "$x", "$[*]", "$**.a"] {
            assert!(Path::parse(path).is_err(), "{path}");
        }
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a\"\\\\\\[\\]{},: ü\n]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map("[a-c\"\\\\ ]{0,3}", inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// Members and items are those of a parser.
        #[test]
        fn scanning_finds_what_parsing_finds(value in json(), pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            let text = text.expect("JSON");
            let read = |text: &str| serde_json::from_str::<Value>(text).expect(text);
            prop_assert_eq!(
                items(&text).map(|items| items.map(read).collect::<Vec<_>>()),
                value.as_array().cloned()
            );
            let found = members(&text)
                .map(|members| members.map(|(key, value)| (read(key), read(value))).collect::<Vec<_>>());
            let expected = value.as_object()
                .map(|map| map.iter().map(|(key, value)| (Value::from(key.clone()), value.clone())).collect());
            prop_assert_eq!(found, expected);
        }

        /// No text makes it panic or run for ever.
        #[test]
        fn any_text_is_scanned(text in "[\\[\\]{},:\"\\\\ a1ü]{0,30}") {
            items(&text).into_iter().flatten().count();
            members(&text).into_iter().flatten().count();
            let _ = Path::parse(&text);
        }
    }
}
