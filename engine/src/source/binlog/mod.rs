//! The source of a server's binlog: reads the events, and forwards decoded batches to a [`BatchConsumer`].
//!
//! The source waits while the in-flight budget is used up, and continues when checkpoints release budget. The source replaces
//! a lost connection and resumes exactly where the old connection stopped. Before the source is opened, [`Server::problems`]
//! checks the server's settings and [`locate`] finds the start point.

mod catalog;
mod history;
mod locate;
mod probe;
mod start_point;
mod stream;

use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use rowmill_core::binlog::{CatalogColumn, Decoder, Next, TableSelector};
use rowmill_core::envelope::Connector;
use rowmill_core::position::{BinlogPosition, ResumePoint};
use tracing::{info, warn};

use catalog::{Catalog, ColumnRequest, ColumnsError};
use history::History;
pub use history::LocateError;
pub use locate::locate;
pub use probe::{probe, transaction_end};
use start_point::{ResumeBy, StartPoint};
use stream::{Interruption, open_stream};

use super::{BatchConsumer, Source};
use crate::ack::StopError;
use crate::config::{self, OnError, Start};
use crate::mysql::protocol::ReplicationStream;
use crate::mysql::{ConnectError, Server, is_definite, is_lost_connection, with_fix};
use crate::progress;
use crate::retry::{Delays, FailureLog, error_text};
use crate::schema_history::SchemaHistory;
use crate::shutdown::Shutdown;
use crate::status::Status;

/// Rows are forwarded at least this often while events arrive without a pause, even if few of them are of selected tables.
const BATCH_AGE_MAX: Duration = Duration::from_millis(10);
/// Number of events between two looks at the clock.
const EVENTS_BETWEEN_CLOCKS: u32 = 64;

/// The first pause between attempts to reconnect.
const RECONNECT_DELAY_MIN: Duration = Duration::from_millis(100);
/// The maximum pause between attempts, before jitter, which at most doubles a pause.
const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(5);

/// The stage that reads the binlog of one server at a time.
pub struct BinlogSource {
    /// The configuration, with the server that is being read as the first one.
    config: config::Source,
    stream: ReplicationStream,
    decoder: Decoder,
    status: Arc<Status>,
    history: Arc<History>,
    connector: Connector,
    catalog: Catalog,
    /// Columns that were looked up, and the positions between which they hold.
    schemas: Arc<SchemaHistory>,
}

impl BinlogSource {
    /// Opens the server's binlog at a start point. `select` selects the tables to decode. Where the binlog does not name
    /// columns, those that are looked up are recorded in `schemas`. What is read is recorded in `status`.
    ///
    /// # Errors
    /// If the server rejects the request.
    pub async fn open(
        mut server: Server,
        config: config::Source,
        start: StartPoint,
        select: Box<dyn TableSelector>,
        schemas: Arc<SchemaHistory>,
        status: Arc<Status>,
    ) -> anyhow::Result<Self> {
        let stream = open_stream(&config, server.flavor, &start)
            .await
            .map_err(|error| with_fix(error, &config))
            .with_context(|| format!("cannot read the binlog of {} from {start}", config.address))?;
        let history = Arc::new(History::new(config.clone(), start.resume.clone()));
        let decoder = Decoder::new(start.resume, select)
            .with_schema_changes(config.schema_changes)
            .with_skipping(config.on_error == OnError::DeadLetter)
            .with_alterations(true);
        let (retention, time) = (server.retention().await?, server.time().await?);
        status.connected(&config.address, Some(retention), Some(time));
        let connector = server.flavor.connector();
        server.disconnect().await;
        Ok(Self { config, stream, decoder, status, history, connector, catalog: Catalog::default(), schemas })
    }

    /// Returns the server's family, as named in messages.
    pub fn connector(&self) -> Connector {
        self.connector
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
                        self.status.connected(&candidate.address, retention, time);
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
        let Self { config, stream, decoder, status, history, catalog, schemas, connector: _ } = self;
        let mut forwarded_at = Instant::now();
        let mut events: u32 = 0;
        let mut columns = GivenColumns::None;
        loop {
            // Take an event that was already received. Before waiting for one, forward the rows decoded so far, so that rows
            // never wait for more rows.
            let event = stream.try_next_event().map_err(Interruption::Transient)?;
            events = events.wrapping_add(1);
            let is_old = || events.is_multiple_of(EVENTS_BETWEEN_CLOCKS) && forwarded_at.elapsed() > BATCH_AGE_MAX;
            if event.is_none() || is_old() {
                while let Some(batch) = decoder.flush() {
                    forwarded_at = Instant::now();
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
            status.read(event);
            if columns.are_given() {
                columns = GivenColumns::None;
            }
            loop {
                // `next` is matched in place: most events make no batch, and moving the result, which has room for a batch,
                // would take as long as decoding such an event.
                let next = decoder.next(event);
                // Record columns before a batch is forwarded, as the checkpoint may follow the batch at once.
                if columns.were_looked_up()
                    && let GivenColumns::LookedUp { schema, table, rows, columns } = mem::take(&mut columns)
                    && next.is_ok()
                    && decoder.knows_columns(&schema, &table)
                {
                    schemas.learn(&schema, &table, rows, columns);
                }
                if decoder.has_alterations() {
                    for (at, altered) in decoder.take_alterations() {
                        schemas.alter(&at, &altered);
                    }
                }
                match next {
                    Ok(Next::Event) => break,
                    Ok(Next::Batch(batch)) => {
                        forwarded_at = Instant::now();
                        if !consumer.forward(*batch).await {
                            return Ok(());
                        }
                    }
                    Ok(Next::Columns { schema, table, missing }) => {
                        let rows = decoder.position().clone();
                        // If the decoder requests the same columns again, those of the schema history do not fit.
                        if mem::take(&mut columns).are_a_guess_for(&schema, &table) {
                            schemas.forget(&schema, &table);
                        } else if let Some(known) = schemas.columns(&schema, &table, &rows) {
                            columns = GivenColumns::Guess { schema: schema.clone(), table: table.clone() };
                            decoder.learn_guess(schema, table, known);
                            continue;
                        }
                        let before = decoder.resume_before();
                        let asked = ColumnRequest { schema: &schema, table: &table, missing, rows: &rows, before };
                        match catalog.columns(config, asked).await {
                            Ok(found) => {
                                columns = GivenColumns::LookedUp {
                                    schema: schema.clone(),
                                    table: table.clone(),
                                    rows,
                                    columns: found.clone(),
                                };
                                decoder.learn(schema, table, found);
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

/// The columns that the decoder was given last for the current event. Those of the schema history are tried first; those that
/// were looked up are recorded there once they fit.
#[derive(Default)]
enum GivenColumns {
    #[default]
    None,
    /// Columns of the schema history.
    Guess { schema: String, table: String },
    /// Columns that were looked up for the rows at a position.
    LookedUp { schema: String, table: String, rows: BinlogPosition, columns: Vec<CatalogColumn> },
}

impl GivenColumns {
    fn are_given(&self) -> bool {
        !matches!(self, Self::None)
    }

    fn were_looked_up(&self) -> bool {
        matches!(self, Self::LookedUp { .. })
    }

    fn are_a_guess_for(&self, of_schema: &str, of_table: &str) -> bool {
        matches!(self, Self::Guess { schema, table } if schema == of_schema && table == of_table)
    }
}

impl Source for BinlogSource {
    async fn run(mut self, mut consumer: impl BatchConsumer + 'static, mut shutdown: Shutdown) -> anyhow::Result<()> {
        let (status, history) = (Arc::clone(&self.status), Arc::clone(&self.history));
        self.decoder.bound_batches(consumer.batch_limits());
        let result = tokio::select! {
            result = self.follow(&mut consumer) => result,
            () = progress::warn_of_lag(&status) => Ok(()),
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
    let start = match locate(&mut server, &Start::Latest, Some(resume.clone())).await {
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
