//! Supervises the pipeline: starts the stages, bounds the rows and bytes in flight, and shuts down in order.
//!
//! Stages are connected by channels, and each ends when its input ends. A shutdown stops the source, and the other stages
//! drain. A stage that fails closes its channels, which ends the other stages; the first error is reported. An error at a
//! row stops the pipeline there: everything before the row is delivered and checkpointed first. A panic ends all stages at
//! once.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rowmill_core::position::ResumePoint;
use rowmill_pipeline::ack::{StopReport, Undelivered, tracker};
use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::ack::{AckObserver, CheckpointFeed, Cost, StopError};
use crate::checkpoint::Checkpoint;
use crate::config::SinkId;
use crate::failpoint::{self, Step};
use crate::progress;
use crate::router::Router;
use crate::shutdown::{ShutdownTrigger, shutdown};
use crate::sink::{self, DeadLetters, Overflow, Sink};
use crate::source::Source;
use crate::status::Status;
use crate::transform::CurrentChain;
use crate::workers::{BATCHES_WAITING_MAX, Intake, Worker};

/// The most time that is reserved for the last checkpoint: an eighth of the shutdown time-out, up to this.
const LAST_CHECKPOINT_TIME_MAX: Duration = Duration::from_secs(1);
/// Signals this soon after the first one count as the same, such as one sent to a process group and to its leader.
const SAME_SIGNAL_WITHIN: Duration = Duration::from_secs(1);
/// How often the hold on the checkpoint is renewed while no checkpoint is written.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// How the pipeline ended, where no error ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Everything that was read is delivered, and the checkpoint covers it.
    Delivered,
    /// The checkpoint covers all rows before the first one that is not delivered. The next start reads the rest again.
    Undelivered {
        /// Rows of the batches that the watermark has not passed, as read from the binlog. Some of them may be delivered.
        rows: u64,
    },
}

/// The error of a row or an event that stopped the pipeline.
#[derive(Debug)]
pub(crate) struct StoppedAtRow {
    /// The cause, with the row's position.
    pub stop: StopError,
    /// Whether everything before the row is delivered, and the checkpoint is directly before the row.
    pub is_reached: bool,
    /// The error that kept rows before it from being delivered, if there was one.
    pub hindrance: Option<anyhow::Error>,
}

impl std::fmt::Display for StoppedAtRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.stop)?;
        if self.is_reached {
            return f.write_str("; everything before it is delivered");
        }
        f.write_str("; not everything before it is delivered: the next start continues there")?;
        self.hindrance.as_ref().map_or(Ok(()), |hindrance| write!(f, " ({hindrance:#})"))
    }
}

impl std::error::Error for StoppedAtRow {}

/// All stages except the source, ready to run.
pub(crate) struct Stages {
    /// The resume point at which the source begins.
    pub first_resume: ResumePoint,
    pub chain: CurrentChain,
    /// The number of workers.
    pub workers: usize,
    pub router: Router,
    pub sinks: Vec<Box<dyn Sink>>,
    /// The sink of dead letters.
    pub dead_letters: Option<SinkId>,
    pub checkpoint: Checkpoint,
    pub in_flight: Cost,
    pub status: Arc<Status>,
    /// The longest time that a shutdown takes.
    pub shutdown_timeout: Duration,
}

/// Spawns the source and the workers on their threads.
pub(crate) trait Threads {
    /// Spawns the source.
    fn spawn_source(
        &self,
        stages: &mut JoinSet<anyhow::Result<()>>,
        source: BoxFuture<'static, anyhow::Result<()>>,
    ) -> AbortHandle;

    /// Spawns a worker, whose transforms block its thread.
    fn spawn_worker(&self, stages: &mut JoinSet<anyhow::Result<()>>, worker: Worker) -> AbortHandle;
}

/// One thread for the source, and one for each worker.
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
    /// Runs the stages with the `source`, until `next_signal` returns, a stage fails, or a row stops the pipeline.
    pub(crate) async fn run(
        self,
        source: impl Source,
        threads: &impl Threads,
        next_signal: impl AsyncFnMut() -> &'static str,
    ) -> anyhow::Result<Ended> {
        let Self {
            first_resume,
            chain,
            workers,
            router,
            sinks,
            dead_letters,
            checkpoint,
            in_flight,
            status,
            shutdown_timeout,
        } = self;
        let (stop, stopped) = shutdown();
        let (acks, feed, observer) = tracker(in_flight);

        let mut stages = JoinSet::new();
        // All stages except the checkpoint writer.
        let mut deliverers = Vec::new();
        let discards: Vec<bool> = sinks.iter().map(|sink| sink.capabilities().discards).collect();
        // Where a single sink keeps messages, there are no others that could pass it while it is stalled.
        let has_others = discards.iter().filter(|discards| !**discards).count() > 1;
        let overflow = Overflow::new(if has_others { in_flight.bytes } else { 0 });
        let queue = |_| sink::outlet(BATCHES_WAITING_MAX, overflow.clone());
        let (outlets, inlets): (Vec<_>, Vec<_>) = sinks.iter().map(queue).unzip();
        for (index, (sink, deliveries)) in sinks.into_iter().zip(inlets).enumerate() {
            // With an outlet to itself, the sink would never see its inlet close.
            let dead_letters = dead_letters.filter(|&dead_letters| dead_letters != SinkId(index));
            let dead_letters = dead_letters.map(|sink| DeadLetters { outlet: outlets[sink.0].clone() });
            let name = sink.name().to_owned();
            let run = async move { sink.run(deliveries, dead_letters).await.with_context(|| format!("sink.{name}")) };
            deliverers.push(stages.spawn(run));
        }
        status.starts(first_resume);
        let (intake, tasks) = Intake::new(acks, chain.clone(), workers);
        deliverers.push(threads.spawn_source(&mut stages, source.run(intake, stopped).boxed()));
        let outlets = outlets.into_iter().zip(discards).map(|(outlet, discards)| (!discards).then_some(outlet));
        let outlets: Arc<[_]> = outlets.collect();
        let skips = Arc::default();
        for tasks in tasks {
            let worker = Worker::new(tasks, router.clone(), Arc::clone(&outlets), Arc::clone(&skips));
            deliverers.push(threads.spawn_worker(&mut stages, worker));
        }
        drop(outlets); // each sink ends when the last worker has ended
        stages.spawn(async move {
            tokio::select! {
                biased;
                result = write_checkpoints(checkpoint, feed, &status) => result,
                () = progress::report(&status) => Ok(()),
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

/// The running stages.
struct Supervised<'a> {
    stages: JoinSet<anyhow::Result<()>>,
    /// All stages except the checkpoint writer.
    deliverers: Vec<AbortHandle>,
    observer: &'a AckObserver,
    /// Stops the source.
    stop: ShutdownTrigger,
    shutdown_timeout: Duration,
}

impl Supervised<'_> {
    /// Waits until all stages have ended. Stops the source at a signal, when a stage fails, or when a row stops the pipeline.
    async fn run(mut self, mut next_signal: impl AsyncFnMut() -> &'static str) -> anyhow::Result<Ended> {
        // The first stage that fails is the reason why the others end.
        let mut first_error = None;
        let mut deadline: Option<Instant> = None;
        let mut signalled_at: Option<Instant> = None;
        loop {
            let ended = tokio::select! {
                biased;
                ended = self.stages.join_next() => ended,
                () = self.observer.stopped(), if !self.stop.is_requested() => {
                    self.drain(&mut deadline);
                    continue;
                }
                name = next_signal() => {
                    let now = Instant::now();
                    match signalled_at {
                        // A pipeline that already drains, because an error stopped it, keeps its deadline.
                        None => {
                            info!(signal = name, "stopping: delivering the rows in flight");
                            signalled_at = Some(now);
                            self.drain(&mut deadline);
                        }
                        Some(signalled_at) if now - signalled_at < SAME_SIGNAL_WITHIN => {}
                        Some(_) => {
                            warn!(signal = name, "second signal: not waiting for the rows in flight");
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
            // A panic ends all stages at once.
            if let Err(error) = ended.map_err(|panic| anyhow!("a stage panicked: {panic}"))? {
                debug!(error = format!("{error:#}"), "a stage failed");
                first_error.get_or_insert(error);
                self.drain(&mut deadline);
            }
        }
        if let Some(error) = first_error {
            return Err(error);
        }
        let lost = self.observer.lost_batches();
        if lost > 0 {
            bail!("sinks dropped {lost} batches without acknowledging them; the next start sends them again");
        }
        Ok(Ended::Delivered)
    }

    /// Stops the source, and sets the deadline for the rows in flight unless it is set.
    fn drain(&self, deadline: &mut Option<Instant>) {
        self.stop.request();
        let last_checkpoint = last_checkpoint_time(self.shutdown_timeout);
        deadline.get_or_insert_with(|| Instant::now() + self.shutdown_timeout - last_checkpoint);
    }

    /// Drops the rows in flight, waits until the last checkpoint is written, and ends all stages.
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
        match self.observer.undelivered() {
            Undelivered { rows, is_durable: true } => Ok(Ended::Undelivered { rows }),
            Undelivered { is_durable: false, .. } => {
                debug!(is_in_time, "the last checkpoint is not written");
                Err(CheckpointUnwritten(self.shutdown_timeout).into())
            }
        }
    }
}

fn last_checkpoint_time(shutdown_timeout: Duration) -> Duration {
    (shutdown_timeout / 8).min(LAST_CHECKPOINT_TIME_MAX)
}

/// The error of a shutdown that could not write the last checkpoint.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot write the last checkpoint within {0:?}; the next start sends again what was delivered since the previous one"
)]
pub(crate) struct CheckpointUnwritten(Duration);

/// Writes the watermark as the checkpoint, and releases the in-flight budget of the batches before it.
async fn write_checkpoints(
    mut checkpoint: Checkpoint,
    mut feed: CheckpointFeed,
    status: &Status,
) -> anyhow::Result<()> {
    let mut due = Instant::now();
    loop {
        let moved = tokio::select! {
            biased;
            moved = feed.wait_for_advance() => moved,
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
            () = feed.wait_until_urgent() => {}
            () = tokio::time::sleep_until(due) => {}
        }
        let Some(advance) = feed.take() else { continue };
        debug!(position = %advance.progress, "checkpoint");
        failpoint::reached(Step::Checkpointing);
        checkpoint.write(&advance.progress).await?;
        failpoint::reached(Step::Checkpointed);
        feed.release(&advance);
        status.delivered(advance);
        due = Instant::now() + checkpoint.interval();
    }
}
