//! Flow control of requests: how many may be in flight, and when the next one may leave, also in an outage.
//!
//! In: requests sent, and their outcomes. Out: whether another request may leave now. No I/O.
//!
//! The limit of requests in flight follows the latency. While the limit is reached and the latency does not rise, the
//! limit grows: a distant service needs many concurrent requests for a high throughput. A latency that rises with the
//! requests in flight means that they wait in a queue somewhere, where more requests would wait, too. When the service
//! throttles, the limit is halved, and then grows by one for each round of answers, as in TCP
//! (<https://www.rfc-editor.org/rfc/rfc5681>).
//!
//! In an outage single requests probe the service, at least one a second, whichever earlier requests are still unanswered:
//! so delivery resumes within two seconds of the service's return, however long the outage was.

use std::time::Duration;

use tokio::time::Instant;

use crate::retry::Delays;

/// The limit at the start, and the least while the service does not throttle.
const REQUESTS_FIRST: f64 = 32.0;
const REQUESTS_MAX: f64 = 512.0;
/// The most bytes in flight, each of which is in memory twice: enough for 500 MB/s at a latency of 16 ms.
const BYTES_MAX: usize = 8 << 20;
/// Requests whose latency is more than this many times the shortest one wait for each other.
const SLOWER_MAX: f64 = 2.0;
/// How long the shortest latency counts, at least; at most twice as long.
const SHORTEST_AGE_MAX: Duration = Duration::from_secs(5);

/// Without any answer for this long, connections may be dead; requests time out only later.
const SILENCE: Duration = Duration::from_secs(3);
/// The longest time between two probes.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// The most unanswered probes.
const PROBES_MAX: usize = 4;
const RETRY_DELAY_MIN: Duration = Duration::from_millis(50);
/// Jitter makes pauses up to twice as long.
const RETRY_DELAY_MAX: Duration = Duration::from_millis(500);

/// Returns the pauses between attempts.
pub(super) fn delays(jitter_seed: Option<u64>) -> Delays {
    Delays::new(RETRY_DELAY_MIN, RETRY_DELAY_MAX, jitter_seed)
}

/// The state of the flow control; see the module.
#[derive(Debug)]
pub(super) struct Flow {
    concurrency: Concurrency,
    in_flight: usize,
    bytes: usize,
    last_answer: Instant,
    outage: Option<Outage>,
    /// The number of outages so far.
    outages: u64,
    /// How often all requests in flight were given up, as none was answered. `in_flight` and `bytes` count the requests that
    /// were sent since the last time.
    generation: u64,
    /// The end of the pause after messages were refused; nothing leaves before it.
    paused_until: Option<Instant>,
    jitter_seed: Option<u64>,
}

#[derive(Debug)]
struct Outage {
    delays: Delays,
    next_probe: Instant,
    /// The number of the outage.
    number: u64,
    /// The unanswered probes of this outage.
    probes: usize,
}

/// A request in flight.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    at: Instant,
    bytes: usize,
    /// The number of the outage that the request probes.
    probes: Option<u64>,
    generation: u64,
}

/// The state of the service, as an answer shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServiceState {
    /// The service accepted or rejected each message.
    Accepted,
    /// The service accepted or rejected some messages; the others are to be retried.
    Partial,
    /// The service throttles.
    Throttled,
    /// The service accepted nothing, or there is no answer.
    Refused,
}

impl Flow {
    /// Creates a flow whose jitter follows from the seed, if there is one.
    pub fn new(jitter_seed: Option<u64>) -> Self {
        Self {
            concurrency: Concurrency::new(),
            in_flight: 0,
            bytes: 0,
            last_answer: Instant::now(),
            outage: None,
            outages: 0,
            generation: 0,
            paused_until: None,
            jitter_seed,
        }
    }

    /// Returns the number of unanswered requests.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether another request may leave now.
    pub fn is_open(&self, now: Instant) -> bool {
        match &self.outage {
            Some(outage) => outage.probes < PROBES_MAX && now >= outage.next_probe,
            None => {
                self.in_flight < self.concurrency.limit()
                    && self.bytes < BYTES_MAX
                    && self.paused_until.is_none_or(|until| now >= until)
            }
        }
    }

    /// Whether there is an outage, whose end single requests probe.
    pub fn is_probing(&self) -> bool {
        self.outage.is_some()
    }

    /// Returns when to check the flow again if no answer comes. `has_requests` says whether there are messages to send, and
    /// `listens` whether silence is a sign of dead connections, which it is not where requests include slow uploads to S3.
    pub fn wakes_at(&self, has_requests: bool, listens: bool) -> Option<Instant> {
        match &self.outage {
            Some(outage) => (has_requests && outage.probes < PROBES_MAX).then_some(outage.next_probe),
            None => {
                let silence = (listens && self.in_flight > 0).then(|| self.last_answer + SILENCE);
                [silence, self.paused_until].into_iter().flatten().min()
            }
        }
    }

    /// Ends a pause that is over, and returns whether the service is silent: no request was answered for so long that the
    /// connections may be dead. Then an outage begins, and the unanswered requests no longer count. Without `listens` the service
    /// is never silent.
    pub fn is_silent(&mut self, now: Instant, listens: bool) -> bool {
        self.paused_until.take_if(|until| now >= *until);
        let is_over = self.in_flight > 0 && now >= self.last_answer + SILENCE;
        let is_silent = listens && self.outage.is_none() && is_over;
        if is_silent {
            self.begin_outage(now);
            self.generation += 1;
            (self.in_flight, self.bytes) = (0, 0);
        }
        is_silent
    }

    /// Records that a request of `bytes` is sent.
    pub fn sent(&mut self, bytes: usize, now: Instant) -> Sent {
        if self.in_flight == 0 {
            self.last_answer = now; // no answer was due
        }
        self.in_flight += 1;
        self.bytes += bytes;
        let probes = self.outage.as_mut().map(|outage| {
            outage.probes += 1;
            outage.next_probe = now + PROBE_INTERVAL;
            outage.number
        });
        Sent { at: now, bytes, probes, generation: self.generation }
    }

    /// Records an answer. Returns the pause that begins, if one does.
    pub fn answered(&mut self, sent: Sent, outcome: ServiceState, now: Instant) -> Option<Duration> {
        let Sent { at, bytes, probes, generation } = sent;
        let was_full = self.in_flight >= self.concurrency.limit();
        if generation == self.generation {
            self.in_flight -= 1;
            self.bytes -= bytes;
        }
        self.last_answer = now;
        // A probe of an earlier outage may be answered in a later one.
        let is_probe = self.outage.as_ref().is_some_and(|outage| probes == Some(outage.number));
        if let Some(outage) = &mut self.outage {
            outage.probes -= usize::from(is_probe);
        }
        match outcome {
            ServiceState::Accepted => {
                self.outage = None;
                self.concurrency.answered(now - at, was_full, now);
                None
            }
            ServiceState::Partial => {
                self.outage = None;
                self.pause(now)
            }
            ServiceState::Throttled => {
                self.outage = None;
                let pause = self.pause(now);
                if pause.is_some() {
                    // Once for all requests that were in flight together.
                    self.concurrency.throttled();
                }
                pause
            }
            ServiceState::Refused => match &mut self.outage {
                None => Some(self.begin_outage(now)),
                Some(outage) if is_probe => {
                    let delay = outage.delays.next_delay();
                    outage.next_probe = outage.next_probe.min(now + delay);
                    Some(delay)
                }
                Some(_) => None,
            },
        }
    }

    fn pause(&mut self, now: Instant) -> Option<Duration> {
        if self.paused_until.is_some_and(|until| now < until) {
            return None;
        }
        let delay = delays(self.jitter_seed).next_delay();
        self.paused_until = Some(now + delay);
        Some(delay)
    }

    fn begin_outage(&mut self, now: Instant) -> Duration {
        let mut pauses = delays(self.jitter_seed);
        let delay = pauses.next_delay();
        self.outages += 1;
        self.outage = Some(Outage { delays: pauses, next_probe: now + delay, number: self.outages, probes: 0 });
        self.paused_until = None;
        delay
    }
}

/// The limit of requests in flight.
#[derive(Debug)]
struct Concurrency {
    limit: f64,
    /// Below the threshold the limit grows by one for each answer; from it on, by one for each round of answers.
    threshold: f64,
    /// The shortest latency of the current period and of the one before.
    shortest: [Option<Duration>; 2],
    shortest_since: Instant,
}

impl Concurrency {
    fn new() -> Self {
        Self { limit: REQUESTS_FIRST, threshold: REQUESTS_MAX, shortest: [None; 2], shortest_since: Instant::now() }
    }

    fn limit(&self) -> usize {
        self.limit as usize
    }

    /// Records a latency; `was_full` if the limit was reached.
    fn answered(&mut self, took: Duration, was_full: bool, now: Instant) {
        if now - self.shortest_since > SHORTEST_AGE_MAX {
            self.shortest = [None, self.shortest[0]];
            self.shortest_since = now;
        }
        let newest = &mut self.shortest[0];
        *newest = Some(newest.map_or(took, |shortest| shortest.min(took)));
        let shortest = self.shortest.iter().flatten().min().copied().unwrap_or(took);
        let is_waiting = took.as_secs_f64() > shortest.as_secs_f64() * SLOWER_MAX;
        if !was_full {
            return;
        }
        if is_waiting && self.limit > REQUESTS_FIRST {
            self.limit = (self.limit - 1.0 / self.limit).max(REQUESTS_FIRST);
        } else if !is_waiting || self.limit < REQUESTS_FIRST {
            let step = if self.limit < self.threshold { 1.0 } else { 1.0 / self.limit };
            self.limit = (self.limit + step).min(REQUESTS_MAX);
        }
    }

    fn throttled(&mut self) {
        self.limit = (self.limit / 2.0).max(1.0);
        self.threshold = self.limit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Runs a service at this distance that answers up to `rate` requests a second, for six seconds. Returns the requests
    /// accepted in the last second, and the most in flight.
    fn run(
        flow: &mut Flow,
        start: Instant,
        distance: Duration,
        rate: f64,
        throttles_above: Option<usize>,
    ) -> (f64, usize) {
        let mut now = start;
        let (mut busy_until, mut answered, mut most) = (now, 0, 0);
        let mut waiting: std::collections::VecDeque<(Instant, Sent, ServiceState)> = Default::default();
        let end = now + Duration::from_secs(6);
        while now < end {
            flow.is_silent(now, true);
            while flow.is_open(now) {
                let outcome = match throttles_above {
                    Some(limit) if flow.in_flight() >= limit => ServiceState::Throttled,
                    _ => ServiceState::Accepted,
                };
                busy_until = busy_until.max(now) + Duration::from_secs_f64(1.0 / rate);
                let at = busy_until + distance;
                waiting.push_back((at, flow.sent(10_000, now), outcome));
                most = most.max(flow.in_flight());
            }
            let next = waiting.front().map(|(at, ..)| *at);
            now = [next, flow.wakes_at(true, true)].into_iter().flatten().min().expect("a next event");
            let Some((_, sent, outcome)) = waiting.pop_front_if(|(at, ..)| *at <= now) else { continue };
            flow.answered(sent, outcome, now);
            if outcome == ServiceState::Accepted && now + Duration::from_secs(1) >= end {
                answered += 1;
            }
        }
        (f64::from(answered), most)
    }

    #[test]
    fn a_service_that_is_far_away_gets_more_requests_at_a_time() {
        let mut flow = Flow::new(Some(1));
        let start = Instant::now();
        let (at_once, few) = run(&mut flow, start, MS / 10, 20_000.0, None);
        let (near, some) = run(&mut Flow::new(Some(1)), start, MS * 10, 20_000.0, None);
        let (far, many) = run(&mut Flow::new(Some(1)), start, MS * 50, 20_000.0, None);
        assert!(few <= 40, "{few}");
        assert!(at_once > 19_000.0 && near > 10_000.0 && far > 5_000.0, "{at_once} {near} {far}");
        assert!(some < 850 && many <= REQUESTS_MAX as usize, "{some} {many}");
    }

    /// A latency that rises with the requests in flight lowers the limit. The shortest latency is learned anew.
    #[test]
    fn a_service_that_gets_slower_gets_fewer_requests_at_a_time() {
        let mut concurrency = Concurrency::new();
        let now = Instant::now();
        let answer = |concurrency: &mut Concurrency, took, count: usize, now| {
            (0..count).for_each(|_| concurrency.answered(took, true, now));
            concurrency.limit()
        };
        assert_eq!(answer(&mut concurrency, MS * 50, 1_000, now), REQUESTS_MAX as usize);
        assert_eq!(
            answer(&mut concurrency, MS * 100, 1_000, now),
            REQUESTS_MAX as usize,
            "twice the latency is no sign"
        );
        // Each round of answers lowers the limit by one; 100 full rounds are more than 100 rounds of a falling limit.
        let rounds = 100;
        let fewer = answer(&mut concurrency, MS * 101, rounds * REQUESTS_MAX as usize, now);
        let lowered = REQUESTS_MAX as usize - fewer;
        assert!((rounds..rounds + rounds / 3).contains(&lowered), "{fewer}");
        assert_eq!(
            answer(&mut concurrency, MS * 101, 1_000_000, now),
            REQUESTS_FIRST as usize,
            "never fewer than at first"
        );
        // The service is more distant now.
        for seconds in [6, 12] {
            answer(&mut concurrency, MS * 101, 1, now + Duration::from_secs(seconds));
        }
        assert_eq!(answer(&mut concurrency, MS * 101, 1_000, now), REQUESTS_MAX as usize);
    }

    #[test]
    fn bytes_bound_it_too() {
        let mut flow = Flow::new(Some(1));
        let now = Instant::now();
        let mut sent = 0;
        while flow.is_open(now) {
            flow.sent(1 << 20, now);
            sent += 1;
        }
        assert_eq!(sent, 8);
    }

    #[test]
    fn a_service_that_throttles_gets_as_many_as_it_takes() {
        let mut flow = Flow::new(Some(1));
        let (rate, most) = run(&mut flow, Instant::now(), MS * 10, 1e9, Some(100));
        assert!(most <= 250, "{most}");
        // 100 concurrent requests are 10,000 a second.
        assert!(rate > 3_000.0, "{rate}");
    }

    #[test]
    fn after_an_outage_it_resumes_within_two_seconds() {
        for seed in 0..50 {
            let mut flow = Flow::new(Some(seed));
            let mut now = Instant::now();
            let first = flow.sent(1, now);
            flow.answered(first, ServiceState::Refused, now + MS);
            let back = now + Duration::from_secs(600);
            // Refused at once, each time.
            loop {
                now = flow.wakes_at(true, true).expect("a next attempt");
                assert!(flow.is_open(now) && flow.is_probing());
                let probe = flow.sent(1, now);
                assert!(!flow.is_open(now), "one at a time");
                if now >= back {
                    flow.answered(probe, ServiceState::Accepted, now + MS);
                    break;
                }
                flow.answered(probe, ServiceState::Refused, now + MS);
            }
            assert!(now - back < Duration::from_secs(2), "{:?}", now - back);
            assert!(!flow.is_probing() && flow.is_open(now + MS));
        }
    }

    #[test]
    fn a_probe_may_be_answered_in_a_later_outage() {
        let mut flow = Flow::new(Some(1));
        let mut now = Instant::now();
        let first = flow.sent(1, now);
        flow.answered(first, ServiceState::Refused, now);
        now += Duration::from_secs(2);
        let (hanging, other) = (flow.sent(1, now), flow.sent(1, now));
        flow.answered(other, ServiceState::Accepted, now);
        // Another outage; then the answer to a probe of the first one.
        let next = flow.sent(1, now);
        flow.answered(next, ServiceState::Refused, now);
        assert!(flow.is_probing());
        flow.answered(hanging, ServiceState::Refused, now);
        let at = flow.wakes_at(true, true).expect("a next probe");
        assert!(flow.is_open(at) && flow.in_flight() == 0);
    }

    #[test]
    fn silence_is_found_out_by_probes() {
        let mut flow = Flow::new(Some(1));
        let start = Instant::now();
        let hanging: Vec<Sent> = (0..32).map(|_| flow.sent(1 << 20, start)).collect();
        assert!(!flow.is_open(start));
        assert_eq!(flow.wakes_at(false, true), Some(start + SILENCE));
        assert!(!flow.is_silent(start + SILENCE - MS, true));
        assert!(flow.is_silent(start + SILENCE, true));
        assert_eq!(flow.wakes_at(false, true), None, "nothing could be sent");
        // Each of the probes hangs as well.
        let mut probes = Vec::new();
        while let Some(at) = flow.wakes_at(true, true) {
            assert!(at <= start + SILENCE + Duration::from_secs(4), "one a second at least");
            probes.push(flow.sent(1, at));
        }
        assert_eq!(probes.len(), PROBES_MAX);
        let answered = start + Duration::from_secs(9);
        flow.answered(probes[2], ServiceState::Accepted, answered);
        assert!(!flow.is_probing());
        // The hanging requests hold up no others, and their answers change nothing.
        assert!(flow.is_open(answered) && flow.in_flight() == PROBES_MAX - 1);
        for sent in hanging {
            flow.answered(sent, ServiceState::Accepted, answered);
        }
        assert!(flow.is_open(answered) && flow.in_flight() == PROBES_MAX - 1);
    }
}
