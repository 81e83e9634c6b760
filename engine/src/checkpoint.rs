//! The checkpoint: up to where everything is delivered, as a small JSON file. It is replaced
//! atomically (written aside, synced, renamed, the directory synced), so a crash leaves the old one
//! or the new one.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use atomic_write_file::AtomicWriteFile;
use rowmill_core::gtid::GtidSet;
use rowmill_core::position::{BinlogPosition, Past, Progress, Resume};
use serde::{Deserialize, Serialize};

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    /// What tells the server from others.
    server: String,
    file: String,
    position: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    past: Option<PastDocument>,
    /// All transactions that are wholly delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gtids: Option<String>,
}

/// Rows behind the position that are delivered all the same: see [`Past`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PastDocument {
    file: String,
    event: u64,
    rows: u32,
}

/// A checkpoint file.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
}

impl Checkpoint {
    /// Opens the file's place, and reads the file if there is one.
    ///
    /// # Errors
    /// If it can't be read or isn't a checkpoint, or if its directory can't be made. The file is left
    /// as it is.
    pub fn open(path: &Path) -> anyhow::Result<(Self, Option<Resume>)> {
        let resume = Self::read(path)?;
        if let (None, Some(directory)) = (&resume, path.parent()) {
            std::fs::create_dir_all(directory)
                .with_context(|| format!("checkpoint {}: its directory can't be made", path.display()))?;
        }
        Ok((Self { path: path.to_owned() }, resume))
    }

    /// Reads the file if there is one.
    ///
    /// # Errors
    /// If it can't be read or isn't a checkpoint.
    pub fn read(path: &Path) -> anyhow::Result<Option<Resume>> {
        Self::parse(path).with_context(|| format!("checkpoint {}", path.display()))
    }

    fn parse(path: &Path) -> anyhow::Result<Option<Resume>> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context("the file can't be read"),
        };
        let Document { version, server, file, position, past, gtids } = serde_json::from_str(&text).context(
            "the file is damaged or isn't a checkpoint; restore it, or remove it to begin at `source.start`",
        )?;
        if version != VERSION {
            bail!(
                "the file has version {version}, and this rowmill reads version {VERSION}; use the rowmill that wrote it"
            );
        }
        let past = past.map(|PastDocument { file, event, rows }| Past { file, progress: Progress { event, rows } });
        let gtids =
            gtids.map(|text| text.parse::<GtidSet>().map(Arc::new)).transpose().context("the file is damaged")?;
        Ok(Some(Resume { server: server.into(), position: BinlogPosition::new(file, position), past, gtids }))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces the file. When this returns, a crash of the machine doesn't lose it.
    ///
    /// # Errors
    /// If it can't be written. The old file is then as it was.
    pub fn write(&self, resume: &Resume) -> anyhow::Result<()> {
        let document = Document {
            version: VERSION,
            server: resume.server.to_string(),
            file: resume.position.file.clone(),
            position: resume.position.offset,
            past: resume.past.as_ref().map(|Past { file, progress: Progress { event, rows } }| PastDocument {
                file: file.clone(),
                event: *event,
                rows: *rows,
            }),
            gtids: resume.gtids.as_ref().map(ToString::to_string).filter(|text| !text.is_empty()),
        };
        let write = || {
            let mut file = AtomicWriteFile::open(&self.path)?;
            serde_json::to_writer_pretty(&mut file, &document)?;
            file.write_all(b"\n")?;
            file.commit()
        };
        write().with_context(|| {
            format!(
                "checkpoint {} can't be written; what was delivered since the last one is sent again after a restart",
                self.path.display()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resume() -> Resume {
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
        checkpoint.write(&resume()).expect("written");
        checkpoint.write(&resume()).expect("replaced");
        let (_, read) = Checkpoint::open(&path).expect("a checkpoint");
        assert_eq!(read, Some(resume()));
    }

    #[test]
    fn a_damaged_one_is_refused_and_stays() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("checkpoint.json");
        Checkpoint::open(&path).expect("new").0.write(&resume()).expect("written");
        std::fs::write(&path, "{\"version\": 1").expect("damaged");
        let error = format!("{:#}", Checkpoint::open(&path).expect_err("damaged"));
        assert!(error.contains("damaged"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).expect("still there"), "{\"version\": 1");
    }
}
