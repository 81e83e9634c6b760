//! The checkpoint: up to where everything is delivered, as a small JSON file. It is replaced
//! atomically (written aside, synced, renamed, the directory synced), so a crash leaves the old one
//! or the new one; the one before stays beside it. One engine holds it at a time.

mod document;

use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use atomic_write_file::AtomicWriteFile;
use rowmill_core::position::Resume;
use tracing::debug;

/// A checkpoint file that this process holds: until it is dropped, or the process ends however it may.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    /// Locked.
    _lock: File,
    epoch: u64,
}

impl Checkpoint {
    /// Takes hold of the file's place, and reads the file if there is one.
    ///
    /// # Errors
    /// If another process holds it, if it can't be read or isn't a checkpoint, or if its directory can't be
    /// made. The file is left as it is.
    pub fn open(path: &Path) -> anyhow::Result<(Self, Option<Resume>)> {
        Self::hold(path).with_context(|| format!("checkpoint {}", path.display()))
    }

    fn hold(path: &Path) -> anyhow::Result<(Self, Option<Resume>)> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).context("its directory can't be made")?;
        }
        let lock = lock(&beside(path, "lock"))?;
        let (resume, epoch) = read(path)?.map_or((None, 0), |(resume, epoch)| (Some(resume), epoch));
        Ok((Self { path: path.to_owned(), _lock: lock, epoch: epoch + 1 }, resume))
    }

    /// Reads a file if there is one, whoever holds it.
    ///
    /// # Errors
    /// If it can't be read or isn't a checkpoint.
    pub fn read(path: &Path) -> anyhow::Result<Option<Resume>> {
        let read = read(path).with_context(|| format!("checkpoint {}", path.display()))?;
        Ok(read.map(|(resume, _)| resume))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces the file. When this returns, a crash of the machine doesn't lose it.
    ///
    /// # Errors
    /// If it can't be written, or if another process took hold of it: where files can't be locked, or who holds
    /// one was taken away. The old file is then as it was.
    pub fn write(&self, resume: &Resume) -> anyhow::Result<()> {
        self.replace(resume).with_context(|| {
            format!(
                "checkpoint {} can't be written; what was delivered since the last one is sent again after a restart",
                self.path.display()
            )
        })
    }

    fn replace(&self, resume: &Resume) -> anyhow::Result<()> {
        // One that was damaged meanwhile is mended by this.
        if let Ok(Some((_, epoch))) = read(&self.path)
            && epoch > self.epoch
        {
            bail!("another rowmill took hold of it: its epoch is {epoch}, and this one has {}", self.epoch);
        }
        keep_previous(&self.path)?;
        let mut file = AtomicWriteFile::open(&self.path)?;
        file.write_all(document::write(resume, self.epoch).as_bytes())?;
        file.commit()?;
        Ok(())
    }
}

/// Reads a file, if there is one.
fn read(path: &Path) -> anyhow::Result<Option<(Resume, u64)>> {
    let text = |path: &Path| match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context("it can't be read"),
    };
    let Some(found) = text(path)? else { return Ok(None) };
    document::read(&found).map(Some).map_err(|error| {
        let previous = beside(path, "previous");
        let is_whole = matches!(text(&previous), Ok(Some(text)) if document::read(&text).is_ok());
        let mend = match is_whole {
            true => format!(
                "{} is the one before it: put it in its place, and what was delivered since is sent again",
                previous.display()
            ),
            false => "restore it, or remove it to begin at `source.start`".to_owned(),
        };
        anyhow!("{error:#}; {mend}")
    })
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
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder); // it only makes the message better
            bail!(
                "another rowmill holds it ({}); stop that one, or give this one a `checkpoint.path` of its own",
                holder.trim_end()
            );
        }
        Err(TryLockError::Error(error)) => {
            return Err(anyhow!(error).context(format!("{} can't be locked", path.display())));
        }
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    file.set_len(0)?;
    writeln!(file, "process {} on {}", std::process::id(), host.trim_end())?;
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rowmill_core::position::{BinlogPosition, Past, Progress};

    use super::*;

    pub(super) fn resume() -> Resume {
        let position = BinlogPosition::new("binlog.000007", 1234);
        let past = Past { file: "binlog.000008".to_owned(), progress: Progress { event: 2000, rows: 17 } };
        let gtids = "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-9".parse().expect("a set");
        Resume { server: "uuid".into(), position, past: Some(past), gtids: Some(Arc::new(gtids)) }
    }

    #[test]
    fn what_is_written_is_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("deep/er/checkpoint.json");
        let (checkpoint, none) = Checkpoint::open(&path).expect("a new checkpoint");
        assert_eq!(none, None);
        let earlier = Resume::at("uuid", BinlogPosition::new("binlog.000007", 4));
        checkpoint.write(&earlier).expect("written");
        checkpoint.write(&resume()).expect("replaced");
        drop(checkpoint);
        let (_, read) = Checkpoint::open(&path).expect("a checkpoint");
        assert_eq!(read, Some(resume()));
        assert_eq!(Checkpoint::read(&beside(&path, "previous")).expect("whole"), Some(earlier));
    }

    #[test]
    fn a_damaged_one_is_refused_and_stays() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("checkpoint.json");
        let damage = |expected: &str| {
            std::fs::write(&path, "{\"version\": 2").expect("damaged");
            let error = format!("{:#}", Checkpoint::open(&path).expect_err("damaged"));
            assert!(error.contains("damaged") && error.contains(expected), "{error}");
            assert_eq!(std::fs::read_to_string(&path).expect("still there"), "{\"version\": 2");
        };
        damage("remove it to begin at");
        std::fs::remove_file(&path).expect("removed");
        let (checkpoint, _) = Checkpoint::open(&path).expect("new");
        checkpoint.write(&resume()).expect("written");
        checkpoint.write(&resume()).expect("replaced");
        drop(checkpoint);
        damage("checkpoint.json.previous is the one before it");
        std::fs::rename(beside(&path, "previous"), &path).expect("put in its place");
        assert_eq!(Checkpoint::open(&path).expect("whole").1, Some(resume()));
    }

    #[test]
    fn one_holds_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("checkpoint.json");
        let (first, _) = Checkpoint::open(&path).expect("new");
        first.write(&resume()).expect("written");
        let error = format!("{:#}", Checkpoint::open(&path).expect_err("held"));
        assert!(error.contains(&format!("(process {} on ", std::process::id())), "{error}");
        assert_eq!(Checkpoint::read(&path).expect("anyone may"), Some(resume()));
        // Its lock file is taken away: the next is let in, and the first is out.
        std::fs::remove_file(beside(&path, "lock")).expect("removed");
        let (second, _) = Checkpoint::open(&path).expect("let in");
        second.write(&resume()).expect("written");
        let error = format!("{:#}", first.write(&resume()).expect_err("out"));
        assert!(error.contains("another rowmill took hold of it: its epoch is 2, and this one has 1"), "{error}");
    }
}
