//! The sequencer: workers process numbered batches in parallel, and pass one after another, in the order of the
//! numbers. It only orders, and acknowledges nothing.
//!
//! A number's place is reserved as a [`Turn`], in order, and later resolved by [`Permit::pass`]. A turn that is dropped
//! before its wait has ended, or a permit that is dropped before it has passed (an error, a panic, an aborted task),
//! closes the sequencer: no number passes after that.

use std::future::poll_fn;
use std::sync::PoisonError;
use std::task::{Poll, Waker};

use crate::sync::{Arc, Mutex, MutexGuard};

/// An order in which tasks pass one after another, by their numbers.
#[derive(Debug, Default)]
pub struct Sequencer {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    is_closed: bool,
    /// The wakers of the tasks that wait, by number: at most one for each worker.
    waiting: Vec<(u64, Waker)>,
}

/// The permission of one number to pass: while the permit is held, no other number passes.
#[derive(Debug)]
#[must_use = "a permit that is dropped closes the sequencer"]
pub struct Permit<'a> {
    sequencer: &'a Sequencer,
    is_passed: bool,
}

/// A number's reserved place in the sequence.
#[derive(Debug)]
#[must_use = "a turn that is dropped closes the sequencer"]
pub struct Turn {
    sequencer: Arc<Sequencer>,
    number: u64,
    is_used: bool,
}

impl Sequencer {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the first number that passes.
    pub fn begin_at(&self, number: u64) {
        self.state().next = number;
    }

    /// Waits until all smaller numbers have passed. Returns `None` once the sequencer is closed.
    pub async fn wait(&self, number: u64) -> Option<Permit<'_>> {
        poll_fn(|context| {
            let mut state = self.state();
            if state.is_closed {
                return Poll::Ready(None);
            }
            if state.next == number {
                return Poll::Ready(Some(Permit { sequencer: self, is_passed: false }));
            }
            match state.waiting.iter_mut().find(|(waiting, _)| *waiting == number) {
                Some((_, waker)) => waker.clone_from(context.waker()),
                None => state.waiting.push((number, context.waker().clone())),
            }
            Poll::Pending
        })
        .await
    }

    /// Closes the sequencer: no number passes any more.
    pub fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(|(_, waker)| waker.wake());
    }
}

impl Permit<'_> {
    /// Lets the next number pass.
    pub fn pass(mut self) {
        self.is_passed = true;
        let mut state = self.sequencer.state();
        state.next += 1;
        let next = state.next;
        let waiting = state.waiting.iter().position(|(number, _)| *number == next);
        let waker = waiting.map(|index| state.waiting.swap_remove(index).1);
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if !self.is_passed {
            self.sequencer.close();
        }
    }
}

impl Turn {
    /// Reserves a number's place. Each number has one place.
    pub fn reserve(sequencer: &Arc<Sequencer>, number: u64) -> Self {
        Self { sequencer: Arc::clone(sequencer), number, is_used: false }
    }

    /// Waits until all smaller numbers have passed. Returns `None` once the sequencer is closed.
    pub async fn wait(&mut self) -> Option<Permit<'_>> {
        let permit = self.sequencer.wait(self.number).await;
        // From here on dropping the permit closes the sequencer.
        self.is_used = true;
        permit
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.is_used {
            self.sequencer.close();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::task::Context;

    use super::*;

    /// Returns a future's value if the future is ready.
    fn now<T>(future: impl Future<Output = T>) -> Option<T> {
        match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    #[test]
    fn numbers_pass_in_order() {
        let sequencer = Sequencer::default();
        sequencer.begin_at(7);
        assert!(now(sequencer.wait(8)).is_none());
        let permit = now(sequencer.wait(7)).flatten().expect("its turn");
        assert!(now(sequencer.wait(8)).is_none());
        permit.pass();
        now(sequencer.wait(8)).flatten().expect("its turn").pass();
    }

    #[test]
    fn who_vanishes_closes_it() {
        let sequencer = Arc::new(Sequencer::default());
        let (mut first, second) = (Turn::reserve(&sequencer, 0), Turn::reserve(&sequencer, 1));
        now(first.wait()).flatten().expect("its turn").pass();
        drop(first);
        assert!(now(sequencer.wait(2)).is_none(), "the second may still pass");
        drop(second);
        assert!(matches!(now(sequencer.wait(2)), Some(None)));

        let sequencer = Sequencer::default();
        drop(now(sequencer.wait(0)).flatten().expect("its turn"));
        assert!(matches!(now(sequencer.wait(1)), Some(None)));
    }
}

/// Checks by loom, in every order of threads.
#[cfg(all(test, loom))]
mod model {
    use loom::future::block_on;
    use loom::sync::atomic::{AtomicU64, Ordering};
    use loom::thread;

    use super::*;

    /// Three numbers pass in order, or none passes if the first is dropped; no wait lasts for ever.
    #[test]
    fn all_pass_in_order_or_none() {
        for vanishes in [false, true] {
            loom::model(move || {
                let sequencer = Arc::new(Sequencer::default());
                let passed = Arc::new(AtomicU64::new(0));
                let run = |number: u64| {
                    let (mut turn, passed) = (Turn::reserve(&sequencer, number), Arc::clone(&passed));
                    move || {
                        let Some(permit) = block_on(turn.wait()) else { return };
                        if vanishes && number == 0 {
                            return;
                        }
                        assert_eq!(passed.fetch_add(1, Ordering::Relaxed), number);
                        permit.pass();
                    }
                };
                let (second, third) = (thread::spawn(run(1)), thread::spawn(run(2)));
                run(0)();
                second.join().expect("no panic");
                third.join().expect("no panic");
                assert_eq!(passed.load(Ordering::Relaxed), if vanishes { 0 } else { 3 });
            });
        }
    }
}
