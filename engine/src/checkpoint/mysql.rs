//! A checkpoint as a row of a table in a MySQL or MariaDB database: for engines whose disks don't outlive them.
//!
//! Who holds it has a named lock on the server, which the server takes back when the connection ends. A connection that
//! is lost may let another in: the epoch, which each write compares, keeps the first from writing then.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use mysql_async::OptsBuilder;
use rowmill_core::batch::quoted;
use sha2::{Digest, Sha256};
use tracing::{debug, warn};

use super::{Epoch, Store, holder};
use crate::config::MySqlCheckpoint;
use crate::mysql::{Client, driver_connection};
use crate::retry::{Delays, FailureLog, told};

/// A transaction of its own each time: where the server is the one that is read, it is read as well.
const INTERVAL: Duration = Duration::from_secs(1);
const ER_NO_SUCH_TABLE: u16 = 1146;
/// Between two tries to reach the server.
const RETRY_DELAY_MIN: Duration = Duration::from_millis(100);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(5);
/// MariaDB takes packets of 16 MiB, unless it is told otherwise, and MySQL of more.
const SCHEMA_HISTORY_BYTES_MAX: usize = 12 << 20;
/// For so many seconds the lock of a machine that is gone without a word keeps others out.
const LOCK_TIMEOUT_S: u32 = 60;

/// See the module's description.
#[derive(Debug)]
pub(super) struct MySqlStore {
    config: MySqlCheckpoint,
    /// Has the lock.
    conn: Option<Client>,
}

impl MySqlStore {
    pub fn new(config: MySqlCheckpoint) -> Self {
        Self { config, conn: None }
    }

    async fn connect(&self) -> anyhow::Result<Client> {
        let MySqlCheckpoint { options, address, tls, .. } = &self.config;
        // A row that is updated counts, though it was as it is to be.
        let options = OptsBuilder::from_opts(mysql_async::Opts::clone(options)).client_found_rows(true).into();
        let connected = driver_connection(&options, tls).await;
        let mut conn = connected.with_context(|| {
            let hint = tls.hint(options.ip_or_hostname());
            format!("{address} can't be connected to; is `checkpoint.url` right? If it is TLS that fails: {hint}")
        })?;
        // The server takes the lock back from a machine that is gone without a word once nothing came for so long.
        conn.query_drop(&format!("SET SESSION wait_timeout = {LOCK_TIMEOUT_S}")).await?;
        Ok(conn)
    }

    /// Names of locks are one for a whole server, and have 64 characters at most.
    async fn lock(&self, conn: &mut Client) -> anyhow::Result<bool> {
        let MySqlCheckpoint { options, table, name, .. } = &self.config;
        // A database's name may have a dot, as the row's: the two must not be taken for another two.
        let what = format!("{}.{table}.{name}", quoted(options.db_name().unwrap_or_default(), '.'));
        let hash = Sha256::digest(what);
        let lock: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let held: Option<Option<i64>> = conn.exec_first("SELECT GET_LOCK(?, 0)", (format!("rowmill-{lock}"),)).await?;
        Ok(held.flatten() == Some(1))
    }

    async fn hold(&mut self) -> anyhow::Result<(Epoch, Option<String>)> {
        let MySqlCheckpoint { table, name, .. } = &self.config;
        let mut conn = self.connect().await?;
        let held = self.lock(&mut conn).await.context("it can't be locked")?;
        match conn.query_drop(&format!("SELECT 1 FROM `{table}` LIMIT 1")).await {
            Err(mysql_async::Error::Server(error)) if error.code == ER_NO_SUCH_TABLE => {
                let create = format!(
                    "CREATE TABLE IF NOT EXISTS `{table}` (name VARCHAR(64) NOT NULL PRIMARY KEY, epoch BIGINT UNSIGNED NOT \
                     NULL, holder VARCHAR(255) NOT NULL, document LONGTEXT, previous LONGTEXT, updated_at TIMESTAMP(6) NOT \
                     NULL DEFAULT CURRENT_TIMESTAMP(6)) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4"
                );
                conn.query_drop(&create).await.with_context(|| format!("its table `{table}` can't be made"))?;
            }
            other => other.with_context(|| format!("its table `{table}` can't be read"))?,
        }
        if !held {
            let holder: Option<String> =
                conn.exec_first(&format!("SELECT holder FROM `{table}` WHERE name = ?"), (name,)).await?;
            bail!(
                "another rowmill holds it ({}); stop that one, or give this one a `checkpoint.name` of its own",
                holder.as_deref().unwrap_or("it doesn't say who")
            );
        }
        let take = format!(
            "INSERT INTO `{table}` (name, epoch, holder) VALUES (?, 1, ?) ON DUPLICATE KEY UPDATE epoch = epoch + 1, \
             holder = VALUES(holder)"
        );
        conn.exec_drop(&take, (name, holder()))
            .await
            .with_context(|| format!("its table `{table}` can't be written"))?;
        let taken: Option<(u64, Option<String>)> =
            conn.exec_first(&format!("SELECT epoch, document FROM `{table}` WHERE name = ?"), (name,)).await?;
        let (epoch, document) = taken.ok_or_else(|| anyhow!("its row in `{table}` is gone"))?;
        self.conn = Some(conn);
        Ok((Epoch(epoch), document))
    }

    /// Writes what is taken back.
    async fn try_out(&mut self) -> anyhow::Result<()> {
        let table = &self.config.table;
        let mut conn = self.connect().await?;
        let row = format!("check-{:016x}", rand::random::<u64>());
        conn.query_drop("START TRANSACTION").await?;
        let insert = format!("INSERT INTO `{table}` (name, epoch, holder) VALUES (?, 0, ?)");
        let written = match conn.exec_drop(&insert, (&row, "check")).await {
            // It is made at the first start.
            Err(mysql_async::Error::Server(error)) if error.code == ER_NO_SUCH_TABLE => Ok(0),
            Err(error) => Err(error),
            Ok(_) => conn.exec_drop(&format!("UPDATE `{table}` SET epoch = 1 WHERE name = ?"), (&row,)).await,
        };
        conn.query_drop("ROLLBACK").await?;
        conn.disconnect().await;
        written.with_context(|| format!("its table `{table}` can't be written: it takes SELECT, INSERT and UPDATE"))?;
        Ok(())
    }

    /// The schema history is a row of its own. Names have 64 characters at most.
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
            text => text.with_context(|| format!("its table `{table}` can't be read"))?.flatten(),
        };
        conn.disconnect().await;
        Ok(text)
    }

    /// On the connection that has the lock, or on a new one that tries to have it again: someone else who has it
    /// meanwhile has another epoch.
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
            // Of a holder that lost the checkpoint it isn't taken. Assignments are made from left to right.
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
                format!("another rowmill took hold of it ({holder}): its epoch is {other}, and this one has {epoch}")
            }
            None => format!("its row in `{table}` was removed"),
        }))
    }

    /// While the server is out of reach it is tried again and again; what is in flight waits meanwhile.
    async fn write_in_any_time(&mut self, what: What, epoch: Epoch, text: String) -> anyhow::Result<()> {
        let mut delays = Delays::new(RETRY_DELAY_MIN, RETRY_DELAY_MAX, None);
        let mut failures = FailureLog::default();
        loop {
            match self.update(what, epoch, &text).await {
                Ok(Update::Written) => return Ok(()),
                Ok(Update::Lost(why)) => bail!(why),
                Err(error) if is_definite(&error) => return Err(error),
                Err(error) => {
                    let error = told(&error);
                    if let Some(since) = failures.failed(&error) {
                        warn!(?since, error, "the checkpoint can't be written yet, trying again");
                    }
                    tokio::time::sleep(delays.next_delay()).await;
                }
            }
        }
    }
}

/// Whether the server refuses a write for what no later try changes: a missing right, table, row or column, or a text that is
/// too long.
/// <https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html>
fn is_definite(error: &anyhow::Error) -> bool {
    const DEFINITE: [u16; 7] = [1044, 1049, 1054, 1142, ER_NO_SUCH_TABLE, 1153, 1406];
    let server = error.chain().find_map(|cause| match cause.downcast_ref() {
        Some(mysql_async::Error::Server(error)) => Some(error.code),
        _ => None,
    });
    server.is_some_and(|code| DEFINITE.contains(&code))
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Checkpoint,
    SchemaHistory,
}

enum Update {
    Written,
    /// Never again.
    Lost(String),
}

impl Store for MySqlStore {
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
        self.try_out().boxed()
    }

    fn write(&mut self, epoch: Epoch, text: String) -> BoxFuture<'_, anyhow::Result<()>> {
        self.write_in_any_time(What::Checkpoint, epoch, text).boxed()
    }

    fn read_schema_history(&mut self) -> BoxFuture<'_, anyhow::Result<Option<String>>> {
        let name = self.schema_history_name();
        async move { self.column("document", &name).await }.boxed()
    }

    fn write_schema_history(&mut self, epoch: Epoch, text: String) -> BoxFuture<'_, anyhow::Result<()>> {
        if text.len() > SCHEMA_HISTORY_BYTES_MAX {
            let error = anyhow!("it would be {} bytes, and may be {SCHEMA_HISTORY_BYTES_MAX}", text.len());
            return std::future::ready(Err(error)).boxed();
        }
        self.write_in_any_time(What::SchemaHistory, epoch, text).boxed()
    }

    /// Says that it is still there, so that the server doesn't take the lock back.
    fn keep_alive(&mut self) -> BoxFuture<'_, ()> {
        async move {
            let conn = match self.conn.take() {
                Some(mut conn) => conn.query_drop("DO 1").await.map(|()| conn).map_err(anyhow::Error::from),
                // Another holder of the lock has a higher epoch, which the next write finds.
                None => match self.connect().await {
                    Ok(mut conn) => self.lock(&mut conn).await.map(|_| conn),
                    Err(error) => Err(error),
                },
            };
            match conn {
                Ok(conn) => self.conn = Some(conn),
                // The next write says so.
                Err(error) => debug!(error = format!("{error:#}"), "the checkpoint's connection is lost"),
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
