//! An opened queue: how it is opened, and the limits of its messages.

use std::sync::{Arc, OnceLock};

use anyhow::anyhow;
use aws_sdk_sqs::error::ProvideErrorMetadata;
use aws_sdk_sqs::types::QueueAttributeName;

use super::super::OpenError;
use super::super::aws::{Account, Transport, describe};
use super::codes::{Class, class};
use super::extended_client::Store;
use super::request::LIMITS;
use crate::config::{Aggregation, OnError, Queue};

/// An opened queue.
#[derive(Debug)]
pub(in crate::sink) struct Sqs {
    pub(super) name: String,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) queue_url: String,
    pub(super) fifo: bool,
    pub(super) on_error: OnError,
    /// The most bytes of a message: of its body and attributes.
    pub(super) message_max: usize,
    pub(super) aggregation: Option<Aggregation>,
    pub(super) store: Option<Store>,
    /// The seed of the pauses' jitter; random if `None`.
    pub(super) jitter_seed: Option<u64>,
}

impl Sqs {
    /// Opens the queue at `url`, and the bucket for its large messages.
    ///
    /// # Errors
    /// If the queue or the bucket does not exist, must not be used, or cannot be reached.
    pub async fn open(name: &str, url: &str, queue: &Queue, account: Account) -> Result<Self, OpenError> {
        let Queue { on_error, aggregation, large_messages, .. } = queue;
        account.region().map_err(OpenError::Definite)?;
        let (message_max, endpoint) =
            look_up(&account.sqs(), url).await.inspect_err(|_| account.forget_credentials())?;
        let client = account.client(endpoint).map_err(OpenError::Definite)?;
        let store = match large_messages {
            Some(large_messages) => Some(Store::open(&account, large_messages).await?),
            None => None,
        };
        let aggregation = aggregation.map(|aggregation| {
            let fits = if aggregation.compression.is_some() { uncompressed_max(message_max) } else { message_max };
            Aggregation { bytes: aggregation.bytes.min(fits), ..aggregation }
        });
        Ok(Self {
            name: name.to_owned(),
            transport: Arc::new(client),
            queue_url: url.to_owned(),
            fifo: url.ends_with(".fifo"),
            on_error: *on_error,
            message_max,
            aggregation,
            store,
            jitter_seed: None,
        })
    }

    /// Returns a queue for the simulation.
    #[cfg(test)]
    pub fn simulated(queue: super::super::fake::FakeQueue) -> Self {
        let super::super::fake::FakeQueue { name, is_fifo, on_error, aggregation, jitter_seed, answers } = queue;
        Self {
            name: name.to_owned(),
            transport: Arc::new(super::super::fake::FakeTransport(answers)),
            queue_url: format!("http://simulated/{name}"),
            fifo: is_fifo,
            on_error,
            message_max: LIMITS.bytes,
            aggregation,
            store: None,
            jitter_seed: Some(jitter_seed),
        }
    }
}

/// Asks the queue for the largest size of its messages, which shows that it exists. Returns the size in bytes, and the
/// endpoint that was asked.
async fn look_up(client: &aws_sdk_sqs::Client, url: &str) -> Result<(usize, String), OpenError> {
    let request = client.get_queue_attributes().queue_url(url).attribute_names(QueueAttributeName::MaximumMessageSize);
    let endpoint: Arc<OnceLock<String>> = Arc::default();
    let asked = Arc::clone(&endpoint);
    // The SDK derives the endpoint from the region, the environment and the user's profile.
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
        return Err(OpenError::Transient(anyhow!(
            "cannot reach queue {url}: {}; check `queue_url`, `endpoint_url` and `region`",
            describe(&error)
        )));
    };
    if code.ends_with("NonExistentQueue") || code.ends_with("QueueDoesNotExist") {
        return Err(OpenError::Definite(anyhow!(
            "cannot use queue {url}: it does not exist; create the queue, or correct `queue_url`"
        )));
    }
    let text = format!("{code}: {}", error.message().unwrap_or_default());
    let status = error.raw_response().map_or(0, |response| response.status().as_u16());
    let why = match class(code, (400..500).contains(&status)) {
        // SQS also answers this for a queue that does not exist.
        Class::Operator(_) if code.starts_with("AccessDenied") => OpenError::Definite,
        Class::Definite => OpenError::Definite,
        Class::Operator(_) | Class::Unknown => OpenError::NeedsOperator,
        Class::Throttled | Class::Transient => OpenError::Transient,
    };
    let fix = match class(code, true) {
        Class::Operator(fix) => fix,
        _ => "grant sqs:SendMessage and sqs:GetQueueAttributes on the queue",
    };
    Err(why(anyhow!("cannot use queue {url}: {text}; {fix}")))
}

/// Returns how many bytes of any text always fit into a message of `message_max` bytes, compressed and in base64.
pub(super) fn uncompressed_max(message_max: usize) -> usize {
    message_max / 10 * 7
}
