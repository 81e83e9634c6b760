//! Looks up columns in information_schema for tables whose table maps do not describe them fully.
//!
//! information_schema has the current columns, and the rows are older. A statement in between that changes the number or the
//! types of columns is found by comparison with the table map; a statement that only renames columns is not. So a look-ahead
//! pass reads the binlog from the rows to its end, for statements that name the table. One pass serves all tables, and is
//! continued later with what was written since.

use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use rowmill_core::binlog::{Altered, CatalogColumn, Decoder, Missing, Next, TableSelector};
use rowmill_core::position::{BinlogPosition, ResumePoint};
use tracing::{debug, info};

use super::stream::{Interruption, open_finite_stream};
use crate::config;
use crate::mysql::columns::list_columns;
use crate::mysql::protocol::{ReplicationStream, StreamError};
use crate::mysql::{ConnectError, Flavor, Server, is_lost_connection};

/// An idle connection is closed after this time.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);
/// The log mentions a look-ahead pass when it takes this long, and then once in every `LOG_INTERVAL`.
const FIRST_LOG_AFTER: Duration = Duration::from_secs(1);
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// Number of events between two looks at the clock.
const EVENTS_BETWEEN_CLOCKS: u32 = 1024;
/// Maximum bytes of the statements that are kept for the next tables.
const CHANGES_BYTES_MAX: usize = 16 << 20;

/// Why the columns of a table are unknown.
pub(super) enum ColumnsError {
    /// They cannot be found out: the table may have been changed since.
    Unknown(anyhow::Error),
    /// The server could not be asked.
    Interruption(Interruption),
}

impl<E: Into<Interruption>> From<E> for ColumnsError {
    fn from(error: E) -> Self {
        Self::Interruption(error.into())
    }
}

/// A table with rows in the binlog, whose columns are requested.
#[derive(Debug, Clone, Copy)]
pub(super) struct ColumnRequest<'a> {
    pub schema: &'a str,
    pub table: &'a str,
    /// What the table map lacks.
    pub missing: Missing,
    /// The position of the rows.
    pub rows: &'a BinlogPosition,
    /// A resume point before the rows.
    pub before: &'a ResumePoint,
}

/// Looks up columns, and remembers how far the look-ahead pass has read.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    /// A connection, and when it was last used.
    server: Option<(Server, Instant)>,
    ahead: Option<LookAhead>,
}

impl Catalog {
    /// Returns the columns of a table. The list is empty if the table no longer exists, or the user may not see it.
    ///
    /// # Errors
    /// If the server cannot be asked, or if the table may have been changed since its rows were written.
    pub async fn columns(
        &mut self,
        config: &config::Source,
        asked: ColumnRequest<'_>,
    ) -> Result<Vec<CatalogColumn>, ColumnsError> {
        let ColumnRequest { schema, table, rows, before, .. } = asked;
        let (columns, end, flavor) = match self.server.take() {
            Some((server, _)) => match self.look_up(server, schema, table).await {
                Ok(found) => found,
                // The server may have closed the idle connection.
                Err(_) => self.look_up(Server::connect(config).await?, schema, table).await?,
            },
            None => self.look_up(Server::connect(config).await?, schema, table).await?,
        };
        // Statements after `end` were not in the binlog when the columns were read: the stream will meet them.
        if rows.is_before(&end) {
            let known = self.ahead.take().filter(|ahead| ahead.reaches(before));
            let ahead = self.ahead.insert(known.unwrap_or_else(|| LookAhead::from(before)));
            ahead.forget_before(&before.position);
            ahead.look(config, flavor, &end, asked).await?;
        }
        Ok(columns)
    }

    /// Returns the table's columns, and the end of the binlog directly after they were read.
    async fn look_up(
        &mut self,
        mut server: Server,
        schema: &str,
        table: &str,
    ) -> Result<(Vec<CatalogColumn>, BinlogPosition, Flavor), ConnectError> {
        let columns = list_columns(&mut server, schema, table).await.map_err(|error| {
            let error = anyhow::Error::new(error).context(format!("cannot look up the columns of {schema}.{table}"));
            match is_lost_connection(&error) {
                true => ConnectError::Transient(error),
                false => ConnectError::Definite(error),
            }
        })?;
        let (end, _) = server.binlog_end().await.map_err(|error| match is_lost_connection(&error) {
            true => ConnectError::Transient(error),
            false => ConnectError::Definite(error),
        })?;
        let flavor = server.flavor;
        self.server = Some((server, Instant::now()));
        Ok((columns, end, flavor))
    }

    /// Forgets everything: the stream continues over another connection, perhaps from a server with other positions.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// Closes an idle connection. Called while the source waits for events.
    pub fn rest(&mut self) {
        if let Some((server, _)) = self.server.take_if(|(_, used)| used.elapsed() > IDLE_TIMEOUT) {
            tokio::spawn(server.disconnect());
        }
    }
}
/// Selects no table.
struct Nothing;

impl TableSelector for Nothing {
    fn table(&self, _: &str, _: &str) -> bool {
        false
    }

    fn schema(&self, _: &str) -> bool {
        false
    }
}

/// The look-ahead pass: statements that may change columns, between two positions of the binlog.
#[derive(Debug)]
struct LookAhead {
    from: BinlogPosition,
    /// How far the binlog was read, between two transactions.
    end: ResumePoint,
    /// In binlog order.
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

    /// Checks that a table's columns are not affected.
    ///
    /// # Errors
    /// If the change comes after the table's rows and may rename the table's columns.
    fn check(&self, ColumnRequest { schema, table, missing, rows, .. }: ColumnRequest<'_>) -> anyhow::Result<()> {
        if self.at.is_before(rows) || !self.altered.may_rename(schema, table) {
            return Ok(());
        }
        bail!(
            "cannot tell the columns of table {schema}.{table} for the rows at {rows}: {missing}, and a later statement, \
             at {at}, may have changed them: `{shown}`; {fix}, or leave the table out by `source.tables`",
            at = self.at,
            shown = self.altered.shown(),
            fix = missing.fix()
        )
    }
}

impl LookAhead {
    /// Makes a pass that starts at a resume point, and has read nothing yet.
    fn from(ResumePoint { server, position, .. }: &ResumePoint) -> Self {
        let end = ResumePoint { server: server.clone(), ..ResumePoint::at("", position.clone()) };
        Self { from: position.clone(), end, changes: Vec::new(), bytes: 0 }
    }

    /// Returns whether the pass covers, or can be continued for, rows after a resume point.
    fn reaches(&self, before: &ResumePoint) -> bool {
        !before.position.is_before(&self.from) && !self.end.position.is_before(&before.position)
    }

    /// Forgets changes before a position: no earlier rows will be asked about.
    fn forget_before(&mut self, position: &BinlogPosition) {
        if self.from.is_before(position) {
            self.from = position.clone();
            self.changes.retain(|change| !change.at.is_before(position));
            self.bytes = self.changes.iter().map(Change::bytes).sum();
        }
    }

    fn add(&mut self, change: Change) {
        if self.changes.last().is_some_and(|last| !last.at.is_before(&change.at)) {
            return; // already known from before an interruption
        }
        self.bytes += change.bytes();
        self.changes.push(change);
        if self.bytes > CHANGES_BYTES_MAX {
            // A request for earlier rows starts a new pass.
            let position = self.changes[self.changes.len() / 2].at.clone();
            self.forget_before(&position);
        }
    }

    /// Continues the pass to `to`, and checks that a table's columns do not change between its rows and there.
    ///
    /// # Errors
    /// If a statement may have changed the table's columns, or if the binlog cannot be read.
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
            open_finite_stream(config, flavor, self.end.position.clone()).await.map_err(Interruption::Transient)?;
        // Row changes that are logged as statements do not matter here, and are skipped.
        let mut scan = Decoder::new(self.end.clone(), Box::new(Nothing)).with_alterations(true).with_skipping(true);
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
        debug!(table = table_name(), from = %scan.position(), %to, "looking ahead for schema changes");
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
                let next = next.with_context(|| format!("cannot look ahead for schema changes of {schema}.{table}"));
                match next.map_err(Interruption::Definite)? {
                    Next::Event => break,
                    Next::Columns { .. } => return Err(Interruption::Definite(anyhow!("unexpected request")).into()),
                    Next::Batch(_) => {}
                }
            }
            if !scan.position().is_before(to) {
                break;
            }
            events = events.wrapping_add(1);
            if events.is_multiple_of(EVENTS_BETWEEN_CLOCKS)
                && said.map_or(begin.elapsed() > FIRST_LOG_AFTER, |said| said.elapsed() > LOG_INTERVAL)
            {
                said = Some(Instant::now());
                info!(
                    table = table_name(), %to, at = %scan.position(),
                    "{missing}: reading the binlog to its end for schema changes, once for all tables, before rows are \
                     delivered; to avoid this, {}",
                    missing.fix()
                );
            }
        }
        if said.is_some() {
            info!(took = ?begin.elapsed(), %to, "look-ahead pass done");
        }
        Ok(())
    }
}
