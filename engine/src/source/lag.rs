//! The lag: the age of the newest event that was read, by the server's clock.
//!
//! [`Lag::watch`] warns while there is time to act: changes that the server purges before they are read are lost.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rowmill_core::binlog::{EventHeader, EventKind};
use tracing::warn;

const CHECK_INTERVAL_MAX: Duration = Duration::from_secs(60);
const CHECK_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// The lag, shared by the source, its watcher and the progress reporter.
#[derive(Debug, Default)]
pub struct Lag {
    /// The time stamp of the newest event that was read, in seconds since 1970; 0 if the server has nothing newer.
    read_s: AtomicU32,
    /// How long the server keeps its binlog, in seconds; 0 if for ever.
    kept_s: AtomicU64,
    /// The server's clock, and when it was read.
    clock: Mutex<Option<(Duration, Instant)>>,
}

impl Lag {
    /// Sets how long the server keeps its binlog; `None` if for ever.
    pub(super) fn keeps(&self, retention: Option<Duration>) {
        self.kept_s.store(retention.map_or(0, |retention| retention.as_secs().max(1)), Ordering::Relaxed);
    }

    /// Sets the server's clock, as time since 1970. The host's clock may differ from it, and may be set.
    pub(super) fn is_now(&self, time: Duration) {
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner) = Some((time, Instant::now()));
    }

    /// Returns the server's clock, or the host's if the server's is not known.
    fn now(&self) -> Duration {
        match &*self.clock.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((time, at)) => *time + at.elapsed(),
            None => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        }
    }

    /// Updates the lag from an event that was read.
    pub(super) fn read(&self, event: &[u8]) {
        let Ok(header) = EventHeader::parse(event) else { return };
        match header.kind {
            // Sent only when the server has nothing else to send.
            EventKind::HEARTBEAT | EventKind::HEARTBEAT_V2 => self.read_s.store(0, Ordering::Relaxed),
            EventKind::FORMAT_DESCRIPTION => {} // its time stamp is that of the file
            _ if header.timestamp_s > 0 && !header.is_artificial() => {
                self.read_s.store(header.timestamp_s, Ordering::Relaxed);
            }
            _ => {}
        }
    }

    /// Warns repeatedly while the lag exceeds half of the server's binlog retention.
    pub(super) async fn watch(&self, address: &str) {
        loop {
            let kept = Duration::from_secs(self.kept_s.load(Ordering::Relaxed));
            let interval = (kept / 20).clamp(CHECK_INTERVAL_MIN, CHECK_INTERVAL_MAX);
            tokio::time::sleep(interval).await;
            if let Some(age) = self.alarming(self.now()) {
                warn!(
                    source = address,
                    lag = ?age,
                    retention = ?kept,
                    "the lag exceeds half of the server's binlog retention: changes that are purged before they are read are \
                     lost; find out why messages are not delivered faster, or raise binlog_expire_logs_seconds"
                );
                // More often would only fill the log.
                tokio::time::sleep(kept / 20).await;
            }
        }
    }

    /// Returns the lag, or `None` if the server has nothing newer.
    pub fn age(&self) -> Option<Duration> {
        self.age_at(self.now())
    }

    fn age_at(&self, now: Duration) -> Option<Duration> {
        let read_s = self.read_s.load(Ordering::Relaxed);
        (read_s > 0).then(|| Duration::from_secs(now.as_secs().saturating_sub(read_s.into())))
    }

    /// Returns the lag if it exceeds half of the server's binlog retention.
    fn alarming(&self, now: Duration) -> Option<Duration> {
        let kept_s = self.kept_s.load(Ordering::Relaxed);
        self.age_at(now).filter(|age| kept_s > 0 && age.as_secs() > kept_s / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(timestamp_s: u32, kind: u8, log_pos: u32) -> Vec<u8> {
        let mut event = timestamp_s.to_le_bytes().to_vec();
        event.push(kind);
        event.extend([1, 0, 0, 0, 19, 0, 0, 0]);
        event.extend(log_pos.to_le_bytes());
        event.extend([0, 0]);
        event
    }

    #[test]
    fn alarms_at_half_of_what_is_kept() {
        const QUERY: u8 = 2;
        const HEARTBEAT: u8 = 27;
        let (lag, now) = (Lag::default(), Duration::from_secs(10_000));
        lag.read(&event(9_000, QUERY, 500));
        assert_eq!(lag.alarming(now), None, "kept for ever");
        lag.keeps(Some(Duration::from_secs(1_500)));
        assert_eq!(lag.alarming(now), Some(Duration::from_secs(1_000)));
        lag.keeps(Some(Duration::from_secs(3_000)));
        assert_eq!(lag.alarming(now), None, "there is time");
        lag.keeps(Some(Duration::from_secs(1_500)));
        lag.read(&event(0, HEARTBEAT, 500));
        assert_eq!(lag.alarming(now), None, "nothing is newer");
    }

    #[test]
    fn the_servers_clock_counts() {
        let lag = Lag::default();
        lag.is_now(Duration::from_secs(10_000));
        lag.read(&event(9_990, 2, 500));
        assert_eq!(lag.age().map(|age| age.as_secs()), Some(10), "whatever the host's clock shows");
    }
}
