//! Runs the engine: makes everything ready that the pipeline needs, starts it, and reports how it ended.

use std::cell::Cell;
use std::time::Duration;

use anyhow::{Context, anyhow};
use rowmill_core::binlog::TransactionEnd;
use tokio::runtime::{Builder, Handle, Runtime};
use tracing::{debug, info, warn};

use crate::checkpoint::Checkpoint;
use crate::config::{self, Config, MySqlCheckpoint};
use crate::mysql::{ConnectError, Server, is_lost_connection};
use crate::pipeline::{Ended, OwnThreads, Stages, StoppedAtRow};
use crate::retry::{Delays, FailureLog, told};
use crate::router::{Router, SinkRequirements};
use crate::selection::Selection;
use crate::signals::Signals;
use crate::sink::{self, Connections, OpenError};
use crate::source::{self, LocateError, Source};
use crate::transform::{Loader, Reloader, Settings};

/// Between two tries to reach what is needed for the start.
const START_DELAY_MIN: Duration = Duration::from_millis(100);
const START_DELAY_MAX: Duration = Duration::from_secs(5);

/// Runs until a signal says to stop. `waits` for what can't be reached yet at the start, or fails.
///
/// # Errors
/// If it can't start, or if a stage fails. The checkpoint is then before everything that wasn't
/// delivered.
pub fn run(config: Config, waits: bool) -> anyhow::Result<()> {
    let runtime = runtime()?;
    // The source has a thread of its own: were it one of several, each piece that arrives while it is busy would wake
    // another for nothing.
    let reading = Builder::new_multi_thread().worker_threads(1).thread_name("source").enable_all().build();
    let reading = reading.context("no runtime")?;
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
    runtime.shutdown_background(); // a sink may still wait for a queue that is out of reach
    reading.shutdown_background();
    result
}

/// What tasks run on.
///
/// # Errors
/// If the system has no threads to give.
pub fn runtime() -> anyhow::Result<Runtime> {
    Builder::new_multi_thread().enable_all().build().context("no runtime")
}

/// Why something that is needed for the start isn't there.
struct StartError {
    error: anyhow::Error,
    /// Whether it may be there later.
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

/// Tries until it works, or fails for good; where nothing is waited for, once.
async fn until_there<T>(waits: bool, mut attempt: impl AsyncFnMut() -> Result<T, StartError>) -> anyhow::Result<T> {
    let mut delays = Delays::new(START_DELAY_MIN, START_DELAY_MAX, None);
    let mut failures = FailureLog::default();
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(StartError { error, may_pass }) if !(waits && may_pass) => return Err(error),
            Err(StartError { error, .. }) => {
                let error = told(&error);
                if let Some(since) = failures.failed(&error) {
                    warn!(?since, error, "can't start yet, trying again");
                }
                tokio::time::sleep(delays.next_delay()).await;
            }
        }
    }
}

/// All that runs, ready to.
struct Prepared {
    source: Source,
    source_config: config::Source,
    stages: Stages,
    plugins: Reloader,
}

/// Makes everything ready: what it needs is there then, and may be used.
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
    // To compile takes its time.
    let loading = tokio::task::spawn_blocking(move || Reloader::load(Loader::new(settings)?));
    let plugins_running = loading.await.map_err(|panic| anyhow!("the plugins can't be loaded: {panic}"))??;
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
        sinks.push(until_there(waits, open).await?);
    }
    if let config::Checkpoint::MySql(MySqlCheckpoint { options, tls, .. }) = &checkpoint_config {
        warn_unverified(options, tls);
    }
    let (mut checkpoint, mut saved) =
        until_there(waits, async || Ok(Checkpoint::open(&checkpoint_config).await?)).await?;
    let chain = plugins_running.chain();
    let connect = async || {
        // It may have been waited for long.
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
        let start = server.locate(&source.start, saved.clone()).await.map_err(|error| {
            let (error, is_behind) = match error {
                LocateError::Transient(error) => (error, true),
                LocateError::Definite(error) => (error, false),
            };
            let may_pass = is_behind || is_lost_connection(&error);
            let whose = match is_first_run {
                true => "no place to begin".to_owned(),
                false => format!("checkpoint {}", checkpoint.describe()),
            };
            StartError { error: error.context(whose), may_pass }
        })?;
        if is_first_run {
            // Were it written only with the first change, a restart before it would begin elsewhere.
            checkpoint.write(&start.resume).await?;
            // A later try begins there as well.
            saved = Some(start.resume.clone());
        }
        let (version, names_columns) = (server.version.clone(), server.names_columns());
        let position = start.to_string();
        let first_resume = start.resume.clone();
        let selection = Selection::new(source.tables.clone(), chain.clone());
        let schemas = checkpoint.schema_history(&server.identity, &source.tables).await?;
        let opening = reading.spawn(Source::open(server, source.clone(), start, Box::new(selection), schemas));
        Ok((opening.await??, source, version, names_columns, position, first_resume))
    };
    let (source, source_config, version, names_columns, position, first_resume) = until_there(waits, connect).await?;
    for server in source_config.candidates() {
        warn_unverified(&server.options, &server.tls);
    }
    if !names_columns {
        warn!(
            "binlog_row_metadata isn't FULL: columns are looked up in information_schema, which stops the stream when a \
             table was changed meanwhile; FULL is safer"
        );
    }
    let needs = sinks.iter().zip(&sink_configs);
    let needs = needs.map(|(sink, config)| SinkRequirements {
        ordered: sink.is_ordered(),
        format: config.format,
        escaping: config.escaping(),
        attributes: config.attributes().to_vec(),
        queue: config.queue_of_table().cloned(),
    });
    let dead_letters = destinations.dead_letters;
    let dispatcher = Router::new(destinations, needs.collect(), source_config.name.clone(), source.connector());
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
        dispatcher,
        sinks,
        dead_letters,
        checkpoint,
        in_flight: in_flight.cost(),
        lag: source.lag(),
        shutdown_timeout,
    };
    Ok(Prepared { source, source_config, stages, plugins: plugins_running })
}

/// A server that isn't verified is told of.
fn warn_unverified(options: &mysql_async::Opts, tls: &config::Tls) {
    if let Some(warning) = tls.warning(options) {
        warn!("{warning}");
    }
}

impl Prepared {
    async fn run(self, reading: &Handle, mut signals: Signals) -> anyhow::Result<()> {
        let Self { source, source_config, stages, plugins } = self;
        plugins.watch();
        let run_source = |intake, stopped| source.run(intake, stopped);
        let was_told = Cell::new(false);
        let next_signal = async || {
            let name = signals.next().await;
            was_told.set(true);
            name
        };
        let ended = stages.run(run_source, &OwnThreads { reading }, next_signal).await;
        match ended {
            Ok(Ended::Delivered) => info!("stopped: everything that was read is delivered"),
            Ok(Ended::Left { rows }) => warn!(
                rows,
                "stopped: so many rows that were read weren't delivered in time; they are sent again at the next start"
            ),
            // A signal came: the process must end in time.
            Err(error) if was_told.get() => return Err(error),
            Err(error) => {
                let way_on = tokio::select! {
                    way_on = way_on(&error, &source_config) => way_on,
                    _ = signals.next() => None,
                };
                return Err(match way_on {
                    Some(way_on) => anyhow!("{error:#}. {way_on}"),
                    None => error,
                });
            }
        }
        Ok(())
    }
}

/// If an error stopped the pipeline at a row, and all before the row is delivered: the command that goes on after the row's
/// transaction, if the server says where that ends.
async fn way_on(error: &anyhow::Error, source: &config::Source) -> Option<String> {
    let stopped: &StoppedAtRow = error.downcast_ref()?;
    if !stopped.is_reached {
        return None;
    }
    match source::transaction_end(source, &stopped.stop.transaction).await {
        Ok(end) => end.map(|TransactionEnd { position, gtid }| {
            let gtid = gtid.map_or_else(String::new, |gtid| format!(" (GTID {gtid})"));
            format!(
                "To go on after its transaction{gtid}, without what is left of it: rowmill checkpoint set {position}"
            )
        }),
        Err(unknown) => {
            debug!(error = format!("{unknown:#}"), "the end of the transaction isn't known");
            None
        }
    }
}
