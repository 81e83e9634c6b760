//! Compares Debezium's and Rowmill's events of the same changes, one by one, as JSON. `tests/debezium/run` runs it; its report
//! is `docs/debezium.md`.

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
/// Schema changes, all of which name the table `extra`.
const SCHEMA_CHANGES: [&str; 6] = [
    "CREATE TABLE shop.extra (id INT PRIMARY KEY, a VARCHAR(10) DEFAULT 'é')",
    "ALTER TABLE shop.extra ADD COLUMN b INT, ADD INDEX (a)",
    "CREATE INDEX i ON shop.extra (b)",
    "TRUNCATE TABLE shop.extra",
    "RENAME TABLE shop.extra TO shop.extra_2",
    "DROP TABLE shop.extra_2",
];
const LONG: Duration = Duration::from_secs(120);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let seed = std::env::var("ROWMILL_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    let mut rig = Rig::start("debezium", Build::MySql, &[], &format!("tables = [\"{SCHEMA}.*\"]")).await?;
    rig.config.text.push_str("[schema_changes]\nsink = \"out\"\n");
    rig.mysql.run("CREATE DATABASE marker; GRANT SELECT, RELOAD, SHOW DATABASES, REPLICATION SLAVE, REPLICATION CLIENT, LOCK TABLES ON *.* TO rowmill@'%'").await?;
    let mut conn = rig.mysql.connect().await?;
    conn.query_drop("SET sql_mode = '', time_zone = '+00:00'").await?;
    let mut generator = Generator::create(&mut conn, Build::MySql, SCHEMA, seed).await?;

    let captured = rig.directory.join("debezium.jsonl");
    let _debezium = capture(&rig.mysql, &captured, &rig.directory)?;
    let engine = Engine::start_and_wait(&rig.config).await?;
    // Debezium streams once this table's event arrives.
    conn.query_drop(format!("CREATE TABLE {SCHEMA}.marker (id INT PRIMARY KEY)")).await?;
    let count = || {
        let text = std::fs::read_to_string(&captured).unwrap_or_default();
        text.lines().filter(|line| line.contains("\"op\":")).count()
    };
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
    for statement in SCHEMA_CHANGES {
        conn.query_drop(statement).await?;
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

/// The kinds of differences, with the first example and the number of occurrences of each.
type Differences = BTreeMap<String, (String, usize)>;

fn compare(generator: &Generator, ours: Vec<Value>, theirs: Vec<Value>, seed: u64) -> anyhow::Result<String> {
    let is_marker = |event: &Value| event["source"]["table"] == "marker";
    let divide = |events: Vec<Value>| -> (Vec<Value>, Vec<Value>) {
        let (mut changes, rows): (Vec<Value>, Vec<Value>) =
            events.into_iter().filter(|event| !is_marker(event)).partition(|event| event["ddl"].is_string());
        changes.retain(|change| change["ddl"].as_str().is_some_and(|ddl| ddl.contains("extra")));
        (changes, rows)
    };
    let ((our_changes, ours), (their_changes, theirs)) = (divide(ours), divide(theirs));
    let mut differences = Differences::new();
    let mut differ = |kind: String, example: String| {
        differences.entry(kind).or_insert((example, 0)).1 += 1;
    };
    schema_changes(&our_changes, &their_changes, &mut differ);
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
        sources(&our["source"], &their["source"], &[], &mut differ);
    }
    for their in theirs {
        differ("an event is missing in Rowmill's".to_owned(), short(&their));
    }
    let mut report = String::new();
    writeln!(report, "# Beside Debezium\n")?;
    writeln!(
        report,
        "The same changes, captured by Debezium 3.6.3 (its embedded engine, `JsonConverter` without schemas, the handling \
         modes of [fidelity.md](fidelity.md)) and by Rowmill, compared event by event. `tests/debezium/run` writes this page, \
         here with seed {seed}, from MySQL 9.7: random tables of every type, inserts, updates and deletes. In the table, \
         *here* is Rowmill and *there* is Debezium.\n"
    )?;
    let changes = their_changes.len();
    writeln!(report, "Compared: {events} row events with {values} values, and {changes} schema changes.\n")?;
    ensure!(
        !differences.keys().any(|kind| kind.starts_with("**")) && events > STEPS,
        "differences without a reason in {events} events: {differences:#?}"
    );
    writeln!(report, "No other difference was seen. The time at which each engine wrote an event is not compared.\n")?;
    writeln!(report, "| difference | seen | the first |\n| --- | --- | --- |")?;
    for (kind, (example, count)) in differences {
        writeln!(report, "| {kind} | {count} | {} |", example.replace('|', "\\|").replace('\n', " "))?;
    }
    Ok(report)
}

/// Compares the `source` objects of two events. Fields in `explained` are compared elsewhere.
fn sources(ours: &Value, theirs: &Value, explained: &[&str], differ: &mut impl FnMut(String, String)) {
    const NAMES: [&str; 15] = [
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
    ];
    for name in NAMES {
        if ours[name] != theirs[name] && !explained.contains(&name) {
            differ(
                format!("**not explained**: `source.{name}`"),
                format!("{} here, {} there", ours[name], theirs[name]),
            );
        }
    }
    let (our_names, their_names) = (names(ours), names(theirs));
    if our_names != their_names {
        differ(
            "**not explained**: the fields of `source`".to_owned(),
            format!("{our_names:?} here, {their_names:?} there"),
        );
    }
}

fn names(object: &Value) -> Vec<String> {
    let mut names: Vec<String> = object.as_object().map(|object| object.keys().cloned().collect()).unwrap_or_default();
    names.sort();
    names
}

fn schema_changes(ours: &[Value], theirs: &[Value], differ: &mut impl FnMut(String, String)) {
    const NOT_PARSED: &str =
        "statements aren't parsed here: of a schema change `source.table` and `tableChanges` are empty";
    let text = |change: &Value| change["ddl"].as_str().unwrap_or_default().to_owned();
    let (truncations, ours): (Vec<&Value>, Vec<&Value>) =
        ours.iter().partition(|change| text(change).starts_with("TRUNCATE"));
    for truncation in truncations {
        let kind = "`TRUNCATE`: not there (an event of its own, which is left out by default); here a schema change";
        differ(kind.to_owned(), format!("`{}` here", text(truncation)));
    }
    if ours.len() != theirs.len() {
        differ("**not explained**: schema changes".to_owned(), format!("{} here, {} there", ours.len(), theirs.len()));
    }
    for (our, their) in ours.into_iter().zip(theirs) {
        let example = |name: &str| format!("{} here, {} there", our[name], their[name]);
        if our["schemaName"] != their["schemaName"] {
            differ("**not explained**: `schemaName` of a schema change".to_owned(), example("schemaName"));
        }
        let mut explained = vec!["table", "thread", "ts_us", "ts_ns"];
        let (our_us, their_us) = (&our["source"]["ts_us"], &their["source"]["ts_us"]);
        if our_us.as_i64().map(|us| us / 1000 * 1000) != their_us.as_i64() {
            differ("**not explained**: `source.ts_us`".to_owned(), format!("{our_us} here, {their_us} there"));
        } else if our_us != their_us {
            let kind = "`source.ts_us` and `ts_ns` of a schema change: of whole milliseconds there; here as of rows";
            differ(kind.to_owned(), format!("{our_us} here, {their_us} there"));
        }
        if their["databaseName"] == "" {
            differ(
                "`CREATE INDEX`: without a schema there; here with its table's schema".to_owned(),
                example("databaseName"),
            );
            explained.push("db");
        } else if our["databaseName"] != their["databaseName"] {
            differ("**not explained**: `databaseName` of a schema change".to_owned(), example("databaseName"));
        }
        if text(our) != text(their) {
            let is_comment = text(our).replace(" /* generated by server */", "") == text(their);
            let kind =
                if is_comment { "the server's own comment: not there; here" } else { "**not explained**: `ddl`" };
            differ(kind.to_owned(), example("ddl"));
        }
        let source = |event: &Value| format!("`{}` {}", text(event), event["source"]["table"]);
        if our["tableChanges"] != their["tableChanges"] {
            differ(NOT_PARSED.to_owned(), format!("{} here, {} there", source(our), source(their)));
        }
        if our["source"]["thread"] != their["source"]["thread"] {
            let threads = format!("{} here, {} there", our["source"]["thread"], their["source"]["thread"]);
            differ("`source.thread` of a schema change: null there; here the session".to_owned(), threads);
        }
        if names(our) != names(their) {
            let example = format!("{:?} here, {:?} there", names(our), names(their));
            differ("**not explained**: the fields of a schema change".to_owned(), example);
        }
        sources(&our["source"], &their["source"], &explained, differ);
    }
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

/// Returns why two values differ; for an unknown reason, the column's type.
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

/// Compares two row images, and returns the number of values.
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
