//! A TCP proxy that fails on demand.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;

/// Forwards bytes between clients and a port on loopback.
#[derive(Debug)]
pub struct Proxy {
    /// The port to which clients connect.
    pub port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    stalled: AtomicBool,
    refuses: AtomicBool,
    is_mute: AtomicBool,
    /// The number of connections after which others lead to another port, and that port.
    redirection: Mutex<Option<(usize, u16)>>,
    /// Bytes that the server may still send before all connections are cut; `u64::MAX` is no limit.
    allowance: AtomicU64,
    cut: broadcast::Sender<()>,
}

impl Proxy {
    /// Listens on loopback for connections to `port`.
    ///
    /// # Errors
    /// If it cannot listen.
    pub async fn start(port: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (cut, _) = broadcast::channel(1);
        let shared = Arc::new(Shared {
            stalled: AtomicBool::new(false),
            refuses: AtomicBool::new(false),
            is_mute: AtomicBool::new(false),
            redirection: Mutex::new(None),
            allowance: AtomicU64::new(u64::MAX),
            cut,
        });
        let this = Self { port: listener.local_addr()?.port(), shared: Arc::clone(&shared) };
        tokio::spawn(async move {
            let mut mute = Vec::new();
            while let Ok((client, _)) = listener.accept().await {
                if shared.is_mute.load(Ordering::SeqCst) {
                    mute.push(client);
                    continue;
                }
                if shared.refuses.load(Ordering::SeqCst) {
                    continue;
                }
                let port = shared.port().unwrap_or(port);
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
                let (client_read, client_write) = client.into_split();
                let (server_read, server_write) = server.into_split();
                tokio::spawn(pass(client_read, server_write, Arc::clone(&shared), false));
                tokio::spawn(pass(server_read, client_write, Arc::clone(&shared), true));
            }
        });
        Ok(this)
    }

    /// Cuts all current connections.
    pub fn cut(&self) {
        let _ = self.shared.cut.send(()); // there may be none
    }

    /// Cuts all connections, and ends new ones at once while `refuses` is set.
    pub fn refuse(&self, refuses: bool) {
        self.shared.refuses.store(refuses, Ordering::SeqCst);
        if refuses {
            self.cut();
        }
    }

    /// Cuts all connections; while `is_mute` is set, new ones are accepted and stay silent, also after it is unset.
    pub fn mute(&self, is_mute: bool) {
        self.shared.is_mute.store(is_mute, Ordering::SeqCst);
        if is_mute {
            self.cut();
        }
    }

    /// Redirects connections to another port of loopback, after the given number of further connections.
    pub fn redirect(&self, after: usize, port: u16) {
        *self.shared.redirection.lock().unwrap_or_else(PoisonError::into_inner) = Some((after, port));
    }

    /// Cuts all connections once the server has sent the given number of further bytes, which may be in the middle of a packet.
    pub fn cut_after(&self, bytes: u64) {
        self.shared.allowance.store(bytes, Ordering::SeqCst);
    }

    /// Discards the bytes of all current connections, which stay open. New connections work.
    pub fn stall(&self) {
        self.shared.stalled.store(true, Ordering::SeqCst);
    }
}

impl Shared {
    /// Returns the port to which the next connection leads, if it is another one.
    fn port(&self) -> Option<u16> {
        let mut redirection = self.redirection.lock().unwrap_or_else(PoisonError::into_inner);
        let (left, port) = redirection.as_mut()?;
        match left.checked_sub(1) {
            Some(fewer) => {
                *left = fewer;
                None
            }
            None => Some(*port),
        }
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: Arc<Shared>, is_from_server: bool) {
    let mut cut = shared.cut.subscribe();
    let was_stalled = shared.stalled.load(Ordering::SeqCst);
    let mut bytes = vec![0; 16 << 10];
    loop {
        let read = tokio::select! {
            read = from.read(&mut bytes) => read,
            _ = cut.recv() => return,
        };
        let Ok(mut len @ 1..) = read else { return };
        while shared.stalled.load(Ordering::SeqCst) && !was_stalled {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(50)) => {}
                _ = cut.recv() => return,
            }
        }
        let allowance = shared.allowance.load(Ordering::SeqCst);
        if is_from_server && allowance != u64::MAX {
            len = len.min(usize::try_from(allowance).unwrap_or(usize::MAX));
            shared.allowance.store(allowance - len as u64, Ordering::SeqCst);
        }
        if to.write_all(&bytes[..len]).await.is_err() {
            return;
        }
        if is_from_server && allowance == len as u64 {
            shared.allowance.store(u64::MAX, Ordering::SeqCst);
            let _ = shared.cut.send(());
            return;
        }
    }
}
