//! The bounded queue between the workers and a sink.
//!
//! A slow sink makes the workers wait (backpressure), and reading is then as fast as the sink. A sink that takes nothing at
//! all is stalled. Messages for other sinks need not wait for a stalled one: its deliveries go to an overflow, which all
//! sinks share, until the overflow is used up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::message::Delivery;

/// A sink that takes nothing for this long, while deliveries wait for it, is stalled.
const STALLED_AFTER: Duration = Duration::from_millis(250);

/// Bytes of messages that may wait for stalled sinks, shared by all of them.
#[derive(Debug, Clone)]
pub struct Overflow {
    bytes: Arc<Semaphore>,
    max: u32,
}

impl Overflow {
    /// Creates an overflow for `max` bytes of messages.
    pub fn new(max: u32) -> Self {
        Self { bytes: Arc::new(Semaphore::new(max as usize)), max }
    }
}

/// The sending half of the queue: the outlet of the workers.
#[derive(Debug, Clone)]
pub struct Outlet {
    deliveries: mpsc::UnboundedSender<QueuedDelivery>,
    /// Places for deliveries that wait while the sink is not stalled.
    places: Arc<Semaphore>,
    is_stalled: Arc<AtomicBool>,
    overflow: Overflow,
}

/// The receiving half of the queue: the inlet of the sink.
#[derive(Debug)]
pub struct Inlet {
    /// The delivery that was put back.
    first: Option<Delivery>,
    deliveries: mpsc::UnboundedReceiver<QueuedDelivery>,
    places: Arc<Semaphore>,
    is_stalled: Arc<AtomicBool>,
}

/// The error of sending to a sink that has ended.
#[derive(Debug)]
pub struct Closed;

#[derive(Debug)]
struct QueuedDelivery {
    delivery: Delivery,
    /// The delivery's place, or its bytes of the overflow.
    _room: OwnedSemaphorePermit,
}

/// Creates a queue with this many `places`, and with `overflow` for deliveries while its sink is stalled. Returns its two
/// halves.
pub fn outlet(places: usize, overflow: Overflow) -> (Outlet, Inlet) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let places = Arc::new(Semaphore::new(places));
    let is_stalled = Arc::new(AtomicBool::new(false));
    let outlet =
        Outlet { deliveries: sender, places: Arc::clone(&places), is_stalled: Arc::clone(&is_stalled), overflow };
    (outlet, Inlet { first: None, deliveries: receiver, places, is_stalled })
}

impl Outlet {
    /// Waits for room, and sends a delivery. Calls must not overlap where their order matters.
    ///
    /// # Errors
    /// If the sink has ended.
    pub async fn send(&self, delivery: Delivery) -> Result<(), Closed> {
        let room = self.room(&delivery).await?;
        self.deliveries.send(QueuedDelivery { delivery, _room: room }).map_err(|_| Closed)
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

    /// Waits for the next delivery, and blocks the thread. `None` if there are no more.
    pub fn blocking_recv(&mut self) -> Option<Delivery> {
        let waiting = self.deliveries.blocking_recv()?;
        Some(self.taken(waiting))
    }

    /// Returns the next delivery if it is there already.
    pub fn try_recv(&mut self) -> Option<Delivery> {
        let waiting = self.deliveries.try_recv().ok()?;
        Some(self.taken(waiting))
    }

    /// Puts a delivery back: it is the next one again.
    pub fn put_back(&mut self, delivery: Delivery) {
        debug_assert!(self.first.is_none(), "one at a time");
        self.first = Some(delivery);
    }

    fn taken(&self, waiting: QueuedDelivery) -> Delivery {
        self.is_stalled.store(false, Ordering::Relaxed);
        waiting.delivery
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        // Senders that wait for room would wait for ever.
        self.places.close();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::super::message::Message;
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
        assert!(outlet.send(delivery("bb")).now_or_never().is_none(), "not stalled yet");
        outlet.send(delivery("bb")).await.expect("stalled now");
        assert!(outlet.send(delivery("ccc")).now_or_never().is_some(), "at once");
        assert!(outlet.send(delivery("d")).now_or_never().is_none(), "the overflow is used up");
        assert_eq!(inlet.recv().await.map(body).as_deref(), Some("a"));
        assert!(outlet.send(delivery("d")).now_or_never().is_some());
        assert!(outlet.send(delivery("e")).now_or_never().is_none(), "not stalled any more: the sender waits");
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
