//! What operators do with a checkpoint: look at it, and put it elsewhere.

use std::io::Write;

use anyhow::Context;

use super::{Checkpoint, parse, store};
use crate::config::{Config, Start};
use crate::mysql::Server;
use crate::source::probe;

/// Writes the checkpoint's text to `out`, whoever holds it.
///
/// # Errors
/// If there is none, or it isn't whole.
pub async fn show(config: &Config, out: &mut impl Write) -> anyhow::Result<()> {
    let mut store = store(&config.checkpoint);
    let name = format!("checkpoint {}", store.describe());
    let text = store.read().await.with_context(|| name.clone())?;
    let text = text.with_context(|| format!("{name}: there is none yet"))?;
    parse(&mut *store, Some(text.clone())).await.context(name)?;
    writeln!(out, "{}", text.trim_end())?;
    Ok(())
}

/// Puts the checkpoint to a place of the server's binlog, and says so to `out`: what is behind it is read at the next
/// start, what is before it isn't.
///
/// # Errors
/// If the server hasn't got the place, or another process holds the checkpoint. It stays as it is.
pub async fn set(config: &Config, start: &Start, out: &mut impl Write) -> anyhow::Result<()> {
    let (mut server, source) = Server::connect_first(&config.source).await?;
    if let Some(problem) = server.problems().into_iter().next() {
        return Err(problem.into());
    }
    let place = server.locate(start, None).await?;
    probe(&source, server.flavor, &place).await?;
    // What is damaged is mended by this.
    let mut checkpoint = Checkpoint::hold(&config.checkpoint).await?;
    checkpoint.write(&place.resume).await?;
    writeln!(out, "checkpoint {}: {place}", checkpoint.describe())?;
    Ok(())
}
