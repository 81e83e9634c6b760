//! Opening a stream of binlog events at a place, and why one ends.

use anyhow::anyhow;
use rowmill_core::binlog::DecodeError;
use rowmill_core::position::{BinlogPosition, ResumePoint};

use super::start_point::{ResumeBy, StartPoint};
use crate::ack::StopError;
use crate::config;
use crate::mysql::protocol::{DumpRequest, HEARTBEAT_PERIOD, Login, ReplicationStream, StreamError};
use crate::mysql::{ConnectError, Flavor};

/// The server closes a dump connection that isn't read for this long. While a queue is out of reach
/// nothing is read, so the session asks for a long time.
const NET_WRITE_TIMEOUT_S: u32 = 30 * 24 * 3600;
/// Why the reading stopped.
pub(super) enum Interruption {
    /// A new connection may go on.
    Transient(StreamError),
    /// No new connection can go on.
    Definite(anyhow::Error),
}

impl From<Box<DecodeError>> for Interruption {
    fn from(error: Box<DecodeError>) -> Self {
        let offset = error.transaction.unwrap_or(error.position.offset);
        let transaction = BinlogPosition { offset, ..error.position.clone() };
        Self::Definite(StopError { transaction, error: error.into() }.into())
    }
}

impl From<ConnectError> for Interruption {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Definite(error) => Self::Definite(error),
            ConnectError::Transient(error) => Self::Transient(StreamError::Io(std::io::Error::other(error))),
        }
    }
}

/// A connection on which the binlog comes from a place on; without an end.
pub(super) async fn open_stream(
    config: &config::Source,
    flavor: Flavor,
    place: &StartPoint,
) -> Result<ReplicationStream, StreamError> {
    open_ending(config, flavor, place, Ending::Waits).await
}

/// What the server does where its binlog ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// It waits for more.
    Waits,
    /// It says so: [`StreamError::End`].
    Ends,
}

async fn open_ending(
    config: &config::Source,
    flavor: Flavor,
    place: &StartPoint,
    ending: Ending,
) -> Result<ReplicationStream, StreamError> {
    let mut stream = ReplicationStream::connect(&Login::new(&config.options, &config.tls)).await?;
    stream.run(&format!("SET SESSION net_write_timeout = {NET_WRITE_TIMEOUT_S}")).await?;
    let heartbeat_ns = HEARTBEAT_PERIOD.as_nanos();
    // Servers before 8.0.26, and MariaDB, know the old names alone; newer ones take both.
    for name in ["master", "source"] {
        stream
            .run(&format!(
                "SET @{name}_heartbeat_period = {heartbeat_ns}, @{name}_binlog_checksum = @@global.binlog_checksum"
            ))
            .await?;
    }
    let StartPoint { resume: ResumePoint { gtids, .. }, by, from } = place;
    let server_id = config.server_id;
    // MariaDB leaves annotations out unless they're asked for, though their bytes count.
    let annotations = flavor == Flavor::MariaDb;
    match (flavor, by, gtids) {
        (Flavor::MySql, ResumeBy::Gtids, Some(gtids)) => {
            stream.dump_by_gtids(server_id, &gtids.encode()).await?;
            return Ok(stream);
        }
        (Flavor::MariaDb, ..) => stream.run("SET @mariadb_slave_capability = 4").await?,
        (Flavor::MySql, ..) => {}
    }
    let offset = u32::try_from(from.offset)
        .map_err(|_| StreamError::Setup(anyhow!("{from} is beyond the 4 GiB that a server can be asked for")))?;
    let ends = ending == Ending::Ends;
    stream.dump(&DumpRequest { file: &from.file, offset, server_id, annotations, ends }).await?;
    Ok(stream)
}

/// A stream that ends where the binlog does, from a position on, beside the one of an engine that runs.
pub(super) async fn short_stream(
    config: &config::Source,
    flavor: Flavor,
    from: BinlogPosition,
) -> Result<ReplicationStream, StreamError> {
    open_ending(&beside(config), flavor, &StartPoint::at(ResumePoint::at("", from)), Ending::Ends).await
}

/// With another server ID: the server ends a connection with the ID of a new one, and that of the engine is to stay.
pub(super) fn beside(config: &config::Source) -> config::Source {
    config::Source { server_id: config::random_server_id(), ..config.clone() }
}
