//! An SQS queue, standard or FIFO.
//!
//! Messages wait in [`Lanes`], leave by `SendMessageBatch`, ten a request and several requests at a
//! time, and go again until they are accepted: an outage of any length loses nothing, it stops the
//! reading. On a FIFO queue each message group has one message in flight, so its order survives
//! retries.
//! <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html>

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use aws_config::BehaviorVersion;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::Region;
use aws_sdk_sqs::error::{DisplayErrorContext, ProvideErrorMetadata};
use aws_sdk_sqs::types::{MessageAttributeValue, QueueAttributeName, SendMessageBatchRequestEntry};
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rowmill_core::lanes::{Lanes, RequestLimits, Waiting};
use rowmill_core::progress::Receipt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Delivery, Message, Settled, Sink, settle};

const LIMITS: RequestLimits = RequestLimits { messages: 10, bytes: 1 << 20 };
/// Requests in flight at a time.
const REQUESTS_MAX: usize = 32;
/// With fewer in flight, a request doesn't wait to be full.
const REQUESTS_UNFULL_MAX: usize = 4;
/// Messages that wait here; more wait where they come from.
const WAITING_MAX: usize = 2_000;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
const RETRY_DELAY_MIN: Duration = Duration::from_millis(50);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(20);

/// A queue that is there.
#[derive(Debug)]
pub(super) struct Sqs {
    name: String,
    client: Client,
    queue_url: String,
    fifo: bool,
}

/// A message on its way, with its duty.
#[derive(Debug)]
struct Outgoing {
    message: Message,
    receipt: Receipt,
}

type Request = Vec<Waiting<Outgoing>>;

/// What came of a request.
struct Answer {
    accepted: Request,
    /// To be sent again, in their order.
    refused: Request,
    /// Why, where some were refused.
    reason: Option<String>,
}

impl Sqs {
    pub async fn open(
        name: &str,
        queue_url: &str,
        region: Option<&str>,
        endpoint_url: Option<&str>,
    ) -> anyhow::Result<Self> {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_attempt_timeout(REQUEST_TIMEOUT)
            .build();
        // Retries are the lanes' business: they know what may be sent before what.
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts);
        if let Some(region) = region.or_else(|| region_of(queue_url)) {
            loader = loader.region(Region::new(region.to_owned()));
        }
        if let Some(url) = endpoint_url {
            loader = loader.endpoint_url(url);
        }
        let client = Client::new(&loader.load().await);
        let sink =
            Self { name: name.to_owned(), client, queue_url: queue_url.to_owned(), fifo: queue_url.ends_with(".fifo") };
        sink.check().await?;
        Ok(sink)
    }

    /// Asks the queue for itself.
    async fn check(&self) -> anyhow::Result<()> {
        let request =
            self.client.get_queue_attributes().queue_url(&self.queue_url).attribute_names(QueueAttributeName::QueueArn);
        let Err(error) = request.send().await else { return Ok(()) };
        let url = &self.queue_url;
        match error.code() {
            Some("AWS.SimpleQueueService.NonExistentQueue" | "QueueDoesNotExist") => {
                bail!("there is no queue {url}; create it, or mend `queue_url`")
            }
            Some(code) => Err(anyhow!("{code}: {}", error.message().unwrap_or_default())).with_context(|| {
                format!(
                    "the queue {url} can't be used; the user needs sqs:SendMessage and sqs:GetQueueAttributes on it"
                )
            }),
            None => Err(anyhow!("{}", DisplayErrorContext(&error))).with_context(|| {
                format!("the queue {url} can't be reached; are the endpoint, the region and the credentials right?")
            }),
        }
    }

    fn waiting(&self, message: Message, receipt: Receipt) -> Waiting<Outgoing> {
        let attributes: usize =
            message.attributes.iter().map(|(name, value)| name.len() + value.len() + "String".len()).sum();
        let bytes = message.body.len() + attributes;
        let group = self.fifo.then(|| message.group.clone());
        Waiting { group, bytes, item: Outgoing { message, receipt } }
    }

    async fn deliver(self, mut deliveries: mpsc::Receiver<Delivery>, settled: Settled) -> anyhow::Result<()> {
        let mut lanes: Lanes<Outgoing> = Lanes::new(LIMITS);
        let mut requests: JoinSet<anyhow::Result<Answer>> = JoinSet::new();
        let mut pause: Option<Pause> = None;
        let mut open = true;
        loop {
            let paused = pause.as_ref().is_some_and(Pause::is_on);
            while !paused
                && requests.len() < REQUESTS_MAX
                && (requests.len() < REQUESTS_UNFULL_MAX || lanes.has_full_request())
            {
                let request = lanes.next_request();
                if request.is_empty() {
                    break;
                }
                requests.spawn(send(self.client.clone(), self.queue_url.clone(), self.fifo, request));
            }
            if !open && lanes.is_empty() && requests.is_empty() {
                return Ok(());
            }
            tokio::select! {
                delivery = deliveries.recv(), if open && lanes.len() < WAITING_MAX => match delivery {
                    Some(Delivery { messages, receipt }) => {
                        let receipts = receipt.split(messages.len());
                        for (message, receipt) in messages.into_iter().zip(receipts) {
                            lanes.push(self.waiting(message, receipt));
                        }
                    }
                    None => open = false,
                },
                Some(answer) = requests.join_next() => {
                    let Answer { accepted, refused, reason } = answer.context("a request's task failed")??;
                    for Waiting { group, item, .. } in accepted {
                        lanes.accepted(group.as_deref());
                        settle(item.receipt, &settled);
                    }
                    let failed = refused.len();
                    refused.into_iter().rev().for_each(|message| lanes.refused(message));
                    match reason {
                        Some(reason) => {
                            let pause = pause.get_or_insert_with(Pause::new);
                            if let Some(delay) = pause.prolong() {
                                warn!(sink = self.name, messages = failed, ?delay, reason, "not accepted, trying again");
                            }
                        }
                        None => if pause.take().is_some() {
                            info!(sink = self.name, "accepted again");
                        },
                    }
                }
                () = async { if let Some(pause) = &pause { tokio::time::sleep_until(pause.until).await } }, if paused => {}
            }
        }
    }
}

/// While the queue refuses, requests wait, longer each time.
struct Pause {
    until: Instant,
    delays: ExponentialBackoff,
}

impl Pause {
    fn new() -> Self {
        let delays = ExponentialBuilder::new()
            .with_min_delay(RETRY_DELAY_MIN)
            .with_max_delay(RETRY_DELAY_MAX)
            .with_jitter()
            .without_max_times();
        Self { until: Instant::now(), delays: delays.build() }
    }

    fn is_on(&self) -> bool {
        Instant::now() < self.until
    }

    /// Begins the next pause, unless one is on: requests that were sent together fail together.
    fn prolong(&mut self) -> Option<Duration> {
        if self.is_on() {
            return None;
        }
        let delay = self.delays.next().unwrap_or(RETRY_DELAY_MAX);
        self.until = Instant::now() + delay;
        Some(delay)
    }
}

/// Sends a request once.
///
/// # Errors
/// If the queue refuses a message for what it is: sending it again wouldn't help.
async fn send(client: Client, queue_url: String, fifo: bool, request: Request) -> anyhow::Result<Answer> {
    let mut entries = Vec::with_capacity(request.len());
    for (index, waiting) in request.iter().enumerate() {
        entries.push(entry(index, &waiting.item.message, fifo)?);
    }
    let answer = client.send_message_batch().queue_url(&queue_url).set_entries(Some(entries)).send().await;
    let output = match answer {
        Ok(output) => output,
        Err(error) => {
            let code = error.code().unwrap_or_default();
            let text = match error.message() {
                Some(message) => format!("{code}: {message}"),
                None => DisplayErrorContext(&error).to_string(),
            };
            if matches!(
                code,
                "InvalidMessageContents" | "BatchRequestTooLong" | "AWS.SimpleQueueService.BatchRequestTooLong"
            ) {
                return Err(refusal(&queue_url, &request[0].item.message, &text));
            }
            return Ok(Answer { accepted: Vec::new(), refused: request, reason: Some(text) });
        }
    };

    let mut accepted_ids = [false; LIMITS.messages];
    for success in output.successful() {
        if let Some(accepted) = success.id().parse().ok().and_then(|index: usize| accepted_ids.get_mut(index)) {
            *accepted = true;
        }
    }
    let mut reason = None;
    for failure in output.failed() {
        let text = format!("{}: {}", failure.code(), failure.message().unwrap_or_default());
        if failure.sender_fault() {
            let message = failure.id().parse().ok().and_then(|index: usize| request.get(index)).unwrap_or(&request[0]);
            return Err(refusal(&queue_url, &message.item.message, &text));
        }
        reason = Some(text);
    }
    // What the answer doesn't name wasn't accepted.
    let mut indexes = 0..;
    let (accepted, refused): (Request, Request) =
        request.into_iter().partition(|_| indexes.next().is_some_and(|index: usize| accepted_ids[index]));
    if reason.is_none() && !refused.is_empty() {
        reason = Some("the answer doesn't say what became of them".to_owned());
    }
    Ok(Answer { accepted, refused, reason })
}

fn entry(index: usize, message: &Message, fifo: bool) -> anyhow::Result<SendMessageBatchRequestEntry> {
    let mut entry = SendMessageBatchRequestEntry::builder().id(index.to_string()).message_body(&*message.body);
    if fifo {
        entry = entry.message_group_id(&message.group).message_deduplication_id(&message.deduplication_id);
    }
    for (name, value) in &message.attributes {
        let value = MessageAttributeValue::builder().data_type("String").string_value(value).build()?;
        entry = entry.message_attributes(name, value);
    }
    Ok(entry.build()?)
}

fn refusal(queue_url: &str, message: &Message, text: &str) -> anyhow::Error {
    let start: String = message.body.chars().take(200).collect();
    anyhow!(
        "the queue {queue_url} refuses a message for what it is ({text}); group `{}`, {} bytes, beginning {start}; \
         drop or change such rows by a transform",
        message.group,
        message.body.len()
    )
}

/// The region in `https://sqs.eu-west-1.amazonaws.com/...`.
fn region_of(queue_url: &str) -> Option<&str> {
    let (_, rest) = queue_url.split_once("://sqs.")?;
    rest.split_once(".amazonaws.").map(|(region, _)| region)
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
        settled: Settled,
    ) -> BoxFuture<'static, anyhow::Result<()>> {
        let name = self.name.clone();
        async move { self.deliver(deliveries, settled).await.with_context(|| format!("sink.{name}")) }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_is_in_the_url() {
        assert_eq!(region_of("https://sqs.eu-west-1.amazonaws.com/1/q.fifo"), Some("eu-west-1"));
        assert_eq!(region_of("https://sqs.cn-north-1.amazonaws.com.cn/1/q"), Some("cn-north-1"));
        assert_eq!(region_of("http://127.0.0.1:4566/1/q"), None);
    }
}
