//! Sources: a [`Source`] forwards batches of rows to a [`BatchConsumer`]. There is one, the [binlog](binlog) of a server.

pub mod binlog;

use rowmill_core::binlog::RowBatch;

use crate::ack::{Cost, StopError};
use crate::shutdown::Shutdown;

/// A stage that reads rows.
pub trait Source {
    /// Forwards batches until the shutdown is requested, or until the consumer takes no more batches.
    ///
    /// # Errors
    /// If the source can never read on. A row or an event that cannot be decoded is no error here: it stops the consumer.
    fn run(
        self,
        consumer: impl BatchConsumer + 'static,
        shutdown: Shutdown,
    ) -> impl Future<Output = anyhow::Result<()>> + Send + 'static;
}

/// Takes batches, in binlog order.
pub trait BatchConsumer: Send {
    /// Returns the limits of a batch.
    fn batch_limits(&self) -> Cost;

    /// Waits for room and forwards a batch. Returns false if the pipeline takes no more batches; the cause is reported by the
    /// stage that stopped the pipeline.
    fn forward(&mut self, batch: RowBatch) -> impl Future<Output = bool> + Send;

    /// Reports that the next event can never be read. The batches forwarded before are delivered before the engine stops.
    fn stop(&mut self, error: StopError);
}
