use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rowmill_core::position::ResumePoint;
use rowmill_pipeline::ack::{Cost, tracker};
use rowmill_pipeline::ordered_queue::RequestLimits;
use serde_json::{Value, json};

use super::super::outlet::{Outlet, Overflow, outlet};
use super::super::{Delivery, Message, Rejection, Sink};
use super::*;
use crate::ack::tests::resume;
use crate::ack::{AckObserver, AckOpener, BatchOrigin, StopError};
use crate::config::OnError;
use tokio::time::Instant;

type Answering = dyn Fn(&[String]) -> Result<Vec<Outcome>, Refusal> + Send + Sync;

/// A service that answers requests with a closure's outcomes of their bodies, after a delay.
struct Scripted {
    answer: Box<Answering>,
    takes: Duration,
    is_ordered: bool,
    message_max: usize,
    /// The accepted bodies.
    arrived: Arc<Mutex<Vec<String>>>,
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scripted")
    }
}

impl Transport for Scripted {
    fn destination(&self) -> String {
        "a scripted service".to_owned()
    }

    fn limits(&self) -> Limits {
        Limits { request: RequestLimits { messages: 10, bytes: 1 << 20 }, message_bytes: self.message_max }
    }

    fn is_ordered(&self) -> bool {
        self.is_ordered
    }

    fn escaping(&self) -> Escaping {
        Escaping::Plain
    }

    fn bytes(&self, message: &QueuedMessage) -> usize {
        message.body_len()
    }

    fn rejection(&self, _: &QueuedMessage) -> Option<Rejection> {
        None
    }

    fn send<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Vec<Outcome>, Refusal>> {
        async move {
            tokio::time::sleep(self.takes).await;
            let bodies: Vec<String> =
                request.iter().map(|pending| pending.item.message().body.plain().into_owned()).collect();
            let outcomes = (self.answer)(&bodies)?;
            let accepted = bodies.into_iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_ok());
            self.arrived.lock().expect("no panic").extend(accepted.map(|(body, _)| body));
            Ok(outcomes)
        }
        .boxed()
    }
}

/// Accepts all bodies except those for which `refuse` returns a class.
fn each(bodies: &[String], refuse: impl Fn(&str) -> Option<Class>) -> Vec<Outcome> {
    bodies.iter().map(|body| refuse(body).map_or(Ok(()), |class| Err(refused(class)))).collect()
}

fn refused(class: Class) -> Refusal {
    Refusal { class, code: "Code".into(), error: format!("{class:?}") }
}

struct Rig {
    outlet: Outlet,
    acks: AckOpener,
    observer: AckObserver,
    arrived: Arc<Mutex<Vec<String>>>,
    sink: tokio::task::JoinHandle<anyhow::Result<()>>,
    next: u64,
}

impl Rig {
    fn start(
        takes: Duration,
        edit: impl FnOnce(&mut Scripted),
        answer: impl Fn(&[String]) -> Result<Vec<Outcome>, Refusal> + Send + Sync + 'static,
    ) -> Self {
        let arrived: Arc<Mutex<Vec<String>>> = Arc::default();
        let mut service = Scripted {
            answer: Box::new(answer),
            takes,
            is_ordered: false,
            message_max: 1 << 20,
            arrived: Arc::clone(&arrived),
        };
        edit(&mut service);
        let sink = RemoteSink::new("queue", service, OnError::Halt, None, None).with_jitter_seed(7);
        let (outlet, inlet) = outlet(2, Overflow::new(0));
        let (acks, _, observer) = tracker::<ResumePoint, BatchOrigin>(Cost { rows: 1 << 20, bytes: 1 << 30 });
        Self { outlet, acks, observer, arrived, sink: tokio::spawn(Box::new(sink).run(inlet, None)), next: 1 }
    }

    async fn send(&mut self, messages: Vec<Message>) {
        let origin = BatchOrigin::after(Arc::new(resume(self.next)));
        self.next += 1;
        let ack = self.acks.open(origin, resume(self.next), Cost { rows: 1, bytes: 1 }).await.expect("room");
        self.outlet.send(Delivery { messages, ack }).await.expect("it runs");
    }

    fn arrived(&self) -> Vec<String> {
        self.arrived.lock().expect("no panic").clone()
    }

    async fn end(self) -> (Vec<String>, Option<String>) {
        drop(self.outlet);
        self.sink.await.expect("no panic").expect("no error");
        let stop = self.observer.stop().map(|stop| stop.cause.downcast::<StopError>().expect("ours").to_string());
        (self.arrived.lock().expect("no panic").clone(), stop)
    }
}

fn message(body: &str, group: &str) -> Message {
    Message { body: body.into(), group: group.to_owned(), ..Message::default() }
}

fn messages(bodies: &[&str]) -> Vec<Message> {
    bodies.iter().map(|body| message(body, "")).collect()
}

#[tokio::test(start_paused = true)]
async fn throttling_ends_nothing() {
    let start = Instant::now();
    let mut rig = Rig::start(
        Duration::from_millis(5),
        |_| {},
        move |bodies| {
            let is_throttled = start.elapsed() < Duration::from_secs(20);
            Ok(each(bodies, |_| is_throttled.then_some(Class::Throttled)))
        },
    );
    rig.send(messages(&["a", "b"])).await;
    assert_eq!(rig.end().await, (vec!["a".to_owned(), "b".to_owned()], None));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cant_be_read_is_split_until_the_bad_message_stands_alone() {
    for class in [Class::Definite, Class::Unknown] {
        let answer = move |bodies: &[String]| match bodies.iter().any(|body| body == "bad") {
            true => Err(refused(class)),
            false => Ok(each(bodies, |_| None)),
        };
        let mut rig = Rig::start(Duration::from_millis(5), |_| {}, answer);
        rig.send(messages(&["a", "b", "bad", "c"])).await;
        // Accepted messages show that the service works.
        let mut more = 0;
        while rig.observer.stopped().now_or_never().is_none() && more < 200 {
            rig.send(messages(&["more"])).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            more += 1;
        }
        assert!(more < 100, "{class:?}: the pipeline did not stop");
        let (arrived, stop) = rig.end().await;
        let stop = stop.expect("it stops there");
        assert!(stop.contains(&format!("{class:?}")) && stop.contains("beginning bad"), "{stop}");
        let before: Vec<&String> = arrived.iter().filter(|body| *body != "more").collect();
        assert!(before.starts_with(&[&"a".to_owned(), &"b".to_owned()]), "{before:?}");
    }
}

/// With an unknown code for every message, the cause is the service, and no message.
#[tokio::test(start_paused = true)]
async fn a_service_that_refuses_everything_is_waited_for() {
    let start = Instant::now();
    let back = Duration::from_secs(300);
    let mut rig = Rig::start(
        Duration::from_millis(5),
        |_| {},
        move |bodies| match start.elapsed() < back {
            true => Err(refused(Class::Unknown)),
            false => Ok(each(bodies, |_| None)),
        },
    );
    rig.send(messages(&["a", "b"])).await;
    let (arrived, stop) = rig.end().await;
    assert_eq!((arrived.len(), stop), (2, None));
    assert!(start.elapsed() < back + Duration::from_secs(2), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_hot_group_takes_no_room_from_others() {
    let mut rig =
        Rig::start(Duration::from_millis(10), |service| service.is_ordered = true, |bodies| Ok(each(bodies, |_| None)));
    let start = Instant::now();
    // Far more messages of the hot group than could leave at once.
    for batch in 0..100 {
        let rows = (0..200).map(|row| match row % 5 {
            0 => message("hot", "hot"),
            _ => message("cold", &format!("{batch}-{row}")),
        });
        rig.send(rows.collect()).await;
    }
    let cold = |rig: &Rig| rig.arrived().iter().filter(|body| *body == "cold").count();
    while cold(&rig) < 16_000 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    let hot = rig.arrived().len() - 16_000;
    assert!(hot < 300, "{hot} of the hot group");
    let (arrived, _) = rig.end().await;
    assert_eq!(arrived.len(), 20_000);
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_fits() {
    // The service takes less than its limit says.
    let takes: VecDeque<usize> = [5_000, 1_500].into();
    for (max, most) in takes.into_iter().zip([20_000, 20_000]) {
        let answer = move |bodies: &[String]| Ok(each(bodies, |body| (body.len() > max).then_some(Class::Definite)));
        let mut rig = Rig::start(Duration::from_millis(5), |service| service.message_max = most, answer);
        let body = json!({ "error": "why", "body": "x".repeat(1 << 20) }).to_string();
        rig.send(vec![Message { is_dead_letter: true, ..message(&body, "") }]).await;
        let (arrived, stop) = rig.end().await;
        assert_eq!(stop, None);
        let letter: Value = serde_json::from_str(&arrived[0]).expect("JSON");
        assert_eq!((&letter["error"], &letter["shortened"]["body"]), (&"why".into(), &(1 << 20).into()));
    }
}
