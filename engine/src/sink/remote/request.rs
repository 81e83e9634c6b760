//! Requests to a service, and their answers.
//!
//! In: a request of messages. Out: the messages by outcome: accepted, refused for now, rejected, or doubtful.

use rowmill_pipeline::ordered_queue::Pending;

use super::super::Rejection;
use super::super::aws::Store;
use super::flow::ServiceState;
use super::queued_message::QueuedMessage;
use super::transport::{Class, Outcome, Refusal, Request, Transport};
use crate::failpoint::{self, Step};

/// The outcome of a request, by message.
#[derive(Default)]
pub(super) struct Answer {
    pub accepted: Request,
    /// Messages to be sent again, in their order.
    pub refused: Request,
    /// The reason, if some were refused: a throttling one if there is one, else the last.
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
    has_code: bool,
}

/// Sends a request once. A request that is refused as a whole, perhaps because of one of its messages, is sent again message
/// by message, so that the other messages are accepted.
pub(super) async fn send(transport: &dyn Transport, store: Option<&Store>, mut request: Request) -> Answer {
    let mut answer = Answer::default();
    if let Some(store) = store {
        let mut ready = Request::with_capacity(request.len());
        for mut pending in request {
            match pending.item.store(store).await {
                Ok(()) => ready.push(pending),
                Err(text) => answer.take_all(vec![pending], Refusal::transient(text)),
            }
        }
        request = ready;
        if request.is_empty() {
            return answer;
        }
    }
    failpoint::reached(Step::Sending);
    let refusal = match transport.send(&request).await {
        Ok(outcomes) => {
            answer.take_each(request, outcomes);
            return answer;
        }
        Err(refusal) => refusal,
    };
    if !refusal.may_be_due_to_a_message() || request.len() == 1 {
        answer.take_all(request, refusal);
        return answer;
    }
    let mut is_away = false;
    for message in request {
        if is_away {
            answer.refused.push(message);
            continue;
        }
        let alone = vec![message];
        match transport.send(&alone).await {
            Ok(outcomes) => answer.take_each(alone, outcomes),
            Err(refusal) => {
                // The other messages would be refused for the same reason.
                is_away = !refusal.may_be_due_to_a_message();
                answer.take_all(alone, refusal);
            }
        }
    }
    answer
}

impl Refusal {
    /// Whether a message may be the cause of a request's refusal.
    fn may_be_due_to_a_message(&self) -> bool {
        matches!(self.class, Class::Definite | Class::Unknown)
    }
}

impl Reason {
    /// Creates the reason of a refusal that may pass, by its class.
    fn new(class: Class, Refusal { code, error, .. }: Refusal) -> Self {
        let text = if let Class::Operator(fix) = class { format!("{error}; {fix}") } else { error };
        Self { text, is_throttled: class == Class::Throttled, has_code: !code.is_empty() }
    }
}

impl Answer {
    /// Returns what the answer shows about the service.
    pub fn service_state(&self) -> ServiceState {
        let is_alive = !self.accepted.is_empty() || !self.rejected.is_empty();
        match &self.reason {
            Some(reason) if reason.is_throttled => ServiceState::Throttled,
            None if self.doubtful.is_empty() => ServiceState::Accepted,
            _ if is_alive => ServiceState::Partial,
            _ => ServiceState::Refused,
        }
    }

    /// Adds the messages of a request, each by its own outcome.
    fn take_each(&mut self, request: Request, outcomes: Vec<Outcome>) {
        assert_eq!(request.len(), outcomes.len(), "the transport returns an outcome for each message");
        for (message, outcome) in request.into_iter().zip(outcomes) {
            match outcome {
                Ok(()) => self.accepted.push(message),
                Err(refusal) => self.take(message, refusal),
            }
        }
    }

    /// Adds the messages of a request that is refused as a whole.
    fn take_all(&mut self, request: Request, refusal: Refusal) {
        request.into_iter().for_each(|message| self.take(message, refusal.clone()));
    }

    fn take(&mut self, message: Pending<QueuedMessage>, refusal: Refusal) {
        match refusal.class {
            Class::Definite => self.rejected.push((message, refusal.into_rejection())),
            Class::Unknown => self.doubtful.push((message, refusal.into_rejection())),
            class => {
                // A reason without a code says less than one with a code.
                let keeps = |known: &Reason| known.is_throttled || (known.has_code && refusal.code.is_empty());
                if !self.reason.as_ref().is_some_and(keeps) {
                    self.reason = Some(Reason::new(class, refusal));
                }
                self.refused.push(message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Message;
    use super::*;
    use crate::ack::tests::ack;

    /// Each class once, and a message that is accepted.
    #[test]
    fn each_message_goes_by_its_own_outcome() {
        let refused = |class| Err(Refusal { class, code: "Code".into(), error: format!("{class:?}") });
        let outcomes = vec![
            Ok(()),
            refused(Class::Definite),
            refused(Class::Transient),
            refused(Class::Throttled),
            refused(Class::Operator("fix it")),
            refused(Class::Unknown),
        ];
        let request = ["accepted", "rejected", "later", "slower", "once fixed", "doubtful"].map(|body| {
            let message = Message { body: body.into(), ..Message::default() };
            Pending { group: None, bytes: 1, item: QueuedMessage::new(message, &ack(), None) }
        });
        let mut answer = Answer::default();
        answer.take_each(request.into(), outcomes);
        let body = |pending: &Pending<QueuedMessage>| pending.item.message().body.plain().into_owned();
        let bodies = |request: &[Pending<QueuedMessage>]| -> Vec<String> { request.iter().map(body).collect() };
        assert_eq!(bodies(&answer.accepted), ["accepted"]);
        assert_eq!(bodies(&answer.refused), ["later", "slower", "once fixed"]);
        assert_eq!(answer.service_state(), ServiceState::Throttled, "whatever else was refused");
        let why = |refused: &[(Pending<QueuedMessage>, Rejection)]| -> Vec<(String, String, String)> {
            let all = refused.iter().map(|(message, why)| (body(message), why.code.to_string(), why.error.clone()));
            all.collect()
        };
        let of = |body: &str, error: &str| vec![(body.to_owned(), "Code".to_owned(), error.to_owned())];
        assert_eq!(why(&answer.rejected), of("rejected", "Definite"));
        assert_eq!(why(&answer.doubtful), of("doubtful", "Unknown"));
    }
}
