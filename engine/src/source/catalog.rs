//! Columns of tables whose maps in the binlog don't say all of them, from information_schema.
//!
//! It has the columns of now, and the rows are of then. A statement in between that changes the
//! count or the types of columns is found by comparing them with the table map; one that only
//! renames is not. So the binlog is looked through from the rows to its end, for statements that
//! name the table: once for all tables, and from there on only what was written since.

use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use rowmill_core::binlog::{Altered, CatalogColumn, Decoder, Missing, Next, TableSelector};
use rowmill_core::position::{BinlogPosition, ResumePoint};
use tracing::{debug, info};

use super::stream::{Interruption, short_stream};
use crate::config;
use crate::mysql::columns::list_columns;
use crate::mysql::protocol::{ReplicationStream, StreamError};
use crate::mysql::{ConnectError, Flavor, Server};

/// The connection is closed when nothing was asked for so long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);
/// The pass is told of in the log once it takes so long, and then as often as that.
const FIRST_WORD_AFTER: Duration = Duration::from_secs(1);
const WORD_INTERVAL: Duration = Duration::from_secs(10);
/// How many events may pass between two looks at the clock.
const EVENTS_BETWEEN_CLOCKS: u32 = 1024;
/// Statements that were found are kept for the next table, up to so many bytes.
const CHANGES_BYTES_MAX: usize = 16 << 20;

/// Why the columns of a table aren't known.
pub(super) enum ColumnsError {
    /// They can't be: the table may have been changed since.
    Unknown(anyhow::Error),
    /// They couldn't be asked for.
    Interruption(Interruption),
}

impl<E: Into<Interruption>> From<E> for ColumnsError {
    fn from(error: E) -> Self {
        Self::Interruption(error.into())
    }
}

/// A table of which rows were met.
#[derive(Debug, Clone, Copy)]
pub(super) struct ColumnRequest<'a> {
    pub schema: &'a str,
    pub table: &'a str,
    /// What its table map lacks.
    pub missing: Missing,
    /// Where the rows come.
    pub rows: &'a BinlogPosition,
    /// A place between two transactions before them.
    pub before: &'a ResumePoint,
}

/// Looks columns up, and knows how far the binlog was looked through for changes of them.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    /// A connection, and when it was used last.
    server: Option<(Server, Instant)>,
    ahead: Option<LookAhead>,
}

impl Catalog {
    /// The columns of a table. None at all: the table isn't there any more, or the user may not see it.
    ///
    /// # Errors
    /// If they can't be asked for, or if the table may have been changed since.
    pub async fn columns(
        &mut self,
        config: &config::Source,
        asked: ColumnRequest<'_>,
    ) -> Result<Vec<CatalogColumn>, ColumnsError> {
        let ColumnRequest { schema, table, rows, before, .. } = asked;
        let (columns, end, flavor) = match self.server.take() {
            Some((server, _)) => match self.look_up(server, schema, table).await {
                Ok(found) => found,
                // The server may have closed it meanwhile.
                Err(_) => self.look_up(Server::connect(config).await?, schema, table).await?,
            },
            None => self.look_up(Server::connect(config).await?, schema, table).await?,
        };
        // Statements after `end` are not in the binlog yet: the stream will meet them.
        if rows.is_before(&end) {
            let known = self.ahead.take().filter(|ahead| ahead.reaches(before));
            let ahead = self.ahead.insert(known.unwrap_or_else(|| LookAhead::from(before)));
            ahead.forget_before(&before.position);
            ahead.look(config, flavor, &end, asked).await?;
        }
        Ok(columns)
    }

    /// The table's columns, and where the binlog ended after they were asked for.
    async fn look_up(
        &mut self,
        mut server: Server,
        schema: &str,
        table: &str,
    ) -> Result<(Vec<CatalogColumn>, BinlogPosition, Flavor), ConnectError> {
        let columns = list_columns(&mut server, schema, table).await.map_err(|error| {
            let is_refusal = matches!(error, mysql_async::Error::Server(_));
            let error =
                anyhow::Error::new(error).context(format!("the columns of {schema}.{table} can't be looked up"));
            if is_refusal { ConnectError::Definite(error) } else { ConnectError::Transient(error) }
        })?;
        let (end, _) = server.binlog_end().await.map_err(|error| match super::is_lost_connection(&error) {
            true => ConnectError::Transient(error),
            false => ConnectError::Definite(error),
        })?;
        let flavor = server.flavor;
        self.server = Some((server, Instant::now()));
        Ok((columns, end, flavor))
    }

    /// The stream goes on at another connection: maybe at another server, whose binlog has other positions.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// Called while nothing is asked: closes a connection that isn't used any more.
    pub fn rest(&mut self) {
        if let Some((server, _)) = self.server.take_if(|(_, used)| used.elapsed() > IDLE_TIMEOUT) {
            tokio::spawn(server.disconnect());
        }
    }
}
/// No rows of any table.
struct Nothing;

impl TableSelector for Nothing {
    fn table(&self, _: &str, _: &str) -> bool {
        false
    }

    fn schema(&self, _: &str) -> bool {
        false
    }
}

/// The statements that may change columns, from one place of the binlog to another.
#[derive(Debug)]
struct LookAhead {
    from: BinlogPosition,
    /// Between two transactions.
    end: ResumePoint,
    /// In the order of the binlog.
    changes: Vec<Change>,
    bytes: usize,
}

#[derive(Debug)]
struct Change {
    at: BinlogPosition,
    altered: Altered,
}

impl Change {
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.at.file.len() + self.altered.bytes()
    }

    /// # Errors
    /// If the change comes after the table's rows and may be one of its columns.
    fn check(&self, ColumnRequest { schema, table, missing, rows, .. }: ColumnRequest<'_>) -> anyhow::Result<()> {
        if self.at.is_before(rows) || !self.altered.may_rename(schema, table) {
            return Ok(());
        }
        bail!(
            "table {schema}.{table}: {missing}, and they may not be the same any more for the rows at {rows}: behind \
             them, at {at}, is `{shown}`; {fix}, or leave the table out by `source.tables`",
            at = self.at,
            shown = self.altered.shown(),
            fix = missing.fix()
        )
    }
}

impl LookAhead {
    /// Nothing was looked at yet.
    fn from(ResumePoint { server, position, .. }: &ResumePoint) -> Self {
        let end = ResumePoint { server: server.clone(), ..ResumePoint::at("", position.clone()) };
        Self { from: position.clone(), end, changes: Vec::new(), bytes: 0 }
    }

    /// Whether the pass can be continued for rows after a place.
    fn reaches(&self, before: &ResumePoint) -> bool {
        !before.position.is_before(&self.from) && !self.end.position.is_before(&before.position)
    }

    /// No rows of before a position will be asked about.
    fn forget_before(&mut self, position: &BinlogPosition) {
        if self.from.is_before(position) {
            self.from = position.clone();
            self.changes.retain(|change| !change.at.is_before(position));
            self.bytes = self.changes.iter().map(Change::bytes).sum();
        }
    }

    fn add(&mut self, change: Change) {
        if self.changes.last().is_some_and(|last| !last.at.is_before(&change.at)) {
            return; // met before an interruption
        }
        self.bytes += change.bytes();
        self.changes.push(change);
        if self.bytes > CHANGES_BYTES_MAX {
            // For earlier rows it is looked through once more.
            let position = self.changes[self.changes.len() / 2].at.clone();
            self.forget_before(&position);
        }
    }

    /// Looks on to `to`, and whether a table stays as it is from its rows to there.
    ///
    /// # Errors
    /// If a statement names the table, or if the binlog can't be read.
    async fn look(
        &mut self,
        config: &config::Source,
        flavor: Flavor,
        to: &BinlogPosition,
        asked: ColumnRequest<'_>,
    ) -> Result<(), ColumnsError> {
        self.changes.iter().try_for_each(|change| change.check(asked)).map_err(ColumnsError::Unknown)?;
        if !self.end.position.is_before(to) {
            return Ok(());
        }
        let mut stream =
            short_stream(config, flavor, self.end.position.clone()).await.map_err(Interruption::Transient)?;
        // Changes of rows that are logged as statements don't matter here.
        let mut scan = Decoder::new(self.end.clone(), Box::new(Nothing)).with_alterations(true).with_skips(true);
        let looked = self.scan(&mut stream, &mut scan, to, asked).await;
        while scan.flush().is_some() {}
        self.end = ResumePoint { partial: None, gtids: None, fingerprint: None, ..scan.resume_before().clone() };
        looked
    }

    async fn scan(
        &mut self,
        stream: &mut ReplicationStream,
        scan: &mut Decoder,
        to: &BinlogPosition,
        asked: ColumnRequest<'_>,
    ) -> Result<(), ColumnsError> {
        let ColumnRequest { schema, table, missing, .. } = asked;
        let table_name = || format!("{schema}.{table}");
        debug!(table = table_name(), from = %scan.position(), %to, "looking ahead for changes");
        let (begin, mut said, mut events) = (Instant::now(), None::<Instant>, 0u32);
        loop {
            let event = match stream.event().await {
                Err(StreamError::End) => break,
                event => event.map_err(Interruption::Transient)?,
            };
            loop {
                let next = scan.next(event);
                for (at, altered) in scan.take_alterations() {
                    let change = Change { at, altered };
                    let checked = change.check(asked);
                    self.add(change);
                    checked.map_err(ColumnsError::Unknown)?;
                }
                let next = next.with_context(|| format!("while looking ahead for changes of {schema}.{table}"));
                match next.map_err(Interruption::Definite)? {
                    Next::Event => break,
                    Next::Columns { .. } => return Err(Interruption::Definite(anyhow!("columns of no table")).into()),
                    Next::Batch(_) => {}
                }
            }
            if !scan.position().is_before(to) {
                break;
            }
            events = events.wrapping_add(1);
            if events.is_multiple_of(EVENTS_BETWEEN_CLOCKS)
                && said.map_or(begin.elapsed() > FIRST_WORD_AFTER, |said| said.elapsed() > WORD_INTERVAL)
            {
                said = Some(Instant::now());
                info!(
                    table = table_name(), %to, at = %scan.position(),
                    "{missing}, so the binlog is looked through to its end for schema changes, once for all tables; rows \
                     wait meanwhile. {} spares it",
                    missing.fix()
                );
            }
        }
        if said.is_some() {
            info!(took = ?begin.elapsed(), %to, "the binlog is looked through");
        }
        Ok(())
    }
}
