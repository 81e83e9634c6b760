//! The same changes through Debezium and through Rowmill, compared event by event as JSON. Run by
//! `tests/debezium/run`; the report goes to `docs/debezium.md`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use mysql_async::prelude::Queryable;
use rowmill_tests::{Build, Engine, Generator, MySql, Rig, top, wait_for};
use serde_json::Value;

const STEPS: usize = 400;
const SCHEMA: &str = "shop";
const LONG: Duration = Duration::from_secs(120);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let seed = std::env::var("ROWMILL_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    let rig = Rig::start("debezium", Build::MySql, &[], &format!("tables = [\"{SCHEMA}.*\"]")).await?;
    rig.mysql.run("CREATE DATABASE marker; GRANT SELECT, RELOAD, SHOW DATABASES, REPLICATION SLAVE, REPLICATION CLIENT, LOCK TABLES ON *.* TO rowmill@'%'").await?;
    let mut conn = rig.mysql.connect().await?;
    conn.query_drop("SET sql_mode = '', time_zone = '+00:00'").await?;
    let mut generator = Generator::create(&mut conn, Build::MySql, SCHEMA, seed).await?;

    let captured = rig.directory.join("debezium.jsonl");
    let _debezium = capture(&rig.mysql, &captured, &rig.directory)?;
    let engine = Engine::start_and_wait(&rig.config).await?;
    // Debezium streams when it sees this.
    conn.query_drop(format!("CREATE TABLE {SCHEMA}.marker (id INT PRIMARY KEY)")).await?;
    let count = || std::fs::read_to_string(&captured).unwrap_or_default().lines().count();
    let mut marker = 0;
    while count() == 0 {
        marker += 1;
        ensure!(marker < 100, "Debezium doesn't start: see {}", rig.directory.join("debezium.log").display());
        conn.query_drop(format!("INSERT INTO {SCHEMA}.marker VALUES ({marker})")).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    for _ in 0..STEPS {
        generator.step(&mut conn).await?;
    }
    conn.query_drop(format!("INSERT INTO {SCHEMA}.marker VALUES (1000)")).await?;
    let is_last = |line: &str| line.contains("\"marker\"") && line.contains("\"id\":1000");
    wait_for("Debezium has it all", LONG, || async {
        let text = std::fs::read_to_string(&captured)?;
        Ok(text.lines().last().is_some_and(is_last).then_some(()))
    })
    .await?;
    rig.read_to_the_end(&engine).await?;
    engine.stop().await?;

    let theirs = std::fs::read_to_string(&captured)?;
    let theirs: Vec<Value> = theirs.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let report = compare(&generator, rig.arrived()?, theirs, seed)?;
    print!("{report}");
    std::fs::write(top().join("docs/debezium.md"), report)?;
    Ok(())
}

fn capture(mysql: &MySql, to: &Path, directory: &Path) -> anyhow::Result<rowmill_tests::Process> {
    let classpath = std::env::var("DEBEZIUM_CLASSPATH").context("run this by tests/debezium/run")?;
    let mut command = rowmill_tests::command("java");
    command
        .args(["-cp", &classpath, "Capture", &mysql.port().to_string(), "rowmill", mysql.password(), SCHEMA])
        .arg(to);
    rowmill_tests::Process::start(&mut command, &directory.join("debezium.log"))
}

/// A kind of difference, its first example, and how often it was seen.
type Differences = BTreeMap<String, (String, usize)>;

fn compare(generator: &Generator, ours: Vec<Value>, theirs: Vec<Value>, seed: u64) -> anyhow::Result<String> {
    let is_marker = |event: &Value| event["source"]["table"] == "marker";
    let ours: Vec<Value> = ours.into_iter().filter(|event| !is_marker(event)).collect();
    let theirs: Vec<Value> = theirs.into_iter().filter(|event| !is_marker(event)).collect();
    let mut differences = Differences::new();
    let mut differ = |kind: String, example: String| {
        differences.entry(kind).or_insert((example, 0)).1 += 1;
    };
    let (mut events, mut values) = (0, 0);
    let mut theirs = theirs.into_iter();
    for our in &ours {
        let Some(their) = theirs.next() else {
            differ("an event is missing in Debezium's".to_owned(), short(our));
            continue;
        };
        events += 1;
        let table = our["source"]["table"].as_str().unwrap_or_default();
        let of_column = |name: &str| generator.declared(table, name).unwrap_or(name).to_owned();
        if our["op"] != their["op"] {
            differ("the operation".to_owned(), format!("{} and {}", short(our), short(&their)));
        }
        values += images(&of_column, &our["before"], &their["before"], &mut differ);
        values += images(&of_column, &our["after"], &their["after"], &mut differ);
        let (our, their) = (&our["source"], &their["source"]);
        for field in [
            "db",
            "table",
            "file",
            "pos",
            "row",
            "server_id",
            "gtid",
            "ts_ms",
            "ts_us",
            "ts_ns",
            "snapshot",
            "query",
            "connector",
            "sequence",
            "thread",
        ] {
            if our[field] != their[field] {
                differ(format!("`source.{field}`"), format!("{} here, {} there", our[field], their[field]));
            }
        }
        let names = |object: &Value| {
            object.as_object().map(|object| object.keys().cloned().collect::<Vec<_>>()).unwrap_or_default()
        };
        let (mut our_names, mut their_names) = (names(our), names(their));
        our_names.sort();
        their_names.sort();
        if our_names != their_names {
            differ("the fields of `source`".to_owned(), format!("{our_names:?} here, {their_names:?} there"));
        }
    }
    for their in theirs {
        differ("an event is missing in Rowmill's".to_owned(), short(&their));
    }
    let mut report = String::new();
    writeln!(report, "# Beside Debezium\n")?;
    writeln!(
        report,
        "The same changes through Debezium 3.6.3 (its embedded engine, `JsonConverter` without schemas, the handling modes \
         of [fidelity.md](fidelity.md)) and through Rowmill, compared event by event. Written by `tests/debezium/run`, seed \
         {seed}, from MySQL 9.7: random tables of every type, inserts, updates and deletes.\n"
    )?;
    writeln!(report, "{events} events and {values} values compared.\n")?;
    ensure!(
        !differences.keys().any(|kind| kind.starts_with("**")) && events > STEPS,
        "differences without a reason in {events} events: {differences:#?}"
    );
    writeln!(
        report,
        "No other difference was seen. Times differ in what isn't compared: when each engine wrote the event.\n"
    )?;
    writeln!(report, "| difference | seen | the first |\n| --- | --- | --- |")?;
    for (kind, (example, count)) in differences {
        writeln!(report, "| {kind} | {count} | {} |", example.replace('|', "\\|").replace('\n', " "))?;
    }
    Ok(report)
}

fn short(event: &Value) -> String {
    let image = if event["after"].is_null() { &event["before"] } else { &event["after"] };
    format!("{} {} {}", event["op"], event["source"]["table"], image["id"])
}

fn is_same_time(our: &str, their: &str) -> bool {
    let parts = |text: &str| {
        let text = text.trim_end_matches('Z');
        let (time, fraction) = text.split_once('.').unwrap_or((text, ""));
        (time.to_owned(), fraction.trim_end_matches('0').to_owned())
    };
    parts(our) == parts(their)
}

/// Why two values differ; of what isn't known, the column's type.
fn explained(declared: &str, our: &Value, their: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (our_text, their_text) = (text(our), text(their));
    let base = declared.split(['(', ' ']).next().unwrap_or_default();
    let is_same_document = || {
        let (our, their) = (serde_json::from_str::<Value>(&our_text), serde_json::from_str::<Value>(&their_text));
        our.ok().zip(their.ok()).is_some_and(|(our, their)| our == their)
    };
    let why = match base {
        "DATE" | "DATETIME" | "TIMESTAMP" if their.is_null() && our_text.contains("-00") => {
            "a zero date, or one with zero parts: NULL there; here as it is"
        }
        "DATE" | "DATETIME" | "TIMESTAMP" if our_text.starts_with("0000") => "the year 0: NULL there; here as it is",
        "DATETIME" | "TIMESTAMP" | "TIME" if is_same_time(&our_text, &their_text) => {
            "the same time: without the fraction's trailing zeros there; here with the column's digits"
        }
        "TIME" if their.is_null() => "a TIME that isn't a time of day: NULL there; here as it is",
        "BIGINT" if their.as_i64().is_some_and(|their| their < 0) => {
            "an unsigned number beyond 63 bits: negative there"
        }
        "ENUM" | "SET" if their_text.replace("\\,", ",").replace("\\\\", "\\") == our_text => {
            "commas and backslashes in members: with a backslash before them there; here as they are"
        }
        "FLOAT" if our.as_f64().map(|our| our as f32) == their.as_f64().map(|their| their as f32) => {
            "the same FLOAT in other digits: here the shortest that read back as it"
        }
        "YEAR" if *our == 0 => "the year 0000: 1900 there",
        "JSON" if is_same_document() => "the same JSON document: without spaces there; here as MySQL shows it",
        "JSON" if our_text.contains("base64:type") => {
            "a TIME or BINARY within a JSON document: broken or without its type there; here as MySQL shows it"
        }
        "VARCHAR" if declared.ends_with("sjis") => "a backslash in `sjis`: full-width there; here as `SELECT` shows it",
        _ => return format!("**not explained**: {declared}"),
    };
    why.to_owned()
}

/// Compares two row images. Gives the number of values.
fn images(
    of_column: &impl Fn(&str) -> String,
    ours: &Value,
    theirs: &Value,
    differ: &mut impl FnMut(String, String),
) -> usize {
    let (Some(ours), Some(theirs)) = (ours.as_object(), theirs.as_object()) else {
        if ours != theirs {
            differ("an image is null".to_owned(), format!("{ours} here, {theirs} there"));
        }
        return 0;
    };
    if !ours.keys().eq(theirs.keys()) {
        differ("the columns".to_owned(), format!("{:?} here, {:?} there", ours.keys(), theirs.keys()));
    }
    for (name, our) in ours {
        let their = theirs.get(name).unwrap_or(&Value::Null);
        if our != their
            && our.as_f64().zip(their.as_f64()).is_none_or(|(our, their)| our != their || our.fract() == 0.0)
        {
            let kind = explained(&of_column(name), our, their);
            let cut = |value: &Value| value.to_string().chars().take(120).collect::<String>();
            differ(kind, format!("`{}` here, `{}` there", cut(our), cut(their)));
        }
    }
    ours.len()
}
