//! The transport of an SQS queue: limits, requests `SendMessageBatch`, and their answers.
//! <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html>

use std::borrow::Cow;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rowmill_core::batch::json::push_string;
use rowmill_core::envelope::{Escaping, push_int};
use rowmill_pipeline::ordered_queue::RequestLimits;
use serde::Deserialize;

use super::super::Rejection;
use super::super::aws::{Api, Failure, Service};
use super::super::remote::{AddedAttribute, Class, Limits, Outcome, QueuedMessage, Refusal, Request, Transport};
use super::codes::class;

/// The service SQS.
pub(super) const SERVICE: Service = Service { signing_name: "sqs", target: "AmazonSQS" };
/// The limits of a request.
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html>
pub(in crate::sink) const LIMITS: RequestLimits = RequestLimits { messages: 10, bytes: 1 << 20 };
/// The most attributes of a message.
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html>
const ATTRIBUTES_MAX: usize = 10;
const TEXT: &str = "String";
const NUMBER: &str = "Number";
/// Bodies are JSON strings in a request.
pub(super) const ESCAPING: Escaping = Escaping::Escaped;

/// An opened queue, standard or FIFO.
#[derive(Debug)]
pub(in crate::sink) struct SqsQueue {
    pub api: Arc<dyn Api>,
    pub url: String,
    pub is_fifo: bool,
    /// The most bytes of a message: of its body and attributes.
    pub message_max: usize,
}

/// The outcomes of a request's entries.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Output {
    #[serde(default)]
    successful: Vec<Accepted>,
    #[serde(default)]
    failed: Vec<Refused>,
}

/// An accepted entry. Its digests and numbers are not used.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Accepted {
    #[serde(deserialize_with = "index")]
    id: Option<usize>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Refused {
    #[serde(deserialize_with = "index")]
    id: Option<usize>,
    code: String,
    sender_fault: bool,
    #[serde(default)]
    message: Option<String>,
}

/// Parses the index of an entry in its request. `None` for an ID that no entry has.
fn index<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    let id = Cow::<str>::deserialize(deserializer)?;
    Ok(id.parse().ok().filter(|index| *index < LIMITS.messages))
}

impl Transport for SqsQueue {
    fn destination(&self) -> String {
        format!("queue {}", self.url)
    }

    fn limits(&self) -> Limits {
        Limits { request: LIMITS, message_bytes: self.message_max }
    }

    fn is_ordered(&self) -> bool {
        self.is_fifo
    }

    fn escaping(&self) -> Escaping {
        ESCAPING
    }

    fn bytes(&self, message: &QueuedMessage) -> usize {
        let own = message.attributes().iter().map(|(name, value)| name.len() + value.len() + TEXT.len());
        let added =
            message.added_attributes().map(|added| added.name.len() + added.value.len() + data_type(added).len());
        message.body_len() + own.chain(added).sum::<usize>()
    }

    fn rejection(&self, message: &QueuedMessage) -> Option<Rejection> {
        let attributes = message.attributes();
        if message.message().body.is_empty() {
            return Some(Rejection::new("empty-body", "the body is empty"));
        }
        let count = attributes.len() + message.added_attributes().count();
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
            if message.added_attributes().any(|added| added.name == name) {
                let error = format!("reserved attribute `{name}`, which the sink adds");
                return Some(Rejection::new("reserved-attribute", error));
            }
        }
        let wrong = attributes.iter().find(|(name, value)| value.is_empty() || !is_attribute_name(name))?;
        let error = format!("invalid attribute `{}` with the value `{}`", wrong.0, wrong.1);
        Some(Rejection::new("invalid-attribute", error))
    }

    fn send<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Vec<Outcome>, Refusal>> {
        async move {
            let answer = self.api.call("SendMessageBatch", self.encode(request)).await.map_err(refusal)?;
            let output = serde_json::from_slice(&answer);
            let output = output.map_err(|error| Refusal::transient(format!("cannot parse the answer: {error}")))?;
            Ok(outcomes(output, request.len()))
        }
        .boxed()
    }

    fn reconnect(&self) {
        self.api.reconnect();
    }
}

impl SqsQueue {
    /// Returns the JSON body of a request.
    fn encode(&self, request: &Request) -> Vec<u8> {
        // Most bodies are JSON, whose quotes are escaped.
        let bytes: usize = request.iter().map(|pending| pending.bytes + pending.bytes / 4 + 256).sum();
        let mut body = Vec::with_capacity(bytes);
        body.extend_from_slice(b"{\"QueueUrl\":");
        push_string(&self.url, &mut body);
        let mut separator: &[u8] = b",\"Entries\":[";
        for (index, pending) in request.iter().enumerate() {
            body.extend_from_slice(std::mem::replace(&mut separator, b","));
            push_entry(&pending.item, index, self.is_fifo, &mut body);
        }
        body.extend_from_slice(b"]}");
        body
    }
}

/// Appends a message as an entry of a request, in JSON.
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatchRequestEntry.html>
fn push_entry(message: &QueuedMessage, index: usize, is_fifo: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"Id\":\"");
    push_int(index, out);
    out.extend_from_slice(b"\",\"MessageBody\":\"");
    message.push_escaped(out);
    out.push(b'"');
    // On a standard queue a message group orders nothing, and shares the queue fairly.
    if !message.group().is_empty() {
        out.extend_from_slice(b",\"MessageGroupId\":");
        push_string(message.group(), out);
    }
    if is_fifo {
        out.extend_from_slice(b",\"MessageDeduplicationId\":");
        push_string(&message.deduplication_id(), out);
    }
    let mut separator: &[u8] = b",\"MessageAttributes\":{";
    let mut push_attribute = |name: &str, data_type: &str, value: &str, out: &mut Vec<u8>| {
        out.extend_from_slice(std::mem::replace(&mut separator, b","));
        push_string(name, out);
        out.extend_from_slice(b":{\"DataType\":");
        push_string(data_type, out);
        out.extend_from_slice(b",\"StringValue\":");
        push_string(value, out);
        out.push(b'}');
    };
    for (name, value) in message.attributes() {
        push_attribute(name, TEXT, value, out);
    }
    for added in message.added_attributes() {
        push_attribute(added.name, data_type(added), added.value, out);
    }
    let has_attributes = separator == b",";
    out.extend_from_slice(if has_attributes { b"}}" } else { b"}" });
}

fn data_type(added: AddedAttribute<'_>) -> &'static str {
    if added.is_number { NUMBER } else { TEXT }
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

/// Returns the refusal of a request as a whole.
fn refusal(failure: Failure) -> Refusal {
    let error = failure.to_string();
    match failure {
        Failure::Failed(_) => Refusal::transient(error),
        Failure::Refused { code, status, .. } => {
            Refusal { class: class(&code, (400..500).contains(&status)), code: code.into(), error }
        }
    }
}

/// Returns the outcomes of a request's `count` entries.
fn outcomes(output: Output, count: usize) -> Vec<Outcome> {
    // An entry that the answer does not name was not accepted, perhaps for the reason of one whose ID no entry has.
    let mut unnamed = Refusal::transient("the answer does not name these messages".to_owned());
    let mut refusals: Vec<Option<Refusal>> = vec![None; count];
    for Refused { id, code, sender_fault, message } in output.failed {
        let error = format!("{code}: {}", message.unwrap_or_default());
        let class = class(&code, sender_fault);
        match id.and_then(|index| refusals.get_mut(index)) {
            Some(refusal) => *refusal = Some(Refusal { class, code: code.into(), error }),
            None => {
                // No message may be rejected for it.
                let class = if matches!(class, Class::Definite | Class::Unknown) { Class::Transient } else { class };
                unnamed = Refusal { class, code: code.into(), error };
            }
        }
    }
    let mut accepted = vec![false; count];
    for Accepted { id } in output.successful {
        if let Some(is_accepted) = id.and_then(|index| accepted.get_mut(index)) {
            *is_accepted = true;
        }
    }
    let outcome = |(is_accepted, refusal): (bool, Option<Refusal>)| match is_accepted {
        true => Ok(()),
        false => Err(refusal.unwrap_or_else(|| unnamed.clone())),
    };
    accepted.into_iter().zip(refusals).map(outcome).collect()
}

#[cfg(test)]
mod tests {
    use rowmill_core::batch::TableId;
    use rowmill_pipeline::ordered_queue::Pending;
    use serde_json::{Value, json};

    use super::super::super::Message;
    use super::super::super::aws::fake::FakeApi;
    use super::*;
    use crate::ack::tests::ack;
    use crate::config::{AggregateForm, Aggregation, Compression};

    fn queue(is_fifo: bool, answer: &'static str) -> SqsQueue {
        let answers = move |_| async move { Ok(answer.as_bytes().to_vec()) }.boxed();
        let api = Arc::new(FakeApi(Arc::new(answers)));
        SqsQueue { api, url: "http://simulated/q".to_owned(), is_fifo, message_max: LIMITS.bytes }
    }

    fn message(body: &str) -> Message {
        let attributes = [("table", "shop.orders"), ("position", "b:4:0")];
        Message {
            body: body.to_owned().into(),
            group: "g".to_owned(),
            deduplication_id: "d".to_owned(),
            attributes: attributes.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            ..Message::default()
        }
    }

    fn pending(message: Message) -> Pending<QueuedMessage> {
        Pending { group: None, bytes: 1, item: QueuedMessage::new(message, &ack(), None) }
    }

    /// Returns the entry of a message as SQS parses it.
    fn entry(message: Message, is_fifo: bool) -> Value {
        let request: Value = serde_json::from_slice(&queue(is_fifo, "").encode(&vec![pending(message)])).expect("JSON");
        assert_eq!(request["QueueUrl"], "http://simulated/q");
        request["Entries"][0].clone()
    }

    #[test]
    fn a_group_orders_a_fifo_queue_and_shares_a_standard_one() {
        let body = "{\"a\":\"\u{7f}ü\\n\"}";
        let attributes = json!({
            "table": { "DataType": "String", "StringValue": "shop.orders" },
            "position": { "DataType": "String", "StringValue": "b:4:0" },
        });
        assert_eq!(
            entry(message(body), true),
            json!({ "Id": "0", "MessageBody": body, "MessageGroupId": "g", "MessageDeduplicationId": "d", "MessageAttributes": attributes })
        );
        assert_eq!(
            entry(message(body), false),
            json!({ "Id": "0", "MessageBody": body, "MessageGroupId": "g", "MessageAttributes": attributes })
        );
        let bare = Message { group: String::new(), attributes: Vec::new(), ..message("{}") };
        assert_eq!(entry(bare, false), json!({ "Id": "0", "MessageBody": "{}" }));
    }

    #[test]
    fn bytes_are_those_of_body_and_attributes() {
        let item = |message, aggregation| QueuedMessage::new(message, &ack(), aggregation);
        let attributes = "tableshop.ordersStringpositionb:4:0String".len();
        assert_eq!(queue(true, "").bytes(&item(message("12"), None)), 2 + attributes);
        let gzip = Aggregation { form: AggregateForm::Array, bytes: 1000, compression: Some(Compression::Gzip) };
        let row = Message { table: Some((0, TableId(7))), ..message("12") };
        let added = "content-encodinggzipString".len();
        assert_eq!(queue(true, "").bytes(&item(row, Some(gzip))), "[12]".len() + attributes + added);
    }

    #[test]
    fn what_no_queue_takes_is_known_before() {
        let rejection = |message, aggregation| {
            let item = QueuedMessage::new(message, &ack(), aggregation);
            queue(true, "").rejection(&item).map(|rejection| rejection.error)
        };
        let with = |name: &str, value: &str, count: usize| {
            let mut message = message("{}");
            message.attributes.extend((0..count).map(|nth| (format!("{name}{nth}"), value.to_owned())));
            rejection(message, None)
        };
        assert_eq!(with("n", "v", 8), None);
        assert_eq!(with("n", "v", 9).as_deref(), Some("too many attributes: 11, SQS takes 10"));
        for (name, value) in
            [("n", ""), ("two words", "v"), ("aws.", "v"), ("AMAZON.n", "v"), (".n", "v"), ("a..b", "v")]
        {
            assert!(with(name, value, 1).is_some(), "{name}");
        }
        assert!(rejection(message(""), None).is_some());
        // A duplicate name, and one that the sink adds to compressed rows.
        let row = |name: &str| {
            let mut row = Message { table: Some((0, TableId(7))), ..message("{}") };
            row.attributes.push((name.to_owned(), "mine".to_owned()));
            row
        };
        let error = rejection(row("table"), None);
        assert_eq!(error.as_deref(), Some("duplicate attribute `table`, as `shop.orders` and as `mine`"));
        assert_eq!(rejection(row("content-encoding"), None), None);
        let gzip = Aggregation { form: AggregateForm::Array, bytes: 1000, compression: Some(Compression::Gzip) };
        let error = rejection(row("content-encoding"), Some(gzip));
        assert_eq!(error.as_deref(), Some("reserved attribute `content-encoding`, which the sink adds"));
    }

    /// Each kind of entry once, and one that the answer does not name.
    #[tokio::test]
    async fn each_entry_has_its_own_outcome() {
        let answer = r#"{
            "Successful": [{"Id": "0", "MessageId": "m", "MD5OfMessageBody": "d", "SequenceNumber": "18"}],
            "Failed": [
                {"Id": "1", "Code": "InvalidMessageContents", "SenderFault": true},
                {"Id": "2", "Code": "InternalError", "SenderFault": false, "Message": "later"},
                {"Id": "4", "Code": "KMS.ThrottlingException", "SenderFault": true},
                {"Id": "5", "Code": "SomethingNew", "SenderFault": true},
                {"Id": "99", "Code": "Nonsense", "SenderFault": true, "Message": "of no entry"}
            ]
        }"#;
        let request = (0..6).map(|_| pending(message("{}"))).collect();
        let outcomes = queue(false, answer).send(&request).await.expect("an outcome for each");
        let outcome = |outcome: &Outcome| {
            outcome.as_ref().err().map(|refusal| (refusal.class, refusal.code.to_string(), refusal.error.clone()))
        };
        let refused = |class, code: &str, error: &str| Some((class, code.to_owned(), error.to_owned()));
        assert_eq!(
            outcomes.iter().map(outcome).collect::<Vec<_>>(),
            [
                None,
                refused(Class::Definite, "InvalidMessageContents", "InvalidMessageContents: "),
                refused(Class::Transient, "InternalError", "InternalError: later"),
                refused(Class::Transient, "Nonsense", "Nonsense: of no entry"),
                refused(Class::Throttled, "KMS.ThrottlingException", "KMS.ThrottlingException: "),
                refused(Class::Unknown, "SomethingNew", "SomethingNew: "),
            ]
        );
    }

    #[tokio::test]
    async fn an_answer_that_cannot_be_parsed_is_no_answer() {
        let request = vec![pending(message("{}"))];
        let refusal = queue(false, "<html>").send(&request).await.expect_err("no outcomes");
        assert_eq!(refusal.class, Class::Transient);
        assert!(refusal.error.starts_with("cannot parse the answer: "), "{}", refusal.error);
    }
}
