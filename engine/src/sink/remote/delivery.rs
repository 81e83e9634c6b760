//! Delivery to a service: which messages wait, which requests are in flight, and how each answer is handled.

use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rowmill_pipeline::ordered_queue::{OrderedQueue, Pending};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::super::{Capabilities, DeadLetters, Delivery, Inlet, Message, Rejection, Sink};
use super::flow::{Flow, Sent};
use super::queued_message::{QueuedMessage, uncompressed_max};
use super::request::{Answer, Reason, send};
use super::transport::Request;
use super::{RemoteSink, capabilities};
use crate::ack::{self, Ack};
use crate::config::OnError;
use crate::failpoint::{self, Step};
use crate::retry::FailureLog;

/// With fewer requests in flight, a request leaves though it is not full.
const REQUESTS_UNFULL_MAX: usize = 4;
/// The most messages, and their bytes, that wait here and could leave at once; further ones wait at the inlet.
const SENDABLE_MAX: usize = 2_000;
const SENDABLE_BYTES_MAX: usize = 4 << 20;
/// The most bytes of all messages that wait here, including those that wait for an earlier one of their message group.
const WAITING_BYTES_MAX: usize = 32 << 20;
/// The interval of warnings that one message group blocks all others.
const HELD_UP_INTERVAL: Duration = Duration::from_secs(60);
/// The number of times that a message is refused individually with an unknown code, while the service accepts others in
/// between, until the message counts as rejected.
const DOUBTS_MAX: u8 = 5;
/// A rejected dead letter is shortened and sent again, unless it has at most this many bytes: its size is not the cause then.
const LETTER_BYTES_MIN: usize = 1024;

/// Delivers messages until there are no more, and ends when all of them are accepted or rejected.
///
/// # Errors
/// If the sink of dead letters has ended.
async fn deliver(sink: RemoteSink, mut deliveries: Inlet, dead_letters: Option<DeadLetters>) -> anyhow::Result<()> {
    let dead_letters = dead_letters.filter(|_| sink.on_error == OnError::DeadLetter);
    let mut delivering = RemoteDelivery {
        queue: OrderedQueue::new(sink.transport.limits().request),
        requests: JoinSet::new(),
        flow: Flow::new(sink.jitter_seed),
        is_alive: false,
        failures: FailureLog::default(),
        held_up_said: None,
        dead_letters,
        sink,
    };
    let mut open = true;
    loop {
        // Answers that have arrived are handled before `is_done` is checked.
        while let Some(answer) = delivering.requests.try_join_next() {
            delivering.joined(answer).await?;
        }
        delivering.send_requests();
        if !open && delivering.is_done() {
            return Ok(());
        }
        let has_room = delivering.has_room();
        let wakes_at = delivering.wakes_at();
        // In this order: an answer makes room for the next delivery.
        tokio::select! {
            biased;
            Some(answer) = delivering.requests.join_next() => delivering.joined(answer).await?,
            delivery = deliveries.recv(), if open && has_room => match delivery {
                Some(delivery) => delivering.take_in(delivery).await?,
                None => open = false,
            },
            () = async { if let Some(at) = wakes_at { tokio::time::sleep_until(at).await } }, if wakes_at.is_some() => {}
        }
    }
}

impl Sink for RemoteSink {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        capabilities(self.transport.is_ordered(), self.transport.escaping(), self.aggregation)
    }

    fn run(
        self: Box<Self>,
        deliveries: Inlet,
        dead_letters: Option<DeadLetters>,
    ) -> BoxFuture<'static, anyhow::Result<()>> {
        deliver(*self, deliveries, dead_letters).boxed()
    }
}

impl RemoteSink {
    /// Adds a message to the queue. Where the sink aggregates, and the last message of the group has room, the row joins that
    /// message instead. Returns a message that the service would never accept, with the reason. `ack` is the batch's.
    fn take_in(
        &self,
        message: Message,
        ack: &Ack,
        queue: &mut OrderedQueue<QueuedMessage>,
    ) -> Option<(QueuedMessage, Rejection)> {
        let group = self.transport.is_ordered().then(|| message.group.clone());
        let mut alone = Some(message);
        if let Some(aggregation) = self.aggregation {
            queue.join_last(group.as_deref(), |last| {
                let joins = |row: &mut Message| {
                    last.bytes + QueuedMessage::added_bytes(row) <= aggregation.bytes && last.item.can_join(row)
                };
                if let Some(row) = alone.take_if(joins) {
                    last.bytes += QueuedMessage::added_bytes(&row);
                    last.item.take(row, ack);
                }
            });
        }
        let mut item = QueuedMessage::new(alone?, ack, self.aggregation);
        let bytes_max = self.transport.limits().message_bytes;
        let mut bytes = self.transport.bytes(&item);
        if bytes > uncompressed_max(bytes_max) {
            item.compress();
            bytes = self.transport.bytes(&item);
        }
        if bytes > bytes_max
            && let Some(store) = &self.store
        {
            item.place(store);
            bytes = self.transport.bytes(&item);
        }
        if bytes > bytes_max && item.message().is_dead_letter {
            let around = bytes.saturating_sub(item.message().body.len());
            item.shorten(bytes_max.saturating_sub(around));
            bytes = self.transport.bytes(&item);
        }
        let rejection = self.transport.rejection(&item).or_else(|| {
            let error = || format!("too large: {bytes} bytes, the limit is {bytes_max}");
            (bytes > bytes_max).then(|| Rejection::new("too-large", error()))
        });
        if let Some(rejection) = rejection {
            return Some((item, rejection));
        }
        queue.push(Pending { group, bytes, item });
        None
    }

    /// Makes a dead letter of a rejected message, or stops the pipeline before it.
    ///
    /// # Errors
    /// If the sink of dead letters has ended.
    async fn reject(
        &self,
        queued_message: QueuedMessage,
        rejection: &Rejection,
        dead_letters: Option<&DeadLetters>,
    ) -> anyhow::Result<()> {
        let Some(dead_letters) = dead_letters else {
            let error = stop_error(&self.transport.destination(), queued_message.message(), &rejection.error)
                .context(format!("sink.{}", self.name));
            if let Some((_, ack)) = queued_message.into_messages().into_iter().next() {
                ack::stop(ack, error);
            }
            return Ok(());
        };
        for (message, ack) in queued_message.into_messages() {
            warn!(
                sink = self.name,
                group = message.group,
                error = rejection.error,
                "message rejected, sent as a dead letter"
            );
            dead_letters.send(&self.name, message, rejection, ack).await?;
        }
        Ok(())
    }
}

/// The delivery to a service: messages that wait, and requests in flight.
struct RemoteDelivery {
    sink: RemoteSink,
    dead_letters: Option<DeadLetters>,
    queue: OrderedQueue<QueuedMessage>,
    requests: JoinSet<(Sent, Answer)>,
    flow: Flow,
    /// Whether a message was accepted since one was last refused with an unknown code.
    is_alive: bool,
    failures: FailureLog,
    held_up_said: Option<Instant>,
}

impl RemoteDelivery {
    fn is_done(&self) -> bool {
        self.queue.is_empty() && self.requests.is_empty()
    }

    /// Whether further messages may wait here. Messages that wait for an earlier one of their group take no room from other
    /// groups, up to [`WAITING_BYTES_MAX`].
    fn has_room(&mut self) -> bool {
        if self.queue.bytes() >= WAITING_BYTES_MAX {
            self.warn_blocked();
            return false;
        }
        self.queue.sendable() < SENDABLE_MAX && self.queue.sendable_bytes() < SENDABLE_BYTES_MAX
    }

    /// Logs a warning that one message group blocks all others, but not in an outage, and not too often.
    fn warn_blocked(&mut self) {
        let now = Instant::now();
        if self.flow.is_probing() || self.held_up_said.is_some_and(|said| now - said < HELD_UP_INTERVAL) {
            return;
        }
        if let Some((group, messages)) = self.queue.longest_group() {
            self.held_up_said = Some(now);
            warn!(
                sink = self.sink.name,
                group,
                messages,
                "head-of-line blocking: the messages of one group leave one after another, and block all others; spread them \
                 over more groups by the route's `group`, or set `aggregate` to send several rows in one message"
            );
        }
    }

    /// Returns when to check again if neither an answer nor a delivery comes.
    fn wakes_at(&self) -> Option<Instant> {
        let has_requests = self.queue.sendable() > 0;
        self.flow.wakes_at(has_requests, self.sink.store.is_none())
    }

    /// Sends the requests that may leave now.
    fn send_requests(&mut self) {
        let now = Instant::now();
        if self.flow.is_silent(now, self.sink.store.is_none()) {
            warn!(
                sink = self.sink.name,
                requests = self.requests.len(),
                "no answer for some seconds; replacing the connections"
            );
            self.sink.transport.reconnect();
        }
        while self.flow.is_open(now)
            && (self.flow.in_flight() < REQUESTS_UNFULL_MAX || self.flow.is_probing() || self.queue.has_full_request())
        {
            let mut request = self.queue.next_request();
            if request.is_empty() {
                break;
            }
            if request.iter().any(|pending| pending.item.is_stopped()) {
                request = without_stopped(request, &mut self.queue);
                if request.is_empty() {
                    continue;
                }
            }
            request.iter_mut().for_each(|pending| pending.item.seal());
            let sent = self.flow.sent(request.iter().map(|pending| pending.bytes).sum(), now);
            let (transport, store) = (Arc::clone(&self.sink.transport), self.sink.store.clone());
            self.requests.spawn(async move { (sent, send(&*transport, store.as_ref(), request).await) });
        }
    }

    async fn joined(&mut self, answer: Result<(Sent, Answer), JoinError>) -> anyhow::Result<()> {
        let (sent, answer) = answer.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        self.answered(sent, answer).await
    }

    async fn answered(&mut self, sent: Sent, answer: Answer) -> anyhow::Result<()> {
        let state = answer.service_state();
        let Answer { accepted, refused, reason, rejected, doubtful } = answer;
        if !accepted.is_empty() {
            failpoint::reached(Step::Accepted);
            self.is_alive = true;
        }
        for Pending { group, item, .. } in accepted {
            self.queue.accept(group.as_deref());
            item.acknowledge();
            failpoint::reached(Step::Acknowledged);
        }
        for (pending, rejection) in rejected {
            self.rejected(pending, &rejection).await?;
        }
        let failed = refused.len() + doubtful.len();
        let doubt = doubtful.last().map(|(_, rejection)| rejection.error.clone());
        let is_alive = self.is_alive;
        self.is_alive &= doubtful.is_empty();
        for (mut pending, rejection) in doubtful.into_iter().rev() {
            let is_the_messages = is_alive && (pending.item.has_several() || pending.item.doubt() >= DOUBTS_MAX);
            if is_the_messages {
                self.rejected(pending, &rejection).await?;
            } else {
                self.queue.requeue(pending);
            }
        }
        refused.into_iter().rev().for_each(|message| self.queue.requeue(message));
        let pause = self.flow.answered(sent, state, Instant::now());
        match reason.map(|Reason { text, .. }| text).or(doubt) {
            Some(reason) => {
                if let Some(since) = self.failures.failed(&reason) {
                    let delay = pause.map(tracing::field::debug);
                    warn!(sink = self.sink.name, messages = failed, ?since, delay, reason, "not accepted; retrying");
                }
            }
            None => {
                if let Some(after) = self.failures.worked() {
                    info!(sink = self.sink.name, ?after, "accepted again");
                }
            }
        }
        Ok(())
    }

    /// Handles a message that is rejected, perhaps for one of its rows.
    async fn rejected(&mut self, pending: Pending<QueuedMessage>, rejection: &Rejection) -> anyhow::Result<()> {
        let Pending { group, mut item, bytes } = pending;
        let transport = &self.sink.transport;
        if item.has_several() {
            // One of its rows may be the cause: each row is sent again alone.
            let single = |item: QueuedMessage| Pending { group: group.clone(), bytes: transport.bytes(&item), item };
            self.queue.requeue_split(group.as_deref(), item.into_single().map(single).collect());
            return Ok(());
        }
        if item.message().is_dead_letter && bytes > LETTER_BYTES_MIN {
            error!(sink = self.sink.name, bytes, error = rejection.error, "dead letter rejected, sent again shortened");
            item.shorten(bytes / 2);
            let bytes = transport.bytes(&item);
            self.queue.requeue_split(group.as_deref(), vec![Pending { group: group.clone(), bytes, item }]);
            return Ok(());
        }
        self.sink.reject(item, rejection, self.dead_letters.as_ref()).await?;
        self.queue.accept(group.as_deref());
        Ok(())
    }

    async fn take_in(&mut self, Delivery { messages, ack }: Delivery) -> anyhow::Result<()> {
        for message in messages {
            if ack.is_stopped_at(message.row) {
                // A part that is dropped without an acknowledgement records that not all of the delivery was sent.
                drop(ack.part(message.row));
                break;
            }
            if let Some((queued_message, rejection)) = self.sink.take_in(message, &ack, &mut self.queue) {
                self.sink.reject(queued_message, &rejection, self.dead_letters.as_ref()).await?;
            }
        }
        // Each message that was taken in has a part of its own now.
        ack.acknowledge();
        Ok(())
    }
}

/// Removes the messages that must not be delivered after a row stopped the pipeline. Their groups continue without them.
fn without_stopped(request: Request, queue: &mut OrderedQueue<QueuedMessage>) -> Request {
    let mut left = Request::with_capacity(request.len());
    for Pending { group, bytes, item } in request {
        match item.without_stopped() {
            Some(item) => left.push(Pending { group, bytes, item }),
            None => queue.accept(group.as_deref()),
        }
    }
    left
}

fn stop_error(destination: &str, message: &Message, text: &str) -> anyhow::Error {
    let start: String = message.body.plain().chars().take(200).collect();
    anyhow!(
        "cannot deliver to {destination}: message rejected ({text}); group `{}`, {} bytes, beginning {start}; drop or \
         change such rows by a transform, or set `on_error = \"dead-letter\"` for this sink",
        message.group,
        message.body.len()
    )
}
