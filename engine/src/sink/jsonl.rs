//! The sink of files and standard output: one line for each message.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Stdout, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rowmill_core::envelope::Escaping;

use super::{Capabilities, DeadLetters, Delivery, Inlet, Sink};
use crate::failpoint::{self, Step};

/// The most deliveries that one sync covers.
const DELIVERIES_A_SYNC: usize = 64;

/// Writes messages as lines.
#[derive(Debug)]
pub(super) struct JsonLines {
    name: String,
    out: Out,
}

#[derive(Debug)]
enum Out {
    Stdout(Stdout),
    File(File, PathBuf),
}

impl JsonLines {
    pub fn stdout(name: &str) -> Self {
        Self { name: name.to_owned(), out: Out::Stdout(std::io::stdout()) }
    }

    /// Opens a file to append to, and creates it if it does not exist. A partial last line, which a crash left, is removed:
    /// its message comes again.
    ///
    /// # Errors
    /// If the file cannot be opened for writing.
    pub fn file(name: &str, path: &Path) -> anyhow::Result<Self> {
        let open = || {
            if let Some(directory) = path.parent() {
                std::fs::create_dir_all(directory)?;
            }
            let mut file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
            let whole = end_of_last_line(&mut file)?;
            file.set_len(whole)?;
            Ok::<_, std::io::Error>(file)
        };
        let file = open().with_context(|| format!("cannot open {} for writing", path.display()))?;
        Ok(Self { name: name.to_owned(), out: Out::File(file, path.to_owned()) })
    }

    /// Checks that a file can be written, and changes nothing: another process may be writing to it.
    ///
    /// # Errors
    /// If it exists and cannot be opened for writing, or if no directory could hold it.
    pub fn check(path: &Path) -> anyhow::Result<()> {
        let cannot = || format!("cannot open {} for writing", path.display());
        match OpenOptions::new().append(true).open(path) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // Missing directories are created with the file.
                let nearest = path.ancestors().skip(1).find(|ancestor| ancestor.exists());
                let directory = nearest.unwrap_or(Path::new("."));
                let metadata = directory.metadata().with_context(cannot)?;
                ensure!(metadata.is_dir(), "{}: {} is not a directory", cannot(), directory.display());
                ensure!(!metadata.permissions().readonly(), "{}: {} is read-only", cannot(), directory.display());
                Ok(())
            }
            Err(error) => Err(error).with_context(cannot),
        }
    }

    fn write(mut self, mut deliveries: Inlet) -> anyhow::Result<()> {
        let mut lines = Vec::new();
        let mut acks = Vec::new();
        while let Some(first) = deliveries.blocking_recv() {
            let mut next = Some(first);
            while let Some(Delivery { messages, ack }) = next {
                for message in messages.iter().take_while(|message| !ack.is_stopped_at(message.row)) {
                    lines.extend_from_slice(message.body.plain().as_bytes());
                    lines.push(b'\n');
                }
                acks.push((ack, messages.last().map(|message| message.row)));
                next = if acks.len() < DELIVERIES_A_SYNC { deliveries.try_recv() } else { None };
            }
            self.out.append(&lines)?;
            lines.clear();
            for (ack, last_row) in acks.drain(..) {
                // A part that is dropped without an acknowledgement records that not all of the delivery was written.
                drop(last_row.filter(|&row| ack.is_stopped_at(row)).map(|row| ack.part(row)));
                ack.acknowledge();
            }
            failpoint::reached(Step::Acknowledged);
        }
        Ok(())
    }
}

impl Out {
    /// Writes lines, and makes those of a file durable.
    fn append(&mut self, lines: &[u8]) -> anyhow::Result<()> {
        match self {
            Self::Stdout(stdout) => {
                stdout.write_all(lines).and_then(|()| stdout.flush()).context("cannot write to standard output")
            }
            Self::File(file, path) => file
                .write_all(lines)
                .and_then(|()| file.sync_data())
                .with_context(|| format!("cannot write to {}", path.display())),
        }
    }
}

/// Returns the offset after the last complete line.
fn end_of_last_line(file: &mut File) -> std::io::Result<u64> {
    let mut end = file.metadata()?.len();
    let mut block = [0; 4096];
    while end > 0 {
        let len = end.min(block.len() as u64);
        file.seek(SeekFrom::Start(end - len))?;
        let block = &mut block[..len as usize];
        file.read_exact(block)?;
        if let Some(newline) = block.iter().rposition(|&byte| byte == b'\n') {
            return Ok(end - len + newline as u64 + 1);
        }
        end -= len;
    }
    Ok(0)
}

impl Sink for JsonLines {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { is_ordered: false, discards: false, escaping: Escaping::Plain }
    }

    fn run(self: Box<Self>, deliveries: Inlet, _: Option<DeadLetters>) -> BoxFuture<'static, anyhow::Result<()>> {
        async move {
            let writing = tokio::task::spawn_blocking(move || self.write(deliveries));
            writing.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_line_is_taken_away() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("out.jsonl");
        for (before, after) in [("", ""), ("a\nb\n", "a\nb\n"), ("a\nhalf", "a\n"), ("half", "")] {
            std::fs::write(&path, before).expect("written");
            drop(JsonLines::file("out", &path).expect("opened"));
            assert_eq!(std::fs::read_to_string(&path).expect("read"), after);
        }
        let long = format!("a\n{}", "x".repeat(10_000));
        std::fs::write(&path, long).expect("written");
        drop(JsonLines::file("out", &path).expect("opened"));
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "a\n");
    }

    /// `check` may run beside an engine that is writing a line.
    #[test]
    fn a_check_changes_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("out.jsonl");
        std::fs::write(&path, "a\nhalf").expect("written");
        JsonLines::check(&path).expect("it can be written");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "a\nhalf");
        JsonLines::check(&directory.path().join("new/directory/out.jsonl")).expect("it could be created");
        assert!(!directory.path().join("new").exists());
        assert!(JsonLines::check(&path.join("below-a-file.jsonl")).is_err());
        assert!(JsonLines::check(directory.path()).is_err(), "a directory is no file");
    }
}
