//! The source: reads events from the server and forwards decoded batches to a [`BatchConsumer`].
//!
//! The source waits while the in-flight budget is used up, and continues when checkpoints release budget. The source replaces
//! a lost connection and resumes exactly where the old connection stopped. Before the source is opened, [`Server::problems`]
//! checks the server's settings and [`Server::locate`] finds the start point.

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
use tracing::{info, warn};

use catalog::{Catalog, ColumnRequest, ColumnsError};
use history::History;
pub use history::LocateError;
pub use lag::Lag;
use start_point::{ResumeBy, StartPoint, is_within_reach};
use stream::{Interruption, open_finite_stream, open_stream, with_other_server_id};

use crate::ack::{Cost, StopError};
use crate::config::{self, OnError, Start};
use crate::mysql::protocol::{ReplicationStream, StreamError};
use crate::mysql::{ConnectError, Flavor, Server, is_definite, is_lost_connection, with_fix};
use crate::retry::{Delays, FailureLog, error_text};
use crate::schema_history::SchemaHistory;
use crate::shutdown::Shutdown;

/// Rows are forwarded at least this often while events arrive without a pause, even if few of them are of selected tables.
const BATCH_AGE_MAX: Duration = Duration::from_millis(10);
/// Number of events between two looks at the clock.
const EVENTS_BETWEEN_CLOCKS: u32 = 64;

/// Time-out for finding the end of a transaction.
const TRANSACTION_END_WAIT: Duration = Duration::from_secs(5);
/// The same where the transaction begins 4 GiB or more into its file, which is then read from its head.
const FAR_TRANSACTION_END_WAIT: Duration = Duration::from_secs(60);
/// How long [`probe`] waits for the next change.
const NEXT_CHANGE_WAIT: Duration = Duration::from_secs(1);

/// The first pause between attempts to reconnect.
const RECONNECT_DELAY_MIN: Duration = Duration::from_millis(100);
/// The maximum pause between attempts, before jitter, which at most doubles a pause.
const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(5);

/// Takes batches, in binlog order.
pub trait BatchConsumer: Send {
    /// The limits of a batch.
    fn batch_limits(&self) -> Cost;

    /// Waits for room and forwards a batch. Returns false if the pipeline takes no more batches; the cause is reported by the
    /// stage that stopped the pipeline.
    fn forward(&mut self, batch: RowBatch) -> impl Future<Output = bool> + Send;

    /// Reports that the next event can never be read. The batches forwarded before are delivered before the engine stops.
    fn stop(&mut self, error: StopError);
}

/// The stage that reads the binlog of one server at a time.
pub struct Source {
    /// The configuration, with the server that is being read as the first one.
    config: config::Source,
    stream: ReplicationStream,
    decoder: Decoder,
    lag: Arc<Lag>,
    history: Arc<History>,
    connector: Connector,
    catalog: Catalog,
    /// Columns that were looked up, and the positions between which they hold.
    schemas: Arc<SchemaHistory>,
}

impl Source {
    /// Opens the server's binlog at a start point. `select` selects the tables to decode. Where the binlog does not name
    /// columns, those that are looked up are recorded in `schemas`.
    ///
    /// # Errors
    /// If the server rejects the request.
    pub async fn open(
        mut server: Server,
        config: config::Source,
        start: StartPoint,
        select: Box<dyn TableSelector>,
        schemas: Arc<SchemaHistory>,
    ) -> anyhow::Result<Self> {
        let stream = open_stream(&config, server.flavor, &start)
            .await
            .map_err(|error| with_fix(error, &config))
            .with_context(|| format!("cannot read the binlog of {} from {start}", config.address))?;
        let history = Arc::new(History::new(config.clone(), start.resume.clone()));
        let decoder = Decoder::new(start.resume, select)
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

    /// Returns the server's family, as named in messages.
    pub fn connector(&self) -> Connector {
        self.connector
    }

    /// Returns the lag, which is shared and kept up to date.
    pub fn lag(&self) -> Arc<Lag> {
        Arc::clone(&self.lag)
    }

    /// Reads until the shutdown is requested, or until the consumer takes no more batches.
    ///
    /// # Errors
    /// If the server no longer has the next event, or if its binlog was replaced. An event that cannot be decoded is no error
    /// here: it stops the consumer.
    pub async fn run(mut self, mut consumer: impl BatchConsumer, mut shutdown: Shutdown) -> anyhow::Result<()> {
        let (lag, history, address) = (self.lag(), Arc::clone(&self.history), self.config.address.clone());
        self.decoder.bound_batches(consumer.batch_limits());
        let result = tokio::select! {
            result = self.follow(&mut consumer) => result,
            () = lag.watch(&address) => Ok(()),
            error = history.watch() => Err(error),
            () = shutdown.requested() => Ok(()),
        };
        match result.map_err(anyhow::Error::downcast::<StopError>) {
            Err(Ok(error)) => {
                let server = Arc::clone(&self.decoder.resume_before().server);
                consumer.stop(StopError { server, ..error });
            }
            Err(Err(error)) => return Err(error),
            Ok(()) => {}
        }
        Ok(())
    }

    /// Reads, and reconnects when the connection is lost.
    async fn follow(&mut self, consumer: &mut impl BatchConsumer) -> anyhow::Result<()> {
        let mut delays = reconnect_delays();
        let mut read_from = self.decoder.position().clone();
        loop {
            match self.read(consumer).await {
                Ok(()) => return Ok(()),
                Err(Interruption::Definite(error)) => return Err(error),
                Err(Interruption::Transient(error)) => {
                    let read_to = self.decoder.position().clone();
                    if is_definite(&error) {
                        if let Some(error) = history::difference(&self.config, self.decoder.resume_before()).await {
                            return Err(error);
                        }
                        let address = &self.config.address;
                        return Err(with_fix(error, &self.config))
                            .with_context(|| format!("cannot continue to read the binlog of {address} at {read_to}"));
                    }
                    // Connections on which nothing can be read are not opened one after another without pauses.
                    if read_to != read_from {
                        (delays, read_from) = (reconnect_delays(), read_to.clone());
                    }
                    let resume = self.decoder.rewind();
                    warn!(source = self.config.address, position = %read_to, error = %error, "connection lost, reconnecting");
                    self.reconnect(resume, &mut delays).await?;
                }
            }
        }
    }

    /// Tries each configured server in turn, with pauses, until one of them streams from `resume`.
    async fn reconnect(&mut self, resume: ResumePoint, delays: &mut Delays) -> anyhow::Result<()> {
        let mut failures = FailureLog::default();
        loop {
            tokio::time::sleep(delays.next_delay()).await;
            // A definite error of one server is not fatal while another one may recover.
            let (mut first_error, mut may_come_back) = (None, false);
            for candidate in self.config.candidates() {
                let not_yet = match reconnect_to(&candidate, &resume).await {
                    Ok(Reconnected { stream, start, retention, time }) => {
                        let after = failures.worked().map(tracing::field::debug);
                        info!(source = candidate.address, position = %start, after, "reconnected");
                        if start.by == ResumeBy::Gtids {
                            self.decoder.relocate(start.resume);
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
                        error_text(&error)
                    }
                    Err(ConnectError::Definite(error)) => {
                        let text = error_text(&error);
                        first_error.get_or_insert(error);
                        text
                    }
                };
                if let Some(since) = failures.failed(&not_yet) {
                    warn!(source = candidate.address, ?since, error = not_yet, "cannot reconnect yet, retrying");
                }
            }
            if let (Some(error), false) = (first_error, may_come_back) {
                return Err(error);
            }
        }
    }

    async fn read(&mut self, consumer: &mut impl BatchConsumer) -> Result<(), Interruption> {
        let Self { config, stream, decoder, lag, history, catalog, schemas, connector: _ } = self;
        let mut handed_on = Instant::now();
        let mut events: u32 = 0;
        loop {
            // Take an event that was already received. Before waiting for one, forward the rows decoded so far, so that rows
            // never wait for more rows.
            let event = stream.try_next_event().map_err(Interruption::Transient)?;
            events = events.wrapping_add(1);
            let is_old = || events.is_multiple_of(EVENTS_BETWEEN_CLOCKS) && handed_on.elapsed() > BATCH_AGE_MAX;
            if event.is_none() || is_old() {
                while let Some(batch) = decoder.flush() {
                    handed_on = Instant::now();
                    if !consumer.forward(batch).await {
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
            // Columns from the schema history are tried first; columns that were looked up are recorded if they fit.
            let mut tried: Option<(String, String)> = None;
            let mut looked_up: Option<(String, String, BinlogPosition, Vec<CatalogColumn>)> = None;
            loop {
                // `next` is matched in place: most events make no batch, and moving the result, which has room for a batch,
                // would take as long as decoding such an event.
                let next = decoder.next(event);
                // Record columns before a batch is forwarded, as the checkpoint may follow the batch at once.
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
                        if !consumer.forward(*batch).await {
                            return Ok(());
                        }
                    }
                    Ok(Next::Columns { schema, table, missing }) => {
                        let rows = decoder.position().clone();
                        // If the decoder requests the same columns again, those of the schema history do not fit.
                        let is_wrong = tried.take().is_some_and(|tried| tried == (schema.clone(), table.clone()));
                        if is_wrong {
                            schemas.forget(&schema, &table);
                        } else if let Some(known) = schemas.columns(&schema, &table, &rows) {
                            tried = Some((schema.clone(), table.clone()));
                            decoder.learn_guess(schema, table, known);
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
                                // Rows before the event are still delivered.
                                let transaction = decoder.transaction_begin();
                                while let Some(batch) = decoder.give_up() {
                                    if !consumer.forward(batch).await {
                                        return Ok(());
                                    }
                                }
                                return Err(Interruption::Definite(
                                    StopError { server: "".into(), transaction, error }.into(),
                                ));
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

/// Returns the pauses between attempts to reconnect.
fn reconnect_delays() -> Delays {
    Delays::new(RECONNECT_DELAY_MIN, RECONNECT_DELAY_MAX, None)
}

/// A new connection that streams from the resume point.
struct Reconnected {
    stream: ReplicationStream,
    start: StartPoint,
    /// How long the server keeps its binlog (inner `None`: for ever); `None` if that is unknown.
    retention: Option<Option<Duration>>,
    /// The server's clock, as time since 1970; `None` if unknown.
    time: Option<Duration>,
}

/// Connects to a server and opens a stream at `resume`.
///
/// # Errors
/// Transient if the server cannot be reached or does not have the transactions yet, definite if it cannot be read from there.
async fn reconnect_to(config: &config::Source, resume: &ResumePoint) -> Result<Reconnected, ConnectError> {
    let mut server = Server::connect(config).await?;
    if let Some(problem) = server.problems().into_iter().next() {
        return Err(ConnectError::Definite(problem.into()));
    }
    let start = match server.locate(&Start::Latest, Some(resume.clone())).await {
        Ok(start) => start,
        Err(LocateError::Definite(error)) if is_lost_connection(&error) => return Err(ConnectError::Transient(error)),
        Err(LocateError::Definite(error)) => {
            return Err(ConnectError::Definite(error.context("cannot continue from the checkpoint")));
        }
        Err(LocateError::Transient(error)) => return Err(ConnectError::Transient(error)),
    };
    match open_stream(config, server.flavor, &start).await {
        Ok(stream) => {
            let (retention, time) = (server.retention().await.ok(), server.time().await.ok());
            server.disconnect().await;
            Ok(Reconnected { stream, start, retention, time })
        }
        Err(error) if is_definite(&error) => Err(ConnectError::Definite(with_fix(error, config))),
        Err(error) => Err(ConnectError::Transient(error.into())),
    }
}

/// Checks that the binlog can be read from a start point, by waiting for the first event. Returns the age of the next change,
/// or `None` if no change follows within a second.
///
/// # Errors
/// If the binlog cannot be read from there.
pub async fn probe(config: &config::Source, flavor: Flavor, start: &StartPoint) -> anyhow::Result<Option<Duration>> {
    let lag = Lag::default();
    let read = async {
        let mut stream = open_stream(&with_other_server_id(config), flavor, start).await?;
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
        .map_err(|error| with_fix(error, config))
        .with_context(|| format!("cannot read the binlog of {} from {start}", config.address))?;
    Ok(lag.age())
}

/// Finds the end of the transaction that begins at a position of a server's binlog. Returns `None` if the end is not found in
/// time, or if another server answers first: there the position means something else, and `rowmill checkpoint set` would ask
/// that one.
///
/// # Errors
/// If the binlog cannot be read from there.
pub async fn transaction_end(
    config: &config::Source,
    server: &str,
    begin: &BinlogPosition,
) -> anyhow::Result<Option<TransactionEnd>> {
    let (offset, wait) = match is_within_reach(begin) {
        true => (begin.offset, TRANSACTION_END_WAIT),
        false => (BinlogPosition::FIRST_EVENT, FAR_TRANSACTION_END_WAIT),
    };
    let from = BinlogPosition { offset, ..begin.clone() };
    let find = async {
        let (first, config) = Server::connect_first(config).await?;
        if first.identity != server {
            return Ok(None);
        }
        let mut stream = open_finite_stream(&config, first.flavor, from).await?;
        first.disconnect().await;
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
