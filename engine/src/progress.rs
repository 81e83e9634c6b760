//! How far everything is delivered and how fast, as lines of the log: often while the engine is behind, seldom otherwise.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rowmill_core::position::ResumePoint;
use tokio::time::Instant;
use tracing::info;

use crate::ack::Advance;
use crate::source::Lag;

/// How often it is said while what is read is as old as that.
const INTERVAL_BEHIND: Duration = Duration::from_secs(10);
/// How often otherwise, if there was anything to deliver.
const INTERVAL: Duration = Duration::from_secs(60);

/// Of what may happen to every row the first ones are logged each, later ones only now and then.
const LOGGED_EACH: u64 = 10;

/// Whether the nth of many alike is logged.
pub fn is_logged(nth: u64) -> bool {
    nth <= LOGGED_EACH || nth.is_power_of_two()
}

/// What was delivered, and said of it.
#[derive(Debug)]
pub struct ProgressReporter(Mutex<State>);

#[derive(Debug)]
struct State {
    resume: ResumePoint,
    /// Delivered since it was last said.
    rows: u64,
    said: Instant,
}

impl ProgressReporter {
    /// Nothing is delivered behind `start` yet.
    pub fn new(start: ResumePoint) -> Self {
        Self(Mutex::new(State { resume: start, rows: 0, said: Instant::now() }))
    }

    /// All is delivered up to there.
    pub fn delivered(&self, Advance { progress, rows, .. }: Advance) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.resume = progress;
        state.rows += rows;
    }

    /// Says it, again and again.
    pub async fn report(&self, lag: &Lag) {
        loop {
            tokio::time::sleep(INTERVAL_BEHIND).await;
            let now = Instant::now();
            if let Some(Line { rows, rows_per_s, position, behind }) = self.line(now, lag.age()) {
                info!(rows, rows_per_s, %position, behind = behind.map(tracing::field::debug), "progress");
            }
        }
    }

    /// What is to be said now of changes that are so old.
    fn line(&self, now: Instant, age: Option<Duration>) -> Option<Line> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now - state.said;
        let behind = age.filter(|age| *age >= INTERVAL_BEHIND);
        if behind.is_none() && (passed < INTERVAL || state.rows == 0) {
            return None;
        }
        state.said = now;
        let rows = std::mem::take(&mut state.rows);
        let rows_per_s = (rows as f64 / passed.as_secs_f64()).round() as u64;
        Some(Line { rows, rows_per_s, position: state.resume.to_string(), behind })
    }
}

#[derive(Debug, PartialEq)]
struct Line {
    rows: u64,
    rows_per_s: u64,
    position: String,
    behind: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use rowmill_core::position::BinlogPosition;

    fn resume(offset: u64) -> ResumePoint {
        let position = BinlogPosition { file: "binlog.000001".into(), offset };
        ResumePoint::at("", position)
    }

    fn line(rows: u64, rows_per_s: u64, offset: u64, behind_s: Option<u64>) -> Option<Line> {
        let position = format!("binlog.000001:{offset}");
        Some(Line { rows, rows_per_s, position, behind: behind_s.map(Duration::from_secs) })
    }

    #[test]
    fn it_says_more_while_it_is_behind() {
        let pace = ProgressReporter::new(resume(4));
        let start = Instant::now();
        pace.0.lock().expect("a lock").said = start;
        let after = |seconds| start + Duration::from_secs(seconds);
        let age = |seconds| Some(Duration::from_secs(seconds));
        let advance = |offset, rows| Advance { progress: resume(offset), rows, bytes: 1 };

        assert_eq!(pace.line(after(10), None), None, "nothing to read");
        assert_eq!(pace.line(after(10), age(3)), None, "nearly now");
        assert_eq!(pace.line(after(10), age(300)), line(0, 0, 4, Some(300)), "behind, and nothing delivered");
        pace.delivered(advance(500, 110));
        pace.delivered(advance(900, 10));
        assert_eq!(pace.line(after(20), age(100)), line(120, 12, 900, Some(100)));
        pace.delivered(advance(950, 600));
        assert_eq!(pace.line(after(79), None), None, "not yet");
        assert_eq!(pace.line(after(80), None), line(600, 10, 950, None));
        assert_eq!(pace.line(after(2000), None), None, "nothing was delivered since");
        pace.delivered(advance(970, 1));
        assert_eq!(pace.line(after(2010), age(0)), line(1, 0, 970, None));
    }
}
