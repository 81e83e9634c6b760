//! Before anything is read: can the server be reached, does it write what is needed, and where does
//! the reading begin?

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, DriverError, OptsBuilder, Row, SslOpts};
use rowmill_core::gtid::GtidSet;
use rowmill_core::position::{BinlogPosition, Resume};
use tracing::debug;

use super::tls::TlsMode;
use crate::config::{self, Start};

pub(super) const ER_ACCESS_DENIED: u16 = 1045;
pub(super) const ER_SPECIFIC_ACCESS_DENIED: u16 = 1227;
const ER_PARSE: u16 = 1064;

/// Which family a server is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavor {
    /// MySQL, and what is made of it.
    MySql,
    /// MariaDB.
    MariaDb,
}

/// A server that answers.
#[derive(Debug)]
pub struct Server {
    conn: Conn,
    address: String,
    user: String,
    settings: HashMap<String, String>,
    /// Its family.
    pub flavor: Flavor,
    /// What tells it from other servers: a UUID, of MariaDB's the server id.
    pub identity: String,
    /// Its version, as it says.
    pub version: String,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// It may come about later.
    #[error("{0:#}")]
    Unreachable(anyhow::Error),
    /// The server doesn't want it.
    #[error("{0:#}")]
    Refused(anyhow::Error),
}

/// Something of the server that must be changed before it can be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}; {mend}")]
pub struct Problem {
    /// What is wrong.
    pub what: String,
    /// What mends it.
    pub mend: String,
}

/// Where to begin, and how to ask for it.
#[derive(Debug, Clone)]
pub struct Place {
    /// From where to read on.
    pub resume: Resume,
    /// How.
    pub by: By,
}

/// How a server is asked for what comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// From a position in a file.
    Position,
    /// What isn't in the set of GTIDs.
    Gtids,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.by, &self.resume.gtids) {
            (By::Gtids, Some(gtids)) => write!(f, "behind the transactions {gtids}"),
            _ => self.resume.fmt(f),
        }
    }
}

/// Why there is no place to begin.
#[derive(Debug, thiserror::Error)]
pub enum LocateError {
    /// The server may have it later.
    #[error("{0:#}")]
    Behind(anyhow::Error),
    /// The server hasn't got it, or not any more.
    #[error("{0:#}")]
    Gone(anyhow::Error),
}

impl From<anyhow::Error> for LocateError {
    fn from(error: anyhow::Error) -> Self {
        Self::Gone(error)
    }
}

impl Server {
    /// Connects to the first of a source's servers that answers. Gives the source as that one has it.
    ///
    /// # Errors
    /// If none answers: what the first one had against it.
    pub async fn connect_first(source: &config::Source) -> Result<(Self, config::Source), ConnectError> {
        let mut first_error = None;
        for candidate in source.candidates() {
            match Self::connect(&candidate).await {
                Ok(server) => return Ok((server, candidate)),
                Err(error) => {
                    debug!(source = candidate.address, %error, "not reached");
                    first_error.get_or_insert(error);
                }
            }
        }
        Err(first_error.unwrap_or_else(|| ConnectError::Refused(anyhow!("there is no server to connect to"))))
    }

    /// Connects, and asks for the settings that matter.
    ///
    /// # Errors
    /// If it can't be reached or refuses the password.
    pub async fn connect(config: &config::Source) -> Result<Self, ConnectError> {
        let address = config.address.clone();
        let mut conn = connect(config).await?;
        let variables: Vec<(String, String)> = conn
            .query(
                "SHOW GLOBAL VARIABLES WHERE Variable_name IN \
                 ('log_bin', 'binlog_format', 'binlog_row_metadata', 'server_uuid', 'server_id', 'version')",
            )
            .await
            .with_context(|| format!("{address}: its settings can't be read"))
            .map_err(ConnectError::Unreachable)?;
        let settings: HashMap<String, String> = variables.into_iter().collect();
        let setting = |name: &str| settings.get(name).cloned().unwrap_or_default();
        let version = setting("version");
        let flavor = if version.contains("MariaDB") { Flavor::MariaDb } else { Flavor::MySql };
        let identity = match flavor {
            Flavor::MySql => setting("server_uuid"),
            Flavor::MariaDb => format!("mariadb-server-id-{}", setting("server_id")),
        };
        let user = config.options.user().unwrap_or_default().to_owned();
        Ok(Self { conn, address, user, settings, flavor, identity, version })
    }

    fn setting(&self, name: &str) -> &str {
        self.settings.get(name).map_or("", String::as_str)
    }

    /// What of its settings keeps it from being read.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut problem = |what: String, mend: &str| problems.push(Problem { what, mend: mend.to_owned() });
        let address = &self.address;
        let set = self.set_statement();
        if self.setting("log_bin") != "ON" {
            problem(
                format!("{address} writes no binlog (log_bin is OFF)"),
                "start the server without `skip-log-bin`, or with `log-bin`",
            );
        }
        // Servers that have no other format any more don't have the setting.
        if !matches!(self.setting("binlog_format"), "" | "ROW") {
            problem(
                format!(
                    "{address} has binlog_format = {}, which doesn't log the rows that change",
                    self.setting("binlog_format")
                ),
                &format!("run `{set} binlog_format = 'ROW'` and reconnect its clients"),
            );
        }
        if self.identity.is_empty() {
            problem(format!("{address} has no server_uuid"), "use MySQL 8 or later, or MariaDB 10.5 or later");
        }
        problems
    }

    /// The statement that changes a setting for good, as far as the server can.
    pub fn set_statement(&self) -> &'static str {
        match self.flavor {
            Flavor::MySql => "SET PERSIST",
            Flavor::MariaDb => "SET GLOBAL",
        }
    }

    /// For how many hours the server keeps its binlog; `None` if for ever.
    ///
    /// # Errors
    /// If it doesn't say.
    pub async fn retention(&mut self) -> anyhow::Result<Option<u64>> {
        const SETTINGS: &str =
            "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('binlog_expire_logs_seconds', 'expire_logs_days')";
        let settings: Vec<(String, f64)> =
            self.conn.query(SETTINGS).await.with_context(|| format!("{}: its settings can't be read", self.address))?;
        let seconds = |(name, value): &(String, f64)| match name.as_str() {
            "expire_logs_days" => value * 86_400.0,
            _ => *value,
        };
        let seconds = settings.iter().map(seconds).fold(0.0, f64::max);
        Ok((seconds > 0.0).then_some((seconds / 3_600.0) as u64))
    }

    /// The selected tables that have no primary key, of those that the user may see.
    ///
    /// # Errors
    /// If they can't be asked for.
    pub async fn tables_without_key(&mut self, tables: &config::TablePatterns) -> anyhow::Result<Vec<String>> {
        const TABLES: &str = "SELECT t.table_schema, t.table_name FROM information_schema.tables t \
            WHERE t.table_type = 'BASE TABLE' AND NOT EXISTS (SELECT 1 FROM information_schema.statistics s \
            WHERE s.table_schema = t.table_schema AND s.table_name = t.table_name AND s.index_name = 'PRIMARY') \
            ORDER BY 1, 2";
        let found: Vec<(String, String)> =
            self.conn.query(TABLES).await.with_context(|| format!("{}: its tables can't be listed", self.address))?;
        let selected = found.into_iter().filter(|(schema, table)| tables.matches(schema, table));
        Ok(selected.map(|(schema, table)| format!("{schema}.{table}")).collect())
    }

    /// Whether the binlog names the columns by itself.
    pub fn names_columns(&self) -> bool {
        self.setting("binlog_row_metadata") == "FULL"
    }

    /// Where to begin: at the checkpoint if there is one, else where `start` says. The place is one
    /// that the server still has.
    ///
    /// # Errors
    /// If the server doesn't say what it has, or hasn't got the place any more, or is another one
    /// than the checkpoint's and GTIDs don't help.
    pub async fn locate(&mut self, start: &Start, checkpoint: Option<Resume>) -> Result<Place, LocateError> {
        match checkpoint {
            Some(resume) if *resume.server != *self.identity => {
                let resume = self.locate_by_gtids(resume).await?;
                Ok(Place { resume, by: By::Gtids })
            }
            checkpoint => {
                let resume = self.locate_by_position(start, checkpoint).await?;
                Ok(Place { resume, by: By::Position })
            }
        }
    }

    /// Another server than the checkpoint's: what it has that isn't delivered is known by GTIDs alone.
    async fn locate_by_gtids(&mut self, resume: Resume) -> Result<Resume, LocateError> {
        let differs = || {
            format!(
                "it belongs to the server {}, and {} is {}, whose positions mean something else",
                resume.server, self.address, self.identity
            )
        };
        let Some(gtids) = resume.gtids.as_ref().filter(|gtids| !gtids.is_empty()) else {
            return Err(LocateError::Gone(anyhow!(
                "{}, and there are no GTIDs to go on by; point `source.url` at the server it belongs to, or remove the \
                 checkpoint to begin at `source.start`",
                differs()
            )));
        };
        let statement = match self.flavor {
            Flavor::MySql => "SELECT @@GLOBAL.gtid_executed, @@GLOBAL.gtid_purged",
            Flavor::MariaDb => "SELECT @@GLOBAL.gtid_binlog_pos, ''",
        };
        let sets: Option<(String, String)> = self
            .conn
            .query_first(statement)
            .await
            .with_context(|| format!("{}: its GTIDs can't be read", self.address))
            .map_err(LocateError::Gone)?;
        let (executed, purged) = sets.unwrap_or_default();
        let set = |text: &str| text.parse::<GtidSet>().map_err(|error| LocateError::Gone(error.into()));
        let (executed, purged) = (set(&executed)?, set(&purged)?);
        if !gtids.is_subset_of(&executed) {
            return Err(LocateError::Behind(anyhow!(
                "{}, and it lacks transactions that are delivered already (it has {executed}, delivered are {gtids}); \
                 wait until it has caught up, or point `source.url` at a server that has them",
                differs()
            )));
        }
        if self.flavor == Flavor::MySql && !purged.is_subset_of(gtids) {
            return Err(LocateError::Gone(anyhow!(
                "{}, and it has purged transactions that aren't delivered yet (purged are {purged}, delivered are \
                 {gtids}); point `source.url` at a server that still has them, or take a new copy of the tables, then \
                 remove the checkpoint and begin at \"earliest\"",
                differs()
            )));
        }
        let position = BinlogPosition::new("", BinlogPosition::FIRST_EVENT);
        let server: Arc<str> = self.identity.as_str().into();
        Ok(Resume { server, position, past: None, gtids: resume.gtids })
    }

    async fn locate_by_position(&mut self, start: &Start, checkpoint: Option<Resume>) -> anyhow::Result<Resume> {
        let logs = self.binary_logs().await?;
        let at = |position: BinlogPosition| Resume::at(self.identity.as_str(), position);
        let (resume, whose) = match (checkpoint, start) {
            (Some(resume), _) => (resume, "the checkpoint"),
            (None, Start::Position(position)) => (at(position.clone()), "`source.start`"),
            (None, Start::Latest) => return self.end_of_binlog().await,
            (None, Start::Earliest) => {
                let (file, _) = logs.first().ok_or_else(|| anyhow!("{} has no binlog files", self.address))?;
                return Ok(at(BinlogPosition::new(file, BinlogPosition::FIRST_EVENT)));
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

    /// Closes the connection.
    pub async fn disconnect(self) {
        if let Err(error) = self.conn.disconnect().await {
            debug!(%error, "a connection wasn't closed well");
        }
    }

    /// The binlog files, oldest first, with their sizes.
    async fn binary_logs(&mut self) -> anyhow::Result<Vec<(String, u64)>> {
        let rows: Vec<Row> = self.privileged("SHOW BINARY LOGS").await?;
        Ok(rows.iter().filter_map(|row| Some((row.get(0)?, row.get(1)?))).collect())
    }

    async fn end_of_binlog(&mut self) -> anyhow::Result<Resume> {
        // MySQL 8.2 renamed the statement, 8.4 dropped its old name; MariaDB has the old one.
        let rows = match self.conn.query::<Row, _>("SHOW BINARY LOG STATUS").await {
            Err(mysql_async::Error::Server(error)) if error.code == ER_PARSE => {
                self.privileged("SHOW MASTER STATUS").await?
            }
            _ => self.privileged("SHOW BINARY LOG STATUS").await?,
        };
        let row = rows.first().ok_or_else(|| anyhow!("{} doesn't say where its binlog ends", self.address))?;
        let (file, offset) = row.get::<String, _>(0).zip(row.get::<u64, _>(1)).unwrap_or_default();
        let executed: Option<String> = match self.flavor {
            Flavor::MySql => row.get::<Option<String>, _>("Executed_Gtid_Set").flatten(),
            Flavor::MariaDb => self
                .conn
                .exec_first("SELECT BINLOG_GTID_POS(?, ?)", (&file, offset))
                .await
                .with_context(|| format!("{}: its GTID position can't be read", self.address))?
                .flatten(),
        };
        let gtids =
            executed.filter(|text| !text.is_empty()).map(|text| text.parse::<GtidSet>().map(Arc::new)).transpose()?;
        Ok(Resume { gtids, ..Resume::at(self.identity.as_str(), BinlogPosition::new(file, offset)) })
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

/// A connection by the driver, secured as the configuration says.
pub(super) async fn connect(config: &config::Source) -> Result<Conn, ConnectError> {
    let with = |tls: Option<SslOpts>| OptsBuilder::from_opts(config.options.clone()).ssl_opts(tls);
    let tls =
        if config.options.socket().is_some() { None } else { config.tls.driver().map_err(ConnectError::Refused)? };
    let result = match Conn::new(with(tls)).await {
        Err(mysql_async::Error::Driver(DriverError::NoClientSslFlagFromServer)) => {
            if config.tls.mode > TlsMode::Preferred {
                return Err(ConnectError::Refused(anyhow!(
                    "{} offers no TLS, and source.tls.mode asks for it; let the server have a certificate, or set the \
                     mode to \"preferred\"",
                    config.address
                )));
            }
            Conn::new(with(None)).await
        }
        other => other,
    };
    result.map_err(|error| connect_error(error, config))
}

fn connect_error(error: mysql_async::Error, config: &config::Source) -> ConnectError {
    let address = &config.address;
    match error {
        mysql_async::Error::Server(server) if server.code == ER_ACCESS_DENIED => ConnectError::Refused(anyhow!(
            "{address} refuses the user or the password ({}); the password comes from `source.url`, \
             `source.password`, `source.password_file` or ROWMILL_SOURCE_PASSWORD",
            server.message
        )),
        mysql_async::Error::Io(mysql_async::IoError::Tls(tls)) => ConnectError::Refused(
            anyhow::Error::new(tls)
                .context(format!("{address}: no secure connection; is `source.tls` right (mode, ca, cert and key)?")),
        ),
        mysql_async::Error::Io(mysql_async::IoError::Io(io)) if io.kind() == std::io::ErrorKind::InvalidData => {
            ConnectError::Refused(
                anyhow::Error::new(io).context(format!(
                    "{address}: no secure connection; is `source.tls` right (mode, ca, cert and key)?"
                )),
            )
        }
        mysql_async::Error::Io(io) => ConnectError::Unreachable(
            anyhow::Error::new(io)
                .context(format!("{address} can't be reached; is the server running, and are host and port right?")),
        ),
        other => {
            ConnectError::Unreachable(anyhow::Error::new(other).context(format!("{address}: the connection failed")))
        }
    }
}
