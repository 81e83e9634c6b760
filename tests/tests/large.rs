//! A binlog file of more than 4 GiB, made by one large transaction: positions in it need more bits than the fields of events
//! and of the protocol have.
//!
//! The test takes a minute and 10 GB of disk, so it runs only on request: `cargo nextest run --release -p rowmill-tests
//! --test large --profile long --run-ignored all`.

use std::time::Duration;

use anyhow::{Context, ensure};
use mysql_async::prelude::Queryable;
use rowmill_tests::{Build, Engine, Rig, wait_for};

const LONG: Duration = Duration::from_secs(300);
const GIB_4: u64 = 1 << 32;
/// The number of updates; each logs a row's before and after image.
const UPDATES: usize = 160;

/// Returns the file, position and ID of each delivered row.
fn arrived(rig: &Rig) -> anyhow::Result<Vec<(String, u64, i64)>> {
    let rows = rig.arrived()?;
    let row = |row: &serde_json::Value| {
        let (file, pos) = (row["source"]["file"].as_str(), row["source"]["pos"].as_u64());
        Some((file?.to_owned(), pos?, row["after"]["id"].as_i64()?))
    };
    rows.iter().map(|it| row(it).with_context(|| it.to_string())).collect()
}

fn ids(rig: &Rig) -> anyhow::Result<Vec<i64>> {
    Ok(arrived(rig)?.into_iter().map(|(_, _, id)| id).collect())
}

async fn wait_for_last(rig: &Rig, engine: &Engine, id: i64) -> anyhow::Result<()> {
    wait_for("the last row", LONG, || async { Ok((ids(rig)?.last() == Some(&id)).then_some(())) })
        .await
        .with_context(|| engine.log())
}

/// `wait` makes the first of the transactions in one group commit wait for the others.
async fn a_file_beyond_4_gib(name: &str, build: Build, options: &[&str], wait: &str) -> anyhow::Result<()> {
    let options = [&["--max-allowed-packet=64M", "--binlog-format=ROW"], options].concat();
    let mut rig = Rig::start(name, build, &options, "tables = [\"shop.small\"]").await?;
    rig.config.text.push_str("[in_flight]\nmax_rows = 8\n");
    rig.mysql
        .run(
            "CREATE DATABASE shop; CREATE TABLE shop.small (id INT PRIMARY KEY);
             CREATE TABLE shop.big (id INT PRIMARY KEY, n INT, data LONGBLOB);
             INSERT INTO shop.big VALUES (1, 1, REPEAT('x', 15 << 20)); FLUSH BINARY LOGS",
        )
        .await?;
    let (file, start) = rig.mysql.binlog_end().await?;
    let begin = |rig: &mut Rig, place: &str| {
        let at =
            rig.config.text.find("\nstart = ").unwrap_or(rig.config.text.find("\n[checkpoint]").unwrap_or_default());
        let end = at + 1 + rig.config.text[at + 1..].find('\n').unwrap_or_default();
        let is_line = rig.config.text[at..].starts_with("\nstart = ");
        let range = if is_line { at..end } else { at..at };
        rig.config.text.replace_range(range, &format!("\nstart = \"{place}\""));
    };
    begin(&mut rig, &format!("{file}:{start}"));

    let mut big = rig.mysql.connect().await?;
    big.query_drop("BEGIN").await?;
    for nth in 0..UPDATES {
        big.query_drop("UPDATE shop.big SET n = n + 1").await?;
        big.query_drop(format!("INSERT INTO shop.small VALUES ({}), ({})", nth * 2, nth * 2 + 1)).await?;
    }
    // Transactions in the same group commit are written before the file is rotated for its size.
    rig.mysql.run(wait).await?;
    let commit = tokio::spawn(async move { big.query_drop("COMMIT").await });
    let mut others = Vec::new();
    for (id, format) in [(1000, "ROW"), (1001, "ROW"), (1002, "STATEMENT"), (1003, "ROW"), (1004, "ROW")] {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut conn = rig.mysql.connect().await?;
        others.push(tokio::spawn(async move {
            conn.query_drop(format!("SET SESSION binlog_format = '{format}'")).await?;
            conn.query_drop(format!("INSERT INTO shop.small VALUES ({id})")).await
        }));
    }
    commit.await??;
    for other in others {
        other.await??;
    }
    rig.mysql.run("INSERT INTO shop.small VALUES (2000)").await?;

    // After kills among rows beyond 4 GiB, the engine continues there. MariaDB's rows are delivered after the commit.
    for kill in if build == Build::MySql { 1..4 } else { 0..0 } {
        let engine = Engine::start_and_wait(&rig.config).await?;
        let beyond = |rows: &[(String, u64, i64)]| rows.iter().filter(|(_, pos, _)| *pos > GIB_4).count();
        wait_for("rows beyond 4 GiB", LONG, || async { Ok((beyond(&arrived(&rig)?) > kill).then_some(())) })
            .await
            .with_context(|| engine.log())?;
        engine.kill();
    }
    let mut engine = Engine::start(&rig.config)?;
    ensure!(engine.end(LONG).await?.code() == Some(1), "{}", engine.log());
    let log = engine.log();
    let error = log.lines().last().unwrap_or_default();
    ensure!(error.contains("logged as a statement") && error.contains(&format!("at {file}:")), "{error}");
    let mut came = ids(&rig)?;
    let all = came.len();
    came.sort_unstable();
    came.dedup();
    let expected: Vec<i64> = (0..UPDATES as i64 * 2).chain([1000, 1001]).collect();
    ensure!(came == expected, "{} of {} rows came", came.len(), expected.len());
    ensure!(all <= expected.len() + 3 * 8, "{} came twice", all - expected.len());

    // The command that continues has a position beyond 4 GiB.
    let place = error.rsplit_once("rowmill checkpoint set ").with_context(|| error.to_owned())?.1.to_owned();
    let offset: u64 = place.rsplit_once(':').context("a place")?.1.parse()?;
    ensure!(place.starts_with(&file) && offset > GIB_4, "{place}");
    let output = rig.config.command(&["checkpoint", "set", &place])?.output()?;
    ensure!(output.status.success(), "{place}: {}", String::from_utf8_lossy(&output.stderr));
    let engine = Engine::start_and_wait(&rig.config).await?;
    wait_for_last(&rig, &engine, 2000).await?;
    engine.stop().await?;
    ensure!(ids(&rig)?[all..] == [1003, 1004, 2000], "{:?}", &ids(&rig)?[all..]);
    ensure!(
        arrived(&rig)?.iter().any(|(of, pos, id)| *id == 1003 && *of == file && *pos > offset),
        "it is in that file"
    );

    // A start at that position without a checkpoint; and at one beyond the file's end.
    std::fs::remove_file(rig.config.checkpoint())?;
    std::fs::remove_file(rig.directory.join("out.jsonl"))?;
    begin(&mut rig, &place);
    let engine = Engine::start_and_wait(&rig.config).await?;
    wait_for_last(&rig, &engine, 2000).await?;
    engine.stop().await?;
    ensure!(ids(&rig)? == [1003, 1004, 2000], "{:?}", ids(&rig)?);
    std::fs::remove_file(rig.config.checkpoint())?;
    begin(&mut rig, &format!("{file}:{}", offset * 2));
    let mut engine = Engine::start(&rig.config)?;
    ensure!(engine.end(Duration::from_secs(30)).await?.code() == Some(1), "{}", engine.log());
    let last = engine.log().lines().last().unwrap_or_default().to_owned();
    ensure!(last.contains(&format!("on {}", rig.mysql.url())) && last.contains(" ends at "), "{last}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute and 10 GB"]
async fn a_file_beyond_4_gib_mysql() -> anyhow::Result<()> {
    let wait = "SET GLOBAL binlog_group_commit_sync_delay = 1000000";
    a_file_beyond_4_gib("a_file_beyond_4_gib_mysql", Build::MySql, &[], wait).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute and 10 GB"]
async fn a_file_beyond_4_gib_mariadb_11_8() -> anyhow::Result<()> {
    // This feature would give a large transaction a file of its own.
    let options = ["--binlog-large-commit-threshold=18446744073709551615"];
    let wait = "SET GLOBAL binlog_commit_wait_usec = 10000000; SET GLOBAL binlog_commit_wait_count = 6";
    a_file_beyond_4_gib("a_file_beyond_4_gib_mariadb_11_8", Build::MariaDb("11.8"), &options, wait).await
}
