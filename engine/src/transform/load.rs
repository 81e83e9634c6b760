//! Finding and loading plugins.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use tracing::info;
use wasmtime::component::{Component, Linker};
use wasmtime::{Config, Engine};

use super::instance::{Instance, Limits, PluginState, add_to_linker};
use crate::transform::instance::EPOCH;

const MAGIC: &[u8] = b"\0asm";
/// The layer in a WebAssembly file's header: <https://github.com/WebAssembly/component-model/blob/main/design/mvp/Binary.md>
const MODULE: [u8; 4] = [1, 0, 0, 0];
const COMPONENT: [u8; 4] = [0x0d, 0, 1, 0];

const INTERFACE: &str = "rowmill:transform/";
const VERSION: &str = "0.1.0";
const EXPORTS: [&str; 3] = ["configure", "describe", "process"];

/// Loads every `.wasm` file of a directory, in file-name order.
pub(super) fn directory(directory: &Path, sinks: &[String], limits: Limits) -> anyhow::Result<Vec<Instance>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
        .with_context(|| format!("the plugins directory {} can't be read", directory.display()))?;
    files.retain(|path| {
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        path.extension().is_some_and(|extension| extension == "wasm") && !hidden
    });
    files.sort();
    if files.is_empty() {
        return Ok(Vec::new());
    }

    let engine = engine()?;
    let linker = linker(&engine)?;
    tick(&engine);
    files
        .iter()
        .map(|path| {
            let started = std::time::Instant::now();
            let name = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
            let plugin = plugin(&engine, &linker, path, &name, sinks, limits)
                .with_context(|| format!("plugin {}", path.display()))?;
            info!(plugin = name, took = ?started.elapsed(), "plugin loaded");
            Ok(plugin)
        })
        .collect()
}

fn engine() -> anyhow::Result<Engine> {
    let mut config = Config::new();
    config.epoch_interruption(true).concurrency_support(false);
    Engine::new(&config).map_err(|error| anyhow!("the WebAssembly engine can't be made: {error:#}"))
}

fn linker(engine: &Engine) -> anyhow::Result<Linker<PluginState>> {
    let mut linker = Linker::new(engine);
    add_to_linker(&mut linker).map_err(|error| anyhow!("{error:#}"))?;
    Ok(linker)
}

/// Counts epochs for as long as the engine is used: deadlines are so many of them ahead.
fn tick(engine: &Engine) {
    let weak = engine.weak();
    std::thread::spawn(move || {
        while let Some(engine) = weak.upgrade() {
            engine.increment_epoch();
            drop(engine);
            std::thread::sleep(EPOCH);
        }
    });
}

fn plugin(
    engine: &Engine,
    linker: &Linker<PluginState>,
    path: &Path,
    name: &str,
    sinks: &[String],
    limits: Limits,
) -> anyhow::Result<Instance> {
    let bytes = std::fs::read(path).context("the file can't be read")?;
    let bytes = component_bytes(bytes)?;
    let component =
        Component::new(engine, &bytes).map_err(|error| anyhow!("the file isn't valid WebAssembly: {error:#}"))?;

    let mut linker = linker.clone();
    check_interface(engine, &component)?;
    // A toolchain's runtime may import WASI without using it: a call of it is an error of that batch.
    linker.define_unknown_imports_as_traps(&component).map_err(|error| anyhow!("{error:#}"))?;
    let mut instance = Instance::new(engine, &linker, &component, name, sinks, limits)?;
    instance.configure("{}")?;
    Ok(instance)
}

/// A component as it is; of a core module that was built with the SDK, the component in it.
fn component_bytes(bytes: Vec<u8>) -> anyhow::Result<Vec<u8>> {
    let layer = bytes.strip_prefix(MAGIC).and_then(|rest| rest.first_chunk::<4>());
    match layer {
        Some(&COMPONENT) => Ok(bytes),
        Some(&MODULE) => wit_component::ComponentEncoder::default()
            .validate(true)
            .module(&bytes)
            .and_then(|mut encoder| encoder.encode())
            .map_err(|error| {
                anyhow!(
                    "the module isn't a transform: {error:#}; build it with a Rowmill SDK for \
                     wasm32-unknown-unknown, or as a component of the world {INTERFACE}transform@{VERSION}"
                )
            }),
        Some(_) => bail!("the file is WebAssembly of a version that isn't known"),
        None => bail!("the file isn't WebAssembly; the plugins directory's `.wasm` files must be compiled transforms"),
    }
}

fn check_interface(engine: &Engine, component: &Component) -> anyhow::Result<()> {
    let component_type = component.component_type();
    for (import, _) in component_type.imports(engine) {
        let known = match import.strip_prefix(INTERFACE) {
            Some(interface) => matches!(interface.split_once('@'), Some((_, version)) if version.starts_with("0.1.")),
            None => import.starts_with("wasi:"),
        };
        if !known {
            bail!("it imports `{import}`, and this rowmill offers {INTERFACE}...@{VERSION} only");
        }
    }
    let exports: Vec<&str> = component_type.exports(engine).map(|(name, _)| name).collect();
    for needed in EXPORTS {
        if !exports.contains(&needed) {
            bail!(
                "it doesn't export `{needed}`: it isn't a transform of the world {INTERFACE}transform@{VERSION} (a \
                 transform exports {})",
                EXPORTS.join(", ")
            );
        }
    }
    Ok(())
}

/// How many epochs are in a time, at least.
pub(super) fn epochs(time: Duration) -> u64 {
    (time.as_millis().div_ceil(EPOCH.as_millis()) + 1) as u64
}
