//! Reading the binlog: events in from the server, decoded batches out.
//!
//! The reading stops where the in-flight budget is used up, and goes on when checkpoints give it
//! back. A connection that is lost is made again, and the reading goes on exactly where it was.
//! [`Server::problems`] finds out before that whether the server can be read at all, [`Server::locate`] from where.

mod catalog;
mod history;
mod lag;
mod locate;
mod start_point;
mod stream;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use rowmill_core::binlog::{CatalogColumn, Decoder, EndFinder, Next, RowBatch, TableSelector, TransactionEnd};
use rowmill_core::envelope::Connector;
use rowmill_core::position::{BinlogPosition, ResumePoint};
use tokio::sync::watch;
use tracing::{info, warn};

use catalog::{Catalog, ColumnRequest, ColumnsError};
use history::History;
pub use history::LocateError;
pub use lag::Lag;
use start_point::{ResumeBy, StartPoint, is_within_reach};
use stream::{Interruption, beside, open_stream, short_stream};

use crate::ack::{Cost, StopError};
use crate::config::{self, OnError, Start};
use crate::mysql::protocol::{ReplicationStream, StreamError};
use crate::mysql::{ConnectError, Flavor, Server, explained, is_final, is_lost_connection};
use crate::retry::{Delays, FailureLog, told};
use crate::schema_history::SchemaHistory;

/// On a busy server whose changes are mostly not wanted, batches are handed on at least this often.
const BATCH_AGE_MAX: Duration = Duration::from_millis(10);
/// How many events may pass between two looks at the clock.
const EVENTS_BETWEEN_CLOCKS: u32 = 64;

/// How long it may take to find where a transaction ends,
const TRANSACTION_END_WAIT: Duration = Duration::from_secs(5);
/// and where one ends for which 4 GiB and more are to be read.
const FAR_TRANSACTION_END_WAIT: Duration = Duration::from_secs(60);
/// How long the next change may take to come if there is one.
const NEXT_CHANGE_WAIT: Duration = Duration::from_secs(1);

const RECONNECT_DELAY_MIN: Duration = Duration::from_millis(100);
/// With jitter up to twice as much.
const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(5);

/// Where batches go, in their order.
pub trait Outlet: Send {
    /// What a batch may cost at most.
    fn batch_limits(&self) -> Cost;

    /// Waits for room and hands a batch on. False if no batch is taken any more: whoever stopped says why.
    fn hand_on(&mut self, batch: RowBatch) -> impl Future<Output = bool> + Send;

    /// What follows can't be read, for good: what was handed on is to be delivered before all ends.
    fn stop(&mut self, error: StopError);
}

/// Reads one server's binlog.
pub struct Source {
    /// The server that is read is the first of its servers.
    config: config::Source,
    stream: ReplicationStream,
    decoder: Decoder,
    lag: Arc<Lag>,
    history: Arc<History>,
    connector: Connector,
    catalog: Catalog,
    /// What the catalog said of tables, and for which rows.
    schemas: Arc<SchemaHistory>,
}

impl Source {
    /// Asks the server for its binlog from a place on, of which `select` says what is decoded. What its tables' columns were
    /// is kept in `schemas`, where the binlog doesn't say it.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn open(
        mut server: Server,
        config: config::Source,
        place: StartPoint,
        select: Box<dyn TableSelector>,
        schemas: Arc<SchemaHistory>,
    ) -> anyhow::Result<Self> {
        let stream = open_stream(&config, server.flavor, &place)
            .await
            .map_err(|error| explained(error, &config))
            .with_context(|| format!("the binlog of {} can't be read from {place}", config.address))?;
        let history = Arc::new(History::new(config.clone(), place.resume.clone()));
        let decoder = Decoder::new(place.resume, select)
            .with_schema_changes(config.schema_changes)
            .with_skips(config.on_error == OnError::DeadLetter)
            .with_alterations(true);
        let lag = Arc::new(Lag::default());
        lag.keeps(server.retention().await?);
        lag.is_now(server.time().await?);
        let connector = server.flavor.connector();
        server.disconnect().await;
        Ok(Self { config, stream, decoder, lag, history, connector, catalog: Catalog::default(), schemas })
    }

    /// The family of the server, as messages say it.
    pub fn connector(&self) -> Connector {
        self.connector
    }

    /// How far the reading is behind.
    pub fn lag(&self) -> Arc<Lag> {
        Arc::clone(&self.lag)
    }

    /// Reads until `stop` says so, or until nobody takes batches any more.
    ///
    /// # Errors
    /// If the server hasn't got what is to be read any more. An event that can't be decoded stops the outlet.
    pub async fn run(mut self, mut outlet: impl Outlet, mut stop: watch::Receiver<bool>) -> anyhow::Result<()> {
        let (lag, history, address) = (self.lag(), Arc::clone(&self.history), self.config.address.clone());
        self.decoder.bound_batches(outlet.batch_limits());
        let result = tokio::select! {
            result = self.follow(&mut outlet) => result,
            () = lag.watch(&address) => Ok(()),
            error = history.watch() => Err(error),
            _ = stop.wait_for(|stop| *stop) => Ok(()),
        };
        match result.map_err(anyhow::Error::downcast::<StopError>) {
            Err(Ok(error)) => outlet.stop(error),
            Err(Err(error)) => return Err(error),
            Ok(()) => {}
        }
        Ok(())
    }

    /// Reads, and reconnects where the connection is lost.
    async fn follow(&mut self, outlet: &mut impl Outlet) -> anyhow::Result<()> {
        loop {
            match self.read(outlet).await {
                Ok(()) => return Ok(()),
                Err(Interruption::Definite(error)) => return Err(error),
                Err(Interruption::Transient(error)) => {
                    let read_to = self.decoder.position().clone();
                    if is_final(&error) {
                        if let Some(error) = history::difference(&self.config, self.decoder.resume_before()).await {
                            return Err(error);
                        }
                        let address = &self.config.address;
                        return Err(explained(error, &self.config))
                            .with_context(|| format!("{address} can't be read on at {read_to}"));
                    }
                    let resume = self.decoder.rewind();
                    warn!(source = self.config.address, position = %read_to, error = %error, "connection lost, reconnecting");
                    self.reconnect(resume).await?;
                }
            }
        }
    }

    /// Tries again, and where there are several servers each in turn, until one reads on at `resume`.
    async fn reconnect(&mut self, resume: ResumePoint) -> anyhow::Result<()> {
        let mut delays = Delays::new(RECONNECT_DELAY_MIN, RECONNECT_DELAY_MAX, None);
        let mut failures = FailureLog::default();
        loop {
            tokio::time::sleep(delays.next_delay()).await;
            // A server that fails for good doesn't matter while another may come back.
            let (mut first_error, mut may_come_back) = (None, false);
            for candidate in self.config.candidates() {
                let not_yet = match reconnect_to(&candidate, &resume).await {
                    Ok(Reconnected { stream, place, retention, time }) => {
                        let after = failures.worked().map(tracing::field::debug);
                        info!(source = candidate.address, position = %place, after, "reading on");
                        if place.by == ResumeBy::Gtids {
                            self.decoder.relocate(place.resume);
                        }
                        self.history.reads(&candidate, self.decoder.resume_before());
                        self.catalog.forget();
                        self.schemas.reads(&self.decoder.resume_before().server);
                        retention.into_iter().for_each(|kept| self.lag.keeps(kept));
                        time.into_iter().for_each(|time| self.lag.is_now(time));
                        self.stream = stream;
                        self.config = candidate;
                        return Ok(());
                    }
                    Err(ConnectError::Transient(error)) => {
                        may_come_back = true;
                        told(&error)
                    }
                    Err(ConnectError::Definite(error)) => {
                        let text = told(&error);
                        first_error.get_or_insert(error);
                        text
                    }
                };
                if let Some(since) = failures.failed(&not_yet) {
                    warn!(source = candidate.address, ?since, error = not_yet, "not reconnected yet, trying again");
                }
            }
            if let (Some(error), false) = (first_error, may_come_back) {
                return Err(error);
            }
        }
    }

    async fn read(&mut self, outlet: &mut impl Outlet) -> Result<(), Interruption> {
        let Self { config, stream, decoder, lag, history, catalog, schemas, connector: _ } = self;
        let mut handed_on = Instant::now();
        let mut events: u32 = 0;
        loop {
            // An event that is there already is taken at once; before waiting for one, what was decoded so far is handed
            // on, so that rows never wait for more rows.
            let event = stream.try_next_event().map_err(Interruption::Transient)?;
            events = events.wrapping_add(1);
            let is_old = || events.is_multiple_of(EVENTS_BETWEEN_CLOCKS) && handed_on.elapsed() > BATCH_AGE_MAX;
            if event.is_none() || is_old() {
                while let Some(batch) = decoder.flush() {
                    handed_on = Instant::now();
                    if !outlet.hand_on(batch).await {
                        return Ok(());
                    }
                }
                history.read_to(decoder.resume_before(), decoder.position());
            }
            let Some(event) = event else {
                catalog.rest();
                stream.receive().await.map_err(Interruption::Transient)?;
                continue;
            };
            lag.read(event);
            // What was known of a table is tried; what was looked up of one is kept if it fits.
            let mut tried: Option<(String, String)> = None;
            let mut looked_up: Option<(String, String, BinlogPosition, Vec<CatalogColumn>)> = None;
            loop {
                // Taken apart where it is: most events give nothing, and to move what a batch needs takes as long as
                // they do.
                let next = decoder.next(event);
                // Before a batch is handed on: the checkpoint may follow it at once.
                if let (Some((schema, table, rows, columns)), Ok(_)) = (looked_up.take(), &next)
                    && decoder.knows_columns(&schema, &table)
                {
                    schemas.learn(&schema, &table, rows, columns);
                }
                for (at, altered) in decoder.take_alterations() {
                    schemas.alter(&at, &altered);
                }
                match next {
                    Ok(Next::Event) => break,
                    Ok(Next::Batch(batch)) => {
                        handed_on = Instant::now();
                        if !outlet.hand_on(*batch).await {
                            return Ok(());
                        }
                    }
                    Ok(Next::Columns { schema, table, missing }) => {
                        let rows = decoder.position().clone();
                        // ColumnRequest for once more: what was known doesn't fit.
                        let is_wrong = tried.take().is_some_and(|tried| tried == (schema.clone(), table.clone()));
                        if is_wrong {
                            schemas.forget(&schema, &table);
                        } else if let Some(known) = schemas.columns(&schema, &table, &rows) {
                            tried = Some((schema.clone(), table.clone()));
                            decoder.try_columns(schema, table, known);
                            continue;
                        }
                        let before = decoder.resume_before();
                        let asked = ColumnRequest { schema: &schema, table: &table, missing, rows: &rows, before };
                        match catalog.columns(config, asked).await {
                            Ok(columns) => {
                                looked_up = Some((schema.clone(), table.clone(), rows, columns.clone()));
                                decoder.learn(schema, table, columns);
                            }
                            Err(ColumnsError::Unknown(error)) if config.on_error == OnError::DeadLetter => {
                                decoder.give_up_columns(schema, table, format!("{error:#}"));
                            }
                            Err(
                                ColumnsError::Unknown(error)
                                | ColumnsError::Interruption(Interruption::Definite(error)),
                            ) => {
                                // What is before the event is delivered all the same.
                                let transaction = decoder.transaction_begin();
                                while let Some(batch) = decoder.give_up() {
                                    if !outlet.hand_on(batch).await {
                                        return Ok(());
                                    }
                                }
                                return Err(Interruption::Definite(StopError { transaction, error }.into()));
                            }
                            Err(ColumnsError::Interruption(interruption)) => return Err(interruption),
                        }
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
}

/// A connection that reads on.
struct Reconnected {
    stream: ReplicationStream,
    place: StartPoint,
    /// For how long the server keeps its binlog, where it said so.
    retention: Option<Option<Duration>>,
    /// What its clock shows, where it said so.
    time: Option<Duration>,
}

/// A connection to a server that reads on at `resume`.
///
/// # Errors
/// If there is none yet, or if the server can't be read on.
async fn reconnect_to(config: &config::Source, resume: &ResumePoint) -> Result<Reconnected, ConnectError> {
    let mut server = Server::connect(config).await?;
    if let Some(problem) = server.problems().into_iter().next() {
        return Err(ConnectError::Definite(problem.into()));
    }
    let place = match server.locate(&Start::Latest, Some(resume.clone())).await {
        Ok(place) => place,
        Err(LocateError::Definite(error)) if is_lost_connection(&error) => return Err(ConnectError::Transient(error)),
        Err(LocateError::Definite(error)) => {
            return Err(ConnectError::Definite(error.context("the checkpoint can't be gone on from")));
        }
        Err(LocateError::Transient(error)) => return Err(ConnectError::Transient(error)),
    };
    match open_stream(config, server.flavor, &place).await {
        Ok(stream) => {
            let (retention, time) = (server.retention().await.ok(), server.time().await.ok());
            server.disconnect().await;
            Ok(Reconnected { stream, place, retention, time })
        }
        Err(error) if is_final(&error) => Err(ConnectError::Definite(explained(error, config))),
        Err(error) => Err(ConnectError::Transient(error.into())),
    }
}

/// Whether the binlog can be read from a place on: asks for it, and waits for the first event. Says how
/// old the next change is, if there is one.
///
/// # Errors
/// If it can't.
pub async fn probe(config: &config::Source, flavor: Flavor, place: &StartPoint) -> anyhow::Result<Option<Duration>> {
    let lag = Lag::default();
    let read = async {
        let mut stream = open_stream(&beside(config), flavor, place).await?;
        lag.read(stream.event().await?);
        let next_change = async {
            while lag.age().is_none() {
                lag.read(stream.event().await?);
            }
            Ok(())
        };
        tokio::time::timeout(NEXT_CHANGE_WAIT, next_change).await.unwrap_or(Ok(()))
    };
    read.await
        .map_err(|error| explained(error, config))
        .with_context(|| format!("the binlog of {} can't be read from {place}", config.address))?;
    Ok(lag.age())
}

/// Where the transaction ends that begins at a place of the binlog; `None` if that isn't found out in time.
///
/// # Errors
/// If the binlog can't be read from there.
pub async fn transaction_end(
    config: &config::Source,
    begin: &BinlogPosition,
) -> anyhow::Result<Option<TransactionEnd>> {
    let (offset, wait) = match is_within_reach(begin) {
        true => (begin.offset, TRANSACTION_END_WAIT),
        false => (BinlogPosition::FIRST_EVENT, FAR_TRANSACTION_END_WAIT),
    };
    let from = BinlogPosition { offset, ..begin.clone() };
    let find = async {
        let server = Server::connect(config).await?;
        let mut stream = short_stream(config, server.flavor, from).await?;
        server.disconnect().await;
        let mut finder = EndFinder::new(begin.clone(), offset);
        loop {
            match stream.event().await {
                Ok(event) => {
                    if let Some(end) = finder.event(event) {
                        return Ok(Some(end));
                    }
                }
                Err(StreamError::End) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    };
    tokio::time::timeout(wait, find).await.unwrap_or(Ok(None))
}
