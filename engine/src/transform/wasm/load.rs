//! Finding and loading plugins, at the start and whenever their files change.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow, bail};
use sha2::{Digest, Sha256};
use tracing::{info, warn};
use wasmtime::component::{Component, Linker};
use wasmtime::{Cache, CacheConfig, Config, Engine, Module};

use crate::config;

use super::super::manifest::{Manifest, OnError};
use super::super::{Chain, Plugin};
use super::bindings::TransformPre;
use super::core_module;
use super::instance::{Code, Instance, InstanceTemplate};
use super::limits::{FILE_BYTES_MAX, NESTING_BODY_MIN, NESTING_MAX};
use super::state::{PluginState, add_to_linker};
use super::ticker::Ticker;

const MAGIC: &[u8] = b"\0asm";
/// The layer in a WebAssembly file's header: <https://github.com/WebAssembly/component-model/blob/main/design/mvp/Binary.md>
const MODULE: [u8; 4] = [1, 0, 0, 0];
const COMPONENT: [u8; 4] = [0x0d, 0, 1, 0];

pub(in crate::transform) const INTERFACE: &str = "rowmill:transform/";
pub(in crate::transform) const VERSION: &str = "0.1.0";
const EXPORTS: [&str; 3] = ["configure", "describe", "process"];

/// A guest's stack: a recursion without end is a trap.
const STACK_MAX: usize = 1 << 20;

/// How long a file may take to compile, and after how long it is said that it does.
const COMPILE_TIME_MAX: Duration = Duration::from_secs(120);
const COMPILE_TIME_QUIET: Duration = Duration::from_secs(3);

/// What plugins are loaded with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where they are; `None`: there are none.
    pub directory: Option<PathBuf>,
    /// Where compiled code is kept, so that no file is compiled twice; `None`: nowhere.
    pub cache: Option<PathBuf>,
    /// The names that they may send rows to.
    pub sinks: Vec<String>,
    /// Whether there is a sink for dead letters.
    pub has_dead_letters: bool,
    /// How many threads run transforms.
    pub threads: usize,
    /// Whether rows that a plugin fails on are set aside as dead letters, whatever its .toml says.
    pub force_dead_letter: bool,
    /// Whether the server tells the names of tables apart by case.
    pub case: config::NameCase,
}

impl Settings {
    /// As a configuration has them.
    pub fn of(config: &config::Config) -> Self {
        let config::Plugins { directory, cache, threads } = config.plugins.clone();
        Self {
            directory,
            cache: Some(cache),
            sinks: config.sinks.iter().map(|sink| sink.name.clone()).collect(),
            has_dead_letters: config.destinations.dead_letters.is_some(),
            threads,
            force_dead_letter: false,
            case: config.source.tables.case().clone(),
        }
    }

    /// To try a plugin by itself: on one thread, with sinks of these names.
    pub fn for_tests(sinks: Vec<String>) -> Self {
        let case = config::NameCase::default();
        Self { directory: None, cache: None, sinks, has_dead_letters: true, threads: 1, force_dead_letter: true, case }
    }
}

/// Loads plugins.
pub struct Loader {
    settings: Settings,
    sinks: Arc<[String]>,
    engine: Engine,
    linker: Linker<PluginState>,
    module_linker: wasmtime::Linker<PluginState>,
    cache: Option<Cache>,
    ticker: Arc<Ticker>,
}

/// What tells whether a plugin's files changed, without reading them: of the `.wasm` and of the `.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::transform) struct FileFingerprint(FileStamp, Option<FileStamp>);

type FileStamp = (u64, Option<SystemTime>, u64);

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loader").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Loader {
    /// Makes what plugins are loaded and run with.
    ///
    /// # Errors
    /// If this machine can't run WebAssembly.
    pub fn new(settings: Settings) -> anyhow::Result<Self> {
        let failed = |error: wasmtime::Error| anyhow!("the WebAssembly engine can't be made: {error:#}");
        let mut config = Config::new();
        config.epoch_interruption(true).concurrency_support(false).max_wasm_stack(STACK_MAX);
        // It is a convenience: without it plugins are compiled at each start.
        let cache = settings.cache.as_deref().and_then(|directory| match cache(directory) {
            Ok(cache) => Some(cache),
            Err(error) => {
                warn!(error = format!("{error:#}"), "compiled plugins aren't kept: each start compiles them");
                None
            }
        });
        config.cache(cache.clone());
        let engine = Engine::new(&config).map_err(failed)?;
        let mut linker = Linker::new(&engine);
        add_to_linker(&mut linker).map_err(failed)?;
        let module_linker = core_module::linker(&engine).map_err(failed)?;
        let ticker = Ticker::start(&engine);
        Ok(Self { sinks: settings.sinks.clone().into(), settings, engine, linker, module_linker, cache, ticker })
    }

    /// Loads every plugin of the directory, in file-name order.
    ///
    /// # Errors
    /// If one of them can't be loaded: the error names the file and what mends it.
    pub fn load_all(&self) -> anyhow::Result<Chain> {
        let plugins = self.scan()?.into_keys().map(|path| self.load(&path));
        Ok(Chain::new(plugins.collect::<anyhow::Result<_>>()?))
    }

    /// How many compiled pieces came from the cache, and how many had to be compiled.
    pub fn cache_use(&self) -> Option<(usize, usize)> {
        self.cache.as_ref().map(|cache| (cache.cache_hits(), cache.cache_misses()))
    }

    /// The plugins' files, in the order of their names.
    pub(in crate::transform) fn scan(&self) -> anyhow::Result<BTreeMap<PathBuf, FileFingerprint>> {
        let Some(directory) = &self.settings.directory else { return Ok(BTreeMap::new()) };
        let read = || {
            let mut found = BTreeMap::new();
            for entry in std::fs::read_dir(directory)? {
                let path = entry?.path();
                let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
                if is_hidden || path.extension().is_none_or(|extension| extension != "wasm") {
                    continue;
                }
                // What went away meanwhile isn't there; what can't be looked at may be.
                if let Some(stamp) = stamp(&path)? {
                    found.insert(path.clone(), FileFingerprint(stamp, self::stamp(&path.with_extension("toml"))?));
                }
            }
            Ok::<_, std::io::Error>(found)
        };
        read().with_context(|| format!("the plugins directory {} can't be read", directory.display()))
    }

    /// Loads one.
    ///
    /// # Errors
    /// If it isn't a transform, or doesn't start: the error names the file.
    pub fn load(&self, path: &Path) -> anyhow::Result<Arc<Plugin>> {
        let load = || {
            let bytes = read_file(path)?;
            anyhow::Ok(Arc::new(self.plugin(path, &bytes)?))
        };
        load().with_context(|| format!("plugin {}", path.display()))
    }

    /// What tells its content from another version's.
    pub(in crate::transform) fn digest(path: &Path) -> anyhow::Result<[u8; 32]> {
        Ok(digest(&read_file(path)?, path))
    }

    fn plugin(&self, path: &Path, bytes: &[u8]) -> anyhow::Result<Plugin> {
        let name: Arc<str> =
            path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned()).into();
        let digest = digest(bytes, path);
        let mut manifest = Manifest::load(&path.with_extension("toml"))?;
        manifest.tables = manifest.tables.map(|tables| tables.with_case(&self.settings.case));
        if manifest.on_error == OnError::DeadLetter && !self.settings.has_dead_letters {
            bail!(
                "its .toml says on_error = \"dead-letter\", and the configuration has no `[dead_letter]` with a `sink`"
            );
        }
        let code = self.code(bytes)?;
        let blueprint = InstanceTemplate {
            engine: self.engine.clone(),
            ticker: Arc::clone(&self.ticker),
            code,
            name,
            manifest,
            sinks: Arc::clone(&self.sinks),
            counters: Arc::default(),
            agreed_interests: Arc::default(),
            force_dead_letter: self.settings.force_dead_letter,
        };
        let first = Instance::new(&blueprint)?;
        Ok(Plugin::new(blueprint, digest, first, self.settings.threads))
    }

    /// Compiles a file.
    fn code(&self, bytes: &[u8]) -> anyhow::Result<Code> {
        check_nesting(bytes)?;
        let layer = bytes.strip_prefix(MAGIC).and_then(|rest| rest.first_chunk::<4>());
        match layer {
            Some(&COMPONENT) => self.component(bytes),
            Some(&MODULE) => {
                // The component encoder counts on a module that is whole.
                Module::validate(&self.engine, bytes)
                    .map_err(|error| anyhow!("the file isn't valid WebAssembly: {error:#}"))?;
                if exports(bytes, core_module::PROCESS) {
                    self.module(bytes)
                } else {
                    self.component(&component_of(bytes)?)
                }
            }
            Some(_) => bail!("the file is WebAssembly of a version that isn't known"),
            None => {
                bail!("the file isn't WebAssembly; the plugins directory's `.wasm` files must be compiled transforms")
            }
        }
    }

    /// Compiles on a thread of its own: what takes too long is left alone there, and ends by itself some day.
    fn compile<T: Send + 'static>(
        &self,
        bytes: &[u8],
        compile: impl FnOnce(&Engine, Vec<u8>) -> wasmtime::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let (engine, bytes, len) = (self.engine.clone(), bytes.to_vec(), bytes.len());
        let (done, result) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let _ = done.send(compile(&engine, bytes));
        });
        let compiled = result.recv_timeout(COMPILE_TIME_QUIET).or_else(|_| {
            info!(bytes = len, "compiling a plugin, which takes a while");
            result.recv_timeout(COMPILE_TIME_MAX - COMPILE_TIME_QUIET)
        });
        let compiled = compiled.map_err(|_| anyhow!("it takes longer than {COMPILE_TIME_MAX:?} to compile"))?;
        compiled.map_err(|error| anyhow!("the file isn't valid WebAssembly: {error:#}"))
    }

    fn component(&self, bytes: &[u8]) -> anyhow::Result<Code> {
        let component = self.compile(bytes, Component::new)?;
        check_interface(&self.engine, &component)?;
        let mut linker = self.linker.clone();
        // A toolchain's runtime may import WASI without using it: a call of it is an error of that batch.
        linker.define_unknown_imports_as_traps(&component).map_err(|error| anyhow!("{error:#}"))?;
        linker
            .instantiate_pre(&component)
            .and_then(TransformPre::new)
            .map(Code::Component)
            .map_err(|error| anyhow!("it isn't a transform: {error:#}"))
    }

    fn module(&self, bytes: &[u8]) -> anyhow::Result<Code> {
        let module = self.compile(bytes, Module::new)?;
        self.module_linker
            .instantiate_pre(&module)
            .map(Code::Module)
            .map_err(|error| anyhow!("it imports what isn't offered (see wit/core-module.md): {error:#}"))
    }
}

/// A file of a plugin, whole.
///
/// # Errors
/// If it isn't a regular file (to open a pipe waits for whoever writes it), or is too large.
pub(in crate::transform) fn read_file(path: &Path) -> anyhow::Result<Vec<u8>> {
    let metadata = std::fs::metadata(path).context("the file can't be read")?;
    if !metadata.is_file() {
        bail!("it isn't a regular file");
    }
    if metadata.len() > FILE_BYTES_MAX {
        bail!("the file has {} bytes, and may have {FILE_BYTES_MAX}", metadata.len());
    }
    std::fs::read(path).context("the file can't be read")
}

/// # Errors
/// If a function has so many blocks within each other that it would take minutes to compile. What else is wrong with the
/// file is found later.
fn check_nesting(bytes: &[u8]) -> anyhow::Result<()> {
    let payloads = wasmparser::Parser::new(0).parse_all(bytes).map_while(Result::ok);
    for payload in payloads {
        let wasmparser::Payload::CodeSectionEntry(body) = payload else { continue };
        let Ok(mut operators) = body.get_operators_reader() else { continue };
        if body.range().len() < NESTING_BODY_MIN {
            continue;
        }
        let mut depth = 0usize;
        while let Ok(operator) = operators.read() {
            use wasmparser::Operator::{Block, End, If, Loop, TryTable};
            match operator {
                Block { .. } | Loop { .. } | If { .. } | TryTable { .. } => depth += 1,
                End => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth > NESTING_MAX {
                bail!(
                    "a function has more than {NESTING_MAX} blocks within each other: it would take too long to compile"
                );
            }
        }
    }
    Ok(())
}

/// Whether a valid module exports something of this name.
fn exports(module: &[u8], name: &str) -> bool {
    let exports = wasmparser::Parser::new(0).parse_all(module).find_map(|payload| match payload {
        Ok(wasmparser::Payload::ExportSection(exports)) => Some(exports),
        _ => None,
    });
    exports.is_some_and(|exports| exports.into_iter().flatten().any(|export| export.name == name))
}

/// The component in a core module that was built with an SDK.
fn component_of(module: &[u8]) -> anyhow::Result<Vec<u8>> {
    wit_component::ComponentEncoder::default()
        .validate(true)
        .module(module)
        .and_then(|mut encoder| encoder.encode())
        .map_err(|error| {
            anyhow!(
                "the module isn't a transform: {error:#}; build it with a Rowmill SDK, or as a component of the world \
                 {INTERFACE}transform@{VERSION}, or let it export {}",
                core_module::PROCESS
            )
        })
}

/// `None` if there is no such file.
///
/// # Errors
/// If that can't be told.
fn stamp(path: &Path) -> std::io::Result<Option<FileStamp>> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(Some((metadata.len(), metadata.modified().ok(), metadata.ino()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn digest(bytes: &[u8], path: &Path) -> [u8; 32] {
    let manifest = read_file(&path.with_extension("toml")).unwrap_or_default();
    Sha256::new()
        .chain_update((bytes.len() as u64).to_le_bytes())
        .chain_update(bytes)
        .chain_update(manifest)
        .finalize()
        .into()
}

/// A directory for compiled code. What is there is run as it is: nobody else may write there.
fn cache(directory: &Path) -> anyhow::Result<Cache> {
    let shown = directory.display();
    let make = || {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let directory = std::fs::canonicalize(directory)?;
        let metadata = std::fs::metadata(&directory)?;
        Ok::<_, std::io::Error>((directory, metadata))
    };
    let (directory, metadata) = make().with_context(|| format!("the plugins' cache {shown} can't be made"))?;
    let writable_by_others = metadata.permissions().mode() & 0o022;
    if writable_by_others != 0 {
        bail!("others may write to the plugins' cache {shown}: run `chmod go-w {shown}`");
    }
    let own = std::fs::metadata("/proc/self").map(|own| own.uid());
    if own.is_ok_and(|own| own != metadata.uid()) {
        bail!("the plugins' cache {shown} belongs to another user: set `plugins.cache` to a directory of this one's");
    }
    check_writable(&directory).with_context(|| format!("the plugins' cache {shown} can't be written"))?;
    let mut config = CacheConfig::new();
    config.with_directory(directory);
    Cache::new(config).map_err(|error| anyhow!("the plugins' cache can't be used: {error:#}"))
}

/// Whether a directory may be written to.
fn check_writable(directory: &Path) -> std::io::Result<()> {
    let path = directory.join(format!(".probe-{}", std::process::id()));
    std::fs::write(&path, b"")?;
    std::fs::remove_file(path)
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
