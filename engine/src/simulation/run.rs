//! A schedule's runs: what is not real of them, and what happens in each.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::anyhow;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rowmill_core::batch::{ColumnIndex, Row};
use rowmill_core::position::Resume;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::history::History;
use super::world::{MessageId, Setup, Summary, World, first_decision};
use super::{below, one_in};
use crate::ack::StopError;
use crate::checkpoint::Checkpoint;
use crate::config::{Config, OnError, PackForm, Packing};
use crate::dispatch::{Dispatcher, SinkNeeds};
use crate::pipeline::{Stages, Threads};
use crate::sink::Sink;
use crate::sink::fake::{Answers, FakeQueue};
use crate::source::{Lag, Outlet};
use crate::transform::fake::{FakeTransform, RowDecision};
use crate::transform::{Chain, CurrentChain, OnTransformError};
use crate::workers::{Intake, Worker};

/// Longer than any run takes that doesn't hang: outages and pauses between tries included.
const RUN_TIME_MAX: Duration = Duration::from_secs(3600);
const DRAIN_TIME_MAX: Duration = Duration::from_secs(26);
/// An outage of a queue, at most.
const OUTAGE_MAX_MS: u64 = 40_000;

/// What happens in a run beside what endpoints do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    /// It runs until all is delivered.
    Nothing,
    /// The process is killed then.
    Kill(Duration),
    /// It is told to stop then.
    Signal(Duration),
    /// A transform stops it at a row.
    Halt(usize),
    /// The row has no route.
    Unrouted(usize),
    /// A queue refuses the row's message for what it is.
    Refused(usize),
    /// A transform panics on a row.
    Panic(usize),
    /// The source can't go on at a row.
    SourceError(usize),
    /// A checkpoint can't be written.
    StoreError,
}

/// What is shared by all that is not real.
#[derive(Clone)]
struct Fakes {
    world: Arc<Mutex<World>>,
    plan: Plan,
    /// By queue: until when it is out of reach.
    outage_ends: [Instant; 2],
    /// How often requests fail, 0 never to 3.
    trouble: u64,
}

/// All stages run on one thread, in turn.
struct OneThread;

impl Threads for OneThread {
    fn spawn_source(&self, stages: &mut JoinSet<anyhow::Result<()>>, source: BoxFuture<'static, anyhow::Result<()>>) {
        stages.spawn(source);
    }

    fn spawn_worker(&self, stages: &mut JoinSet<anyhow::Result<()>>, worker: Worker) {
        stages.spawn(worker.run());
    }
}

/// Runs a random schedule.
pub(super) fn schedule() -> Result<Summary, String> {
    let history = Arc::new(History::random());
    let setup = Setup {
        workers: 1 + below(3) as usize,
        rows_in_flight: 4 + below(60) as u32,
        is_fifo: [true, one_in(2)],
        packs: one_in(3),
        has_dead_letters: one_in(3),
        is_ordered: one_in(3),
    };
    let world = Arc::new(Mutex::new(World::new(history, setup)));
    let mut summary = Summary::default();
    let faulty_runs = below(5);
    for run in 0..=faulty_runs {
        let plan = if run == faulty_runs { Plan::Nothing } else { plan(&lock(&world)) };
        summary.runs += 1;
        one_run(&world, plan, &mut summary)?;
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

fn plan(world: &World) -> Plan {
    let (first, rows) = (world.first_left(), world.history.rows.len());
    let row = first + below((rows - first) as u64) as usize;
    let time = Duration::from_millis(if one_in(4) { below(60_000) } else { below(400) });
    let has_row = row < rows && first_decision(row) != RowDecision::Drop;
    match below(9) {
        0 | 1 => Plan::Kill(time),
        2 => Plan::Signal(time),
        3 if has_row => Plan::Halt(row),
        4 if has_row => Plan::Unrouted(row),
        5 if has_row => Plan::Refused(row),
        6 if row < rows => Plan::Panic(row),
        7 if row < rows => Plan::SourceError(row),
        8 => Plan::StoreError,
        _ => Plan::Kill(time),
    }
}

/// How a run ended.
enum End {
    Itself(anyhow::Result<()>),
    Killed,
    Hangs,
}

fn one_run(world: &Arc<Mutex<World>>, plan: Plan, summary: &mut Summary) -> Result<(), String> {
    {
        let mut world = lock(world);
        world.run += 1;
        world.refused.clear();
        world.halts_at = match plan {
            Plan::Halt(row) | Plan::Unrouted(row) | Plan::SourceError(row) => Some(row),
            _ => None,
        };
    }
    // Dropping the runtime ends the process: whatever is in flight is gone.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let has_outage = one_in(3);
    let (end, told) = runtime.expect("a runtime").block_on(process(Arc::clone(world), plan, has_outage));
    let mut world = lock(world);
    let checkpoint = world.first_left();
    match (&end, plan) {
        (End::Hangs, _) => world.violated(|| format!("it hangs: {plan:?}")),
        (End::Killed, _) => summary.kills += 1,
        (End::Itself(Ok(())), _) => {}
        (End::Itself(Err(error)), _) if error.downcast_ref::<StopError>().is_some() => {
            let stopped_at = match plan {
                Plan::Halt(row) | Plan::Unrouted(row) | Plan::SourceError(row) => Some(row),
                // Of a message that has several rows the first.
                Plan::Refused(_) => world.refused.first().map(|id| id.row),
                _ => None,
            };
            summary.row_stops += u64::from(!matches!(plan, Plan::SourceError(_)));
            summary.source_errors += u64::from(matches!(plan, Plan::SourceError(_)));
            // A queue that is out of reach takes longer than what is before the row is waited for.
            let is_right = if has_outage { Some(checkpoint) <= stopped_at } else { Some(checkpoint) == stopped_at };
            if !is_right {
                world.violated(|| format!("{plan:?} leaves the checkpoint before row {checkpoint}: {error:#}"));
            }
            let transaction = stopped_at.map(|row| world.history.transaction(row));
            let said = error.downcast_ref::<StopError>().map(|error| error.transaction.clone());
            if said != transaction {
                world.violated(|| {
                    format!("{plan:?}: the error says the transaction {said:?}, and it is {transaction:?}")
                });
            }
        }
        (End::Itself(Err(_)), Plan::Panic(_)) => summary.panics += 1,
        (End::Itself(Err(_)), Plan::StoreError) => summary.store_errors += 1,
        (End::Itself(Err(error)), _) if told.is_some() && error.to_string().contains("wasn't delivered within") => {
            summary.drain_timeouts += 1;
        }
        (End::Itself(Err(error)), _) if error.to_string().contains("wasn't delivered within") => {
            summary.drain_timeouts += 1; // a row stopped it while a queue was out of reach
        }
        (End::Itself(Err(error)), _) => world.violated(|| format!("{plan:?}: {error:#}")),
    }
    summary.signals += u64::from(told.is_some() && matches!(end, End::Itself(Ok(()))));
    if told.is_some_and(|took| took > DRAIN_TIME_MAX) {
        world.violated(|| format!("it took {told:?} to stop"));
    }
    Ok(())
}

/// The process, and how long it took to end after it was told to.
async fn process(world: Arc<Mutex<World>>, plan: Plan, has_outage: bool) -> (End, Option<Duration>) {
    let now = Instant::now();
    let outage = || now + Duration::from_millis(if has_outage { below(OUTAGE_MAX_MS) } else { 0 });
    let fakes = Fakes { world: Arc::clone(&world), plan, outage_ends: [outage(), outage()], trouble: below(4) };
    let told: Arc<Mutex<Option<Instant>>> = Arc::default();
    let signal = {
        let (world, told) = (Arc::clone(&world), Arc::clone(&told));
        async move || {
            if told.lock().expect("no panic").is_some() {
                return std::future::pending().await;
            }
            match plan {
                Plan::Signal(at) => tokio::time::sleep_until(now + at).await,
                // All is delivered, or nothing more will be.
                _ => {
                    let rows = lock(&world).history.rows.len();
                    while lock(&world).first_left() < rows {
                        sleep(Duration::from_millis(100)).await;
                    }
                }
            }
            *told.lock().expect("no panic") = Some(Instant::now());
            "SIGTERM"
        }
    };
    let stages = stages(&fakes);
    let first = lock(&world).first_left();
    let source = move |intake, stopped| source(fakes, first, intake, stopped);
    let run = timeout(RUN_TIME_MAX, stages.run(source, &OneThread, signal));
    let killed = async {
        match plan {
            Plan::Kill(at) => tokio::time::sleep_until(now + at).await,
            _ => std::future::pending().await,
        }
    };
    let end = tokio::select! {
        biased;
        () = killed => End::Killed,
        end = run => end.map_or(End::Hangs, End::Itself),
    };
    let told = *told.lock().expect("no panic");
    (end, told.map(|told| told.elapsed()))
}

/// Hands on batches of random sizes until it is told to stop.
async fn source(
    fakes: Fakes,
    first: usize,
    mut intake: Intake,
    mut stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let history = Arc::clone(&lock(&fakes.world).history);
    let read = async {
        let rows = history.rows.len();
        let end = match fakes.plan {
            Plan::SourceError(row) => row,
            _ => rows,
        };
        let mut next = first;
        while next < end {
            if one_in(3) {
                sleep(Duration::from_millis(below(100))).await;
            }
            let count = 1 + below(u64::from(intake.batch_limits().rows.min(12))) as usize;
            let to = (next + count).min(end);
            let unrouted = match fakes.plan {
                Plan::Unrouted(row) => Some(row),
                _ => None,
            };
            let mut batch = history.batch(next, to, unrouted);
            if next == first {
                batch.new_tables = history.tables.to_vec();
            }
            if !intake.hand_on(batch).await {
                return Ok(());
            }
            next = to;
        }
        if let Plan::SourceError(row) = fakes.plan {
            return Err(StopError { transaction: history.transaction(row), error: anyhow!("simulated") }.into());
        }
        std::future::pending().await
    };
    tokio::select! {
        biased;
        result = read => result,
        _ = stopped.wait_for(|stopped| *stopped) => Ok(()),
    }
}

fn stages(fakes: &Fakes) -> Stages {
    let world = lock(&fakes.world);
    let Setup { workers, rows_in_flight, is_fifo, packs, has_dead_letters, is_ordered } = world.setup;
    let packing = packs.then_some(Packing { form: PackForm::Array, bytes: 200, compression: None });
    let queue = |index: usize, name: &'static str, is_fifo: bool| -> Box<dyn Sink> {
        let on_error = if has_dead_letters && index < 2 { OnError::DeadLetter } else { OnError::Halt };
        let packing = packing.filter(|_| index < 2);
        FakeQueue { name, is_fifo, on_error, packing, jitter_seed: below(u64::MAX), answers: answers(fakes, index) }
            .sink()
    };
    let sinks = vec![queue(0, "a", is_fifo[0]), queue(1, "b", is_fifo[1]), queue(2, "dead", false)];
    let config = Config::parse(CONFIG).expect("a configuration");
    let needs = sinks.iter().zip(&config.sinks).map(|(sink, config)| SinkNeeds {
        ordered: sink.is_ordered(),
        format: config.format,
        escaping: config.escaping(),
        attributes: Vec::new(),
        queue: None,
    });
    let plan = fakes.plan;
    let first = FakeTransform::new("first", is_ordered, move |row| first_decision(id_of(row)));
    let second = FakeTransform::new("second", false, move |row| second_decision(plan, id_of(row)));
    let in_flight = crate::ack::Cost { rows: rows_in_flight, bytes: 1 << 20 };
    let writes = {
        let fakes = fakes.clone();
        Arc::new(move |resume: Resume| write_checkpoint(fakes.clone(), resume).boxed())
    };
    Stages {
        first_resume: world.checkpoint.clone(),
        chain: CurrentChain::of(Chain::of(vec![first, second])),
        workers,
        dispatcher: Dispatcher::new(config.destinations, needs.collect(), "simulated".to_owned()),
        sinks,
        dead_letters: Some(2),
        checkpoint: Checkpoint::simulated(Duration::from_millis(below(1000)), writes),
        in_flight,
        lag: Arc::new(Lag::default()),
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

fn second_decision(plan: Plan, id: usize) -> RowDecision {
    match plan {
        Plan::Halt(row) if row == id && row % 2 == 0 => RowDecision::Fail(OnTransformError::Halt),
        Plan::Halt(row) if row == id => RowDecision::FailBatch(OnTransformError::Halt),
        Plan::Panic(row) if row == id => RowDecision::Panic,
        _ => RowDecision::Keep,
    }
}

async fn write_checkpoint(fakes: Fakes, resume: Resume) -> anyhow::Result<()> {
    sleep(Duration::from_millis(below(30))).await;
    if fakes.plan == Plan::StoreError && one_in(4) {
        return Err(anyhow!("simulated"));
    }
    lock(&fakes.world).writes(resume);
    if one_in(2) {
        sleep(Duration::from_millis(below(30))).await;
    }
    Ok(())
}

/// What a queue's endpoint answers.
fn answers(fakes: &Fakes, queue: usize) -> Arc<Answers> {
    let fakes = fakes.clone();
    Arc::new(move |body| answer(fakes.clone(), queue, body).boxed())
}

async fn answer(fakes: Fakes, queue: usize, body: Vec<u8>) -> Result<Vec<u8>, String> {
    let request: Value = serde_json::from_slice(&body).expect("requests are JSON");
    sleep(Duration::from_millis(below(50))).await;
    if fakes.outage_ends.get(queue).is_some_and(|end| Instant::now() < *end) {
        return Err("out of reach".to_owned());
    }
    let is_in_trouble = |part: u64| fakes.trouble > 0 && one_in(part * 4 / fakes.trouble);
    if is_in_trouble(6) {
        return Err("throttled".to_owned());
    }
    let (mut successful, mut failed) = (Vec::new(), Vec::new());
    let refused = match fakes.plan {
        Plan::Refused(row) if queue < 2 => Some(MessageId { row, is_row: true }),
        _ => None,
    };
    for entry in request["Entries"].as_array().expect("entries") {
        let id = &entry["Id"];
        let ids = messages(entry["MessageBody"].as_str().expect("a body"));
        if refused.is_some_and(|refused| ids.contains(&refused)) {
            lock(&fakes.world).refuses(&ids);
            failed.push(json!({ "Id": id, "Code": "InvalidMessageContents", "SenderFault": true }));
        } else if is_in_trouble(10) {
            failed.push(json!({ "Id": id, "Code": "InternalError", "SenderFault": false }));
        } else {
            let mut world = lock(&fakes.world);
            match queue {
                2 => ids.iter().for_each(|id| world.dies(*id)),
                _ => world.arrives(&ids),
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

/// What is in a body: a row, a transform's message, several rows, or a dead letter, which has one of them.
fn messages(body: &str) -> Vec<MessageId> {
    let value: Value = serde_json::from_str(body).expect("bodies are JSON");
    match &value {
        Value::Array(rows) => rows.iter().flat_map(|row| messages(&row.to_string())).collect(),
        value if value.get("body").is_some() => messages(value["body"].as_str().expect("a body")),
        value => {
            let row = value["id"].as_u64().expect("an id") as usize;
            vec![MessageId { row, is_row: value.get("emitted").is_none() }]
        }
    }
}
