//! An SQS queue, standard or FIFO.
//!
//! Messages wait in [`OrderedQueue`], leave by `SendMessageBatch`, ten a request and several requests at a
//! time, and go again until they are accepted: an outage of any length loses nothing, it stops the
//! reading. On a FIFO queue each message group has one message in flight, so its order survives
//! retries.
//! <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html>

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::anyhow;
use aws_sdk_sqs::error::ProvideErrorMetadata;
use aws_sdk_sqs::types::QueueAttributeName;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rowmill_pipeline::ordered_queue::{OrderedQueue, Pending};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::aws::{Account, words};
use super::client::Transport;
use super::codes::{Class, class};
use super::flow::{Flow, Sent};
use super::large::Store;
use super::outgoing::Outgoing;
use super::request::{Answer, LIMITS, Reason, Request, To, send};
use super::{DeadLetters, Delivery, Inlet, Message, OpenError, Sink};
use crate::ack::{self, Ack};
use crate::config::{OnError, Packing, Queue};
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

/// A queue that is there.
#[derive(Debug)]
pub(super) struct Sqs {
    name: String,
    transport: Arc<dyn Transport>,
    queue_url: String,
    fifo: bool,
    on_error: OnError,
    /// Bytes of a message: its body and attributes.
    message_max: usize,
    packing: Option<Packing>,
    store: Option<Store>,
    /// Of the pauses' jitter; `None`: random.
    jitter_seed: Option<u64>,
}

impl Sqs {
    pub async fn open(name: &str, url: &str, queue: &Queue, account: Account) -> Result<Self, OpenError> {
        let Queue { on_error, packing, large_messages, .. } = queue;
        account.region().map_err(OpenError::Refused)?;
        let (message_max, endpoint) =
            look_up(&account.sqs(), url).await.inspect_err(|_| account.forget_credentials())?;
        let client = account.client(endpoint).map_err(OpenError::Refused)?;
        let store = match large_messages {
            Some(large_messages) => Some(Store::open(&account, large_messages).await?),
            None => None,
        };
        let packing = packing.map(|packing| {
            let fits = if packing.compression.is_some() { certain_when_compressed(message_max) } else { message_max };
            Packing { bytes: packing.bytes.min(fits), ..packing }
        });
        Ok(Self {
            name: name.to_owned(),
            transport: Arc::new(client),
            queue_url: url.to_owned(),
            fifo: url.ends_with(".fifo"),
            on_error: *on_error,
            message_max,
            packing,
            store,
            jitter_seed: None,
        })
    }

    /// A queue for the simulation.
    #[cfg(test)]
    pub fn simulated(queue: super::fake::FakeQueue) -> Self {
        let super::fake::FakeQueue { name, is_fifo, on_error, packing, jitter_seed, answers } = queue;
        Self {
            name: name.to_owned(),
            transport: Arc::new(super::fake::FakeTransport(answers)),
            queue_url: format!("http://simulated/{name}"),
            fifo: is_fifo,
            on_error,
            message_max: LIMITS.bytes,
            packing,
            store: None,
            jitter_seed: Some(jitter_seed),
        }
    }

    /// Takes a message in: packed with the last of its group, where that is wanted and there is room. One that the
    /// queue will never take is given back, with why. `ack` is of its batch.
    fn take_in(&self, message: Message, ack: &Ack, queue: &mut OrderedQueue<Outgoing>) -> Option<(Outgoing, String)> {
        let group = self.fifo.then(|| message.group.clone());
        let mut alone = Some(message);
        if let Some(packing) = self.packing {
            queue.join_last(group.as_deref(), |last| {
                let joins = |row: &mut Message| {
                    last.bytes + Outgoing::longer_by(row) <= packing.bytes && last.item.may_take(row)
                };
                if let Some(row) = alone.take_if(joins) {
                    last.bytes += Outgoing::longer_by(&row);
                    last.item.take(row, ack);
                }
            });
        }
        let mut item = Outgoing::new(alone?, ack);
        let mut bytes = item.bytes(self.packing);
        if bytes > certain_when_compressed(self.message_max) {
            item.compress(self.packing);
            bytes = item.bytes(self.packing);
        }
        if bytes > self.message_max
            && let Some(store) = &self.store
        {
            item.place(self.packing, store);
            bytes = item.bytes(self.packing);
        }
        if bytes > self.message_max && item.message().is_dead_letter {
            let around = bytes - item.message().body.len();
            item.shorten(self.message_max.saturating_sub(around));
            bytes = item.bytes(self.packing);
        }
        let fault = item.fault(self.packing).or_else(|| {
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
    async fn reject(&self, outgoing: Outgoing, fault: &str, dead_letters: Option<&DeadLetters>) -> anyhow::Result<()> {
        let Some(dead_letters) = dead_letters else {
            let error = refusal(&self.queue_url, outgoing.message(), fault).context(format!("sink.{}", self.name));
            if let Some((_, ack)) = outgoing.into_messages().into_iter().next() {
                ack::stop(ack, error);
            }
            return Ok(());
        };
        for (message, ack) in outgoing.into_messages() {
            warn!(sink = self.name, group = message.group, fault, "refused for ever, a dead letter now");
            dead_letters.send(&self.name, message, fault, ack).await?;
        }
        Ok(())
    }

    async fn deliver(self, mut deliveries: Inlet, dead_letters: Option<DeadLetters>) -> anyhow::Result<()> {
        let dead_letters = dead_letters.filter(|_| self.on_error == OnError::DeadLetter);
        let mut delivering = Delivering {
            queue: OrderedQueue::new(LIMITS),
            requests: JoinSet::new(),
            flow: Flow::new(self.jitter_seed),
            is_alive: false,
            failures: FailureLog::default(),
            held_up_said: None,
            dead_letters,
            sink: self,
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
}

/// What is on its way to a queue.
struct Delivering {
    sink: Sqs,
    dead_letters: Option<DeadLetters>,
    queue: OrderedQueue<Outgoing>,
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
                 by the route's `group`, or let several rows leave in one message by `pack`"
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
            let Sqs { transport, queue_url, fifo, packing, store, .. } = &self.sink;
            let to = To {
                transport: Arc::clone(transport),
                url: queue_url.clone(),
                fifo: *fifo,
                packing: *packing,
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
            failpoint::reached(Step::Settled);
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
    async fn rejected(&mut self, pending: Pending<Outgoing>, fault: &str) -> anyhow::Result<()> {
        let Pending { group, mut item, bytes } = pending;
        let packing = self.sink.packing;
        if item.has_several() {
            // One of its rows is to blame: each goes again by itself.
            let single = |item: Outgoing| Pending { group: group.clone(), bytes: item.bytes(packing), item };
            self.queue.divided(group.as_deref(), item.into_single().map(single).collect());
            return Ok(());
        }
        if item.message().is_dead_letter && bytes > LETTER_BYTES_MIN {
            error!(sink = self.sink.name, bytes, fault, "a dead letter is refused, it is shortened");
            item.shorten(bytes / 2);
            let bytes = item.bytes(packing);
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
            if let Some((outgoing, fault)) = self.sink.take_in(message, &ack, &mut self.queue) {
                self.sink.reject(outgoing, &fault, self.dead_letters.as_ref()).await?;
            }
        }
        // Its parts are all that is left to do.
        ack.acknowledge();
        Ok(())
    }
}

/// Leaves of a request what may still be delivered, once something stopped the pipeline. Groups go on without the rest.
fn without_stopped(request: Request, queue: &mut OrderedQueue<Outgoing>) -> Request {
    let mut left = Request::with_capacity(request.len());
    for Pending { group, bytes, item } in request {
        match item.without_stopped() {
            Some(item) => left.push(Pending { group, bytes, item }),
            None => queue.accepted(group.as_deref()),
        }
    }
    left
}

/// Asks a queue how large its messages may be: so it is known to be there. Gives where it was asked, too.
async fn look_up(client: &aws_sdk_sqs::Client, url: &str) -> Result<(usize, String), OpenError> {
    let request = client.get_queue_attributes().queue_url(url).attribute_names(QueueAttributeName::MaximumMessageSize);
    let endpoint: Arc<OnceLock<String>> = Arc::default();
    let asked = Arc::clone(&endpoint);
    // The SDK knows it by its region, the environment and the user's profile.
    let request = request.customize().mutate_request(move |request| {
        asked.get_or_init(|| request.uri().to_owned());
    });
    let error = match request.send().await {
        Ok(output) => {
            let size = output.attributes().and_then(|all| all.get(&QueueAttributeName::MaximumMessageSize));
            let size = size.and_then(|size| size.parse().ok()).unwrap_or(LIMITS.bytes);
            return Ok((size, endpoint.get().cloned().unwrap_or_default()));
        }
        Err(error) => error,
    };
    let Some(code) = error.code() else {
        return Err(OpenError::NotNow(anyhow!(
            "the queue {url} can't be reached; are `queue_url`, `endpoint_url` and `region` right? {}",
            words(&error)
        )));
    };
    if code.ends_with("NonExistentQueue") || code.ends_with("QueueDoesNotExist") {
        return Err(OpenError::Refused(anyhow!("there is no queue {url}; create it, or correct `queue_url`")));
    }
    let text = format!("{code}: {}", error.message().unwrap_or_default());
    let status = error.raw_response().map_or(0, |response| response.status().as_u16());
    let why = match class(code, (400..500).contains(&status)) {
        // SQS also says so of a queue that isn't there.
        Class::Operator(_) if code.starts_with("AccessDenied") => OpenError::Refused,
        Class::Definite => OpenError::Refused,
        Class::Operator(_) | Class::Unknown => OpenError::Operator,
        Class::Throttled | Class::Transient => OpenError::NotNow,
    };
    let fix = match class(code, true) {
        Class::Operator(fix) => fix,
        _ => "let the user have sqs:SendMessage and sqs:GetQueueAttributes on it",
    };
    Err(why(anyhow!("the queue {url} can't be used: {text}; {fix}")))
}

/// Bytes that fit for certain into a message of so many when they're compressed and in base64, whatever they are.
fn certain_when_compressed(message_max: usize) -> usize {
    message_max / 10 * 7
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

impl Sink for Sqs {
    fn name(&self) -> &str {
        &self.name
    }

    fn is_ordered(&self) -> bool {
        self.fifo
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
    use std::collections::VecDeque;
    use std::fmt;
    use std::sync::Mutex;

    use bytes::Bytes;
    use rowmill_core::position::ResumePoint;
    use rowmill_pipeline::ack::{Cost, tracker};
    use serde_json::{Value, json};

    use super::super::client::Failure;
    use super::super::outlet::{Outlet, Overflow, outlet};
    use super::*;
    use crate::ack::tests::resume;
    use crate::ack::{AckObserver, AckOpener, BatchOrigin, StopError};

    type Answering = dyn Fn(&[Value]) -> Result<Value, Failure> + Send + Sync;

    /// Answers after a time what a closure says of the bodies.
    struct Scripted {
        answer: Box<Answering>,
        takes: Duration,
        /// Bodies that were accepted.
        arrived: Arc<Mutex<Vec<String>>>,
    }

    impl fmt::Debug for Scripted {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Scripted")
        }
    }

    impl Transport for Scripted {
        fn call(&self, _: &'static str, body: Vec<u8>) -> BoxFuture<'_, Result<Bytes, Failure>> {
            async move {
                tokio::time::sleep(self.takes).await;
                let request: Value = serde_json::from_slice(&body).expect("JSON");
                let entries = request["Entries"].as_array().expect("entries");
                let answer = (self.answer)(entries)?;
                for id in answer["Successful"].as_array().into_iter().flatten() {
                    let index: usize = id["Id"].as_str().and_then(|id| id.parse().ok()).expect("an index");
                    let body = entries[index]["MessageBody"].as_str().expect("a body");
                    self.arrived.lock().expect("no panic").push(body.to_owned());
                }
                Ok(Bytes::from(answer.to_string()))
            }
            .boxed()
        }
    }

    /// Accepts all but what `refuse` has a code for.
    fn each(entries: &[Value], refuse: impl Fn(&str) -> Option<&'static str>) -> Value {
        let (mut successful, mut failed) = (Vec::new(), Vec::new());
        for (index, entry) in entries.iter().enumerate() {
            let id = index.to_string();
            match refuse(entry["MessageBody"].as_str().expect("a body")) {
                None => successful.push(json!({ "Id": id })),
                Some(code) => failed.push(json!({ "Id": id, "Code": code, "SenderFault": true })),
            }
        }
        json!({ "Successful": successful, "Failed": failed })
    }

    fn refused(code: &str) -> Failure {
        Failure::Refused { code: code.to_owned(), message: String::new(), status: 400 }
    }

    struct Rig {
        outlet: Outlet,
        acks: AckOpener,
        observer: AckObserver,
        arrived: Arc<Mutex<Vec<String>>>,
        sink: tokio::task::JoinHandle<anyhow::Result<()>>,
        next: u64,
    }

    impl Rig {
        fn start(
            takes: Duration,
            edit: impl FnOnce(&mut Sqs),
            answer: impl Fn(&[Value]) -> Result<Value, Failure> + Send + Sync + 'static,
        ) -> Self {
            let arrived: Arc<Mutex<Vec<String>>> = Arc::default();
            let transport = Scripted { answer: Box::new(answer), takes, arrived: Arc::clone(&arrived) };
            let mut sqs = Sqs {
                name: "queue".to_owned(),
                transport: Arc::new(transport),
                queue_url: "http://simulated/queue".to_owned(),
                fifo: false,
                on_error: OnError::Halt,
                message_max: LIMITS.bytes,
                packing: None,
                store: None,
                jitter_seed: Some(7),
            };
            edit(&mut sqs);
            let (outlet, inlet) = outlet(2, Overflow::new(0));
            let (acks, _, observer) = tracker::<ResumePoint, BatchOrigin>(Cost { rows: 1 << 20, bytes: 1 << 30 });
            Self { outlet, acks, observer, arrived, sink: tokio::spawn(Box::new(sqs).run(inlet, None)), next: 1 }
        }

        async fn send(&mut self, messages: Vec<Message>) {
            let origin = BatchOrigin::after(Arc::new(resume(self.next)));
            self.next += 1;
            let ack = self.acks.open(origin, resume(self.next), Cost { rows: 1, bytes: 1 }).await.expect("room");
            self.outlet.send(Delivery { messages, ack }).await.expect("it runs");
        }

        fn arrived(&self) -> Vec<String> {
            self.arrived.lock().expect("no panic").clone()
        }

        async fn end(self) -> (Vec<String>, Option<String>) {
            drop(self.outlet);
            self.sink.await.expect("no panic").expect("no error");
            let stop = self.observer.stop().map(|stop| stop.cause.downcast::<StopError>().expect("ours").to_string());
            (self.arrived.lock().expect("no panic").clone(), stop)
        }
    }

    fn message(body: &str, group: &str) -> Message {
        Message { body: body.into(), group: group.to_owned(), ..Message::default() }
    }

    fn messages(bodies: &[&str]) -> Vec<Message> {
        bodies.iter().map(|body| message(body, "")).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_throttled_key_ends_nothing() {
        let start = Instant::now();
        let mut rig = Rig::start(
            Duration::from_millis(5),
            |_| {},
            move |entries| {
                let is_throttled = start.elapsed() < Duration::from_secs(20);
                Ok(each(entries, |_| is_throttled.then_some("KMS.ThrottlingException")))
            },
        );
        rig.send(messages(&["a", "b"])).await;
        assert_eq!(rig.end().await, (vec!["a".to_owned(), "b".to_owned()], None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_cant_be_read_is_split_until_the_bad_message_stands_alone() {
        for code in ["SerializationException", "SomethingNew"] {
            let answer = move |entries: &[Value]| match entries.iter().any(|entry| entry["MessageBody"] == "bad") {
                true => Err(refused(code)),
                false => Ok(each(entries, |_| None)),
            };
            let mut rig = Rig::start(Duration::from_millis(5), |_| {}, answer);
            rig.send(messages(&["a", "b", "bad", "c"])).await;
            // Others show that the queue works.
            let mut more = 0;
            while rig.observer.stopped().now_or_never().is_none() && more < 200 {
                rig.send(messages(&["more"])).await;
                tokio::time::sleep(Duration::from_millis(100)).await;
                more += 1;
            }
            assert!(more < 100, "{code}: nothing came of it");
            let (arrived, stop) = rig.end().await;
            let stop = stop.expect("it stops there");
            assert!(stop.contains(code) && stop.contains("beginning bad"), "{stop}");
            let before: Vec<&String> = arrived.iter().filter(|body| *body != "more").collect();
            assert!(before.starts_with(&[&"a".to_owned(), &"b".to_owned()]), "{before:?}");
        }
    }

    /// A reason that isn't known, for everything: it's the queue, and no message.
    #[tokio::test(start_paused = true)]
    async fn a_queue_that_refuses_everything_is_waited_for() {
        let start = Instant::now();
        let back = Duration::from_secs(300);
        let mut rig = Rig::start(
            Duration::from_millis(5),
            |_| {},
            move |entries| match start.elapsed() < back {
                true => Err(refused("SomethingNew")),
                false => Ok(each(entries, |_| None)),
            },
        );
        rig.send(messages(&["a", "b"])).await;
        let (arrived, stop) = rig.end().await;
        assert_eq!((arrived.len(), stop), (2, None));
        assert!(start.elapsed() < back + Duration::from_secs(2), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_hot_group_takes_no_room_from_others() {
        let mut rig =
            Rig::start(Duration::from_millis(10), |sqs| sqs.fifo = true, |entries| Ok(each(entries, |_| None)));
        let start = Instant::now();
        // Far more than could leave at once.
        for batch in 0..100 {
            let rows = (0..200).map(|row| match row % 5 {
                0 => message("hot", "hot"),
                _ => message("cold", &format!("{batch}-{row}")),
            });
            rig.send(rows.collect()).await;
        }
        let cold = |rig: &Rig| rig.arrived().iter().filter(|body| *body == "cold").count();
        while cold(&rig) < 16_000 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        let hot = rig.arrived().len() - 16_000;
        assert!(hot < 300, "{hot} of the hot group");
        let (arrived, _) = rig.end().await;
        assert_eq!(arrived.len(), 20_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_letter_fits() {
        // The queue takes less than it said.
        let takes: VecDeque<usize> = [5_000, 1_500].into();
        for (max, most) in takes.into_iter().zip([20_000, 20_000]) {
            let answer = move |entries: &[Value]| {
                Ok(each(entries, |body| (body.len() > max).then_some("InvalidParameterValue")))
            };
            let mut rig = Rig::start(Duration::from_millis(5), |sqs| sqs.message_max = most, answer);
            let body = json!({ "error": "why", "body": "x".repeat(1 << 20) }).to_string();
            rig.send(vec![Message { is_dead_letter: true, ..message(&body, "") }]).await;
            let (arrived, stop) = rig.end().await;
            assert_eq!(stop, None);
            let letter: Value = serde_json::from_str(&arrived[0]).expect("JSON");
            assert_eq!((&letter["error"], &letter["shortened"]["body"]), (&"why".into(), &(1 << 20).into()));
        }
    }
}
