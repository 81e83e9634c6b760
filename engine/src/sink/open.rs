//! Opens sinks by their configuration.

use anyhow::Context;

use super::aws::{self, Connections};
use super::{OpenError, Sink, jsonl, null, sqs};
use crate::config::{self, SinkKind};

/// Checks that a sink could deliver, and changes nothing.
///
/// # Errors
/// As [`open`].
pub async fn check(config: &config::Sink, connections: &Connections) -> Result<(), OpenError> {
    match &config.kind {
        SinkKind::File { path } => {
            let checked = jsonl::JsonLines::check(path).with_context(|| format!("sink.{}", config.name));
            checked.map_err(OpenError::Definite)
        }
        SinkKind::Sqs(_) | SinkKind::Stdout | SinkKind::Null => open(config, connections).await.map(drop),
    }
}

/// Opens a sink. SQS sinks share `connections`.
///
/// # Errors
/// If the queue, the bucket or the file cannot be used.
pub async fn open(config: &config::Sink, connections: &Connections) -> Result<Box<dyn Sink>, OpenError> {
    let config::Sink { name, kind, .. } = config;
    let sink: Result<Box<dyn Sink>, OpenError> = match kind {
        SinkKind::Sqs(queue) => {
            let account = aws::Account::of(queue, connections.clone()).await;
            sqs::open(name, queue, account).await
        }
        SinkKind::Stdout => Ok(Box::new(jsonl::JsonLines::stdout(name))),
        SinkKind::File { path } => {
            jsonl::JsonLines::file(name, path).map(|sink| Box::new(sink) as _).map_err(OpenError::Definite)
        }
        SinkKind::Null => Ok(Box::new(null::Null::new(name))),
    };
    let context = || format!("sink.{name}");
    sink.map_err(|error| match error {
        OpenError::Definite(error) => OpenError::Definite(error.context(context())),
        OpenError::NeedsOperator(error) => OpenError::NeedsOperator(error.context(context())),
        OpenError::Transient(error) => OpenError::Transient(error.context(context())),
    })
}
