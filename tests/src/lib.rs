//! What end-to-end tests and the examples stand on: a real MySQL, an SQS-compatible server and the
//! engine itself, each a child process that ends with its parent.
//!
//! `tests/tools/*` install what is needed; the engine's binary is the one beside the running program.

mod disk;
mod drain;
mod engine;
mod faulty;
mod generator;
mod mysql;
mod process;
mod proxy;
mod rig;
mod shop;
mod sqs;

pub use disk::Disk;
pub use drain::{Drain, Drained};
pub use engine::{Engine, EngineConfig, binary, replay};
pub use faulty::{faulty_endpoint, forbidding_endpoint};
pub use generator::{Generator, State};
pub use mysql::{Build, MySql};
pub use process::{Process, command, free_port, wait_for};
pub use proxy::Proxy;
pub use rig::Rig;
pub use shop::{Change, Committed, Shop};
pub use sqs::{Queue, Received, Sqs};

use std::path::{Path, PathBuf};

/// The repository's top.
pub fn top() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_owned()
}

/// A new empty directory under `target/run`, which keeps logs and what arrived for a look at them.
///
/// # Panics
/// If it can't be made.
pub fn scratch(name: &str) -> PathBuf {
    let directory = top().join("target/run").join(name);
    if directory.exists() {
        std::fs::remove_dir_all(&directory).expect("an old directory can be removed");
    }
    std::fs::create_dir_all(&directory).expect("a directory can be made");
    directory
}
