//! The engine itself, as a child process.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::mysql::MySql;
use crate::process::{self, Process, wait_for};

/// What the engine is told.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Where its configuration, checkpoint and log are.
    pub directory: PathBuf,
    /// The configuration file's text.
    pub text: String,
    /// ROWMILL_SOURCE_PASSWORD.
    pub password: String,
    /// Other environment variables.
    pub variables: Vec<(&'static str, String)>,
}

impl EngineConfig {
    /// A configuration that reads `mysql`, with `more` behind its `[source]` and `[checkpoint]`.
    pub fn new(directory: &Path, mysql: &MySql, source: &str, more: &str) -> Self {
        let text = format!(
            "[source]\nurl = \"{}\"\n{source}\n[checkpoint]\npath = \"{}\"\n{more}\n",
            mysql.url(),
            directory.join("checkpoint.json").display()
        );
        Self { directory: directory.to_owned(), text, password: mysql.password().to_owned(), variables: Vec::new() }
    }

    /// Whether the checkpoint is at a position: file and offset.
    ///
    /// # Errors
    /// If there is none.
    pub fn has_reached(&self, (file, offset): &(String, u64)) -> anyhow::Result<bool> {
        Ok(self.position_in(file)? == Some(*offset))
    }

    /// The checkpoint's position, if it is in this file of the binlog.
    ///
    /// # Errors
    /// If there is no checkpoint.
    pub fn position_in(&self, file: &str) -> anyhow::Result<Option<u64>> {
        let checkpoint: Value = serde_json::from_str(&std::fs::read_to_string(self.checkpoint())?)?;
        Ok(checkpoint["position"].as_u64().filter(|_| checkpoint["file"] == file))
    }

    /// A command of the engine's with this configuration.
    ///
    /// # Errors
    /// If the configuration can't be written.
    pub fn command(&self, arguments: &[&str]) -> anyhow::Result<Command> {
        std::fs::write(self.directory.join("rowmill.toml"), &self.text)?;
        let mut command = Command::new(binary()?);
        command
            .args(arguments)
            .args(["--config", "rowmill.toml"])
            .current_dir(&self.directory)
            .env("ROWMILL_SOURCE_PASSWORD", &self.password);
        Ok(command)
    }

    /// Where the checkpoint is.
    pub fn checkpoint(&self) -> PathBuf {
        self.directory.join("checkpoint.json")
    }
}

/// A running engine.
#[derive(Debug)]
pub struct Engine {
    process: Process,
    log: PathBuf,
}

impl Engine {
    /// Starts `rowmill run`.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn start(config: &EngineConfig) -> anyhow::Result<Self> {
        Self::start_with(config, &[])
    }

    /// Starts `rowmill run` with more arguments.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn start_with(config: &EngineConfig, arguments: &[&str]) -> anyhow::Result<Self> {
        let file = config.directory.join("rowmill.toml");
        std::fs::write(&file, &config.text)?;
        let log = config.directory.join("rowmill.log");
        let mut command = process::command(binary()?);
        command
            .args(["run", "--config"])
            .arg(&file)
            .args(arguments)
            .current_dir(&config.directory)
            .env("ROWMILL_SOURCE_PASSWORD", &config.password)
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_REGION", "us-east-1")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .envs(config.variables.iter().map(|(name, value)| (name, value)));
        Ok(Self { process: Process::start(&mut command, &log)?, log })
    }

    /// Starts one that waits for nothing, and fails within a minute. Gives what it said last.
    ///
    /// # Errors
    /// If it doesn't, or not with exit code 1.
    pub async fn failed(config: &EngineConfig) -> anyhow::Result<String> {
        let mut engine = Self::start_with(config, &["--no-wait"])?;
        let status = engine.end(Duration::from_secs(60)).await?;
        ensure!(status.code() == Some(1), "it ended with {status}: {}", engine.log());
        let log = engine.log();
        let last = log.lines().last().unwrap_or_default();
        Ok(last.split_once(" ERROR ").map_or(last, |(_, error)| error).to_owned())
    }

    /// Starts it, and waits until it reads the binlog.
    ///
    /// # Errors
    /// If it ends before.
    pub async fn start_and_wait(config: &EngineConfig) -> anyhow::Result<Self> {
        let before = std::fs::read_to_string(config.directory.join("rowmill.log")).unwrap_or_default().len();
        let mut engine = Self::start(config)?;
        wait_for("the engine runs", Duration::from_secs(30), || {
            let (ended, log) = (engine.process.ended(), engine.log());
            async move {
                if let Some(status) = ended? {
                    bail!("the engine ended ({status}): {log}");
                }
                Ok(log.get(before..).is_some_and(|new| new.contains("running")).then_some(()))
            }
        })
        .await?;
        Ok(engine)
    }

    /// All that it said so far, in this and earlier runs.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Kills it.
    pub fn kill(mut self) {
        self.process.kill();
    }

    /// The process, for signals and figures.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it doesn't end within `deadline`.
    pub async fn end(&mut self, deadline: Duration) -> anyhow::Result<ExitStatus> {
        wait_for("the engine ends", deadline, || {
            let ended = self.process.ended();
            async move { ended }
        })
        .await
    }

    /// Stops it by SIGTERM; it must end well.
    ///
    /// # Errors
    /// If it doesn't.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.process.terminate()?;
        let status = self.end(Duration::from_secs(30)).await?;
        if !status.success() {
            bail!("the engine ended with {status}: {}", self.log());
        }
        Ok(())
    }
}

/// The engine's binary: beside the running program, or beside its directory.
///
/// # Errors
/// If it was not built.
pub fn binary() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let places = program.ancestors().skip(1).take(2).map(|directory| directory.join("rowmill"));
    let found = places.into_iter().find(|path| path.is_file());
    found.context("there is no rowmill binary beside this program; run `cargo build --release` first")
}

/// What `rowmill replay` makes of a binlog file, without the times at which it does.
///
/// # Errors
/// If it fails.
pub fn replay(file: &Path) -> anyhow::Result<String> {
    let output = std::process::Command::new(binary()?).arg("replay").arg(file).output()?;
    if !output.status.success() {
        bail!("{}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
    }
    let lines = String::from_utf8(output.stdout)?;
    let without_time = |line: &str| line.rsplit_once(",\"ts_ms\":").map_or(line, |(rest, _)| rest).to_owned() + "}\n";
    Ok(lines.lines().map(without_time).collect())
}
