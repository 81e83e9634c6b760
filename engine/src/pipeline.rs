//! The whole: starts each stage, bounds what is in flight, and shuts down in order.
//!
//! Stages are joined by channels and end when their input does. To stop, the source is stopped: the
//! rest drains. A stage that fails closes its channels, which ends the others; the first cause is
//! the one that is reported.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use rowmill_core::position::Resume;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::dispatch::{Dispatcher, SinkNeeds};
use crate::failpoint::{self, Step};
use crate::ledger::{self, Advances};
use crate::pace::Pace;
use crate::selection::Selection;
use crate::sink::{self, Connections, DeadLetters, Sink};
use crate::source::preflight::Server;
use crate::source::{Budget, Source};
use crate::transform::{Loader, Reloader, Settings};
use crate::workers::{BATCHES_WAITING_MAX, Intake, Workshop};

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
    let signals = Signals::listen()?;
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
        source,
        first_resume,
        plugins: plugins_running,
        threads: plugins.threads,
        dispatcher,
        sinks,
        dead_letters,
        checkpoint,
        budget: Budget::new(in_flight),
    };
    stages.run(signals, reading).await
}

/// All that runs, ready to.
struct Stages {
    source: Source,
    /// From where it begins.
    first_resume: Resume,
    plugins: Reloader,
    threads: usize,
    dispatcher: Dispatcher,
    sinks: Vec<Box<dyn Sink>>,
    /// Which of them is for dead letters.
    dead_letters: Option<usize>,
    checkpoint: Checkpoint,
    budget: Budget,
}

impl Stages {
    async fn run(self, mut signals: Signals, reading: &Handle) -> anyhow::Result<()> {
        let Self { source, first_resume, plugins, threads, dispatcher, sinks, dead_letters, checkpoint, budget } = self;
        let (stop, stopped) = watch::channel(false);
        let (ledger, advances, losses) = ledger::open(budget.clone());

        let mut stages = JoinSet::new();
        let (outlets, inlets): (Vec<_>, Vec<_>) = sinks.iter().map(|_| mpsc::channel(BATCHES_WAITING_MAX)).unzip();
        let is_nowhere: Vec<bool> = sinks.iter().map(|sink| sink.is_nowhere()).collect();
        for (index, (sink, deliveries)) in sinks.into_iter().zip(inlets).enumerate() {
            // Its own inlet would never close.
            let dead_letters = dead_letters.filter(|&dead_letters| dead_letters != index);
            let dead_letters = dead_letters.map(|sink| DeadLetters { outlet: outlets[sink].clone() });
            let (name, ledger) = (sink.name().to_owned(), ledger.clone());
            stages.spawn(async move {
                sink.run(deliveries, ledger, dead_letters).await.with_context(|| format!("sink.{name}"))
            });
        }
        let (lag, pace) = (source.lag(), Pace::new(first_resume.clone()));
        let chain = plugins.chain();
        plugins.watch();
        let (intake, jobs) = Intake::new(first_resume, chain.clone(), threads);
        stages.spawn_on(source.run(intake, budget.clone(), stopped), reading);
        let outlets = outlets.into_iter().zip(is_nowhere).map(|(outlet, is_nowhere)| (!is_nowhere).then_some(outlet));
        let workshop = Arc::new(Workshop::new(outlets.collect(), ledger));
        for jobs in jobs {
            let (workshop, dispatcher) = (Arc::clone(&workshop), dispatcher.clone());
            stages.spawn_blocking(move || workshop.work(jobs, dispatcher));
        }
        drop(workshop); // sinks end when the last worker does
        stages.spawn(async move {
            tokio::select! {
                result = keep_checkpoint(checkpoint, advances, budget, &pace) => result,
                () = pace.report(&lag) => Ok(()),
            }
        });

        // Which stage failed first is why the others ended.
        let mut first_error = None;
        let mut deadline = None;
        loop {
            let ended = tokio::select! {
                ended = stages.join_next() => ended,
                name = signals.next() => {
                    if deadline.is_some() {
                        bail!("stopped by a second {name}; what was in flight is sent again at the next start");
                    }
                    info!(signal = name, "stopping: delivering what is in flight");
                    deadline = Some(Instant::now() + DRAIN_TIME_MAX);
                    stop.send_replace(true);
                    continue;
                }
                () = async { tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)).await }, if deadline.is_some() => {
                    return Err(first_error.unwrap_or_else(|| anyhow!(
                        "what was in flight wasn't delivered within {DRAIN_TIME_MAX:?}; it is sent again at the next start"
                    )));
                }
            };
            let Some(ended) = ended else { break };
            let result = ended.unwrap_or_else(|panic| Err(anyhow!("a stage panicked: {panic}")));
            if let Err(error) = result {
                debug!(error = format!("{error:#}"), "a stage failed");
                first_error.get_or_insert(error);
                stop.send_replace(true);
                deadline.get_or_insert_with(|| Instant::now() + DRAIN_TIME_MAX);
            }
        }
        chain.newest().log_counters();
        if let Some(error) = first_error {
            return Err(error);
        }
        let lost = losses.count();
        if lost > 0 {
            bail!("{lost} batches were given up by their sink; they are sent again at the next start");
        }
        info!("stopped: everything that was read is delivered");
        Ok(())
    }
}

/// Makes durable up to where all is delivered; what that takes of the budget is given back after.
async fn keep_checkpoint(
    mut checkpoint: Checkpoint,
    mut advances: Advances,
    budget: Budget,
    pace: &Pace,
) -> anyhow::Result<()> {
    let mut due = Instant::now();
    while let Some(advance) = advances.next(due).await {
        debug!(position = %advance.resume, "checkpoint");
        failpoint::reached(Step::Checkpointing);
        checkpoint.write(&advance.resume).await?;
        failpoint::reached(Step::Checkpointed);
        advance.passed.iter().for_each(|cost| budget.give_back(*cost));
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
