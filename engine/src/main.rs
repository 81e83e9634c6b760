//! The command line.

use std::io::{BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use rowmill::config::{Config, ConfigError, Start, TablePatterns, parse_start};
use rowmill::plugin::{self, Language, Tested};
use rowmill::printer::Form;
use rowmill::replay::{self, Wanted};
use rowmill::retry::told;
use rowmill::{check, checkpoint, run, signals, tail};
use tracing::error;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

/// Batches are made by one thread and freed by others. The system's allocator keeps more and more of what they had; this one
/// gives it back within seconds.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What went well ends with 0; what failed while running with 1; what never could run with 2.
const FAILED: u8 = 1;
const BAD_CONFIG: u8 = 2;
/// Lines of the log that wait to be written.
const LINES_WAITING_MAX: usize = 10_000;

#[derive(Parser)]
#[command(
    name = "rowmill",
    version,
    about = "Change data capture from MySQL, through WebAssembly transforms, to AWS SQS",
    after_help = "Examples:\n  rowmill check --config rowmill.toml\n  rowmill run --config rowmill.toml\n  rowmill replay /var/lib/mysql/binlog.000042\n\nLogs go to stderr; ROWMILL_LOG sets the level (error, warn, info, debug, trace)."
)]
struct Cli {
    /// How log lines are written
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t, global = true)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Default, PartialEq, ValueEnum)]
enum LogFormat {
    /// For people
    #[default]
    Text,
    /// An object a line, for programs
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Read the binlog and deliver its row changes until stopped
    #[command(
        after_help = "Examples:\n  rowmill run --config rowmill.toml\n  ROWMILL_SOURCE_PASSWORD=... rowmill run -c /etc/rowmill/rowmill.toml\n\nA server or a queue that can't be reached yet is waited for.\nSIGTERM and Ctrl-C deliver what is in flight within `shutdown_timeout` (8 s), write the checkpoint and exit 0; a second one doesn't wait.\nExit codes: 0 stopped as asked, 1 failed, 2 bad usage or configuration."
    )]
    Run {
        /// The configuration file
        #[arg(short, long, value_name = "FILE", default_value = "rowmill.toml")]
        config: PathBuf,
        /// Fail where a server or a queue can't be reached at the start, instead of waiting for it
        #[arg(long)]
        no_wait: bool,
    },
    /// Check everything that a run needs: the server, its settings and grants, queues, plugins
    #[command(
        after_help = "Example:\n  rowmill check --config rowmill.toml\n\nEach problem comes with what mends it. Nothing is changed or sent.\nExit codes: 0 no problem, 1 problems, 2 bad usage or configuration."
    )]
    Check {
        /// The configuration file
        #[arg(short, long, value_name = "FILE", default_value = "rowmill.toml")]
        config: PathBuf,
    },
    /// Decode binlog files without a server, and write their rows as lines of JSON
    #[command(
        after_help = "Examples:\n  rowmill replay binlog.000042\n  rowmill replay --tables 'shop.*' --tables '!shop.audit' binlog.000042 binlog.000043 | jq .after\n\nThe files must have been written with binlog_row_metadata = FULL.\nExit codes: 0 done, 1 a file can't be read or decoded (the rows before are written), 2 bad usage."
    )]
    Replay {
        /// Which tables, in order, later wins; all but the system schemas by default
        #[arg(short, long, value_name = "PATTERN")]
        tables: Vec<String>,
        /// Write the statements that change tables as well
        #[arg(short, long)]
        schema_changes: bool,
        /// Write rows as `rowmill plugin test` reads them
        #[arg(long, conflicts_with = "schema_changes")]
        record: bool,
        /// The files, in their order
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Write changes to standard output as they happen
    #[command(
        after_help = "Examples:\n  rowmill tail --config rowmill.toml | jq .after\n  rowmill tail --record >tests/mine.rows.jsonl\n\nNothing is delivered, and no checkpoint is read or written. Ctrl-C stops it.\nExit codes: 0 stopped, 1 failed, 2 bad usage or configuration."
    )]
    Tail {
        /// The configuration file; its sinks and plugins aren't used
        #[arg(short, long, value_name = "FILE", default_value = "rowmill.toml")]
        config: PathBuf,
        /// Where to begin: earliest, latest, FILE:POSITION or gtid:SET
        #[arg(long, value_name = "PLACE", default_value = "latest")]
        from: String,
        /// Write rows as `rowmill plugin test` reads them
        #[arg(long)]
        record: bool,
    },
    /// Look at the checkpoint, or put it elsewhere
    #[command(subcommand)]
    Checkpoint(CheckpointCommand),
    /// Make, build, test and inspect transforms
    #[command(subcommand)]
    Plugin(PluginCommand),
}

#[derive(Subcommand)]
enum CheckpointCommand {
    /// Write it to standard output, as JSON
    #[command(
        after_help = "Example:\n  rowmill checkpoint show --config rowmill.toml | jq .gtids\n\nA rowmill may be running meanwhile.\nExit codes: 0 shown, 1 there is none, or it is damaged, 2 bad usage or configuration."
    )]
    Show {
        /// The configuration file
        #[arg(short, long, value_name = "FILE", default_value = "rowmill.toml")]
        config: PathBuf,
    },
    /// Put it to a place: changes before it won't be read, those behind it will, again if need be
    #[command(
        after_help = "Examples:\n  rowmill checkpoint set binlog.000042:1234\n  rowmill checkpoint set --config rowmill.toml latest\n\nThe server is asked whether it has the place; no rowmill may be running by this checkpoint. The one before stays beside it.\nExit codes: 0 done, 1 it stays as it was, 2 bad usage or configuration."
    )]
    Set {
        /// The configuration file
        #[arg(short, long, value_name = "FILE", default_value = "rowmill.toml")]
        config: PathBuf,
        /// Where to: earliest, latest, FILE:POSITION or gtid:SET
        place: String,
    },
}

#[derive(Subcommand)]
enum PluginCommand {
    /// Make a project that builds with one command and has a test
    #[command(
        after_help = "Example:\n  rowmill plugin new paid-orders --lang zig\n  rowmill plugin build paid-orders && rowmill plugin test paid-orders"
    )]
    New {
        /// The plugin's name, and the directory's
        name: String,
        /// The language
        #[arg(short, long)]
        lang: Language,
    },
    /// Build a project: runs its script `build`
    Build {
        /// The project's directory
        #[arg(default_value = ".")]
        directory: PathBuf,
    },
    /// Run a module on rows written as JSON, and compare what it makes of them with what is expected
    #[command(
        after_help = "Examples:\n  rowmill plugin test paid-orders\n  rowmill plugin test plugins/paid-orders.wasm --cases tests/paid-orders --accept\n\nA case is NAME.rows.jsonl (sinks, tables, row changes) and NAME.expected.jsonl (what becomes of them) in `tests` beside the module.\nExit codes: 0 all as expected, 1 not, or the module can't be loaded."
    )]
    Test {
        /// The module, or the directory that it is in
        #[arg(default_value = ".")]
        path: PathBuf,
        /// Where the cases are
        #[arg(long, value_name = "DIR")]
        cases: Option<PathBuf>,
        /// Write what it makes as what is expected
        #[arg(long)]
        accept: bool,
    },
    /// Say what a module is, what it may do, and what a row costs in it
    #[command(after_help = "Example:\n  rowmill plugin inspect plugins/paid-orders.wasm")]
    Inspect {
        /// The module, or the directory that it is in
        #[arg(default_value = ".")]
        path: PathBuf,
        /// Rows to measure with, as lines of JSON; by default of a table with ten columns
        #[arg(long, value_name = "FILE")]
        rows: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let Cli { log_format, command } = Cli::parse();
    // Dropped at the end, it writes what is still to be written, for a second at most.
    let _writing = match log(log_format) {
        Ok(writing) => writing,
        Err(fault) => return fail(&fault, BAD_CONFIG),
    };

    match command {
        Command::Plugin(command) => ended(plugin(command)),
        Command::Run { config, no_wait } => match Config::load(&config) {
            Err(error) => fail(&error.into(), BAD_CONFIG),
            Ok(config) => match run::run(config, !no_wait) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    // A line of the log, as all that it says while it runs.
                    error!("{}", told(&error));
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
        Command::Tail { config, from, record } => at_place("--from", &from, |start| {
            with_loaded(Config::load_without_sinks(&config), |config| tail(config, start, form(record)))
        }),
        Command::Checkpoint(CheckpointCommand::Show { config }) => {
            with_config(&config, |config| run::runtime()?.block_on(checkpoint::show(&config, &mut std::io::stdout())))
        }
        Command::Checkpoint(CheckpointCommand::Set { config, place }) => at_place("PLACE", &place, |start| {
            with_config(&config, |config| {
                run::runtime()?.block_on(checkpoint::set(&config, &start, &mut std::io::stdout()))
            })
        }),
        Command::Replay { tables, schema_changes, record, files } => match TablePatterns::parse(&tables) {
            Err(fault) => fail(&anyhow::anyhow!("--tables: {fault}"), BAD_CONFIG),
            Ok(tables) => {
                let mut out = BufWriter::new(std::io::stdout().lock());
                let result = replay::run(&files, Wanted { tables, schema_changes, form: form(record) }, &mut out);
                ended(result.and_then(|()| match out.flush() {
                    // Whoever read has seen enough.
                    Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
                    flushed => Ok(flushed?),
                }))
            }
        },
    }
}

/// Sets up the log. A thread of its own writes it, and drops lines while the reader is stuck: nothing waits for it.
fn log(format: LogFormat) -> anyhow::Result<WorkerGuard> {
    // The driver logs errors that are handled, and logged, here.
    let level = match std::env::var("ROWMILL_LOG") {
        Err(_) => EnvFilter::new("warn,rowmill=info,mysql_async=off"),
        Ok(level) => EnvFilter::try_new(&level)
            .ok()
            .filter(|_| is_level(&level))
            .with_context(|| format!("ROWMILL_LOG = \"{level}\": it is error, warn, info, debug, trace or off"))?,
    };
    let (writer, writing) =
        NonBlockingBuilder::default().buffered_lines_limit(LINES_WAITING_MAX).finish(std::io::stderr());
    let log = tracing_subscriber::fmt().with_env_filter(level).with_writer(writer).with_target(false);
    // It would say that a line can't be written where that can't be written either, and panic.
    let log = log.log_internal_errors(false);
    match format {
        LogFormat::Json => log.json().flatten_event(true).with_ansi(false).init(),
        // Colours are for people, not for files.
        LogFormat::Text => {
            log.with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()).init();
        }
    }
    Ok(writing)
}

/// Whether each part of a filter names a level: `infos` would be taken for a module, of which all is wanted.
fn is_level(filter: &str) -> bool {
    filter.split(',').all(|part| {
        let level = part.rsplit('=').next().unwrap_or(part).trim();
        level.parse::<tracing::metadata::LevelFilter>().is_ok()
    })
}

/// With a place of the binlog that an argument says.
fn at_place(argument: &str, place: &str, run: impl FnOnce(Start) -> ExitCode) -> ExitCode {
    match parse_start(place) {
        Ok(start) => run(start),
        Err(fault) => fail(&anyhow::anyhow!("{argument}: {}", fault.replace("source.start = ", "")), BAD_CONFIG),
    }
}

fn form(record: bool) -> Form {
    if record { Form::Record } else { Form::Envelope }
}

fn tail(config: Config, start: Start, form: Form) -> anyhow::Result<()> {
    let runtime = run::runtime()?;
    let result = runtime.block_on(async {
        let mut signals = signals::Signals::listen()?;
        let mut out = BufWriter::new(std::io::stdout());
        let stop = async {
            signals.next().await;
        };
        tail::run(config.source, start, form, &mut out, stop).await
    });
    runtime.shutdown_background();
    result
}

fn plugin(command: PluginCommand) -> anyhow::Result<()> {
    match command {
        PluginCommand::New { name, lang } => plugin::new(Path::new(&name), lang).map(|said| print!("{said}")),
        PluginCommand::Build { directory } => plugin::build(&directory),
        PluginCommand::Test { path, cases, accept } => {
            let tested = plugin::test(&path, cases.as_deref(), accept)?;
            let mut failed = 0;
            for (name, tested) in &tested {
                match tested {
                    Tested::Passed => println!("ok       {name}"),
                    Tested::Accepted => println!("accepted {name}"),
                    Tested::Failed(how) => {
                        failed += 1;
                        println!("failed   {name}: {how}");
                    }
                }
            }
            anyhow::ensure!(failed == 0, "{failed} of {} cases failed", tested.len());
            Ok(())
        }
        PluginCommand::Inspect { path, rows } => plugin::inspect(&path, rows.as_deref()).map(|said| print!("{said}")),
    }
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
        Err(error) => fail(&error, FAILED),
    }
}

fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    // Where nobody hears it the exit code says it.
    let _ = writeln!(std::io::stderr(), "error: {}", told(error));
    ExitCode::from(code)
}
