//! Latencies: from start to first event, and from commit to queue.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use rowmill_tests::{Engine, EngineConfig, MySql, scratch, top};

use crate::To;
use crate::report::Report;

/// The workload's rate.
const COMMITS_PER_SECOND: u32 = 500;
const COMMITS: u32 = 5_000;

/// Measures the latency from the start to the first event, and from a commit to its acceptance by the queue.
pub async fn latencies(mysql: &MySql, report: &mut Report) -> anyhow::Result<()> {
    let directory = scratch("bench");
    let plugins = directory.join("plugins");
    std::fs::create_dir(&plugins)?;
    std::fs::copy(top().join("plugins/paid-orders.wasm"), plugins.join("paid-orders.wasm"))?;
    mysql.run("DROP TABLE IF EXISTS bench.soon; CREATE TABLE bench.soon (id INT PRIMARY KEY)").await?;
    let arrived: Arc<Mutex<HashMap<u32, Instant>>> = Arc::default();
    let arrivals = Arc::clone(&arrived);
    let look = move |body: &str| {
        let now = Instant::now();
        let mut arrived = arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        for after in body.split("after\\\":{\\\"id\\\":").skip(1) {
            let digits = after.split(|next: char| !next.is_ascii_digit()).next().unwrap_or_default();
            if let Ok(id) = digits.parse() {
                arrived.entry(id).or_insert(now);
            }
        }
    };
    let (sink, _drain) = To::Drain { more: "" }.sink(look)?;
    let more = format!("[plugins]\ndir = \"{}\"\n{sink}", plugins.display());
    let config = EngineConfig::new(&directory, mysql, "tables = [\"bench.soon\"]\nstart = \"latest\"", &more);
    let has = |id: u32| arrived.lock().unwrap_or_else(PoisonError::into_inner).get(&id).copied();
    let wait = async |id: u32| {
        rowmill_tests::wait_for("it arrives", Duration::from_secs(20), || std::future::ready(Ok(has(id)))).await
    };

    // The first run compiles the plugin and makes a checkpoint; each later run finds its first event in the binlog.
    let mut first_event = Vec::new();
    Engine::start_and_wait(&config).await?.stop().await?;
    for id in 1..=5 {
        mysql.run(&format!("INSERT INTO bench.soon VALUES ({id})")).await?;
        let started = Instant::now();
        let engine = Engine::start(&config)?;
        first_event.push(wait(id).await?.duration_since(started).as_secs_f64() * 1e3);
        engine.stop().await?;
    }
    first_event.sort_by(f64::total_cmp);

    let mut engine = Engine::start_and_wait(&config).await?;
    let mut conn = mysql.connect().await?;
    let mut committed = Vec::new();
    let started = Instant::now();
    for nth in 0..COMMITS {
        let due = started + Duration::from_secs(1) * nth / COMMITS_PER_SECOND;
        tokio::time::sleep_until(due.into()).await;
        let id = 100 + nth;
        conn.query_drop(format!("INSERT INTO bench.soon VALUES ({id})")).await?;
        committed.push((id, Instant::now()));
    }
    let took = started.elapsed();
    conn.disconnect().await?;
    let mut delays = Vec::new();
    for (id, at) in committed {
        delays.push(wait(id).await?.saturating_duration_since(at).as_secs_f64() * 1e3);
    }
    delays.sort_by(f64::total_cmp);
    let percentile = |percent: usize| delays[(delays.len() * percent / 100).min(delays.len() - 1)];
    // After a pause, the memory in use is the memory that the engine retains.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let idle = engine.process().memory()? / 1_000_000;
    engine.stop().await?;
    report.line("### How soon, and how small\n\n| what | |\n| --- | --- |");
    let nth = first_event.len();
    report.line(&format!(
        "| from the start to the first event, warm plugin cache (median of {nth}) | {:.0} ms |",
        first_event[nth / 2]
    ));
    let rate = f64::from(COMMITS) / took.as_secs_f64();
    report.line(&format!(
        "| from the commit to the queue's acceptance at {rate:.0} transactions/s, p50 and p99 | {:.2} ms, {:.2} ms |",
        percentile(50),
        percentile(99)
    ));
    report.line(&format!("| memory when idle afterwards | {idle} MB |\n"));
    Ok(())
}
