//! The stream: its connection, commands and events.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::packets::{ReadBuffer, TooLarge, framed};

use super::super::client::timed_out;
use super::super::tls::server_name;

/// How often the server sends a heartbeat while it has nothing else to send.
pub(crate) const HEARTBEAT_PERIOD: Duration = Duration::from_secs(5);
/// A connection that is silent for longer counts as lost.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Time-out for the answer to a statement, and for sending one.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a connection cannot be used, or can no longer be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    /// The connection was cut, or could not be made.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The server sent nothing, not even heartbeats.
    #[error("the server sent nothing for {SILENCE_MAX:?}, not even a heartbeat")]
    Silence,
    /// The server reported the end of the stream, which is not a closed connection.
    #[error("the server ended the stream")]
    End,
    /// The server reported an error.
    #[error("{message} (error {code})")]
    Server {
        /// MySQL's error code.
        code: u16,
        /// MySQL's message.
        message: String,
    },
    /// The server violated the protocol.
    #[error("unexpected packet from the server instead of {0}")]
    Protocol(&'static str),
    /// The settings or the server's data make it impossible to continue.
    #[error("{0:#}")]
    Setup(#[from] anyhow::Error),
}

/// A connection that can stream the binlog.
#[derive(Debug)]
pub(crate) struct ReplicationStream {
    pub(super) stream: Stream,
    pub(super) buffer: ReadBuffer,
    /// The sequence number of the next packet to send.
    pub(super) sequence: u8,
}

#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
    /// During the TLS handshake.
    None,
}

/// A request for the binlog from a position.
#[derive(Debug, Clone)]
pub(crate) struct DumpRequest<'a> {
    pub file: &'a str,
    /// At most 4 GiB into the file.
    pub offset: u32,
    /// The server ID, which no other replica may have.
    pub server_id: u32,
    /// Whether to send annotation events. MariaDB omits them by default, though their bytes count in positions.
    pub annotations: bool,
    /// Whether the stream ends at the end of the binlog, instead of waiting for more.
    pub ends: bool,
}

impl ReplicationStream {
    /// Runs a statement that returns no rows.
    pub async fn run(&mut self, statement: &str) -> Result<(), StreamError> {
        const COM_QUERY: u8 = 0x03;
        const OK: u8 = 0x00;
        self.command(COM_QUERY, statement.as_bytes()).await?;
        let answer = timeout(ANSWER_TIMEOUT, self.packet()).await.map_err(|_| timed_out(ANSWER_TIMEOUT))??;
        if answer.first() == Some(&OK) { Ok(()) } else { Err(StreamError::Protocol("an OK")) }
    }

    /// Requests the binlog. From then on only events may be taken.
    pub async fn dump(&mut self, request: &DumpRequest<'_>) -> Result<(), StreamError> {
        const COM_BINLOG_DUMP: u8 = 0x12;
        const SEND_ANNOTATE_ROWS: u16 = 2;
        const NON_BLOCK: u16 = 1;
        let flag = |is_set: bool, flag: u16| if is_set { flag } else { 0 };
        let flags = flag(request.annotations, SEND_ANNOTATE_ROWS) | flag(request.ends, NON_BLOCK);
        let mut body = Vec::new();
        body.extend_from_slice(&request.offset.to_le_bytes());
        body.extend_from_slice(&flags.to_le_bytes());
        body.extend_from_slice(&request.server_id.to_le_bytes());
        body.extend_from_slice(request.file.as_bytes());
        self.command(COM_BINLOG_DUMP, &body).await
    }

    /// Requests the transactions that are not in a set of GTIDs, as encoded by [`GtidSet::encode`]. From then on only events
    /// may be taken.
    ///
    /// [`GtidSet::encode`]: rowmill_core::gtid::GtidSet::encode
    pub async fn dump_by_gtids(&mut self, server_id: u32, gtids: &[u8]) -> Result<(), StreamError> {
        const COM_BINLOG_DUMP_GTID: u8 = 0x1e;
        const THROUGH_GTID: u16 = 4;
        const FIRST_EVENT: u64 = 4;
        let mut body = Vec::new();
        body.extend_from_slice(&THROUGH_GTID.to_le_bytes());
        body.extend_from_slice(&server_id.to_le_bytes());
        body.extend_from_slice(&0u32.to_le_bytes()); // no file
        body.extend_from_slice(&FIRST_EVENT.to_le_bytes());
        body.extend_from_slice(&(gtids.len() as u32).to_le_bytes());
        body.extend_from_slice(gtids);
        self.command(COM_BINLOG_DUMP_GTID, &body).await
    }

    /// Returns the next event, from its header to its checksum, or `None` if it has not been received yet.
    #[inline]
    pub fn try_next_event(&mut self) -> Result<Option<&[u8]>, StreamError> {
        let extent = loop {
            match self.buffer.extent()? {
                Some(extent) => break extent,
                None => match self.fill().now_or_never() {
                    Some(filled) => filled?,
                    None => return Ok(None),
                },
            }
        };
        event(self.buffer.take(extent)).map(Some)
    }

    /// Waits for the next event. Cancel-safe.
    pub async fn event(&mut self) -> Result<&[u8], StreamError> {
        let extent = loop {
            match self.buffer.extent()? {
                Some(extent) => break extent,
                None => self.receive().await?,
            }
        };
        event(self.buffer.take(extent))
    }

    /// Waits until bytes are received. Cancel-safe.
    pub async fn receive(&mut self) -> Result<(), StreamError> {
        Ok(timeout(SILENCE_MAX, self.fill()).await.map_err(|_| StreamError::Silence)??)
    }

    async fn fill(&mut self) -> io::Result<()> {
        let room = self.buffer.room();
        let len = match &mut self.stream {
            Stream::Tcp(stream) => stream.read(room).await?,
            Stream::Tls(stream) => stream.read(room).await?,
            Stream::Unix(stream) => stream.read(room).await?,
            Stream::None => 0,
        };
        if len == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"));
        }
        self.buffer.filled(len);
        Ok(())
    }

    /// Receives a packet before the stream starts; an error packet is returned as the error.
    pub(super) async fn packet(&mut self) -> Result<Vec<u8>, StreamError> {
        let extent = loop {
            match self.buffer.extent()? {
                Some(extent) => break extent,
                None => self.fill().await?,
            }
        };
        let payload = self.buffer.take(extent).to_vec();
        self.sequence = extent.sequence.wrapping_add(1);
        match error_of(&payload) {
            Some(error) => Err(error),
            None => Ok(payload),
        }
    }

    async fn command(&mut self, command: u8, body: &[u8]) -> Result<(), StreamError> {
        self.sequence = 0;
        let mut payload = vec![command];
        payload.extend_from_slice(body);
        self.send(&payload).await
    }

    pub(super) async fn send(&mut self, payload: &[u8]) -> Result<(), StreamError> {
        let bytes = framed(payload, self.sequence);
        self.sequence = self.sequence.wrapping_add(1);
        timeout(ANSWER_TIMEOUT, self.write(&bytes)).await.map_err(|_| timed_out(ANSWER_TIMEOUT))?
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        match &mut self.stream {
            Stream::Tcp(stream) => stream.write_all(bytes).await?,
            Stream::Tls(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await?;
            }
            Stream::Unix(stream) => stream.write_all(bytes).await?,
            Stream::None => {}
        }
        Ok(())
    }

    pub(super) async fn secure(&mut self, host: &str, config: Arc<rustls::ClientConfig>) -> Result<(), StreamError> {
        let name = ServerName::try_from(server_name(host).to_owned())
            .map_err(|_| StreamError::Setup(anyhow::anyhow!("cannot use TLS with `{host}`: not a valid host name")))?;
        let Stream::Tcp(stream) = std::mem::replace(&mut self.stream, Stream::None) else { return Ok(()) };
        let stream = TlsConnector::from(config).connect(name, stream).await?;
        self.stream = Stream::Tls(Box::new(stream));
        Ok(())
    }
}

impl From<TooLarge> for StreamError {
    fn from(error: TooLarge) -> Self {
        Self::Io(io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

/// Returns the event in a packet; an error if the packet has an error or the end of the stream.
#[inline]
fn event(packet: &[u8]) -> Result<&[u8], StreamError> {
    const OK: u8 = 0x00;
    const END: u8 = 0xfe;
    match packet.split_first() {
        Some((&OK, event)) => Ok(event),
        Some((&END, rest)) if rest.len() < 8 => Err(StreamError::End),
        _ => Err(error_of(packet).unwrap_or(StreamError::Protocol("a binlog event"))),
    }
}

fn error_of(packet: &[u8]) -> Option<StreamError> {
    const ERROR: u8 = 0xff;
    if packet.first() != Some(&ERROR) {
        return None;
    }
    let Some((&[low, high], message)) = packet[1..].split_first_chunk() else {
        return Some(StreamError::Protocol("an error packet"));
    };
    // Errors before the greeting have no SQL state.
    let message = match message {
        [b'#', _, _, _, _, _, message @ ..] => message,
        message => message,
    };
    let message = String::from_utf8_lossy(message).into_owned();
    Some(StreamError::Server { code: u16::from_le_bytes([low, high]), message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_may_come_before_the_greeting() {
        for packet in [&b"\xff\x10\x04Too many connections"[..], b"\xff\x10\x04#08004Too many connections"] {
            let error = error_of(packet).expect("an error").to_string();
            assert_eq!(error, "Too many connections (error 1040)");
        }
        assert!(error_of(b"\xff\x10").is_some() && error_of(b"\0").is_none());
    }
}
