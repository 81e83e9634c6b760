//! A real MySQL server.

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

/// A server with a data directory of its own, on loopback.
#[derive(Debug)]
pub struct MySql {
    process: Process,
    port: u16,
    log: PathBuf,
}

impl MySql {
    /// Starts a server with its data in `directory`, and the settings that Rowmill needs besides
    /// `options`. A directory that a server used before keeps its data.
    ///
    /// # Errors
    /// If it doesn't start: its log is in the directory.
    pub async fn start(directory: &Path, options: &[&str]) -> anyhow::Result<Self> {
        let tools = top().join("target/tools/mysql");
        let mysqld = tools.join("bin/mysqld");
        if !mysqld.exists() {
            bail!("there is no {}; run tests/run, which installs it", mysqld.display());
        }
        let located = std::fs::read_to_string(tools.join("mysqld.options")).unwrap_or_default();
        let data = directory.join("data");
        let log = directory.join("mysqld.log");
        std::fs::create_dir_all(directory)?;
        let is_new = !data.exists();
        if is_new {
            let template = template(&mysqld, &located)?;
            copy_directory(&template, &data)?;
        }
        let port = free_port();
        let mut command = process::command(&mysqld);
        command
            .arg("--no-defaults")
            .args(located.lines())
            .arg(format!("--datadir={}", data.display()))
            .arg(format!("--port={port}"))
            .args(["--user=root", "--bind-address=127.0.0.1", "--socket=mysql.sock", "--mysqlx=OFF"])
            .args(["--secure-file-priv=NULL", "--pid-file=mysqld.pid", "--server-id=1"])
            .args(["--binlog-row-metadata=FULL", "--innodb-buffer-pool-size=64M"])
            .args(options);
        let process = Process::start(&mut command, &log)?;
        let mut server = Self { process, port, log };
        wait_for("MySQL answers", Duration::from_secs(60), || {
            let connecting = Conn::new(server.root());
            let ended = server.process.ended();
            let log = server.log.clone();
            async move {
                if let Some(status) = ended? {
                    bail!("mysqld ended ({status}); see {}", log.display());
                }
                Ok(connecting.await.ok())
            }
        })
        .await?;
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

    fn root(&self) -> OptsBuilder {
        OptsBuilder::default().ip_or_hostname("127.0.0.1").tcp_port(self.port).user(Some("root")).prefer_socket(false)
    }

    /// A connection that may do everything.
    ///
    /// # Errors
    /// If the server doesn't answer.
    pub async fn connect(&self) -> anyhow::Result<Conn> {
        Conn::new(self.root()).await.context("MySQL doesn't answer")
    }

    /// Runs statements, separated by semicolons at the ends of lines or by `; `.
    ///
    /// # Errors
    /// If one fails.
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

    /// Where the binlog ends: file and position.
    ///
    /// # Errors
    /// If the server doesn't say.
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

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The engine's URL, without the password.
    pub fn url(&self) -> String {
        format!("mysql://{USER}@127.0.0.1:{}", self.port)
    }

    /// The engine's password.
    pub fn password(&self) -> &'static str {
        PASSWORD
    }
}

/// An initialised data directory, made once: copying it is faster than making another.
fn template(mysqld: &Path, located: &str) -> anyhow::Result<PathBuf> {
    // Tests of one program run at the same time, and so do programs: within one the first makes it
    // while the others wait; of several programs each makes its own, and the first to be done names it.
    static MAKING: Mutex<()> = Mutex::new(());
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let template = top().join("target/tools/mysql/template");
    if template.exists() {
        return Ok(template);
    }
    let new = top().join(format!("target/tools/mysql/template.{}", std::process::id()));
    if new.exists() {
        std::fs::remove_dir_all(&new)?; // a program of the same number was cut off
    }
    let output = Command::new(mysqld)
        .arg("--no-defaults")
        .args(located.lines())
        .arg(format!("--datadir={}", new.display()))
        .args(["--user=root", "--initialize-insecure", "--innodb-data-file-path=ibdata1:12M:autoextend"])
        .output()?;
    if !output.status.success() {
        bail!("mysqld --initialize-insecure failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    // Each copy must be a server of its own.
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
