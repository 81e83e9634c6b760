//! The transaction that is being read, and what of it is held back.
//!
//! A binlog may have rows that never happened: MariaDB writes a whole transaction with a `ROLLBACK`
//! behind it where temporary tables were made in it, `ROLLBACK TO` takes back what follows a
//! savepoint, and a prepared XA transaction may be rolled back days later. So rows are held back
//! until it is known that they were committed.

use std::collections::HashMap;

use super::RowBatch;
use super::deferred::BatchAssembler;
use crate::gtid::Gtid;
use crate::position::ResumePoint;

/// What is held back at most; a transaction that has more is handed on before its end is known.
/// Tests get there.
pub(super) const HELD_BYTES_MAX: usize = if cfg!(test) { 64 << 10 } else { 32 << 20 };

/// The transaction that is being read.
#[derive(Debug)]
pub(super) struct Transaction {
    /// Where it begins.
    pub begin: u64,
    pub gtid: Option<Gtid>,
    pub commit_time_us: i64,
    pub server_id: u32,
    pub thread_id: u32,
    /// Rows so far.
    pub rows: u32,
    /// An earlier run was done with all of it.
    pub is_past: bool,
    /// Whether an earlier run was done with rows of it.
    pub has_past_rows: bool,
    /// Whether its end is a commit of its own, or that of the one statement in it.
    pub begun: bool,
    /// Whether its statement isn't done: see [`Begin::is_void`](super::gtid_event::Begin::is_void).
    pub is_void: bool,
    /// Where the event that is read begins in its compressed transaction, once unpacked. Such events have no place of their
    /// own in the file: their rows are numbered from here, whichever tables are selected.
    pub payload_offset: Option<u32>,
    /// The id of an XA transaction.
    pub xa: Option<String>,
    pub hold: PendingTransaction,
}

/// What of a transaction is held back.
#[derive(Debug)]
pub(super) struct PendingTransaction {
    /// Whether rows are held back at all.
    pub on: bool,
    /// Rows of earlier transactions in the batch that is being filled.
    pub earlier: usize,
    /// Full batches, of this transaction alone.
    pub batches: Vec<RowBatch>,
    /// How often rows of the transaction were handed on.
    pub handed_on: u32,
    /// Whether there was more than can be held back: nothing is, until the next savepoint.
    pub overflowed: bool,
    savepoints: Vec<(String, Savepoint)>,
}

#[derive(Debug, Clone, Copy)]
struct Savepoint {
    /// Full batches at that time.
    batches: usize,
    /// Rows in the batch that was being filled.
    batch_rows: usize,
    /// Rows of the transaction.
    rows: u32,
    /// How often rows had been handed on.
    handed_on: u32,
}

/// What is left when a part of a transaction is taken back.
#[derive(Debug)]
pub(super) struct RolledBack {
    /// Rows of the transaction.
    pub rows: u32,
    /// Rows of the batch that is being filled.
    pub batch_rows: usize,
    /// Instead of that batch, one that was full.
    pub batch: Option<BatchAssembler>,
}

/// Why a part of a transaction can't be taken back.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotRolledBack {
    /// Some of it was handed on already.
    HandedOn,
    /// There is no such savepoint.
    Unknown,
}

impl PendingTransaction {
    pub fn new(earlier: usize) -> Self {
        Self { on: false, earlier, batches: Vec::new(), handed_on: 0, overflowed: false, savepoints: Vec::new() }
    }

    /// Bytes of the full batches.
    pub fn bytes(&self) -> usize {
        self.batches.iter().map(RowBatch::row_bytes).sum()
    }

    /// The batch that is being filled has none but the transaction's rows from now on. Gives how many others it had.
    pub fn divided(&mut self) -> usize {
        let earlier = std::mem::take(&mut self.earlier);
        self.savepoints.iter_mut().for_each(|(_, savepoint)| savepoint.batch_rows -= earlier);
        earlier
    }

    /// A savepoint is made here. One of the same name is forgotten. `name` is what equal names have in common.
    pub fn savepoint(&mut self, name: String, batch_rows: usize, rows: u32) {
        self.overflowed = false;
        self.savepoints.retain(|(known, _)| *known != name);
        let savepoint = Savepoint { batches: self.batches.len(), batch_rows, rows, handed_on: self.handed_on };
        self.savepoints.push((name, savepoint));
    }

    /// Takes back what came behind a savepoint. A server that logs a return to one has logged its making: where it
    /// hasn't, since there was nothing to log yet, it ends the transaction by a `ROLLBACK` instead.
    pub fn roll_back_to(&mut self, name: &str) -> Result<RolledBack, NotRolledBack> {
        let known = self.savepoints.iter().position(|(known, _)| known == name).ok_or(NotRolledBack::Unknown)?;
        let (_, savepoint) = self.savepoints[known];
        self.savepoints.truncate(known + 1);
        if self.handed_on != savepoint.handed_on {
            return Err(NotRolledBack::HandedOn);
        }
        // The batch that was being filled then may be full now: of its rows some stay.
        let full = self.batches.get(savepoint.batches);
        let batch =
            full.map(|full| BatchAssembler::from_rows(&full.bytes, full.deferred.as_deref(), 0, savepoint.batch_rows));
        self.batches.truncate(savepoint.batches);
        Ok(RolledBack { rows: savepoint.rows, batch_rows: savepoint.batch_rows, batch })
    }
}

/// XA transactions that are prepared and neither committed nor rolled back.
#[derive(Debug, Default)]
pub(super) struct PreparedXa {
    by_id: HashMap<String, Prepared>,
}

/// A prepared transaction.
#[derive(Debug)]
pub(super) struct Prepared {
    pub batches: Vec<RowBatch>,
    /// From where to read on to meet it again.
    resume: ResumePoint,
    /// Orders them by age.
    sequence: u64,
}

impl PreparedXa {
    /// `resume` is the place before the transaction.
    pub fn insert(&mut self, id: String, batches: Vec<RowBatch>, resume: ResumePoint, sequence: u64) {
        self.by_id.insert(id, Prepared { batches, resume, sequence });
    }

    pub fn remove(&mut self, id: &str) -> Option<Prepared> {
        self.by_id.remove(id)
    }

    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Bytes of rows that are held back.
    pub fn bytes(&self) -> usize {
        self.by_id.values().flat_map(|prepared| &prepared.batches).map(RowBatch::row_bytes).sum()
    }

    /// The place before the oldest.
    pub fn oldest(&self) -> Option<&ResumePoint> {
        self.by_id.values().min_by_key(|prepared| prepared.sequence).map(|prepared| &prepared.resume)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rowmill_batch::Builder;

    use super::*;
    use crate::position::BinlogPosition;

    fn resume(offset: u64) -> ResumePoint {
        ResumePoint::at("server", BinlogPosition::new("binlog.000001", offset))
    }

    /// A batch without rows, as full ones of a transaction are held back.
    fn full() -> RowBatch {
        let bytes = Arc::new(Builder::with_capacity(0).finish());
        let (rows, new_tables) = (0, Vec::new());
        RowBatch {
            bytes,
            deferred: None,
            rows,
            schema_change: None,
            skipped: None,
            skips: false,
            new_tables,
            before: Arc::new(resume(4)),
            resume: resume(4),
        }
    }

    /// What is left: rows of the transaction, and rows of the batch that is being filled.
    fn roll_back_to(hold: &mut PendingTransaction, name: &str) -> Result<(u32, usize), NotRolledBack> {
        hold.roll_back_to(name).map(|left| (left.rows, left.batch_rows))
    }

    #[test]
    fn a_savepoint_keeps_what_came_before_it() {
        let mut hold = PendingTransaction::new(10);
        hold.savepoint("a".to_owned(), 11, 1);
        hold.savepoint("b".to_owned(), 13, 3);
        assert_eq!(roll_back_to(&mut hold, "b"), Ok((3, 13)));
        assert_eq!(roll_back_to(&mut hold, "a"), Ok((1, 11)), "those after it are forgotten");
        assert_eq!(roll_back_to(&mut hold, "a"), Ok((1, 11)), "itself it stays");
    }

    #[test]
    fn a_name_that_is_used_again_means_the_later_savepoint() {
        let mut hold = PendingTransaction::new(0);
        hold.savepoint("a".to_owned(), 1, 1);
        hold.savepoint("a".to_owned(), 2, 2);
        assert_eq!(roll_back_to(&mut hold, "a"), Ok((2, 2)));
    }

    #[test]
    fn rows_are_counted_in_the_batch_that_has_the_transaction_alone() {
        let mut hold = PendingTransaction::new(10);
        hold.savepoint("a".to_owned(), 12, 2);
        assert_eq!(hold.divided(), 10);
        assert_eq!(roll_back_to(&mut hold, "a"), Ok((2, 2)));
        assert_eq!(hold.divided(), 0, "it is divided once");
    }

    #[test]
    fn a_batch_that_became_full_after_the_savepoint_is_opened_again() {
        let mut hold = PendingTransaction::new(0);
        hold.batches.push(full());
        hold.savepoint("a".to_owned(), 0, 7);
        hold.batches.extend([full(), full()]);
        let left = hold.roll_back_to("a").expect("nothing was handed on");
        assert!((left.rows, left.batch_rows, left.batch.is_some(), hold.batches.len()) == (7, 0, true, 1));
    }

    #[test]
    fn what_was_handed_on_is_not_taken_back() {
        let mut hold = PendingTransaction::new(0);
        hold.handed_on = 1;
        hold.savepoint("a".to_owned(), 5, 9);
        assert_eq!(roll_back_to(&mut hold, "a"), Ok((9, 5)), "what came before the savepoint may be handed on");
        hold.handed_on = 2;
        assert_eq!(roll_back_to(&mut hold, "a"), Err(NotRolledBack::HandedOn));
    }

    #[test]
    fn the_oldest_prepared_transaction_says_from_where_to_read_on() {
        let mut prepared = PreparedXa::default();
        assert_eq!(prepared.oldest(), None);
        for (id, sequence) in [("b", 2), ("a", 1), ("c", 3)] {
            prepared.insert(id.to_owned(), vec![full()], resume(100 * sequence), sequence);
        }
        assert_eq!(prepared.oldest(), Some(&resume(100)));
        assert_eq!(prepared.bytes(), 3 * full().row_bytes());
        assert!(prepared.remove("a").is_some() && prepared.remove("a").is_none());
        assert_eq!(prepared.oldest(), Some(&resume(200)));
    }
}
