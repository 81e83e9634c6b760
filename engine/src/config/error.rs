//! Configuration errors: the problem, its line, and the nearest known key.

use std::path::PathBuf;

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {error}", path = .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: std::io::Error,
    },
    /// The file is not a valid configuration.
    #[error("{path}: {error}", path = .path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The problem, where it is, and its fix.
        error: String,
    },
}

/// Returns the message of TOML's parser, with the line and, for an unknown key, the nearest known one.
pub(crate) fn toml_error(text: &str, error: &toml::de::Error) -> String {
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

/// Returns the parser's message in the terms of TOML. A value of the wrong type is not repeated: it may be a secret.
fn without_value(message: &str) -> String {
    let wrong_type = message.strip_prefix("invalid type: ").and_then(|rest| rest.split_once(", expected "));
    if let Some((kind, wanted)) = wrong_type {
        let kind = kind.split(['`', '"']).next().unwrap_or_default().trim_end();
        return format!("the value is {}, and must be {}", named(kind), named(wanted));
    }
    match message.strip_prefix("unknown variant ") {
        Some(rest) => format!("unknown value {rest}"),
        None => message.to_owned(),
    }
}

/// Returns a type's name in the terms of TOML.
fn named(kind: &str) -> &str {
    match kind {
        "string" | "a string" => "a string in quotes",
        "sequence" | "a sequence" => "a list in brackets",
        "map" | "a map" => "a table",
        "integer" => "an integer",
        "floating point" => "a floating-point number",
        "boolean" | "a boolean" => "true or false",
        "u32" | "u64" | "usize" | "i64" => "an integer that is not negative",
        other => other,
    }
}

/// Returns `; did you mean ...?`, if a known name is similar, else nothing.
pub(crate) fn nearest<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> String {
    let distance = |name: &&str| strsim::damerau_levenshtein(unknown, name);
    match known.min_by_key(distance) {
        Some(name) if distance(&name) <= 1 + unknown.len() / 3 => format!("; did you mean `{name}`?"),
        _ => String::new(),
    }
}
