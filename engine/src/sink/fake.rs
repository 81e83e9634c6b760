//! Queues for the simulation: the real SQS sink, with a closure that answers its requests.

use std::sync::Arc;

use super::Sink;
pub(crate) use super::aws::fake::Answers;
use super::aws::fake::FakeApi;
use super::remote::RemoteSink;
use super::sqs::{LIMITS, SqsQueue};
use crate::config::{Aggregation, OnError};

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
        Box::new(RemoteSink::new(name, queue, on_error, aggregation, None).with_jitter_seed(jitter_seed))
    }
}
