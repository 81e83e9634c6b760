//! Commands for authors of transforms: create a project, build it, test it on rows, and inspect a module.

mod dev;
mod inspect;
mod project;
mod recording;
mod test;
mod types;
mod verify;

pub use dev::{DevRows, dev};
pub use inspect::{Cost, Gauge, inspect};
pub use project::{Language, build, new};
pub use recording::Recording;
pub use test::{Tested, test};
pub use types::types;
pub use verify::{Check, verify};

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};

use crate::fixture::{Rows, sample};

/// Reads rows from a file of lines of JSON; without one, sample rows of a table with ten columns.
fn rows_in(file: Option<&Path>) -> anyhow::Result<Rows> {
    let Some(file) = file else { return Rows::parse(&sample()).map_err(|error| anyhow!(error)) };
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    Rows::parse(&text).map_err(|error| anyhow!("{}: {error}", file.display()))
}

/// Returns the module of a project: the file itself, or the only `.wasm` file in a directory.
fn module_in(path: &Path) -> anyhow::Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let entries = std::fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "wasm"))
        .collect();
    match (found.pop(), found.is_empty()) {
        (Some(module), true) => Ok(module),
        (None, _) => {
            bail!("there is no .wasm file in {}; run `rowmill plugin build {}`", path.display(), path.display())
        }
        (Some(_), false) => bail!("there are several .wasm files in {}; name one of them", path.display()),
    }
}
