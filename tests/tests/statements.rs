//! Statements in the binlog: tables that change, schema changes, statements whose rows are not there, and tables that any session
//! makes.

use std::time::Duration;

use anyhow::Context;
use mysql_async::prelude::Queryable;
use rowmill_tests::{Build, Engine, Rig};
use serde_json::json;

const SHOP: &str = "tables = [\"shop.*\"]";

/// Tables are created, altered, swapped as online schema-change tools do it, and dropped.
async fn tables_change(name: &str, build: Build) -> anyhow::Result<()> {
    let rig = Rig::start(name, build, &[], SHOP).await?;
    rig.mysql.run("CREATE DATABASE shop; CREATE TABLE shop.o (id INT PRIMARY KEY, a INT)").await?;
    let engine = Engine::start_and_wait(&rig.config).await?;
    rig.session(&[
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
    ])
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
    rig.session(&statements).await?;
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
    rig.session(&[
        "SET SESSION binlog_format = 'STATEMENT'",
        "INSERT INTO percona.heartbeat VALUES ('now')",
        "SET SESSION binlog_format = 'ROW'",
        "INSERT INTO shop.t VALUES (1)",
    ])
    .await?;
    rig.read_to_the_end(&engine).await?;
    let before = std::fs::read_to_string(rig.config.checkpoint())?;
    rig.session(&["SET SESSION binlog_format = 'STATEMENT'", "INSERT INTO shop.t VALUES (2)"]).await?;
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
    created.session(&["SET SESSION binlog_format = 'STATEMENT'", "CREATE TABLE shop.t AS SELECT 1 AS id"]).await?;
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
        rig.session(&statements).await?;
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
        rig.session(&[
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
        ])
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
            rig.session(&["USE percona", "SET SESSION binlog_format = 'STATEMENT'", statement]).await?;
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
        rig.session(&["SET sql_mode = 'ANSI_QUOTES'", "INSERT INTO shop.m VALUES (2)"]).await?;
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
