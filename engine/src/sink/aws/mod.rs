//! What sinks of AWS share: the account, its credentials, and requests that are signed and sent.

mod account;
mod credentials;
mod error;
mod http;

pub(super) use account::Account;
pub(super) use error::describe;
pub use http::Connections;
pub(super) use http::{Failure, Transport};
