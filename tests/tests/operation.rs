//! What whoever runs the engine meets: logs that can't be written, links, readers that go away, checks before the first run.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use rowmill_tests::{Build, Engine, Rig, binary, scratch, top, wait_for};

const SOON: Duration = Duration::from_secs(60);
const SHOP: &str = "tables = [\"shop.*\"]\nstart = \"earliest\"";

/// The log goes to a device that is full: that ends nothing.
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
    // An error can't be told either: the exit code says it.
    let status = rig.config.command(&["checkpoint", "set", "nowhere"])?.stderr(full()?).status()?;
    ensure!(status.code() == Some(2), "{status}");
    Ok(())
}

/// The checkpoint's path is a link, to a file that isn't there yet: the file is written, and the link stays.
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

/// `rowmill replay ... | head -1`.
#[test]
fn a_reader_may_have_enough() -> anyhow::Result<()> {
    let directory = scratch("a_reader_may_have_enough");
    for file in ["mysql-9.7.binlog", "mariadb-11.8.binlog"] {
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
        ensure!(line.starts_with('{') && status.success() && said.is_empty(), "{status}: {said}");
    }
    Ok(())
}

/// Rows without a route stop the engine: `check` says so before. And that nothing is selected.
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
    ensure!(!check(&rig)?.contains("no route"), "one sink takes all: {}", check(&rig)?);
    rig.config
        .text
        .push_str("[[route]]\ntables = [\"shop.orders\"]\noperations = [\"insert\", \"update\"]\nsink = \"out\"\n");
    let said = check(&rig)?;
    ensure!(said.contains("there is no route stops the engine"), "{said}");
    ensure!(said.contains("inserts, updates, deletes of shop.lines; deletes of shop.orders"), "{said}");
    rig.config.text = rig.config.text.replace("shop.*", "Shop.*");
    let said = check(&rig)?;
    ensure!(said.contains("no table is selected"), "{said}");
    Ok(())
}

/// The plugins directory goes away for a while: what runs goes on, and that is said once.
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
    wait_for("it is there again", SOON, || async { Ok(engine.log().contains("can be read again").then_some(())) })
        .await?;
    ensure!(engine.log().matches("plugins stay as they are").count() == 1, "{}", engine.log());
    ensure!(!engine.log().contains("plugin removed"), "{}", engine.log());
    engine.stop().await?;
    ensure!(rig.changes()? == ["c t 1"], "{:?}", rig.changes()?);
    Ok(())
}
