//! Tests of the tracker's rules, one by one and against a model.

use std::task::Context;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

const LIMITS: Cost = Cost { rows: 100, bytes: 1000 };
const COST: Cost = Cost { rows: 10, bytes: 10 };

/// Returns a future's value if the future is ready.
fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

fn open(acks: &mut AckOpener<u64>, progress: u64) -> Ack<u64> {
    now(acks.open((), progress, COST)).expect("room").expect("nothing stopped it")
}

#[test]
fn a_batch_is_acknowledged_when_all_its_parts_are() {
    let (mut acks, mut feed, observer) = tracker(LIMITS);
    let ack = open(&mut acks, 1);
    let (first, second) = (ack.part(0), ack.part(7));
    ack.acknowledge();
    second.acknowledge();
    assert_eq!((now(feed.wait_for_advance()), feed.take()), (None, None));
    first.acknowledge();
    assert_eq!(now(feed.wait_for_advance()), Some(true));
    assert_eq!(feed.take(), Some(Advance { progress: 1, rows: 10, bytes: 10 }));
    drop(acks);
    assert_eq!((now(feed.wait_for_advance()), observer.lost_batches()), (Some(false), 0));
}

#[test]
fn a_dropped_part_keeps_the_watermark_before_its_batch_for_good() {
    let (mut acks, mut feed, observer) = tracker(LIMITS);
    let (first, second, third) = (open(&mut acks, 1), open(&mut acks, 2), open(&mut acks, 3));
    third.acknowledge();
    drop(second.part(5));
    assert_eq!(now(observer.stopped()), None, "parts of it are open");
    second.acknowledge();
    assert_eq!((now(observer.stopped()), observer.lost_batches()), (Some(()), 1));
    assert_eq!(now(acks.open((), 4, COST)).map(|ack| ack.err()), Some(Some(Stopped)));
    first.acknowledge();
    assert_eq!(feed.take().map(|advance| advance.progress), Some(1));
    assert_eq!(now(feed.wait_for_advance()), Some(false));
}

#[test]
fn a_stop_lets_the_watermark_get_to_its_row() {
    let (mut acks, mut feed, observer) = tracker(LIMITS);
    let (first, second, third) = (open(&mut acks, 10), open(&mut acks, 20), open(&mut acks, 30));
    let (before, after) = (second.part(3), second.part(5));
    assert!(!third.is_stopped());
    second.part(4).stop(14, "row 4".into());
    assert_eq!(now(observer.stopped()), Some(()));
    assert!(!first.is_stopped() && !before.is_stopped() && after.is_stopped() && third.is_stopped());
    // Acks of rows after the stop may be dropped; acks of earlier rows still count.
    drop((after, third));
    second.acknowledge();
    first.acknowledge();
    assert_eq!(feed.take().map(|advance| advance.progress), Some(10));
    assert_eq!(now(feed.wait_for_advance()), None, "a row before the stop isn't acknowledged");
    before.acknowledge();
    let advance = feed.take().expect("the watermark gets to the row");
    assert_eq!(advance, Advance { progress: 14, rows: 0, bytes: 0 });
    assert_eq!((now(feed.wait_for_advance()), observer.lost_batches()), (Some(false), 0));
    feed.release(&advance);
    let stop = observer.stop().expect("a stop");
    assert_eq!((stop.cause.to_string(), stop.is_reached), ("row 4".to_owned(), true));
}

#[test]
fn a_part_that_is_dropped_before_the_stop_is_a_loss() {
    let (mut acks, mut feed, observer) = tracker(LIMITS);
    let ack = open(&mut acks, 10);
    drop(ack.part(1));
    ack.part(4).stop(4, "row 4".into());
    ack.acknowledge();
    assert_eq!((now(feed.wait_for_advance()), feed.take(), observer.lost_batches()), (Some(false), None, 1));
    assert!(observer.stop().is_some_and(|stop| !stop.is_reached));
}

#[test]
fn the_first_stop_counts() {
    let (mut acks, mut feed, observer) = tracker(LIMITS);
    let (first, second) = (open(&mut acks, 10), open(&mut acks, 20));
    acks.stop("what follows".into());
    second.stop(11, "the second batch".into());
    first.part(3).stop(3, "row 3".into());
    first.part(5).stop(5, "row 5".into());
    first.acknowledge();
    assert_eq!((feed.take().map(|advance| advance.progress), now(feed.wait_for_advance())), (Some(3), Some(false)));
    let stop = observer.stop().expect("a stop");
    assert_eq!((stop.cause.to_string(), stop.is_reached), ("row 3".to_owned(), false), "it isn't durable yet");
    assert!(observer.stop().is_none(), "its cause is given once");
}

#[test]
fn a_stop_after_the_last_batch_lets_all_be_delivered() {
    let (mut acks, mut feed, observer) = tracker(LIMITS);
    let ack = open(&mut acks, 10);
    acks.stop("what follows".into());
    assert!(!ack.is_stopped() && now(observer.stopped()).is_some());
    assert!(now(acks.open((), 20, COST)).expect("no wait").is_err());
    drop(acks);
    ack.acknowledge();
    let advance = feed.take().expect("all of it");
    feed.release(&advance);
    assert_eq!((advance.progress, now(feed.wait_for_advance())), (10, Some(false)));
    assert!(observer.stop().is_some_and(|stop| stop.is_reached));
}

#[test]
fn the_budget_is_held_until_the_progress_is_durable() {
    let (mut acks, mut feed, _observer) = tracker(LIMITS);
    let batches: Vec<_> = (1..=10).map(|progress| open(&mut acks, progress)).collect();
    assert!(now(acks.open((), 11, COST)).is_none(), "the rows are used up");
    assert_eq!(now(feed.wait_until_urgent()), None, "nothing is delivered");
    batches.into_iter().for_each(Ack::acknowledge);
    assert_eq!(now(feed.wait_until_urgent()), Some(()));
    let advance = feed.take().expect("an advance");
    assert!(now(acks.open((), 11, COST)).is_none(), "it is not durable yet");
    feed.release(&advance);
    let large = now(acks.open((), 11, Cost { rows: 1, bytes: u32::MAX })).expect("all of it").expect("going");
    assert!(now(acks.open((), 12, COST)).is_none(), "a batch larger than the budget takes all of it");
    large.acknowledge();
    let advance = feed.take().expect("an advance");
    assert_eq!((advance.rows, advance.bytes), (1, 1000));
    feed.release(&advance);
    open(&mut acks, 12).acknowledge();
    assert_eq!(now(feed.wait_until_urgent()), None, "a tenth of the budget is not urgent");
    drop(acks);
    assert_eq!(now(feed.wait_until_urgent()), Some(()), "nothing follows");
}

#[derive(Debug, Clone)]
enum Step {
    Open,
    Part { of: Index, row: u32 },
    Acknowledge(Index),
    Drop(Index),
    Stop(Index),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => Just(Step::Open),
        8 => (any::<Index>(), 0..10u32).prop_map(|(of, row)| Step::Part { of, row }),
        16 => any::<Index>().prop_map(Step::Acknowledge),
        1 => any::<Index>().prop_map(Step::Drop),
        1 => any::<Index>().prop_map(Step::Stop),
    ];
    proptest::collection::vec(step, 0..200)
}

/// A batch of the model: the rows of its open parts, and the lowest row that was lost.
#[derive(Debug, Default)]
struct Modelled {
    open: Vec<u32>,
    lost: Option<u32>,
}

proptest! {
    /// The watermark follows a plain model: a list of all batches with their parts, and the end of the longest run of
    /// acknowledged ones.
    #[test]
    fn follows_what_is_acknowledged(steps in steps()) {
        let (mut acks, mut feed, observer) = tracker(Cost { rows: u32::MAX, bytes: u32::MAX });
        let mut model: Vec<Modelled> = Vec::new();
        let mut held: Vec<(usize, Ack<(usize, u32)>)> = Vec::new();
        let mut stop: Option<(usize, u32)> = None;
        let mut at = None;
        for step in steps {
            match step {
                Step::Open => {
                    if let Ok(ack) = now(acks.open((), (model.len(), u32::MAX), COST)).expect("room") {
                        held.push((model.len(), ack));
                        model.push(Modelled { open: vec![0], lost: None });
                    } else {
                        let is_lost = |batch: &Modelled| batch.lost.is_some() && batch.open.is_empty();
                        prop_assert!(stop.is_some() || model.iter().any(is_lost));
                    }
                }
                Step::Part { of, row } if !held.is_empty() => {
                    let (batch, ack) = &held[of.index(held.len())];
                    let part = (*batch, ack.part(row));
                    model[part.0].open.push(row);
                    held.push(part);
                }
                Step::Acknowledge(index) | Step::Drop(index) | Step::Stop(index) if !held.is_empty() => {
                    let (batch, ack) = held.swap_remove(index.index(held.len()));
                    let modelled = &mut model[batch];
                    let row = ack.row();
                    let open = modelled.open.iter().position(|open| *open == row).expect("open");
                    modelled.open.swap_remove(open);
                    if !matches!(step, Step::Acknowledge(_)) {
                        modelled.lost = Some(modelled.lost.map_or(row, |lost| lost.min(row)));
                    }
                    match step {
                        Step::Acknowledge(_) => ack.acknowledge(),
                        Step::Drop(_) => drop(ack),
                        _ => {
                            stop = Some(stop.map_or((batch, row), |stop| stop.min((batch, row))));
                            ack.stop((batch, row), "a row".into());
                        }
                    }
                }
                _ => {}
            }
            let run = model.iter().take_while(|batch| batch.open.is_empty() && batch.lost.is_none()).count();
            let mut expected = run.checked_sub(1).map(|last| (last, u32::MAX));
            if let (Some(batch), Some((stopped, row))) = (model.get(run), stop)
                && stopped == run && batch.open.is_empty() && batch.lost.is_some_and(|lost| lost >= row)
            {
                expected = Some((run, row));
            }
            if let Some(advance) = feed.take() {
                prop_assert!(Some(advance.progress) > at, "it never goes back");
                at = Some(advance.progress);
            }
            prop_assert_eq!(at, expected);
            for (batch, ack) in &held {
                prop_assert_eq!(ack.is_stopped(), stop.is_some_and(|stop| (*batch, ack.row()) >= stop));
            }
        }
        let _ = observer.lost_batches();
    }
}
