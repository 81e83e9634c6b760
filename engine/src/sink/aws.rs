//! By what AWS is reached: region, credentials, time-outs.

use std::time::Duration;

use anyhow::Context;
use aws_config::retry::RetryConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_sqs::config::{Region, SharedCredentialsProvider};

use super::client::{Client, Connections};
use super::credentials::Credentials;
use crate::config::{Queue, Role};

pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// For bodies that no queue takes.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(120);

/// What a queue is used by.
#[derive(Debug, Clone)]
pub(super) struct Account {
    config: SdkConfig,
    connections: Connections,
}

impl Account {
    pub async fn of(queue: &Queue, connections: Connections) -> Self {
        let Queue { url, region, endpoint_url, role, .. } = queue;
        // Retries are the lanes' business: they know what may be sent before what.
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts(REQUEST_TIMEOUT));
        let of_url = || region_of(&url.to_string()).map(str::to_owned);
        if let Some(region) = region.clone().or_else(of_url) {
            loader = loader.region(Region::new(region));
        }
        if let Some(url) = endpoint_url {
            loader = loader.endpoint_url(url);
        }
        let config = loader.load().await;
        let Some(Role { arn, external_id }) = role else { return Self { config, connections } };
        let mut role = AssumeRoleProvider::builder(arn).session_name("rowmill").configure(&config);
        if let Some(id) = external_id {
            role = role.external_id(id);
        }
        let credentials = SharedCredentialsProvider::new(role.build().await);
        Self { config: config.into_builder().credentials_provider(credentials).build(), connections }
    }

    /// A client of SQS for what is asked once.
    pub fn sqs(&self) -> aws_sdk_sqs::Client {
        aws_sdk_sqs::Client::new(&self.config)
    }

    /// A client of SQS for messages; `url` is where the other one asks.
    ///
    /// # Errors
    /// If there is no region or nothing that gives credentials: the other one asks for nothing then.
    pub fn client(&self, url: String) -> anyhow::Result<Client> {
        let region = self.config.region().context("there is no region: set `region`, or AWS_REGION")?;
        let credentials = self.config.credentials_provider().context("nothing gives credentials")?;
        Ok(Client::new(url, region.to_string(), Credentials::new(credentials), self.connections.clone()))
    }

    /// A client of S3.
    pub fn s3(&self, endpoint_url: Option<&str>) -> aws_sdk_s3::Client {
        let mut config = aws_sdk_s3::config::Builder::from(&self.config).timeout_config(timeouts(UPLOAD_TIMEOUT));
        if let Some(url) = endpoint_url {
            config = config.endpoint_url(url);
        }
        // A server that isn't AWS's has no names by bucket.
        let is_aws = endpoint_url.is_none() && self.config.endpoint_url().is_none();
        aws_sdk_s3::Client::from_conf(config.force_path_style(!is_aws).build())
    }
}

fn timeouts(request: Duration) -> TimeoutConfig {
    TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).operation_attempt_timeout(request).build()
}

/// The region in `https://sqs.eu-west-1.amazonaws.com/...`.
fn region_of(queue_url: &str) -> Option<&str> {
    let (_, rest) = queue_url.split_once("://sqs.")?;
    rest.split_once(".amazonaws.").map(|(region, _)| region)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_is_in_the_url() {
        assert_eq!(region_of("https://sqs.eu-west-1.amazonaws.com/1/q.fifo"), Some("eu-west-1"));
        assert_eq!(region_of("https://sqs.cn-north-1.amazonaws.com.cn/1/q"), Some("cn-north-1"));
        assert_eq!(region_of("http://127.0.0.1:4566/1/q"), None);
    }
}
