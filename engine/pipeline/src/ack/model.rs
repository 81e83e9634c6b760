//! Checks by loom, in every order of threads.

use loom::future::block_on;
use loom::thread;

use super::*;

const COST: Cost = Cost { rows: 1, bytes: 1 };

fn limits(rows: u32) -> Cost {
    Cost { rows, bytes: 100 }
}

/// Does the checkpoint writer's work, and returns the last checkpoint.
fn last_checkpoint(mut feed: CheckpointFeed<u64>) -> Option<u64> {
    let mut last = None;
    while block_on(feed.wait_for_advance()) {
        let Some(advance) = feed.take() else { continue };
        assert!(Some(advance.progress) > last, "the watermark never goes back");
        last = Some(advance.progress);
        feed.release(&advance);
    }
    last
}

/// No wake-up is lost: the reader gets its room, and the writer the last advance.
#[test]
fn all_is_acknowledged_within_the_budget() {
    loom::model(|| {
        let (mut acks, feed, _observer) = tracker(limits(1));
        let reader = thread::spawn(move || {
            for progress in 1..=2 {
                block_on(acks.open((), progress, COST)).expect("nothing stops it").acknowledge();
            }
        });
        assert_eq!(last_checkpoint(feed), Some(2));
        reader.join().expect("no panic");
    });
}

/// An acknowledgement wakes the writer even if more batches may follow and there is room for them.
#[test]
fn what_is_acknowledged_wakes_the_writer() {
    loom::model(|| {
        let (mut acks, mut feed, _observer) = tracker(limits(10));
        let ack = block_on(acks.open((), 1, COST)).expect("going");
        let other = thread::spawn(move || ack.acknowledge());
        assert!(block_on(feed.wait_for_advance()));
        assert_eq!(feed.take().map(|advance| advance.progress), Some(1));
        other.join().expect("no panic");
        drop(acks);
    });
}

/// Two parts are resolved at once: the last one, whichever that is, resolves the batch.
#[test]
fn parts_are_resolved_at_once() {
    for is_lost in [false, true] {
        loom::model(move || {
            let (mut acks, feed, observer) = tracker(limits(10));
            let ack = block_on(acks.open((), 1, COST)).expect("going");
            drop(acks);
            let part = ack.part(0);
            let other = thread::spawn(move || if is_lost { drop(part) } else { part.acknowledge() });
            ack.acknowledge();
            assert_eq!(last_checkpoint(feed), (!is_lost).then_some(1));
            assert_eq!(observer.lost_batches(), u64::from(is_lost));
            other.join().expect("no panic");
        });
    }
}

/// A batch stops while the one after it is acknowledged: the watermark stays directly before the row.
#[test]
fn one_stops_while_another_is_acknowledged() {
    loom::model(|| {
        let (mut acks, feed, observer) = tracker(limits(10));
        let first = block_on(acks.open((), 10, COST)).expect("going");
        let second = block_on(acks.open((), 20, COST)).expect("going");
        let stopping = thread::spawn(move || first.part(3).stop_then_acknowledge(first, 3));
        let other = thread::spawn(move || second.acknowledge());
        block_on(observer.stopped());
        assert!(block_on(acks.open((), 30, COST)).is_err());
        drop(acks);
        assert_eq!(last_checkpoint(feed), Some(3));
        stopping.join().expect("no panic");
        other.join().expect("no panic");
    });
}

/// Two batches stop at once: the first batch's stop counts, in whatever order the calls come, and nothing from there
/// on is delivered.
#[test]
fn two_stop_at_once() {
    loom::model(|| {
        let (mut acks, feed, observer) = tracker(limits(10));
        let first = block_on(acks.open((), 10, COST)).expect("going");
        let second = block_on(acks.open((), 20, COST)).expect("going");
        drop(acks);
        let later = second.part(7);
        let stopping = thread::spawn(move || second.stop(11, "second".into()));
        let other = thread::spawn(move || first.stop(3, "first".into()));
        if later.is_stopped() {
            drop(later);
        } else {
            later.acknowledge();
        }
        stopping.join().expect("no panic");
        other.join().expect("no panic");
        assert_eq!(last_checkpoint(feed), Some(3));
        let stop = observer.stop().expect("a stop");
        assert_eq!((stop.cause.to_string(), stop.is_reached), ("first".to_owned(), true));
    });
}

/// A part that is dropped wakes the reader, which waits for room that will never come.
#[test]
fn a_loss_wakes_who_waits_for_room() {
    loom::model(|| {
        let (mut acks, feed, _observer) = tracker(limits(1));
        let ack = block_on(acks.open((), 1, COST)).expect("going");
        let losing = thread::spawn(move || drop(ack));
        assert!(block_on(acks.open((), 2, COST)).is_err());
        drop(acks);
        assert_eq!(last_checkpoint(feed), None);
        losing.join().expect("no panic");
    });
}

impl Ack<u64> {
    fn stop_then_acknowledge(self, rest: Self, before: u64) {
        self.stop(before, "a row".into());
        rest.acknowledge();
    }
}
