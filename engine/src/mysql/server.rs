//! A server: its flavor, settings and clock, and the checks that its binlog can be used.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, anyhow};
use mysql_async::Row;
use rowmill_core::batch::shown_name;
use rowmill_core::envelope::Connector;
use tracing::debug;

use super::client::Client;
use super::connect::connect;
use super::errors::{ConnectError, ER_SPECIFIC_ACCESS_DENIED};
use crate::config;

/// The family of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavor {
    /// MySQL and its derivatives.
    MySql,
    /// MariaDB.
    MariaDb,
}

impl Flavor {
    /// Returns the connector that messages name for this family.
    pub fn connector(self) -> Connector {
        match self {
            Self::MySql => Connector::MySql,
            Self::MariaDb => Connector::MariaDb,
        }
    }
}

/// A connected server.
#[derive(Debug)]
pub struct Server {
    pub(crate) conn: Client,
    pub(crate) config: config::Source,
    pub(crate) address: String,
    user: String,
    settings: HashMap<String, String>,
    /// The server's family.
    pub flavor: Flavor,
    /// The server's identity: MySQL's `server_uuid`, for MariaDB made of the server ID.
    pub identity: String,
    /// The server's version, as reported.
    pub version: String,
}

/// A setting of the server that must be changed before its binlog can be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}; {fix}")]
pub struct Problem {
    /// What is wrong.
    pub what: String,
    /// How to fix the problem.
    pub fix: String,
}

impl Server {
    /// Connects to the first of a source's servers that answers. Returns also the configuration with that server as the first.
    ///
    /// # Errors
    /// If none answers: the first transient error, or the first error if all are definite.
    pub async fn connect_first(source: &config::Source) -> Result<(Self, config::Source), ConnectError> {
        let (mut first_error, mut first_unreachable) = (None, None);
        for candidate in source.candidates() {
            match Self::connect(&candidate).await {
                Ok(server) => return Ok((server, candidate)),
                Err(error) => {
                    debug!(source = candidate.address, %error, "cannot connect");
                    let is_unreachable = matches!(error, ConnectError::Transient(_));
                    let first = if is_unreachable { &mut first_unreachable } else { &mut first_error };
                    first.get_or_insert(error);
                }
            }
        }
        // A transient error takes precedence: that server may recover.
        Err(first_unreachable
            .or(first_error)
            .unwrap_or_else(|| ConnectError::Definite(anyhow!("no server is configured"))))
    }

    /// Connects, and reads the settings that matter.
    ///
    /// # Errors
    /// If the server cannot be reached, or rejects the login.
    pub async fn connect(config: &config::Source) -> Result<Self, ConnectError> {
        let address = config.address.clone();
        let mut conn = connect(config).await?;
        let variables: Vec<(String, String)> = conn
            .query(
                "SHOW GLOBAL VARIABLES WHERE Variable_name IN \
                 ('log_bin', 'binlog_format', 'binlog_row_metadata', 'server_uuid', 'server_id', 'version', \
                 'lower_case_table_names')",
            )
            .await
            .with_context(|| format!("{address}: cannot read the settings"))
            .map_err(ConnectError::Transient)?;
        let settings: HashMap<String, String> = variables.into_iter().collect();
        let setting = |name: &str| settings.get(name).cloned().unwrap_or_default();
        let version = setting("version");
        let flavor = if version.contains("MariaDB") { Flavor::MariaDb } else { Flavor::MySql };
        let identity = match flavor {
            Flavor::MySql => setting("server_uuid"),
            Flavor::MariaDb => format!("mariadb-server-id-{}", setting("server_id")),
        };
        config.tables.case().ignore(!matches!(setting("lower_case_table_names").as_str(), "" | "0"));
        let user = config.options.user().unwrap_or_default().to_owned();
        Ok(Self { conn, config: config.clone(), address, user, settings, flavor, identity, version })
    }

    fn setting(&self, name: &str) -> &str {
        self.settings.get(name).map_or("", String::as_str)
    }

    /// Returns the settings that prevent reading the binlog.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut problem = |what: String, fix: &str| problems.push(Problem { what, fix: fix.to_owned() });
        let address = &self.address;
        let set = self.set_statement();
        let kept = match self.flavor {
            Flavor::MySql => "",
            Flavor::MariaDb => ", set it in the server's configuration file, too, or it is lost at a restart,",
        };
        if self.setting("log_bin") != "ON" {
            problem(
                format!("{address} writes no binlog (log_bin is OFF)"),
                "start the server without `skip-log-bin`, or with `log-bin`",
            );
        }
        // Servers that support no other format lack the setting.
        if !matches!(self.setting("binlog_format"), "" | "ROW") {
            problem(
                format!(
                    "{address} has binlog_format = {}, which does not log changed rows",
                    self.setting("binlog_format")
                ),
                &format!("run `{set} binlog_format = 'ROW'`{kept} and reconnect its clients"),
            );
        }
        if self.identity.is_empty() {
            problem(format!("{address} has no server_uuid"), "use MySQL 8 or later, or MariaDB 10.5 or later");
        }
        problems
    }

    /// Returns the statement that changes a setting, persistently if the server supports that.
    pub fn set_statement(&self) -> &'static str {
        match self.flavor {
            Flavor::MySql => "SET PERSIST",
            Flavor::MariaDb => "SET GLOBAL",
        }
    }

    /// Returns how long the server keeps its binlog; `None` if for ever.
    ///
    /// # Errors
    /// If the server cannot be asked.
    pub async fn retention(&mut self) -> anyhow::Result<Option<Duration>> {
        const SETTINGS: &str = "SHOW GLOBAL VARIABLES WHERE Variable_name IN \
            ('binlog_expire_logs_seconds', 'expire_logs_days', 'binlog_expire_logs_auto_purge')";
        let settings: Vec<(String, String)> =
            self.conn.query(SETTINGS).await.with_context(|| format!("{}: cannot read the settings", self.address))?;
        let settings: HashMap<String, String> = settings.into_iter().collect();
        let number = |name: &str| settings.get(name).and_then(|value| value.parse::<f64>().ok()).unwrap_or(0.0);
        let seconds = number("binlog_expire_logs_seconds").max(number("expire_logs_days") * 86_400.0);
        let purges = settings.get("binlog_expire_logs_auto_purge").is_none_or(|value| value == "ON");
        Ok((purges && seconds > 0.0).then(|| Duration::from_secs_f64(seconds)))
    }

    /// Returns the server's clock, as time since 1970.
    ///
    /// # Errors
    /// If the server cannot be asked.
    pub async fn time(&mut self) -> anyhow::Result<Duration> {
        let times: Vec<f64> = self
            .conn
            .query("SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) / 1E6")
            .await
            .with_context(|| format!("{}: cannot read the server's clock", self.address))?;
        let time = times.first().and_then(|seconds| Duration::try_from_secs_f64(*seconds).ok());
        time.ok_or_else(|| anyhow!("{}: the server's clock has no valid time", self.address))
    }

    /// Returns the selected tables among those that the user may see, as schemas and names.
    ///
    /// # Errors
    /// If the server cannot be asked.
    pub async fn tables(&mut self, tables: &config::TablePatterns) -> anyhow::Result<Vec<(String, String)>> {
        const TABLES: &str = "SELECT t.table_schema, t.table_name FROM information_schema.tables t \
            WHERE t.table_type = 'BASE TABLE' ORDER BY 1, 2";
        let found: Vec<(String, String)> =
            self.conn.query(TABLES).await.with_context(|| format!("{}: cannot list the tables", self.address))?;
        Ok(found.into_iter().filter(|(schema, table)| tables.matches(schema, table)).collect())
    }

    /// Returns the names of the selected tables that have no primary key.
    ///
    /// # Errors
    /// If the server cannot be asked.
    pub async fn tables_without_key(&mut self, tables: &config::TablePatterns) -> anyhow::Result<Vec<String>> {
        const TABLES: &str = "SELECT t.table_schema, t.table_name FROM information_schema.tables t \
            WHERE t.table_type = 'BASE TABLE' AND NOT EXISTS (SELECT 1 FROM information_schema.statistics s \
            WHERE s.table_schema = t.table_schema AND s.table_name = t.table_name AND s.index_name = 'PRIMARY') \
            ORDER BY 1, 2";
        let found: Vec<(String, String)> =
            self.conn.query(TABLES).await.with_context(|| format!("{}: cannot list the tables", self.address))?;
        let selected = found.into_iter().filter(|(schema, table)| tables.matches(schema, table));
        Ok(selected.map(|(schema, table)| shown_name(&schema, &table)).collect())
    }

    /// Returns whether the binlog names the columns.
    pub fn names_columns(&self) -> bool {
        self.setting("binlog_row_metadata") == "FULL"
    }

    /// Closes the connection.
    pub async fn disconnect(self) {
        self.conn.disconnect().await;
    }

    /// Runs a statement that needs the privileges of a replica.
    pub(crate) async fn privileged(&mut self, statement: &str) -> anyhow::Result<Vec<Row>> {
        self.conn.query(statement).await.map_err(|error| match &error {
            mysql_async::Error::Server(server) if server.code == ER_SPECIFIC_ACCESS_DENIED => anyhow!(
                "{}: cannot run {statement}: access denied; run `GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO {}`",
                self.address,
                self.user
            ),
            _ => anyhow::Error::new(error).context(format!("{}: cannot run {statement}", self.address)),
        })
    }
}
