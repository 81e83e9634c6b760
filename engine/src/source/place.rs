//! Where the reading begins, and how a server is asked for it.

use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use mysql_async::Row;
use mysql_async::prelude::Queryable;
use rowmill_core::gtid::GtidSet;
use rowmill_core::position::{BinlogPosition, Resume};

use super::preflight::{ER_PARSE, Flavor, Server};
use crate::config::Start;

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
    /// Where to begin: at the checkpoint if there is one, else where `start` says. The place is one
    /// that the server still has.
    ///
    /// # Errors
    /// If the server doesn't say what it has, or hasn't got the place any more, or is another one
    /// than the checkpoint's and GTIDs don't help.
    pub async fn locate(&mut self, start: &Start, checkpoint: Option<Resume>) -> Result<Place, LocateError> {
        let (gtids, why) = match (checkpoint, start) {
            (Some(resume), _) if *resume.server != *self.identity => {
                let why = format!(
                    "it belongs to the server {}, and {} is {}, whose positions mean something else",
                    resume.server, self.address, self.identity
                );
                let gtids = resume.gtids.filter(|gtids| !gtids.is_empty());
                let gtids = gtids.ok_or_else(|| {
                    anyhow!(
                        "{why}, and there are no GTIDs to go on by; point `source.url` at the server it belongs to, or \
                         remove the checkpoint to begin at `source.start`"
                    )
                })?;
                (gtids, why)
            }
            // Written before anything was read.
            (Some(Resume { position, gtids: Some(gtids), .. }), _) if position.file.is_empty() => {
                (gtids, "it says by GTIDs where to begin".to_owned())
            }
            (None, Start::Gtids(gtids)) => {
                (Arc::new(gtids.clone()), "`source.start` says by GTIDs where to begin".to_owned())
            }
            (checkpoint, start) => {
                let resume = self.locate_by_position(start, checkpoint).await?;
                return Ok(Place { resume, by: By::Position });
            }
        };
        let resume = self.locate_by_gtids(gtids, &why).await?;
        Ok(Place { resume, by: By::Gtids })
    }

    /// Behind the transactions of a set, if the server has those and all others.
    async fn locate_by_gtids(&mut self, gtids: Arc<GtidSet>, why: &str) -> Result<Resume, LocateError> {
        let address = &self.address;
        let statement = match self.flavor {
            Flavor::MySql => "SELECT @@GLOBAL.gtid_executed, @@GLOBAL.gtid_purged",
            Flavor::MariaDb => "SELECT @@GLOBAL.gtid_binlog_pos, ''",
        };
        let sets: Option<(String, String)> =
            self.conn.query_first(statement).await.with_context(|| format!("{address}: its GTIDs can't be read"))?;
        let (executed, purged) = sets.unwrap_or_default();
        let set = |text: &str| text.parse::<GtidSet>().map_err(anyhow::Error::from);
        let (executed, purged) = (set(&executed)?, set(&purged)?);
        if !gtids.is_subset_of(&executed) {
            return Err(LocateError::Behind(anyhow!(
                "{why}, and {address} lacks transactions that are done with (it has {executed}, done with are {gtids}); \
                 wait until it has caught up, or point `source.url` at a server that has them"
            )));
        }
        if self.flavor == Flavor::MySql && !purged.is_subset_of(&gtids) {
            return Err(LocateError::Gone(anyhow!(
                "{why}, and {address} has purged transactions that aren't delivered yet (purged are {purged}, done with \
                 are {gtids}); point `source.url` at a server that still has them, or take a new copy of the tables, \
                 then remove the checkpoint and begin at \"earliest\""
            )));
        }
        let position = BinlogPosition::new("", BinlogPosition::FIRST_EVENT);
        Ok(Resume { gtids: Some(gtids), ..Resume::at(self.identity.as_str(), position) })
    }

    async fn locate_by_position(&mut self, start: &Start, checkpoint: Option<Resume>) -> anyhow::Result<Resume> {
        let logs = self.binary_logs().await?;
        let at = |position: BinlogPosition| Resume::at(self.identity.as_str(), position);
        let (resume, whose) = match (checkpoint, start) {
            (Some(resume), _) => (resume, "the checkpoint"),
            (None, Start::Position(position)) => (at(position.clone()), "`source.start`"),
            (None, Start::Gtids(_)) => bail!("a set of GTIDs isn't a position"),
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

    /// The binlog files, oldest first, with their sizes.
    async fn binary_logs(&mut self) -> anyhow::Result<Vec<(String, u64)>> {
        let rows: Vec<Row> = self.privileged("SHOW BINARY LOGS").await?;
        Ok(rows.iter().filter_map(|row| Some((row.get(0)?, row.get(1)?))).collect())
    }

    /// Where the binlog ends, and what was executed before.
    pub(super) async fn end_of_binlog(&mut self) -> anyhow::Result<Resume> {
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
}
