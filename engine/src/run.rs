//! Runs the engine: opens everything that the pipeline needs, starts the pipeline, and reports how it ended.
//!
//! In: the configuration. Out: success, or the error that ended the engine; after a row that stopped the engine, with the
//! command that continues after the row's transaction.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use rowmill_core::binlog::TransactionEnd;
use tokio::runtime::{Builder, Handle, Runtime};
use tracing::{debug, info, warn};

use crate::ack::StopError;
use crate::checkpoint::Checkpoint;
use crate::config::{self, Config, MySqlCheckpoint};
use crate::mysql::{ConnectError, Server, is_lost_connection};
use crate::pipeline::{Ended, OwnThreads, Stages, StoppedAtRow};
use crate::retry::{Delays, FailureLog, error_text};
use crate::router::{Router, SinkRequirements};
use crate::selection::Selection;
use crate::shutdown::Signals;
use crate::sink::{self, Connections, OpenError};
use crate::source::binlog::{self, BinlogSource, LocateError};
use crate::status::Status;
use crate::transform::{Loader, Reloader, Settings};

/// The shortest and the longest pause between attempts to start.
const START_DELAY_MIN: Duration = Duration::from_millis(100);
const START_DELAY_MAX: Duration = Duration::from_secs(5);

/// Runs the engine until a signal stops it. With `waits`, retries servers and queues that cannot be reached at the start;
/// without, they are an error.
///
/// # Errors
/// If the engine cannot start, or if a stage fails. The checkpoint is then before everything that is not delivered.
pub fn run(config: Config, waits: bool) -> anyhow::Result<()> {
    let runtime = runtime()?;
    // The source's runtime has one thread: with several, each packet that arrives while the source is busy would wake
    // another thread for nothing.
    let reading = Builder::new_multi_thread().worker_threads(1).thread_name("source").enable_all().build();
    let reading = reading.context("cannot start the runtime's threads")?;
    let result = runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let prepared = tokio::select! {
            biased;
            name = signals.next() => {
                info!(signal = name, "stopped before anything was read");
                return Ok(());
            }
            prepared = prepare(config, waits, reading.handle()) => prepared?,
        };
        prepared.run(reading.handle(), signals).await
    });
    runtime.shutdown_background(); // a sink may still be waiting for an unreachable queue
    reading.shutdown_background();
    result
}

/// Creates the runtime for asynchronous tasks.
///
/// # Errors
/// If the system cannot start the threads.
pub fn runtime() -> anyhow::Result<Runtime> {
    Builder::new_multi_thread().enable_all().build().context("cannot start the runtime's threads")
}

/// The error of an attempt to start.
struct StartError {
    error: anyhow::Error,
    /// Whether a later attempt may succeed.
    may_pass: bool,
}

impl<E: Into<anyhow::Error>> From<E> for StartError {
    fn from(error: E) -> Self {
        let error: anyhow::Error = error.into();
        let may_pass = is_lost_connection(&error);
        Self { error, may_pass }
    }
}

impl StartError {
    fn transient(error: anyhow::Error) -> Self {
        Self { error, may_pass: true }
    }
}

/// Repeats `attempt` until it succeeds or fails for good. Without `waits`, the first failure is final.
async fn retry_start<T>(waits: bool, mut attempt: impl AsyncFnMut() -> Result<T, StartError>) -> anyhow::Result<T> {
    let mut delays = Delays::new(START_DELAY_MIN, START_DELAY_MAX, None);
    let mut failures = FailureLog::default();
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(StartError { error, may_pass }) if !(waits && may_pass) => return Err(error),
            Err(StartError { error, .. }) => {
                let error = error_text(&error);
                if let Some(since) = failures.failed(&error) {
                    warn!(?since, error, "cannot start yet; retrying");
                }
                tokio::time::sleep(delays.next_delay()).await;
            }
        }
    }
}

/// The opened parts of the engine, ready to run.
struct Prepared {
    source: BinlogSource,
    source_config: config::Source,
    stages: Stages,
    plugins: Reloader,
}

/// Opens the plugins, the sinks, the checkpoint and the source. Once this returns, all of them exist and can be used.
async fn prepare(config: Config, waits: bool, reading: &Handle) -> anyhow::Result<Prepared> {
    let settings = Settings::of(&config);
    let Config {
        source,
        checkpoint: checkpoint_config,
        plugins,
        sinks: sink_configs,
        destinations,
        in_flight,
        shutdown_timeout,
        notes,
    } = config;
    notes.iter().for_each(|note| warn!("{note}"));
    // Compiling plugins is slow, and would block the runtime.
    let loading = tokio::task::spawn_blocking(move || Reloader::load(Loader::new(settings)?));
    let plugins_running = loading.await.map_err(|panic| anyhow!("cannot load the plugins: {panic}"))??;
    let connections = Connections::default();
    let mut sinks = Vec::with_capacity(sink_configs.len());
    for config in &sink_configs {
        let open = async || match sink::open(config, &connections).await {
            Ok(sink) => Ok(sink),
            Err(OpenError::Transient(error)) => Err(StartError::transient(error)),
            Err(OpenError::Definite(error) | OpenError::NeedsOperator(error)) => {
                Err(StartError { error, may_pass: false })
            }
        };
        sinks.push(retry_start(waits, open).await?);
    }
    if let config::Checkpoint::MySql(MySqlCheckpoint { options, tls, .. }) = &checkpoint_config {
        warn_unverified(options, tls);
    }
    let (mut checkpoint, mut saved) =
        retry_start(waits, async || Ok(Checkpoint::open(&checkpoint_config).await?)).await?;
    let chain = plugins_running.chain();
    let status = Arc::new(Status::default());
    let connect = async || {
        // Earlier attempts may have taken long: the checkpoint must stay held meanwhile.
        checkpoint.keep_alive().await;
        let is_first_run = saved.is_none();
        let (mut server, source) = match Server::connect_first(&source).await {
            Ok(connected) => connected,
            Err(ConnectError::Transient(error)) => return Err(StartError::transient(error)),
            Err(ConnectError::Definite(error)) => return Err(StartError { error, may_pass: false }),
        };
        if let Some(problem) = server.problems().into_iter().next() {
            return Err(problem.into());
        }
        let start = binlog::locate(&mut server, &source.start, saved.clone()).await.map_err(|error| {
            let (error, is_transient) = match error {
                LocateError::Transient(error) => (error, true),
                LocateError::Definite(error) => (error, false),
            };
            let may_pass = is_transient || is_lost_connection(&error);
            let whose = match is_first_run {
                true => "cannot find the start point".to_owned(),
                false => format!("checkpoint {}", checkpoint.describe()),
            };
            StartError { error: error.context(whose), may_pass }
        })?;
        if is_first_run {
            // Written before anything is read: a restart before the next checkpoint would begin elsewhere otherwise.
            checkpoint.write(&start.resume).await?;
            // Later attempts begin there, too.
            saved = Some(start.resume.clone());
        }
        let (version, names_columns) = (server.version.clone(), server.names_columns());
        let position = start.to_string();
        let first_resume = start.resume.clone();
        let selection = Selection::new(source.tables.clone(), chain.clone());
        let schemas = checkpoint.schema_history(&server.identity, &source.tables).await?;
        let opening =
            BinlogSource::open(server, source.clone(), start, Box::new(selection), schemas, Arc::clone(&status));
        let opening = reading.spawn(opening);
        Ok((opening.await??, source, version, names_columns, position, first_resume))
    };
    let configured = source.clone();
    let (source, source_config, version, names_columns, position, first_resume) = retry_start(waits, connect).await?;
    for server in source_config.candidates() {
        warn_unverified(&server.options, &server.tls);
    }
    if !names_columns {
        warn!(
            "binlog_row_metadata is not FULL: columns are looked up in information_schema, and the stream stops when a \
             table was changed meanwhile; set binlog_row_metadata=FULL"
        );
    }
    let needs = sinks.iter().zip(&sink_configs);
    let needs = needs.map(|(sink, config)| SinkRequirements::new(sink.capabilities(), config));
    let dead_letters = destinations.dead_letters;
    let router = Router::new(destinations, needs.collect(), source_config.name.clone(), source.connector());
    info!(
        source = source_config.address,
        version,
        %position,
        plugins = ?plugins_running.names(),
        sinks = ?sinks.iter().map(|sink| sink.name()).collect::<Vec<_>>(),
        "running"
    );
    let stages = Stages {
        first_resume,
        chain,
        workers: plugins.threads,
        router,
        sinks,
        dead_letters,
        checkpoint,
        in_flight: in_flight.cost(),
        status,
        shutdown_timeout,
    };
    Ok(Prepared { source, source_config: configured, stages, plugins: plugins_running })
}

/// Logs a warning if TLS does not verify the server.
fn warn_unverified(options: &mysql_async::Opts, tls: &config::Tls) {
    if let Some(warning) = tls.warning(options) {
        warn!("{warning}");
    }
}

impl Prepared {
    async fn run(self, reading: &Handle, mut signals: Signals) -> anyhow::Result<()> {
        let Self { source, source_config, stages, plugins } = self;
        plugins.watch();
        let was_told = Cell::new(false);
        let next_signal = async || {
            let name = signals.next().await;
            was_told.set(true);
            name
        };
        let ended = stages.run(source, &OwnThreads { reading }, next_signal).await;
        match ended {
            Ok(Ended::Delivered) => info!("stopped: everything that was read is delivered"),
            Ok(Ended::Undelivered { rows }) => {
                warn!(rows, "stopped before all rows that were read were delivered; the next start sends them again")
            }
            // After a signal the process must end in time: the server is not asked for the end of the transaction.
            Err(error) if was_told.get() => return Err(error),
            Err(error) => {
                let resume_command = tokio::select! {
                    resume_command = resume_command(&error, &source_config) => resume_command,
                    _ = signals.next() => None,
                };
                return Err(match resume_command {
                    Some(resume_command) => anyhow!("{error:#}. {resume_command}"),
                    None => error,
                });
            }
        }
        Ok(())
    }
}

/// Returns the command that continues after the transaction of the row that stopped the pipeline. `None` if no row stopped
/// it, if not everything before the row is delivered, or if the server does not tell where the transaction ends, or is not
/// the first that answers.
async fn resume_command(error: &anyhow::Error, source: &config::Source) -> Option<String> {
    let stopped: &StoppedAtRow = error.downcast_ref()?;
    if !stopped.is_reached {
        return None;
    }
    let StopError { server, transaction, .. } = &stopped.stop;
    match binlog::transaction_end(source, server, transaction).await {
        Ok(end) => end.map(|TransactionEnd { position, gtid }| {
            let gtid = gtid.map_or_else(String::new, |gtid| format!(" (GTID {gtid})"));
            format!(
                "To continue after its transaction{gtid}, without the rest of it: rowmill checkpoint set {position}"
            )
        }),
        Err(unknown) => {
            debug!(error = format!("{unknown:#}"), "the end of the transaction is unknown");
            None
        }
    }
}
