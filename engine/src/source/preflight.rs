//! Before anything is read: can the server be reached, does it write what is needed, and where does
//! the reading begin?

use std::collections::HashMap;

use anyhow::{Context, anyhow, bail};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};
use rowmill_core::position::{BinlogPosition, Resume};

use crate::config::{self, Start};

const ER_ACCESS_DENIED: u16 = 1045;
const ER_SPECIFIC_ACCESS_DENIED: u16 = 1227;
const ER_PARSE: u16 = 1064;

/// A server whose binlog can be read.
#[derive(Debug)]
pub struct Server {
    conn: Conn,
    address: String,
    user: String,
    /// The server's own id.
    pub uuid: String,
    /// Its version, as it says.
    pub version: String,
}

impl Server {
    /// Connects, and looks at the settings that matter.
    ///
    /// # Errors
    /// If it can't be reached, refuses the password, or doesn't write what is needed; each with what
    /// mends it.
    pub async fn connect(config: &config::Source) -> anyhow::Result<Self> {
        let address = config.address.clone();
        let mut conn = Conn::new(config.options.clone()).await.map_err(|error| connect_error(error, config))?;
        let variables: Vec<(String, String)> = conn
            .query(
                "SHOW GLOBAL VARIABLES WHERE Variable_name IN \
                 ('log_bin', 'binlog_format', 'binlog_row_metadata', 'server_uuid', 'version')",
            )
            .await
            .with_context(|| format!("{address}: its settings can't be read"))?;
        let variables: HashMap<String, String> = variables.into_iter().collect();
        let setting = |name: &str| variables.get(name).map_or("", String::as_str);

        if setting("log_bin") != "ON" {
            bail!(
                "{address} writes no binlog (log_bin is OFF); start the server without `skip-log-bin`, or with `log-bin`"
            );
        }
        // Servers that have no other format any more don't have the setting.
        if !matches!(setting("binlog_format"), "" | "ROW") {
            bail!(
                "{address} has binlog_format = {}, which doesn't log the rows that change; run `SET PERSIST \
                 binlog_format = 'ROW'` and reconnect its clients",
                setting("binlog_format")
            );
        }
        if setting("binlog_row_metadata") != "FULL" {
            bail!(
                "{address} has binlog_row_metadata = {}, so its binlog doesn't name the columns; run `SET PERSIST \
                 binlog_row_metadata = 'FULL'`",
                setting("binlog_row_metadata")
            );
        }
        let (uuid, version) = (setting("server_uuid").to_owned(), setting("version").to_owned());
        if uuid.is_empty() {
            bail!("{address} has no server_uuid: it isn't MySQL 5.6 or later (MariaDB isn't supported yet)");
        }
        let user = config.options.user().unwrap_or_default().to_owned();
        Ok(Self { conn, address, user, uuid, version })
    }

    /// Where to begin: at the checkpoint if there is one, else where `start` says. The position is
    /// one that the server still has.
    ///
    /// # Errors
    /// If the server doesn't say what it has, or hasn't got the position any more.
    pub async fn resume(&mut self, start: &Start, checkpoint: Option<Resume>) -> anyhow::Result<Resume> {
        let logs = self.binary_logs().await?;
        let (resume, whose) = match (checkpoint, start) {
            (Some(resume), _) => (resume, "the checkpoint"),
            (None, Start::Position(position)) => (Resume::at(position.clone()), "`source.start`"),
            (None, Start::Latest) => return self.end_of_binlog().await.map(Resume::at),
            (None, Start::Earliest) => {
                let (file, _) = logs.first().ok_or_else(|| anyhow!("{} has no binlog files", self.address))?;
                return Ok(Resume::at(BinlogPosition::new(file, BinlogPosition::FIRST_EVENT)));
            }
        };
        let BinlogPosition { file, offset } = &resume.position;
        match logs.iter().find(|(name, _)| name == file) {
            Some((_, size)) if offset <= size => Ok(resume),
            Some((_, size)) => bail!(
                "{whose} says {}, and {file} on {} ends at {size}: the file isn't the one that it was; begin \
                 elsewhere by `source.start` without the checkpoint",
                resume.position,
                self.address
            ),
            None => bail!(
                "{whose} says {}, and {} has purged that file (its oldest is {}): the changes in between can't be \
                 read any more; take a new copy of the tables, then remove the checkpoint and begin at \
                 \"earliest\". To have more time, raise binlog_expire_logs_seconds",
                resume.position,
                self.address,
                logs.first().map_or("none", |(name, _)| name)
            ),
        }
    }

    /// Gives the connection to who reads the binlog.
    pub fn into_conn(self) -> Conn {
        self.conn
    }

    /// The binlog files, oldest first, with their sizes.
    async fn binary_logs(&mut self) -> anyhow::Result<Vec<(String, u64)>> {
        let rows: Vec<Row> = self.privileged("SHOW BINARY LOGS").await?;
        Ok(rows.iter().filter_map(|row| Some((row.get(0)?, row.get(1)?))).collect())
    }

    async fn end_of_binlog(&mut self) -> anyhow::Result<BinlogPosition> {
        // MySQL 8.2 renamed the statement, 8.4 dropped its old name.
        let rows = match self.conn.query::<Row, _>("SHOW BINARY LOG STATUS").await {
            Err(mysql_async::Error::Server(error)) if error.code == ER_PARSE => {
                self.privileged("SHOW MASTER STATUS").await?
            }
            _ => self.privileged("SHOW BINARY LOG STATUS").await?,
        };
        let row = rows.first().ok_or_else(|| anyhow!("{} doesn't say where its binlog ends", self.address))?;
        let (file, offset) = row.get::<String, _>(0).zip(row.get::<u64, _>(1)).unwrap_or_default();
        Ok(BinlogPosition::new(file, offset))
    }

    async fn privileged(&mut self, statement: &str) -> anyhow::Result<Vec<Row>> {
        self.conn.query(statement).await.map_err(|error| match &error {
            mysql_async::Error::Server(server) if server.code == ER_SPECIFIC_ACCESS_DENIED => anyhow!(
                "{}: the user may not run {statement}; run `GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO {}`",
                self.address,
                self.user
            ),
            _ => anyhow::Error::new(error).context(format!("{}: {statement} failed", self.address)),
        })
    }
}

fn connect_error(error: mysql_async::Error, config: &config::Source) -> anyhow::Error {
    let address = &config.address;
    match error {
        mysql_async::Error::Server(server) if server.code == ER_ACCESS_DENIED => anyhow!(
            "{address} refuses the user or the password ({}); the password comes from `source.url`, \
             `source.password`, `source.password_file` or ROWMILL_SOURCE_PASSWORD",
            server.message
        ),
        mysql_async::Error::Io(io) => anyhow::Error::new(io)
            .context(format!("{address} can't be reached; is the server running, and are host and port right?")),
        other => anyhow::Error::new(other).context(format!("{address}: the connection failed")),
    }
}
