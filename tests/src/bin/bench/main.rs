//! Measures throughput, memory and latency of the engine and of the bare stream, MySQL's own tool and other binlog readers, in
//! one run on the same binlogs. `tests/bench` builds and runs it.

mod distance;
mod latencies;
mod peers;
mod report;
mod scaling;

use std::cell::Cell;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures_util::StreamExt;
use mysql_async::BinlogStreamRequest;
use rowmill_tests::{Drain, Drained, Engine, EngineConfig, MySql, scratch, top, wait_for};
use serde_json::Value;

use report::Report;

const RUNS: usize = 3;
/// A slower engine is given up.
const ROWS_A_SECOND_MIN: f64 = 20_000.0;
/// The workloads, in the order in which they are loaded: name, script, row changes.
const WORKLOADS: [(&str, &str, f64); 2] = [
    ("Large and small transactions, two huge ones", "bench.sql", 1_525_000.0),
    ("Small transactions only", "bench-small.sql", 1_990_000.0),
];

/// A measured configuration: name, transforms and sink.
type Case = (&'static str, &'static [&'static str], To);

const FILTER: &[&str] = &["target/guests/tenth.wasm"];
const CASES: [Case; 6] = [
    ("Rowmill, a filter that keeps a tenth, to a null sink", FILTER, To::Null),
    ("Rowmill, every row in Debezium's envelope, to a null sink", &[], To::Null),
    ("Rowmill, the same, to the drain, a row a message", &[], To::Drain { more: "" }),
    ("Rowmill, the same, packed", &[], To::Drain { more: "aggregate = \"array\"\n" }),
    ("Rowmill, packed and compressed", &[], To::Drain { more: "aggregate = \"array\"\ncompression = \"zstd\"\n" }),
    ("Rowmill, packed, `format = \"row\"`", &[], To::Drain { more: "aggregate = \"array\"\nformat = \"row\"\n" }),
];

const SECTIONS: [&str; 5] = ["first", "second", "latencies", "distance", "scaling"];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => sections(&SECTIONS).await,
        ["--one", words] | ["--one", words, "first"] => one(words, 0).await,
        ["--one", words, "second"] => one(words, 1).await,
        ["backlog"] => {
            let mut report = Report::new("backlog");
            scaling::backlog(None, &mut report).await?;
            report.write()
        }
        // A part of the section is not written to the docs.
        ["backlog", words] => scaling::backlog(Some(words), &mut Report::new("backlog")).await,
        [section] if SECTIONS.contains(&section) => sections(&[section]).await,
        _ => bail!("there is no `{}`: tests/bench says at its head what there is", arguments.join(" ")),
    }
}

/// Measures sections, and writes their reports into the docs.
async fn sections(wanted: &[&str]) -> anyhow::Result<()> {
    let (mysql, workloads) = loaded().await?;
    for section in wanted {
        let mut report = Report::new(section);
        match *section {
            "first" => throughput(&mysql, &workloads[0], &mut report).await?,
            "second" => throughput(&mysql, &workloads[1], &mut report).await?,
            "distance" => distance::distance(&mysql, &workloads[0], &mut report).await?,
            "latencies" => latencies::latencies(&mysql, &mut report).await?,
            _ => scaling::scaling(&mysql, &workloads[0], &mut report).await?,
        }
        report.write()?;
    }
    Ok(())
}

/// Runs the first case whose name contains `words` once.
async fn one(words: &str, workload: usize) -> anyhow::Result<()> {
    let (mysql, workloads) = loaded().await?;
    let workload = &workloads[workload];
    for (name, mut peer) in peers::peers(&mysql, workload).await? {
        if name.contains(words) {
            println!("{name}: {:?}", peer.run().await?);
            return Ok(());
        }
    }
    let case = CASES.iter().find(|(name, ..)| name.contains(words)).context("no such case")?;
    println!("{}: {:?}", case.0, engine(&mysql, workload, case).await?);
    Ok(())
}

/// Starts a server with the workloads in its binlog; the first run loads them.
async fn loaded() -> anyhow::Result<(MySql, Vec<Workload>)> {
    let directory = top().join("target/bench");
    // The marker is within the data directory, which is removed when the server cannot start.
    let marker = directory.join("data/loaded");
    let is_loaded = marker.exists();
    if !is_loaded && directory.exists() {
        std::fs::remove_dir_all(&directory)?;
    }
    let options = ["--innodb-flush-log-at-trx-commit=0", "--sync-binlog=0", "--max-binlog-size=1G"];
    let mut mysql = MySql::start(&directory, &options).await?;
    mysql.keep_data();
    if !is_loaded {
        eprintln!("loading the workloads: some minutes, once");
        let mut files = Vec::new();
        for (_, script, _) in WORKLOADS {
            load(&mysql, script)?;
            files.push(mysql.binlog_end().await?.0);
        }
        mysql.run("FLUSH BINARY LOGS").await?;
        std::fs::write(&marker, files.join("\n"))?;
    }
    let files = std::fs::read_to_string(&marker)?;
    let workloads = WORKLOADS.into_iter().zip(files.lines());
    let workloads = workloads.map(|((name, _, rows), file)| Workload::new(name, &mysql, file, rows));
    let workloads = workloads.collect::<anyhow::Result<_>>()?;
    // Some readers read whole tables first.
    mysql.run("GRANT SELECT, RELOAD, SHOW DATABASES, LOCK TABLES ON *.* TO rowmill@'%'").await?;
    rest(&mysql).await?;
    Ok((mysql, workloads))
}

/// Waits until the server is idle: writes and purges left by loading or by the start would distort the first measurement.
async fn rest(mysql: &MySql) -> anyhow::Result<()> {
    const LOOK_INTERVAL: Duration = Duration::from_secs(1);
    const CPU_SECONDS_MAX: f64 = 0.05;
    ensure!(Command::new("sync").status()?.success(), "what was written can't be brought to the disk");
    let cpu_seconds = Cell::new(mysql.process().cpu_seconds()?);
    wait_for("the server has nothing to do", Duration::from_secs(600), || async {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let now = mysql.process().cpu_seconds()?;
        Ok((now - cpu_seconds.replace(now) < CPU_SECONDS_MAX).then_some(()))
    })
    .await
}

/// A binlog file.
struct Workload {
    name: &'static str,
    file: String,
    /// The number of row changes.
    rows: f64,
    size: u64,
}

impl Workload {
    fn new(name: &'static str, mysql: &MySql, file: &str, rows: f64) -> anyhow::Result<Self> {
        let path = mysql.data().join(file);
        let size = std::fs::metadata(&path).with_context(|| path.display().to_string())?.len();
        Ok(Self { name, file: file.to_owned(), rows, size })
    }
}

/// One measurement.
#[derive(Debug, Clone)]
struct Run {
    /// The number of row changes.
    rows: f64,
    seconds: f64,
    cpu: Option<f64>,
    peak_mb: Option<u64>,
    drained: Option<Drained>,
}

impl Run {
    fn of(rows: f64, seconds: f64) -> Self {
        Self { rows, seconds, cpu: None, peak_mb: None, drained: None }
    }

    fn rows_a_second(&self) -> f64 {
        self.rows / self.seconds
    }
}

async fn median(mut run: impl AsyncFnMut() -> anyhow::Result<Run>) -> anyhow::Result<Run> {
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        runs.push(run().await?);
    }
    runs.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    Ok(runs[RUNS / 2].clone())
}

/// Measures rows a second, of the engine and of other readers.
async fn throughput(mysql: &MySql, workload: &Workload, report: &mut Report) -> anyhow::Result<()> {
    let Workload { name, rows, size, .. } = workload;
    report.line(&format!("### {name}\n"));
    report.line(&format!("{rows} row changes, {} MB of binlog; medians of {RUNS} runs.\n", size / 1_000_000));
    report.line(
        "| what | rows/s | of the floor | of `mysqlbinlog --raw` | CPU s | rows/s of a core | peak MB | requests | \
         $ a million rows |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    );
    let floor = median(async || bare_stream(mysql, workload).await).await?;
    let raw = median(async || mysqlbinlog(mysql, workload)).await?;
    let mut line = |name: &str, run: &Run| {
        let some = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        report.line(&format!(
            "| {name} | {:.0} | {:.2} | {:.2} | {} | {} | {} | {} | {} |",
            run.rows_a_second(),
            run.rows_a_second() / floor.rows_a_second(),
            run.rows_a_second() / raw.rows_a_second(),
            some(run.cpu.map(|cpu| format!("{cpu:.2}"))),
            some(run.cpu.map(|cpu| format!("{:.0}", run.rows / cpu))),
            some(run.peak_mb.map(|mb| mb.to_string())),
            some(run.drained.map(|drained| drained.requests.to_string())),
            some(run.drained.map(|drained| format!("{:.4}", drained.dollars() / run.rows * 1e6))),
        ));
    };
    line("the floor: mysql_async's stream, thrown away", &floor);
    line("`mysqlbinlog --raw`", &raw);
    for case in &CASES {
        line(case.0, &median(async || engine(mysql, workload, case).await).await?);
    }
    for (name, mut peer) in peers::peers(mysql, workload).await? {
        match median(async || peer.run().await).await {
            Ok(run) => line(name, &run),
            Err(error) => eprintln!("{name} fails: {error:#}"),
        }
    }
    report.line("");
    Ok(())
}

fn load(mysql: &MySql, script: &str) -> anyhow::Result<()> {
    let sql = std::fs::File::open(top().join("tests").join(script))?;
    let status = mysql.client("mysql").stdin(Stdio::from(sql)).status()?;
    ensure!(status.success(), "{script} can't be loaded");
    Ok(())
}

fn mysqlbinlog(mysql: &MySql, Workload { file, rows, .. }: &Workload) -> anyhow::Result<Run> {
    let started = Instant::now();
    let status = mysql
        .client("mysqlbinlog")
        .args(["--read-from-remote-server", "--raw", "--result-file=/dev/shm/rowmill-bench-", file])
        .status()?;
    let seconds = started.elapsed().as_secs_f64();
    std::fs::remove_file(format!("/dev/shm/rowmill-bench-{file}")).context("mysqlbinlog writes a file")?;
    ensure!(status.success(), "mysqlbinlog failed");
    Ok(Run::of(*rows, seconds))
}

async fn bare_stream(mysql: &MySql, Workload { file, rows, .. }: &Workload) -> anyhow::Result<Run> {
    let conn = mysql.connect().await?;
    let started = Instant::now();
    let request = BinlogStreamRequest::new(99).with_filename(file.as_bytes()).with_pos(4).with_non_blocking();
    let mut stream = conn.get_binlog_stream(request).await?;
    let mut bytes = 0;
    while let Some(event) = stream.next().await {
        bytes += event?.data().len();
    }
    ensure!(bytes > 0, "an empty stream");
    Ok(Run::of(*rows, started.elapsed().as_secs_f64()))
}

/// The sink that an engine delivers to.
#[derive(Debug, Clone, Copy)]
enum To {
    Null,
    /// A queue that accepts everything; `more` is appended to its sink's configuration.
    Drain {
        more: &'static str,
    },
    /// Such a queue with a delay of `milliseconds`.
    Far {
        milliseconds: u64,
    },
}

impl To {
    /// Returns the sink's configuration, and the drain.
    fn sink(self, look: impl Fn(&str) + Send + Sync + 'static) -> anyhow::Result<(String, Option<Drain>)> {
        let (more, milliseconds) = match self {
            To::Null => return Ok(("[sink.all]\ntype = \"null\"\n".to_owned(), None)),
            To::Drain { more } => (more, 0),
            To::Far { milliseconds } => ("", milliseconds),
        };
        let drain = Drain::start_at(Duration::from_millis(milliseconds), look)?;
        let endpoint = format!("http://127.0.0.1:{}", drain.port);
        let sink = format!(
            "[sink.all]\ntype = \"sqs\"\nqueue_url = \"{endpoint}/1/all\"\nendpoint_url = \"{endpoint}\"\n{more}"
        );
        Ok((sink, Some(drain)))
    }
}

/// Measures from the first checkpoint, which the engine writes before it reads, until the checkpoint is past the end of the workload's file.
async fn engine(mysql: &MySql, workload: &Workload, case: &Case) -> anyhow::Result<Run> {
    engine_until(mysql, workload, &(workload.file.clone(), workload.size), case).await
}

/// Measures until the checkpoint is at a position, which may be in another file.
async fn engine_until(
    mysql: &MySql,
    Workload { file, rows, .. }: &Workload,
    (last, end): &(String, u64),
    (_, modules, to): &Case,
) -> anyhow::Result<Run> {
    let directory = scratch("bench");
    let plugins = directory.join("plugins");
    std::fs::create_dir(&plugins)?;
    for (nth, module) in modules.iter().enumerate() {
        std::fs::copy(top().join(module), plugins.join(format!("{nth}.wasm")))?;
    }
    let (sink, drain) = to.sink(|_| {})?;
    let more = format!("[plugins]\ndir = \"{}\"\n{sink}", plugins.display());
    // Without TLS, as the other readers.
    let source = format!("tables = [\"bench.*\", \"scale.*\"]\nstart = \"{file}:4\"\ntls = {{ mode = \"disabled\" }}");
    let config = EngineConfig::new(&directory, mysql, &source, &more);
    let mut engine = Engine::start(&config)?;
    let patience = Duration::from_secs_f64(60.0 + rows / ROWS_A_SECOND_MIN);
    let mut started = Instant::now();
    // The engine writes its start point as the first checkpoint, directly before it reads.
    while !config.checkpoint().exists() {
        ensure!(engine.process().ended()?.is_none(), "the engine ended: {}", engine.log());
        ensure!(started.elapsed() < patience, "the engine doesn't start: {}", engine.log());
        std::thread::sleep(Duration::from_millis(1));
    }
    started = Instant::now();
    loop {
        let checkpoint: Value = serde_json::from_str(&std::fs::read_to_string(config.checkpoint())?)?;
        let at = checkpoint["file"].as_str();
        let is_behind = at > Some(last) || at == Some(last) && checkpoint["position"].as_u64() >= Some(*end);
        if is_behind {
            break;
        }
        ensure!(started.elapsed() < patience, "the engine isn't done after {patience:?}: {}", engine.log());
        std::thread::sleep(Duration::from_millis(2));
    }
    let seconds = started.elapsed().as_secs_f64();
    let cpu = engine.process().cpu_seconds()?;
    let peak = engine.process().peak_memory()?;
    engine.stop().await?;
    let drained = drain.map(|drain| drain.drained());
    Ok(Run { rows: *rows, seconds, cpu: Some(cpu), peak_mb: Some(peak / 1_000_000), drained })
}
