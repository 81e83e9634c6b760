//! Outages of queues: unreachable, distant and refusing ones, and what happens to other queues meanwhile.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rowmill_tests::{
    Engine, EngineConfig, MySql, Proxy, Queue, Sqs, accepted, log_lines, scratch, scripted_endpoint, wait_for,
};
use serde_json::json;

const SOON: Duration = Duration::from_secs(30);
const SOURCE: &str = "start = \"earliest\"\ntables = [\"shop.*\"]";

fn sink(name: &str, queue: &Queue, port: u16) -> String {
    format!(
        "[sink.{name}]\ntype = \"sqs\"\nqueue_url = \"{}\"\nendpoint_url = \"http://127.0.0.1:{port}\"\n",
        queue.url
    )
}

async fn tables(mysql: &MySql, tables: &[&str]) -> anyhow::Result<()> {
    mysql.run("CREATE SCHEMA shop").await?;
    for table in tables {
        mysql.run(&format!("CREATE TABLE shop.{table} (id INT AUTO_INCREMENT PRIMARY KEY, note VARCHAR(200))")).await?;
    }
    Ok(())
}

/// After the queue's return delivery resumes within two seconds, however long the outage was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delivery_resumes_within_two_seconds() -> anyhow::Result<()> {
    let directory = scratch("delivery_resumes_within_two_seconds");
    let mysql = MySql::start(&directory, &[]).await?;
    tables(&mysql, &["a"]).await?;
    let sqs = Sqs::start(&directory).await?;
    let queue = sqs.create("a").await?;
    let proxy = Proxy::start(sqs.port()).await?;
    let config = EngineConfig::new(&directory, &mysql, SOURCE, &sink("a", &queue, proxy.port));
    let engine = Engine::start_and_wait(&config).await?;
    mysql.run("INSERT INTO shop.a (note) VALUES ('before')").await?;
    queue.receive_all(1, SOON).await?;

    proxy.refuse(true);
    mysql.run("INSERT INTO shop.a (note) VALUES ('meanwhile')").await?;
    tokio::time::sleep(Duration::from_secs(25)).await;
    proxy.refuse(false);
    let back = Instant::now();
    let arrived = queue.receive(Duration::from_secs(20)).await?;
    let took = back.elapsed();
    anyhow::ensure!(arrived.len() == 1, "{}", engine.log());
    assert!(took < Duration::from_secs(2), "{took:?}: {}", engine.log());
    // The log says the reason in words, and not at each attempt.
    let log = engine.log();
    let said: Vec<&str> = log.lines().filter(|line| line.contains("not accepted")).collect();
    assert!((1..=8).contains(&said.len()), "{log}");
    assert!(!log.contains("DispatchFailure") && said.iter().all(|line| line.len() < 400), "{log}");
    assert!(log.contains(log_lines::ACCEPTED_AGAIN), "{log}");
    engine.stop().await
}

/// Other sinks' rows are delivered during one sink's outage, within the in-flight budget.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_queue_stops_no_other() -> anyhow::Result<()> {
    const ROWS: usize = 20_000;
    let directory = scratch("a_stalled_queue_stops_no_other");
    let mysql = MySql::start(&directory, &[]).await?;
    tables(&mysql, &["a", "b"]).await?;
    let sqs = Sqs::start(&directory).await?;
    let a = sqs.create("a").await?;
    let proxy = Proxy::start(sqs.port()).await?;
    let count = Arc::new(AtomicUsize::new(0));
    let b = {
        let count = Arc::clone(&count);
        scripted_endpoint(move |_, request| {
            count.fetch_add(request["Entries"].as_array().map_or(0, Vec::len), Ordering::Relaxed);
            accepted(request)
        })
        .await?
    };
    let sinks = format!(
        "{}[sink.b]\ntype = \"sqs\"\nqueue_url = \"http://127.0.0.1:{b}/1/b\"\nendpoint_url = \"http://127.0.0.1:{b}\"\n[[route]]\ntables = [\"shop.a\"]\nsink = \
         \"a\"\n[[route]]\ntables = [\"shop.b\"]\nsink = \"b\"\n",
        sink("a", &a, proxy.port)
    );
    let config = EngineConfig::new(&directory, &mysql, SOURCE, &sinks);
    let engine = Engine::start_and_wait(&config).await?;
    proxy.refuse(true);
    for _ in 0..ROWS / 1000 {
        let values = vec!["('some text of a row')"; 1000].join(", ");
        mysql
            .run(&format!("INSERT INTO shop.a (note) VALUES {values}; INSERT INTO shop.b (note) VALUES {values}"))
            .await?;
    }
    wait_for("the rows of the other sink", SOON, || async {
        Ok((count.load(Ordering::Relaxed) >= ROWS).then_some(()))
    })
    .await
    .map_err(|error| error.context(format!("{}; {}", count.load(Ordering::Relaxed), engine.log())))?;
    proxy.refuse(false);
    a.receive_all(ROWS, SOON * 4).await?;
    engine.stop().await
}

/// Without an `endpoint_url`, requests go to the host of the queue's URL.
#[tokio::test]
async fn the_urls_host_is_asked() -> anyhow::Result<()> {
    let directory = scratch("the_urls_host_is_asked");
    let mysql = MySql::start(&directory, &[]).await?;
    tables(&mysql, &["a"]).await?;
    mysql.run("INSERT INTO shop.a (note) VALUES ('one')").await?;
    let hosts: Arc<Mutex<Vec<String>>> = Arc::default();
    let port = {
        let hosts = Arc::clone(&hosts);
        scripted_endpoint(move |head, request| {
            let host = head.lines().find_map(|line| line.to_lowercase().strip_prefix("host: ").map(str::to_owned));
            hosts.lock().expect("no panic").extend(host);
            accepted(request)
        })
        .await?
    };
    let sink = format!("[sink.a]\ntype = \"sqs\"\nqueue_url = \"http://127.0.0.1:{port}/1/a\"\n");
    let config = EngineConfig::new(&directory, &mysql, SOURCE, &sink);
    let engine = Engine::start_and_wait(&config).await?;
    wait_for("the message", SOON, || async { Ok((!hosts.lock().expect("no panic").is_empty()).then_some(())) }).await?;
    assert_eq!(*hosts.lock().expect("no panic"), [format!("127.0.0.1:{port}")]);
    engine.stop().await
}

/// Starts an endpoint that accepts only the newest key; returns its port, and the number of accepted messages.
async fn endpoint_of_key(newest: Arc<Mutex<&'static str>>) -> anyhow::Result<(u16, Arc<AtomicUsize>)> {
    let taken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    let port = scripted_endpoint(move |head, request| {
        if !head.contains(&format!("Credential={}/", newest.lock().expect("no panic"))) {
            let kind = "com.amazon.coral.service#ExpiredTokenException";
            return ("403 Forbidden", json!({ "__type": kind, "message": "The security token is expired" }));
        }
        count.fetch_add(request["Entries"].as_array().map_or(0, Vec::len), Ordering::Relaxed);
        accepted(request)
    })
    .await?;
    Ok((port, taken))
}

/// Configures a credentials file as the only source of keys.
fn by_file(config: &mut EngineConfig, file: &Path) {
    let none = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"].map(|name| (name, String::new()));
    config.variables.extend(none);
    config.variables.push(("AWS_SHARED_CREDENTIALS_FILE", file.display().to_string()));
}

/// A credentials file that is replaced, as key rotation does, is read again.
#[tokio::test]
async fn rotated_credentials_are_read_again() -> anyhow::Result<()> {
    let directory = scratch("rotated_credentials_are_read_again");
    let mysql = MySql::start(&directory, &[]).await?;
    tables(&mysql, &["a"]).await?;
    let newest = Arc::new(Mutex::new("OLDKEY"));
    let (port, taken) = endpoint_of_key(Arc::clone(&newest)).await?;
    let sink = format!(
        "[sink.a]\ntype = \"sqs\"\nqueue_url = \"http://127.0.0.1:{port}/1/a\"\nendpoint_url = \"http://127.0.0.1:{port}\"\n"
    );
    let mut config = EngineConfig::new(&directory, &mysql, SOURCE, &sink);
    let file = directory.join("credentials");
    let write = |key: &str| {
        std::fs::write(&file, format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = secret\n"))
    };
    by_file(&mut config, &file);
    write("OLDKEY")?;
    let engine = Engine::start_and_wait(&config).await?;
    let arrive = |count: usize| {
        let taken = &taken;
        wait_for(
            "the messages",
            SOON,
            move || async move { Ok((taken.load(Ordering::Relaxed) == count).then_some(())) },
        )
    };
    mysql.run("INSERT INTO shop.a (note) VALUES ('one')").await?;
    arrive(1).await?;
    *newest.lock().expect("no panic") = "NEWKEY";
    mysql.run("INSERT INTO shop.a (note) VALUES ('two')").await?;
    wait_for("the old key is refused", SOON, || async { Ok(engine.log().contains("ExpiredToken").then_some(())) })
        .await?;
    write("NEWKEY")?;
    arrive(2).await.map_err(|error| error.context(engine.log()))?;
    engine.stop().await
}

/// Credentials of the default chain that come from another program.
#[tokio::test]
async fn a_process_gives_credentials() -> anyhow::Result<()> {
    let directory = scratch("a_process_gives_credentials");
    let mysql = MySql::start(&directory, &[]).await?;
    tables(&mysql, &["a"]).await?;
    mysql.run("INSERT INTO shop.a (note) VALUES ('one')").await?;
    let (port, taken) = endpoint_of_key(Arc::new(Mutex::new("PROCESSKEY"))).await?;
    let sink = format!("[sink.a]\ntype = \"sqs\"\nqueue_url = \"http://127.0.0.1:{port}/1/a\"\n");
    let mut config = EngineConfig::new(&directory, &mysql, SOURCE, &sink);
    let (file, keys) = (directory.join("credentials"), directory.join("keys.json"));
    std::fs::write(
        &keys,
        json!({ "Version": 1, "AccessKeyId": "PROCESSKEY", "SecretAccessKey": "secret" }).to_string(),
    )?;
    std::fs::write(&file, format!("[default]\ncredential_process = cat {}\n", keys.display()))?;
    by_file(&mut config, &file);
    let engine = Engine::start_and_wait(&config).await?;
    wait_for("the message", SOON, || async { Ok((taken.load(Ordering::Relaxed) == 1).then_some(())) })
        .await
        .map_err(|error| error.context(engine.log()))?;
    engine.stop().await
}
