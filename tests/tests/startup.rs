//! Starts and stops with servers and queues that are missing or silent: nothing hangs, and the log says what is wrong.

use std::net::UdpSocket;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rowmill_tests::{
    Build, Engine, EngineConfig, Impostor, MySql, Process, Proxy, Rig, Sqs, certify, free_port, log_lines, scratch,
    top, wait_for,
};

const SOON: Duration = Duration::from_secs(60);
const SHOP: &str = "tables = [\"shop.*\"]\nstart = \"earliest\"";

/// Makes the configuration of an engine that reads a server at an address and a port.
fn config(directory: &Path, address: &str, port: u16, more: &str) -> EngineConfig {
    let text = format!(
        "[source]\nurl = \"mysql://rowmill@{address}:{port}\"\n{SHOP}\n{more}\n[checkpoint]\npath = \"{}\"\n[sink.out]\ntype = \
         \"null\"\n",
        directory.join("checkpoint.json").display()
    );
    let directory = directory.to_owned();
    EngineConfig { directory, text, password: "secret".to_owned(), variables: Vec::new() }
}

async fn says(engine: &Engine, words: &str) -> anyhow::Result<()> {
    wait_for(words, SOON, || async { Ok(engine.log().contains(words).then_some(())) })
        .await
        .with_context(|| engine.log())
}

/// Sends SIGTERM; the engine must exit with success, and soon.
async fn ends_soon(mut engine: Engine) -> anyhow::Result<()> {
    let told = Instant::now();
    engine.process().terminate()?;
    let status = engine.end(SOON).await?;
    ensure!(status.code() == Some(0), "{status}: {}", engine.log());
    ensure!(told.elapsed() < Duration::from_secs(3), "{:?}: {}", told.elapsed(), engine.log());
    Ok(())
}

/// The engine logs why it waits for a silent server, and stops at a signal.
#[tokio::test]
async fn a_server_that_says_nothing() -> anyhow::Result<()> {
    let directory = scratch("a_server_that_says_nothing");
    let impostor = Impostor::start(&directory, "silent").await?;
    let engine = Engine::start(&config(&directory, "127.0.0.1", impostor.port, ""))?;
    says(&engine, "no answer in 10 seconds").await?;
    ends_soon(engine).await
}

#[tokio::test]
async fn a_server_that_is_full() -> anyhow::Result<()> {
    let directory = scratch("a_server_that_is_full");
    let impostor = Impostor::start(&directory, "busy").await?;
    let engine = Engine::start(&config(&directory, "127.0.0.1", impostor.port, ""))?;
    says(&engine, "Too many connections").await?;
    ends_soon(engine).await
}

/// A server that is not up yet is waited for, except with `--no-wait`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_up_yet() -> anyhow::Result<()> {
    let rig = Rig::start("a_server_that_is_not_up_yet", Build::MySql, &[], SHOP).await?;
    let proxy = Proxy::start(rig.mysql.port()).await?;
    let mut config = rig.config.clone();
    config.text = config.text.replace(&format!(":{}", rig.mysql.port()), &format!(":{}", proxy.port));
    proxy.refuse(true);
    let started = Instant::now();
    let output = config.command(&["run", "--no-wait"])?.output()?;
    ensure!(output.status.code() == Some(1) && started.elapsed() < SOON, "{output:?}");
    let engine = Engine::start(&config)?;
    says(&engine, "cannot start yet; retrying").await?;
    proxy.refuse(false);
    says(&engine, "running").await?;
    ends_soon(engine).await
}

/// A queue that is not up yet is waited for, and the log says why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_not_up_yet() -> anyhow::Result<()> {
    let directory = scratch("a_queue_that_is_not_up_yet");
    let mysql = MySql::start(&directory, &[]).await?;
    let port = free_port();
    let sink = format!("[sink.a]\ntype = \"sqs\"\nqueue_url = \"http://127.0.0.1:{port}/1/a\"\n");
    let engine = Engine::start(&EngineConfig::new(&directory, &mysql, SHOP, &sink))?;
    says(&engine, "cannot start yet; retrying").await?;
    ensure!(
        !engine.log().contains("DispatchFailure") && engine.log().contains("Connection refused"),
        "{}",
        engine.log()
    );
    ends_soon(engine).await
}

/// The engine stops at a signal while it compiles a large plugin.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_while_it_compiles() -> anyhow::Result<()> {
    let rig = Rig::start("a_stop_while_it_compiles", Build::MySql, &[], SHOP).await?;
    let plugins = rig.directory.join("plugins");
    std::fs::create_dir(&plugins)?;
    std::fs::copy(top().join("target/guests/python/filter.wasm"), plugins.join("large.wasm"))?;
    let engine = Engine::start(&rig.config)?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let log = engine.log();
    ensure!(!log.contains(log_lines::RUNNING), "it was compiled already: {log}");
    ends_soon(engine).await
}

/// After the connection is lost, the first reconnect meets silence, and later ones succeed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_reconnect_is_given_up() -> anyhow::Result<()> {
    let rig = Rig::start("a_silent_reconnect_is_given_up", Build::MySql, &[], SHOP).await?;
    rig.mysql.run("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY)").await?;
    let proxy = Proxy::start(rig.mysql.port()).await?;
    let mut config = rig.config.clone();
    config.text = config.text.replace(&format!(":{}", rig.mysql.port()), &format!(":{}", proxy.port));
    let engine = Engine::start_and_wait(&config).await?;
    proxy.mute(true);
    tokio::time::sleep(Duration::from_secs(3)).await;
    proxy.mute(false);
    rig.mysql.run("INSERT INTO shop.t VALUES (1)").await?;
    wait_for("the row", Duration::from_secs(30), || async { Ok((rig.changes()? == ["c t 1"]).then_some(())) })
        .await
        .with_context(|| engine.log())?;
    ensure!(engine.log().contains("no answer in 10 seconds"), "the reason: {}", engine.log());
    ends_soon(engine).await
}

/// The engine stops at a signal while it reconnects.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_while_it_reconnects() -> anyhow::Result<()> {
    let rig = Rig::start("a_stop_while_it_reconnects", Build::MySql, &[], SHOP).await?;
    let proxy = Proxy::start(rig.mysql.port()).await?;
    let mut config = rig.config.clone();
    config.text = config.text.replace(&format!(":{}", rig.mysql.port()), &format!(":{}", proxy.port));
    for is_mute in [true, false] {
        let engine = Engine::start_and_wait(&config).await?;
        if is_mute {
            proxy.mute(true)
        } else {
            proxy.refuse(true)
        }
        says(&engine, "connection lost, reconnecting").await?;
        ends_soon(engine).await?;
        proxy.mute(false);
        std::fs::remove_file(rig.directory.join("rowmill.log"))?;
    }
    Ok(())
}

/// Told twice to stop while a queue cannot be reached, the engine ends within its time, and logs what is undelivered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_with_a_queue_out_of_reach() -> anyhow::Result<()> {
    let directory = scratch("a_stop_with_a_queue_out_of_reach");
    let mysql = MySql::start(&directory, &[]).await?;
    mysql.run("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY)").await?;
    let sqs = Sqs::start(&directory).await?;
    let queue = sqs.create("a").await?;
    let proxy = Proxy::start(sqs.port()).await?;
    let sink = format!(
        "[sink.a]\ntype = \"sqs\"\nqueue_url = \"{}\"\nendpoint_url = \"http://127.0.0.1:{}\"\n",
        queue.url, proxy.port
    );
    let config = EngineConfig::new(&directory, &mysql, SHOP, &sink);
    let mut engine = Engine::start_and_wait(&config).await?;
    mysql.run("INSERT INTO shop.t VALUES (1)").await?;
    queue.receive_all(1, SOON).await?;
    proxy.refuse(true);
    mysql.run("INSERT INTO shop.t VALUES (2), (3)").await?;
    says(&engine, "not accepted").await?;
    let told = Instant::now();
    engine.process().terminate()?;
    engine.process().terminate()?;
    let status = engine.end(SOON).await?;
    let took = told.elapsed();
    ensure!(status.code() == Some(0), "{status}: {}", engine.log());
    ensure!(took > Duration::from_secs(4) && took < Duration::from_secs(9), "{took:?}: {}", engine.log());
    ensure!(engine.log().contains("rows=2"), "{}", engine.log());

    // The next start delivers those messages, and no others.
    proxy.refuse(false);
    let engine = Engine::start_and_wait(&config).await?;
    let arrived = queue.receive_all(2, SOON).await?;
    ensure!(arrived.len() == 2, "{}", arrived.len());
    ends_soon(engine).await
}

/// Returns an address of this machine that is not loopback, so that the engine takes it for another machine.
fn other_address() -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?; // connecting a UDP socket sends nothing
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then(|| address.to_string())
}

/// An impostor of the server does not get the password.
#[tokio::test]
async fn an_impostor_learns_nothing() -> anyhow::Result<()> {
    let directory = scratch("an_impostor_learns_nothing");
    let address = other_address().context("this machine has no address but loopback: the test can't be run")?;
    for mode in ["tls", "plain", "clear-tls", "clear-plain"] {
        let impostor = Impostor::start(&directory, mode).await?;
        for more in ["", "tls = { mode = \"verify-identity\" }"] {
            let mut config = config(&directory, &address, impostor.port, more);
            config.text = config.text.replace("\"\ntables", "?enable_cleartext_plugin=true\"\ntables");
            let error = Engine::failed(&config).await?;
            ensure!(error.contains("source.tls"), "{mode}: {error}");
        }
        let said = impostor.said()?;
        ensure!(said.contains("connected") && !said.contains("secret"), "{mode}: {said}");
    }
    Ok(())
}

/// Nor does an impostor that answers only the second connection, which streams the binlog.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_impostor_of_the_stream_learns_nothing() -> anyhow::Result<()> {
    let directory = scratch("an_impostor_of_the_stream_learns_nothing");
    let mysql = MySql::start(&directory, &[]).await?;
    let authority = certify(&directory)?;
    mysql
        .run(&format!(
            "SET GLOBAL ssl_ca = '{0}/ca.pem'; SET GLOBAL ssl_cert = '{0}/server.pem'; SET GLOBAL ssl_key = \
             '{0}/server-key.pem'; ALTER INSTANCE RELOAD TLS",
            directory.display()
        ))
        .await?;
    for mode in ["tls", "plain", "clear-tls", "clear-plain"] {
        let impostor = Impostor::start(&directory, mode).await?;
        let proxy = Proxy::start(mysql.port()).await?;
        let tls = format!("tls = {{ ca = \"{}\" }}", authority.display());
        let mut config = config(&directory, "127.0.0.1", proxy.port, &tls);
        config.text = config.text.replace("\"\ntables", "?enable_cleartext_plugin=true\"\ntables");
        config.password = mysql.password().to_owned();
        proxy.redirect(1, impostor.port);
        Engine::failed(&config).await?;
        let said = impostor.said()?;
        ensure!(said.contains("connected") && !said.contains(mysql.password()), "{mode}: {said}");
    }
    Ok(())
}

/// A connection that does not verify the server is allowed and warned of; even then a clear-text password is not sent.
#[tokio::test]
async fn what_is_not_verified_is_warned_of() -> anyhow::Result<()> {
    let directory = scratch("what_is_not_verified_is_warned_of");
    let address = other_address().context("this machine has no address but loopback: the test can't be run")?;
    let impostor = Impostor::start(&directory, "clear-tls").await?;
    let mut config = config(&directory, &address, impostor.port, "tls = { mode = \"required\" }");
    config.text = config.text.replace("\"\ntables", "?enable_cleartext_plugin=true\"\ntables");
    let error = Engine::failed(&config).await?;
    ensure!(error.contains("mysql_clear_password"), "{error}");
    ensure!(!impostor.said()?.contains("secret"), "{}", impostor.said()?);

    let mysql = MySql::start(&directory, &["--bind-address=*"]).await?;
    config.text = config.text.replace(&format!(":{}?", impostor.port), &format!(":{}?", mysql.port()));
    config.password = mysql.password().to_owned();
    let engine = Engine::start_and_wait(&config).await?;
    ensure!(engine.log().contains("does not verify the server"), "{}", engine.log());
    let output = config.command(&["check"])?.output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(text.contains("does not verify the server") && output.status.success(), "{text}");
    ends_soon(engine).await
}

/// No output of the engine contains a secret.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_output_has_a_secret() -> anyhow::Result<()> {
    const SECRETS: [&str; 7] = [
        "s3cr3t-of-url",
        "s3cr3t-of-key",
        "s3cr3t-of-checkpoint",
        "s3cr3t-of-failover",
        "s3cr3t-of-token",
        "918273645",
        ":4711",
    ];
    let directory = scratch("no_output_has_a_secret");
    let mysql = MySql::start(&directory, &[]).await?;
    mysql
        .run("CREATE USER me@'%' IDENTIFIED BY 's3cr3t-of-url'; GRANT ALL ON *.* TO me@'%'; CREATE DATABASE state")
        .await?;
    let port = mysql.port();
    let closed = free_port();
    let text = |user: &str, sink: &str| {
        format!(
            "[source]\nurl = \"mysql://{user}:s3cr3t-of-url@127.0.0.1:{port}\"\nfailover = [\
             \"mysql://me:s3cr3t-of-failover@127.0.0.1:{closed}\"]\n{SHOP}\n[checkpoint]\ntype = \"mysql\"\nurl = \
             \"mysql://me:s3cr3t-of-checkpoint@127.0.0.1:{port}/state\"\n{sink}"
        )
    };
    let null = "[sink.out]\ntype = \"null\"\n";
    let sqs = format!("[sink.out]\ntype = \"sqs\"\nqueue_url = \"http://127.0.0.1:{closed}/1/a\"\n");
    let mut said = String::new();
    let broken = [
        text("me", null).replace("type = \"mysql\"\nurl", "type = \"mysql\"\npassword = 5\nurl"),
        text("me", null).replace("s3cr3t-of-url@", "s3cr3t-of-url/#@"),
        text("me", null).replace("mysql://me:s3cr3t-of-url", "mysql//me:s3cr3t-of-url"),
        text("me", null).replace("[source]\n", "[source]\npassword = \"s3cr3t-of-key\"\npasword = \"s3cr3t-of-key\"\n"),
        text("me", null).replace("[source]\n", "[source]\npassword = [\"s3cr3t-of-key\"]\n"),
        text("me", null).replace("[source]\n", "[source]\npassword = 918273645\n"),
        // In such a password the part before the slash is parsed as the host's port.
        text("me", null).replace("s3cr3t-of-url@", "4711/s3cr3t-of-url@"),
        text("nobody", null),
        text("me", null),
        text("me", &sqs),
        text("me", null).replace("s3cr3t-of-checkpoint", "s3cr3t-of-url"),
    ];
    for (nth, text) in broken.into_iter().enumerate() {
        let directory = directory.join(nth.to_string());
        std::fs::create_dir(&directory)?;
        let config = EngineConfig { directory, text, password: String::new(), variables: Vec::new() };
        for arguments in
            [&["check"][..], &["run", "--no-wait"], &["checkpoint", "show"], &["--log-format", "json", "run"]]
        {
            let mut command = config.command(arguments)?;
            let keys = [
                ("AWS_ACCESS_KEY_ID", "test"),
                ("AWS_SECRET_ACCESS_KEY", "s3cr3t-of-key"),
                ("AWS_SESSION_TOKEN", "s3cr3t-of-token"),
                ("AWS_REGION", "us-east-1"),
                ("ROWMILL_LOG", "trace"),
            ];
            let log = config.directory.join("all.log");
            let mut process = Process::start(command.envs(keys).env_remove("ROWMILL_SOURCE_PASSWORD"), &log)?;
            tokio::time::sleep(Duration::from_millis(700)).await;
            process.terminate()?;
            wait_for("the end", SOON, || {
                let ended = process.ended();
                async move { ended }
            })
            .await?;
            said.push_str(&std::fs::read_to_string(&log)?);
        }
    }
    ensure!(said.contains("running") && said.len() > 10_000, "{said}");
    for secret in SECRETS {
        let line = said.lines().find(|line| line.contains(secret));
        ensure!(line.is_none(), "{secret}: {line:?}");
    }
    Ok(())
}
