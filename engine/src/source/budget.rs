//! The in-flight budget: what was read and isn't past a durable checkpoint.

use std::sync::Arc;

use rowmill_core::progress::Cost;
use tokio::sync::Semaphore;

use crate::config::InFlight;

/// Shared by who reads and who writes checkpoints.
#[derive(Debug, Clone)]
pub struct Budget {
    limits: InFlight,
    rows: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

impl Budget {
    /// A whole budget.
    pub fn new(limits: InFlight) -> Self {
        let semaphore = |permits: u32| Arc::new(Semaphore::new(permits as usize));
        Self { limits, rows: semaphore(limits.rows), bytes: semaphore(limits.bytes) }
    }

    /// What all batches may take together.
    pub fn limit(&self) -> Cost {
        Cost { rows: self.limits.rows, bytes: self.limits.bytes }
    }

    /// What a batch takes of it: one that is larger than all takes all.
    fn share(&self, cost: Cost) -> Cost {
        Cost { rows: cost.rows.min(self.limits.rows), bytes: cost.bytes.min(self.limits.bytes) }
    }

    /// Waits until there is room for a batch, and takes it.
    pub async fn take(&self, cost: Cost) {
        let share = self.share(cost);
        for (semaphore, permits) in [(&self.rows, share.rows), (&self.bytes, share.bytes)] {
            semaphore.acquire_many(permits).await.expect("the semaphores are never closed").forget();
        }
    }

    /// Gives back what a batch took.
    pub fn give_back(&self, cost: Cost) {
        let share = self.share(cost);
        self.rows.add_permits(share.rows as usize);
        self.bytes.add_permits(share.bytes as usize);
    }

    /// Whether batches that were delivered hold half of it, and less than half is left: who reads may wait for them.
    pub fn is_held_up_by(&self, delivered: &Held) -> bool {
        let is_short = |left: &Semaphore, limit: u32, held: u64| {
            left.available_permits() * 2 < limit as usize && held * 2 >= u64::from(limit)
        };
        is_short(&self.rows, self.limits.rows, delivered.rows)
            || is_short(&self.bytes, self.limits.bytes, delivered.bytes)
    }
}

/// What batches hold together.
#[derive(Debug, Default)]
pub struct Held {
    rows: u64,
    bytes: u64,
}

impl Held {
    /// So many batches more.
    pub fn add(&mut self, passed: &[Cost]) {
        for cost in passed {
            self.rows += u64::from(cost.rows);
            self.bytes += u64::from(cost.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn it_is_taken_and_given_back() {
        let budget = Budget::new(InFlight { rows: 10, bytes: 100 });
        let cost = Cost { rows: 6, bytes: 10 };
        assert!(budget.take(cost).now_or_never().is_some());
        let mut held = Held::default();
        held.add(&[Cost { rows: 4, bytes: 9 }]);
        assert!(!budget.is_held_up_by(&held), "most of it is still on its way");
        held.add(&[Cost { rows: 1, bytes: 1 }]);
        assert!(budget.is_held_up_by(&held));
        assert!(budget.take(cost).now_or_never().is_none(), "no room for a second");
        budget.give_back(cost);
        assert!(budget.take(Cost { rows: 1, bytes: 1_000_000 }).now_or_never().is_some(), "too large takes all");
        assert!(budget.take(Cost { rows: 1, bytes: 1 }).now_or_never().is_none());
    }
}
