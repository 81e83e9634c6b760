//! The whole: starts each stage, bounds what is in flight, and shuts down in order.
//!
//! Stages are joined by channels and end when their input does. To stop, the source is stopped: the rest drains. A stage
//! that fails closes its channels, which ends the others; the first cause is the one that is reported. An error at a row
//! stops the pipeline there: all before it is delivered and checkpointed first. A panic ends everything at once.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rowmill_core::binlog::TransactionEnd;
use rowmill_core::position::ResumePoint;
use rowmill_pipeline::ack::{Left, StopReport, tracker};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::ack::{AckObserver, CheckpointFeed, Cost, StopError};
use crate::checkpoint::Checkpoint;
use crate::config::{self, Config, MySqlCheckpoint};
use crate::dispatch::{Dispatcher, SinkNeeds};
use crate::failpoint::{self, Step};
use crate::pace::Pace;
use crate::retry::{Delays, FailureLog, told};
use crate::selection::Selection;
use crate::sink::{self, Connections, DeadLetters, OpenError, Overflow, Sink};
use crate::source::place::LocateError;
use crate::source::preflight::{ConnectError, Server};
use crate::source::{self, Lag, Source};
use crate::transform::{CurrentChain, Loader, Reloader, Settings};
use crate::workers::{BATCHES_WAITING_MAX, Intake, Worker};

/// Of the time that a stop may take: for the last checkpoint, an eighth, but no more than this.
const LAST_CHECKPOINT_TIME_MAX: Duration = Duration::from_secs(1);
/// Signals that come so soon after another one are the same: they are sent to a process group, say, and to its leader.
const SAME_SIGNAL_WITHIN: Duration = Duration::from_secs(1);
/// How often a checkpoint is kept alive while nothing is written.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);
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
        let may_pass = source::is_lost_connection(&error);
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
            Err(OpenError::NotNow(error)) => Err(StartError::transient(error)),
            Err(OpenError::Refused(error) | OpenError::Operator(error)) => Err(StartError { error, may_pass: false }),
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
            Err(ConnectError::Unreachable(error)) => return Err(StartError::transient(error)),
            Err(ConnectError::Refused(error)) => return Err(StartError { error, may_pass: false }),
        };
        if let Some(problem) = server.problems().into_iter().next() {
            return Err(problem.into());
        }
        let start = server.locate(&source.start, saved.clone()).await.map_err(|error| {
            let (error, is_behind) = match error {
                LocateError::Behind(error) => (error, true),
                LocateError::Gone(error) => (error, false),
            };
            let may_pass = is_behind || source::is_lost_connection(&error);
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
    let needs = needs.map(|(sink, config)| SinkNeeds {
        ordered: sink.is_ordered(),
        format: config.format,
        escaping: config.escaping(),
        attributes: config.attributes().to_vec(),
        queue: config.queue_of_table().cloned(),
    });
    let dead_letters = destinations.dead_letters;
    let dispatcher = Dispatcher::new(destinations, needs.collect(), source_config.name.clone(), source.connector());
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

/// How all stages ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Everything that was read is delivered, and the checkpoint after it.
    Delivered,
    /// The checkpoint has what is delivered; so many rows aren't.
    Left {
        /// As they were read.
        rows: u64,
    },
}

/// A row or an event stopped the pipeline.
#[derive(Debug)]
pub(crate) struct StoppedAtRow {
    /// Why.
    pub stop: StopError,
    /// Whether all before it is delivered, and the checkpoint directly before it.
    pub is_reached: bool,
    /// What kept the rest from being delivered, if something did.
    pub hindrance: Option<anyhow::Error>,
}

impl std::fmt::Display for StoppedAtRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.stop)?;
        if self.is_reached {
            return f.write_str("; all before it is delivered");
        }
        f.write_str("; not all before it is delivered: the next start goes on with that")?;
        self.hindrance.as_ref().map_or(Ok(()), |hindrance| write!(f, " ({hindrance:#})"))
    }
}

impl std::error::Error for StoppedAtRow {}

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

/// All stages but the source, ready to run.
pub(crate) struct Stages {
    /// From where the source begins.
    pub first_resume: ResumePoint,
    pub chain: CurrentChain,
    /// How many workers there are.
    pub workers: usize,
    pub dispatcher: Dispatcher,
    pub sinks: Vec<Box<dyn Sink>>,
    /// Which of them is for dead letters.
    pub dead_letters: Option<usize>,
    pub checkpoint: Checkpoint,
    pub in_flight: Cost,
    /// How old what is read is.
    pub lag: Arc<Lag>,
    /// How long a stop may take.
    pub shutdown_timeout: Duration,
}

/// What the source and the workers run on.
pub(crate) trait Threads {
    /// Runs the source.
    fn spawn_source(
        &self,
        stages: &mut JoinSet<anyhow::Result<()>>,
        source: BoxFuture<'static, anyhow::Result<()>>,
    ) -> AbortHandle;

    /// Runs a worker, whose transforms block its thread.
    fn spawn_worker(&self, stages: &mut JoinSet<anyhow::Result<()>>, worker: Worker) -> AbortHandle;
}

/// A thread for the source, and one for each worker.
struct OwnThreads<'a> {
    reading: &'a Handle,
}

impl Threads for OwnThreads<'_> {
    fn spawn_source(
        &self,
        stages: &mut JoinSet<anyhow::Result<()>>,
        source: BoxFuture<'static, anyhow::Result<()>>,
    ) -> AbortHandle {
        stages.spawn_on(source, self.reading)
    }

    fn spawn_worker(&self, stages: &mut JoinSet<anyhow::Result<()>>, worker: Worker) -> AbortHandle {
        let runtime = Handle::current();
        stages.spawn_blocking(move || {
            runtime.block_on(worker.run());
            Ok(())
        })
    }
}

impl Stages {
    /// Runs what `source` gives, until `next_signal` says to stop, or until something stops the pipeline.
    pub(crate) async fn run<S: Future<Output = anyhow::Result<()>> + Send + 'static>(
        self,
        source: impl FnOnce(Intake, watch::Receiver<bool>) -> S,
        threads: &impl Threads,
        next_signal: impl AsyncFnMut() -> &'static str,
    ) -> anyhow::Result<Ended> {
        let Self {
            first_resume,
            chain,
            workers,
            dispatcher,
            sinks,
            dead_letters,
            checkpoint,
            in_flight,
            lag,
            shutdown_timeout,
        } = self;
        let (stop, stopped) = watch::channel(false);
        let (acks, feed, observer) = tracker(in_flight);

        let mut stages = JoinSet::new();
        // All but the checkpoint's.
        let mut deliverers = Vec::new();
        let is_nowhere: Vec<bool> = sinks.iter().map(|sink| sink.is_nowhere()).collect();
        // With one sink there are no others whose rows could pass a stalled one.
        let has_others = is_nowhere.iter().filter(|is_nowhere| !**is_nowhere).count() > 1;
        let overflow = Overflow::new(if has_others { in_flight.bytes } else { 0 });
        let queue = |_| sink::outlet(BATCHES_WAITING_MAX, overflow.clone());
        let (outlets, inlets): (Vec<_>, Vec<_>) = sinks.iter().map(queue).unzip();
        for (index, (sink, deliveries)) in sinks.into_iter().zip(inlets).enumerate() {
            // Its own inlet would never close.
            let dead_letters = dead_letters.filter(|&dead_letters| dead_letters != index);
            let dead_letters = dead_letters.map(|sink| DeadLetters { outlet: outlets[sink].clone() });
            let name = sink.name().to_owned();
            let run = async move { sink.run(deliveries, dead_letters).await.with_context(|| format!("sink.{name}")) };
            deliverers.push(stages.spawn(run));
        }
        let pace = Pace::new(first_resume.clone());
        let (intake, tasks) = Intake::new(acks, chain.clone(), workers);
        deliverers.push(threads.spawn_source(&mut stages, source(intake, stopped).boxed()));
        let outlets = outlets.into_iter().zip(is_nowhere).map(|(outlet, is_nowhere)| (!is_nowhere).then_some(outlet));
        let outlets: Arc<[_]> = outlets.collect();
        let skips = Arc::default();
        for tasks in tasks {
            let worker = Worker::new(tasks, dispatcher.clone(), Arc::clone(&outlets), Arc::clone(&skips));
            deliverers.push(threads.spawn_worker(&mut stages, worker));
        }
        drop(outlets); // sinks end when the last worker does
        stages.spawn(async move {
            tokio::select! {
                biased;
                result = write_checkpoints(checkpoint, feed, &pace) => result,
                () = pace.report(&lag) => Ok(()),
            }
        });
        let supervised = Supervised { stages, deliverers, observer: &observer, stop, shutdown_timeout };
        let result = supervised.run(next_signal).await;
        chain.newest().log_counters();
        let Some(StopReport { cause, is_reached }) = observer.stop() else { return result };
        match cause.downcast() {
            Ok(stop) => Err(StoppedAtRow { stop: *stop, is_reached, hindrance: result.err() }.into()),
            Err(cause) => Err(anyhow::Error::from_boxed(cause)),
        }
    }
}

/// Stages that run.
struct Supervised<'a> {
    stages: JoinSet<anyhow::Result<()>>,
    /// All of them but the checkpoint's.
    deliverers: Vec<AbortHandle>,
    observer: &'a AckObserver,
    /// Stops the source.
    stop: watch::Sender<bool>,
    shutdown_timeout: Duration,
}

impl Supervised<'_> {
    /// Waits for the end of all stages, and stops them when a signal says so, one fails, or a row stops the pipeline.
    async fn run(mut self, mut next_signal: impl AsyncFnMut() -> &'static str) -> anyhow::Result<Ended> {
        // Which stage failed first is why the others ended.
        let mut first_error = None;
        let mut deadline: Option<Instant> = None;
        let mut told: Option<Instant> = None;
        loop {
            let ended = tokio::select! {
                biased;
                ended = self.stages.join_next() => ended,
                () = self.observer.stopped(), if !*self.stop.borrow() => {
                    self.drain(&mut deadline);
                    continue;
                }
                name = next_signal() => {
                    let now = Instant::now();
                    match told {
                        // What drains already because something stopped it goes on draining.
                        None => {
                            info!(signal = name, "stopping: delivering what is in flight");
                            told = Some(now);
                            self.drain(&mut deadline);
                        }
                        Some(told) if now - told < SAME_SIGNAL_WITHIN => {}
                        Some(_) => {
                            warn!(signal = name, "a second signal: what is in flight isn't waited for");
                            deadline = Some(now);
                        }
                    }
                    continue;
                }
                () = async { tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)).await }, if deadline.is_some() => {
                    return self.give_up(first_error).await;
                }
            };
            let Some(ended) = ended else { break };
            // A panic ends all at once.
            if let Err(error) = ended.map_err(|panic| anyhow!("a stage panicked: {panic}"))? {
                debug!(error = format!("{error:#}"), "a stage failed");
                first_error.get_or_insert(error);
                self.drain(&mut deadline);
            }
        }
        if let Some(error) = first_error {
            return Err(error);
        }
        let lost = self.observer.lost();
        if lost > 0 {
            bail!("{lost} batches were given up by their sink; they are sent again at the next start");
        }
        Ok(Ended::Delivered)
    }

    /// Nothing more is read, and what is in flight has its time.
    fn drain(&self, deadline: &mut Option<Instant>) {
        self.stop.send_replace(true);
        let last_checkpoint = last_checkpoint_time(self.shutdown_timeout);
        deadline.get_or_insert_with(|| Instant::now() + self.shutdown_timeout - last_checkpoint);
    }

    /// What is in flight isn't waited for any more: the last checkpoint is written, and all ends.
    async fn give_up(mut self, first_error: Option<anyhow::Error>) -> anyhow::Result<Ended> {
        self.deliverers.iter().for_each(AbortHandle::abort);
        let mut error = first_error;
        let last = async {
            while let Some(ended) = self.stages.join_next().await {
                if let Ok(Err(failed)) = ended {
                    error.get_or_insert(failed);
                }
            }
        };
        let is_in_time = tokio::time::timeout(last_checkpoint_time(self.shutdown_timeout), last).await.is_ok();
        if let Some(error) = error {
            return Err(error);
        }
        match self.observer.left() {
            Left { rows, is_durable: true } => Ok(Ended::Left { rows }),
            Left { is_durable: false, .. } => {
                debug!(is_in_time, "the last checkpoint isn't written");
                Err(CheckpointUnwritten(self.shutdown_timeout).into())
            }
        }
    }
}

fn last_checkpoint_time(shutdown_timeout: Duration) -> Duration {
    (shutdown_timeout / 8).min(LAST_CHECKPOINT_TIME_MAX)
}

/// What was delivered isn't in the checkpoint.
#[derive(Debug, thiserror::Error)]
#[error(
    "the last checkpoint couldn't be written within {0:?}; what was delivered since the one before is sent again at the next start"
)]
pub(crate) struct CheckpointUnwritten(Duration);

/// Makes durable up to where all is delivered; what that takes of the in-flight budget is given back after.
async fn write_checkpoints(mut checkpoint: Checkpoint, mut feed: CheckpointFeed, pace: &Pace) -> anyhow::Result<()> {
    let mut due = Instant::now();
    loop {
        let moved = tokio::select! {
            biased;
            moved = feed.moved() => moved,
            () = tokio::time::sleep(KEEP_ALIVE_INTERVAL) => {
                checkpoint.keep_alive().await;
                continue;
            }
        };
        if !moved {
            checkpoint.finish().await;
            return Ok(());
        }
        tokio::select! {
            biased;
            () = feed.urgent() => {}
            () = tokio::time::sleep_until(due) => {}
        }
        let Some(advance) = feed.take() else { continue };
        debug!(position = %advance.progress, "checkpoint");
        failpoint::reached(Step::Checkpointing);
        checkpoint.write(&advance.progress).await?;
        failpoint::reached(Step::Checkpointed);
        feed.release(&advance);
        pace.delivered(advance);
        due = Instant::now() + checkpoint.interval();
    }
}

/// The signals that mean stop.
#[derive(Debug)]
pub struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    /// From now on they don't end the process.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("signals can't be listened to");
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    /// Waits for one. Gives its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
