//! The clock of deadlines: counts an engine's epochs while a guest runs, and sleeps while none does.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::Duration;

use wasmtime::Engine;

/// Deadlines are so many of these ahead.
pub(in crate::transform) const EPOCH: Duration = Duration::from_millis(10);
/// It sleeps once no guest has run for so many epochs: to be woken at each call would cost more than to tick.
const IDLE_EPOCHS: u32 = 100;

/// See the module's description.
#[derive(Debug, Default)]
pub(in crate::transform) struct Ticker {
    running: AtomicUsize,
    thread: OnceLock<Thread>,
}

/// A guest runs: epochs are counted until this is dropped.
#[derive(Debug)]
pub(in crate::transform) struct Running(Arc<Ticker>);

impl Ticker {
    /// Ticks for as long as the engine is used.
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
                drop((engine, ticker)); // it must not keep them
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

    /// A guest begins to run.
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
        self.wake(); // to end
    }
}
