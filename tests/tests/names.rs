//! Schemas, tables and columns with almost any name: a dot in a name is a plain character wherever names are matched, joined or
//! written.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use mysql_async::prelude::Queryable;
use rowmill_tests::{Build, Engine, EngineConfig, MySql, Rig, Sqs, scratch, wait_for, whole_lines};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);
const SERVERS: [(&str, Build); 2] = [("mysql", Build::MySql), ("mariadb", Build::MariaDb("11.8"))];

/// Schemas and tables that differ only in the dot's place, and others with a meaning in SQL, patterns, URLs or JSON.
const NAMES: [(&str, &str); 10] = [
    ("my", "db.t"),
    ("my.db", "t"),
    ("my", "t"),
    ("my.db", "db.t"),
    ("a`b", "it's \"quoted\""),
    ("größe ☃", "❤ my table"),
    ("a/b?c#d%41", "[x]{y}*\\"),
    ("!shop", "a,b"),
    ("mydb", "t"),
    ("Shop", "Orders"),
];
const COLUMNS: [&str; 4] = ["i.d", "a`b \"c\"", "größe ☃", "select"];

fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

fn full_name((schema, table): (&str, &str)) -> String {
    format!("{}.{}", quoted(schema), quoted(table))
}

/// Quotes a pattern as a TOML string in one line.
fn toml(pattern: &str) -> String {
    format!("\"{}\"", pattern.replace('\\', "\\\\").replace('"', "\\\""))
}

async fn create(mysql: &MySql) -> anyhow::Result<()> {
    let mut conn = mysql.connect().await?;
    let columns = COLUMNS.map(|name| format!("{} INT", quoted(name))).join(", ");
    for name in NAMES {
        conn.query_drop(format!("CREATE DATABASE IF NOT EXISTS {}", quoted(name.0))).await?;
        let create = format!("CREATE TABLE {} ({columns}, PRIMARY KEY ({}))", full_name(name), quoted(COLUMNS[0]));
        conn.query_drop(create).await?;
    }
    conn.disconnect().await?;
    Ok(())
}

/// Inserts a row into each table; its key is the table's index.
async fn insert(mysql: &MySql) -> anyhow::Result<()> {
    let mut conn = mysql.connect().await?;
    for (index, name) in NAMES.into_iter().enumerate() {
        conn.query_drop(format!("INSERT INTO {} VALUES ({index}, 1, 2, 3)", full_name(name))).await?;
    }
    conn.disconnect().await?;
    Ok(())
}

fn row(index: usize) -> Value {
    let values = [index, 1, 2, 3];
    Value::Object(COLUMNS.iter().map(|name| (*name).to_owned()).zip(values.map(|value| json!(value))).collect())
}

/// Returns schema, table and row of a Debezium message.
fn change(message: &Value) -> (String, String, Value) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&message["source"]["db"]), text(&message["source"]["table"]), message["after"].clone())
}

fn expected(indexes: &[usize]) -> Vec<(String, String, Value)> {
    indexes.iter().map(|&index| (NAMES[index].0.to_owned(), NAMES[index].1.to_owned(), row(index))).collect()
}

/// Each pattern selects only its tables, with column names from the binlog and with looked-up ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patterns_match_schema_and_table_separately() -> anyhow::Result<()> {
    let lookups: &[&str] = &["--binlog-row-metadata=MINIMAL"];
    for ((server, build), options) in SERVERS.into_iter().flat_map(|server| [(server, &[][..]), (server, lookups)]) {
        let name = format!("patterns_match_schema_and_table_separately_{server}_{}", options.len());
        let rig = Rig::start(&name, build, options, "").await?;
        create(&rig.mysql).await?;
        rig.mysql.run("GRANT SELECT ON *.* TO rowmill@'%'").await?;
        let all: Vec<usize> = (0..NAMES.len()).collect();
        let exact = |index: usize| vec![full_name(NAMES[index])];
        let of = |patterns: &[&str]| patterns.iter().map(|&pattern| pattern.to_owned()).collect::<Vec<_>>();
        let mut cases = vec![
            (of(&["my.*"]), vec![0, 2]),
            (of(&["`my.db`.*"]), vec![1, 3]),
            (of(&[r"my\.db.*", "!*.`db.t`"]), vec![1]),
            (of(&["*.t"]), vec![1, 2, 8]),
            (of(&["my?db.*"]), vec![1, 3]),
            (of(&["*.*", "!my.*", "!Shop.*"]), vec![1, 3, 4, 5, 6, 7, 8]),
            (of(&["größe*.❤ ??*"]), vec![5]),
            (of(&["shop.*", "*.orders", "Shop.Orders"]), vec![9]),
            (of(&["*.*"]), all.clone()),
        ];
        cases.extend(all.iter().map(|&index| (exact(index), vec![index])));
        // One engine for each pattern, all at once.
        let mut engines = Vec::new();
        for (number, (patterns, _)) in cases.iter().enumerate() {
            let directory = rig.directory.join(number.to_string());
            std::fs::create_dir(&directory)?;
            let tables = patterns.iter().map(|pattern| toml(pattern)).collect::<Vec<_>>().join(", ");
            let more = "[sink.out]\ntype = \"file\"\npath = \"out.jsonl\"\n[schema_changes]\nsink = \"out\"\n";
            let config = EngineConfig::new(&directory, &rig.mysql, &format!("tables = [{tables}]"), more);
            engines.push((Engine::start_and_wait(&config).await?, config));
        }
        insert(&rig.mysql).await?;
        // Looked-up columns must still be those of the rows.
        let rows_end = rig.mysql.binlog_end().await?;
        for (engine, config) in &engines {
            wait_for("the rows are read", SOON, || async { Ok(config.has_reached(&rows_end)?.then_some(())) })
                .await
                .with_context(|| engine.log())?;
        }
        for name in NAMES {
            rig.mysql.run(&format!("ALTER TABLE {} COMMENT 'x'", full_name(name))).await?;
        }
        let end = rig.mysql.binlog_end().await?;
        for ((engine, config), (patterns, indexes)) in engines.into_iter().zip(&cases) {
            wait_for("all is read", SOON, || async { Ok(config.has_reached(&end)?.then_some(())) })
                .await
                .with_context(|| engine.log())?;
            engine.stop().await?;
            let lines = whole_lines(&config.directory.join("out.jsonl"))?;
            let messages: Vec<Value> = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
            let (schema_changes, rows): (Vec<&Value>, Vec<&Value>) =
                messages.iter().partition(|message| message["ddl"].is_string());
            let rows: Vec<_> = rows.into_iter().map(change).collect();
            assert_eq!(rows, expected(indexes), "{server} {options:?} {patterns:?}");
            // Schema changes are delivered for the schemas of selected tables, and for no others.
            let told = |index: &usize| {
                let (schema, table) = NAMES[*index];
                let names_it = format!("{}.{}", quoted(schema), quoted(table));
                let is_it = |change: &&&Value| {
                    // MariaDB's event has only the session's schema, and the session has none.
                    let is_of_schema = change["databaseName"] == schema || server == "mariadb";
                    is_of_schema && change["ddl"].as_str().unwrap_or_default().contains(&names_it)
                };
                schema_changes.iter().filter(is_it).count() == 1
            };
            assert!(indexes.iter().all(told), "{server} {patterns:?}: {schema_changes:?}");
            let schemas: Vec<&str> = indexes.iter().map(|&index| NAMES[index].0).collect();
            for change in schema_changes {
                let schema = change["databaseName"].as_str().unwrap_or_default();
                let may_be_any = patterns.len() > 1 || patterns[0].starts_with('*') || server == "mariadb";
                assert!(schemas.contains(&schema) || may_be_any, "{server} {patterns:?}: {change}");
            }
        }
    }
    Ok(())
}

/// On a server with case-insensitive names, patterns are case-insensitive, too: selections, routes and those of transforms.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_counts_as_on_the_server() -> anyhow::Result<()> {
    let build = Build::MariaDb("11.8");
    let options = ["--lower-case-table-names=1"];
    let rig = Rig::start("case_counts_as_on_the_server", build, &options, "tables = [\"Shop.Or*\"]").await?;
    let (right, wrong) = (rig.directory.join("right"), rig.directory.join("wrong"));
    let more = format!(
        "[sink.right]\ntype = \"file\"\npath = \"{}\"\n[sink.wrong]\ntype = \"file\"\npath = \"{}\"\n\
         [[route]]\ntables = [\"SHOP.`ORDERS`\"]\nsink = \"right\"\n[[route]]\ntables = [\"*.*\"]\nsink = \"wrong\"\n",
        right.display(),
        wrong.display()
    );
    let config = EngineConfig::new(&rig.directory, &rig.mysql, "tables = [\"Shop.Or*\"]", &more);
    let engine = Engine::start_and_wait(&config).await?;
    rig.mysql
        .run(
            "CREATE DATABASE Shop; CREATE TABLE Shop.Orders (id INT PRIMARY KEY); CREATE TABLE Shop.Lines (id INT); \
             INSERT INTO shop.orders VALUES (1); INSERT INTO SHOP.LINES VALUES (2); INSERT INTO Shop.ORDERS VALUES (3)",
        )
        .await?;
    rig.read_to_the_end(&engine).await?;
    engine.stop().await?;
    let lines = whole_lines(&right)?;
    let ids: Vec<Value> = lines
        .lines()
        .map(|line| Ok(serde_json::from_str::<Value>(line)?["after"]["id"].clone()))
        .collect::<Result<_, serde_json::Error>>()?;
    assert_eq!(ids, [1, 3]);
    assert_eq!(whole_lines(&wrong)?, "");
    Ok(())
}

/// Routes, attributes, message groups and queues of tables whose names differ only in dots.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_go_where_their_table_is_meant() -> anyhow::Result<()> {
    let directory = scratch("messages_go_where_their_table_is_meant");
    let mysql = MySql::start(&directory, &[]).await?;
    create(&mysql).await?;
    let sqs = Sqs::start(&directory).await?;
    let (one, others, of_table) =
        (sqs.create("one.fifo").await?, sqs.create("others").await?, sqs.create("my-t").await?);
    let letters = directory.join("letters");
    let queue = |name: &str, url: &str, more: &str| {
        let endpoint = sqs.endpoint();
        format!("[sink.{name}]\ntype = \"sqs\"\nqueue_url = \"{url}\"\nendpoint_url = \"{endpoint}\"\n{more}\n")
    };
    let route = |tables: &[&str], sink: &str, more: &str| {
        let tables = tables.iter().map(|pattern| toml(pattern)).collect::<Vec<_>>().join(", ");
        format!("[[route]]\ntables = [{tables}]\nsink = \"{sink}\"\n{more}\n")
    };
    let template = of_table.url.replace("my-t", "{schema}-{table}");
    let more = [
        queue("one", &one.url, "attributes = [\"table\"]"),
        queue("others", &others.url, "format = \"cloudevents\"\nattributes = [\"table\"]"),
        queue("tables", &template, "on_error = \"dead-letter\""),
        format!("[sink.dead]\ntype = \"file\"\npath = \"{}\"\n[dead_letter]\nsink = \"dead\"\n", letters.display()),
        route(&["my.`db.t`"], "one", "group = \"{schema}.{table}\""),
        route(&["my.t", "`my.db`.t", "*.a,b"], "tables", ""),
        route(&["*.*"], "others", ""),
    ];
    let config = EngineConfig::new(&directory, &mysql, "", &more.concat());
    let engine = Engine::start_and_wait(&config).await?;
    insert(&mysql).await?;
    let end = mysql.binlog_end().await?;
    wait_for("all is delivered", SOON, || async { Ok(config.has_reached(&end)?.then_some(())) })
        .await
        .with_context(|| engine.log())?;
    engine.stop().await?;

    let [message] = &one.receive_all(1, SOON).await?[..] else { panic!("one message") };
    assert_eq!(change(&serde_json::from_str(&message.body)?), expected(&[0])[0]);
    assert_eq!((message.group.as_str(), message.attributes["table"].as_str()), ("my.db.t", "my.`db.t`"));

    let [message] = &of_table.receive_all(1, SOON).await?[..] else { panic!("one message") };
    assert_eq!(change(&serde_json::from_str(&message.body)?), expected(&[2])[0]);

    // Each table's name is unique, whatever dots it has.
    let mut subjects = BTreeMap::new();
    for message in others.receive_all(6, SOON).await? {
        let body: Value = serde_json::from_str(&message.body)?;
        assert_eq!(body["subject"], message.attributes["table"].as_str());
        subjects.insert(body["data"]["after"]["i.d"].as_i64().context("an id")?, message.attributes["table"].clone());
    }
    let names = [
        (3, "`my.db`.`db.t`"),
        (4, "`a``b`.it's \"quoted\""),
        (5, "größe ☃.❤ my table"),
        (6, "a/b?c#d%41.[x]{y}*\\"),
        (8, "mydb.t"),
        (9, "Shop.Orders"),
    ];
    assert_eq!(subjects, BTreeMap::from(names.map(|(id, name)| (id, name.to_owned()))));

    // For names that no queue can have, each row becomes a dead letter with that reason.
    let letters = whole_lines(&letters)?;
    let letters: Vec<Value> = letters.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert_eq!(letters.len(), 2, "{letters:?}");
    for (letter, queue) in letters.iter().zip(["/my.db-t", "/%21shop-a%2Cb"]) {
        let error = letter["error"].as_str().unwrap_or_default();
        assert!(error.contains(queue) && error.contains("cannot use queue"), "{error}");
    }
    Ok(())
}
