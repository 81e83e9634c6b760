//! The shared part of the sinks of remote services, which take messages in requests.
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

use rowmill_core::envelope::Escaping;

pub(super) use per_table::{Opener, SinkPerTable};
use queued_message::uncompressed_max;
pub(super) use queued_message::{AddedAttribute, QueuedMessage};
pub(super) use transport::{Class, Limits, Outcome, Refusal, Request, Transport};

use super::Capabilities;
use super::aws::Store;
use crate::config::{Aggregation, OnError};

/// A sink that delivers to one destination of a remote service.
#[derive(Debug)]
pub(super) struct RemoteSink {
    name: String,
    transport: Arc<dyn Transport>,
    on_error: OnError,
    /// How rows that wait are aggregated. `None`: one row per message.
    aggregation: Option<Aggregation>,
    /// The bucket for bodies that are larger than the service takes.
    store: Option<Store>,
    /// The seed of the pauses' jitter; random if `None`.
    jitter_seed: Option<u64>,
}

impl RemoteSink {
    /// Creates a sink. Aggregates are bounded by the service's limit, too.
    pub fn new(
        name: &str,
        transport: impl Transport + 'static,
        on_error: OnError,
        aggregation: Option<Aggregation>,
        store: Option<Store>,
    ) -> Self {
        let message_max = transport.limits().message_bytes;
        let aggregation = aggregation.map(|aggregation| {
            let fits = if aggregation.compression.is_some() { uncompressed_max(message_max) } else { message_max };
            Aggregation { bytes: aggregation.bytes.min(fits), ..aggregation }
        });
        let (name, transport) = (name.to_owned(), Arc::new(transport));
        Self { name, transport, on_error, aggregation, store, jitter_seed: None }
    }

    /// Makes the jitter of pauses follow from a seed.
    #[cfg(test)]
    pub fn with_jitter_seed(self, seed: u64) -> Self {
        Self { jitter_seed: Some(seed), ..self }
    }
}

/// Returns the capabilities of a remote sink. Its bodies are escaped as in its requests, `in_requests`, so that each is escaped
/// once, by a worker; but bodies that are compressed stay plain.
pub(super) fn capabilities(is_ordered: bool, in_requests: Escaping, aggregation: Option<Aggregation>) -> Capabilities {
    let escaping = match aggregation.and_then(|aggregation| aggregation.compression) {
        None => in_requests,
        Some(_) => Escaping::Plain,
    };
    Capabilities { is_ordered, discards: false, escaping }
}
