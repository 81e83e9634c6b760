//! The connection that streams the binlog. Events are read in place here; the driver, which runs all other statements,
//! decompresses whole transactions and copies each event.
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_replication.html>

mod login;
mod packets;
mod stream;

pub(crate) use login::{Login, clear_password, no_tls, unknown_plugin};
pub(crate) use stream::{DumpRequest, HEARTBEAT_PERIOD, ReplicationStream, StreamError};
