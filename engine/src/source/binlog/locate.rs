//! Finds the start point: a checkpoint or a configured start comes in, a position that the server still has goes out.

use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use rowmill_core::gtid::{GtidSet, Newest};
use rowmill_core::position::{BinlogPosition, ResumePoint};
use tracing::debug;

use super::history::{self, LocateError, OTHER_HISTORY_FIX, check_position, other_history};
use super::start_point::{ResumeBy, StartPoint, is_within_reach, within_reach};
use crate::config::Start;
use crate::mysql::{Flavor, Server};

/// How many times MySQL is asked whether it has executed the transactions of its binlog, and the pause after each question.
const COMMITTED_TRIES: u32 = 10;
const COMMITTED_DELAY: Duration = Duration::from_millis(300);

/// Finds the start point: at the checkpoint if there is one, otherwise at `start`. The server still has the position, and the
/// position of a checkpoint is verified to belong to the server's history.
///
/// # Errors
/// If the server cannot be asked, no longer has the position, or has another binlog than the checkpoint's; for a checkpoint
/// of another server, if the start point cannot be found by GTIDs.
pub async fn locate(
    server: &mut Server,
    start: &Start,
    checkpoint: Option<ResumePoint>,
) -> Result<StartPoint, LocateError> {
    Locator { server }.locate(start, checkpoint).await
}

/// Finds the start point on a server.
struct Locator<'a> {
    server: &'a mut Server,
}

impl Locator<'_> {
    async fn locate(&mut self, start: &Start, checkpoint: Option<ResumePoint>) -> Result<StartPoint, LocateError> {
        let Some(resume) = checkpoint else { return self.configured_start(start).await };
        let is_same_server = *resume.server == *self.server.identity;
        if is_same_server && !resume.position.file.is_empty() {
            return self.read_on(resume).await;
        }
        let why = if is_same_server {
            "the checkpoint starts by GTIDs".to_owned() // written before anything was read
        } else {
            format!(
                "the checkpoint belongs to the server {}, and {} is the server {}, which has other positions",
                resume.server, self.server.address, self.server.identity
            )
        };
        let gtids = match resume.gtids.filter(|gtids| !gtids.is_empty()) {
            Some(gtids) => gtids,
            None if is_same_server => Arc::new(self.server.no_gtids()), // a checkpoint's document omits an empty set
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
        let identity: Arc<str> = self.server.identity.as_str().into();
        let at = |position: BinlogPosition| ResumePoint::at(Arc::clone(&identity), position);
        let resume = match start {
            Start::Gtids(gtids) => {
                const WHY: &str = "`source.start` is a set of GTIDs";
                let gtids = match self.server.flavor {
                    Flavor::MySql => gtids.clone(),
                    Flavor::MariaDb => self.complete_gtids(gtids, WHY).await?,
                };
                return self.locate_by_gtids(Arc::new(gtids), WHY).await;
            }
            Start::Latest => self.end_of_binlog().await?,
            Start::Earliest => {
                let logs = self.server.binary_logs().await?;
                let (file, _) = logs.first().ok_or_else(|| anyhow!("{} has no binlog files", self.server.address))?;
                at(BinlogPosition::new(file, BinlogPosition::FIRST_EVENT))
            }
            Start::Position(position) => {
                let resume = at(position.clone());
                check_position(self.server, "`source.start`", position).await?;
                let gtids = match position.offset {
                    BinlogPosition::FIRST_EVENT => None, // the file's first events have them
                    _ if !is_within_reach(position) => None,
                    _ => history::gtids_before(&self.server.config, self.server.flavor, position).await.unwrap_or_else(
                        |error| {
                            debug!(%position, error = format!("{error:#}"), "cannot read the GTIDs before it");
                            None
                        },
                    ),
                };
                ResumePoint { gtids: gtids.map(Arc::new), ..resume }
            }
        };
        let mut resume = within_reach(resume);
        resume.fingerprint = Some(history::identify(&self.server.config, self.server.flavor, &resume.position).await?);
        Ok(StartPoint::at(resume))
    }

    /// Returns the start point at the position of this server's checkpoint, if the server still has the same binlog.
    async fn read_on(&mut self, resume: ResumePoint) -> Result<StartPoint, LocateError> {
        check_position(self.server, "the checkpoint", &resume.position).await?;
        let Some(fingerprint) = resume.fingerprint else {
            return Err(LocateError::Definite(anyhow!(
                "cannot verify that {} is a position of the binlog of {}: the checkpoint has no fingerprint; if you are sure \
                 that it is one, run `rowmill checkpoint set {}`",
                resume.position,
                self.server.address,
                resume.position
            )));
        };
        history::verify(&self.server.config, self.server.flavor, &resume.position, fingerprint).await?;
        if let Some(gtids) = resume.gtids.clone().filter(|gtids| !gtids.is_empty()) {
            self.has_gtids(&gtids, &resume).await?;
        }
        Ok(StartPoint::at(within_reach(resume)))
    }

    /// Checks that the GTIDs of a checkpoint agree with the server's, and with the checkpoint's position.
    async fn has_gtids(&mut self, gtids: &GtidSet, resume: &ResumePoint) -> Result<(), LocateError> {
        let position = &resume.position;
        match self.server.flavor {
            Flavor::MySql => {
                // A transaction is in the binlog shortly before MySQL counts it as executed.
                for _ in 0..COMMITTED_TRIES {
                    if gtids.is_subset_of(&self.server.executed().await?) {
                        return Ok(());
                    }
                    tokio::time::sleep(COMMITTED_DELAY).await;
                }
                let executed = self.server.executed().await?;
                Err(LocateError::Transient(anyhow!(
                    "{} has not executed transactions that are in its binlog and already done (executed: {executed}; done: \
                     {gtids}); wait until they are committed; {OTHER_HISTORY_FIX}",
                    self.server.address
                )))
            }
            // The fingerprint of the transaction that ends at the position is better evidence: sequence numbers may decrease.
            Flavor::MariaDb if resume.fingerprint.is_some_and(|fingerprint| fingerprint.end.is_some()) => Ok(()),
            Flavor::MariaDb if !is_within_reach(position) => Ok(()),
            Flavor::MariaDb => {
                let there = self.server.gtid_position(position).await?;
                // A server that crashed counts the unfinished transaction that it was writing.
                let fits = |(domain, there): (u32, Newest)| {
                    let last = gtids.last(domain).filter(|last| last.server == there.server);
                    last.is_some_and(|last| {
                        last.sequence == there.sequence || last.sequence.checked_add(1) == Some(there.sequence)
                    })
                };
                let differs = !there.newest_of_servers().all(fits);
                let what = format!("the transactions before {position} are {there}, those of the checkpoint {gtids}");
                if differs { Err(LocateError::Definite(other_history(&self.server.address, &what))) } else { Ok(()) }
            }
        }
    }

    /// Returns the start point after the transactions of a set, if the server has all of these and all later transactions.
    async fn locate_by_gtids(&mut self, gtids: Arc<GtidSet>, why: &str) -> Result<StartPoint, LocateError> {
        let executed = self.server.executed().await?;
        let address = &self.server.address.clone();
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
            ..ResumePoint::at(self.server.identity.as_str(), position.clone())
        };
        match self.server.flavor {
            Flavor::MySql => {
                let known = self.server.purged().await?;
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
        let executed = self.server.executed().await?;
        if !positions.is_subset_of(&executed) {
            return Err(LocateError::Transient(anyhow!(
                "{why}, and {} lacks transactions of {positions} (executed: {executed}); wait until it has caught up, or \
                 point `source.url` at a server that has them",
                self.server.address
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
                self.server.address
            )
        })?;
        history::complete_gtids(&self.server.config, &file, positions).await
    }

    /// MariaDB: finds the newest binlog file for which `fits` accepts the transactions before the file.
    async fn newest_file(&mut self, mut fits: impl FnMut(&GtidSet) -> bool) -> anyhow::Result<Option<String>> {
        for (file, _) in self.server.binary_logs().await?.into_iter().rev() {
            if fits(&self.server.gtids_before_file(&file).await?) {
                return Ok(Some(file));
            }
        }
        Ok(None)
    }

    /// Returns the resume point at the end of the binlog.
    async fn end_of_binlog(&mut self) -> anyhow::Result<ResumePoint> {
        // Ask for the set before the position: a transaction after the position must not count as done.
        let state = match self.server.flavor {
            Flavor::MySql => None,
            Flavor::MariaDb => Some(self.server.executed().await?),
        };
        let (position, executed) = self.server.binlog_end().await?;
        let gtids = match state {
            None => executed.filter(|text| !text.is_empty()).map(|text| text.parse::<GtidSet>()).transpose()?,
            Some(mut state) => {
                if is_within_reach(&position) {
                    state.add_all(&self.server.gtid_position(&position).await?);
                }
                Some(state).filter(|state| !state.is_empty())
            }
        };
        Ok(ResumePoint { gtids: gtids.map(Arc::new), ..ResumePoint::at(self.server.identity.as_str(), position) })
    }
}
