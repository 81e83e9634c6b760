//! Builds and tests a project whenever its author saves a file, and shows what it does with recorded rows.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;

use super::test::{Output, difference, outputs, sources, test};
use super::{build, module_in, rows_in};
use crate::fixture::Rows;
use crate::transform::{Chain, Loader, Settings};

/// The time between two looks at the files.
const LOOK: Duration = Duration::from_millis(300);
/// The rows of which the outcome is shown.
const SHOWN_MAX: usize = 20;

/// Builds a project and runs its tests, and does so again at each change of a file, until the process is stopped. With `rows`,
/// a file of recorded rows, it shows what becomes of them, or, with `against`, another version of the module, which rows it
/// treats differently. With `once`, it does so once.
///
/// # Errors
/// If the directory cannot be read. What the build or a test says is printed.
pub fn dev(
    directory: &Path,
    rows: Option<&Path>,
    against: Option<&Path>,
    once: bool,
    print: impl Fn(&str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    anyhow::ensure!(
        directory.join("build").is_file(),
        "{} has no script `build`; name the directory of a plugin's project",
        directory.display()
    );
    let mut seen = BTreeMap::new();
    loop {
        let now = state(directory, rows, against);
        if now != seen {
            seen = now;
            let started = Instant::now();
            let said = round(directory, rows, against).unwrap_or_else(|error| format!("error: {error:#}\n"));
            let waiting = if once { "" } else { "; waiting for a change" };
            print(&format!("{said}in {:.1?}{waiting}\n", started.elapsed()))?;
        }
        if once {
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
}

/// Returns the files that a round depends on, with the times of their last changes.
fn state(directory: &Path, rows: Option<&Path>, against: Option<&Path>) -> BTreeMap<PathBuf, Option<SystemTime>> {
    let entries = |path: &Path| std::fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
    let tests = entries(&directory.join("tests")).map(|entry| entry.path());
    let settings = entries(directory).map(|entry| entry.path());
    let settings = settings.filter(|path| path.extension().is_some_and(|extension| extension == "toml"));
    let given = [rows, against].into_iter().flatten().map(Path::to_owned);
    let files = sources(directory).into_iter().chain(tests).chain(settings).chain(given);
    files.map(|path| (path.clone(), path.metadata().and_then(|metadata| metadata.modified()).ok())).collect()
}

fn round(directory: &Path, rows: Option<&Path>, against: Option<&Path>) -> anyhow::Result<String> {
    build(directory)?;
    let mut out = String::new();
    for (name, tested) in test(directory, None, false)? {
        out.push_str(&tested.line(&name));
    }
    if let Some(rows) = rows {
        let module = module_in(directory)?;
        out.push_str(&shown(&module, rows, against)?);
    }
    Ok(out)
}

/// Returns what becomes of rows, or which rows two versions of a module treat differently.
fn shown(module: &Path, file: &Path, against: Option<&Path>) -> anyhow::Result<String> {
    let rows = rows_in(Some(file))?;
    let made = by_row(module, &rows)?;
    let count = rows.singles.len();
    let Some(against) = against else {
        let mut out = format!("{count} rows of {}:\n", file.display());
        for index in 0..count.min(SHOWN_MAX) {
            match made.get(&index) {
                Some(outputs) => outputs.iter().try_for_each(|output| writeln!(out, "  {}", output.text))?,
                None => writeln!(out, "  {{\"dropped\":true,\"row\":{index}}}")?,
            }
        }
        if count > SHOWN_MAX {
            writeln!(out, "  and {} more", count - SHOWN_MAX)?;
        }
        return Ok(out);
    };
    let other = by_row(against, &rows).with_context(|| against.display().to_string())?;
    let nothing = Vec::new();
    let differing: Vec<String> = (0..count)
        .filter_map(|index| {
            let (old, new) = (other.get(&index).unwrap_or(&nothing), made.get(&index).unwrap_or(&nothing));
            let (before, now) = (old.len(), new.len());
            let line = |difference| format!("  row {index} ({before} results before, {now} now), {difference}");
            difference(old, new).map(line)
        })
        .collect();
    let mut out = format!("{count} rows: {} differ from {}\n", differing.len(), against.display());
    for line in differing.iter().take(SHOWN_MAX) {
        writeln!(out, "{line}")?;
    }
    Ok(out)
}

/// Returns the results of each row.
fn by_row(module: &Path, rows: &Rows) -> anyhow::Result<BTreeMap<usize, Vec<Output>>> {
    let settings = Settings::for_tests(rows.sinks.clone()).with_any_sink().with_users_cache();
    let chain = Chain::new(vec![Loader::new(settings)?.load(module)?]);
    let mut made: BTreeMap<usize, Vec<Output>> = BTreeMap::new();
    for output in outputs(&chain, 0, rows, &rows.packed, 0)? {
        made.entry(output.row()).or_default().push(output);
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A round must not be the cause of the next one.
    #[test]
    fn what_a_build_writes_is_not_a_change() {
        let directory = tempfile::tempdir().expect("a directory");
        let write = |name: &str| std::fs::write(directory.path().join(name), name).expect("written");
        ["build", "paid.ts", "paid.toml"].into_iter().for_each(write);
        let before = state(directory.path(), None, None);
        ["build-paid.js", "paid.wasm"].into_iter().for_each(write);
        assert_eq!(state(directory.path(), None, None), before);
        write("helper.js");
        assert_ne!(state(directory.path(), None, None), before);
    }
}
