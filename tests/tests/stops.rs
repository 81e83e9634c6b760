//! Definite errors stop the engine: everything before the error is delivered, the checkpoint is directly before it, and the
//! command in the error message continues after it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use mysql_async::prelude::Queryable;
use rowmill_tests::{Build, Engine, EngineConfig, MySql, Rig, Sqs, binary, scratch, top};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);
const SHOP: &str = "tables = [\"shop.*\"]\nstart = \"earliest\"";

/// Runs the command that an error message names.
fn go_on(config: &EngineConfig, error: &str) -> anyhow::Result<()> {
    let (_, place) = error.rsplit_once("rowmill checkpoint set ").with_context(|| format!("no command: {error}"))?;
    let mut command = config.command(&["checkpoint", "set"])?;
    let output = command.args(place.split_whitespace()).output()?;
    ensure!(output.status.success(), "{place}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn ids(rig: &Rig) -> anyhow::Result<Vec<i64>> {
    let ids = rig.arrived()?.iter().map(|row| row["after"]["id"].as_i64().unwrap_or_default()).collect();
    Ok(ids)
}

/// A change that is logged as a statement stops the engine, after rows of every shape.
async fn a_statement_stops(name: &str, build: Build) -> anyhow::Result<()> {
    let rig = Rig::start(name, build, &["--binlog-format=ROW"], SHOP).await?;
    rig.mysql.run("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY AUTO_INCREMENT, v TEXT)").await?;
    let mut conn = rig.mysql.connect().await?;
    let statement = async |conn: &mut mysql_async::Conn, change: &str| {
        conn.query_drop("SET SESSION binlog_format = 'STATEMENT'").await?;
        conn.query_drop(change).await?;
        conn.query_drop("SET SESSION binlog_format = 'ROW'").await
    };
    let mut expected: Vec<i64> = Vec::new();
    let mut last = 0;
    let mut has_come = |rig: &Rig, rows: i64, id_of_statement: i64| -> anyhow::Result<()> {
        expected.extend(last + 1..=last + rows);
        last += rows + id_of_statement;
        let found = ids(rig)?;
        ensure!(found == expected, "{} of {} rows came: {:?}", found.len(), expected.len(), found.last());
        Ok(())
    };

    // Transactions of one row; one transaction of more rows than a batch holds; both before the same statement.
    for (transactions, rows) in [(20, 1), (1, 5_000), (7, 900)] {
        for _ in 0..transactions {
            let values = vec!["('row')"; rows].join(", ");
            conn.query_drop(format!("INSERT INTO shop.t (v) VALUES {values}")).await?;
        }
        statement(&mut conn, "INSERT INTO shop.t (v) VALUES ('statement')").await?;
        conn.query_drop("INSERT INTO shop.t (v) VALUES ('after')").await?;
        let error = Engine::failed(&rig.config).await?;
        ensure!(error.contains("logged as a statement"), "{error}");
        has_come(&rig, (transactions * rows) as i64, 1)?;
        // The next start fails in the same way: no change before the error is delivered twice.
        ensure!(Engine::failed(&rig.config).await? == error, "another error at the next start");
        go_on(&rig.config, &error)?;
        let engine = Engine::start_and_wait(&rig.config).await?;
        rig.read_to_the_end(&engine).await?;
        engine.stop().await?;
        has_come(&rig, 1, 0)?;
    }
    conn.disconnect().await?;
    Ok(())
}

#[tokio::test]
async fn rows_before_a_statement_are_delivered_mysql() -> anyhow::Result<()> {
    a_statement_stops("rows_before_a_statement_are_delivered_mysql", Build::MySql).await
}

#[tokio::test]
async fn rows_before_a_statement_are_delivered_mariadb_11_8() -> anyhow::Result<()> {
    a_statement_stops("rows_before_a_statement_are_delivered_mariadb_11_8", Build::MariaDb("11.8")).await
}

/// A row without a route within a transaction, with many rows after it: the checkpoint never passes it, in any schedule of the
/// threads.
#[tokio::test]
async fn a_row_without_a_route_is_never_passed() -> anyhow::Result<()> {
    let directory = scratch("a_row_without_a_route_is_never_passed");
    let mysql = MySql::start(&directory, &[]).await?;
    let numbers = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 99)";
    let many = |from: usize| {
        format!("INSERT INTO shop.routed {numbers} SELECT {from} + a.i * 100 + b.i FROM n a, n b WHERE a.i < 50;")
    };
    mysql
        .run("CREATE DATABASE shop; CREATE TABLE shop.routed (id INT PRIMARY KEY); CREATE TABLE shop.other (id INT)")
        .await?;
    mysql.run(&many(0)).await?;
    let (file, before) = mysql.binlog_end().await?;
    mysql.run("INSERT INTO shop.other VALUES (1)").await?;
    let (_, after) = mysql.binlog_end().await?;
    mysql.run(&(1..20).map(|batch| many(batch * 10_000)).collect::<String>()).await?;
    let more = "[sink.none]\ntype = \"null\"\n[[route]]\ntables = [\"shop.routed\"]\nsink = \"none\"\n[plugins]\nthreads = 4\n";
    let config = EngineConfig::new(&directory, &mysql, SHOP, more);
    for start in 0..15 {
        let error = Engine::failed(&config).await?;
        ensure!(error.contains("no route for inserts of table shop.other"), "{error}");
        ensure!(error.ends_with(&format!("rowmill checkpoint set {file}:{after}")), "{error}");
        let checkpoint: Value = serde_json::from_str(&std::fs::read_to_string(config.checkpoint())?)?;
        let place = |key: &Value| key.as_u64().unwrap_or_default();
        let at = place(&checkpoint["position"]).max(place(&checkpoint["past"]["event"]));
        ensure!(at >= before && at < after, "start {start}: the checkpoint is at {at}, the row at {before}..{after}");
        std::fs::remove_file(config.checkpoint())?;
    }
    Ok(())
}

/// A rejected message stops the engine: earlier messages are accepted and checkpointed, also those of its own batch.
#[tokio::test]
async fn a_refused_message_leaves_the_checkpoint_directly_before_it() -> anyhow::Result<()> {
    let directory = scratch("a_refused_message_leaves_the_checkpoint_directly_before_it");
    let mysql = MySql::start(&directory, &[]).await?;
    let sqs = Sqs::start(&directory).await?;
    let queue = sqs.create_for("changes.fifo", 2048).await?;
    let note = "x".repeat(3000);
    mysql.run("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY, note TEXT)").await?;
    let values = |from: usize, to: usize| (from..to).map(|id| format!("({id}, 'a')")).collect::<Vec<_>>().join(", ");
    mysql
        .run(&format!(
            "INSERT INTO shop.t VALUES {}, (100, '{note}'), {}; INSERT INTO shop.t VALUES {}",
            values(0, 100),
            values(101, 150),
            values(150, 160)
        ))
        .await?;
    let (url, endpoint) = (&queue.url, sqs.endpoint());
    let more =
        format!("[sink.q]\ntype = \"sqs\"\nqueue_url = \"{url}\"\nendpoint_url = \"{endpoint}\"\nformat = \"row\"\n");
    let config = EngineConfig::new(&directory, &mysql, SHOP, &more);
    for _ in 0..2 {
        let error = Engine::failed(&config).await?;
        ensure!(error.contains("message rejected") && error.contains("checkpoint set"), "{error}");
        let checkpoint: Value = serde_json::from_str(&std::fs::read_to_string(config.checkpoint())?)?;
        ensure!(checkpoint["past"]["rows"] == 100, "{checkpoint}");
    }
    let arrived = queue.receive_all(100, SOON).await?;
    let mut ids: Vec<i64> = arrived
        .iter()
        .map(|message| Ok(serde_json::from_str::<Value>(&message.body)?["id"].as_i64().unwrap_or_default()))
        .collect::<anyhow::Result<_>>()?;
    ids.sort_unstable();
    ensure!(ids == (0..100).collect::<Vec<_>>(), "{ids:?}");
    Ok(())
}

/// Of a truncated file or stream, `replay` writes everything before the cut.
#[test]
fn what_is_before_a_cut_is_replayed() -> anyhow::Result<()> {
    let directory = scratch("what_is_before_a_cut_is_replayed");
    let whole = std::fs::read(top().join("tests/data/mysql-9.7.binlog"))?;
    let replay = |path: &Path| -> anyhow::Result<(bool, usize)> {
        let output = Command::new(binary()?).arg("replay").arg(path).output()?;
        Ok((output.status.success(), String::from_utf8(output.stdout)?.lines().count()))
    };
    let path = directory.join("binlog.000001");
    std::fs::write(&path, &whole)?;
    let (is_ok, all) = replay(&path)?;
    ensure!(is_ok && all > 100, "{all} lines");
    std::fs::write(&path, &whole[..whole.len() - 7])?;
    ensure!(replay(&path)? == (false, all), "the last event has no rows: {:?}", replay(&path)?);
    let mut damaged = whole;
    let place = damaged.len() / 8 * 7;
    damaged[place] ^= 0xff;
    std::fs::write(&path, &damaged)?;
    let (is_ok, some) = replay(&path)?;
    ensure!(!is_ok && some > all / 4 && some < all, "{some} of {all} lines");
    Ok(())
}
