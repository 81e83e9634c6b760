//! The checkpoint as a row of a table in a MySQL or MariaDB database, for engines on machines without a lasting disk.
//!
//! The process that holds the checkpoint has a named lock on the server, which the server releases when the connection ends.
//! After a lost connection another process may acquire the checkpoint: each write compares the epoch (the fencing token), so
//! that the first process can no longer write.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use mysql_async::OptsBuilder;
use rowmill_core::batch::quoted;
use sha2::{Digest, Sha256};
use tracing::{debug, warn};

use super::store::{CheckpointStore, Epoch, holder};
use crate::config::MySqlCheckpoint;
use crate::mysql::{Client, driver_connection};
use crate::retry::{Delays, FailureLog, error_text};

/// The minimum interval between writes. Each write is a transaction; if the server is the source, the engine reads these, too.
const INTERVAL: Duration = Duration::from_secs(1);
const ER_NO_SUCH_TABLE: u16 = 1146;
/// Bounds of the pause between two attempts to reach the server.
const RETRY_DELAY_MIN: Duration = Duration::from_millis(100);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(5);
/// Maximum bytes of the schema history: by default MariaDB accepts packets of 16 MiB, and MySQL larger ones.
const SCHEMA_HISTORY_BYTES_MAX: usize = 12 << 20;
/// How long the lock of a machine that vanished blocks other processes, in seconds.
const LOCK_TIMEOUT_S: u32 = 60;

/// Stores the checkpoint in a database.
#[derive(Debug)]
pub(super) struct MySqlStore {
    config: MySqlCheckpoint,
    /// The connection that has the lock.
    conn: Option<Client>,
}

impl MySqlStore {
    pub fn new(config: MySqlCheckpoint) -> Self {
        Self { config, conn: None }
    }

    async fn connect(&self) -> anyhow::Result<Client> {
        let MySqlCheckpoint { options, address, tls, .. } = &self.config;
        // A matched row counts as affected, even if the update does not change it.
        let options = OptsBuilder::from_opts(mysql_async::Opts::clone(options)).client_found_rows(true).into();
        let connected = driver_connection(&options, tls).await;
        let mut conn = connected.with_context(|| {
            let hint = tls.hint(options.ip_or_hostname());
            format!("cannot connect to {address}; check `checkpoint.url`, or if TLS fails: {hint}")
        })?;
        // If the machine vanishes, the server closes the connection and releases the lock after this time.
        conn.query_drop(&format!("SET SESSION wait_timeout = {LOCK_TIMEOUT_S}")).await?;
        Ok(conn)
    }

    /// Tries to get the lock. Names of locks are global to a server, and have at most 64 characters.
    async fn lock(&self, conn: &mut Client) -> anyhow::Result<bool> {
        let MySqlCheckpoint { options, table, name, .. } = &self.config;
        // The names of the database and of the row may have dots: quoting makes the combination unambiguous.
        let what = format!("{}.{table}.{name}", quoted(options.db_name().unwrap_or_default(), '.'));
        let hash = Sha256::digest(what);
        let lock: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let held: Option<Option<i64>> = conn.exec_first("SELECT GET_LOCK(?, 0)", (format!("rowmill-{lock}"),)).await?;
        Ok(held.flatten() == Some(1))
    }

    async fn hold(&mut self) -> anyhow::Result<(Epoch, Option<String>)> {
        let MySqlCheckpoint { table, name, .. } = &self.config;
        let mut conn = self.connect().await?;
        let held = self.lock(&mut conn).await.context("cannot lock it")?;
        match conn.query_drop(&format!("SELECT 1 FROM `{table}` LIMIT 1")).await {
            Err(mysql_async::Error::Server(error)) if error.code == ER_NO_SUCH_TABLE => {
                conn.query_drop(&create_table(table)).await.with_context(|| cannot_create(table))?;
            }
            other => other.with_context(|| format!("cannot read its table `{table}`"))?,
        }
        if !held {
            let holder: Option<String> =
                conn.exec_first(&format!("SELECT holder FROM `{table}` WHERE name = ?"), (name,)).await?;
            bail!(
                "another rowmill holds it ({}); stop that process, or set another `checkpoint.name` for this one",
                holder.as_deref().unwrap_or("of unknown name")
            );
        }
        let take = format!(
            "INSERT INTO `{table}` (name, epoch, holder) VALUES (?, 1, ?) ON DUPLICATE KEY UPDATE epoch = epoch + 1, \
             holder = VALUES(holder)"
        );
        conn.exec_drop(&take, (name, holder()))
            .await
            .with_context(|| format!("cannot write to its table `{table}`"))?;
        let taken: Option<(u64, Option<String>)> =
            conn.exec_first(&format!("SELECT epoch, document FROM `{table}` WHERE name = ?"), (name,)).await?;
        let (epoch, document) = taken.ok_or_else(|| anyhow!("its row in `{table}` is gone"))?;
        self.conn = Some(conn);
        Ok((Epoch(epoch), document))
    }

    /// Writes a row, and rolls back. Where there is no table, checks that it can be created.
    async fn check_writable(&mut self) -> anyhow::Result<()> {
        let table = &self.config.table;
        let mut conn = self.connect().await?;
        let row = format!("check-{:016x}", rand::random::<u64>());
        conn.query_drop("START TRANSACTION").await?;
        let insert = format!("INSERT INTO `{table}` (name, epoch, holder) VALUES (?, 0, ?)");
        let written = match conn.exec_drop(&insert, (&row, "check")).await {
            Err(mysql_async::Error::Server(error)) if error.code == ER_NO_SUCH_TABLE => {
                // The table is created at the first start. To prepare a statement needs the privilege, and changes nothing.
                let prepare = format!("PREPARE create_table FROM '{}'", create_table(table));
                conn.query_drop(&prepare).await.with_context(|| cannot_create(table))?;
                Ok(0)
            }
            Err(error) => Err(error),
            Ok(_) => conn.exec_drop(&format!("UPDATE `{table}` SET epoch = 1 WHERE name = ?"), (&row,)).await,
        };
        conn.query_drop("ROLLBACK").await?;
        conn.disconnect().await;
        written.with_context(|| format!("cannot write to its table `{table}`; grant SELECT, INSERT, UPDATE"))?;
        Ok(())
    }

    /// Returns the name of the schema history's row. Names have at most 64 characters.
    fn schema_history_name(&self) -> String {
        let name = &self.config.name;
        let hash = Sha256::digest(name);
        let (start, id): (String, String) =
            (name.chars().take(32).collect(), hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect());
        format!("{start}/schema-history-{id}")
    }

    async fn column(&mut self, column: &str, name: &str) -> anyhow::Result<Option<String>> {
        let MySqlCheckpoint { table, .. } = &self.config;
        let mut conn = self.connect().await?;
        let select = format!("SELECT {column} FROM `{table}` WHERE name = ?");
        let text: Result<Option<Option<String>>, _> = conn.exec_first(&select, (name,)).await;
        let text = match text {
            Err(mysql_async::Error::Server(error)) if error.code == ER_NO_SUCH_TABLE => None,
            text => text.with_context(|| format!("cannot read its table `{table}`"))?.flatten(),
        };
        conn.disconnect().await;
        Ok(text)
    }

    /// Writes a text over the connection that has the lock, or over a new connection, which tries to get the lock again.
    /// Another process that got the lock meanwhile has raised the epoch, so that this write changes nothing.
    async fn update(&mut self, what: What, Epoch(epoch): Epoch, text: &str) -> anyhow::Result<Update> {
        let mut conn = match self.conn.take() {
            Some(conn) => conn,
            None => {
                let mut conn = self.connect().await?;
                self.lock(&mut conn).await?;
                conn
            }
        };
        let MySqlCheckpoint { table, name, .. } = &self.config;
        if what == What::SchemaHistory {
            // A holder that has lost the checkpoint changes nothing. Assignments are evaluated from left to right.
            let replace = format!(
                "INSERT INTO `{table}` (name, epoch, holder, document) VALUES (?, ?, ?, ?) ON DUPLICATE KEY UPDATE \
                 document = IF(VALUES(epoch) >= epoch, VALUES(document), document), \
                 holder = IF(VALUES(epoch) >= epoch, VALUES(holder), holder), \
                 updated_at = IF(VALUES(epoch) >= epoch, CURRENT_TIMESTAMP(6), updated_at), \
                 epoch = GREATEST(epoch, VALUES(epoch))"
            );
            conn.exec_drop(&replace, (self.schema_history_name(), epoch, holder(), text)).await?;
            self.conn = Some(conn);
            return Ok(Update::Written);
        }
        let update = format!(
            "UPDATE `{table}` SET previous = document, document = ?, updated_at = CURRENT_TIMESTAMP(6) WHERE name = ? AND \
             epoch = ?"
        );
        if conn.exec_drop(&update, (text, name, epoch)).await? > 0 {
            self.conn = Some(conn);
            return Ok(Update::Written);
        }
        let other: Option<(u64, String)> =
            conn.exec_first(&format!("SELECT epoch, holder FROM `{table}` WHERE name = ?"), (name,)).await?;
        Ok(Update::Lost(match other {
            Some((other, holder)) => {
                format!("another rowmill acquired it ({holder}): its epoch is {other}, this one's is {epoch}")
            }
            None => format!("its row in `{table}` was removed"),
        }))
    }

    /// Writes a text, retrying until the server can be reached. Rows in flight wait meanwhile.
    async fn write_with_retries(&mut self, what: What, epoch: Epoch, text: String) -> anyhow::Result<()> {
        let mut delays = Delays::new(RETRY_DELAY_MIN, RETRY_DELAY_MAX, None);
        let mut failures = FailureLog::default();
        loop {
            match self.update(what, epoch, &text).await {
                Ok(Update::Written) => return Ok(()),
                Ok(Update::Lost(why)) => bail!(why),
                Err(error) if is_definite_refusal(&error) => return Err(error),
                Err(error) => {
                    let error = error_text(&error);
                    if let Some(since) = failures.failed(&error) {
                        warn!(?since, error, "cannot write the checkpoint yet, retrying");
                    }
                    tokio::time::sleep(delays.next_delay()).await;
                }
            }
        }
    }
}

fn create_table(table: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS `{table}` (name VARCHAR(64) NOT NULL PRIMARY KEY, epoch BIGINT UNSIGNED NOT NULL, holder \
         VARCHAR(255) NOT NULL, document LONGTEXT, previous LONGTEXT, updated_at TIMESTAMP(6) NOT NULL DEFAULT \
         CURRENT_TIMESTAMP(6)) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4"
    )
}

fn cannot_create(table: &str) -> String {
    format!("cannot create its table `{table}`; grant CREATE on its database")
}

/// Returns whether a write can never succeed: a missing privilege, database, table or column, or a text that is too long.
/// <https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html>
fn is_definite_refusal(error: &anyhow::Error) -> bool {
    const DEFINITE: [u16; 7] = [1044, 1049, 1054, 1142, ER_NO_SUCH_TABLE, 1153, 1406];
    let server = error.chain().find_map(|cause| match cause.downcast_ref() {
        Some(mysql_async::Error::Server(error)) => Some(error.code),
        _ => None,
    });
    server.is_some_and(|code| DEFINITE.contains(&code))
}

/// Which text is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Checkpoint,
    SchemaHistory,
}

enum Update {
    Written,
    /// Another process has acquired the checkpoint, or its row was removed.
    Lost(String),
}

impl CheckpointStore for MySqlStore {
    fn describe(&self) -> String {
        let MySqlCheckpoint { options, address, table, name, .. } = &self.config;
        format!("{address}/{}, table {table}, name {name}", options.db_name().unwrap_or_default())
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn acquire(&mut self) -> BoxFuture<'_, anyhow::Result<(Epoch, Option<String>)>> {
        self.hold().boxed()
    }

    fn read(&mut self) -> BoxFuture<'_, anyhow::Result<Option<String>>> {
        let name = self.config.name.clone();
        async move { self.column("document", &name).await }.boxed()
    }

    fn probe(&mut self) -> BoxFuture<'_, anyhow::Result<()>> {
        self.check_writable().boxed()
    }

    fn write(&mut self, epoch: Epoch, text: String) -> BoxFuture<'_, anyhow::Result<()>> {
        self.write_with_retries(What::Checkpoint, epoch, text).boxed()
    }

    fn read_schema_history(&mut self) -> BoxFuture<'_, anyhow::Result<Option<String>>> {
        let name = self.schema_history_name();
        async move { self.column("document", &name).await }.boxed()
    }

    fn write_schema_history(&mut self, epoch: Epoch, text: String) -> BoxFuture<'_, anyhow::Result<()>> {
        if text.len() > SCHEMA_HISTORY_BYTES_MAX {
            let error = anyhow!("it has {} bytes, the maximum is {SCHEMA_HISTORY_BYTES_MAX}", text.len());
            return std::future::ready(Err(error)).boxed();
        }
        self.write_with_retries(What::SchemaHistory, epoch, text).boxed()
    }

    /// Sends a statement, so that the server does not release the lock.
    fn keep_alive(&mut self) -> BoxFuture<'_, ()> {
        async move {
            let conn = match self.conn.take() {
                Some(mut conn) => conn.query_drop("DO 1").await.map(|()| conn).map_err(anyhow::Error::from),
                // If another process has the lock, it has a higher epoch, which the next write finds.
                None => match self.connect().await {
                    Ok(mut conn) => self.lock(&mut conn).await.map(|_| conn),
                    Err(error) => Err(error),
                },
            };
            match conn {
                Ok(conn) => self.conn = Some(conn),
                // The next write reports the error.
                Err(error) => debug!(error = format!("{error:#}"), "the checkpoint's connection was lost"),
            }
        }
        .boxed()
    }

    fn previous(&mut self) -> BoxFuture<'_, Option<(String, String)>> {
        async move {
            let name = self.config.name.clone();
            let text = self.column("previous", &name).await.ok().flatten()?;
            Some((format!("the column `previous` of {}", self.describe()), text))
        }
        .boxed()
    }
}
