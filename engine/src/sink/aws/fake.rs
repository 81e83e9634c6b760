//! A service of AWS for tests.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::http::{Api, Failure};

/// Answers a request's body with an answer's body, or with the error of a failed request.
pub(crate) type Answers = dyn Fn(Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, String>> + Send + Sync;

/// An API whose answers are a closure's.
pub(in crate::sink) struct FakeApi(pub Arc<Answers>);

impl fmt::Debug for FakeApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FakeApi")
    }
}

impl Api for FakeApi {
    fn call(&self, _operation: &'static str, body: Vec<u8>) -> BoxFuture<'_, Result<Bytes, Failure>> {
        let answer = (self.0)(body);
        Box::pin(async move { answer.await.map(Bytes::from).map_err(Failure::Failed) })
    }
}
