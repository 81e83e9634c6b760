//! How old the changes are that are being read, and a warning while there is time to do something
//! about it: once the server purges what wasn't read yet, it is lost to the engine.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rowmill_core::binlog::{EventHeader, EventKind};
use tracing::warn;

const CHECK_INTERVAL_MAX: Duration = Duration::from_secs(60);
const CHECK_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// How far the reading is behind. Shared with who watches it.
#[derive(Debug, Default)]
pub struct Lag {
    /// When the newest event that was read was written, in seconds since 1970; 0: there is no newer one.
    read_s: AtomicU32,
    /// For how many seconds the server keeps its binlog; 0: for ever.
    kept_s: AtomicU64,
    /// What the server's clock showed, and when.
    clock: Mutex<Option<(Duration, Instant)>>,
}

impl Lag {
    /// The server keeps its binlog for so long; `None`: for ever.
    pub(super) fn keeps(&self, retention: Option<Duration>) {
        self.kept_s.store(retention.map_or(0, |retention| retention.as_secs().max(1)), Ordering::Relaxed);
    }

    /// The server's clock shows so much since 1970. The host's may show something else, and may be set.
    pub(super) fn is_now(&self, time: Duration) {
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner) = Some((time, Instant::now()));
    }

    /// What the server's clock shows; the host's, if that isn't known.
    fn now(&self) -> Duration {
        match &*self.clock.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((time, at)) => *time + at.elapsed(),
            None => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        }
    }

    /// An event was read.
    pub(super) fn read(&self, event: &[u8]) {
        let Ok(header) = EventHeader::parse(event) else { return };
        match header.kind {
            // They come only where there is nothing else to send.
            EventKind::HEARTBEAT | EventKind::HEARTBEAT_V2 => self.read_s.store(0, Ordering::Relaxed),
            EventKind::FORMAT_DESCRIPTION => {} // as old as its file
            _ if header.timestamp_s > 0 && !header.is_artificial() => {
                self.read_s.store(header.timestamp_s, Ordering::Relaxed);
            }
            _ => {}
        }
    }

    /// Warns, again and again, while what is read is older than half of what the server keeps.
    pub(super) async fn watch(&self, address: &str) {
        loop {
            let kept = Duration::from_secs(self.kept_s.load(Ordering::Relaxed));
            let interval = (kept / 20).clamp(CHECK_INTERVAL_MIN, CHECK_INTERVAL_MAX);
            tokio::time::sleep(interval).await;
            if let Some(age) = self.alarming(self.now()) {
                warn!(
                    source = address,
                    behind = ?age,
                    kept = ?kept,
                    "the changes that are read are older than half of what the server keeps of its binlog: once it purges \
                     them they are lost here; see why messages aren't taken faster, or raise binlog_expire_logs_seconds"
                );
                // More often would only fill the log.
                tokio::time::sleep(kept / 20).await;
            }
        }
    }

    /// How old what is read is; `None` if there's nothing newer.
    pub fn age(&self) -> Option<Duration> {
        self.age_at(self.now())
    }

    fn age_at(&self, now: Duration) -> Option<Duration> {
        let read_s = self.read_s.load(Ordering::Relaxed);
        (read_s > 0).then(|| Duration::from_secs(now.as_secs().saturating_sub(read_s.into())))
    }

    /// The age, if it is more than half of what the server keeps.
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
