//! Sinks: of remote services, which is SQS, with a queue or one for each table; a file, standard output, or `null`, which
//! discards messages.
//!
//! In: deliveries of messages, each with an ack. Out: durable messages. A sink acknowledges a message when it is durable,
//! never before.

mod aws;
mod body;
#[cfg(test)]
pub(crate) mod fake;
mod jsonl;
mod null;
mod outlet;
mod remote;
mod sqs;

use std::borrow::Cow;
use std::sync::Arc;

use anyhow::Context;
use futures_util::future::BoxFuture;
use rowmill_core::batch::TableId;
use rowmill_core::envelope::Escaping;
use rowmill_core::route::message_id;

pub use aws::Connections;
pub use body::Body;
pub use outlet::{Inlet, Outlet, Overflow, outlet};

use crate::ack::Ack;
use crate::config::{self, SinkKind};
use crate::dead_letter::{Content, DeadLetter, Destination, Origin, Stage};

/// A message to be delivered.
#[derive(Debug, Default)]
pub struct Message {
    /// The body.
    pub body: Body,
    /// The message group, within which an ordered sink keeps the order. May be empty where the sink needs none.
    pub group: String,
    /// The deduplication ID: the same whenever the same change is sent, except for some dead letters. May be empty where the
    /// sink needs none.
    pub deduplication_id: String,
    /// Message attributes: names and values.
    pub attributes: Vec<(String, String)>,
    /// The table, by its generation and ID, of a message that has one row in the sink's format. `None` for any other
    /// message, which is never aggregated.
    pub table: Option<(u32, TableId)>,
    /// The address of the destination, where the sink has a destination for each table: the queue's URL.
    pub destination: Option<Arc<str>>,
    /// The index in the batch of the row that the message was made of.
    pub row: u32,
    /// Whether this is a dead letter, which is shortened where it is too large.
    pub is_dead_letter: bool,
}

/// Messages of one batch for one sink, and their ack.
#[derive(Debug)]
pub struct Delivery {
    /// The messages in the order of their rows.
    pub messages: Vec<Message>,
    /// Acknowledged when all messages are durable.
    pub ack: Ack,
}

impl Delivery {
    /// Returns each message with an ack of its own. The messages that the caller does not take from the iterator stay
    /// unacknowledged.
    pub fn split(self) -> impl Iterator<Item = (Message, Ack)> {
        let Self { messages, ack } = self;
        let count = messages.len();
        let mut whole = Some(ack);
        (1..).zip(messages).filter_map(move |(number, message)| {
            let ack = whole.as_ref()?.part(message.row);
            if number == count {
                // Each message has a part of its own now.
                whole.take().into_iter().for_each(Ack::acknowledge);
            }
            Some((message, ack))
        })
    }
}

/// The reason why a sink rejects a message for good.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rejection {
    /// The code, for programs: of SQS as SQS writes it, else one of Rowmill's in kebab case.
    code: Cow<'static, str>,
    /// The cause, for people. It begins with the code where SQS rejects the message.
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

/// What a sink needs of its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Whether the sink keeps the order within message groups: messages need a message group and a deduplication ID.
    pub is_ordered: bool,
    /// Whether the sink discards all messages. Workers then acknowledge them without waking the sink.
    pub discards: bool,
    /// The escaping of the bodies.
    pub escaping: Escaping,
}

/// A destination of messages.
pub trait Sink: Send {
    /// Returns the name that routes and transforms use.
    fn name(&self) -> &str;

    /// Returns what the sink needs of messages.
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
    /// An operator must fix something outside the queue: credentials, a clock, an endpoint.
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

/// Checks that a sink could deliver, and changes nothing.
///
/// # Errors
/// As [`open`].
pub async fn check(config: &config::Sink, connections: &Connections) -> Result<(), OpenError> {
    match &config.kind {
        SinkKind::File { path } => {
            let checked = jsonl::JsonLines::check(path).with_context(|| format!("sink.{}", config.name));
            checked.map_err(OpenError::Definite)
        }
        SinkKind::Sqs(_) | SinkKind::Stdout | SinkKind::Null => open(config, connections).await.map(drop),
    }
}

/// Opens a sink. SQS sinks share `connections`.
///
/// # Errors
/// If the queue, the bucket or the file cannot be used.
pub async fn open(config: &config::Sink, connections: &Connections) -> Result<Box<dyn Sink>, OpenError> {
    let config::Sink { name, kind, .. } = config;
    let sink: Result<Box<dyn Sink>, OpenError> = match kind {
        SinkKind::Sqs(queue) => {
            let account = aws::Account::of(queue, connections.clone()).await;
            sqs::open(name, queue, account).await
        }
        SinkKind::Stdout => Ok(Box::new(jsonl::JsonLines::stdout(name))),
        SinkKind::File { path } => {
            jsonl::JsonLines::file(name, path).map(|sink| Box::new(sink) as _).map_err(OpenError::Definite)
        }
        SinkKind::Null => Ok(Box::new(null::Null::new(name))),
    };
    let context = || format!("sink.{name}");
    sink.map_err(|error| match error {
        OpenError::Definite(error) => OpenError::Definite(error.context(context())),
        OpenError::NeedsOperator(error) => OpenError::NeedsOperator(error.context(context())),
        OpenError::Transient(error) => OpenError::Transient(error.context(context())),
    })
}
