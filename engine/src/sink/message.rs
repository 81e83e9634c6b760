//! Messages, and their deliveries to a sink.

use std::sync::Arc;

use rowmill_core::batch::TableId;

use super::body::Body;
use crate::ack::Ack;

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
