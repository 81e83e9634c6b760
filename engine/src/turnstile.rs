//! Threads that take work in parallel, and pass a place in the order of its numbers.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Lets threads pass one after another, in the order of their numbers.
#[derive(Debug, Default)]
pub struct Turnstile {
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    closed: bool,
    waiting: usize,
}

/// The turn of one number: while it is held, no other passes.
#[derive(Debug)]
#[must_use = "the turn passes on when this is dropped"]
pub struct Turn<'a>(&'a Turnstile);

impl Turnstile {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first to pass is `number`.
    pub fn begin_at(&self, number: u64) {
        self.state().next = number;
    }

    /// Waits until all smaller numbers have passed; `None` if nobody passes any more.
    pub fn wait(&self, number: u64) -> Option<Turn<'_>> {
        let mut state = self.state();
        while state.next != number && !state.closed {
            state.waiting += 1;
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
        if state.closed { None } else { Some(Turn(self)) }
    }

    /// From now on nobody passes.
    pub fn close(&self) {
        self.state().closed = true;
        self.moved.notify_all();
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.next += 1;
        // To wake nobody is a call of the system all the same.
        if state.waiting > 0 {
            self.0.moved.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn all_pass_in_order() {
        let (turnstile, numbers, passed) = (Turnstile::default(), AtomicU64::new(7), Mutex::new(Vec::new()));
        turnstile.begin_at(7);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..250 {
                        let number = numbers.fetch_add(1, Ordering::Relaxed);
                        let _turn = turnstile.wait(number).expect("open");
                        passed.lock().expect("no panic").push(number);
                    }
                });
            }
        });
        assert!(passed.into_inner().expect("no panic").into_iter().eq(7..1007));
    }

    #[test]
    fn a_closed_one_lets_nobody_wait() {
        let turnstile = Turnstile::default();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| turnstile.wait(5).is_none());
            turnstile.close();
            assert!(waiting.join().expect("no panic"));
        });
        assert!(turnstile.wait(0).is_none());
    }
}
