//! The sink of a queue for each table, which is opened when its first message comes.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Context;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::task::{JoinError, JoinSet};
use tracing::{info, warn};

use super::super::aws::Account;
use super::super::flow::delays;
use super::super::outlet::{self, Inlet, Outlet, Overflow};
use super::super::{DeadLetters, Delivery, Message, OpenError, Rejection, Sink};
use super::queue::Sqs;
use crate::ack::{self, Ack};
use crate::config::{OnError, Queue};
use crate::retry::FailureLog;

/// The most deliveries that wait for a queue that is not stalled.
const DELIVERIES_WAITING_MAX: usize = 8;
/// The most bytes of messages that wait for stalled queues.
const OVERFLOW_BYTES_MAX: u32 = 32 << 20;

/// Queues whose URLs are made of the tables' names.
#[derive(Debug)]
pub(in crate::sink) struct QueuePerTable {
    name: String,
    queue: Queue,
    account: Account,
}

/// The queues that have had messages.
struct Open {
    outlets: HashMap<Arc<str>, Outlet>,
    running: JoinSet<anyhow::Result<()>>,
    dead_letters: Option<DeadLetters>,
    overflow: Overflow,
}

impl QueuePerTable {
    pub fn new(name: &str, queue: &Queue, account: Account) -> Self {
        Self { name: name.to_owned(), queue: queue.clone(), account }
    }

    async fn deliver(self, mut deliveries: Inlet, dead_letters: Option<DeadLetters>) -> anyhow::Result<()> {
        let this = Arc::new(self);
        let overflow = Overflow::new(OVERFLOW_BYTES_MAX);
        let mut open = Open { outlets: HashMap::new(), running: JoinSet::new(), dead_letters, overflow };
        let mut failed = None;
        loop {
            tokio::select! {
                delivery = deliveries.recv() => match delivery {
                    Some(delivery) => this.forward(delivery, &mut open).await?,
                    None => break,
                },
                // While its outlet exists, a queue ends only with an error.
                Some(ended) = open.running.join_next() => ended.unwrap_or_else(resume_panic)?,
            }
        }
        open.outlets.clear();
        // Waits for all queues: when a row of one stops the pipeline, the others still deliver their messages before the row.
        while let Some(ended) = open.running.join_next().await {
            if let Err(error) = ended.unwrap_or_else(resume_panic) {
                failed.get_or_insert(error);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn forward(self: &Arc<Self>, delivery: Delivery, open: &mut Open) -> anyhow::Result<()> {
        for (url, delivery) in by_queue(delivery) {
            if delivery.ack.is_stopped() {
                continue;
            }
            let outlet = open.outlets.entry(Arc::clone(&url)).or_insert_with(|| {
                let (outlet, inlet) = outlet::outlet(DELIVERIES_WAITING_MAX, open.overflow.clone());
                open.running.spawn(Arc::clone(self).run_queue(Arc::clone(&url), inlet, open.dead_letters.clone()));
                outlet
            });
            if outlet.send(delivery).await.is_err() {
                // The queue has failed, and its task returns the error.
                while let Some(ended) = open.running.join_next().await {
                    ended.unwrap_or_else(resume_panic)?;
                }
                anyhow::bail!("cannot deliver to queue {url}: its task has ended");
            }
        }
        Ok(())
    }

    /// Opens a queue when its first message comes, and delivers to it. While the queue cannot be opened, the queues of other
    /// tables are not blocked.
    async fn run_queue(
        self: Arc<Self>,
        url: Arc<str>,
        mut inlet: Inlet,
        dead_letters: Option<DeadLetters>,
    ) -> anyhow::Result<()> {
        while let Some(delivery) = inlet.recv().await {
            match self.open(&url, &delivery.ack).await {
                Ok(None) => {}
                Ok(Some(queue)) => {
                    info!(sink = self.name, queue = &*url, "opened");
                    inlet.put_back(delivery);
                    return Box::new(queue).run(inlet, dead_letters).await;
                }
                Err(error) => self.reject(delivery, error, dead_letters.as_ref()).await?,
            }
        }
        Ok(())
    }

    /// Opens a queue, and retries until the queue can be reached. `None` if its messages must not be delivered any more.
    ///
    /// # Errors
    /// If the queue does not exist, or must not be used.
    async fn open(&self, url: &str, ack: &Ack) -> anyhow::Result<Option<Sqs>> {
        check_name(url).with_context(|| format!("sink.{}", self.name))?;
        let (mut delays, mut failures) = (delays(None), FailureLog::default());
        loop {
            match Sqs::open(&self.name, url, &self.queue, self.account.clone()).await {
                _ if ack.is_stopped() => return Ok(None),
                Ok(queue) => return Ok(Some(queue)),
                Err(OpenError::Definite(error)) => return Err(error),
                Err(OpenError::Transient(error) | OpenError::NeedsOperator(error)) => {
                    let error = format!("{error:#}");
                    if let Some(since) = failures.failed(&error) {
                        warn!(sink = self.name, ?since, error, "cannot open the queue; retrying");
                    }
                    tokio::time::sleep(delays.next_delay()).await;
                }
            }
        }
    }

    /// Makes dead letters of the messages for a queue that cannot be used, or stops the pipeline before them.
    async fn reject(
        &self,
        delivery: Delivery,
        error: anyhow::Error,
        dead_letters: Option<&DeadLetters>,
    ) -> anyhow::Result<()> {
        let Some(dead_letters) = dead_letters.filter(|_| self.queue.on_error == OnError::DeadLetter) else {
            // The first message stops the pipeline; later ones must not be delivered either.
            if let Some((_, ack)) = delivery.split().next() {
                ack::stop(ack, error);
            }
            return Ok(());
        };
        let rejection = Rejection::new("no-queue", format!("{error:#}"));
        warn!(
            sink = self.name,
            messages = delivery.messages.len(),
            error = rejection.error,
            "messages rejected, sent as dead letters"
        );
        for (message, ack) in delivery.split() {
            dead_letters.send(&self.name, message, &rejection, ack).await?;
        }
        Ok(())
    }
}

/// Checks that SQS allows a queue of this name: the names of tables may have other characters.
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_CreateQueue.html>
fn check_name(url: &str) -> anyhow::Result<()> {
    const CHARS_MAX: usize = 80;
    let name = url.rsplit('/').next().unwrap_or_default();
    let word = name.strip_suffix(".fifo").unwrap_or(name);
    let is_known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    anyhow::ensure!(
        !word.is_empty() && name.len() <= CHARS_MAX && word.chars().all(is_known),
        "cannot use queue {url}: its name is not 1 to {CHARS_MAX} letters, digits, hyphens and underscores; add a [[route]] \
         for the table to a sink whose queue_url names a queue"
    );
    Ok(())
}

/// Passes on the panic of a queue's task, which ends the engine at once.
fn resume_panic(panic: JoinError) -> anyhow::Result<()> {
    std::panic::resume_unwind(panic.into_panic())
}

/// Splits a delivery by queue, each part in binlog order.
fn by_queue(Delivery { messages, ack }: Delivery) -> Vec<(Arc<str>, Delivery)> {
    let mut queues: Vec<(Arc<str>, Vec<Message>)> = Vec::new();
    for message in messages {
        let url = message.queue.clone().expect("messages for a queue per table have its URL");
        match queues.iter_mut().rev().find(|(known, _)| *known == url) {
            Some((_, messages)) => messages.push(message),
            None => queues.push((url, vec![message])),
        }
    }
    let parts = queues.into_iter().map(|(url, messages)| {
        let ack = ack.part(messages.first().map_or(0, |message| message.row));
        (url, Delivery { messages, ack })
    });
    let deliveries = parts.collect();
    // Each queue's messages have a part of their own now.
    ack.acknowledge();
    deliveries
}

impl Sink for QueuePerTable {
    fn name(&self) -> &str {
        &self.name
    }

    fn is_ordered(&self) -> bool {
        self.queue.url.ends_with(".fifo")
    }

    fn run(
        self: Box<Self>,
        deliveries: Inlet,
        dead_letters: Option<DeadLetters>,
    ) -> BoxFuture<'static, anyhow::Result<()>> {
        self.deliver(deliveries, dead_letters).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_may_be_called_otherwise_than_a_queue() {
        for url in ["https://q/1/shop-orders", "https://q/1/shop_1-orders.fifo"] {
            check_name(url).expect(url);
        }
        let long = format!("https://q/1/{}", "x".repeat(81));
        for url in ["https://q/1/my.db-t", "https://q/1/a%20b", "https://q/1/", "https://q/1/.fifo", &long] {
            let fault = check_name(url).expect_err(url).to_string();
            assert!(fault.contains(url) && fault.contains("[[route]]"), "{fault}");
        }
    }
}
