//! The AWS parts of sinks: the account, its credentials, signed requests, and the bucket for large bodies.

mod account;
mod credentials;
mod error;
mod extended_client;
#[cfg(test)]
pub(super) mod fake;
mod http;

pub(super) use account::Account;
pub(super) use error::describe;
pub(super) use extended_client::{SIZE_ATTRIBUTE, Store, Stored};
pub use http::Connections;
pub(super) use http::{Api, Failure, Service};
