//! A demonstration of the main job: a shop writes orders and payments to MySQL alone, and Rowmill makes messages of them for
//! the order management and for all other consumers. It prints both sides as they happen, and at the end compares the rows
//! in MySQL with the messages that the queues delivered.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use mysql_async::prelude::Queryable;
use rowmill_tests::{Engine, EngineConfig, MySql, Queue, Received, Shop, Sqs, scratch, top, wait_for};
use serde_json::Value;

/// The transactions of a complete run.
const TRANSACTIONS: usize = 400;
/// The time in which a person reads a line.
const PAUSE: Duration = Duration::from_millis(350);
const DRAIN: Duration = Duration::from_secs(60);

#[derive(Parser)]
#[command(
    name = "examples/checkout/run",
    about = "Shows Rowmill's main job: a real MySQL, two WebAssembly transforms, an SQS-compatible server",
    after_help = "Examples:\n  examples/checkout/run          runs until Ctrl-C, slowly enough to read\n  examples/checkout/run --once   runs to its end, and exits 0 only if nothing was lost"
)]
struct Cli {
    /// Run the scenario to its end, compare both sides, and print delivered=N lost=N duplicates=N
    #[arg(long)]
    once: bool,
    /// The scenario's seed
    #[arg(long, default_value_t = 7)]
    seed: u64,
}

/// The messages that a queue delivered.
#[derive(Default)]
struct Delivered {
    messages: Vec<Value>,
    ids: HashSet<String>,
    duplicates: usize,
}

impl Delivered {
    fn take(&mut self, received: Vec<Received>, queue: &str) -> anyhow::Result<()> {
        for message in received {
            if !self.ids.insert(message.deduplication_id) {
                self.duplicates += 1;
                continue;
            }
            let body: Value = serde_json::from_str(&message.body).context("bodies are JSON")?;
            if self.messages.len() < 20 || self.messages.len().is_multiple_of(25) {
                println!("{:>19} │ {}", queue, in_words(&body));
            }
            self.messages.push(body);
        }
        Ok(())
    }

    /// Applies these changes to an empty table, and returns its rows by ID.
    fn replay(&self, table: &str) -> BTreeMap<i64, &Value> {
        let mut rows = BTreeMap::new();
        for message in self.messages.iter().filter(|message| message["source"]["table"] == table) {
            match message["after"]["id"].as_i64() {
                Some(id) => rows.insert(id, &message["after"]),
                None => rows.remove(&message["before"]["id"].as_i64().unwrap_or_default()),
            };
        }
        rows
    }
}

fn in_words(body: &Value) -> String {
    let operation = match body["op"].as_str() {
        Some("c") => "new",
        Some("u") => "changed",
        _ => "gone",
    };
    let table = body["source"]["table"].as_str().unwrap_or_default().trim_end_matches('s');
    let row = if body["after"].is_null() { &body["before"] } else { &body["after"] };
    let mut text = format!("{table} {} {operation}", row["id"]);
    for column in ["status", "total", "amount", "email"] {
        if let Some(value) = row[column].as_str() {
            let value: String = value.chars().take(24).collect();
            text.push_str(&format!(", {column} {value}"));
        }
    }
    text
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let once = cli.once || std::env::var("CI").is_ok_and(|ci| ci == "true");
    let directory = scratch("checkout");
    println!("starting MySQL and an SQS-compatible server (logs: target/run/checkout)");
    let mysql = MySql::start(&directory, &[]).await?;
    let sqs = Sqs::start(&directory).await?;
    let (management, events) = (sqs.create("order-management.fifo").await?, sqs.create("events.fifo").await?);
    Shop::create(&mysql).await?;

    let config =
        EngineConfig::new(&directory, &mysql, "tables = [\"shop.*\"]", &configuration(&sqs, &management, &events));
    println!("starting rowmill run --config target/run/checkout/rowmill.toml");
    let engine = Engine::start_and_wait(&config).await?;
    println!("{:>19} │ what happens", "where");

    let stop = Arc::new(AtomicBool::new(false));
    let receiving_management = tokio::spawn(collect(management, "→ order-management", Arc::clone(&stop)));
    let receiving_events = tokio::spawn(collect(events, "→ events", Arc::clone(&stop)));
    let mut shop = Shop::open(&mysql, cli.seed).await?;
    let selling = async {
        for number in 0.. {
            if once && number == TRANSACTIONS {
                break;
            }
            let committed = shop.step().await?;
            if !once || number < 20 || number % 25 == 0 {
                println!("{:>19} │ {}", "MySQL", committed.story);
            }
            if !once {
                tokio::time::sleep(PAUSE).await;
            }
        }
        anyhow::Ok(())
    };
    tokio::select! {
        result = selling => result?,
        _ = tokio::signal::ctrl_c() => println!("stopping: delivering what is in flight"),
    }
    // The engine may have received the same Ctrl-C; then it drains and ends by itself.
    if once {
        wait_for("everything is delivered", DRAIN, || async {
            Ok(config.has_reached(&mysql.binlog_end().await?)?.then_some(()))
        })
        .await?;
    }
    engine.stop().await?;
    stop.store(true, Ordering::Relaxed);
    let (management, events) = (receiving_management.await??, receiving_events.await??);

    let delivered = management.messages.len() + events.messages.len();
    let duplicates = management.duplicates + events.duplicates;
    let lost = lost(&mysql, &management, &events).await?;
    for row in &lost {
        println!("lost: {row}");
    }
    println!("delivered={delivered} lost={} duplicates={duplicates}", lost.len());
    if !lost.is_empty() {
        std::process::exit(1);
    }
    Ok(())
}

fn configuration(sqs: &Sqs, management: &Queue, events: &Queue) -> String {
    let sink = |name: &str, queue: &Queue| {
        format!(
            "[sink.{name}]\ntype = \"sqs\"\nqueue_url = \"{}\"\nendpoint_url = \"{}\"\n\n",
            queue.url,
            sqs.endpoint()
        )
    };
    format!(
        "\n[plugins]\ndir = \"{}\"\n\n{}{}[[route]]\ntables = [\"shop.*\"]\nsink = \"events\"\n",
        top().join("plugins").display(),
        sink("order-management", management),
        sink("events", events)
    )
}

async fn collect(queue: Queue, name: &'static str, stop: Arc<AtomicBool>) -> anyhow::Result<Delivered> {
    let mut delivered = Delivered::default();
    loop {
        let stopping = stop.load(Ordering::Relaxed);
        let received = queue.receive(Duration::from_secs(1)).await?;
        if received.is_empty() && stopping {
            return Ok(delivered);
        }
        delivered.take(received, name)?;
    }
}

/// Returns the rows in MySQL that the queues have not delivered.
async fn lost(mysql: &MySql, management: &Delivered, events: &Delivered) -> anyhow::Result<Vec<String>> {
    let mut conn = mysql.connect().await?;
    let mut lost = Vec::new();

    // Customers and payments: each row equals the result of its events.
    let rows: Vec<(i64, i64, String)> =
        conn.query("SELECT id, version, SHA2(LOWER(email), 256) FROM shop.customers").await?;
    let customers = events.replay("customers");
    for (id, version, email) in rows {
        let same = customers.get(&id).is_some_and(|row| row["version"] == version && row["email"] == email.as_str());
        if !same {
            lost.push(format!("customer {id}"));
        }
    }
    let rows: Vec<(i64, i64, String)> =
        conn.query("SELECT id, order_id, CAST(amount AS CHAR) FROM shop.payments").await?;
    let payments = events.replay("payments");
    let mut paid = HashSet::new();
    for (id, order, amount) in rows {
        paid.insert(order);
        let same = payments.get(&id).is_some_and(|row| row["order_id"] == order && row["amount"] == amount.as_str());
        if !same {
            lost.push(format!("payment {id}"));
        }
    }
    // Each order with a payment became paid exactly once.
    let told: HashSet<i64> = management.messages.iter().filter_map(|message| message["after"]["id"].as_i64()).collect();
    lost.extend(paid.difference(&told).map(|order| format!("order {order}, which was paid")));
    conn.disconnect().await?;
    Ok(lost)
}
