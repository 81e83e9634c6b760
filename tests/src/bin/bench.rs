//! Rows a second through the engine, beside what the wire and MySQL's own tool can do, in one run on
//! one binlog; and what a row costs in each part. `tests/bench` builds and runs it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures_util::StreamExt;
use mysql_async::BinlogStreamRequest;
use mysql_async::prelude::Queryable;
use rowmill::transform::{Chain, Loader, Settings};
use rowmill_core::batch::{Batch, Table};
use rowmill_core::binlog::{Decoder, Needs, Next, RowBatch, Select};
use rowmill_core::envelope::{Envelope, Escaping, Format, Part, SourceName};
use rowmill_core::position::{BinlogPosition, Resume};
use rowmill_tests::{Drain, Drained, Engine, EngineConfig, MySql, Process, scratch, top};
use serde_json::Value;

const RUNS: usize = 3;
/// The workloads' scripts, in the order in which they are loaded: name, file, row changes.
const WORKLOADS: [(&str, &str, f64); 2] = [
    ("large and small transactions, two huge ones", "bench.sql", 1_525_000.0),
    ("small transactions only", "bench-small.sql", 1_990_000.0),
];
/// Of the workload for latencies.
const COMMITS_PER_SECOND: u32 = 500;
const COMMITS: u32 = 5_000;

/// What the engine is measured at: what it is called, whether it filters, and where it delivers to.
const CASES: [(&str, bool, To); 5] = [
    ("rowmill, a filter that keeps a tenth, null sink", true, To::Null),
    ("rowmill, every row in the envelope, null sink", false, To::Null),
    ("rowmill, every row in the envelope, to the drain", false, To::Drain { more: "" }),
    ("rowmill, the same packed", false, To::Drain { more: "pack = \"array\"\n" }),
    ("rowmill, the same packed and compressed", false, To::Drain { more: "pack = \"array\"\ncompress = \"zstd\"\n" }),
];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let directory = top().join("target/bench");
    let is_loaded = directory.join("loaded").exists();
    if !is_loaded && directory.exists() {
        std::fs::remove_dir_all(&directory)?;
    }
    let options = ["--innodb-flush-log-at-trx-commit=0", "--sync-binlog=0", "--max-binlog-size=1G"];
    let mut mysql = MySql::start(&directory, &options).await?;
    mysql.keep_data();
    if !is_loaded {
        println!("loading the workloads: some minutes, once");
        let mut files = Vec::new();
        for (_, script, _) in WORKLOADS {
            load(&mysql, script)?;
            files.push(mysql.binlog_end().await?.0);
        }
        mysql.run("FLUSH BINARY LOGS").await?;
        std::fs::write(directory.join("loaded"), files.join("\n"))?;
    }
    let files = std::fs::read_to_string(directory.join("loaded"))?;
    let workloads = WORKLOADS.into_iter().zip(files.lines()).map(|((name, _, rows), file)| {
        let path = directory.join("data").join(file);
        let size = std::fs::metadata(&path).with_context(|| path.display().to_string())?.len();
        Ok(Workload { name, file: file.to_owned(), rows, size, path })
    });
    let workloads: Vec<Workload> = workloads.collect::<anyhow::Result<_>>()?;
    if std::env::args().any(|argument| argument == "--parts") {
        return parts(&workloads[0]);
    }
    // Its tables are read whole by some.
    mysql.run("GRANT SELECT, RELOAD, SHOW DATABASES, LOCK TABLES ON *.* TO rowmill@'%'").await?;
    if let Some(profiled) = std::env::args().skip_while(|argument| argument != "--one").nth(1) {
        for (name, mut command) in peers(&mysql, &workloads[0]).await? {
            if name.contains(&profiled) {
                println!("{name}: {:?}", peer(&mut command).await?);
                return Ok(());
            }
        }
        let case = CASES.iter().find(|(name, ..)| name.contains(&profiled)).context("no such case")?;
        println!("{}: {:?}", case.0, engine(&mysql, &workloads[0], case.1, case.2).await?);
        return Ok(());
    }
    for workload in &workloads {
        throughput(&mysql, workload).await?;
    }
    latencies(&mysql).await?;
    println!();
    parts(&workloads[0])
}

/// A binlog file.
struct Workload {
    name: &'static str,
    file: String,
    /// Row changes.
    rows: f64,
    size: u64,
    path: PathBuf,
}

/// One measurement.
#[derive(Debug, Clone)]
struct Run {
    seconds: f64,
    cpu: Option<f64>,
    peak: Option<u64>,
    drained: Option<Drained>,
}

impl Run {
    fn of(seconds: f64) -> Self {
        Self { seconds, cpu: None, peak: None, drained: None }
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

/// Rows a second, of us and of others.
async fn throughput(mysql: &MySql, workload: &Workload) -> anyhow::Result<()> {
    let Workload { name, rows, size, .. } = workload;
    println!("{name}: {rows} row changes, {} MB of binlog; medians of {RUNS} runs\n", size / 1_000_000);
    println!(
        "| what | rows/s | of mysqlbinlog | CPU s | rows/s of a core | peak MB | requests |\n\
         | --- | --- | --- | --- | --- | --- | --- |"
    );
    let raw = median(async || mysqlbinlog(mysql, workload)).await?;
    let line = |name: &str, run: &Run| {
        let Run { seconds, cpu, peak, drained } = run;
        let some = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        println!(
            "| {name} | {:.0} | {:.2} | {} | {} | {} | {} |",
            rows / seconds,
            raw.seconds / seconds,
            some(cpu.map(|cpu| format!("{cpu:.2}"))),
            some(cpu.map(|cpu| format!("{:.0}", rows / cpu))),
            some(peak.map(|mb| mb.to_string())),
            some(drained.map(|drained| drained.requests.to_string())),
        );
    };
    line("mysqlbinlog --raw", &raw);
    line("mysql_async's stream, thrown away", &median(async || bare_stream(mysql, workload).await).await?);
    for (name, filter, to) in CASES {
        line(name, &median(async || engine(mysql, workload, filter, to).await).await?);
    }
    for (name, mut command) in peers(mysql, workload).await? {
        line(name, &peer(&mut command).await?);
    }
    println!();
    Ok(())
}

/// Other readers of binlogs, as far as they are there.
async fn peers(mysql: &MySql, Workload { file, rows, .. }: &Workload) -> anyhow::Result<Vec<(&'static str, Command)>> {
    let (port, password, rows) = (mysql.port().to_string(), mysql.password(), rows.to_string());
    let mut peers = Vec::new();
    if let Ok(classpath) = std::env::var("DEBEZIUM_CLASSPATH") {
        // Where the server has GTIDs it begins by them: behind those that are in earlier files.
        let mut conn = mysql.connect().await?;
        let events: Vec<mysql_async::Row> = conn.query(format!("SHOW BINLOG EVENTS IN '{file}' LIMIT 2")).await?;
        conn.disconnect().await?;
        let gtids = events.iter().find(|event| event.get::<String, _>(2).as_deref() == Some("Previous_gtids"));
        let gtids: String = gtids.and_then(|event| event.get(5)).unwrap_or_default();
        let mut command = rowmill_tests::command("java");
        command.args(["-cp", &classpath, "Count", &port, "rowmill", password, "bench", file, &rows, &gtids]);
        peers.push(("Debezium's embedded engine, JSON, counted", command));
    }
    let python = top().join("target/tools/mysql-replication/bin/python");
    if python.exists() {
        let mut command = rowmill_tests::command(python);
        command.arg(top().join("tests/peers/count.py")).args([&port, file, &rows]);
        peers.push(("python-mysql-replication, counted", command));
    }
    Ok(peers)
}

/// Another reader of binlogs, once: from its first row to its last. It prints both times, as `tests/peers` has them.
async fn peer(command: &mut Command) -> anyhow::Result<Run> {
    let log = scratch("bench-peer").join("peer.log");
    let mut process = Process::start(command, &log)?;
    let (mut peak, mut cpu) = (0, 0.0);
    while process.ended()?.is_none() {
        // It may have ended just now.
        peak = process.peak_memory().unwrap_or(peak);
        cpu = process.cpu_seconds().unwrap_or(cpu);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let said = std::fs::read_to_string(&log)?;
    let times = said.lines().find_map(|line| {
        let (until_first, rest) = line.split_once(' ')?;
        Some((until_first.parse::<f64>().ok()?, rest.parse::<f64>().ok()?))
    });
    let (_, seconds) = times.with_context(|| said.clone())?;
    Ok(Run { seconds, cpu: Some(cpu), peak: Some(peak / 1_000_000), drained: None })
}

fn load(mysql: &MySql, script: &str) -> anyhow::Result<()> {
    let sql = std::fs::File::open(top().join("tests").join(script))?;
    let status = mysql.client("mysql").stdin(Stdio::from(sql)).status()?;
    ensure!(status.success(), "{script} can't be loaded");
    Ok(())
}

fn mysqlbinlog(mysql: &MySql, Workload { file, .. }: &Workload) -> anyhow::Result<Run> {
    let started = Instant::now();
    let status = mysql
        .client("mysqlbinlog")
        .args(["--read-from-remote-server", "--raw", "--result-file=/dev/shm/rowmill-bench-", file])
        .status()?;
    let seconds = started.elapsed().as_secs_f64();
    std::fs::remove_file(format!("/dev/shm/rowmill-bench-{file}")).context("mysqlbinlog writes a file")?;
    ensure!(status.success(), "mysqlbinlog failed");
    Ok(Run::of(seconds))
}

async fn bare_stream(mysql: &MySql, Workload { file, .. }: &Workload) -> anyhow::Result<Run> {
    let conn = mysql.connect().await?;
    let started = Instant::now();
    let request = BinlogStreamRequest::new(99).with_filename(file.as_bytes()).with_pos(4).with_non_blocking();
    let mut stream = conn.get_binlog_stream(request).await?;
    let mut bytes = 0;
    while let Some(event) = stream.next().await {
        bytes += event?.data().len();
    }
    ensure!(bytes > 0, "an empty stream");
    Ok(Run::of(started.elapsed().as_secs_f64()))
}

/// Where an engine delivers to.
#[derive(Debug, Clone, Copy)]
enum To {
    Null,
    /// A queue that accepts everything; `more` stands in its sink's configuration.
    Drain {
        more: &'static str,
    },
}

impl To {
    /// The sink's configuration, and the drain.
    fn sink(self, look: impl Fn(&str) + Send + Sync + 'static) -> anyhow::Result<(String, Option<Drain>)> {
        let To::Drain { more } = self else { return Ok(("[sink.all]\ntype = \"null\"\n".to_owned(), None)) };
        let drain = Drain::start(look)?;
        let endpoint = format!("http://127.0.0.1:{}", drain.port);
        let sink = format!(
            "[sink.all]\ntype = \"sqs\"\nqueue_url = \"{endpoint}/1/all\"\nendpoint_url = \"{endpoint}\"\n{more}"
        );
        Ok((sink, Some(drain)))
    }
}

/// From the moment that the engine reads until its checkpoint is behind the workload's file.
async fn engine(mysql: &MySql, workload: &Workload, filter: bool, to: To) -> anyhow::Result<Run> {
    let Workload { file, size, .. } = workload;
    let directory = scratch("bench");
    let plugins = directory.join("plugins");
    std::fs::create_dir(&plugins)?;
    if filter {
        std::fs::copy(filter_module(), plugins.join("tenth.wasm"))?;
    }
    let (sink, drain) = to.sink(|_| {})?;
    let more = format!("[plugins]\ndir = \"{}\"\n{sink}", plugins.display());
    // Without TLS, as the others.
    let source =
        format!("tables = [\"bench.orders\", \"bench.sbtest\"]\nstart = \"{file}:4\"\ntls = {{ mode = \"disabled\" }}");
    let config = EngineConfig::new(&directory, mysql, &source, &more);
    let mut engine = Engine::start_and_wait(&config).await?;
    let started = Instant::now();
    loop {
        let checkpoint: Value = serde_json::from_str(&std::fs::read_to_string(config.checkpoint())?)?;
        let is_behind = checkpoint["file"] != file.as_str() || checkpoint["position"].as_u64() >= Some(*size);
        if is_behind {
            break;
        }
        if started.elapsed() > Duration::from_secs(240) {
            bail!("the engine isn't done after four minutes: {}", engine.log());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let seconds = started.elapsed().as_secs_f64();
    let cpu = engine.process().cpu_seconds()?;
    let peak = engine.process().peak_memory()?;
    engine.stop().await?;
    let drained = drain.map(|drain| drain.drained());
    Ok(Run { seconds, cpu: Some(cpu), peak: Some(peak / 1_000_000), drained })
}

/// How soon: from the start to the first event, and from a commit to the queue that accepts it.
async fn latencies(mysql: &MySql) -> anyhow::Result<()> {
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

    // Once to compile the plugin, and to have a checkpoint; what comes first at the next start is there already.
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
    // Quiet for a while: what it has then is what it keeps.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let idle = engine.process().memory()? / 1_000_000;
    engine.stop().await?;
    println!(
        "first event {:.0} ms after the start (median of {}, warm plugin cache)",
        first_event[2],
        first_event.len()
    );
    println!(
        "commit to accepted at {:.0} transactions/s: p50 {:.2} ms, p99 {:.2} ms",
        f64::from(COMMITS) / took.as_secs_f64(),
        percentile(50),
        percentile(99)
    );
    println!("idle afterwards: {idle} MB");
    Ok(())
}

/// The filter that keeps a tenth.
fn filter_module() -> PathBuf {
    top().join("target/guests/tenth.wasm")
}

/// The tables of the workloads, and for which transforms they are decoded.
struct Tables(Option<Arc<Chain>>);

impl Select for Tables {
    fn table(&self, _schema: &str, table: &str) -> bool {
        matches!(table, "orders" | "sbtest")
    }

    fn schema(&self, schema: &str) -> bool {
        schema == "bench"
    }

    fn needs(&self, table: &Table) -> Needs {
        self.0.as_ref().map(|chain| chain.needs(table)).unwrap_or_default()
    }
}

/// Decodes a binlog file.
fn decode(binlog: &[u8], file: &str, chain: Option<&Arc<Chain>>, mut take: impl FnMut(RowBatch)) -> anyhow::Result<()> {
    let resume = Resume::at("bench", BinlogPosition::new(file, BinlogPosition::FIRST_EVENT));
    let mut decoder = Decoder::new(resume, Box::new(Tables(chain.cloned())));
    let mut rest = &binlog[4..];
    while let Some(size) = rest.get(9..13).and_then(|size| size.first_chunk()) {
        let (event, behind) = rest.split_at(u32::from_le_bytes(*size) as usize);
        rest = behind;
        while let Next::Batch(batch) = decoder.next(event)? {
            take(batch);
        }
    }
    if let Some(batch) = decoder.flush() {
        take(batch);
    }
    Ok(())
}

/// What a row costs in each part, on one thread, the binlog in memory.
fn parts(Workload { path, file, .. }: &Workload) -> anyhow::Result<()> {
    let binlog = std::fs::read(path)?;
    let plugins = scratch("bench-parts");
    std::fs::copy(filter_module(), plugins.join("tenth.wasm"))?;
    let settings = Settings { directory: Some(plugins), ..Settings::for_tests(Vec::new()) };
    let chain = Arc::new(Loader::new(settings)?.load_all()?);
    // Once for the time, each batch dropped as soon as it's there; once to keep them all.
    let time = |chain: Option<&Arc<Chain>>| {
        let started = Instant::now();
        decode(&binlog, file, chain, drop).map(|()| started.elapsed())
    };
    let (decoded, decoded_in_part) = (time(None)?, time(Some(&chain))?);
    let all = |chain: Option<&Arc<Chain>>| {
        let mut batches = Vec::new();
        decode(&binlog, file, chain, |batch| batches.push(batch)).map(|()| batches)
    };
    let batches = all(Some(&chain))?;
    let rows: usize = batches.iter().map(|batch| batch.rows).sum();
    let per_row = |time: Duration| time.as_nanos() as f64 / rows as f64;
    let tables: Arc<[Arc<Table>]> = batches.iter().flat_map(|batch| batch.new_tables.iter().cloned()).collect();
    let started = Instant::now();
    let mut passed = 0;
    for (number, batch) in (0..).zip(&batches) {
        passed += chain.transform(number, batch, &tables)?.context("nothing stops")?.rows.len();
    }
    let transformed = started.elapsed();
    drop(batches);

    let batches = all(None)?;
    let bytes: usize = batches.iter().map(|batch| batch.bytes.len()).sum();
    let mut envelope =
        Envelope::new(Format::Debezium, Escaping::Plain, SourceName { version: String::new(), name: String::new() });
    let started = Instant::now();
    let mut body = Vec::new();
    for batch in &batches {
        let parsed = Batch::parse(&batch.bytes)?;
        for row in parsed.rows() {
            body.clear();
            envelope.write(&tables[row.table().0 as usize], &parsed, &row, Part::Whole, 0, &mut body);
        }
    }
    let written = started.elapsed();
    println!("{rows} rows decoded, {} bytes packed a row, {passed} passed the filter; ns a row:", bytes / rows);
    println!(
        "decode {:.0}, decode what the filter wants {:.0}, filter (what passes decoded whole) {:.0}, envelope {:.0}",
        per_row(decoded),
        per_row(decoded_in_part),
        per_row(transformed),
        per_row(written)
    );
    Ok(())
}
