//! Makes the binlog files in `tests/data` that tests decode: random changes of tables of every type, checked against the
//! server, with the output of `rowmill replay` beside each; and one file for benchmarks.
//!
//! It is run by hand when the files shall change: `cargo run --release -p rowmill-tests --bin record`, or with `-- orders` for
//! the benchmark file alone.

use std::io::Write;
use std::process::Stdio;

use anyhow::{Context, ensure};
use mysql_async::prelude::Queryable;
use rowmill_tests::{Build, Generator, MySql, State, replay, scratch, top};

const SEED: u64 = 20_261_124;
const STEPS: usize = 14;

/// A file's name, its server and the server's settings.
type Recording = (&'static str, Build, &'static [&'static str]);

const RECORDINGS: [Recording; 4] = [
    ("mysql-9.7", Build::MySql, &["SET SESSION binlog_row_value_options = 'PARTIAL_JSON'"]),
    ("mysql-9.7-compressed", Build::MySql, &["SET SESSION binlog_transaction_compression = ON"]),
    (
        "mariadb-10.11-compressed",
        Build::MariaDb("10.11"),
        &["SET GLOBAL log_bin_compress = ON", "SET GLOBAL log_bin_compress_min_len = 10"],
    ),
    ("mariadb-11.8", Build::MariaDb("11.8"), &[]),
];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    if std::env::args().nth(1).as_deref() == Some("orders") {
        return orders().await;
    }
    for (name, build, settings) in RECORDINGS {
        let mysql = MySql::start_build(build, &scratch(&format!("record-{name}")), &[]).await?;
        let mut conn = mysql.connect().await?;
        conn.query_drop("SET sql_mode = '', time_zone = '+00:00'").await?;
        for setting in settings {
            conn.query_drop(*setting).await?;
        }
        conn.query_drop("FLUSH BINARY LOGS").await?;
        let (file, _) = mysql.binlog_end().await?;
        let mut generator = Generator::create(&mut conn, build, "kept", SEED).await?;
        for step in 0..STEPS {
            generator.step(&mut conn).await?;
            if step == STEPS / 2 {
                generator.alter(&mut conn).await?;
            }
        }
        conn.query_drop("FLUSH BINARY LOGS").await?;

        let binlog = top().join(format!("tests/data/{name}.binlog"));
        std::fs::copy(mysql.data().join(&file), &binlog).with_context(|| binlog.display().to_string())?;
        let lines = replay(&binlog)?;
        let compared = generator.compare(&mut conn, &State::of_messages(&lines)).await?;
        std::fs::write(binlog.with_extension("jsonl"), &lines)?;
        println!("{name}: {compared} values compared, {} bytes", std::fs::metadata(&binlog)?.len());
    }
    orders().await
}

/// Records a small version of the benchmark's workload, to measure what a row costs in each part.
async fn orders() -> anyhow::Result<()> {
    let mysql = MySql::start(&scratch("record-orders"), &[]).await?;
    let script = std::fs::read_to_string(top().join("tests/bench.sql"))?;
    let script = script.replace("(5000, 100)", "(2, 100)").replace("(50000)", "(50)").replace("237500", "50");
    let mut client = mysql.client("mysql").stdin(Stdio::piped()).spawn()?;
    client.stdin.take().context("its input")?.write_all(script.as_bytes())?;
    ensure!(client.wait()?.success(), "the workload can't be loaded");
    let (file, _) = mysql.binlog_end().await?;
    mysql.run("FLUSH BINARY LOGS").await?;
    let binlog = top().join("engine/core/benches/orders.binlog");
    let size = std::fs::copy(mysql.data().join(&file), &binlog).with_context(|| binlog.display().to_string())?;
    println!("orders: {size} bytes");
    Ok(())
}
