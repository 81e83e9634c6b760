//! [`Transport`]: the contract between the shared part of remote sinks and a service.
//!
//! In: the messages of a request. Out: an outcome for each, or for the request as a whole.

use std::borrow::Cow;
use std::fmt;

use futures_util::future::BoxFuture;
use rowmill_core::envelope::Escaping;
use rowmill_pipeline::ordered_queue::{Pending, RequestLimits};

use super::super::Rejection;
use super::queued_message::QueuedMessage;

/// The messages of a request.
pub(in crate::sink) type Request = Vec<Pending<QueuedMessage>>;

/// The parts in which services differ: limits and rules of messages, and how a request is encoded, sent and answered.
pub(in crate::sink) trait Transport: fmt::Debug + Send + Sync {
    /// Returns the words for the destination in errors, such as `queue https://...`.
    fn destination(&self) -> String;

    /// Returns the limits of requests and messages.
    fn limits(&self) -> Limits;

    /// Whether the service keeps the order within a message group, so that each group may have one message in flight only.
    fn is_ordered(&self) -> bool;

    /// Returns the bytes of a message of one row as the service counts them against [`Limits`]; of a body that is yet to be
    /// compressed, those of its text. A byte of the body must count as one: the bytes of rows that join later are added
    /// without asking again.
    fn bytes(&self, message: &QueuedMessage) -> usize;

    /// Returns the reason why the service would never accept a message, apart from its size.
    fn rejection(&self, message: &QueuedMessage) -> Option<Rejection>;

    /// Sends a request once, without retries. The outcomes are in the order of the messages.
    ///
    /// # Errors
    /// If no message is accepted: the service refuses the request as a whole, or there is no answer.
    fn send<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Vec<Outcome>, Refusal>>;

    /// Returns the escaping of a body in a request.
    fn escaping(&self) -> Escaping;

    /// Drops the connections, which may be dead: the next request opens a new one.
    fn reconnect(&self) {}
}

/// The outcome of a message: accepted, or refused.
pub(in crate::sink) type Outcome = Result<(), Refusal>;

/// The limits of a service.
#[derive(Debug, Clone, Copy)]
pub(in crate::sink) struct Limits {
    /// The limits of a request.
    pub request: RequestLimits,
    /// The most bytes of a message.
    pub message_bytes: usize,
}

/// A refusal of a message, or of a request as a whole.
#[derive(Debug, Clone)]
pub(in crate::sink) struct Refusal {
    /// Whether the same message may be accepted later.
    pub class: Class,
    /// The service's code; empty where it gave none.
    pub code: Cow<'static, str>,
    /// The cause, for people.
    pub error: String,
}

/// Whether what was refused may be accepted later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sink) enum Class {
    /// Never: the message, or the request, is wrong.
    Definite,
    /// Later, and more slowly: the service throttles.
    Throttled,
    /// Later.
    Transient,
    /// Later, once an operator has made this fix.
    Operator(&'static str),
    /// Unknown: the service blames the sender, by a code that is not known. The cause may be the message, or anything else.
    Unknown,
}

impl Refusal {
    /// Creates a refusal without a code of the service: a later attempt may succeed.
    pub fn transient(error: String) -> Self {
        Self { class: Class::Transient, code: "".into(), error }
    }

    /// Returns the reason of a refusal for good.
    pub fn into_rejection(self) -> Rejection {
        Rejection { code: self.code, error: self.error }
    }
}
