//! Steps between reading and the checkpoint, at each of which a test ends the process:
//! `ROWMILL_ABORT_AT=accepted:3` does so when the third request is accepted. Without the variable nothing happens.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where a batch, or what became of it, has got to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Decoded.
    Decoded,
    /// Through the transforms.
    Transformed,
    /// In its sinks' hands.
    HandedOn,
    /// In a request that isn't sent yet.
    Sending,
    /// In a request that is accepted, and nobody knows.
    Accepted,
    /// Acknowledged by its sinks, and past the watermark.
    Acknowledged,
    /// Not yet in the checkpoint, which is to be written now.
    Checkpointing,
    /// In the checkpoint.
    Checkpointed,
}

impl Step {
    /// All, in their order.
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

    /// As the variable has it.
    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

/// The step at which the process ends, and how often it is reached until then.
struct Abort {
    at: Step,
    left: AtomicU64,
}

/// The variable's value. What can't be read means nothing.
fn parse(text: &str) -> Option<Abort> {
    let (name, count) = text.split_once(':')?;
    let at = Step::ALL.into_iter().find(|step| step.name() == name)?;
    Some(Abort { at, left: AtomicU64::new(count.parse().ok().filter(|count| *count > 0)?) })
}

/// A step is reached that takes a while: in the simulation, time passes here.
#[cfg(test)]
pub async fn delay(_: Step) {
    crate::simulation::delay().await;
}

/// A step is reached that takes a while. Here it takes none.
#[cfg(not(test))]
#[inline]
pub async fn delay(_: Step) {}

/// A step is reached: the process ends here if it is told to.
pub(crate) fn reached(step: Step) {
    static ABORT: OnceLock<Option<Abort>> = OnceLock::new();
    let abort = ABORT.get_or_init(|| parse(&std::env::var("ROWMILL_ABORT_AT").ok()?));
    let Some(Abort { at, left }) = abort else { return };
    if *at == step && left.fetch_sub(1, Ordering::Relaxed) == 1 {
        // Like a kill: nothing is tidied up.
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
