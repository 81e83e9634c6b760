//! A request to a queue, and what comes of it.

use std::borrow::Cow;
use std::sync::Arc;

use rowmill_core::batch::json::push_string;
use rowmill_core::lanes::{RequestLimits, Waiting};
use serde::Deserialize;

use super::client::{Failure, Transport};
use super::large::Store;
use super::outgoing::Outgoing;
use crate::config::Packing;
use crate::failpoint::{self, Step};

/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html>
pub(super) const LIMITS: RequestLimits = RequestLimits { messages: 10, bytes: 1 << 20 };

pub(super) type Request = Vec<Waiting<Outgoing>>;

/// Where requests go.
pub(super) struct To {
    pub transport: Arc<dyn Transport>,
    pub url: String,
    pub fifo: bool,
    pub packing: Option<Packing>,
    pub store: Option<Store>,
}

/// What came of a request.
#[derive(Default)]
pub(super) struct Answer {
    pub accepted: Request,
    /// To be sent again, in their order.
    pub refused: Request,
    /// Why, where some were refused.
    pub reason: Option<String>,
    /// Never accepted, for what they are, and why.
    pub rejected: Vec<(Waiting<Outgoing>, String)>,
}

/// What the queue said to a request.
enum Said {
    /// Something of each entry.
    Entries(Output),
    /// It was no use now: it can't be reached, is throttling, or fails.
    NotNow(String),
    /// Nothing of it is accepted, because of what at least one message is.
    Never(String),
}

/// What became of a request's entries.
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html>
#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct Output {
    #[serde(default)]
    successful: Vec<Accepted>,
    #[serde(default)]
    failed: Vec<Refused>,
}

/// Beside what is of use, an entry has digests and numbers.
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

/// Where an entry stands in its request; `None` of what we can't have sent.
fn index<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    let id = Cow::<str>::deserialize(deserializer)?;
    Ok(id.parse().ok().filter(|index| *index < LIMITS.messages))
}

/// Sends a request once. One that is refused as a whole for what it is is sent again message by message: the others
/// aren't to blame.
pub(super) async fn send(to: To, mut request: Request) -> Answer {
    let mut answer = Answer::default();
    if let Some(store) = &to.store {
        for waiting in &mut request {
            if let Err(text) = waiting.item.store(store).await {
                answer.take(request, Said::NotNow(text));
                return answer;
            }
        }
    }
    failpoint::reached(Step::Sending);
    let said = ask(&to, &request).await;
    if !matches!(said, Said::Never(_)) || request.len() == 1 {
        answer.take(request, said);
        return answer;
    }
    for message in request {
        let alone = vec![message];
        let said = ask(&to, &alone).await;
        answer.take(alone, said);
    }
    answer
}

async fn ask(to: &To, request: &Request) -> Said {
    let failure = match to.transport.call("SendMessageBatch", body(to, request)).await {
        Ok(answer) => match serde_json::from_slice(&answer) {
            Ok(output) => return Said::Entries(output),
            Err(error) => return Said::NotNow(format!("the answer can't be read: {error}")),
        },
        Err(failure) => failure,
    };
    let text = failure.to_string();
    match failure {
        Failure::Refused { code, .. }
            if ["InvalidMessageContents", "BatchRequestTooLong", "InvalidParameterValue", "MissingParameter"]
                .contains(&&*code) =>
        {
            Said::Never(text)
        }
        Failure::Refused { .. } | Failure::Failed(_) => Said::NotNow(text),
    }
}

/// What is sent for a request.
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html>
fn body(to: &To, request: &Request) -> Vec<u8> {
    // Most bodies are JSON, whose quotes are escaped.
    let bytes: usize = request.iter().map(|waiting| waiting.bytes + waiting.bytes / 4 + 256).sum();
    let mut body = Vec::with_capacity(bytes);
    body.extend_from_slice(b"{\"QueueUrl\":");
    push_string(&to.url, &mut body);
    let mut separator: &[u8] = b",\"Entries\":[";
    for (index, waiting) in request.iter().enumerate() {
        body.extend_from_slice(std::mem::replace(&mut separator, b","));
        waiting.item.write_entry(index, to.fifo, to.packing, &mut body);
    }
    body.extend_from_slice(b"]}");
    body
}

impl Answer {
    /// Bytes of the request's messages.
    pub fn bytes(&self) -> usize {
        let all = self.accepted.iter().chain(&self.refused).chain(self.rejected.iter().map(|(message, _)| message));
        all.map(|message| message.bytes).sum()
    }

    /// Takes in what was said to a request.
    fn take(&mut self, request: Request, said: Said) {
        let output = match said {
            Said::Entries(output) => output,
            Said::NotNow(text) => {
                self.refused.extend(request);
                self.reason = Some(text);
                return;
            }
            Said::Never(text) => {
                self.rejected.extend(request.into_iter().map(|message| (message, text.clone())));
                return;
            }
        };
        let mut accepted = [false; LIMITS.messages];
        output.successful.iter().filter_map(|entry| entry.id).for_each(|index| accepted[index] = true);
        let mut faults: [Option<String>; LIMITS.messages] = Default::default();
        for Refused { id, code, sender_fault, message } in output.failed {
            let text = format!("{code}: {}", message.unwrap_or_default());
            match id {
                Some(index) if sender_fault => faults[index] = Some(text),
                _ => self.reason = Some(text),
            }
        }
        for (index, message) in request.into_iter().enumerate() {
            match faults[index].take() {
                _ if accepted[index] => self.accepted.push(message),
                Some(fault) => self.rejected.push((message, fault)),
                // What the answer doesn't name wasn't accepted.
                None => {
                    self.reason.get_or_insert_with(|| "the answer doesn't say what became of them".to_owned());
                    self.refused.push(message);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Message;
    use super::*;
    use crate::ack::tests::ack;

    /// Four entries: one accepted, one refused for what it is, one refused for now, one that isn't named.
    #[test]
    fn each_entry_has_its_own_fate() {
        let message = |body: &str| Message {
            body: body.into(),
            group: String::new(),
            deduplication_id: String::new(),
            attributes: Vec::new(),
            table: None,
            queue: None,
            row: 0,
        };
        let request: Request = ["accepted", "rejected", "refused", "forgotten"]
            .into_iter()
            .map(|body| Waiting { group: None, bytes: 1, item: Outgoing::new(message(body), &ack()) })
            .collect();
        let output = r#"{
            "Successful": [{"Id": "0", "MessageId": "m", "MD5OfMessageBody": "d", "SequenceNumber": "18"}],
            "Failed": [
                {"Id": "1", "Code": "InvalidMessageContents", "SenderFault": true},
                {"Id": "2", "Code": "InternalError", "SenderFault": false, "Message": "later"},
                {"Id": "99", "Code": "Nonsense", "SenderFault": true}
            ]
        }"#;
        let output = serde_json::from_str(output).expect("as SQS writes it");
        let mut answer = Answer::default();
        answer.take(request, Said::Entries(output));
        let bodies = |request: &[Waiting<Outgoing>]| -> Vec<String> {
            request.iter().map(|waiting| waiting.item.message().body.plain().into_owned()).collect()
        };
        assert_eq!(bodies(&answer.accepted), ["accepted"]);
        assert_eq!(bodies(&answer.refused), ["refused", "forgotten"]);
        assert!(answer.reason.is_some());
        let [(rejected, why)] = &answer.rejected[..] else { panic!("{} rejected", answer.rejected.len()) };
        assert_eq!((&*rejected.item.message().body.plain(), why.as_str()), ("rejected", "InvalidMessageContents: "));
    }
}
