//! Fail points: steps between reading and the checkpoint at which tests abort the process. `ROWMILL_ABORT_AT=accepted:3`
//! aborts the process when the third request is accepted. Without the variable nothing happens.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// A step of a batch, or of its messages, in the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The batch is decoded.
    Decoded,
    /// The transforms have run.
    Transformed,
    /// The messages are handed to the sinks.
    HandedOn,
    /// A request is ready, and not yet sent.
    Sending,
    /// A request is accepted, and not yet acknowledged.
    Accepted,
    /// The sinks have acknowledged the batch, and the watermark has passed it.
    Acknowledged,
    /// The checkpoint is about to be written.
    Checkpointing,
    /// The checkpoint is written.
    Checkpointed,
}

impl Step {
    /// All steps, in order.
    pub const ALL: [Self; 8] = [
        Self::Decoded,
        Self::Transformed,
        Self::HandedOn,
        Self::Sending,
        Self::Accepted,
        Self::Acknowledged,
        Self::Checkpointing,
        Self::Checkpointed,
    ];

    /// Returns the name that the variable uses.
    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

/// The step at which the process aborts, and how many times it is still to be reached.
struct Abort {
    at: Step,
    left: AtomicU64,
}

/// Parses the variable's value. An invalid value is ignored.
fn parse(text: &str) -> Option<Abort> {
    let (name, count) = text.split_once(':')?;
    let at = Step::ALL.into_iter().find(|step| step.name() == name)?;
    Some(Abort { at, left: AtomicU64::new(count.parse().ok().filter(|count| *count > 0)?) })
}

/// Lets time pass at a step, in the simulation.
#[cfg(test)]
pub async fn delay(_: Step) {
    crate::simulation::delay().await;
}

/// Does nothing: only the simulation lets time pass at a step.
#[cfg(not(test))]
#[inline]
pub async fn delay(_: Step) {}

/// Reports that a step is reached. Aborts the process if the variable asks for it.
pub(crate) fn reached(step: Step) {
    static ABORT: OnceLock<Option<Abort>> = OnceLock::new();
    let abort = ABORT.get_or_init(|| parse(&std::env::var("ROWMILL_ABORT_AT").ok()?));
    let Some(Abort { at, left }) = abort else { return };
    if *at == step && left.fetch_sub(1, Ordering::Relaxed) == 1 {
        // Like a kill: no clean-up.
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_and_a_count_are_read() {
        for step in Step::ALL {
            let abort = parse(&format!("{}:7", step.name())).expect("a step");
            assert_eq!((abort.at, abort.left.into_inner()), (step, 7));
        }
        for nonsense in ["", "decoded", "decoded:", "decoded:0", "nowhere:1"] {
            assert!(parse(nonsense).is_none(), "{nonsense}");
        }
    }
}
