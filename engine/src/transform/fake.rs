//! Fake transforms for the simulation: a closure decides on each row.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rowmill_core::batch::{Batch, PackedBatch, Row, RowIndex, Table};
use rowmill_pipeline::sequencer::Sequencer;

use super::decision::Decision;
use super::error::PluginError;
use super::interest::{Disposition, Interest};
use super::manifest::OnError;
use super::{Decided, Emitted, MessageText, Passed, Transform, TransformError, rewrite};

/// A fake transform's decision on a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RowDecision {
    Keep,
    Drop,
    /// The row is kept, and a message with this body is made of it.
    Emit(String),
    /// The transform fails on the row.
    Fail(OnError),
    /// The transform fails on the row's batch, so that its rows are tried one by one, and then on the row.
    FailBatch(OnError),
    Panic,
}

/// A transform that decides by a closure.
pub(crate) struct FakeTransform {
    name: &'static str,
    decide: Box<dyn Fn(&Row<'_>) -> RowDecision + Send + Sync>,
    sequencer: Option<Sequencer>,
    /// How long `interest` takes.
    asked_for: Duration,
}

impl FakeTransform {
    /// Creates a transform, which sees batches in order if `is_ordered`.
    pub fn transform(
        name: &'static str,
        is_ordered: bool,
        decide: impl Fn(&Row<'_>) -> RowDecision + Send + Sync + 'static,
    ) -> Arc<dyn Transform> {
        let sequencer = is_ordered.then(Sequencer::default);
        Arc::new(Self { name, decide: Box::new(decide), sequencer, asked_for: Duration::ZERO })
    }

    /// Creates a transform whose `interest` takes this long.
    pub fn slow(asked_for: Duration) -> Arc<dyn Transform> {
        Arc::new(Self { name: "slow", decide: Box::new(|_| RowDecision::Keep), sequencer: None, asked_for })
    }
}

impl fmt::Debug for FakeTransform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Transform for FakeTransform {
    fn name(&self) -> &str {
        self.name
    }

    fn interest(&self, _table: &Table) -> Result<Interest, PluginError> {
        std::thread::sleep(self.asked_for);
        Ok(Interest::All)
    }

    fn decide(
        &self,
        packed: &PackedBatch,
        rows: &[Passed],
        _: &Arc<[Arc<Table>]>,
        _: &mut Duration,
    ) -> Result<Decided, PluginError> {
        let batch = packed.view();
        let packed = rewrite(&batch, rows, None);
        let batch = packed.view();
        let mut decision = Decision { keep: vec![true; rows.len()], ..Decision::default() };
        for (index, row) in (0..).zip(batch.rows()) {
            let mut fail = |on_error: OnError| {
                decision.keep[index as usize] = false;
                decision.fails.push((RowIndex(index), format!("{on_error:?}")));
            };
            match (self.decide)(&row) {
                RowDecision::Keep => {}
                RowDecision::Drop => decision.keep[index as usize] = false,
                RowDecision::Emit(body) => decision.emitted.push(Emitted {
                    batch: 0,
                    row: RowIndex(index),
                    origin: 0,
                    sink: None,
                    text: MessageText::of("", "", body),
                    attributes: Vec::new(),
                }),
                RowDecision::Fail(on_error) => fail(on_error),
                RowDecision::FailBatch(on_error) if rows.len() == 1 => fail(on_error),
                RowDecision::FailBatch(_) => return Err(PluginError::Reject("a row of it".to_owned())),
                RowDecision::Panic => panic!("simulated"),
            }
        }
        Ok(Decided { dispositions: vec![Disposition::Ask; rows.len()], decision: Some((packed, decision)) })
    }

    fn on_error(&self, error: &TransformError) -> OnError {
        let all = [OnError::Halt, OnError::Skip, OnError::DeadLetter];
        all.into_iter().find(|on_error| error.message == format!("{on_error:?}")).expect("the error names its handling")
    }

    fn rows_seen_alone(&self, _: &Batch<'_>, _: &[Passed], _: &[Arc<Table>]) -> Option<Vec<bool>> {
        None
    }

    fn failed_as_a_whole(&self, _error: &PluginError) {}

    fn sequencer(&self) -> Option<&Sequencer> {
        self.sequencer.as_ref()
    }

    fn log_counters(&self) {}
}
