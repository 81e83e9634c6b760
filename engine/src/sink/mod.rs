//! Where messages go. A sink settles a message's receipt when the message is durable, never before.

mod aws;
mod body;
mod client;
mod credentials;
mod large;
mod lines;
mod null;
mod outgoing;
mod request;
mod sqs;
mod tables;

use std::sync::Arc;

use anyhow::Context;
use futures_util::future::BoxFuture;
use rowmill_core::batch::TableId;
use rowmill_core::envelope::push_string;
use rowmill_core::progress::Receipt;
use rowmill_core::route::sqs_id;
use tokio::sync::mpsc;

pub use body::Body;
pub use client::Connections;

use crate::config::{self, SinkKind};
use crate::ledger::Ledger;

/// A finished message.
#[derive(Debug)]
pub struct Message {
    /// The body.
    pub body: Body,
    /// Within a group order is kept, where the sink keeps order. Empty where it needs none.
    pub group: String,
    /// The same for the same change, whenever it is sent. Empty where the sink needs none.
    pub deduplication_id: String,
    /// Names and values.
    pub attributes: Vec<(String, String)>,
    /// Of what table it has a row, as the sink's format has it. `None` for all else: such aren't packed with others.
    pub table: Option<TableId>,
    /// The queue's URL, where a sink has several.
    pub queue: Option<Arc<str>>,
}

/// Messages of one batch for one sink, and the duty to deliver them.
#[derive(Debug)]
pub struct Delivery {
    /// In binlog order.
    pub messages: Vec<Message>,
    /// To be settled when all of them are durable.
    pub receipt: Receipt,
}

/// The sink of dead letters, for messages that another one refuses for what they are.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    /// Its inlet.
    pub outlet: mpsc::Sender<Delivery>,
}

impl DeadLetters {
    /// Hands on a message with its duty: it is settled when the dead letter is durable.
    async fn send(&self, sink: &str, message: Message, fault: &str, receipt: Receipt) -> anyhow::Result<()> {
        let Message { body, group, deduplication_id, attributes, table: _, queue: _ } = message;
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
            attributes: Vec::new(),
            table: None,
            queue: None,
        };
        let sent = self.outlet.send(Delivery { messages: vec![letter], receipt }).await;
        sent.map_err(|_| anyhow::anyhow!("the sink of dead letters has stopped"))
    }
}

/// A place that messages go to.
pub trait Sink: Send {
    /// What routes and transforms call it.
    fn name(&self) -> &str;

    /// Whether messages need a group and a deduplication id.
    fn is_ordered(&self) -> bool;

    /// Whether it keeps nothing of what comes: then whoever makes its messages may settle them, without waking it.
    fn is_nowhere(&self) -> bool {
        false
    }

    /// Delivers what comes until there is no more, and ends when all of it is durable. Messages that are refused for
    /// what they are go to `dead_letters`, where the sink's configuration says so.
    fn run(
        self: Box<Self>,
        deliveries: mpsc::Receiver<Delivery>,
        ledger: Ledger,
        dead_letters: Option<DeadLetters>,
    ) -> BoxFuture<'static, anyhow::Result<()>>;
}

/// Why a queue, or what it needs, can't be used.
#[derive(Debug)]
enum OpenError {
    /// It isn't there, or may not be used.
    Refused(anyhow::Error),
    /// It can't be reached.
    NotNow(anyhow::Error),
}

impl From<OpenError> for anyhow::Error {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Refused(error) | OpenError::NotNow(error) => error,
        }
    }
}

/// Makes a sink ready to deliver; those of a queue share their connections.
///
/// # Errors
/// If what it delivers to isn't there.
pub async fn open(config: &config::Sink, connections: &Connections) -> anyhow::Result<Box<dyn Sink>> {
    let config::Sink { name, kind, .. } = config;
    let sink: anyhow::Result<Box<dyn Sink>> = match kind {
        SinkKind::Sqs(queue) => {
            let account = aws::Account::of(queue, connections.clone()).await;
            match queue.url.fixed() {
                Some(url) => match sqs::Sqs::open(name, url, queue, account).await {
                    Ok(sink) => Ok(Box::new(sink)),
                    Err(error) => Err(error.into()),
                },
                None => Ok(Box::new(tables::QueuesOfTables::new(name, queue, account))),
            }
        }
        SinkKind::Stdout => Ok(Box::new(lines::Lines::stdout(name))),
        SinkKind::File { path } => lines::Lines::file(name, path).map(|sink| Box::new(sink) as _),
        SinkKind::Null => Ok(Box::new(null::Null::new(name))),
    };
    sink.with_context(|| format!("sink.{name}"))
}
