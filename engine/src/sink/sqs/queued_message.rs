//! Messages for a queue, each with one row or, as an aggregate, with several.
//!
//! Rows are aggregated while they wait: a row joins the last message of its group, if that is of the same table and has
//! room. So no row waits to be aggregated: the rows of a slow stream leave one by one, those of a backlog in full messages.

use libdeflater::{CompressionLvl, Compressor};
use rowmill_core::batch::json::{push_escaped, push_string};
use rowmill_core::envelope::push_int;
use rowmill_core::route::sqs_id;

use super::super::{Message, Rejection};
use super::extended_client::{SIZE_ATTRIBUTE, Store, Stored};
use super::letter;
use crate::ack::Ack;
use crate::config::{AggregateForm, Aggregation, Compression};

/// The most attributes of a message.
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html>
const ATTRIBUTES_MAX: usize = 10;
/// The attribute that names the compression of a body, which is base64 then.
const ENCODING_ATTRIBUTE: &str = "content-encoding";
const TEXT: &str = "String";
const NUMBER: &str = "Number";

/// The rows after the first for which memory is reserved at once.
const ROWS_EXPECTED: usize = 15;

/// A message that waits or is in flight, and the rows that are aggregated with it.
#[derive(Debug)]
pub(super) struct QueuedMessage {
    first: Message,
    more: Vec<Message>,
    /// The ack of the first message and of all others of its batch: they are delivered together.
    ack: Ack,
    /// The acks of further batches, each with the index in `more` of the first message of its batch.
    more_acks: Vec<(usize, Ack)>,
    /// Whether no row may join or leave: the message was sent, and SQS may have accepted it, so retries must be identical; or
    /// its row was sent before in an aggregate that was rejected.
    is_sealed: bool,
    /// How often the message was refused individually with an unknown code, while the queue accepted others.
    doubts: u8,
    /// The form in which a large body is sent instead of its text.
    payload: Option<Box<PayloadForm>>,
}

#[derive(Debug)]
enum PayloadForm {
    Compressed(String),
    Stored(Stored),
}

impl QueuedMessage {
    /// Creates a message with a part of `ack`, the ack of its batch.
    pub fn new(message: Message, ack: &Ack) -> Self {
        let ack = ack.part(message.row);
        Self {
            first: message,
            more: Vec::new(),
            ack,
            more_acks: Vec::new(),
            is_sealed: false,
            doubts: 0,
            payload: None,
        }
    }

    /// Returns the bytes as SQS counts them; where the body is yet to be compressed, those of the uncompressed body.
    pub fn bytes(&self, aggregation: Option<Aggregation>) -> usize {
        let Message { body, attributes, .. } = &self.first;
        let attributes: usize = attributes.iter().map(|(name, value)| name.len() + value.len() + TEXT.len()).sum();
        let around = if self.form(aggregation) == Some(AggregateForm::Array) { "[]".len() } else { 0 };
        let encoding = self
            .compression(aggregation)
            .map_or(0, |compression| ENCODING_ATTRIBUTE.len() + name(compression).len() + TEXT.len());
        let body = match self.payload.as_deref() {
            None => body.len() + around,
            Some(PayloadForm::Compressed(text)) => text.len(),
            Some(PayloadForm::Stored(stored)) => {
                stored.pointer.len() + SIZE_ATTRIBUTE.len() + stored.size.to_string().len() + NUMBER.len()
            }
        };
        body + attributes + encoding
    }

    /// Returns the reason why no queue would accept the message, apart from its size.
    pub fn rejection(&self, aggregation: Option<Aggregation>) -> Option<Rejection> {
        let Message { body, attributes, .. } = &self.first;
        if body.is_empty() {
            return Some(Rejection::new("empty-body", "the body is empty"));
        }
        let ours = [
            self.compression(aggregation).map(|_| ENCODING_ATTRIBUTE),
            matches!(self.payload.as_deref(), Some(PayloadForm::Stored(_))).then_some(SIZE_ATTRIBUTE),
        ];
        let count = attributes.len() + ours.iter().flatten().count();
        if count > ATTRIBUTES_MAX {
            let error = format!("too many attributes: {count}, SQS takes {ATTRIBUTES_MAX}");
            return Some(Rejection::new("too-many-attributes", error));
        }
        // For a duplicate name SQS refuses the whole request, and not only the message.
        for (nth, (name, value)) in attributes.iter().enumerate() {
            if let Some((_, other)) = attributes[..nth].iter().find(|(earlier, _)| earlier == name) {
                let error = format!("duplicate attribute `{name}`, as `{other}` and as `{value}`");
                return Some(Rejection::new("duplicate-attribute", error));
            }
            if ours.contains(&Some(name.as_str())) {
                let error = format!("reserved attribute `{name}`, which the sink adds");
                return Some(Rejection::new("reserved-attribute", error));
            }
        }
        let wrong = attributes.iter().find(|(name, value)| value.is_empty() || !is_attribute_name(name))?;
        let error = format!("invalid attribute `{}` with the value `{}`", wrong.0, wrong.1);
        Some(Rejection::new("invalid-attribute", error))
    }

    /// Returns the form of the aggregate, if the sink aggregates the message.
    fn form(&self, aggregation: Option<Aggregation>) -> Option<AggregateForm> {
        self.first.table.and(aggregation).map(|aggregation| aggregation.form)
    }

    /// Returns the compression of the body, if it is to be compressed.
    fn compression(&self, aggregation: Option<Aggregation>) -> Option<Compression> {
        self.first.table.and(aggregation)?.compression
    }

    /// Compresses the body now, so that its size is known. Does nothing where the sink does not compress the message.
    pub fn compress(&mut self, aggregation: Option<Aggregation>) {
        if let Some(compression) = self.compression(aggregation) {
            let text = compressed(&self.text(aggregation), compression);
            self.payload = Some(Box::new(PayloadForm::Compressed(text)));
        }
    }

    /// Replaces the body by a pointer to S3, where the body is still to be stored.
    pub fn place(&mut self, aggregation: Option<Aggregation>, store: &Store) {
        let body = match self.payload.take().map(|payload| *payload) {
            Some(PayloadForm::Compressed(text)) => text,
            _ => self.text(aggregation),
        };
        self.payload = Some(Box::new(PayloadForm::Stored(store.place(body.into()))));
    }

    /// Stores the body in S3, if the message has a pointer and the body is not stored yet.
    ///
    /// # Errors
    /// If the body cannot be stored now; a later attempt may succeed.
    pub async fn store(&mut self, store: &Store) -> Result<(), String> {
        match self.payload.as_deref_mut() {
            Some(PayloadForm::Stored(stored)) => store.put(stored).await,
            _ => Ok(()),
        }
    }

    /// Shortens a dead letter to at most `bytes_max` bytes.
    pub fn shorten(&mut self, bytes_max: usize) {
        self.first.body = letter::shortened(&self.first.body.plain(), bytes_max).into();
        self.payload = None;
    }

    /// Counts a refusal with an unknown code. Returns their number so far.
    pub fn doubt(&mut self) -> u8 {
        self.doubts = self.doubts.saturating_add(1);
        self.doubts
    }

    /// Whether some of the rows must not be delivered any more.
    pub fn is_stopped(&self) -> bool {
        let last = self.more.last().unwrap_or(&self.first);
        self.newest_ack().is_stopped_at(last.row)
    }

    /// Removes the rows that must not be delivered after a row stopped the pipeline. `None` if the first row must not be
    /// delivered. Otherwise a message that was sent stays whole, as it may have been accepted.
    pub fn without_stopped(mut self) -> Option<Self> {
        if self.ack.is_stopped() {
            return None; // the first row is stopped, and so are all later ones
        }
        while !self.is_sealed && self.is_stopped() {
            self.more.pop();
            // An ack without rows is dropped unacknowledged: its rows are after the stop.
            self.more_acks.pop_if(|(first, _)| *first == self.more.len());
        }
        Some(self)
    }

    /// Returns the message, or the first one of an aggregate.
    pub fn message(&self) -> &Message {
        &self.first
    }

    /// Fixes the content: no row may join any more.
    pub fn seal(&mut self) {
        self.is_sealed = true;
    }

    /// Whether a row may join the message. Of the attributes only `position` may differ; the aggregate has that of its first
    /// row.
    pub fn can_join(&self, row: &Message) -> bool {
        fn said(message: &Message) -> impl Iterator<Item = &(String, String)> {
            message.attributes.iter().filter(|(name, _)| name != "position")
        }
        let first = &self.first;
        let is_like = first.table.is_some() && first.table == row.table && first.group == row.group;
        !self.is_sealed && self.payload.is_none() && is_like && !row.body.is_empty() && said(first).eq(said(row))
    }

    /// Returns the bytes by which a row lengthens the message.
    pub fn added_bytes(row: &Message) -> usize {
        row.body.len() + ",".len()
    }

    /// Adds a row. `ack` is that of the row's batch: the message takes a part of it, unless it has one of that batch.
    pub fn take(&mut self, row: Message, ack: &Ack) {
        if self.more.is_empty() {
            self.more.reserve(ROWS_EXPECTED);
        }
        if !self.newest_ack().is_of_batch(ack) {
            self.more_acks.push((self.more.len(), ack.part(row.row)));
        }
        self.more.push(row);
    }

    /// Returns the ack of the last row.
    fn newest_ack(&self) -> &Ack {
        self.more_acks.last().map_or(&self.ack, |(_, ack)| ack)
    }

    /// Acknowledges all rows.
    pub fn acknowledge(self) {
        self.ack.acknowledge();
        self.more_acks.into_iter().for_each(|(_, ack)| ack.acknowledge());
    }

    /// Returns the message, or those of an aggregate, each with an ack of its own.
    pub fn into_messages(self) -> Vec<(Message, Ack)> {
        let Self { first, more, mut ack, more_acks, .. } = self;
        let mut more_acks = more_acks.into_iter().peekable();
        let mut out = Vec::with_capacity(1 + more.len());
        for (index, message) in std::iter::once(first).chain(more).enumerate() {
            if let Some((_, of_next_batch)) = more_acks.next_if(|(first, _)| first + 1 == index) {
                std::mem::replace(&mut ack, of_next_batch).acknowledge();
            }
            let part = ack.part(message.row);
            out.push((message, part));
        }
        // Each message has a part of its own now.
        ack.acknowledge();
        out
    }

    /// Whether the message is an aggregate of several rows.
    pub fn has_several(&self) -> bool {
        !self.more.is_empty()
    }

    /// Returns the rows as messages of their own, which no row may join.
    pub fn into_single(self) -> impl Iterator<Item = Self> {
        self.into_messages().into_iter().map(|(first, ack)| {
            let (more, more_acks) = Default::default();
            Self { first, more, ack, more_acks, is_sealed: true, doubts: 0, payload: None }
        })
    }

    /// Appends the body to be sent, escaped as in a request.
    fn push_escaped(&self, aggregation: Option<Aggregation>, out: &mut Vec<u8>) {
        match (self.payload.as_deref(), self.compression(aggregation)) {
            (Some(PayloadForm::Stored(stored)), _) => push_escaped(stored.pointer.as_bytes(), out),
            (Some(PayloadForm::Compressed(text)), _) => push_escaped(text.as_bytes(), out),
            (None, Some(compression)) => push_escaped(compressed(&self.text(aggregation), compression).as_bytes(), out),
            (None, None) => {
                let [open, between, close] = self.around(aggregation);
                push_escaped(open.as_bytes(), out);
                self.first.body.push_escaped(out);
                for message in &self.more {
                    push_escaped(between.as_bytes(), out);
                    message.body.push_escaped(out);
                }
                push_escaped(close.as_bytes(), out);
            }
        }
    }

    /// Returns the text of the body before compression.
    fn text(&self, aggregation: Option<Aggregation>) -> String {
        let [open, between, close] = self.around(aggregation);
        let mut text = String::with_capacity(self.more.len() * (self.first.body.len() + between.len()));
        text.push_str(open);
        text.push_str(&self.first.body.plain());
        for message in &self.more {
            text.push_str(between);
            text.push_str(&message.body.plain());
        }
        text.push_str(close);
        text
    }

    /// Returns the texts before the first row, between rows, and after the last row.
    fn around(&self, aggregation: Option<Aggregation>) -> [&'static str; 3] {
        match self.form(aggregation) {
            None => [""; 3],
            Some(AggregateForm::Array) => ["[", ",", "]"],
            Some(AggregateForm::Ndjson) => ["", "\n", ""],
        }
    }

    /// Returns the deduplication ID; an aggregate's is a function of those of its first and its last row.
    fn deduplication_id(&self) -> String {
        let first = &self.first.deduplication_id;
        match self.more.last() {
            Some(last) => sqs_id(format!("{first}+{}", last.deduplication_id)),
            None => first.clone(),
        }
    }

    /// Appends the message as an entry of a request, in JSON.
    /// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatchRequestEntry.html>
    pub fn write_entry(&self, index: usize, fifo: bool, aggregation: Option<Aggregation>, out: &mut Vec<u8>) {
        let Message { group, attributes, .. } = &self.first;
        out.extend_from_slice(b"{\"Id\":\"");
        push_int(index, out);
        out.extend_from_slice(b"\",\"MessageBody\":\"");
        self.push_escaped(aggregation, out);
        out.push(b'"');
        // On a standard queue a message group orders nothing, and shares the queue fairly.
        if !group.is_empty() {
            out.extend_from_slice(b",\"MessageGroupId\":");
            push_string(group, out);
        }
        if fifo {
            out.extend_from_slice(b",\"MessageDeduplicationId\":");
            push_string(&self.deduplication_id(), out);
        }
        let mut separator: &[u8] = b",\"MessageAttributes\":{";
        let mut attribute = |name: &str, kind: &str, value: &str, out: &mut Vec<u8>| {
            out.extend_from_slice(std::mem::replace(&mut separator, b","));
            push_string(name, out);
            out.extend_from_slice(b":{\"DataType\":");
            push_string(kind, out);
            out.extend_from_slice(b",\"StringValue\":");
            push_string(value, out);
            out.push(b'}');
        };
        for (name, value) in attributes {
            attribute(name, TEXT, value, out);
        }
        if let Some(compression) = self.compression(aggregation) {
            attribute(ENCODING_ATTRIBUTE, TEXT, name(compression), out);
        }
        if let Some(PayloadForm::Stored(stored)) = self.payload.as_deref() {
            attribute(SIZE_ATTRIBUTE, NUMBER, &stored.size.to_string(), out);
        }
        let has_attributes = separator == b",";
        out.extend_from_slice(if has_attributes { b"}}" } else { b"}" });
    }
}

/// Returns the compression's name among HTTP's content codings.
fn name(compression: Compression) -> &'static str {
    match compression {
        Compression::Zstd => "zstd",
        Compression::Gzip => "gzip",
    }
}

/// Returns the compressed text in base64.
fn compressed(text: &str, compression: Compression) -> String {
    let bytes = match compression {
        Compression::Zstd => zstd::bulk::compress(text.as_bytes(), zstd::DEFAULT_COMPRESSION_LEVEL)
            .expect("writing to memory does not fail"),
        Compression::Gzip => {
            let mut compressor = Compressor::new(CompressionLvl::default());
            let mut bytes = vec![0; compressor.gzip_compress_bound(text.len())];
            let len = compressor.gzip_compress(text.as_bytes(), &mut bytes).expect("room for the compression bound");
            bytes.truncate(len);
            bytes
        }
    };
    base64_simd::STANDARD.encode_to_string(bytes)
}

/// Whether SQS accepts a name of an attribute.
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-message-metadata.html>
fn is_attribute_name(name: &str) -> bool {
    let are_allowed = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    let lower = name.to_ascii_lowercase();
    let is_reserved = lower.starts_with("aws.") || lower.starts_with("amazon.");
    let has_lone_dot = name.starts_with('.') || name.ends_with('.') || name.contains("..");
    (1..=256).contains(&name.len()) && are_allowed && !is_reserved && !has_lone_dot
}

#[cfg(test)]
mod tests {
    use rowmill_core::batch::TableId;
    use rowmill_pipeline::ack::tracker;
    use serde_json::{Value, json};

    use super::*;
    use crate::ack::CheckpointFeed;
    use crate::ack::tests::{LIMITS, open};

    fn queued_message(table: Option<u32>, body: &str, id: &str, position: &str) -> QueuedMessage {
        let ack = crate::ack::tests::ack();
        let attributes = [("table", "shop.orders"), ("position", position)];
        let message = Message {
            body: body.to_owned().into(),
            group: "g".to_owned(),
            deduplication_id: id.to_owned(),
            attributes: attributes.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            table: table.map(|id| (0, TableId(id))),
            ..Message::default()
        };
        QueuedMessage::new(message, &ack)
    }

    fn aggregation(form: AggregateForm) -> Option<Aggregation> {
        Some(Aggregation { form, bytes: 1000, compression: None })
    }

    /// Returns the entry as SQS parses it.
    fn entry(queued_message: &QueuedMessage, fifo: bool, aggregation: Option<Aggregation>) -> Value {
        let mut out = Vec::new();
        queued_message.write_entry(7, fifo, aggregation, &mut out);
        let entry: Value = serde_json::from_slice(&out).expect("JSON");
        assert_eq!(entry["Id"], "7");
        entry
    }

    #[test]
    fn a_group_orders_a_fifo_queue_and_shares_a_standard_one() {
        let entry = |fifo| entry(&queued_message(None, "{\"a\":\"\u{7f}ü\\n\"}", "d", "b:4:0"), fifo, None);
        let attributes = json!({
            "table": { "DataType": "String", "StringValue": "shop.orders" },
            "position": { "DataType": "String", "StringValue": "b:4:0" },
        });
        let body = "{\"a\":\"\u{7f}ü\\n\"}";
        assert_eq!(
            entry(true),
            json!({ "Id": "7", "MessageBody": body, "MessageGroupId": "g", "MessageDeduplicationId": "d", "MessageAttributes": attributes })
        );
        assert_eq!(
            entry(false),
            json!({ "Id": "7", "MessageBody": body, "MessageGroupId": "g", "MessageAttributes": attributes })
        );
        let mut bare = queued_message(None, "{}", "d", "b:4:0");
        (bare.first.group, bare.first.attributes) = (String::new(), Vec::new());
        assert_eq!(self::entry(&bare, false, None), json!({ "Id": "7", "MessageBody": "{}" }));
    }

    #[test]
    fn rows_of_a_table_leave_together() {
        for (form, one, three) in [(AggregateForm::Array, "[1]", "[1,22,3]"), (AggregateForm::Ndjson, "1", "1\n22\n3")]
        {
            let mut pack = queued_message(Some(7), "1", "a", "b:4:0");
            let sent = |pack: &QueuedMessage| {
                let entry = entry(pack, true, aggregation(form));
                (entry["MessageBody"].clone(), entry["MessageDeduplicationId"].clone())
            };
            assert_eq!(sent(&pack), (one.into(), "a".into()));
            let mut bytes = pack.bytes(aggregation(form));
            for (body, id) in [("22", "b"), ("3", "c")] {
                let row = queued_message(Some(7), body, id, "b:4:1").first;
                assert!(pack.can_join(&row));
                bytes += QueuedMessage::added_bytes(&row);
                pack.take(row, &crate::ack::tests::ack());
            }
            assert_eq!(sent(&pack), (three.into(), "a+c".into()));
            let attributes = "tableshop.ordersStringpositionb:4:0String".len();
            assert_eq!(bytes, three.len() + attributes);
            assert_eq!(pack.into_messages().len(), 3);
        }
    }

    /// Two rows of a batch and three of the next one, in one message.
    fn of_two_batches() -> (QueuedMessage, CheckpointFeed, [Ack; 2]) {
        let (mut acks, feed, _) = tracker(LIMITS);
        let batches = [open(&mut acks, 4, 8), open(&mut acks, 8, 12)];
        let row = |row| Message { row, ..queued_message(Some(7), "1", "a", "b:4:0").first };
        let mut pack = QueuedMessage::new(row(1), &batches[0]);
        pack.take(row(3), &batches[0]);
        [0, 2, 5].into_iter().for_each(|index| pack.take(row(index), &batches[1]));
        (pack, feed, batches)
    }

    fn progress(feed: &mut CheckpointFeed) -> Option<u64> {
        feed.take().map(|advance| advance.progress.position.offset)
    }

    #[test]
    fn rows_of_several_batches_are_acknowledged_together() {
        let (pack, mut feed, batches) = of_two_batches();
        batches.into_iter().for_each(Ack::acknowledge);
        assert_eq!(progress(&mut feed), None);
        pack.acknowledge();
        assert_eq!(progress(&mut feed), Some(12));

        // Each row alone, in any order.
        let (pack, mut feed, batches) = of_two_batches();
        batches.into_iter().for_each(Ack::acknowledge);
        let mut single: Vec<_> = pack.into_single().collect();
        assert_eq!(single.iter().map(|single| single.message().row).collect::<Vec<_>>(), [1, 3, 0, 2, 5]);
        for index in [4, 1, 0] {
            assert_eq!(progress(&mut feed), None);
            single.remove(index).acknowledge();
        }
        assert_eq!(progress(&mut feed), Some(8));
        single.into_iter().for_each(QueuedMessage::acknowledge);
        assert_eq!(progress(&mut feed), Some(12));
    }

    #[test]
    fn rows_after_a_stop_do_not_leave() {
        // The row that stops the pipeline, by batch and index; the rows that remain; the watermark that is reached.
        for (batch, row, left, reached) in [
            (0, 0, &[][..], Some(4)),
            (0, 2, &[1], Some(4)),
            (1, 0, &[1, 3], Some(8)),
            (1, 4, &[1, 3, 0, 2], Some(8)),
            (1, 9, &[1, 3, 0, 2, 5], Some(8)),
        ] {
            let (pack, mut feed, batches) = of_two_batches();
            let stop = batches[batch].part(row);
            crate::ack::stop(stop, anyhow::anyhow!("no"));
            batches.into_iter().for_each(Ack::acknowledge);
            let pack = pack.without_stopped();
            let rows = |pack: &QueuedMessage| std::iter::once(&pack.first).chain(&pack.more).map(|it| it.row).collect();
            assert_eq!(pack.as_ref().map_or(vec![], rows), left, "{batch} {row}");
            if let Some(pack) = pack {
                assert!(!pack.is_stopped());
                assert_eq!(progress(&mut feed), None);
                pack.acknowledge();
            }
            assert_eq!(progress(&mut feed), reached, "{batch} {row}");
        }
    }

    #[test]
    fn what_was_sent_or_is_another_tables_stays_alone() {
        let mut pack = queued_message(Some(7), "1", "a", "b:4:0");
        let row = |table, body| queued_message(table, body, "2", "b:4:1").first;
        assert!(pack.can_join(&row(Some(7), "2")));
        assert!(!pack.can_join(&row(Some(8), "2")));
        assert!(!pack.can_join(&row(None, "2")));
        assert!(!pack.can_join(&row(Some(7), "")), "SQS would reject an empty body");
        assert!(!queued_message(None, "1", "a", "b:4:0").can_join(&row(None, "2")));
        pack.seal();
        assert!(!pack.can_join(&row(Some(7), "2")));
        let alone = queued_message(None, "a transform's text", "a", "b:4:0");
        assert_eq!(entry(&alone, true, aggregation(AggregateForm::Array))["MessageBody"], "a transform's text");
    }

    #[test]
    fn compressed_rows_are_base64_and_never_larger_than_foreseen() {
        // Random text compresses worst.
        let noise: String = (0..50_000).map(|_| char::from(rand::random_range(b'!'..=b'~'))).collect();
        for compression in [Compression::Zstd, Compression::Gzip] {
            let aggregation =
                Some(Aggregation { form: AggregateForm::Ndjson, bytes: 1000, compression: Some(compression) });
            let sent = entry(&queued_message(Some(7), &noise, "a", "b:4:0"), false, aggregation);
            let body = sent["MessageBody"].as_str().expect("a body");
            assert!(body.len() <= noise.len() / 7 * 10, "{} of {}", body.len(), noise.len());
            assert!(base64_simd::STANDARD.decode_to_vec(body).is_ok());
            assert_eq!(sent["MessageAttributes"]["content-encoding"]["StringValue"], name(compression));
            // A message that is not a row is sent as it is.
            let sent = entry(&queued_message(None, &noise, "a", "b:4:0"), false, aggregation);
            assert_eq!(sent["MessageBody"], noise.as_str());
        }
    }

    #[test]
    fn what_no_queue_takes_is_known_before() {
        let with = |name: &str, value: &str, count: usize| {
            let mut queued_message = queued_message(None, "{}", "a", "b:4:0");
            let more = (0..count).map(|nth| (format!("{name}{nth}"), value.to_owned()));
            queued_message.first.attributes.extend(more);
            queued_message.rejection(None).map(|rejection| rejection.error)
        };
        assert_eq!(with("n", "v", 8), None);
        assert_eq!(with("n", "v", 9).as_deref(), Some("too many attributes: 11, SQS takes 10"));
        for (name, value) in
            [("n", ""), ("two words", "v"), ("aws.", "v"), ("AMAZON.n", "v"), (".n", "v"), ("a..b", "v")]
        {
            assert!(with(name, value, 1).is_some(), "{name}");
        }
        assert!(queued_message(None, "", "a", "b:4:0").rejection(None).is_some());
        // A duplicate name, and one that the sink adds to compressed rows.
        let mut twice = queued_message(Some(7), "{}", "a", "b:4:0");
        twice.first.attributes.push(("table".to_owned(), "mine".to_owned()));
        let error = twice.rejection(None).map(|rejection| rejection.error);
        assert_eq!(error.as_deref(), Some("duplicate attribute `table`, as `shop.orders` and as `mine`"));
        let mut encoded = queued_message(Some(7), "{}", "a", "b:4:0");
        encoded.first.attributes.push((ENCODING_ATTRIBUTE.to_owned(), "mine".to_owned()));
        assert_eq!(encoded.rejection(None), None);
        let compressed = Aggregation { form: AggregateForm::Array, bytes: 1000, compression: Some(Compression::Gzip) };
        let error = encoded.rejection(Some(compressed)).map(|rejection| rejection.error);
        assert_eq!(error.as_deref(), Some("reserved attribute `content-encoding`, which the sink adds"));
    }
}
