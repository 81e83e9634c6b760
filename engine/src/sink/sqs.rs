//! An SQS queue, standard or FIFO.
//!
//! Messages wait in [`Lanes`], leave by `SendMessageBatch`, ten a request and several requests at a
//! time, and go again until they are accepted: an outage of any length loses nothing, it stops the
//! reading. On a FIFO queue each message group has one message in flight, so its order survives
//! retries.
//! <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html>

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::anyhow;
use aws_sdk_sqs::error::{DisplayErrorContext, ProvideErrorMetadata};
use aws_sdk_sqs::types::QueueAttributeName;
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rowmill_core::lanes::{Lanes, Waiting};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{info, warn};

use super::aws::Account;
use super::client::Transport;
use super::large::Store;
use super::outgoing::Outgoing;
use super::request::{Answer, LIMITS, Request, To, send};
use super::{DeadLetters, Delivery, Message, OpenError, Sink};
use crate::ack::{self, Ack};
use crate::config::{OnError, Packing, Queue};
use crate::failpoint::{self, Step};

/// Requests in flight at a time.
const REQUESTS_MAX: usize = 32;
/// With fewer in flight, a request doesn't wait to be full.
const REQUESTS_UNFULL_MAX: usize = 4;
/// Messages that wait here, and their bytes; more wait where they come from.
const WAITING_MAX: usize = 2_000;
const WAITING_BYTES_MAX: usize = 4 << 20;
/// Bytes of requests in flight, each of which is in memory twice: enough for 500 MB a second where an answer takes 16 ms.
const REQUESTS_BYTES_MAX: usize = 8 << 20;

const RETRY_DELAY_MIN: Duration = Duration::from_millis(50);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(20);

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
        let (message_max, endpoint) = look_up(&account.sqs(), url).await?;
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
    fn take_in(&self, message: Message, ack: &Ack, lanes: &mut Lanes<Outgoing>) -> Option<(Outgoing, String)> {
        let group = self.fifo.then(|| message.group.clone());
        let mut alone = Some(message);
        if let Some(packing) = self.packing {
            lanes.join_last(group.as_deref(), |last| {
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
        let fault = item.fault(self.packing).or_else(|| {
            let is_too_large = bytes > self.message_max;
            is_too_large.then(|| format!("it has {bytes} bytes, the queue takes {}", self.message_max))
        });
        if let Some(fault) = fault {
            return Some((item, fault));
        }
        lanes.push(Waiting { group, bytes, item });
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

    async fn deliver(
        self,
        mut deliveries: mpsc::Receiver<Delivery>,
        dead_letters: Option<DeadLetters>,
    ) -> anyhow::Result<()> {
        let dead_letters = dead_letters.filter(|_| self.on_error == OnError::DeadLetter);
        let mut lanes: Lanes<Outgoing> = Lanes::new(LIMITS);
        let mut requests: JoinSet<Answer> = JoinSet::new();
        let mut bytes_in_flight = 0;
        let mut pause: Option<Pause> = None;
        // Halved where the queue refuses, one more where it accepts: what a throttled account can take is found out.
        let mut requests_max = REQUESTS_MAX;
        let mut open = true;
        loop {
            let paused = pause.as_ref().is_some_and(Pause::is_on);
            while !paused
                && requests.len() < requests_max
                && bytes_in_flight < REQUESTS_BYTES_MAX
                && (requests.len() < REQUESTS_UNFULL_MAX || lanes.has_full_request())
            {
                let mut request = lanes.next_request();
                if request.is_empty() {
                    break;
                }
                if request.iter().any(|waiting| waiting.item.is_stopped()) {
                    request = without_stopped(request, &mut lanes);
                    if request.is_empty() {
                        continue;
                    }
                }
                request.iter_mut().for_each(|waiting| waiting.item.seal());
                bytes_in_flight += request.iter().map(|waiting| waiting.bytes).sum::<usize>();
                let to = To {
                    transport: Arc::clone(&self.transport),
                    url: self.queue_url.clone(),
                    fifo: self.fifo,
                    packing: self.packing,
                    store: self.store.clone(),
                };
                requests.spawn(send(to, request));
            }
            if !open && lanes.is_empty() && requests.is_empty() {
                return Ok(());
            }
            // In this order: what was answered makes room for what is delivered next.
            tokio::select! {
                biased;
                Some(answer) = requests.join_next() => {
                    let answer = answer.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
                    bytes_in_flight -= answer.bytes();
                    let Answer { accepted, refused, reason, rejected } = answer;
                    if !accepted.is_empty() {
                        failpoint::reached(Step::Accepted);
                    }
                    for Waiting { group, item, .. } in accepted {
                        lanes.accepted(group.as_deref());
                        item.acknowledge();
                        failpoint::reached(Step::Settled);
                    }
                    for (Waiting { group, item, .. }, fault) in rejected {
                        if item.has_several() {
                            // One of its rows is to blame: each goes again by itself.
                            let single = |item: Outgoing| {
                                Waiting { group: group.clone(), bytes: item.bytes(self.packing), item }
                            };
                            lanes.divided(group.as_deref(), item.into_single().map(single).collect());
                            continue;
                        }
                        self.reject(item, &fault, dead_letters.as_ref()).await?;
                        lanes.accepted(group.as_deref());
                    }
                    let failed = refused.len();
                    refused.into_iter().rev().for_each(|message| lanes.refused(message));
                    match reason {
                        Some(reason) => {
                            let pause = pause.get_or_insert_with(|| Pause::new(self.jitter_seed));
                            if let Some(delay) = pause.prolong() {
                                requests_max = (requests_max / 2).max(1);
                                warn!(sink = self.name, messages = failed, ?delay, reason, "not accepted, trying again");
                            }
                        }
                        None => {
                            requests_max = (requests_max + 1).min(REQUESTS_MAX);
                            if pause.take().is_some() {
                                info!(sink = self.name, "accepted again");
                            }
                        }
                    }
                }
                delivery = deliveries.recv(), if open && lanes.len() < WAITING_MAX && lanes.bytes() < WAITING_BYTES_MAX => match delivery {
                    Some(delivery) => {
                        let Delivery { messages, ack } = delivery;
                        for message in messages {
                            if ack.is_stopped_at(message.row) {
                                // A part that isn't acknowledged says that not all of it was sent.
                                drop(ack.part(message.row));
                                break;
                            }
                            if let Some((outgoing, fault)) = self.take_in(message, &ack, &mut lanes) {
                                self.reject(outgoing, &fault, dead_letters.as_ref()).await?;
                            }
                        }
                        // Its parts are all that is left to do.
                        ack.acknowledge();
                    }
                    None => open = false,
                },
                () = async { if let Some(pause) = &pause { pause.end().await } }, if paused => {}
            }
        }
    }
}

/// Leaves of a request what may still be delivered, once something stopped the pipeline. Groups go on without the rest.
fn without_stopped(request: Request, lanes: &mut Lanes<Outgoing>) -> Request {
    let mut left = Request::with_capacity(request.len());
    for Waiting { group, bytes, item } in request {
        match item.without_stopped() {
            Some(item) => left.push(Waiting { group, bytes, item }),
            None => lanes.accepted(group.as_deref()),
        }
    }
    left
}

/// While the queue refuses, requests wait, longer each time.
pub(super) struct Pause {
    until: Instant,
    delays: ExponentialBackoff,
}

impl Pause {
    /// The jitter follows from the seed, if there is one.
    pub fn new(jitter_seed: Option<u64>) -> Self {
        let mut delays = ExponentialBuilder::new()
            .with_min_delay(RETRY_DELAY_MIN)
            .with_max_delay(RETRY_DELAY_MAX)
            .with_jitter()
            .without_max_times();
        if let Some(seed) = jitter_seed {
            delays = delays.with_jitter_seed(seed);
        }
        Self { until: Instant::now(), delays: delays.build() }
    }

    fn is_on(&self) -> bool {
        Instant::now() < self.until
    }

    /// Waits until it is over.
    pub async fn end(&self) {
        tokio::time::sleep_until(self.until).await;
    }

    /// Begins the next pause, unless one is on: requests that were sent together fail together.
    pub fn prolong(&mut self) -> Option<Duration> {
        if self.is_on() {
            return None;
        }
        let delay = self.delays.next().unwrap_or(RETRY_DELAY_MAX);
        self.until = Instant::now() + delay;
        Some(delay)
    }
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
    match error.code() {
        Some("AWS.SimpleQueueService.NonExistentQueue" | "QueueDoesNotExist") => {
            Err(OpenError::Refused(anyhow!("there is no queue {url}; create it, or mend `queue_url`")))
        }
        Some(code) => {
            let text = format!("{code}: {}", error.message().unwrap_or_default());
            let is_refused = ["AccessDenied", "AccessDeniedException", "InvalidAddress", "InvalidParameterValue"];
            let why = if is_refused.contains(&code) { OpenError::Refused } else { OpenError::NotNow };
            Err(why(anyhow!(text).context(format!(
                "the queue {url} can't be used; the user needs sqs:SendMessage and sqs:GetQueueAttributes on it"
            ))))
        }
        None => Err(OpenError::NotNow(anyhow!("{}", DisplayErrorContext(&error)).context(format!(
            "the queue {url} can't be reached; are the endpoint, the region and the credentials right?"
        )))),
    }
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
        deliveries: mpsc::Receiver<Delivery>,
        dead_letters: Option<DeadLetters>,
    ) -> BoxFuture<'static, anyhow::Result<()>> {
        self.deliver(deliveries, dead_letters).boxed()
    }
}
