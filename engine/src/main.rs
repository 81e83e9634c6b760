//! The command line.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use rowmill::config::{Config, ConfigError, TablePatterns};
use rowmill::replay::{self, Wanted};
use rowmill::{check, pipeline};
use tracing_subscriber::EnvFilter;

/// What went well ends with 0; what failed while running with 1; what never could run with 2.
const FAILED: u8 = 1;
const BAD_CONFIG: u8 = 2;

#[derive(Parser)]
#[command(
    name = "rowmill",
    version,
    about = "Change data capture from MySQL, through WebAssembly transforms, to AWS SQS",
    after_help = "Examples:\n  rowmill check --config rowmill.toml\n  rowmill run --config rowmill.toml\n  rowmill replay /var/lib/mysql/binlog.000042\n\nLogs go to stderr; ROWMILL_LOG sets the level (error, warn, info, debug, trace)."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Read the binlog and deliver its row changes until stopped
    #[command(
        after_help = "Examples:\n  rowmill run --config rowmill.toml\n  ROWMILL_SOURCE_PASSWORD=... rowmill run -c /etc/rowmill/rowmill.toml\n\nSIGTERM and Ctrl-C deliver what is in flight, write the checkpoint and exit 0; a second one exits at once.\nExit codes: 0 stopped as asked, 1 failed, 2 bad usage or configuration."
    )]
    Run {
        /// The configuration file
        #[arg(short, long, value_name = "FILE", default_value = "rowmill.toml")]
        config: PathBuf,
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
        /// The files, in their order
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    // The driver logs errors that are handled, and logged, here.
    let level =
        EnvFilter::try_from_env("ROWMILL_LOG").unwrap_or_else(|_| EnvFilter::new("warn,rowmill=info,mysql_async=off"));
    tracing_subscriber::fmt().with_env_filter(level).with_writer(std::io::stderr).with_target(false).init();

    match command {
        Command::Run { config } => with_config(&config, pipeline::run),
        Command::Check { config } => with_config(&config, |config| {
            let problems = pipeline::runtime()?.block_on(check::run(&config, &mut std::io::stdout()))?;
            anyhow::ensure!(problems == 0, "{problems} problems: see above");
            Ok(())
        }),
        Command::Replay { tables, schema_changes, files } => match TablePatterns::parse(&tables) {
            Err(fault) => fail(&anyhow::anyhow!("--tables: {fault}"), BAD_CONFIG),
            Ok(tables) => {
                let mut out = BufWriter::new(std::io::stdout().lock());
                let result = replay::run(&files, Wanted { tables, schema_changes }, &mut out);
                ended(result.and_then(|()| Ok(out.flush()?)))
            }
        },
    }
}

fn with_config(path: &Path, run: impl FnOnce(Config) -> anyhow::Result<()>) -> ExitCode {
    let config: Result<Config, ConfigError> = Config::load(path);
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
    eprintln!("error: {error:#}");
    ExitCode::from(code)
}
