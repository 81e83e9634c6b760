//! Sinks: SQS, a remote service, with one queue or a queue for each table; a file; standard output; and `null`, which
//! discards messages.
//!
//! In: deliveries of messages, each with an ack. Out: durable messages. A sink acknowledges a message when it is durable,
//! never before.

mod aws;
mod body;
#[cfg(test)]
pub(crate) mod fake;
mod jsonl;
mod message;
mod null;
mod open;
mod outlet;
mod remote;
mod sqs;

use std::borrow::Cow;

use futures_util::future::BoxFuture;
use rowmill_core::envelope::Escaping;
use rowmill_core::route::message_id;

pub use aws::Connections;
pub use body::Body;
pub use message::{Delivery, Message};
pub use open::{check, open};
pub use outlet::{Inlet, Outlet, Overflow, outlet};

use crate::ack::Ack;
use crate::dead_letter::{Content, DeadLetter, Destination, Origin, Stage};

/// The reason why a sink rejects a message for good.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rejection {
    /// The code, for programs: the service's as the service writes it, else one of Rowmill's in kebab case.
    code: Cow<'static, str>,
    /// The cause, for people. It begins with the code where the service rejects the message.
    error: String,
}

impl Rejection {
    /// Creates a rejection by Rowmill itself, with a code of its own.
    fn new(code: &'static str, error: impl Into<String>) -> Self {
        Self { code: code.into(), error: error.into() }
    }
}

/// The sink of dead letters, for messages that another sink rejects.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    /// The outlet to the sink.
    pub outlet: Outlet,
}

impl DeadLetters {
    /// Sends a rejected message as a dead letter. Its ack is acknowledged when the dead letter is durable.
    ///
    /// # Errors
    /// If the sink of dead letters has ended.
    async fn send(&self, sink: &str, message: Message, rejection: &Rejection, ack: Ack) -> anyhow::Result<()> {
        let Message { body, group, deduplication_id, attributes, destination, row, .. } = message;
        let position = ack.batch().position(row);
        let origin = position.as_ref().map(|position| Origin {
            table: position.table.as_deref(),
            file: &position.transaction.file,
            pos: position.offset.event,
            row: position.offset.rows,
            event_type: None,
            gtid: "",
            ts_ms: (position.commit_time_us > 0).then_some(position.commit_time_us / 1000),
        });
        let letter = DeadLetter {
            stage: Stage::Sink,
            name: Some(sink),
            code: &rejection.code,
            error: &rejection.error,
            source: origin,
            destination: Some(Destination {
                sink,
                queue: destination.as_deref(),
                group: &group,
                deduplication_id: &deduplication_id,
                attributes: &attributes,
            }),
            content: Content::Body(&body.plain()),
        }
        .to_json();
        // The same for the same rejected message, and another one for each sink. A standard queue's message has no ID: its
        // position and content are as good.
        let id = match (&position, deduplication_id.is_empty()) {
            (_, false) => format!("{sink} {deduplication_id}"),
            (Some(position), true) => {
                let digest = libdeflater::crc32(body.plain().as_bytes());
                let (file, offset) = (&position.transaction.file, position.offset);
                format!("{sink} {file}:{}:{} {digest:08x}", offset.event, offset.rows)
            }
            (None, true) => format!("{:032x}", rand::random::<u128>()),
        };
        let letter = Message {
            body: letter.into(),
            group: if group.is_empty() { message_id(sink.to_owned()) } else { group },
            deduplication_id: message_id(id),
            row,
            is_dead_letter: true,
            ..Message::default()
        };
        let sent = self.outlet.send(Delivery { messages: vec![letter], ack }).await;
        sent.map_err(|_| anyhow::anyhow!("cannot send a dead letter: its sink has ended"))
    }
}

/// The properties of a sink that the router and the workers depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Whether the sink keeps the order within message groups: messages need a message group and a deduplication ID.
    pub is_ordered: bool,
    /// Whether the sink discards all messages. Workers then acknowledge them without waking the sink.
    pub discards: bool,
    /// The escaping of the bodies.
    pub escaping: Escaping,
}

/// Delivers messages to one destination, or to one for each table.
pub trait Sink: Send {
    /// Returns the name that routes and transforms use.
    fn name(&self) -> &str;

    /// Returns the sink's capabilities.
    fn capabilities(&self) -> Capabilities;

    /// Delivers messages until there are no more, and ends when all of them are durable. A rejected message goes to
    /// `dead_letters` where the sink's configuration says so; otherwise it stops the pipeline, after everything before it
    /// is delivered. Messages after a row that stopped the pipeline
    /// ([`Ack::is_stopped`](rowmill_pipeline::ack::Ack::is_stopped)) are dropped.
    fn run(
        self: Box<Self>,
        deliveries: Inlet,
        dead_letters: Option<DeadLetters>,
    ) -> BoxFuture<'static, anyhow::Result<()>>;
}

/// The error of a sink that cannot be opened.
#[derive(Debug)]
pub enum OpenError {
    /// No retry can succeed: the queue or the bucket does not exist, access is denied, or a file cannot be opened.
    Definite(anyhow::Error),
    /// An operator must fix something outside the destination: credentials, a clock, an endpoint.
    NeedsOperator(anyhow::Error),
    /// A later attempt may succeed.
    Transient(anyhow::Error),
}

impl From<OpenError> for anyhow::Error {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Definite(error) | OpenError::NeedsOperator(error) | OpenError::Transient(error) => error,
        }
    }
}
