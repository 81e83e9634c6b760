//! Shutdown: the signals that ask for it, and the request that tasks listen to.

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Returns a request for shutdown, not made yet, and what listens to it.
pub fn shutdown() -> (ShutdownTrigger, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (ShutdownTrigger(sender), Shutdown(receiver))
}

/// Requests the shutdown. Once it is dropped, the shutdown counts as requested.
#[derive(Debug)]
pub struct ShutdownTrigger(watch::Sender<bool>);

/// Listens to the request for shutdown.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<bool>);

impl ShutdownTrigger {
    /// Requests the shutdown. Later calls have no effect.
    pub fn request(&self) {
        self.0.send_replace(true);
    }

    /// Whether the shutdown is requested.
    pub fn is_requested(&self) -> bool {
        *self.0.borrow()
    }
}

impl Shutdown {
    /// Waits until the shutdown is requested. Cancel safe.
    pub async fn requested(&mut self) {
        // An error says that the trigger is dropped: nobody can request it any more.
        let _ = self.0.wait_for(|is_requested| *is_requested).await;
    }
}

/// Listens to SIGTERM and SIGINT.
#[derive(Debug)]
pub struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    /// Starts listening. From now on these signals do not end the process.
    ///
    /// # Errors
    /// If the signal handlers cannot be installed.
    pub fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot install signal handlers");
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    /// Waits for a signal. Returns its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
