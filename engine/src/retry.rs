//! Retries: the pauses between attempts, and which of repeated failures are logged.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::Instant;

/// While an operation keeps failing, each new reason is logged, up to `REASONS_MAX` reasons. Any other failure is logged if
/// nothing was logged for `REASON_INTERVAL`.
const REASONS_MAX: usize = 8;
const REASON_INTERVAL: Duration = Duration::from_secs(10);

/// Formats an error with its causes, each once: the text of some errors includes that of their causes.
pub fn error_text(error: &anyhow::Error) -> String {
    let mut said: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string();
        let text = text.trim_start_matches("Input/output error: "); // the driver's prefix of each I/O error
        if !said.iter().any(|earlier| earlier.contains(text)) {
            said.push(text.to_owned());
        }
    }
    said.join(": ")
}

/// Pauses between attempts: each about twice as long as the one before, with jitter.
#[derive(Debug)]
pub struct Delays {
    delays: ExponentialBackoff,
    max: Duration,
}

impl Delays {
    /// Makes pauses from `min` to `max`, and with jitter up to twice as long. A seed makes the jitter deterministic.
    pub fn new(min: Duration, max: Duration, jitter_seed: Option<u64>) -> Self {
        let mut delays =
            ExponentialBuilder::new().with_min_delay(min).with_max_delay(max).with_jitter().without_max_times();
        if let Some(seed) = jitter_seed {
            delays = delays.with_jitter_seed(seed);
        }
        Self { delays: delays.build(), max }
    }

    /// Returns the next pause.
    pub fn next_delay(&mut self) -> Duration {
        self.delays.next().unwrap_or(self.max)
    }
}

/// Decides which failures of a retried operation are logged.
#[derive(Debug, Default)]
pub struct FailureLog(Option<Failing>);

#[derive(Debug)]
struct Failing {
    since: Instant,
    said: Instant,
    reasons: Vec<String>,
}

impl FailureLog {
    /// Records a failure. Returns how long the operation has been failing, if the failure is to be logged.
    pub fn failed(&mut self, reason: &str) -> Option<Duration> {
        let now = Instant::now();
        let is_first = self.0.is_none();
        let failing = self.0.get_or_insert_with(|| Failing { since: now, said: now, reasons: Vec::new() });
        let is_new = failing.reasons.len() < REASONS_MAX && !failing.reasons.iter().any(|said| said == reason);
        if is_new {
            failing.reasons.push(reason.to_owned());
        }
        let is_due = is_first || is_new || now - failing.said >= REASON_INTERVAL;
        if is_due {
            failing.said = now;
        }
        is_due.then(|| now - failing.since)
    }

    /// Records a success. Returns how long the operation had been failing, if it had.
    pub fn worked(&mut self) -> Option<Duration> {
        self.0.take().map(|failing| failing.since.elapsed())
    }
}

/// Of events that may occur for every row, this many are logged one by one, and then the 16th, the 32nd and so on.
const LOGGED_EACH: u64 = 10;

/// Returns whether the `nth` of many similar events is logged.
pub fn is_logged(nth: u64) -> bool {
    nth <= LOGGED_EACH || nth.is_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_said_once() {
        let error = std::io::Error::from_raw_os_error(111);
        let error = anyhow::Error::new(mysql_async::Error::from(error)).context("cannot reach the server");
        assert_eq!(error_text(&error), "cannot reach the server: Connection refused (os error 111)");
    }

    #[tokio::test(start_paused = true)]
    async fn each_reason_is_said_and_then_one_now_and_then() {
        let mut log = FailureLog::default();
        assert_eq!(log.worked(), None);
        assert_eq!(log.failed("a"), Some(Duration::ZERO));
        assert_eq!(log.failed("a"), None);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(log.failed("b"), Some(Duration::from_secs(1)), "a new one");
        assert_eq!(log.failed("a"), None);
        tokio::time::sleep(REASON_INTERVAL).await;
        assert_eq!(log.failed("a"), Some(REASON_INTERVAL + Duration::from_secs(1)));
        assert_eq!(log.failed("a"), None);
        assert!((0..100).filter(|nth| log.failed(&format!("reason {nth}")).is_some()).count() < REASONS_MAX);
        assert_eq!(log.worked(), Some(REASON_INTERVAL + Duration::from_secs(1)));
        assert_eq!(log.failed("a"), Some(Duration::ZERO));
    }
}
