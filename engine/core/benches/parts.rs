//! The cost of a row in each part of the pipeline, on one thread: nanoseconds where time is measured, instructions
//! where they are counted.
//!
//! ```text
//! cargo bench -p rowmill-core --bench parts                    measures all parts, each by the best of many rounds
//! cargo bench -p rowmill-core --bench parts -- decode          measures one part
//! cargo bench -p rowmill-core --bench parts -- decode 100      runs one part 100 times, for instructions to be counted
//! ```
//!
//! `engine/core/benches/instructions` counts the instructions. `orders.binlog` is the start of the benchmark's
//! workload, made by `cargo run --release -p rowmill-tests --bin record`.

use std::hint::black_box;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use rowmill_core::batch::{Batch, Builder, RowIndex, Table};
use rowmill_core::binlog::{Decoder, Next, RowBatch, RowProjection, TableProjection, TableSelector};
use rowmill_core::envelope::{Connector, Envelope, Escaping, Format, KeyChange, SourceName};
use rowmill_core::position::{BinlogPosition, ResumePoint};
use rowmill_core::route::{GroupTemplate, deduplication_id};
use rowmill_pipeline::ack::{Ack, Cost, tracker};
use rowmill_pipeline::ordered_queue::{OrderedQueue, Pending, RequestLimits};

/// A function that does one round of a part's work.
type Round = fn(&Rows);

const PARTS: [(&str, Round); 9] = [
    ("decode", |rows| drop(decode(rows.binlog, Tables::All))),
    ("decode-one-column", |rows| drop(decode(rows.binlog, Tables::One))),
    ("pack", |rows| rows.for_each_batch(|_, batch| pack(batch))),
    ("envelope", |rows| envelope(rows, Format::Debezium, Escaping::Plain)),
    ("envelope-escaped", |rows| envelope(rows, Format::Debezium, Escaping::Escaped)),
    ("envelope-row", |rows| envelope(rows, Format::Row, Escaping::Plain)),
    ("route", |rows| rows.for_each_batch(route)),
    ("ordered-queue", |rows| rows.for_each_batch(|_, batch| ordered_queue(batch.len()))),
    ("acks", |rows| acks(rows)),
];

/// The least duration of a measurement, and the number of measurements of a part, of which the best counts.
const MEASURED: Duration = Duration::from_millis(20);
const MEASUREMENTS: usize = 50;

fn main() {
    // `cargo bench` passes `--bench` to each benchmark.
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let (wanted, rounds) = (arguments.next(), arguments.next());
    let rows = Rows::read();
    for (name, round) in PARTS.iter().filter(|(name, _)| wanted.as_deref().is_none_or(|wanted| wanted == *name)) {
        match &rounds {
            Some(rounds) => {
                let rounds: usize = rounds.parse().expect("a number of rounds");
                (0..rounds).for_each(|_| round(&rows));
                println!("rows {}", rows.count);
            }
            None => println!("{name:20} {:6.0} ns a row", time(*round, &rows)),
        }
    }
}

fn time(round: Round, rows: &Rows) -> f64 {
    let once = || {
        let (started, mut rounds) = (Instant::now(), 0);
        while started.elapsed() < MEASURED {
            round(rows);
            rounds += 1;
        }
        started.elapsed().as_nanos() as f64 / (rounds * rows.count) as f64
    };
    (0..MEASUREMENTS).map(|_| once()).fold(f64::INFINITY, f64::min)
}

/// The input of all parts.
struct Rows {
    binlog: &'static [u8],
    batches: Vec<RowBatch>,
    tables: Vec<Arc<Table>>,
    count: usize,
}

impl Rows {
    fn read() -> Self {
        let binlog = include_bytes!("orders.binlog");
        let batches = decode(binlog, Tables::All);
        let tables = batches.iter().flat_map(|batch| batch.new_tables.clone()).collect();
        let count = batches.iter().map(|batch| batch.rows).sum();
        Self { binlog, batches, tables, count }
    }

    fn for_each_batch(&self, mut work: impl FnMut(&[Arc<Table>], &Batch<'_>)) {
        for batch in &self.batches {
            work(&self.tables, &batch.packed.view());
        }
    }
}

/// The columns that are decoded, for all tables.
enum Tables {
    All,
    /// The primary key in after images only.
    One,
}

impl TableSelector for Tables {
    fn table(&self, _schema: &str, _table: &str) -> bool {
        true
    }

    fn schema(&self, _schema: &str) -> bool {
        true
    }

    fn projection(&self, table: &Table) -> Option<TableProjection> {
        Some(match self {
            Self::All => TableProjection::default(),
            Self::One => {
                let projection =
                    RowProjection { before: Default::default(), after: table.key.iter().copied().collect() };
                TableProjection {
                    inserts: Some(projection.clone()),
                    updates: Some(projection.clone()),
                    deletes: Some(projection),
                }
            }
        })
    }
}

fn decode(binlog: &[u8], tables: Tables) -> Vec<RowBatch> {
    let resume = ResumePoint::at("bench", BinlogPosition::new("binlog.000001", BinlogPosition::FIRST_EVENT));
    let mut decoder = Decoder::new(resume, Box::new(tables));
    let mut batches = Vec::new();
    let mut rest = &binlog[BinlogPosition::FIRST_EVENT as usize..];
    while let Some(size) = rest.get(9..13).and_then(|size| size.first_chunk()) {
        let (event, after) = rest.split_at(u32::from_le_bytes(*size) as usize);
        rest = after;
        while let Next::Batch(batch) = decoder.next(event).expect("a valid binlog") {
            batches.push(*batch);
        }
    }
    batches.extend(decoder.flush());
    batches
}

/// Copies the rows of a batch into another batch, as a chain of transforms does with rows that pass.
fn pack(batch: &Batch<'_>) {
    let mut builder = Builder::with_capacity(batch.bytes_of(batch.len()));
    (0..batch.len() as u32).for_each(|row| builder.copy_row(batch, RowIndex(row)));
    black_box(builder.finish());
}

fn envelope(rows: &Rows, format: Format, escaping: Escaping) {
    let source = SourceName { version: "0.1.0".to_owned(), name: "shop".to_owned(), connector: Connector::MySql };
    let mut envelope = Envelope::new(format, escaping, source);
    rows.for_each_batch(|tables, batch| {
        let mut bodies = Vec::with_capacity(batch.len() * 1024);
        for row in batch.rows() {
            envelope.write(&tables[row.table().0 as usize], batch, &row, KeyChange::None, 1_800_000_000, &mut bodies);
        }
        black_box(bodies);
    });
}

/// Makes a FIFO queue's message groups and deduplication IDs.
fn route(tables: &[Arc<Table>], batch: &Batch<'_>) {
    let group = GroupTemplate::default();
    for row in batch.rows() {
        black_box(group.group(&tables[row.table().0 as usize], &row));
        black_box(deduplication_id("7c2b5a0e-0000-0000-0000-000000000001", batch, &row, 0));
    }
}

/// Passes messages in sixteen groups through requests of ten.
fn ordered_queue(messages: usize) {
    let mut ordered_queue = OrderedQueue::new(RequestLimits { messages: 10, bytes: 1 << 20 });
    for item in 0..messages {
        ordered_queue.push(Pending { group: Some((item % 16).to_string()), bytes: 900, item });
    }
    while !ordered_queue.is_empty() {
        ordered_queue.next_request().iter().for_each(|message| ordered_queue.accept(message.group.as_deref()));
    }
}

/// Acknowledges each batch by one part for each row.
fn acks(rows: &Rows) {
    let (mut acks, mut feed, _observer) = tracker(Cost { rows: u32::MAX, bytes: u32::MAX });
    for batch in &rows.batches {
        let opening = pin!(acks.open((), batch.resume.clone(), Cost { rows: batch.rows as u32, bytes: 0 }));
        let Poll::Ready(Ok(ack)) = opening.poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("there is room")
        };
        let parts: Vec<_> = (0..batch.rows as u32).map(|row| ack.part(row)).collect();
        ack.acknowledge();
        parts.into_iter().for_each(Ack::acknowledge);
        if let Some(advance) = black_box(feed.take()) {
            feed.release(&advance);
        }
    }
}
