//! The status of the engine, in one record. The source and the checkpoint writer write it; the progress lines and the warning
//! of the lag read it. A probe of a server has a record of its own, for the lag.
//!
//! In: events that were read, servers that were connected to, deliveries. Out: a [`Snapshot`]. No I/O.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rowmill_core::binlog::{EventHeader, EventKind};
use rowmill_core::position::ResumePoint;

use crate::ack::Advance;

/// The status of the engine, shared by the stages that write it and those that read it.
#[derive(Debug, Default)]
pub struct Status {
    /// The time stamp of the newest event that was read, in seconds since 1970; 0 if the server has nothing newer.
    read_s: AtomicU32,
    server: Mutex<ServerStatus>,
    delivered: Mutex<Delivered>,
}

/// The server that is being read.
#[derive(Debug, Default, Clone)]
struct ServerStatus {
    address: String,
    /// How long the server keeps its binlog. `None`: for ever, or unknown.
    retention: Option<Duration>,
    /// The server's clock, as time since 1970, and when it was read.
    clock: Option<(Duration, Instant)>,
}

#[derive(Debug, Default, Clone)]
struct Delivered {
    resume: Option<ResumePoint>,
    rows: u64,
}

/// The status at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// The address of the server that is being read; empty before the first connection.
    pub source: String,
    /// The age of the newest event that was read, by the server's clock; `None` if the server has nothing newer.
    pub lag: Option<Duration>,
    /// How long the server keeps its binlog. `None`: for ever, or unknown.
    pub retention: Option<Duration>,
    /// Everything before this point is delivered, and the checkpoint covers it. `None` before the start.
    pub delivered: Option<ResumePoint>,
    /// The rows delivered since the start.
    pub rows_delivered: u64,
}

impl Status {
    /// Records the server that is read from now on. `retention` and `time`, the server's clock as time since 1970, are `None`
    /// where they are unknown: the earlier values then stay. An inner `None` of `retention`: the server keeps its binlog for
    /// ever. The host's clock is not used: it may differ from the server's, and may be set.
    pub fn connected(&self, address: &str, retention: Option<Option<Duration>>, time: Option<Duration>) {
        let mut server = lock(&self.server);
        address.clone_into(&mut server.address);
        server.retention = retention.unwrap_or(server.retention);
        server.clock = time.map(|time| (time, Instant::now())).or(server.clock);
    }

    /// Records an event that was read.
    #[inline]
    pub fn read(&self, event: &[u8]) {
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

    /// Records the resume point at which the engine starts.
    pub fn starts(&self, resume: ResumePoint) {
        lock(&self.delivered).resume = Some(resume);
    }

    /// Records that everything is delivered up to a resume point.
    pub fn delivered(&self, Advance { progress, rows, .. }: Advance) {
        let mut delivered = lock(&self.delivered);
        delivered.resume = Some(progress);
        delivered.rows += rows;
    }

    /// Returns the status now.
    pub fn snapshot(&self) -> Snapshot {
        let server = lock(&self.server).clone();
        let Delivered { resume, rows } = lock(&self.delivered).clone();
        Snapshot {
            lag: self.lag_at(server.now()),
            source: server.address,
            retention: server.retention,
            delivered: resume,
            rows_delivered: rows,
        }
    }

    /// Returns the lag at a time of the server's clock.
    fn lag_at(&self, now: Duration) -> Option<Duration> {
        let read_s = self.read_s.load(Ordering::Relaxed);
        (read_s > 0).then(|| Duration::from_secs(now.as_secs().saturating_sub(read_s.into())))
    }
}

impl ServerStatus {
    /// Returns the server's clock, or the host's if the server's is not known.
    fn now(&self) -> Duration {
        match self.clock {
            Some((time, at)) => time + at.elapsed(),
            None => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: u8 = 2;
    const HEARTBEAT: u8 = 27;

    fn event(timestamp_s: u32, kind: u8, log_pos: u32) -> Vec<u8> {
        let mut event = timestamp_s.to_le_bytes().to_vec();
        event.push(kind);
        event.extend([1, 0, 0, 0, 19, 0, 0, 0]);
        event.extend(log_pos.to_le_bytes());
        event.extend([0, 0]);
        event
    }

    #[test]
    fn the_lag_is_by_the_servers_clock() {
        let status = Status::default();
        let lag_s = || status.snapshot().lag.map(|lag| lag.as_secs());
        assert_eq!(lag_s(), None, "nothing was read");
        status.connected("db:3306", None, Some(Duration::from_secs(10_000)));
        status.read(&event(9_990, QUERY, 500));
        assert_eq!(lag_s(), Some(10), "whatever the host's clock shows");
        status.read(&event(0, HEARTBEAT, 500));
        assert_eq!(lag_s(), None, "nothing is newer");
    }

    #[test]
    fn another_server_keeps_what_it_does_not_tell() {
        let status = Status::default();
        let day = Some(Duration::from_secs(86_400));
        status.connected("a:3306", Some(day), None);
        status.connected("b:3306", None, None);
        let Snapshot { source, retention, .. } = status.snapshot();
        assert_eq!((&*source, retention), ("b:3306", day));
        status.connected("b:3306", Some(None), None);
        assert_eq!(status.snapshot().retention, None, "for ever");
    }
}
