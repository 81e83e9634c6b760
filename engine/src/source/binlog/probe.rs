//! Short looks at a binlog, beside the stream: whether it can be read, and where a transaction ends.

use std::time::Duration;

use anyhow::Context;
use rowmill_core::binlog::{EndFinder, TransactionEnd};
use rowmill_core::position::BinlogPosition;

use super::start_point::{StartPoint, is_within_reach};
use super::stream::{open_finite_stream, open_stream, with_other_server_id};
use crate::config;
use crate::mysql::protocol::StreamError;
use crate::mysql::{Flavor, Server, with_fix};
use crate::status::Status;

/// Time-out for finding the end of a transaction.
const TRANSACTION_END_WAIT: Duration = Duration::from_secs(5);
/// The same where the transaction begins 4 GiB or more into its file, which is then read from its head.
const FAR_TRANSACTION_END_WAIT: Duration = Duration::from_secs(60);
/// How long [`probe`] waits for the next change.
const NEXT_CHANGE_WAIT: Duration = Duration::from_secs(1);

/// Checks that the binlog can be read from a start point, by waiting for the first event. Returns the age of the next change,
/// or `None` if no change follows within a second.
///
/// # Errors
/// If the binlog cannot be read from there.
pub async fn probe(config: &config::Source, flavor: Flavor, start: &StartPoint) -> anyhow::Result<Option<Duration>> {
    let status = Status::default();
    let read = async {
        let mut stream = open_stream(&with_other_server_id(config), flavor, start).await?;
        status.read(stream.event().await?);
        let next_change = async {
            while status.snapshot().lag.is_none() {
                status.read(stream.event().await?);
            }
            Ok(())
        };
        tokio::time::timeout(NEXT_CHANGE_WAIT, next_change).await.unwrap_or(Ok(()))
    };
    read.await
        .map_err(|error| with_fix(error, config))
        .with_context(|| format!("cannot read the binlog of {} from {start}", config.address))?;
    Ok(status.snapshot().lag)
}

/// Finds the end of the transaction that begins at a position of a server's binlog. Returns `None` if the end is not found in
/// time, or if another server answers first: there the position means something else, and `rowmill checkpoint set` would ask
/// that one.
///
/// # Errors
/// If the binlog cannot be read from there.
pub async fn transaction_end(
    config: &config::Source,
    server: &str,
    begin: &BinlogPosition,
) -> anyhow::Result<Option<TransactionEnd>> {
    let (offset, wait) = match is_within_reach(begin) {
        true => (begin.offset, TRANSACTION_END_WAIT),
        false => (BinlogPosition::FIRST_EVENT, FAR_TRANSACTION_END_WAIT),
    };
    let from = BinlogPosition { offset, ..begin.clone() };
    let find = async {
        let (first, config) = Server::connect_first(config).await?;
        if first.identity != server {
            return Ok(None);
        }
        let mut stream = open_finite_stream(&config, first.flavor, from).await?;
        first.disconnect().await;
        let mut finder = EndFinder::new(begin.clone(), offset);
        loop {
            match stream.event().await {
                Ok(event) => {
                    if let Some(end) = finder.event(event) {
                        return Ok(Some(end));
                    }
                }
                Err(StreamError::End) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    };
    tokio::time::timeout(wait, find).await.unwrap_or(Ok(None))
}
