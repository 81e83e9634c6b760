//! Where messages go. A sink settles a message's receipt when the message is durable, never before.

mod lines;
mod null;
mod sqs;

use anyhow::Context;
use bytestring::ByteString;
use futures_util::future::BoxFuture;
use rowmill_core::progress::{Receipt, Ticket};
use tokio::sync::mpsc;

use crate::config::{self, SinkKind};

/// A finished message.
#[derive(Debug)]
pub struct Message {
    /// The body: UTF-8 without characters that SQS refuses.
    pub body: ByteString,
    /// Within a group order is kept. Empty where the sink needs none.
    pub group: String,
    /// The same for the same change, whenever it is sent. Empty where the sink needs none.
    pub deduplication_id: String,
    /// Names and values.
    pub attributes: Vec<(String, String)>,
}

/// Messages of one batch for one sink, and the duty to deliver them.
#[derive(Debug)]
pub struct Delivery {
    /// In binlog order.
    pub messages: Vec<Message>,
    /// To be settled when all of them are durable.
    pub receipt: Receipt,
}

/// Where sinks hand in the tickets of batches that are delivered.
pub type Settled = mpsc::UnboundedSender<Ticket>;

/// A place that messages go to.
pub trait Sink: Send {
    /// What routes and transforms call it.
    fn name(&self) -> &str;

    /// Whether messages need a group and a deduplication id.
    fn is_ordered(&self) -> bool;

    /// Delivers what comes until there is no more, and ends when all of it is durable.
    fn run(
        self: Box<Self>,
        deliveries: mpsc::Receiver<Delivery>,
        settled: Settled,
    ) -> BoxFuture<'static, anyhow::Result<()>>;
}

/// Makes a sink ready to deliver.
///
/// # Errors
/// If what it delivers to isn't there.
pub async fn open(config: &config::Sink) -> anyhow::Result<Box<dyn Sink>> {
    let config::Sink { name, kind, .. } = config;
    let sink: anyhow::Result<Box<dyn Sink>> = match kind {
        SinkKind::Sqs { queue_url, region, endpoint_url } => {
            sqs::Sqs::open(name, queue_url, region.as_deref(), endpoint_url.as_deref())
                .await
                .map(|sink| Box::new(sink) as _)
        }
        SinkKind::Stdout => Ok(Box::new(lines::Lines::stdout(name))),
        SinkKind::File { path } => lines::Lines::file(name, path).map(|sink| Box::new(sink) as _),
        SinkKind::Null => Ok(Box::new(null::Null::new(name))),
    };
    sink.with_context(|| format!("sink.{name}"))
}

/// Settles a receipt, and hands in the ticket if it was its batch's last.
fn settle(receipt: Receipt, settled: &Settled) {
    if let Some(ticket) = receipt.settle() {
        // Who takes tickets outlives the sinks, unless it failed: then nothing more counts.
        let _ = settled.send(ticket);
    }
}
