//! The sink `null`, which discards messages: for benchmarks, and for reading what transforms log.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rowmill_core::envelope::Escaping;

use super::{Capabilities, DeadLetters, Inlet, Sink};

/// A sink that acknowledges and discards every message.
#[derive(Debug)]
pub(super) struct Null {
    name: String,
}

impl Null {
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned() }
    }
}

impl Sink for Null {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { is_ordered: false, discards: true, escaping: Escaping::Plain }
    }

    fn run(self: Box<Self>, mut deliveries: Inlet, _: Option<DeadLetters>) -> BoxFuture<'static, anyhow::Result<()>> {
        async move {
            // Only dead letters of other sinks come here: a worker acknowledges its own messages for this sink without sending them.
            while let Some(delivery) = deliveries.recv().await {
                delivery.ack.acknowledge();
            }
            Ok(())
        }
        .boxed()
    }
}
