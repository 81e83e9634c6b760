//! The main job, end to end: a real MySQL, WebAssembly transforms and SQS queues.

use std::collections::BTreeMap;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use rowmill_tests::{Engine, EngineConfig, MySql, Queue, Received, Sqs, scratch, top};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);

fn sqs_sink(name: &str, queue: &Queue, sqs: &Sqs) -> String {
    format!("[sink.{name}]\ntype = \"sqs\"\nqueue_url = \"{}\"\nendpoint_url = \"{}\"\n", queue.url, sqs.endpoint())
}

fn body(received: &Received) -> Value {
    serde_json::from_str(&received.body).expect("bodies are JSON")
}

/// Rows pass both example transforms, to a FIFO and to a standard queue.
#[tokio::test]
async fn rows_are_filtered_masked_and_routed() -> anyhow::Result<()> {
    let directory = scratch("rows_are_filtered_masked_and_routed");
    let mysql = MySql::start(&directory, &[]).await?;
    let sqs = Sqs::start(&directory).await?;
    let orders = sqs.create("orders.fifo").await?;
    let management = sqs.create("order-management").await?;
    mysql
        .run(
            "CREATE DATABASE shop; CREATE TABLE shop.orders (id INT PRIMARY KEY, status VARCHAR(20), email VARCHAR(80)); \
             CREATE TABLE shop.customers (id INT PRIMARY KEY, email VARCHAR(80)); \
             CREATE TABLE shop.audit (id INT PRIMARY KEY)",
        )
        .await?;

    let plugins = top().join("plugins");
    let more = format!(
        "[plugins]\ndir = \"{}\"\n{}{}[[route]]\ntables = [\"shop.*\"]\nsink = \"orders\"\n",
        plugins.display(),
        sqs_sink("orders", &orders, &sqs),
        sqs_sink("order-management", &management, &sqs)
    );
    let config = EngineConfig::new(&directory, &mysql, "tables = [\"shop.*\", \"!shop.audit\"]", &more);
    let engine = Engine::start_and_wait(&config).await?;
    mysql
        .run(
            "BEGIN; INSERT INTO shop.orders VALUES (1, 'new', 'Ann@Example.com'), (2, 'paid', NULL); \
             INSERT INTO shop.audit VALUES (1); COMMIT; UPDATE shop.orders SET status = 'paid' WHERE id = 1; \
             UPDATE shop.orders SET email = 'x' WHERE id = 1; DELETE FROM shop.orders; \
             INSERT INTO shop.customers VALUES (7, 'bob@example.com'); \
             UPDATE shop.customers SET email = 'BOB2@example.com'; DELETE FROM shop.customers",
        )
        .await?;

    let paid = management.receive_all(2, SOON).await?;
    let mut paid: Vec<Value> = paid.iter().map(body).collect();
    paid.sort_by_key(|order| order["after"]["id"].as_i64());
    assert_eq!(paid.len(), 2);
    assert_eq!((&paid[0]["op"], &paid[0]["before"]["status"]), (&json!("u"), &json!("new")));
    let masked = json!(sha256("ann@example.com"));
    assert_eq!((&paid[0]["before"]["email"], &paid[0]["after"]["email"]), (&masked, &masked));
    assert_eq!((&paid[1]["op"], &paid[1]["after"]["email"]), (&json!("c"), &Value::Null));

    let customers = orders.receive_all(3, SOON).await?;
    let operations: Vec<Value> = customers.iter().map(|message| body(message)["op"].clone()).collect();
    assert_eq!(operations, ["c", "u", "d"], "in order within the key's group");
    assert!(customers.iter().all(|message| message.group == "customers:7"), "{customers:?}");
    assert_eq!(body(&customers[0])["after"]["email"], json!(sha256("bob@example.com")));
    assert_eq!(body(&customers[1])["after"]["email"], json!(sha256("bob2@example.com")));
    assert_eq!(body(&customers[2])["before"]["email"], json!(sha256("bob2@example.com")));
    engine.stop().await
}

/// Hashes a text by the system's own tool, which is independent of the plugin.
fn sha256(text: &str) -> String {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sha256sum");
    child.stdin.take().expect("piped").write_all(text.as_bytes()).expect("written");
    let output = child.wait_with_output().expect("its output");
    String::from_utf8_lossy(&output.stdout)[..64].to_owned()
}

/// Every delivered value equals the result of SELECT.
#[tokio::test]
async fn values_are_what_select_says() -> anyhow::Result<()> {
    let directory = scratch("values_are_what_select_says");
    let mysql = MySql::start(&directory, &[]).await?;
    let columns = [
        ("ti", "TINYINT", "-128"),
        ("tu", "TINYINT UNSIGNED", "255"),
        ("si", "SMALLINT", "-32768"),
        ("mi", "MEDIUMINT", "-8388608"),
        ("mu", "MEDIUMINT UNSIGNED", "16777215"),
        ("i", "INT", "-2147483648"),
        ("iu", "INT UNSIGNED", "4294967295"),
        ("bi", "BIGINT", "-9223372036854775808"),
        ("bu", "BIGINT UNSIGNED", "18446744073709551615"),
        ("y", "YEAR", "2026"),
        ("yu", "INT UNSIGNED", "4000000000"), // after a YEAR, which counts as a signed column
        ("f", "FLOAT", "0.1"),
        ("d", "DOUBLE", "1.5e-300"),
        ("d1", "DECIMAL(12,2)", "-12.50"),
        ("d2", "DECIMAL(65,30)", "-12345678901234567890123456789012345.123456789012345678901234567890"),
        ("d3", "DECIMAL(10,0)", "1234567890"),
        ("d4", "DECIMAL(30,30)", "0.000000000000000000000000000001"),
        ("c", "CHAR(10)", "'héllo'"),
        ("v", "VARCHAR(300)", "'a\"b\\\\c\\n😀'"),
        ("l", "VARCHAR(50) CHARACTER SET latin1", "'café €'"),
        ("t", "LONGTEXT", "REPEAT('x', 70000)"),
        ("da", "DATE", "'2026-02-28'"),
        ("t0", "TIME", "'-838:59:59'"),
        ("t3", "TIME(3)", "'-00:00:00.123'"),
        ("t6", "TIME(6)", "'23:59:59.999999'"),
        ("dt", "DATETIME", "'1000-01-01 00:00:00'"),
        ("dt1", "DATETIME(1)", "'2026-11-23 10:11:12.3'"),
        ("dt6", "DATETIME(6)", "'9999-12-31 23:59:59.999999'"),
        ("ts", "TIMESTAMP NULL", "'2001-09-09 01:46:40'"),
        ("ts4", "TIMESTAMP(4) NULL", "'2026-11-23 10:11:12.1234'"),
        ("e", "ENUM('a', 'b,c', 'é')", "'é'"),
        ("s", "SET('x', 'y', 'z')", "'x,z'"),
        ("s0", "SET('x', 'y')", "''"),
        (
            "j",
            "JSON",
            "'{\"b\": [1, -2, 3.5, true, null, \"t\\\\u0001é\"], \"a\": {\"n\": 18446744073709551615, \"e\": 1e100}}'",
        ),
        (
            "j2",
            "JSON",
            "JSON_OBJECT('d', CAST(1.50 AS DECIMAL(5,2)), 't', CAST('2026-11-23 10:00:00.5' AS DATETIME(6)), 'x', TIME'10:11:12', 'y', DATE'2026-11-23')",
        ),
        ("n", "VARCHAR(10)", "NULL"),
        ("vb", "VARBINARY(10)", "x'00ff00'"),
        ("bn", "BINARY(4)", "x'6100'"),
        ("bl", "BLOB", "x'0102'"),
        ("b1", "BIT(1)", "b'1'"),
        ("b10", "BIT(10)", "b'1000000010'"),
    ];
    let declared: Vec<String> = columns.iter().map(|(name, kind, _)| format!("`{name}` {kind}")).collect();
    let values: Vec<&str> = columns.iter().map(|(_, _, value)| *value).collect();
    let mut conn = mysql.connect().await?;
    conn.query_drop("SET time_zone = '+00:00'").await?;
    conn.query_drop("CREATE DATABASE v").await?;
    conn.query_drop(format!("CREATE TABLE v.v (id INT PRIMARY KEY, {})", declared.join(", "))).await?;

    let out = directory.join("out.jsonl");
    let more = format!("[sink.out]\ntype = \"file\"\npath = \"{}\"\n", out.display());
    let config = EngineConfig::new(&directory, &mysql, "tables = [\"v.*\"]", &more);
    let engine = Engine::start_and_wait(&config).await?;
    conn.query_drop(format!("INSERT INTO v.v VALUES (1, {})", values.join(", "))).await?;
    // In a compressed transaction, and a row of NULLs.
    conn.query_drop("SET SESSION binlog_transaction_compression = ON").await?;
    conn.query_drop("INSERT INTO v.v (id) VALUES (2), (3)").await?;
    conn.query_drop("DELETE FROM v.v WHERE id = 3").await?;

    let lines = rowmill_tests::wait_for("rows arrive", SOON, || {
        let text = rowmill_tests::whole_lines(&out);
        async move { text.map(|text| (text.lines().count() >= 4).then_some(text)) }
    })
    .await?;
    let rows: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let after = &rows[0]["after"];

    for (name, kind, _) in columns {
        let got = &after[name];
        // The client's text of the value, in the envelope's form.
        let expression = match kind.split(['(', ' ']).next().unwrap_or(kind) {
            "BIT" => format!("`{name}` + 0"),
            "VARBINARY" | "BINARY" | "BLOB" => format!("TO_BASE64(`{name}`)"),
            _ => format!("CAST(`{name}` AS CHAR)"),
        };
        let select = format!("SELECT {expression} FROM v.v WHERE id = 1");
        let expected: Option<String> = conn.query_first(select).await?.flatten();
        let got_text = match got {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        };
        let expected = match kind.split(['(', ' ']).next().unwrap_or(kind) {
            "DATE" | "TIME" => expected.map(|text| format!("{text}Z")),
            "DATETIME" | "TIMESTAMP" => expected.map(|text| format!("{}Z", text.replace(' ', "T"))),
            "BIT" => Some(if name == "b1" { "true".to_owned() } else { "AgI=".to_owned() }),
            _ => expected,
        };
        match kind {
            "FLOAT" | "DOUBLE" => {
                let number = |text: Option<String>| text.expect("a number").parse::<f64>().expect("a number");
                assert_eq!(number(got_text), number(expected), "{name}");
            }
            _ => assert_eq!(got_text, expected, "column {name} {kind}"),
        }
    }
    let nulls: BTreeMap<&str, &Value> = columns.iter().map(|(name, ..)| (*name, &rows[1]["after"][*name])).collect();
    assert!(nulls.values().all(|value| value.is_null()), "{nulls:?}");
    assert_eq!((&rows[3]["op"], &rows[3]["before"]["id"]), (&json!("d"), &json!(3)));
    assert_eq!(rows[0]["source"]["table"], json!("v"));
    engine.stop().await
}

/// A stop in the middle of a transaction much larger than a batch: the engine continues at that row.
#[tokio::test]
async fn a_stop_within_a_transaction_repeats_nothing() -> anyhow::Result<()> {
    let directory = scratch("a_stop_within_a_transaction_repeats_nothing");
    let mysql = MySql::start(&directory, &[]).await?;
    mysql.run("CREATE DATABASE s; CREATE TABLE s.s (id INT PRIMARY KEY, pad VARCHAR(200))").await?;
    let out = directory.join("out.jsonl");
    let more = format!("[in_flight]\nmax_rows = 50\n[sink.out]\ntype = \"file\"\npath = \"{}\"\n", out.display());
    let config = EngineConfig::new(&directory, &mysql, "", &more);
    Engine::start_and_wait(&config).await?.stop().await?;
    let rows = 20_000;
    let mut conn = mysql.connect().await?;
    conn.query_drop("SET SESSION cte_max_recursion_depth = 100000").await?;
    conn.query_drop(format!(
        "INSERT INTO s.s WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) SELECT i, REPEAT('x', 200) FROM n"
    ))
    .await?;

    let count = || anyhow::Ok(rowmill_tests::whole_lines(&out)?.lines().count());
    let mut stops_within = 0;
    while count()? < rows {
        // With so few rows in flight the transaction takes seconds: the first stops are within it.
        let enough = if stops_within < 3 { count()? + 1 } else { rows };
        let engine = Engine::start_and_wait(&config).await?;
        rowmill_tests::wait_for("rows arrive", Duration::from_secs(60), || {
            let now = count();
            async move { now.map(|now| (now >= enough).then_some(())) }
        })
        .await?;
        engine.stop().await?;
        let checkpoint = std::fs::read_to_string(config.checkpoint())?;
        stops_within += usize::from(checkpoint.contains("past"));
    }
    assert!(stops_within > 0, "no stop was within the transaction");
    let text = std::fs::read_to_string(&out)?;
    let ids: Vec<i64> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["after"]["id"].as_i64().expect("an id"))
        .collect();
    assert!(ids.iter().copied().eq(1..=rows as i64), "each row once, in order");
    Ok(())
}
