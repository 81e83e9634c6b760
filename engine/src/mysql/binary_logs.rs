//! A server's answers about its binary logs: files, end, GTIDs.

use anyhow::{Context, anyhow};
use mysql_async::Row;
use rowmill_core::gtid::GtidSet;
use rowmill_core::position::BinlogPosition;

use super::errors::ER_PARSE;
use super::server::{Flavor, Server};

impl Server {
    /// Returns the binlog files, oldest first, with their sizes in bytes.
    pub(crate) async fn binary_logs(&mut self) -> anyhow::Result<Vec<(String, u64)>> {
        let rows: Vec<Row> = {
            self.conn.with_long_timeout();
            self.privileged("SHOW BINARY LOGS").await?
        };
        Ok(rows.iter().filter_map(|row| Some((row.get(0)?, row.get(1)?))).collect())
    }

    /// Returns the number of `RESET` statements since the server started, of any kind; one of the kinds resets the binlog.
    pub(crate) async fn resets(&mut self) -> anyhow::Result<u64> {
        let row: Option<(String, u64)> = self
            .conn
            .query_first("SHOW GLOBAL STATUS LIKE 'Com_reset'")
            .await
            .with_context(|| format!("{}: cannot read the server's status", self.address))?;
        Ok(row.map_or(0, |(_, resets)| resets))
    }

    /// Returns the end of the binlog and, for MySQL, the executed transactions, which may lack the newest ones.
    pub(crate) async fn binlog_end(&mut self) -> anyhow::Result<(BinlogPosition, Option<String>)> {
        // MySQL 8.2 renamed the statement, 8.4 dropped the old name; MariaDB knows the old name.
        const OLD: &str = "SHOW MASTER STATUS";
        const NEW: &str = "SHOW BINARY LOG STATUS";
        let rows = match self.flavor {
            Flavor::MariaDb => self.privileged(OLD).await?,
            Flavor::MySql => match self.conn.query::<Row>(NEW).await {
                Err(mysql_async::Error::Server(error)) if error.code == ER_PARSE => self.privileged(OLD).await?,
                Ok(rows) => rows,
                Err(_) => self.privileged(NEW).await?,
            },
        };
        let row = rows
            .first()
            .ok_or_else(|| anyhow!("{}: the server does not report the end of its binlog", self.address))?;
        let (file, offset) = row.get::<String, _>(0).zip(row.get::<u64, _>(1)).unwrap_or_default();
        let executed = match self.flavor {
            Flavor::MySql => row.get::<Option<String>, _>("Executed_Gtid_Set").flatten(),
            Flavor::MariaDb => None,
        };
        Ok((BinlogPosition::new(file, offset), executed))
    }

    /// Returns the transactions that the server has executed and written to its binlog.
    pub(crate) async fn executed(&mut self) -> anyhow::Result<GtidSet> {
        let statement = match self.flavor {
            Flavor::MySql => "SELECT @@GLOBAL.gtid_executed",
            // `gtid_binlog_pos` has only the last server of each domain.
            Flavor::MariaDb => "SELECT @@GLOBAL.gtid_binlog_state",
        };
        let text: Option<String> = self
            .conn
            .query_first(statement)
            .await
            .with_context(|| format!("{}: cannot read the GTIDs", self.address))?;
        self.gtids(&text.unwrap_or_default())
    }

    /// Parses a set of GTIDs in the server's notation.
    fn gtids(&self, text: &str) -> anyhow::Result<GtidSet> {
        Ok(if text.is_empty() { self.no_gtids() } else { text.parse()? })
    }

    /// Returns the empty set of GTIDs, of the server's family.
    pub(crate) fn no_gtids(&self) -> GtidSet {
        match self.flavor {
            Flavor::MySql => GtidSet::mysql(),
            Flavor::MariaDb => GtidSet::mariadb(),
        }
    }

    /// MariaDB: returns the last transaction of each domain before a position.
    pub(crate) async fn gtid_position(
        &mut self,
        BinlogPosition { file, offset }: &BinlogPosition,
    ) -> anyhow::Result<GtidSet> {
        let text: Option<Option<String>> = self
            .conn
            .with_long_timeout()
            .exec_first("SELECT BINLOG_GTID_POS(?, ?)", (file, offset))
            .await
            .with_context(|| format!("{}: cannot read the GTID position", self.address))?;
        self.gtids(&text.flatten().unwrap_or_default())
    }

    /// MySQL: returns the transactions that are purged from the binlog.
    pub(crate) async fn purged(&mut self) -> anyhow::Result<GtidSet> {
        const PURGED: &str = "SELECT @@GLOBAL.gtid_purged";
        let text: Option<String> =
            self.conn.query_first(PURGED).await.with_context(|| format!("{}: cannot read the GTIDs", self.address))?;
        Ok(text.unwrap_or_default().parse()?)
    }

    /// MariaDB: returns the transactions before a binlog file.
    pub(crate) async fn gtids_before_file(&mut self, file: &str) -> anyhow::Result<GtidSet> {
        // The file's list of GTIDs is one of its first events.
        let events = self.privileged(&format!("SHOW BINLOG EVENTS IN '{file}' LIMIT 4")).await?;
        let list = events.iter().find(|event| event.get::<String, _>("Event_type").as_deref() == Some("Gtid_list"));
        let text = list.and_then(|event| event.get::<String, _>("Info")).unwrap_or_default();
        let mut before = self.gtids(text.trim().trim_start_matches('[').trim_end_matches(']'))?;
        // The list is shown in another order than stored, so ask for the last server of each domain.
        let head = BinlogPosition::new(file, BinlogPosition::FIRST_EVENT);
        before.add_all(&self.gtid_position(&head).await?);
        Ok(before)
    }
}
