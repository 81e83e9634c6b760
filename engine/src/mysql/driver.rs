//! The driver's login, with panics turned into errors: nothing that a server sends may end the process.
//!
//! The driver panics if an authentication plugin needs a password and there is none, and for one in 256 of PARSEC's nonces,
//! those that end with a zero byte, which the driver drops.

use mysql_async::{Conn, DriverError, Error, Opts, ServerError};

use super::panic::catch_panic_async;
use super::protocol::{Login, ReplicationStream, StreamError, clear_password, unknown_plugin};
use crate::config::Tls;

/// Maximum attempts of a login that panics; each has a new nonce.
const TRIES: usize = 4;

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
