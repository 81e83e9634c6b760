//! A checkpoint for the simulation, written by a closure.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rowmill_core::position::ResumePoint;

use super::store::{CheckpointStore, Epoch};
use super::{Checkpoint, document};

/// Writes a resume point.
pub(crate) type Writes = dyn Fn(ResumePoint) -> BoxFuture<'static, anyhow::Result<()>> + Send + Sync;

struct FakeStore {
    writes: Arc<Writes>,
    interval: Duration,
}

impl fmt::Debug for FakeStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FakeStore")
    }
}

impl Checkpoint {
    /// Makes a checkpoint that a closure writes, at most once in every `interval`.
    pub(crate) fn simulated(interval: Duration, writes: Arc<Writes>) -> Self {
        Self {
            store: Box::new(FakeStore { writes, interval }),
            epoch: Epoch(1),
            saved: None,
            schemas: None,
            is_history_lost: false,
        }
    }
}

impl CheckpointStore for FakeStore {
    fn describe(&self) -> String {
        "simulated".to_owned()
    }

    fn interval(&self) -> Duration {
        self.interval
    }

    fn acquire(&mut self) -> BoxFuture<'_, anyhow::Result<(Epoch, Option<String>)>> {
        async { Ok((Epoch(1), None)) }.boxed()
    }

    fn read(&mut self) -> BoxFuture<'_, anyhow::Result<Option<String>>> {
        async { Ok(None) }.boxed()
    }

    fn probe(&mut self) -> BoxFuture<'_, anyhow::Result<()>> {
        async { Ok(()) }.boxed()
    }

    fn read_schema_history(&mut self) -> BoxFuture<'_, anyhow::Result<Option<String>>> {
        async { Ok(None) }.boxed()
    }

    fn write_schema_history(&mut self, _: Epoch, _: String) -> BoxFuture<'_, anyhow::Result<()>> {
        async { Ok(()) }.boxed()
    }

    fn write(&mut self, _: Epoch, text: String) -> BoxFuture<'_, anyhow::Result<()>> {
        (self.writes)(document::read(&text).expect("what is written can be read").resume)
    }

    fn previous(&mut self) -> BoxFuture<'_, Option<(String, String)>> {
        async { None }.boxed()
    }
}
