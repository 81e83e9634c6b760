//! The set-up of most tests: a server, the engine's configuration and a file for delivered messages.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use mysql_async::prelude::Queryable;
use serde_json::Value;

use crate::engine::{Engine, EngineConfig};
use crate::mysql::{Build, MySql};
use crate::process::wait_for;
use crate::{scratch, whole_lines};

const SOON: Duration = Duration::from_secs(60);

/// A server, and an engine's configuration that delivers to a file.
#[derive(Debug)]
pub struct Rig {
    /// The directory of all files.
    pub directory: PathBuf,
    /// The server.
    pub mysql: MySql,
    /// The engine's configuration, with one file sink.
    pub config: EngineConfig,
    out: PathBuf,
}

impl Rig {
    /// Starts a server. `source` is appended to the configuration's `[source]`.
    ///
    /// # Errors
    /// If the server does not start.
    pub async fn start(name: &str, build: Build, options: &[&str], source: &str) -> anyhow::Result<Self> {
        let directory = scratch(name);
        let mysql = MySql::start_build(build, &directory, options).await?;
        let out = directory.join("out.jsonl");
        let more = format!("[sink.out]\ntype = \"file\"\npath = \"{}\"\n", out.display());
        let config = EngineConfig::new(&directory, &mysql, source, &more);
        Ok(Self { directory, mysql, config, out })
    }

    /// Runs statements one by one, in one session. Those with the comment `/* fails */` may fail.
    ///
    /// # Errors
    /// If another statement fails.
    pub async fn session(&self, statements: &[&str]) -> anyhow::Result<()> {
        let mut conn = self.mysql.connect().await?;
        for statement in statements {
            if let Err(error) = conn.query_drop(*statement).await {
                ensure!(statement.contains("/* fails */"), "{statement}: {error}");
            }
        }
        conn.disconnect().await?;
        Ok(())
    }

    /// Returns the messages delivered so far, in order.
    ///
    /// # Errors
    /// If a message is not JSON.
    pub fn arrived(&self) -> anyhow::Result<Vec<Value>> {
        whole_lines(&self.out)?
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
            .collect()
    }

    /// Returns the messages in short form: operation, table and the `id` column, such as `c orders 7`.
    ///
    /// # Errors
    /// If a message is not JSON.
    pub fn changes(&self) -> anyhow::Result<Vec<String>> {
        let short = |message: &Value| {
            let image = if message["after"].is_null() { &message["before"] } else { &message["after"] };
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            format!("{} {} {}", text(&message["op"]), text(&message["source"]["table"]), image["id"])
        };
        Ok(self.arrived()?.iter().map(short).collect())
    }

    /// Waits until the engine's checkpoint is at the binlog's end.
    ///
    /// # Errors
    /// If the checkpoint is not there within the deadline.
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
