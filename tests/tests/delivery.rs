//! Queues' answers to messages, and what the engine does then.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use mysql_async::prelude::Queryable;
use rowmill_tests::{Disk, Engine, EngineConfig, MySql, Process, Proxy, Queue, Received, Sqs, scratch, top};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);

/// A byte more than SQS's maximum message size.
const TOO_LARGE: usize = (1 << 20) + 1;

/// Inserts nine rows; the message of the fifth is too large.
async fn insert(mysql: &MySql) -> anyhow::Result<()> {
    mysql.run("CREATE SCHEMA shop; CREATE TABLE shop.notes (id INT PRIMARY KEY, note LONGTEXT)").await?;
    let mut conn = mysql.connect().await?;
    let mut transaction = conn.start_transaction(mysql_async::TxOpts::default()).await?;
    for id in 1..=9 {
        let note = "x".repeat(if id == 5 { TOO_LARGE } else { 10 });
        transaction.exec_drop("INSERT INTO shop.notes VALUES (?, ?)", (id, note)).await?;
    }
    transaction.commit().await?;
    conn.disconnect().await?;
    Ok(())
}

async fn ids(queue: &Queue) -> anyhow::Result<Vec<i64>> {
    let mut ids = Vec::new();
    loop {
        let some = queue.receive(Duration::from_secs(1)).await?;
        if some.is_empty() {
            return Ok(ids);
        }
        for message in some {
            let body: Value = serde_json::from_str(&message.body)?;
            ids.push(body["after"]["id"].as_i64().context("an id")?);
        }
    }
}

fn config(mysql: &MySql, directory: &Path, sqs: &Sqs, queue: &Queue, more: &str) -> EngineConfig {
    let sink = format!(
        "[sink.notes]\ntype = \"sqs\"\nqueue_url = \"{}\"\nendpoint_url = \"{}\"\n{more}\
         [[route]]\ntables = [\"shop.*\"]\nsink = \"notes\"\ngroup = \"all\"\n",
        queue.url,
        sqs.endpoint()
    );
    EngineConfig::new(directory, mysql, "start = \"earliest\"\ntables = [\"shop.*\"]", &sink)
}

/// Runs the engine until everything is delivered.
async fn deliver_all(mysql: &MySql, config: &EngineConfig) -> anyhow::Result<()> {
    let engine = Engine::start_and_wait(config).await?;
    let end = mysql.binlog_end().await?;
    rowmill_tests::wait_for("all is delivered", SOON, || async { Ok(config.has_reached(&end)?.then_some(())) })
        .await
        .with_context(|| engine.log())?;
    engine.stop().await
}

/// Silent connections are detected once: what one sink has waited for, others need not wait for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_connections_are_found_out_once() -> anyhow::Result<()> {
    let directory = scratch("dead_connections_are_found_out_once");
    let mysql = MySql::start(&directory, &[]).await?;
    mysql
        .run("CREATE SCHEMA shop; CREATE TABLE shop.a (id INT PRIMARY KEY); CREATE TABLE shop.b (id INT PRIMARY KEY)")
        .await?;
    let sqs = Sqs::start(&directory).await?;
    let proxy = Proxy::start(sqs.port()).await?;
    let (a, b) = (sqs.create("a").await?, sqs.create("b").await?);
    let sink = |name: &str, queue: &Queue| {
        let (url, port) = (&queue.url, proxy.port);
        format!(
            "[sink.{name}]\ntype = \"sqs\"\nqueue_url = \"{url}\"\nendpoint_url = \"http://127.0.0.1:{port}\"\n\
             [[route]]\ntables = [\"shop.{name}\"]\nsink = \"{name}\"\n"
        )
    };
    let sinks = [sink("a", &a), sink("b", &b)].concat();
    let engine =
        Engine::start_and_wait(&EngineConfig::new(&directory, &mysql, "tables = [\"shop.*\"]", &sinks)).await?;
    mysql.run("BEGIN; INSERT INTO shop.a VALUES (1); INSERT INTO shop.b VALUES (1); COMMIT").await?;
    anyhow::ensure!(a.receive_all(1, SOON).await?.len() == 1 && b.receive_all(1, SOON).await?.len() == 1);

    proxy.stall();
    mysql.run("INSERT INTO shop.a VALUES (2)").await?;
    anyhow::ensure!(a.receive_all(1, SOON).await?.len() == 1, "{}", engine.log());
    assert!(engine.log().contains("no answer in 15 seconds"), "{}", engine.log());
    mysql.run("INSERT INTO shop.b VALUES (2)").await?;
    anyhow::ensure!(b.receive_all(1, Duration::from_secs(5)).await?.len() == 1, "{}", engine.log());
    engine.stop().await
}

/// A rejected message becomes a dead letter, and does not block later messages of its group.
#[tokio::test]
async fn a_refused_message_is_a_dead_letter() -> anyhow::Result<()> {
    let directory = scratch("a_refused_message_is_a_dead_letter");
    let mysql = MySql::start(&directory, &[]).await?;
    let sqs = Sqs::start(&directory).await?;
    insert(&mysql).await?;
    for name in ["notes.fifo", "notes"] {
        let queue = sqs.create(name).await?;
        let (here, letters) = (directory.join(name), directory.join(format!("{name}.letters")));
        std::fs::create_dir_all(&here)?;
        let more = format!(
            "on_error = \"dead-letter\"\n[sink.dead]\ntype = \"file\"\npath = \"{}\"\n[dead_letter]\nsink = \"dead\"\n",
            letters.display()
        );
        let config = config(&mysql, &here, &sqs, &queue, &more);
        deliver_all(&mysql, &config).await?;

        let mut ids = ids(&queue).await?;
        if name == "notes" {
            ids.sort_unstable(); // a standard queue has no order
        }
        assert_eq!(ids, [1, 2, 3, 4, 6, 7, 8, 9], "{name}");
        let letters = std::fs::read_to_string(&letters)?;
        let letters: Vec<Value> = letters.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let [letter] = &letters[..] else { panic!("{} letters", letters.len()) };
        assert_eq!((&letter["stage"], &letter["name"]), (&"sink".into(), &"notes".into()));
        assert_eq!((&letter["code"], &letter["destination"]["sink"]), (&"too-large".into(), &"notes".into()));
        let error = letter["error"].as_str().unwrap_or_default();
        assert!(error.contains("the limit is 1048576"), "{error}");
        let body: Value = serde_json::from_str(letter["body"].as_str().context("the body as it was")?)?;
        assert_eq!(body["after"]["id"], 5);
        assert_eq!(letter["destination"]["group"], "all");
        let source = &letter["source"];
        assert_eq!((&source["file"], &source["pos"]), (&body["source"]["file"], &body["source"]["pos"]));
        let name = |key: &str| body["source"][key].as_str().unwrap_or_default();
        let table = format!("{}.{}", name("db"), name("table"));
        assert_eq!(source["table"], table);
    }
    Ok(())
}

/// Without a dead-letter sink the engine stops before the rejected message, and names it.
#[tokio::test]
async fn a_refused_message_stops_the_engine() -> anyhow::Result<()> {
    let directory = scratch("a_refused_message_stops_the_engine");
    let mysql = MySql::start(&directory, &[]).await?;
    let sqs = Sqs::start(&directory).await?;
    insert(&mysql).await?;
    let queue = sqs.create("notes.fifo").await?;
    let config = config(&mysql, &directory, &sqs, &queue, "");
    let mut engine = Engine::start(&config)?;
    let status = engine.end(SOON).await?;
    let log = engine.log();
    assert_eq!(status.code(), Some(1), "{log}");
    for words in [queue.url.as_str(), "message rejected", "group `all`", "on_error = \"dead-letter\""] {
        assert!(log.contains(words), "`{words}` isn't in {log}");
    }
    assert!(!config.has_reached(&mysql.binlog_end().await?)?, "the checkpoint is before it");
    Ok(())
}

/// Routes by operation; each queue has its own format, attributes, message groups and maximum message size.
#[tokio::test]
async fn queues_get_what_they_are_for() -> anyhow::Result<()> {
    let directory = scratch("queues_get_what_they_are_for");
    let mysql = MySql::start(&directory, &[]).await?;
    let sqs = Sqs::start(&directory).await?;
    let (changes, deleted) = (sqs.create_for("changes.fifo", 2048).await?, sqs.create("deleted").await?);
    let letters = directory.join("letters");
    let queue = |name: &str, queue: &Queue, more: &str| {
        let (url, endpoint) = (&queue.url, sqs.endpoint());
        format!("[sink.{name}]\ntype = \"sqs\"\nqueue_url = \"{url}\"\nendpoint_url = \"{endpoint}\"\n{more}\n")
    };
    let attributes = "attributes = [\"table\", \"operation\", \"position\", \"content-type\"]\n";
    let more = [
        queue("changes", &changes, &format!("format = \"row\"\non_error = \"dead-letter\"\n{attributes}")),
        queue("deleted", &deleted, "format = \"maxwell\""),
        format!("[sink.dead]\ntype = \"file\"\npath = \"{}\"\n[dead_letter]\nsink = \"dead\"\n", letters.display()),
        "[[route]]\ntables = [\"shop.*\"]\noperations = [\"delete\"]\nsink = \"deleted\"\ngroup = \"of-{table}\"\n"
            .to_owned(),
        "[[route]]\ntables = [\"shop.*\"]\nsink = \"changes\"\n".to_owned(),
    ];
    let config = EngineConfig::new(&directory, &mysql, "start = \"earliest\"\ntables = [\"shop.*\"]", &more.concat());
    let note = "x".repeat(3000);
    mysql
        .run(&format!(
            "CREATE SCHEMA shop; CREATE TABLE shop.notes (id INT PRIMARY KEY, note TEXT); INSERT INTO shop.notes VALUES (1, \
             'a'), (2, '{note}'), (3, 'c'); UPDATE shop.notes SET note = 'b' WHERE id = 1; DELETE FROM shop.notes WHERE id = 3"
        ))
        .await?;
    deliver_all(&mysql, &config).await?;

    let arrived = changes.receive_all(3, SOON).await?;
    let mut rows: Vec<(String, Value, String)> = Vec::new();
    for message in arrived {
        let body: Value = serde_json::from_str(&message.body)?;
        assert_eq!((&body["__table"], &body["__deleted"]), (&json!("notes"), &json!("false")));
        assert_eq!(message.attributes["table"], "shop.notes");
        assert_eq!(message.attributes["content-type"], "application/json");
        assert!(message.attributes["position"].matches(':').count() == 2, "{:?}", message.attributes);
        rows.push((message.group, json!([body["id"], body["note"]]), message.attributes["operation"].clone()));
    }
    rows.sort_by(|a, b| a.0.cmp(&b.0)); // there is no order between groups
    let expected = [(1, "a", "insert"), (1, "b", "update"), (3, "c", "insert")];
    let expected =
        expected.map(|(id, note, operation)| (format!("notes:{id}"), json!([id, note]), operation.to_owned()));
    assert_eq!(rows, expected);

    let [gone] = &deleted.receive_all(1, SOON).await?[..] else { panic!("one row was deleted") };
    let body: Value = serde_json::from_str(&gone.body)?;
    assert_eq!((&body["type"], &body["data"]), (&json!("delete"), &json!({ "id": 3, "note": "c" })));
    assert!(gone.attributes.is_empty());

    let letter: Value = serde_json::from_str(std::fs::read_to_string(&letters)?.trim_end())?;
    let error = letter["error"].as_str().unwrap_or_default();
    assert!(error.contains("the limit is 2048"), "{error}");
    assert_eq!(letter["destination"]["group"], "notes:2");
    Ok(())
}

/// The engine stops with an error when the checkpoint cannot be written; the next start continues at the last checkpoint.
#[tokio::test]
async fn a_checkpoint_that_cannot_be_written() -> anyhow::Result<()> {
    let directory = scratch("a_checkpoint_that_cannot_be_written");
    let mysql = MySql::start(&directory, &[]).await?;
    let (here, away, out) = (directory.join("here"), directory.join("away"), directory.join("out"));
    std::fs::create_dir(&here)?;
    let more = format!("[sink.out]\ntype = \"file\"\npath = \"{}\"\n", out.display());
    let config = EngineConfig::new(&here, &mysql, "tables = [\"shop.*\"]", &more);
    mysql.run("CREATE SCHEMA shop; CREATE TABLE shop.t (id INT PRIMARY KEY)").await?;
    let mut engine = Engine::start_and_wait(&config).await?;
    let insert = async |from: u32| {
        let rows: Vec<String> = (from..from + 100).map(|id| format!("({id})")).collect();
        mysql.run(&format!("INSERT INTO shop.t VALUES {}", rows.join(","))).await
    };
    insert(0).await?;
    std::fs::rename(&here, &away)?;
    insert(100).await?;
    let status = engine.end(SOON).await;
    std::fs::rename(&away, &here)?;
    let log = engine.log();
    assert_eq!(status?.code(), Some(1), "{log}");
    assert!(log.contains("checkpoint.json"), "{log}");

    insert(200).await?;
    deliver_all(&mysql, &config).await?;
    let mut ids = Vec::new();
    for line in std::fs::read_to_string(&out)?.lines() {
        ids.push(serde_json::from_str::<Value>(line)?["after"]["id"].as_i64().context("an id")?);
    }
    let arrived = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids, (0..300).collect::<Vec<_>>());
    println!("{} came twice", arrived - ids.len());
    Ok(())
}

/// On a full or read-only disk the engine stops with an error; the checkpoint stays whole, and the next start continues there.
#[tokio::test]
async fn a_full_disk_and_a_read_only_one() -> anyhow::Result<()> {
    let directory = scratch("a_full_disk_and_a_read_only_one");
    let disk = directory.join("disk");
    std::fs::create_dir(&disk)?;
    let Some(disk) = Disk::new(disk) else {
        println!("not shown: a file system can't be mounted here (root may)");
        return Ok(());
    };
    let mysql = MySql::start(&directory, &[]).await?;
    let out = directory.join("out");
    let more = format!("[sink.out]\ntype = \"file\"\npath = \"{}\"\n", out.display());
    let config = EngineConfig::new(&directory, &mysql, "tables = [\"shop.*\"]", &more);
    let path = |directory: &Path| format!("path = \"{}\"", directory.join("checkpoint.json").display());
    let config = EngineConfig { text: config.text.replace(&path(&directory), &path(disk.path())), ..config };
    mysql.run("CREATE SCHEMA shop; CREATE TABLE shop.t (id INT PRIMARY KEY)").await?;
    let checkpoint = || std::fs::read_to_string(disk.path().join("checkpoint.json"));
    let mut ids = 0;
    let mut insert = async || {
        let rows: Vec<String> = (ids..ids + 100).map(|id| format!("({id})")).collect();
        ids += 100;
        mysql.run(&format!("INSERT INTO shop.t VALUES {}", rows.join(","))).await
    };
    for is_full in [true, false] {
        let mut engine = Engine::start_and_wait(&config).await?;
        insert().await?;
        let (file, position) = mysql.binlog_end().await?;
        rowmill_tests::wait_for("a checkpoint", SOON, || async {
            let checkpoint: Value = serde_json::from_str(&checkpoint()?)?;
            Ok((checkpoint["file"] == file.as_str() && checkpoint["position"] == position).then_some(()))
        })
        .await?;
        let before = checkpoint()?;
        if is_full {
            disk.fill()?
        } else {
            disk.write_protect()?
        }
        insert().await?;
        let status = engine.end(SOON).await?;
        let log = engine.log();
        assert_eq!(status.code(), Some(1), "{log}");
        let why = if is_full { "No space left on device" } else { "Read-only file system" };
        assert!(log.contains("cannot write checkpoint") && log.contains(why), "{log}");
        assert_eq!(checkpoint()?, before);
        if is_full { disk.empty()? } else { disk.unprotect()? }
    }
    insert().await?;
    let engine = Engine::start_and_wait(&config).await?;
    let (file, position) = mysql.binlog_end().await?;
    rowmill_tests::wait_for("all is delivered", SOON, || async {
        let checkpoint: Value = serde_json::from_str(&checkpoint()?)?;
        Ok((checkpoint["file"] == file.as_str() && checkpoint["position"] == position).then_some(()))
    })
    .await?;
    engine.stop().await?;
    let mut arrived = Vec::new();
    for line in std::fs::read_to_string(&out)?.lines() {
        arrived.push(serde_json::from_str::<Value>(line)?["after"]["id"].as_i64().context("an id")?);
    }
    arrived.sort_unstable();
    arrived.dedup();
    assert_eq!(arrived, (0..500).collect::<Vec<_>>());
    Ok(())
}

/// An independent SQS implementation (moto), which also supports roles.
#[tokio::test]
async fn another_server_takes_all_in_order() -> anyhow::Result<()> {
    const ROWS: usize = 40;
    const CHANGES: usize = 6;
    let directory = scratch("another_server_takes_all_in_order");
    let mysql = MySql::start(&directory, &[]).await?;
    let sqs = Sqs::start_another(&directory).await?;
    mysql.run("CREATE SCHEMA shop; CREATE TABLE shop.t (id INT PRIMARY KEY, version INT)").await?;
    let rows: Vec<String> = (0..ROWS).map(|id| format!("({id}, 0)")).collect();
    mysql.run(&format!("INSERT INTO shop.t VALUES {}", rows.join(","))).await?;
    for _ in 1..CHANGES {
        mysql.run("UPDATE shop.t SET version = version + 1").await?;
    }
    let role = |account: &str| format!("role_arn = \"arn:aws:iam::{account}:role/rowmill\"\n");
    for name in ["t.fifo", "t"] {
        let queue = sqs.create(name).await?;
        let here = directory.join(name);
        std::fs::create_dir(&here)?;
        let more = format!(
            "attributes = [\"table\", \"position\"]\n{}",
            if name == "t" { role("123456789012") } else { String::new() }
        );
        let config = config(&mysql, &here, &sqs, &queue, &more);
        let config = EngineConfig { text: config.text.replace("group = \"all\"\n", ""), ..config };
        deliver_all(&mysql, &config).await?;
        let mut versions = std::collections::BTreeMap::<i64, Vec<i64>>::new();
        for message in queue.receive_all(ROWS * CHANGES, SOON).await? {
            let body: Value = serde_json::from_str(&message.body)?;
            let after = &body["after"];
            let (id, version) =
                (after["id"].as_i64().context("an id")?, after["version"].as_i64().context("a version")?);
            assert_eq!(message.attributes["table"], "shop.t");
            assert_eq!(message.group, if name == "t" { String::new() } else { format!("t:{id}") });
            versions.entry(id).or_default().push(version);
        }
        assert_eq!(versions.len(), ROWS, "{name}");
        for (id, mut versions) in versions {
            if name == "t" {
                versions.sort_unstable(); // a standard queue has no order
            }
            assert_eq!(versions, (0..CHANGES as i64).collect::<Vec<_>>(), "{name}, row {id}");
        }
    }
    // In the account of another role the queue does not exist.
    let config = config(&mysql, &directory, &sqs, &sqs.create("t").await?, &role("222222222222"));
    let mut engine = Engine::start(&config)?;
    let status = engine.end(SOON).await?;
    assert!(status.code() == Some(1) && engine.log().contains("cannot use queue"), "{}", engine.log());
    Ok(())
}

/// Queued rows of one table and message group are aggregated: a backlog needs few requests, in order and without duplicates,
/// and is compressed if configured.
#[tokio::test]
async fn rows_that_wait_are_packed() -> anyhow::Result<()> {
    const ROWS: i64 = 20_000;
    let directory = scratch("rows_that_wait_are_packed");
    let mysql = MySql::start(&directory, &[]).await?;
    let sqs = Sqs::start(&directory).await?;
    mysql.run("CREATE SCHEMA shop; CREATE TABLE shop.t (id INT PRIMARY KEY, note TEXT)").await?;
    for from in (0..ROWS).step_by(1000) {
        let rows: Vec<String> = (from..from + 1000).map(|id| format!("({id}, 'note {id}')")).collect();
        mysql.run(&format!("INSERT INTO shop.t VALUES {}", rows.join(","))).await?;
    }
    let ways = [
        ("plain.fifo", "aggregate = \"array\"\naggregate_max_bytes = 20000\n"),
        ("plain", "aggregate = \"ndjson\"\naggregate_max_bytes = 20000\n"),
        ("zstd.fifo", "aggregate = \"array\"\naggregate_max_bytes = 100000\ncompression = \"zstd\"\n"),
        ("gzip", "aggregate = \"ndjson\"\naggregate_max_bytes = 100000\ncompression = \"gzip\"\n"),
    ];
    for (name, pack) in ways {
        let queue = sqs.create(name).await?;
        let here = directory.join(name);
        std::fs::create_dir(&here)?;
        let config = config(&mysql, &here, &sqs, &queue, &format!("format = \"row\"\n{pack}"));
        deliver_all(&mysql, &config).await?;
        let (mut ids, mut messages) = (Vec::new(), 0);
        loop {
            let some = queue.receive(Duration::from_secs(1)).await?;
            if some.is_empty() {
                break;
            }
            for message in some {
                messages += 1;
                assert!(message.body.len() <= 20_000, "{} bytes", message.body.len());
                let text = unpacked(&message)?;
                let rows: Vec<Value> = match pack.contains("array") {
                    true => serde_json::from_str(&text)?,
                    false => text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?,
                };
                ids.extend(rows.iter().filter_map(|row| row["id"].as_i64()));
            }
        }
        if !name.ends_with(".fifo") {
            ids.sort_unstable(); // a standard queue has no order
        }
        assert!(ids.iter().copied().eq(0..ROWS), "{name}: {} rows", ids.len());
        assert!(messages < ROWS / 50, "{messages} messages");
        println!("{name}: {ROWS} rows in {messages} messages");
    }
    Ok(())
}

/// Returns a body without its compression.
fn unpacked(message: &Received) -> anyhow::Result<String> {
    let Some(encoding) = message.attributes.get("content-encoding") else { return Ok(message.body.clone()) };
    let bytes = base64_simd::STANDARD.decode_to_vec(message.body.as_bytes())?;
    Ok(match encoding.as_str() {
        "zstd" => String::from_utf8(zstd::decode_all(&bytes[..])?)?,
        "gzip" => std::io::read_to_string(flate2::read::GzDecoder::new(&bytes[..]))?,
        other => panic!("encoding {other}"),
    })
}

/// A message larger than the queue's maximum goes to S3, where consumers with AWS's extended client library find it.
#[tokio::test]
async fn large_messages_go_to_a_bucket() -> anyhow::Result<()> {
    let directory = scratch("large_messages_go_to_a_bucket");
    let mysql = MySql::start(&directory, &[]).await?;
    let sqs = Sqs::start_another(&directory).await?;
    let lengths = [10, 3000, 5000, 1_500_000, 20, 6_000_000];
    mysql.run("CREATE SCHEMA shop; CREATE TABLE shop.notes (id INT PRIMARY KEY, note LONGTEXT)").await?;
    for (id, length) in lengths.iter().enumerate() {
        mysql.run(&format!("INSERT INTO shop.notes VALUES ({id}, REPEAT('x', {length}))")).await?;
    }
    let consumer = |arguments: &[&str]| -> anyhow::Result<String> {
        let output = Command::new(top().join("target/tools/moto/bin/python"))
            .arg(top().join("tests/tests/extended_client.py"))
            .arg(sqs.endpoint())
            .args(arguments)
            .output()?;
        anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    };
    let large = format!(
        "large_messages = {{ bucket = \"large\", prefix = \"rows/\", endpoint_url = \"{}\" }}\n",
        sqs.endpoint()
    );
    for (name, more) in [("notes.fifo", "attributes = [\"table\"]\n"), ("notes", "")] {
        let queue = sqs.create_for(name, 4096).await?;
        let here = directory.join(name);
        std::fs::create_dir(&here)?;
        let config = config(&mysql, &here, &sqs, &queue, &format!("{large}{more}"));
        if name == "notes.fifo" {
            let mut engine = Engine::start(&config)?;
            let status = engine.end(SOON).await?;
            let log = engine.log();
            assert!(status.code() == Some(1) && log.contains("cannot use bucket `large`: it does not exist"), "{log}");
            consumer(&["bucket", "large"])?;
        }
        deliver_all(&mysql, &config).await?;
        let said = consumer(&["queue", &queue.url, &lengths.len().to_string()])?;
        let mut lines: Vec<&str> = said.lines().collect();
        // The library deletes the objects that it has read.
        assert_eq!(lines.pop(), Some("objects 0"), "{said}");
        if name == "notes" {
            lines.sort_unstable(); // a standard queue has no order
        }
        let expected: Vec<String> = (0..).zip(lengths).map(|(id, length): (i32, _)| format!("{id} {length}")).collect();
        assert_eq!(lines, expected, "{name}");
    }
    Ok(())
}

/// Each table has its own queue, opened at its first row; a table without a queue halts the engine, or its rows become dead
/// letters.
#[tokio::test]
async fn each_table_has_its_queue() -> anyhow::Result<()> {
    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let directory = scratch("each_table_has_its_queue");
    let mysql = MySql::start(&directory, &[]).await?;
    let sqs = Sqs::start(&directory).await?;
    let (orders, payments) = (sqs.create("shop-orders.fifo").await?, sqs.create("shop-payments.fifo").await?);
    let url = orders.url.replace("shop-orders", "{schema}-{table}");
    let letters = directory.join("letters");
    let source = "start = \"earliest\"\ntables = [\"shop.*\"]";
    let sink = |on_error: &str| {
        format!(
            "[sink.tables]\ntype = \"sqs\"\nqueue_url = \"{url}\"\nendpoint_url = \"{}\"\non_error = \"{on_error}\"\n\
             attributes = [\"traceparent\"]\n[sink.dead]\ntype = \"file\"\npath = \"{}\"\n[dead_letter]\nsink = \"dead\"\n\
             [[route]]\ntables = [\"shop.*\"]\nsink = \"tables\"\n",
            sqs.endpoint(),
            letters.display()
        )
    };
    mysql.run("CREATE SCHEMA shop").await?;
    for table in ["orders", "payments", "others"] {
        mysql.run(&format!("CREATE TABLE shop.{table} (id INT PRIMARY KEY, traceparent VARCHAR(55))")).await?;
    }
    for id in 0..200 {
        // An invalid trace context makes no attribute, and stops nothing.
        let trace = match id % 4 {
            0 | 2 => format!("'{TRACE}'"),
            1 => "NULL".to_owned(),
            _ => "CHAR(1, 2)".to_owned(),
        };
        let insert = |table: &str| format!("INSERT INTO shop.{table} VALUES ({id}, {trace})");
        mysql.run(&[insert("orders"), insert("payments")].join("; ")).await?;
    }
    mysql.run("INSERT INTO shop.others VALUES (7, NULL)").await?;

    let config = EngineConfig::new(&directory, &mysql, source, &sink("halt"));
    let mut engine = Engine::start_and_wait(&config).await?;
    let status = engine.end(SOON).await?;
    let (log, missing) = (engine.log(), payments.url.replace("shop-payments", "shop-others"));
    assert!(
        status.code() == Some(1) && log.contains(&format!("cannot use queue {missing}: it does not exist")),
        "{log}"
    );
    assert!(!config.has_reached(&mysql.binlog_end().await?)?, "the checkpoint is before it");

    let config = EngineConfig::new(&directory, &mysql, source, &sink("dead-letter"));
    deliver_all(&mysql, &config).await?;
    for queue in [&orders, &payments] {
        // The FIFO queue drops duplicates.
        let arrived = queue.receive_all(200, SOON).await?;
        let mut ids = Vec::new();
        for message in arrived {
            let body: Value = serde_json::from_str(&message.body)?;
            let id = body["after"]["id"].as_i64().context("an id")?;
            let trace = message.attributes.get("traceparent").map(String::as_str);
            assert_eq!(trace, (id % 2 == 0).then_some(TRACE), "{id}");
            ids.push(id);
        }
        ids.sort_unstable(); // there is no order between groups
        assert_eq!(ids, (0..200).collect::<Vec<_>>(), "{}", queue.url);
    }
    let letter: Value = serde_json::from_str(std::fs::read_to_string(&letters)?.trim_end())?;
    assert!(letter["error"].as_str().is_some_and(|error| error.contains(&missing)), "{letter}");
    let body: Value = serde_json::from_str(letter["body"].as_str().context("the body as it was")?)?;
    assert_eq!(body["after"]["id"], 7);
    Ok(())
}

/// Requests verified by another implementation of the signature, whose clock differs: the engine corrects for the difference.
#[tokio::test]
async fn requests_are_signed_as_others_sign_them() -> anyhow::Result<()> {
    let directory = scratch("requests_are_signed_as_others_sign_them");
    let mysql = MySql::start(&directory, &[]).await?;
    mysql.run("CREATE SCHEMA shop; CREATE TABLE shop.notes (id INT PRIMARY KEY, note TEXT)").await?;
    mysql.run("INSERT INTO shop.notes VALUES (1, 'größe'), (2, '\"'), (3, NULL)").await?;
    let mut server = rowmill_tests::command(top().join("target/tools/moto/bin/python"));
    let server = server.arg(top().join("tests/tests/verifying_endpoint.py"));
    let log = directory.join("endpoint.log");
    let _server = Process::start(server, &log)?;
    let said = || async { Ok::<String, anyhow::Error>(std::fs::read_to_string(&log)?) };
    let port = rowmill_tests::wait_for("the endpoint", SOON, || async {
        Ok(said().await?.split_once('\n').map(|(port, _)| port.to_owned()))
    });
    let endpoint = format!("http://127.0.0.1:{}", port.await?);
    let sink =
        format!("[sink.notes]\ntype = \"sqs\"\nqueue_url = \"{endpoint}/1/q ü\"\nendpoint_url = \"{endpoint}\"\n");
    let mut config = EngineConfig::new(&directory, &mysql, "start = \"earliest\"\ntables = [\"shop.*\"]", &sink);
    config.variables.push(("AWS_SESSION_TOKEN", "a session's token".to_owned()));
    deliver_all(&mysql, &config).await?;
    let said = said().await?;
    let said: Vec<&str> = said.lines().skip(1).collect();
    assert_eq!(said, ["Signature expired", "took 3"]);
    Ok(())
}
