//! The account with which a queue is used: region, endpoint, credentials, time-outs.

use std::time::Duration;

use anyhow::Context;
use aws_config::identity::IdentityCache;
use aws_config::retry::RetryConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use aws_sdk_sqs::config::{Credentials as Keys, Region};

use super::credentials::Credentials;
use super::http::{CONNECT_TIMEOUT, Client, Connections, REQUEST_TIMEOUT, Service};
use crate::config::{Queue, Role};

/// The time-out of an attempt to store a large body in S3.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(120);

/// The account with which a queue is used.
#[derive(Debug, Clone)]
pub(in crate::sink) struct Account {
    config: SdkConfig,
    credentials: Credentials,
    connections: Connections,
    /// The endpoint in the queue's URL.
    queue_endpoint: Option<String>,
}

/// The default chain of credentials providers, and the role that is assumed with its credentials.
#[derive(Debug, Clone)]
struct ProviderChain {
    region: Option<String>,
    endpoint_url: Option<String>,
    role: Option<Role>,
}

impl Account {
    /// Loads the account for a queue, from its configuration, its URL and the environment.
    pub async fn of(queue: &Queue, connections: Connections) -> Self {
        let Queue { url, region, endpoint_url, role, .. } = queue;
        let url = url.to_string();
        let region = region.clone().or_else(|| region_of(&url));
        let chain = ProviderChain { region, endpoint_url: endpoint_url.clone(), role: role.clone() };
        let config = chain.load().await;
        // A configured endpoint, mostly a local server, is for all AWS services, and takes precedence over the queue's host,
        // which is for SQS alone. FIPS and dual-stack endpoints that the environment asks for take precedence, too.
        let is_configured = config.endpoint_url().is_some()
            || std::env::var_os("AWS_ENDPOINT_URL_SQS").is_some()
            || config.use_fips() == Some(true)
            || config.use_dual_stack() == Some(true);
        let queue_endpoint = endpoint_of(&url).filter(|_| !is_configured);
        // All clients share the credentials: a slow provider is asked once.
        let credentials = Credentials::new(SharedCredentialsProvider::new(chain));
        let shared = SharedCredentialsProvider::new(credentials.clone());
        let config = config.into_builder().credentials_provider(shared).build();
        Self { config, credentials, connections, queue_endpoint }
    }

    /// Returns an SQS client of the SDK, for requests at the start.
    pub fn sqs(&self) -> aws_sdk_sqs::Client {
        let mut config = aws_sdk_sqs::config::Builder::from(&self.config);
        if let Some(url) = &self.queue_endpoint {
            config = config.endpoint_url(url);
        }
        aws_sdk_sqs::Client::from_conf(config.build())
    }

    /// Discards the credentials, which may be the cause of a refusal: the next request asks the provider again.
    pub fn forget_credentials(&self) {
        self.credentials.forget();
    }

    /// Returns the region.
    ///
    /// # Errors
    /// If no region is configured.
    pub fn region(&self) -> anyhow::Result<String> {
        let region = self.config.region().context("no region is configured; set `region`, or AWS_REGION")?;
        Ok(region.to_string())
    }

    /// Returns a client that calls a service; `url` is the endpoint that the SDK's client uses.
    ///
    /// # Errors
    /// If no region is configured.
    pub fn client(&self, service: Service, url: String) -> anyhow::Result<Client> {
        Ok(Client::new(service, url, self.region()?, self.credentials.clone(), self.connections.clone()))
    }

    /// Returns an S3 client of the SDK.
    pub fn s3(&self, endpoint_url: Option<&str>) -> aws_sdk_s3::Client {
        let mut config = aws_sdk_s3::config::Builder::from(&self.config).timeout_config(timeouts(UPLOAD_TIMEOUT));
        if let Some(url) = endpoint_url {
            config = config.endpoint_url(url);
        }
        // A server that is not AWS's has no host name for each bucket.
        let is_aws = endpoint_url.is_none() && self.config.endpoint_url().is_none();
        aws_sdk_s3::Client::from_conf(config.force_path_style(!is_aws).build())
    }
}

fn timeouts(request: Duration) -> TimeoutConfig {
    TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).operation_attempt_timeout(request).build()
}

impl ProviderChain {
    async fn load(&self) -> SdkConfig {
        // The ordered queue retries: it knows which message may be sent before which.
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .retry_config(RetryConfig::disabled())
            // `Credentials` caches them, and discards those that are refused.
            .identity_cache(IdentityCache::no_cache())
            .timeout_config(timeouts(REQUEST_TIMEOUT));
        if let Some(region) = self.region.clone() {
            loader = loader.region(Region::new(region));
        }
        if let Some(url) = &self.endpoint_url {
            loader = loader.endpoint_url(url);
        }
        loader.load().await
    }

    async fn credentials(&self) -> Result<Keys, CredentialsError> {
        // Loaded anew each time: the SDK's providers read the user's files only once.
        let config = self.load().await;
        let Some(Role { arn, external_id }) = &self.role else {
            let provider = config.credentials_provider();
            return provider
                .ok_or_else(|| CredentialsError::not_loaded("no credentials provider"))?
                .provide_credentials()
                .await;
        };
        let mut role = AssumeRoleProvider::builder(arn).session_name("rowmill").configure(&config);
        if let Some(id) = external_id {
            role = role.external_id(id);
        }
        role.build().await.provide_credentials().await
    }
}

impl ProvideCredentials for ProviderChain {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.credentials())
    }
}

/// Returns the region in a queue's URL, by AWS's host names: `sqs.eu-west-1.amazonaws.com`, also with `sqs-fips`, with
/// `.api.aws` or with a VPC endpoint's prefix, and the legacy `eu-west-1.queue.amazonaws.com`.
/// <https://docs.aws.amazon.com/general/latest/gr/sqs-service.html>
fn region_of(queue_url: &str) -> Option<String> {
    let (_, host) = origin(queue_url)?;
    let host = host.split(':').next().unwrap_or(host).to_ascii_lowercase();
    let is_aws = host.ends_with(".amazonaws.com") || host.ends_with(".amazonaws.com.cn") || host.ends_with(".api.aws");
    if host == "queue.amazonaws.com" {
        return Some("us-east-1".to_owned());
    }
    let is_region = |label: &&str| {
        let mut parts = label.split('-');
        let starts =
            parts.next().is_some_and(|part| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_lowercase()));
        let parts: Vec<&str> = parts.collect();
        let ends = parts.last().is_some_and(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
        starts && ends && parts.len() >= 2
    };
    host.split('.').find(is_region).filter(|_| is_aws).map(str::to_owned)
}

/// Returns scheme and host of a queue's URL: its endpoint.
fn endpoint_of(queue_url: &str) -> Option<String> {
    let (scheme, host) = origin(queue_url)?;
    Some(format!("{scheme}://{host}"))
}

/// Returns scheme and host of a URL.
fn origin(url: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let host = rest.split('/').next()?;
    // A host with a placeholder is not known before the table.
    (!host.is_empty() && !host.contains('{')).then_some((scheme, host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_is_in_the_url() {
        let region = |url: &str| region_of(url);
        for host in [
            "sqs.eu-west-1.amazonaws.com",
            "sqs-fips.eu-west-1.amazonaws.com",
            "sqs.eu-west-1.api.aws",
            "sqs-fips.eu-west-1.api.aws",
            "eu-west-1.queue.amazonaws.com",
            "vpce-0123456789abcdef0-abcdefgh.sqs.eu-west-1.vpce.amazonaws.com",
            "vpce-0a1-b2-eu-west-1a.sqs.eu-west-1.vpce.amazonaws.com",
        ] {
            assert_eq!(region(&format!("https://{host}/1/q.fifo")).as_deref(), Some("eu-west-1"), "{host}");
            assert_eq!(endpoint_of(&format!("https://{host}/1/q.fifo")), Some(format!("https://{host}")));
        }
        assert_eq!(region("https://sqs.cn-north-1.amazonaws.com.cn/1/q").as_deref(), Some("cn-north-1"));
        assert_eq!(region("https://sqs.us-gov-west-1.amazonaws.com/1/q").as_deref(), Some("us-gov-west-1"));
        assert_eq!(region("https://queue.amazonaws.com/1/q").as_deref(), Some("us-east-1"));
        assert_eq!(region("http://127.0.0.1:4566/1/q"), None);
        assert_eq!(region("https://my-host-1.example.com/1/q"), None);
        assert_eq!(endpoint_of("http://127.0.0.1:4566/1/{table}").as_deref(), Some("http://127.0.0.1:4566"));
        assert_eq!(endpoint_of("https://{schema}.example/1/q"), None);
    }
}
