//! Reports of the [status](crate::status) in the log: progress lines, and warnings that the lag nears the server's retention.
//!
//! Progress lines say how far everything is delivered, and how fast: frequently while the engine lags, else rarely. Warnings
//! come while there is time to act: changes that the server purges before they are read are lost.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use crate::status::{Snapshot, Status};

/// The interval of the lines while the lag is at least this long.
const INTERVAL_LAGGING: Duration = Duration::from_secs(10);
/// The interval of the lines otherwise, if anything was delivered.
const INTERVAL: Duration = Duration::from_secs(60);

/// The intervals between two looks at the lag: a twentieth of the retention, within these bounds.
const LAG_CHECK_INTERVAL_MIN: Duration = Duration::from_secs(1);
const LAG_CHECK_INTERVAL_MAX: Duration = Duration::from_secs(60);

/// Logs the progress lines that are due, without end.
pub async fn report(status: &Status) {
    let mut lines = Lines { rows_said: 0, said: Instant::now() };
    loop {
        tokio::time::sleep(INTERVAL_LAGGING).await;
        if let Some(Line { rows, rows_per_s, position, lag }) = lines.next(Instant::now(), &status.snapshot()) {
            info!(rows, rows_per_s, %position, lag = lag.map(tracing::field::debug), "progress");
        }
    }
}

/// Warns repeatedly while the lag exceeds half of the server's binlog retention.
pub async fn warn_of_lag(status: &Status) {
    loop {
        let twentieth = status.snapshot().retention.unwrap_or_default() / 20;
        tokio::time::sleep(twentieth.clamp(LAG_CHECK_INTERVAL_MIN, LAG_CHECK_INTERVAL_MAX)).await;
        let now = status.snapshot();
        if let Some((lag, retention)) = alarming(&now) {
            warn!(
                source = now.source,
                ?lag,
                ?retention,
                "the lag exceeds half of the server's binlog retention: changes that are purged before they are read are \
                 lost; find out why messages are not delivered faster, or raise binlog_expire_logs_seconds"
            );
            // More often would only fill the log.
            tokio::time::sleep(retention / 20).await;
        }
    }
}

/// Returns lag and retention if the lag exceeds half of the retention.
fn alarming(now: &Snapshot) -> Option<(Duration, Duration)> {
    now.lag.zip(now.retention).filter(|(lag, retention)| *lag > *retention / 2)
}

/// What the progress lines have said so far.
#[derive(Debug)]
struct Lines {
    /// The rows delivered up to the last line.
    rows_said: u64,
    said: Instant,
}

impl Lines {
    /// Returns the line that is due, if one is.
    fn next(&mut self, now: Instant, status: &Snapshot) -> Option<Line> {
        let passed = now - self.said;
        let rows = status.rows_delivered - self.rows_said;
        let lag = status.lag.filter(|lag| *lag >= INTERVAL_LAGGING);
        if lag.is_none() && (passed < INTERVAL || rows == 0) {
            return None;
        }
        (self.said, self.rows_said) = (now, status.rows_delivered);
        let rows_per_s = (rows as f64 / passed.as_secs_f64()).round() as u64;
        let position = status.delivered.as_ref().map(ToString::to_string).unwrap_or_default();
        Some(Line { rows, rows_per_s, position, lag })
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
    use rowmill_core::position::{BinlogPosition, ResumePoint};

    fn status(rows_delivered: u64, offset: u64, lag_s: Option<u64>) -> Snapshot {
        let position = BinlogPosition { file: "binlog.000001".into(), offset };
        Snapshot {
            source: "db:3306".to_owned(),
            lag: lag_s.map(Duration::from_secs),
            retention: None,
            delivered: Some(ResumePoint::at("", position)),
            rows_delivered,
        }
    }

    fn line(rows: u64, rows_per_s: u64, offset: u64, lag_s: Option<u64>) -> Option<Line> {
        let position = format!("binlog.000001:{offset}");
        Some(Line { rows, rows_per_s, position, lag: lag_s.map(Duration::from_secs) })
    }

    #[test]
    fn it_reports_more_often_while_it_lags() {
        let start = Instant::now();
        let mut lines = Lines { rows_said: 0, said: start };
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(lines.next(after(10), &status(0, 4, None)), None, "nothing to read");
        assert_eq!(lines.next(after(10), &status(0, 4, Some(3))), None, "a lag below the interval");
        let lagging = status(0, 4, Some(300));
        assert_eq!(lines.next(after(10), &lagging), line(0, 0, 4, Some(300)), "a lag, and nothing delivered");
        assert_eq!(lines.next(after(20), &status(120, 900, Some(100))), line(120, 12, 900, Some(100)));
        assert_eq!(lines.next(after(79), &status(720, 950, None)), None, "not yet");
        assert_eq!(lines.next(after(80), &status(720, 950, None)), line(600, 10, 950, None));
        assert_eq!(lines.next(after(2000), &status(720, 950, None)), None, "nothing was delivered since");
        assert_eq!(lines.next(after(2010), &status(721, 970, Some(0))), line(1, 0, 970, None));
    }

    #[test]
    fn alarms_at_half_of_the_retention() {
        let alarms = |lag_s: Option<u64>, retention_s: Option<u64>| {
            let retention = retention_s.map(Duration::from_secs);
            alarming(&Snapshot { retention, ..status(0, 4, lag_s) }).is_some()
        };
        assert!(!alarms(Some(1_000), None), "kept for ever");
        assert!(alarms(Some(1_000), Some(1_500)));
        assert!(!alarms(Some(1_000), Some(3_000)), "there is time");
        assert!(!alarms(None, Some(1_500)), "nothing is newer");
    }
}
