//! Reading continues only where the position belongs to the server's history: decreasing GTID numbers are new transactions, and
//! a binlog that was reset, copied or replaced is detected, at the start and while it is read.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use mysql_async::prelude::Queryable;
use rowmill_tests::{Build, Engine, EngineConfig, MySql, Rig, binary, log_lines, wait_for};

const SHOP: &str = "tables = [\"shop.*\"]\nstart = \"earliest\"";
const MARIADB: Build = Build::MariaDb("11.8");
const GTIDS: &[&str] = &["--gtid-mode=ON", "--enforce-gtid-consistency=ON"];
const TABLE: &str = "CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY)";

/// Runs statements one by one, in one session.
async fn session(mysql: &MySql, statements: &[String]) -> anyhow::Result<()> {
    let mut conn = mysql.connect().await?;
    for statement in statements {
        conn.query_drop(statement).await.with_context(|| statement.clone())?;
    }
    conn.disconnect().await?;
    Ok(())
}

async fn insert(mysql: &MySql, ids: std::ops::Range<i64>) -> anyhow::Result<()> {
    session(mysql, &ids.map(|id| format!("INSERT INTO shop.t VALUES ({id})")).collect::<Vec<_>>()).await
}

/// Returns the delivered IDs, in order.
fn ids(rig: &Rig) -> anyhow::Result<Vec<i64>> {
    rig.changes()?.iter().map(|change| Ok(change.rsplit(' ').next().unwrap_or_default().parse()?)).collect()
}

async fn arrived(rig: &Rig, count: usize, engine: &Engine) -> anyhow::Result<()> {
    wait_for("rows arrive", Duration::from_secs(30), || async { Ok((rig.changes()?.len() >= count).then_some(())) })
        .await
        .with_context(|| engine.log())
}

/// Asserts that the engine ends with exit code 1, and that its log after `before` contains `words`.
async fn ends(mut engine: Engine, deadline: Duration, before: usize, words: &[&str]) -> anyhow::Result<()> {
    let ended = engine.end(deadline).await;
    let log = engine.log();
    let said = log.get(before..).unwrap_or_default();
    ensure!(ended.with_context(|| said.to_owned())?.code() == Some(1), "{said}");
    for word in words {
        ensure!(said.contains(word), "`{word}` isn't in: {said}");
    }
    Ok(())
}

/// Asserts that the engine does not start, and delivers nothing.
async fn refused(rig: &Rig, config: &EngineConfig, words: &[&str]) -> anyhow::Result<()> {
    let before = std::fs::read_to_string(config.directory.join("rowmill.log")).unwrap_or_default().len();
    let (rows, checkpoint) = (ids(rig)?, std::fs::read(config.checkpoint())?);
    ends(Engine::start(config)?, Duration::from_secs(30), before, words).await?;
    ensure!(ids(rig)? == rows, "nothing is delivered");
    // Each acquisition of the checkpoint increments its epoch.
    let content = |text: &[u8]| -> anyhow::Result<_> {
        let mut content: serde_json::Value = serde_json::from_slice(text)?;
        for changes in ["epoch", "checksum"] {
            content[changes].take();
        }
        Ok(content)
    };
    ensure!(content(&std::fs::read(config.checkpoint())?)? == content(&checkpoint)?, "the checkpoint stays");
    Ok(())
}

/// Runs `rowmill checkpoint set`.
fn set(config: &EngineConfig, place: &str) -> anyhow::Result<()> {
    let file = config.directory.join("rowmill.toml");
    std::fs::write(&file, &config.text)?;
    let output = Command::new(binary()?)
        .args(["checkpoint", "set", "--config"])
        .arg(&file)
        .arg(place)
        .env("ROWMILL_SOURCE_PASSWORD", &config.password)
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn gtids(config: &EngineConfig) -> anyhow::Result<String> {
    let checkpoint: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(config.checkpoint())?)?;
    Ok(checkpoint["gtids"].as_str().unwrap_or_default().to_owned())
}

/// Returns MariaDB's statements that write a row with another server ID, domain and sequence number.
fn as_server(server: u32, domain: u32, number: u64, id: i64) -> Vec<String> {
    vec![
        format!("SET SESSION server_id = {server}, gtid_domain_id = {domain}, gtid_seq_no = {number}"),
        format!("INSERT INTO shop.t VALUES ({id})"),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_that_step_down_are_new_rows() -> anyhow::Result<()> {
    let mut rig = Rig::start("numbers_that_step_down_are_new_rows", MARIADB, &["--gtid-strict-mode=OFF"], SHOP).await?;
    rig.mysql.run(TABLE).await?;
    let engine = Engine::start_and_wait(&rig.config).await?;
    let rows =
        [(1, 0, 1000), (2, 0, 500), (2, 0, 501), (1, 7, 50), (3, 7, 2), (1, 0, 700), (1, 0, 3), (2, 0, 2), (9, 7, 1)];
    let mut id = 0;
    let mut write = async |mysql: &MySql| {
        for (server, domain, number) in rows {
            id += 1;
            session(mysql, &as_server(server, domain, number, id)).await?;
        }
        Ok::<_, anyhow::Error>(())
    };
    write(&rig.mysql).await?;
    arrived(&rig, rows.len(), &engine).await?;
    rig.read_to_the_end(&engine).await?;
    engine.stop().await?;
    // While the engine is stopped, after a start, and over a restart of the server with a new binlog file.
    write(&rig.mysql).await?;
    let engine = Engine::start_and_wait(&rig.config).await?;
    write(&rig.mysql).await?;
    rig.mysql.kill_and_restart().await?;
    write(&rig.mysql).await?;
    rig.mysql.run("FLUSH BINARY LOGS").await?;
    write(&rig.mysql).await?;
    arrived(&rig, 5 * rows.len(), &engine).await?;
    rig.read_to_the_end(&engine).await?;
    engine.stop().await?;
    assert_eq!(ids(&rig)?, (1..=5 * rows.len() as i64).collect::<Vec<_>>(), "each row once and in order");
    Ok(())
}

/// A start after GTIDs, one of each domain: earlier transactions of a domain's other servers are not read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_by_gtids_of_several_domains_and_servers() -> anyhow::Result<()> {
    let name = "a_start_by_gtids_of_several_domains_and_servers";
    let rig = Rig::start(name, MARIADB, &["--gtid-strict-mode=OFF"], SHOP).await?;
    rig.mysql.run(TABLE).await?;
    let before = [(1, 0, 1000, 1), (2, 0, 500, 2), (1, 7, 50, 3), (3, 7, 2, 4), (1, 0, 1001, 5)];
    let after = [(2, 0, 501, 6), (3, 7, 3, 7), (1, 0, 1002, 8), (1, 7, 51, 9), (2, 0, 502, 10)];
    for (server, domain, number, id) in before.into_iter().chain(after) {
        session(&rig.mysql, &as_server(server, domain, number, id)).await?;
        if id % 3 == 0 {
            rig.mysql.run("FLUSH BINARY LOGS").await?;
        }
    }
    let start = SHOP.replace("earliest", "gtid:0-1-1001,7-3-2");
    let config = EngineConfig { text: rig.config.text.replace(SHOP, &start), ..rig.config.clone() };
    let engine = Engine::start_and_wait(&config).await?;
    arrived(&rig, 5, &engine).await?;
    rig.read_to_the_end(&engine).await?;
    engine.stop().await?;
    assert_eq!(ids(&rig)?, [6, 7, 8, 9, 10]);
    assert_eq!(gtids(&config)?, "0-1-1002,0-2-502,7-3-3,7-1-51");
    Ok(())
}

/// Makes one server replicate another.
async fn replicate(from: &MySql, to: &MySql) -> anyhow::Result<()> {
    from.run("CREATE USER IF NOT EXISTS repl@'%' IDENTIFIED BY 'r'; GRANT REPLICATION SLAVE ON *.* TO repl@'%'")
        .await?;
    to.run(&format!(
        "CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {}, MASTER_USER = 'repl', MASTER_PASSWORD = 'r', \
         MASTER_USE_GTID = slave_pos, MASTER_SSL_VERIFY_SERVER_CERT = 0; START SLAVE",
        from.port()
    ))
    .await
}

/// Two primaries of one domain replicate each other: their sequence numbers interleave, differently in each one's binlog.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_primaries() -> anyhow::Result<()> {
    let options = ["--log-slave-updates", "--gtid-strict-mode=OFF"];
    let mut rig = Rig::start("two_primaries", MARIADB, &options, SHOP).await?;
    let mut other =
        MySql::start_build(MARIADB, &rig.directory.join("other"), &[&options[..], &["--server-id=2"]].concat()).await?;
    for primary in [&rig.mysql, &other] {
        primary.run("SET SESSION sql_log_bin = 0; CREATE USER repl@'%' IDENTIFIED BY 'r'; GRANT REPLICATION SLAVE ON *.* TO repl@'%'").await?;
        primary.run("RESET MASTER; SET GLOBAL gtid_slave_pos = ''").await?;
    }
    replicate(&rig.mysql, &other).await?;
    replicate(&other, &rig.mysql).await?;
    rig.mysql.run(TABLE).await?;
    let has = async |mysql: &MySql, count: i64| {
        let mut conn = mysql.connect().await?;
        let found: Option<i64> = conn.query_first("SELECT COUNT(*) FROM shop.t").await.unwrap_or_default();
        conn.disconnect().await?;
        Ok::<_, anyhow::Error>(found.filter(|found| *found == count).map(|_| ()))
    };
    wait_for("the table is there", Duration::from_secs(30), || has(&other, 0)).await?;

    let mut config = rig.config.clone();
    config.text = config.text.replace("[checkpoint]", &format!("failover = [\"{}\"]\n[checkpoint]", other.url()));
    let engine = Engine::start_and_wait(&config).await?;
    let both = async |rig: &Rig, other: &MySql, from: i64| {
        tokio::try_join!(insert(&rig.mysql, from..from + 100), insert(other, from + 1000..from + 1100))
    };
    both(&rig, &other, 0).await?;
    for primary in [&rig.mysql, &other] {
        wait_for("both have all", Duration::from_secs(30), || has(primary, 200)).await?;
    }
    arrived(&rig, 200, &engine).await?;
    engine.stop().await?;
    both(&rig, &other, 100).await?;
    for primary in [&rig.mysql, &other] {
        wait_for("both have all", Duration::from_secs(30), || has(primary, 400)).await?;
    }
    let engine = Engine::start_and_wait(&config).await?;
    arrived(&rig, 400, &engine).await?;

    // The first primary dies without the other's last rows.
    rig.mysql.run("STOP SLAVE").await?;
    insert(&rig.mysql, 300..310).await?;
    wait_for("the other has them", Duration::from_secs(30), || has(&other, 410)).await?;
    insert(&other, 1300..1310).await?;
    insert(&rig.mysql, 310..320).await?;
    wait_for("the other has them", Duration::from_secs(30), || has(&other, 430)).await?;
    arrived(&rig, 420, &engine).await?;
    rig.mysql.kill();
    insert(&other, 1310..1320).await?;
    arrived(&rig, 440, &engine).await?;
    engine.stop().await?;
    let engine = Engine::start_and_wait(&config).await?;
    insert(&other, 1320..1330).await?;
    arrived(&rig, 450, &engine).await?;
    engine.stop().await?;

    let mut found = ids(&rig)?;
    for of in [0..1000, 1000..2000] {
        let rows: Vec<i64> = found.iter().copied().filter(|id| of.contains(id)).collect();
        assert!(rows.is_sorted(), "those of a server in their order: {rows:?}");
    }
    found.sort_unstable();
    let expected = [0..200, 300..320, 1000..1200, 1300..1330];
    assert_eq!(found, expected.into_iter().flatten().collect::<Vec<_>>(), "each row once");
    other.kill();
    Ok(())
}

const RESET_MYSQL: &str = "RESET BINARY LOGS AND GTIDS";
const RESET_MARIADB: &str = "RESET MASTER";
const FLUSHES: &str = "FLUSH BINARY LOGS; FLUSH BINARY LOGS; FLUSH BINARY LOGS";

/// The binlog is reset while the engine is down, and then grows past its earlier files, transactions and bytes.
async fn reset_before_the_start(name: &str, build: Build, options: &[&str], reset: &str) -> anyhow::Result<()> {
    for flushes in ["DO 1", FLUSHES] {
        let rig = Rig::start(name, build, options, SHOP).await?;
        rig.mysql.run(TABLE).await?;
        let engine = Engine::start_and_wait(&rig.config).await?;
        insert(&rig.mysql, 0..20).await?;
        rig.mysql.run(flushes).await?;
        arrived(&rig, 20, &engine).await?;
        engine.stop().await?;
        // Two files that one server began in the same second cannot be told apart at their beginnings.
        tokio::time::sleep(Duration::from_millis(1_100)).await;

        rig.mysql.run(&format!("{reset}; INSERT INTO shop.t VALUES (100); {flushes}")).await?;
        refused(&rig, &rig.config, &["rowmill checkpoint set", "reset"]).await?;
        insert(&rig.mysql, 101..150).await?;
        refused(&rig, &rig.config, &["rowmill checkpoint set", "reset"]).await?;
        rig.mysql.run(FLUSHES).await?;
        refused(&rig, &rig.config, &["rowmill checkpoint set", "reset"]).await?;

        // The fix of the error message works.
        set(&rig.config, "earliest")?;
        let engine = Engine::start_and_wait(&rig.config).await?;
        arrived(&rig, 70, &engine).await?;
        engine.stop().await?;
        assert_eq!(ids(&rig)?, (0..20).chain(100..150).collect::<Vec<_>>());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_before_the_start() -> anyhow::Result<()> {
    reset_before_the_start("a_reset_before_the_start", Build::MySql, GTIDS, RESET_MYSQL).await?;
    reset_before_the_start("a_reset_before_the_start_without_gtids", Build::MySql, &[], RESET_MYSQL).await?;
    reset_before_the_start("a_reset_before_the_start_mariadb", MARIADB, &[], RESET_MARIADB).await
}

/// The binlog is reset while the engine reads it: the engine ends within seconds, although the server's dump stays silent, and
/// however much is written afterwards.
async fn reset_while_it_runs(name: &str, build: Build, options: &[&str], reset: &str, rows: i64) -> anyhow::Result<()> {
    let rig = Rig::start(name, build, options, SHOP).await?;
    rig.mysql.run(TABLE).await?;
    let engine = Engine::start_and_wait(&rig.config).await?;
    insert(&rig.mysql, 0..20).await?;
    arrived(&rig, 20, &engine).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    // Other RESET statements have no effect.
    let other = if build == Build::MySql { "RESET REPLICA" } else { "RESET QUERY CACHE" };
    rig.mysql.run(other).await?;
    insert(&rig.mysql, 20..30).await?;
    arrived(&rig, 30, &engine).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!engine.log().contains(log_lines::CONNECTION_LOST), "{}", engine.log());
    rig.mysql.run(reset).await?;
    insert(&rig.mysql, 100..100 + rows).await?;
    // After a reset to a higher file number, earlier files may seem to be purged.
    let words: &[&str] = if reset.contains("TO ") { &["new copy"] } else { &["rowmill checkpoint set", "reset"] };
    ends(engine, Duration::from_secs(10), 0, words).await?;
    refused(&rig, &rig.config, words).await?;
    let delivered = ids(&rig)?;
    assert_eq!(delivered, (0..30).collect::<Vec<_>>(), "none of the other history");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_while_it_runs() -> anyhow::Result<()> {
    // To a file number after which earlier files seem to be purged.
    let ahead = |reset: &str| format!("{reset} TO 4711");
    let (mysql, mariadb) = (ahead(RESET_MYSQL), ahead(RESET_MARIADB));
    reset_while_it_runs("a_reset_while_it_runs_ahead", Build::MySql, GTIDS, &mysql, 50).await?;
    reset_while_it_runs("a_reset_while_it_runs_ahead_mariadb", MARIADB, &[], &mariadb, 50).await?;
    for rows in [0, 100] {
        reset_while_it_runs("a_reset_while_it_runs", Build::MySql, GTIDS, RESET_MYSQL, rows).await?;
        reset_while_it_runs("a_reset_while_it_runs_without_gtids", Build::MySql, &[], RESET_MYSQL, rows).await?;
        reset_while_it_runs("a_reset_while_it_runs_mariadb", MARIADB, &[], RESET_MARIADB, rows).await?;
    }
    Ok(())
}

/// A copy of the data directory has the server's identity, and its own history since the copy.
async fn copied(name: &str, build: Build, options: &[&str]) -> anyhow::Result<()> {
    let mut rig = Rig::start(name, build, options, SHOP).await?;
    rig.mysql.run(TABLE).await?;
    let engine = Engine::start_and_wait(&rig.config).await?;
    insert(&rig.mysql, 0..20).await?;
    arrived(&rig, 20, &engine).await?;
    rig.read_to_the_end(&engine).await?;
    engine.stop().await?;
    // MySQL's processes are killed first: both servers begin at the copy.
    rig.mysql.kill();
    let directory = rig.directory.join("copy");
    std::fs::create_dir(&directory)?;
    let status = Command::new("cp").arg("-a").arg(rig.mysql.data()).arg(directory.join("data")).status()?;
    ensure!(status.success(), "a copy");
    let copy = MySql::start_build(build, &directory, options).await?;
    rig.mysql.kill_and_restart().await?;
    let text = rig.config.text.replace(&rig.mysql.url(), &copy.url());
    let of_copy = EngineConfig { text, ..rig.config.clone() };

    // The history before the copy is common to both.
    let engine = Engine::start_and_wait(&of_copy).await?;
    engine.stop().await?;
    set(&rig.config, "latest")?;
    let engine = Engine::start_and_wait(&rig.config).await?;
    tokio::try_join!(insert(&rig.mysql, 20..40), insert(&copy, 120..140))?;
    arrived(&rig, 40, &engine).await?;
    rig.read_to_the_end(&engine).await?;
    engine.stop().await?;
    insert(&copy, 140..180).await?;
    refused(&rig, &of_copy, &["rowmill checkpoint set", "restored or replaced"]).await?;
    insert(&rig.mysql, 40..60).await?;
    let engine = Engine::start_and_wait(&rig.config).await?;
    arrived(&rig, 60, &engine).await?;
    engine.stop().await?;
    assert_eq!(ids(&rig)?, (0..60).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copied_server() -> anyhow::Result<()> {
    copied("a_copied_server", Build::MySql, GTIDS).await?;
    copied("a_copied_server_without_gtids", Build::MySql, &[]).await?;
    copied("a_copied_server_mariadb", MARIADB, &[]).await
}

/// A server that is set up again by the same script is another one; on MariaDB it has the same identity.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuilt_server() -> anyhow::Result<()> {
    let rig = Rig::start("a_rebuilt_server", MARIADB, &[], SHOP).await?;
    let rebuilt = MySql::start_build(MARIADB, &rig.directory.join("rebuilt"), &[]).await?;
    rig.mysql.run(TABLE).await?;
    let engine = Engine::start_and_wait(&rig.config).await?;
    insert(&rig.mysql, 0..20).await?;
    arrived(&rig, 20, &engine).await?;
    rig.read_to_the_end(&engine).await?;
    engine.stop().await?;
    let text = rig.config.text.replace(&rig.mysql.url(), &rebuilt.url());
    let config = EngineConfig { text, ..rig.config.clone() };
    refused(&rig, &config, &["rowmill checkpoint set"]).await?;
    rebuilt.run(TABLE).await?;
    for ids in [0..20, 20..60] {
        insert(&rebuilt, ids).await?;
        refused(&rig, &config, &["rowmill checkpoint set", "restored or replaced"]).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_says_what_is_before_it_and_may_be_ahead() -> anyhow::Result<()> {
    let name = "a_place_says_what_is_before_it_and_may_be_ahead";
    for (name, build, options) in
        [(name.to_owned(), Build::MySql, GTIDS), (format!("{name}_mariadb"), MARIADB, &["--gtid-domain-id=0"][..])]
    {
        let rig = Rig::start(&name, build, options, SHOP).await?;
        rig.mysql.run(TABLE).await?;
        insert(&rig.mysql, 0..5).await?;
        let (file, offset) = rig.mysql.binlog_end().await?;
        let executed = async || {
            let mut conn = rig.mysql.connect().await?;
            let select = match build {
                Build::MySql => "SELECT @@GLOBAL.gtid_executed",
                Build::MariaDb(_) => "SELECT @@GLOBAL.gtid_binlog_state",
            };
            let text: Option<String> = conn.query_first(select).await?;
            conn.disconnect().await?;
            Ok::<_, anyhow::Error>(text.unwrap_or_default())
        };
        let before = executed().await?;
        insert(&rig.mysql, 5..8).await?;
        let start = |start: &str| {
            let text = rig.config.text.replace(SHOP, &SHOP.replace("earliest", start));
            EngineConfig { text, ..rig.config.clone() }
        };
        set(&rig.config, &format!("{file}:{offset}"))?;
        assert_eq!(gtids(&rig.config)?, before, "what is before the place");
        std::fs::remove_file(rig.config.checkpoint())?;
        let engine = Engine::start_and_wait(&start(&format!("{file}:{offset}"))).await?;
        arrived(&rig, 3, &engine).await?;
        rig.read_to_the_end(&engine).await?;
        engine.stop().await?;
        assert_eq!(ids(&rig)?, [5, 6, 7]);
        assert_eq!(gtids(&rig.config)?, executed().await?);

        std::fs::remove_file(rig.config.checkpoint())?;
        let log = rig.directory.join("rowmill.log");
        for (place, words) in [("binlog.000099:4", "the newest binlog file"), ("other.000001:4", "no such file")] {
            let before = std::fs::read_to_string(&log)?.len();
            ends(Engine::start(&start(place))?, Duration::from_secs(30), before, &[words, place]).await?;
            assert!(!std::fs::read_to_string(&log)?[before..].contains("purged"));
        }
    }
    Ok(())
}
