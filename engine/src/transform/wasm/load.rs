//! Finds, compiles and loads plugins, at the start and when their files change.

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
use super::bindings::{INTERFACE, TransformPre, VERSION};
use super::core_module;
use super::instance::{Code, Instance, InstanceTemplate};
use super::limits::{FILE_BYTES_MAX, NESTING_BODY_MIN, NESTING_MAX};
use super::state::{ANY_SINK, PluginState, add_to_linker};
use super::ticker::Ticker;
use super::wasi_p2;

const MAGIC: &[u8] = b"\0asm";
/// The version and layer in a WebAssembly file's header:
/// <https://github.com/WebAssembly/component-model/blob/main/design/mvp/Binary.md>
const MODULE: [u8; 4] = [1, 0, 0, 0];
const COMPONENT: [u8; 4] = [0x0d, 0, 1, 0];

const EXPORTS: [&str; 3] = ["configure", "describe", "process"];

/// The size of a plugin's stack in bytes. An endless recursion is a trap.
const STACK_MAX: usize = 1 << 20;

/// The maximum time of a file's compilation, and the time after which the compilation is logged.
const COMPILE_TIME_MAX: Duration = Duration::from_secs(120);
const COMPILE_TIME_QUIET: Duration = Duration::from_secs(3);

/// The settings for loading plugins.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The plugins directory; `None`: there are no plugins.
    pub directory: Option<PathBuf>,
    /// The directory for compiled code, so that no file is compiled twice; `None`: no cache.
    pub cache: Option<PathBuf>,
    /// The names of the sinks that plugins may send rows to.
    pub sinks: Vec<String>,
    /// Whether there is a dead-letter sink.
    pub has_dead_letters: bool,
    /// The number of threads that run transforms.
    pub threads: usize,
    /// Whether rows that a plugin fails on become dead letters, whatever its manifest says.
    pub force_dead_letter: bool,
    /// Whether the server's table names are case-sensitive.
    pub case: config::NameCase,
}

impl Settings {
    /// Takes the settings from a configuration.
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

    /// Returns the settings for trying a plugin: on one thread, with sinks of these names.
    pub fn for_tests(sinks: Vec<String>) -> Self {
        let case = config::NameCase::default();
        Self { directory: None, cache: None, sinks, has_dead_letters: true, threads: 1, force_dead_letter: true, case }
    }

    /// Lets plugins name any sink.
    pub fn with_any_sink(mut self) -> Self {
        self.sinks.push(ANY_SINK.to_owned());
        self
    }

    /// Keeps compiled code in the user's cache directory, if there is one: large modules take seconds to compile.
    pub fn with_users_cache(mut self) -> Self {
        let of_home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
        let directory = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(of_home);
        self.cache = directory.filter(|directory| directory.is_absolute()).map(|directory| directory.join("rowmill"));
        self
    }
}

/// A loader of plugins: the WebAssembly engine, the host functions and the cache.
pub struct Loader {
    settings: Settings,
    sinks: Arc<[String]>,
    engine: Engine,
    linker: Linker<PluginState>,
    module_linker: wasmtime::Linker<PluginState>,
    cache: Option<Cache>,
    ticker: Arc<Ticker>,
}

/// The fingerprints of a plugin's `.wasm` and `.toml`, which tell whether the files changed without reading them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::transform) struct FileFingerprint(FileStamp, Option<FileStamp>);

type FileStamp = (u64, Option<SystemTime>, u64);

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loader").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Loader {
    /// Creates a loader.
    ///
    /// # Errors
    /// If this machine cannot run WebAssembly.
    pub fn new(settings: Settings) -> anyhow::Result<Self> {
        let failed = |error: wasmtime::Error| anyhow!("cannot create the WebAssembly engine: {error:#}");
        let mut config = Config::new();
        config.epoch_interruption(true).concurrency_support(false).max_wasm_stack(STACK_MAX);
        // Managed languages need these; their heap counts as memory of the instance.
        config.wasm_gc(true).wasm_exceptions(true);
        // Without the cache plugins are compiled at each start, which is no reason to stop.
        let cache = settings.cache.as_deref().and_then(|directory| match cache(directory) {
            Ok(cache) => Some(cache),
            Err(error) => {
                warn!(error = format!("{error:#}"), "compiled plugins are not cached; each start compiles them");
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
    /// If a plugin cannot be loaded: the error names the file and the fix.
    pub fn load_all(&self) -> anyhow::Result<Chain> {
        let plugins = self.scan()?.into_keys().map(|path| self.load(&path));
        Ok(Chain::new(plugins.collect::<anyhow::Result<_>>()?))
    }

    /// Returns how many compilations were read from the cache, and how many were not in it.
    pub fn cache_use(&self) -> Option<(usize, usize)> {
        self.cache.as_ref().map(|cache| (cache.cache_hits(), cache.cache_misses()))
    }

    /// Returns the plugins' files, in the order of their names.
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
                // A file that was removed meanwhile is left out. Any other error may concern an existing file, and fails the scan.
                if let Some(stamp) = stamp(&path)? {
                    found.insert(path.clone(), FileFingerprint(stamp, self::stamp(&path.with_extension("toml"))?));
                }
            }
            Ok::<_, std::io::Error>(found)
        };
        read().with_context(|| format!("cannot read the plugins directory {}", directory.display()))
    }

    /// Loads a plugin.
    ///
    /// # Errors
    /// If the file is not a transform, or no instance can be started: the error names the file.
    pub fn load(&self, path: &Path) -> anyhow::Result<Arc<Plugin>> {
        self.load_with(path, None)
    }

    /// As [`Self::load`], with settings in JSON that take the place of those of the plugin's `.toml`.
    pub(crate) fn load_with(&self, path: &Path, settings: Option<String>) -> anyhow::Result<Arc<Plugin>> {
        let load = || {
            let bytes = read_file(path)?;
            anyhow::Ok(Arc::new(self.plugin(path, &bytes, settings)?))
        };
        load().with_context(|| format!("cannot load plugin {}", path.display()))
    }

    /// Returns the SHA-256 digest of a plugin's files, which tells its versions apart.
    pub(in crate::transform) fn digest(path: &Path) -> anyhow::Result<[u8; 32]> {
        Ok(digest(&read_file(path)?, path))
    }

    fn plugin(&self, path: &Path, bytes: &[u8], settings: Option<String>) -> anyhow::Result<Plugin> {
        let name: Arc<str> =
            path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned()).into();
        let digest = digest(bytes, path);
        let mut manifest = Manifest::load(&path.with_extension("toml"))?;
        manifest.tables = manifest.tables.map(|tables| tables.with_case(&self.settings.case));
        if let Some(settings) = settings {
            manifest.settings = settings;
        }
        if manifest.on_error == OnError::DeadLetter && !self.settings.has_dead_letters {
            bail!(
                "its .toml says on_error = \"dead-letter\", but the configuration has no `[dead_letter]` with a `sink`; \
                 add one, or change `on_error`"
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

    /// Compiles a plugin's file.
    fn code(&self, bytes: &[u8]) -> anyhow::Result<Code> {
        check_nesting(bytes)?;
        let layer = bytes.strip_prefix(MAGIC).and_then(|rest| rest.first_chunk::<4>());
        match layer {
            Some(&COMPONENT) => self.component(bytes),
            Some(&MODULE) => {
                // The component encoder expects a valid module.
                Module::validate(&self.engine, bytes)
                    .map_err(|error| anyhow!("the file is not valid WebAssembly: {error:#}"))?;
                if exports(bytes, core_module::PROCESS) {
                    self.module(bytes)
                } else {
                    self.component(&component_of(bytes)?)
                }
            }
            Some(_) => bail!("the file has an unknown version of WebAssembly"),
            None => {
                bail!(
                    "the file is not WebAssembly; the `.wasm` files of the plugins directory must be compiled transforms"
                )
            }
        }
    }

    /// Compiles on a thread of its own. A compilation that takes too long is abandoned, and its thread ends when it is done.
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
            info!(bytes = len, "still compiling a plugin");
            result.recv_timeout(COMPILE_TIME_MAX - COMPILE_TIME_QUIET)
        });
        let compiled = compiled.map_err(|_| anyhow!("cannot compile the file within {COMPILE_TIME_MAX:?}"))?;
        compiled.map_err(|error| anyhow!("the file is not valid WebAssembly: {error:#}"))
    }

    fn component(&self, bytes: &[u8]) -> anyhow::Result<Code> {
        let component = self.compile(bytes, Component::new)?;
        check_interface(&self.engine, &component)?;
        let mut linker = self.linker.clone();
        wasi_p2::add_to_linker(&mut linker, &component, &self.engine).map_err(|error| anyhow!("{error:#}"))?;
        linker
            .instantiate_pre(&component)
            .and_then(TransformPre::new)
            .map(Code::Component)
            .map_err(|error| anyhow!("the component is not a transform: {error:#}"))
    }

    fn module(&self, bytes: &[u8]) -> anyhow::Result<Code> {
        let module = self.compile(bytes, Module::new)?;
        self.module_linker
            .instantiate_pre(&module)
            .map(Code::Module)
            .map_err(|error| anyhow!("cannot resolve the module's imports (see wit/core-module.md): {error:#}"))
    }
}

/// Reads a file of a plugin.
///
/// # Errors
/// If the file is not a regular one (opening a pipe would wait for its writer), or is too large.
pub(in crate::transform) fn read_file(path: &Path) -> anyhow::Result<Vec<u8>> {
    let metadata = std::fs::metadata(path).context("cannot read the file")?;
    if !metadata.is_file() {
        bail!("not a regular file");
    }
    if metadata.len() > FILE_BYTES_MAX {
        bail!("file of {} bytes: the limit is {FILE_BYTES_MAX}", metadata.len());
    }
    std::fs::read(path).context("cannot read the file")
}

/// Checks that no function has too deeply nested blocks. Other defects of the file are found later.
///
/// # Errors
/// If a function's blocks are nested so deeply that it could take minutes to compile.
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
                bail!("a function has more than {NESTING_MAX} nested blocks, and would take too long to compile");
            }
        }
    }
    Ok(())
}

/// Returns whether a valid module has an export of this name.
fn exports(module: &[u8], name: &str) -> bool {
    let exports = wasmparser::Parser::new(0).parse_all(module).find_map(|payload| match payload {
        Ok(wasmparser::Payload::ExportSection(exports)) => Some(exports),
        _ => None,
    });
    exports.is_some_and(|exports| exports.into_iter().flatten().any(|export| export.name == name))
}

/// Makes a component of a core module that was built with an SDK.
fn component_of(module: &[u8]) -> anyhow::Result<Vec<u8>> {
    wit_component::ComponentEncoder::default()
        .validate(true)
        .module(module)
        .and_then(|mut encoder| encoder.encode())
        .map_err(|error| {
            anyhow!(
                "the module is not a transform: {error:#}; build it with a Rowmill SDK, or as a component of the world \
                 {INTERFACE}transform@{VERSION}, or export {}",
                core_module::PROCESS
            )
        })
}

/// Returns a file's size, modification time and inode; `None` if there is no such file.
///
/// # Errors
/// If the file cannot be inspected.
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

/// Opens the cache of compiled code. Its content is executed unchecked, so no other user may write there.
///
/// # Errors
/// If another user owns the directory or may write there, or it cannot be created or written.
fn cache(directory: &Path) -> anyhow::Result<Cache> {
    let shown = directory.display();
    let make = || {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let directory = std::fs::canonicalize(directory)?;
        let metadata = std::fs::metadata(&directory)?;
        Ok::<_, std::io::Error>((directory, metadata))
    };
    let (directory, metadata) = make().with_context(|| format!("cannot create the plugins' cache {shown}"))?;
    let writable_by_others = metadata.permissions().mode() & 0o022;
    if writable_by_others != 0 {
        bail!("cannot use the plugins' cache {shown}: other users may write there; run `chmod go-w {shown}`");
    }
    let own = std::fs::metadata("/proc/self").map(|own| own.uid());
    if own.is_ok_and(|own| own != metadata.uid()) {
        bail!(
            "cannot use the plugins' cache {shown}: another user owns it; set `plugins.cache` to a directory of this user"
        );
    }
    check_writable(&directory).with_context(|| format!("cannot write to the plugins' cache {shown}"))?;
    let mut config = CacheConfig::new();
    config.with_directory(directory);
    Cache::new(config).map_err(|error| anyhow!("cannot use the plugins' cache: {error:#}"))
}

/// Checks that this process can write to a directory.
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
            bail!("unknown import `{import}`: this version of rowmill offers {INTERFACE}...@{VERSION} only");
        }
    }
    let exports: Vec<&str> = component_type.exports(engine).map(|(name, _)| name).collect();
    for needed in EXPORTS {
        if !exports.contains(&needed) {
            bail!(
                "missing export `{needed}`: a transform of the world {INTERFACE}transform@{VERSION} exports {}",
                EXPORTS.join(", ")
            );
        }
    }
    Ok(())
}
