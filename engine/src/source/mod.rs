//! Reading the binlog: events in from the server, decoded batches out.
//!
//! The reading stops where the in-flight budget is used up, and goes on when checkpoints give it
//! back. A connection that is lost is made again, and the reading goes on exactly where it was.
//! [`preflight`] finds out before that whether the server can be read at all, [`place`] from where.

mod catalog;
pub(crate) mod client;
mod driver;
mod history;
mod lag;
pub mod place;
pub mod preflight;
pub mod tls;
mod wire;

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use rowmill_core::binlog::{
    CatalogColumn, DecodeError, Decoder, EndFinder, Next, RowBatch, TableSelector, TransactionEnd,
};
use rowmill_core::envelope::Connector;
use rowmill_core::position::{BinlogPosition, ResumePoint};
use tokio::sync::watch;
use tracing::{info, warn};

use catalog::{Asked, Catalog, ColumnsError};
use history::History;
pub use lag::Lag;
use place::{By, LocateError, Place, is_within_reach};
use preflight::{ConnectError, Flavor, Server};
use wire::{DumpRequest, HEARTBEAT_PERIOD, Login, Wire, WireError};

use crate::ack::{Cost, StopError};
use crate::config::{self, OnError, Start};
use crate::retry::{Delays, FailureLog, told};
use crate::schema_history::SchemaHistory;

/// The server closes a dump connection that isn't read for this long. While a queue is out of reach
/// nothing is read, so the session asks for a long time.
const NET_WRITE_TIMEOUT_S: u32 = 30 * 24 * 3600;
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

/// The server's error where the binlog can't be read on; its text says why.
const ER_SOURCE_FATAL_ERROR_READING_BINLOG: u16 = 1236;

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
    wire: Wire,
    decoder: Decoder,
    lag: Arc<Lag>,
    history: Arc<History>,
    connector: Connector,
    catalog: Catalog,
    /// What the catalog said of tables, and for which rows.
    schemas: Arc<SchemaHistory>,
}

/// Why the reading stopped.
enum Interruption {
    /// A new connection may mend it.
    Connection(WireError),
    /// Nothing mends it here.
    Fatal(anyhow::Error),
}

impl From<Box<DecodeError>> for Interruption {
    fn from(error: Box<DecodeError>) -> Self {
        let offset = error.transaction.unwrap_or(error.position.offset);
        let transaction = BinlogPosition { offset, ..error.position.clone() };
        Self::Fatal(StopError { transaction, error: error.into() }.into())
    }
}

impl From<ConnectError> for Interruption {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Refused(error) => Self::Fatal(error),
            ConnectError::Unreachable(error) => Self::Connection(WireError::Io(std::io::Error::other(error))),
        }
    }
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
        place: Place,
        select: Box<dyn TableSelector>,
        schemas: Arc<SchemaHistory>,
    ) -> anyhow::Result<Self> {
        let wire = stream(&config, server.flavor, &place)
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
        Ok(Self { config, wire, decoder, lag, history, connector, catalog: Catalog::default(), schemas })
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
                Err(Interruption::Fatal(error)) => return Err(error),
                Err(Interruption::Connection(error)) => {
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
                    Ok(Reconnected { wire, place, retention, time }) => {
                        let after = failures.worked().map(tracing::field::debug);
                        info!(source = candidate.address, position = %place, after, "reading on");
                        if place.by == By::Gtids {
                            self.decoder.relocate(place.resume);
                        }
                        self.history.reads(&candidate, self.decoder.resume_before());
                        self.catalog.forget();
                        self.schemas.reads(&self.decoder.resume_before().server);
                        retention.into_iter().for_each(|kept| self.lag.keeps(kept));
                        time.into_iter().for_each(|time| self.lag.is_now(time));
                        self.wire = wire;
                        self.config = candidate;
                        return Ok(());
                    }
                    Err(ConnectError::Unreachable(error)) => {
                        may_come_back = true;
                        told(&error)
                    }
                    Err(ConnectError::Refused(error)) => {
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
        let Self { config, wire, decoder, lag, history, catalog, schemas, connector: _ } = self;
        let mut handed_on = Instant::now();
        let mut events: u32 = 0;
        loop {
            // An event that is there already is taken at once; before waiting for one, what was decoded so far is handed
            // on, so that rows never wait for more rows.
            let event = wire.event_now().map_err(Interruption::Connection)?;
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
                wire.receive().await.map_err(Interruption::Connection)?;
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
                        // Asked for once more: what was known doesn't fit.
                        let is_wrong = tried.take().is_some_and(|tried| tried == (schema.clone(), table.clone()));
                        if is_wrong {
                            schemas.forget(&schema, &table);
                        } else if let Some(known) = schemas.columns(&schema, &table, &rows) {
                            tried = Some((schema.clone(), table.clone()));
                            decoder.try_columns(schema, table, known);
                            continue;
                        }
                        let before = decoder.resume_before();
                        let asked = Asked { schema: &schema, table: &table, missing, rows: &rows, before };
                        match catalog.columns(config, asked).await {
                            Ok(columns) => {
                                looked_up = Some((schema.clone(), table.clone(), rows, columns.clone()));
                                decoder.learn(schema, table, columns);
                            }
                            Err(ColumnsError::Unknown(error)) if config.on_error == OnError::DeadLetter => {
                                decoder.give_up_columns(schema, table, format!("{error:#}"));
                            }
                            Err(
                                ColumnsError::Unknown(error) | ColumnsError::Interruption(Interruption::Fatal(error)),
                            ) => {
                                // What is before the event is delivered all the same.
                                let transaction = decoder.transaction_begin();
                                while let Some(batch) = decoder.give_up() {
                                    if !outlet.hand_on(batch).await {
                                        return Ok(());
                                    }
                                }
                                return Err(Interruption::Fatal(StopError { transaction, error }.into()));
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
    wire: Wire,
    place: Place,
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
        return Err(ConnectError::Refused(problem.into()));
    }
    let place = match server.locate(&Start::Latest, Some(resume.clone())).await {
        Ok(place) => place,
        Err(LocateError::Gone(error)) if is_lost_connection(&error) => return Err(ConnectError::Unreachable(error)),
        Err(LocateError::Gone(error)) => {
            return Err(ConnectError::Refused(error.context("the checkpoint can't be gone on from")));
        }
        Err(LocateError::Behind(error)) => return Err(ConnectError::Unreachable(error)),
    };
    match stream(config, server.flavor, &place).await {
        Ok(wire) => {
            let (retention, time) = (server.retention().await.ok(), server.time().await.ok());
            server.disconnect().await;
            Ok(Reconnected { wire, place, retention, time })
        }
        Err(error) if is_final(&error) => Err(ConnectError::Refused(explained(error, config))),
        Err(error) => Err(ConnectError::Unreachable(error.into())),
    }
}

/// Whether the binlog can be read from a place on: asks for it, and waits for the first event. Says how
/// old the next change is, if there is one.
///
/// # Errors
/// If it can't.
pub async fn probe(config: &config::Source, flavor: Flavor, place: &Place) -> anyhow::Result<Option<Duration>> {
    let lag = Lag::default();
    let read = async {
        let mut wire = stream(&beside(config), flavor, place).await?;
        lag.read(wire.event().await?);
        let next_change = async {
            while lag.age().is_none() {
                lag.read(wire.event().await?);
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
        let mut wire = short_stream(config, server.flavor, from).await?;
        server.disconnect().await;
        let mut finder = EndFinder::new(begin.clone(), offset);
        loop {
            match wire.event().await {
                Ok(event) => {
                    if let Some(end) = finder.event(event) {
                        return Ok(Some(end));
                    }
                }
                Err(WireError::End) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    };
    tokio::time::timeout(wait, find).await.unwrap_or(Ok(None))
}

/// A connection on which the binlog comes from a place on; without an end.
async fn stream(config: &config::Source, flavor: Flavor, place: &Place) -> Result<Wire, WireError> {
    open_stream(config, flavor, place, Ending::Waits).await
}

/// What the server does where its binlog ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// It waits for more.
    Waits,
    /// It says so: [`WireError::End`].
    Ends,
}

async fn open_stream(
    config: &config::Source,
    flavor: Flavor,
    place: &Place,
    ending: Ending,
) -> Result<Wire, WireError> {
    let mut wire = Wire::connect(&Login::new(&config.options, &config.tls)).await?;
    wire.run(&format!("SET SESSION net_write_timeout = {NET_WRITE_TIMEOUT_S}")).await?;
    let heartbeat_ns = HEARTBEAT_PERIOD.as_nanos();
    // Servers before 8.0.26, and MariaDB, know the old names alone; newer ones take both.
    for name in ["master", "source"] {
        wire.run(&format!(
            "SET @{name}_heartbeat_period = {heartbeat_ns}, @{name}_binlog_checksum = @@global.binlog_checksum"
        ))
        .await?;
    }
    let Place { resume: ResumePoint { gtids, .. }, by, from } = place;
    let server_id = config.server_id;
    // MariaDB leaves annotations out unless they're asked for, though their bytes count.
    let annotations = flavor == Flavor::MariaDb;
    match (flavor, by, gtids) {
        (Flavor::MySql, By::Gtids, Some(gtids)) => {
            wire.dump_by_gtids(server_id, &gtids.encode()).await?;
            return Ok(wire);
        }
        (Flavor::MariaDb, ..) => wire.run("SET @mariadb_slave_capability = 4").await?,
        (Flavor::MySql, ..) => {}
    }
    let offset = u32::try_from(from.offset)
        .map_err(|_| WireError::Setup(anyhow!("{from} is beyond the 4 GiB that a server can be asked for")))?;
    let ends = ending == Ending::Ends;
    wire.dump(&DumpRequest { file: &from.file, offset, server_id, annotations, ends }).await?;
    Ok(wire)
}

/// A stream that ends where the binlog does, from a position on, beside the one of an engine that runs.
async fn short_stream(config: &config::Source, flavor: Flavor, from: BinlogPosition) -> Result<Wire, WireError> {
    open_stream(&beside(config), flavor, &Place::at(ResumePoint::at("", from)), Ending::Ends).await
}

/// With another server ID: the server ends a connection with the ID of a new one, and that of the engine is to stay.
fn beside(config: &config::Source) -> config::Source {
    config::Source { server_id: config::random_server_id(), ..config.clone() }
}

/// Whether a question to the server failed for want of a connection, not by the server's answer.
pub(crate) fn is_lost_connection(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| match (cause.downcast_ref::<mysql_async::Error>(), cause.downcast_ref::<WireError>()) {
        (Some(mysql_async::Error::Server(error)), _) => is_transient(error.code),
        (Some(mysql_async::Error::Io(mysql_async::IoError::Io(error))), _) => error.kind() != ErrorKind::InvalidData,
        (Some(mysql_async::Error::Driver(error)), _) => {
            !matches!(error, mysql_async::DriverError::NoClientSslFlagFromServer)
        }
        (_, Some(WireError::Server { code, .. })) => is_transient(*code),
        (_, Some(error)) => !is_final(error),
        _ => false,
    })
}

/// Errors of a server that isn't up yet, or has too much to do.
/// <https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html>
fn is_transient(code: u16) -> bool {
    const TOO_MANY_CONNECTIONS: [u16; 4] = [1040, 1041, 1203, 1226];
    const SHUTTING_DOWN_OR_STARTING: [u16; 5] = [1053, 1077, 3032, 3168, 4031];
    const THREADS_AND_NETWORK: [u16; 6] = [1135, 1152, 1158, 1159, 1160, 1161];
    const LOCKS_AND_READ_ONLY: [u16; 4] = [1205, 1213, 1290, 1836];
    [&TOO_MANY_CONNECTIONS[..], &SHUTTING_DOWN_OR_STARTING, &THREADS_AND_NETWORK, &LOCKS_AND_READ_ONLY]
        .iter()
        .any(|codes| codes.contains(&code))
}

/// Whether another connection would fail in the same way.
fn is_final(error: &WireError) -> bool {
    match error {
        WireError::Server { code, .. } => {
            matches!(
                *code,
                ER_SOURCE_FATAL_ERROR_READING_BINLOG
                    | preflight::ER_ACCESS_DENIED
                    | preflight::ER_SPECIFIC_ACCESS_DENIED
            )
        }
        WireError::Setup(_) => true,
        _ => false,
    }
}

/// The server's error, with what mends it.
fn explained(error: WireError, config: &config::Source) -> anyhow::Error {
    let WireError::Server { code, message } = &error else { return error.into() };
    let mend = match *code {
        preflight::ER_SPECIFIC_ACCESS_DENIED | preflight::ER_ACCESS_DENIED => {
            let user = config.options.user().unwrap_or_default();
            format!("run `GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO {user}`")
        }
        _ if message.contains("same server_uuid/server_id") || message.contains("same server_id") => {
            format!("another replica uses server_id {} too; give each its own by `source.server_id`", config.server_id)
        }
        _ if message.contains("purged") || message.contains("find first log file") => {
            "take a new copy of the tables, then remove the checkpoint and begin at \"earliest\"".to_owned()
        }
        _ => return error.into(),
    };
    anyhow!("{error}; {mend}")
}
