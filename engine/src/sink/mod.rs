//! Where messages go. A sink acknowledges a message when it is durable, never before.

mod aws;
mod body;
#[cfg(test)]
pub(crate) mod fake;
mod flow;
mod jsonl;
mod null;
mod outlet;
mod sqs;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use rowmill_core::batch::TableId;
use rowmill_core::envelope::push_string;
use rowmill_core::route::sqs_id;

pub use aws::Connections;
pub use body::Body;
pub use outlet::{Inlet, Outlet, Overflow, outlet};

use crate::ack::Ack;
use crate::config::{self, SinkKind};

/// A finished message.
#[derive(Debug, Default)]
pub struct Message {
    /// The body.
    pub body: Body,
    /// Within a group order is kept, where the sink keeps order. Empty where it needs none.
    pub group: String,
    /// The same for the same change, whenever it is sent. Empty where the sink needs none.
    pub deduplication_id: String,
    /// Names and values.
    pub attributes: Vec<(String, String)>,
    /// Of what table it has a row, as the sink's format has it: its generation and id. `None` for all else: such aren't
    /// packed with others.
    pub table: Option<(u32, TableId)>,
    /// The queue's URL, where a sink has several.
    pub queue: Option<Arc<str>>,
    /// The row of its batch that it was made of.
    pub row: u32,
    /// Whether it says what became of another one, or of a row: then it is shortened where it is too large.
    pub is_dead_letter: bool,
}

/// Messages of one batch for one sink, and the duty to deliver them.
#[derive(Debug)]
pub struct Delivery {
    /// In the order of their rows.
    pub messages: Vec<Message>,
    /// To be acknowledged when all of them are durable.
    pub ack: Ack,
}

impl Delivery {
    /// Each message with an ack of its own.
    pub fn split(self) -> impl Iterator<Item = (Message, Ack)> {
        let Self { messages, ack } = self;
        let count = messages.len();
        let mut whole = Some(ack);
        (1..).zip(messages).filter_map(move |(number, message)| {
            let ack = whole.as_ref()?.part(message.row);
            if number == count {
                // The parts are all that is left to do.
                whole.take().into_iter().for_each(Ack::acknowledge);
            }
            Some((message, ack))
        })
    }
}

/// The sink of dead letters, for messages that another one refuses for what they are.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    /// Its inlet.
    pub outlet: Outlet,
}

impl DeadLetters {
    /// Hands on a message with its ack: it is acknowledged when the dead letter is durable.
    async fn send(&self, sink: &str, message: Message, fault: &str, ack: Ack) -> anyhow::Result<()> {
        let Message { body, group, deduplication_id, attributes, row, .. } = message;
        let mut letter = Vec::with_capacity(body.len() + 256);
        let mut text = |label: &str, text: &str| {
            letter.extend_from_slice(label.as_bytes());
            push_string(text, &mut letter);
        };
        text("{\"sink\":", sink);
        text(",\"error\":", fault);
        text(",\"group\":", &group);
        text(",\"deduplication_id\":", &deduplication_id);
        text(",\"body\":", &body.plain());
        let mut label = ",\"attributes\":{";
        for (nth, (name, value)) in attributes.iter().enumerate() {
            // A name that is there twice is why the message was refused: its error has both values.
            if attributes[..nth].iter().any(|(earlier, _)| earlier == name) {
                continue;
            }
            text(label, name);
            text(":", value);
            label = ",";
        }
        letter.extend_from_slice(if attributes.is_empty() { b"}" } else { b"}}" });
        // A queue without groups has given none; each letter is one of its own then.
        let unique = || format!("{:032x}", rand::random::<u128>());
        let letter = Message {
            body: String::from_utf8(letter).expect("JSON is written as UTF-8").into(),
            group: if group.is_empty() { sqs_id(sink.to_owned()) } else { group },
            deduplication_id: if deduplication_id.is_empty() { unique() } else { deduplication_id },
            row,
            is_dead_letter: true,
            ..Message::default()
        };
        let sent = self.outlet.send(Delivery { messages: vec![letter], ack }).await;
        sent.map_err(|_| anyhow::anyhow!("the sink of dead letters has stopped"))
    }
}

/// A place that messages go to.
pub trait Sink: Send {
    /// What routes and transforms call it.
    fn name(&self) -> &str;

    /// Whether messages need a group and a deduplication id.
    fn is_ordered(&self) -> bool;

    /// Whether it keeps nothing of what comes: then whoever makes its messages may acknowledge them, without waking it.
    fn discards(&self) -> bool {
        false
    }

    /// Delivers what comes until there is no more, and ends when all of it is durable. Messages that are refused for
    /// what they are go to `dead_letters`, where the sink's configuration says so; else they stop the pipeline, and the
    /// sink ends with an error once all before them is delivered. What is not to be delivered any more
    /// ([`Ack::is_stopped`](rowmill_pipeline::ack::Ack::is_stopped)) is dropped.
    fn run(
        self: Box<Self>,
        deliveries: Inlet,
        dead_letters: Option<DeadLetters>,
    ) -> BoxFuture<'static, anyhow::Result<()>>;
}

/// Why a queue, or what it needs, can't be used.
#[derive(Debug)]
pub enum OpenError {
    /// It does not exist, or access is denied.
    Definite(anyhow::Error),
    /// An operator must change something outside of the queue: credentials, a clock, an endpoint.
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

/// Makes a sink ready to deliver; those of a queue share their connections.
///
/// # Errors
/// If what it delivers to isn't there.
pub async fn open(config: &config::Sink, connections: &Connections) -> Result<Box<dyn Sink>, OpenError> {
    let config::Sink { name, kind, .. } = config;
    let sink: Result<Box<dyn Sink>, OpenError> = match kind {
        SinkKind::Sqs(queue) => {
            let account = aws::Account::of(queue, connections.clone()).await;
            match queue.url.fixed() {
                Some(url) => sqs::Sqs::open(name, url, queue, account).await.map(|sink| Box::new(sink) as _),
                None => Ok(Box::new(sqs::QueuePerTable::new(name, queue, account))),
            }
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
