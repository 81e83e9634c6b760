//! A local SQS-compatible server and its queues.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_sqs::types::{DeleteMessageBatchRequestEntry, MessageSystemAttributeName, QueueAttributeName};

use crate::process::{self, Process, free_port, wait_for};
use crate::top;

/// A server on loopback that keeps its queues in memory.
#[derive(Debug)]
pub struct Sqs {
    _process: Process,
    port: u16,
    client: Client,
}

/// A queue.
#[derive(Debug, Clone)]
pub struct Queue {
    client: Client,
    /// Its URL.
    pub url: String,
}

/// A received message.
#[derive(Debug, Clone)]
pub struct Received {
    /// The body.
    pub body: String,
    /// The message group; may be empty on standard queues.
    pub group: String,
    /// The deduplication ID; empty on standard queues.
    pub deduplication_id: String,
    /// The message attributes.
    pub attributes: BTreeMap<String, String>,
}

impl Sqs {
    /// Starts a server that writes its log to `directory`.
    ///
    /// # Errors
    /// If the server does not start.
    pub async fn start(directory: &Path) -> anyhow::Result<Self> {
        Self::start_by(directory, "sqs/bin/fauxqs", |program, port| program.arg(port.to_string())).await
    }

    /// Starts an independent implementation (moto), which is slow.
    ///
    /// # Errors
    /// If the server does not start.
    pub async fn start_another(directory: &Path) -> anyhow::Result<Self> {
        Self::start_by(directory, "moto/bin/moto_server", |program, port| {
            program.args(["-H", "127.0.0.1", "-p", &port.to_string()])
        })
        .await
    }

    async fn start_by(
        directory: &Path,
        program: &str,
        listening: impl Fn(&mut Command, u16) -> &mut Command,
    ) -> anyhow::Result<Self> {
        let program = top().join("target/tools").join(program);
        if !program.exists() {
            bail!("there is no {}; run tests/run, which installs it", program.display());
        }
        let port = free_port();
        let log = directory.join("sqs.log");
        let mut process = Process::start(listening(&mut process::command(&program), port), &log)?;
        // No server verifies them, but moto finds the service by the signature.
        let credentials =
            Credentials::builder().access_key_id("test").secret_access_key("test").provider_name("tests").build();
        let config = aws_sdk_sqs::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::from_static("us-east-1"))
            .endpoint_url(format!("http://127.0.0.1:{port}"))
            .credentials_provider(credentials)
            .build();
        let client = Client::from_conf(config);
        wait_for("the SQS-compatible server answers", Duration::from_secs(30), || {
            let ended = process.ended();
            let asking = client.list_queues().send();
            let log = log.clone();
            async move {
                if let Some(status) = ended? {
                    bail!("the SQS-compatible server ended ({status}); see {}", log.display());
                }
                Ok(asking.await.ok())
            }
        })
        .await?;
        Ok(Self { _process: process, port, client })
    }

    /// Its endpoint.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Creates a queue; a FIFO queue if its name says so.
    ///
    /// A message that is not deleted within 30 seconds is received again.
    ///
    /// # Errors
    /// If the server rejects the request.
    pub async fn create(&self, name: &str) -> anyhow::Result<Queue> {
        self.create_for(name, 1 << 20).await
    }

    /// Creates a queue with a maximum message size, in bytes.
    ///
    /// # Errors
    /// If the server rejects the request.
    pub async fn create_for(&self, name: &str, bytes: usize) -> anyhow::Result<Queue> {
        let mut request = self.client.create_queue().queue_name(name);
        request = request.attributes(QueueAttributeName::MaximumMessageSize, bytes.to_string());
        if name.ends_with(".fifo") {
            request = request.attributes(QueueAttributeName::FifoQueue, "true");
        }
        let output = request.send().await.with_context(|| format!("queue {name}"))?;
        let url = output.queue_url().context("a queue has a URL")?.to_owned();
        Ok(Queue { client: self.client.clone(), url })
    }
}

impl Queue {
    /// Waits up to `wait` for a first message, and returns and deletes all messages that are available.
    ///
    /// # Errors
    /// If the server rejects the request.
    pub async fn receive(&self, wait: Duration) -> anyhow::Result<Vec<Received>> {
        let output = self
            .client
            .receive_message()
            .queue_url(&self.url)
            .max_number_of_messages(10)
            .wait_time_seconds(wait.as_secs() as i32)
            .message_system_attribute_names(MessageSystemAttributeName::All)
            .message_attribute_names("All")
            .send()
            .await?;
        let mut received = Vec::new();
        let mut entries = Vec::new();
        for (index, message) in output.messages().iter().enumerate() {
            let attribute = |name| {
                let attributes = message.attributes();
                attributes.and_then(|attributes| attributes.get(&name)).cloned().unwrap_or_default()
            };
            let said = message.message_attributes().into_iter().flatten();
            let said = said.map(|(name, value)| (name.clone(), value.string_value().unwrap_or_default().to_owned()));
            received.push(Received {
                attributes: said.collect(),
                body: message.body().unwrap_or_default().to_owned(),
                group: attribute(MessageSystemAttributeName::MessageGroupId),
                deduplication_id: attribute(MessageSystemAttributeName::MessageDeduplicationId),
            });
            let entry = DeleteMessageBatchRequestEntry::builder().id(index.to_string());
            entries.push(entry.receipt_handle(message.receipt_handle().unwrap_or_default()).build()?);
        }
        if !entries.is_empty() {
            let deleted =
                self.client.delete_message_batch().queue_url(&self.url).set_entries(Some(entries)).send().await?;
            if let Some(failed) = deleted.failed().first() {
                bail!("a message can't be deleted: {failed:?}");
            }
        }
        Ok(received)
    }

    /// Receives at least `count` messages, and then until none comes for a second.
    ///
    /// # Errors
    /// If fewer messages come within `deadline`.
    pub async fn receive_all(&self, count: usize, deadline: Duration) -> anyhow::Result<Vec<Received>> {
        let started = std::time::Instant::now();
        let mut all = Vec::new();
        loop {
            let some = self.receive(Duration::from_secs(1)).await?;
            if some.is_empty() && all.len() >= count {
                return Ok(all);
            }
            all.extend(some);
            if started.elapsed() > deadline {
                bail!("{} of {count} messages within {deadline:?}", all.len());
            }
        }
    }
}
