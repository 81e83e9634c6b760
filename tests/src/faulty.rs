//! SQS endpoints that fail: at random, in front of another endpoint, or by a script.

use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A way in which the endpoint fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// HTTP 500.
    Internal,
    /// HTTP 503 from an intermediary, without an SQS error.
    Unavailable,
    /// Throttling: too many requests.
    Throttled,
    /// Expired credentials.
    Expired,
    /// An answer that is not HTTP.
    Garbage,
    /// An HTTP answer without meaning.
    Nonsense,
    /// The request is forwarded a second late.
    Slow,
    /// The request is forwarded twice.
    Twice,
    /// Some of the request's entries are rejected.
    Partial,
    /// The request is forwarded, and the connection ends without an answer.
    Silence,
}

const FAULTS: [Fault; 10] = [
    Fault::Internal,
    Fault::Unavailable,
    Fault::Throttled,
    Fault::Expired,
    Fault::Garbage,
    Fault::Nonsense,
    Fault::Slow,
    Fault::Twice,
    Fault::Partial,
    Fault::Silence,
];

/// An HTTP request or answer.
struct Http {
    head: String,
    body: Vec<u8>,
}

/// Starts an endpoint on loopback in front of the endpoint at `port`, and returns its port.
///
/// Half of the requests that send messages fail while `fails` is set.
///
/// # Errors
/// If it cannot listen.
pub fn faulty_endpoint(port: u16, seed: u64, fails: Arc<AtomicBool>) -> anyhow::Result<u16> {
    let listener = StdListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let own_port = listener.local_addr()?.port();
    let listener = TcpListener::from_std(listener)?;
    tokio::spawn(async move {
        let mut random = SmallRng::seed_from_u64(seed);
        while let Ok((client, _)) = listener.accept().await {
            let fault = random.random_bool(0.5).then(|| FAULTS[random.random_range(0..FAULTS.len())]);
            let fault = fault.filter(|_| fails.load(Ordering::Relaxed));
            // A client that has disconnected gets no answer.
            tokio::spawn(async move { serve(client, port, fault).await });
        }
    });
    Ok(own_port)
}

/// Starts an endpoint whose answers to messages are scripted, and returns its port.
///
/// It answers `GetQueueAttributes` as SQS does, and requests with messages by what `answer` makes of the request's head and
/// body: the status and the body.
///
/// # Errors
/// If it cannot listen.
pub async fn scripted_endpoint(
    answer: impl Fn(&str, &Value) -> (&'static str, Value) + Send + Sync + 'static,
) -> anyhow::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (port, answer) = (listener.local_addr()?.port(), Arc::new(answer));
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                let request = Http::read(&mut client).await?;
                let (status, said) = match request.head.contains("SendMessageBatch") {
                    true => answer(&request.head, &serde_json::from_slice(&request.body).unwrap_or_default()),
                    false => ("200 OK", json!({ "Attributes": { "MaximumMessageSize": "1048576" } })),
                };
                client.write_all(&Http::answer(status, said.to_string().as_bytes())).await?;
                client.shutdown().await?;
                anyhow::Ok(())
            });
        }
    });
    Ok(port)
}

/// Returns SQS's answer that accepts all messages of a request.
pub fn accepted(request: &Value) -> (&'static str, Value) {
    let entries = request["Entries"].as_array().into_iter().flatten();
    let successful: Vec<Value> = entries.map(|entry| json!({ "Id": entry["Id"] })).collect();
    ("200 OK", json!({ "Successful": successful }))
}

/// Starts an endpoint that rejects every request as SQS does for a user without the permission, and returns its port.
///
/// # Errors
/// If it cannot listen.
pub async fn forbidding_endpoint() -> anyhow::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            if Http::read(&mut client).await.is_ok() {
                let answer = Http::error("403 Forbidden", "AccessDeniedException");
                let _ = client.write_all(&answer).await; // it may have disconnected
            }
        }
    });
    Ok(port)
}

/// Serves one request, and ends the connection.
async fn serve(mut client: TcpStream, port: u16, fault: Option<Fault>) -> anyhow::Result<()> {
    let mut request = Http::read(&mut client).await?;
    let fault = fault.filter(|_| request.head.contains("SendMessageBatch"));
    let answer = match fault {
        Some(Fault::Internal) => Http::error("500 Internal Server Error", "InternalError"),
        Some(Fault::Unavailable) => Http::answer("503 Service Unavailable", b"<html>come back later</html>"),
        Some(Fault::Throttled) => Http::error("400 Bad Request", "ThrottlingException"),
        Some(Fault::Expired) => Http::error("403 Forbidden", "ExpiredTokenException"),
        Some(Fault::Garbage) => b"\x15\x03\x01\x00\x02\x02\x0a".to_vec(),
        Some(Fault::Nonsense) => {
            Http::answer("200 OK", b"{\"Successful\":[{\"Id\":\"99\",\"MessageId\":\"m\",\"MD5OfMessageBody\":\"d\"}]}")
        }
        Some(Fault::Slow) => {
            tokio::time::sleep(Duration::from_secs(1)).await;
            request.pass_on(port).await?
        }
        Some(Fault::Twice) => {
            request.pass_on(port).await?;
            request.pass_on(port).await?
        }
        Some(Fault::Partial) => partly(&mut request, port).await?,
        Some(Fault::Silence) => {
            request.pass_on(port).await?;
            return Ok(());
        }
        None => request.pass_on(port).await?,
    };
    client.write_all(&answer).await?;
    client.shutdown().await?;
    Ok(())
}

/// Forwards every other entry, and answers that the rest was not accepted.
async fn partly(request: &mut Http, port: u16) -> anyhow::Result<Vec<u8>> {
    let mut body: Value = serde_json::from_slice(&request.body)?;
    let entries = body["Entries"].as_array_mut().context("entries")?;
    let refused: Vec<Value> = entries.iter().skip(1).step_by(2).map(|entry| entry["Id"].clone()).collect();
    entries.retain(|entry| !refused.contains(&entry["Id"]));
    request.body = body.to_string().into_bytes();
    let answer = request.pass_on(port).await?;
    let answer = Http::read(&mut &answer[..]).await?;
    let mut said: Value = serde_json::from_slice(&answer.body)?;
    let failed = refused.iter().map(|id| json!({ "Id": id, "Code": "InternalError", "SenderFault": false }));
    said["Failed"] = failed.collect();
    Ok(Http::answer("200 OK", said.to_string().as_bytes()))
}

impl Http {
    fn error(status: &str, kind: &str) -> Vec<u8> {
        let body = json!({ "__type": format!("com.amazonaws.sqs#{kind}"), "message": "so it is" });
        Self::answer(status, body.to_string().as_bytes())
    }

    fn answer(status: &str, body: &[u8]) -> Vec<u8> {
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), body].concat()
    }

    /// Reads a request or an answer with a `Content-Length`.
    async fn read(from: &mut (impl AsyncReadExt + Unpin)) -> anyhow::Result<Self> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(from.read_u8().await?);
        }
        let head = String::from_utf8(head)?;
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        });
        let mut body = vec![0; length.unwrap_or_default()];
        from.read_exact(&mut body).await?;
        Ok(Self { head, body })
    }

    /// Sends the request to a port on loopback, and returns the answer's bytes.
    async fn pass_on(&self, port: u16) -> anyhow::Result<Vec<u8>> {
        let is_kept = |line: &&str| {
            let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
            !line.is_empty() && name != "connection" && name != "content-length"
        };
        let mut text: String = self.head.lines().filter(is_kept).map(|line| format!("{line}\r\n")).collect();
        text.push_str(&format!("Connection: close\r\nContent-Length: {}\r\n\r\n", self.body.len()));
        let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
        server.write_all(text.as_bytes()).await?;
        server.write_all(&self.body).await?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer).await?;
        Ok(answer)
    }
}
