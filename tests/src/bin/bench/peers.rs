//! Other binlog readers, as far as they are installed.

use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use mysql_async::prelude::Queryable;
use rowmill_tests::{MySql, Process, scratch, top};

use crate::{Run, Workload};

/// The number of rows that slow readers read.
const FEWER_ROWS: f64 = 300_000.0;

/// A program that counts rows.
pub struct Peer {
    command: Command,
    rows: f64,
}

/// Returns the readers that are installed.
pub async fn peers(mysql: &MySql, Workload { file, rows, .. }: &Workload) -> anyhow::Result<Vec<(&'static str, Peer)>> {
    let (port, password) = (mysql.port().to_string(), mysql.password());
    let mut peers = Vec::new();
    if let Ok(classpath) = std::env::var("DEBEZIUM_CLASSPATH") {
        // Where the server has GTIDs, Debezium starts by them: after those of earlier files.
        let mut conn = mysql.connect().await?;
        let events: Vec<mysql_async::Row> = conn.query(format!("SHOW BINLOG EVENTS IN '{file}' LIMIT 2")).await?;
        conn.disconnect().await?;
        let gtids = events.iter().find(|event| event.get::<String, _>(2).as_deref() == Some("Previous_gtids"));
        let gtids: String = gtids.and_then(|event| event.get(5)).unwrap_or_default();
        let mut command = rowmill_tests::command("java");
        let count = rows.to_string();
        command.args(["-cp", &classpath, "Count", &port, "rowmill", password, "bench", file, &count, &gtids]);
        peers.push(("Debezium 3.6.3, embedded engine, JSON, counted", Peer { command, rows: *rows }));
    }
    let fewer = FEWER_ROWS.to_string();
    let rustcdc = top().join("target/peers/release/count-rustcdc");
    if rustcdc.exists() {
        let mut command = rowmill_tests::command(rustcdc);
        command.args([&port, "rowmill", password, file, &fewer]).arg(scratch("bench-rustcdc"));
        peers.push(("rustcdc 0.19.0, JSON, counted", Peer { command, rows: FEWER_ROWS }));
    }
    let python = top().join("target/tools/mysql-replication/bin/python");
    if python.exists() {
        let mut command = rowmill_tests::command(python);
        command.arg(top().join("tests/peers/count.py")).args([&port, file, &fewer]);
        peers.push(("python-mysql-replication 1.0.17, counted", Peer { command, rows: FEWER_ROWS }));
    }
    Ok(peers)
}

impl Peer {
    /// Measures from the first row to the last one. The program prints both times, as those in `tests/peers` do.
    pub async fn run(&mut self) -> anyhow::Result<Run> {
        let log = scratch("bench-peer").join("peer.log");
        let mut process = Process::start(&mut self.command, &log)?;
        let (mut peak, mut cpu) = (0, 0.0);
        while process.ended()?.is_none() {
            // The process may have ended just now.
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
        Ok(Run { rows: self.rows, seconds, cpu: Some(cpu), peak_mb: Some(peak / 1_000_000), drained: None })
    }
}
