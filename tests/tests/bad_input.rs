//! Bad input and failures that users meet: each gives one clear error (what, where, how to fix it) and the right exit code, and
//! leaves the checkpoint unchanged.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use mysql_async::prelude::Queryable;
use rowmill::checkpoint::Checkpoint;
use rowmill_core::position::{BinlogPosition, ResumePoint};
use rowmill_tests::{Engine, EngineConfig, MySql, Sqs, forbidding_endpoint, free_port, scratch, wait_for};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const NULL_SINK: &str = "[sink.out]\ntype = \"null\"\n";

/// Asserts that the engine ends with `code` and one error line that contains all of `words`.
async fn refused(config: &EngineConfig, code: i32, words: &[&str]) -> anyhow::Result<()> {
    let checkpoint = std::fs::read(config.checkpoint()).ok();
    let said_before = std::fs::read_to_string(config.directory.join("rowmill.log")).unwrap_or_default().len();
    let mut engine = Engine::start_with(config, &["--no-wait"])?;
    let status = engine.end(Duration::from_secs(20)).await?;
    let log = engine.log();
    let said = &log[said_before..];

    let errors: Vec<&str> =
        said.lines().filter(|line| line.starts_with("error: ") || line.contains(" ERROR ")).collect();
    assert_eq!(errors.len(), 1, "one error: {said}");
    for word in words {
        assert!(errors[0].contains(word), "`{word}` isn't in: {}", errors[0]);
    }
    assert!(!said.contains(&config.password), "the password is shown: {said}");
    assert_eq!(status.code(), Some(code), "{said}");
    assert_eq!(std::fs::read(config.checkpoint()).ok(), checkpoint, "the checkpoint changed");
    Ok(())
}

/// Asserts that the engine runs, and leaves a checkpoint.
async fn accepted(config: &EngineConfig) -> anyhow::Result<()> {
    Engine::start_and_wait(config).await?.stop().await?;
    std::fs::metadata(config.checkpoint()).context("a checkpoint")?;
    Ok(())
}

#[tokio::test]
async fn a_server_that_cannot_be_read() -> anyhow::Result<()> {
    let directory = scratch("a_server_that_cannot_be_read");
    let mysql = MySql::start(&directory, &[]).await?;
    let config = EngineConfig::new(&directory, &mysql, "", NULL_SINK);
    accepted(&config).await?;

    let wrong_password = EngineConfig { password: "wrong".to_owned(), ..config.clone() };
    refused(&wrong_password, 1, &["mysql://rowmill@127.0.0.1", "password", "ROWMILL_SOURCE_PASSWORD"]).await?;

    let port = free_port();
    let text = config.text.replace(&mysql.port().to_string(), &port.to_string());
    let unreachable = EngineConfig { text, ..config.clone() };
    refused(&unreachable, 1, &[&port.to_string(), "cannot reach"]).await?;

    mysql.run("SET GLOBAL binlog_format = 'STATEMENT'").await?;
    refused(&config, 1, &["binlog_format = STATEMENT", "SET PERSIST binlog_format = 'ROW'"]).await?;
    mysql.run("SET GLOBAL binlog_format = 'ROW'").await?;
    accepted(&config).await?;

    mysql.run("CREATE USER weak@'%' IDENTIFIED BY 'feeble'").await?;
    let text = config.text.replace("rowmill@", "weak@");
    let weak = EngineConfig { text, password: "feeble".to_owned(), ..config.clone() };
    refused(&weak, 1, &["GRANT REPLICATION SLAVE, REPLICATION CLIENT"]).await?;

    // An empty variable leaves the password of the URL as it is.
    mysql.run("GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO weak@'%'").await?;
    let text = weak.text.replace("weak@", "weak:feeble@");
    accepted(&EngineConfig { text, password: String::new(), ..weak }).await
}

#[tokio::test]
async fn a_server_without_a_binlog() -> anyhow::Result<()> {
    let directory = scratch("a_server_without_a_binlog");
    let mysql = MySql::start(&directory, &["--skip-log-bin"]).await?;
    let config = EngineConfig::new(&directory, &mysql, "", NULL_SINK);
    refused(&config, 1, &["writes no binlog", "skip-log-bin"]).await
}

/// The second of two engines with one checkpoint is refused, and the first continues; after a kill the lock is free.
#[tokio::test]
async fn a_checkpoint_that_is_held_or_damaged() -> anyhow::Result<()> {
    let directory = scratch("a_checkpoint_that_is_held_or_damaged");
    let mysql = MySql::start(&directory, &[]).await?;
    let config = EngineConfig::new(&directory, &mysql, "", NULL_SINK);
    let mut first = Engine::start_and_wait(&config).await?;

    let second = EngineConfig { directory: directory.join("second"), ..config.clone() };
    std::fs::create_dir_all(&second.directory)?;
    let holder = format!("another rowmill holds it (process {} on ", first.process().id());
    let checkpoint = config.checkpoint().display().to_string();
    refused(&second, 1, &[&checkpoint, &holder, "`checkpoint.path`"]).await?;
    mysql.run("CREATE SCHEMA shop; CREATE TABLE shop.items (id INT PRIMARY KEY)").await?;
    let end = mysql.binlog_end().await?;
    wait_for("the first goes on", Duration::from_secs(20), || async { Ok(config.has_reached(&end)?.then_some(())) })
        .await?;

    first.kill();
    accepted(&second).await.err().context("it has no checkpoint in its own directory")?;
    accepted(&config).await?;

    let whole = std::fs::read_to_string(config.checkpoint())?;
    let changed = whole.replace(&format!("\"position\": {}", end.1), "\"position\": 4");
    assert_ne!(changed, whole);
    std::fs::write(config.checkpoint(), &changed)?;
    let previous = format!("{checkpoint}.previous is the previous checkpoint");
    refused(&config, 1, &[&checkpoint, "changed by hand", "checksum", &previous]).await?;
    std::fs::rename(directory.join("checkpoint.json.previous"), config.checkpoint())?;
    accepted(&config).await
}

/// `checkpoint show` shows a checkpoint, and `checkpoint set` moves it: changes before the position are not read, later ones
/// are. A checkpoint in use cannot be moved, nor can one be moved to a position that the server does not have.
#[tokio::test]
async fn a_checkpoint_is_shown_and_set() -> anyhow::Result<()> {
    let directory = scratch("a_checkpoint_is_shown_and_set");
    let mysql = MySql::start(&directory, &[]).await?;
    let out = directory.join("out");
    let sink = format!("[sink.out]\ntype = \"file\"\npath = \"{}\"\n", out.display());
    let config = EngineConfig::new(&directory, &mysql, "tables = [\"shop.*\"]", &sink);
    std::fs::write(directory.join("rowmill.toml"), &config.text)?;
    let checkpoint = |arguments: &[&str]| -> anyhow::Result<(Option<i32>, String)> {
        let mut command = std::process::Command::new(rowmill_tests::binary()?);
        command.arg("checkpoint").args(arguments).arg("--config").arg(directory.join("rowmill.toml"));
        let output = command.env("ROWMILL_SOURCE_PASSWORD", &config.password).output()?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
    };
    let (code, said) = checkpoint(&["show"])?;
    assert!(code == Some(1) && said.contains("does not exist yet"), "{said}");

    mysql.run("CREATE SCHEMA shop; CREATE TABLE shop.t (id INT PRIMARY KEY); INSERT INTO shop.t VALUES (1)").await?;
    let (file, position) = mysql.binlog_end().await?;
    mysql.run("INSERT INTO shop.t VALUES (2)").await?;
    accepted(&config).await?;
    let engine = Engine::start_and_wait(&config).await?;
    let place = format!("{file}:{position}");
    let (code, said) = checkpoint(&["set", &place])?;
    assert!(code == Some(1) && said.contains("another rowmill holds it"), "{said}");
    engine.stop().await?;
    let (code, said) = checkpoint(&["set", "binlog.000777:4"])?;
    assert!(code == Some(1) && said.contains("binlog.000777"), "{said}");
    let (code, said) = checkpoint(&["set", "nowhere"])?;
    assert!(code == Some(2) && said.contains("POSITION: \"nowhere\" is not a start point"), "{said}");
    let (code, said) = checkpoint(&["set", &place])?;
    assert!(code == Some(0) && said.contains(&place), "{said}");
    let (code, said) = checkpoint(&["show"])?;
    let shown: serde_json::Value = serde_json::from_str(&said)?;
    assert_eq!((code, &shown["file"], &shown["position"]), (Some(0), &file.clone().into(), &position.into()));

    let engine = Engine::start_and_wait(&config).await?;
    let end = mysql.binlog_end().await?;
    wait_for("it goes on from there", Duration::from_secs(20), || async {
        Ok(config.has_reached(&end)?.then_some(()))
    })
    .await?;
    engine.stop().await?;
    let arrived = std::fs::read_to_string(&out)?;
    assert!(arrived.lines().count() == 1 && arrived.contains("\"after\":{\"id\":2}"), "{arrived}");
    Ok(())
}

/// A checkpoint in a database is held by one engine, reacquired after the server was killed, and lost to an engine with a
/// higher epoch.
#[tokio::test]
async fn a_checkpoint_in_a_database() -> anyhow::Result<()> {
    let directory = scratch("a_checkpoint_in_a_database");
    let mut mysql = MySql::start(&directory, &[]).await?;
    mysql.run("CREATE SCHEMA rowmill; CREATE SCHEMA shop").await?;
    let url = format!("{}/rowmill", mysql.url());
    let store = format!("type = \"mysql\"\nurl = \"{url}\"\npassword = \"{}\"", mysql.password());
    let in_file = EngineConfig::new(&directory, &mysql, "tables = [\"shop.*\"]", NULL_SINK);
    let text = in_file.text.replace(&format!("path = \"{}\"", in_file.checkpoint().display()), &store);
    let config = EngineConfig { text, ..in_file };
    let checkpoint = format!("checkpoint {url}, table rowmill_checkpoints, name rowmill");
    refused(&config, 1, &[&checkpoint, "cannot connect to"]).await?;
    mysql.run("GRANT ALL ON rowmill.* TO rowmill@'%'").await?;

    let first = Engine::start_and_wait(&config).await?;
    let second = EngineConfig { directory: directory.join("second"), ..config.clone() };
    std::fs::create_dir_all(&second.directory)?;
    refused(&second, 1, &[&checkpoint, "another rowmill holds it (process ", "`checkpoint.name`"]).await?;

    mysql.kill_and_restart().await?;
    mysql.run("CREATE TABLE shop.items (id INT PRIMARY KEY)").await?;
    let (file, position) = mysql.binlog_end().await?;
    let reached = format!(
        "SELECT COALESCE(document->>'$.file' = '{file}' AND document->'$.position' >= {position}, FALSE) FROM \
         rowmill.rowmill_checkpoints"
    );
    wait_for("the first goes on", Duration::from_secs(30), || async {
        let reached: Option<bool> = mysql.connect().await?.query_first(&reached).await?;
        Ok((reached == Some(true)).then_some(()))
    })
    .await
    .with_context(|| first.log())?;
    first.stop().await?;

    let mut first = Engine::start_and_wait(&config).await?;
    mysql.run("UPDATE rowmill.rowmill_checkpoints SET epoch = epoch + 1, holder = 'someone'").await?;
    let status = first.end(Duration::from_secs(20)).await?;
    assert!(!status.success() && first.log().contains("another rowmill acquired it (someone)"), "{}", first.log());

    let mut first = Engine::start_and_wait(&config).await?;
    mysql.run("RENAME TABLE rowmill.rowmill_checkpoints TO rowmill.away; INSERT INTO shop.items VALUES (77)").await?;
    let status = first.end(Duration::from_secs(20)).await?;
    let log = first.log();
    assert!(!status.success() && log.contains("cannot write checkpoint") && log.contains("doesn't exist"), "{log}");
    mysql.run("RENAME TABLE rowmill.away TO rowmill.rowmill_checkpoints").await?;

    mysql.run("UPDATE rowmill.rowmill_checkpoints SET document = REPLACE(document, 'position', 'positron')").await?;
    refused(&config, 1, &[&checkpoint, "damaged", "the column `previous` of"]).await
}

#[tokio::test]
async fn a_position_that_is_gone() -> anyhow::Result<()> {
    let directory = scratch("a_position_that_is_gone");
    let mysql = MySql::start(&directory, &[]).await?;
    let config = EngineConfig::new(&directory, &mysql, "", NULL_SINK);
    accepted(&config).await?;
    let checkpoint = std::fs::read_to_string(config.checkpoint())?;

    mysql.run("FLUSH BINARY LOGS; FLUSH BINARY LOGS").await?;
    accepted(&config).await?;
    mysql.run("PURGE BINARY LOGS TO 'binlog.000003'").await?;
    std::fs::write(config.checkpoint(), &checkpoint)?;
    refused(&config, 1, &["cannot read from binlog.000001", "purged", "binlog.000003"]).await?;

    let file = rowmill::config::Checkpoint::File(config.checkpoint());
    let saved = Checkpoint::read(&file).await?.context("a checkpoint")?;
    let save = async |resume: &ResumePoint| Checkpoint::open(&file).await?.0.write(resume).await;
    save(&ResumePoint { position: BinlogPosition::new("binlog.000003", 99_999), ..saved.clone() }).await?;
    refused(&config, 1, &["binlog.000003", "ends at"]).await?;

    // Another server's checkpoint: without GTIDs its position has no meaning here, nor has it with GTIDs that this server
    // lacks.
    for (gtids, words) in [
        (None, "has no GTIDs to continue by"),
        (Some("11111111-2222-3333-4444-555555555555:1-7"), "lacks transactions that are already done"),
    ] {
        let gtids = gtids.map(|text| text.parse().map(Arc::new)).transpose()?;
        save(&ResumePoint { server: "another".into(), gtids, ..saved.clone() }).await?;
        refused(&config, 1, &["checkpoint.json", "belongs to the server another", words]).await?;
    }

    std::fs::write(config.checkpoint(), &checkpoint[..checkpoint.len() / 2])?;
    refused(&config, 1, &["checkpoint.json", "damaged"]).await?;

    std::fs::remove_file(config.checkpoint())?;
    let start = EngineConfig::new(&directory, &mysql, "start = \"binlog.000001:4\"", NULL_SINK);
    refused(&start, 1, &["cannot read from binlog.000001:4, the position of `source.start`", "purged"]).await
}

#[tokio::test]
async fn plugins_and_queues_that_are_not_there() -> anyhow::Result<()> {
    let directory = scratch("plugins_and_queues_that_are_not_there");
    let mysql = MySql::start(&directory, &[]).await?;
    let sqs = Sqs::start(&directory).await?;

    let queue = |name: &str| {
        let url = format!("{}/000000000000/{name}", sqs.endpoint());
        let sink =
            format!("[sink.out]\ntype = \"sqs\"\nqueue_url = \"{url}\"\nendpoint_url = \"{}\"\n", sqs.endpoint());
        EngineConfig::new(&directory, &mysql, "", &sink)
    };
    sqs.create("there").await?;
    accepted(&queue("there")).await?;
    refused(&queue("missing"), 1, &["sink.out", "cannot use queue", "/missing: it does not exist", "create the queue"])
        .await?;
    let dead = EngineConfig {
        text: queue("there").text.replace(&sqs.endpoint(), &format!("http://127.0.0.1:{}", free_port())),
        ..queue("there")
    };
    refused(&dead, 1, &["sink.out", "cannot reach queue", "endpoint"]).await?;
    let forbidding = format!("http://127.0.0.1:{}", forbidding_endpoint().await?);
    let forbidden = EngineConfig { text: queue("there").text.replace(&sqs.endpoint(), &forbidding), ..queue("there") };
    let words =
        ["sink.out", "cannot use queue", "/there: ", "sqs:SendMessage and sqs:GetQueueAttributes", "AccessDenied"];
    refused(&forbidden, 1, &words).await?;

    let plugins = directory.join("plugins");
    std::fs::create_dir(&plugins)?;
    let more = format!("[plugins]\ndir = \"{}\"\n{NULL_SINK}", plugins.display());
    let config = EngineConfig::new(&directory, &mysql, "", &more);
    accepted(&config).await?;
    let with = async |bytes: &[u8], words: &[&str]| {
        std::fs::write(plugins.join("bad.wasm"), bytes)?;
        refused(&config, 1, &[&["plugin ", "bad.wasm"], words].concat()).await
    };
    with(b"not WebAssembly at all", &["is not WebAssembly"]).await?;
    with(b"", &["is not WebAssembly"]).await?;
    with(b"\0asm\x01\0\0\0\xff\xff", &["is not valid WebAssembly"]).await?;
    // An empty core module and an empty component: both are valid, and neither is a transform.
    with(b"\0asm\x01\0\0\0", &["missing export `configure`", "rowmill:transform"]).await?;
    with(b"\0asm\x0d\0\x01\0", &["missing export `configure`", "rowmill:transform"]).await?;

    let text = config.text.replace(plugins.to_str().context("UTF-8")?, "/no/such/directory");
    refused(&EngineConfig { text, ..config.clone() }, 1, &["/no/such/directory", "cannot read"]).await
}

#[tokio::test]
async fn a_configuration_that_cannot_be_meant() -> anyhow::Result<()> {
    let directory = scratch("a_configuration_that_cannot_be_meant");
    let text = "[source]\nurl = \"mysql://rowmill@127.0.0.1:1\"\nstrat = \"latest\"\n[sink.out]\ntype = \"null\"\n";
    let config = EngineConfig {
        directory: directory.clone(),
        text: text.to_owned(),
        password: "secret".to_owned(),
        variables: Vec::new(),
    };
    refused(&config, 2, &["rowmill.toml", "line 3", "`strat`", "did you mean `start`?"]).await?;

    let with = |from: &str, to: &str| EngineConfig { text: text.replace(from, to), ..config.clone() };
    refused(&with("strat = \"latest\"", "start = \"snapshot\""), 2, &["snapshot", "is not supported yet"]).await?;
    refused(&with("strat = \"latest\"", "= 7"), 2, &["line 3"]).await?;
    refused(&with("strat = \"latest\"", "password = \"${NO_SUCH_VARIABLE}\""), 2, &["NO_SUCH_VARIABLE", "line 3"])
        .await?;
    let text = text.replace("strat", "start").replace("type = \"null\"", "type = \"sqs\"");
    refused(&EngineConfig { text, ..config.clone() }, 2, &["sink.out", "queue_url"]).await?;

    std::fs::remove_file(directory.join("rowmill.toml"))?;
    let output = std::process::Command::new(rowmill_tests::binary()?)
        .args(["run", "--config"])
        .arg(Path::new("/no/such/rowmill.toml"))
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("/no/such/rowmill.toml") && said.contains("cannot read"), "{said}");
    assert_eq!(output.status.code(), Some(2));
    Ok(())
}

/// Starts a server without TLS that answers each packet of a login with the next of `answers`.
async fn asking_server(answers: &[Vec<u8>]) -> anyhow::Result<u16> {
    async fn send(client: &mut TcpStream, sequence: u8, payload: &[u8]) -> std::io::Result<()> {
        let header = [payload.len() as u8, (payload.len() >> 8) as u8, 0, sequence];
        client.write_all(&[&header[..], payload].concat()).await
    }
    async fn serve(client: &mut TcpStream, answers: &[Vec<u8>]) -> std::io::Result<()> {
        // Protocol 4.1, long and secure passwords, transactions, a schema, authentication plugins, connection attributes.
        let capabilities: u32 = 0x0038_a209;
        let [a, b, c, d] = capabilities.to_le_bytes();
        let greeting = [
            &b"\x0a8.4.0-asking\0\x07\0\0\0abcdefgh\0"[..],
            &[a, b, 45, 2, 0, c, d, 21],
            &[0; 10],
            b"ijklmnopqrst\0mysql_native_password\0",
        ];
        send(client, 0, &greeting.concat()).await?;
        for answer in answers {
            let mut header = [0; 4];
            client.read_exact(&mut header).await?;
            let mut payload = vec![0; usize::from(header[0]) | usize::from(header[1]) << 8];
            client.read_exact(&mut payload).await?;
            send(client, header[3] + 1, answer).await?;
        }
        client.read_to_end(&mut Vec::new()).await?;
        Ok(())
    }
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let answers = answers.to_vec();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let answers = answers.clone();
            tokio::spawn(async move { serve(&mut client, &answers).await });
        }
    });
    Ok(port)
}

/// A key of 512 bits, which is too short to encrypt the password.
const SMALL_KEY: &str = "-----BEGIN PUBLIC KEY-----\nMFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAJiBu0aUDBztYGR80vKz5sDZPkDnIJIF\nM+SnQtzWy7sS0LcAuUDkmXDXlOtaY144ynDFW7mdkamO+tjBb589WLECAwEAAQ==\n-----END PUBLIC KEY-----";

/// Each authentication that the server asks for and the engine cannot do gives an error that names it, and no panic.
#[tokio::test]
async fn a_server_that_asks_for_another_authentication() -> anyhow::Result<()> {
    const PASSWORD: &str = "a password that is longer than the key";
    let directory = scratch("a_server_that_asks_for_another_authentication");
    let switch = |plugin: &[u8], nonce: &[u8]| [&b"\xfe"[..], plugin, b"\0", nonce].concat();
    let (nonce, ends_with_zero) = ([7; 32], [&[7; 31][..], &[0]].concat());
    let denied = || b"\xff\x15\x04#28000Access denied".to_vec();
    let salt = |with: &[u8]| [with, b"P\0", &[9; 18]].concat();
    let sha2 = || switch(b"caching_sha2_password", &[&[7; 20][..], &[0]].concat());
    let (full, key) = (|| vec![1, 4], |key: &[u8]| [&b"\x01"[..], key].concat());
    let fix = "source.tls.mode";
    for (answers, password, words) in [
        (vec![switch(b"auth_gssapi_client", b"x")], PASSWORD, "`auth_gssapi_client`"),
        (vec![switch(b"dialog", b"\x02Password:")], PASSWORD, "`dialog`"),
        (vec![switch(b"sha256_password", &nonce)], PASSWORD, "`sha256_password`"),
        (vec![switch(b"authentication_webauthn_client", b"")], "", "`authentication_webauthn_client`"),
        (vec![switch(b"h\xff\xfeh", b"")], PASSWORD, "is not supported"),
        (vec![switch(b"", b"")], PASSWORD, "is not supported"),
        (vec![switch(b"mysql_old_password", b"12345678")], PASSWORD, "`mysql_old_password`"),
        (vec![b"\xfe".to_vec()], PASSWORD, "`mysql_old_password`"),
        (vec![switch(b"mysql_clear_password", b"")], PASSWORD, "enable_cleartext_plugin=true"),
        (vec![switch(b"client_ed25519", b""), denied()], PASSWORD, "refuses the user or the password"),
        (vec![switch(b"parsec", &nonce), salt(b"\x01"), denied()], PASSWORD, "refuses the user or the password"),
        (vec![switch(b"parsec", &nonce), salt(b""), denied()], PASSWORD, "refuses the user or the password"),
        (vec![switch(b"parsec", &ends_with_zero), salt(b""), denied()], PASSWORD, "refuses the user or the password"),
        (vec![switch(b"parsec", &nonce), salt(b"\x01")], "", "`parsec`, which needs a password"),
        (vec![switch(b"parsec", b"short"), salt(b"\x01")], PASSWORD, "PARSEC's nonce"),
        (vec![switch(b"parsec", &nonce), b"\x01P".to_vec()], PASSWORD, "`parsec"),
        (vec![switch(b"parsec", &nonce), [&b"\x01P\xff"[..], &[9; 18]].concat()], PASSWORD, "`parsec"),
        (vec![switch(b"parsec", &nonce), switch(b"parsec", &nonce)], PASSWORD, "PARSEC's salt"),
        (vec![sha2(), full(), key(b"no key")], PASSWORD, fix),
        (vec![sha2(), full(), key(SMALL_KEY.as_bytes())], PASSWORD, fix),
        (vec![sha2(), full(), Vec::new()], PASSWORD, "a public key"),
    ] {
        let port = asking_server(&answers).await?;
        let config = EngineConfig {
            directory: directory.clone(),
            text: format!("[source]\nurl = \"mysql://rowmill@127.0.0.1:{port}\"\n{NULL_SINK}"),
            password: password.to_owned(),
            variables: Vec::new(),
        };
        let said_before = std::fs::read_to_string(directory.join("rowmill.log")).unwrap_or_default().len();
        let mut engine = Engine::start(&config)?;
        let status = engine.end(Duration::from_secs(20)).await.with_context(|| format!("{answers:?}"))?;
        let log = engine.log();
        let said = &log[said_before..];
        assert!(said.contains(words) && !said.contains("panicked"), "{answers:?}: {said}");
        assert!(!said.contains(PASSWORD) && status.code() == Some(1), "{answers:?}: {said}");
    }
    Ok(())
}

/// MySQL's encrypted binlog files begin with another magic number.
#[tokio::test]
async fn a_file_that_is_encrypted_is_not_replayed() -> anyhow::Result<()> {
    let file = scratch("a_file_that_is_encrypted_is_not_replayed").join("binlog.000001");
    std::fs::write(&file, [&b"\xfdbin"[..], &[1; 600]].concat())?;
    let output = std::process::Command::new(rowmill_tests::binary()?).arg("replay").arg(&file).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("the file is encrypted; read it from its server"), "{said}");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    Ok(())
}
