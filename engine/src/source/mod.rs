//! Reading the binlog: events in from the server, decoded batches out.
//!
//! The reading stops where the in-flight budget is used up, and goes on when checkpoints give it
//! back. [`preflight`] finds out before that whether the server can be read at all, and from where.

mod budget;
pub mod preflight;

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures_util::{FutureExt, StreamExt};
use mysql_async::prelude::Queryable;
use mysql_async::{BinlogStream, BinlogStreamRequest, Conn};
use rowmill_core::binlog::{Decoder, Event, EventHeader, EventKind, RowBatch};
use rowmill_core::position::Resume;
use tokio::sync::{mpsc, watch};

pub use budget::Budget;

use crate::config;

/// The server closes a dump connection that isn't read for this long. While a queue is out of reach
/// nothing is read, so the session asks for a long time.
const NET_WRITE_TIMEOUT_S: u32 = 30 * 24 * 3600;
/// On a busy server whose changes are mostly not wanted, batches are handed on at least this often.
const BATCH_AGE_MAX: Duration = Duration::from_millis(10);
/// How many events may pass between two looks at the clock.
const EVENTS_BETWEEN_CLOCKS: u32 = 64;

/// A connection that streams the binlog.
pub struct Source {
    stream: BinlogStream,
    decoder: Decoder,
    address: String,
}

impl Source {
    /// Asks the server for its binlog from `resume` on. `conn` becomes the stream.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn open(mut conn: Conn, config: &config::Source, resume: Resume) -> anyhow::Result<Self> {
        let context = || format!("the binlog of {} can't be read from {resume}", config.address);
        conn.query_drop(format!("SET SESSION net_write_timeout = {NET_WRITE_TIMEOUT_S}"))
            .await
            .with_context(context)?;
        let request = BinlogStreamRequest::new(config.server_id)
            .with_filename(resume.position.file.as_bytes())
            .with_pos(resume.position.offset);
        let stream = conn.get_binlog_stream(request).await.with_context(context)?;
        let tables = config.tables.clone();
        let select = Box::new(move |schema: &str, table: &str| tables.matches(schema, table));
        Ok(Self { stream, decoder: Decoder::new(resume, select), address: config.address.clone() })
    }

    /// Reads until `stop` says so, or until nobody takes batches any more.
    ///
    /// # Errors
    /// If the connection is lost or an event can't be decoded.
    pub async fn run(
        mut self,
        batches: mpsc::Sender<RowBatch>,
        budget: Budget,
        mut stop: watch::Receiver<bool>,
    ) -> anyhow::Result<()> {
        tokio::select! {
            result = self.read(batches, budget) => result?,
            _ = stop.wait_for(|stop| *stop) => {}
        }
        Ok(())
    }

    async fn read(&mut self, batches: mpsc::Sender<RowBatch>, budget: Budget) -> anyhow::Result<()> {
        let mut handed_on = Instant::now();
        let mut events: u32 = 0;
        loop {
            // An event that is there already is taken at once; before waiting for one, what was
            // decoded so far is handed on, so that rows never wait for more rows.
            let event = match self.stream.next().now_or_never() {
                Some(event) => event,
                None => {
                    while let Some(batch) = self.decoder.flush() {
                        if !hand_on(batch, &batches, &budget).await {
                            return Ok(());
                        }
                    }
                    self.stream.next().await
                }
            };
            let Some(event) = event else {
                bail!("{} ended the binlog stream at {}", self.address, self.decoder.position());
            };
            let event = event
                .with_context(|| format!("the connection to {} failed at {}", self.address, self.decoder.position()))?;
            verify_checksum(&event)
                .with_context(|| format!("a binlog event behind {} is damaged", self.decoder.position()))?;
            self.decoder.event(&core_event(&event))?;

            events = events.wrapping_add(1);
            let mut next = self.decoder.pop();
            if next.is_none() && events.is_multiple_of(EVENTS_BETWEEN_CLOCKS) && handed_on.elapsed() > BATCH_AGE_MAX {
                next = self.decoder.flush();
            }
            while let Some(batch) = next {
                handed_on = Instant::now();
                if !hand_on(batch, &batches, &budget).await {
                    return Ok(());
                }
                next = self.decoder.pop();
            }
        }
    }
}

/// Waits for room and hands a batch on. False if nobody takes batches any more: whoever stopped
/// says why.
async fn hand_on(batch: RowBatch, batches: &mpsc::Sender<RowBatch>, budget: &Budget) -> bool {
    budget.take(batch.cost()).await;
    batches.send(batch).await.is_ok()
}

fn core_event(event: &mysql_async::binlog::events::Event) -> Event<'_> {
    let header = event.header();
    Event {
        header: EventHeader {
            timestamp_s: header.timestamp(),
            kind: EventKind(header.event_type_raw()),
            server_id: header.server_id(),
            size: header.event_size(),
            log_pos: header.log_pos(),
            flags: header.flags_raw(),
        },
        body: event.data(),
    }
}

/// Compares an event with the CRC-32 behind it, where there is one.
/// <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_replication_binlog_event.html>
fn verify_checksum(event: &mysql_async::binlog::events::Event) -> anyhow::Result<()> {
    let header = event.header();
    // A format description's checksum is of the event with a flag cleared; it has no rows to protect.
    let unverified =
        !event.footer().get_checksum_enabled() || header.event_type_raw() == EventKind::FORMAT_DESCRIPTION.0;
    let (false, Some(expected)) = (unverified, event.checksum()) else { return Ok(()) };
    let mut bytes = [0; 19];
    bytes[0..4].copy_from_slice(&header.timestamp().to_le_bytes());
    bytes[4] = header.event_type_raw();
    bytes[5..9].copy_from_slice(&header.server_id().to_le_bytes());
    bytes[9..13].copy_from_slice(&header.event_size().to_le_bytes());
    bytes[13..17].copy_from_slice(&header.log_pos().to_le_bytes());
    bytes[17..19].copy_from_slice(&header.flags_raw().to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes);
    hasher.update(event.data());
    let (expected, found) = (u32::from_le_bytes(expected), hasher.finalize());
    if expected != found {
        bail!("its checksum is {found:08x} and should be {expected:08x}; the binlog file or the connection is damaged");
    }
    Ok(())
}
