//! The open transaction, and its rows that are held back.
//!
//! A binlog may have rows that were rolled back: MariaDB logs a rolled-back transaction, with a `ROLLBACK` at its end, if the
//! transaction created temporary tables; `ROLLBACK TO` undoes the rows after a savepoint; and a prepared XA transaction may
//! be rolled back days later. Rows that may be rolled back are held back until their commit is read.

use std::collections::HashMap;

use super::RowBatch;
use super::deferred::BatchAssembler;
use crate::gtid::Gtid;
use crate::position::ResumePoint;

/// The most bytes of rows that are held back; rows of a larger transaction are emitted before its end is known. Smaller in
/// tests, so that they reach it.
pub(super) const HELD_BYTES_MAX: usize = if cfg!(test) { 64 << 10 } else { 32 << 20 };

/// The open transaction.
#[derive(Debug)]
pub(super) struct Transaction {
    /// The offset in the file at which the transaction begins.
    pub begin: u64,
    pub gtid: Option<Gtid>,
    pub commit_time_us: i64,
    pub server_id: u32,
    pub thread_id: u32,
    /// The number of rows so far.
    pub rows: u32,
    /// Whether an earlier run processed the whole transaction.
    pub is_past: bool,
    /// Whether an earlier run processed rows of the transaction.
    pub has_past_rows: bool,
    /// Whether the transaction ends with an event of its own, such as a commit, rather than with its only statement.
    pub begun: bool,
    /// Whether the transaction's statement has no effect: see [`Begin::is_void`](super::gtid_event::Begin::is_void).
    pub is_void: bool,
    /// The current event's offset in the decompressed payload, if the transaction is compressed. Such events have no
    /// position of their own in the file: an event's rows are numbered from this offset, so that the numbers do not
    /// depend on which tables are selected.
    pub payload_offset: Option<u32>,
    /// The ID of an XA transaction.
    pub xa: Option<String>,
    pub hold: PendingTransaction,
}

/// The rows of the open transaction that are held back.
#[derive(Debug)]
pub(super) struct PendingTransaction {
    /// Whether rows are held back at all.
    pub on: bool,
    /// The number of rows of earlier transactions in the current batch.
    pub earlier: usize,
    /// Full batches, with rows of this transaction alone.
    pub batches: Vec<RowBatch>,
    /// How many times rows of the transaction were emitted.
    pub emissions: u32,
    /// Whether the transaction had more rows than can be held back. No rows are then held back until the next savepoint.
    pub overflowed: bool,
    savepoints: Vec<(String, Savepoint)>,
}

/// The state of a transaction at a savepoint.
#[derive(Debug, Clone, Copy)]
struct Savepoint {
    /// The number of full batches.
    batches: usize,
    /// The number of rows in the batch that was current then.
    batch_rows: usize,
    /// The number of rows of the transaction.
    rows: u32,
    /// How many times rows of the transaction had been emitted.
    emissions: u32,
}

/// The rest of a transaction after a rollback to a savepoint.
#[derive(Debug)]
pub(super) struct RolledBack {
    /// The number of rows of the transaction.
    pub rows: u32,
    /// The number of rows in the current batch.
    pub batch_rows: usize,
    /// The replacement for the current batch, if a batch that has become full since the savepoint is reopened.
    pub batch: Option<BatchAssembler>,
}

/// Why a transaction cannot be rolled back to a savepoint.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotRolledBack {
    /// Some of the rows after the savepoint were emitted already.
    Emitted,
    /// The savepoint is unknown.
    Unknown,
}

impl PendingTransaction {
    pub fn new(earlier: usize) -> Self {
        Self { on: false, earlier, batches: Vec::new(), emissions: 0, overflowed: false, savepoints: Vec::new() }
    }

    /// Returns the bytes of the full batches.
    pub fn bytes(&self) -> usize {
        self.batches.iter().map(RowBatch::row_bytes).sum()
    }

    /// Records that the rows of earlier transactions are no longer in the current batch, which has rows of this
    /// transaction alone from now on. Returns how many those rows were.
    pub fn divided(&mut self) -> usize {
        let earlier = std::mem::take(&mut self.earlier);
        self.savepoints.iter_mut().for_each(|(_, savepoint)| savepoint.batch_rows -= earlier);
        earlier
    }

    /// Adds a savepoint, in place of an earlier one of the same name. `name` is its
    /// [`Collation::key`](super::savepoint::Collation::key).
    pub fn savepoint(&mut self, name: String, batch_rows: usize, rows: u32) {
        self.overflowed = false;
        self.savepoints.retain(|(known, _)| *known != name);
        let savepoint = Savepoint { batches: self.batches.len(), batch_rows, rows, emissions: self.emissions };
        self.savepoints.push((name, savepoint));
    }

    /// Discards the rows after a savepoint. A server that did not log the savepoint, because the transaction had
    /// nothing to log yet, logs a `ROLLBACK` of the transaction instead of a rollback to the savepoint.
    ///
    /// # Errors
    /// If rows after the savepoint were emitted, or the savepoint is unknown.
    pub fn roll_back_to(&mut self, name: &str) -> Result<RolledBack, NotRolledBack> {
        let known = self.savepoints.iter().position(|(known, _)| known == name).ok_or(NotRolledBack::Unknown)?;
        let (_, savepoint) = self.savepoints[known];
        self.savepoints.truncate(known + 1);
        if self.emissions != savepoint.emissions {
            return Err(NotRolledBack::Emitted);
        }
        // The batch that was current at the savepoint may be full by now: it is opened again with its rows up to there.
        let full = self.batches.get(savepoint.batches);
        let batch =
            full.map(|full| BatchAssembler::from_rows(&full.packed, full.deferred.as_deref(), 0, savepoint.batch_rows));
        self.batches.truncate(savepoint.batches);
        Ok(RolledBack { rows: savepoint.rows, batch_rows: savepoint.batch_rows, batch })
    }
}

/// The XA transactions that are prepared, and neither committed nor rolled back.
#[derive(Debug, Default)]
pub(super) struct PreparedXa {
    by_id: HashMap<String, Prepared>,
}

/// A prepared XA transaction.
#[derive(Debug)]
pub(super) struct Prepared {
    pub batches: Vec<RowBatch>,
    /// The resume point before the transaction.
    resume: ResumePoint,
    /// The transaction's sequence number, which orders prepared transactions by age.
    sequence: u64,
}

impl PreparedXa {
    /// Adds a prepared transaction. `resume` is the resume point before it.
    pub fn insert(&mut self, id: String, batches: Vec<RowBatch>, resume: ResumePoint, sequence: u64) {
        self.by_id.insert(id, Prepared { batches, resume, sequence });
    }

    pub fn remove(&mut self, id: &str) -> Option<Prepared> {
        self.by_id.remove(id)
    }

    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Returns the bytes of all prepared rows.
    pub fn bytes(&self) -> usize {
        self.by_id.values().flat_map(|prepared| &prepared.batches).map(RowBatch::row_bytes).sum()
    }

    /// Returns the resume point before the oldest prepared transaction.
    pub fn oldest(&self) -> Option<&ResumePoint> {
        self.by_id.values().min_by_key(|prepared| prepared.sequence).map(|prepared| &prepared.resume)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rowmill_batch::PackedBatch;

    use super::*;
    use crate::position::BinlogPosition;

    fn resume(offset: u64) -> ResumePoint {
        ResumePoint::at("server", BinlogPosition::new("binlog.000001", offset))
    }

    /// Returns a held-back batch without rows.
    fn full() -> RowBatch {
        let packed = PackedBatch::default();
        let (rows, new_tables) = (0, Vec::new());
        RowBatch {
            packed,
            deferred: None,
            rows,
            schema_change: None,
            skipped: None,
            skips_undecodable: false,
            new_tables,
            before: Arc::new(resume(4)),
            resume: resume(4),
        }
    }

    /// Returns the remaining rows of the transaction, and of the current batch.
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
        assert_eq!(roll_back_to(&mut hold, "a"), Ok((1, 11)), "the savepoint itself stays");
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
        let left = hold.roll_back_to("a").expect("nothing was emitted");
        assert!((left.rows, left.batch_rows, left.batch.is_some(), hold.batches.len()) == (7, 0, true, 1));
    }

    #[test]
    fn what_was_handed_on_is_not_taken_back() {
        let mut hold = PendingTransaction::new(0);
        hold.emissions = 1;
        hold.savepoint("a".to_owned(), 5, 9);
        assert_eq!(roll_back_to(&mut hold, "a"), Ok((9, 5)), "rows before the savepoint may be emitted");
        hold.emissions = 2;
        assert_eq!(roll_back_to(&mut hold, "a"), Err(NotRolledBack::Emitted));
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
