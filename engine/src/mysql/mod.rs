//! The MySQL client: connections, TLS, login, time-outs, and what a server says of itself.
//!
//! The source, the checkpoint store and `check` share it. Two kinds of connection: [`Client`] asks questions by the driver;
//! [`protocol`] streams the binlog, whose events it reads in place.

mod client;
pub(crate) mod columns;
mod connect;
mod driver;
mod errors;
pub(crate) mod protocol;
mod server;
mod tls;

pub(crate) use client::Client;
pub(crate) use connect::driver_connection;
pub use errors::ConnectError;
pub(crate) use errors::{ER_PARSE, ER_SOURCE_FATAL_ERROR_READING_BINLOG, explained, is_final, is_lost_connection};
pub use server::{Flavor, Problem, Server, shown_name};
