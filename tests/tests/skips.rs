//! Changes that cannot be decoded, with `source.on_error = "dead-letter"`: each becomes a dead letter, and everything else is
//! delivered.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use mysql_async::prelude::Queryable;
use rowmill_tests::{Build, Engine, Rig, top, whole_lines};
use serde_json::Value;

const SHOP: &str = "tables = [\"shop.*\"]\nstart = \"earliest\"";

/// Makes a rig whose engine writes dead letters to a file.
async fn rig(name: &str, build: Build, options: &[&str]) -> anyhow::Result<(Rig, PathBuf)> {
    let mut rig = Rig::start(name, build, options, SHOP).await?;
    let dead = rig.directory.join("dead.jsonl");
    rig.config.text.push_str(&format!(
        "[sink.dead]\ntype = \"file\"\npath = \"{}\"\n[[route]]\ntables = [\"*.*\"]\nsink = \"out\"\n",
        dead.display()
    ));
    Ok((rig, dead))
}

/// Configures dead letters for changes that cannot be decoded.
fn skip(rig: &mut Rig) {
    rig.config.text = rig.config.text.replace(SHOP, &format!("{SHOP}\non_error = \"dead-letter\""));
    rig.config.text.push_str("[dead_letter]\nsink = \"dead\"\n");
}

async fn run_to_the_end(rig: &Rig) -> anyhow::Result<()> {
    let engine = Engine::start_and_wait(&rig.config).await?;
    rig.read_to_the_end(&engine).await?;
    engine.stop().await
}

fn letters(dead: &Path) -> anyhow::Result<Vec<Value>> {
    whole_lines(dead)?.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

fn text<'a>(letter: &'a Value, key: &str) -> &'a str {
    letter[key].as_str().unwrap_or_default()
}

/// Statements in transactions with and without rows; a long one; one in a schema of which nothing is selected.
async fn statements_are_dead_letters(name: &str, build: Build) -> anyhow::Result<()> {
    let (mut rig, dead) = rig(name, build, &["--secure-file-priv="]).await?;
    rig.mysql
        .run(
            "CREATE DATABASE shop; CREATE DATABASE other; CREATE TABLE other.t (id INT PRIMARY KEY);
             CREATE TABLE shop.t (id INT PRIMARY KEY, v LONGTEXT)",
        )
        .await?;
    let mut conn = rig.mysql.connect().await?;
    let long = format!("INSERT INTO shop.t VALUES (100, '{}')", "ä".repeat(40_000));
    let file = rig.directory.join("rows.csv");
    std::fs::write(&file, "200\tone\n201\ttwo\n")?;
    let load = format!("LOAD DATA INFILE '{}' INTO TABLE shop.t", file.display());
    conn.query_drop("INSERT INTO shop.t VALUES (1, 'row'), (2, 'row')").await?;
    // MySQL logs the statement's schema; MariaDB does not, and then the statement counts as one of a selected schema.
    let load_elsewhere = load.replace("shop.t", "other.t (id, @v)");
    let elsewhere = if build == Build::MySql { &load_elsewhere } else { "INSERT INTO other.t VALUES (200)" };
    let first = "INSERT INTO shop.t VALUES (3, 'statement')";
    for statement in [first, "INSERT INTO other.t VALUES (1)", &long, &load, elsewhere] {
        conn.query_drop("SET SESSION binlog_format = 'STATEMENT'").await?;
        conn.query_drop(statement).await?;
        conn.query_drop("SET SESSION binlog_format = 'ROW'").await?;
        conn.query_drop("INSERT INTO shop.t SELECT MAX(id) + 1, 'row' FROM shop.t").await?;
    }
    // A transaction with rows, statements and a savepoint.
    conn.query_drop("SET SESSION binlog_format = 'MIXED'").await?;
    for statement in [
        "BEGIN",
        "INSERT INTO shop.t VALUES (300, UUID())",
        "SAVEPOINT a",
        "UPDATE shop.t SET v = 'mixed' WHERE id = 1",
        "INSERT INTO shop.t VALUES (301, UUID())",
        "COMMIT",
    ] {
        conn.query_drop(statement).await?;
    }
    conn.disconnect().await?;

    let error = Engine::failed(&rig.config).await?;
    ensure!(error.contains("logged as a statement"), "it stops by default: {error}");
    skip(&mut rig);
    for _ in 0..2 {
        run_to_the_end(&rig).await?;
        let expected = ["1", "2", "4", "5", "101", "202", "203", "300", "301"].map(|id| format!("c t {id}"));
        ensure!(rig.changes()? == expected, "{:?}", rig.changes()?);
        let letters = letters(&dead)?;
        let statements: Vec<&str> = letters.iter().map(|letter| text(letter, "statement")).collect();
        ensure!(statements.len() == 4, "{statements:#?}");
        ensure!(statements[0] == "INSERT INTO shop.t VALUES (3, 'statement')", "{statements:#?}");
        ensure!(long.starts_with(statements[1]) && statements[1].len() > 30_000, "{} bytes", statements[1].len());
        ensure!(letters[1]["bytes"] == long.len(), "{}", letters[1]["bytes"]);
        ensure!(statements[2].starts_with("LOAD DATA INFILE"), "{statements:#?}");
        ensure!(statements[3] == "UPDATE shop.t SET v = 'mixed' WHERE id = 1", "{statements:#?}");
        for letter in &letters {
            ensure!(text(letter, "stage") == "source" && text(letter, "error").contains("as a statement"), "{letter}");
            ensure!(
                letter["source"]["pos"].as_u64() > Some(4) && text(&letter["source"], "file").starts_with("binlog."),
                "{letter}"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn statements_are_dead_letters_mysql() -> anyhow::Result<()> {
    statements_are_dead_letters("statements_are_dead_letters_mysql", Build::MySql).await
}

#[tokio::test]
async fn statements_are_dead_letters_mariadb_11_8() -> anyhow::Result<()> {
    statements_are_dead_letters("statements_are_dead_letters_mariadb_11_8", Build::MariaDb("11.8")).await
}

/// Only the row with an invalid value in its character set becomes a dead letter, whether the column is decoded at once or
/// deferred by a transform.
#[tokio::test]
async fn rows_are_dead_letters() -> anyhow::Result<()> {
    let name = "rows_are_dead_letters";
    let (mut rig, dead) = rig(name, Build::MySql, &["--binlog-transaction-compression=ON"]).await?;
    rig.mysql
        .run("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY, v VARCHAR(9) CHARACTER SET greek, w INT)")
        .await?;
    let bad = |id: usize| id % 7 == 3;
    let values = |ids: std::ops::Range<usize>| {
        let row = |id| format!("({id}, {}, 1)", if bad(id) { "_greek x'41AE42'" } else { "'αβγ'" });
        ids.map(row).collect::<Vec<_>>().join(", ")
    };
    rig.mysql.run(&format!("INSERT INTO shop.t VALUES {}", values(0..1000))).await?;
    rig.mysql.run("UPDATE shop.t SET w = 2 WHERE id < 5; DELETE FROM shop.t WHERE id BETWEEN 2 AND 4").await?;
    rig.mysql.run(&format!("INSERT INTO shop.t VALUES {}", values(1000..1500))).await?;
    let error = Engine::failed(&rig.config).await?;
    ensure!(error.contains("column `v` holds bytes that aren't valid greek"), "it stops by default: {error}");
    ensure!(rig.changes()? == ["c t 0", "c t 1", "c t 2"], "{:?}", rig.changes()?);

    skip(&mut rig);
    let mut expected: Vec<String> = (0..1000).filter(|id| !bad(*id)).map(|id| format!("c t {id}")).collect();
    expected.extend([0, 1, 2, 4].map(|id| format!("u t {id}")));
    expected.extend([2, 4].map(|id| format!("d t {id}")));
    expected.extend((1000..1500).filter(|id| !bad(*id)).map(|id| format!("c t {id}")));
    let count = (0..1500).filter(|id| bad(*id)).count() + 2;
    run_to_the_end(&rig).await?;
    ensure!(rig.changes()? == expected, "{} of {} changes", rig.changes()?.len(), expected.len());
    let at_once = letters(&dead)?;
    ensure!(at_once.len() == count, "{} of {count} letters", at_once.len());
    let first = &at_once[0];
    ensure!(
        text(&first["source"], "table") == "shop.t"
            && first["source"]["row"].as_u64().is_some()
            && !text(&first["source"], "gtid").is_empty(),
        "{first}"
    );
    // The null bitmap, the key, the text with its length, the number.
    ensure!(text(first, "images") == "AAMAAAADQa5CAQAAAA==", "{first}");

    // From the beginning, with deferred columns.
    let plugins = rig.directory.join("plugins");
    std::fs::create_dir(&plugins)?;
    std::fs::copy(top().join("target/guests/narrow.wasm"), plugins.join("narrow.wasm"))?;
    rig.config.text.push_str(&format!("[plugins]\ndir = \"{}\"\n", plugins.display()));
    std::fs::remove_file(rig.config.checkpoint())?;
    std::fs::remove_file(rig.directory.join("out.jsonl"))?;
    std::fs::remove_file(&dead)?;
    run_to_the_end(&rig).await?;
    ensure!(rig.changes()? == expected, "{} of {} changes, late", rig.changes()?.len(), expected.len());
    let late = letters(&dead)?;
    ensure!(late == at_once, "the same letters, late: {:?}", late.first());
    Ok(())
}

/// Rows of a table that was altered since, where the binlog does not name its columns; and changes that cannot be skipped.
#[tokio::test]
async fn rows_of_unknown_columns_are_dead_letters() -> anyhow::Result<()> {
    let name = "rows_of_unknown_columns_are_dead_letters";
    let (mut rig, dead) = rig(name, Build::MySql, &["--binlog-row-metadata=MINIMAL"]).await?;
    rig.mysql
        .run(
            "CREATE DATABASE shop; GRANT SELECT ON shop.* TO rowmill@'%';
             CREATE TABLE shop.old (id INT PRIMARY KEY, v INT); CREATE TABLE shop.t (id INT PRIMARY KEY);
             INSERT INTO shop.t VALUES (1); INSERT INTO shop.old VALUES (1, 1), (2, 2);
             BEGIN; INSERT INTO shop.t VALUES (2); UPDATE shop.old SET v = 3; INSERT INTO shop.t VALUES (3); COMMIT;
             ALTER TABLE shop.old DROP COLUMN v; INSERT INTO shop.old VALUES (3); INSERT INTO shop.t VALUES (4);
             SET SESSION binlog_format = 'STATEMENT'; INSERT INTO shop.t VALUES (5)",
        )
        .await?;
    let error = Engine::failed(&rig.config).await?;
    ensure!(error.contains("shop.old") && error.contains("ALTER TABLE"), "it stops by default: {error}");
    skip(&mut rig);
    for _ in 0..2 {
        run_to_the_end(&rig).await?;
        let expected = ["c t 1", "c t 2", "c t 3", "c old 3", "c t 4"];
        ensure!(rig.changes()? == expected, "{:?}", rig.changes()?);
        let letters = letters(&dead)?;
        let kinds: Vec<_> = letters.iter().map(|letter| letter["source"]["event_type"].as_u64()).collect();
        ensure!(kinds == [Some(30), Some(31), Some(2)], "an insert, an update, a statement: {letters:#?}");
        for letter in &letters[..2] {
            ensure!(
                text(&letter["source"], "table") == "shop.old" && text(letter, "error").contains("ALTER TABLE"),
                "{letter}"
            );
            ensure!(text(letter, "event").len() > 20, "{letter}");
        }
    }
    Ok(())
}
