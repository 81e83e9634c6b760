//! Requests to a queue, and their answers.
//!
//! In: a request of messages. Out: the messages by outcome: accepted, refused for now, rejected, or doubtful.

use std::borrow::Cow;
use std::sync::Arc;

use rowmill_core::batch::json::push_string;
use rowmill_pipeline::ordered_queue::{Pending, RequestLimits};
use serde::Deserialize;

use super::super::Rejection;
use super::super::aws::{Failure, Transport};
use super::super::flow::Outcome;
use super::codes::{Class, class};
use super::extended_client::Store;
use super::queued_message::QueuedMessage;
use crate::config::Aggregation;
use crate::failpoint::{self, Step};

/// The limits of a request.
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html>
pub(super) const LIMITS: RequestLimits = RequestLimits { messages: 10, bytes: 1 << 20 };

pub(super) type Request = Vec<Pending<QueuedMessage>>;

/// The destination of requests, and how messages are written for it.
pub(super) struct RequestTarget {
    pub transport: Arc<dyn Transport>,
    pub url: String,
    pub fifo: bool,
    pub aggregation: Option<Aggregation>,
    pub store: Option<Store>,
}

/// The outcome of a request, by message.
#[derive(Default)]
pub(super) struct Answer {
    pub accepted: Request,
    /// Messages to be sent again, in their order.
    pub refused: Request,
    /// The reason, if some were refused.
    pub reason: Option<Reason>,
    /// Messages that will never be accepted, each with the reason.
    pub rejected: Vec<(Pending<QueuedMessage>, Rejection)>,
    /// Messages refused individually with an unknown code, perhaps to be rejected, each with the error.
    pub doubtful: Vec<(Pending<QueuedMessage>, Rejection)>,
}

/// The reason why messages were not accepted, but may be later.
#[derive(Debug)]
pub(super) struct Reason {
    pub text: String,
    pub is_throttled: bool,
}

/// The queue's answer to a request.
enum SendOutcome {
    /// An outcome for each entry.
    Entries(Output),
    /// Nothing is accepted now: the queue cannot be reached, throttles or fails.
    Retry(Reason),
    /// Nothing is accepted, because at least one message is to be rejected.
    Rejected(Rejection),
    /// Nothing is accepted, perhaps because of one of the messages.
    Unknown(Rejection),
}

/// The outcomes of a request's entries.
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html>
#[derive(Deserialize, Default)]
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

/// Sends a request once. A request that is refused as a whole, perhaps because of one of its messages, is sent again message
/// by message, so that the other messages are accepted.
pub(super) async fn send(to: RequestTarget, mut request: Request) -> Answer {
    let mut answer = Answer::default();
    if let Some(store) = &to.store {
        let mut ready = Request::with_capacity(request.len());
        for mut pending in request {
            match pending.item.store(store).await {
                Ok(()) => ready.push(pending),
                Err(text) => answer.take(vec![pending], SendOutcome::Retry(Reason { text, is_throttled: false })),
            }
        }
        request = ready;
        if request.is_empty() {
            return answer;
        }
    }
    failpoint::reached(Step::Sending);
    let said = send_once(&to, &request).await;
    if !matches!(said, SendOutcome::Rejected(_) | SendOutcome::Unknown(_)) || request.len() == 1 {
        answer.take(request, said);
        return answer;
    }
    let mut is_away = false;
    for message in request {
        if is_away {
            answer.refused.push(message);
            continue;
        }
        let alone = vec![message];
        let said = send_once(&to, &alone).await;
        // The other messages would be refused for the same reason.
        is_away = matches!(said, SendOutcome::Retry(_));
        answer.take(alone, said);
    }
    answer
}

async fn send_once(to: &RequestTarget, request: &Request) -> SendOutcome {
    let not_now = |text: String| SendOutcome::Retry(Reason { text, is_throttled: false });
    let failure = match to.transport.call("SendMessageBatch", body(to, request)).await {
        Ok(answer) => match serde_json::from_slice(&answer) {
            Ok(output) => return SendOutcome::Entries(output),
            Err(error) => return not_now(format!("cannot parse the answer: {error}")),
        },
        Err(failure) => failure,
    };
    let text = failure.to_string();
    match failure {
        Failure::Failed(_) => not_now(text),
        Failure::Refused { code, status, .. } => match class(&code, (400..500).contains(&status)) {
            Class::Definite => SendOutcome::Rejected(Rejection { code: code.into(), error: text }),
            Class::Unknown => SendOutcome::Unknown(Rejection { code: code.into(), error: text }),
            class => SendOutcome::Retry(Reason::of(class, text)),
        },
    }
}

impl Reason {
    /// Creates the reason of a refusal that may pass, by its class.
    fn of(class: Class, text: String) -> Self {
        match class {
            Class::Operator(fix) => Self { text: format!("{text}; {fix}"), is_throttled: false },
            class => Self { text, is_throttled: class == Class::Throttled },
        }
    }
}

/// Returns the JSON body of a request.
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html>
fn body(to: &RequestTarget, request: &Request) -> Vec<u8> {
    // Most bodies are JSON, whose quotes are escaped.
    let bytes: usize = request.iter().map(|pending| pending.bytes + pending.bytes / 4 + 256).sum();
    let mut body = Vec::with_capacity(bytes);
    body.extend_from_slice(b"{\"QueueUrl\":");
    push_string(&to.url, &mut body);
    let mut separator: &[u8] = b",\"Entries\":[";
    for (index, pending) in request.iter().enumerate() {
        body.extend_from_slice(std::mem::replace(&mut separator, b","));
        pending.item.write_entry(index, to.fifo, to.aggregation, &mut body);
    }
    body.extend_from_slice(b"]}");
    body
}

impl Answer {
    /// Returns what the answer shows about the queue.
    pub fn outcome(&self) -> Outcome {
        let is_alive = !self.accepted.is_empty() || !self.rejected.is_empty();
        match &self.reason {
            Some(reason) if reason.is_throttled => Outcome::Throttled,
            None if self.doubtful.is_empty() => Outcome::Accepted,
            _ if is_alive => Outcome::Partial,
            _ => Outcome::Refused,
        }
    }

    /// Adds the messages of a request by their outcomes.
    fn take(&mut self, request: Request, said: SendOutcome) {
        let output = match said {
            SendOutcome::Entries(output) => output,
            SendOutcome::Retry(reason) => {
                self.refused.extend(request);
                self.reason = Some(reason);
                return;
            }
            SendOutcome::Rejected(rejection) => {
                self.rejected.extend(request.into_iter().map(|message| (message, rejection.clone())));
                return;
            }
            SendOutcome::Unknown(rejection) => {
                self.doubtful.extend(request.into_iter().map(|message| (message, rejection.clone())));
                return;
            }
        };
        let mut accepted = [false; LIMITS.messages];
        output.successful.iter().filter_map(|entry| entry.id).for_each(|index| accepted[index] = true);
        let mut refusals: [Option<(Class, Rejection)>; LIMITS.messages] = Default::default();
        for Refused { id, code, sender_fault, message } in output.failed {
            let text = format!("{code}: {}", message.unwrap_or_default());
            let class = class(&code, sender_fault);
            match id {
                Some(index) => refusals[index] = Some((class, Rejection { code: code.into(), error: text })),
                None => self.reason = Some(Reason::of(class, text)),
            }
        }
        for (index, message) in request.into_iter().enumerate() {
            match refusals[index].take() {
                _ if accepted[index] => self.accepted.push(message),
                Some((Class::Definite, rejection)) => self.rejected.push((message, rejection)),
                Some((Class::Unknown, rejection)) => self.doubtful.push((message, rejection)),
                Some((class, Rejection { error: text, .. })) => {
                    let is_throttled = self.reason.as_ref().is_some_and(|reason| reason.is_throttled);
                    if !is_throttled {
                        self.reason = Some(Reason::of(class, text));
                    }
                    self.refused.push(message);
                }
                // A message that the answer does not name was not accepted.
                None => {
                    self.reason.get_or_insert_with(|| Reason {
                        text: "the answer does not name these messages".to_owned(),
                        is_throttled: false,
                    });
                    self.refused.push(message);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Message;
    use super::*;
    use crate::ack::tests::ack;

    /// Each kind of entry once, and one that the answer does not name.
    #[test]
    fn each_entry_has_its_own_fate() {
        let message = |body: &str| Message { body: body.into(), ..Message::default() };
        let request: Request = ["accepted", "rejected", "refused", "forgotten", "encrypted", "doubtful"]
            .into_iter()
            .map(|body| Pending { group: None, bytes: 1, item: QueuedMessage::new(message(body), &ack()) })
            .collect();
        let output = r#"{
            "Successful": [{"Id": "0", "MessageId": "m", "MD5OfMessageBody": "d", "SequenceNumber": "18"}],
            "Failed": [
                {"Id": "1", "Code": "InvalidMessageContents", "SenderFault": true},
                {"Id": "2", "Code": "InternalError", "SenderFault": false, "Message": "later"},
                {"Id": "4", "Code": "KMS.ThrottlingException", "SenderFault": true},
                {"Id": "5", "Code": "SomethingNew", "SenderFault": true},
                {"Id": "99", "Code": "Nonsense", "SenderFault": true}
            ]
        }"#;
        let output = serde_json::from_str(output).expect("as SQS writes it");
        let mut answer = Answer::default();
        answer.take(request, SendOutcome::Entries(output));
        let body = |pending: &Pending<QueuedMessage>| pending.item.message().body.plain().into_owned();
        let bodies = |request: &[Pending<QueuedMessage>]| -> Vec<String> { request.iter().map(body).collect() };
        assert_eq!(bodies(&answer.accepted), ["accepted"]);
        assert_eq!(bodies(&answer.refused), ["refused", "forgotten", "encrypted"]);
        assert_eq!(answer.outcome(), Outcome::Throttled);
        let [(rejected, why)] = &answer.rejected[..] else { panic!("{} rejected", answer.rejected.len()) };
        assert_eq!(
            (&*body(rejected), &*why.error, &*why.code),
            ("rejected", "InvalidMessageContents: ", "InvalidMessageContents")
        );
        let [(doubtful, why)] = &answer.doubtful[..] else { panic!("{} doubtful", answer.doubtful.len()) };
        assert_eq!((&*body(doubtful), &*why.error, &*why.code), ("doubtful", "SomethingNew: ", "SomethingNew"));
    }
}
