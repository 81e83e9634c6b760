//! The queue between the workers and a sink, which bounds what waits there.
//!
//! Deliveries wait for a sink that is slow, and so does who hands them on: reading is then as fast as the sink. A sink that
//! takes nothing at all is stalled, and the rows of others needn't wait for it: what comes for it is kept, within an
//! overflow that all sinks share, until that is used up as well.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::Delivery;

/// A sink that takes nothing for so long, while something waits for it, is stalled.
const STALLED_AFTER: Duration = Duration::from_millis(250);

/// Bytes of messages that may wait for stalled sinks, shared by all of them.
#[derive(Debug, Clone)]
pub struct Overflow {
    bytes: Arc<Semaphore>,
    max: u32,
}

impl Overflow {
    /// Room for so many bytes of messages.
    pub fn new(max: u32) -> Self {
        Self { bytes: Arc::new(Semaphore::new(max as usize)), max }
    }
}

/// Where deliveries go in.
#[derive(Debug, Clone)]
pub struct Outlet {
    deliveries: mpsc::UnboundedSender<Waiting>,
    /// Deliveries that may wait while the sink takes some.
    places: Arc<Semaphore>,
    is_stalled: Arc<AtomicBool>,
    overflow: Overflow,
}

/// Where a sink takes them out.
#[derive(Debug)]
pub struct Inlet {
    /// What was put back.
    first: Option<Delivery>,
    deliveries: mpsc::UnboundedReceiver<Waiting>,
    places: Arc<Semaphore>,
    is_stalled: Arc<AtomicBool>,
}

/// Deliveries are no longer taken.
#[derive(Debug)]
pub struct Closed;

#[derive(Debug)]
struct Waiting {
    delivery: Delivery,
    /// Its place, or its bytes of the overflow.
    _room: OwnedSemaphorePermit,
}

/// A queue for so many deliveries, and for what fits into `overflow` while its sink is stalled.
pub fn outlet(places: usize, overflow: Overflow) -> (Outlet, Inlet) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let places = Arc::new(Semaphore::new(places));
    let is_stalled = Arc::new(AtomicBool::new(false));
    let outlet =
        Outlet { deliveries: sender, places: Arc::clone(&places), is_stalled: Arc::clone(&is_stalled), overflow };
    (outlet, Inlet { first: None, deliveries: receiver, places, is_stalled })
}

impl Outlet {
    /// Waits for room, and hands a delivery on. Calls must not overlap where their order counts.
    ///
    /// # Errors
    /// If the sink has ended.
    pub async fn send(&self, delivery: Delivery) -> Result<(), Closed> {
        let room = self.room(&delivery).await?;
        self.deliveries.send(Waiting { delivery, _room: room }).map_err(|_| Closed)
    }

    async fn room(&self, delivery: &Delivery) -> Result<OwnedSemaphorePermit, Closed> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(place);
        }
        let place = || Arc::clone(&self.places).acquire_owned();
        if !self.is_stalled.load(Ordering::Relaxed) {
            tokio::select! {
                biased;
                place = place() => return place.map_err(|_| Closed),
                () = tokio::time::sleep(STALLED_AFTER) => self.is_stalled.store(true, Ordering::Relaxed),
            }
        }
        let bytes: usize = delivery.messages.iter().map(|message| message.body.len()).sum();
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).max(1);
        tokio::select! {
            biased;
            place = place() => place.map_err(|_| Closed),
            room = Arc::clone(&self.overflow.bytes).acquire_many_owned(bytes), if bytes <= self.overflow.max => {
                room.map_err(|_| Closed)
            }
        }
    }
}

impl Inlet {
    /// Waits for the next delivery. `None` if there are no more. Cancel safe.
    pub async fn recv(&mut self) -> Option<Delivery> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        let waiting = self.deliveries.recv().await?;
        Some(self.taken(waiting))
    }

    /// The same, and blocks its thread.
    pub fn blocking_recv(&mut self) -> Option<Delivery> {
        let waiting = self.deliveries.blocking_recv()?;
        Some(self.taken(waiting))
    }

    /// The next delivery if it is there already.
    pub fn try_recv(&mut self) -> Option<Delivery> {
        let waiting = self.deliveries.try_recv().ok()?;
        Some(self.taken(waiting))
    }

    /// The next delivery is this one again.
    pub fn put_back(&mut self, delivery: Delivery) {
        debug_assert!(self.first.is_none(), "one at a time");
        self.first = Some(delivery);
    }

    fn taken(&self, waiting: Waiting) -> Delivery {
        self.is_stalled.store(false, Ordering::Relaxed);
        waiting.delivery
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        // Who waits for room would wait for ever.
        self.places.close();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::super::Message;
    use super::*;
    use crate::ack::tests::ack;

    fn delivery(body: &str) -> Delivery {
        Delivery { messages: vec![Message { body: body.into(), ..Message::default() }], ack: ack() }
    }

    fn body(delivery: Delivery) -> String {
        delivery.messages[0].body.plain().into_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_sink_has_the_overflow() {
        let (outlet, mut inlet) = outlet(1, Overflow::new(5));
        assert!(outlet.send(delivery("a")).now_or_never().is_some());
        assert!(outlet.send(delivery("bb")).now_or_never().is_none(), "it may take it yet");
        outlet.send(delivery("bb")).await.expect("it is stalled now");
        assert!(outlet.send(delivery("ccc")).now_or_never().is_some(), "at once");
        assert!(outlet.send(delivery("d")).now_or_never().is_none(), "the overflow is used up");
        assert_eq!(inlet.recv().await.map(body).as_deref(), Some("a"));
        assert!(outlet.send(delivery("d")).now_or_never().is_some());
        assert!(outlet.send(delivery("e")).now_or_never().is_none(), "it takes some: who hands on waits for it");
        let rest: Vec<String> = std::iter::from_fn(|| inlet.try_recv().map(body)).collect();
        assert_eq!(rest, ["bb", "ccc", "d"]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_hears_of_the_end() {
        let (outlet, inlet) = outlet(1, Overflow::new(0));
        outlet.send(delivery("a")).await.expect("room");
        let (sent, ()) = tokio::join!(outlet.send(delivery("b")), async {
            tokio::time::sleep(STALLED_AFTER * 2).await;
            drop(inlet);
        });
        assert!(sent.is_err());
        assert!(outlet.send(delivery("c")).await.is_err());
    }
}
