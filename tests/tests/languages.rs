//! Transforms in every language: the same examples give the same results on the same rows, and run in the engine, from
//! MySQL to a file.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use rowmill_tests::{Build, Engine, Rig, compilers, log_lines, scratch, top, wait_for};
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

/// What a language's own library prints is in the log, its clock shows the time of the batch, and random numbers are random; an
/// error is shown with the author's file and line, also where the module was compiled of another language.
#[test]
fn the_libraries_of_python_and_javascript_work() -> anyhow::Result<()> {
    let places = [
        ("python", ["app.py:38 in raise_here", "app.py:32 in row"]),
        ("js", ["throwHere (runtime.js:26)", "row (runtime.js:20)"]),
        ("ts", ["throwHere (runtime.ts:31)", "row (runtime.ts:20)"]),
    ];
    for (language, [innermost, outer]) in places {
        let (module, cases) = (module(language, "runtime"), top().join(format!("sdk/cases/runtime-{language}")));
        let (code, said) = plugin(&["test", &module.to_string_lossy(), "--cases", &cases.to_string_lossy()])?;
        ensure!(code == Some(0) && said.contains("ok "), "{language}: {said}");
        // Where the result is another one, the whole error is shown.
        let others = scratch(&format!("the_libraries_of_{language}"));
        std::fs::copy(cases.join("example.rows.jsonl"), others.join("a.rows.jsonl"))?;
        let expected = std::fs::read_to_string(cases.join("example.expected.jsonl"))?;
        std::fs::write(others.join("a.expected.jsonl"), expected.replace("thrown", "x").replace("raised", "x"))?;
        let (code, said) = plugin(&["test", &module.to_string_lossy(), "--cases", &others.to_string_lossy()])?;
        let calls = said.split_once(&format!("\n      at {innermost}\n      at {outer}\n"));
        ensure!(code == Some(1) && calls.is_some(), "{language}: {said}");
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

/// A transform whose tables are misspelt decides on no row: its test fails, instead of accepting that all rows pass.
#[test]
fn a_case_without_a_table_of_the_transform_fails() -> anyhow::Result<()> {
    let cases = scratch("a_case_without_a_table_of_the_transform_fails");
    let rows = std::fs::read_to_string(top().join("sdk/cases/filter/example.rows.jsonl"))?;
    std::fs::write(cases.join("a.rows.jsonl"), rows.replace("shop.orders", "shop.ordrs"))?;
    for language in LANGUAGES {
        let module = module(language, "filter");
        let (code, said) =
            plugin(&["test", &module.to_string_lossy(), "--cases", &cases.to_string_lossy(), "--accept"])?;
        let error = "decides on none of the tables of the case (shop.";
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
    let environment = compilers()?;
    for language in LANGUAGES {
        let project = directory.join(format!("my-{language}"));
        let path = project.to_string_lossy().into_owned();
        let (code, said) = plugin(&["new", &path, "--lang", language])?;
        ensure!(code == Some(0) && said.contains("rowmill plugin build"), "{said}");
        let (code, said) = plugin(&["new", &path, "--lang", language])?;
        ensure!(code == Some(1) && said.contains("already exists"), "{said}");
        // npm would download these again.
        std::os::unix::fs::symlink(tools.join("guests-node/node_modules"), project.join("node_modules"))?;
        let (is_built, said) = build(&project, &environment)?;
        ensure!(is_built, "{language}: {said}");
        let (code, said) = plugin(&["test", &path])?;
        ensure!(code == Some(0) && said.contains("ok       example"), "{language}: {said}");
    }
    // A module that is older than its source would pass the tests of the source before.
    let project = directory.join("my-c");
    let source = project.join("my-c.c");
    std::fs::write(&source, std::fs::read(&source)?)?;
    let (code, said) = plugin(&["test", &project.to_string_lossy()])?;
    ensure!(code == Some(1) && said.contains("my-c.wasm is older than"), "{said}");
    // Another version of a module, compared on recorded rows.
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

/// Runs `rowmill plugin build`, and returns whether it succeeded, and what it said.
fn build(project: &Path, environment: &[(String, String)]) -> anyhow::Result<(bool, String)> {
    let output = Command::new(rowmill_tests::binary()?)
        .args(["plugin", "build"])
        .arg(project)
        .envs(environment.iter().cloned())
        .output()?;
    Ok((output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()))
}

/// The source of a project, the file of it that the test replaces, and a use of a column with the same one misspelt.
const TYPED: [(&str, &str, &str, &str); 8] = [
    ("rust.rs", "src/lib.rs", "order.status()?;", "order.statuss()?;"),
    ("c.c", "my-c.c", "orders_status(order, &status)", "orders_statuss(order, &status)"),
    ("zig.zig", "my-zig.zig", "order.status() orelse", "order.statuss() orelse"),
    ("assemblyscript.ts", "my-assemblyscript.ts", "status = order.status;", "status = order.statuss;"),
    ("go.go", "main.go", "order.Status()", "order.Statuss()"),
    ("js.js", "my-js.js", "= order.status;", "= order.statuss;"),
    ("ts.ts", "my-ts.ts", "= order.status;", "= order.statuss;"),
    ("python.py", "app.py", "= order.status\n", "= order.statuss\n"),
];

/// Returns what an editor says of a project in JavaScript.
fn checked_by_editor(project: &Path) -> anyhow::Result<String> {
    let mut compiler = Command::new(project.join("node_modules/.bin/tsc"));
    let output = compiler.args(["--noEmit", "--project", "jsconfig.json"]).current_dir(project).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// In every language typed rows read each kind of column, and fail a row where its table is not as it was: another member of
/// an enum, NULL where there was none. A misspelt column is found when the plugin is built; in JavaScript by the TypeScript
/// compiler, in Python by the row that uses it.
#[test]
fn typed_rows_find_a_misspelt_column() -> anyhow::Result<()> {
    let directory = scratch("typed_rows_find_a_misspelt_column");
    let (data, tools) = (top().join("tests/data/typed-rows"), top().join("target/tools"));
    let environment = compilers()?;
    for (language, (source, replaced, right, misspelt)) in LANGUAGES.into_iter().zip(TYPED) {
        let project = directory.join(format!("my-{language}"));
        let path = project.to_string_lossy().into_owned();
        let (code, said) = plugin(&["new", &path, "--lang", language])?;
        ensure!(code == Some(0), "{said}");
        std::os::unix::fs::symlink(tools.join("guests-node/node_modules"), project.join("node_modules"))?;
        let rows = project.join("tests/example.rows.jsonl");
        let declared =
            std::fs::read_to_string(&rows)?.replace("status varchar(20)", "status enum('new','paid','paid ')");
        std::fs::write(&rows, declared)?;
        let (code, said) = plugin(&["types", &path])?;
        ensure!(code == Some(0) && said.contains("shop.customers, shop.orders"), "{language}: {said}");
        for file in ["altered.rows.jsonl", "altered.expected.jsonl"] {
            std::fs::copy(data.join(file), project.join("tests").join(file))?;
        }
        let text = std::fs::read_to_string(data.join(source))?.replace("PLUGIN_NAME", &format!("my-{language}"));
        ensure!(text.contains(right), "{language}");
        let file = project.join(replaced);
        std::fs::write(&file, &text)?;
        let (is_built, said) = build(&project, &environment)?;
        ensure!(is_built && !said.contains("warning"), "{language}: {said}");
        if language == "js" {
            let said = checked_by_editor(&project)?;
            ensure!(said.is_empty(), "{said}");
        }
        let (code, said) = plugin(&["test", &path])?;
        ensure!(code == Some(0) && said.matches("ok       ").count() == 2, "{language}: {said}");

        std::fs::write(&file, text.replace(right, misspelt))?;
        let (is_built, mut said) = build(&project, &environment)?;
        match language {
            "js" => {
                said = checked_by_editor(&project)?;
            }
            "python" => {
                ensure!(is_built, "{said}");
                said = plugin(&["test", &path])?.1;
            }
            _ => ensure!(!is_built, "{language}: a misspelt column is built"),
        }
        ensure!(said.to_lowercase().contains("statuss"), "{language}: {said}");
    }
    Ok(())
}

/// Typed rows of a server's tables have the members of enums and what is NOT NULL, and never the server's password.
#[tokio::test]
async fn typed_rows_of_a_server() -> anyhow::Result<()> {
    let rig = Rig::start("typed_rows_of_a_server", Build::MySql, &[], "tables = [\"shop.*\"]").await?;
    rig.mysql
        .run(
            "CREATE DATABASE shop; GRANT SELECT ON shop.* TO rowmill@'%'; CREATE TABLE shop.orders (id BIGINT UNSIGNED \
             PRIMARY KEY, total DECIMAL(10,2) NOT NULL, note \
             TEXT, state ENUM('new', 'it''s', 'a\\\\b', 'größe') NOT NULL, `a b` DATETIME(3), hidden INT INVISIBLE); CREATE TABLE \
             shop.audit (id INT)",
        )
        .await?;
    let project = rig.directory.join("typed");
    let path = project.to_string_lossy().into_owned();
    let (code, said) = plugin(&["new", &path, "--lang", "rust"])?;
    ensure!(code == Some(0), "{said}");
    let (url, password) = (rig.mysql.url(), rig.mysql.password());
    let types = |url: &str, patterns: &[&str]| {
        let mut command = Command::new(rowmill_tests::binary()?);
        command.args(["plugin", "types", &path, "--from", url]).env("ROWMILL_SOURCE_PASSWORD", password);
        let output = command.args(patterns.iter().flat_map(|pattern| ["--tables", pattern])).output()?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        anyhow::Ok((output.status.success(), said))
    };
    let (is_made, said) = types(&url, &["shop.*", "!shop.audit"])?;
    ensure!(is_made && said.contains("rows.rs: shop.orders\n"), "{said}");
    let text = std::fs::read_to_string(project.join("src/rows.rs"))?;
    for piece in [
        "--tables 'shop.*' --tables '!shop.audit'. DO NOT EDIT.\n",
        "pub fn id(&self) -> Result<u64, Failure> {",
        "pub fn total(&self) -> Result<&'a str, Failure> {",
        "pub fn note(&self) -> Result<Option<&'a str>, Failure> {",
        "pub fn state(&self) -> Result<OrdersState, Failure> {",
        "Self::ItS => \"it's\",",
        "Self::AB => \"a\\\\b\",",
        "Self::Größe => \"größe\",",
        "/// Column `a b`, datetime(3): ",
        "pub fn hidden(&self) -> Result<Option<i64>, Failure> {",
    ] {
        ensure!(text.contains(piece), "{piece} is not in {text}");
    }
    ensure!(password.is_empty() || !text.contains(password), "{text}");
    let (is_made, said) = types(&url, &[])?;
    ensure!(!is_made && said.contains("--from with a server needs --tables"), "{said}");
    let (is_made, said) = types(&url, &["other.*"])?;
    ensure!(!is_made && said.contains("there is no table to make typed rows for"), "{said}");
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
