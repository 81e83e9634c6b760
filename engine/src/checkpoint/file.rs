//! The checkpoint as a small JSON file. The file is replaced atomically (a temporary file is written, synced and renamed, the
//! directory synced), so a crash leaves the old or the new checkpoint. The previous checkpoint is kept beside it.

use std::fs::{File, Metadata, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use atomic_write_file::AtomicWriteFile;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tracing::debug;

use super::document;
use super::store::{CheckpointStore, Epoch, holder};

/// The ending of the schema history's file name.
const SCHEMA_HISTORY: &str = "schema-history";
/// The ending of the lock file's name.
const LOCK: &str = "lock";

/// Stores the checkpoint in a file.
#[derive(Debug)]
pub(super) struct FileStore {
    path: Arc<Path>,
    /// The locked lock file, once the checkpoint is held.
    lock: Option<Arc<File>>,
}

impl FileStore {
    pub fn new(path: &Path) -> Self {
        Self { path: target(path).into(), lock: None }
    }

    fn hold(&mut self) -> anyhow::Result<(Epoch, Option<String>)> {
        if let Some(directory) = self.path.parent() {
            std::fs::create_dir_all(directory).context("cannot make the directory")?;
        }
        self.lock = Some(Arc::new(lock(&sibling(&self.path, LOCK))?));
        let text = read(&self.path)?;
        // A damaged checkpoint is not used, so its epoch does not matter.
        let epoch = text.as_deref().and_then(|text| document::read(text).ok()).map_or(0, |content| content.epoch.0);
        Ok((Epoch(epoch + 1), text))
    }
}

impl CheckpointStore for FileStore {
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
        let (path, held) = (Arc::clone(&self.path), self.lock.clone());
        let writing = tokio::task::spawn_blocking(move || {
            let lock = match held {
                Some(held) => still_locked(&sibling(&path, LOCK), held)?,
                None => bail!("it is not acquired"),
            };
            replace(&path, epoch, &text)?;
            Ok(lock)
        });
        async move {
            self.lock = Some(writing.await.context("the writing thread ended")??);
            Ok(())
        }
        .boxed()
    }

    fn read_schema_history(&mut self) -> BoxFuture<'_, anyhow::Result<Option<String>>> {
        let text = match std::fs::read(sibling(&self.path, SCHEMA_HISTORY)) {
            // The checksum finds bytes that are not valid text.
            Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context("cannot read the file"),
        };
        std::future::ready(text).boxed()
    }

    fn write_schema_history(&mut self, _: Epoch, text: String) -> BoxFuture<'_, anyhow::Result<()>> {
        let path = sibling(&self.path, SCHEMA_HISTORY);
        let writing = tokio::task::spawn_blocking(move || write(&path, &text));
        async move { writing.await.context("the writing thread ended")? }.boxed()
    }

    fn previous(&mut self) -> BoxFuture<'_, Option<(String, String)>> {
        let previous = sibling(&self.path, "previous");
        let text = read(&previous).ok().flatten();
        std::future::ready(text.map(|text| (previous.display().to_string(), text))).boxed()
    }
}

fn replace(path: &Path, epoch: Epoch, text: &str) -> anyhow::Result<()> {
    // After the lock file was removed, another process may have held the lock meanwhile. A checkpoint that was damaged meanwhile
    // is replaced.
    if let Ok(Some(text)) = read(path)
        && let Ok(document::Content { epoch: newer, .. }) = document::read(&text)
        && newer > epoch
    {
        bail!("another rowmill acquired it: its epoch is {}, this one's is {}", newer.0, epoch.0);
    }
    keep_previous(path)?;
    write(path, text)
}

/// Replaces a file atomically, and durably once this returns.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut file = AtomicWriteFile::open(path)?;
    file.write_all(text.as_bytes())?;
    file.commit()?;
    Ok(())
}

/// Checks that a file can be written at a path, by creating another file in its directory or the nearest existing ancestor.
fn probe(path: &Path) -> anyhow::Result<()> {
    if path.is_dir() {
        bail!("it is a directory; set `checkpoint.path` to the path of a file");
    }
    let directory = path.ancestors().skip(1).find(|directory| directory.exists());
    let directory = directory.filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let other = directory.join(format!(".rowmill-check-{}", std::process::id()));
    let written = File::create(&other).and_then(|_| std::fs::remove_file(&other));
    written.with_context(|| format!("cannot write to the directory {}", directory.display()))
}

/// Reads a file, if it exists.
fn read(path: &Path) -> anyhow::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context("cannot read the file"),
    }
}

/// Resolves symbolic links, so that the linked file is replaced and not the link. The file need not exist yet.
fn target(path: &Path) -> PathBuf {
    const LINKS_MAX: usize = 40;
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        let Ok(link) = std::fs::read_link(&path) else { break };
        path = path.parent().map_or(link.clone(), |directory| directory.join(&link));
    }
    path
}

/// Appends an ending to a path: `checkpoint.json` and `lock` make `checkpoint.json.lock`.
fn sibling(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

/// Locks a file, and writes this process's description to it. The system releases the lock when the process ends.
fn lock(path: &Path) -> anyhow::Result<File> {
    let mut file = File::options()
        .create(true)
        .read(true)
        .write(true)
        .truncate(false)
        .open(path)
        .with_context(|| format!("cannot open {} for writing", path.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut other = String::new();
            let _ = file.read_to_string(&mut other); // only for the error text
            bail!(
                "another rowmill holds it ({}); stop that process, or set another `checkpoint.path` for this one",
                other.trim_end()
            );
        }
        Err(TryLockError::Error(error)) => {
            return Err(anyhow!(error).context(format!("cannot lock {}", path.display())));
        }
    }
    file.set_len(0)?;
    writeln!(file, "{}", holder())?;
    Ok(file)
}

/// Returns the lock that this process holds: a new one if the lock file was removed or replaced, so that other processes find
/// it locked again.
fn still_locked(path: &Path, held: Arc<File>) -> anyhow::Result<Arc<File>> {
    let id = |metadata: Metadata| (metadata.dev(), metadata.ino());
    let held_id = id(held.metadata()?);
    let is_held = std::fs::metadata(path).is_ok_and(|found| id(found) == held_id);
    if is_held { Ok(held) } else { Ok(Arc::new(lock(path)?)) }
}

/// Keeps the file that is about to be replaced under another name.
fn keep_previous(path: &Path) -> anyhow::Result<()> {
    let (new, previous) = (sibling(path, "previous.new"), sibling(path, "previous"));
    let _ = std::fs::remove_file(&new); // left by a process that was killed here
    let kept = std::fs::hard_link(path, &new).or_else(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Err(error),
        // Some file systems have no hard links.
        _ => {
            debug!(%error, "cannot link the previous checkpoint, copying it");
            std::fs::copy(path, &new).map(|_| ())
        }
    });
    match kept {
        Ok(()) => Ok(std::fs::rename(&new, &previous)?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()), // the first checkpoint
        Err(error) => Err(error.into()),
    }
}
