//! No value is ever wrong: random tables of every type, random changes, and in the end every row is
//! what the server's own `SELECT` says. On MySQL and MariaDB, with every row image, compressed and
//! not, and with every kind of metadata.
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

/// What a phase of the test sets.
struct Phase {
    name: &'static str,
    global: &'static [&'static str],
    session: &'static [&'static str],
    /// Whether tables change in mid-stream. They don't where that can't be seen in each row: with row
    /// images that aren't full, and where columns are looked up.
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
];

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
        // Half of the phases through a transform that wants next to nothing: the rest is decoded late.
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
    every_value(Build::MariaDb("11.8"), "every_value_of_mariadb_11_8", MARIADB).await
}

/// Binlog files of each server that tests keep are what they were, without a server.
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

/// Every character of every character set is what the server's own conversion says.
async fn every_character(name: &str, build: Build) -> anyhow::Result<()> {
    let rig = Rig::start(name, build, &[], "tables = [\"characters.*\"]").await?;
    let mut conn = rig.mysql.connect().await?;
    conn.query_drop("SET sql_mode = ''").await?;
    rig.mysql
        .run("CREATE DATABASE characters; CREATE DATABASE codes; CREATE TABLE codes.c (code VARBINARY(4))")
        .await?;
    // One byte, two bytes, and three as EUC has them.
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
        // What stands for one character, and for nothing else than it.
        conn.query_drop(format!(
            "INSERT INTO characters.`{set}` (c) SELECT CONVERT(code USING {set}) FROM codes.c \
             WHERE CONVERT(code USING {set}) IS NOT NULL AND CHAR_LENGTH(CONVERT(code USING {set})) = 1 \
             AND HEX(CAST(CONVERT(code USING {set}) AS BINARY)) = HEX(code) \
             AND CONVERT(CONVERT(code USING {set}) USING utf8mb4) NOT IN ('?', CONVERT(x'efbfbd' USING utf8mb4)) \
             AND NOT ('{set}' = 'ucs2' AND HEX(code) BETWEEN 'D800' AND 'DFFF')" // halves of a character
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
