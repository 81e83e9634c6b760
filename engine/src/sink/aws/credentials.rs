//! AWS credentials, renewed before they expire.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::future;
use aws_sdk_sqs::config::{Credentials as Keys, ProvideCredentials, SharedCredentialsProvider};
use aws_smithy_runtime_api::client::identity::Identity;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tracing::warn;

use super::error::describe;

/// How long before their expiry credentials are renewed.
const MARGIN: Duration = Duration::from_secs(5 * 60);
/// The age at which credentials without an expiry are renewed: they may have been replaced, in a file for example.
const AGE_MAX: Duration = Duration::from_secs(15 * 60);
/// The pause between attempts to renew credentials that are still valid.
const RETRY_DELAY: Duration = Duration::from_secs(30);

/// The time-out of a provider, long enough for one that asks a person or a distant server.
const PROVIDER_TIMEOUT: Duration = Duration::from_secs(120);

/// A cache of a provider's credentials. A task of its own asks the provider, so that a request that times out does not
/// cancel the asking.
#[derive(Debug, Clone)]
pub(in crate::sink) struct Credentials(Arc<CredentialsCache>);

#[derive(Debug)]
struct CredentialsCache {
    provider: SharedCredentialsProvider,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    held: Option<CachedCredentials>,
    asking: Option<PendingCredentials>,
}

/// A pending answer of the provider, for which all requests without credentials wait.
type PendingCredentials = Shared<BoxFuture<'static, Result<Identity, String>>>;

#[derive(Debug)]
struct CachedCredentials {
    identity: Identity,
    expiry: Option<SystemTime>,
    /// When to renew.
    renewal: SystemTime,
}

impl CachedCredentials {
    fn holds(&self, now: SystemTime) -> bool {
        self.expiry.is_none_or(|expiry| now < expiry)
    }
}

impl Credentials {
    /// Creates an empty cache of the provider's credentials.
    pub fn new(provider: SharedCredentialsProvider) -> Self {
        Self(Arc::new(CredentialsCache { provider, state: Mutex::default() }))
    }

    /// Returns valid credentials, and starts to renew them when it is time. Waits for the provider only if there are none.
    ///
    /// # Errors
    /// If there are no valid credentials, and the provider fails.
    pub async fn get(&self, now: SystemTime) -> Result<Identity, String> {
        let asking = {
            let mut state = self.0.state();
            if let Some(held) = state.held.as_ref().filter(|held| now < held.renewal) {
                return Ok(held.identity.clone());
            }
            // Only a task that panicked leaves a finished answer here: the provider is asked again.
            state.asking.take_if(|asking| asking.peek().is_some());
            let asking = state.asking.get_or_insert_with(|| Arc::clone(&self.0).ask_provider(now)).clone();
            match state.held.as_ref().filter(|held| held.holds(now)) {
                Some(held) => return Ok(held.identity.clone()),
                None => asking,
            }
        };
        asking.await
    }

    /// Discards the credentials, as they were refused: the next request asks the provider again.
    pub fn forget(&self) {
        self.0.state().held = None;
    }
}

impl ProvideCredentials for Credentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let identity = self.get(SystemTime::now()).await.map_err(CredentialsError::provider_error)?;
            identity.data::<Keys>().cloned().ok_or_else(|| CredentialsError::unhandled("they are of another kind"))
        })
    }
}

impl CredentialsCache {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the provider in a task of its own, and stores its answer.
    fn ask_provider(self: Arc<Self>, now: SystemTime) -> PendingCredentials {
        let task = tokio::spawn(async move {
            let answer = tokio::time::timeout(PROVIDER_TIMEOUT, self.provider.provide_credentials()).await;
            let answer = match answer {
                Ok(answer) => answer.map_err(|error| describe(&error)),
                Err(_) => Err(format!("the provider did not answer in {} seconds", PROVIDER_TIMEOUT.as_secs())),
            };
            let mut state = self.state();
            state.asking = None;
            match answer {
                Ok(credentials) => {
                    let expiry = credentials.expiry();
                    let renewal = expiry.map_or(now + AGE_MAX, |expiry| expiry.checked_sub(MARGIN).unwrap_or(expiry));
                    // Short-lived credentials are used until they expire: otherwise each request would renew them.
                    let renewal = if renewal <= now { expiry.unwrap_or(renewal) } else { renewal };
                    let identity = Identity::from(credentials);
                    state.held = Some(CachedCredentials { identity: identity.clone(), expiry, renewal });
                    Ok(identity)
                }
                Err(text) => {
                    let text = format!("no credentials: {text}");
                    let Some(old) = state.held.as_mut().filter(|old| old.holds(now)) else { return Err(text) };
                    warn!(error = text, "cannot renew the credentials; the old ones are still valid");
                    let again = now + RETRY_DELAY;
                    old.renewal = old.expiry.map_or(again, |expiry| expiry.min(again));
                    Ok(old.identity.clone())
                }
            }
        });
        async { task.await.unwrap_or_else(|error| Err(format!("no credentials: {error}"))) }.boxed().shared()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Provides numbered keys with these expiries, and then fails.
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

    fn second(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    fn provided(expiries: Vec<Option<SystemTime>>) -> (&'static Provider, Credentials) {
        let provider: &'static Provider = Box::leak(Box::new(Provider { asked: AtomicU32::new(0), expiries }));
        (provider, Credentials::new(SharedCredentialsProvider::new(provider)))
    }

    /// Returns the numbers of the keys at these seconds.
    async fn had(expiries: &[Option<u64>], at: &[u64]) -> Vec<Option<String>> {
        let (_, credentials) = provided(expiries.iter().map(|expiry| expiry.map(second)).collect());
        let mut had = Vec::new();
        for now in at {
            // While the old keys are valid, they are renewed in the background.
            let _ = credentials.get(second(*now)).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
            let identity = credentials.get(second(*now)).await.ok();
            had.push(identity.and_then(|identity| Some(identity.data::<Keys>()?.access_key_id().to_owned())));
        }
        had
    }

    #[tokio::test(start_paused = true)]
    async fn they_are_renewed_before_they_expire() {
        let some = |nth: u32| Some(nth.to_string());
        let hourly = [Some(3_600), Some(7_200)];
        assert_eq!(had(&hourly, &[0, 3_299, 3_300, 3_301]).await, [some(0), some(0), some(1), some(1)]);
        // Keys without an expiry are renewed, too.
        assert_eq!(had(&[None, None], &[0, 899, 900]).await, [some(0), some(0), some(1)]);
        // Short-lived keys are used until they expire.
        assert_eq!(had(&[Some(60), Some(120)], &[0, 59, 60]).await, [some(0), some(0), some(1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn old_ones_serve_while_new_ones_cant_be_had() {
        let some = |nth: u32| Some(nth.to_string());
        assert_eq!(had(&[Some(3_600)], &[0, 3_400, 3_599, 3_600]).await, [some(0), some(0), some(0), None]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_provider_that_fails_is_not_asked_at_each_request() {
        let (provider, credentials) = provided(vec![Some(second(3_600))]);
        let mut asked = Vec::new();
        for now in [0, 3_400, 3_401, 3_429, 3_430] {
            credentials.get(second(now)).await.expect("valid keys");
            tokio::time::sleep(Duration::from_millis(1)).await;
            asked.push(provider.asked.load(Ordering::Relaxed));
        }
        assert_eq!(asked, [1, 2, 2, 2, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn refused_ones_are_asked_for_anew() {
        let (_, credentials) = provided(vec![None, None]);
        let key = async || {
            let identity = credentials.get(second(0)).await.expect("keys");
            identity.data::<Keys>().expect("keys").access_key_id().to_owned()
        };
        assert_eq!((key().await, key().await), ("0".to_owned(), "0".to_owned()));
        credentials.forget();
        assert_eq!(key().await, "1");
    }

    /// Provides keys after a delay.
    #[derive(Debug)]
    struct Slow(Duration, AtomicU32);

    impl ProvideCredentials for &'static Slow {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            future::ProvideCredentials::new(async {
                self.1.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(self.0).await;
                Ok(Keys::new("slow", "secret", None, None, "test"))
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_provider_is_asked_once_and_waited_for() {
        let slow: &'static Slow = Box::leak(Box::new(Slow(Duration::from_secs(40), AtomicU32::new(0))));
        let credentials = Credentials::new(SharedCredentialsProvider::new(slow));
        let now = SystemTime::UNIX_EPOCH;
        // Like requests, which wait for 15 seconds.
        for _ in 0..2 {
            let waited = tokio::time::timeout(Duration::from_secs(15), credentials.get(now)).await;
            assert!(waited.is_err(), "not yet");
        }
        let identity = tokio::time::timeout(Duration::from_secs(15), credentials.get(now)).await.expect("in time");
        assert_eq!(identity.expect("keys").data::<Keys>().map(Keys::access_key_id), Some("slow"));
        assert_eq!(slow.1.load(Ordering::Relaxed), 1);
    }
}
