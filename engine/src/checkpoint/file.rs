//! A checkpoint as a small JSON file. It is replaced atomically (written aside, synced, renamed, the directory
//! synced), so a crash leaves the old one or the new one; the one before stays beside it.

use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use atomic_write_file::AtomicWriteFile;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tracing::debug;

use super::{Epoch, Store, document, holder};

/// What the file of the schema history ends with.
const SCHEMA_HISTORY: &str = "schema-history";

/// See the module's description.
#[derive(Debug)]
pub(super) struct FileStore {
    path: Arc<Path>,
    /// Locked, once it is held.
    lock: Option<File>,
}

impl FileStore {
    pub fn new(path: &Path) -> Self {
        Self { path: target(path).into(), lock: None }
    }

    fn hold(&mut self) -> anyhow::Result<(Epoch, Option<String>)> {
        if let Some(directory) = self.path.parent() {
            std::fs::create_dir_all(directory).context("its directory can't be made")?;
        }
        self.lock = Some(lock(&beside(&self.path, "lock"))?);
        let text = read(&self.path)?;
        // What can't be read isn't gone on from, so its epoch doesn't matter.
        let epoch = text.as_deref().and_then(|text| document::read(text).ok()).map_or(0, |content| content.epoch.0);
        Ok((Epoch(epoch + 1), text))
    }
}

impl Store for FileStore {
    fn describe(&self) -> String {
        self.path.display().to_string()
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(50)
    }

    fn acquire(&mut self) -> BoxFuture<'_, anyhow::Result<(Epoch, Option<String>)>> {
        std::future::ready(self.hold()).boxed()
    }

    fn read(&mut self) -> BoxFuture<'_, anyhow::Result<Option<String>>> {
        std::future::ready(read(&self.path)).boxed()
    }

    fn probe(&mut self) -> BoxFuture<'_, anyhow::Result<()>> {
        std::future::ready(probe(&self.path)).boxed()
    }

    fn write(&mut self, epoch: Epoch, text: String) -> BoxFuture<'_, anyhow::Result<()>> {
        let path = Arc::clone(&self.path);
        let writing = tokio::task::spawn_blocking(move || replace(&path, epoch, &text));
        async move { writing.await.context("the checkpoint's writer stopped")? }.boxed()
    }

    fn read_schema_history(&mut self) -> BoxFuture<'_, anyhow::Result<Option<String>>> {
        let text = match std::fs::read(beside(&self.path, SCHEMA_HISTORY)) {
            // What isn't a text shows by its checksum.
            Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context("it can't be read"),
        };
        std::future::ready(text).boxed()
    }

    fn write_schema_history(&mut self, _: Epoch, text: String) -> BoxFuture<'_, anyhow::Result<()>> {
        let path = beside(&self.path, SCHEMA_HISTORY);
        let writing = tokio::task::spawn_blocking(move || write(&path, &text));
        async move { writing.await.context("the schema history's writer stopped")? }.boxed()
    }

    fn previous(&mut self) -> BoxFuture<'_, Option<(String, String)>> {
        let previous = beside(&self.path, "previous");
        let text = read(&previous).ok().flatten();
        std::future::ready(text.map(|text| (previous.display().to_string(), text))).boxed()
    }
}

fn replace(path: &Path, epoch: Epoch, text: &str) -> anyhow::Result<()> {
    // Where files can't be locked, or who holds the lock had it taken away. One that was damaged meanwhile is
    // mended by this.
    if let Ok(Some(text)) = read(path)
        && let Ok(document::Content { epoch: newer, .. }) = document::read(&text)
        && newer > epoch
    {
        bail!("another rowmill took hold of it: its epoch is {}, and this one has {}", newer.0, epoch.0);
    }
    keep_previous(path)?;
    write(path, text)
}

/// All of it or nothing, and durably when this is done.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut file = AtomicWriteFile::open(path)?;
    file.write_all(text.as_bytes())?;
    file.commit()?;
    Ok(())
}

/// Whether a file could be written there: its directory, or the nearest that is there of those above it, takes another one.
fn probe(path: &Path) -> anyhow::Result<()> {
    if path.is_dir() {
        bail!("it is a directory; `checkpoint.path` is a file's");
    }
    let directory = path.ancestors().skip(1).find(|directory| directory.exists());
    let directory = directory.filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let other = directory.join(format!(".rowmill-check-{}", std::process::id()));
    let written = File::create(&other).and_then(|_| std::fs::remove_file(&other));
    written.with_context(|| format!("nothing can be written in {}", directory.display()))
}

/// Reads a file, if there is one.
fn read(path: &Path) -> anyhow::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context("it can't be read"),
    }
}

/// Where a path leads, if it is a symbolic link: the file there is to be replaced, not the link. It need not be there yet.
fn target(path: &Path) -> PathBuf {
    const LINKS_MAX: usize = 40;
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        let Ok(link) = std::fs::read_link(&path) else { break };
        path = path.parent().map_or(link.clone(), |directory| directory.join(&link));
    }
    path
}

/// `checkpoint.json` and `lock` give `checkpoint.json.lock`.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

/// Locks a file, and says in it who did. The system takes the lock back when the process ends.
fn lock(path: &Path) -> anyhow::Result<File> {
    let mut file = File::options()
        .create(true)
        .read(true)
        .write(true)
        .truncate(false)
        .open(path)
        .with_context(|| format!("{} can't be opened for writing", path.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut other = String::new();
            let _ = file.read_to_string(&mut other); // it only makes the message better
            bail!(
                "another rowmill holds it ({}); stop that one, or give this one a `checkpoint.path` of its own",
                other.trim_end()
            );
        }
        Err(TryLockError::Error(error)) => {
            return Err(anyhow!(error).context(format!("{} can't be locked", path.display())));
        }
    }
    file.set_len(0)?;
    writeln!(file, "{}", holder())?;
    Ok(file)
}

/// Lets the file that is about to be replaced stay under another name.
fn keep_previous(path: &Path) -> anyhow::Result<()> {
    let (new, previous) = (beside(path, "previous.new"), beside(path, "previous"));
    let _ = std::fs::remove_file(&new); // of a process that was killed here
    let kept = std::fs::hard_link(path, &new).or_else(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Err(error),
        // Some file systems have no links.
        _ => {
            debug!(%error, "the checkpoint is copied");
            std::fs::copy(path, &new).map(|_| ())
        }
    });
    match kept {
        Ok(()) => Ok(std::fs::rename(&new, &previous)?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()), // it's the first
        Err(error) => Err(error.into()),
    }
}
