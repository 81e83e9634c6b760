//! Transforms in every language: the same examples give the same results on the same rows, and run in the engine, from
//! MySQL to a file.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use rowmill_tests::{Build, Engine, Rig, log_lines, scratch, top, wait_for};
use serde_json::{Value, json};

const LANGUAGES: [&str; 8] = ["rust", "c", "zig", "assemblyscript", "go", "js", "ts", "python"];
const EXAMPLES: [&str; 8] = ["filter", "reshape", "route", "paid", "split", "flatten", "count", "validate"];

fn module(language: &str, example: &str) -> PathBuf {
    top().join(format!("target/guests/{language}/{example}.wasm"))
}

/// Runs `rowmill plugin`, and returns its exit code and output.
fn plugin(arguments: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
    let output = Command::new(rowmill_tests::binary()?).arg("plugin").args(arguments).output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
}

/// Each example gives the expected result of each case, in one batch and row by row.
#[test]
fn examples_of_all_languages_agree() -> anyhow::Result<()> {
    let by_row = ["js", "python"].map(|language| (language, "filter_rows")).into_iter();
    let by_row = by_row.chain(["rust", "js", "python"].map(|language| (language, "reshape_rows")));
    let by_language = LANGUAGES.iter().flat_map(|&language| EXAMPLES.map(|example| (language, example)));
    for (language, example) in by_language.chain(by_row) {
        let module = module(language, example);
        let cases = top().join("sdk/cases").join(example.trim_end_matches("_rows"));
        let (code, said) = plugin(&["test", &module.to_string_lossy(), "--cases", &cases.to_string_lossy()])?;
        ensure!(code == Some(0) && said.contains("ok "), "{language}/{example}: {said}");
    }
    Ok(())
}

/// In every language a column that a table lacks, does not declare or has of another kind is an error of the row, and never
/// an empty or a wrong value; names are compared without case; absent is not NULL; both images can be read.
#[test]
fn getters_of_all_languages_agree() -> anyhow::Result<()> {
    for language in ["rust", "c", "zig", "assemblyscript", "go", "js", "python"] {
        let module = module(language, "getters");
        let cases = top().join("sdk/cases/getters");
        let (code, said) = plugin(&["test", &module.to_string_lossy(), "--cases", &cases.to_string_lossy()])?;
        ensure!(code == Some(0) && said.contains("ok "), "{language}: {said}");
    }
    Ok(())
}

/// In every language, a module of each kind gets past rows that are hard to process.
#[test]
fn hard_rows_break_no_module() -> anyhow::Result<()> {
    for (language, example) in LANGUAGES.iter().flat_map(|&language| EXAMPLES.map(|example| (language, example))) {
        let module = module(language, example);
        let rows = top().join(format!("sdk/cases/{example}/example.rows.jsonl"));
        let (code, said) =
            plugin(&["inspect", "--verify", &module.to_string_lossy(), "--rows", &rows.to_string_lossy()])?;
        ensure!(code == Some(0) && said.matches("ok ").count() == 6, "{language}/{example}: {said}");
    }
    Ok(())
}

/// A sink that a transform declares and the configuration lacks is an error when the transform is loaded.
#[test]
fn a_declared_sink_must_exist() -> anyhow::Result<()> {
    let cases = scratch("a_declared_sink_must_exist");
    let rows = std::fs::read_to_string(top().join("sdk/cases/paid/example.rows.jsonl"))?;
    std::fs::write(cases.join("a.rows.jsonl"), rows.replace("order-management", "another"))?;
    for language in LANGUAGES {
        let module = module(language, "paid");
        let (code, said) = plugin(&["test", &module.to_string_lossy(), "--cases", &cases.to_string_lossy()])?;
        let error = "the configuration has no sink `order-management`, which the transform declares";
        ensure!(code == Some(1) && said.contains(error), "{language}: {said}");
    }
    Ok(())
}

/// Logs and counters are in a case's results, and a case has settings of its own.
#[test]
fn logs_counters_and_settings_are_in_a_case() -> anyhow::Result<()> {
    let directory = scratch("logs_counters_and_settings_are_in_a_case");
    let module = directory.join("unruly.wasm");
    std::fs::copy(top().join("target/guests/unruly.wasm"), &module)?;
    std::fs::write(module.with_extension("toml"), "instances = 1\n")?;
    let cases = directory.join("tests");
    std::fs::create_dir(&cases)?;
    let rows = [
        json!({"settings": {"second": true}}),
        json!({"table": "shop.t", "columns": ["id bigint", "act text", "second text", "n bigint"], "key": ["id"]}),
        json!({"op": "c", "table": "shop.t", "after": {"id": 1, "act": "fail", "second": "count", "n": 0}}),
        json!({"op": "c", "table": "shop.t", "after": {"id": 2, "act": "fail", "second": "trap", "n": 0}}),
        json!({"op": "c", "table": "shop.t", "after": {"id": 3, "act": "fail", "second": "count", "n": 0}}),
    ];
    std::fs::write(cases.join("a.rows.jsonl"), rows.map(|row| row.to_string()).join("\n"))?;
    let (code, said) = plugin(&["test", &module.to_string_lossy(), "--accept"])?;
    ensure!(code == Some(0), "{said}");
    let results = std::fs::read_to_string(cases.join("a.expected.jsonl"))?;
    let results: Vec<Value> = results.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    // A trap starts a new instance, which counts anew.
    assert_eq!((&results[0]["keep"]["after"]["n"], &results[2]["keep"]["after"]["n"]), (&json!(1), &json!(1)));
    assert!(results[1]["failed"].as_str().is_some_and(|error| error.starts_with("told to trap")), "{results:#?}");
    assert!(results[3]["log"].as_str().is_some_and(|line| line.starts_with("told to trap")), "{results:#?}");
    assert_eq!((&results[3]["level"], &results[4]), (&json!("error"), &json!({"counters": {"counted": 2}})));
    std::fs::write(cases.join("a.expected.jsonl"), "{}")?;
    let (code, said) = plugin(&["test", &module.to_string_lossy()])?;
    ensure!(code == Some(1) && said.contains("failed   a"), "{said}");
    Ok(())
}

/// Conditions and recipes give the same results in every language.
#[test]
fn recipes_of_all_languages_agree() -> anyhow::Result<()> {
    for language in ["rust", "c", "zig", "assemblyscript", "go", "js", "python"] {
        let module = module(language, "recipes");
        let cases = top().join("sdk/cases/recipes");
        let (code, said) = plugin(&["test", &module.to_string_lossy(), "--cases", &cases.to_string_lossy()])?;
        ensure!(code == Some(0) && said.contains("ok "), "{language}: {said}");
    }
    Ok(())
}

/// Rows of tables that a plugin's .toml excludes are in its batches, and it is not told of these tables.
#[test]
fn rows_of_excluded_tables_pass() -> anyhow::Result<()> {
    let directory = scratch("rows_of_excluded_tables_pass");
    for language in LANGUAGES {
        let module = directory.join(format!("{language}.wasm"));
        std::fs::copy(self::module(language, "route"), &module)?;
        std::fs::write(module.with_extension("toml"), "tables = [\"shop.orders\"]\n")?;
        let cases = top().join("sdk/cases/route");
        let (code, said) = plugin(&["test", &module.to_string_lossy(), "--cases", &cases.to_string_lossy()])?;
        ensure!(code == Some(0) && said.contains("ok "), "{language}: {said}");
        ensure!(!said.contains("ERROR"), "a batch failed, though its rows did not: {language}: {said}");
    }
    Ok(())
}

/// A failed case names the place; `plugin inspect` describes a module.
#[test]
fn tests_fail_where_they_should() -> anyhow::Result<()> {
    let directory = scratch("tests_fail_where_they_should");
    let module = directory.join("plugin.wasm");
    std::fs::copy(module_of_c(), &module)?;
    let tests = directory.join("tests");
    std::fs::create_dir(&tests)?;
    let cases = top().join("sdk/cases/filter");
    std::fs::copy(cases.join("example.rows.jsonl"), tests.join("example.rows.jsonl"))?;
    let path = directory.to_string_lossy().into_owned();
    let (code, said) = plugin(&["test", &path])?;
    assert!(code == Some(1) && said.contains("--accept"), "{said}");
    let (code, said) = plugin(&["test", &path, "--accept"])?;
    assert!(code == Some(0) && said.contains("accepted example"), "{said}");
    let expected = tests.join("example.expected.jsonl");
    let right = std::fs::read_to_string(&expected)?;
    assert_eq!(right, std::fs::read_to_string(cases.join("example.expected.jsonl"))?);
    std::fs::write(&expected, right.replace("1200.00", "1200.01"))?;
    let (code, said) = plugin(&["test", &path])?;
    assert!(code == Some(1) && said.contains("failed   example") && said.contains("line 1:"), "{said}");
    std::fs::write(tests.join("example.rows.jsonl"), "{\"op\": \"c\"}")?;
    let (code, said) = plugin(&["test", &path])?;
    assert!(code == Some(1) && said.contains("line 1:"), "{said}");

    let (code, said) = plugin(&["inspect", &path])?;
    assert_eq!(code, Some(0), "{said}");
    for words in
        ["core module", "memory 268435456 bytes, deadline 1s", "ns, in batches of 256 rows of which 26 are kept"]
    {
        assert!(said.contains(words), "`{words}` isn't in: {said}");
    }
    let (code, said) = plugin(&["inspect", &self::module("python", "filter").to_string_lossy()])?;
    assert!(code == Some(0) && said.contains("component of rowmill:transform@0.1.0"), "{said}");
    Ok(())
}

fn module_of_c() -> PathBuf {
    module("c", "filter")
}

/// A new project builds with one command and passes its test, with the compilers that built the examples.
#[test]
fn new_projects_build_and_pass_their_test() -> anyhow::Result<()> {
    let directory = scratch("new_projects_build_and_pass_their_test");
    let tools = top().join("target/tools");
    let environment: Vec<(String, String)> = ["languages.env", "rust.env"]
        .iter()
        .map(|file| std::fs::read_to_string(top().join("target/guests").join(file)))
        .collect::<Result<Vec<_>, _>>()?
        .iter()
        .flat_map(|text| text.lines().filter_map(|line| line.split_once('=')))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    for language in LANGUAGES {
        let project = directory.join(format!("my-{language}"));
        let path = project.to_string_lossy().into_owned();
        let (code, said) = plugin(&["new", &path, "--lang", language])?;
        ensure!(code == Some(0) && said.contains("rowmill plugin build"), "{said}");
        let (code, said) = plugin(&["new", &path, "--lang", language])?;
        ensure!(code == Some(1) && said.contains("already exists"), "{said}");
        // npm would download these again.
        std::os::unix::fs::symlink(tools.join("guests-node/node_modules"), project.join("node_modules"))?;
        let output = Command::new(rowmill_tests::binary()?)
            .args(["plugin", "build", &path])
            .envs(environment.iter().cloned())
            .output()
            .context("build")?;
        ensure!(output.status.success(), "{language}: {}", String::from_utf8_lossy(&output.stderr));
        let (code, said) = plugin(&["test", &path])?;
        ensure!(code == Some(0) && said.contains("ok       example"), "{language}: {said}");
    }
    // Another version of a module, compared on recorded rows.
    let project = directory.join("my-c");
    let rows = project.join("tests/example.rows.jsonl");
    for (other, expected) in
        [(project.join("my-c.wasm"), ": 0 differ from"), (module("c", "route"), "9 rows: 8 differ from")]
    {
        let output = Command::new(rowmill_tests::binary()?)
            .args(["plugin", "dev", "--once", "--rows"])
            .arg(&rows)
            .arg("--against")
            .args([&other, &project])
            .envs(environment.iter().cloned())
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(said.contains("ok       example") && said.contains(expected), "{said}");
    }
    let (code, said) = plugin(&["new", "Bad Name", "--lang", "c"])?;
    assert!(code == Some(1) && said.contains("lower-case letters"), "{said}");
    let (code, said) = plugin(&["build", &directory.to_string_lossy()])?;
    assert!(code == Some(1) && said.contains("no script `build`"), "{said}");
    Ok(())
}

/// Modules built for earlier versions of the WIT world load, and give the same results. One of an unknown version is refused,
/// with the known versions in the error.
#[test]
fn kept_modules_of_each_version() -> anyhow::Result<()> {
    let directory = scratch("kept_modules_of_each_version");
    for version in ["0.1.0"] {
        let kept = top().join("tests/data/plugins").join(version);
        for name in ["filter-component", "filter-module"] {
            let module = kept.join(format!("{name}.wasm"));
            let cases = top().join("sdk/cases/filter");
            let (code, said) = plugin(&["test", &module.to_string_lossy(), "--cases", &cases.to_string_lossy()])?;
            ensure!(code == Some(0), "{version}/{name}: {said}");
        }
    }
    let mut bytes = std::fs::read(top().join("tests/data/plugins/0.1.0/filter-component.wasm"))?;
    let version = b"@0.1.0";
    for at in 0..bytes.len() - version.len() {
        if bytes[at..].starts_with(version) {
            bytes[at + 3] = b'9';
        }
    }
    let module = directory.join("newer.wasm");
    std::fs::write(&module, bytes)?;
    let (code, said) = plugin(&["inspect", &module.to_string_lossy()])?;
    assert!(
        code == Some(1) && said.contains("@0.9.0") && said.contains("offers rowmill:transform/...@0.1.0"),
        "{said}"
    );
    Ok(())
}

/// Rows written by `rowmill tail --record` are a case for `rowmill plugin test`.
#[tokio::test]
async fn recorded_rows_are_cases() -> anyhow::Result<()> {
    let rig = Rig::start("recorded_rows_are_cases", Build::MySql, &[], "tables = [\"shop.*\"]").await?;
    rig.mysql
        .run("CREATE DATABASE shop; CREATE TABLE shop.orders (id BIGINT PRIMARY KEY, status VARCHAR(20), b BIT(3))")
        .await?;
    let config = rig.directory.join("rowmill.toml");
    std::fs::write(&config, &rig.config.text)?;
    let tests = rig.directory.join("tests");
    std::fs::create_dir(&tests)?;
    let rows = tests.join("recorded.rows.jsonl");
    let mut tail = Command::new(rowmill_tests::binary()?)
        .args(["tail", "--record", "--from", "earliest", "--config"])
        .arg(&config)
        .env("ROWMILL_SOURCE_PASSWORD", &rig.config.password)
        .stdout(std::fs::File::create(&rows)?)
        .spawn()?;
    rig.mysql
        .run(
            "INSERT INTO shop.orders VALUES (1, 'new', 5), (2, 'paid', NULL); UPDATE shop.orders SET status = 'paid'; DELETE FROM \
             shop.orders WHERE id = 2",
        )
        .await?;
    wait_for("the rows are recorded", Duration::from_secs(30), || async {
        Ok(std::fs::read_to_string(&rows)?.contains("\"op\":\"d\"").then_some(()))
    })
    .await?;
    ensure!(Command::new("kill").arg(tail.id().to_string()).status()?.success());
    ensure!(tail.wait()?.success(), "a stop is no failure");
    assert!(!rig.config.checkpoint().exists(), "no checkpoint is written");
    assert_eq!(std::fs::read_to_string(&rows)?.lines().count(), 5);
    let output = Command::new(rowmill_tests::binary()?)
        .args([
            "tail",
            "--record",
            "--from",
            "earliest",
            "--limit",
            "1",
            "--where",
            "changed_to(status, 'paid')",
            "--config",
        ])
        .arg(&config)
        .env("ROWMILL_SOURCE_PASSWORD", &rig.config.password)
        .output()?;
    let lines = String::from_utf8(output.stdout)?;
    assert!(output.status.success() && lines.lines().count() == 2 && lines.contains("\"id\":2"), "{lines}");
    let output = Command::new(rowmill_tests::binary()?)
        .args(["tail", "--from", "earliest", "--where", "statuss = 'paid'", "--config"])
        .arg(&config)
        .env("ROWMILL_SOURCE_PASSWORD", &rig.config.password)
        .output()?;
    let error = String::from_utf8(output.stderr)?;
    assert!(error.contains("--where: shop.orders has no column `statuss`; did you mean `status`?"), "{error}");

    std::fs::copy(module_of_c(), rig.directory.join("filter.wasm"))?;
    let (code, said) = plugin(&["test", &rig.directory.to_string_lossy(), "--accept"])?;
    assert_eq!(code, Some(0), "{said}");
    let made = std::fs::read_to_string(tests.join("recorded.expected.jsonl"))?;
    assert_eq!(made.matches("\"keep\"").count(), 2, "{made}");
    Ok(())
}

fn put(from: &Path, plugins: &Path, name: &str) -> anyhow::Result<()> {
    let hidden = plugins.join(".incoming");
    std::fs::copy(from, &hidden)?;
    Ok(std::fs::rename(hidden, plugins.join(format!("{name}.wasm")))?)
}

/// Every language's routing example runs in one engine in turn, each as the replacement of the one before.
#[tokio::test]
async fn every_language_through_the_engine() -> anyhow::Result<()> {
    let mut rig = Rig::start("every_language_through_the_engine", Build::MySql, &[], "tables = [\"shop.*\"]").await?;
    let plugins = rig.directory.join("plugins");
    std::fs::create_dir(&plugins)?;
    let europe = rig.directory.join("europe.jsonl");
    rig.config.text.push_str(&format!(
        "[plugins]\ndir = \"{}\"\n[sink.europe]\ntype = \"file\"\npath = \"{}\"\n[[route]]\ntables = [\"*.*\"]\nsink = \"out\"\n",
        plugins.display(),
        europe.display()
    ));
    rig.mysql
        .run(
            "CREATE DATABASE shop; CREATE TABLE shop.orders (id BIGINT PRIMARY KEY AUTO_INCREMENT, customer INT UNSIGNED, status \
             VARCHAR(20), total DECIMAL(10,2), country CHAR(2), email VARCHAR(100), language VARCHAR(20))",
        )
        .await?;
    put(&module(LANGUAGES[0], "route"), &plugins, "route")?;
    let engine = Engine::start_and_wait(&rig.config).await?;
    for (index, language) in LANGUAGES.iter().enumerate() {
        if index > 0 {
            put(&module(language, "route"), &plugins, "route")?;
            wait_for("the plugin is loaded", Duration::from_secs(120), || async {
                Ok((engine.log().matches(log_lines::PLUGIN_LOADED).count() > index).then_some(()))
            })
            .await
            .with_context(|| engine.log())?;
        }
        rig.mysql
            .run(&format!(
                "INSERT INTO shop.orders (country, email, language) VALUES ('DE', 'a@b.example', '{language}'), ('FR', NULL, \
                 '{language}'), ('FR', 'c@d.example', '{language}')"
            ))
            .await?;
    }
    rig.read_to_the_end(&engine).await?;
    engine.stop().await?;
    let short = |row: &Value| json!([row["after"]["language"], row["after"]["country"], row["after"]["email"]]);
    let arrived: Vec<Value> = rig.arrived()?.iter().map(short).collect();
    let text = std::fs::read_to_string(&europe)?;
    let german: Vec<Value> =
        text.lines().map(|line| Ok(short(&serde_json::from_str(line)?))).collect::<anyhow::Result<_>>()?;
    let of = |rows: &[Value]| {
        LANGUAGES
            .iter()
            .flat_map(|language| rows.iter().map(move |row| json!([language, row[0], row[1]])))
            .collect::<Vec<_>>()
    };
    assert_eq!(german, of(&[json!(["DE", "hidden"])]));
    assert_eq!(arrived, of(&[json!(["FR", null]), json!(["FR", "hidden"])]));
    Ok(())
}
