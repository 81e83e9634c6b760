//! What's wrong with a configuration, and where.

use std::path::PathBuf;

/// A configuration that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("the configuration file {path} can't be read: {error}", path = .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The file says something that can't be meant.
    #[error("{path}: {fault}", path = .path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What, where and how to mend it.
        fault: String,
    },
}

/// What TOML's parser found, with its line and the nearest known key for one that isn't known.
pub(crate) fn toml_fault(text: &str, error: &toml::de::Error) -> String {
    let line = error.span().map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
    let message = error.message();
    // "unknown field `strat`, expected one of `url`, `start`"
    let mut names = message.split('`').skip(1).step_by(2);
    let nearest = match (message.starts_with("unknown "), names.next()) {
        (true, Some(unknown)) => nearest(unknown, names),
        _ => String::new(),
    };
    format!("line {line}: {}{nearest}", without_value(message))
}

/// The parser's words in those of the field. Of a value of the wrong type what it is, not the value: that may be a secret.
fn without_value(message: &str) -> String {
    let wrong_type = message.strip_prefix("invalid type: ").and_then(|rest| rest.split_once(", expected "));
    if let Some((kind, wanted)) = wrong_type {
        let kind = kind.split(['`', '"']).next().unwrap_or_default().trim_end();
        return format!("it is {}, and must be {}", named(kind), named(wanted));
    }
    match message.strip_prefix("unknown variant ") {
        Some(rest) => format!("unknown value {rest}"),
        None => message.to_owned(),
    }
}

/// A type, as people who write TOML call it.
fn named(kind: &str) -> &str {
    match kind {
        "string" | "a string" => "a text in quotes",
        "sequence" | "a sequence" => "a list in brackets",
        "map" | "a map" => "a table",
        "integer" => "a whole number",
        "floating point" => "a number",
        "boolean" | "a boolean" => "true or false",
        "u32" | "u64" | "usize" | "i64" => "a whole number that isn't negative",
        other => other,
    }
}

/// `; did you mean ...?`, if one of the known names is near.
pub(super) fn nearest<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> String {
    let distance = |name: &&str| strsim::damerau_levenshtein(unknown, name);
    match known.min_by_key(distance) {
        Some(name) if distance(&name) <= 1 + unknown.len() / 3 => format!("; did you mean `{name}`?"),
        _ => String::new(),
    }
}
