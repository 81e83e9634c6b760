//! Before anything is read: can the server be reached, and does it write what is needed?

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, anyhow};
use mysql_async::Row;
use rowmill_core::batch::quoted;
use rowmill_core::envelope::Connector;
use tracing::debug;

use super::client::Client;
use super::connect::connect;
use super::errors::{ConnectError, ER_SPECIFIC_ACCESS_DENIED};
use crate::config;

/// Which family a server is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavor {
    /// MySQL, and what is made of it.
    MySql,
    /// MariaDB.
    MariaDb,
}

impl Flavor {
    /// What messages call it.
    pub fn connector(self) -> Connector {
        match self {
            Self::MySql => Connector::MySql,
            Self::MariaDb => Connector::MariaDb,
        }
    }
}

/// A server that answers.
#[derive(Debug)]
pub struct Server {
    pub(crate) conn: Client,
    pub(crate) config: config::Source,
    pub(crate) address: String,
    user: String,
    settings: HashMap<String, String>,
    /// Its family.
    pub flavor: Flavor,
    /// What tells it from other servers: a UUID, of MariaDB's the server id.
    pub identity: String,
    /// Its version, as it says.
    pub version: String,
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

/// A table as messages name it: in backticks where its name needs them.
pub fn shown_name(schema: &str, table: &str) -> String {
    format!("{}.{}", quoted(schema, '.'), quoted(table, '.'))
}

impl Server {
    /// Connects to the first of a source's servers that answers. Gives the source as that one has it.
    ///
    /// # Errors
    /// If none answers: what the first one had against it that may be there later, or the first one of all.
    pub async fn connect_first(source: &config::Source) -> Result<(Self, config::Source), ConnectError> {
        let (mut first_error, mut first_unreachable) = (None, None);
        for candidate in source.candidates() {
            match Self::connect(&candidate).await {
                Ok(server) => return Ok((server, candidate)),
                Err(error) => {
                    debug!(source = candidate.address, %error, "not reached");
                    let is_unreachable = matches!(error, ConnectError::Transient(_));
                    let first = if is_unreachable { &mut first_unreachable } else { &mut first_error };
                    first.get_or_insert(error);
                }
            }
        }
        // One that may be there later counts for more than one that never will.
        Err(first_unreachable
            .or(first_error)
            .unwrap_or_else(|| ConnectError::Definite(anyhow!("there is no server to connect to"))))
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
                 ('log_bin', 'binlog_format', 'binlog_row_metadata', 'server_uuid', 'server_id', 'version', \
                 'lower_case_table_names')",
            )
            .await
            .with_context(|| format!("{address}: its settings can't be read"))
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

    /// What of its settings keeps it from being read.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut problem = |what: String, mend: &str| problems.push(Problem { what, mend: mend.to_owned() });
        let address = &self.address;
        let set = self.set_statement();
        let kept = match self.flavor {
            Flavor::MySql => "",
            Flavor::MariaDb => ", put it into the server's configuration file too, or a restart forgets it,",
        };
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
                &format!("run `{set} binlog_format = 'ROW'`{kept} and reconnect its clients"),
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

    /// For how long the server keeps its binlog; `None` if for ever.
    ///
    /// # Errors
    /// If it doesn't say.
    pub async fn retention(&mut self) -> anyhow::Result<Option<Duration>> {
        const SETTINGS: &str = "SHOW GLOBAL VARIABLES WHERE Variable_name IN \
            ('binlog_expire_logs_seconds', 'expire_logs_days', 'binlog_expire_logs_auto_purge')";
        let settings: Vec<(String, String)> =
            self.conn.query(SETTINGS).await.with_context(|| format!("{}: its settings can't be read", self.address))?;
        let settings: HashMap<String, String> = settings.into_iter().collect();
        let number = |name: &str| settings.get(name).and_then(|value| value.parse::<f64>().ok()).unwrap_or(0.0);
        let seconds = number("binlog_expire_logs_seconds").max(number("expire_logs_days") * 86_400.0);
        let purges = settings.get("binlog_expire_logs_auto_purge").is_none_or(|value| value == "ON");
        Ok((purges && seconds > 0.0).then(|| Duration::from_secs_f64(seconds)))
    }

    /// What its clock shows, since 1970.
    ///
    /// # Errors
    /// If it doesn't say.
    pub async fn time(&mut self) -> anyhow::Result<Duration> {
        let times: Vec<f64> = self
            .conn
            .query("SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) / 1E6")
            .await
            .with_context(|| format!("{}: its clock can't be read", self.address))?;
        let time = times.first().and_then(|seconds| Duration::try_from_secs_f64(*seconds).ok());
        time.ok_or_else(|| anyhow!("{}: its clock shows nothing", self.address))
    }

    /// The selected tables, of those that the user may see: schemas and names.
    ///
    /// # Errors
    /// If they can't be asked for.
    pub async fn tables(&mut self, tables: &config::TablePatterns) -> anyhow::Result<Vec<(String, String)>> {
        const TABLES: &str = "SELECT t.table_schema, t.table_name FROM information_schema.tables t \
            WHERE t.table_type = 'BASE TABLE' ORDER BY 1, 2";
        let found: Vec<(String, String)> =
            self.conn.query(TABLES).await.with_context(|| format!("{}: its tables can't be listed", self.address))?;
        Ok(found.into_iter().filter(|(schema, table)| tables.matches(schema, table)).collect())
    }

    /// Those of the tables that have no primary key.
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
        Ok(selected.map(|(schema, table)| shown_name(&schema, &table)).collect())
    }

    /// Whether the binlog names the columns by itself.
    pub fn names_columns(&self) -> bool {
        self.setting("binlog_row_metadata") == "FULL"
    }

    /// Closes the connection.
    pub async fn disconnect(self) {
        self.conn.disconnect().await;
    }

    /// Runs a statement that needs the grants of a replica.
    pub(crate) async fn privileged(&mut self, statement: &str) -> anyhow::Result<Vec<Row>> {
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
