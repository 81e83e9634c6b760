//! The whole: starts each stage, bounds what is in flight, and shuts down in order.
//!
//! Stages are joined by channels and end when their input does. To stop, the source is stopped: the rest drains. A stage
//! that fails closes its channels, which ends the others; the first cause is the one that is reported. An error at a row
//! stops the pipeline there: all before it is delivered and checkpointed first. A panic ends everything at once.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rowmill_core::binlog::TransactionEnd;
use rowmill_core::position::Resume;
use rowmill_pipeline::ack::{StopReport, tracker};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::ack::{AckObserver, CheckpointFeed, Cost, StopError};
use crate::checkpoint::Checkpoint;
use crate::config::{self, Config};
use crate::dispatch::{Dispatcher, SinkNeeds};
use crate::failpoint::{self, Step};
use crate::pace::Pace;
use crate::selection::Selection;
use crate::sink::{self, Connections, DeadLetters, Overflow, Sink};
use crate::source::preflight::Server;
use crate::source::{self, Lag, Source};
use crate::transform::{CurrentChain, Loader, Reloader, Settings};
use crate::workers::{BATCHES_WAITING_MAX, Intake, Worker};

/// After a signal, how long what is in flight may take to arrive.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(25);

/// Runs until a signal says to stop.
///
/// # Errors
/// If it can't start, or if a stage fails. The checkpoint is then before everything that wasn't
/// delivered.
pub fn run(config: Config) -> anyhow::Result<()> {
    let runtime = runtime()?;
    // The source has a thread of its own: were it one of several, each piece that arrives while it is busy would wake
    // another for nothing.
    let reading = Builder::new_multi_thread().worker_threads(1).thread_name("source").enable_all().build();
    let reading = reading.context("no runtime")?;
    let result = runtime.block_on(start(config, reading.handle()));
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

async fn start(config: Config, reading: &Handle) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let loader = Loader::new(Settings::of(&config))?;
    let Config { source, checkpoint, plugins, sinks: sink_configs, destinations, in_flight } = config;
    let plugins_running = Reloader::load(loader)?;
    let connections = Connections::default();
    let mut sinks = Vec::with_capacity(sink_configs.len());
    for config in &sink_configs {
        sinks.push(sink::open(config, &connections).await?);
    }
    let (mut server, source) = Server::connect_first(&source).await?;
    if let Some(problem) = server.problems().into_iter().next() {
        return Err(problem.into());
    }
    if !server.names_columns() {
        warn!(
            "binlog_row_metadata isn't FULL: columns are looked up in information_schema, which stops the stream when a \
             table was changed meanwhile; FULL is safer"
        );
    }
    let (mut checkpoint, saved) = Checkpoint::open(&checkpoint, &source.tls).await?;
    let is_first_run = saved.is_none();
    let start = server.locate(&source.start, saved).await.with_context(|| match is_first_run {
        true => "no place to begin".to_owned(),
        false => format!("checkpoint {}", checkpoint.describe()),
    })?;
    if is_first_run {
        // Were it written only with the first change, a restart before it would begin elsewhere.
        checkpoint.write(&start.resume).await?;
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
    let dispatcher = Dispatcher::new(destinations, needs.collect(), source.name.clone());
    let (address, version) = (source.address.clone(), server.version.clone());
    let (position, first_resume) = (start.to_string(), start.resume.clone());
    let selection = Selection { tables: source.tables.clone(), chain: plugins_running.chain() };
    let source_config = source.clone();
    let source = reading.spawn(Source::open(server, source, start, Box::new(selection))).await??;
    info!(
        source = address,
        version,
        %position,
        plugins = ?plugins_running.names(),
        sinks = ?sinks.iter().map(|sink| sink.name()).collect::<Vec<_>>(),
        "running"
    );
    let stages = Stages {
        first_resume,
        chain: plugins_running.chain(),
        workers: plugins.threads,
        dispatcher,
        sinks,
        dead_letters,
        checkpoint,
        in_flight: in_flight.cost(),
        lag: source.lag(),
    };
    plugins_running.watch();
    let run_source = |intake, stopped| source.run(intake, stopped);
    let ended = stages.run(run_source, &OwnThreads { reading }, async || signals.next().await).await;
    match ended {
        Err(error) => {
            let way_on = tokio::select! {
                way_on = way_on(&error, &source_config) => way_on,
                _ = signals.next() => None,
            };
            Err(match way_on {
                Some(way_on) => anyhow!("{error:#}. {way_on}"),
                None => error,
            })
        }
        Ok(()) => Ok(()),
    }
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
    pub first_resume: Resume,
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
}

/// What the source and the workers run on.
pub(crate) trait Threads {
    /// Runs the source.
    fn spawn_source(&self, stages: &mut JoinSet<anyhow::Result<()>>, source: BoxFuture<'static, anyhow::Result<()>>);

    /// Runs a worker, whose transforms block its thread.
    fn spawn_worker(&self, stages: &mut JoinSet<anyhow::Result<()>>, worker: Worker);
}

/// A thread for the source, and one for each worker.
struct OwnThreads<'a> {
    reading: &'a Handle,
}

impl Threads for OwnThreads<'_> {
    fn spawn_source(&self, stages: &mut JoinSet<anyhow::Result<()>>, source: BoxFuture<'static, anyhow::Result<()>>) {
        stages.spawn_on(source, self.reading);
    }

    fn spawn_worker(&self, stages: &mut JoinSet<anyhow::Result<()>>, worker: Worker) {
        let runtime = Handle::current();
        stages.spawn_blocking(move || {
            runtime.block_on(worker.run());
            Ok(())
        });
    }
}

impl Stages {
    /// Runs what `source` gives, until `next_signal` says to stop, or until something stops the pipeline.
    pub(crate) async fn run<S: Future<Output = anyhow::Result<()>> + Send + 'static>(
        self,
        source: impl FnOnce(Intake, watch::Receiver<bool>) -> S,
        threads: &impl Threads,
        next_signal: impl AsyncFnMut() -> &'static str,
    ) -> anyhow::Result<()> {
        let Self { first_resume, chain, workers, dispatcher, sinks, dead_letters, checkpoint, in_flight, lag } = self;
        let (stop, stopped) = watch::channel(false);
        let (acks, feed, observer) = tracker(in_flight);

        let mut stages = JoinSet::new();
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
            stages
                .spawn(async move { sink.run(deliveries, dead_letters).await.with_context(|| format!("sink.{name}")) });
        }
        let pace = Pace::new(first_resume.clone());
        let (intake, tasks) = Intake::new(acks, chain.clone(), workers);
        threads.spawn_source(&mut stages, source(intake, stopped).boxed());
        let outlets = outlets.into_iter().zip(is_nowhere).map(|(outlet, is_nowhere)| (!is_nowhere).then_some(outlet));
        let outlets: Arc<[_]> = outlets.collect();
        let skips = Arc::default();
        for tasks in tasks {
            let worker = Worker::new(tasks, dispatcher.clone(), Arc::clone(&outlets), Arc::clone(&skips));
            threads.spawn_worker(&mut stages, worker);
        }
        drop(outlets); // sinks end when the last worker does
        stages.spawn(async move {
            tokio::select! {
                biased;
                result = write_checkpoints(checkpoint, feed, &pace) => result,
                () = pace.report(&lag) => Ok(()),
            }
        });
        let result = supervise(stages, &observer, next_signal, stop).await;
        chain.newest().log_counters();
        let Some(StopReport { cause, is_reached }) = observer.stop() else {
            return result.inspect(|()| info!("stopped: everything that was read is delivered"));
        };
        match cause.downcast() {
            Ok(stop) => Err(StoppedAtRow { stop: *stop, is_reached, hindrance: result.err() }.into()),
            Err(cause) => Err(anyhow::Error::from_boxed(cause)),
        }
    }
}

/// Waits for the end of all stages, and stops them when a signal says so, one fails, or a row stops the pipeline.
async fn supervise(
    mut stages: JoinSet<anyhow::Result<()>>,
    observer: &AckObserver,
    mut next_signal: impl AsyncFnMut() -> &'static str,
    stop: watch::Sender<bool>,
) -> anyhow::Result<()> {
    // Which stage failed first is why the others ended.
    let mut first_error = None;
    let (mut deadline, mut is_told) = (None, false);
    loop {
        let ended = tokio::select! {
            biased;
            ended = stages.join_next() => ended,
            () = observer.stopped(), if !*stop.borrow() => {
                stop.send_replace(true);
                deadline.get_or_insert_with(|| Instant::now() + DRAIN_TIME_MAX);
                continue;
            }
            name = next_signal() => {
                // What drains already because something stopped it goes on draining.
                if std::mem::replace(&mut is_told, true) {
                    return Err(first_error.unwrap_or_else(|| anyhow::Error::from(Undelivered::SecondSignal(name))));
                }
                info!(signal = name, "stopping: delivering what is in flight");
                deadline.get_or_insert_with(|| Instant::now() + DRAIN_TIME_MAX);
                stop.send_replace(true);
                continue;
            }
            () = async { tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)).await }, if deadline.is_some() => {
                return Err(first_error.unwrap_or_else(|| anyhow::Error::from(Undelivered::Timeout)));
            }
        };
        let Some(ended) = ended else { break };
        // A panic ends all at once.
        if let Err(error) = ended.map_err(|panic| anyhow!("a stage panicked: {panic}"))? {
            debug!(error = format!("{error:#}"), "a stage failed");
            first_error.get_or_insert(error);
            stop.send_replace(true);
            deadline.get_or_insert_with(|| Instant::now() + DRAIN_TIME_MAX);
        }
    }
    if let Some(error) = first_error {
        return Err(error);
    }
    let lost = observer.lost();
    if lost > 0 {
        bail!("{lost} batches were given up by their sink; they are sent again at the next start");
    }
    Ok(())
}

/// Why what was in flight isn't delivered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Undelivered {
    #[error("what was in flight wasn't delivered within {DRAIN_TIME_MAX:?}; it is sent again at the next start")]
    Timeout,
    #[error("stopped by a second {0}; what was in flight is sent again at the next start")]
    SecondSignal(&'static str),
}

/// Makes durable up to where all is delivered; what that takes of the in-flight budget is given back after.
async fn write_checkpoints(mut checkpoint: Checkpoint, mut feed: CheckpointFeed, pace: &Pace) -> anyhow::Result<()> {
    let mut due = Instant::now();
    while feed.moved().await {
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
    Ok(())
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
