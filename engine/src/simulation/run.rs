//! The runs of a schedule: the fakes, the faults of each run, and how it may end.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::anyhow;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rowmill_core::batch::{ColumnIndex, Row};
use rowmill_core::envelope::Connector;
use rowmill_core::position::ResumePoint;
use serde_json::{Value, json};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use super::history::History;
use super::world::{MessageId, Setup, Summary, World, first_decision};
use super::{below, one_in};
use crate::ack::StopError;
use crate::checkpoint::Checkpoint;
use crate::config::{AggregateForm, Aggregation, Config, OnError, SinkId};
use crate::pipeline::{CheckpointUnwritten, Ended, Stages, StoppedAtRow, Threads};
use crate::router::{Router, SinkRequirements};
use crate::shutdown::Shutdown;
use crate::sink::Sink;
use crate::sink::fake::{Answers, FakeQueue};
use crate::source::{BatchConsumer, Source};
use crate::transform::fake::{FakeTransform, RowDecision};
use crate::transform::{Chain, CurrentChain, OnTransformError};
use crate::workers::Worker;

/// Longer than any run takes that does not hang, with its outages and the pauses between retries.
const RUN_TIME_MAX: Duration = Duration::from_secs(3600);
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(8);
/// Longest outage of a queue, in milliseconds.
const OUTAGE_MAX_MS: u64 = 40_000;

/// The faults of a run. Without any, the run ends when everything is delivered.
#[derive(Debug, Clone, Default)]
struct Plan {
    /// Faults at rows.
    rows: Vec<(usize, RowFault)>,
    /// Time from the start of the run to a kill of the process.
    kill: Option<Duration>,
    /// Time from the start of the run to a signal to stop.
    signal: Option<Duration>,
    /// Whether writing a checkpoint may fail.
    has_store_error: bool,
    /// Whether queues cannot be reached for a while.
    has_outage: bool,
    /// How often requests fail: from 0, never, to 3.
    trouble: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RowFault {
    /// A transform stops the pipeline.
    Halt,
    /// The row has no route.
    Unrouted,
    /// A queue rejects the row's message.
    Refused,
    /// A transform panics.
    Panic,
    /// The source cannot decode the row.
    Unreadable,
}

impl Plan {
    fn random(world: &World) -> Self {
        let time = || Duration::from_millis(if one_in(4) { below(60_000) } else { below(400) });
        let mut plan = Self { has_outage: one_in(3), trouble: below(4), ..Self::default() };
        match below(6) {
            0 | 1 => plan.kill = Some(time()),
            2 => plan.signal = Some(time()),
            3 => plan.has_store_error = true,
            _ => {}
        }
        let (first, rows) = (world.first_left(), world.history.rows.len());
        for _ in 0..below(4) {
            let row = first + below((rows - first) as u64) as usize;
            let faults = [RowFault::Halt, RowFault::Unrouted, RowFault::Refused, RowFault::Panic, RowFault::Unreadable];
            let fault = faults[below(5) as usize];
            let is_free = plan.rows.iter().all(|(known, _)| *known != row);
            // A row that is dropped can only fail in the source.
            let is_of_dead_letters = |row: usize| world.setup.shares_dead_letters && world.history.rows[row].table == 1;
            let may_have = |row: usize| match fault {
                RowFault::Unreadable => true,
                // A message that the sink of dead letters rejects has no other sink to go to.
                RowFault::Refused => world.is_delivered_as_row(row) && !is_of_dead_letters(row),
                _ => world.is_delivered_as_row(row),
            };
            if row < rows && is_free && may_have(row) {
                plan.rows.push((row, fault));
            }
        }
        plan
    }

    /// Returns whether deliveries may take longer than the shutdown timeout: in an outage, or in pauses between retries.
    fn has_slow_queues(&self) -> bool {
        self.has_outage || self.trouble > 1
    }

    fn fault_of(&self, row: usize) -> Option<RowFault> {
        self.rows.iter().find(|(of, _)| *of == row).map(|(_, fault)| *fault)
    }

    fn first(&self, is: impl Fn(RowFault) -> bool) -> Option<usize> {
        self.rows.iter().filter(|(_, fault)| is(*fault)).map(|(row, _)| *row).min()
    }

    /// Returns the row that the pipeline is to stop at.
    fn stops_at(&self, setup: &Setup) -> Option<usize> {
        self.first(|fault| match fault {
            RowFault::Halt | RowFault::Unrouted | RowFault::Unreadable => true,
            RowFault::Refused => !setup.has_dead_letters,
            RowFault::Panic => false,
        })
    }

    /// Returns the row that stops the pipeline before any later row is sent.
    fn holds_at(&self) -> Option<usize> {
        self.first(|fault| matches!(fault, RowFault::Halt | RowFault::Unrouted | RowFault::Unreadable))
    }
}

/// The state that all fakes share.
#[derive(Clone)]
struct Fakes {
    world: Arc<Mutex<World>>,
    plan: Arc<Plan>,
    /// By queue: the end of its outage.
    outage_ends: [Instant; 3],
}

/// Runs all stages on one thread, in turn.
struct OneThread;

impl Threads for OneThread {
    fn spawn_source(
        &self,
        stages: &mut JoinSet<anyhow::Result<()>>,
        source: BoxFuture<'static, anyhow::Result<()>>,
    ) -> AbortHandle {
        stages.spawn(source)
    }

    fn spawn_worker(&self, stages: &mut JoinSet<anyhow::Result<()>>, worker: Worker) -> AbortHandle {
        stages.spawn(async move {
            worker.run().await;
            if super::has_worker_failed() { Err(anyhow!("mutated")) } else { Ok(()) }
        })
    }
}

/// Runs a random schedule.
pub(super) fn schedule() -> Result<Summary, String> {
    let history = Arc::new(History::random());
    let shares_dead_letters = one_in(4);
    let setup = Setup {
        workers: 1 + below(3) as usize,
        rows_in_flight: 4 + below(60) as u32,
        is_fifo: [true, !shares_dead_letters && one_in(2)],
        shares_dead_letters,
        has_dead_rows: one_in(3),
        aggregates: one_in(3),
        has_dead_letters: one_in(3),
        is_ordered: one_in(3),
    };
    let world = Arc::new(Mutex::new(World::new(history, setup)));
    let mut summary = Summary::default();
    let faulty_runs = below(5);
    for run in 0..=faulty_runs {
        let plan = if run == faulty_runs { Plan::default() } else { Plan::random(&lock(&world)) };
        summary.runs += 1;
        one_run(&world, plan, &mut summary);
        lock(&world).result()?;
    }
    let mut world = lock(&world);
    world.ends();
    summary.checkpoints = world.checkpoints;
    summary.duplicates = world.duplicates;
    summary.arrived = world.arrived();
    world.result().map(|()| summary)
}

fn lock(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().expect("no panic while it is locked")
}

/// How a run ended.
enum End {
    Itself(anyhow::Result<Ended>),
    Killed,
    Hangs,
}

fn one_run(world: &Arc<Mutex<World>>, plan: Plan, summary: &mut Summary) {
    {
        let mut world = lock(world);
        world.run += 1;
        world.refused.clear();
        world.halts_at = plan.holds_at();
    }
    let plan = Arc::new(plan);
    // Dropping the runtime ends the process: everything in flight is lost.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let (end, took_to_stop) = runtime.expect("a runtime").block_on(process(Arc::clone(world), Arc::clone(&plan)));
    let mut world = lock(world);
    match end {
        End::Hangs => world.violated(|| format!("the run hangs: {plan:?}")),
        End::Killed => summary.kills += 1,
        End::Itself(Ok(Ended::Delivered)) => summary.signals += u64::from(took_to_stop.is_some()),
        End::Itself(Ok(Ended::Undelivered { .. })) => {
            summary.drain_timeouts += 1;
            if !plan.has_slow_queues() {
                world.violated(|| format!("{plan:?}: not everything is delivered in time"));
            }
        }
        End::Itself(Err(error)) => failed(&mut world, &plan, &error, summary),
    }
    if took_to_stop.is_some_and(|took| took > SHUTDOWN_TIMEOUT) {
        world.violated(|| format!("the run took too long to stop: {took_to_stop:?}"));
    }
}

/// Checks that the plan explains an error, and that the checkpoint is where the error says.
fn failed(world: &mut World, plan: &Plan, error: &anyhow::Error, summary: &mut Summary) {
    let checkpoint = world.first_left();
    if let Some(StoppedAtRow { stop, is_reached, .. }) = error.downcast_ref() {
        summary.row_stops += 1;
        summary.unreached_stops += u64::from(!is_reached);
        let found = (0..world.history.rows.len()).find(|row| world.history.transaction(*row) == stop.transaction);
        match plan.stops_at(&world.setup) {
            // Everything before the first row with a fault is delivered, and the error names that row.
            Some(row) if *is_reached => {
                let is_right = checkpoint == row && stop.transaction == world.history.transaction(row);
                if !is_right {
                    world.violated(|| format!("{plan:?} leaves the checkpoint before row {checkpoint}: {error:#}"));
                }
            }
            Some(row) => {
                let has_panic = plan.first(|fault| fault == RowFault::Panic).is_some();
                let is_excused = plan.has_slow_queues() || plan.has_store_error || has_panic;
                if !is_excused || checkpoint > row || found.is_none() {
                    world.violated(|| format!("{plan:?}: not reached, checkpoint before row {checkpoint}: {error:#}"));
                }
            }
            None => world.violated(|| format!("{plan:?}: no row is to stop the run: {error:#}")),
        }
        return;
    }
    let is_excused = if error.to_string() == "mutated" {
        true
    } else if error.to_string().contains("panicked") {
        summary.panics += 1;
        plan.first(|fault| fault == RowFault::Panic).is_some()
    } else if error.downcast_ref::<CheckpointUnwritten>().is_some() {
        false // the store is never that slow
    } else {
        summary.store_errors += 1;
        plan.has_store_error
    };
    if !is_excused {
        world.violated(|| format!("{plan:?}: {error:#}"));
    }
}

/// Runs the process. Returns how it ended, and how long that took after the signal.
async fn process(world: Arc<Mutex<World>>, plan: Arc<Plan>) -> (End, Option<Duration>) {
    let now = Instant::now();
    let outage = || now + Duration::from_millis(if plan.has_outage { below(OUTAGE_MAX_MS) } else { 0 });
    let outage_ends = [outage(), outage(), outage()];
    let fakes = Fakes { world: Arc::clone(&world), plan: Arc::clone(&plan), outage_ends };
    let signalled_at: Arc<Mutex<Option<Instant>>> = Arc::default();
    let signal = {
        let (world, signalled_at, at) = (Arc::clone(&world), Arc::clone(&signalled_at), plan.signal);
        async move || {
            if signalled_at.lock().expect("no panic").is_some() {
                return std::future::pending().await;
            }
            match at {
                Some(at) => tokio::time::sleep_until(now + at).await,
                // The signal comes when everything is delivered.
                None => {
                    let rows = lock(&world).history.rows.len();
                    while lock(&world).first_left() < rows {
                        sleep(Duration::from_millis(100)).await;
                    }
                }
            }
            *signalled_at.lock().expect("no panic") = Some(Instant::now());
            "SIGTERM"
        }
    };
    let stages = stages(&fakes);
    let first = lock(&world).first_left();
    let source = FakeSource { fakes, first };
    let run = timeout(RUN_TIME_MAX, stages.run(source, &OneThread, signal));
    let killed = async {
        match plan.kill {
            Some(at) => tokio::time::sleep_until(now + at).await,
            None => std::future::pending().await,
        }
    };
    let end = tokio::select! {
        biased;
        () = killed => End::Killed,
        end = run => end.map_or(End::Hangs, End::Itself),
    };
    let signalled_at = *signalled_at.lock().expect("no panic");
    (end, signalled_at.map(|signalled_at| signalled_at.elapsed()))
}

/// A source that forwards batches of random sizes until it is stopped.
struct FakeSource {
    fakes: Fakes,
    /// The index of the first row to forward.
    first: usize,
}

impl Source for FakeSource {
    async fn run(self, mut consumer: impl BatchConsumer + 'static, mut shutdown: Shutdown) -> anyhow::Result<()> {
        let Self { fakes, first } = self;
        let history = Arc::clone(&lock(&fakes.world).history);
        let read = async {
            let rows = history.rows.len();
            let unreadable = fakes.plan.first(|fault| fault == RowFault::Unreadable);
            let unrouted: Vec<usize> =
                (0..rows).filter(|row| fakes.plan.fault_of(*row) == Some(RowFault::Unrouted)).collect();
            let end = unreadable.unwrap_or(rows);
            let mut next = first;
            while next < end {
                if one_in(3) {
                    sleep(Duration::from_millis(below(100))).await;
                }
                let count = 1 + below(u64::from(consumer.batch_limits().rows.min(12))) as usize;
                let to = (next + count).min(end);
                let mut batch = history.batch(next, to, &unrouted);
                if next == first {
                    batch.new_tables = history.tables.to_vec();
                }
                if !consumer.forward(batch).await {
                    return Ok(());
                }
                next = to;
            }
            if let Some(row) = unreadable {
                consumer.stop(StopError {
                    server: "simulated".into(),
                    transaction: history.transaction(row),
                    error: anyhow!("simulated"),
                });
                return Ok(());
            }
            std::future::pending().await
        };
        tokio::select! {
            biased;
            result = read => result,
            () = shutdown.requested() => Ok(()),
        }
    }
}

fn stages(fakes: &Fakes) -> Stages {
    let world = lock(&fakes.world);
    let Setup { workers, rows_in_flight, is_fifo, aggregates, has_dead_letters, is_ordered, .. } = world.setup;
    let aggregation = aggregates.then_some(Aggregation { form: AggregateForm::Array, bytes: 200, compression: None });
    let queue = |index: usize, name: &'static str, is_fifo: bool| -> Box<dyn Sink> {
        let on_error = if has_dead_letters && index < 2 { OnError::DeadLetter } else { OnError::Halt };
        let aggregation = aggregation.filter(|_| index < 2);
        FakeQueue { name, is_fifo, on_error, aggregation, jitter_seed: below(u64::MAX), answers: answers(fakes, index) }
            .sink()
    };
    let sinks = vec![queue(0, "a", is_fifo[0]), queue(1, "b", is_fifo[1]), queue(2, "dead", false)];
    let text = if world.setup.shares_dead_letters {
        CONFIG.replace("sink = \"b\"", "sink = \"dead\"")
    } else {
        CONFIG.to_owned()
    };
    let config = Config::parse(&text).expect("a configuration");
    let needs = sinks.iter().zip(&config.sinks);
    let needs = needs.map(|(sink, config)| SinkRequirements::new(sink.capabilities(), config));
    let (plan, setup) = (Arc::clone(&fakes.plan), world.setup);
    let first = FakeTransform::transform("first", is_ordered, move |row| first_decision(id_of(row)));
    let second = FakeTransform::transform("second", false, move |row| second_decision(&plan, &setup, id_of(row)));
    let in_flight = crate::ack::Cost { rows: rows_in_flight, bytes: 1 << 20 };
    let writes = {
        let fakes = fakes.clone();
        Arc::new(move |resume: ResumePoint| write_checkpoint(fakes.clone(), resume).boxed())
    };
    Stages {
        first_resume: world.checkpoint.clone(),
        chain: CurrentChain::of(Chain::of(vec![first, second])),
        workers,
        router: Router::new(config.destinations, needs.collect(), "simulated".to_owned(), Connector::MySql),
        sinks,
        dead_letters: Some(SinkId(2)),
        checkpoint: Checkpoint::simulated(Duration::from_millis(below(1000)), writes),
        in_flight,
        status: Arc::default(),
        shutdown_timeout: SHUTDOWN_TIMEOUT,
    }
}

/// One sink for each table but the third.
const CONFIG: &str = r#"
    [source]
    url = "mysql://simulated"
    [sink.a]
    type = "sqs"
    queue_url = "http://simulated/a.fifo"
    format = "row"
    [sink.b]
    type = "sqs"
    queue_url = "http://simulated/b.fifo"
    format = "row"
    [sink.dead]
    type = "sqs"
    queue_url = "http://simulated/dead"
    format = "row"
    [[route]]
    tables = ["shop.orders"]
    sink = "a"
    [[route]]
    tables = ["shop.lines"]
    sink = "b"
    [dead_letter]
    sink = "dead"
"#;

fn id_of(row: &Row<'_>) -> usize {
    row.newest().cell(ColumnIndex(0)).int().unwrap_or_default() as usize
}

fn second_decision(plan: &Plan, setup: &Setup, id: usize) -> RowDecision {
    match plan.fault_of(id) {
        Some(RowFault::Halt) if id.is_multiple_of(2) => RowDecision::Fail(OnTransformError::Halt),
        Some(RowFault::Halt) => RowDecision::FailBatch(OnTransformError::Halt),
        Some(RowFault::Panic) => RowDecision::Panic,
        _ if setup.is_dead_row(id) => RowDecision::Fail(OnTransformError::DeadLetter),
        _ => RowDecision::Keep,
    }
}

async fn write_checkpoint(fakes: Fakes, resume: ResumePoint) -> anyhow::Result<()> {
    sleep(Duration::from_millis(below(30))).await;
    if fakes.plan.has_store_error && one_in(4) {
        return Err(anyhow!("simulated"));
    }
    lock(&fakes.world).writes(resume);
    if one_in(2) {
        sleep(Duration::from_millis(below(30))).await;
    }
    Ok(())
}

/// Returns the endpoint of a queue.
fn answers(fakes: &Fakes, queue: usize) -> Arc<Answers> {
    let fakes = fakes.clone();
    Arc::new(move |body| answer(fakes.clone(), queue, body).boxed())
}

async fn answer(fakes: Fakes, queue: usize, body: Vec<u8>) -> Result<Vec<u8>, String> {
    let request: Value = serde_json::from_slice(&body).expect("requests are JSON");
    sleep(Duration::from_millis(below(50))).await;
    if fakes.outage_ends.get(queue).is_some_and(|end| Instant::now() < *end) {
        return Err("unreachable".to_owned());
    }
    let is_in_trouble = |part: u64| fakes.plan.trouble > 0 && one_in(part * 8 / fakes.plan.trouble);
    if is_in_trouble(6) {
        return Err("throttled".to_owned());
    }
    let (mut successful, mut failed) = (Vec::new(), Vec::new());
    for entry in request["Entries"].as_array().expect("entries") {
        let id = &entry["Id"];
        let ids = messages(entry["MessageBody"].as_str().expect("a body"));
        let is_refused = |(id, is_letter): &(MessageId, bool)| {
            !is_letter && id.is_row && fakes.plan.fault_of(id.row) == Some(RowFault::Refused)
        };
        let refused: Vec<MessageId> = ids.iter().filter(|id| is_refused(id)).map(|(id, _)| *id).collect();
        if !refused.is_empty() {
            lock(&fakes.world).refuses(&refused);
            failed.push(json!({ "Id": id, "Code": "InvalidMessageContents", "SenderFault": true }));
        } else if is_in_trouble(10) {
            failed.push(json!({ "Id": id, "Code": "InternalError", "SenderFault": false }));
        } else {
            let mut world = lock(&fakes.world);
            for (id, is_letter) in ids {
                if is_letter { world.dies(id) } else { world.arrives(id) }
            }
            successful.push(json!({ "Id": id }));
        }
    }
    if one_in(2) {
        sleep(Duration::from_millis(below(50))).await;
    }
    if is_in_trouble(8) {
        return Err("the answer is lost".to_owned());
    }
    Ok(json!({ "Successful": successful, "Failed": failed }).to_string().into_bytes())
}

/// Returns the messages of a body, and whether each is in a dead letter. A body is a row, a transform's message, several rows,
/// or a dead letter of one of these.
fn messages(body: &str) -> Vec<(MessageId, bool)> {
    let value: Value = serde_json::from_str(body).expect("bodies are JSON");
    let letter = |body: &str| messages(body).into_iter().map(|(id, _)| (id, true)).collect();
    match &value {
        Value::Array(rows) => rows.iter().flat_map(|row| messages(&row.to_string())).collect(),
        value if value.get("body").is_some() => letter(value["body"].as_str().expect("a body")),
        value if value.get("change").is_some() => letter(&value["change"].to_string()),
        value => {
            let row = value["id"].as_u64().expect("an id") as usize;
            vec![(MessageId { row, is_row: value.get("emitted").is_none() }, false)]
        }
    }
}
