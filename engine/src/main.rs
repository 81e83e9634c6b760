//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use rowmill::config::Config;
use rowmill::pipeline;
use tracing_subscriber::EnvFilter;

/// What went well ends with 0; what failed while running with 1; what never could run with 2.
const FAILED: u8 = 1;
const BAD_CONFIG: u8 = 2;

#[derive(Parser)]
#[command(
    name = "rowmill",
    version,
    about = "Change data capture from MySQL, through WebAssembly transforms, to AWS SQS",
    after_help = "Example:\n  rowmill run --config rowmill.toml\n\nLogs go to stderr; ROWMILL_LOG sets the level (error, warn, info, debug, trace)."
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
}

fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    // The driver logs errors that are handled, and logged, here.
    let level =
        EnvFilter::try_from_env("ROWMILL_LOG").unwrap_or_else(|_| EnvFilter::new("warn,rowmill=info,mysql_async=off"));
    tracing_subscriber::fmt().with_env_filter(level).with_writer(std::io::stderr).with_target(false).init();

    match command {
        Command::Run { config } => match Config::load(&config) {
            Err(error) => fail(&error.into(), BAD_CONFIG),
            Ok(config) => match pipeline::run(config) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(&error, FAILED),
            },
        },
    }
}

fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::from(code)
}
