//! Transforms: their interface and permissions, and the engine's protection from their failures.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use mysql_async::prelude::Queryable;
use rowmill::transform::{Loader, Settings};
use rowmill_tests::{Build, Engine, Rig, log_lines, scratch, top, wait_for, whole_lines};
use serde_json::{Value, json};

const SHOP: &str = "tables = [\"shop.*\"]";
const SOON: Duration = Duration::from_secs(60);

/// Returns the path of a test transform, built by `tests/tools/guests`.
fn guest(name: &str) -> PathBuf {
    top().join(format!("target/guests/{name}.wasm"))
}

/// Makes a rig whose engine has a plugins directory.
async fn rig(name: &str, plugins: &str) -> anyhow::Result<(Rig, PathBuf)> {
    let mut rig = Rig::start(name, Build::MySql, &[], SHOP).await?;
    let directory = rig.directory.join("plugins");
    std::fs::create_dir(&directory)?;
    rig.config.text.push_str(&format!("[plugins]\ndir = \"{}\"\n{plugins}", directory.display()));
    rig.mysql.run("CREATE DATABASE shop").await?;
    Ok((rig, directory))
}

/// Installs a plugin by a rename, as a careful user does.
fn install(directory: &Path, name: &str, wasm: &Path, toml: &str) -> anyhow::Result<()> {
    std::fs::write(directory.join(format!("{name}.toml")), toml)?;
    let hidden = directory.join(format!(".{name}.wasm"));
    std::fs::copy(wasm, &hidden)?;
    std::fs::rename(&hidden, directory.join(format!("{name}.wasm")))?;
    Ok(())
}

const LIMITS: &str = "deadline = \"100ms\"\nmemory = \"16MiB\"\noutput = \"100KiB\"\n";

/// The failures that `unruly` can be told to cause, and words of the errors.
const ACTS: [(&str, &str); 12] = [
    ("trap", "told to trap"),
    ("loop", "interrupt"),
    ("memory", "memory"),
    ("stack", "call stack exhausted"),
    ("fail", "told to fail"),
    ("reject", "told to reject"),
    ("row", "malformed verdict: row "),
    ("sink", "malformed verdict: sink 77 does not exist: there are 2"),
    ("text", "malformed verdict: text that is not UTF-8"),
    ("column", "malformed verdict: column 99 of shop.t"),
    ("recipe", "malformed verdict: recipe 5 does not exist: there are 0"),
    ("output", "raise `output`"),
];

/// A failure of a transform affects only its row, and the log says where the row went.
#[tokio::test]
async fn rows_that_a_transform_fails_on_are_set_aside() -> anyhow::Result<()> {
    let (mut rig, plugins) = rig("rows_that_a_transform_fails_on_are_set_aside", "").await?;
    install(&plugins, "unruly", &guest("unruly"), &format!("{LIMITS}on_error = \"dead-letter\"\n"))?;
    let mut refused = Engine::start(&rig.config)?;
    assert_eq!(refused.end(SOON).await?.code(), Some(1));
    assert!(refused.log().contains("has no `[dead_letter]`"), "{}", refused.log());

    let dead = rig.directory.join("dead.jsonl");
    rig.config.text.push_str(&format!(
        "[sink.dead]\ntype = \"file\"\npath = \"{}\"\n[dead_letter]\nsink = \"dead\"\n[[route]]\ntables = [\"*.*\"]\nsink = \"out\"\n",
        dead.display()
    ));
    rig.mysql.run("CREATE TABLE shop.t (id INT PRIMARY KEY AUTO_INCREMENT, act VARCHAR(20))").await?;
    rig.mysql.run("CREATE TABLE shop.refused (id INT PRIMARY KEY, act VARCHAR(20))").await?;
    let engine = Engine::start_and_wait(&rig.config).await?;
    // Each act in a batch of its own, then all in one batch.
    let acts = || ACTS.iter().map(|(act, _)| act);
    for act in acts() {
        rig.mysql.run(&format!("INSERT INTO shop.t (act) VALUES ('ok'), ('{act}'), ('retry'), ('ok')")).await?;
    }
    let all: Vec<String> = acts().flat_map(|act| [format!("('{act}')"), "('ok')".to_owned()]).collect();
    rig.mysql.run(&format!("INSERT INTO shop.t (act) VALUES {}", all.join(", "))).await?;
    rig.mysql.run("INSERT INTO shop.refused VALUES (1, 'ok')").await?;
    rig.read_to_the_end(&engine).await?;
    engine.stop().await?;

    let dead: Vec<Value> =
        std::fs::read_to_string(&dead)?.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert_eq!(dead.len(), 2 * ACTS.len() + 1, "{dead:#?}");
    let arrived: Vec<Value> = rig.arrived()?.into_iter().map(|row| row["after"].clone()).collect();
    let expected: Vec<&str> = acts().flat_map(|_| ["ok", "retry", "ok"]).chain(acts().map(|_| "ok")).collect();
    assert_eq!(arrived.iter().map(|row| row["act"].as_str().unwrap_or_default()).collect::<Vec<_>>(), expected);
    let ids: Vec<i64> = arrived.iter().filter_map(|row| row["id"].as_i64()).collect();
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");

    for (letter, (act, words)) in dead.iter().zip(ACTS.iter().cycle()).take(2 * ACTS.len()) {
        assert_eq!(letter["change"]["after"]["act"], *act);
        let error = letter["error"].as_str().unwrap_or_default();
        assert!(error.contains(words), "{act}: {error}");
        assert_eq!((&letter["stage"], &letter["name"]), (&"transform".into(), &"unruly".into()));
        assert!(letter["code"].as_str().is_some_and(|code| !code.is_empty()), "{letter}");
        assert_eq!(
            (&letter["source"]["pos"], &letter["source"]["file"]),
            (&letter["change"]["source"]["pos"], &letter["change"]["source"]["file"])
        );
    }
    // For a module with function names, the error says where it trapped.
    assert!(dead[0]["error"].as_str().is_some_and(|error| error.contains("unruly.wasm!")), "{}", dead[0]["error"]);
    let last = dead.last().context("the last")?;
    assert!(last["error"].as_str().is_some_and(|error| error.contains("told to refuse the table")), "{last}");
    Ok(())
}

/// A transform that asks for a retry of each row holds up a batch for a bounded time, not for the pauses of all its rows.
#[tokio::test]
async fn the_retries_of_a_batch_end() -> anyhow::Result<()> {
    let (rig, plugins) = rig("the_retries_of_a_batch_end", "").await?;
    install(&plugins, "unruly", &guest("unruly"), "on_error = \"skip\"\n")?;
    rig.mysql.run("CREATE TABLE shop.t (id INT PRIMARY KEY AUTO_INCREMENT, act VARCHAR(20))").await?;
    let engine = Engine::start_and_wait(&rig.config).await?;
    // The pauses of 100 rows would take 130 s.
    let values = vec!["('never')"; 100].join(", ");
    rig.mysql.run(&format!("INSERT INTO shop.t (act) VALUES {values}, ('ok')")).await?;
    rig.read_to_the_end(&engine).await?;
    engine.stop().await?;
    assert_eq!(rig.changes()?, ["c t 101"]);
    Ok(())
}

/// A transform halts at a row for which, and for later rows, an earlier transform has already made messages: they are not sent.
#[tokio::test]
async fn what_is_made_of_rows_after_a_halt_is_not_sent() -> anyhow::Result<()> {
    let (mut rig, plugins) = rig("what_is_made_of_rows_after_a_halt_is_not_sent", "threads = 2\n").await?;
    install(&plugins, "1-first", &guest("unruly"), "")?;
    install(&plugins, "2-second", &guest("unruly"), "[settings]\nsecond = true\n")?;
    rig.mysql.run("CREATE TABLE shop.t (id INT PRIMARY KEY, act VARCHAR(20), second VARCHAR(20))").await?;
    let dead = rig.directory.join("dead.jsonl");
    rig.config.text.push_str(&format!(
        "[sink.dead]\ntype = \"file\"\npath = \"{}\"\n[dead_letter]\nsink = \"dead\"\n[[route]]\ntables = [\"*.*\"]\nsink = \"out\"\n",
        dead.display()
    ));
    // The first transform makes a message of each row but the dead letters.
    std::fs::write(plugins.join("1-first.toml"), "on_error = \"dead-letter\"\n")?;
    let row = |id: usize| {
        let act = if id % 5 == 4 { "fail" } else { "tell" };
        format!("({id}, '{act}', '{}')", if id == 7 { "trap" } else { "ok" })
    };
    let values = (0..256).map(row).collect::<Vec<_>>().join(", ");
    let mut engine = Engine::start_and_wait(&rig.config).await?;
    rig.mysql
        .run(&format!("INSERT INTO shop.t VALUES {values}; INSERT INTO shop.t VALUES (256, 'tell', 'ok')"))
        .await?;
    assert_eq!(engine.end(SOON).await?.code(), Some(1), "{}", engine.log());
    let lines = whole_lines(&rig.directory.join("out.jsonl"))?;
    let rows = lines.lines().filter(|line| *line != "told").count();
    assert_eq!((rows, lines.lines().count() - rows), (6, 6), "of the rows 0 to 3, 5 and 6 each: {lines}");
    assert_eq!(whole_lines(&dead)?.lines().count(), 1, "row 4");
    Ok(())
}

/// `halt`, the default: everything before the row is delivered, and a restart begins with that row.
#[tokio::test]
async fn a_row_that_a_transform_fails_on_stops_the_engine() -> anyhow::Result<()> {
    let (rig, plugins) = rig("a_row_that_a_transform_fails_on_stops_the_engine", "threads = 3\n").await?;
    install(&plugins, "unruly", &guest("unruly"), LIMITS)?;
    rig.mysql.run("CREATE TABLE shop.t (id INT PRIMARY KEY, act VARCHAR(20))").await?;
    let mut engine = Engine::start_and_wait(&rig.config).await?;
    rig.mysql
        .run(
            "INSERT INTO shop.t VALUES (1, 'ok'); INSERT INTO shop.t VALUES (2, 'ok'), (3, 'ok'), (4, 'reject'), (5, 'ok'); \
             INSERT INTO shop.t VALUES (6, 'ok')",
        )
        .await?;
    // Soon: the other threads do not wait for a turn that never comes.
    assert_eq!(engine.end(Duration::from_secs(15)).await?.code(), Some(1));
    let log = engine.log();
    for words in ["plugin `unruly` failed on a row of shop.t at binlog.0", "(row 2 of the event)", "told to reject"] {
        assert!(log.contains(words), "`{words}` isn't in: {log}");
    }
    assert_eq!(rig.changes()?, ["c t 1", "c t 2", "c t 3"]);
    // The next start fails in the same way: no change before the error is delivered twice.
    let mut engine = Engine::start(&rig.config)?;
    assert_eq!(engine.end(SOON).await?.code(), Some(1));
    assert_eq!(rig.changes()?, ["c t 1", "c t 2", "c t 3"]);

    std::fs::write(plugins.join("unruly.toml"), format!("{LIMITS}on_error = \"skip\"\n"))?;
    let engine = Engine::start_and_wait(&rig.config).await?;
    rig.read_to_the_end(&engine).await?;
    assert!(engine.log().contains(log_lines::ROW_SKIPPED), "{}", engine.log());
    engine.stop().await?;
    assert_eq!(rig.changes()?, ["c t 1", "c t 2", "c t 3", "c t 5", "c t 6"]);
    Ok(())
}

/// Rows stay in order with several threads; a plugin with one instance sees all rows in order, and each row once, also the
/// neighbours of a row that it fails on.
#[tokio::test]
async fn many_instances_keep_the_order() -> anyhow::Result<()> {
    let (rig, plugins) = rig("many_instances_keep_the_order", "threads = 4\n").await?;
    install(&plugins, "1-many", &guest("unruly"), "")?;
    install(&plugins, "2-one", &guest("unruly"), "instances = 1\ntables = [\"shop.counted\"]\non_error = \"skip\"\n")?;
    rig.mysql
        .run(
            "CREATE TABLE shop.free (id INT PRIMARY KEY AUTO_INCREMENT, act VARCHAR(20)); \
             CREATE TABLE shop.counted (id INT PRIMARY KEY AUTO_INCREMENT, act VARCHAR(20), n INT)",
        )
        .await?;
    // The first plugin must not count: it does not get the rows of `counted`.
    std::fs::write(plugins.join("1-many.toml"), "tables = [\"shop.free\"]\n")?;
    let engine = Engine::start_and_wait(&rig.config).await?;
    let mut conn = rig.mysql.connect().await?;
    let rounds = 400;
    for round in 0..rounds {
        let many = 1 + round * 7 % 40;
        let rows = |row: &str| vec![row; many].join(", ");
        conn.query_drop(format!("INSERT INTO shop.free (act) VALUES {}", rows("('ok')"))).await?;
        conn.query_drop(format!("INSERT INTO shop.counted (act) VALUES {}", rows("('count')"))).await?;
    }
    conn.query_drop("INSERT INTO shop.counted (act) VALUES ('count'), ('reject'), ('count')").await?;
    rig.read_to_the_end(&engine).await?;
    engine.stop().await?;
    let arrived = rig.arrived()?;
    let of = |table: &str, column: &str| -> Vec<i64> {
        let rows = arrived.iter().filter(|row| row["source"]["table"] == table);
        rows.filter_map(|row| row["after"][column].as_i64()).collect()
    };
    let count = (0..rounds).map(|round| 1 + round * 7 % 40).sum::<usize>() as i64;
    assert!(of("free", "id").into_iter().eq(1..=count));
    assert!(of("counted", "id").into_iter().eq((1..=count + 1).chain([count + 3])), "all but the rejected row");
    assert!(of("counted", "n").into_iter().eq(1..=count + 2), "each row was counted once, in order");
    let positions: Vec<u64> = arrived.iter().filter_map(|row| row["source"]["pos"].as_u64()).collect();
    assert!(positions.is_sorted(), "the tables' rows are in the binlog's order among each other");
    let log = std::fs::read_to_string(rig.directory.join("rowmill.log"))?;
    assert!(log.contains(&format!("\"counted\": {}", count + 2)), "the plugin's own counter: {log}");
    Ok(())
}

/// Plugins are added, replaced and removed while rows flow: no row is lost, duplicated or out of order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plugins_are_reloaded_under_load() -> anyhow::Result<()> {
    let (rig, plugins) = rig("plugins_are_reloaded_under_load", "threads = 2\n").await?;
    rig.mysql
        .run("CREATE TABLE shop.t (id INT PRIMARY KEY AUTO_INCREMENT, act VARCHAR(20), email VARCHAR(40))")
        .await?;
    let engine = Engine::start_and_wait(&rig.config).await?;
    let mut conn = rig.mysql.connect().await?;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let load = {
        let stop = std::sync::Arc::clone(&stop);
        tokio::spawn(async move {
            let mut rows = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                conn.query_drop("INSERT INTO shop.t (act, email) VALUES ('ok', 'a@b.example'), ('ok', 'a@b.example')")
                    .await?;
                rows += 2;
            }
            Ok::<i64, mysql_async::Error>(rows)
        })
    };
    let newest = || -> anyhow::Result<Value> { Ok(rig.arrived()?.pop().unwrap_or_default()["after"].clone()) };
    let says = async |words: &str, times: usize| {
        wait_for(words, SOON, || async { Ok((engine.log().matches(words).count() >= times).then_some(())) })
            .await
            .with_context(|| engine.log())
    };
    let masks = async |masked: bool| {
        wait_for("rows are masked, or not", SOON, || async {
            let email = newest()?["email"].as_str().unwrap_or_default().to_owned();
            Ok((!email.is_empty() && (email != "a@b.example") == masked).then_some(()))
        })
        .await
        .with_context(|| engine.log())
    };
    masks(false).await?;

    // A new file that is written slowly is not read before it is complete.
    let bytes = std::fs::read(top().join("plugins/mask-email.wasm"))?;
    let path = plugins.join("mask.wasm");
    for part in 1..=8 {
        std::fs::write(&path, &bytes[..bytes.len() * part / 8])?;
        tokio::time::sleep(Duration::from_millis(80)).await;
    }
    masks(true).await?;
    let loads = engine.log().matches(log_lines::PLUGIN_LOADED).count();
    // Half of a file is not used, and the previous version stays.
    std::fs::write(&path, &bytes[..bytes.len() / 2])?;
    says(log_lines::PLUGIN_STAYS, 1).await?;
    masks(true).await?;
    // The same content again changes nothing.
    std::fs::write(&path, &bytes)?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(engine.log().matches(log_lines::PLUGIN_LOADED).count(), loads, "{}", engine.log());
    // A new settings file excludes the plugin's table.
    std::fs::write(plugins.join("mask.toml"), "tables = [\"shop.other\"]\n")?;
    masks(false).await?;
    std::fs::write(plugins.join("mask.toml"), "tabels = []\n")?;
    says("did you mean `tables`?", 1).await?;
    masks(false).await?;
    // Editors save like this: the old file is renamed, and another takes its place.
    std::fs::rename(plugins.join("mask.toml"), plugins.join("mask.toml~"))?;
    std::fs::write(plugins.join("mask.toml"), "tables = [\"shop.t\"]\n")?;
    masks(true).await?;
    // Another plugin with one instance; then other content under the same name.
    install(&plugins, "unruly", &guest("unruly"), "instances = 1\n")?;
    says(log_lines::PLUGIN_LOADED, 4).await?;
    install(&plugins, "mask", &guest("unruly"), "")?;
    masks(false).await?;
    std::fs::remove_file(plugins.join("unruly.wasm"))?;
    says(log_lines::PLUGIN_REMOVED, 1).await?;

    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let rows = load.await??;
    rig.read_to_the_end(&engine).await?;
    engine.stop().await?;
    let ids: Vec<i64> = rig.arrived()?.iter().filter_map(|row| row["after"]["id"].as_i64()).collect();
    assert!(ids.iter().copied().eq(1..=rows), "{} of {rows} rows, each once and in order", ids.len());
    Ok(())
}

/// A transform that declares a column stops before the first row of a table that no longer has it, and never drops rows
/// because a column reads as empty. `check` says so before.
#[tokio::test]
async fn a_renamed_column_stops_the_transform_that_uses_it() -> anyhow::Result<()> {
    let (rig, plugins) = rig("a_renamed_column_stops_the_transform_that_uses_it", "").await?;
    install(&plugins, "paid", &guest("rust/filter"), "")?;
    let check = || -> anyhow::Result<String> {
        let output = rig.config.command(&["check"])?.output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    rig.mysql.run("GRANT SELECT ON shop.* TO rowmill@'%'; CREATE TABLE shop.other (id INT PRIMARY KEY)").await?;
    let said = check()?;
    assert!(said.contains("plugin `paid` decides on no table"), "{said}");
    rig.mysql.run("CREATE TABLE shop.orders (id INT PRIMARY KEY, STATUS VARCHAR(20))").await?;
    let said = check()?;
    assert!(said.contains("plugin `paid` decides on shop.orders\n") && said.contains("ready"), "{said}");

    let mut engine = Engine::start_and_wait(&rig.config).await?;
    rig.mysql.run("INSERT INTO shop.orders VALUES (1, 'new'), (2, 'paid')").await?;
    rig.read_to_the_end(&engine).await?;
    rig.mysql.run("ALTER TABLE shop.orders RENAME COLUMN STATUS TO state").await?;
    rig.mysql.run("INSERT INTO shop.orders VALUES (3, 'paid')").await?;
    assert_eq!(engine.end(SOON).await?.code(), Some(1));
    let lacks = "shop.orders has no column `status`, which the transform declares; did you mean `state`?";
    assert!(engine.log().contains(lacks), "{}", engine.log());
    assert_eq!(rig.arrived()?.iter().map(|row| row["after"]["id"].clone()).collect::<Vec<_>>(), [json!(2)]);
    let said = check()?;
    assert!(said.contains(&format!("problem  plugin `paid`: {lacks}")) && !said.contains("ready"), "{said}");
    Ok(())
}

/// Compiled code is cached: a second start compiles nothing.
#[test]
fn a_warm_start_compiles_nothing() -> anyhow::Result<()> {
    let directory = scratch("a_warm_start_compiles_nothing");
    let plugins = directory.join("plugins");
    std::fs::create_dir(&plugins)?;
    install(&plugins, "asker", &guest("asker"), "")?;
    let cache = Some(directory.join("cache"));
    let settings = Settings { directory: Some(plugins), cache, ..Settings::for_tests(Vec::new()) };
    let load = || -> anyhow::Result<_> {
        let loader = Loader::new(settings.clone())?;
        loader.load_all()?;
        loader.cache_use().context("a cache")
    };
    let (_, compiled) = load()?;
    assert!(compiled > 0);
    let (kept, compiled) = load()?;
    assert!(kept > 0 && compiled == 0, "{kept} kept, {compiled} compiled");
    Ok(())
}

/// Batch queries and messages that the host writes, with the expected answers.
#[tokio::test]
async fn a_guest_that_asks() -> anyhow::Result<()> {
    let (rig, plugins) = rig("a_guest_that_asks", "threads = 1\n").await?;
    install(&plugins, "asker", &guest("asker"), "[grant]\nclock = true\nenv = [\"ROWMILL_TEST_GRANTED\"]\n")?;
    rig.mysql
        .run(
            "CREATE TABLE shop.items (id INT PRIMARY KEY, state VARCHAR(20), price DECIMAL(8,2), note TEXT, at DATETIME, raw \
             VARBINARY(8)); CREATE TABLE shop.others (id INT PRIMARY KEY, state VARCHAR(20))",
        )
        .await?;
    let engine = Engine::start_and_wait(&rig.config).await?;
    let mut conn = rig.mysql.connect().await?;
    // Here one transaction is one batch: rows 0 to 7, of which the third is not the plugin's.
    for statement in [
        "BEGIN",
        "INSERT INTO shop.items VALUES (1, 'new', 9.50, NULL, '2026-01-31 23:59:59', x'00ff')",
        "INSERT INTO shop.items VALUES (2, 'paid', 100, 'x', '2026-02-01 00:00:00', NULL)",
        "INSERT INTO shop.others VALUES (2, 'paid')",
        "UPDATE shop.items SET state = 'paid' WHERE id = 1",
        "UPDATE shop.items SET price = 100.01 WHERE id = 2",
        "INSERT INTO shop.items VALUES (3, 'PAID', -1, '', '2026-03-01', NULL)",
        "DELETE FROM shop.items WHERE id = 2",
        "COMMIT",
    ] {
        conn.query_drop(statement).await?;
    }
    rig.read_to_the_end(&engine).await?;
    engine.stop().await?;
    let arrived = rig.arrived()?;
    let answers = arrived.iter().find(|message| message.get("equal").is_some()).context("the answers")?;
    for (question, rows) in [
        ("equal", json!([1, 3, 4, 6])),
        ("number", json!([1, 4])),
        ("one_of", json!([0, 1, 3, 4])),
        ("prefix", json!([1, 3, 4])),
        ("between", json!([0, 1, 3])),
        ("from", json!([1, 4, 5])),
        ("null", json!([0, 3, 6])),
        ("changed", json!([4])),
        ("changed_to", json!([1, 3])),
        ("not", json!([0, 5])),
        ("all_of", json!([3])),
        ("asked", json!([0, 1, 3, 4, 5, 6])),
        ("known", json!(true)),
        ("granted", json!(false)),
        ("integers", json!("[Some(1), Some(2), Some(1), Some(2), Some(3), Some(2)]")),
        (
            "json",
            json!({"id": 1, "state": "new", "price": "9.50", "note": null, "at": "2026-01-31T23:59:59Z", "raw": "AP8="}),
        ),
    ] {
        assert_eq!(answers[question], rows, "{question}");
    }
    let debug = answers["debug"].as_str().unwrap_or_default();
    for words in [
        r#""texts":[None, None, Some("new"), Some("paid"), None, Some("paid")]"#,
        r#""prices":[Some("9.50"), Some("100.00"), Some("9.50"), Some("100.01"), Some("-1.00"), Some("100.01")]"#,
        r#""kinds":(None, None)"#, // of other kinds
        r#""has":([false, false, true, true, false, true], [false, false, false, false, false, false])"#,
        r#""blobs":[Some([0, 255]), None, Some([0, 255]), None, None, None]"#,
        r#""operations":[1, 1, 2, 2, 1, 3]"#,
    ] {
        assert!(debug.contains(words), "`{words}` isn't in {debug}");
    }

    let written: Vec<&Value> = arrived.iter().filter(|message| message.get("what").is_some()).collect();
    assert_eq!(written.len(), 6, "{arrived:#?}");
    let update = written[2];
    assert_eq!(update["what"], json!({"kind": "item"}));
    assert_eq!((&update["id"], &update["was"], &update["now"]), (&json!(1), &json!("new"), &json!("paid")));
    assert_eq!((&update["op"], &update["of"], &update["in"]), (&json!("u"), &json!("items"), &json!("shop")));
    assert_eq!(update["row"]["state"], "paid");
    assert_eq!(update["old"]["state"], "new");
    assert!(update["at"].as_i64() > Some(1_700_000_000_000), "{update}");
    assert_eq!((&written[5]["op"], &written[5]["id"], &written[0]["old"]), (&json!("d"), &json!(2), &Value::Null));
    // The row on which the plugin does not decide passes.
    assert_eq!(rig.changes()?.iter().filter(|change| change.contains("others")).count(), 1);
    Ok(())
}

/// `plugin dev --config` shows what becomes of a server's rows as they happen, and of the last ones again after a change of the
/// project, or of a table.
#[tokio::test]
async fn a_project_is_shown_live_rows() -> anyhow::Result<()> {
    let rig = Rig::start("a_project_is_shown_live_rows", Build::MySql, &[], "tables = [\"shop.*\"]").await?;
    rig.mysql.run("CREATE DATABASE shop; CREATE TABLE shop.orders (id BIGINT PRIMARY KEY, status VARCHAR(20))").await?;
    let config = rig.directory.join("rowmill.toml");
    std::fs::write(&config, &rig.config.text)?;
    let project = rig.directory.join("paid");
    std::fs::create_dir_all(project.join("tests"))?;
    for name in ["example.rows.jsonl", "example.expected.jsonl"] {
        std::fs::copy(top().join("sdk/cases/filter").join(name), project.join("tests").join(name))?;
    }
    let build = project.join("build");
    std::fs::write(
        &build,
        format!("#!/bin/sh\ncp {} paid.wasm\n", top().join("target/guests/c/filter.wasm").display()),
    )?;
    ensure!(Command::new("chmod").arg("+x").arg(&build).status()?.success());
    let dev = |arguments: &[&str]| -> anyhow::Result<Command> {
        let mut command = Command::new(rowmill_tests::binary()?);
        command
            .args(["plugin", "dev"])
            .arg(&project)
            .args(arguments)
            .env("ROWMILL_SOURCE_PASSWORD", &rig.config.password);
        Ok(command)
    };
    for wrong in [&["--config", "none.toml"][..], &["--where", "id = 1"], &["--once", "--config", "rowmill.toml"]] {
        let output = dev(wrong)?.output()?;
        ensure!(output.status.code() == Some(2), "{wrong:?}: {output:?}");
    }
    let said = rig.directory.join("said");
    let condition = "id < 100";
    let mut running = dev(&["--from", "earliest", "--where", condition, "--config", &config.to_string_lossy()])?
        .stdout(std::fs::File::create(&said)?)
        .spawn()?;
    let says = async |what: &str, wanted: &[&str]| {
        wait_for(what, Duration::from_secs(30), || async {
            let text = std::fs::read_to_string(&said)?;
            Ok(wanted.iter().all(|wanted| text.contains(wanted)).then_some(()))
        })
        .await
        .with_context(|| std::fs::read_to_string(&said).unwrap_or_default())
    };
    says("it is built", &["ok       example", "waiting for rows and changes"]).await?;
    rig.mysql.run("INSERT INTO shop.orders VALUES (1, 'paid'), (2, 'new'), (100, 'paid')").await?;
    says(
        "rows are shown",
        &[
            "2 rows",
            "\"id\":1,\"status\":\"paid\"},\"op\":\"c\",\"table\":\"shop.orders\"},\"row\":0",
            "{\"dropped\":true,\"row\":1}",
        ],
    )
    .await?;
    // Rows of other tables pass: the same rows have another outcome now.
    std::fs::write(project.join("paid.toml"), "tables = [\"shop.customers\"]\n")?;
    says("they are shown again", &["\"id\":2,\"status\":\"new\"},\"op\":\"c\",\"table\":\"shop.orders\"},\"row\":1"])
        .await?;
    rig.mysql.run("ALTER TABLE shop.orders ADD note TEXT; INSERT INTO shop.orders VALUES (3, 'new', 'soon')").await?;
    says("the table has another column", &["\"note\":\"soon\""]).await?;
    running.kill()?;
    running.wait()?;
    ensure!(!rig.config.checkpoint().exists(), "no checkpoint is written");
    Ok(())
}
