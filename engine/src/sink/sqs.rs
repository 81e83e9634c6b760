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
use aws_config::sts::AssumeRoleProvider;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::{Region, SharedCredentialsProvider};
use aws_sdk_sqs::error::{DisplayErrorContext, ProvideErrorMetadata};
use aws_sdk_sqs::operation::send_message_batch::SendMessageBatchOutput;
use aws_sdk_sqs::types::QueueAttributeName;
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rowmill_core::lanes::{Lanes, RequestLimits, Waiting};
use rowmill_core::progress::Receipt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{info, warn};

use super::outgoing::Outgoing;
use super::{DeadLetters, Delivery, Message, Settled, Sink, settle};
use crate::config::{OnError, Packing, Queue, Role};

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
    on_error: OnError,
    /// Bytes of a message: its body and attributes.
    message_max: usize,
    packing: Option<Packing>,
}

type Request = Vec<Waiting<Outgoing>>;

/// Where requests go.
struct To {
    client: Client,
    url: String,
    fifo: bool,
    packing: Option<Packing>,
}

/// What came of a request.
#[derive(Default)]
struct Answer {
    accepted: Request,
    /// To be sent again, in their order.
    refused: Request,
    /// Why, where some were refused.
    reason: Option<String>,
    /// Never accepted, for what they are, and why.
    rejected: Vec<(Waiting<Outgoing>, String)>,
}

/// What the queue said to a request.
enum Said {
    /// Something of each entry.
    Entries(SendMessageBatchOutput),
    /// It was no use now: it can't be reached, is throttling, or fails.
    NotNow(String),
    /// Nothing of it is accepted, because of what at least one message is.
    Never(String),
}

impl Sqs {
    pub async fn open(name: &str, queue: &Queue) -> anyhow::Result<Self> {
        let Queue { url: queue_url, region, endpoint_url, role, on_error, attributes: _, packing } = queue;
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_attempt_timeout(REQUEST_TIMEOUT)
            .build();
        // Retries are the lanes' business: they know what may be sent before what.
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts);
        if let Some(region) = region.as_deref().or_else(|| region_of(queue_url)) {
            loader = loader.region(Region::new(region.to_owned()));
        }
        if let Some(url) = endpoint_url {
            loader = loader.endpoint_url(url);
        }
        let mut config = loader.load().await;
        if let Some(Role { arn, external_id }) = role {
            let mut role = AssumeRoleProvider::builder(arn).session_name("rowmill").configure(&config);
            if let Some(id) = external_id {
                role = role.external_id(id);
            }
            let credentials = SharedCredentialsProvider::new(role.build().await);
            config = config.into_builder().credentials_provider(credentials).build();
        }
        let client = Client::new(&config);
        let message_max = message_max(&client, queue_url).await?;
        let (name, queue_url, fifo) = (name.to_owned(), queue_url.to_owned(), queue_url.ends_with(".fifo"));
        let packing = packing.map(|packing| Packing { bytes: packing.bytes.min(message_max), ..packing });
        Ok(Self { name, client, queue_url, fifo, on_error: *on_error, message_max, packing })
    }

    fn waiting(&self, message: Message, receipt: Receipt) -> Waiting<Outgoing> {
        let group = self.fifo.then(|| message.group.clone());
        let item = Outgoing::new(message, receipt);
        Waiting { group, bytes: item.bytes(self.packing), item }
    }

    /// Takes a message in: packed with the last of its group, where that is wanted and there is room.
    fn take_in(&self, waiting: Waiting<Outgoing>, lanes: &mut Lanes<Outgoing>) {
        if let Some(packing) = self.packing
            && let Some(last) = lanes.last_mut(waiting.group.as_deref())
            && last.bytes + waiting.bytes <= packing.bytes
            && last.item.may_take(waiting.item.message())
        {
            last.bytes += last.item.take(waiting.item);
            return;
        }
        lanes.push(waiting);
    }

    /// A message that is never accepted for what it is: a dead letter, or the end.
    async fn reject(&self, outgoing: Outgoing, fault: &str, dead_letters: Option<&DeadLetters>) -> anyhow::Result<()> {
        let Some(dead_letters) = dead_letters else {
            return Err(refusal(&self.queue_url, outgoing.message(), fault));
        };
        for (message, receipt) in outgoing.into_messages() {
            warn!(sink = self.name, group = message.group, fault, "refused for ever, a dead letter now");
            dead_letters.send(&self.name, message, fault, receipt).await?;
        }
        Ok(())
    }

    async fn deliver(
        self,
        mut deliveries: mpsc::Receiver<Delivery>,
        settled: Settled,
        dead_letters: Option<DeadLetters>,
    ) -> anyhow::Result<()> {
        let dead_letters = dead_letters.filter(|_| self.on_error == OnError::DeadLetter);
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
                let mut request = lanes.next_request();
                if request.is_empty() {
                    break;
                }
                request.iter_mut().for_each(|waiting| waiting.item.seal());
                let to = To {
                    client: self.client.clone(),
                    url: self.queue_url.clone(),
                    fifo: self.fifo,
                    packing: self.packing,
                };
                requests.spawn(send(to, request));
            }
            if !open && lanes.is_empty() && requests.is_empty() {
                return Ok(());
            }
            tokio::select! {
                delivery = deliveries.recv(), if open && lanes.len() < WAITING_MAX => match delivery {
                    Some(Delivery { messages, receipt }) => {
                        let receipts = receipt.split(messages.len());
                        for (message, receipt) in messages.into_iter().zip(receipts) {
                            let waiting = self.waiting(message, receipt);
                            if waiting.bytes <= self.message_max {
                                self.take_in(waiting, &mut lanes);
                                continue;
                            }
                            let fault = format!("it has {} bytes, the queue takes {}", waiting.bytes, self.message_max);
                            self.reject(waiting.item, &fault, dead_letters.as_ref()).await?;
                        }
                    }
                    None => open = false,
                },
                Some(answer) = requests.join_next() => {
                    let Answer { accepted, refused, reason, rejected } = answer.context("a request's task failed")??;
                    for Waiting { group, item, .. } in accepted {
                        lanes.accepted(group.as_deref());
                        item.into_messages().for_each(|(_, receipt)| settle(receipt, &settled));
                    }
                    for (Waiting { group, item, .. }, fault) in rejected {
                        self.reject(item, &fault, dead_letters.as_ref()).await?;
                        lanes.accepted(group.as_deref());
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

/// Asks a queue for what it takes: so it is known to be there.
async fn message_max(client: &Client, url: &str) -> anyhow::Result<usize> {
    let request = client.get_queue_attributes().queue_url(url).attribute_names(QueueAttributeName::MaximumMessageSize);
    let error = match request.send().await {
        Ok(output) => {
            let size = output.attributes().and_then(|all| all.get(&QueueAttributeName::MaximumMessageSize));
            return Ok(size.and_then(|size| size.parse().ok()).unwrap_or(LIMITS.bytes));
        }
        Err(error) => error,
    };
    match error.code() {
        Some("AWS.SimpleQueueService.NonExistentQueue" | "QueueDoesNotExist") => {
            bail!("there is no queue {url}; create it, or mend `queue_url`")
        }
        Some(code) => Err(anyhow!("{code}: {}", error.message().unwrap_or_default())).with_context(|| {
            format!("the queue {url} can't be used; the user needs sqs:SendMessage and sqs:GetQueueAttributes on it")
        }),
        None => Err(anyhow!("{}", DisplayErrorContext(&error))).with_context(|| {
            format!("the queue {url} can't be reached; are the endpoint, the region and the credentials right?")
        }),
    }
}

/// Sends a request once. One that is refused as a whole for what it is is sent again message by message: the others
/// aren't to blame.
async fn send(to: To, request: Request) -> anyhow::Result<Answer> {
    let mut answer = Answer::default();
    let said = ask(&to, &request).await?;
    if !matches!(said, Said::Never(_)) || request.len() == 1 {
        answer.take(request, said);
        return Ok(answer);
    }
    for message in request {
        let alone = vec![message];
        let said = ask(&to, &alone).await?;
        answer.take(alone, said);
    }
    Ok(answer)
}

async fn ask(to: &To, request: &Request) -> anyhow::Result<Said> {
    let entries = request.iter().enumerate().map(|(index, waiting)| waiting.item.entry(index, to.fifo, to.packing));
    let entries = entries.collect::<Result<Vec<_>, _>>()?;
    let error = match to.client.send_message_batch().queue_url(&to.url).set_entries(Some(entries)).send().await {
        Ok(output) => return Ok(Said::Entries(output)),
        Err(error) => error,
    };
    let code = error.code().unwrap_or_default();
    let text = match error.message() {
        Some(message) => format!("{code}: {message}"),
        None => DisplayErrorContext(&error).to_string(),
    };
    let code = code.strip_prefix("AWS.SimpleQueueService.").unwrap_or(code);
    Ok(match code {
        "InvalidMessageContents" | "BatchRequestTooLong" => Said::Never(text),
        _ => Said::NotNow(text),
    })
}

impl Answer {
    /// Takes in what was said to a request.
    fn take(&mut self, request: Request, said: Said) {
        let output = match said {
            Said::Entries(output) => output,
            Said::NotNow(text) => {
                self.refused.extend(request);
                self.reason = Some(text);
                return;
            }
            Said::Never(text) => {
                self.rejected.extend(request.into_iter().map(|message| (message, text.clone())));
                return;
            }
        };
        let index = |id: &str| id.parse().ok().filter(|index: &usize| *index < LIMITS.messages);
        let mut accepted = [false; LIMITS.messages];
        output.successful().iter().filter_map(|entry| index(entry.id())).for_each(|index| accepted[index] = true);
        let mut faults: [Option<String>; LIMITS.messages] = Default::default();
        for failure in output.failed() {
            let text = format!("{}: {}", failure.code(), failure.message().unwrap_or_default());
            match index(failure.id()) {
                Some(index) if failure.sender_fault() => faults[index] = Some(text),
                _ => self.reason = Some(text),
            }
        }
        for (index, message) in request.into_iter().enumerate() {
            match faults[index].take() {
                _ if accepted[index] => self.accepted.push(message),
                Some(fault) => self.rejected.push((message, fault)),
                // What the answer doesn't name wasn't accepted.
                None => {
                    self.reason.get_or_insert_with(|| "the answer doesn't say what became of them".to_owned());
                    self.refused.push(message);
                }
            }
        }
    }
}

fn refusal(queue_url: &str, message: &Message, text: &str) -> anyhow::Error {
    let start: String = message.body.chars().take(200).collect();
    anyhow!(
        "the queue {queue_url} refuses a message for what it is ({text}); group `{}`, {} bytes, beginning {start}; \
         drop or change such rows by a transform, or set `on_error = \"dead-letter\"` for this sink",
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
        dead_letters: Option<DeadLetters>,
    ) -> BoxFuture<'static, anyhow::Result<()>> {
        let name = self.name.clone();
        async move { self.deliver(deliveries, settled, dead_letters).await.with_context(|| format!("sink.{name}")) }
            .boxed()
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_sqs::types::{BatchResultErrorEntry, SendMessageBatchResultEntry};
    use rowmill_core::position::{BinlogPosition, Resume};
    use rowmill_core::progress::{Cost, Watermark};

    use super::*;

    /// Four entries: one accepted, one refused for what it is, one refused for now, one that isn't named.
    #[test]
    fn each_entry_has_its_own_fate() {
        let ticket =
            Watermark::default().open(Resume::at("server", BinlogPosition::new("binlog.1", 4)), Cost::default());
        let receipts = ticket.split(4);
        let message = |body: &str| Message {
            body: body.into(),
            group: String::new(),
            deduplication_id: String::new(),
            attributes: Vec::new(),
            table: None,
        };
        let request = ["accepted", "rejected", "refused", "forgotten"].into_iter().zip(receipts);
        let request: Request = request
            .map(|(body, receipt)| Waiting { group: None, bytes: 1, item: Outgoing::new(message(body), receipt) })
            .collect();
        let success = SendMessageBatchResultEntry::builder().id("0").message_id("m").md5_of_message_body("d").build();
        let failure = |id: &str, code: &str, sender: bool| {
            BatchResultErrorEntry::builder().id(id).code(code).sender_fault(sender).build().expect("whole")
        };
        let output = SendMessageBatchOutput::builder()
            .successful(success.expect("whole"))
            .failed(failure("1", "InvalidMessageContents", true))
            .failed(failure("2", "InternalError", false))
            .failed(failure("99", "Nonsense", true))
            .build()
            .expect("whole");
        let mut answer = Answer::default();
        answer.take(request, Said::Entries(output));
        let bodies = |request: &[Waiting<Outgoing>]| -> Vec<String> {
            request.iter().map(|waiting| waiting.item.message().body.to_string()).collect()
        };
        assert_eq!(bodies(&answer.accepted), ["accepted"]);
        assert_eq!(bodies(&answer.refused), ["refused", "forgotten"]);
        assert!(answer.reason.is_some());
        let [(rejected, why)] = &answer.rejected[..] else { panic!("{} rejected", answer.rejected.len()) };
        assert_eq!((&*rejected.item.message().body, why.as_str()), ("rejected", "InvalidMessageContents: "));
    }

    #[test]
    fn the_region_is_in_the_url() {
        assert_eq!(region_of("https://sqs.eu-west-1.amazonaws.com/1/q.fifo"), Some("eu-west-1"));
        assert_eq!(region_of("https://sqs.cn-north-1.amazonaws.com.cn/1/q"), Some("cn-north-1"));
        assert_eq!(region_of("http://127.0.0.1:4566/1/q"), None);
    }
}
