//! Errors of servers and connections: classifies them as transient or definite, and adds the fix.

use std::io::ErrorKind;

use anyhow::anyhow;

use super::protocol::StreamError;
use crate::config;

pub(crate) const ER_ACCESS_DENIED: u16 = 1045;
pub(crate) const ER_SPECIFIC_ACCESS_DENIED: u16 = 1227;
pub(crate) const ER_PARSE: u16 = 1064;

/// Codes of definite errors when connecting, beside [`ER_ACCESS_DENIED`]: privileges, databases, hosts, accounts. All other
/// codes are transient.
/// <https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html>
pub(super) const DEFINITE: [u16; 13] = [1044, 1049, 1130, 1227, 1251, 1524, 1698, 1820, 1862, 3118, 3159, 3955, 4151];

/// The server's error when it cannot send the binlog; the message has the reason.
pub(crate) const ER_SOURCE_FATAL_ERROR_READING_BINLOG: u16 = 1236;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A later attempt may succeed.
    #[error("{0:#}")]
    Transient(anyhow::Error),
    /// No later attempt succeeds until a user changes something.
    #[error("{0:#}")]
    Definite(anyhow::Error),
}

/// Returns whether a statement failed because of the connection, or because the server is starting, stopping, read-only or
/// overloaded.
pub(crate) fn is_lost_connection(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| match (cause.downcast_ref::<mysql_async::Error>(), cause.downcast_ref::<StreamError>()) {
        (Some(mysql_async::Error::Server(error)), _) => is_transient(error.code),
        (Some(mysql_async::Error::Io(mysql_async::IoError::Io(error))), _) => error.kind() != ErrorKind::InvalidData,
        (Some(mysql_async::Error::Driver(error)), _) => {
            !matches!(error, mysql_async::DriverError::NoClientSslFlagFromServer)
        }
        (_, Some(StreamError::Server { code, .. })) => is_transient(*code),
        (_, Some(error)) => !is_definite(error),
        _ => false,
    })
}

/// Returns whether a code is of a server that is starting, stopping, read-only or overloaded.
/// <https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html>
fn is_transient(code: u16) -> bool {
    const TOO_MANY_CONNECTIONS: [u16; 4] = [1040, 1041, 1203, 1226];
    const SHUTTING_DOWN_OR_STARTING: [u16; 5] = [1053, 1077, 3032, 3168, 4031];
    const THREADS_AND_NETWORK: [u16; 6] = [1135, 1152, 1158, 1159, 1160, 1161];
    const LOCKS_AND_READ_ONLY: [u16; 4] = [1205, 1213, 1290, 1836];
    [&TOO_MANY_CONNECTIONS[..], &SHUTTING_DOWN_OR_STARTING, &THREADS_AND_NETWORK, &LOCKS_AND_READ_ONLY]
        .iter()
        .any(|codes| codes.contains(&code))
}

/// Returns whether a new connection would fail in the same way.
pub(crate) fn is_definite(error: &StreamError) -> bool {
    match error {
        StreamError::Server { code, .. } => {
            matches!(*code, ER_SOURCE_FATAL_ERROR_READING_BINLOG | ER_ACCESS_DENIED | ER_SPECIFIC_ACCESS_DENIED)
        }
        StreamError::Setup(_) => true,
        _ => false,
    }
}

/// Returns whether a server's message says that it ended a stream because another one has the same server ID.
pub(crate) fn is_duplicate_server_id(message: &str) -> bool {
    message.contains("same server_uuid/server_id") || message.contains("same server_id")
}

/// Adds the fix to a server's error.
pub(crate) fn with_fix(error: StreamError, config: &config::Source) -> anyhow::Error {
    let StreamError::Server { code, message } = &error else { return error.into() };
    let fix = match *code {
        ER_SPECIFIC_ACCESS_DENIED | ER_ACCESS_DENIED => {
            let user = config.options.user().unwrap_or_default();
            format!("run `GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO {user}`")
        }
        _ if is_duplicate_server_id(message) => {
            format!("another replica uses server_id {} too; set a unique one by `source.server_id`", config.server_id)
        }
        _ if message.contains("purged") || message.contains("find first log file") => {
            "take a new copy of the tables, then remove the checkpoint and start at \"earliest\"".to_owned()
        }
        _ => return error.into(),
    };
    anyhow!("{error}; {fix}")
}
