//! Requests to a service, and their answers.
//!
//! In: a request of messages. Out: the messages by outcome: accepted, refused for now, rejected, or doubtful.

use rowmill_pipeline::ordered_queue::Pending;

use super::super::Rejection;
use super::super::aws::Store;
use super::flow;
use super::queued_message::QueuedMessage;
use super::transport::{Class, Outcome, Refusal, Request, Transport};
use crate::failpoint::{self, Step};

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

/// Sends a request once. A request that is refused as a whole, perhaps because of one of its messages, is sent again message
/// by message, so that the other messages are accepted.
pub(super) async fn send(transport: &dyn Transport, store: Option<&Store>, mut request: Request) -> Answer {
    let mut answer = Answer::default();
    if let Some(store) = store {
        let mut ready = Request::with_capacity(request.len());
        for mut pending in request {
            match pending.item.store(store).await {
                Ok(()) => ready.push(pending),
                Err(text) => answer.take_all(vec![pending], Refusal::unanswered(text)),
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
    if !refusal.may_be_a_messages() || request.len() == 1 {
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
                is_away = !refusal.may_be_a_messages();
                answer.take_all(alone, refusal);
            }
        }
    }
    answer
}

impl Refusal {
    /// Whether a message may be the cause of a request's refusal.
    fn may_be_a_messages(&self) -> bool {
        matches!(self.class, Class::Definite | Class::Unknown)
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

impl Answer {
    /// Returns what the answer shows about the service.
    pub fn outcome(&self) -> flow::Outcome {
        let is_alive = !self.accepted.is_empty() || !self.rejected.is_empty();
        match &self.reason {
            Some(reason) if reason.is_throttled => flow::Outcome::Throttled,
            None if self.doubtful.is_empty() => flow::Outcome::Accepted,
            _ if is_alive => flow::Outcome::Partial,
            _ => flow::Outcome::Refused,
        }
    }

    /// Adds the messages of a request, each by its own outcome.
    fn take_each(&mut self, request: Request, outcomes: Vec<Outcome>) {
        debug_assert_eq!(request.len(), outcomes.len(), "an outcome for each message");
        let mut outcomes = outcomes.into_iter();
        for message in request {
            match outcomes.next() {
                Some(Ok(())) => self.accepted.push(message),
                Some(Err(refusal)) => self.take(message, refusal),
                None => self.take(message, Refusal::unanswered("the answer does not name these messages".to_owned())),
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
                let is_throttled = self.reason.as_ref().is_some_and(|reason| reason.is_throttled);
                if !is_throttled {
                    self.reason = Some(Reason::of(class, refusal.error));
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

    /// Each class once, a message that is accepted, and one without an outcome.
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
        assert_eq!(answer.outcome(), flow::Outcome::Throttled, "whatever else was refused");
        let why = |refused: &[(Pending<QueuedMessage>, Rejection)]| -> Vec<(String, String, String)> {
            let all = refused.iter().map(|(message, why)| (body(message), why.code.to_string(), why.error.clone()));
            all.collect()
        };
        let of = |body: &str, error: &str| vec![(body.to_owned(), "Code".to_owned(), error.to_owned())];
        assert_eq!(why(&answer.rejected), of("rejected", "Definite"));
        assert_eq!(why(&answer.doubtful), of("doubtful", "Unknown"));
    }
}
