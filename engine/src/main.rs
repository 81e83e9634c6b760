//! The command line.

use std::io::{BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use rowmill::cli::plugin::{self, DevRows, Language, Recording, Tested};
use rowmill::cli::printer::{Form, Selection, taken};
use rowmill::cli::replay::{self, Wanted};
use rowmill::cli::{check, tail};
use rowmill::config::{Config, ConfigError, Start, TablePatterns, parse_start};
use rowmill::retry::error_text;
use rowmill::transform::RowCondition;
use rowmill::{checkpoint, run, shutdown};
use tracing::error;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

/// One thread allocates batches and others free them. The system's allocator then retains more and more memory; jemalloc
/// returns freed memory to the system within seconds.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The exit code of a failure at run time; 0 is success.
const FAILED: u8 = 1;
/// The exit code of bad usage or configuration, with which a command could never run.
const BAD_CONFIG: u8 = 2;
/// Log lines that may wait to be written; further lines are dropped.
const LINES_WAITING_MAX: usize = 10_000;

#[derive(Parser)]
#[command(
    name = "rowmill",
    version,
    about = "Change data capture from MySQL, through WebAssembly transforms, to AWS SQS",
    after_help = "Examples:\
                  \n  rowmill check --config rowmill.toml\
                  \n  rowmill run --config rowmill.toml\
                  \n  rowmill replay /var/lib/mysql/binlog.000042\
                  \n\nLogs go to standard error; ROWMILL_LOG sets the level (error, warn, info, debug, trace, off)."
)]
struct Cli {
    /// Format of log lines
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t, global = true)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Default, PartialEq, ValueEnum)]
enum LogFormat {
    /// Text, for people
    #[default]
    Text,
    /// One JSON object per line, for programs
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Reads the binlog and delivers its row changes until stopped
    #[command(after_help = "Examples:\
                      \n  rowmill run --config rowmill.toml\
                      \n  ROWMILL_SOURCE_PASSWORD=... rowmill run -c /etc/rowmill/rowmill.toml\
                      \n\nThe start is retried while a server or a queue cannot be reached.\
                      \nSIGTERM and Ctrl-C stop the engine: it delivers what is in flight within `shutdown_timeout` (8 s),\
                      \nwrites the checkpoint and exits with 0. A second signal ends the delivery at once.\
                      \nExit codes: 0 stopped as asked, 1 failed, 2 bad usage or configuration.")]
    Run {
        /// Configuration file
        #[arg(short, long, value_name = "FILE", default_value = "rowmill.toml")]
        config: PathBuf,
        /// Fails if a server or a queue cannot be reached at the start, instead of retrying
        #[arg(long)]
        no_wait: bool,
    },
    /// Checks everything that a run needs: the server, its settings and grants, the checkpoint, sinks, plugins
    #[command(after_help = "Example:\
                      \n  rowmill check --config rowmill.toml\
                      \n\nEach problem is printed with its fix. Nothing is changed or sent.\
                      \nExit codes: 0 no problem, 1 problems, 2 bad usage or configuration.")]
    Check {
        /// Configuration file
        #[arg(short, long, value_name = "FILE", default_value = "rowmill.toml")]
        config: PathBuf,
    },
    /// Decodes binlog files without a server and writes their rows as JSON lines
    #[command(after_help = "Examples:\
                      \n  rowmill replay binlog.000042\
                      \n  rowmill replay --tables shop.orders --where \"total > 1000 and changed(status)\" binlog.000042\
                      \n  rowmill replay --tables 'shop.*' --tables '!shop.audit' binlog.000042 binlog.000043 | jq .after\
                      \n\nThe files must have been written with binlog_row_metadata = FULL.\
                      \nExit codes: 0 done, 1 a file cannot be read or decoded (earlier rows are written), 2 bad usage.")]
    Replay {
        /// Patterns of tables, in order: the last match decides; by default all tables but those of system schemas
        #[arg(short, long, value_name = "PATTERN")]
        tables: Vec<String>,
        /// Also writes schema changes
        #[arg(short, long)]
        schema_changes: bool,
        #[command(flatten)]
        rows: RowOptions,
        /// Binlog files, in order
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Writes changes to standard output as they happen
    #[command(after_help = "Examples:\
                      \n  rowmill tail --config rowmill.toml | jq .after\
                      \n  rowmill tail --record --limit 200 --where \"table() = 'orders' and status = 'paid'\" >tests/paid.rows.jsonl\
                      \n  rowmill tail --record --limit 1 --from binlog.000042:1234 >tests/dead-letter.rows.jsonl\
                      \n\nNothing is delivered, and no checkpoint is read or written. Ctrl-C stops the command.\
                      \nExit codes: 0 stopped, 1 failed, 2 bad usage or configuration.")]
    Tail {
        /// Configuration file; its sinks and plugins are not used
        #[arg(short, long, value_name = "FILE", default_value = "rowmill.toml")]
        config: PathBuf,
        /// Where to start: earliest, latest, FILE:POSITION or gtid:SET
        #[arg(long, value_name = "POSITION", default_value = "latest")]
        from: String,
        #[command(flatten)]
        rows: RowOptions,
    },
    /// Shows the checkpoint or moves it
    #[command(subcommand)]
    Checkpoint(CheckpointCommand),
    /// Creates, builds, tests and inspects transforms
    #[command(subcommand)]
    Plugin(PluginCommand),
}

#[derive(clap::Args)]
struct RowOptions {
    /// Writes rows in the format that `rowmill plugin test` reads
    #[arg(long)]
    record: bool,
    /// Writes only rows for which a condition holds, an expression in MySQL's syntax: docs/expressions.md
    #[arg(long = "where", value_name = "CONDITION")]
    condition: Option<String>,
    /// Ends after this number of rows
    #[arg(long, value_name = "ROWS")]
    limit: Option<u64>,
}

impl RowOptions {
    fn selection(self) -> anyhow::Result<Selection> {
        let Self { record, condition, limit } = self;
        let condition = condition.as_deref().map(RowCondition::parse).transpose();
        let condition = condition.map_err(|error| anyhow::anyhow!("--where: {error}"))?;
        Ok(Selection { form: if record { Form::Record } else { Form::Envelope }, condition, limit })
    }
}

#[derive(Subcommand)]
enum CheckpointCommand {
    /// Writes the checkpoint to standard output, as JSON
    #[command(after_help = "Example:\
                      \n  rowmill checkpoint show --config rowmill.toml | jq .gtids\
                      \n\nAn engine may be running on the checkpoint.\
                      \nExit codes: 0 shown, 1 no checkpoint, or a damaged one, 2 bad usage or configuration.")]
    Show {
        /// Configuration file
        #[arg(short, long, value_name = "FILE", default_value = "rowmill.toml")]
        config: PathBuf,
    },
    /// Moves the checkpoint: changes before the position are skipped, later ones are delivered, possibly again
    #[command(after_help = "Examples:\
                      \n  rowmill checkpoint set binlog.000042:1234\
                      \n  rowmill checkpoint set --config rowmill.toml latest\
                      \n\nThe server must have the position, and no engine may be running on the checkpoint.\
                      \nThe previous checkpoint is kept beside the new one.\
                      \nExit codes: 0 moved, 1 not moved, 2 bad usage or configuration.")]
    Set {
        /// Configuration file
        #[arg(short, long, value_name = "FILE", default_value = "rowmill.toml")]
        config: PathBuf,
        /// Where to move the checkpoint: earliest, latest, FILE:POSITION or gtid:SET
        #[arg(value_name = "POSITION")]
        place: String,
    },
}

#[derive(Subcommand)]
enum PluginCommand {
    /// Creates a project that builds with one command and has a test
    #[command(after_help = "Example:\
                      \n  rowmill plugin new paid-orders --lang zig\
                      \n  rowmill plugin build paid-orders && rowmill plugin test paid-orders")]
    New {
        /// Name of the plugin and of its directory
        name: String,
        /// Language of the plugin
        #[arg(short, long)]
        lang: Language,
    },
    /// Builds a project by running its script `build`
    Build {
        /// Directory of the project
        #[arg(default_value = ".")]
        directory: PathBuf,
    },
    /// Runs a plugin on rows written as JSON and compares its output with the expected output
    #[command(after_help = "Examples:\
                      \n  rowmill plugin test paid-orders\
                      \n  rowmill plugin test plugins/paid-orders.wasm --cases tests/paid-orders --accept\
                      \n\nA case is NAME.rows.jsonl (sinks, tables, row changes) and NAME.expected.jsonl (the expected output),\
                      \nin the directory `tests` beside the plugin.\
                      \nExit codes: 0 all as expected, 1 another output, or a plugin that cannot be loaded, 2 bad usage.")]
    Test {
        /// The plugin's `.wasm` file, or its directory
        #[arg(default_value = ".")]
        path: PathBuf,
        /// Directory of the cases
        #[arg(long, value_name = "DIR")]
        cases: Option<PathBuf>,
        /// Writes the output as the expected output
        #[arg(long)]
        accept: bool,
    },
    /// Shows what a plugin is, what it may do, and the cost of a row in it
    #[command(after_help = "Examples:\
                      \n  rowmill plugin inspect plugins/paid-orders.wasm\
                      \n  rowmill plugin inspect --verify --rows tests/example.rows.jsonl paid-orders\
                      \n\nExit codes: 0 shown, and verified if asked for, 1 a check failed, or the plugin cannot be loaded, 2 bad usage.")]
    Inspect {
        /// The plugin's `.wasm` file, or its directory
        #[arg(default_value = ".")]
        path: PathBuf,
        /// File with rows to measure with, as JSON lines; by default rows of a table with ten columns
        #[arg(long, value_name = "FILE")]
        rows: Option<PathBuf>,
        /// Runs the plugin on rows of the file's tables that are hard to process: the least and largest values of each kind,
        /// NULL, absent columns, rows of other tables beside, in large batches and alone
        #[arg(long)]
        verify: bool,
    },
    /// Writes typed rows into a project: a function for each column, so that a misspelt column is a compile error
    #[command(after_help = "Examples:\
                      \n  rowmill plugin types paid-orders\
                      \n  rowmill plugin types paid-orders --from mysql://rowmill@127.0.0.1:3306 --tables 'shop.*'\
                      \n\nThe file is src/rows.rs (Rust), rows.h (C), rows.zig (Zig), rows.ts (AssemblyScript), rows.go (Go),\
                      \nrows.js and rows.d.ts (JavaScript, TypeScript) or rows.py (Python). Run the command again when tables change.\
                      \nThe server's password is ROWMILL_SOURCE_PASSWORD, or that of the URL.\
                      \nExit codes: 0 written, 1 failed, 2 bad usage.")]
    Types {
        /// Directory of the project
        #[arg(default_value = ".")]
        directory: PathBuf,
        /// Where the tables are read from: mysql://USER@HOST:PORT, or a file of rows; by default the project's tests
        #[arg(long, value_name = "URL|FILE")]
        from: Option<String>,
        /// Patterns of tables, in order: the last match decides; by default all tables of the files
        #[arg(short, long, value_name = "PATTERN")]
        tables: Vec<String>,
        /// Language of the plugin; by default found by the project's files
        #[arg(short, long)]
        lang: Option<Language>,
    },
    /// Builds and tests a project whenever a file changes, and shows what it does with rows, recorded or as they happen
    #[command(after_help = "Examples:\
                      \n  rowmill plugin dev paid-orders\
                      \n  rowmill plugin dev paid-orders --config rowmill.toml --where \"table() = 'orders'\"\
                      \n  rowmill tail --record >today.rows.jsonl\
                      \n  rowmill plugin dev paid-orders --rows today.rows.jsonl --against plugins/paid-orders.wasm\
                      \n\nNothing is delivered, and no checkpoint is read or written. Ends at Ctrl-C.")]
    Dev {
        /// Directory of the project
        #[arg(default_value = ".")]
        directory: PathBuf,
        /// File with recorded rows; what becomes of them is shown
        #[arg(long, value_name = "FILE", group = "shown")]
        rows: Option<PathBuf>,
        /// Configuration file: what becomes of its source's changes is shown as they happen
        #[arg(short, long, value_name = "FILE", group = "shown", conflicts_with = "once")]
        config: Option<PathBuf>,
        /// Where to start with --config: earliest, latest, FILE:POSITION or gtid:SET
        #[arg(long, value_name = "POSITION", default_value = "latest", requires = "config")]
        from: String,
        /// Shows only rows for which a condition holds, with --config
        #[arg(long = "where", value_name = "CONDITION", requires = "config")]
        condition: Option<String>,
        /// Another version of the plugin; the rows that it treats differently are shown
        #[arg(long, value_name = "WASM", requires = "shown")]
        against: Option<PathBuf>,
        /// Ends after the first round
        #[arg(long)]
        once: bool,
    },
}

fn main() -> ExitCode {
    let Cli { log_format, command } = Cli::parse();
    // Dropped at the end, the guard writes the lines that still wait, for a second at most.
    let _writing = match log(log_format) {
        Ok(writing) => writing,
        Err(error) => return fail(&error, BAD_CONFIG),
    };

    match command {
        Command::Plugin(command) => ended(plugin(command)),
        Command::Run { config, no_wait } => match Config::load(&config) {
            Err(error) => fail(&error.into(), BAD_CONFIG),
            Ok(config) => match run::run(config, !no_wait) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    // Logged like every other event of a run, so that JSON logs include the error.
                    error!("{}", error_text(&error));
                    ExitCode::from(FAILED)
                }
            },
        },
        Command::Check { config } => with_config(&config, |config| {
            let problems = run::runtime()?.block_on(check::run(&config, &mut std::io::stdout()))?;
            anyhow::ensure!(
                problems == 0,
                "{problems} {}: see above",
                if problems == 1 { "problem" } else { "problems" }
            );
            Ok(())
        }),
        Command::Tail { config, from, rows } => match rows.selection() {
            Err(error) => fail(&error, BAD_CONFIG),
            Ok(selection) => at_place("--from", &from, |start| {
                with_loaded(Config::load_without_sinks(&config), |config| tail(config, start, selection))
            }),
        },
        Command::Checkpoint(CheckpointCommand::Show { config }) => {
            with_config(&config, |config| run::runtime()?.block_on(checkpoint::show(&config, &mut std::io::stdout())))
        }
        Command::Checkpoint(CheckpointCommand::Set { config, place }) => at_place("POSITION", &place, |start| {
            with_config(&config, |config| {
                run::runtime()?.block_on(checkpoint::set(&config, &start, &mut std::io::stdout()))
            })
        }),
        Command::Replay { tables, schema_changes, rows, files } => {
            match (TablePatterns::parse(&tables), rows.selection()) {
                (Err(error), _) => fail(&anyhow::anyhow!("--tables: {error}"), BAD_CONFIG),
                (_, Err(error)) => fail(&error, BAD_CONFIG),
                (_, Ok(Selection { form: Form::Record, .. })) if schema_changes => fail(
                    &anyhow::anyhow!("--record writes rows, not schema changes: leave out --schema-changes"),
                    BAD_CONFIG,
                ),
                (Ok(tables), Ok(selection)) => {
                    let mut out = BufWriter::new(std::io::stdout().lock());
                    let result = replay::run(&files, Wanted { tables, schema_changes, selection }, &mut out);
                    ended(result.and_then(|()| taken(out.flush()).map(drop)))
                }
            }
        }
    }
}

/// Sets up the log. A separate thread writes it. While standard error is blocked and [`LINES_WAITING_MAX`] lines wait,
/// further lines are dropped, so that no other thread waits for the log.
fn log(format: LogFormat) -> anyhow::Result<WorkerGuard> {
    // The driver is off: it logs errors that Rowmill handles and logs itself.
    let level = match std::env::var("ROWMILL_LOG") {
        Err(_) => EnvFilter::new("warn,rowmill=info,mysql_async=off"),
        Ok(level) => EnvFilter::try_new(&level)
            .ok()
            .filter(|_| is_level(&level))
            .with_context(|| format!("invalid ROWMILL_LOG \"{level}\"; use error, warn, info, debug, trace or off"))?,
    };
    let (writer, writing) =
        NonBlockingBuilder::default().buffered_lines_limit(LINES_WAITING_MAX).finish(std::io::stderr());
    let log = tracing_subscriber::fmt().with_env_filter(level).with_writer(writer).with_target(false);
    // By default a failed write is reported on standard error, where the report fails as well, and panics.
    let log = log.log_internal_errors(false);
    match format {
        LogFormat::Json => log.json().flatten_event(true).with_ansi(false).init(),
        // Colours are for terminals, not for files.
        LogFormat::Text => {
            log.with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()).init();
        }
    }
    Ok(writing)
}

/// Returns whether each part of a filter names a level: `EnvFilter` takes `infos` for a module's name, and enables all levels
/// of that module.
fn is_level(filter: &str) -> bool {
    filter.split(',').all(|part| {
        let level = part.rsplit('=').next().unwrap_or(part).trim();
        level.parse::<tracing::metadata::LevelFilter>().is_ok()
    })
}

/// Runs a command with the start point that an argument names.
fn at_place(argument: &str, place: &str, run: impl FnOnce(Start) -> ExitCode) -> ExitCode {
    match place_of(argument, place) {
        Ok(start) => run(start),
        Err(error) => fail(&error, BAD_CONFIG),
    }
}

/// Returns the start point that an argument names.
fn place_of(argument: &str, place: &str) -> anyhow::Result<Start> {
    parse_start(place).map_err(|error| anyhow::anyhow!("{argument}: {}", error.replace("source.start = ", "")))
}

fn tail(config: Config, start: Start, selection: Selection) -> anyhow::Result<()> {
    let runtime = run::runtime()?;
    let result = runtime.block_on(async {
        let mut signals = shutdown::Signals::listen()?;
        let mut out = BufWriter::new(std::io::stdout());
        let stop = async {
            signals.next().await;
        };
        tail::run(config.source, start, selection, &mut out, stop).await
    });
    runtime.shutdown_background();
    result
}

/// Begins to read a source's changes.
fn live(config: &Path, from: &str, condition: Option<String>) -> anyhow::Result<DevRows> {
    let start = place_of("--from", from)?;
    let selection = RowOptions { record: true, condition, limit: None }.selection()?;
    let Config { source, sinks, .. } = Config::load_without_sinks(config)?;
    let recording = Recording::new(sinks.into_iter().map(|sink| sink.name).collect());
    let runtime = run::runtime()?;
    let mut out = recording.clone();
    std::thread::spawn(move || {
        let result = runtime.block_on(tail::run(source, start, selection, &mut out, std::future::pending()));
        out.end(result);
    });
    Ok(DevRows::Live(recording))
}

fn plugin(command: PluginCommand) -> anyhow::Result<()> {
    match command {
        PluginCommand::New { name, lang } => print(&plugin::new(Path::new(&name), lang)?),
        PluginCommand::Build { directory } => plugin::build(&directory),
        PluginCommand::Test { path, cases, accept } => {
            let tested = plugin::test(&path, cases.as_deref(), accept)?;
            let mut failed = 0;
            for (name, tested) in &tested {
                failed += usize::from(matches!(tested, Tested::Failed(_)));
                print(&tested.line(name))?;
            }
            anyhow::ensure!(failed == 0, "{failed} of {} cases failed", tested.len());
            Ok(())
        }
        PluginCommand::Inspect { path, rows, verify: false } => print(&plugin::inspect(&path, rows.as_deref())?),
        PluginCommand::Inspect { path, rows, verify: true } => {
            let checks = plugin::verify(&path, rows.as_deref())?;
            let mut failed = 0;
            for (name, checked) in &checks {
                print(&match checked {
                    Ok(done) => format!("ok       {name}: {done}\n"),
                    Err(error) => {
                        failed += 1;
                        format!("failed   {name}: {error}\n")
                    }
                })?;
            }
            anyhow::ensure!(failed == 0, "{failed} of {} checks failed", checks.len());
            Ok(())
        }
        PluginCommand::Types { directory, from, tables, lang } => {
            print(&plugin::types(&directory, from.as_deref(), &tables, lang)?)
        }
        PluginCommand::Dev { directory, rows, config, from, condition, against, once } => {
            let rows = match (rows, config) {
                (Some(file), _) => DevRows::Recorded(file),
                (None, Some(config)) => live(&config, &from, condition)?,
                (None, None) => DevRows::None,
            };
            plugin::dev(&directory, &rows, against.as_deref(), once, print)
        }
    }
}

/// Writes to standard output, unless its reader closed the pipe.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    taken(out.write_all(text.as_bytes()).and_then(|()| out.flush())).map(drop)
}

fn with_config(path: &Path, run: impl FnOnce(Config) -> anyhow::Result<()>) -> ExitCode {
    with_loaded(Config::load(path), run)
}

fn with_loaded(config: Result<Config, ConfigError>, run: impl FnOnce(Config) -> anyhow::Result<()>) -> ExitCode {
    match config {
        Err(error) => fail(&error.into(), BAD_CONFIG),
        Ok(config) => ended(run(config)),
    }
}

fn ended(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, if error.is::<ConfigError>() { BAD_CONFIG } else { FAILED }),
    }
}

fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    // Where standard error cannot be written, the exit code alone reports the failure.
    let _ = writeln!(std::io::stderr(), "error: {}", error_text(error));
    ExitCode::from(code)
}
