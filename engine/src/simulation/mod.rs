//! A seeded simulation of the pipeline. The real intake, workers, sequencer, chain, router, SQS sinks with their retries, acks
//! and checkpoint writer run on one thread and a simulated clock, against a fake source, fake endpoints and a fake checkpoint
//! store. The same seed always yields the same schedule: its history, its faults, and the order of all events.
//!
//! ```text
//!   history ──▶ source ──▶ Stages (all real) ──▶ endpoint ──▶ World: what arrived   ─┐
//!      ▲  resume                          └────▶ store ─────▶ World: the checkpoint ─┴─▶ invariants
//!      └───────────────────────────────────────────────────────────┘
//! ```
//!
//! A schedule has several runs, each of which starts from the checkpoint of the run before it: rows stop the pipeline, stages
//! panic, endpoints fail, the process is killed, or a signal stops it. The last run has no faults. The invariants, which are
//! checked at every event ([`world::World`]):
//!
//! - the checkpoint is never past a row that is not delivered;
//! - after a restart from the checkpoint, every row arrives;
//! - each group's messages arrive in order;
//! - messages arrive at most the in-flight budget ahead of the checkpoint, which bounds duplicates;
//! - a row that stops the pipeline leaves the checkpoint directly before it;
//! - no run hangs, and a run that a signal stops ends within the shutdown timeout.

mod history;
mod run;
mod world;

use std::cell::{Cell, RefCell};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::ack::Ack;
use run::schedule;

thread_local! {
    /// The source of all randomness in the schedule that runs on this thread.
    static RANDOM: RefCell<Option<StdRng>> = const { RefCell::new(None) };
    static MUTATION: Cell<Option<Mutation>> = const { Cell::new(None) };
    static HAS_WORKER_FAILED: Cell<bool> = const { Cell::new(false) };
    static FORGOTTEN: RefCell<Vec<Ack>> = const { RefCell::new(Vec::new()) };
}

/// A fault that is injected into the pipeline, to show that the simulation finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// A batch enters the watermark only once it is handed over: a batch that stops the pipeline never does, and the next batch
    /// passes before the pipeline stops.
    HandOverDecides,
    /// Messages that earlier transforms made of rows after the stop are sent.
    StopKeepsMessages,
    /// A message is acknowledged when a sink receives it, and not when it is durable.
    EarlyAck,
}

/// Returns whether a fault is injected into the pipeline on this thread.
pub(crate) fn is_mutated(mutation: Mutation) -> bool {
    MUTATION.get() == Some(mutation)
}

/// Removes a batch from the watermark: its ack is acknowledged once a later batch is handed over. The batch's worker fails.
pub(crate) fn forget(ack: Ack) {
    HAS_WORKER_FAILED.set(true);
    FORGOTTEN.with_borrow_mut(|forgotten| forgotten.push(ack));
}

fn has_worker_failed() -> bool {
    HAS_WORKER_FAILED.take()
}

pub(crate) fn acknowledge_forgotten() {
    FORGOTTEN.take().into_iter().for_each(Ack::acknowledge);
}

/// Returns a random number below `end`.
fn below(end: u64) -> u64 {
    RANDOM.with_borrow_mut(|random| random.as_mut().map_or(0, |random| random.random_range(0..end.max(1))))
}

/// Returns true once in `n` times, at random.
fn one_in(n: u64) -> bool {
    below(n) == 0
}

/// Waits for a random time, often for none.
pub(crate) async fn delay() {
    let is_running = RANDOM.with_borrow(Option::is_some);
    match below(4) {
        _ if !is_running => {}
        0 => tokio::task::yield_now().await,
        1 => tokio::time::sleep(Duration::from_millis(below(20))).await,
        _ => {}
    }
}

/// Runs the schedule of a seed.
///
/// # Errors
/// The first invariant that the schedule violates.
fn simulate(seed: u64, mutation: Option<Mutation>) -> Result<world::Summary, String> {
    RANDOM.set(Some(StdRng::seed_from_u64(seed)));
    MUTATION.set(mutation);
    let result = schedule();
    MUTATION.set(None);
    drop(FORGOTTEN.take());
    RANDOM.set(None);
    result
}

/// Returns the first seed below `seeds` whose schedule violates an invariant, and the violation. One schedule runs per core.
fn first_violation(seeds: u64, mutation: Option<Mutation>) -> Option<(u64, String)> {
    use std::sync::atomic::{AtomicU64, Ordering};
    let (next, found) = (AtomicU64::new(0), std::sync::Mutex::new(None::<(u64, String)>));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let is_found = found.lock().expect("no panic").is_some();
                    if seed >= seeds || is_found {
                        return;
                    }
                    if let Err(violation) = simulate(seed, mutation) {
                        let mut found = found.lock().expect("no panic");
                        if found.as_ref().is_none_or(|(known, _)| seed < *known) {
                            *found = Some((seed, violation));
                        }
                    }
                }
            });
        }
    });
    found.into_inner().expect("no panic")
}

/// Hides the output of simulated panics.
fn silence_simulated_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if panic.payload_as_str() != Some("simulated") {
                print(panic);
            }
        }));
    });
}

/// Returns the number of schedules: 10,000, or `ROWMILL_TEST_SCHEDULES`. `ROWMILL_TEST_SEED` repeats a single schedule.
fn schedules() -> u64 {
    std::env::var("ROWMILL_TEST_SCHEDULES").ok().and_then(|count| count.parse().ok()).unwrap_or(10_000)
}

#[test]
fn no_schedule_violates_an_invariant() {
    silence_simulated_panics();
    if let Some(seed) = std::env::var("ROWMILL_TEST_SEED").ok().and_then(|seed| seed.parse().ok()) {
        println!("seed {seed}: {:?}", simulate(seed, None).expect("no violation"));
        return;
    }
    let violation = first_violation(schedules(), None);
    assert!(violation.is_none(), "ROWMILL_TEST_SEED: {violation:?}");
}

#[test]
fn a_seed_repeats_its_schedule() {
    silence_simulated_panics();
    let mut kinds = world::Summary::default();
    for seed in 0..100 {
        let first = simulate(seed, None).expect("no violation");
        assert_eq!(simulate(seed, None).expect("no violation"), first, "seed {seed}");
        kinds.add(&first);
    }
    println!("{kinds:?}");
    assert!(kinds.has_all(), "some faults never happen: {kinds:?}");
}

#[test]
fn faults_in_the_pipeline_are_found() {
    silence_simulated_panics();
    for mutation in [Mutation::HandOverDecides, Mutation::StopKeepsMessages, Mutation::EarlyAck] {
        let (seed, violation) = first_violation(10_000, Some(mutation)).expect("it is found");
        println!("{mutation:?}: seed {seed}: {violation}");
        let (lost, sent) = ("which did not arrive", "the pipeline stops before it");
        // Kept messages also shift the places of rows in the batch's ack, and so the checkpoint.
        let misplaced = "leaves the checkpoint before row";
        let expected: &[&str] = match mutation {
            Mutation::HandOverDecides => &[lost, sent],
            Mutation::StopKeepsMessages => &[sent, misplaced],
            Mutation::EarlyAck => &[lost],
        };
        let is_expected = expected.iter().any(|expected| violation.contains(expected));
        assert!(is_expected, "{mutation:?}: seed {seed}: {violation}");
    }
}
