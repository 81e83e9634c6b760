//! Faults at random moments under load: the engine is killed while its transforms are replaced, or ends at a step of its own; a
//! transform halts it; the queues' answers get lost; the clock jumps.
//!
//! Nothing is lost, order is kept per key, and duplicates stay within [`Bound`]. The time from each fault to the next new
//! message is printed.
//!
//! `ROWMILL_TEST_SEED` repeats a run, `ROWMILL_TEST_FAULTS` makes a longer one.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use mysql_async::prelude::Queryable;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rowmill::failpoint::Step;
use rowmill_tests::{
    Change, Engine, EngineConfig, MySql, Proxy, Queue, Received, Shop, Sqs, binary, faulty_endpoint, log_lines,
    scratch, top,
};
use serde_json::Value;

/// The in-flight budget, in rows.
const IN_FLIGHT_ROWS: usize = 256;
const FAULTS: usize = 24;
/// The time for delivering the rest when the faults are over.
const DRAIN: Duration = Duration::from_secs(90);

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Returns the current time, in milliseconds since 1970.
fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}

/// A message, and the time of its arrival in milliseconds since 1970.
type Arrived = (Received, u64);

/// Receives from a queue until `stop` is set and no more messages come.
async fn collect(queue: Queue, stop: Arc<AtomicBool>) -> anyhow::Result<Vec<Arrived>> {
    let mut all = Vec::new();
    loop {
        let stopping = stop.load(Ordering::Relaxed);
        let some = queue.receive(Duration::from_secs(1)).await?;
        if some.is_empty() && stopping {
            return Ok(all);
        }
        all.extend(some.into_iter().map(|message| (message, now_ms())));
    }
}

/// Returns the milliseconds from each fault to the next arrival of a message that the engine read after the fault.
fn recoveries(faults: &[u64], arrived: &[&Arrived]) -> Vec<u64> {
    let mut times: Vec<(u64, u64)> = Vec::new();
    for (message, at) in arrived {
        let body: Value = serde_json::from_str(&message.body).expect("bodies are JSON");
        let first = body.as_array().map_or(&body, |rows| &rows[0]);
        times.push((first["ts_ms"].as_u64().expect("when the engine had it"), *at));
    }
    let after = |&fault: &u64| {
        let new = times.iter().filter(|(taken_up, at)| *taken_up > fault && *at > fault);
        Some(new.map(|(_, at)| at).min()? - fault)
    };
    let mut all: Vec<u64> = faults.iter().filter_map(after).collect();
    all.sort_unstable();
    all
}

/// A row's position in the binlog: file, event, and its index in the event.
type Place = (String, u64, u64);

/// The duplicates that a fault may cause.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Bound {
    /// None.
    Nothing,
    /// Each change in a window, once for each window: the engine may have delivered it before it ended, without a checkpoint
    /// past it.
    Windows,
    /// At most this many for each fault: those in requests whose answers got lost.
    EachFault(usize),
}

/// The positions between the checkpoint that a fault left and the binlog's end at that time.
#[derive(Debug)]
struct Window {
    checkpoint: Value,
    end: (String, u64),
}

impl Window {
    /// Returns the window of a fault that has just occurred.
    async fn of(config: &EngineConfig, mysql: &MySql) -> anyhow::Result<Self> {
        let end = mysql.binlog_end().await?;
        let document = match std::fs::read_to_string(config.checkpoint()) {
            Ok(document) => Some(document),
            Err(_) => {
                let mut conn = mysql.connect().await?;
                let document =
                    conn.query_first::<Option<String>, _>("SELECT document FROM rowmill.rowmill_checkpoints").await;
                // Before the first checkpoint the table is missing, or the document is NULL.
                document.unwrap_or_default().flatten()
            }
        };
        Ok(Self { checkpoint: document.map(|text| serde_json::from_str(&text)).transpose()?.unwrap_or_default(), end })
    }

    fn has(&self, (file, event, row): &Place) -> bool {
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let Self { checkpoint, end } = self;
        let is_before = (file, *event) < (&text(&checkpoint["file"]), number(&checkpoint["position"]));
        let past = &checkpoint["past"];
        let is_past = past.is_object()
            && (file, *event, *row) < (&text(&past["file"]), number(&past["event"]), number(&past["rows"]));
        !is_before && !is_past && (file, *event) < (&end.0, end.1)
    }
}

/// Returns the rows of a message: one, or several where they are aggregated.
fn rows(message: &Received) -> Vec<Value> {
    match serde_json::from_str(&message.body).expect("bodies are JSON") {
        Value::Array(rows) => rows,
        row => vec![row],
    }
}

/// Returns the changes of a message.
fn changes(message: &Received) -> Vec<Change> {
    rows(message).iter().map(change).collect()
}

fn place(body: &Value) -> Place {
    let source = &body["source"];
    let number = |key: &str| source[key].as_u64().expect("a number");
    (source["file"].as_str().expect("a file").to_owned(), number("pos"), number("row"))
}

fn change(body: &Value) -> Change {
    let image = if body["after"].is_null() { &body["before"] } else { &body["after"] };
    let table = match body["source"]["table"].as_str() {
        Some("orders") => "orders",
        Some("payments") => "payments",
        Some("customers") => "customers",
        other => panic!("unknown table {other:?}"),
    };
    Change {
        table,
        id: image["id"].as_i64().expect("an id"),
        operation: body["op"].as_str().and_then(|op| op.chars().next()).expect("an operation"),
        version: image["version"].as_i64().expect("a version"),
    }
}

/// Groups changes by key, in their order.
fn by_key(changes: impl Iterator<Item = Change>) -> BTreeMap<(&'static str, i64), Vec<(char, i64)>> {
    let mut keys = BTreeMap::<_, Vec<_>>::new();
    for Change { table, id, operation, version } in changes {
        keys.entry((table, id)).or_default().push((operation, version));
    }
    keys
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_lose_nothing() -> anyhow::Result<()> {
    trial("kills_lose_nothing", Bound::Windows, |config, _| config, kills).await.map(|_| ())
}

/// The same as `kills_lose_nothing`, with the checkpoint in the database that is read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_lose_nothing_with_the_checkpoint_in_a_database() -> anyhow::Result<()> {
    let in_database = |config: EngineConfig, Around { mysql, .. }: Around<'_>| {
        let path = format!("path = \"{}\"", config.checkpoint().display());
        let url = format!("type = \"mysql\"\nurl = \"{}/rowmill\"\npassword = \"{}\"", mysql.url(), mysql.password());
        EngineConfig { text: config.text.replace(&path, &url), ..config }
    };
    trial("kills_lose_nothing_with_the_checkpoint_in_a_database", Bound::Windows, in_database, kills).await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_get_lost_lose_nothing() -> anyhow::Result<()> {
    trial("answers_that_get_lost_lose_nothing", Bound::EachFault(120), |config, _| config, lost_answers)
        .await
        .map(|_| ())
}

/// The same with aggregated rows: a retry must send the same rows as before, or the FIFO queue would drop rows that were added
/// since.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_about_packed_rows_that_get_lost_lose_nothing() -> anyhow::Result<()> {
    let packed = |config: EngineConfig, _: Around<'_>| {
        let text = config.text.replace("type = \"sqs\"\n", "type = \"sqs\"\naggregate = \"array\"\n");
        let text = text.replace("sink = \"orders\"\n", "sink = \"orders\"\ngroup = \"{table}\"\n");
        EngineConfig { text, ..config }
    };
    trial("answers_about_packed_rows_that_get_lost_lose_nothing", Bound::EachFault(220), packed, lost_answers)
        .await
        .map(|_| ())
}

/// The queues' endpoint answers half of the requests with errors, garbage, late, twice, in part or not at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_faulty_endpoint_loses_nothing() -> anyhow::Result<()> {
    let fails = Arc::new(AtomicBool::new(true));
    let by_faulty_endpoint = |config: EngineConfig, Around { proxy, seed, .. }: Around<'_>| {
        let port = faulty_endpoint(proxy.port, seed, Arc::clone(&fails)).expect("it listens");
        let text = config.text.replace(&format!("127.0.0.1:{}", proxy.port), &format!("127.0.0.1:{port}"));
        EngineConfig { text, ..config }
    };
    let until_much_failed = async |Ground { config, faults, .. }: Ground<'_>| {
        let engine = Engine::start_and_wait(config).await?;
        rowmill_tests::wait_for("much fails", 10 * DRAIN, || {
            let failed = engine.log().matches(log_lines::NOT_ACCEPTED).count();
            std::future::ready(Ok((failed >= faults).then_some(())))
        })
        .await?;
        fails.store(false, Ordering::Relaxed);
        Ok(engine)
    };
    trial("a_faulty_endpoint_loses_nothing", Bound::EachFault(10), by_faulty_endpoint, until_much_failed)
        .await
        .map(|_| ())
}

/// The engine ends by itself now and then, at each step between reading and the checkpoint.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_step_may_be_the_last() -> anyhow::Result<()> {
    trial("each_step_may_be_the_last", Bound::Windows, |config, _| config, ends_at_steps).await.map(|_| ())
}

/// A transform halts the engine at a row, and the engine continues after it by the command that its error names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn halts_lose_nothing() -> anyhow::Result<()> {
    trial("halts_lose_nothing", Bound::Nothing, |config, _| config, halts).await.map(|_| ())
}

/// The wall clock jumps by days, forwards and backwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clock_jumps_lose_nothing() -> anyhow::Result<()> {
    let by_another_clock = |config: EngineConfig, _: Around<'_>| {
        let library = top().join("target/tools/faketime/libfaketime.so.1").display().to_string();
        let clock = config.directory.join("clock").display().to_string();
        let variables = [
            ("LD_PRELOAD", library),
            ("FAKETIME_TIMESTAMP_FILE", clock),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ];
        EngineConfig { variables: variables.to_vec(), ..config }
    };
    let log = trial("clock_jumps_lose_nothing", Bound::Nothing, by_another_clock, clock_jumps).await?;
    let days: HashSet<&str> = log.lines().filter_map(|line| line.split_once('T')).map(|(day, _)| day).collect();
    assert!(days.len() > 1, "the clock did jump: {log}");
    Ok(())
}

/// The environment that an engine is configured for.
struct Around<'a> {
    mysql: &'a MySql,
    /// Between the engine and the queues.
    proxy: &'a Proxy,
    seed: u64,
}

/// The environment and the record of faults.
struct Ground<'a> {
    config: &'a EngineConfig,
    mysql: &'a MySql,
    /// The directory of the transforms.
    plugins: &'a Path,
    /// Between the engine and the queues.
    proxy: &'a Proxy,
    random: &'a mut SmallRng,
    faults: usize,
    /// The time of each fault, in milliseconds since 1970.
    times: &'a mut Vec<u64>,
    /// The window that each end of the engine left.
    windows: &'a mut Vec<Window>,
}

/// Cuts connections to the queues after a random number of answer bytes, so that accepted messages are sent again; in the end
/// they are silent.
async fn lost_answers(ground: Ground<'_>) -> anyhow::Result<Engine> {
    let Ground { config, proxy, random, faults, times, .. } = ground;
    let engine = Engine::start_and_wait(config).await?;
    for _ in 0..faults {
        proxy.cut_after(random.random_range(0..3000));
        times.push(now_ms());
        tokio::time::sleep(Duration::from_millis(random.random_range(20..300))).await;
    }
    assert!(engine.log().contains(log_lines::NOT_ACCEPTED), "{}", engine.log());
    proxy.stall();
    times.push(now_ms());
    Ok(engine)
}

/// Inserts rows that a transform fails on, each in a transaction of its own, which is skipped after the engine has stopped.
async fn halts(ground: Ground<'_>) -> anyhow::Result<Engine> {
    let Ground { config, mysql, plugins, random, faults, times, .. } = ground;
    std::fs::copy(top().join("target/guests/unruly.wasm"), plugins.join("unruly.wasm"))?;
    std::fs::write(plugins.join("unruly.toml"), "tables = [\"shop.halts\"]\n")?;
    mysql.run("CREATE TABLE shop.halts (id INT PRIMARY KEY AUTO_INCREMENT, act VARCHAR(20))").await?;
    for _ in 0..faults {
        let mut engine = Engine::start(config)?;
        tokio::time::sleep(Duration::from_millis(random.random_range(30..400))).await;
        mysql.run("INSERT INTO shop.halts (act) VALUES ('reject')").await?;
        let status = engine.end(Duration::from_secs(60)).await?;
        let log = engine.log();
        let place = log.rsplit_once("rowmill checkpoint set ").map(|(_, place)| place.trim());
        let place = place.filter(|_| status.code() == Some(1)).with_context(|| format!("{status}: {log}"))?;
        let mut set = Command::new(binary()?);
        set.args(["checkpoint", "set", "--config", "rowmill.toml", place]).current_dir(&config.directory);
        let set = set.env("ROWMILL_SOURCE_PASSWORD", &config.password).output()?;
        anyhow::ensure!(set.status.success(), "{}", String::from_utf8_lossy(&set.stderr));
        times.push(now_ms());
    }
    Engine::start_and_wait(config).await
}

async fn ends_at_steps(ground: Ground<'_>) -> anyhow::Result<Engine> {
    let Ground { config, mysql, random, faults, times, windows, .. } = ground;
    for step in Step::ALL.into_iter().cycle().take(faults) {
        let count = random.random_range(1..40);
        let variables = vec![("ROWMILL_ABORT_AT", format!("{}:{count}", step.name()))];
        let mut engine = Engine::start(&EngineConfig { variables, ..config.clone() })?;
        let status = engine.end(Duration::from_secs(60)).await.context(step.name())?;
        anyhow::ensure!(status.code().is_none(), "{step:?} {count}: {status}: {}", engine.log());
        times.push(now_ms());
        windows.push(Window::of(config, mysql).await?);
    }
    Engine::start_and_wait(config).await
}

async fn clock_jumps(ground: Ground<'_>) -> anyhow::Result<Engine> {
    let Ground { config, random, faults, .. } = ground;
    let clock = config.directory.join("clock");
    let set = |days: i32| std::fs::write(&clock, format!("{days:+}d\n"));
    set(0)?;
    let engine = Engine::start_and_wait(config).await?;
    for _ in 0..faults {
        // Never back to the current day: the engine's log has to show the last jump.
        let days = random.random_range(1..=30);
        set(if random.random() { days } else { -days })?;
        tokio::time::sleep(Duration::from_millis(random.random_range(20..300))).await;
    }
    Ok(engine)
}

/// Kills and restarts the engine, now and then with another transform: one for which all columns are deferred, and one for
/// which none are.
async fn kills(ground: Ground<'_>) -> anyhow::Result<Engine> {
    let Ground { config, mysql, plugins, random, faults, times, windows, .. } = ground;
    for fault in 0..faults {
        let engine = Engine::start(config)?;
        tokio::time::sleep(Duration::from_millis(random.random_range(30..700))).await;
        if fault % 4 == 0 {
            let module = if fault % 8 == 0 { "target/guests/narrow.wasm" } else { "target/guests/unruly.wasm" };
            std::fs::copy(top().join(module), plugins.join("changing.wasm"))?;
        }
        engine.kill();
        times.push(now_ms());
        windows.push(Window::of(config, mysql).await?);
    }
    Engine::start_and_wait(config).await
}

/// Returns whether everything before a binlog position is delivered, by the checkpoint.
async fn has_reached(config: &EngineConfig, mysql: &MySql, (file, position): &(String, u64)) -> anyhow::Result<bool> {
    if config.checkpoint().exists() {
        return config.has_reached(&(file.clone(), *position));
    }
    // Each write of the checkpoint is a transaction in the same binlog.
    let reached = format!(
        "SELECT COALESCE(document->>'$.file' = '{file}' AND document->'$.position' >= {position}, FALSE) FROM \
         rowmill.rowmill_checkpoints"
    );
    Ok(mysql.connect().await?.query_first(reached).await? == Some(true))
}

/// Makes faults while shops write, compares delivered with committed changes, and returns the engine's log.
async fn trial(
    name: &str,
    bound: Bound,
    configured: impl FnOnce(EngineConfig, Around<'_>) -> EngineConfig,
    make_faults: impl AsyncFnOnce(Ground<'_>) -> anyhow::Result<Engine>,
) -> anyhow::Result<String> {
    let seed = setting("ROWMILL_TEST_SEED").unwrap_or_else(rand::random);
    let faults = setting("ROWMILL_TEST_FAULTS").map_or(FAULTS, |faults| faults as usize);
    println!("{name}: ROWMILL_TEST_SEED={seed}, {faults} faults");
    let directory = scratch(name);
    let mysql = MySql::start(&directory, &[]).await?;
    mysql.run("CREATE SCHEMA rowmill; GRANT ALL ON rowmill.* TO rowmill@'%'").await?;
    let sqs = Sqs::start(&directory).await?;
    let (orders, events) = (sqs.create("orders.fifo").await?, sqs.create("events").await?);
    Shop::create(&mysql).await?;

    let proxy = Proxy::start(sqs.port()).await?;
    let endpoint = format!("http://127.0.0.1:{}", proxy.port);
    let plugins = directory.join("plugins");
    std::fs::create_dir(&plugins)?;
    let sink = |name: &str, queue: &Queue| {
        format!("[sink.{name}]\ntype = \"sqs\"\nqueue_url = \"{}\"\nendpoint_url = \"{endpoint}\"\n", queue.url)
    };
    let more = format!(
        "[in_flight]\nmax_rows = {IN_FLIGHT_ROWS}\n[plugins]\ndir = \"{}\"\n{}{}\
         [[route]]\ntables = [\"shop.orders\"]\nsink = \"orders\"\n[[route]]\ntables = [\"shop.*\"]\nsink = \"events\"\n",
        plugins.display(),
        sink("orders", &orders),
        sink("events", &events)
    );
    let config = EngineConfig::new(&directory, &mysql, "start = \"earliest\"\ntables = [\"shop.*\"]", &more);
    let config = configured(config, Around { mysql: &mysql, proxy: &proxy, seed });

    let (stop_writing, stop_receiving) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let mut shop = Shop::open(&mysql, seed).await?;
    let stop = Arc::clone(&stop_writing);
    let writing = tokio::spawn(async move {
        let mut ledger = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            ledger.extend(shop.step().await?.changes);
        }
        Ok::<_, anyhow::Error>(ledger)
    });
    let receiving_orders = tokio::spawn(collect(orders, Arc::clone(&stop_receiving)));
    let receiving_events = tokio::spawn(collect(events, Arc::clone(&stop_receiving)));

    let mut random = SmallRng::seed_from_u64(seed);
    let (mut times, mut windows) = (Vec::new(), Vec::new());
    let ground = Ground {
        config: &config,
        mysql: &mysql,
        plugins: &plugins,
        proxy: &proxy,
        random: &mut random,
        faults,
        times: &mut times,
        windows: &mut windows,
    };
    let engine = make_faults(ground).await?;
    stop_writing.store(true, Ordering::Relaxed);
    let ledger = writing.await??;
    // The engine is done when its checkpoint is at the binlog's end.
    let end = mysql.binlog_end().await?;
    rowmill_tests::wait_for("the rest is delivered", DRAIN, || async {
        Ok(has_reached(&config, &mysql, &end).await?.then_some(()))
    })
    .await
    .map_err(|error| error.context(engine.log()))?;
    engine.stop().await?;
    stop_receiving.store(true, Ordering::Relaxed);
    let (received_orders, received_events) = (receiving_orders.await??, receiving_events.await??);

    let of_orders = |change: &Change| change.table == "orders";
    let expected_orders = by_key(ledger.iter().copied().filter(of_orders));
    let delivered_orders = by_key(received_orders.iter().flat_map(|(message, _)| changes(message)));
    assert_eq!(delivered_orders, expected_orders, "the FIFO queue has every change once, in order (seed {seed})");

    let expected: HashSet<Change> = ledger.iter().copied().filter(|change| !of_orders(change)).collect();
    let arrived: Vec<&Arrived> = received_orders.iter().chain(&received_events).collect();
    let recoveries = recoveries(&times, &arrived);
    let rows: Vec<Value> = received_events.iter().flat_map(|(message, _)| rows(message)).collect();
    let received_events: Vec<Change> = rows.iter().map(change).collect();
    let delivered: HashSet<Change> = received_events.iter().copied().collect();
    let lost: Vec<_> = expected.difference(&delivered).collect();
    let invented: Vec<_> = delivered.difference(&expected).collect();
    assert!(lost.is_empty() && invented.is_empty(), "lost {lost:?}, invented {invented:?} (seed {seed})");
    let duplicates = received_events.len() - delivered.len();
    println!(
        "{} changes committed, {} delivered to the standard queue, {duplicates} of them twice, {faults} faults",
        ledger.len(),
        received_events.len()
    );
    if let Some(slowest) = recoveries.last() {
        let median = recoveries[recoveries.len() / 2];
        println!("{name}: something new arrived {median} ms after a fault (median), {slowest} ms at most");
    }
    match bound {
        Bound::Nothing => assert_eq!(duplicates, 0, "seed {seed}"),
        Bound::EachFault(most) => {
            assert!(duplicates <= faults * most, "{duplicates} duplicates after {faults} faults (seed {seed})");
        }
        Bound::Windows => {
            let mut copies = BTreeMap::<Place, usize>::new();
            rows.iter().for_each(|row| *copies.entry(place(row)).or_default() += 1);
            for (place, copies) in copies.iter().filter(|(_, copies)| **copies > 1) {
                let most = 1 + windows.iter().filter(|window| window.has(place)).count();
                assert!(*copies <= most, "{place:?} came {copies} times, {most} at most (seed {seed})");
            }
        }
    }
    Ok(std::fs::read_to_string(directory.join("rowmill.log"))?)
}
