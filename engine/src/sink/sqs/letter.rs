//! Dead letters that fit: a record of what went wrong must not be what stops the engine.

use serde_json::{Map, Value};

/// Says which fields of a letter are cut, and how many bytes they had.
const SHORTENED: &str = "shortened";

/// A letter, a JSON object, with so few bytes: the longest of its fields is cut until it fits, and `shortened` says how
/// long each of those was. What isn't an object is cut as a text.
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
        let text = Value::Object(whole).to_string();
        let excess = text.len().saturating_sub(bytes_max);
        if excess == 0 {
            return text;
        }
        let Some((name, longest)) = fields.iter_mut().max_by_key(|(_, value)| value.to_string().len()) else {
            return text; // nothing is left to be cut
        };
        let part = match std::mem::take(longest) {
            Value::String(text) => text,
            other => other.to_string(),
        };
        if part.is_empty() {
            return text; // as short as it gets
        }
        original.entry(name.clone()).or_insert_with(|| part.len().into());
        // Escaped, a byte takes up to six: what is cut is rather too little, and more in the next round.
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
        // Once more, and it still says how long it was at first.
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
}
