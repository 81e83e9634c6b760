//! What leaves for a queue: a message, or several rows packed into one.
//!
//! Rows are packed while they wait: one that comes joins the last of its group, if that is of the same table
//! and has room. So nothing waits to be packed: a slow stream's rows leave one by one, a backlog's leave full.

use aws_sdk_sqs::error::BuildError;
use aws_sdk_sqs::types::{MessageAttributeValue, SendMessageBatchRequestEntry};
use rowmill_core::progress::Receipt;
use rowmill_core::route::sqs_id;

use super::Message;
use crate::config::{PackForm, Packing};

/// A message on its way, with its duty, and rows that leave with it.
#[derive(Debug)]
pub(super) struct Outgoing {
    first: (Message, Receipt),
    more: Vec<(Message, Receipt)>,
    /// It was sent: it may be accepted though nobody knows, so that it must stay what it is.
    is_sealed: bool,
}

impl Outgoing {
    pub fn new(message: Message, receipt: Receipt) -> Self {
        Self { first: (message, receipt), more: Vec::new(), is_sealed: false }
    }

    /// Its bytes as SQS counts them.
    pub fn bytes(&self, packing: Option<Packing>) -> usize {
        let Message { body, attributes, .. } = &self.first.0;
        let attributes: usize = attributes.iter().map(|(name, value)| name.len() + value.len() + "String".len()).sum();
        let around = if self.form(packing) == Some(PackForm::Array) { "[]".len() } else { 0 };
        body.len() + attributes + around
    }

    /// How it is packed, if it is.
    fn form(&self, packing: Option<Packing>) -> Option<PackForm> {
        self.first.0.table.and(packing).map(|packing| packing.form)
    }

    /// The message, or the first of its rows.
    pub fn message(&self) -> &Message {
        &self.first.0
    }

    /// From now on it stays what it is.
    pub fn seal(&mut self) {
        self.is_sealed = true;
    }

    /// Whether a row may leave with it. `position` alone may differ in what they say beside their bodies: it's the
    /// first row's.
    pub fn may_take(&self, message: &Message) -> bool {
        fn said(message: &Message) -> impl Iterator<Item = &(String, String)> {
            message.attributes.iter().filter(|(name, _)| name != "position")
        }
        let first = &self.first.0;
        let is_like = first.table.is_some() && first.table == message.table && first.group == message.group;
        !self.is_sealed && is_like && said(first).eq(said(message))
    }

    /// A row leaves with it. Gives by how many bytes it is longer.
    pub fn take(&mut self, other: Self) -> usize {
        let Self { first, more, .. } = other;
        let longer = first.0.body.len() + ",".len();
        self.more.push(first);
        self.more.extend(more);
        longer
    }

    /// Its rows, or the message itself, each with its duty.
    pub fn into_messages(self) -> impl Iterator<Item = (Message, Receipt)> {
        std::iter::once(self.first).chain(self.more)
    }

    fn body(&self, packing: Option<Packing>) -> String {
        let first = &self.first.0.body;
        let Some(form) = self.form(packing) else { return first.to_string() };
        let bodies = || std::iter::once(first).chain(self.more.iter().map(|(message, _)| &message.body));
        let (open, between, close) = match form {
            PackForm::Array => ("[", ",", "]"),
            PackForm::Ndjson => ("", "\n", ""),
        };
        let mut text = String::with_capacity(bodies().map(|body| body.len() + 1).sum::<usize>() + 1);
        text.push_str(open);
        for (nth, body) in bodies().enumerate() {
            if nth > 0 {
                text.push_str(between);
            }
            text.push_str(body);
        }
        text.push_str(close);
        text
    }

    /// Of several rows it is a function of the first and the last.
    fn deduplication_id(&self) -> String {
        let first = &self.first.0.deduplication_id;
        match self.more.last() {
            Some((last, _)) => sqs_id(format!("{first}+{}", last.deduplication_id)),
            None => first.clone(),
        }
    }

    /// As an entry of a request.
    ///
    /// # Errors
    /// If the SDK finds it incomplete.
    pub fn entry(
        &self,
        index: usize,
        fifo: bool,
        packing: Option<Packing>,
    ) -> Result<SendMessageBatchRequestEntry, BuildError> {
        let Message { group, attributes, .. } = &self.first.0;
        let mut entry = SendMessageBatchRequestEntry::builder().id(index.to_string()).message_body(self.body(packing));
        // On a standard queue a group doesn't order messages: it shares the queue fairly.
        if !group.is_empty() {
            entry = entry.message_group_id(group);
        }
        if fifo {
            entry = entry.message_deduplication_id(self.deduplication_id());
        }
        for (name, value) in attributes {
            let value = MessageAttributeValue::builder().data_type("String").string_value(value).build()?;
            entry = entry.message_attributes(name, value);
        }
        entry.build()
    }
}

#[cfg(test)]
mod tests {
    use rowmill_core::batch::TableId;
    use rowmill_core::position::{BinlogPosition, Resume};
    use rowmill_core::progress::{Cost, Watermark};

    use super::*;

    fn outgoing(table: Option<u32>, body: &str, id: &str, position: &str) -> Outgoing {
        let resume = Resume::at("server", BinlogPosition::new("binlog.1", 4));
        let receipt = Watermark::default().open(resume, Cost::default()).split(1).remove(0);
        let attributes = [("table", "shop.orders"), ("position", position)];
        let message = Message {
            body: body.to_owned().into(),
            group: "g".to_owned(),
            deduplication_id: id.to_owned(),
            attributes: attributes.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            table: table.map(TableId),
        };
        Outgoing::new(message, receipt)
    }

    fn packing(form: PackForm) -> Option<Packing> {
        Some(Packing { form, bytes: 1000 })
    }

    #[test]
    fn a_group_orders_a_fifo_queue_and_shares_a_standard_one() {
        let entry = |fifo| outgoing(None, "{}", "d", "b:4:0").entry(0, fifo, None).expect("whole");
        let (fifo, standard) = (entry(true), entry(false));
        assert_eq!((fifo.message_group_id(), fifo.message_deduplication_id()), (Some("g"), Some("d")));
        assert_eq!((standard.message_group_id(), standard.message_deduplication_id()), (Some("g"), None));
        let attributes = fifo.message_attributes().and_then(|all| all["table"].string_value());
        assert_eq!(attributes, Some("shop.orders"));
    }

    #[test]
    fn rows_of_a_table_leave_together() {
        for (form, one, three) in [(PackForm::Array, "[1]", "[1,22,3]"), (PackForm::Ndjson, "1", "1\n22\n3")] {
            let mut pack = outgoing(Some(7), "1", "a", "b:4:0");
            let entry = |pack: &Outgoing| pack.entry(0, true, packing(form)).expect("whole");
            assert_eq!(entry(&pack).message_body(), one);
            assert_eq!(entry(&pack).message_deduplication_id(), Some("a"));
            let mut bytes = pack.bytes(packing(form));
            for (body, id) in [("22", "b"), ("3", "c")] {
                let row = outgoing(Some(7), body, id, "b:4:1");
                assert!(pack.may_take(row.message()));
                bytes += pack.take(row);
            }
            assert_eq!(entry(&pack).message_body(), three);
            assert_eq!(entry(&pack).message_deduplication_id(), Some("a+c"));
            let attributes = "tableshop.ordersStringpositionb:4:0String".len();
            assert_eq!(bytes, three.len() + attributes);
            assert_eq!(pack.into_messages().count(), 3);
        }
    }

    #[test]
    fn what_was_sent_or_is_another_tables_stays_alone() {
        let mut pack = outgoing(Some(7), "1", "a", "b:4:0");
        assert!(!pack.may_take(outgoing(Some(8), "2", "b", "b:4:1").message()));
        assert!(!pack.may_take(outgoing(None, "2", "b", "b:4:1").message()));
        assert!(!outgoing(None, "1", "a", "b:4:0").may_take(outgoing(None, "2", "b", "b:4:1").message()));
        pack.seal();
        assert!(!pack.may_take(outgoing(Some(7), "2", "b", "b:4:1").message()));
        let alone = outgoing(None, "a transform's text", "a", "b:4:0");
        let entry = alone.entry(0, true, packing(PackForm::Array)).expect("whole");
        assert_eq!(entry.message_body(), "a transform's text");
    }
}
