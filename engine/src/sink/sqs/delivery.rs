//! Delivering to a queue: what waits, what is in flight, and what becomes of each answer.

use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use rowmill_pipeline::ordered_queue::{OrderedQueue, Pending};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::super::flow::{Flow, Sent};
use super::super::{DeadLetters, Delivery, Inlet, Message};
use super::queue::{Sqs, certain_when_compressed};
use super::queued_message::QueuedMessage;
use super::request::{Answer, LIMITS, Reason, Request, To, send};
use crate::ack::{self, Ack};
use crate::config::OnError;
use crate::failpoint::{self, Step};
use crate::retry::FailureLog;

/// With fewer in flight, a request doesn't wait to be full.
const REQUESTS_UNFULL_MAX: usize = 4;
/// Messages that wait here and could leave at once, and their bytes; more wait where they come from.
const SENDABLE_MAX: usize = 2_000;
const SENDABLE_BYTES_MAX: usize = 4 << 20;
/// Bytes of all that wait here: most of them for others of their group.
const WAITING_BYTES_MAX: usize = 32 << 20;
/// How often it is said that a group holds up all others.
const HELD_UP_INTERVAL: Duration = Duration::from_secs(60);
/// So often a message is refused by itself for a reason that isn't known, while others are accepted, before it counts as
/// refused for what it is.
const DOUBTS_MAX: u8 = 5;
/// A dead letter that is refused though it is so short isn't refused for its length.
const LETTER_BYTES_MIN: usize = 1024;

/// Delivers what comes until there is no more, and ends when all of it is accepted.
pub(super) async fn deliver(sqs: Sqs, mut deliveries: Inlet, dead_letters: Option<DeadLetters>) -> anyhow::Result<()> {
    let dead_letters = dead_letters.filter(|_| sqs.on_error == OnError::DeadLetter);
    let mut delivering = Delivering {
        queue: OrderedQueue::new(LIMITS),
        requests: JoinSet::new(),
        flow: Flow::new(sqs.jitter_seed),
        is_alive: false,
        failures: FailureLog::default(),
        held_up_said: None,
        dead_letters,
        sink: sqs,
    };
    let mut open = true;
    loop {
        // Those that are there count before it is asked whether none comes any more.
        while let Some(answer) = delivering.requests.try_join_next() {
            delivering.joined(answer).await?;
        }
        delivering.send_requests();
        if !open && delivering.is_done() {
            return Ok(());
        }
        let has_room = delivering.has_room();
        let wakes_at = delivering.wakes_at();
        // In this order: what was answered makes room for what is delivered next.
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

impl Sqs {
    /// Takes a message in: packed with the last of its group, where that is wanted and there is room. One that the
    /// queue will never take is given back, with why. `ack` is of its batch.
    fn take_in(
        &self,
        message: Message,
        ack: &Ack,
        queue: &mut OrderedQueue<QueuedMessage>,
    ) -> Option<(QueuedMessage, String)> {
        let group = self.fifo.then(|| message.group.clone());
        let mut alone = Some(message);
        if let Some(aggregation) = self.aggregation {
            queue.join_last(group.as_deref(), |last| {
                let joins = |row: &mut Message| {
                    last.bytes + QueuedMessage::longer_by(row) <= aggregation.bytes && last.item.may_take(row)
                };
                if let Some(row) = alone.take_if(joins) {
                    last.bytes += QueuedMessage::longer_by(&row);
                    last.item.take(row, ack);
                }
            });
        }
        let mut item = QueuedMessage::new(alone?, ack);
        let mut bytes = item.bytes(self.aggregation);
        if bytes > certain_when_compressed(self.message_max) {
            item.compress(self.aggregation);
            bytes = item.bytes(self.aggregation);
        }
        if bytes > self.message_max
            && let Some(store) = &self.store
        {
            item.place(self.aggregation, store);
            bytes = item.bytes(self.aggregation);
        }
        if bytes > self.message_max && item.message().is_dead_letter {
            let around = bytes - item.message().body.len();
            item.shorten(self.message_max.saturating_sub(around));
            bytes = item.bytes(self.aggregation);
        }
        let fault = item.fault(self.aggregation).or_else(|| {
            let is_too_large = bytes > self.message_max;
            is_too_large.then(|| format!("it has {bytes} bytes, the queue takes {}", self.message_max))
        });
        if let Some(fault) = fault {
            return Some((item, fault));
        }
        queue.push(Pending { group, bytes, item });
        None
    }

    /// A message is never accepted for what it is: it becomes a dead letter, or stops the pipeline.
    async fn reject(
        &self,
        queued_message: QueuedMessage,
        fault: &str,
        dead_letters: Option<&DeadLetters>,
    ) -> anyhow::Result<()> {
        let Some(dead_letters) = dead_letters else {
            let error =
                refusal(&self.queue_url, queued_message.message(), fault).context(format!("sink.{}", self.name));
            if let Some((_, ack)) = queued_message.into_messages().into_iter().next() {
                ack::stop(ack, error);
            }
            return Ok(());
        };
        for (message, ack) in queued_message.into_messages() {
            warn!(sink = self.name, group = message.group, fault, "refused for ever, a dead letter now");
            dead_letters.send(&self.name, message, fault, ack).await?;
        }
        Ok(())
    }
}

/// What is on its way to a queue.
struct Delivering {
    sink: Sqs,
    dead_letters: Option<DeadLetters>,
    queue: OrderedQueue<QueuedMessage>,
    requests: JoinSet<(Sent, Answer)>,
    flow: Flow,
    /// Whether something was accepted since a message was refused for a reason that isn't known.
    is_alive: bool,
    failures: FailureLog,
    held_up_said: Option<Instant>,
}

impl Delivering {
    fn is_done(&self) -> bool {
        self.queue.is_empty() && self.requests.is_empty()
    }

    /// Whether more may wait here. A group of which many messages wait takes no room from others until there are very
    /// many.
    fn has_room(&mut self) -> bool {
        if self.queue.bytes() >= WAITING_BYTES_MAX {
            self.say_held_up();
            return false;
        }
        self.queue.sendable() < SENDABLE_MAX && self.queue.sendable_bytes() < SENDABLE_BYTES_MAX
    }

    fn say_held_up(&mut self) {
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
                "the messages of one group, which leave one after another, hold up all others: spread them over more groups \
                 by the route's `group`, or let several rows leave in one message by `aggregate`"
            );
        }
    }

    /// When to look again, though nothing came.
    fn wakes_at(&self) -> Option<Instant> {
        let has_requests = self.queue.sendable() > 0;
        self.flow.wakes_at(has_requests, self.sink.store.is_none())
    }

    /// Sends what may leave now.
    fn send_requests(&mut self) {
        let now = Instant::now();
        if self.flow.is_silent(now, self.sink.store.is_none()) {
            warn!(
                sink = self.sink.name,
                requests = self.requests.len(),
                "no answer for some seconds, trying new connections"
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
            let Sqs { transport, queue_url, fifo, aggregation, store, .. } = &self.sink;
            let to = To {
                transport: Arc::clone(transport),
                url: queue_url.clone(),
                fifo: *fifo,
                aggregation: *aggregation,
                store: store.clone(),
            };
            self.requests.spawn(async move { (sent, send(to, request).await) });
        }
    }

    async fn joined(&mut self, answer: Result<(Sent, Answer), JoinError>) -> anyhow::Result<()> {
        let (sent, answer) = answer.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        self.answered(sent, answer).await
    }

    async fn answered(&mut self, sent: Sent, answer: Answer) -> anyhow::Result<()> {
        let outcome = answer.outcome();
        let Answer { accepted, refused, reason, rejected, doubtful } = answer;
        if !accepted.is_empty() {
            failpoint::reached(Step::Accepted);
            self.is_alive = true;
        }
        for Pending { group, item, .. } in accepted {
            self.queue.accepted(group.as_deref());
            item.acknowledge();
            failpoint::reached(Step::Acknowledged);
        }
        for (pending, fault) in rejected {
            self.rejected(pending, &fault).await?;
        }
        let failed = refused.len() + doubtful.len();
        let doubt = doubtful.last().map(|(_, text)| text.clone());
        let is_alive = self.is_alive;
        self.is_alive &= doubtful.is_empty();
        for (mut pending, fault) in doubtful.into_iter().rev() {
            let is_the_messages = is_alive && (pending.item.has_several() || pending.item.doubt() >= DOUBTS_MAX);
            if is_the_messages {
                self.rejected(pending, &fault).await?;
            } else {
                self.queue.refused(pending);
            }
        }
        refused.into_iter().rev().for_each(|message| self.queue.refused(message));
        let pause = self.flow.answered(sent, outcome, Instant::now());
        match reason.map(|Reason { text, .. }| text).or(doubt) {
            Some(reason) => {
                if let Some(since) = self.failures.failed(&reason) {
                    let delay = pause.map(tracing::field::debug);
                    warn!(
                        sink = self.sink.name,
                        messages = failed,
                        ?since,
                        delay,
                        reason,
                        "not accepted, trying again"
                    );
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

    /// Handles a message that is refused for what it is, or for one of its rows.
    async fn rejected(&mut self, pending: Pending<QueuedMessage>, fault: &str) -> anyhow::Result<()> {
        let Pending { group, mut item, bytes } = pending;
        let aggregation = self.sink.aggregation;
        if item.has_several() {
            // One of its rows is to blame: each goes again by itself.
            let single = |item: QueuedMessage| Pending { group: group.clone(), bytes: item.bytes(aggregation), item };
            self.queue.divided(group.as_deref(), item.into_single().map(single).collect());
            return Ok(());
        }
        if item.message().is_dead_letter && bytes > LETTER_BYTES_MIN {
            error!(sink = self.sink.name, bytes, fault, "a dead letter is refused, it is shortened");
            item.shorten(bytes / 2);
            let bytes = item.bytes(aggregation);
            self.queue.divided(group.as_deref(), vec![Pending { group: group.clone(), bytes, item }]);
            return Ok(());
        }
        self.sink.reject(item, fault, self.dead_letters.as_ref()).await?;
        self.queue.accepted(group.as_deref());
        Ok(())
    }

    async fn take_in(&mut self, Delivery { messages, ack }: Delivery) -> anyhow::Result<()> {
        for message in messages {
            if ack.is_stopped_at(message.row) {
                // A part that isn't acknowledged says that not all of it was sent.
                drop(ack.part(message.row));
                break;
            }
            if let Some((queued_message, fault)) = self.sink.take_in(message, &ack, &mut self.queue) {
                self.sink.reject(queued_message, &fault, self.dead_letters.as_ref()).await?;
            }
        }
        // Its parts are all that is left to do.
        ack.acknowledge();
        Ok(())
    }
}

/// Leaves of a request what may still be delivered, once something stopped the pipeline. Groups go on without the rest.
fn without_stopped(request: Request, queue: &mut OrderedQueue<QueuedMessage>) -> Request {
    let mut left = Request::with_capacity(request.len());
    for Pending { group, bytes, item } in request {
        match item.without_stopped() {
            Some(item) => left.push(Pending { group, bytes, item }),
            None => queue.accepted(group.as_deref()),
        }
    }
    left
}

fn refusal(queue_url: &str, message: &Message, text: &str) -> anyhow::Error {
    let start: String = message.body.plain().chars().take(200).collect();
    anyhow!(
        "the queue {queue_url} refuses a message for what it is ({text}); group `{}`, {} bytes, beginning {start}; \
         drop or change such rows by a transform, or set `on_error = \"dead-letter\"` for this sink",
        message.group,
        message.body.len()
    )
}
