//! Queues for the simulation: the real SQS sink, with a closure that answers its requests.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::Sink;
use super::aws::{Failure, Transport};
use super::sqs::Sqs;
use crate::config::{Aggregation, OnError};

/// Answers a request's body with an answer's body, or with the error of a failed request.
pub(crate) type Answers = dyn Fn(Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, String>> + Send + Sync;

/// A simulated queue.
pub(crate) struct FakeQueue {
    pub name: &'static str,
    pub is_fifo: bool,
    pub on_error: OnError,
    pub aggregation: Option<Aggregation>,
    pub jitter_seed: u64,
    pub answers: Arc<Answers>,
}

impl FakeQueue {
    pub fn sink(self) -> Box<dyn Sink> {
        Box::new(Sqs::simulated(self))
    }
}

/// A transport that passes requests to a closure.
pub(super) struct FakeTransport(pub Arc<Answers>);

impl fmt::Debug for FakeTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FakeTransport")
    }
}

impl Transport for FakeTransport {
    fn call(&self, _operation: &'static str, body: Vec<u8>) -> BoxFuture<'_, Result<Bytes, Failure>> {
        let answer = (self.0)(body);
        Box::pin(async move { answer.await.map(Bytes::from).map_err(Failure::Failed) })
    }
}
