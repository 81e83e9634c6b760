//! Binlog contents other than plain rows: rolled-back rows, prepared transactions, changed tables, statements, and very large
//! rows and transactions.

use std::time::Duration;

use anyhow::{Context, ensure};
use mysql_async::prelude::Queryable;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rowmill_tests::{Build, Engine, Rig};
use serde_json::json;

const SHOP: &str = "tables = [\"shop.*\"]";

/// Runs statements one by one, in one session.
async fn session(rig: &Rig, statements: &[&str]) -> anyhow::Result<()> {
    let mut conn = rig.mysql.connect().await?;
    for statement in statements {
        if let Err(error) = conn.query_drop(*statement).await {
            ensure!(statement.contains("/* fails */"), "{statement}: {error}");
        }
    }
    conn.disconnect().await?;
    Ok(())
}

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
    session(
        &rig,
        &[
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
        ],
    )
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
        session(&rig, &statements.iter().map(String::as_str).collect::<Vec<_>>()).await?;
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
        session(&rig, &[&start, &insert(id), &end, &prepare]).await?;
    }
    session(&rig, &[&insert(3)]).await?;
    session(&rig, &["XA START 'x'", &insert(4), "XA END 'x'", "XA COMMIT 'x' ONE PHASE"]).await?;
    rowmill_tests::wait_for("rows arrive", Duration::from_secs(20), || async {
        Ok((rig.changes()?.len() == 2).then_some(()))
    })
    .await?;
    engine.stop().await?;
    assert_eq!(rig.changes()?, ["c t 3", "c t 4"]);

    // From here on, a start begins before the prepared transaction, and repeats nothing.
    rig.mysql.run("FLUSH BINARY LOGS").await?;
    let engine = Engine::start_and_wait(&rig.config).await?;
    session(&rig, &["XA COMMIT 'one'", &insert(5), "XA ROLLBACK 'two'", &insert(6)]).await?;
    rig.read_to_the_end(&engine).await?;
    engine.stop().await?;
    assert_eq!(rig.changes()?, ["c t 3", "c t 4", "c t 1", "c t 5", "c t 6"]);

    let engine = Engine::start_and_wait(&rig.config).await?;
    session(&rig, &[&insert(7)]).await?;
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

/// Tables are created, altered, swapped as online schema-change tools do it, and dropped.
async fn tables_change(name: &str, build: Build) -> anyhow::Result<()> {
    let rig = Rig::start(name, build, &[], SHOP).await?;
    rig.mysql.run("CREATE DATABASE shop; CREATE TABLE shop.o (id INT PRIMARY KEY, a INT)").await?;
    let engine = Engine::start_and_wait(&rig.config).await?;
    session(
        &rig,
        &[
            "INSERT INTO shop.o VALUES (1, 10)",
            "CREATE TABLE shop.copied SELECT * FROM shop.o",
            "ALTER TABLE shop.o ADD COLUMN b VARCHAR(10) FIRST",
            "INSERT INTO shop.o VALUES ('b', 2, 20)",
            // gh-ost copies rows into a ghost table, which then takes the table's place.
            "CREATE TABLE shop._o_gho (id BIGINT PRIMARY KEY, a INT, c DATE)",
            "INSERT INTO shop._o_gho (id, a) SELECT id, a FROM shop.o",
            "CREATE TABLE shop._o_ghc (id INT PRIMARY KEY)",
            "INSERT INTO shop._o_ghc VALUES (1)",
            "RENAME TABLE shop.o TO shop._o_del, shop._o_gho TO shop.o",
            "INSERT INTO shop.o VALUES (3, 30, '2026-11-24')",
            "DROP TABLE shop._o_del, shop._o_ghc",
            "TRUNCATE TABLE shop.copied",
            "INSERT INTO shop.copied VALUES (9, 9)",
            "DROP TABLE shop.copied",
            "CREATE TABLE shop.copied (id INT, other TEXT)",
            "INSERT INTO shop.copied VALUES (10, 'x')",
            "/* with a comment */ INSERT INTO shop.copied VALUES (11, 'y')",
            "CREATE VIEW shop.v AS SELECT 1",
            "CREATE PROCEDURE shop.p() INSERT INTO shop.copied VALUES (12, 'z')",
            "CALL shop.p()",
        ],
    )
    .await?;
    rig.read_to_the_end(&engine).await?;
    engine.stop().await?;
    let expected = ["c o 1", "c copied 1", "c o 2", "c o 3", "c copied 9", "c copied 10", "c copied 11", "c copied 12"];
    assert_eq!(rig.changes()?, expected, "{name}");
    let arrived = rig.arrived()?;
    assert_eq!(arrived[0]["after"], json!({"id": 1, "a": 10}));
    assert_eq!(arrived[2]["after"], json!({"b": "b", "id": 2, "a": 20}));
    assert_eq!(arrived[3]["after"], json!({"id": 3, "a": 30, "c": "2026-11-24Z"}));
    assert_eq!(arrived[5]["after"], json!({"id": 10, "other": "x"}));
    Ok(())
}

#[tokio::test]
async fn tables_change_in_mid_stream() -> anyhow::Result<()> {
    tables_change("tables_change_in_mysql", Build::MySql).await?;
    tables_change("tables_change_in_mariadb_10_11", Build::MariaDb("10.11")).await?;
    tables_change("tables_change_in_mariadb_11_8", Build::MariaDb("11.8")).await
}

/// Schema changes are delivered where they are configured, in order with the rows.
async fn schema_changes(name: &str, build: Build) -> anyhow::Result<()> {
    let mut rig = Rig::start(name, build, &[], SHOP).await?;
    rig.config.text.push_str("[schema_changes]\nsink = \"out\"\n");
    rig.mysql.run("CREATE DATABASE shop; CREATE DATABASE other").await?;
    let engine = Engine::start_and_wait(&rig.config).await?;
    let statements = [
        "USE shop",
        "CREATE TABLE o (id INT PRIMARY KEY, a INT) COMMENT 'grün'",
        "INSERT INTO o VALUES (1, 1)",
        "BEGIN",
        "INSERT INTO o VALUES (2, 1)",
        "/* by hand */ ALTER TABLE o ADD COLUMN b INT", // commits the open transaction
        "CREATE TEMPORARY TABLE t (id INT)",
        "INSERT INTO o VALUES (3, 1, 1)",
        "CREATE TABLE copied SELECT * FROM o WHERE id = 3",
        "DROP TEMPORARY TABLE t",
        "CREATE USER somebody IDENTIFIED BY 'a secret'",
        "CREATE VIEW v AS SELECT 1",
        "RENAME TABLE o TO p",
        "INSERT INTO p VALUES (4, 1, 1)",
        "USE other",
        "CREATE TABLE other.q (id INT)",
        "DROP DATABASE shop",
    ];
    session(&rig, &statements).await?;
    rig.read_to_the_end(&engine).await?;
    engine.stop().await?;
    let arrived = rig.arrived()?;
    let short = |message: &serde_json::Value| match message["ddl"].as_str() {
        // The server logs the columns of a table that is created from a SELECT.
        Some(ddl) if ddl.contains("copied") => "CREATE copied".to_owned(),
        Some(ddl) => ddl.to_owned(),
        None => format!("{} {}", message["source"]["table"], message["after"]["id"]),
    };
    // MariaDB does not log which schema a statement is about: all statements are delivered.
    let elsewhere: &[&str] = if build == Build::MySql { &[] } else { &[statements[15]] };
    let expected = [
        statements[1],
        "\"o\" 1",
        "\"o\" 2",
        statements[5],
        "\"o\" 3",
        "CREATE copied",
        "\"copied\" 3",
        statements[12],
        "\"p\" 4",
    ];
    let expected: Vec<&str> = [&expected, elsewhere, &[statements[16]]].concat();
    assert_eq!(arrived.iter().map(short).collect::<Vec<_>>(), expected, "{name}");
    let alter = &arrived[3];
    assert_eq!(alter["databaseName"], "shop");
    assert_eq!(alter["source"]["db"], "shop");
    assert!(alter["source"]["pos"].as_u64() > arrived[2]["source"]["pos"].as_u64(), "{alter}");
    Ok(())
}

#[tokio::test]
async fn schema_changes_are_passed_on() -> anyhow::Result<()> {
    schema_changes("schema_changes_of_mysql", Build::MySql).await?;
    schema_changes("schema_changes_of_mariadb_10_5", Build::MariaDb("10.5")).await?;
    schema_changes("schema_changes_of_mariadb_11_8", Build::MariaDb("11.8")).await
}

/// A change that is logged as a statement stops the stream before it, unless it is in a schema of which nothing is selected.
#[tokio::test]
async fn statements_are_never_passed_over() -> anyhow::Result<()> {
    let rig = Rig::start("statements_are_never_passed_over", Build::MySql, &[], SHOP).await?;
    rig.mysql
        .run(
            "CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY); CREATE DATABASE percona; \
             CREATE TABLE percona.heartbeat (ts VARCHAR(26))",
        )
        .await?;
    let mut engine = Engine::start_and_wait(&rig.config).await?;
    session(
        &rig,
        &[
            "SET SESSION binlog_format = 'STATEMENT'",
            "INSERT INTO percona.heartbeat VALUES ('now')",
            "SET SESSION binlog_format = 'ROW'",
            "INSERT INTO shop.t VALUES (1)",
        ],
    )
    .await?;
    rig.read_to_the_end(&engine).await?;
    let before = std::fs::read_to_string(rig.config.checkpoint())?;
    session(&rig, &["SET SESSION binlog_format = 'STATEMENT'", "INSERT INTO shop.t VALUES (2)"]).await?;
    let status = engine.end(Duration::from_secs(20)).await?;
    assert_eq!(status.code(), Some(1));
    let log = engine.log();
    assert!(log.contains("logged as a statement") && log.contains("INSERT INTO shop.t VALUES (2)"), "{log}");
    assert!(log.contains("binlog event at binlog.0") && log.contains("rowmill checkpoint set binlog.0"), "{log}");
    assert_eq!(rig.changes()?, ["c t 1"]);
    assert_eq!(std::fs::read_to_string(rig.config.checkpoint())?, before, "the checkpoint stays");

    // Rows inserted by CREATE TABLE ... SELECT are changes as well.
    let created = Rig::start("statements_that_create", Build::MySql, &[], SHOP).await?;
    created.mysql.run("CREATE DATABASE shop").await?;
    let mut engine = Engine::start_and_wait(&created.config).await?;
    session(&created, &["SET SESSION binlog_format = 'STATEMENT'", "CREATE TABLE shop.t AS SELECT 1 AS id"]).await?;
    assert_eq!(engine.end(Duration::from_secs(20)).await?.code(), Some(1));
    assert!(engine.log().contains("logged as a statement"), "{}", engine.log());
    Ok(())
}

/// Table definitions from sessions of every kind are not taken for row changes, whatever words they contain.
async fn tables_of_any_session(name: &str, build: Build) -> anyhow::Result<()> {
    const ANSI_QUOTES: &str = "ANSI_QUOTES";
    const NO_ESCAPES: &str = "NO_BACKSLASH_ESCAPES";
    let rig = Rig::start(name, build, &[], SHOP).await?;
    rig.mysql.run("CREATE DATABASE shop").await?;
    let engine = Engine::start_and_wait(&rig.config).await?;
    let sessions: [(&str, &str, &[u8]); 14] = [
        ("utf8mb4", "", b"CREATE TABLE t (start INT, transaction INT, id INT, KEY (start, transaction))"),
        ("utf8mb4", "", b"CREATE TABLE t (id INT) -- SELECT\n COMMENT 'SELECT \\' SELECT' # START TRANSACTION"),
        ("utf8mb4", "", b"--\tSELECT\nCREATE TABLE t (`select` INT, id INT) /* TABLE */ -- START TRANSACTION"),
        ("utf8mb4", "", b"CREATE TABLE t (id INT) PARTITION BY LIST (id) (PARTITION p VALUES IN (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13))"),
        ("utf8mb4", NO_ESCAPES, b"CREATE TABLE t (id INT, p VARCHAR(9) DEFAULT '\\', q VARCHAR(9) DEFAULT ' table ')"),
        ("utf8mb4", ANSI_QUOTES, b"CREATE TABLE t (id INT, \"a\\\" INT, \"b\"\" select\" INT)"),
        ("latin1", "", b"CREATE TABLE t (id INT COMMENT '\xe9') COMMENT = 'customer table \xe9'"),
        ("cp932", "", b"CREATE TABLE t (id INT COMMENT '\x95\x5c') COMMENT = 'customer table'"),
        ("sjis", "", b"CREATE TABLE t (id INT COMMENT '\x95\x5c') COMMENT = 'customer table'"),
        ("cp932", NO_ESCAPES, b"CREATE TABLE t (id INT COMMENT '\x95\x5c') COMMENT = 'customer table'"),
        ("gbk", "", b"CREATE TABLE t (id INT, `\x81\x60` INT COMMENT ' select ')"),
        ("big5", "", b"CREATE TABLE t (id INT COMMENT '\xa5\x5c') COMMENT = 'customer table'"),
        ("ujis", "", b"CREATE TABLE t (id INT COMMENT '\xa4\xa2 table') COMMENT = 'customer table'"),
        ("gb18030", "", b"CREATE TABLE t (id INT COMMENT '\x81\x5c') COMMENT = 'customer table'"),
    ];
    let mut expected = Vec::new();
    for (id, (charset, sql_mode, statement)) in sessions.iter().enumerate() {
        if *charset == "gb18030" && build != Build::MySql {
            continue; // MariaDB does not have it
        }
        let mut conn = rig.mysql.connect().await?;
        conn.query_drop("USE shop").await?;
        conn.query_drop(format!("SET NAMES {charset}, sql_mode = '{sql_mode}'")).await?;
        conn.query_drop(*statement).await.with_context(|| statement.escape_ascii().to_string())?;
        conn.query_drop(format!("INSERT INTO t (id) VALUES ({id})")).await?;
        // The rows of the SELECT follow.
        conn.query_drop("CREATE TABLE u SELECT id + 100 AS id FROM t").await?;
        // The server writes these statements itself.
        conn.query_drop("CREATE TEMPORARY TABLE v (id INT COMMENT ' select ')").await?;
        conn.query_drop("CREATE TABLE w LIKE v").await?;
        conn.query_drop("DROP TABLE t, u, v, w").await?;
        conn.disconnect().await?;
        expected.extend([format!("c t {id}"), format!("c u {}", id + 100)]);
    }
    rig.read_to_the_end(&engine).await?;
    engine.stop().await?;
    assert_eq!(rig.changes()?, expected, "{name}");

    // A table that is filled by its own definition is detected all the same.
    for (charset, sql_mode, statement) in [
        ("cp932", "", &b"CREATE TABLE t (id INT COMMENT '\x95\x5c') SELECT 'x' AS id"[..]),
        ("utf8mb4", NO_ESCAPES, b"CREATE TABLE t (id VARCHAR(9) DEFAULT '\\') SELECT 'x' AS id"),
        ("utf8mb4", ANSI_QUOTES, b"CREATE TABLE t (\"'\" INT) SELECT 1 AS \"'\""),
    ] {
        let mut engine = Engine::start_and_wait(&rig.config).await?;
        let mut conn = rig.mysql.connect().await?;
        conn.query_drop("USE shop").await?;
        conn.query_drop(format!("SET NAMES {charset}, sql_mode = '{sql_mode}'")).await?;
        conn.query_drop("SET SESSION binlog_format = 'STATEMENT'").await?;
        conn.query_drop(statement).await.with_context(|| statement.escape_ascii().to_string())?;
        assert_eq!(engine.end(Duration::from_secs(20)).await?.code(), Some(1), "{}", statement.escape_ascii());
        conn.query_drop("DROP TABLE t").await?;
        std::fs::remove_file(rig.config.checkpoint())?;
    }
    Ok(())
}

#[tokio::test]
async fn tables_are_made_by_any_session() -> anyhow::Result<()> {
    tables_of_any_session("tables_of_any_session_of_mysql", Build::MySql).await?;
    tables_of_any_session("tables_of_any_session_of_mariadb_10_5", Build::MariaDb("10.5")).await?;
    tables_of_any_session("tables_of_any_session_of_mariadb_11_8", Build::MariaDb("11.8")).await
}

/// MariaDB's two-phase `ALTER TABLE` is one schema change; a failed one is none.
#[tokio::test]
async fn an_alter_in_two_phases_is_one_change() -> anyhow::Result<()> {
    for (name, version) in [("two_phases_10_11", "10.11"), ("two_phases_11_8", "11.8")] {
        let options = ["--binlog-alter-two-phase=ON"];
        let mut rig = Rig::start(name, Build::MariaDb(version), &options, SHOP).await?;
        rig.config.text.push_str("[schema_changes]\nsink = \"out\"\n");
        rig.mysql.run("CREATE DATABASE shop").await?;
        let engine = Engine::start_and_wait(&rig.config).await?;
        let statements = [
            "CREATE TABLE shop.t (id INT PRIMARY KEY, a INT)",
            "ALTER TABLE shop.t ADD COLUMN b INT",
            "INSERT INTO shop.t VALUES (1, 1, 1), (2, 1, 1)",
            "ALTER TABLE shop.t ADD UNIQUE KEY (a) /* fails */",
            "ALTER TABLE shop.t ADD UNIQUE KEY (b), ALGORITHM = COPY /* fails */",
            "ALTER TABLE shop.t DROP COLUMN b, ALGORITHM = COPY",
            "CREATE INDEX i ON shop.t (a)",
            "INSERT INTO shop.t VALUES (3, 1)",
        ];
        session(&rig, &statements).await?;
        rig.read_to_the_end(&engine).await?;
        engine.stop().await?;
        let short = |message: &serde_json::Value| match message["ddl"].as_str() {
            Some(ddl) => ddl.to_owned(),
            None => message["after"]["id"].to_string(),
        };
        let arrived: Vec<String> = rig.arrived()?.iter().map(short).collect();
        assert_eq!(arrived, [statements[0], statements[1], "1", "2", statements[5], statements[6], "3"], "{name}");
    }
    Ok(())
}

/// MariaDB does not log the schema of a change that is logged as a statement; it is taken from the statement's text.
#[tokio::test]
async fn statements_of_other_schemas_are_passed_over_in_mariadb() -> anyhow::Result<()> {
    for (name, version) in [("other_schemas_10_5", "10.5"), ("other_schemas_11_8", "11.8")] {
        let rig = Rig::start(name, Build::MariaDb(version), &[], SHOP).await?;
        rig.mysql
            .run(
                "CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY); CREATE DATABASE percona; \
                 CREATE TABLE percona.heartbeat (ts VARCHAR(26), server_id INT PRIMARY KEY); \
                 CREATE TABLE mysql.rds_heartbeat2 (id INT PRIMARY KEY, value INT)",
            )
            .await?;
        let mut engine = Engine::start_and_wait(&rig.config).await?;
        let heartbeat = "INSERT INTO mysql.rds_heartbeat2(id, value) values (1,1) ON DUPLICATE KEY UPDATE value = 1";
        session(
            &rig,
            &[
                "SET SESSION binlog_format = 'STATEMENT'",
                heartbeat,
                "USE percona",
                "REPLACE INTO heartbeat (ts, server_id) VALUES (UTC_TIMESTAMP(), 1)",
                "UPDATE `percona`.`heartbeat` SET ts = NOW() WHERE server_id = 1",
                "DELETE FROM heartbeat",
                "USE shop",
                heartbeat,
                "INSERT INTO percona.heartbeat SELECT 'x', 7",
                "SET SESSION binlog_format = 'ROW'",
                "INSERT INTO shop.t VALUES (1)",
            ],
        )
        .await?;
        rig.read_to_the_end(&engine).await?;
        assert_eq!(rig.changes()?, ["c t 1"], "{name}");
        // A statement that may concern a selected table stops the stream.
        for statement in [
            "INSERT INTO shop.t VALUES (2)",
            "ANALYZE DELETE FROM shop.t",
            "UPDATE percona.heartbeat, shop.t SET t.id = 9",
            "DELETE FROM shop.t",
        ] {
            session(&rig, &["USE percona", "SET SESSION binlog_format = 'STATEMENT'", statement]).await?;
            assert_eq!(engine.end(Duration::from_secs(20)).await?.code(), Some(1), "{name}: {statement}");
            assert!(engine.log().contains(statement), "{}", engine.log());
            std::fs::remove_file(rig.config.checkpoint())?;
            engine = Engine::start_and_wait(&rig.config).await?;
        }
        engine.stop().await?;
    }
    Ok(())
}

/// A MEMORY table is empty after a server restart, which the server logs as a statement: it is a schema change, as TRUNCATE is.
#[tokio::test]
async fn a_table_in_memory_is_emptied_by_a_restart() -> anyhow::Result<()> {
    for (name, build) in [
        ("memory_mysql", Build::MySql),
        ("memory_mariadb_10_5", Build::MariaDb("10.5")),
        ("memory_mariadb_11_8", Build::MariaDb("11.8")),
    ] {
        let mut rig = Rig::start(name, build, &[], SHOP).await?;
        rig.config.text.push_str("[schema_changes]\nsink = \"out\"\n");
        rig.mysql.run("CREATE DATABASE shop; CREATE TABLE shop.m (id INT) ENGINE = MEMORY").await?;
        let engine = Engine::start_and_wait(&rig.config).await?;
        rig.mysql.run("INSERT INTO shop.m VALUES (1)").await?;
        rig.mysql.kill_and_restart().await?;
        session(&rig, &["SET sql_mode = 'ANSI_QUOTES'", "INSERT INTO shop.m VALUES (2)"]).await?;
        rig.read_to_the_end(&engine).await?;
        engine.stop().await?;
        let arrived = rig.arrived()?;
        assert_eq!((&arrived[0]["after"]["id"], &arrived[2]["after"]["id"]), (&json!(1), &json!(2)), "{name}");
        let emptied = arrived[1]["ddl"].as_str().unwrap_or_default();
        let verb = if name.ends_with("10_5") { "DELETE FROM" } else { "TRUNCATE TABLE" };
        assert!(emptied.starts_with(&format!("{verb} \"shop\".\"m\"")), "{name}: {emptied}");
        assert_eq!(arrived.len(), 3, "{name}");
    }
    Ok(())
}

/// The checkpoint's GTID set has all transactions, including tagged ones.
#[tokio::test]
async fn gtids_are_followed() -> anyhow::Result<()> {
    let options = ["--gtid-mode=ON", "--enforce-gtid-consistency=ON"];
    let rig = Rig::start("gtids_are_followed", Build::MySql, &options, "start = \"earliest\"").await?;
    session(
        &rig,
        &[
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
        ],
    )
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
    session(
        &rig,
        &[
            "INSERT INTO shop.t VALUES (1, 10)",
            "UPDATE shop.t SET id = 2 WHERE id = 1",
            "SET SESSION binlog_row_image = 'MINIMAL'",
            "UPDATE shop.t SET id = 3 WHERE id = 2",
        ],
    )
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
    session(
        &rig,
        &[
            &format!("CREATE TABLE shop.wide (id INT PRIMARY KEY, {})", columns.join(", ")),
            "CREATE TABLE shop.blank (a INT, b INT DEFAULT 3)",
            "CREATE TABLE shop.computed (id INT PRIMARY KEY, a INT, s INT AS (a * 2) STORED, v INT AS (a * 3) VIRTUAL, \
             hidden INT INVISIBLE, t VARCHAR(20), KEY ((LOWER(t))), KEY ((a + 1), id))",
        ],
    )
    .await?;
    let engine = Engine::start_and_wait(&rig.config).await?;
    session(
        &rig,
        &[
            &format!("INSERT INTO shop.wide VALUES (1, {})", values.join(", ")),
            "INSERT INTO shop.computed (id, a, hidden, t) VALUES (2, 5, 7, 'Ann')",
            "UPDATE shop.computed SET a = 6 WHERE id = 2",
            "SET SESSION binlog_row_image = 'MINIMAL'",
            "INSERT INTO shop.blank () VALUES ()",
            "SET SESSION binlog_row_image = 'FULL'",
            "INSERT INTO shop.large VALUES (3, REPEAT(x'00ff41', 35000000))",
            "UPDATE shop.wide SET c999 = -1 WHERE id = 1",
        ],
    )
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
    session(
        &rig,
        &[
            "SET SESSION binlog_transaction_compression = ON, cte_max_recursion_depth = 1000000",
            &format!(
                "INSERT INTO shop.t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) \
                 SELECT i, REPEAT(CHAR(65 + i % 26), 1800) FROM n"
            ),
        ],
    )
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
