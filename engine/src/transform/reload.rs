//! Hot reload: watches the plugins directory, and makes a new chain when its files change.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::wasm::load::{FileFingerprint, Loader};
use super::{Chain, Plugin, Transform};

/// The pause between scans of the directory. A file is loaded once two scans in a row find it unchanged, so that no file
/// is loaded while it is being written.
const LOOK_INTERVAL: Duration = Duration::from_millis(300);
/// How long a file must be missing until its plugin is removed. A file that is being replaced may be missing for a
/// moment, during which rows must not pass without their filter.
const GONE_FOR: Duration = Duration::from_secs(3);

/// The chain that batches pass through, which changes when plugins change.
#[derive(Debug, Clone, Default)]
pub struct CurrentChain(Arc<Mutex<Arc<Chain>>>);

impl CurrentChain {
    /// Holds a chain that is never replaced.
    #[cfg(test)]
    pub(crate) fn of(chain: Chain) -> Self {
        Self(Arc::new(Mutex::new(Arc::new(chain))))
    }

    /// Returns the newest version of the chain.
    pub fn newest(&self) -> Arc<Chain> {
        Arc::clone(&self.lock())
    }

    fn replace(&self, plugins: Vec<Arc<Plugin>>) {
        let mut chain = self.lock();
        *chain = Arc::new(Chain { version: chain.version + 1, ..Chain::new(plugins) });
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Chain>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Watches the plugins directory, and replaces the chain.
#[derive(Debug)]
pub struct Reloader {
    loader: Loader,
    chain: CurrentChain,
    /// The running plugins, by file.
    running: BTreeMap<PathBuf, Arc<Plugin>>,
    /// The files as they were when loading them was last tried.
    tried: BTreeMap<PathBuf, FileFingerprint>,
    /// The files at the last scan.
    seen: BTreeMap<PathBuf, FileFingerprint>,
    gone_since: BTreeMap<PathBuf, Instant>,
}

impl Reloader {
    /// Loads the plugins of the directory.
    ///
    /// # Errors
    /// If a plugin can't be loaded.
    pub fn load(loader: Loader) -> anyhow::Result<Self> {
        let tried = loader.scan()?;
        let mut running = BTreeMap::new();
        for path in tried.keys() {
            running.insert(path.clone(), load(&loader, path)?);
        }
        let chain = CurrentChain::default();
        chain.replace(running.values().map(Arc::clone).collect());
        Ok(Self { loader, chain, running, seen: tried.clone(), tried, gone_since: BTreeMap::new() })
    }

    /// Returns the plugins' names, in order.
    pub fn names(&self) -> Vec<&str> {
        self.running.values().map(|plugin| plugin.name()).collect()
    }

    /// Returns a handle to the current chain.
    pub fn chain(&self) -> CurrentChain {
        self.chain.clone()
    }

    /// Watches forever, on a thread of its own: compiling takes time, and batches go on meanwhile.
    pub fn watch(mut self) {
        std::thread::spawn(move || {
            let mut known_error = None;
            loop {
                std::thread::sleep(LOOK_INTERVAL);
                match self.loader.scan() {
                    Ok(files) => {
                        if known_error.take().is_some() {
                            info!("plugins directory can be read again");
                        }
                        self.look(files, Instant::now());
                    }
                    Err(error) => {
                        // The same error is logged once.
                        let error = format!("{error:#}");
                        if known_error.as_ref() != Some(&error) {
                            warn!(error, "cannot scan the plugins directory; running plugins stay in use");
                        }
                        known_error = Some(error);
                    }
                }
            }
        });
    }

    fn look(&mut self, files: BTreeMap<PathBuf, FileFingerprint>, now: Instant) {
        let mut is_changed = false;
        for (path, stamp) in &files {
            self.gone_since.remove(path);
            let is_settled = self.seen.get(path) == Some(stamp);
            if is_settled && self.tried.get(path) != Some(stamp) {
                self.tried.insert(path.clone(), stamp.clone());
                is_changed |= self.replace(path);
            }
        }
        let gone: Vec<PathBuf> = self.tried.keys().filter(|path| !files.contains_key(*path)).cloned().collect();
        for path in gone {
            if now - *self.gone_since.entry(path.clone()).or_insert(now) < GONE_FOR {
                continue;
            }
            self.gone_since.remove(&path);
            self.tried.remove(&path);
            if let Some(plugin) = self.running.remove(&path) {
                plugin.log_counters();
                info!(plugin = plugin.name(), "plugin removed");
                is_changed = true;
            }
        }
        self.seen = files;
        if is_changed {
            self.chain.replace(self.running.values().map(Arc::clone).collect());
        }
    }

    /// Loads a new or changed file. Returns whether the running plugins changed.
    fn replace(&mut self, path: &Path) -> bool {
        let running = self.running.get(path);
        let digest = Loader::digest(path).ok();
        if running.is_some_and(|running| Some(running.digest) == digest) {
            return false; // touched, or rewritten with the same content
        }
        match load(&self.loader, path) {
            Ok(plugin) => {
                if let Some(earlier) = self.running.insert(path.to_owned(), plugin) {
                    earlier.log_counters();
                }
                true
            }
            Err(error) => {
                let goes_on =
                    if running.is_some() { "the running version stays in use" } else { "rows pass without it" };
                error!(error = format!("{error:#}"), "plugin not loaded; {goes_on}");
                false
            }
        }
    }
}

fn load(loader: &Loader, path: &Path) -> anyhow::Result<Arc<Plugin>> {
    let started = Instant::now();
    let plugin = loader.load(path)?;
    info!(plugin = plugin.name(), took = ?started.elapsed(), "plugin loaded");
    Ok(plugin)
}
