//! The MySQL client: connections, TLS, login, time-outs, and a server's settings.
//!
//! The source, the checkpoint store and `check` share this module. There are two kinds of connection: [`Client`] runs
//! statements through the driver; [`protocol`] streams the binlog, and reads its events in place.

mod binary_logs;
mod client;
pub(crate) mod columns;
mod connect;
mod driver;
mod errors;
mod panic;
pub(crate) mod protocol;
mod server;
mod tls;

pub(crate) use client::Client;
pub(crate) use connect::driver_connection;
pub use errors::ConnectError;
pub(crate) use errors::{
    ER_SOURCE_FATAL_ERROR_READING_BINLOG, is_definite, is_duplicate_server_id, is_lost_connection, with_fix,
};
pub use server::{Flavor, Problem, Server};
