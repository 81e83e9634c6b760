//! Value fidelity: after random changes to random tables of every type, each delivered row equals the server's own `SELECT`. On
//! MySQL and MariaDB, with every row image, with and without compression, and with every kind of row metadata.
//!
//! `ROWMILL_TEST_SEED` repeats a run, `ROWMILL_TEST_STEPS` makes longer ones.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use rowmill_tests::{Build, Engine, EngineConfig, Generator, MySql, Rig, State, scratch, wait_for};

const STEPS: u64 = 120;
const SOON: Duration = Duration::from_secs(60);

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The settings of one phase of the test.
#[derive(Clone, Copy)]
struct Phase {
    name: &'static str,
    global: &'static [&'static str],
    session: &'static [&'static str],
    /// Whether tables are altered while they are read. Not where a row does not show it: with partial row images, and where
    /// columns are looked up.
    alters: bool,
}

const fn phase(name: &'static str, global: &'static [&'static str], session: &'static [&'static str]) -> Phase {
    Phase { name, global, session, alters: true }
}

const MYSQL: &[Phase] = &[
    phase("full", &[], &[]),
    Phase { alters: false, ..phase("minimal_image", &[], &["binlog_row_image = 'MINIMAL'"]) },
    Phase { alters: false, ..phase("noblob_image", &[], &["binlog_row_image = 'NOBLOB'"]) },
    phase("compressed", &[], &["binlog_transaction_compression = ON"]),
    phase("partial_json", &[], &["binlog_row_value_options = 'PARTIAL_JSON'"]),
    phase(
        "partial_json_compressed",
        &[],
        &["binlog_row_value_options = 'PARTIAL_JSON'", "binlog_transaction_compression = ON"],
    ),
    phase("without_checksums", &["binlog_checksum = 'NONE'"], &[]),
    Phase { alters: false, ..phase("minimal_metadata", &["binlog_row_metadata = 'MINIMAL'"], &[]) },
    Phase {
        alters: false,
        ..phase(
            "minimal_metadata_compressed",
            &["binlog_row_metadata = 'MINIMAL'"],
            &["binlog_transaction_compression = ON"],
        )
    },
];

const MARIADB: &[Phase] = &[
    phase("full", &[], &[]),
    Phase { alters: false, ..phase("minimal_image", &[], &["binlog_row_image = 'MINIMAL'"]) },
    Phase { alters: false, ..phase("noblob_image", &[], &["binlog_row_image = 'NOBLOB'"]) },
    phase("compressed", &["log_bin_compress = ON", "log_bin_compress_min_len = 10"], &[]),
    phase("without_checksums", &["log_bin_compress = OFF", "binlog_checksum = 'NONE'"], &[]),
    Phase { alters: false, ..phase("minimal_metadata", &["binlog_row_metadata = 'MINIMAL'"], &[]) },
    Phase { alters: false, ..phase("no_metadata", &["binlog_row_metadata = 'NO_LOG'"], &[]) },
    // The binlog does not have the fractional digits of these columns.
    Phase {
        alters: false,
        ..phase("old_temporals", &["binlog_row_metadata = 'FULL'", "mysql56_temporal_format = OFF"], &[])
    },
    Phase {
        alters: false,
        ..phase(
            "old_temporals_no_metadata",
            &["binlog_row_metadata = 'NO_LOG'", "log_bin_compress = ON"],
            &["binlog_row_image = 'MINIMAL'"],
        )
    },
];

/// Further settings of MariaDB 11.4 and later.
const MARIADB_NEW: &[Phase] = &[Phase {
    alters: false,
    ..phase(
        "full_nodup_image",
        &["binlog_row_metadata = 'FULL'", "mysql56_temporal_format = ON"],
        &["binlog_row_image = 'FULL_NODUP'"],
    )
}];

async fn every_value(build: Build, name: &str, phases: &[Phase]) -> anyhow::Result<()> {
    let seed = setting("ROWMILL_TEST_SEED").unwrap_or_else(rand::random);
    let steps = setting("ROWMILL_TEST_STEPS").unwrap_or(STEPS);
    println!("{name}: ROWMILL_TEST_SEED={seed}");
    let directory = scratch(name);
    let mysql = MySql::start_build(build, &directory, &[]).await?;
    mysql.run("GRANT SELECT ON *.* TO rowmill@'%'").await?;
    for (index, phase) in (0..).zip(phases) {
        let mut conn = mysql.connect().await?;
        for setting in phase.global {
            conn.query_drop(format!("SET GLOBAL {setting}")).await?;
        }
        let mut conn = mysql.connect().await?;
        conn.query_drop("SET sql_mode = '', time_zone = '+00:00'").await?;
        for setting in phase.session {
            conn.query_drop(format!("SET SESSION {setting}")).await?;
        }
        let mut generator = Generator::create(&mut conn, build, phase.name, seed).await?;

        let directory = scratch(&format!("{name}/{}", phase.name));
        let out = directory.join("out.jsonl");
        let mut more = format!("[sink.out]\ntype = \"file\"\npath = \"{}\"\n", out.display());
        // Half of the phases have a transform that wants almost no columns, so that the others are deferred.
        let is_late = (seed ^ index) & 1 == 0;
        if is_late {
            let plugins = directory.join("plugins");
            std::fs::create_dir(&plugins)?;
            std::fs::copy(rowmill_tests::top().join("target/guests/narrow.wasm"), plugins.join("narrow.wasm"))?;
            more += &format!("[plugins]\ndir = \"{}\"\n", plugins.display());
        }
        let config = EngineConfig::new(&directory, &mysql, &format!("tables = [\"{}.*\"]", phase.name), &more);
        let engine = Engine::start_and_wait(&config).await?;
        for step in 0..steps {
            generator.step(&mut conn).await?;
            if phase.alters && step % 20 == 19 {
                generator.alter(&mut conn).await?;
            }
        }
        wait_for("everything is delivered", SOON, || async {
            Ok(config.has_reached(&mysql.binlog_end().await?)?.then_some(()))
        })
        .await
        .map_err(|error| error.context(engine.log()))?;
        engine.stop().await?;
        let state = State::of_messages(&std::fs::read_to_string(&out)?);
        let compared = generator.compare(&mut conn, &state).await;
        let compared = compared.map_err(|error| error.context(format!("{name}, {}, seed {seed}", phase.name)))?;
        let late = if is_late { ", decoded late" } else { "" };
        println!("{name}, {}: {compared} values compared{late}", phase.name);
        conn.disconnect().await?;
    }
    Ok(())
}

#[tokio::test]
async fn every_value_of_mysql() -> anyhow::Result<()> {
    every_value(Build::MySql, "every_value_of_mysql", MYSQL).await
}

#[tokio::test]
async fn every_value_of_mariadb_10_5() -> anyhow::Result<()> {
    every_value(Build::MariaDb("10.5"), "every_value_of_mariadb_10_5", MARIADB).await
}

#[tokio::test]
async fn every_value_of_mariadb_10_11() -> anyhow::Result<()> {
    every_value(Build::MariaDb("10.11"), "every_value_of_mariadb_10_11", MARIADB).await
}

#[tokio::test]
async fn every_value_of_mariadb_11_8() -> anyhow::Result<()> {
    let phases = [MARIADB, MARIADB_NEW].concat();
    every_value(Build::MariaDb("11.8"), "every_value_of_mariadb_11_8", &phases).await
}

/// The kept binlog files of each server decode to the kept output, without a server.
#[test]
fn kept_files_are_decoded_as_ever() -> anyhow::Result<()> {
    let mut files = 0;
    for entry in std::fs::read_dir(rowmill_tests::top().join("tests/data"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "binlog") {
            files += 1;
            let expected = std::fs::read_to_string(path.with_extension("jsonl"))?;
            assert!(rowmill_tests::replay(&path)? == expected, "{} is decoded otherwise", path.display());
        }
    }
    assert_eq!(files, 4);
    Ok(())
}

/// Every character of every character set is delivered as the server converts it.
async fn every_character(name: &str, build: Build) -> anyhow::Result<()> {
    let rig = Rig::start(name, build, &[], "tables = [\"characters.*\"]").await?;
    let mut conn = rig.mysql.connect().await?;
    conn.query_drop("SET sql_mode = ''").await?;
    rig.mysql
        .run("CREATE DATABASE characters; CREATE DATABASE codes; CREATE TABLE codes.c (code VARBINARY(4))")
        .await?;
    // Codes of one byte, of two bytes, and of three as in EUC.
    let ones: Vec<String> = (0..=255).map(|a: u32| format!("(x'{a:02x}')")).collect();
    conn.query_drop(format!("INSERT INTO codes.c VALUES {}", ones.join(","))).await?;
    for (lead, prefix) in (0x81..=0xfe).map(|a: u32| (a, "")).chain((0xa1..=0xfe).map(|a| (a, "8f"))) {
        let twos: Vec<String> = (0x40..=0xfe).map(|b: u32| format!("(x'{prefix}{lead:02x}{b:02x}')")).collect();
        conn.query_drop(format!("INSERT INTO codes.c VALUES {}", twos.join(","))).await?;
    }
    let sets: Vec<String> = conn
        .query("SELECT character_set_name FROM information_schema.character_sets WHERE character_set_name <> 'binary'")
        .await?;
    let engine = Engine::start_and_wait(&rig.config).await?;
    for set in &sets {
        conn.query_drop(format!(
            "CREATE TABLE characters.`{set}` (id INT PRIMARY KEY AUTO_INCREMENT, c VARCHAR(4) CHARACTER SET {set})"
        ))
        .await?;
        // Only codes that are one character, and no other character's code.
        conn.query_drop(format!(
            "INSERT INTO characters.`{set}` (c) SELECT CONVERT(code USING {set}) FROM codes.c \
             WHERE CONVERT(code USING {set}) IS NOT NULL AND CHAR_LENGTH(CONVERT(code USING {set})) = 1 \
             AND HEX(CAST(CONVERT(code USING {set}) AS BINARY)) = HEX(code) \
             AND CONVERT(CONVERT(code USING {set}) USING utf8mb4) NOT IN ('?', CONVERT(x'efbfbd' USING utf8mb4)) \
             AND NOT ('{set}' = 'ucs2' AND HEX(code) BETWEEN 'D800' AND 'DFFF')" // surrogates
        ))
        .await?;
    }
    rig.read_to_the_end(&engine).await?;
    engine.stop().await?;
    let mut arrived = std::collections::HashMap::new();
    for message in rig.arrived()? {
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        arrived
            .insert((text(&message["source"]["table"]), message["after"]["id"].as_i64()), text(&message["after"]["c"]));
    }
    let mut compared = 0;
    for set in &sets {
        let rows: Vec<(i64, String)> =
            conn.query(format!("SELECT id, CONVERT(c USING utf8mb4) FROM characters.`{set}`")).await?;
        compared += rows.len();
        for (id, expected) in rows {
            let got = arrived.get(&(set.clone(), Some(id)));
            assert_eq!(got, Some(&expected), "{set}, row {id}");
        }
    }
    println!("{name}: {compared} characters of {} sets", sets.len());
    assert!(compared > 100_000, "{compared} characters");
    Ok(())
}

#[tokio::test]
async fn every_character_of_every_set() -> anyhow::Result<()> {
    every_character("every_character_of_mysql", Build::MySql).await?;
    every_character("every_character_of_mariadb", Build::MariaDb("11.8")).await
}

/// Returns the text of a value as the server selects it.
async fn selected(rig: &Rig, expression: &str, of: &str) -> anyhow::Result<Vec<Option<String>>> {
    let mut conn = rig.mysql.connect().await?;
    conn.query_drop("SET time_zone = '+00:00'").await?;
    let rows: Vec<Option<Vec<u8>>> = conn.query(format!("SELECT {expression} FROM {of}")).await?;
    Ok(rows.into_iter().map(|text| text.map(|text| String::from_utf8_lossy(&text).into_owned())).collect())
}

const MARIADB_VERSIONS: [&str; 3] = ["10.5", "10.11", "11.8"];

/// MariaDB's rows have columns that information_schema lacks: hashes of unique keys, and the period of system-versioned rows.
/// With every kind of metadata the delivered rows are the same.
#[tokio::test]
async fn hidden_columns_are_no_change_of_the_table() -> anyhow::Result<()> {
    for version in MARIADB_VERSIONS {
        let mut of_metadata = Vec::new();
        for metadata in ["FULL", "MINIMAL", "NO_LOG"] {
            let option = format!("--binlog-row-metadata={metadata}");
            let name = format!("hidden_columns_{version}_{metadata}");
            let rig = Rig::start(&name, Build::MariaDb(version), &[&option], "tables = [\"shop.*\"]").await?;
            rig.mysql
                .run(
                    "CREATE DATABASE shop; GRANT SELECT ON shop.* TO rowmill@'%'; \
                     CREATE TABLE shop.h (id INT PRIMARY KEY, doc TEXT, n INT, UNIQUE (doc)); \
                     CREATE TABLE shop.m (id INT PRIMARY KEY, n INT, UNIQUE (n) USING HASH) ENGINE=MEMORY; \
                     CREATE TABLE shop.v (id INT PRIMARY KEY, doc TEXT, UNIQUE (doc)) WITH SYSTEM VERSIONING; \
                     CREATE TABLE shop.d (id INT PRIMARY KEY, n INT, s TIMESTAMP(6) GENERATED ALWAYS AS ROW START, \
                     e TIMESTAMP(6) GENERATED ALWAYS AS ROW END INVISIBLE, PERIOD FOR SYSTEM_TIME (s, e)) \
                     WITH SYSTEM VERSIONING",
                )
                .await?;
            let mut engine = Engine::start_and_wait(&rig.config).await?;
            rig.mysql
                .run(
                    "SET timestamp = 1500000000.25; INSERT INTO shop.h VALUES (1, 'x', 5); UPDATE shop.h SET n = 6; UPDATE shop.h SET id = 2; \
                     INSERT INTO shop.m VALUES (1, 2); INSERT INTO shop.v VALUES (1, 'x'); \
                     SET timestamp = 1500000001.25; UPDATE shop.v SET doc = 'y'; \
                     SET timestamp = 1500000002.25; DELETE FROM shop.v; \
                     INSERT INTO shop.d (id, n) VALUES (1, 2); DELETE FROM shop.h",
                )
                .await?;
            if let Err(error) = rig.read_to_the_end(&engine).await {
                let ended = engine.process().ended()?;
                return Err(error.context(format!("{name}: {ended:?}")));
            }
            engine.stop().await?;
            let messages = rig.arrived()?;
            let short: Vec<String> = messages
                .iter()
                .map(|message| {
                    let table = &message["source"]["table"];
                    format!("{} {table} {} {}", message["op"], message["before"], message["after"])
                })
                .collect();
            assert_eq!(
                short[..4],
                [
                    r#""c" "h" null {"doc":"x","id":1,"n":5}"#,
                    r#""u" "h" {"doc":"x","id":1,"n":5} {"doc":"x","id":1,"n":6}"#,
                    r#""d" "h" {"doc":"x","id":1,"n":6} null"#,
                    r#""c" "h" null {"doc":"x","id":2,"n":6}"#,
                ],
                "{name}"
            );
            of_metadata.push((name, short));
        }
        // A deleted row of a versioned table stays as a historical row, with another end of its period, which is part of its
        // key.
        let (_, full) = &of_metadata[0];
        let versioned: Vec<&String> = full.iter().filter(|line| line.contains("\"v\"")).collect();
        assert_eq!(versioned.len(), 5, "{versioned:#?}");
        assert!(versioned[3].starts_with("\"d\"") && versioned[4].starts_with("\"c\""), "{versioned:#?}");
        assert!(versioned[4].contains("\"row_end\":\"2017-07-14T02:40:02.250000Z\""), "{versioned:#?}");
        for (name, changes) in &of_metadata[1..] {
            assert_eq!(changes, full, "{name}");
        }
    }
    // MySQL hides generated invisible primary keys where it is configured to.
    let options = [
        "--binlog-row-metadata=MINIMAL",
        "--sql-generate-invisible-primary-key=ON",
        "--show-gipk-in-create-table-and-information-schema=OFF",
    ];
    let rig = Rig::start("hidden_columns_mysql", Build::MySql, &options, "tables = [\"shop.*\"]").await?;
    rig.mysql.run("CREATE DATABASE shop; GRANT SELECT ON shop.* TO rowmill@'%'; CREATE TABLE shop.g (n INT)").await?;
    let engine = Engine::start_and_wait(&rig.config).await?;
    rig.mysql.run("INSERT INTO shop.g VALUES (7); UPDATE shop.g SET n = 8").await?;
    rig.read_to_the_end(&engine).await?;
    engine.stop().await?;
    assert_eq!(rig.arrived()?[1]["after"].to_string(), r#"{"my_row_id":1,"n":8}"#);
    Ok(())
}

/// The fractional digits of a table made with `mysql56_temporal_format=OFF` come from information_schema; where they may have
/// changed since, the engine stops, and its error names the fix.
#[tokio::test]
async fn old_temporals_are_what_they_are_or_stop() -> anyhow::Result<()> {
    for version in MARIADB_VERSIONS {
        let name = format!("old_temporals_{version}");
        let rig = Rig::start(&name, Build::MariaDb(version), &[], "tables = [\"shop.*\"]").await?;
        rig.mysql.run("CREATE DATABASE shop; SET GLOBAL mysql56_temporal_format = OFF").await?;
        let mut columns = Vec::new();
        for digits in 0..=6 {
            columns.push(format!("ts{digits} TIMESTAMP({digits}) NULL"));
            columns.push(format!("t{digits} TIME({digits})"));
            columns.push(format!("d{digits} DATETIME({digits})"));
        }
        rig.mysql.run(&format!("CREATE TABLE shop.t (id INT PRIMARY KEY, {})", columns.join(", "))).await?;
        // Without the privilege to see the table.
        let mut engine = Engine::start_and_wait(&rig.config).await?;
        let row = |id: usize, timestamp: &str, time: &str, datetime: &str| {
            let values = vec![format!("'{timestamp}', '{time}', '{datetime}'"); 7];
            format!("INSERT INTO shop.t VALUES ({id}, {})", values.join(", "))
        };
        let zone = "SET time_zone = '+00:00'; SET sql_mode = ''";
        rig.mysql
            .run(&format!(
                "{zone}; {}; {}; {}",
                row(1, "2016-12-21 17:57:16.123456", "-838:59:59.999999", "2016-12-21 17:57:16.000001"),
                row(2, "1970-01-01 00:00:00.5", "00:00:00.000001", "0000-00-00 00:00:00"),
                row(3, "2038-01-19 03:14:07.999999", "-00:00:00.9", "9999-12-31 23:59:59.999999"),
            ))
            .await?;
        let status = engine.end(SOON).await?;
        let log = engine.log();
        assert_eq!(status.code(), Some(1), "{log}");
        for words in ["shop.t", "fractional-second precision", "lacks SELECT on it", "ALTER TABLE ... FORCE"] {
            assert!(log.contains(words), "`{words}` isn't in: {log}");
        }
        // With that privilege.
        rig.mysql.run("GRANT SELECT ON shop.* TO rowmill@'%'").await?;
        let mut engine = Engine::start_and_wait(&rig.config).await?;
        rig.read_to_the_end(&engine).await?;
        let arrived = rig.arrived()?;
        assert_eq!(arrived.len(), 3, "{name}");
        for digits in 0..=6 {
            for (column, separator) in [("ts", "T"), ("t", ""), ("d", "T")] {
                let column = format!("{column}{digits}");
                let expected = selected(&rig, &format!("CAST({column} AS CHAR)"), "shop.t ORDER BY id").await?;
                for (message, expected) in arrived.iter().zip(expected) {
                    let expected = expected.map(|text| text.replace(' ', separator) + "Z");
                    assert_eq!(message["after"][&column].as_str().map(str::to_owned), expected, "{name}, {column}");
                }
            }
        }
        // The fix of the error message works. Earlier rows can no longer be decoded.
        let force = "SET GLOBAL mysql56_temporal_format = ON; ALTER TABLE shop.t FORCE";
        rig.mysql
            .run(&format!("{force}; {}", "INSERT INTO shop.t (id, d3) VALUES (4, '2026-01-01 00:00:00.125')"))
            .await?;
        rig.read_to_the_end(&engine).await?;
        assert_eq!(rig.arrived()?[3]["after"]["d3"], "2026-01-01T00:00:00.125Z");
        engine.process().terminate()?;
        engine.end(SOON).await?;
        rig.mysql
            .run(
                "SET GLOBAL mysql56_temporal_format = OFF; CREATE TABLE shop.gone (id INT PRIMARY KEY, d DATETIME(3)); \
                 INSERT INTO shop.gone VALUES (1, NOW()); SET GLOBAL mysql56_temporal_format = ON; ALTER TABLE shop.gone FORCE",
            )
            .await?;
        let mut engine = Engine::start(&rig.config)?;
        let status = engine.end(SOON).await?;
        let log = engine.log();
        assert_eq!(status.code(), Some(1), "{log}");
        assert!(log.contains("shop.gone") && log.contains("ALTER TABLE ... FORCE"), "{log}");
        assert_eq!(rig.arrived()?.len(), 4, "nothing is guessed");
    }
    Ok(())
}

/// An update of the key is a delete and a create on each server and with each row image, also where the image lacks generated
/// columns.
#[tokio::test]
async fn an_update_of_the_key_is_two_events_in_every_image() -> anyhow::Result<()> {
    let builds = MARIADB_VERSIONS.map(Build::MariaDb).into_iter().chain([Build::MySql]);
    for (number, build) in builds.enumerate() {
        let name = format!("key_update_{number}");
        let rig = Rig::start(&name, build, &[], "tables = [\"shop.*\"]").await?;
        let images: &[&str] = match build {
            Build::MariaDb("11.8") => &["FULL", "NOBLOB", "MINIMAL", "FULL_NODUP"],
            _ => &["FULL", "NOBLOB", "MINIMAL"],
        };
        rig.mysql
            .run(
                "CREATE DATABASE shop; CREATE TABLE shop.vc (id INT PRIMARY KEY, n INT, g INT AS (n + 1) VIRTUAL, \
                 s INT AS (n + 2) STORED, i INT INVISIBLE DEFAULT 5, t TEXT); \
                 CREATE TABLE shop.two (a INT, b INT, n INT, g INT AS (n + 1) VIRTUAL, PRIMARY KEY (b, a))",
            )
            .await?;
        let engine = Engine::start_and_wait(&rig.config).await?;
        for image in images {
            rig.mysql
                .run(&format!(
                    "SET SESSION binlog_row_image = '{image}'; INSERT INTO shop.vc (id, n, t) VALUES (1, 7, 'long'); \
                     UPDATE shop.vc SET id = 9; UPDATE shop.vc SET n = 8; DELETE FROM shop.vc; \
                     INSERT INTO shop.two (a, b, n) VALUES (1, 2, 3); UPDATE shop.two SET b = 4; DELETE FROM shop.two"
                ))
                .await?;
        }
        rig.read_to_the_end(&engine).await?;
        engine.stop().await?;
        let arrived = rig.arrived()?;
        let mut rest = &arrived[..];
        for image in images {
            let (these, others) = rest.split_at(9.min(rest.len()));
            rest = others;
            let operations: Vec<&str> = these.iter().filter_map(|message| message["op"].as_str()).collect();
            assert_eq!(operations, ["c", "d", "c", "u", "d", "c", "d", "c", "d"], "{build:?}, {image}");
            assert_eq!((&these[1]["before"]["id"], &these[2]["after"]["id"]), (&1.into(), &9.into()));
            let two = |image: &serde_json::Value| (image["a"].as_i64(), image["b"].as_i64());
            assert_eq!(two(&these[6]["before"]), (Some(1), Some(2)), "{build:?}, {image}");
            assert_eq!(two(&these[7]["after"]), (Some(1), Some(4)), "{build:?}, {image}");
            if !matches!(*image, "MINIMAL") {
                assert_eq!(
                    (&these[2]["after"]["n"], &these[2]["after"]["i"]),
                    (&7.into(), &5.into()),
                    "{build:?}, {image}"
                );
            }
        }
        assert!(rest.is_empty());
    }
    Ok(())
}

/// Members of an `ENUM` or `SET` in the character set `binary` may be bytes that are not text.
#[tokio::test]
async fn members_may_be_bytes() -> anyhow::Result<()> {
    for version in MARIADB_VERSIONS {
        let name = format!("members_may_be_bytes_{version}");
        let rig = Rig::start(&name, Build::MariaDb(version), &[], "tables = [\"shop.*\"]").await?;
        rig.mysql
            .run(
                "CREATE DATABASE shop; GRANT SELECT ON shop.* TO rowmill@'%'; CREATE TABLE shop.e (id INT PRIMARY KEY, \
                 e ENUM(x'ff01','b') CHARACTER SET binary, s SET(x'ff01','b') CHARACTER SET binary, \
                 u ENUM('é','b') CHARACTER SET binary)",
            )
            .await?;
        let mut engine = Engine::start_and_wait(&rig.config).await?;
        rig.mysql.run("INSERT INTO shop.e VALUES (1, x'ff01', 3, 'é'), (2, 'b', 2, 'b'), (3, NULL, 0, NULL)").await?;
        rig.read_to_the_end(&engine).await?;
        assert!(rig.arrived()?.iter().all(|message| message["source"]["connector"] == "mariadb"));
        let after: Vec<String> = rig.arrived()?.iter().map(|message| message["after"].to_string()).collect();
        assert_eq!(
            after,
            [
                r#"{"e":"/wE=","id":1,"s":"/wEsYg==","u":"é"}"#,
                r#"{"e":"Yg==","id":2,"s":"Yg==","u":"b"}"#,
                r#"{"e":null,"id":3,"s":"","u":null}"#,
            ]
        );
        assert_eq!(selected(&rig, "HEX(s)", "shop.e ORDER BY id").await?[0].as_deref(), Some("FF012C62"));
        // information_schema has question marks in place of these bytes.
        rig.mysql.run("SET GLOBAL binlog_row_metadata = 'MINIMAL'").await?;
        rig.mysql.run("INSERT INTO shop.e VALUES (4, x'ff01', 3, 'é')").await?;
        let status = engine.end(SOON).await?;
        let log = engine.log();
        assert_eq!(status.code(), Some(1), "{log}");
        assert!(log.contains("the members of `e`"), "{log}");
    }
    Ok(())
}
