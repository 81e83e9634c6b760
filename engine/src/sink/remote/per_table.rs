//! The sink of a destination for each table, which is opened when its first message comes.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::task::{JoinError, JoinSet};
use tracing::{info, warn};

use super::super::outlet::{self, Inlet, Outlet, Overflow};
use super::super::{Capabilities, DeadLetters, Delivery, Message, OpenError, Rejection, Sink};
use super::RemoteSink;
use super::flow::delays;
use crate::ack::{self, Ack};
use crate::config::OnError;
use crate::retry::FailureLog;

/// The most deliveries that wait for a destination that is not stalled.
const DELIVERIES_WAITING_MAX: usize = 8;
/// The most bytes of messages that wait for stalled destinations.
const OVERFLOW_BYTES_MAX: u32 = 32 << 20;

/// Opens a destination of a service.
pub(in crate::sink) trait Opener: std::fmt::Debug + Send + Sync {
    /// Opens the destination with this address, such as a queue's URL.
    ///
    /// # Errors
    /// If the destination does not exist, must not be used, or cannot be reached.
    fn open<'a>(&'a self, destination: &'a str) -> BoxFuture<'a, Result<RemoteSink, OpenError>>;
}

/// A sink with a destination for each table, whose address is made of the table's name.
#[derive(Debug)]
pub(in crate::sink) struct SinkPerTable {
    pub name: String,
    pub on_error: OnError,
    pub capabilities: Capabilities,
    pub opener: Box<dyn Opener>,
}

/// The destinations that have had messages.
struct Open {
    outlets: HashMap<Arc<str>, Outlet>,
    running: JoinSet<anyhow::Result<()>>,
    dead_letters: Option<DeadLetters>,
    overflow: Overflow,
}

impl SinkPerTable {
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
                // While its outlet exists, a destination ends only with an error.
                Some(ended) = open.running.join_next() => ended.unwrap_or_else(resume_panic)?,
            }
        }
        open.outlets.clear();
        // Waits for all destinations: when a row of one stops the pipeline, the others still deliver their messages before the row.
        while let Some(ended) = open.running.join_next().await {
            if let Err(error) = ended.unwrap_or_else(resume_panic) {
                failed.get_or_insert(error);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn forward(self: &Arc<Self>, delivery: Delivery, open: &mut Open) -> anyhow::Result<()> {
        for (destination, delivery) in by_destination(delivery) {
            if delivery.ack.is_stopped() {
                continue;
            }
            let outlet = open.outlets.entry(Arc::clone(&destination)).or_insert_with(|| {
                let (outlet, inlet) = outlet::outlet(DELIVERIES_WAITING_MAX, open.overflow.clone());
                open.running.spawn(Arc::clone(self).run_destination(
                    Arc::clone(&destination),
                    inlet,
                    open.dead_letters.clone(),
                ));
                outlet
            });
            if outlet.send(delivery).await.is_err() {
                // The destination has failed, and its task returns the error.
                while let Some(ended) = open.running.join_next().await {
                    ended.unwrap_or_else(resume_panic)?;
                }
                anyhow::bail!("cannot deliver to {destination}: its task has ended");
            }
        }
        Ok(())
    }

    /// Opens a destination when its first message comes, and delivers to it. While it cannot be opened, the destinations of
    /// other tables are not blocked.
    async fn run_destination(
        self: Arc<Self>,
        destination: Arc<str>,
        mut inlet: Inlet,
        dead_letters: Option<DeadLetters>,
    ) -> anyhow::Result<()> {
        while let Some(delivery) = inlet.recv().await {
            match self.open(&destination, &delivery.ack).await {
                Ok(None) => {}
                Ok(Some(sink)) => {
                    info!(sink = self.name, destination = &*destination, "opened");
                    inlet.put_back(delivery);
                    return Box::new(sink).run(inlet, dead_letters).await;
                }
                Err(error) => self.reject(delivery, error, dead_letters.as_ref()).await?,
            }
        }
        Ok(())
    }

    /// Opens a destination, and retries until it can be reached. `None` if its messages must not be delivered any more.
    ///
    /// # Errors
    /// If the destination does not exist, or must not be used.
    async fn open(&self, destination: &str, ack: &Ack) -> anyhow::Result<Option<RemoteSink>> {
        let (mut delays, mut failures) = (delays(None), FailureLog::default());
        loop {
            match self.opener.open(destination).await {
                _ if ack.is_stopped() => return Ok(None),
                Ok(sink) => return Ok(Some(sink)),
                Err(OpenError::Definite(error)) => return Err(error),
                Err(OpenError::Transient(error) | OpenError::NeedsOperator(error)) => {
                    let error = format!("{error:#}");
                    if let Some(since) = failures.failed(&error) {
                        warn!(sink = self.name, ?since, error, "cannot open the destination; retrying");
                    }
                    tokio::time::sleep(delays.next_delay()).await;
                }
            }
        }
    }

    /// Makes dead letters of the messages for a destination that cannot be used, or stops the pipeline before them.
    async fn reject(
        &self,
        delivery: Delivery,
        error: anyhow::Error,
        dead_letters: Option<&DeadLetters>,
    ) -> anyhow::Result<()> {
        let Some(dead_letters) = dead_letters.filter(|_| self.on_error == OnError::DeadLetter) else {
            // The first message stops the pipeline; later ones must not be delivered either.
            if let Some((_, ack)) = delivery.split().next() {
                ack::stop(ack, error.context(format!("sink.{}", self.name)));
            }
            return Ok(());
        };
        let rejection = Rejection::new("no-destination", format!("{error:#}"));
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

/// Passes on the panic of a destination's task, which ends the engine at once.
fn resume_panic(panic: JoinError) -> anyhow::Result<()> {
    std::panic::resume_unwind(panic.into_panic())
}

/// Splits a delivery by destination, each part in binlog order.
fn by_destination(Delivery { messages, ack }: Delivery) -> Vec<(Arc<str>, Delivery)> {
    let mut parts: Vec<(Arc<str>, Vec<Message>)> = Vec::new();
    for message in messages {
        let destination = message.destination.clone().expect("messages for a sink per table have their destination");
        match parts.iter_mut().rev().find(|(known, _)| *known == destination) {
            Some((_, messages)) => messages.push(message),
            None => parts.push((destination, vec![message])),
        }
    }
    let parts = parts.into_iter().map(|(destination, messages)| {
        let ack = ack.part(messages.first().map_or(0, |message| message.row));
        (destination, Delivery { messages, ack })
    });
    let deliveries = parts.collect();
    // Each destination's messages have a part of their own now.
    ack.acknowledge();
    deliveries
}

impl Sink for SinkPerTable {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn run(
        self: Box<Self>,
        deliveries: Inlet,
        dead_letters: Option<DeadLetters>,
    ) -> BoxFuture<'static, anyhow::Result<()>> {
        self.deliver(deliveries, dead_letters).boxed()
    }
}
