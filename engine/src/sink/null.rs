//! Nowhere: for benchmarks, and for looking at what transforms say.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::{DeadLetters, Inlet, Sink};

/// Takes everything and keeps nothing.
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

    fn is_ordered(&self) -> bool {
        false
    }

    fn discards(&self) -> bool {
        true
    }

    fn run(self: Box<Self>, mut deliveries: Inlet, _: Option<DeadLetters>) -> BoxFuture<'static, anyhow::Result<()>> {
        async move {
            // Dead letters: whoever makes other messages acknowledges them.
            while let Some(delivery) = deliveries.recv().await {
                delivery.ack.acknowledge();
            }
            Ok(())
        }
        .boxed()
    }
}
