//! Hot reload: watches the plugins directory, and makes another chain when its files change.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::wasm::load::{FileFingerprint, Loader};
use super::{Chain, Plugin, Transform};

/// How often the directory is looked at. A file counts when it is the same at two looks, so that none is
/// read while it is being written.
const LOOK_INTERVAL: Duration = Duration::from_millis(300);
/// A file that is gone may be about to come again: rows shouldn't pass without their filter meanwhile.
const GONE_FOR: Duration = Duration::from_secs(3);

/// The chain that batches pass through from now on.
#[derive(Debug, Clone, Default)]
pub struct CurrentChain(Arc<Mutex<Arc<Chain>>>);

impl CurrentChain {
    /// One that stays.
    #[cfg(test)]
    pub(crate) fn of(chain: Chain) -> Self {
        Self(Arc::new(Mutex::new(Arc::new(chain))))
    }

    /// The newest version of it.
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

/// Watches the plugins directory.
#[derive(Debug)]
pub struct Reloader {
    loader: Loader,
    chain: CurrentChain,
    /// What runs, by file.
    running: BTreeMap<PathBuf, Arc<Plugin>>,
    /// The files as they were when they were last tried.
    tried: BTreeMap<PathBuf, FileFingerprint>,
    /// The files at the last look.
    seen: BTreeMap<PathBuf, FileFingerprint>,
    gone_since: BTreeMap<PathBuf, Instant>,
}

impl Reloader {
    /// Loads what is in the directory.
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

    /// The plugins' names, in their order.
    pub fn names(&self) -> Vec<&str> {
        self.running.values().map(|plugin| plugin.name()).collect()
    }

    /// The chain that batches pass through: always the newest.
    pub fn chain(&self) -> CurrentChain {
        self.chain.clone()
    }

    /// Watches for ever, on a thread of its own: compiling takes time, and batches go on meanwhile.
    pub fn watch(mut self) {
        std::thread::spawn(move || {
            let mut fault = None;
            loop {
                std::thread::sleep(LOOK_INTERVAL);
                match self.loader.scan() {
                    Ok(files) => {
                        if fault.take().is_some() {
                            info!("the plugins directory can be read again");
                        }
                        self.look(files, Instant::now());
                    }
                    Err(error) => {
                        // Said once, and again when it is another one.
                        let error = format!("{error:#}");
                        if fault.as_ref() != Some(&error) {
                            warn!(error, "plugins stay as they are");
                        }
                        fault = Some(error);
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

    /// Loads a file that is new or changed. False if what ran goes on running.
    fn replace(&mut self, path: &Path) -> bool {
        let running = self.running.get(path);
        let digest = Loader::digest(path).ok();
        if running.is_some_and(|running| Some(running.digest) == digest) {
            return false; // touched, or written anew with the same content
        }
        match load(&self.loader, path) {
            Ok(plugin) => {
                if let Some(earlier) = self.running.insert(path.to_owned(), plugin) {
                    earlier.log_counters();
                }
                true
            }
            Err(error) => {
                let goes_on = if running.is_some() { "the running version goes on" } else { "it isn't used" };
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
