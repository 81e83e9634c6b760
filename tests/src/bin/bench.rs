//! Rows a second through the engine, beside what the wire and MySQL's own tool can do, in one run on
//! one binlog; and what a row costs in each part. `tests/bench` builds and runs it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures_util::StreamExt;
use mysql_async::BinlogStreamRequest;
use rowmill::transform::{Chain, Loader, Settings};
use rowmill_core::batch::{Batch, Table};
use rowmill_core::binlog::{Decoder, Needs, Next, RowBatch, Select};
use rowmill_core::envelope::{Envelope, Format, Part, SourceName};
use rowmill_core::position::{BinlogPosition, Resume};
use rowmill_tests::{Engine, EngineConfig, MySql, scratch, top};
use serde_json::Value;

const ROWS: f64 = 1_525_000.0;
const RUNS: usize = 3;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let directory = top().join("target/bench");
    let is_loaded = directory.join("loaded").exists();
    if !is_loaded && directory.exists() {
        std::fs::remove_dir_all(&directory)?;
    }
    let mut mysql = MySql::start(&directory, &["--innodb-flush-log-at-trx-commit=0", "--sync-binlog=0"]).await?;
    mysql.keep_data();
    if !is_loaded {
        println!("loading the workload: about two minutes, once");
        load(&mysql)?;
        let (file, _) = mysql.binlog_end().await?;
        std::fs::write(directory.join("loaded"), file)?;
    }
    let file = std::fs::read_to_string(directory.join("loaded"))?;
    if std::env::args().any(|argument| argument == "--parts") {
        return parts(&directory.join("data").join(&file), &file);
    }
    // A server that is started again begins a new file: the workload's is whole.
    let size = std::fs::metadata(directory.join("data").join(&file))?.len();
    println!("{ROWS} row changes, {} MB of binlog; medians of {RUNS} runs\n", size / 1_000_000);

    println!("| what | rows/s | of mysqlbinlog | CPU s | peak MB |\n| --- | --- | --- | --- | --- |");
    let raw = median(async || mysqlbinlog(&mysql, &file)).await?;
    let floor = median(async || bare_stream(&mysql, &file).await).await?;
    let filter = median(async || engine(&mysql, &file, size, true).await).await?;
    let all = median(async || engine(&mysql, &file, size, false).await).await?;
    for (name, run) in [
        ("mysqlbinlog --raw", &raw),
        ("mysql_async's stream, thrown away", &floor),
        ("rowmill, a filter that keeps a tenth, null sink", &filter),
        ("rowmill, every row in the envelope, null sink", &all),
    ] {
        let Run { seconds, cpu, peak } = run;
        let (cpu, peak) =
            (cpu.map_or("-".to_owned(), |cpu| format!("{cpu:.2}")), peak.map_or("-".to_owned(), |mb| mb.to_string()));
        println!("| {name} | {:.0} | {:.2} | {cpu} | {peak} |", ROWS / seconds, raw.seconds / seconds);
    }
    println!();
    parts(&directory.join("data").join(&file), &file)
}

/// One measurement.
#[derive(Debug, Clone)]
struct Run {
    seconds: f64,
    cpu: Option<f64>,
    peak: Option<u64>,
}

async fn median(mut run: impl AsyncFnMut() -> anyhow::Result<Run>) -> anyhow::Result<Run> {
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        runs.push(run().await?);
    }
    runs.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    Ok(runs[RUNS / 2].clone())
}

fn client(program: &str, mysql: &MySql) -> Command {
    let mut command = Command::new(top().join("target/tools/mysql/bin").join(program));
    command.args(["--protocol=TCP", "--host=127.0.0.1", "--user=root", "--ssl-mode=DISABLED"]);
    command.arg(format!("--port={}", mysql.port()));
    command
}

fn load(mysql: &MySql) -> anyhow::Result<()> {
    let sql = std::fs::File::open(top().join("tests/bench.sql"))?;
    let status = client("mysql", mysql).stdin(Stdio::from(sql)).status()?;
    ensure!(status.success(), "the workload can't be loaded");
    Ok(())
}

fn mysqlbinlog(mysql: &MySql, file: &str) -> anyhow::Result<Run> {
    let started = Instant::now();
    let status = client("mysqlbinlog", mysql)
        .args(["--read-from-remote-server", "--raw", "--result-file=/dev/shm/rowmill-bench-", file])
        .status()?;
    let seconds = started.elapsed().as_secs_f64();
    std::fs::remove_file(format!("/dev/shm/rowmill-bench-{file}")).context("mysqlbinlog writes a file")?;
    ensure!(status.success(), "mysqlbinlog failed");
    Ok(Run { seconds, cpu: None, peak: None })
}

async fn bare_stream(mysql: &MySql, file: &str) -> anyhow::Result<Run> {
    let conn = mysql.connect().await?;
    let started = Instant::now();
    let request = BinlogStreamRequest::new(99).with_filename(file.as_bytes()).with_pos(4).with_non_blocking();
    let mut stream = conn.get_binlog_stream(request).await?;
    let mut bytes = 0;
    while let Some(event) = stream.next().await {
        bytes += event?.data().len();
    }
    ensure!(bytes > 0, "an empty stream");
    Ok(Run { seconds: started.elapsed().as_secs_f64(), cpu: None, peak: None })
}

/// From the moment that the engine reads until its checkpoint is behind the workload's file.
async fn engine(mysql: &MySql, file: &str, size: u64, filter: bool) -> anyhow::Result<Run> {
    let directory = scratch("bench");
    let plugins = directory.join("plugins");
    std::fs::create_dir(&plugins)?;
    if filter {
        std::fs::copy(filter_module(), plugins.join("tenth.wasm"))?;
    }
    let more = format!("[plugins]\ndir = \"{}\"\n[sink.all]\ntype = \"null\"\n", plugins.display());
    // Without TLS, as the others.
    let source =
        format!("tables = [\"bench.orders\", \"bench.sbtest\"]\nstart = \"{file}:4\"\ntls = {{ mode = \"disabled\" }}");
    let config = EngineConfig::new(&directory, mysql, &source, &more);
    let mut engine = Engine::start_and_wait(&config).await?;
    let started = Instant::now();
    loop {
        let checkpoint: Value = serde_json::from_str(&std::fs::read_to_string(config.checkpoint())?)?;
        let is_behind = checkpoint["file"] != file || checkpoint["position"].as_u64() >= Some(size);
        if is_behind {
            break;
        }
        if started.elapsed() > Duration::from_secs(120) {
            bail!("the engine isn't done after two minutes: {}", engine.log());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let seconds = started.elapsed().as_secs_f64();
    let id = engine.process().id();
    let peak = engine.peak_memory()?;
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
    // Fields 14 and 15, in hundredths of a second; the second field may have spaces.
    let ticks: f64 = stat
        .rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|ticks| ticks.parse::<f64>().ok())
        .sum();
    engine.stop().await?;
    Ok(Run { seconds, cpu: Some(ticks / 100.0), peak: Some(peak / 1_000_000) })
}

/// The filter that keeps a tenth.
fn filter_module() -> PathBuf {
    top().join("target/guests/tenth.wasm")
}

/// The tables of the workload, and for which transforms they are decoded.
struct Workload(Option<Arc<Chain>>);

impl Select for Workload {
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
    let mut decoder = Decoder::new(resume, Box::new(Workload(chain.cloned())));
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
fn parts(path: &Path, file: &str) -> anyhow::Result<()> {
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
    let mut envelope = Envelope::new(Format::Debezium, SourceName { version: String::new(), name: String::new() });
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
