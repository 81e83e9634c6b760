//! Faults at random moments under load: the engine is killed while its transforms are replaced, answers of the
//! queues get lost. Nothing is lost, order is kept per key, and what comes twice is no more than what was in flight.
//!
//! `ROWMILL_TEST_SEED` repeats a run, `ROWMILL_TEST_FAULTS` makes a longer one.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rowmill_tests::{Change, Engine, EngineConfig, MySql, Proxy, Queue, Received, Shop, Sqs, scratch, top};
use serde_json::Value;

/// What may be in flight: as small as a batch, so that the bound on duplicates says something.
const IN_FLIGHT_ROWS: usize = 256;
const FAULTS: usize = 24;
/// For what is left when the killing is over.
const DRAIN: Duration = Duration::from_secs(90);

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Receives from a queue until told to stop and nothing more comes.
async fn collect(queue: Queue, stop: Arc<AtomicBool>) -> anyhow::Result<Vec<Received>> {
    let mut all = Vec::new();
    loop {
        let stopping = stop.load(Ordering::Relaxed);
        let some = queue.receive(Duration::from_secs(1)).await?;
        if some.is_empty() && stopping {
            return Ok(all);
        }
        all.extend(some);
    }
}

/// The changes of a message: of one row, or of several packed.
fn changes(message: &Received) -> Vec<Change> {
    match serde_json::from_str(&message.body).expect("bodies are JSON") {
        Value::Array(rows) => rows.iter().map(change).collect(),
        row => vec![change(&row)],
    }
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

/// Changes by key, in their order.
fn by_key(changes: impl Iterator<Item = Change>) -> BTreeMap<(&'static str, i64), Vec<(char, i64)>> {
    let mut keys = BTreeMap::<_, Vec<_>>::new();
    for Change { table, id, operation, version } in changes {
        keys.entry((table, id)).or_default().push((operation, version));
    }
    keys
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_lose_nothing() -> anyhow::Result<()> {
    trial("kills_lose_nothing", |config, _| config, kills).await
}

/// The same with the checkpoint in the database that is read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_lose_nothing_with_the_checkpoint_in_a_database() -> anyhow::Result<()> {
    let in_database = |config: EngineConfig, mysql: &MySql| {
        let path = format!("path = \"{}\"", config.checkpoint().display());
        let url = format!("type = \"mysql\"\nurl = \"{}/rowmill\"\npassword = \"{}\"", mysql.url(), mysql.password());
        EngineConfig { text: config.text.replace(&path, &url), ..config }
    };
    trial("kills_lose_nothing_with_the_checkpoint_in_a_database", in_database, kills).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_get_lost_lose_nothing() -> anyhow::Result<()> {
    trial("answers_that_get_lost_lose_nothing", |config, _| config, lost_answers).await
}

/// The same with many rows a message: what was accepted is sent again as it was, or the FIFO queue would drop what
/// joined it since.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_about_packed_rows_that_get_lost_lose_nothing() -> anyhow::Result<()> {
    let packed = |config: EngineConfig, _: &MySql| {
        let text = config.text.replace("type = \"sqs\"\n", "type = \"sqs\"\npack = \"array\"\n");
        let text = text.replace("sink = \"orders\"\n", "sink = \"orders\"\ngroup = \"{table}\"\n");
        EngineConfig { text, ..config }
    };
    trial("answers_about_packed_rows_that_get_lost_lose_nothing", packed, lost_answers).await
}

/// What faults are made with.
struct Ground<'a> {
    config: &'a EngineConfig,
    /// Where the transforms are.
    plugins: &'a Path,
    /// Between the engine and the queues.
    proxy: &'a Proxy,
    random: &'a mut SmallRng,
    faults: usize,
}

/// Connections to the queues are cut behind any byte of any answer: what was accepted is sent again. In the end they
/// don't answer at all.
async fn lost_answers(ground: Ground<'_>) -> anyhow::Result<Engine> {
    let Ground { config, proxy, random, faults, .. } = ground;
    let engine = Engine::start_and_wait(config).await?;
    for _ in 0..faults {
        proxy.cut_after(random.random_range(0..3000));
        tokio::time::sleep(Duration::from_millis(random.random_range(20..300))).await;
    }
    assert!(engine.log().contains("not accepted, trying again"), "{}", engine.log());
    proxy.stall();
    Ok(engine)
}

/// The engine is killed and started again, now and then with another transform: one that has all rows decoded late, one
/// that has none.
async fn kills(ground: Ground<'_>) -> anyhow::Result<Engine> {
    let Ground { config, plugins, random, faults, .. } = ground;
    for fault in 0..faults {
        let engine = Engine::start(config)?;
        tokio::time::sleep(Duration::from_millis(random.random_range(30..700))).await;
        if fault % 4 == 0 {
            let module = if fault % 8 == 0 { "target/guests/narrow.wasm" } else { "target/guests/unruly.wasm" };
            std::fs::copy(top().join(module), plugins.join("changing.wasm"))?;
        }
        engine.kill();
    }
    Engine::start_and_wait(config).await
}

/// Whether everything before a place in the binlog is delivered, by what the checkpoint says.
async fn has_reached(config: &EngineConfig, mysql: &MySql, (file, position): &(String, u64)) -> anyhow::Result<bool> {
    if config.checkpoint().exists() {
        return config.has_reached(&(file.clone(), *position));
    }
    // Each write of it is a transaction in the same binlog.
    let reached = format!(
        "SELECT document->>'$.file' = '{file}' AND document->'$.position' >= {position} FROM rowmill.rowmill_checkpoints"
    );
    Ok(mysql.connect().await?.query_first(reached).await? == Some(true))
}

/// Makes faults while shops sell, and compares what arrived with what was committed.
async fn trial(
    name: &str,
    configured: impl FnOnce(EngineConfig, &MySql) -> EngineConfig,
    make_faults: impl AsyncFnOnce(Ground<'_>) -> anyhow::Result<Engine>,
) -> anyhow::Result<()> {
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
        "[in_flight]\nrows = {IN_FLIGHT_ROWS}\n[plugins]\ndir = \"{}\"\n{}{}\
         [[route]]\ntables = [\"shop.orders\"]\nsink = \"orders\"\n[[route]]\ntables = [\"shop.*\"]\nsink = \"events\"\n",
        plugins.display(),
        sink("orders", &orders),
        sink("events", &events)
    );
    let config = EngineConfig::new(&directory, &mysql, "start = \"earliest\"\ntables = [\"shop.*\"]", &more);
    let config = configured(config, &mysql);

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
    let engine =
        make_faults(Ground { config: &config, plugins: &plugins, proxy: &proxy, random: &mut random, faults }).await?;
    stop_writing.store(true, Ordering::Relaxed);
    let ledger = writing.await??;
    // The engine is done when its checkpoint is where the binlog ends.
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
    let delivered_orders = by_key(received_orders.iter().flat_map(changes));
    assert_eq!(delivered_orders, expected_orders, "the FIFO queue has every change once, in order (seed {seed})");

    let expected: HashSet<Change> = ledger.iter().copied().filter(|change| !of_orders(change)).collect();
    let received_events: Vec<Change> = received_events.iter().flat_map(changes).collect();
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
    assert!(duplicates <= (faults + 1) * IN_FLIGHT_ROWS, "{duplicates} duplicates after {faults} faults (seed {seed})");
    Ok(())
}
