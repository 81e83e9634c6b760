//! How a queue is opened, at the start or at its table's first message.

use std::sync::{Arc, OnceLock};

use anyhow::anyhow;
use aws_sdk_sqs::error::ProvideErrorMetadata;
use aws_sdk_sqs::types::QueueAttributeName;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::super::aws::{Account, Store, describe};
use super::super::remote::{Class, Opener, RemoteSink, SinkPerTable, capabilities};
use super::super::{OpenError, Sink};
use super::codes::class;
use super::transport::{ESCAPING, LIMITS, SERVICE, SqsQueue};
use crate::config::Queue;

/// The end of a FIFO queue's name.
const FIFO: &str = ".fifo";

/// Opens the queue of a sink, or prepares a sink with a queue for each table.
///
/// # Errors
/// If the queue or the bucket does not exist, must not be used, or cannot be reached.
pub(in crate::sink) async fn open(name: &str, queue: &Queue, account: Account) -> Result<Box<dyn Sink>, OpenError> {
    let opener = QueueOpener { name: name.to_owned(), queue: queue.clone(), account };
    match queue.url.fixed() {
        Some(url) => Ok(Box::new(opener.open_queue(url).await?)),
        None => Ok(Box::new(SinkPerTable {
            name: name.to_owned(),
            on_error: queue.on_error,
            capabilities: capabilities(queue.url.ends_with(FIFO), ESCAPING, queue.aggregation),
            opener: Box::new(opener),
        })),
    }
}

/// Opens the queues of a sink.
#[derive(Debug)]
struct QueueOpener {
    name: String,
    queue: Queue,
    account: Account,
}

impl Opener for QueueOpener {
    fn open<'a>(&'a self, url: &'a str) -> BoxFuture<'a, Result<RemoteSink, OpenError>> {
        async move {
            // A table's name may have characters that a queue's name must not have.
            check_name(url).map_err(OpenError::Definite)?;
            self.open_queue(url).await
        }
        .boxed()
    }
}

impl QueueOpener {
    /// Opens the queue at `url`, and the bucket for its large messages.
    async fn open_queue(&self, url: &str) -> Result<RemoteSink, OpenError> {
        let Self { name, queue, account } = self;
        account.region().map_err(OpenError::Definite)?;
        let (message_max, endpoint) =
            look_up(&account.sqs(), url).await.inspect_err(|_| account.forget_credentials())?;
        let client = account.client(SERVICE, endpoint).map_err(OpenError::Definite)?;
        let store = match &queue.large_messages {
            Some(large_messages) => Some(Store::open(account, large_messages).await?),
            None => None,
        };
        let api = Arc::new(client);
        let transport = SqsQueue { api, url: url.to_owned(), is_fifo: url.ends_with(FIFO), message_max };
        Ok(RemoteSink::new(name, transport, queue.on_error, queue.aggregation, store))
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

/// Checks that SQS allows a queue of this name.
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_CreateQueue.html>
fn check_name(url: &str) -> anyhow::Result<()> {
    const CHARS_MAX: usize = 80;
    let name = url.rsplit('/').next().unwrap_or_default();
    let word = name.strip_suffix(FIFO).unwrap_or(name);
    let is_known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    anyhow::ensure!(
        !word.is_empty() && name.len() <= CHARS_MAX && word.chars().all(is_known),
        "cannot use queue {url}: its name is not 1 to {CHARS_MAX} letters, digits, hyphens and underscores; add a [[route]] \
         for the table to a sink whose queue_url names a queue"
    );
    Ok(())
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
            let error = check_name(url).expect_err(url).to_string();
            assert!(error.contains(url) && error.contains("[[route]]"), "{error}");
        }
    }
}
