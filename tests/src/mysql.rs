//! A real MySQL or MariaDB server.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};

use crate::process::{self, Process, free_port, wait_for};
use crate::top;

/// The user that the engine connects as.
const USER: &str = "rowmill";
const PASSWORD: &str = "a password with ünïcode & /slashes";

/// The kind and version of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    /// MySQL, as `tests/tools/mysql` finds it.
    MySql,
    /// A MariaDB version, as `tests/tools/mariadb` unpacks it.
    MariaDb(&'static str),
}

impl Build {
    /// The directory that the server was unpacked into.
    fn tools(self) -> PathBuf {
        match self {
            Self::MySql => top().join("target/tools/mysql"),
            Self::MariaDb(version) => top().join(format!("target/tools/mariadb-{version}")),
        }
    }

    fn program(self) -> PathBuf {
        self.tools().join(match self {
            Self::MySql => "bin/mysqld",
            Self::MariaDb(_) => "bin/mariadbd",
        })
    }

    /// Options for a program that is not where its package installs it.
    fn located(self) -> Vec<String> {
        let options = std::fs::read_to_string(self.tools().join("mysqld.options")).unwrap_or_default();
        options.lines().map(str::to_owned).collect()
    }
}

/// A server with its own data directory, on loopback. Dropping it stops the server and removes its data, hundreds of megabytes,
/// unless a test panics or `ROWMILL_KEEP_DATA` is set; its log stays.
#[derive(Debug)]
pub struct MySql {
    process: Process,
    build: Build,
    directory: PathBuf,
    options: Vec<String>,
    port: u16,
    keeps_data: bool,
}

impl MySql {
    /// Starts a MySQL with its data in `directory`, with the settings that Rowmill needs and `options`.
    ///
    /// A directory that a server has used keeps its data.
    ///
    /// # Errors
    /// If the server does not start; its log is in the directory.
    pub async fn start(directory: &Path, options: &[&str]) -> anyhow::Result<Self> {
        Self::start_build(Build::MySql, directory, options).await
    }

    /// Starts a server of any build, as [`MySql::start`] does.
    ///
    /// # Errors
    /// If the server does not start; its log is in the directory.
    pub async fn start_build(build: Build, directory: &Path, options: &[&str]) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let data = directory.join("data");
        let is_new = !data.exists();
        if is_new {
            copy_directory(&template(build)?, &data)?;
        }
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        let port = free_port();
        let process = launch(build, directory, &options, port)?;
        let keeps_data = std::env::var_os("ROWMILL_KEEP_DATA").is_some();
        let mut server = Self { process, build, directory: directory.to_owned(), options, port, keeps_data };
        server.wait_until_it_answers().await?;
        if is_new {
            server
                .run(&format!(
                    "CREATE USER {USER}@'%' IDENTIFIED BY '{PASSWORD}'; \
                     GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO {USER}@'%'"
                ))
                .await?;
        }
        Ok(server)
    }

    async fn wait_until_it_answers(&mut self) -> anyhow::Result<()> {
        wait_for("the server answers", Duration::from_secs(60), || {
            let connecting = Conn::new(self.root());
            let ended = self.process.ended();
            let log = self.directory.join("mysqld.log");
            async move {
                if let Some(status) = ended? {
                    bail!("the server ended ({status}); see {}", log.display());
                }
                let Ok(conn) = connecting.await else { return Ok(None) };
                conn.disconnect().await?;
                Ok(Some(()))
            }
        })
        .await
    }

    /// Kills the server, and starts it again on the same port and data.
    ///
    /// # Errors
    /// If the server does not start again.
    pub async fn kill_and_restart(&mut self) -> anyhow::Result<()> {
        self.process.kill();
        self.process = launch(self.build, &self.directory, &self.options, self.port)?;
        self.wait_until_it_answers().await
    }

    fn root(&self) -> OptsBuilder {
        OptsBuilder::default().ip_or_hostname("127.0.0.1").tcp_port(self.port).user(Some("root")).prefer_socket(false)
    }

    /// Opens a connection with all privileges.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn connect(&self) -> anyhow::Result<Conn> {
        Conn::new(self.root()).await.context("MySQL doesn't answer")
    }

    /// Runs statements, separated by semicolons at the ends of lines or by `; `.
    ///
    /// # Errors
    /// If a statement fails.
    pub async fn run(&self, statements: &str) -> anyhow::Result<()> {
        let mut conn = self.connect().await?;
        for statement in statements.split("; ").flat_map(|line| line.split(";\n")) {
            if !statement.trim().is_empty() {
                conn.query_drop(statement).await.with_context(|| statement.to_owned())?;
            }
        }
        conn.disconnect().await?;
        Ok(())
    }

    /// Returns the binlog's end: file and position.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn binlog_end(&self) -> anyhow::Result<(String, u64)> {
        let mut conn = self.connect().await?;
        let row: Option<mysql_async::Row> = match conn.query_first("SHOW BINARY LOG STATUS").await {
            Ok(row) => row,
            Err(_) => conn.query_first("SHOW MASTER STATUS").await?, // before MySQL 8.2
        };
        let row = row.context("the server writes a binlog")?;
        let end = row.get(0).zip(row.get(1)).context("a file and a position")?;
        conn.disconnect().await?;
        Ok(end)
    }

    /// Returns whether only MariaDB's binlog checkpoint events follow a position.
    ///
    /// A thread of the server writes them some time after a rotation, so one may be the last event, and the engine's checkpoint
    /// never passes it.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn has_only_checkpoints_after(&self, file: &str, position: u64) -> anyhow::Result<bool> {
        let mut conn = self.connect().await?;
        let events: Vec<mysql_async::Row> =
            conn.query(format!("SHOW BINLOG EVENTS IN '{file}' FROM {position} LIMIT 8")).await?;
        conn.disconnect().await?;
        let kinds = events.iter().map(|event| event.get::<String, _>(2));
        Ok((1..8).contains(&events.len()) && kinds.into_iter().all(|kind| kind.as_deref() == Some("Binlog_checkpoint")))
    }

    /// Kills the server.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Keeps the data when the server is dropped, for another server to continue with.
    pub fn keep_data(&mut self) {
        self.keeps_data = true;
    }

    /// The server's data directory.
    pub fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// The server's process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The server's port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Makes a command of one of MySQL's clients, connected as root, without TLS.
    pub fn client(&self, program: &str) -> Command {
        let mut command = Command::new(top().join("target/tools/mysql/bin").join(program));
        command.args(["--protocol=TCP", "--host=127.0.0.1", "--user=root", "--ssl-mode=DISABLED"]);
        command.arg(format!("--port={}", self.port));
        command
    }

    /// The URL by which the engine connects, without the password.
    pub fn url(&self) -> String {
        format!("mysql://{USER}@127.0.0.1:{}", self.port)
    }

    /// The password by which the engine connects.
    pub fn password(&self) -> &'static str {
        PASSWORD
    }
}

impl Drop for MySql {
    fn drop(&mut self) {
        self.process.kill();
        if !self.keeps_data && !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(self.data()); // the next run removes what cannot be removed now
        }
    }
}

fn launch(build: Build, directory: &Path, options: &[String], port: u16) -> anyhow::Result<Process> {
    let program = build.program();
    if !program.exists() {
        bail!("there is no {}; run tests/run, which installs it", program.display());
    }
    // MariaDB removes other servers' files from a temporary directory that they share.
    let temporary = directory.join("tmp");
    std::fs::create_dir_all(&temporary)?;
    let mut command = process::command(&program);
    command
        .arg("--no-defaults")
        .args(build.located())
        .arg(format!("--datadir={}", directory.join("data").display()))
        .arg(format!("--tmpdir={}", temporary.display()))
        .arg(format!("--port={port}"))
        .args(["--user=root", "--bind-address=127.0.0.1", "--socket=mysql.sock", "--pid-file=mysqld.pid"])
        .args(["--server-id=1", "--binlog-row-metadata=FULL", "--innodb-buffer-pool-size=64M"]);
    match build {
        Build::MySql => command.args(["--mysqlx=OFF", "--secure-file-priv=NULL"]),
        Build::MariaDb(_) => command.args(["--log-bin=binlog", "--binlog-format=ROW"]),
    };
    command.args(options);
    Process::start(&mut command, &directory.join("mysqld.log"))
}

/// Returns an initialized data directory, which is made once: copying it is faster than making another.
fn template(build: Build) -> anyhow::Result<PathBuf> {
    // Tests of one program run concurrently, and so do programs: within a program the first test makes the directory while the
    // others wait; each program makes its own, and the first that is done names it.
    static MAKING: Mutex<()> = Mutex::new(());
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let template = build.tools().join("template");
    if template.exists() {
        return Ok(template);
    }
    let new = build.tools().join(format!("template.{}", std::process::id()));
    if new.exists() {
        std::fs::remove_dir_all(&new)?; // a killed program with the same process ID left it
    }
    let temporary = build.tools().join(format!("template.{}.tmp", std::process::id()));
    std::fs::create_dir_all(&temporary)?;
    let mut command = Command::new(build.program());
    command.arg("--no-defaults").args(build.located()).arg(format!("--datadir={}", new.display())).arg("--user=root");
    command.arg(format!("--tmpdir={}", temporary.display()));
    match build {
        Build::MySql => command.args(["--initialize-insecure", "--innodb-data-file-path=ibdata1:12M:autoextend"]),
        Build::MariaDb(_) => {
            std::fs::create_dir_all(&new)?;
            let statements = File::open(build.tools().join("bootstrap.sql"))?;
            command.args(["--bootstrap", "--innodb-buffer-pool-size=16M"]).stdin(statements)
        }
    };
    let output = command.output().with_context(|| format!("{command:?} can't be started"))?;
    if !output.status.success() {
        bail!("a data directory can't be made: {}", String::from_utf8_lossy(&output.stderr));
    }
    std::fs::remove_dir_all(&temporary)?;
    // Each copy must have its own server UUID.
    std::fs::remove_file(new.join("auto.cnf"))
        .or_else(|error| if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
    match std::fs::rename(&new, &template) {
        Ok(()) => {}
        Err(_) if template.exists() => std::fs::remove_dir_all(&new)?,
        Err(error) => return Err(error).with_context(|| format!("{} can't be named", template.display())),
    }
    Ok(template)
}

fn copy_directory(from: &Path, to: &Path) -> anyhow::Result<()> {
    let status = Command::new("cp").args(["-a", "--sparse=auto"]).arg(from).arg(to).status()?;
    if !status.success() {
        bail!("{} can't be copied", from.display());
    }
    Ok(())
}
