//! The in-order watermark: up to where everything is delivered.
//!
//! Batches are opened in binlog order and settled in any order; the watermark follows the longest
//! run of settled ones from the start. What holds, whatever the order (the tests check it against a
//! model):
//!
//! - it never passes a batch that isn't settled;
//! - it never goes back;
//! - what is open costs what it was opened with, until the watermark has passed it;
//! - settled means durable at its sink, or dropped on purpose; a [`Ticket`] that is dropped without
//!   being settled is counted as lost, and the watermark stays before it;
//! - so a restart at the watermark delivers again what was open, and misses nothing.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::position::Resume;

pub use rowmill_pipeline::ack::Cost;

/// How far the watermark moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advance {
    /// From where to read on after a restart.
    pub resume: Resume,
    /// What each passed batch cost, to be given back once `resume` is durable.
    pub passed: Vec<Cost>,
}

/// The right and the duty to settle one batch.
#[derive(Debug)]
#[must_use = "a ticket must be settled, or the watermark stays before its batch for ever"]
pub struct Ticket {
    sequence: u64,
    lost: Arc<AtomicU64>,
    done: bool,
}

impl Ticket {
    /// Divides the duty: the ticket comes back from whichever of the `count` receipts is settled last.
    ///
    /// # Panics
    /// If `count` is 0: a batch without outputs is settled at once.
    pub fn split(self, count: usize) -> Vec<Receipt> {
        assert!(count > 0, "a batch without outputs is settled at once");
        let shared = Arc::new(Mutex::new(Shared { open: count, ticket: Some(self) }));
        (0..count).map(|_| Receipt(Arc::clone(&shared))).collect()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.done {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[derive(Debug)]
struct Shared {
    open: usize,
    ticket: Option<Ticket>,
}

/// The duty to deliver one message.
#[derive(Debug)]
#[must_use = "a receipt must be settled, or the watermark stays before its batch for ever"]
pub struct Receipt(Arc<Mutex<Shared>>);

impl Receipt {
    /// Divides the duty further.
    ///
    /// # Panics
    /// If `count` is 0.
    pub fn split(self, count: usize) -> Vec<Self> {
        assert!(count > 0, "a duty doesn't vanish");
        self.0.lock().unwrap_or_else(PoisonError::into_inner).open += count - 1;
        (0..count).map(|_| Self(Arc::clone(&self.0))).collect()
    }

    /// The message is durable. Gives the batch's ticket if it was the batch's last.
    pub fn settle(self) -> Option<Ticket> {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shared.open -= 1;
        if shared.open == 0 { shared.ticket.take() } else { None }
    }
}

#[derive(Debug)]
struct Entry {
    resume: Resume,
    cost: Cost,
    settled: bool,
}

/// See the module's description.
#[derive(Debug, Default)]
pub struct Watermark {
    first: u64,
    open: VecDeque<Entry>,
    lost: Arc<AtomicU64>,
}

impl Watermark {
    /// A watermark before the first batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens the next batch. `resume` is from where to read on behind it.
    pub fn open(&mut self, resume: Resume, cost: Cost) -> Ticket {
        let sequence = self.first + self.open.len() as u64;
        self.open.push_back(Entry { resume, cost, settled: false });
        Ticket { sequence, lost: Arc::clone(&self.lost), done: false }
    }

    /// Settles a batch. Gives how far the watermark moved, if it did.
    pub fn settle(&mut self, mut ticket: Ticket) -> Option<Advance> {
        ticket.done = true;
        let index = (ticket.sequence - self.first) as usize;
        self.open[index].settled = true;

        let mut advance = None;
        while let Some(entry) = self.open.pop_front_if(|entry| entry.settled) {
            self.first += 1;
            let advance = advance.get_or_insert_with(|| Advance { resume: entry.resume.clone(), passed: Vec::new() });
            advance.resume = entry.resume;
            advance.passed.push(entry.cost);
        }
        advance
    }

    /// Batches that were opened and that the watermark hasn't passed.
    pub fn in_flight(&self) -> usize {
        self.open.len()
    }

    /// Tickets that were dropped unsettled: whoever held them failed.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::BinlogPosition;
    use proptest::prelude::*;

    fn resume(number: u64) -> Resume {
        Resume::at("server", BinlogPosition::new("binlog.000001", number))
    }

    #[derive(Debug, Clone)]
    enum Step {
        Open,
        Settle(proptest::sample::Index),
        Lose(proptest::sample::Index),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => Just(Step::Open),
            4 => any::<proptest::sample::Index>().prop_map(Step::Settle),
            1 => any::<proptest::sample::Index>().prop_map(Step::Lose),
        ];
        proptest::collection::vec(step, 0..200)
    }

    proptest! {
        /// Against the obvious model: a list of flags, and the position behind its first run of set ones.
        #[test]
        fn follows_the_settled_run(steps in steps()) {
            let mut watermark = Watermark::new();
            let mut settled = Vec::new();
            let mut held: Vec<(usize, Ticket)> = Vec::new();
            let mut at = None;
            let mut given_back = 0;
            let mut lost = 0;
            for step in steps {
                match step {
                    Step::Open => {
                        let number = settled.len();
                        settled.push(false);
                        held.push((number, watermark.open(resume(number as u64), Cost { rows: 1, bytes: 2 })));
                    }
                    Step::Settle(index) if !held.is_empty() => {
                        let (number, ticket) = held.swap_remove(index.index(held.len()));
                        settled[number] = true;
                        if let Some(advance) = watermark.settle(ticket) {
                            given_back += advance.passed.len();
                            prop_assert!(Some(advance.resume.position.offset) > at, "it never goes back");
                            at = Some(advance.resume.position.offset);
                        }
                    }
                    Step::Lose(index) if !held.is_empty() => {
                        drop(held.swap_remove(index.index(held.len())));
                        lost += 1;
                    }
                    Step::Settle(_) | Step::Lose(_) => {}
                }
                let run = settled.iter().take_while(|settled| **settled).count();
                prop_assert_eq!(at, (run as u64).checked_sub(1));
                prop_assert_eq!(given_back, run);
                prop_assert_eq!(watermark.in_flight(), settled.len() - run);
                prop_assert_eq!(watermark.lost(), lost);
            }
        }
    }

    #[test]
    fn a_split_ticket_comes_back_with_the_last_receipt() {
        let mut watermark = Watermark::new();
        let mut receipts = watermark.open(resume(1), Cost::default()).split(3);
        let last = receipts.pop().expect("three");
        let more = receipts.pop().expect("two").split(4);
        assert!(receipts.into_iter().chain(more).all(|receipt| receipt.settle().is_none()));
        let ticket = last.settle().expect("the last gives the ticket");
        assert_eq!(watermark.settle(ticket).map(|advance| advance.resume), Some(resume(1)));
        assert_eq!(watermark.lost(), 0);
    }

    #[test]
    fn a_dropped_receipt_is_a_lost_ticket() {
        let mut watermark = Watermark::new();
        let mut receipts = watermark.open(resume(1), Cost::default()).split(2);
        drop(receipts.pop());
        assert!(receipts.pop().expect("one left").settle().is_none());
        assert_eq!(watermark.lost(), 1);
    }
}
