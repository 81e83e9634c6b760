//! Sinks of remote services, which take messages in requests: what all of them share.
//!
//! In: deliveries of messages. Out: requests of several messages, several of them concurrently, by the service's
//! [`Transport`]. Messages wait in an [ordered queue](rowmill_pipeline::ordered_queue) and are retried until they are accepted
//! or rejected: an outage of any length loses nothing, and only stops the reading. Where the service keeps an order, each
//! message group has one message in flight, so that retries keep it.

mod delivery;
mod flow;
mod letter;
mod per_table;
mod queued_message;
mod request;
#[cfg(test)]
mod tests;
mod transport;

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rowmill_core::envelope::Escaping;

pub(super) use per_table::{Opener, SinkPerTable};
pub(super) use queued_message::{AddedAttribute, QueuedMessage, uncompressed_max};
pub(super) use transport::{Class, Limits, Outcome, Refusal, Request, Transport};

use super::aws::Store;
use super::{Capabilities, DeadLetters, Inlet, Sink};
use crate::config::{Aggregation, OnError};

/// A sink that delivers to one destination of a remote service.
#[derive(Debug)]
pub(super) struct RemoteSink {
    pub name: String,
    pub transport: Arc<dyn Transport>,
    pub on_error: OnError,
    /// How rows that wait are aggregated. `None`: one row per message.
    pub aggregation: Option<Aggregation>,
    /// The bucket for bodies that are larger than the service takes.
    pub store: Option<Store>,
    /// The seed of the pauses' jitter; random if `None`.
    pub jitter_seed: Option<u64>,
}

impl Sink for RemoteSink {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            is_ordered: self.transport.is_ordered(),
            discards: false,
            escaping: escaping(self.transport.escaping(), self.aggregation),
        }
    }

    fn run(
        self: Box<Self>,
        deliveries: Inlet,
        dead_letters: Option<DeadLetters>,
    ) -> BoxFuture<'static, anyhow::Result<()>> {
        delivery::deliver(*self, deliveries, dead_letters).boxed()
    }
}

/// Returns the escaping of the bodies that a sink takes: that of its requests, `in_requests`, so that a body is escaped once, by
/// a worker. Bodies that are compressed stay plain.
pub(super) fn escaping(in_requests: Escaping, aggregation: Option<Aggregation>) -> Escaping {
    match aggregation.and_then(|aggregation| aggregation.compression) {
        None => in_requests,
        Some(_) => Escaping::Plain,
    }
}
