//! A client of AWS services with a JSON protocol, which signs and sends finished request bodies.
//!
//! In: an operation and its JSON. Out: the answer's JSON, or a failure. The client never retries.
//!
//! The SDK's own client does work around each request that costs several times as much as the request itself. So a request
//! is signed by the SDK's signer and sent by the SDK's HTTP connector, with its pool, TLS and proxies, and nothing in between.
//! The endpoint is the one that the SDK used when the queue was opened.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_sdk_sqs::config::http::{HttpRequest, HttpResponse};
use aws_sdk_sqs::primitives::{DateTime, DateTimeFormat};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_smithy_async::rt::sleep::TokioSleep;
use aws_smithy_http_client::Connector;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorSettings};
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::Deserialize;

use super::credentials::Credentials;
use super::error::describe;

pub(in crate::sink) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
pub(in crate::sink) const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

const USER_AGENT: &str = concat!("rowmill/", env!("CARGO_PKG_VERSION"));
/// The least clock skew in seconds that is corrected: AWS accepts signatures with a skew of up to five minutes.
const SKEW_MIN: i64 = 4 * 60;
/// Codes that refuse the credentials themselves, and not their permissions.
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/CommonErrors.html>
const WRONG_KEYS: [&str; 9] = [
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSecurity",
    "InvalidSignatureException",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
];

/// Connections to services, kept open for the next request of any sink. Created at the first use.
#[derive(Debug, Clone, Default)]
pub struct Connections(Arc<Mutex<Option<Arc<Connector>>>>);

impl Connections {
    /// Returns the current pool of connections.
    fn current(&self) -> Arc<Connector> {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(current.get_or_insert_with(|| Arc::new(connector())))
    }

    /// Drops the whole pool `dead` after a time-out, so that later requests do not each time out on a dead connection.
    fn give_up(&self, dead: &Arc<Connector>) {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        current.take_if(|current| Arc::ptr_eq(current, dead));
    }
}

/// Sends requests of one account to one endpoint of a service.
#[derive(Debug, Clone)]
pub(in crate::sink) struct Client {
    connections: Connections,
    to: Arc<Endpoint>,
}

#[derive(Debug)]
struct Endpoint {
    service: Service,
    url: String,
    region: String,
    credentials: Credentials,
    /// The seconds by which the server's clock is ahead of the local one, as the last refusal of the credentials showed; 0 for
    /// a small skew, and before.
    skew: AtomicI64,
}

/// The failure of a request.
#[derive(Debug)]
pub(in crate::sink) enum Failure {
    /// The service refuses the request.
    Refused {
        /// The service's code without its namespace; the HTTP status where the answer is not from the service.
        code: String,
        /// The service's message.
        message: String,
        /// The HTTP status.
        status: u16,
    },
    /// The request was not sent, or there was no readable answer in time.
    Failed(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused { code, message, .. } => write!(f, "{code}: {message}"),
            Self::Failed(text) => f.write_str(text),
        }
    }
}

/// A service of AWS that is called by its JSON protocol.
#[derive(Debug, Clone, Copy)]
pub(in crate::sink) struct Service {
    /// The name in signatures.
    pub signing_name: &'static str,
    /// The name in the header `x-amz-target`, before the operation.
    pub target: &'static str,
}

/// Calls operations of a service.
pub(in crate::sink) trait Api: std::fmt::Debug + Send + Sync {
    /// Sends a request with a JSON body, and returns the answer's body.
    ///
    /// # Errors
    /// If there is no answer, or if the service refuses the request.
    fn call(&self, operation: &'static str, body: Vec<u8>) -> BoxFuture<'_, Result<Bytes, Failure>>;

    /// Drops the connections, which may be dead: the next request opens a new one.
    fn reconnect(&self) {}
}

impl Api for Client {
    /// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-making-api-requests-json.html>
    fn call(&self, operation: &'static str, body: Vec<u8>) -> BoxFuture<'_, Result<Bytes, Failure>> {
        self.call_in_time(operation, body).boxed()
    }

    fn reconnect(&self) {
        self.connections.give_up(&self.connections.current());
    }
}

impl Client {
    pub fn new(
        service: Service,
        url: String,
        region: String,
        credentials: Credentials,
        connections: Connections,
    ) -> Self {
        let to = Endpoint { service, url, region, credentials, skew: AtomicI64::new(0) };
        Self { connections, to: Arc::new(to) }
    }

    async fn call_in_time(&self, operation: &str, body: Vec<u8>) -> Result<Bytes, Failure> {
        let connector = self.connections.current();
        // Credentials may come from another server, and have a time-out of their own.
        let signed = tokio::time::timeout(REQUEST_TIMEOUT, self.signed(operation, body)).await;
        let signed = signed.unwrap_or_else(|_| {
            Err(format!("no credentials in {} seconds; still waiting for the provider", REQUEST_TIMEOUT.as_secs()))
        });
        let request = signed.map_err(Failure::Failed)?;
        match tokio::time::timeout(REQUEST_TIMEOUT, self.call_by(&connector, request)).await {
            Ok(result) => result,
            Err(_) => {
                self.connections.give_up(&connector);
                Err(Failure::Failed(format!("no answer in {} seconds", REQUEST_TIMEOUT.as_secs())))
            }
        }
    }

    /// Sends a signed request, without a time-out.
    async fn call_by(&self, connector: &Connector, request: HttpRequest) -> Result<Bytes, Failure> {
        let failed = |error: &(dyn std::error::Error + 'static)| Failure::Failed(describe(error));
        let mut response = connector.call(request).await.map_err(|error| failed(&error))?;
        let body = ByteStream::new(response.take_body()).collect().await.map_err(|error| failed(&error))?.into_bytes();
        if response.status().is_success() {
            return Ok(body);
        }
        let (code, message) = refusal(&response, &body);
        if WRONG_KEYS.contains(&&*code) {
            self.to.credentials.forget();
            self.to.skew.store(skew(&response).unwrap_or_default(), Ordering::Relaxed);
        }
        Err(Failure::Refused { code, message, status: response.status().as_u16() })
    }

    async fn signed(&self, operation: &str, body: Vec<u8>) -> Result<HttpRequest, String> {
        let Endpoint { service, url, region, credentials, skew } = &*self.to;
        let skew = skew.load(Ordering::Relaxed);
        let ahead = Duration::from_secs(skew.unsigned_abs());
        let now = if skew < 0 { SystemTime::now() - ahead } else { SystemTime::now() + ahead };
        let identity = credentials.get(now).await?;
        let target = format!("{}.{operation}", service.target);
        // The last header asks for the error codes of the older query protocol.
        let headers =
            [("content-type", "application/x-amz-json-1.0"), ("x-amz-target", &target), ("x-amzn-query-mode", "true")];
        let parameters =
            v4::SigningParams::builder().identity(&identity).region(region).name(service.signing_name).time(now);
        let parameters = parameters.settings(SigningSettings::default()).build().expect("all are given").into();
        let signable = SignableRequest::new("POST", url, headers.into_iter(), SignableBody::Bytes(&body));
        let signed = signable.and_then(|signable| sign(signable, &parameters));
        let signed = signed.map_err(|error| format!("cannot sign the request: {}", describe(&error)))?;
        let length = body.len().to_string();
        let mut request = HttpRequest::new(SdkBody::from(body));
        let addressed = request.set_method("POST").and_then(|()| request.set_uri(url.as_str()));
        addressed.map_err(|error| format!("cannot use endpoint {url}: {error}"))?;
        let headers = headers.into_iter().chain([("content-length", &*length), ("user-agent", USER_AGENT)]);
        let into = request.headers_mut();
        for (name, value) in headers.chain(signed.output().headers()) {
            into.try_insert(name.to_owned(), value.to_owned()).map_err(|error| format!("{name}: {error}"))?;
        }
        Ok(request)
    }
}

/// Returns a connector like the SDK's default one.
fn connector() -> Connector {
    let settings = HttpConnectorSettings::builder().connect_timeout(CONNECT_TIMEOUT).build();
    Connector::builder()
        .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
        .connector_settings(settings)
        .sleep_impl(TokioSleep::new())
        .proxy_config(ProxyConfig::from_env())
        .build()
}

/// Returns the code and the message of a service's refusal.
/// <https://smithy.io/2.0/aws/protocols/aws-json-1_0-protocol.html>
fn refusal(response: &HttpResponse, body: &[u8]) -> (String, String) {
    #[derive(Deserialize)]
    struct Refusal {
        #[serde(rename = "__type", alias = "code")]
        kind: Option<String>,
        #[serde(alias = "Message")]
        message: Option<String>,
    }
    let header = |name| response.headers().get(name);
    let status = format!("HTTP {}", response.status().as_u16());
    let Ok(Refusal { kind, message }) = serde_json::from_slice(body) else {
        let text = String::from_utf8_lossy(body);
        return (status, text.chars().take(200).collect::<String>().escape_debug().to_string());
    };
    let said = header("x-amzn-query-error").or(kind.as_deref()).or_else(|| header("x-amzn-errortype"));
    let code = said.map_or(&*status, |said| {
        let said = said.split([';', ':']).next().unwrap_or(said);
        let said = said.rsplit('#').next().unwrap_or(said);
        said.strip_prefix("AWS.SimpleQueueService.").unwrap_or(said)
    });
    (code.to_owned(), message.unwrap_or_default())
}

/// Returns the seconds by which the server's clock is ahead of the local one, if the skew is at least [`SKEW_MIN`].
fn skew(response: &HttpResponse) -> Option<i64> {
    let theirs = DateTime::from_str(response.headers().get("date")?, DateTimeFormat::HttpDate).ok()?;
    let ours = DateTime::from(SystemTime::now());
    Some(theirs.secs() - ours.secs()).filter(|skew| skew.abs() >= SKEW_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, headers: &[(&'static str, &'static str)]) -> HttpResponse {
        let mut response = HttpResponse::new(status.try_into().expect("a status"), SdkBody::empty());
        for (name, value) in headers {
            response.headers_mut().insert(*name, *value);
        }
        response
    }

    #[test]
    fn refusals_say_their_code_and_message() {
        let why = |status, headers: &[_], body: &str| refusal(&answer(status, headers), body.as_bytes());
        let both = |code: &str, message: &str| (code.to_owned(), message.to_owned());
        let query = ("x-amzn-query-error", "AWS.SimpleQueueService.NonExistentQueue;Sender");
        let json = r#"{"__type": "com.amazonaws.sqs#QueueDoesNotExist", "message": "no"}"#;
        assert_eq!(why(400, &[query], json), both("NonExistentQueue", "no"));
        assert_eq!(why(400, &[], json), both("QueueDoesNotExist", "no"));
        assert_eq!(why(403, &[], r#"{"__type": "AccessDenied", "Message": "n"}"#), both("AccessDenied", "n"));
        let kind = ("x-amzn-errortype", "Throttling:http://internal.amazon.com/coral/");
        assert_eq!(why(400, &[kind], "{}"), both("Throttling", ""));
        assert_eq!(why(500, &[], "{}"), both("HTTP 500", ""));
        assert_eq!(why(503, &[], "<html>\n"), both("HTTP 503", "<html>\\n"));
    }

    #[test]
    fn a_clock_is_wrong_where_it_is_by_minutes() {
        let date = |unix: i64| {
            let text = DateTime::from_secs(unix).fmt(DateTimeFormat::HttpDate).expect("a date");
            let mut response = answer(403, &[]);
            response.headers_mut().insert("date", text);
            skew(&response)
        };
        let now = DateTime::from(SystemTime::now()).secs();
        assert!(date(now + 3600).is_some_and(|skew| (3590..=3600).contains(&skew)));
        assert!(date(now - 3600).is_some_and(|skew| (-3610..=-3600).contains(&skew)));
        assert_eq!(date(now - 60), None);
        assert_eq!(skew(&answer(403, &[("date", "yesterday")])), None);
    }
}
