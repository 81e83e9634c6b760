//! The AWS parts of sinks: the account, its credentials, and signed requests.

mod account;
mod credentials;
mod error;
mod http;

pub(super) use account::Account;
pub(super) use error::describe;
pub use http::Connections;
pub(super) use http::{Failure, Transport};
