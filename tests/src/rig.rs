//! A server, the engine's configuration and a file for what arrives: what most tests need.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use crate::engine::{Engine, EngineConfig};
use crate::mysql::{Build, MySql};
use crate::process::wait_for;
use crate::{scratch, whole_lines};

const SOON: Duration = Duration::from_secs(60);

/// See the module's description.
#[derive(Debug)]
pub struct Rig {
    /// Where everything is.
    pub directory: PathBuf,
    /// The server.
    pub mysql: MySql,
    /// The engine's configuration: everything to a file.
    pub config: EngineConfig,
    out: PathBuf,
}

impl Rig {
    /// Starts a server. `source` stands in the configuration's `[source]`.
    ///
    /// # Errors
    /// If the server doesn't start.
    pub async fn start(name: &str, build: Build, options: &[&str], source: &str) -> anyhow::Result<Self> {
        let directory = scratch(name);
        let mysql = MySql::start_build(build, &directory, options).await?;
        let out = directory.join("out.jsonl");
        let more = format!("[sink.out]\ntype = \"file\"\npath = \"{}\"\n", out.display());
        let config = EngineConfig::new(&directory, &mysql, source, &more);
        Ok(Self { directory, mysql, config, out })
    }

    /// What arrived so far, in its order.
    ///
    /// # Errors
    /// If it isn't JSON.
    pub fn arrived(&self) -> anyhow::Result<Vec<Value>> {
        whole_lines(&self.out)?
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
            .collect()
    }

    /// What arrived, in short: operation, table and the `id` column, as `c orders 7`.
    ///
    /// # Errors
    /// If it isn't JSON.
    pub fn changes(&self) -> anyhow::Result<Vec<String>> {
        let short = |message: &Value| {
            let image = if message["after"].is_null() { &message["before"] } else { &message["after"] };
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            format!("{} {} {}", text(&message["op"]), text(&message["source"]["table"]), image["id"])
        };
        Ok(self.arrived()?.iter().map(short).collect())
    }

    /// Waits until the engine's checkpoint is where the binlog ends.
    ///
    /// # Errors
    /// If that takes too long.
    pub async fn read_to_the_end(&self, engine: &Engine) -> anyhow::Result<()> {
        wait_for("everything is read", SOON, || async {
            let (file, end) = self.mysql.binlog_end().await?;
            let read = self.config.position_in(&file)?;
            Ok(match read {
                Some(read) => read == end || self.mysql.has_only_checkpoints_after(&file, read).await?,
                None => false,
            }
            .then_some(()))
        })
        .await
        .with_context(|| engine.log())
    }
}
