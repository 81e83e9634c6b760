//! The commands `checkpoint show` and `checkpoint set`.

use std::io::Write;

use anyhow::Context;

use super::{Checkpoint, parse, store};
use crate::config::{Config, Start};
use crate::mysql::Server;
use crate::source::binlog::{locate, probe};

/// Writes the checkpoint's text to `out`, whichever process holds the checkpoint.
///
/// # Errors
/// If there is no checkpoint, or it is damaged.
pub async fn show(config: &Config, out: &mut impl Write) -> anyhow::Result<()> {
    let mut store = store(&config.checkpoint);
    let name = format!("checkpoint {}", store.describe());
    let text = store.read().await.with_context(|| name.clone())?;
    let text = text.with_context(|| format!("{name} does not exist yet"))?;
    parse(&mut *store, Some(text.clone())).await.context(name)?;
    writeln!(out, "{}", text.trim_end())?;
    Ok(())
}

/// Sets the checkpoint to a position of the server's binlog, and reports that to `out`. The next start reads the changes after
/// the position, and none before it.
///
/// # Errors
/// If the server does not have the position, or another process holds the checkpoint, which then stays unchanged.
pub async fn set(config: &Config, start: &Start, out: &mut impl Write) -> anyhow::Result<()> {
    let (mut server, source) = Server::connect_first(&config.source).await?;
    if let Some(problem) = server.problems().into_iter().next() {
        return Err(problem.into());
    }
    let place = locate(&mut server, start, None).await?;
    probe(&source, server.flavor, &place).await?;
    // This also replaces a damaged checkpoint.
    let mut checkpoint = Checkpoint::hold(&config.checkpoint).await?;
    checkpoint.write(&place.resume).await?;
    writeln!(out, "checkpoint {}: {place}", checkpoint.describe())?;
    Ok(())
}
