//! Connects through the driver, with TLS as configured.

use anyhow::anyhow;
use mysql_async::{DriverError, Opts, OptsBuilder, SslOpts};

use super::client::{CONNECT_TIMEOUT, Client, timed_out};
use super::driver;
use super::errors::{ConnectError, DEFINITE, ER_ACCESS_DENIED};
use super::protocol::no_tls;
use crate::config::{self, Tls, TlsMode};

/// Connects to the source's server.
pub(crate) async fn connect(config: &config::Source) -> Result<Client, ConnectError> {
    match driver_connection(&config.options, &config.tls).await {
        Ok(conn) => Ok(conn),
        Err(error) => Err(match error.downcast() {
            Ok(error) => connect_error(error, config),
            Err(error) => ConnectError::Definite(error),
        }),
    }
}

/// Connects to any server. A login that is rejected is tried once more: the driver drops the last byte of MariaDB's ed25519
/// nonce if that is zero, which is the case for one nonce in 256.
///
/// # Errors
/// The driver's errors, and if certificates cannot be read.
pub(crate) async fn driver_connection(options: &Opts, tls: &Tls) -> anyhow::Result<Client> {
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, connect_without_timeout(options, tls)).await;
    connecting.unwrap_or_else(|_| Err(mysql_async::Error::from(timed_out(CONNECT_TIMEOUT)).into()))
}

async fn connect_without_timeout(options: &Opts, tls: &Tls) -> anyhow::Result<Client> {
    let is_socket = options.socket().is_some();
    let host = options.ip_or_hostname();
    let with = |certificates_used: Option<SslOpts>| {
        let is_private = is_socket || certificates_used.is_some() && tls.is_trusted(host);
        let builder = OptsBuilder::from_opts(options.clone()).ssl_opts(certificates_used);
        Opts::from(builder.enable_cleartext_plugin(is_private && options.enable_cleartext_plugin()))
    };
    let certificates = if is_socket { None } else { tls.driver(host)? };
    let attempt = async || match driver::connect(&with(certificates.clone()), tls).await {
        Err(mysql_async::Error::Driver(DriverError::NoClientSslFlagFromServer))
            if tls.mode_for(host) <= TlsMode::Preferred =>
        {
            driver::connect(&with(None), tls).await
        }
        other => other,
    };
    let result = match attempt().await {
        Err(mysql_async::Error::Server(error)) if error.code == ER_ACCESS_DENIED => attempt().await,
        other => other,
    };
    Ok(Client::new(result?))
}

fn connect_error(error: mysql_async::Error, config: &config::Source) -> ConnectError {
    let address = &config.address;
    match error {
        mysql_async::Error::Driver(DriverError::NoClientSslFlagFromServer) => {
            ConnectError::Definite(anyhow!("{address}: {}", no_tls(&config.tls)))
        }
        mysql_async::Error::Server(server) if server.code == ER_ACCESS_DENIED => ConnectError::Definite(anyhow!(
            "cannot log in: {address} refuses the user or the password ({}); check the user of `source.url`, and the password \
             of `source.url`, `source.password`, `source.password_file` or ROWMILL_SOURCE_PASSWORD",
            server.message
        )),
        mysql_async::Error::Io(mysql_async::IoError::Tls(tls)) => {
            ConnectError::Definite(anyhow::Error::new(tls).context(format!(
                "cannot make a secure connection to {address}; {}",
                config.tls.hint(config.options.ip_or_hostname())
            )))
        }
        mysql_async::Error::Io(mysql_async::IoError::Io(io)) if io.kind() == std::io::ErrorKind::InvalidData => {
            ConnectError::Definite(anyhow::Error::new(io).context(format!(
                "cannot make a secure connection to {address}; {}",
                config.tls.hint(config.options.ip_or_hostname())
            )))
        }
        mysql_async::Error::Server(server) if DEFINITE.contains(&server.code) => ConnectError::Definite(
            anyhow::Error::new(mysql_async::Error::Server(server)).context(format!("cannot connect to {address}")),
        ),
        mysql_async::Error::Other(reason) => ConnectError::Definite(anyhow!("{address}: {reason}")),
        mysql_async::Error::Io(io) => ConnectError::Transient(
            anyhow::Error::new(io)
                .context(format!("cannot reach {address}; is the server running, and is the address right?")),
        ),
        other => ConnectError::Transient(anyhow::Error::new(other).context(format!("cannot connect to {address}"))),
    }
}
