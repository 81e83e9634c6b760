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

/// Of a value of the wrong type what it is, not the value: that may be a secret.
fn without_value(message: &str) -> String {
    let Some((kind, rest)) = message.strip_prefix("invalid type: ").and_then(|rest| rest.split_once(", expected "))
    else {
        return message.to_owned();
    };
    let kind = kind.split(['`', '"']).next().unwrap_or_default().trim_end();
    format!("invalid type: {kind}, expected {rest}")
}

/// `; did you mean ...?`, if one of the known names is near.
pub(super) fn nearest<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> String {
    let distance = |name: &&str| strsim::damerau_levenshtein(unknown, name);
    match known.min_by_key(distance) {
        Some(name) if distance(&name) <= 1 + unknown.len() / 3 => format!("; did you mean `{name}`?"),
        _ => String::new(),
    }
}
