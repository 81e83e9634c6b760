//! The clock of deadlines: advances the epoch of a wasmtime engine while a plugin runs, and sleeps while none does.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::Duration;

use wasmtime::Engine;

/// The length of an epoch. Deadlines are set in epochs.
pub(in crate::transform) const EPOCH: Duration = Duration::from_millis(10);
/// The clock sleeps after this many epochs in which no plugin ran. To wake it at each call would cost more than to tick.
const IDLE_EPOCHS: u32 = 100;

/// The clock of one wasmtime engine.
#[derive(Debug, Default)]
pub(in crate::transform) struct Ticker {
    running: AtomicUsize,
    thread: OnceLock<Thread>,
}

/// A guard for the time in which a plugin runs: the epoch advances until it is dropped.
#[derive(Debug)]
pub(in crate::transform) struct Running(Arc<Ticker>);

impl Ticker {
    /// Starts the clock, which ticks for as long as the engine is used.
    pub fn start(engine: &Engine) -> Arc<Self> {
        let ticker = Arc::new(Self::default());
        let (weak, weak_ticker) = (engine.weak(), Arc::downgrade(&ticker));
        let ticking = std::thread::Builder::new().name("epochs".to_owned()).spawn(move || {
            let mut idle = 0;
            while let (Some(engine), Some(ticker)) = (weak.upgrade(), weak_ticker.upgrade()) {
                idle = if ticker.running.load(Ordering::SeqCst) == 0 { idle + 1 } else { 0 };
                let is_idle = idle > IDLE_EPOCHS;
                if !is_idle {
                    engine.increment_epoch();
                }
                drop((engine, ticker)); // the thread must not keep them alive
                if is_idle {
                    std::thread::park();
                    idle = 0;
                } else {
                    std::thread::sleep(EPOCH);
                }
            }
        });
        let ticking = ticking.expect("a thread can be started");
        ticker.thread.get_or_init(|| ticking.thread().clone());
        ticker
    }

    /// Keeps the clock ticking until the guard is dropped.
    pub fn run(self: &Arc<Self>) -> Running {
        self.running.fetch_add(1, Ordering::SeqCst);
        self.wake();
        Running(Arc::clone(self))
    }

    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.wake(); // so that the thread ends
    }
}
