//! `rowmill check`: checks everything that a configuration names, one part after another, and reports each problem with the
//! statement or setting that fixes it. Nothing is changed or sent.

use std::fmt::Display;
use std::io::Write;
use std::time::Duration;

use rowmill_core::batch::{Column, ColumnIndex, Kind, Operation, Table, TableId, shown_name};
use rowmill_core::binlog::CatalogColumn;

use crate::checkpoint::Checkpoint;
use crate::config::{self, Config, MySqlCheckpoint, Route, ServerOptions, Tls};
use crate::fixture::kind;
use crate::mysql::columns::list_columns;
use crate::mysql::{ConnectError, Server};
use crate::retry::error_text;
use crate::router::plural;
use crate::sink::{self, Connections};
use crate::source::binlog;
use crate::transform::{Chain, Loader, Settings};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// The number of tables that the plugins are asked about: each takes a query.
const TABLES_ASKED_MAX: usize = 1000;

/// A report, whose findings are written as they are found.
struct Report<'a, W> {
    out: &'a mut W,
    problems: usize,
}

impl<W: Write> Report<'_, W> {
    fn line(&mut self, mark: &str, finding: impl Display) -> std::io::Result<()> {
        writeln!(self.out, "{mark:<8} {finding}")?;
        self.out.flush()
    }

    fn ok(&mut self, finding: impl Display) -> std::io::Result<()> {
        self.line("ok", finding)
    }

    fn note(&mut self, finding: impl Display) -> std::io::Result<()> {
        self.line("note", finding)
    }

    fn problem(&mut self, finding: impl Display) -> std::io::Result<()> {
        self.problems += 1;
        self.line("problem", finding)
    }
}

/// Checks everything that a configuration names, and returns the number of problems.
///
/// # Errors
/// If `out` cannot be written.
pub async fn run(config: &Config, out: &mut impl Write) -> std::io::Result<usize> {
    let mut report = Report { out, problems: 0 };
    for note in &config.notes {
        report.note(note)?;
    }
    let mut tables = Vec::new();
    server(config, &mut report, &mut tables).await?;
    let connections = Connections::default();
    for config in &config.sinks {
        match sink::check(config, &connections).await {
            Ok(_) => report.ok(format!("sink.{}: {}", config.name, config.kind))?,
            Err(error) => report.problem(format!("{:#}", anyhow::Error::from(error)))?,
        }
    }
    let directory = &config.plugins.directory;
    // Without a cache of compiled code: a check changes nothing.
    let settings = Settings { cache: None, ..Settings::of(config) };
    match Loader::new(settings).and_then(|loader| loader.load_all()) {
        Ok(chain) => {
            let names = chain.names();
            match (directory, names.as_slice()) {
                (None, _) => report.note("no plugins directory: rows pass unchanged")?,
                (Some(directory), []) => {
                    report.note(format!("{} has no plugins: rows pass unchanged", directory.display()))?
                }
                (Some(_), names) => {
                    report.ok(format!("plugins: {}", names.join(", ")))?;
                    plugins(config, &chain, &tables, &mut report).await?;
                }
            }
        }
        Err(error) => report.problem(error_text(&error))?,
    }
    if report.problems == 0 {
        report.line("ready", "`rowmill run` has everything that it needs")?;
    }
    Ok(report.problems)
}

/// Asks the plugins about the tables as they are now, so that a misspelt or renamed column is found before its first row.
async fn plugins(
    config: &Config,
    chain: &Chain,
    tables: &[(String, String)],
    report: &mut Report<'_, impl Write>,
) -> std::io::Result<()> {
    if tables.is_empty() {
        return Ok(()); // reported already
    }
    let mut server = match Server::connect(&config.source).await {
        Ok(server) => server,
        Err(ConnectError::Transient(error) | ConnectError::Definite(error)) => {
            return report.problem(error_text(&error));
        }
    };
    let mut decided: Vec<(&str, Vec<String>)> = chain.names().into_iter().map(|name| (name, Vec::new())).collect();
    let mut errors: Vec<String> = Vec::new();
    for (id, (schema, name)) in (0..).zip(tables.iter().take(TABLES_ASKED_MAX)) {
        let columns = match list_columns(&mut server, schema, name).await {
            Ok(columns) => columns,
            Err(error) => return report.problem(format!("cannot read the columns of {schema}.{name}: {error}")),
        };
        let table = described(id, schema, name, columns);
        for ((plugin, interest), (_, decided)) in chain.interests(&table).zip(&mut decided) {
            match interest {
                Ok(true) => decided.push(table.to_string()),
                Ok(false) => {}
                Err(error) => errors.push(format!("plugin `{plugin}`: {error}")),
            }
        }
    }
    server.disconnect().await;
    for error in &errors {
        report.problem(error)?;
    }
    for (plugin, tables) in decided {
        match tables.as_slice() {
            [] if errors.is_empty() => report.note(format!(
                "plugin `{plugin}` decides on no table that `source.tables` selects: rows pass it unchanged; check the \
                 tables' names in the transform and in its .toml"
            ))?,
            [] => {}
            tables => report.ok(format!("plugin `{plugin}` decides on {}", listed(tables)))?,
        }
    }
    if tables.len() > TABLES_ASKED_MAX {
        report.note(format!(
            "the plugins were asked about the first {TABLES_ASKED_MAX} of {} tables only",
            tables.len()
        ))?;
    }
    Ok(())
}

/// Returns a table with its current columns, as a transform will see it. Columns of types that have no name here count as text.
fn described(id: u32, schema: &str, name: &str, columns: Vec<CatalogColumn>) -> Table {
    let visible = columns.into_iter().filter(|column| !column.is_hidden);
    let column = |CatalogColumn { name, column_type, key_position, .. }: CatalogColumn| {
        let (kind, mysql_type) = kind(&column_type).unwrap_or((Kind::Text, column_type));
        Column { name, kind, mysql_type, nullable: key_position.is_none(), key: key_position.is_some() }
    };
    let columns: Vec<Column> = visible.map(column).collect();
    let key = (0..).zip(&columns).filter(|(_, column)| column.key).map(|(index, _)| ColumnIndex(index)).collect();
    Table { id: TableId(id), generation: 0, schema: schema.to_owned(), name: name.to_owned(), columns, key }
}

/// Returns the operations that have no route, by table: `deletes of shop.orders`.
fn unrouted(tables: &[(String, String)], routes: &[Route]) -> Vec<String> {
    let of_table = |(schema, table): &(String, String)| {
        let has_none = |operation: Operation| !routes.iter().any(|route| route.is_for(schema, table, operation));
        let all = [Operation::Insert, Operation::Update, Operation::Delete].into_iter();
        let missing: Vec<&str> = all.filter(|operation| has_none(*operation)).map(plural).collect();
        (!missing.is_empty()).then(|| format!("{} of {}", missing.join(", "), shown_name(schema, table)))
    };
    tables.iter().filter_map(of_table).collect()
}

/// Joins the first of many texts, and adds the number of the others.
fn listed(all: &[String]) -> String {
    const SHOWN_MAX: usize = 10;
    let more = all.len().saturating_sub(SHOWN_MAX);
    let shown = all[..all.len() - more].join("; ");
    if more == 0 { shown } else { format!("{shown}; and {more} more") }
}

/// Reports a server whose certificate is not verified.
fn unverified(options: &ServerOptions, tls: &Tls, report: &mut Report<'_, impl Write>) -> std::io::Result<()> {
    match tls.warning(options) {
        Some(warning) => report.note(warning),
        None => Ok(()),
    }
}

/// Checks the server, the checkpoint and the start point. Sets `selected` to the tables that the source selects, as soon as
/// they are known.
async fn server(
    config: &Config,
    report: &mut Report<'_, impl Write>,
    selected: &mut Vec<(String, String)>,
) -> std::io::Result<()> {
    for other in config.source.candidates().iter().skip(1) {
        match Server::connect(other).await {
            Ok(server) => {
                report.ok(format!("failover: {} answers: {}", other.address, server.version))?;
                unverified(&other.options, &other.tls, report)?;
            }
            Err(error) => report.problem(format!("failover: {error}"))?,
        }
    }
    let source = &config.source;
    let mut server = match Server::connect(source).await {
        Ok(server) => server,
        Err(ConnectError::Transient(error) | ConnectError::Definite(error)) => {
            return report.problem(error_text(&error));
        }
    };
    report.ok(format!("{} answers: {}", source.address, server.version))?;
    unverified(&source.options, &source.tls, report)?;
    let problems = server.problems();
    for problem in &problems {
        report.problem(problem)?;
    }
    if !problems.is_empty() {
        return Ok(()); // the other checks depend on these settings
    }
    report.ok("the server writes a row-based binlog")?;
    if server.names_columns() {
        report.ok("the binlog names the columns (binlog_row_metadata = FULL)")?;
    } else {
        report.note(format!(
            "the binlog does not name the columns: they are looked up in information_schema, for which the user needs \
             SELECT on the tables; run `{} binlog_row_metadata = 'FULL'` to be safe when tables change",
            server.set_statement()
        ))?;
    }
    let kept = match server.retention().await {
        Ok(kept) => kept,
        Err(error) => return report.problem(error_text(&error)),
    };
    if let Some(kept) = kept.filter(|&kept| kept < DAY) {
        report.note(format!(
            "the server keeps its binlog for {kept:?}: an engine that is down for longer cannot resume; raise \
             binlog_expire_logs_seconds"
        ))?;
    }
    match server.tables_without_key(&source.tables).await {
        Ok(tables) if tables.is_empty() => {}
        Ok(tables) => report.note(format!(
            "all changes of a table without a primary key are in one message group: {}",
            tables.join(", ")
        ))?,
        Err(error) => report.problem(error_text(&error))?,
    }
    match server.tables(&source.tables).await {
        Ok(tables) if tables.is_empty() => report.note(
            "no table is selected of those that the user can see; check that `source.tables` matches the tables' names, \
             their case included, and that the user has SELECT on the tables",
        )?,
        Ok(tables) => {
            selected.clone_from(&tables);
            let unrouted = unrouted(&tables, &config.destinations.routes);
            if !unrouted.is_empty() {
                report.note(format!(
                    "a row without a route stops the engine, unless a transform drops it or sends it to a sink: {}; \
                     add a [[route]], or exclude the tables in `source.tables`",
                    listed(&unrouted)
                ))?;
            }
        }
        Err(error) => report.problem(error_text(&error))?,
    }
    if let config::Checkpoint::MySql(MySqlCheckpoint { options, tls, .. }) = &config.checkpoint {
        unverified(options, tls, report)?;
    }
    match Checkpoint::probe(&config.checkpoint).await {
        Ok(name) => report.ok(format!("{name} can be written"))?,
        Err(error) => return report.problem(error_text(&error)),
    }
    let saved = match Checkpoint::read(&config.checkpoint).await {
        Ok(saved) => saved,
        Err(error) => return report.problem(error_text(&error)),
    };
    let has_checkpoint = saved.is_some();
    let start = match binlog::locate(&mut server, &source.start, saved).await {
        Ok(start) => start,
        Err(error) => return report.problem(format!("{error:#}")),
    };
    match binlog::probe(source, server.flavor, &start).await {
        Ok(age) => {
            report.ok(match has_checkpoint {
                true => format!("the binlog can be read from the checkpoint, {start}"),
                false => format!("there is no checkpoint yet; the binlog can be read from {start}"),
            })?;
            if let Some((age, kept)) = age.zip(kept).filter(|(age, kept)| *age > *kept / 2) {
                report.note(format!(
                    "the next change to read is {age:?} old, and the server keeps its binlog for {kept:?}; run the engine \
                     soon, or raise binlog_expire_logs_seconds"
                ))?;
            }
        }
        Err(error) => report.problem(error_text(&error))?,
    }
    server.disconnect().await;
    Ok(())
}
