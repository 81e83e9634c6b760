//! The stages of the pipeline: starts each, bounds what is in flight, and shuts down in order.
//!
//! Stages are joined by channels and end when their input does. To stop, the source is stopped: the rest drains. A stage
//! that fails closes its channels, which ends the others; the first cause is the one that is reported. An error at a row
//! stops the pipeline there: all before it is delivered and checkpointed first. A panic ends everything at once.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rowmill_core::position::ResumePoint;
use rowmill_pipeline::ack::{Left, StopReport, tracker};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::ack::{AckObserver, CheckpointFeed, Cost, StopError};
use crate::checkpoint::Checkpoint;
use crate::failpoint::{self, Step};
use crate::progress::ProgressReporter;
use crate::router::Router;
use crate::sink::{self, DeadLetters, Overflow, Sink};
use crate::source::Lag;
use crate::transform::CurrentChain;
use crate::workers::{BATCHES_WAITING_MAX, Intake, Worker};

/// Of the time that a stop may take: for the last checkpoint, an eighth, but no more than this.
const LAST_CHECKPOINT_TIME_MAX: Duration = Duration::from_secs(1);
/// Signals that come so soon after another one are the same: they are sent to a process group, say, and to its leader.
const SAME_SIGNAL_WITHIN: Duration = Duration::from_secs(1);
/// How often a checkpoint is kept alive while nothing is written.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);
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

/// All stages but the source, ready to run.
pub(crate) struct Stages {
    /// From where the source begins.
    pub first_resume: ResumePoint,
    pub chain: CurrentChain,
    /// How many workers there are.
    pub workers: usize,
    pub dispatcher: Router,
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
pub(crate) struct OwnThreads<'a> {
    pub reading: &'a Handle,
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
        let discards: Vec<bool> = sinks.iter().map(|sink| sink.discards()).collect();
        // With one sink there are no others whose rows could pass a stalled one.
        let has_others = discards.iter().filter(|discards| !**discards).count() > 1;
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
        let pace = ProgressReporter::new(first_resume.clone());
        let (intake, tasks) = Intake::new(acks, chain.clone(), workers);
        deliverers.push(threads.spawn_source(&mut stages, source(intake, stopped).boxed()));
        let outlets = outlets.into_iter().zip(discards).map(|(outlet, discards)| (!discards).then_some(outlet));
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
async fn write_checkpoints(
    mut checkpoint: Checkpoint,
    mut feed: CheckpointFeed,
    pace: &ProgressReporter,
) -> anyhow::Result<()> {
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
