//! Messages that wait for a request, each with one row or, as an aggregate, with several.
//!
//! Rows are aggregated while they wait: a row joins the last message of its group, if that is of the same table and has
//! room. So no row waits to be aggregated: the rows of a slow stream leave one by one, those of a backlog in full messages.

use std::borrow::Cow;

use libdeflater::{CompressionLvl, Compressor};
use rowmill_core::batch::json::push_escaped;
use rowmill_core::route::message_id;

use super::super::Message;
use super::super::aws::{SIZE_ATTRIBUTE, Store, Stored};
use super::letter;
use crate::ack::Ack;
use crate::config::{AggregateForm, Aggregation, Compression};

/// The attribute that names the compression of a body, which is base64 then.
const ENCODING_ATTRIBUTE: &str = "content-encoding";

/// The rows after the first for which memory is reserved at once.
const ROWS_EXPECTED: usize = 15;

/// A message that waits or is in flight, and the rows that are aggregated with it.
#[derive(Debug)]
pub(in crate::sink) struct QueuedMessage {
    first: Message,
    more: Vec<Message>,
    /// The ack of the first message and of all others of its batch: they are delivered together.
    ack: Ack,
    /// The acks of further batches, each with the index in `more` of the first message of its batch.
    more_acks: Vec<(usize, Ack)>,
    /// Whether no row may join or leave: the message was sent, and the service may have accepted it, so retries must be
    /// identical; or its row was sent before in an aggregate that was rejected.
    is_sealed: bool,
    /// How often the message was refused individually with an unknown code, while the service accepted others.
    doubts: u8,
    form: BodyForm,
    /// The form in which a large body is sent instead of its text.
    payload: Option<Box<PayloadForm>>,
}

/// The form of the body: as the sink aggregates and compresses rows, or as it is.
#[derive(Debug, Clone, Copy, Default)]
struct BodyForm {
    aggregate: Option<AggregateForm>,
    compression: Option<Compression>,
}

/// An attribute that the sink adds to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sink) struct AddedAttribute<'a> {
    pub name: &'static str,
    pub value: &'a str,
    /// Whether the value is a number.
    pub is_number: bool,
}

#[derive(Debug)]
enum PayloadForm {
    Compressed(String),
    Stored(Stored),
}

impl QueuedMessage {
    /// Creates a message with a part of `ack`, the ack of its batch. `aggregation` is the sink's, for messages of rows.
    pub fn new(message: Message, ack: &Ack, aggregation: Option<Aggregation>) -> Self {
        let ack = ack.part(message.row);
        let form = match message.table.and(aggregation) {
            Some(Aggregation { form, compression, .. }) => BodyForm { aggregate: Some(form), compression },
            None => BodyForm::default(),
        };
        Self {
            first: message,
            more: Vec::new(),
            ack,
            more_acks: Vec::new(),
            is_sealed: false,
            doubts: 0,
            form,
            payload: None,
        }
    }

    /// Returns the message group. May be empty where the sink does not need one.
    pub fn group(&self) -> &str {
        &self.first.group
    }

    /// Returns the attributes of the message; those of an aggregate are the first row's. [`Self::added_attributes`] has
    /// further ones.
    pub fn attributes(&self) -> &[(String, String)] {
        &self.first.attributes
    }

    /// Returns the attributes that the sink adds: the compression of the body, and the size of a body in a bucket.
    pub fn added_attributes(&self) -> impl Iterator<Item = AddedAttribute<'_>> {
        let encoding = self.form.compression.map(|compression| AddedAttribute {
            name: ENCODING_ATTRIBUTE,
            value: name(compression),
            is_number: false,
        });
        let size = match self.payload.as_deref() {
            Some(PayloadForm::Stored(stored)) => {
                Some(AddedAttribute { name: SIZE_ATTRIBUTE, value: &stored.size, is_number: true })
            }
            _ => None,
        };
        encoding.into_iter().chain(size)
    }

    /// Returns the bytes of the body, unescaped: of an aggregate, without the rows after the first, which
    /// [`Self::added_bytes`] counts; of a body that is yet to be compressed, those of its text.
    pub fn body_len(&self) -> usize {
        match self.payload.as_deref() {
            None => {
                let [open, _, close] = self.around();
                open.len() + self.first.body.len() + close.len()
            }
            Some(PayloadForm::Compressed(text)) => text.len(),
            Some(PayloadForm::Stored(stored)) => stored.pointer.len(),
        }
    }

    /// Compresses the body now, so that its size is known. Does nothing where the sink does not compress the message.
    pub fn compress(&mut self) {
        if let Some(compression) = self.form.compression {
            let text = compressed(&self.text(), compression);
            self.payload = Some(Box::new(PayloadForm::Compressed(text)));
        }
    }

    /// Replaces the body by a pointer to S3, where the body is still to be stored.
    pub fn place(&mut self, store: &Store) {
        let body = match self.payload.take().map(|payload| *payload) {
            Some(PayloadForm::Compressed(text)) => text,
            _ => self.text(),
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
        let form = self.form;
        self.into_messages().into_iter().map(move |(first, ack)| {
            let (more, more_acks) = Default::default();
            Self { first, more, ack, more_acks, is_sealed: true, doubts: 0, form, payload: None }
        })
    }

    /// Appends the body to be sent, escaped as in a JSON text.
    pub fn push_escaped(&self, out: &mut Vec<u8>) {
        match (self.payload.as_deref(), self.form.compression) {
            (Some(PayloadForm::Stored(stored)), _) => push_escaped(stored.pointer.as_bytes(), out),
            (Some(PayloadForm::Compressed(text)), _) => push_escaped(text.as_bytes(), out),
            (None, Some(compression)) => push_escaped(compressed(&self.text(), compression).as_bytes(), out),
            (None, None) => {
                let [open, between, close] = self.around();
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
    fn text(&self) -> String {
        let [open, between, close] = self.around();
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
    fn around(&self) -> [&'static str; 3] {
        match self.form.aggregate {
            None => [""; 3],
            Some(AggregateForm::Array) => ["[", ",", "]"],
            Some(AggregateForm::Ndjson) => ["", "\n", ""],
        }
    }

    /// Returns the deduplication ID; an aggregate's is a function of those of its first and its last row.
    pub fn deduplication_id(&self) -> Cow<'_, str> {
        let first = &self.first.deduplication_id;
        match self.more.last() {
            Some(last) => message_id(format!("{first}+{}", last.deduplication_id)).into(),
            None => first.into(),
        }
    }
}

/// Returns the compression's name among HTTP's content codings.
fn name(compression: Compression) -> &'static str {
    match compression {
        Compression::Zstd => "zstd",
        Compression::Gzip => "gzip",
    }
}

/// Returns how many bytes of any text always fit into a message of `message_max` bytes, compressed and in base64.
pub(in crate::sink) fn uncompressed_max(message_max: usize) -> usize {
    message_max / 10 * 7
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

#[cfg(test)]
mod tests {
    use rowmill_core::batch::TableId;
    use rowmill_pipeline::ack::tracker;

    use super::*;
    use crate::ack::CheckpointFeed;
    use crate::ack::tests::{LIMITS, ack, open};

    fn message(table: Option<u32>, body: &str, id: &str, position: &str) -> Message {
        let attributes = [("table", "shop.orders"), ("position", position)];
        Message {
            body: body.to_owned().into(),
            deduplication_id: id.to_owned(),
            attributes: attributes.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            table: table.map(|id| (0, TableId(id))),
            ..Message::default()
        }
    }

    /// Returns the first row of an aggregate of this form.
    fn first_row(body: &str, form: AggregateForm) -> QueuedMessage {
        let aggregation = Aggregation { form, bytes: 1000, compression: None };
        QueuedMessage::new(message(Some(7), body, "a", "b:4:0"), &ack(), Some(aggregation))
    }

    /// Returns the body as the service gets it.
    fn body_sent(message: &QueuedMessage) -> String {
        let mut json = b"\"".to_vec();
        message.push_escaped(&mut json);
        json.push(b'"');
        serde_json::from_slice(&json).expect("a JSON string")
    }

    #[test]
    fn rows_of_a_table_leave_together() {
        for (form, one, three) in [(AggregateForm::Array, "[1]", "[1,22,3]"), (AggregateForm::Ndjson, "1", "1\n22\n3")]
        {
            let mut pack = first_row("1", form);
            assert_eq!((&*body_sent(&pack), &*pack.deduplication_id()), (one, "a"));
            let mut bytes = pack.body_len();
            for (body, id) in [("22", "b"), ("3", "c")] {
                let row = message(Some(7), body, id, "b:4:1");
                assert!(pack.can_join(&row));
                bytes += QueuedMessage::added_bytes(&row);
                pack.take(row, &ack());
            }
            assert_eq!((&*body_sent(&pack), &*pack.deduplication_id()), (three, "a+c"));
            assert_eq!(bytes, three.len());
            assert_eq!(pack.into_messages().len(), 3);
        }
    }

    /// Two rows of a batch and three of the next one, in one message.
    fn of_two_batches() -> (QueuedMessage, CheckpointFeed, [Ack; 2]) {
        let (mut acks, feed, _) = tracker(LIMITS);
        let batches = [open(&mut acks, 4, 8), open(&mut acks, 8, 12)];
        let row = |row| Message { row, ..message(Some(7), "1", "a", "b:4:0") };
        let mut pack = QueuedMessage::new(row(1), &batches[0], None);
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
        let mut pack = first_row("1", AggregateForm::Array);
        let row = |table, body| message(table, body, "2", "b:4:1");
        assert!(pack.can_join(&row(Some(7), "2")));
        assert!(!pack.can_join(&row(Some(8), "2")));
        assert!(!pack.can_join(&row(None, "2")));
        assert!(!pack.can_join(&row(Some(7), "")), "an empty body would be rejected");
        pack.seal();
        assert!(!pack.can_join(&row(Some(7), "2")));
        let aggregation = Aggregation { form: AggregateForm::Array, bytes: 1000, compression: None };
        let alone = QueuedMessage::new(row(None, "a transform's text"), &ack(), Some(aggregation));
        assert!(!alone.can_join(&row(Some(7), "2")));
        assert_eq!(body_sent(&alone), "a transform's text");
    }

    #[test]
    fn compressed_rows_are_base64_and_never_larger_than_foreseen() {
        // Random text compresses worst.
        let noise: String = (0..50_000).map(|_| char::from(rand::random_range(b'!'..=b'~'))).collect();
        for compression in [Compression::Zstd, Compression::Gzip] {
            let aggregation =
                Some(Aggregation { form: AggregateForm::Ndjson, bytes: 1000, compression: Some(compression) });
            let row = QueuedMessage::new(message(Some(7), &noise, "a", "b:4:0"), &ack(), aggregation);
            let body = body_sent(&row);
            assert!(uncompressed_max(body.len()) <= noise.len(), "{} of {}", body.len(), noise.len());
            assert!(base64_simd::STANDARD.decode_to_vec(body).is_ok());
            let encoding = AddedAttribute { name: ENCODING_ATTRIBUTE, value: name(compression), is_number: false };
            assert_eq!(row.added_attributes().collect::<Vec<_>>(), [encoding]);
            // A message that is not a row is sent as it is.
            let other = QueuedMessage::new(message(None, &noise, "a", "b:4:0"), &ack(), aggregation);
            assert_eq!((body_sent(&other), other.added_attributes().count()), (noise.clone(), 0));
        }
    }
}
