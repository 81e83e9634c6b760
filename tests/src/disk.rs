//! A disk that is full or read-only.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small file system in memory, mounted for as long as the value lives.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
}

impl Disk {
    /// Mounts it at a directory; `None` if this process lacks the privilege.
    pub fn new(path: PathBuf) -> Option<Self> {
        let mounted = mount(|command| command.args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(&path));
        mounted.is_ok().then_some(Self { path })
    }

    /// The path at which it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Fills the disk, and removes the previous checkpoint, whose space the next one would use.
    ///
    /// # Errors
    /// If there is no previous checkpoint.
    pub fn fill(&self) -> anyhow::Result<()> {
        std::fs::remove_file(self.path.join("checkpoint.json.previous"))?;
        let mut file = std::fs::File::create(self.path.join("filler"))?;
        while file.write_all(&[0; 512]).is_ok() {}
        Ok(())
    }

    /// Frees the space.
    ///
    /// # Errors
    /// If the disk was not filled.
    pub fn empty(&self) -> anyhow::Result<()> {
        Ok(std::fs::remove_file(self.path.join("filler"))?)
    }

    /// Makes the disk read-only, by another mount of itself, as the engine holds its lock file open for writing.
    ///
    /// # Errors
    /// If this process lacks the privilege.
    pub fn write_protect(&self) -> anyhow::Result<()> {
        mount(|command| command.arg("--bind").args([&self.path, &self.path]))?;
        mount(|command| command.args(["-o", "remount,bind,ro"]).arg(&self.path))
    }

    /// Makes the disk writable again.
    ///
    /// # Errors
    /// If the disk was not write-protected.
    pub fn unprotect(&self) -> anyhow::Result<()> {
        let status = Command::new("umount").arg(&self.path).status()?;
        anyhow::ensure!(status.success(), "it can't be unmounted");
        Ok(())
    }
}

fn mount(with: impl Fn(&mut Command) -> &mut Command) -> anyhow::Result<()> {
    anyhow::ensure!(with(&mut Command::new("mount")).status()?.success(), "it can't be mounted");
    Ok(())
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status(); // the next run removes the directory
    }
}
