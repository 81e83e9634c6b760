//! An SQS endpoint that accepts every message at once and stores nothing, to measure the engine's maximum throughput and
//! latency.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// An endpoint that counts the requests that it receives.
#[derive(Debug)]
pub struct Drain {
    /// The port on loopback.
    pub port: u16,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    requests: AtomicU64,
    messages: AtomicU64,
    bytes: AtomicU64,
    chunks: AtomicU64,
}

/// The requests that a drain has received so far.
#[derive(Debug, Clone, Copy)]
pub struct Drained {
    /// Requests with messages.
    pub requests: u64,
    /// Messages in these requests.
    pub messages: u64,
    /// Bytes of their HTTP bodies.
    pub bytes: u64,
    /// Requests as AWS bills them: one for each started 64 KiB.
    pub chunks: u64,
}

impl Drained {
    /// Returns the price of these requests on a standard queue, by AWS's list price of 2026.
    ///
    /// <https://aws.amazon.com/sqs/pricing/>
    pub fn dollars(&self) -> f64 {
        self.chunks as f64 * 0.40 / 1e6
    }
}

impl Drain {
    /// Starts a drain; `look` gets each request's body before it is answered.
    ///
    /// # Errors
    /// If it cannot listen.
    pub fn start(look: impl Fn(&str) + Send + Sync + 'static) -> anyhow::Result<Self> {
        Self::start_at(Duration::ZERO, look)
    }

    /// Starts a drain whose answers are delayed by `distance`.
    ///
    /// # Errors
    /// If it cannot listen.
    pub fn start_at(distance: Duration, look: impl Fn(&str) + Send + Sync + 'static) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let this = Self { port: listener.local_addr()?.port(), counts: Arc::default() };
        let (counts, look) = (Arc::clone(&this.counts), Arc::new(look));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (counts, look) = (Arc::clone(&counts), Arc::clone(&look));
                // A client that has disconnected gets no answer.
                std::thread::spawn(move || serve(client, distance, &counts, &*look));
            }
        });
        Ok(this)
    }

    /// Returns the counts so far.
    pub fn drained(&self) -> Drained {
        let Counts { requests, messages, bytes, chunks } = &*self.counts;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Drained { requests: read(requests), messages: read(messages), bytes: read(bytes), chunks: read(chunks) }
    }
}

fn serve(client: TcpStream, distance: Duration, counts: &Counts, look: &dyn Fn(&str)) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let mut writer = client.try_clone()?;
    let mut reader = BufReader::with_capacity(64 << 10, client);
    let (mut line, mut body, mut answer) = (String::new(), Vec::new(), String::new());
    loop {
        let (mut length, mut sends) = (0, false);
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let Some((name, value)) = line.split_once(':') else {
                if line.trim_end().is_empty() {
                    break;
                }
                continue; // the request's first line
            };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().unwrap_or_default();
            } else if name.eq_ignore_ascii_case("x-amz-target") {
                sends = value.contains("SendMessageBatch");
            }
        }
        body.resize(length, 0);
        reader.read_exact(&mut body)?;
        answer.clear();
        if sends {
            let text = std::str::from_utf8(&body).unwrap_or_default();
            look(text);
            // Within a body, which is a JSON string, the quotes would be escaped.
            let messages = text.matches("\"MessageBody\":\"").count();
            counts.requests.fetch_add(1, Ordering::Relaxed);
            counts.messages.fetch_add(messages as u64, Ordering::Relaxed);
            counts.bytes.fetch_add(length as u64, Ordering::Relaxed);
            counts.chunks.fetch_add(length.div_ceil(64 << 10) as u64, Ordering::Relaxed);
            answer.push_str("{\"Successful\":[");
            for id in 0..messages {
                let separator = if id == 0 { "" } else { "," };
                answer.push_str(&format!(
                    "{separator}{{\"Id\":\"{id}\",\"MessageId\":\"00000000-0000-0000-0000-000000000000\",\"MD5OfMessageBody\":\"0\"}}"
                ));
            }
            answer.push_str("]}");
        } else {
            answer.push_str("{\"Attributes\":{\"MaximumMessageSize\":\"1048576\"}}");
        }
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: {}\r\n\r\n",
            answer.len()
        );
        if sends && !distance.is_zero() {
            std::thread::sleep(distance);
        }
        writer.write_all([head.as_bytes(), answer.as_bytes()].concat().as_slice())?;
    }
}
