//! What authors of transforms are told to run: the tutorial, the workflows of new projects, and the compilers of languages
//! without an SDK.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use rowmill_tests::{binary, compilers, scratch, top};
use serde_json::Value;

const LANGUAGES: [&str; 8] = ["rust", "c", "zig", "assemblyscript", "go", "js", "ts", "python"];

/// Makes a command with the compilers of all languages and `rowmill` in PATH, after `first`.
fn command(program: impl AsRef<Path>, first: &[&Path]) -> anyhow::Result<Command> {
    let mut command = Command::new(program.as_ref());
    for (name, value) in compilers()? {
        if name == "PATH" {
            let rowmill = binary()?;
            let directories = first.iter().copied().chain(rowmill.parent()).map(Path::to_owned);
            command.env(name, std::env::join_paths(directories.chain(std::env::split_paths(&value)))?);
        } else {
            command.env(name, value);
        }
    }
    Ok(command)
}

/// Runs a command. Returns what it printed, with its errors.
fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(said)
}

fn executable(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text)?;
    run(Command::new("chmod").arg("+x").arg(path)).map(drop)
}

/// Follows docs/first-transform.md in one language.
fn first_transform(language: &str) -> anyhow::Result<()> {
    let directory = scratch(&format!("first_transform_{language}"));
    let mysql = top().join("target/tools/mysql");
    // The tests may run as root, which mysqld refuses without the option, with a server that is not where its package installs
    // it, and without that package's folder for files.
    let options = std::fs::read_to_string(mysql.join("mysqld.options")).unwrap_or_default().replace('\n', " ");
    let mysqld = mysql.join("bin/mysqld");
    executable(
        &directory.join("mysqld"),
        &format!(
            "#!/bin/sh\nexec {} \"$@\" --secure-file-priv=NULL --user=\"$(id -un)\" {options}\n",
            mysqld.display()
        ),
    )?;
    let said = run(command(top().join("docs/first-transform"), &[&directory, &mysql.join("bin")])?.arg(language))?;
    println!("{said}");
    Ok(())
}

/// What the tutorial shows in Python is what happens.
#[test]
fn first_transform_in_python() -> anyhow::Result<()> {
    first_transform("python")
}

/// What the tutorial shows in Rust is what happens.
#[test]
fn first_transform_in_rust() -> anyhow::Result<()> {
    first_transform("rust")
}

/// The workflow of a new project is YAML, its commands on the project are commands of Rowmill that succeed, and it installs
/// the compilers that the examples are built with.
#[test]
fn workflows_of_new_projects_are_right() -> anyhow::Result<()> {
    const TO_JSON: &str = "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.stdin)))";
    let directory = scratch("workflows_of_new_projects_are_right");
    let compilers = std::fs::read_to_string(top().join("tests/tools/guests-python/requirements.in"))?;
    for language in LANGUAGES {
        let name = format!("my-{language}");
        let project = directory.join(&name);
        run(command(binary()?, &[])?.args(["plugin", "new", "--lang", language]).arg(&project))?;
        let file = std::fs::File::open(project.join(".github/workflows/transform.yml"))?;
        let python = top().join("target/tools/moto/bin/python");
        let workflow: Value = serde_json::from_str(&run(Command::new(python).args(["-c", TO_JSON]).stdin(file))?)?;
        ensure!(workflow["name"] == name.as_str(), "{workflow:#}");
        let steps = workflow["jobs"]["test"]["steps"].as_array().context("steps")?;
        ensure!(steps.iter().all(|step| step["run"].is_string() != step["uses"].is_string()), "{workflow:#}");
        let commands: Vec<&str> = steps.iter().filter_map(|step| step["run"].as_str()).collect();
        for installed in commands.iter().filter_map(|command| command.strip_prefix("pip install ")) {
            ensure!(compilers.lines().any(|line| line == installed), "{language}: {installed}");
        }
        let of_rowmill: Vec<&&str> = commands.iter().filter(|command| command.starts_with("rowmill ")).collect();
        assert_eq!(of_rowmill.len(), 3, "{commands:?}");
        // They are the same in each language; C is the quickest to build.
        for of_rowmill in of_rowmill.into_iter().filter(|_| language == "c") {
            run(command("sh", &[])?.args(["-c", of_rowmill]).current_dir(&project))?;
        }
    }
    Ok(())
}

/// The transforms without an SDK build, and pass the three commands of docs/other-languages.md.
#[test]
fn other_languages() -> anyhow::Result<()> {
    let page = std::fs::read_to_string(top().join("docs/other-languages.md"))?;
    let lines = page.lines().filter(|line| line.starts_with("rowmill plugin "));
    let commands: Vec<&str> = lines.map(|line| line.split('#').next().unwrap_or(line).trim()).collect();
    assert_eq!(commands.len(), 3, "{commands:?}");
    let compilers = top().join("target/tools/others/bin");
    let directory = scratch("other_languages");
    // The scripts find the SDK for C at its place beside them.
    run(Command::new("cp").arg("-r").arg(top().join("sdk")).arg(&directory))?;
    for language in ["cpp", "d", "nim"] {
        let folder = directory.join("sdk/others").join(language);
        let _ = std::fs::remove_file(folder.join("filter.wasm"));
        run(&mut command(folder.join("build"), &[&compilers])?)?;
        for of_rowmill in &commands {
            let of_rowmill = of_rowmill.replace("filter.wasm", &format!("sdk/others/{language}/filter.wasm"));
            let said = run(command("sh", &[])?.args(["-c", &of_rowmill]).current_dir(&directory))?;
            ensure!(said.contains("ok "), "{language}: {said}");
        }
    }
    Ok(())
}
