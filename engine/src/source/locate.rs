//! Finds the start point: from a checkpoint or a configured start to a place that the server still has.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use mysql_async::Row;
use rowmill_core::gtid::{GtidSet, Newest};
use rowmill_core::position::{BinlogPosition, ResumePoint, file_number};
use tracing::debug;

use super::history::{self, LocateError, WAY_OUT, other_history};
use super::start_point::{ResumeBy, StartPoint, is_within_reach, within_reach};
use crate::config::Start;
use crate::mysql::{ER_PARSE, Flavor, Server};

/// How often, and how long after one another, MySQL is asked whether it executed what its binlog has.
const COMMITTED_TRIES: u32 = 10;
const COMMITTED_DELAY: Duration = Duration::from_millis(300);

impl Server {
    /// Where to begin: at the checkpoint if there is one, else where `start` says. The place is one
    /// that the server still has, and that of a checkpoint is shown to belong to the server's history.
    ///
    /// # Errors
    /// If the server doesn't say what it has, or hasn't got the place any more, if its binlog isn't the checkpoint's, or if
    /// it is another server and GTIDs don't help.
    pub async fn locate(&mut self, start: &Start, checkpoint: Option<ResumePoint>) -> Result<StartPoint, LocateError> {
        let Some(resume) = checkpoint else { return self.first_place(start).await };
        let is_same_server = *resume.server == *self.identity;
        if is_same_server && !resume.position.file.is_empty() {
            return self.read_on(resume).await;
        }
        let why = if is_same_server {
            "it says by GTIDs where to begin".to_owned() // written before anything was read
        } else {
            format!(
                "it belongs to the server {}, and {} is {}, whose positions mean something else",
                resume.server, self.address, self.identity
            )
        };
        let gtids = match resume.gtids.filter(|gtids| !gtids.is_empty()) {
            Some(gtids) => gtids,
            None if is_same_server => Arc::new(self.no_gtids()), // a document has no empty set
            None => {
                return Err(LocateError::Definite(anyhow!(
                    "{why}, and there are no GTIDs to go on by; point `source.url` at the server it belongs to, or remove the \
                     checkpoint to begin at `source.start`"
                )));
            }
        };
        let mut place = self.locate_by_gtids(gtids, &why).await?;
        place.resume.partial = resume.partial.filter(|_| is_same_server);
        Ok(place)
    }

    /// Where to begin without a checkpoint.
    async fn first_place(&mut self, start: &Start) -> Result<StartPoint, LocateError> {
        let identity: Arc<str> = self.identity.as_str().into();
        let at = |position: BinlogPosition| ResumePoint::at(Arc::clone(&identity), position);
        let resume = match start {
            Start::Gtids(gtids) => {
                const WHY: &str = "`source.start` says by GTIDs where to begin";
                let gtids = match self.flavor {
                    Flavor::MySql => gtids.clone(),
                    Flavor::MariaDb => self.all_servers(gtids, WHY).await?,
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
                self.has_place("`source.start`", position).await?;
                let gtids = match position.offset {
                    BinlogPosition::FIRST_EVENT => None, // the first events say them
                    _ if !is_within_reach(position) => None,
                    _ => history::gtids_before(&self.config, self.flavor, position).await.unwrap_or_else(|error| {
                        debug!(%position, error = format!("{error:#}"), "the GTIDs before it aren't known");
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

    /// At the position of a checkpoint of this server, if its binlog is still the one that it was.
    async fn read_on(&mut self, resume: ResumePoint) -> Result<StartPoint, LocateError> {
        self.has_place("the checkpoint", &resume.position).await?;
        let Some(fingerprint) = resume.fingerprint else {
            return Err(LocateError::Definite(anyhow!(
                "nothing in the checkpoint shows that {} is a place of the binlog that {} has; if you are sure that it is, run \
                 `rowmill checkpoint set {}`",
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

    /// Whether the GTIDs of a checkpoint fit the server's, and its place.
    async fn has_gtids(&mut self, gtids: &GtidSet, resume: &ResumePoint) -> Result<(), LocateError> {
        let position = &resume.position;
        match self.flavor {
            Flavor::MySql => {
                // A transaction is in the binlog a little sooner than it counts as executed.
                for _ in 0..COMMITTED_TRIES {
                    if gtids.is_subset_of(&self.executed().await?) {
                        return Ok(());
                    }
                    tokio::time::sleep(COMMITTED_DELAY).await;
                }
                let executed = self.executed().await?;
                Err(LocateError::Transient(anyhow!(
                    "{} hasn't executed transactions that its binlog has, and that are done with (it has {executed}, done with \
                     are {gtids}); wait until they are committed. {WAY_OUT}",
                    self.address
                )))
            }
            // What ends at the place shows it better: numbers may step down.
            Flavor::MariaDb if resume.fingerprint.is_some_and(|fingerprint| fingerprint.end.is_some()) => Ok(()),
            Flavor::MariaDb if !is_within_reach(position) => Ok(()),
            Flavor::MariaDb => {
                let there = self.gtid_position(position).await?;
                // A server that crashed counts the transaction that it was writing, which has no end.
                let fits = |(domain, there): (u32, Newest)| {
                    let last = gtids.last(domain).filter(|last| last.server == there.server);
                    last.is_some_and(|last| {
                        last.sequence == there.sequence || last.sequence.checked_add(1) == Some(there.sequence)
                    })
                };
                let differs = !there.newest_of_servers().all(fits);
                let what =
                    format!("its transactions before {position} are {there}, and those of the checkpoint {gtids}");
                if differs { Err(LocateError::Definite(other_history(&self.address, &what))) } else { Ok(()) }
            }
        }
    }

    /// Behind the transactions of a set, if the server has those and all others.
    async fn locate_by_gtids(&mut self, gtids: Arc<GtidSet>, why: &str) -> Result<StartPoint, LocateError> {
        let executed = self.executed().await?;
        let address = &self.address.clone();
        if !gtids.is_subset_of(&executed) {
            return Err(LocateError::Transient(anyhow!(
                "{why}, and {address} lacks transactions that are done with (it has {executed}, done with are {gtids}); \
                 wait until it has caught up, or point `source.url` at a server that has them"
            )));
        }
        let purged = |purged: &str| {
            LocateError::Definite(anyhow!(
                "{why}, and {address} has purged transactions that aren't delivered yet ({purged}done with are {gtids}); point \
                 `source.url` at a server that still has them, or take a new copy of the tables, then remove the \
                 checkpoint and begin at \"earliest\""
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
                let text: Option<String> = self
                    .conn
                    .query_first(PURGED)
                    .await
                    .with_context(|| format!("{address}: its GTIDs can't be read"))?;
                let known: GtidSet = text.unwrap_or_default().parse().map_err(anyhow::Error::from)?;
                if !known.is_subset_of(&gtids) {
                    return Err(purged(&format!("purged are {known}, ")));
                }
            }
            Flavor::MariaDb => {
                let file = self.newest_file(|before| before.is_subset_of(&gtids)).await?;
                position.file = file.ok_or_else(|| purged(""))?;
            }
        }
        Ok(StartPoint { resume, by: ResumeBy::Gtids, from: position })
    }

    /// MariaDB: what all servers wrote before the positions of domains.
    async fn all_servers(&mut self, positions: &GtidSet, why: &str) -> Result<GtidSet, LocateError> {
        let executed = self.executed().await?;
        if !positions.is_subset_of(&executed) {
            return Err(LocateError::Transient(anyhow!(
                "{why}, and {} lacks transactions of {positions} (it has {executed}); wait until it has caught up, or point \
                 `source.url` at a server that has them",
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
                "{why}, and {} has purged transactions behind {positions}; take a new copy of the tables, and begin behind it",
                self.address
            )
        })?;
        history::all_servers(&self.config, &file, positions).await
    }

    /// MariaDB: the newest binlog file before which there are transactions such as asked for.
    async fn newest_file(&mut self, mut fits: impl FnMut(&GtidSet) -> bool) -> anyhow::Result<Option<String>> {
        for (file, _) in self.binary_logs().await?.into_iter().rev() {
            // Its list is one of the first events.
            let events = self.privileged(&format!("SHOW BINLOG EVENTS IN '{file}' LIMIT 4")).await?;
            let list = events.iter().find(|event| event.get::<String, _>("Event_type").as_deref() == Some("Gtid_list"));
            let text = list.and_then(|event| event.get::<String, _>("Info")).unwrap_or_default();
            let mut before = self.gtids(text.trim().trim_start_matches('[').trim_end_matches(']'))?;
            // It is shown in another order than it has: which server was a domain's last is asked for.
            let head = BinlogPosition::new(file.clone(), BinlogPosition::FIRST_EVENT);
            before.add_all(&self.gtid_position(&head).await?);
            if fits(&before) {
                return Ok(Some(file));
            }
        }
        Ok(None)
    }

    /// What the server executed, and wrote in its binlog.
    async fn executed(&mut self) -> anyhow::Result<GtidSet> {
        let statement = match self.flavor {
            Flavor::MySql => "SELECT @@GLOBAL.gtid_executed",
            // Its `gtid_binlog_pos` leaves out other servers than the last one of each domain.
            Flavor::MariaDb => "SELECT @@GLOBAL.gtid_binlog_state",
        };
        let text: Option<String> = self
            .conn
            .query_first(statement)
            .await
            .with_context(|| format!("{}: its GTIDs can't be read", self.address))?;
        self.gtids(&text.unwrap_or_default())
    }

    /// A set as the server writes it.
    fn gtids(&self, text: &str) -> anyhow::Result<GtidSet> {
        Ok(if text.is_empty() { self.no_gtids() } else { text.parse()? })
    }

    fn no_gtids(&self) -> GtidSet {
        match self.flavor {
            Flavor::MySql => GtidSet::mysql(),
            Flavor::MariaDb => GtidSet::mariadb(),
        }
    }

    /// MariaDB: the last transaction of each domain before a place.
    async fn gtid_position(&mut self, BinlogPosition { file, offset }: &BinlogPosition) -> anyhow::Result<GtidSet> {
        let text: Option<Option<String>> = self
            .conn
            .patiently()
            .exec_first("SELECT BINLOG_GTID_POS(?, ?)", (file, offset))
            .await
            .with_context(|| format!("{}: its GTID position can't be read", self.address))?;
        self.gtids(&text.flatten().unwrap_or_default())
    }

    /// Whether the server has a place that `whose` says.
    ///
    /// # Errors
    /// If it hasn't, or doesn't say.
    pub(super) async fn has_place(&mut self, whose: &str, position: &BinlogPosition) -> Result<(), LocateError> {
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
                "{whose} says {position}, and {file} on {address} ends at {size}: it isn't the file that it was, or it lost its \
                 end in a crash; {WAY_OUT}"
            ),
            None if oldest.is_some_and(|(oldest, _)| is_before(file, oldest)) => bail!(
                "{whose} says {position}, and {address} has purged that file (its oldest is {}): the changes in between can't be \
                 read any more; take a new copy of the tables, then remove the checkpoint and begin at \
                 \"earliest\". To have more time, raise binlog_expire_logs_seconds",
                name(oldest)
            ),
            None if newest.is_some_and(|(newest, _)| is_before(newest, file)) => bail!(
                "{whose} says {position}, and the newest binlog file on {address} is {}: it never wrote that place, or not since \
                 it was reset; {WAY_OUT}",
                name(newest)
            ),
            None => bail!(
                "{whose} says {position}, and {address} has no such file: its binlog goes from {} to {}; {WAY_OUT}",
                name(oldest),
                name(newest)
            ),
        }
    }

    /// The binlog files, oldest first, with their sizes.
    pub(super) async fn binary_logs(&mut self) -> anyhow::Result<Vec<(String, u64)>> {
        let rows: Vec<Row> = {
            self.conn.patiently();
            self.privileged("SHOW BINARY LOGS").await?
        };
        Ok(rows.iter().filter_map(|row| Some((row.get(0)?, row.get(1)?))).collect())
    }

    /// How often something of the server was reset since it started, its binlog among other things.
    pub(super) async fn resets(&mut self) -> anyhow::Result<u64> {
        let row: Option<(String, u64)> = self
            .conn
            .query_first("SHOW GLOBAL STATUS LIKE 'Com_reset'")
            .await
            .with_context(|| format!("{}: its status can't be read", self.address))?;
        Ok(row.map_or(0, |(_, resets)| resets))
    }

    /// Where the binlog ends; of MySQL with the transactions that were executed before, or a little sooner.
    pub(super) async fn binlog_end(&mut self) -> anyhow::Result<(BinlogPosition, Option<String>)> {
        // MySQL 8.2 renamed the statement, 8.4 dropped its old name; MariaDB has the old one.
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
        let row = rows.first().ok_or_else(|| anyhow!("{} doesn't say where its binlog ends", self.address))?;
        let (file, offset) = row.get::<String, _>(0).zip(row.get::<u64, _>(1)).unwrap_or_default();
        let executed = match self.flavor {
            Flavor::MySql => row.get::<Option<String>, _>("Executed_Gtid_Set").flatten(),
            Flavor::MariaDb => None,
        };
        Ok((BinlogPosition::new(file, offset), executed))
    }

    /// Where the binlog ends, and what was executed before.
    pub(super) async fn end_of_binlog(&mut self) -> anyhow::Result<ResumePoint> {
        // Asked before the place: what isn't past mustn't count as past.
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

/// Whether a binlog file is older than another of the same server.
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
