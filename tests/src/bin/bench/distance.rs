//! Distant queues, and message groups with one message in flight.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context;
use rowmill_tests::{Drain, Engine, EngineConfig, MySql, scratch, wait_for};

use crate::report::Report;
use crate::{Case, RUNS, To, Workload, engine, median};

const DISTANCES_MS: [u64; 4] = [0, 2, 10, 50];
/// Changes of a run; some of them have the same key.
const CHANGES: usize = 20_000;
const HOT_PERCENT: [usize; 4] = [0, 5, 20, 50];
const HOT_DISTANCE: Duration = Duration::from_millis(10);

/// Measures throughput with delayed answers, and the throughput that a hot key leaves for other keys.
pub async fn distance(mysql: &MySql, workload: &Workload, report: &mut Report) -> anyhow::Result<()> {
    report.line(&format!(
        "### How far away the queue is\n\nThe first workload, a row a message; medians of {RUNS} runs.\n"
    ));
    report.line(
        "| answers come after | messages/s | of what answers at once give | peak MB |\n| --- | --- | --- | --- |",
    );
    let mut at_once = None;
    for milliseconds in DISTANCES_MS {
        let case: Case = ("", &[], To::Far { milliseconds });
        let run = median(async || engine(mysql, workload, &case).await).await?;
        let rate = run.rows_a_second();
        let part = rate / *at_once.get_or_insert(rate);
        report.line(&format!("| {milliseconds} ms | {rate:.0} | {part:.2} | {} |", run.peak_mb.unwrap_or_default()));
    }
    report.line(&format!(
        "\n{CHANGES} changes on a FIFO queue whose answers come after {} ms, some of them of one key; messages/s of the other \
         keys, until the last of them is accepted; medians of {RUNS} runs.\n",
        HOT_DISTANCE.as_millis()
    ));
    report.line("| changes of one key | others, messages/s | of those without such a key |\n| --- | --- | --- |");
    let mut without = None;
    for percent in HOT_PERCENT {
        let file = changes(mysql, percent).await?;
        let mut rates = Vec::new();
        for _ in 0..RUNS {
            rates.push(others(mysql, &file, CHANGES * (100 - percent) / 100).await?);
        }
        rates.sort_by(f64::total_cmp);
        let rate = rates[RUNS / 2];
        report.line(&format!("| {percent} % | {rate:.0} | {:.2} |", rate / *without.get_or_insert(rate)));
    }
    report.line("");
    Ok(())
}

/// Makes a new binlog file of changes, `percent` of them of one key, and returns its name.
async fn changes(mysql: &MySql, percent: usize) -> anyhow::Result<String> {
    mysql.run("DROP SCHEMA IF EXISTS hot; CREATE SCHEMA hot; CREATE TABLE hot.t (id INT PRIMARY KEY, n INT, text CHAR(80))").await?;
    mysql.run("INSERT INTO hot.t VALUES (0, 0, 'the hot one'); FLUSH BINARY LOGS").await?;
    let file = mysql.binlog_end().await?.0;
    let statement = |nth: usize| match nth % 100 < percent {
        true => "UPDATE hot.t SET n = n + 1 WHERE id = 0".to_owned(),
        false => format!("INSERT INTO hot.t VALUES ({}, 1, 'some text or other of no meaning')", nth + 1),
    };
    for batch in 0..CHANGES / 1000 {
        let statements: Vec<String> = (batch * 1000..(batch + 1) * 1000).map(statement).collect();
        mysql.run(&format!("BEGIN; {}; COMMIT", statements.join("; "))).await?;
    }
    Ok(file)
}

/// The requests that a drain has seen.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    /// When the first request came.
    first: Option<Instant>,
    /// Messages of other keys so far.
    others: usize,
    /// When the last of these messages was answered.
    last: Option<Instant>,
}

/// Returns the messages a second of the other keys, from the first request to the answer to the last one.
async fn others(mysql: &MySql, file: &str, count: usize) -> anyhow::Result<f64> {
    let directory = scratch("distance");
    let seen: Arc<Mutex<Seen>> = Arc::default();
    let drain = {
        let seen = Arc::clone(&seen);
        Drain::start_at(HOT_DISTANCE, move |request| {
            let others =
                request.matches("\"MessageBody\":\"").count() - request.matches("\"MessageGroupId\":\"t:0\"").count();
            let (now, mut seen) = (Instant::now(), seen.lock().expect("no panic"));
            seen.first.get_or_insert(now);
            seen.others += others;
            if others > 0 {
                seen.last = Some(now + HOT_DISTANCE);
            }
        })?
    };
    let endpoint = format!("http://127.0.0.1:{}", drain.port);
    let sink = format!("[sink.all]\ntype = \"sqs\"\nqueue_url = \"{endpoint}/1/all.fifo\"\n");
    let source = format!("tables = [\"hot.*\"]\nstart = \"{file}:4\"\ntls = {{ mode = \"disabled\" }}");
    let engine = Engine::start_and_wait(&EngineConfig::new(&directory, mysql, &source, &sink)).await?;
    let seconds = wait_for("all others are delivered", Duration::from_secs(300), || async {
        let Seen { first, others, last } = *seen.lock().expect("no panic");
        let span = || Some((last? - first?).as_secs_f64());
        Ok(if others >= count { span() } else { None })
    })
    .await
    .with_context(|| engine.log())?;
    drop(engine); // the hot key's messages would take long
    Ok(count as f64 / seconds)
}
