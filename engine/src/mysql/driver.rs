//! The driver's login, with panics turned into errors: nothing that a server sends may end the process.
//!
//! The driver panics if an authentication plugin needs a password and there is none, and for one in 256 of PARSEC's nonces,
//! those that end with a zero byte, which the driver drops.

use std::any::Any;
use std::borrow::Cow;
use std::cell::Cell;
use std::future::poll_fn;
use std::panic::{self, AssertUnwindSafe};
use std::pin::pin;
use std::sync::Once;
use std::task::Poll;

use mysql_async::{Conn, DriverError, Error, Opts, ServerError};

use super::protocol::{Login, ReplicationStream, StreamError, clear_password, unknown_plugin};
use crate::config::Tls;

/// Maximum attempts of a login that panics; each has a new nonce.
const TRIES: usize = 4;

/// A panic, with its message.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Panicked(Cow<'static, str>);

/// Connects through the driver. An error that the user must act on is [`Error::Other`].
///
/// # Errors
/// The driver's.
pub(super) async fn connect(options: &Opts, tls: &Tls) -> Result<Conn, Error> {
    let mut panicked = None;
    for _ in 0..TRIES {
        match catch_panic_async(Conn::new(options.clone())).await {
            Ok(result) => return result.map_err(with_login_fix),
            Err(error) => panicked = Some(error),
        }
        // The login of the replication stream does not panic, and returns the reason if no login can succeed.
        ReplicationStream::connect(&Login::new(options, tls)).await.map_err(to_driver_error)?;
    }
    let reason = panicked.map(|error| error.to_string()).unwrap_or_default();
    Err(other(format!("cannot log in: the driver panicked: {reason}")))
}

fn with_login_fix(error: Error) -> Error {
    match error {
        Error::Driver(DriverError::UnknownAuthPlugin { name }) => other(unknown_plugin(&name)),
        Error::Driver(DriverError::MysqlOldPasswordDisabled) => other(unknown_plugin("mysql_old_password")),
        Error::Driver(DriverError::CleartextPluginDisabled) => other(clear_password()),
        Error::Driver(DriverError::InvalidParsecSalt) => other(unknown_plugin("parsec (of another version)")),
        error => error,
    }
}

fn other(text: String) -> Error {
    Error::Other(text.into())
}

/// Converts an error to the driver's type.
fn to_driver_error(error: StreamError) -> Error {
    match error {
        StreamError::Server { code, message } => Error::Server(ServerError { code, message, state: String::new() }),
        StreamError::Io(error) => error.into(),
        StreamError::Setup(error) => other(format!("{error:#}")),
        error => other(error.to_string()),
    }
}

thread_local! {
    static IS_CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Runs a closure that may panic, without the panic's message on standard error.
pub(super) fn catch_panic<T>(run: impl FnOnce() -> T) -> Result<T, Panicked> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let uncaught = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !IS_CAUGHT.try_with(Cell::get).unwrap_or(false) {
                uncaught(info);
            }
        }));
    });
    let was_caught = IS_CAUGHT.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(run));
    IS_CAUGHT.set(was_caught);
    result.map_err(|panic| Panicked(said(&*panic)))
}

fn said(panic: &(dyn Any + Send)) -> Cow<'static, str> {
    match (panic.downcast_ref::<&'static str>(), panic.downcast_ref::<String>()) {
        (Some(&text), _) => text.into(),
        (None, Some(text)) => text.clone().into(),
        (None, None) => "a panic without a message".into(),
    }
}

/// Runs a future that may panic, without the panic's message on standard error.
async fn catch_panic_async<T>(future: impl Future<Output = T>) -> Result<T, Panicked> {
    let mut future = pin!(future);
    poll_fn(|context| match catch_panic(|| future.as_mut().poll(context)) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
        Err(panicked) => Poll::Ready(Err(panicked)),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error() {
        assert_eq!(catch_panic(|| 7).expect("no panic"), 7);
        let number = 8;
        let error = catch_panic(|| -> u8 { panic!("number {number}") }).expect_err("a panic");
        assert_eq!(error.to_string(), "number 8");
        let later = async {
            tokio::task::yield_now().await;
            let nothing: Option<u8> = "x".parse().ok();
            nothing.expect("a number")
        };
        assert_eq!(catch_panic_async(later).await.expect_err("a panic").to_string(), "a number");
        assert_eq!(catch_panic_async(async { 9 }).await.expect("no panic"), 9);
    }
}
