//! A plugin's manifest: the optional `NAME.toml` beside its `NAME.wasm`, written by the plugin's user.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use serde::Deserialize;

use crate::config::{Quantity, TablePatterns, toml_error};

/// A plugin's tables, limits, grants and settings, and the handling of its errors.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// The tables whose rows the plugin sees; rows of other tables pass unchanged. `None`: all tables.
    pub tables: Option<TablePatterns>,
    /// How a row that the plugin fails on is handled.
    pub on_error: OnError,
    /// The limits of the plugin's resources.
    pub limits: Limits,
    /// The maximum number of instances; `None`: one per thread. A single instance sees all rows in order.
    pub instances: Option<usize>,
    /// What the plugin may use besides the rows.
    pub grants: Grants,
    /// The plugin's `[settings]`, as JSON.
    pub settings: String,
}

/// The handling of a row that a plugin fails on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnError {
    /// The engine stops before the row.
    #[default]
    Halt,
    /// The row is dropped and counted; some such rows are logged.
    Skip,
    /// The row goes to the dead-letter sink.
    DeadLetter,
}

/// The limits of a plugin's resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Linear memory of an instance, in bytes.
    pub memory: usize,
    /// The time for one call.
    pub deadline: Duration,
    /// The output for one batch, in bytes.
    pub output: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory: 256 << 20, deadline: Duration::from_secs(1), output: 64 << 20 }
    }
}

/// What a plugin may use besides the rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grants {
    /// Whether the plugin may read the time of day.
    pub clock: bool,
    /// The environment variables that the plugin may read.
    pub env: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct File {
    tables: Option<TablePatterns>,
    on_error: OnError,
    memory: Option<Quantity>,
    deadline: Option<Quantity>,
    output: Option<Quantity>,
    instances: Option<usize>,
    grant: Grants,
    settings: BTreeMap<String, toml::Value>,
}

impl Default for Manifest {
    fn default() -> Self {
        Self {
            tables: None,
            on_error: OnError::default(),
            limits: Limits::default(),
            instances: None,
            grants: Grants::default(),
            settings: "{}".to_owned(),
        }
    }
}

impl Manifest {
    /// Reads a plugin's manifest. Without a file, all values are the defaults.
    ///
    /// # Errors
    /// If the file cannot be read, or its content is invalid: the error names the file.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        if path.exists() && !path.is_file() {
            bail!("{}: not a regular file", path.display());
        }
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text).with_context(|| path.display().to_string()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let file: File = toml::from_str(text).map_err(|error| anyhow!(toml_error(text, &error)))?;
        let default = Limits::default();
        let bytes = |key: &str, quantity: Option<Quantity>, default: usize| match quantity {
            None => Ok(default),
            Some(quantity) => {
                quantity.bytes().with_context(|| format!("{key}: write a number of bytes, or a text such as \"64MiB\""))
            }
        };
        let limits = Limits {
            memory: bytes("memory", file.memory, default.memory)?,
            output: bytes("output", file.output, default.output)?,
            deadline: match file.deadline {
                None => default.deadline,
                Some(quantity) => quantity.duration().context("deadline: write a text such as \"250ms\"")?,
            },
        };
        if file.instances == Some(0) {
            bail!("instances: at least one is required");
        }
        let settings = file.settings.into_iter().map(|(key, value)| (key, json(value)));
        Ok(Self {
            tables: file.tables,
            on_error: file.on_error,
            limits,
            instances: file.instances,
            grants: file.grant,
            settings: serde_json::Value::Object(settings.collect()).to_string(),
        })
    }
}

/// Converts a TOML value to JSON. A date, for which JSON has no type, becomes a text.
fn json(value: toml::Value) -> serde_json::Value {
    match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(truth) => truth.into(),
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(values) => values.into_iter().map(json).collect(),
        toml::Value::Table(table) => {
            serde_json::Value::Object(table.into_iter().map(|(key, value)| (key, json(value))).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_says_counts() {
        let manifest = Manifest::parse(
            "tables = [\"shop.*\"]\non_error = \"dead-letter\"\nmemory = \"8MiB\"\ndeadline = \"50ms\"\noutput = 1000\n\
             instances = 1\n[grant]\nclock = true\nenv = [\"REGION\"]\n[settings]\nlimit = 3\nsince = 2026-11-24\n",
        )
        .expect("valid");
        let tables = manifest.tables.expect("named");
        assert!(tables.matches("shop", "orders") && !tables.matches("other", "orders"));
        assert_eq!(manifest.on_error, OnError::DeadLetter);
        let limits = Limits { memory: 8 << 20, deadline: Duration::from_millis(50), output: 1000 };
        assert_eq!((manifest.limits, manifest.instances), (limits, Some(1)));
        assert_eq!(manifest.grants, Grants { clock: true, env: vec!["REGION".to_owned()] });
        assert_eq!(manifest.settings, r#"{"limit":3,"since":"2026-11-24"}"#);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let error = |text: &str| format!("{:#}", Manifest::parse(text).expect_err("refused"));
        assert!(error("on_eror = \"skip\"").contains("did you mean `on_error`?"));
        assert!(error("on_error = \"ignore\"").contains("line 1"));
        assert!(error("memory = \"1 parsec\"").contains("memory"));
        assert!(error("deadline = \"0s\"").contains("deadline"));
        assert!(error("deadline = 5").contains("250ms"));
        assert!(error("instances = 0").contains("at least one"));
    }

    #[test]
    fn the_reference_lists_each_key() {
        crate::config::reference::assert_section::<File>("Plugin file: top level");
        crate::config::reference::assert_section::<Grants>("Plugin file: [grant]");
    }
}
