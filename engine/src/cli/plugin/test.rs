//! Runs a module on the rows of test cases, and compares the results with the expected ones.

use std::fmt::{self, Debug, Display, Formatter};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, anyhow, bail};
use futures_util::FutureExt;
use rowmill_core::batch::{PackedBatch, Table};
use serde_json::{Map, Value, json};
use tracing::dispatcher::{Dispatch, get_default};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{NoSubscriber, with_default};
use tracing::{Event, Level, Metadata, Subscriber};

use super::module_in;
use crate::config::SinkId;
use crate::exact_json::Exact;
use crate::fixture::{Rows, row_json};
use crate::transform::{Chain, Emitted, LOG_TARGET, Loader, Settings};

/// The endings of the names of files with rows, and of files with expected results.
const ROWS: &str = ".rows.jsonl";
const EXPECTED: &str = ".expected.jsonl";

/// The result of a test case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tested {
    /// The results are those expected.
    Passed,
    /// The results are now those expected; the errors of rows that fail.
    Accepted(Vec<String>),
    /// The results are not those expected: the first difference.
    Failed(String),
}

impl Tested {
    /// Returns the line that reports the result of a case.
    pub fn line(&self, name: &str) -> String {
        match self {
            Self::Passed => format!("ok       {name}\n"),
            Self::Accepted(errors) => match errors.as_slice() {
                [] => format!("accepted {name}\n"),
                [first, ..] => format!("accepted {name}, with {} rows that fail; the first: {first}\n", errors.len()),
            },
            Self::Failed(how) => format!("failed   {name}: {how}\n"),
        }
    }
}

/// Runs the test cases of a directory (by default `tests` beside the module) on a module. With `accept`, the results are
/// written as those expected.
///
/// # Errors
/// If the module cannot be loaded, or a file cannot be read.
pub fn test(path: &Path, cases: Option<&Path>, accept: bool) -> anyhow::Result<Vec<(String, Tested)>> {
    let module = module_in(path)?;
    if path.is_dir() {
        refuse_stale(path, &module)?;
    }
    let beside_module = module.parent().unwrap_or(Path::new("")).join("tests");
    let directory = cases.unwrap_or(&beside_module);
    let files = case_files(directory)?;
    let case = |file: &PathBuf| {
        let name = file.file_name().unwrap_or_default().to_string_lossy().trim_end_matches(ROWS).to_owned();
        let tested = case(&module, file, accept).with_context(|| file.display().to_string())?;
        Ok((name, tested))
    };
    files.iter().map(case).collect()
}

/// Returns the files of rows in a directory of cases, in the order of their names.
///
/// # Errors
/// If there is none.
pub(super) fn case_files(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .with_context(|| {
            format!("cannot read {}; tests are files NAME{ROWS} and NAME{EXPECTED} there", directory.display())
        })?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.to_string_lossy().ends_with(ROWS))
        .collect();
    files.sort();
    if files.is_empty() {
        bail!("there is no NAME{ROWS} in {}", directory.display());
    }
    Ok(files)
}

/// Refuses a project's module that is older than the sources that it is built of.
fn refuse_stale(project: &Path, module: &Path) -> anyhow::Result<()> {
    if !project.join("build").is_file() {
        return Ok(());
    }
    let modified = |path: &Path| path.metadata().and_then(|metadata| metadata.modified()).ok();
    let built = modified(module);
    let newer = sources(project).into_iter().find(|source| modified(source) > built);
    match newer {
        Some(source) => bail!(
            "{} is older than {}; run `rowmill plugin build {}`",
            module.display(),
            source.display(),
            project.display()
        ),
        None => Ok(()),
    }
}

/// Returns the files of a project that its author writes: not the tests, what is built or downloaded, or hidden files.
pub(super) fn sources(directory: &Path) -> Vec<PathBuf> {
    const OTHERS: [&str; 5] = ["tests", "target", "node_modules", "vendor", "wit"];
    let entries = std::fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    let source = |entry: std::fs::DirEntry| {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && !name.starts_with('.') && !OTHERS.contains(&&*name) => sources(&path),
            Ok(kind) if kind.is_file() && is_source(&path) => vec![path],
            _ => Vec::new(),
        }
    };
    entries.flat_map(source).collect()
}

fn is_source(path: &Path) -> bool {
    const ENDINGS: [&str; 9] = ["rs", "c", "h", "zig", "go", "ts", "js", "py", "cpp"];
    // What a TypeScript project's build writes of its source.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let built_of = name.strip_prefix("build-").and_then(|name| name.strip_suffix(".js"));
    let is_built = built_of.is_some_and(|stem| path.with_file_name(format!("{stem}.ts")).exists());
    !is_built && path.extension().is_some_and(|ending| ENDINGS.iter().any(|known| ending == *known))
}

fn case(module: &Path, file: &Path, accept: bool) -> anyhow::Result<Tested> {
    let rows = Rows::parse(&std::fs::read_to_string(file)?).map_err(|error| anyhow!(error))?;
    if rows.singles.is_empty() {
        return Ok(Tested::Failed("there is no row in it".to_owned()));
    }
    let loader = Loader::new(Settings::for_tests(rows.sinks.clone()).with_users_cache())?;
    let settings = rows.settings.clone().map(|settings| Value::Object(settings).to_string());
    let plugin = loader.load_with(module, settings)?;
    let directory = file.parent().unwrap_or(Path::new(""));
    let others = rows.plugins.iter().map(|other| loader.load(&directory.join(other)));
    let plugins = [Ok(Arc::clone(&plugin))].into_iter().chain(others).collect::<anyhow::Result<Vec<_>>>()?;
    let has_state = plugins.iter().any(|plugin| plugin.is_stateful());
    let chain = Chain::new(plugins);
    let log = PluginLog::default();
    let mut made = with_default(log.clone(), || outputs(&chain, 0, &rows, &rows.packed, 0))?;
    let counters = plugin.counters();
    let is_about = |table: &Arc<Table>| chain.interests(table).next().is_none_or(|(_, interest)| interest != Ok(false));
    if !rows.tables.iter().any(is_about) {
        let tables: Vec<String> = rows.tables.iter().map(Arc::to_string).collect();
        return Ok(Tested::Failed(format!(
            "the plugin decides on none of the tables of the case ({}), so that their rows pass it unchanged; check the tables' \
             names in the transform and in its .toml",
            tables.join(", ")
        )));
    }
    if !has_state {
        // Batches have any size, so a row's result must not depend on the other rows of its batch.
        let alone = || {
            let single = |(index, single)| outputs(&chain, u64::from(index) + 1, &rows, single, index);
            (0..).zip(&rows.singles).map(single).collect::<anyhow::Result<Vec<_>>>()
        };
        // The log has these rows' lines already.
        let alone = with_default(NoSubscriber::new(), alone)?.into_iter().flatten().collect::<Vec<_>>();
        if let Some(difference) = difference(&made, &alone) {
            return Ok(Tested::Failed(format!(
                "a row's result depends on its batch (set `instances = 1` if that is intended); in one batch and alone: \
                 {difference}"
            )));
        }
    }
    // These are of the batch, not of one of its rows.
    made.extend(log.lines().into_iter().map(Output::of).collect::<Result<Vec<_>, _>>()?);
    if !counters.is_empty() {
        made.push(Output::of(json!({ "counters": counters }).to_string())?);
    }
    let expected_file = file.to_string_lossy().replace(ROWS, EXPECTED);
    if accept {
        let text: String = made.iter().map(|output| format!("{}\n", output.text)).collect();
        std::fs::write(&expected_file, text).with_context(|| format!("cannot write {expected_file}"))?;
        return Ok(Tested::Accepted(made.iter().filter_map(Output::error).collect()));
    }
    let text = std::fs::read_to_string(&expected_file)
        .with_context(|| format!("cannot read {expected_file}; `--accept` writes it"))?;
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let expected: Vec<Output> = lines
        .map(|(number, line)| Output::of(line.to_owned()).with_context(|| format!("{expected_file}, line {number}")))
        .collect::<anyhow::Result<_>>()?;
    Ok(difference(&expected, &made)
        .map_or(Tested::Passed, |difference| Tested::Failed(format!("expected and actual: {difference}"))))
}

/// The lines that plugins log, on their way to the log.
#[derive(Clone)]
pub(super) struct PluginLog {
    log: Dispatch,
    /// Whether they go on to the log.
    goes_on: bool,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Default for PluginLog {
    fn default() -> Self {
        Self { log: get_default(Dispatch::clone), goes_on: true, lines: Arc::default() }
    }
}

impl PluginLog {
    /// The lines are not to go on to the log.
    pub fn apart() -> Self {
        Self { goes_on: false, ..Self::default() }
    }

    /// Returns the lines, as lines of results.
    pub fn lines(&self) -> Vec<String> {
        std::mem::take(&mut *self.lines.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Subscriber for PluginLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == LOG_TARGET && *metadata.level() <= Level::DEBUG || self.log.enabled(metadata)
    }

    fn event(&self, event: &Event<'_>) {
        struct Message(String);

        impl Visit for Message {
            fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
                if field.name() == "message" {
                    self.0 = format!("{value:?}");
                }
            }
        }

        let metadata = event.metadata();
        if metadata.target() == LOG_TARGET {
            let mut message = Message(String::new());
            event.record(&mut message);
            let level = metadata.level().as_str().to_lowercase();
            let line = json!({"log": message.0.lines().next(), "level": level});
            self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line.to_string());
            if !self.goes_on {
                return;
            }
        }
        if self.log.enabled(metadata) {
            self.log.event(event);
        }
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        self.log.new_span(span)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        self.log.record(span, values);
    }

    fn record_follows_from(&self, span: &Id, follows: &Id) {
        self.log.record_follows_from(span, follows);
    }

    fn enter(&self, span: &Id) {
        self.log.enter(span);
    }

    fn exit(&self, span: &Id) {
        self.log.exit(span);
    }
}

/// One line of results: of a row, a message or an error.
pub(super) struct Output {
    text: String,
    exact: Exact,
    /// The lines of an error after the first, such as the places in the source that led to it. They differ from build to build,
    /// and are no part of the result.
    more: Vec<String>,
}

impl Output {
    fn of(text: String) -> serde_json::Result<Self> {
        Ok(Self { exact: Exact::parse(&text)?, text, more: Vec::new() })
    }

    /// Returns the number of the row that the result is of.
    pub fn row(&self) -> usize {
        self.value()["row"].as_u64().unwrap_or_default() as usize
    }

    /// Returns the error, if the row failed.
    fn error(&self) -> Option<String> {
        self.value()["failed"].as_str().map(str::to_owned)
    }

    fn value(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }
}

impl Display for Output {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        self.more
            .iter()
            .filter(|line| !line.trim().is_empty())
            .try_for_each(|line| write!(f, "\n    {}", line.trim_end()))
    }
}

pub(super) fn difference(left: &[Output], right: &[Output]) -> Option<String> {
    let line = |output: Option<&Output>| output.map_or_else(|| "nothing".to_owned(), Output::to_string);
    let same = |pair: (&Output, &Output)| pair.0.exact == pair.1.exact;
    let at = left.iter().zip(right).take_while(|pair| same(*pair)).count();
    if at == left.len() && at == right.len() {
        return None;
    }
    Some(format!("line {}:\n  {}\n  {}", at + 1, line(left.get(at)), line(right.get(at))))
}

/// Returns the results of the rows of a batch, the first of which has the number `first`.
pub(super) fn outputs(
    chain: &Chain,
    number: u64,
    rows: &Rows,
    packed: &PackedBatch,
    first: u32,
) -> anyhow::Result<Vec<Output>> {
    let done = chain.transform_in_part(number, packed, &rows.tables).now_or_never().flatten();
    let done = done.context("the batch waits for another one")?;
    if let Some(error) = done.hidden_error {
        bail!("the transform fails on a batch of these rows, but on none of them alone: {error}");
    }
    let mut lines: Vec<(u32, Output)> = Vec::new();
    let address = |line: &mut Map<String, Value>, sink: Option<SinkId>, group: Option<&str>| {
        if let Some(sink) = sink {
            line.insert("sink".to_owned(), json!(rows.sinks.get(sink.0)));
        }
        if let Some(group) = group {
            line.insert("group".to_owned(), json!(group));
        }
    };
    let line = |row: u32| Map::from_iter([("row".to_owned(), json!(first + row))]);
    for Emitted { origin, sink, text, attributes, .. } in done.emitted {
        let mut line = line(origin);
        address(&mut line, sink, text.group());
        if let Some(id) = text.deduplication_id() {
            line.insert("deduplication_id".to_owned(), json!(id));
        }
        if !attributes.is_empty() {
            line.insert(
                "attributes".to_owned(),
                attributes.into_iter().map(|(name, value)| (name, json!(value))).collect(),
            );
        }
        // The body as it is, if it is JSON: also its numbers, and the order of its fields.
        let body = text.body();
        let is_json = !body.contains('\n') && Exact::parse(&body).is_ok();
        let body = if is_json { body.to_string() } else { json!(&*body).to_string() };
        let rest = Value::Object(line).to_string();
        lines.push((origin, Output::of(format!("{{\"message\":{body},{}", &rest[1..]))?));
    }
    let left = done.packed.view();
    for passed in done.rows {
        let row = left.row(passed.row);
        let mut line = line(passed.origin);
        line.insert("keep".to_owned(), row_json(&rows.tables[row.table().0 as usize], &row));
        if let Some(to) = passed.reroute {
            address(&mut line, to.sink, to.group.as_deref());
        }
        lines.push((passed.origin, Output::of(Value::Object(line).to_string())?));
    }
    for dead in done.dead {
        let mut line = line(dead.origin);
        let mut message = dead.error.message.lines();
        line.insert("failed".to_owned(), json!(message.next()));
        let more = message.map(str::to_owned).collect();
        lines.push((dead.origin, Output { more, ..Output::of(Value::Object(line).to_string())? }));
    }
    lines.sort_by_key(|(origin, _)| *origin);
    Ok(lines.into_iter().map(|(_, line)| line).collect())
}
