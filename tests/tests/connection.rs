//! The connection to the server: a lost one is made again, and continues at the same position.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use mysql_async::prelude::Queryable;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rowmill_tests::{Build, Engine, EngineConfig, MySql, Proxy, Rig, Sqs, log_lines, scratch, wait_for};

const SHOP: &str = "tables = [\"shop.*\"]";

/// Writes rows in transactions of random size while `disturb` runs; then asserts that each row arrived once, in order.
async fn each_row_once(
    rig: &mut Rig,
    config: &EngineConfig,
    disturb: impl AsyncFn(&mut MySql, usize) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    rig.mysql
        .run("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY AUTO_INCREMENT, pad VARCHAR(1000))")
        .await?;
    let engine = Engine::start_and_wait(config).await?;
    let mut rows = 0;
    for round in 0..60 {
        let mut conn = rig.mysql.connect().await?;
        for _ in 0..random.random_range(1..12) {
            let many = if random.random_range(0..10) == 0 { 900 } else { random.random_range(1..40) };
            rows += many;
            conn.query_drop(format!(
                "INSERT INTO shop.t (pad) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {many}) \
                 SELECT REPEAT('x', i) FROM n"
            ))
            .await?;
        }
        conn.disconnect().await?;
        disturb(&mut rig.mysql, round).await?;
    }
    rig.read_to_the_end(&engine).await?;
    let log = engine.log();
    engine.stop().await?;
    let changes = rig.changes()?;
    let ids: Vec<i64> = changes.iter().filter_map(|change| change.rsplit(' ').next()?.parse().ok()).collect();
    assert_eq!(ids.len(), rows, "seed {seed}: {log}");
    assert!(ids.is_sorted_by(|a, b| a < b), "each row once and in order, seed {seed}: {log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_is_killed_and_comes_back() -> anyhow::Result<()> {
    let mut rig = Rig::start("the_server_is_killed_and_comes_back", Build::MySql, &[], SHOP).await?;
    let config = rig.config.clone();
    each_row_once(&mut rig, &config, async |mysql, round| {
        if round % 15 == 7 {
            mysql.kill_and_restart().await?;
        } else if round % 15 == 3 {
            mysql.run("FLUSH BINARY LOGS").await?;
        }
        Ok(())
    })
    .await?;
    let log = std::fs::read_to_string(rig.directory.join("rowmill.log"))?;
    assert!(log.contains(log_lines::CONNECTION_LOST) && log.contains(log_lines::RECONNECTED), "{log}");
    Ok(())
}

/// Cuts connections in the middle of packets, with and without TLS, on MySQL and MariaDB.
async fn cut(name: &str, build: Build, tls: &str) -> anyhow::Result<()> {
    let mut rig = Rig::start(name, build, &[], SHOP).await?;
    let proxy = Proxy::start(rig.mysql.port()).await?;
    let mut config = rig.config.clone();
    config.text = config.text.replace(&format!(":{}\"", rig.mysql.port()), &format!(":{}\"", proxy.port));
    config.text.push_str(&format!("[source.tls]\nmode = \"{tls}\"\n"));
    let seed: u64 = rand::random();
    println!("cuts: seed {seed}");
    let random = std::cell::RefCell::new(SmallRng::seed_from_u64(seed));
    let log = rig.directory.join("rowmill.log");
    each_row_once(&mut rig, &config, async |_, round| {
        match round % 8 {
            0 => proxy.cut_after(random.borrow_mut().random_range(1..60_000)),
            4 => proxy.cut(),
            // The next cut hits the reconnected stream.
            7 => {
                rowmill_tests::wait_for("it reads on", Duration::from_secs(60), || {
                    let log = std::fs::read_to_string(&log).unwrap_or_default();
                    // The log of this run: an earlier run may have been stopped while it reconnected.
                    let log = log.rsplit(" running ").next().unwrap_or_default();
                    let is_reading =
                        log.matches(log_lines::RECONNECTED).count() == log.matches(log_lines::CONNECTION_LOST).count();
                    std::future::ready(Ok(is_reading.then_some(())))
                })
                .await?;
            }
            _ => tokio::time::sleep(Duration::from_millis(80)).await, // time to reconnect
        }
        Ok(())
    })
    .await?;
    let log = std::fs::read_to_string(rig.directory.join("rowmill.log"))?;
    let times = log.matches(log_lines::CONNECTION_LOST).count();
    println!("{name}: {times} connections lost");
    assert!(times > 1, "{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_cut() -> anyhow::Result<()> {
    cut("connections_are_cut", Build::MySql, "disabled").await?;
    cut("connections_are_cut_tls", Build::MySql, "required").await?;
    cut("connections_are_cut_mariadb", Build::MariaDb("11.8"), "preferred").await
}

/// A silent connection is detected by its missing heartbeats.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_connection_is_replaced() -> anyhow::Result<()> {
    let rig = Rig::start("a_silent_connection_is_replaced", Build::MySql, &[], SHOP).await?;
    let proxy = Proxy::start(rig.mysql.port()).await?;
    let mut config = rig.config.clone();
    config.text = config.text.replace(&format!(":{}\"", rig.mysql.port()), &format!(":{}\"", proxy.port));
    rig.mysql.run("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY)").await?;
    let engine = Engine::start_and_wait(&config).await?;
    // Longer than the heartbeat interval without events: the connection is not replaced.
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert!(!engine.log().contains(log_lines::CONNECTION_LOST), "{}", engine.log());
    proxy.stall();
    rig.mysql.run("INSERT INTO shop.t VALUES (1)").await?;
    wait_for("the row arrives over another connection", Duration::from_secs(60), || async {
        Ok((rig.changes()?.len() == 1).then_some(()))
    })
    .await
    .with_context(|| engine.log())?;
    assert!(engine.log().contains("not even a heartbeat"), "{}", engine.log());
    engine.stop().await
}

/// Writes rows of a kilobyte, ten thousand per transaction.
async fn backlog(mysql: &MySql, transactions: usize) -> anyhow::Result<()> {
    for _ in 0..transactions {
        mysql
            .run(
                "INSERT INTO shop.t (pad) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000) \
                 SELECT REPEAT('x', 1000) FROM n",
            )
            .await?;
    }
    Ok(())
}

const PADDED: &str = "CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY AUTO_INCREMENT, pad VARCHAR(1000)); \
     SET SESSION cte_max_recursion_depth = 20000; SET GLOBAL cte_max_recursion_depth = 20000";

/// The engine is suspended for longer than the server's `net_write_timeout`, while more comes than the network buffers: the
/// server keeps the connection, and nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stall_longer_than_the_server_waits() -> anyhow::Result<()> {
    let rig =
        Rig::start("a_stall_longer_than_the_server_waits", Build::MySql, &["--net-write-timeout=2"], SHOP).await?;
    rig.mysql.run(PADDED).await?;
    let mut engine = Engine::start_and_wait(&rig.config).await?;
    engine.process().pause()?;
    backlog(&rig.mysql, 4).await?;
    tokio::time::sleep(Duration::from_secs(6)).await;
    engine.process().go_on()?;
    rig.read_to_the_end(&engine).await?;
    let log = engine.log();
    engine.stop().await?;
    assert!(!log.contains(log_lines::CONNECTION_LOST), "{log}");
    assert_eq!(rig.changes()?.len(), 40_000);
    Ok(())
}

/// A binlog that is rotated and purged up to the engine's position is read on. If unread files are purged, the engine stops
/// with an error that names what is missing, and its checkpoint stays before the gap.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_binlog_is_purged_meanwhile() -> anyhow::Result<()> {
    let rig = Rig::start("the_binlog_is_purged_meanwhile", Build::MySql, &[], SHOP).await?;
    rig.mysql.run(PADDED).await?;
    let mut engine = Engine::start_and_wait(&rig.config).await?;
    for _ in 0..3 {
        backlog(&rig.mysql, 1).await?;
        rig.read_to_the_end(&engine).await?;
        rig.mysql.run("FLUSH BINARY LOGS").await?;
        // The checkpoint of an idle engine follows rotations, too; otherwise its file would be purged some day.
        let start_of_newest = (rig.mysql.binlog_end().await?.0, 4);
        wait_for("it follows", Duration::from_secs(10), || async {
            Ok(rig.config.has_reached(&start_of_newest)?.then_some(()))
        })
        .await?;
        rig.mysql.run(&format!("PURGE BINARY LOGS TO '{}'", start_of_newest.0)).await?;
    }
    assert_eq!(rig.changes()?.len(), 30_000);

    engine.process().pause()?;
    backlog(&rig.mysql, 4).await?;
    rig.mysql.run("FLUSH BINARY LOGS").await?;
    backlog(&rig.mysql, 1).await?;
    let mut conn = rig.mysql.connect().await?;
    let dump: Option<u64> = conn
        .query_first("SELECT processlist_id FROM performance_schema.threads WHERE processlist_command = 'Binlog Dump'")
        .await?;
    conn.query_drop(format!("KILL {}", dump.context("the engine reads")?)).await?;
    conn.disconnect().await?;
    let (newest, _) = rig.mysql.binlog_end().await?;
    wait_for("the server lets go of its files", Duration::from_secs(30), || async {
        rig.mysql.run(&format!("PURGE BINARY LOGS TO '{newest}'")).await?;
        let mut conn = rig.mysql.connect().await?;
        let files: Vec<mysql_async::Row> = conn.query("SHOW BINARY LOGS").await?;
        conn.disconnect().await?;
        Ok((files.len() == 1).then_some(()))
    })
    .await?;
    engine.process().go_on()?;
    let status = engine.end(Duration::from_secs(60)).await?;
    let log = engine.log();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("purged"), "{log}");
    // Events that were in the network are delivered, and none after the gap.
    let changes = rig.changes()?;
    assert!((30_000..70_000).contains(&changes.len()), "{}", changes.len());
    let checkpoint: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(rig.config.checkpoint())?)?;
    assert_ne!(checkpoint["file"], newest.as_str(), "{checkpoint}");
    Ok(())
}

/// A server dies and its replica takes its place: the engine continues there by GTIDs.
async fn failover(name: &str, build: Build) -> anyhow::Result<()> {
    let options: &[&str] = match build {
        Build::MySql => &["--gtid-mode=ON", "--enforce-gtid-consistency=ON"],
        Build::MariaDb(_) => &["--log-slave-updates", "--gtid-strict-mode"],
    };
    let mut rig = Rig::start(name, build, options, SHOP).await?;
    let options = [options, &["--server-id=2"]].concat();
    let replica = MySql::start_build(build, &rig.directory.join("replica"), &options).await?;
    rig.mysql.run("CREATE USER repl@'%' IDENTIFIED BY 'r'; GRANT REPLICATION SLAVE ON *.* TO repl@'%'").await?;
    let port = rig.mysql.port();
    let mut source = rig.mysql.connect().await?;
    let statements = match build {
        Build::MySql => {
            let executed: Option<String> = source.query_first("SELECT @@GLOBAL.gtid_executed").await?;
            format!(
                "RESET BINARY LOGS AND GTIDS; SET GLOBAL gtid_purged = '{}'; \
                 CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {port}, SOURCE_USER = 'repl', \
                 SOURCE_PASSWORD = 'r', SOURCE_AUTO_POSITION = 1, GET_SOURCE_PUBLIC_KEY = 1; START REPLICA",
                executed.unwrap_or_default()
            )
        }
        Build::MariaDb(_) => {
            let executed: Option<String> = source.query_first("SELECT @@GLOBAL.gtid_binlog_pos").await?;
            format!(
                "RESET MASTER; SET GLOBAL gtid_slave_pos = '{}'; CHANGE MASTER TO MASTER_HOST = '127.0.0.1', \
                 MASTER_PORT = {port}, MASTER_USER = 'repl', MASTER_PASSWORD = 'r', MASTER_USE_GTID = slave_pos, \
                 MASTER_SSL_VERIFY_SERVER_CERT = 0; START SLAVE",
                executed.unwrap_or_default()
            )
        }
    };
    replica.run(&statements).await?;
    source.disconnect().await?;
    let has = async |table: &str| -> anyhow::Result<Option<()>> {
        let mut conn = replica.connect().await?;
        let found: Option<i64> = conn.query_first(format!("SELECT 1 FROM {table} LIMIT 1")).await.unwrap_or_default();
        conn.disconnect().await?;
        Ok(found.map(|_| ()))
    };

    let mut config = rig.config.clone();
    config.text = config.text.replace("[checkpoint]", &format!("failover = [\"{}\"]\n[checkpoint]", replica.url()));
    let engine = Engine::start_and_wait(&config).await?;
    let insert = |id: i64| format!("INSERT INTO shop.t VALUES ({id}), ({})", id + 1);
    rig.mysql.run("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY)").await?;
    for id in 0..50 {
        rig.mysql.run(&insert(2 * id)).await?;
    }
    wait_for("the replica has it all", Duration::from_secs(30), || has("shop.t WHERE id = 99")).await?;
    wait_for("the engine has some of it", Duration::from_secs(30), || async {
        Ok((!rig.changes()?.is_empty()).then_some(()))
    })
    .await?;
    rig.mysql.kill();
    for id in 50..60 {
        replica.run(&insert(2 * id)).await?;
    }
    wait_for("rows of the replica arrive", Duration::from_secs(60), || async {
        Ok((rig.changes()?.len() >= 120).then_some(()))
    })
    .await
    .with_context(|| engine.log())?;
    engine.stop().await?;

    // The checkpoint is on the replica now.
    let engine = Engine::start_and_wait(&config).await?;
    replica.run(&insert(120)).await?;
    wait_for("rows arrive", Duration::from_secs(60), || async { Ok((rig.changes()?.len() >= 122).then_some(())) })
        .await
        .with_context(|| engine.log())?;
    engine.stop().await?;
    let expected: Vec<String> = (0..122).map(|id| format!("c t {id}")).collect();
    assert_eq!(rig.changes()?, expected, "each row once and in order");

    // The source is back when the engine stops on the replica. `rowmill checkpoint set` would ask the source, where the
    // replica's position means something else: no such command is printed.
    let mut engine = Engine::start_and_wait(&config).await?;
    rig.mysql.kill_and_restart().await?;
    replica.run("SET SESSION binlog_format = 'STATEMENT'; INSERT INTO shop.t VALUES (122)").await?;
    engine.end(Duration::from_secs(30)).await?;
    let log = engine.log();
    assert!(log.contains("as a statement") && !log.contains("rowmill checkpoint set binlog"), "{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_takes_its_sources_place() -> anyhow::Result<()> {
    failover("a_replica_takes_its_sources_place", Build::MySql).await?;
    failover("a_replica_takes_its_sources_place_mariadb", Build::MariaDb("11.8")).await
}

/// Another replica with the same server ID ends the engine, and the error says how to choose another ID.
#[tokio::test]
async fn two_replicas_of_one_id() -> anyhow::Result<()> {
    let rig = Rig::start("two_replicas_of_one_id", Build::MySql, &[], "server_id = 4711").await?;
    let mut first = Engine::start_and_wait(&rig.config).await?;
    let directory = rig.directory.join("second");
    std::fs::create_dir(&directory)?;
    let other = EngineConfig::new(&directory, &rig.mysql, "server_id = 4711", "[sink.out]\ntype = \"null\"\n");
    // A check with the same server ID does not disturb the engine.
    let (code, said) = check(&other)?;
    assert_eq!(code, Some(0), "{said}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(first.process().ended()?, None, "{}", first.log());

    let second = Engine::start_and_wait(&other).await?;
    let status = first.end(Duration::from_secs(30)).await?;
    let log = first.log();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("another replica uses server_id 4711") && log.contains("source.server_id"), "{log}");
    second.stop().await
}

/// Runs `rowmill check`, and returns its exit code and output.
fn check(config: &EngineConfig) -> anyhow::Result<(Option<i32>, String)> {
    let file = config.directory.join("rowmill.toml");
    std::fs::write(&file, &config.text)?;
    let output = Command::new(rowmill_tests::binary()?)
        .args(["check", "--config"])
        .arg(&file)
        .env("ROWMILL_SOURCE_PASSWORD", &config.password)
        .output()?;
    Ok((output.status.code(), String::from_utf8(output.stdout)?))
}

/// `rowmill check` names each problem and its fix, and `rowmill replay` reads the files.
#[tokio::test]
async fn checks_and_replays() -> anyhow::Result<()> {
    let rig = Rig::start("checks_and_replays", Build::MySql, &[], SHOP).await?;
    rig.mysql
        .run("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY, a VARCHAR(10)); CREATE TABLE shop.n (id INT)")
        .await?;
    rig.mysql.run("GRANT SELECT ON shop.* TO rowmill@'%'").await?;
    let (code, said) = check(&rig.config)?;
    assert_eq!(code, Some(0), "{said}");
    for words in ["answers: 9.", "row-based binlog", "names the columns", "no checkpoint yet", "sink.out", "shop.n"] {
        assert!(said.contains(words), "`{words}` isn't in: {said}");
    }
    assert!(!rig.config.checkpoint().exists(), "it changes nothing");

    rig.mysql.run("SET GLOBAL binlog_format = 'MIXED'").await?;
    let (code, said) = check(&rig.config)?;
    assert!(
        code == Some(1) && said.contains("problem") && said.contains("SET PERSIST binlog_format = 'ROW'"),
        "{said}"
    );
    rig.mysql.run("SET GLOBAL binlog_format = 'ROW'; REVOKE REPLICATION SLAVE ON *.* FROM rowmill@'%'").await?;
    let (code, said) = check(&rig.config)?;
    assert!(code == Some(1) && said.contains("GRANT REPLICATION SLAVE, REPLICATION CLIENT"), "{said}");
    let wrong = EngineConfig { password: "wrong".to_owned(), ..rig.config.clone() };
    let (code, said) = check(&wrong)?;
    assert!(code == Some(1) && said.contains("refuses the user or the password"), "{said}");

    rig.mysql.run("INSERT INTO shop.t VALUES (1, 'x'); FLUSH BINARY LOGS; UPDATE shop.t SET a = 'y'").await?;
    let binlog = |number: usize| rig.mysql.data().join(format!("binlog.00000{number}"));
    let replay = |arguments: &[&str], files: &[PathBuf]| {
        Command::new(rowmill_tests::binary()?).arg("replay").args(arguments).args(files).output().context("run")
    };
    let output = replay(&["--tables", "shop.*"], &[binlog(1), binlog(2)])?;
    let lines = String::from_utf8(output.stdout)?;
    let rows: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(rows.len(), 2, "{lines}");
    assert_eq!((&rows[1]["before"]["a"], &rows[1]["after"]["a"]), (&"x".into(), &"y".into()));

    // A truncated file, and a damaged one: the error gives the position, and no row of the damaged event is written.
    let bytes = std::fs::read(binlog(1))?;
    let damaged = rig.directory.join("binlog.000001");
    std::fs::write(&damaged, &bytes[..bytes.len() - 60])?;
    let output = replay(&[], std::slice::from_ref(&damaged))?;
    let said = String::from_utf8(output.stderr)?;
    assert!(output.status.code() == Some(1) && said.contains("ends within the event at binlog.000001:"), "{said}");
    let mut flipped = bytes.clone();
    let at = bytes.windows(5).rposition(|window| window == b"\x01\x00\x00\x00\x01").unwrap_or(bytes.len() - 100);
    flipped[at] ^= 0x40;
    std::fs::write(&damaged, &flipped)?;
    let output = replay(&[], &[damaged])?;
    let said = String::from_utf8(output.stderr)?;
    assert!(output.status.code() == Some(1) && said.contains("binlog.000001:"), "{said}");
    let output = replay(&[], &[rig.directory.join("rowmill.toml")])?;
    assert!(String::from_utf8(output.stderr)?.contains("is not a binlog"));
    Ok(())
}

/// Starts after a set of GTIDs, of MySQL and of MariaDB.
#[tokio::test]
async fn a_start_by_gtids() -> anyhow::Result<()> {
    const GTIDS: [&str; 2] = ["--gtid-mode=ON", "--enforce-gtid-consistency=ON"];
    for (name, build, options) in [
        ("a_start_by_gtids_of_mysql", Build::MySql, &GTIDS[..]),
        ("a_start_by_gtids_of_mariadb", Build::MariaDb("11.8"), &[]),
    ] {
        let rig = Rig::start(name, build, options, SHOP).await?;
        rig.mysql
            .run("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY); INSERT INTO shop.t VALUES (1)")
            .await?;
        rig.mysql.run("FLUSH BINARY LOGS; INSERT INTO shop.t VALUES (2)").await?;
        let variable = if build == Build::MySql { "gtid_executed" } else { "gtid_binlog_pos" };
        let mut conn = rig.mysql.connect().await?;
        let executed: String = conn.query_first(format!("SELECT @@GLOBAL.{variable}")).await?.context("a set")?;
        rig.mysql.run("INSERT INTO shop.t VALUES (3)").await?;
        let mut config = rig.config.clone();
        let start = |set: &str| rig.config.text.replace("tables =", &format!("start = \"gtid:{set}\"\ntables ="));

        // A GTID that the server does not have yet is refused.
        let ahead = match build {
            Build::MySql => executed.replace(":1-", ":1-9"),
            Build::MariaDb(_) => format!("{executed}9"),
        };
        config.text = start(&ahead);
        let mut engine = Engine::start_with(&config, &["--no-wait"])?;
        assert_eq!(engine.end(Duration::from_secs(20)).await?.code(), Some(1));
        assert!(engine.log().contains("lacks transactions"), "{}", engine.log());
        assert!(!config.checkpoint().exists());

        config.text = start(&executed);
        // After a kill before anything was read, the engine starts at the same point.
        Engine::start(&config)?.kill();
        let engine = Engine::start_and_wait(&config).await?;
        engine.kill();
        let engine = Engine::start_and_wait(&config).await?;
        rig.read_to_the_end(&engine).await?;
        engine.stop().await?;
        let changes = rig.changes()?;
        assert!(!changes.is_empty() && changes.iter().all(|change| change == "c t 3"), "{changes:?}");
    }
    Ok(())
}

/// The engine warns when its lag approaches the server's binlog retention.
#[tokio::test]
async fn a_warning_before_the_server_purges() -> anyhow::Result<()> {
    let options = ["--binlog-expire-logs-seconds=20"];
    let rig = Rig::start("a_warning_before_the_server_purges", Build::MySql, &options, SHOP).await?;
    rig.mysql.run("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY)").await?;
    let sqs = Sqs::start(&rig.directory).await?;
    let queue = sqs.create("changes").await?;
    let sink = format!(
        "[sink.queue]\ntype = \"sqs\"\nqueue_url = \"{}\"\nendpoint_url = \"{}\"\n[in_flight]\nmax_rows = 1\n",
        queue.url,
        sqs.endpoint()
    );
    let config = EngineConfig::new(&rig.directory, &rig.mysql, SHOP, &sink);
    let engine = Engine::start_and_wait(&config).await?;
    rig.mysql.run("INSERT INTO shop.t VALUES (1)").await?;
    assert_eq!(queue.receive_all(1, Duration::from_secs(20)).await?.len(), 1);
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert!(!engine.log().contains(log_lines::LAG_WARNING), "nothing waits: {}", engine.log());
    drop(sqs); // the queue accepts nothing from now on
    for id in 2..6 {
        rig.mysql.run(&format!("INSERT INTO shop.t VALUES ({id})")).await?;
    }
    wait_for("a warning", Duration::from_secs(30), || async {
        Ok(engine.log().contains(log_lines::LAG_WARNING).then_some(()))
    })
    .await
    .with_context(|| engine.log())?;
    // The progress line shows the lag: one row was delivered.
    let says_how_far =
        |log: String| log.lines().any(|line| line.contains("progress rows=1 ") && line.contains(" lag="));
    wait_for("how far it is", Duration::from_secs(20), || async { Ok(says_how_far(engine.log()).then_some(())) })
        .await
        .with_context(|| engine.log())?;
    engine.kill();
    Ok(())
}

/// A server sends an encrypted binlog decrypted, from any position; the encrypted files themselves cannot be replayed.
#[tokio::test]
async fn mariadb_encrypts_its_binlog() -> anyhow::Result<()> {
    for version in ["10.5", "10.11", "11.8"] {
        let name = format!("mariadb_encrypts_its_binlog_{version}");
        let keys = scratch(&format!("{name}_keys")).join("keys");
        std::fs::write(&keys, format!("1;{}\n", "0123456789abcdef".repeat(4)))?;
        let keys = format!("--file-key-management-filename={}", keys.display());
        let options = ["--plugin-load-add=file_key_management", &keys, "--encrypt-binlog=ON"];
        for checksum in ["CRC32", "NONE"] {
            let checksums = format!("--binlog-checksum={checksum}");
            let options = [&options[..], &[&checksums]].concat();
            let rig = Rig::start(&name, Build::MariaDb(version), &options, SHOP).await?;
            rig.mysql.run("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY)").await?;
            let first = rig.mysql.binlog_end().await?;
            let mut config = rig.config.clone();
            config.text = config.text.replace("tables =", "start = \"earliest\"\ntables =");
            // The server may write more events after a row, which no checkpoint reaches.
            let arrives = async |engine: &Engine, id: u32, count: usize| -> anyhow::Result<()> {
                rig.mysql.run(&format!("INSERT INTO shop.t VALUES ({id})")).await?;
                wait_for("the row arrives", Duration::from_secs(20), || async {
                    Ok((rig.changes()?.len() >= count).then_some(()))
                })
                .await
                .with_context(|| engine.log())
            };
            // From the start of a file into another one, and again from the middle of the second.
            let engine = Engine::start_and_wait(&config).await?;
            arrives(&engine, 1, 1).await?;
            rig.mysql.run("FLUSH BINARY LOGS").await?;
            arrives(&engine, 2, 2).await?;
            engine.stop().await?;
            let checkpoint = || std::fs::read_to_string(config.checkpoint());
            let position = |text: String| -> anyhow::Result<(String, u64)> {
                let checkpoint: serde_json::Value = serde_json::from_str(&text)?;
                let file = checkpoint["file"].as_str().context("a file")?.to_owned();
                Ok((file, checkpoint["position"].as_u64().context("a position")?))
            };
            let before = position(checkpoint()?)?;
            let engine = Engine::start_and_wait(&config).await?;
            tokio::time::sleep(Duration::from_secs(1)).await; // the file's first events are sent again
            engine.stop().await?;
            assert_eq!(position(checkpoint()?)?, before, "it stays where it is");
            let engine = Engine::start_and_wait(&config).await?;
            arrives(&engine, 3, 3).await?;
            engine.stop().await?;
            // From the middle of the first file.
            std::fs::remove_file(config.checkpoint())?;
            config.text = config.text.replace("\"earliest\"", &format!("\"{}:{}\"", first.0, first.1));
            let engine = Engine::start_and_wait(&config).await?;
            arrives(&engine, 4, 7).await?;
            engine.stop().await?;
            let expected = [1, 2, 3, 1, 2, 3, 4].map(|id| format!("c t {id}"));
            assert_eq!(rig.changes()?, expected, "{version} {checksum}");

            let file = rig.mysql.data().join(&first.0);
            let output = Command::new(rowmill_tests::binary()?).arg("replay").arg(&file).output()?;
            let said = String::from_utf8(output.stderr)?;
            assert!(output.stdout.is_empty() && output.status.code() == Some(1), "{said}");
            assert!(said.contains("an encrypted binlog file") && said.contains("from its server"), "{said}");
        }
    }
    Ok(())
}
