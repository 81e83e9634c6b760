//! Operation: logs that cannot be written, symbolic links, readers that exit, checks before the first run.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use mysql_async::prelude::Queryable;
use rowmill_tests::{Build, Engine, EngineConfig, Rig, binary, log_lines, scratch, top, wait_for};

const SOON: Duration = Duration::from_secs(60);
const SHOP: &str = "tables = [\"shop.*\"]\nstart = \"earliest\"";

/// A log on a full device does not end the engine.
#[tokio::test]
async fn a_log_that_cannot_be_written() -> anyhow::Result<()> {
    let rig = Rig::start("a_log_that_cannot_be_written", Build::MySql, &[], SHOP).await?;
    rig.mysql
        .run("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY); INSERT INTO shop.t VALUES (1)")
        .await?;
    let full = || File::options().write(true).open("/dev/full");
    let mut engine = rig.config.command(&["run"])?.stderr(full()?).spawn()?;
    wait_for("a row", SOON, || async { Ok((rig.changes()? == ["c t 1"]).then_some(())) }).await?;
    rig.mysql.run("INSERT INTO shop.t VALUES (2)").await?;
    wait_for("another row", SOON, || async { Ok((rig.changes()? == ["c t 1", "c t 2"]).then_some(())) }).await?;
    ensure!(Command::new("kill").arg(engine.id().to_string()).status()?.success());
    let status = engine.wait()?;
    ensure!(status.code() == Some(0), "{status}");
    // The error cannot be written either: only the exit code tells of it.
    let status = rig.config.command(&["checkpoint", "set", "nowhere"])?.stderr(full()?).status()?;
    ensure!(status.code() == Some(2), "{status}");
    Ok(())
}

/// The checkpoint's path is a symbolic link to a file that does not exist yet: the file is written, and the link stays.
#[tokio::test]
async fn a_checkpoint_may_be_a_link() -> anyhow::Result<()> {
    let rig = Rig::start("a_checkpoint_may_be_a_link", Build::MySql, &[], SHOP).await?;
    rig.mysql
        .run("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY); INSERT INTO shop.t VALUES (1)")
        .await?;
    let state = rig.directory.join("state");
    std::fs::create_dir(&state)?;
    std::os::unix::fs::symlink("state/kept.json", rig.config.checkpoint())?;
    for id in [2, 3] {
        let engine = Engine::start_and_wait(&rig.config).await?;
        rig.mysql.run(&format!("INSERT INTO shop.t VALUES ({id})")).await?;
        rig.read_to_the_end(&engine).await?;
        engine.stop().await?;
        ensure!(std::fs::read_link(rig.config.checkpoint()).is_ok(), "the link is gone");
        ensure!(std::fs::metadata(state.join("kept.json"))?.len() > 100);
    }
    ensure!(rig.changes()? == ["c t 1", "c t 2", "c t 3"], "{:?}", rig.changes()?);
    Ok(())
}

/// `rowmill replay ... | head -1` ends without an error.
#[test]
fn a_reader_may_have_enough() -> anyhow::Result<()> {
    let directory = scratch("a_reader_may_have_enough");
    for (file, connector) in [("mysql-9.7.binlog", "mysql"), ("mariadb-11.8.binlog", "mariadb")] {
        let log = directory.join("log");
        let mut replay = Command::new(binary()?)
            .arg("replay")
            .arg(top().join("tests/data").join(file))
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .spawn()?;
        let mut lines = BufReader::new(replay.stdout.take().context("its output")?);
        let mut line = String::new();
        lines.read_line(&mut line)?;
        drop(lines);
        let (status, said) = (replay.wait()?, std::fs::read_to_string(&log)?);
        ensure!(line.contains(&format!("\"connector\":\"{connector}\"")), "{line}");
        ensure!(line.starts_with('{') && status.success() && said.is_empty(), "{status}: {said}");
    }
    Ok(())
}

/// `check` warns of rows without a route, which would stop the engine, and of an empty selection.
#[tokio::test]
async fn a_check_names_what_has_no_route() -> anyhow::Result<()> {
    let mut rig = Rig::start("a_check_names_what_has_no_route", Build::MySql, &[], "tables = [\"shop.*\"]").await?;
    rig.mysql
        .run(
            "CREATE DATABASE shop; CREATE TABLE shop.orders (id INT PRIMARY KEY); CREATE TABLE shop.lines (id INT PRIMARY KEY);
             GRANT SELECT ON shop.* TO rowmill@'%'",
        )
        .await?;
    let check = |rig: &Rig| -> anyhow::Result<String> {
        let output = rig.config.command(&["check"])?.output()?;
        let said = String::from_utf8(output.stdout)?;
        ensure!(output.status.success(), "{said}");
        Ok(said)
    };
    ensure!(!check(&rig)?.contains("without a route"), "one sink takes all: {}", check(&rig)?);
    rig.config
        .text
        .push_str("[[route]]\ntables = [\"shop.orders\"]\noperations = [\"insert\", \"update\"]\nsink = \"out\"\n");
    let said = check(&rig)?;
    ensure!(said.contains("without a route stops the engine"), "{said}");
    ensure!(said.contains("inserts, updates, deletes of shop.lines; deletes of shop.orders"), "{said}");
    rig.config.text = rig.config.text.replace("shop.*", "Shop.*");
    let said = check(&rig)?;
    ensure!(said.contains("no table is selected"), "{said}");
    Ok(())
}

/// While the plugins directory is missing, the running transforms stay, and the log says so once.
#[tokio::test]
async fn a_plugins_directory_that_is_away() -> anyhow::Result<()> {
    let mut rig = Rig::start("a_plugins_directory_that_is_away", Build::MySql, &[], SHOP).await?;
    let (plugins, aside) = (rig.directory.join("plugins"), rig.directory.join("aside"));
    std::fs::create_dir(&plugins)?;
    std::fs::copy(top().join("target/guests/narrow.wasm"), plugins.join("narrow.wasm"))?;
    rig.config.text.push_str(&format!("[plugins]\ndir = \"{}\"\n", plugins.display()));
    rig.mysql.run("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY)").await?;
    let engine = Engine::start_and_wait(&rig.config).await?;
    std::fs::rename(&plugins, &aside)?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    rig.mysql.run("INSERT INTO shop.t VALUES (1)").await?;
    rig.read_to_the_end(&engine).await?;
    std::fs::rename(&aside, &plugins)?;
    wait_for("it is there again", SOON, || async { Ok(engine.log().contains(log_lines::PLUGINS_BACK).then_some(())) })
        .await?;
    ensure!(engine.log().matches(log_lines::PLUGINS_STAY).count() == 1, "{}", engine.log());
    ensure!(!engine.log().contains(log_lines::PLUGIN_REMOVED), "{}", engine.log());
    engine.stop().await?;
    ensure!(rig.changes()? == ["c t 1"], "{:?}", rig.changes()?);
    Ok(())
}

/// Compiled plugins that cannot be cached stop nothing. A cache directory that other users can write is not used.
#[tokio::test]
async fn compiled_plugins_that_cannot_be_kept() -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;

    let rig = Rig::start("compiled_plugins_that_cannot_be_kept", Build::MySql, &[], SHOP).await?;
    let (plugins, open) = (rig.directory.join("plugins"), rig.directory.join("open"));
    std::fs::create_dir(&plugins)?;
    std::fs::copy(top().join("target/guests/tenth.wasm"), plugins.join("tenth.wasm"))?;
    std::fs::create_dir(&open)?;
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777))?;
    let own = rig.directory.join("own");
    for (cache, words) in
        [("/dev/null/cache", "cannot create"), (&open.display().to_string(), "chmod"), (&own.display().to_string(), "")]
    {
        let more = format!("\n[plugins]\ndir = \"{}\"\ncache = \"{cache}\"\n", plugins.display());
        let config = rowmill_tests::EngineConfig { text: format!("{}{more}", rig.config.text), ..rig.config.clone() };
        let engine = Engine::start_and_wait(&config).await?;
        let log = engine.log();
        ensure!(words.is_empty() != log.contains("are not cached"), "{cache}: {log}");
        ensure!(log.contains(words), "{cache}: {log}");
        engine.stop().await?;
        std::fs::remove_file(rig.directory.join("rowmill.log"))?;
    }
    ensure!(
        std::fs::metadata(&own)?.permissions().mode() & 0o777 == 0o700,
        "{:?}",
        std::fs::metadata(&own)?.permissions()
    );
    ensure!(std::fs::read_dir(&open)?.next().is_none(), "nothing is written where others may write");
    Ok(())
}

/// Returns how often the process's threads have been woken so far.
fn wake_ups(process: u32) -> anyhow::Result<u64> {
    let mut sum = 0;
    for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let status = std::fs::read_to_string(task?.path().join("status"))?;
        let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).context("a count")?;
        sum += line.rsplit('\t').next().context("a number")?.trim().parse::<u64>()?;
    }
    Ok(sum)
}

/// An idle engine does not wake up, with a transform as well.
#[tokio::test]
async fn an_idle_engine_sleeps() -> anyhow::Result<()> {
    let rig = Rig::start("an_idle_engine_sleeps", Build::MySql, &[], SHOP).await?;
    rig.mysql
        .run(
            "CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY, k INT); INSERT INTO shop.t VALUES (10, 10)",
        )
        .await?;
    let plugins = rig.directory.join("plugins");
    std::fs::create_dir(&plugins)?;
    std::fs::copy(top().join("target/guests/tenth.wasm"), plugins.join("tenth.wasm"))?;
    let more = format!("\n[plugins]\ndir = \"{}\"\n", plugins.display());
    let config = rowmill_tests::EngineConfig { text: format!("{}{more}", rig.config.text), ..rig.config.clone() };
    let mut engine = Engine::start_and_wait(&config).await?;
    rig.read_to_the_end(&engine).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = wake_ups(engine.process().id())?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let a_second = (wake_ups(engine.process().id())? - before) / 5;
    ensure!(a_second < 50, "{a_second} a second");
    engine.stop().await
}

/// Returns a check's exit code and output.
fn checked(config: &EngineConfig) -> anyhow::Result<(Option<i32>, String)> {
    let output = config.command(&["check"])?.output()?;
    Ok((output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// A check finds the errors that a run would meet.
#[tokio::test]
async fn a_check_finds_what_a_run_would() -> anyhow::Result<()> {
    let rig = Rig::start("a_check_finds_what_a_run_would", Build::MySql, &[], SHOP).await?;
    let check = |text: String| checked(&EngineConfig { text, ..rig.config.clone() });
    let (code, said) = check(rig.config.text.clone())?;
    ensure!(code == Some(0) && said.contains("ready"), "{said}");
    let path = rig.config.checkpoint().display().to_string();
    for wrong in ["/dev/null/checkpoint.json", "/proc/checkpoint.json", "/tmp"] {
        let (code, said) = check(rig.config.text.replace(&path, wrong))?;
        ensure!(code == Some(1) && said.contains("problem") && said.contains(wrong), "{wrong}: {said}");
        ensure!(!said.contains("ready"), "{said}");
    }
    Ok(())
}

/// A check finds that the checkpoint's table is missing and cannot be created, and creates no table itself.
#[tokio::test]
async fn a_check_finds_a_table_that_cannot_be_created() -> anyhow::Result<()> {
    for (name, build) in [
        ("a_check_finds_a_table_that_cannot_be_created", Build::MySql),
        ("a_check_finds_a_table_that_cannot_be_created_mariadb", Build::MariaDb("10.5")),
    ] {
        let rig = Rig::start(name, build, &[], SHOP).await?;
        let store =
            format!("type = \"mysql\"\nurl = \"{}/state\"\npassword = \"{}\"", rig.mysql.url(), rig.mysql.password());
        let path = format!("path = \"{}\"", rig.config.checkpoint().display());
        let text = rig.config.text.replace(&path, &store);
        let config = EngineConfig { text, ..rig.config.clone() };
        rig.mysql.run("CREATE SCHEMA state; GRANT SELECT, INSERT, UPDATE ON state.* TO rowmill@'%'").await?;
        let (code, said) = checked(&config)?;
        ensure!(code == Some(1) && said.contains("grant CREATE on its database"), "{said}");
        rig.mysql.run("GRANT CREATE ON state.* TO rowmill@'%'").await?;
        let (code, said) = checked(&config)?;
        ensure!(code == Some(0) && said.contains("ready"), "{said}");
        let tables: Option<u64> = rig
            .mysql
            .connect()
            .await?
            .query_first("SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'state'")
            .await?;
        ensure!(tables == Some(0), "{tables:?}");
    }
    Ok(())
}

/// `tail` delivers nothing, and needs no sink.
#[tokio::test]
async fn a_tail_needs_no_sink() -> anyhow::Result<()> {
    let rig = Rig::start("a_tail_needs_no_sink", Build::MySql, &[], SHOP).await?;
    rig.mysql
        .run("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY); INSERT INTO shop.t VALUES (1)")
        .await?;
    let text = rig.config.text.split("[sink").next().context("a source")?.to_owned();
    let config = rowmill_tests::EngineConfig { text, ..rig.config.clone() };
    let mut tail = config.command(&["tail", "--from", "earliest"])?.stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(tail.stdout.take().context("its output")?).read_line(&mut line)?;
    tail.kill()?;
    tail.wait()?;
    ensure!(line.contains("\"id\":1"), "{line}");
    Ok(())
}

/// The log's format is for people or for programs, as configured; an unknown level is refused.
#[tokio::test]
async fn the_log_is_as_asked_for() -> anyhow::Result<()> {
    let rig = Rig::start("the_log_is_as_asked_for", Build::MySql, &[], SHOP).await?;
    let wrong = rig.config.command(&["run"])?.env("ROWMILL_LOG", "infos").output()?;
    ensure!(wrong.status.code() == Some(2), "{wrong:?}");
    ensure!(String::from_utf8_lossy(&wrong.stderr).contains("ROWMILL_LOG"), "{wrong:?}");
    let mut command = rig.config.command(&["--log-format", "json", "run", "--no-wait"])?;
    let failed = command.env("ROWMILL_SOURCE_PASSWORD", "wrong").output()?;
    let said = String::from_utf8(failed.stderr)?;
    let lines: Vec<serde_json::Value> = said.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let last = lines.last().context("a line")?;
    ensure!(
        last["level"] == "ERROR" && last["message"].as_str().is_some_and(|text| text.contains("password")),
        "{last}"
    );
    Ok(())
}

/// With a full pipe as its log that is never read, the engine works on, and a signal stops it.
#[tokio::test]
async fn a_log_that_nobody_reads() -> anyhow::Result<()> {
    let rig = Rig::start("a_log_that_nobody_reads", Build::MySql, &[], SHOP).await?;
    rig.mysql.run("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY)").await?;
    rig.mysql.run("INSERT INTO shop.t VALUES (1)").await?;
    // The pipe's capacity.
    let (_reader, mut writer) = std::io::pipe()?;
    writer.write_all(&[b'x'; 64 << 10])?;
    let mut engine = rig.config.command(&["run"])?.stderr(writer).spawn()?;
    wait_for("the row", SOON, || async { Ok((rig.changes()? == ["c t 1"]).then_some(())) }).await?;
    ensure!(Command::new("kill").arg(engine.id().to_string()).status()?.success());
    let status = wait_for("the end", Duration::from_secs(10), || {
        let ended = engine.try_wait();
        async move { Ok(ended?) }
    })
    .await;
    engine.kill().ok();
    let status = status?;
    ensure!(status.code() == Some(0), "{status}");
    Ok(())
}
