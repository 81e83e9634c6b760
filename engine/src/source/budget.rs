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

    /// Whether more than half is taken.
    pub fn is_short(&self) -> bool {
        self.rows.available_permits() * 2 < self.limits.rows as usize
            || self.bytes.available_permits() * 2 < self.limits.bytes as usize
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
        assert!(budget.is_short());
        assert!(budget.take(cost).now_or_never().is_none(), "no room for a second");
        budget.give_back(cost);
        assert!(budget.take(Cost { rows: 1, bytes: 1_000_000 }).now_or_never().is_some(), "too large takes all");
        assert!(budget.take(Cost { rows: 1, bytes: 1 }).now_or_never().is_none());
    }
}
