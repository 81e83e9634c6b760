//! The environment of end-to-end tests and examples: a real MySQL or MariaDB server, an SQS-compatible server and the engine,
//! each a child process that ends with its parent.
//!
//! `tests/tools/*` install what is needed; the engine's binary is the one beside the running program.

mod delivered;
mod disk;
mod drain;
mod engine;
mod faulty;
mod generator;
mod impostor;
mod json;
pub mod log_lines;
mod mysql;
mod process;
mod proxy;
mod rig;
mod shop;
mod sqs;

pub use delivered::State;
pub use disk::Disk;
pub use drain::{Drain, Drained};
pub use engine::{Engine, EngineConfig, binary, replay};
pub use faulty::{accepted, faulty_endpoint, forbidding_endpoint, scripted_endpoint};
pub use generator::Generator;
pub use impostor::{Impostor, certify};
pub use json::JsonGenerator;
pub use mysql::{Build, MySql};
pub use process::{Process, command, free_port, wait_for};
pub use proxy::Proxy;
pub use rig::Rig;
pub use shop::{Change, Committed, Shop};
pub use sqs::{Queue, Received, Sqs};

use std::path::{Path, PathBuf};

use anyhow::Context;

/// The repository's root directory.
pub fn top() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_owned()
}

/// Makes a new, empty directory under `target/run`, where logs and delivered messages stay for inspection.
///
/// # Panics
/// If the directory cannot be made.
pub fn scratch(name: &str) -> PathBuf {
    let directory = top().join("target/run").join(name);
    if directory.exists() {
        std::fs::remove_dir_all(&directory).expect("an old directory can be removed");
    }
    std::fs::create_dir_all(&directory).expect("a directory can be made");
    directory
}

/// Returns the environment in which a project of any language builds: the compilers that `tests/tools` unpacked.
///
/// # Errors
/// If they were not unpacked.
pub fn compilers() -> anyhow::Result<Vec<(String, String)>> {
    let mut variables = Vec::new();
    for file in ["languages.env", "rust.env"] {
        let text = std::fs::read_to_string(top().join("target/guests").join(file)).context(file)?;
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        variables.extend(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
    Ok(variables)
}

/// Returns a file's complete lines, without a last line that is still being written; nothing if the file does not exist.
///
/// # Errors
/// If the lines are not UTF-8.
pub fn whole_lines(path: &Path) -> anyhow::Result<String> {
    let mut bytes = std::fs::read(path).unwrap_or_default();
    bytes.truncate(bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1));
    String::from_utf8(bytes).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_there_when_its_end_is() -> anyhow::Result<()> {
        let path = scratch("a_line_is_there_when_its_end_is").join("lines");
        assert_eq!(whole_lines(&path)?, "", "no file yet");
        let torn = &"größe".as_bytes()[..3];
        for (written, whole) in [(torn, ""), (b"", ""), (b"1\n", "1\n"), (&[b"1\n2\n", torn].concat(), "1\n2\n")] {
            std::fs::write(&path, written)?;
            assert_eq!(whole_lines(&path)?, whole);
        }
        std::fs::write(&path, [torn, b"\n"].concat())?;
        assert!(whole_lines(&path).is_err());
        Ok(())
    }
}
