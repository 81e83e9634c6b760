//! Credentials of AWS, asked for again before they expire.

use std::time::{Duration, SystemTime};

use aws_sdk_sqs::config::{ProvideCredentials, SharedCredentialsProvider};
use aws_sdk_sqs::error::DisplayErrorContext;
use aws_smithy_runtime_api::client::identity::Identity;
use tokio::sync::Mutex;
use tracing::warn;

/// So long before their end they are asked for again.
const MARGIN: Duration = Duration::from_secs(5 * 60);
/// What doesn't expire may be replaced all the same: a file, say.
const AGE_MAX: Duration = Duration::from_secs(15 * 60);
/// While new ones can't be had, and the old ones hold.
const RETRY_DELAY: Duration = Duration::from_secs(30);

/// Keeps what a provider gives.
#[derive(Debug)]
pub(super) struct Credentials {
    provider: SharedCredentialsProvider,
    held: Mutex<Option<Held>>,
}

#[derive(Debug)]
struct Held {
    identity: Identity,
    expiry: Option<SystemTime>,
    /// When to ask again.
    renewal: SystemTime,
}

impl Credentials {
    pub fn new(provider: SharedCredentialsProvider) -> Self {
        Self { provider, held: Mutex::new(None) }
    }

    /// # Errors
    /// If there are none to be had, and none that hold.
    pub async fn get(&self, now: SystemTime) -> Result<Identity, String> {
        let mut held = self.held.lock().await;
        if let Some(held) = &*held
            && now < held.renewal
        {
            return Ok(held.identity.clone());
        }
        match self.provider.provide_credentials().await {
            Ok(credentials) => {
                let expiry = credentials.expiry();
                let renewal = expiry.map_or(now + AGE_MAX, |expiry| expiry.checked_sub(MARGIN).unwrap_or(expiry));
                // Those that are short-lived hold to their end, or each request would ask for new ones.
                let renewal = if renewal <= now { expiry.unwrap_or(renewal) } else { renewal };
                let identity = Identity::from(credentials);
                *held = Some(Held { identity: identity.clone(), expiry, renewal });
                Ok(identity)
            }
            Err(error) => {
                let text = format!("no credentials: {}", DisplayErrorContext(&error));
                let Some(old) = held.as_mut().filter(|old| old.expiry.is_none_or(|expiry| now < expiry)) else {
                    return Err(text);
                };
                warn!(error = text, "the credentials can't be renewed; the old ones still hold");
                let again = now + RETRY_DELAY;
                old.renewal = old.expiry.map_or(again, |expiry| expiry.min(again));
                Ok(old.identity.clone())
            }
        }
    }

    /// They were refused: they are asked for again.
    pub async fn forget(&self) {
        *self.held.lock().await = None;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use aws_credential_types::provider::error::CredentialsError;
    use aws_credential_types::provider::future;
    use aws_sdk_sqs::config::Credentials as Keys;

    use super::*;

    /// Gives keys that hold for as long as it is told; fails where it is told so.
    #[derive(Debug)]
    struct Provider {
        asked: AtomicU32,
        expiries: Vec<Option<SystemTime>>,
    }

    impl ProvideCredentials for &'static Provider {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            let nth = self.asked.fetch_add(1, Ordering::Relaxed) as usize;
            future::ProvideCredentials::ready(match self.expiries.get(nth) {
                Some(expiry) => Ok(Keys::new(nth.to_string(), "secret", None, *expiry, "test")),
                None => Err(CredentialsError::not_loaded("no more")),
            })
        }
    }

    /// The numbers of the keys that are had at these seconds.
    async fn had(expiries: &[Option<u64>], at: &[u64]) -> Vec<Option<String>> {
        let second = |second: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        let expiries = expiries.iter().map(|expiry| expiry.map(second)).collect();
        let provider: &'static Provider = Box::leak(Box::new(Provider { asked: AtomicU32::new(0), expiries }));
        let credentials = Arc::new(Credentials::new(SharedCredentialsProvider::new(provider)));
        let mut had = Vec::new();
        for now in at {
            let identity = credentials.get(second(*now)).await.ok();
            had.push(identity.and_then(|identity| Some(identity.data::<Keys>()?.access_key_id().to_owned())));
        }
        had
    }

    #[tokio::test]
    async fn they_are_renewed_before_they_expire() {
        let some = |nth: u32| Some(nth.to_string());
        let hourly = [Some(3_600), Some(7_200)];
        assert_eq!(had(&hourly, &[0, 3_299, 3_300, 3_301]).await, [some(0), some(0), some(1), some(1)]);
        // Endless ones too, now and then.
        assert_eq!(had(&[None, None], &[0, 899, 900]).await, [some(0), some(0), some(1)]);
        // Short ones hold to their end.
        assert_eq!(had(&[Some(60), Some(120)], &[0, 59, 60]).await, [some(0), some(0), some(1)]);
    }

    #[tokio::test]
    async fn old_ones_serve_while_new_ones_cant_be_had() {
        let some = |nth: u32| Some(nth.to_string());
        assert_eq!(had(&[Some(3_600)], &[0, 3_400, 3_599, 3_600]).await, [some(0), some(0), some(0), None]);
    }
}
