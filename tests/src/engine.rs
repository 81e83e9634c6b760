//! The engine as a child process.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::mysql::MySql;
use crate::process::{self, Process, wait_for};

/// The engine's configuration and environment.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// The directory of the configuration, the checkpoint and the log.
    pub directory: PathBuf,
    /// The configuration file's text.
    pub text: String,
    /// The value of `ROWMILL_SOURCE_PASSWORD`.
    pub password: String,
    /// Other environment variables.
    pub variables: Vec<(&'static str, String)>,
}

impl EngineConfig {
    /// Makes a configuration that reads `mysql`, with `more` after its `[source]` and `[checkpoint]`.
    pub fn new(directory: &Path, mysql: &MySql, source: &str, more: &str) -> Self {
        let text = format!(
            "[source]\nurl = \"{}\"\n{source}\n[checkpoint]\npath = \"{}\"\n{more}\n",
            mysql.url(),
            directory.join("checkpoint.json").display()
        );
        Self { directory: directory.to_owned(), text, password: mysql.password().to_owned(), variables: Vec::new() }
    }

    /// Returns whether the checkpoint is at a position: file and offset.
    ///
    /// # Errors
    /// If there is no checkpoint.
    pub fn has_reached(&self, (file, offset): &(String, u64)) -> anyhow::Result<bool> {
        Ok(self.position_in(file)? == Some(*offset))
    }

    /// Returns the checkpoint's position, if the checkpoint is in this binlog file.
    ///
    /// # Errors
    /// If there is no checkpoint.
    pub fn position_in(&self, file: &str) -> anyhow::Result<Option<u64>> {
        let checkpoint: Value = serde_json::from_str(&std::fs::read_to_string(self.checkpoint())?)?;
        Ok(checkpoint["position"].as_u64().filter(|_| checkpoint["file"] == file))
    }

    /// Makes a command of the engine with this configuration.
    ///
    /// # Errors
    /// If the configuration cannot be written.
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

    /// The checkpoint's path.
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
    /// If the engine cannot be started.
    pub fn start(config: &EngineConfig) -> anyhow::Result<Self> {
        Self::start_with(config, &[])
    }

    /// Starts `rowmill run` with more arguments.
    ///
    /// # Errors
    /// If the engine cannot be started.
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

    /// Starts an engine with `--no-wait` that must fail within a minute; returns the last error of its log.
    ///
    /// # Errors
    /// If the engine does not fail, or not with exit code 1.
    pub async fn failed(config: &EngineConfig) -> anyhow::Result<String> {
        let mut engine = Self::start_with(config, &["--no-wait"])?;
        let status = engine.end(Duration::from_secs(60)).await?;
        ensure!(status.code() == Some(1), "it ended with {status}: {}", engine.log());
        let log = engine.log();
        let last = log.lines().last().unwrap_or_default();
        Ok(last.split_once(" ERROR ").map_or(last, |(_, error)| error).to_owned())
    }

    /// Starts the engine, and waits until it reads the binlog.
    ///
    /// # Errors
    /// If the engine ends before that.
    pub async fn start_and_wait(config: &EngineConfig) -> anyhow::Result<Self> {
        let before = std::fs::read_to_string(config.directory.join("rowmill.log")).unwrap_or_default().len();
        let mut engine = Self::start(config)?;
        wait_for("the engine runs", Duration::from_secs(30), || {
            let (ended, log) = (engine.process.ended(), engine.log());
            async move {
                if let Some(status) = ended? {
                    bail!("the engine ended ({status}): {log}");
                }
                Ok(log.get(before..).is_some_and(|new| new.contains(crate::log_lines::RUNNING)).then_some(()))
            }
        })
        .await?;
        Ok(engine)
    }

    /// Returns the log of this run and of earlier ones.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Kills the engine.
    pub fn kill(mut self) {
        self.process.kill();
    }

    /// The process, to send it signals and to measure it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Waits until the engine ends.
    ///
    /// # Errors
    /// If the engine does not end within `deadline`.
    pub async fn end(&mut self, deadline: Duration) -> anyhow::Result<ExitStatus> {
        wait_for("the engine ends", deadline, || {
            let ended = self.process.ended();
            async move { ended }
        })
        .await
    }

    /// Stops the engine by SIGTERM; it must exit with success.
    ///
    /// # Errors
    /// If the engine fails, or does not end within 30 seconds.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.process.terminate()?;
        let status = self.end(Duration::from_secs(30)).await?;
        if !status.success() {
            bail!("the engine ended with {status}: {}", self.log());
        }
        Ok(())
    }
}

/// Returns the path of the engine's binary: beside the running program, or beside that program's directory.
///
/// # Errors
/// If the binary has not been built.
pub fn binary() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let places = program.ancestors().skip(1).take(2).map(|directory| directory.join("rowmill"));
    let found = places.into_iter().find(|path| path.is_file());
    found.context("there is no rowmill binary beside this program; run `cargo build --release` first")
}

/// Returns the output of `rowmill replay` for a binlog file, without `ts_ms`, the time of the run.
///
/// # Errors
/// If the command fails.
pub fn replay(file: &Path) -> anyhow::Result<String> {
    let output = std::process::Command::new(binary()?).arg("replay").arg(file).output()?;
    if !output.status.success() {
        bail!("{}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
    }
    let lines = String::from_utf8(output.stdout)?;
    let without_time = |line: &str| line.rsplit_once(",\"ts_ms\":").map_or(line, |(rest, _)| rest).to_owned() + "}\n";
    Ok(lines.lines().map(without_time).collect())
}
