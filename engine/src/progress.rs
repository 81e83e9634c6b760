//! Progress lines in the log: how far everything is delivered, and how fast. Frequent while the engine lags, else rare.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rowmill_core::position::ResumePoint;
use tokio::time::Instant;
use tracing::info;

use crate::ack::Advance;
use crate::source::Lag;

/// The interval of the lines while the lag is at least this long.
const INTERVAL_LAGGING: Duration = Duration::from_secs(10);
/// The interval of the lines otherwise, if anything was delivered.
const INTERVAL: Duration = Duration::from_secs(60);

/// Logs progress lines about the rows that are delivered.
#[derive(Debug)]
pub struct ProgressReporter(Mutex<State>);

#[derive(Debug)]
struct State {
    resume: ResumePoint,
    /// Rows delivered since the last line.
    rows: u64,
    said: Instant,
}

impl ProgressReporter {
    /// Creates a reporter of deliveries after `start`.
    pub fn new(start: ResumePoint) -> Self {
        Self(Mutex::new(State { resume: start, rows: 0, said: Instant::now() }))
    }

    /// Records that everything is delivered up to a resume point.
    pub fn delivered(&self, Advance { progress, rows, .. }: Advance) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.resume = progress;
        state.rows += rows;
    }

    /// Logs the lines that are due, without end.
    pub async fn report(&self, source_lag: &Lag) {
        loop {
            tokio::time::sleep(INTERVAL_LAGGING).await;
            let now = Instant::now();
            if let Some(Line { rows, rows_per_s, position, lag }) = self.line(now, source_lag.age()) {
                info!(rows, rows_per_s, %position, lag = lag.map(tracing::field::debug), "progress");
            }
        }
    }

    /// Returns the line that is due, if one is. `age` is the age of the newest event that was read.
    fn line(&self, now: Instant, age: Option<Duration>) -> Option<Line> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now - state.said;
        let lag = age.filter(|age| *age >= INTERVAL_LAGGING);
        if lag.is_none() && (passed < INTERVAL || state.rows == 0) {
            return None;
        }
        state.said = now;
        let rows = std::mem::take(&mut state.rows);
        let rows_per_s = (rows as f64 / passed.as_secs_f64()).round() as u64;
        Some(Line { rows, rows_per_s, position: state.resume.to_string(), lag })
    }
}

#[derive(Debug, PartialEq)]
struct Line {
    rows: u64,
    rows_per_s: u64,
    position: String,
    lag: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use rowmill_core::position::BinlogPosition;

    fn resume(offset: u64) -> ResumePoint {
        let position = BinlogPosition { file: "binlog.000001".into(), offset };
        ResumePoint::at("", position)
    }

    fn line(rows: u64, rows_per_s: u64, offset: u64, lag_s: Option<u64>) -> Option<Line> {
        let position = format!("binlog.000001:{offset}");
        Some(Line { rows, rows_per_s, position, lag: lag_s.map(Duration::from_secs) })
    }

    #[test]
    fn it_reports_more_often_while_it_lags() {
        let pace = ProgressReporter::new(resume(4));
        let start = Instant::now();
        pace.0.lock().expect("a lock").said = start;
        let after = |seconds| start + Duration::from_secs(seconds);
        let age = |seconds| Some(Duration::from_secs(seconds));
        let advance = |offset, rows| Advance { progress: resume(offset), rows, bytes: 1 };

        assert_eq!(pace.line(after(10), None), None, "nothing to read");
        assert_eq!(pace.line(after(10), age(3)), None, "a lag below the interval");
        assert_eq!(pace.line(after(10), age(300)), line(0, 0, 4, Some(300)), "a lag, and nothing delivered");
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
