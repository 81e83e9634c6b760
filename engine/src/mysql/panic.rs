//! Panics of libraries as errors.

use std::any::Any;
use std::borrow::Cow;
use std::cell::Cell;
use std::future::poll_fn;
use std::panic::{self, AssertUnwindSafe};
use std::pin::pin;
use std::sync::Once;
use std::task::Poll;

/// A panic, with its message.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Panicked(Cow<'static, str>);

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
pub(super) async fn catch_panic_async<T>(future: impl Future<Output = T>) -> Result<T, Panicked> {
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
