//! The contract of checkpoint stores: [`CheckpointStore`].

use std::fmt::Debug;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

/// The fencing token: a process that acquires the checkpoint gets an epoch above the stored one. A process with a lower
/// epoch than the stored one has lost the checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(pub u64);

/// Stores a checkpoint's text.
pub trait CheckpointStore: Send + Debug {
    /// Returns a description for users.
    fn describe(&self) -> String;

    /// Returns the minimum interval between writes, unless the in-flight budget is short.
    fn interval(&self) -> Duration;

    /// Acquires the checkpoint until the store is dropped or the process ends in any way. Returns the text that was written
    /// last, and an epoch above the stored one.
    ///
    /// Fails if another process holds the checkpoint: the error names that process.
    fn acquire(&mut self) -> BoxFuture<'_, anyhow::Result<(Epoch, Option<String>)>>;

    /// Returns the text that was written last, whichever process holds the checkpoint.
    fn read(&mut self) -> BoxFuture<'_, anyhow::Result<Option<String>>>;

    /// Replaces the text atomically, and durably once this returns. The text that was there is kept as the previous one.
    ///
    /// Fails, and changes nothing, if the checkpoint has since been acquired with a higher epoch.
    fn write(&mut self, epoch: Epoch, text: String) -> BoxFuture<'_, anyhow::Result<()>>;

    /// Returns the text of the schema history that was written last.
    fn read_schema_history(&mut self) -> BoxFuture<'_, anyhow::Result<Option<String>>>;

    /// Replaces the text of the schema history atomically, and durably once this returns.
    fn write_schema_history(&mut self, epoch: Epoch, text: String) -> BoxFuture<'_, anyhow::Result<()>>;

    /// Checks that the checkpoint can be written, without changing it or its holder.
    fn probe(&mut self) -> BoxFuture<'_, anyhow::Result<()>>;

    /// Keeps the checkpoint held. Called from time to time while nothing is written.
    fn keep_alive(&mut self) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }

    /// Returns the previous text, which the last write replaced: its location and its content.
    fn previous(&mut self) -> BoxFuture<'_, Option<(String, String)>>;
}

/// Returns a description of this process, for another process that finds the checkpoint held.
pub(super) fn holder() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("process {} on {}", std::process::id(), host.trim_end())
}
