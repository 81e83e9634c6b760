//! How far everything is delivered: between those who open and settle batches, and who keeps the checkpoint. That one is
//! woken when there is something to do, not for each batch.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rowmill_core::position::Resume;
use rowmill_core::progress::{Advance, Cost, Receipt, Ticket, Watermark};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::failpoint::{self, Step};
use crate::source::{Budget, Held};

/// Opens batches, and settles what becomes of them. When its last clone is gone, no more is settled.
#[derive(Debug, Clone)]
pub struct Ledger {
    shared: Arc<Shared>,
    /// There is something for who keeps the checkpoint. One such is enough: another finds no room.
    news: mpsc::Sender<()>,
}

/// Up to where all is delivered, for who keeps the checkpoint.
#[derive(Debug)]
pub struct Advances {
    shared: Arc<Shared>,
    news: mpsc::Receiver<()>,
}

/// Counts what was given up.
#[derive(Debug)]
pub struct Losses(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    budget: Budget,
}

#[derive(Debug, Default)]
struct State {
    watermark: Watermark,
    /// How far the watermark moved since it was last asked for.
    pending: Option<Advance>,
    /// By what is pending.
    held: Held,
}

/// A ledger for what takes of a budget.
pub fn open(budget: Budget) -> (Ledger, Advances, Losses) {
    let shared = Arc::new(Shared { state: Mutex::default(), budget });
    let (news, news_out) = mpsc::channel(1);
    let advances = Advances { shared: Arc::clone(&shared), news: news_out };
    let losses = Losses(Arc::clone(&shared));
    (Ledger { shared, news }, advances, losses)
}

impl Ledger {
    /// Opens the next batch. `resume` is from where to read on behind it.
    pub fn open(&self, resume: Resume, cost: Cost) -> Ticket {
        self.shared.state().watermark.open(resume, cost)
    }

    /// A message is durable.
    pub fn settle(&self, receipt: Receipt) {
        if let Some(ticket) = receipt.settle() {
            self.pass(ticket);
        }
    }

    /// All of a batch is durable.
    pub fn pass(&self, ticket: Ticket) {
        let is_news = self.shared.pass(ticket);
        failpoint::reached(Step::Settled);
        if is_news {
            // Without room the news is there already; without a receiver nobody wants it any more.
            let _ = self.news.try_send(());
        }
    }
}

impl Advances {
    /// Waits until all is delivered further than the last time, and until `earliest`: but not for that if who reads waits
    /// for room, or if no more is settled. `None` after the last.
    pub async fn next(&mut self, earliest: Instant) -> Option<Advance> {
        loop {
            let mut is_open = self.news.recv().await.is_some();
            while is_open && !self.shared.holds_up() {
                tokio::select! {
                    () = sleep_until(earliest) => break,
                    news = self.news.recv() => is_open = news.is_some(),
                }
            }
            let advance = self.shared.take();
            if advance.is_some() || !is_open {
                return advance;
            }
        }
    }
}

impl Losses {
    /// Batches that were dropped without being settled: whoever held them failed.
    pub fn count(&self) -> u64 {
        self.0.state().watermark.lost()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether who keeps the checkpoint should hear of it.
    fn pass(&self, ticket: Ticket) -> bool {
        let mut state = self.state();
        let Some(Advance { resume, passed }) = state.watermark.settle(ticket) else { return false };
        state.held.add(&passed);
        let is_first = state.pending.is_none();
        match &mut state.pending {
            Some(pending) => {
                pending.resume = resume;
                pending.passed.extend(passed);
            }
            none => *none = Some(Advance { resume, passed }),
        }
        is_first || self.budget.is_held_up_by(&state.held)
    }

    fn holds_up(&self) -> bool {
        self.budget.is_held_up_by(&self.state().held)
    }

    fn take(&self) -> Option<Advance> {
        let mut state = self.state();
        state.held = Held::default();
        state.pending.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::InFlight;
    use futures_util::FutureExt;
    use rowmill_core::position::BinlogPosition;
    use std::time::Duration;

    const COST: Cost = Cost { rows: 10, bytes: 10 };

    fn resume() -> Resume {
        let position = BinlogPosition { file: "binlog.000001".into(), offset: 4 };
        Resume::at("", position)
    }

    fn ledger() -> (Ledger, Advances, Losses, Budget) {
        let budget = Budget::new(InFlight { rows: 100, bytes: 1000 });
        let (ledger, advances, losses) = open(budget.clone());
        (ledger, advances, losses, budget)
    }

    #[tokio::test]
    async fn advances_come_together_when_they_are_due() {
        let (ledger, mut advances, losses, _budget) = ledger();
        assert!(advances.next(Instant::now()).now_or_never().is_none(), "nothing was delivered");
        let tickets: Vec<Ticket> = (0..3).map(|_| ledger.open(resume(), COST)).collect();
        tickets.into_iter().for_each(|ticket| ledger.pass(ticket));
        let due = Instant::now() + Duration::from_millis(50);
        let advance = advances.next(due).await.expect("an advance");
        assert_eq!(advance.passed, [COST; 3]);
        assert!(Instant::now() >= due);
        drop(ledger.open(resume(), COST));
        drop(ledger);
        assert_eq!(advances.next(Instant::now()).await, None);
        assert_eq!(losses.count(), 1);
    }

    #[tokio::test]
    async fn who_waits_for_room_and_who_ends_do_not_wait_for_the_due_time() {
        let (ledger, mut advances, _losses, budget) = ledger();
        let never = Instant::now() + Duration::from_secs(1_000_000);
        for _ in 0..6 {
            budget.take(COST).now_or_never().expect("room");
        }
        let mut tickets: Vec<Ticket> = (0..6).map(|_| ledger.open(resume(), COST)).collect();
        let last = tickets.pop().expect("six");
        tickets.into_iter().for_each(|ticket| ledger.pass(ticket));
        assert_eq!(advances.next(never).now_or_never().flatten().map(|advance| advance.passed.len()), Some(5));
        ledger.pass(last);
        assert!(advances.next(never).now_or_never().is_none(), "a sixth of what is in flight holds nobody up");
        drop(ledger);
        // It was waited for, and so its news is gone: what is pending must come all the same.
        assert_eq!(advances.next(never).await.map(|advance| advance.passed.len()), Some(1));
        assert_eq!(advances.next(never).await, None);
    }
}
