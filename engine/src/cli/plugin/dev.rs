//! Builds and tests a project whenever its author saves a file, and shows what it does with recorded rows, or with rows as they
//! happen.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use serde_json::json;
use tracing::subscriber::with_default;

use super::recording::{Recording, Taken};
use super::test::{Output, PluginLog, Tested, difference, outputs, sources, test};
use super::{build, module_in, rows_in};
use crate::fixture::Rows;
use crate::transform::{Chain, Loader, Plugin, Settings};

/// The time between two looks at the files.
const LOOK: Duration = Duration::from_millis(300);
/// The rows of which the outcome is shown.
const SHOWN_MAX: usize = 20;

/// The rows of which `dev` shows the outcome.
#[derive(Debug, Clone)]
pub enum DevRows {
    /// Those of the tests only.
    None,
    /// Those of a file.
    Recorded(PathBuf),
    /// Those of a server as they happen.
    Live(Recording),
}

/// Builds a project and runs its tests, and does so again at each change of a file, until the process is stopped. It also shows
/// what becomes of rows or, with `against`, another version of the module, which rows it treats differently. With `once`, it
/// does so once.
///
/// # Errors
/// If the directory or a live server cannot be read; with `once`, if the build or a test fails. What they say is printed.
pub fn dev(
    directory: &Path,
    rows: &DevRows,
    against: Option<&Path>,
    once: bool,
    print: impl Fn(&str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    anyhow::ensure!(
        directory.join("build").is_file(),
        "{} has no script `build`; name the directory of a plugin's project",
        directory.display()
    );
    let file = match rows {
        DevRows::Recorded(file) => Some(&**file),
        DevRows::None | DevRows::Live(_) => None,
    };
    let mut seen = BTreeMap::new();
    let mut versions = None;
    loop {
        let now = state(directory, file, against);
        let is_changed = now != seen;
        if is_changed {
            seen = now;
            versions = None;
            let started = Instant::now();
            let mut said = String::new();
            let is_right = match round(directory, rows, against, &mut said) {
                Ok((live, passed)) => {
                    versions = live;
                    passed
                }
                Err(error) => {
                    writeln!(said, "error: {error:#}")?;
                    false
                }
            };
            let waiting = match (once, rows) {
                (true, _) => "",
                (false, DevRows::Live(_)) => "; waiting for rows and changes",
                (false, _) => "; waiting for a change",
            };
            print(&format!("{said}in {:.1?}{waiting}\n", started.elapsed()))?;
            if once {
                anyhow::ensure!(is_right, "the build or a test failed: see above");
                return Ok(());
            }
        }
        if let DevRows::Live(recording) = rows
            // While it does not build, rows wait.
            && let Some(versions) = &mut versions
            && let Some(Taken { rows, missed, has_new_version }) = recording.take(is_changed)?
        {
            if has_new_version {
                *versions = Versions::load(directory, against, recording.sinks())?;
            }
            if missed > 0 {
                print(&format!("{missed} rows came too fast, or before a table was changed, and are left out\n"))?;
            }
            print(&versions.shown("rows", &rows).unwrap_or_else(|error| format!("error: {error:#}\n")))?;
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

/// Builds a project, runs its tests, and shows the outcome of recorded rows. Returns its module, to be given live rows, and
/// whether the tests passed.
fn round(
    directory: &Path,
    rows: &DevRows,
    against: Option<&Path>,
    out: &mut String,
) -> anyhow::Result<(Option<Versions>, bool)> {
    build(directory)?;
    let mut passed = true;
    for (name, tested) in test(directory, None, false)? {
        passed &= tested == Tested::Passed;
        out.push_str(&tested.line(&name));
    }
    match rows {
        DevRows::Recorded(file) => {
            let rows = rows_in(Some(file))?;
            let mut versions = Versions::load(directory, against, &rows.sinks)?;
            out.push_str(&versions.shown(&format!("rows of {}", file.display()), &rows)?);
            Ok((None, passed))
        }
        DevRows::Live(recording) => Ok((Some(Versions::load(directory, against, recording.sinks())?), passed)),
        DevRows::None => Ok((None, passed)),
    }
}

/// A project's module, and the version that it is compared with.
struct Versions {
    plugin: Arc<Plugin>,
    now: Chain,
    before: Option<(PathBuf, Chain)>,
    /// The batches and rows that passed.
    batches: u64,
    rows: u32,
    differing: usize,
}

impl Versions {
    fn load(directory: &Path, against: Option<&Path>, sinks: &[String]) -> anyhow::Result<Self> {
        let load = |module: &Path| {
            let settings = Settings::for_tests(sinks.to_vec()).with_any_sink().with_users_cache();
            Loader::new(settings)?.load(module).with_context(|| module.display().to_string())
        };
        let plugin = load(&module_in(directory)?)?;
        let before = match against {
            Some(other) => Some((other.to_owned(), Chain::new(vec![load(other)?]))),
            None => None,
        };
        let now = Chain::new(vec![Arc::clone(&plugin)]);
        Ok(Self { plugin, now, before, batches: 0, rows: 0, differing: 0 })
    }

    /// Returns what becomes of rows, or which rows the versions treat differently.
    fn shown(&mut self, name: &str, rows: &Rows) -> anyhow::Result<String> {
        let Self { plugin, now, before, batches, rows: passed, differing } = self;
        let (number, first, count) = (*batches, *passed, rows.singles.len());
        *batches += 1;
        *passed += count as u32;
        let numbers = first as usize..first as usize + count;
        let by_row = |chain: &Chain| {
            let mut made: Results = numbers.clone().map(|index| (index, Vec::new())).collect();
            for output in outputs(chain, number, rows, &rows.packed, first)? {
                made.entry(output.row()).or_default().push(output);
            }
            Ok::<_, anyhow::Error>(made)
        };
        let log = PluginLog::apart();
        let started = Instant::now();
        let made = with_default(log.clone(), || by_row(now))?;
        let each_us = started.elapsed().as_secs_f64() * 1e6 / count.max(1) as f64;
        let mut out = String::new();
        match before {
            None => {
                writeln!(out, "{count} {name}, {each_us:.1} µs each:")?;
                push_results(&made, &mut out)?;
            }
            Some((file, before)) => {
                let other = by_row(before).with_context(|| file.display().to_string())?;
                let differences = differences(&other, &made);
                *differing += differences.len();
                writeln!(out, "{passed} rows: {differing} differ from {}", file.display())?;
                for line in differences.iter().take(SHOWN_MAX) {
                    writeln!(out, "{line}")?;
                }
            }
        }
        for line in log.lines().iter().take(SHOWN_MAX) {
            writeln!(out, "  {line}")?;
        }
        let counters = plugin.counters();
        if !counters.is_empty() {
            writeln!(out, "  {}", json!({ "counters": counters }))?;
        }
        Ok(out)
    }
}

/// The results of each row, by its number.
type Results = BTreeMap<usize, Vec<Output>>;

/// Writes the results of the first rows.
fn push_results(made: &Results, out: &mut String) -> std::fmt::Result {
    for (index, outputs) in made.iter().take(SHOWN_MAX) {
        outputs.iter().try_for_each(|output| writeln!(out, "  {output}"))?;
        if outputs.is_empty() {
            writeln!(out, "  {{\"dropped\":true,\"row\":{index}}}")?;
        }
    }
    if made.len() > SHOWN_MAX {
        writeln!(out, "  and {} more", made.len() - SHOWN_MAX)?;
    }
    Ok(())
}

/// Returns a text for each row whose results differ.
fn differences(before: &Results, now: &Results) -> Vec<String> {
    let of_row = |((index, before), now): ((&usize, &Vec<Output>), &Vec<Output>)| {
        let difference = difference(before, now)?;
        Some(format!("  row {index} ({} results before, {} now), {difference}", before.len(), now.len()))
    };
    before.iter().zip(now.values()).filter_map(of_row).collect()
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
