//! Queues for the simulation: the real SQS sink, with a closure that answers its requests.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::Sink;
use super::aws::{Api, Failure};
use super::remote::RemoteSink;
use super::sqs::{LIMITS, SqsQueue};
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
        let Self { name, is_fifo, on_error, aggregation, jitter_seed, answers } = self;
        let url = format!("http://simulated/{name}");
        let queue = SqsQueue { api: Arc::new(FakeApi(answers)), url, is_fifo, message_max: LIMITS.bytes };
        Box::new(RemoteSink {
            name: name.to_owned(),
            transport: Arc::new(queue),
            on_error,
            aggregation,
            store: None,
            jitter_seed: Some(jitter_seed),
        })
    }
}

/// An API whose answers are a closure's.
pub(super) struct FakeApi(pub Arc<Answers>);

impl fmt::Debug for FakeApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FakeApi")
    }
}

impl Api for FakeApi {
    fn call(&self, _operation: &'static str, body: Vec<u8>) -> BoxFuture<'_, Result<Bytes, Failure>> {
        let answer = (self.0)(body);
        Box::pin(async move { answer.await.map(Bytes::from).map_err(Failure::Failed) })
    }
}
