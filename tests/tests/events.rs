//! Binlog contents other than plain rows: rolled-back rows, prepared transactions, GTIDs, and very large rows and
//! transactions.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rowmill_tests::{Build, Engine, Rig};
use serde_json::json;

const SHOP: &str = "tables = [\"shop.*\"]";

/// Savepoints, rollbacks, and tables of engines without transactions.
async fn rows_that_never_happened(name: &str, build: Build, options: &[&str]) -> anyhow::Result<()> {
    let rig = Rig::start(name, build, options, SHOP).await?;
    rig.mysql
        .run(
            "CREATE DATABASE shop; CREATE TABLE shop.i (id INT PRIMARY KEY) ENGINE = InnoDB; \
             CREATE TABLE shop.m (id INT PRIMARY KEY) ENGINE = MyISAM",
        )
        .await?;
    let engine = Engine::start_and_wait(&rig.config).await?;
    let many = |from: usize| {
        let numbers = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 99)";
        format!("INSERT INTO shop.i {numbers} SELECT {from} + a.i * 100 + b.i FROM n a, n b")
    };
    rig.session(&[
        "BEGIN",
        "INSERT INTO shop.i VALUES (1)",
        "INSERT INTO shop.m VALUES (1)", // is not rolled back
        "INSERT INTO shop.i VALUES (2)",
        "ROLLBACK",
        "BEGIN",
        "INSERT INTO shop.i VALUES (3)",
        "SAVEPOINT a",
        "INSERT INTO shop.i VALUES (4)",
        "INSERT INTO shop.m VALUES (4)", // is not rolled back
        "SAVEPOINT b",
        "INSERT INTO shop.i VALUES (5)",
        "ROLLBACK TO a",
        "INSERT INTO shop.i VALUES (6)",
        "COMMIT",
        // MariaDB ends such a transaction with a ROLLBACK.
        "BEGIN",
        "INSERT INTO shop.i VALUES (7)",
        "CREATE TEMPORARY TABLE shop.tt (id INT)",
        "INSERT INTO shop.tt VALUES (1)",
        "INSERT INTO shop.i VALUES (8)",
        "ROLLBACK",
        // More rows than several batches hold, before and after a savepoint.
        "BEGIN",
        &many(10_000),
        "SAVEPOINT c",
        &many(20_000),
        "INSERT INTO shop.m VALUES (9)", // is not rolled back
        "ROLLBACK TO c",
        "INSERT INTO shop.i VALUES (30000)",
        "COMMIT",
        // The statement fails at its second row, and the first row stays.
        "INSERT INTO shop.m VALUES (10), (1), (11) /* fails */",
        "INSERT INTO shop.i VALUES (12)",
    ])
    .await?;
    rig.read_to_the_end(&engine).await?;
    engine.stop().await?;

    arrived_is_there(&rig, name).await
}

#[tokio::test]
async fn rows_that_never_happened_in_mysql() -> anyhow::Result<()> {
    // With GTIDs the server does not allow such transactions.
    let options = ["--gtid-mode=OFF", "--enforce-gtid-consistency=OFF"];
    rows_that_never_happened("rows_that_never_happened_in_mysql", Build::MySql, &options).await
}

#[tokio::test]
async fn rows_that_never_happened_in_mariadb() -> anyhow::Result<()> {
    rows_that_never_happened("rows_that_never_happened_in_mariadb_10_11", Build::MariaDb("10.11"), &[]).await?;
    rows_that_never_happened("rows_that_never_happened_in_mariadb_11_8", Build::MariaDb("11.8"), &[]).await
}

/// Names of savepoints, which are equal or differ by case, accents, quotes and spaces.
const SAVEPOINTS: [&str; 14] = ["a", "A", "a`", "a\"", "a\\", " a", "e", "é", "É", "s", "ß", "select", "Σ", "ς"];

/// Returns a random statement of a transaction with savepoints; names are quoted according to `sql_mode`.
fn random_step(random: &mut SmallRng, next_id: &mut i64, is_ansi: bool) -> String {
    let savepoint = SAVEPOINTS.choose(random).expect("a name");
    let name = if is_ansi {
        format!("\"{}\"", savepoint.replace('"', "\"\""))
    } else {
        format!("`{}`", savepoint.replace('`', "``"))
    };
    match random.random_range(0..100) {
        0..45 => {
            *next_id += 1;
            format!("INSERT INTO shop.i VALUES ({next_id})")
        }
        45..52 => {
            *next_id += 1;
            format!("INSERT INTO shop.m VALUES ({next_id})")
        }
        52..75 => format!("SAVEPOINT {name}"),
        75..92 => format!("ROLLBACK TO SAVEPOINT {name} /* fails */"),
        92..97 => format!("RELEASE SAVEPOINT {name} /* fails */"),
        _ => format!("CREATE TEMPORARY TABLE IF NOT EXISTS shop.tt{} (id INT)", random.random_range(0..3)),
    }
}

/// After random transactions with savepoints, the delivered rows are those of the tables.
async fn savepoints(name: &str, build: Build, options: &[&str]) -> anyhow::Result<()> {
    let rig = Rig::start(name, build, options, SHOP).await?;
    rig.mysql
        .run(
            "CREATE DATABASE shop; CREATE TABLE shop.i (id INT PRIMARY KEY) ENGINE = InnoDB; \
             CREATE TABLE shop.m (id INT PRIMARY KEY) ENGINE = MyISAM",
        )
        .await?;
    let engine = Engine::start_and_wait(&rig.config).await?;
    let seed = rand::random();
    println!("{name}: seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let mut id = 0;
    for _ in 0..120 {
        let is_ansi = random.random_bool(0.3);
        let mut statements = vec![
            format!("SET sql_mode = '{}'", if is_ansi { "ANSI_QUOTES" } else { "" }),
            format!("SET NAMES utf8mb4, sql_quote_show_create = {}", random.random_range(0..2)),
            "BEGIN".to_owned(),
        ];
        statements.extend((0..random.random_range(2..30)).map(|_| random_step(&mut random, &mut id, is_ansi)));
        statements.push(if random.random_bool(0.85) { "COMMIT" } else { "ROLLBACK" }.to_owned());
        rig.session(&statements.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    }
    rig.read_to_the_end(&engine).await?;
    engine.stop().await?;
    arrived_is_there(&rig, name).await
}

/// Asserts that the delivered rows of the tables `i` and `m` are those of the tables.
async fn arrived_is_there(rig: &Rig, name: &str) -> anyhow::Result<()> {
    let mut conn = rig.mysql.connect().await?;
    for table in ["i", "m"] {
        let there: Vec<i64> = conn.query(format!("SELECT id FROM shop.{table} ORDER BY id")).await?;
        let there: Vec<String> = there.iter().map(|id| format!("c {table} {id}")).collect();
        let of_table = format!("c {table} ");
        let mut arrived: Vec<String> =
            rig.changes()?.into_iter().filter(|change| change.starts_with(&of_table)).collect();
        arrived.sort_by_key(|change| change.rsplit(' ').next().and_then(|id| id.parse::<i64>().ok()));
        assert_eq!(arrived, there, "{name}, table {table}");
    }
    Ok(())
}

#[tokio::test]
async fn savepoints_are_what_the_server_makes_of_them() -> anyhow::Result<()> {
    let options = ["--gtid-mode=OFF", "--enforce-gtid-consistency=OFF"];
    savepoints("savepoints_of_mysql", Build::MySql, &options).await?;
    savepoints("savepoints_of_mariadb_10_5", Build::MariaDb("10.5"), &[]).await?;
    savepoints("savepoints_of_mariadb_11_8", Build::MariaDb("11.8"), &[]).await
}

/// The rows of a prepared transaction arrive once, at its commit, also over a restart of the engine; those of a rolled back one
/// never do.
async fn xa_transactions(name: &str, build: Build) -> anyhow::Result<()> {
    let rig = Rig::start(name, build, &[], SHOP).await?;
    rig.mysql.run("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY)").await?;
    let engine = Engine::start_and_wait(&rig.config).await?;
    let insert = |id: i64| format!("INSERT INTO shop.t VALUES ({id})");
    for (id, xid) in [(1, "one"), (2, "two")] {
        let (start, end, prepare) =
            (format!("XA START '{xid}'"), format!("XA END '{xid}'"), format!("XA PREPARE '{xid}'"));
        rig.session(&[&start, &insert(id), &end, &prepare]).await?;
    }
    rig.session(&[&insert(3)]).await?;
    rig.session(&["XA START 'x'", &insert(4), "XA END 'x'", "XA COMMIT 'x' ONE PHASE"]).await?;
    rowmill_tests::wait_for("rows arrive", Duration::from_secs(20), || async {
        Ok((rig.changes()?.len() == 2).then_some(()))
    })
    .await?;
    engine.stop().await?;
    assert_eq!(rig.changes()?, ["c t 3", "c t 4"]);

    // From here on, a start begins before the prepared transaction, and repeats nothing.
    rig.mysql.run("FLUSH BINARY LOGS").await?;
    let engine = Engine::start_and_wait(&rig.config).await?;
    rig.session(&["XA COMMIT 'one'", &insert(5), "XA ROLLBACK 'two'", &insert(6)]).await?;
    rig.read_to_the_end(&engine).await?;
    engine.stop().await?;
    assert_eq!(rig.changes()?, ["c t 3", "c t 4", "c t 1", "c t 5", "c t 6"]);

    let engine = Engine::start_and_wait(&rig.config).await?;
    rig.session(&[&insert(7)]).await?;
    rig.read_to_the_end(&engine).await?;
    engine.stop().await?;
    assert_eq!(rig.changes()?.len(), 6);
    Ok(())
}

#[tokio::test]
async fn xa_transactions_wait_for_their_commit() -> anyhow::Result<()> {
    xa_transactions("xa_transactions_of_mysql", Build::MySql).await?;
    xa_transactions("xa_transactions_of_mariadb_10_11", Build::MariaDb("10.11")).await?;
    xa_transactions("xa_transactions_of_mariadb_11_8", Build::MariaDb("11.8")).await
}

/// The checkpoint's GTID set has all transactions, including tagged ones.
#[tokio::test]
async fn gtids_are_followed() -> anyhow::Result<()> {
    let options = ["--gtid-mode=ON", "--enforce-gtid-consistency=ON"];
    let rig = Rig::start("gtids_are_followed", Build::MySql, &options, "start = \"earliest\"").await?;
    rig.session(&[
        "CREATE DATABASE shop",
        "CREATE TABLE shop.t (id INT PRIMARY KEY)",
        "INSERT INTO shop.t VALUES (1)",
        "FLUSH BINARY LOGS",
        "SET gtid_next = 'AUTOMATIC:blue'",
        "INSERT INTO shop.t VALUES (2)",
        "INSERT INTO shop.t VALUES (3)",
        "SET gtid_next = '11111111-2222-3333-4444-555555555555:77'",
        "INSERT INTO shop.t VALUES (4)",
        "SET gtid_next = 'AUTOMATIC'",
        "FLUSH BINARY LOGS",
        "INSERT INTO shop.t VALUES (5)",
    ])
    .await?;
    let engine = Engine::start_and_wait(&rig.config).await?;
    rig.read_to_the_end(&engine).await?;
    engine.stop().await?;
    let checkpoint: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(rig.config.checkpoint())?)?;
    let mut conn = rig.mysql.connect().await?;
    let executed: Option<String> = conn.query_first("SELECT @@GLOBAL.gtid_executed").await?;
    let set = |text: &str| text.parse::<rowmill_core::gtid::GtidSet>();
    assert_eq!(set(checkpoint["gtids"].as_str().unwrap_or_default())?, set(&executed.unwrap_or_default())?);
    let arrived = rig.arrived()?;
    let gtid = |index: usize| arrived[index]["source"]["gtid"].as_str().unwrap_or_default().to_owned();
    assert!(gtid(1).contains(":blue:1") && gtid(2).contains(":blue:2"), "{} {}", gtid(1), gtid(2));
    assert_eq!(gtid(3), "11111111-2222-3333-4444-555555555555:77");
    Ok(())
}

/// An update of a primary key is two events, each of one key, as in Debezium, with every row image.
#[tokio::test]
async fn an_update_of_the_key_is_two_events() -> anyhow::Result<()> {
    let rig = Rig::start("an_update_of_the_key_is_two_events", Build::MySql, &[], SHOP).await?;
    rig.mysql.run("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY, a INT)").await?;
    let engine = Engine::start_and_wait(&rig.config).await?;
    rig.session(&[
        "INSERT INTO shop.t VALUES (1, 10)",
        "UPDATE shop.t SET id = 2 WHERE id = 1",
        "SET SESSION binlog_row_image = 'MINIMAL'",
        "UPDATE shop.t SET id = 3 WHERE id = 2",
    ])
    .await?;
    rig.read_to_the_end(&engine).await?;
    engine.stop().await?;
    assert_eq!(rig.changes()?, ["c t 1", "d t 1", "c t 2", "d t 2", "c t 3"]);
    let arrived = rig.arrived()?;
    assert_eq!((&arrived[1]["before"], &arrived[1]["after"]), (&json!({"id": 1, "a": 10}), &json!(null)));
    assert_eq!((&arrived[2]["before"], &arrived[2]["after"]), (&json!(null), &json!({"id": 2, "a": 10})));
    assert_eq!((&arrived[3]["before"], &arrived[4]["after"]), (&json!({"id": 2}), &json!({"id": 3})));
    Ok(())
}

/// Tables of more than a thousand columns, a row of 100 MB, and generated columns.
#[tokio::test]
async fn great_rows_and_computed_columns() -> anyhow::Result<()> {
    let options = ["--max-allowed-packet=1G", "--innodb-log-buffer-size=64M", "--innodb-redo-log-capacity=2G"];
    let rig = Rig::start("great_rows_and_computed_columns", Build::MySql, &options, SHOP).await?;
    let columns: Vec<String> = (0..1000).map(|number| format!("c{number} INT")).collect();
    let values: Vec<String> = (0..1000).map(|number| (number * 7).to_string()).collect();
    rig.mysql.run("CREATE DATABASE shop; CREATE TABLE shop.large (id INT PRIMARY KEY, b LONGBLOB)").await?;
    rig.session(&[
        &format!("CREATE TABLE shop.wide (id INT PRIMARY KEY, {})", columns.join(", ")),
        "CREATE TABLE shop.blank (a INT, b INT DEFAULT 3)",
        "CREATE TABLE shop.computed (id INT PRIMARY KEY, a INT, s INT AS (a * 2) STORED, v INT AS (a * 3) VIRTUAL, \
             hidden INT INVISIBLE, t VARCHAR(20), KEY ((LOWER(t))), KEY ((a + 1), id))",
    ])
    .await?;
    let engine = Engine::start_and_wait(&rig.config).await?;
    rig.session(&[
        &format!("INSERT INTO shop.wide VALUES (1, {})", values.join(", ")),
        "INSERT INTO shop.computed (id, a, hidden, t) VALUES (2, 5, 7, 'Ann')",
        "UPDATE shop.computed SET a = 6 WHERE id = 2",
        "SET SESSION binlog_row_image = 'MINIMAL'",
        "INSERT INTO shop.blank () VALUES ()",
        "SET SESSION binlog_row_image = 'FULL'",
        "INSERT INTO shop.large VALUES (3, REPEAT(x'00ff41', 35000000))",
        "UPDATE shop.wide SET c999 = -1 WHERE id = 1",
    ])
    .await?;
    rig.read_to_the_end(&engine).await?;
    engine.stop().await?;
    let arrived = rig.arrived()?;
    let expected = ["c wide 1", "c computed 2", "u computed 2", "c blank null", "c large 3", "u wide 1"];
    assert_eq!(rig.changes()?, expected);
    assert!((0..1000).all(|number| arrived[0]["after"][format!("c{number}")] == json!(number * 7)));
    assert_eq!(arrived[1]["after"], json!({"id": 2, "a": 5, "s": 10, "v": 15, "hidden": 7, "t": "Ann"}));
    assert_eq!(arrived[2]["after"], json!({"id": 2, "a": 6, "s": 12, "v": 18, "hidden": 7, "t": "Ann"}));
    assert_eq!(arrived[3]["after"], json!({}), "the row image has no column");
    let large = arrived[4]["after"]["b"].as_str().unwrap_or_default();
    assert_eq!((large.len(), &large[..8]), (140_000_000, "AP9BAP9B"));
    assert_eq!(arrived[5]["after"]["c999"], json!(-1));
    Ok(())
}

/// A compressed transaction of several hundred megabytes is decompressed as a stream.
#[tokio::test]
async fn a_compressed_transaction_is_streamed() -> anyhow::Result<()> {
    let options = ["--max-allowed-packet=1G", "--innodb-redo-log-capacity=2G"];
    let rig = Rig::start("a_compressed_transaction_is_streamed", Build::MySql, &options, SHOP).await?;
    rig.mysql.run("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY, pad VARCHAR(2000))").await?;
    let mut engine = Engine::start_and_wait(&rig.config).await?;
    let rows = 200_000;
    rig.session(&[
        "SET SESSION binlog_transaction_compression = ON, cte_max_recursion_depth = 1000000",
        &format!(
            "INSERT INTO shop.t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) \
                 SELECT i, REPEAT(CHAR(65 + i % 26), 1800) FROM n"
        ),
    ])
    .await?;
    rig.read_to_the_end(&engine).await?;
    let peak = engine.process().peak_memory()?;
    engine.stop().await?;
    let (_, binlog) = rig.mysql.binlog_end().await?;
    println!("{rows} rows of 1.8 KB in {} KB of binlog; peak memory {} MB", binlog >> 10, peak >> 20);
    assert!(binlog < 40 << 20, "it is compressed");
    let changes = rig.changes()?;
    assert!(changes.iter().enumerate().all(|(index, change)| *change == format!("c t {}", index + 1)));
    assert_eq!(changes.len(), rows);
    assert!(peak < 250 << 20, "{} MB", peak >> 20);
    Ok(())
}

/// Without column names in the binlog, they are looked up in information_schema, and only used if they match the binlog.
#[tokio::test]
async fn columns_are_looked_up_and_never_guessed() -> anyhow::Result<()> {
    for (name, build) in [("lookup_mysql", Build::MySql), ("lookup_mariadb", Build::MariaDb("10.11"))] {
        let rig = Rig::start(name, build, &["--binlog-row-metadata=MINIMAL"], SHOP).await?;
        rig.mysql.run("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY, a VARCHAR(10))").await?;
        rig.mysql.run("GRANT SELECT ON shop.* TO rowmill@'%'").await?;
        let engine = Engine::start_and_wait(&rig.config).await?;
        rig.mysql.run("INSERT INTO shop.t VALUES (1, 'x')").await?;
        rig.read_to_the_end(&engine).await?;
        rig.mysql.run("ALTER TABLE shop.t ADD COLUMN b INT; INSERT INTO shop.t VALUES (2, 'y', 7)").await?;
        rig.read_to_the_end(&engine).await?;
        engine.stop().await?;
        assert_eq!(rig.arrived()?[1]["after"], json!({"id": 2, "a": "y", "b": 7}));

        // Rows of the old table that are read after the change: its columns differ, or have other names. A statement that
        // changes another table does not matter.
        for (change, is_refused) in [
            ("CREATE TABLE shop.u (id INT)", false),
            ("CREATE INDEX i ON shop.t (a)", false),
            ("ALTER TABLE shop.t DROP COLUMN b", true),
            ("ALTER TABLE shop.t CHANGE a other VARCHAR(10)", true),
        ] {
            let columns = if change.contains("other") { "" } else { ", 8" };
            rig.mysql.run(&format!("TRUNCATE shop.t; INSERT INTO shop.t VALUES (3, 'z'{columns}); {change}")).await?;
            let checkpoint = rig.config.checkpoint();
            let history = checkpoint.with_file_name("checkpoint.json.schema-history");
            let (before, known) = (std::fs::read_to_string(&checkpoint)?, std::fs::read_to_string(&history)?);
            let arrived = rig.arrived()?.len();
            if is_refused {
                std::fs::remove_file(&history)?;
            }
            let mut engine = Engine::start(&rig.config)?;
            if !is_refused {
                rig.read_to_the_end(&engine).await?;
                engine.stop().await?;
                continue;
            }
            let status = engine.end(Duration::from_secs(20)).await?;
            let log = engine.log();
            assert_eq!(status.code(), Some(1), "{log}");
            for words in ["shop.t", change, "binlog_row_metadata = 'FULL'"] {
                assert!(log.contains(words), "`{words}` isn't in: {log}");
            }
            assert!(log.contains("rowmill checkpoint set "), "{log}");
            // The event before the row is done, and the row is not.
            assert_ne!(std::fs::read_to_string(rig.config.checkpoint())?, before, "the statement before it");
            assert!(!rig.config.has_reached(&rig.mysql.binlog_end().await?)?);
            assert_eq!(rig.arrived()?.len(), arrived, "{log}");
            assert!(log.contains("the schema history of checkpoint") && log.contains("is gone"), "{log}");
            // The columns that were known before the change suffice.
            std::fs::write(&checkpoint, before)?;
            std::fs::write(&history, known)?;
            let engine = Engine::start(&rig.config)?;
            rig.read_to_the_end(&engine).await?;
            // So do those of the table as it is now.
            rig.mysql.run("INSERT INTO shop.t (id) VALUES (9)").await?;
            rig.read_to_the_end(&engine).await?;
            engine.stop().await?;
            let row = &rig.arrived()?[arrived]["after"];
            assert_eq!((&row["id"], &row["a"], row.get("b").is_some()), (&json!(3), &json!("z"), !columns.is_empty()));
        }
    }
    Ok(())
}
