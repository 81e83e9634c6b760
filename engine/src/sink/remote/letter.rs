//! Shortens dead letters, so that one that is too large for its service does not stop the engine.

use serde_json::{Map, Value};

use crate::dead_letter::escape_noncharacters;

/// The field that names the shortened fields, each with its original bytes.
const SHORTENED: &str = "shortened";

/// Shortens a dead letter, a JSON object, to at most `bytes_max` bytes: the longest field is cut until the letter fits, and
/// `shortened` has the original bytes of each field that was cut. A text that is not an object is cut as the field `body`.
/// Where the limit is less than the fields' names need, the letter is as short as possible.
pub(super) fn shortened(letter: &str, bytes_max: usize) -> String {
    let mut fields: Map<String, Value> = match serde_json::from_str(letter) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::from_iter([("body".to_owned(), Value::String(letter.to_owned()))]),
    };
    let mut original = match fields.remove(SHORTENED) {
        Some(Value::Object(original)) => original,
        _ => Map::new(),
    };
    loop {
        let mut whole = fields.clone();
        if !original.is_empty() {
            whole.insert(SHORTENED.to_owned(), Value::Object(original.clone()));
        }
        let text = escape_noncharacters(Value::Object(whole).to_string());
        let excess = text.len().saturating_sub(bytes_max);
        if excess == 0 {
            return text;
        }
        let Some((name, longest)) = fields.iter_mut().max_by_key(|(_, value)| value.to_string().len()) else {
            return text; // no field is left
        };
        let part = match std::mem::take(longest) {
            Value::String(text) => text,
            other => other.to_string(),
        };
        if part.is_empty() {
            return text; // as short as possible
        }
        original.entry(name.clone()).or_insert_with(|| part.len().into());
        // A byte takes up to six when escaped: this cuts too little rather than too much, and the next round cuts more.
        let kept = part.floor_char_boundary(part.len().saturating_sub((excess / 6).max(16)));
        *longest = Value::String(part[..kept].to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_field_is_cut() {
        let letter = format!(r#"{{"error":"why","body":"{}","row":7}}"#, "é\\n".repeat(1000));
        let text = shortened(&letter, 500);
        let value: Value = serde_json::from_str(&text).expect("JSON");
        assert!(text.len() <= 500 && text.len() > 300, "{}", text.len());
        assert_eq!((&value["error"], &value["row"]), (&"why".into(), &7.into()));
        assert_eq!(value["shortened"]["body"], 3000);
        assert!(value["body"].as_str().is_some_and(|body| body.starts_with("é\né")));
        // Shortened once more, the letter still has the original size.
        let again: Value = serde_json::from_str(&shortened(&text, 200)).expect("JSON");
        assert_eq!(again["shortened"]["body"], 3000);
    }

    #[test]
    fn whatever_it_has_it_gets_short() {
        let change =
            format!(r#"{{"change":{{"after":{{"a":"{0}","b":"{0}"}}}},"error":"{0}"}}"#, "\\u0001x".repeat(5000));
        for bytes in [50_000, 5_000, 1024, 256] {
            let text = shortened(&change, bytes);
            assert!(text.len() <= bytes, "{bytes}: {}", text.len());
            assert!(serde_json::from_str::<Value>(&text).expect("JSON")["shortened"]["change"].is_u64());
        }
        let text = shortened(&"x".repeat(5000), 300);
        assert!(text.len() <= 300 && text.contains("\"body\":\"xxx"));
    }

    #[test]
    fn no_character_is_left_that_sqs_refuses() {
        let text = shortened("{\"body\":\"\\ufffe\\uffff\"}", 1000);
        assert!(!text.contains(['\u{fffe}', '\u{ffff}']), "{text}");
    }
}
