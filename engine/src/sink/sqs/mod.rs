//! The sink of an SQS queue, standard or FIFO.
//!
//! In: deliveries of messages. Out: requests `SendMessageBatch`, of up to ten messages, several of them concurrently.
//! Messages wait in an [ordered queue](rowmill_pipeline::ordered_queue) and are retried until they are accepted or
//! rejected: an outage of any length loses nothing, and only stops the reading. On a FIFO queue each message group has one
//! message in flight, so that retries keep its order.
//! <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html>

mod codes;
mod delivery;
mod extended_client;
mod letter;
mod per_table;
mod queue;
mod queued_message;
mod request;
#[cfg(test)]
mod tests;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

pub(super) use per_table::QueuePerTable;
pub(super) use queue::Sqs;

use super::{DeadLetters, Inlet, Sink};

impl Sink for Sqs {
    fn name(&self) -> &str {
        &self.name
    }

    fn is_ordered(&self) -> bool {
        self.fifo
    }

    fn run(
        self: Box<Self>,
        deliveries: Inlet,
        dead_letters: Option<DeadLetters>,
    ) -> BoxFuture<'static, anyhow::Result<()>> {
        delivery::deliver(*self, deliveries, dead_letters).boxed()
    }
}
