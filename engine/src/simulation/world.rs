//! The state that outlives the simulated process: the messages that arrived, and the checkpoint. Each change is checked against
//! the invariants.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rowmill_core::position::ResumePoint;

use super::history::History;
use crate::transform::fake::RowDecision;

/// The ID of a message: the row's ID, and whether the message is the row itself or was made of the row by a transform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MessageId {
    pub row: usize,
    pub is_row: bool,
}

/// The setup of the schedule's pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Setup {
    pub workers: usize,
    pub rows_in_flight: u32,
    /// By table: whether the queue is a FIFO queue.
    pub is_fifo: [bool; 2],
    /// Whether rows of the second table go to the sink of dead letters.
    pub shares_dead_letters: bool,
    /// Whether a transform makes dead letters of some rows.
    pub has_dead_rows: bool,
    /// Whether queues aggregate rows.
    pub aggregates: bool,
    /// Whether a message that a queue rejects becomes a dead letter.
    pub has_dead_letters: bool,
    /// Whether the first transform sees batches in order.
    pub is_ordered: bool,
}

/// The state of a schedule, which checks the invariants that the module's documentation lists.
#[derive(Debug)]
pub(super) struct World {
    pub history: Arc<History>,
    pub setup: Setup,
    /// Messages that arrived, with the first run in which each did.
    arrived: BTreeMap<MessageId, u32>,
    /// Messages of which a dead letter arrived.
    dead: BTreeSet<MessageId>,
    pub checkpoint: ResumePoint,
    /// Number of checkpoints that were written.
    pub checkpoints: u64,
    pub run: u32,
    /// The row at which the source, a transform or the router stops this run.
    pub halts_at: Option<usize>,
    /// Messages that queues reject in this run.
    pub refused: BTreeSet<MessageId>,
    /// Number of messages that arrived again.
    pub duplicates: u64,
    violation: Option<String>,
}

/// Counts of what happened in a schedule.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Summary {
    pub runs: u64,
    pub kills: u64,
    pub panics: u64,
    pub row_stops: u64,
    /// Row stops before which not all rows were delivered.
    pub unreached_stops: u64,
    pub store_errors: u64,
    pub signals: u64,
    pub drain_timeouts: u64,
    pub checkpoints: u64,
    pub duplicates: u64,
    pub arrived: u64,
}

impl Summary {
    pub fn add(&mut self, other: &Self) {
        let Self {
            runs,
            kills,
            panics,
            row_stops,
            unreached_stops,
            store_errors,
            signals,
            drain_timeouts,
            checkpoints,
            duplicates,
            arrived,
        } = other;
        self.runs += runs;
        self.kills += kills;
        self.panics += panics;
        self.row_stops += row_stops;
        self.unreached_stops += unreached_stops;
        self.store_errors += store_errors;
        self.signals += signals;
        self.drain_timeouts += drain_timeouts;
        self.checkpoints += checkpoints;
        self.duplicates += duplicates;
        self.arrived += arrived;
    }

    /// Returns whether each kind of fault happened.
    pub fn has_all(&self) -> bool {
        let stops = [self.row_stops, self.unreached_stops, self.drain_timeouts];
        let kinds = [self.kills, self.panics, self.store_errors, self.signals].into_iter().chain(stops);
        kinds.into_iter().all(|count| count > 0) && self.duplicates > 0
    }
}

impl Setup {
    /// Returns whether the second transform makes a dead letter of a row, in every run.
    pub fn is_dead_row(&self, row: usize) -> bool {
        self.has_dead_rows && row % 11 == 5
    }
}

/// Returns the first transform's decision on a row, in every run.
pub(super) fn first_decision(row: usize) -> RowDecision {
    match row % 7 {
        3 => RowDecision::Drop,
        1 | 5 => RowDecision::Emit(format!("{{\"id\":{row},\"emitted\":true}}")),
        _ => RowDecision::Keep,
    }
}

impl World {
    pub fn new(history: Arc<History>, setup: Setup) -> Self {
        Self {
            history,
            setup,
            arrived: BTreeMap::new(),
            dead: BTreeSet::new(),
            checkpoint: History::start(),
            checkpoints: 0,
            run: 0,
            halts_at: None,
            refused: BTreeSet::new(),
            duplicates: 0,
            violation: None,
        }
    }

    /// Returns the messages of a row, in order.
    fn messages(row: usize) -> impl Iterator<Item = MessageId> {
        let decision = first_decision(row);
        let emitted = matches!(decision, RowDecision::Emit(_)).then_some(MessageId { row, is_row: false });
        let itself = (decision != RowDecision::Drop).then_some(MessageId { row, is_row: true });
        emitted.into_iter().chain(itself)
    }

    fn has(&self, id: MessageId) -> bool {
        self.arrived.contains_key(&id) || self.dead.contains(&id)
    }

    /// Returns whether the row itself is to arrive.
    pub fn is_delivered_as_row(&self, row: usize) -> bool {
        first_decision(row) != RowDecision::Drop && !self.setup.is_dead_row(row)
    }

    pub fn arrived(&self) -> u64 {
        self.arrived.len() as u64
    }

    /// Returns the first row after the checkpoint.
    pub fn first_left(&self) -> usize {
        self.history.first_after(&self.checkpoint)
    }

    /// Returns whether all invariants held so far.
    ///
    /// # Errors
    /// The first invariant that was violated.
    pub fn result(&self) -> Result<(), String> {
        self.violation.clone().map_or(Ok(()), Err)
    }

    pub fn violated(&mut self, what: impl FnOnce() -> String) {
        if self.violation.is_none() {
            self.violation = Some(format!("run {}: {}", self.run, what()));
        }
    }

    /// Records messages that a queue rejects.
    pub fn refuses(&mut self, ids: &[MessageId]) {
        self.refused.extend(ids);
    }

    /// Records a message that arrives.
    pub fn arrives(&mut self, id: MessageId) {
        self.is_before_stop(id);
        self.is_within_budget(id.row);
        self.is_in_order(id);
        self.duplicates += u64::from(self.arrived.contains_key(&id));
        self.arrived.entry(id).or_insert(self.run);
    }

    /// Records a dead letter that arrives.
    pub fn dies(&mut self, id: MessageId) {
        self.is_before_stop(id);
        self.is_within_budget(id.row);
        self.dead.insert(id);
    }

    fn is_before_stop(&mut self, id: MessageId) {
        if self.halts_at.is_some_and(|row| id.row >= row) {
            self.violated(|| format!("{id:?} arrives, but the pipeline stops before it"));
        }
    }

    fn is_within_budget(&mut self, row: usize) {
        let (first, limit) = (self.first_left(), self.setup.rows_in_flight as usize);
        if row >= first + limit {
            self.violated(|| {
                format!("row {row} arrives, but the checkpoint is before row {first}, and {limit} may be in flight")
            });
        }
    }

    /// Checks that all earlier messages of the group arrived, except those that become dead letters.
    fn is_in_order(&mut self, id: MessageId) {
        let row = &self.history.rows[id.row];
        let (table, key) = (row.table, row.key);
        if !self.setup.is_fifo[table as usize] {
            return;
        }
        let rows = self.history.rows.iter().enumerate().take(id.row + 1);
        let of_group = rows.filter(|(_, row)| (row.table, row.key) == (table, key)).map(|(index, _)| index);
        let missing = of_group
            .flat_map(Self::messages)
            .take_while(|before| *before != id)
            .find(|before| !(self.has(*before) || self.is_letter(*before)));
        if let Some(before) = missing {
            self.violated(|| format!("{id:?} arrives before {before:?} of its group"));
        }
    }

    /// Returns whether a message becomes a dead letter in this run, which arrives at another queue.
    fn is_letter(&self, id: MessageId) -> bool {
        let is_refused = self.setup.has_dead_letters && self.refused.contains(&id);
        is_refused || id.is_row && self.setup.is_dead_row(id.row)
    }

    /// Records a checkpoint that is written.
    pub fn writes(&mut self, resume: ResumePoint) {
        let (known, first) = (self.first_left(), self.history.first_after(&resume));
        if first < known {
            self.violated(|| format!("the checkpoint goes back from row {known} to row {first}"));
        }
        let missing = (known..first).flat_map(Self::messages).find(|id| !self.has(*id));
        if let Some(id) = missing {
            self.violated(|| format!("the checkpoint {resume} is past {id:?}, which did not arrive"));
        }
        self.checkpoint = resume;
        self.checkpoints += 1;
    }

    /// Checks, after the last run, that everything arrived.
    pub fn ends(&mut self) {
        let rows = self.history.rows.len();
        let missing = (0..rows).flat_map(Self::messages).find(|id| !self.has(*id));
        if let Some(id) = missing {
            self.violated(|| format!("{id:?} never arrives"));
        }
        let first = self.first_left();
        if first < rows {
            self.violated(|| format!("the last checkpoint is before row {first} of {rows}"));
        }
    }
}
