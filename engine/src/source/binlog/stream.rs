//! Opens a stream of binlog events at a start point, and classifies why a stream ends.

use anyhow::anyhow;
use rowmill_core::binlog::DecodeError;
use rowmill_core::position::{BinlogPosition, ResumePoint};

use super::start_point::{ResumeBy, StartPoint};
use crate::ack::StopError;
use crate::config;
use crate::mysql::protocol::{DumpRequest, HEARTBEAT_PERIOD, Login, ReplicationStream, StreamError};
use crate::mysql::{ConnectError, Flavor};

/// The server closes a dump connection on which a write blocks for this long, in seconds. While a queue cannot be reached
/// nothing is read, so the session asks for a long time.
const NET_WRITE_TIMEOUT_S: u32 = 30 * 24 * 3600;
/// Why reading was interrupted.
pub(super) enum Interruption {
    /// The connection failed. A new one may succeed, unless `mysql::is_definite` says otherwise.
    Transient(StreamError),
    /// No new connection can succeed.
    Definite(anyhow::Error),
}

impl From<Box<DecodeError>> for Interruption {
    fn from(error: Box<DecodeError>) -> Self {
        let offset = error.transaction.unwrap_or(error.position.offset);
        let transaction = BinlogPosition { offset, ..error.position.clone() };
        Self::Definite(StopError { server: "".into(), transaction, error: error.into() }.into())
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

/// Opens a stream at a start point. The stream waits at the end of the binlog for more events.
pub(super) async fn open_stream(
    config: &config::Source,
    flavor: Flavor,
    start: &StartPoint,
) -> Result<ReplicationStream, StreamError> {
    open_with_end(config, flavor, start, Ending::Waits).await
}

/// What the server does at the end of its binlog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// Waits for more events.
    Waits,
    /// Ends the stream: [`StreamError::End`].
    Ends,
}

async fn open_with_end(
    config: &config::Source,
    flavor: Flavor,
    start: &StartPoint,
    ending: Ending,
) -> Result<ReplicationStream, StreamError> {
    let mut stream = ReplicationStream::connect(&Login::new(&config.options, &config.tls)).await?;
    stream.run(&format!("SET SESSION net_write_timeout = {NET_WRITE_TIMEOUT_S}")).await?;
    let heartbeat_ns = HEARTBEAT_PERIOD.as_nanos();
    // MySQL before 8.0.26 and MariaDB know only the `master` names; newer servers accept both.
    for name in ["master", "source"] {
        stream
            .run(&format!(
                "SET @{name}_heartbeat_period = {heartbeat_ns}, @{name}_binlog_checksum = @@global.binlog_checksum"
            ))
            .await?;
    }
    let StartPoint { resume: ResumePoint { gtids, .. }, by, from } = start;
    let server_id = config.server_id;
    // MariaDB omits annotation events unless they are requested, though their bytes count in positions.
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
        .map_err(|_| StreamError::Setup(anyhow!("cannot request {from}: a stream starts at most 4 GiB into a file")))?;
    let ends = ending == Ending::Ends;
    stream.dump(&DumpRequest { file: &from.file, offset, server_id, annotations, ends }).await?;
    Ok(stream)
}

/// Opens a second stream beside the engine's own. It starts at a position and ends at the end of the binlog.
pub(super) async fn open_finite_stream(
    config: &config::Source,
    flavor: Flavor,
    from: BinlogPosition,
) -> Result<ReplicationStream, StreamError> {
    open_with_end(&with_other_server_id(config), flavor, &StartPoint::at(ResumePoint::at("", from)), Ending::Ends).await
}

/// Returns the configuration with another server ID: a server closes an older stream with the same server ID, and the engine's
/// own stream must stay open.
pub(super) fn with_other_server_id(config: &config::Source) -> config::Source {
    config::Source { server_id: config::random_server_id(), ..config.clone() }
}
