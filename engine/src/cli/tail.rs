//! `rowmill tail`: writes changes to standard output as they happen. Nothing is delivered, and no checkpoint is read or
//! written.

use std::io::Write;
use std::sync::{Arc, OnceLock};

use rowmill_core::binlog::RowBatch;
use tokio::sync::mpsc;

use super::printer::{Printer, Selection};
use crate::ack::{Cost, StopError};
use crate::config::{self, InFlight, OnError, Start};
use crate::mysql::Server;
use crate::schema_history::SchemaHistory;
use crate::shutdown::shutdown;
use crate::source::binlog::{BinlogSource, locate};
use crate::source::{BatchConsumer, Source};

/// Batches that may wait to be written.
const BATCHES_WAITING_MAX: usize = 8;

/// The source's consumer: passes batches to the printer.
struct Batches {
    batches: mpsc::Sender<RowBatch>,
    /// The error that stops the source.
    stop: Arc<OnceLock<StopError>>,
}

impl BatchConsumer for Batches {
    fn batch_limits(&self) -> Cost {
        InFlight::default().cost()
    }

    async fn forward(&mut self, batch: RowBatch) -> bool {
        self.batches.send(batch).await.is_ok()
    }

    fn stop(&mut self, error: StopError) {
        let _ = self.stop.set(error);
    }
}

/// Writes changes from `start` on, until `stop` completes, the reader of `out` closes it, or the limit of rows is reached.
///
/// # Errors
/// If the server cannot be read, or `out` cannot be written.
pub async fn run(
    source: config::Source,
    start: Start,
    selection: Selection,
    out: &mut impl Write,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    // There is no sink for dead letters.
    let source = config::Source { server_id: config::random_server_id(), on_error: OnError::Halt, ..source };
    let mut stop = std::pin::pin!(stop);
    let open = async {
        let (mut server, source) = Server::connect_first(&source).await?;
        if let Some(problem) = server.problems().into_iter().next() {
            return Err(problem.into());
        }
        let place = locate(&mut server, &start, None).await?;
        let tables = source.tables.clone();
        let schemas = Arc::new(SchemaHistory::new(&server.identity));
        BinlogSource::open(server, source, place, Box::new(tables), schemas, Arc::default()).await
    };
    let source = tokio::select! {
        () = &mut stop => return Ok(()),
        source = open => source?,
    };
    let (batches, mut batches_out) = mpsc::channel::<RowBatch>(BATCHES_WAITING_MAX);
    let cause: Arc<OnceLock<StopError>> = Arc::default();
    let consumer = Batches { batches, stop: Arc::clone(&cause) };
    let (_trigger, shutdown) = shutdown();
    let mut printer = Printer::new(out, selection);
    printer.set_connector(source.connector());
    let mut reading = std::pin::pin!(source.run(consumer, shutdown));
    loop {
        tokio::select! {
            biased;
            () = &mut stop => return Ok(()),
            // Polled before the source: rows read before an event that cannot be decoded are written.
            Some(batch) = batches_out.recv() => {
                let goes_on = printer.print(&batch)?;
                if !printer.flush()? || !goes_on {
                    return Ok(());
                }
            }
            result = &mut reading => {
                while let Ok(batch) = batches_out.try_recv() {
                    printer.print(&batch)?;
                }
                printer.flush()?;
                return match Arc::into_inner(cause).and_then(OnceLock::into_inner) {
                    Some(error) => Err(error.into()),
                    None => result,
                };
            }
        }
    }
}
