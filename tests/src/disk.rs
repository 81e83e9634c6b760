//! A disk that gets full, or can't be written any more.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small file system in memory, mounted as long as this lives.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
}

impl Disk {
    /// Mounts it at a directory; `None` if this process may not.
    pub fn new(path: PathBuf) -> Option<Self> {
        let mounted = mount(|command| command.args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(&path));
        mounted.is_ok().then_some(Self { path })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves no room, without the checkpoint's previous one either, whose room the next one would have.
    ///
    /// # Errors
    /// If there is no previous one.
    pub fn fill(&self) -> anyhow::Result<()> {
        std::fs::remove_file(self.path.join("checkpoint.json.previous"))?;
        let mut file = std::fs::File::create(self.path.join("filler"))?;
        while file.write_all(&[0; 512]).is_ok() {}
        Ok(())
    }

    /// Makes room again.
    ///
    /// # Errors
    /// If it wasn't filled.
    pub fn empty(&self) -> anyhow::Result<()> {
        Ok(std::fs::remove_file(self.path.join("filler"))?)
    }

    /// Lets nothing be written: under another mount of itself, as the engine holds its lock's file open for writing.
    ///
    /// # Errors
    /// If this process may not.
    pub fn write_protect(&self) -> anyhow::Result<()> {
        mount(|command| command.arg("--bind").args([&self.path, &self.path]))?;
        mount(|command| command.args(["-o", "remount,bind,ro"]).arg(&self.path))
    }

    /// Lets it be written again.
    ///
    /// # Errors
    /// If it wasn't protected.
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
        let _ = Command::new("umount").arg("-l").arg(&self.path).status(); // the directory is removed with the next run
    }
}
