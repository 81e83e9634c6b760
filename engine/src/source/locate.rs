//! Finds the start point: a checkpoint or a configured start comes in, a position that the server still has goes out.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use mysql_async::Row;
use rowmill_core::gtid::{GtidSet, Newest};
use rowmill_core::position::{BinlogPosition, ResumePoint, file_number};
use tracing::debug;

use super::history::{self, LocateError, OTHER_HISTORY_FIX, other_history};
use super::start_point::{ResumeBy, StartPoint, is_within_reach, within_reach};
use crate::config::Start;
use crate::mysql::{ER_PARSE, Flavor, Server};

/// How many times MySQL is asked whether it has executed the transactions of its binlog, and the pause after each question.
const COMMITTED_TRIES: u32 = 10;
const COMMITTED_DELAY: Duration = Duration::from_millis(300);

impl Server {
    /// Finds the start point: at the checkpoint if there is one, otherwise at `start`. The server still has the position, and
    /// the position of a checkpoint is verified to belong to the server's history.
    ///
    /// # Errors
    /// If the server cannot be asked, no longer has the position, or has another binlog than the checkpoint's; for a checkpoint
    /// of another server, if the start point cannot be found by GTIDs.
    pub async fn locate(&mut self, start: &Start, checkpoint: Option<ResumePoint>) -> Result<StartPoint, LocateError> {
        let Some(resume) = checkpoint else { return self.configured_start(start).await };
        let is_same_server = *resume.server == *self.identity;
        if is_same_server && !resume.position.file.is_empty() {
            return self.read_on(resume).await;
        }
        let why = if is_same_server {
            "the checkpoint starts by GTIDs".to_owned() // written before anything was read
        } else {
            format!(
                "the checkpoint belongs to the server {}, and {} is the server {}, which has other positions",
                resume.server, self.address, self.identity
            )
        };
        let gtids = match resume.gtids.filter(|gtids| !gtids.is_empty()) {
            Some(gtids) => gtids,
            None if is_same_server => Arc::new(self.no_gtids()), // a checkpoint's document omits an empty set
            None => {
                return Err(LocateError::Definite(anyhow!(
                    "{why}, and the checkpoint has no GTIDs to continue by; point `source.url` at the checkpoint's server, or \
                     remove the checkpoint to start at `source.start`"
                )));
            }
        };
        let mut place = self.locate_by_gtids(gtids, &why).await?;
        place.resume.partial = resume.partial.filter(|_| is_same_server);
        Ok(place)
    }

    /// Finds the start point without a checkpoint.
    async fn configured_start(&mut self, start: &Start) -> Result<StartPoint, LocateError> {
        let identity: Arc<str> = self.identity.as_str().into();
        let at = |position: BinlogPosition| ResumePoint::at(Arc::clone(&identity), position);
        let resume = match start {
            Start::Gtids(gtids) => {
                const WHY: &str = "`source.start` is a set of GTIDs";
                let gtids = match self.flavor {
                    Flavor::MySql => gtids.clone(),
                    Flavor::MariaDb => self.complete_gtids(gtids, WHY).await?,
                };
                return self.locate_by_gtids(Arc::new(gtids), WHY).await;
            }
            Start::Latest => self.end_of_binlog().await?,
            Start::Earliest => {
                let logs = self.binary_logs().await?;
                let (file, _) = logs.first().ok_or_else(|| anyhow!("{} has no binlog files", self.address))?;
                at(BinlogPosition::new(file, BinlogPosition::FIRST_EVENT))
            }
            Start::Position(position) => {
                let resume = at(position.clone());
                self.check_position("`source.start`", position).await?;
                let gtids = match position.offset {
                    BinlogPosition::FIRST_EVENT => None, // the file's first events have them
                    _ if !is_within_reach(position) => None,
                    _ => history::gtids_before(&self.config, self.flavor, position).await.unwrap_or_else(|error| {
                        debug!(%position, error = format!("{error:#}"), "cannot read the GTIDs before it");
                        None
                    }),
                };
                ResumePoint { gtids: gtids.map(Arc::new), ..resume }
            }
        };
        let mut resume = within_reach(resume);
        resume.fingerprint = Some(history::identify(&self.config, self.flavor, &resume.position).await?);
        Ok(StartPoint::at(resume))
    }

    /// Returns the start point at the position of this server's checkpoint, if the server still has the same binlog.
    async fn read_on(&mut self, resume: ResumePoint) -> Result<StartPoint, LocateError> {
        self.check_position("the checkpoint", &resume.position).await?;
        let Some(fingerprint) = resume.fingerprint else {
            return Err(LocateError::Definite(anyhow!(
                "cannot verify that {} is a position of the binlog of {}: the checkpoint has no fingerprint; if you are sure \
                 that it is one, run `rowmill checkpoint set {}`",
                resume.position,
                self.address,
                resume.position
            )));
        };
        history::verify(&self.config, self.flavor, &resume.position, fingerprint).await?;
        if let Some(gtids) = resume.gtids.clone().filter(|gtids| !gtids.is_empty()) {
            self.has_gtids(&gtids, &resume).await?;
        }
        Ok(StartPoint::at(within_reach(resume)))
    }

    /// Checks that the GTIDs of a checkpoint agree with the server's, and with the checkpoint's position.
    async fn has_gtids(&mut self, gtids: &GtidSet, resume: &ResumePoint) -> Result<(), LocateError> {
        let position = &resume.position;
        match self.flavor {
            Flavor::MySql => {
                // A transaction is in the binlog shortly before MySQL counts it as executed.
                for _ in 0..COMMITTED_TRIES {
                    if gtids.is_subset_of(&self.executed().await?) {
                        return Ok(());
                    }
                    tokio::time::sleep(COMMITTED_DELAY).await;
                }
                let executed = self.executed().await?;
                Err(LocateError::Transient(anyhow!(
                    "{} has not executed transactions that are in its binlog and already done (executed: {executed}; done: \
                     {gtids}); wait until they are committed; {OTHER_HISTORY_FIX}",
                    self.address
                )))
            }
            // The fingerprint of the transaction that ends at the position is better evidence: sequence numbers may decrease.
            Flavor::MariaDb if resume.fingerprint.is_some_and(|fingerprint| fingerprint.end.is_some()) => Ok(()),
            Flavor::MariaDb if !is_within_reach(position) => Ok(()),
            Flavor::MariaDb => {
                let there = self.gtid_position(position).await?;
                // A server that crashed counts the unfinished transaction that it was writing.
                let fits = |(domain, there): (u32, Newest)| {
                    let last = gtids.last(domain).filter(|last| last.server == there.server);
                    last.is_some_and(|last| {
                        last.sequence == there.sequence || last.sequence.checked_add(1) == Some(there.sequence)
                    })
                };
                let differs = !there.newest_of_servers().all(fits);
                let what = format!("the transactions before {position} are {there}, those of the checkpoint {gtids}");
                if differs { Err(LocateError::Definite(other_history(&self.address, &what))) } else { Ok(()) }
            }
        }
    }

    /// Returns the start point after the transactions of a set, if the server has all of these and all later transactions.
    async fn locate_by_gtids(&mut self, gtids: Arc<GtidSet>, why: &str) -> Result<StartPoint, LocateError> {
        let executed = self.executed().await?;
        let address = &self.address.clone();
        if !gtids.is_subset_of(&executed) {
            return Err(LocateError::Transient(anyhow!(
                "{why}, and {address} lacks transactions that are already done (executed: {executed}; done: {gtids}); \
                 wait until it has caught up, or point `source.url` at a server that has them"
            )));
        }
        let purged = |purged: &str| {
            LocateError::Definite(anyhow!(
                "{why}, and {address} has purged transactions that are not delivered yet ({purged}done: {gtids}); point \
                 `source.url` at a server that still has them, or take a new copy of the tables, then remove the \
                 checkpoint and start at \"earliest\""
            ))
        };
        let mut position = BinlogPosition::new("", BinlogPosition::FIRST_EVENT);
        let resume = ResumePoint {
            gtids: Some(Arc::clone(&gtids)),
            ..ResumePoint::at(self.identity.as_str(), position.clone())
        };
        match self.flavor {
            Flavor::MySql => {
                const PURGED: &str = "SELECT @@GLOBAL.gtid_purged";
                let text: Option<String> =
                    self.conn.query_first(PURGED).await.with_context(|| format!("{address}: cannot read the GTIDs"))?;
                let known: GtidSet = text.unwrap_or_default().parse().map_err(anyhow::Error::from)?;
                if !known.is_subset_of(&gtids) {
                    return Err(purged(&format!("purged: {known}; ")));
                }
            }
            Flavor::MariaDb => {
                let file = self.newest_file(|before| before.is_subset_of(&gtids)).await?;
                position.file = file.ok_or_else(|| purged(""))?;
            }
        }
        Ok(StartPoint { resume, by: ResumeBy::Gtids, from: position })
    }

    /// MariaDB: returns the set of all servers' transactions at `positions`, which has one transaction a domain.
    async fn complete_gtids(&mut self, positions: &GtidSet, why: &str) -> Result<GtidSet, LocateError> {
        let executed = self.executed().await?;
        if !positions.is_subset_of(&executed) {
            return Err(LocateError::Transient(anyhow!(
                "{why}, and {} lacks transactions of {positions} (executed: {executed}); wait until it has caught up, or \
                 point `source.url` at a server that has them",
                self.address
            )));
        }
        let is_before = |before: &GtidSet| {
            before.newest_of_servers().all(|(domain, newest)| match positions.last(domain) {
                Some(position) if position == newest => before.last(domain) == Some(position),
                Some(position) => position.server != newest.server || position.sequence > newest.sequence,
                None => false,
            })
        };
        let file = self.newest_file(is_before).await?.ok_or_else(|| {
            anyhow!(
                "{why}, and {} has purged transactions after {positions}; take a new copy of the tables, and start \
                 at the GTIDs of the copy",
                self.address
            )
        })?;
        history::complete_gtids(&self.config, &file, positions).await
    }

    /// MariaDB: finds the newest binlog file for which `fits` accepts the transactions before the file.
    async fn newest_file(&mut self, mut fits: impl FnMut(&GtidSet) -> bool) -> anyhow::Result<Option<String>> {
        for (file, _) in self.binary_logs().await?.into_iter().rev() {
            // The file's list of GTIDs is one of its first events.
            let events = self.privileged(&format!("SHOW BINLOG EVENTS IN '{file}' LIMIT 4")).await?;
            let list = events.iter().find(|event| event.get::<String, _>("Event_type").as_deref() == Some("Gtid_list"));
            let text = list.and_then(|event| event.get::<String, _>("Info")).unwrap_or_default();
            let mut before = self.gtids(text.trim().trim_start_matches('[').trim_end_matches(']'))?;
            // The list is shown in another order than stored, so ask for the last server of each domain.
            let head = BinlogPosition::new(file.clone(), BinlogPosition::FIRST_EVENT);
            before.add_all(&self.gtid_position(&head).await?);
            if fits(&before) {
                return Ok(Some(file));
            }
        }
        Ok(None)
    }

    /// Returns the transactions that the server has executed and written to its binlog.
    async fn executed(&mut self) -> anyhow::Result<GtidSet> {
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

    fn no_gtids(&self) -> GtidSet {
        match self.flavor {
            Flavor::MySql => GtidSet::mysql(),
            Flavor::MariaDb => GtidSet::mariadb(),
        }
    }

    /// MariaDB: returns the last transaction of each domain before a position.
    async fn gtid_position(&mut self, BinlogPosition { file, offset }: &BinlogPosition) -> anyhow::Result<GtidSet> {
        let text: Option<Option<String>> = self
            .conn
            .with_long_timeout()
            .exec_first("SELECT BINLOG_GTID_POS(?, ?)", (file, offset))
            .await
            .with_context(|| format!("{}: cannot read the GTID position", self.address))?;
        self.gtids(&text.flatten().unwrap_or_default())
    }

    /// Checks that the server has a position. `whose` names the origin of the position in errors.
    ///
    /// # Errors
    /// If the server does not have the position, or cannot be asked.
    pub(super) async fn check_position(&mut self, whose: &str, position: &BinlogPosition) -> Result<(), LocateError> {
        let logs = self.binary_logs().await?;
        Ok(self.is_among(&logs, whose, position)?)
    }

    fn is_among(&self, logs: &[(String, u64)], whose: &str, position: &BinlogPosition) -> anyhow::Result<()> {
        let BinlogPosition { file, offset } = position;
        let address = &self.address;
        let (oldest, newest) = (logs.first(), logs.last());
        let name = |log: Option<&(String, u64)>| log.map_or("none", |(name, _)| name).to_owned();
        match logs.iter().find(|(name, _)| name == file) {
            Some((_, size)) if offset <= size => Ok(()),
            Some((_, size)) => bail!(
                "cannot read from {position}, the position of {whose}: {file} on {address} ends at {size}, so the file was \
                 replaced, or lost its end in a crash; {OTHER_HISTORY_FIX}"
            ),
            None if oldest.is_some_and(|(oldest, _)| is_before(file, oldest)) => bail!(
                "cannot read from {position}, the position of {whose}: {address} has purged that file (the oldest is {}), and \
                 the changes in between can no longer be read; take a new copy of the tables, then remove the checkpoint and \
                 start at \"earliest\"; to have more time, raise binlog_expire_logs_seconds",
                name(oldest)
            ),
            None if newest.is_some_and(|(newest, _)| is_before(newest, file)) => bail!(
                "cannot read from {position}, the position of {whose}: the newest binlog file on {address} is {}, so the \
                 server never wrote that position, or was reset since; {OTHER_HISTORY_FIX}",
                name(newest)
            ),
            None => bail!(
                "cannot read from {position}, the position of {whose}: {address} has no such file, its binlog has the files {} \
                 to {}; {OTHER_HISTORY_FIX}",
                name(oldest),
                name(newest)
            ),
        }
    }

    /// Returns the binlog files, oldest first, with their sizes in bytes.
    pub(super) async fn binary_logs(&mut self) -> anyhow::Result<Vec<(String, u64)>> {
        let rows: Vec<Row> = {
            self.conn.with_long_timeout();
            self.privileged("SHOW BINARY LOGS").await?
        };
        Ok(rows.iter().filter_map(|row| Some((row.get(0)?, row.get(1)?))).collect())
    }

    /// Returns the number of `RESET` statements since the server started, of any kind; one of the kinds resets the binlog.
    pub(super) async fn resets(&mut self) -> anyhow::Result<u64> {
        let row: Option<(String, u64)> = self
            .conn
            .query_first("SHOW GLOBAL STATUS LIKE 'Com_reset'")
            .await
            .with_context(|| format!("{}: cannot read the server's status", self.address))?;
        Ok(row.map_or(0, |(_, resets)| resets))
    }

    /// Returns the end of the binlog and, for MySQL, the executed transactions, which may lack the newest ones.
    pub(super) async fn binlog_end(&mut self) -> anyhow::Result<(BinlogPosition, Option<String>)> {
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

    /// Returns the resume point at the end of the binlog.
    pub(super) async fn end_of_binlog(&mut self) -> anyhow::Result<ResumePoint> {
        // Ask for the set before the position: a transaction after the position must not count as done.
        let state = match self.flavor {
            Flavor::MySql => None,
            Flavor::MariaDb => Some(self.executed().await?),
        };
        let (position, executed) = self.binlog_end().await?;
        let gtids = match state {
            None => executed.filter(|text| !text.is_empty()).map(|text| text.parse::<GtidSet>()).transpose()?,
            Some(mut state) => {
                if is_within_reach(&position) {
                    state.add_all(&self.gtid_position(&position).await?);
                }
                Some(state).filter(|state| !state.is_empty())
            }
        };
        Ok(ResumePoint { gtids: gtids.map(Arc::new), ..ResumePoint::at(self.identity.as_str(), position) })
    }
}

/// Returns whether a binlog file is older than another one of the same server.
fn is_before(file: &str, other: &str) -> bool {
    let base = |name: &str| name.rsplit_once('.').map(|(base, _)| base.to_owned());
    base(file) == base(other) && file_number(file).is_some() && file_number(file) < file_number(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_before_others() {
        assert!(is_before("binlog.000009", "binlog.000010") && is_before("binlog.999999", "binlog.1000000"));
        assert!(!is_before("binlog.000010", "binlog.000010") && !is_before("mysql-bin.000009", "binlog.000010"));
        assert!(!is_before("binlog", "binlog.000010"));
    }
}
