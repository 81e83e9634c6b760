//! The login: handshake, TLS, and authentication plugins.
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase.html>

use mysql_async::Opts;
use mysql_common::constants::CapabilityFlags;
use mysql_common::crypto;
use mysql_common::io::ParseBuf;
use mysql_common::packets::{AuthPlugin, AuthSwitchRequest, HandshakePacket, HandshakeResponse, SslRequest};
use mysql_common::proto::MySerialize;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::super::client::{CONNECT_TIMEOUT, timed_out};
use super::super::panic::catch_panic;
use super::packets::ReadBuffer;
use super::stream::{ReplicationStream, Stream, StreamError};
use crate::config::Secret;
use crate::config::{Tls, TlsMode};

/// The address, credentials and TLS settings of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Login {
    pub host: String,
    pub port: u16,
    /// The path of a Unix socket, used instead of host and port.
    pub socket: Option<String>,
    pub user: String,
    pub password: Option<Secret>,
    /// Whether the password may be sent in clear text, over a private connection to a trusted server.
    pub sends_clear_password: bool,
    pub tls: Tls,
}

impl Login {
    /// Makes a login from the driver's options.
    pub fn new(options: &Opts, tls: &Tls) -> Self {
        Self {
            host: options.ip_or_hostname().to_owned(),
            port: options.tcp_port(),
            socket: options.socket().map(str::to_owned),
            user: options.user().unwrap_or_default().to_owned(),
            password: options.pass().map(|password| password.to_owned().into()),
            sends_clear_password: options.enable_cleartext_plugin(),
            tls: tls.clone(),
        }
    }
}

/// Returns the error text for an authentication plugin that is not supported.
pub(crate) fn unknown_plugin(name: &str) -> String {
    format!(
        "cannot log in: the authentication plugin `{name}` is not supported; change the user's plugin: \
         `ALTER USER ... IDENTIFIED WITH caching_sha2_password BY '...'` on MySQL, `ALTER USER ... IDENTIFIED VIA ed25519 \
         USING PASSWORD('...')` on MariaDB"
    )
}

/// Returns the error text for a server without TLS where TLS is required.
pub(crate) fn no_tls(tls: &Tls) -> String {
    let section = tls.section;
    format!(
        "the server does not support TLS, and {section}.mode requires it (the default for a server on another machine); \
         give the server a certificate, or set {section}.mode to \"preferred\""
    )
}

/// Returns the error text if the password may not be sent in clear text.
pub(crate) fn clear_password() -> String {
    "cannot log in: the server asks for the password in clear text (`mysql_clear_password`), which is sent only to a server \
     that TLS has verified, and only if the URL ends with `?enable_cleartext_plugin=true`; add that, and set the TLS mode to \
     \"verify-identity\""
        .to_owned()
}

/// Returns the error for a plugin that needs a password, if there is none.
fn no_password(name: &str) -> StreamError {
    StreamError::Setup(anyhow::anyhow!(
        "cannot log in by the authentication plugin `{name}`, which needs a password: no password is configured"
    ))
}

const PACKET_BYTES_MAX: u32 = 1 << 30;
const UTF8MB4_GENERAL_CI: u8 = 45;

const CAPABILITIES: CapabilityFlags = CapabilityFlags::CLIENT_PROTOCOL_41
    .union(CapabilityFlags::CLIENT_SECURE_CONNECTION)
    .union(CapabilityFlags::CLIENT_LONG_PASSWORD)
    .union(CapabilityFlags::CLIENT_LONG_FLAG)
    .union(CapabilityFlags::CLIENT_TRANSACTIONS)
    .union(CapabilityFlags::CLIENT_PLUGIN_AUTH)
    .union(CapabilityFlags::CLIENT_PLUGIN_AUTH_LENENC_CLIENT_DATA)
    .union(CapabilityFlags::CLIENT_CONNECT_ATTRS);

/// Maximum of PARSEC's factor, which the server sends: PARSEC takes 1,024 * 2^factor iterations. MariaDB uses at most 3; this
/// maximum takes a second.
const PARSEC_FACTOR_MAX: u8 = 10;

/// The state of an authentication.
struct Proof<'a> {
    plugin: AuthPlugin<'static>,
    nonce: Vec<u8>,
    password: &'a str,
    /// Whether the connection is encrypted, or is a local socket.
    is_private: bool,
    sends_clear_password: bool,
    switched: bool,
    /// Whether PARSEC's salt has been answered.
    salted: bool,
}

impl ReplicationStream {
    /// Connects and logs in.
    pub async fn connect(login: &Login) -> Result<Self, StreamError> {
        let connecting = async {
            let stream = match &login.socket {
                Some(path) => Stream::Unix(UnixStream::connect(path).await?),
                None => {
                    let stream = TcpStream::connect((login.host.as_str(), login.port)).await?;
                    stream.set_nodelay(true)?;
                    Stream::Tcp(stream)
                }
            };
            let mut wire = Self { stream, buffer: ReadBuffer::default(), sequence: 0 };
            wire.log_in(login).await?;
            Ok(wire)
        };
        timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or_else(|_| Err(timed_out(CONNECT_TIMEOUT).into()))
    }

    /// Logs in: answers the server's greeting.
    async fn log_in(&mut self, login: &Login) -> Result<(), StreamError> {
        let greeting = self.packet().await?;
        let handshake: HandshakePacket<'_> = parse(&greeting)?;
        let mut nonce = handshake.scramble_1_ref().to_vec();
        nonce.extend_from_slice(handshake.scramble_2_ref().unwrap_or_default());
        nonce.resize(20, 0); // without the terminating zero byte
        let version = handshake
            .maria_db_server_version_parsed()
            .or_else(|| handshake.server_version_parsed())
            .unwrap_or((0, 0, 0));
        let mut capabilities = CAPABILITIES & handshake.capabilities();
        let plugin = match handshake.auth_plugin() {
            Some(AuthPlugin::CachingSha2Password) => AuthPlugin::CachingSha2Password,
            _ => AuthPlugin::MysqlNativePassword,
        };

        let is_socket = matches!(self.stream, Stream::Unix(_));
        let offers_tls = handshake.capabilities().contains(CapabilityFlags::CLIENT_SSL);
        let mode = login.tls.mode_for(&login.host);
        if !is_socket && mode != TlsMode::Disabled {
            if offers_tls {
                capabilities |= CapabilityFlags::CLIENT_SSL;
                self.send_struct(&SslRequest::new(capabilities, PACKET_BYTES_MAX, UTF8MB4_GENERAL_CI)).await?;
                self.secure(&login.host, login.tls.client(&login.host)?).await?;
            } else if mode > TlsMode::Preferred {
                return Err(StreamError::Setup(anyhow::anyhow!(no_tls(&login.tls))));
            }
        }
        let mut proof = Proof {
            plugin,
            nonce,
            password: login.password.as_ref().map_or("", Secret::reveal),
            is_private: is_socket || matches!(self.stream, Stream::Tls(_)),
            sends_clear_password: login.sends_clear_password && (is_socket || login.tls.is_trusted(&login.host)),
            switched: false,
            salted: false,
        };
        let attributes = [("program_name", "rowmill"), ("_client_version", env!("CARGO_PKG_VERSION"))];
        let attributes = attributes.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let response = HandshakeResponse::new(
            Some(proof.first_answer()?),
            version,
            Some(login.user.as_bytes()),
            None::<&[u8]>,
            Some(proof.plugin.clone()),
            capabilities,
            Some(attributes),
            PACKET_BYTES_MAX,
        );
        self.send_struct(&response).await?;
        self.prove(&mut proof).await
    }

    /// Answers the server's authentication requests until the server accepts the login.
    async fn prove(&mut self, proof: &mut Proof<'_>) -> Result<(), StreamError> {
        const OK: u8 = 0x00;
        const MORE_DATA: u8 = 0x01;
        const SWITCH: u8 = 0xfe;
        const FAST_PATH: u8 = 3;
        const FULL_PATH: u8 = 4;
        const ASK_FOR_KEY: u8 = 2;
        loop {
            let packet = self.packet().await?;
            match (packet.first(), &proof.plugin) {
                (Some(&OK), _) => return Ok(()),
                // A request without a plugin's name means the plugin of old servers, which know no other one.
                (Some(&SWITCH), _) if packet.len() == 1 => {
                    return Err(StreamError::Setup(anyhow::anyhow!(unknown_plugin("mysql_old_password"))));
                }
                (Some(&SWITCH), _) if !proof.switched => {
                    let request: AuthSwitchRequest<'_> = parse(&packet)?;
                    proof.switched = true;
                    proof.plugin = request.auth_plugin().clone().into_owned();
                    proof.nonce = match proof.plugin {
                        AuthPlugin::Ed25519 | AuthPlugin::MariadbParsec { .. } => whole_nonce(&packet).to_vec(),
                        _ => request.plugin_data().to_vec(),
                    };
                    self.send(&proof.first_answer()?).await?;
                }
                (Some(&MORE_DATA), AuthPlugin::CachingSha2Password) => match packet.get(1) {
                    Some(&FAST_PATH) => {}
                    Some(&FULL_PATH) if proof.is_private => self.send(&proof.clear()).await?,
                    Some(&FULL_PATH) => {
                        self.send(&[ASK_FOR_KEY]).await?;
                        let key = self.packet().await?;
                        let mut password = proof.clear();
                        let nonce = proof.nonce.iter().cycle();
                        password.iter_mut().zip(nonce).for_each(|(byte, nonce)| *byte ^= nonce);
                        let key = key.get(1..).ok_or(StreamError::Protocol("a public key"))?;
                        // `encrypt` panics if the key is invalid, or if the password is too long for the key.
                        let encrypted = catch_panic(|| crypto::encrypt(&password, key)).map_err(|error| {
                            StreamError::Setup(anyhow::anyhow!(
                                "cannot encrypt the password by the server's public key: {error}; set source.tls.mode \
                                 to \"verify-identity\", which needs no key"
                            ))
                        })?;
                        self.send(&encrypted).await?;
                    }
                    _ => return Err(StreamError::Protocol("the answer to a password")),
                },
                (Some(_), AuthPlugin::MariadbParsec { .. }) if !proof.salted => {
                    // The first servers with PARSEC omitted the byte before the salt.
                    let salt = packet.strip_prefix(&[MORE_DATA]).unwrap_or(&packet);
                    let answer = proof.answer_to_salt(salt)?;
                    self.send(&answer).await?;
                }
                _ => return Err(StreamError::Protocol("the answer to a password")),
            }
        }
    }
}

impl Proof<'_> {
    /// Returns the first answer of the plugin.
    fn first_answer(&self) -> Result<Vec<u8>, StreamError> {
        match &self.plugin {
            AuthPlugin::MysqlClearPassword if self.is_private && self.sends_clear_password => Ok(self.clear()),
            AuthPlugin::MysqlClearPassword => Err(StreamError::Setup(anyhow::anyhow!(clear_password()))),
            // The server sends the user's salt first.
            AuthPlugin::MariadbParsec { .. } => Ok(Vec::new()),
            AuthPlugin::MysqlNativePassword | AuthPlugin::CachingSha2Password | AuthPlugin::Ed25519 => {
                let data =
                    self.plugin.gen_data(Some(self.password).filter(|password| !password.is_empty()), &self.nonce);
                Ok(data.map(|data| data.to_vec()).unwrap_or_default())
            }
            other => {
                let name = String::from_utf8_lossy(other.as_bytes());
                Err(StreamError::Setup(anyhow::anyhow!(unknown_plugin(&name))))
            }
        }
    }

    /// Returns PARSEC's answer: the client's nonce, and a signature of both nonces by a key derived from password and salt.
    /// <https://mariadb.com/kb/en/authentication-plugin-parsec/>
    fn answer_to_salt(&mut self, salt: &[u8]) -> Result<Vec<u8>, StreamError> {
        self.salted = true;
        let factor = salt.get(1).copied().unwrap_or_default();
        if factor > PARSEC_FACTOR_MAX || self.plugin.read_add_data(salt).is_none() {
            return Err(StreamError::Protocol("PARSEC's salt"));
        }
        if self.password.is_empty() {
            return Err(no_password("parsec"));
        }
        match self.plugin.gen_data(Some(self.password), &self.nonce) {
            Some(data) => Ok(data.to_vec()),
            None => Err(StreamError::Protocol("PARSEC's nonce")),
        }
    }

    fn clear(&self) -> Vec<u8> {
        let mut bytes = self.password.as_bytes().to_vec();
        bytes.push(0);
        bytes
    }
}

/// Returns the whole nonce of a request to switch, which follows the plugin's name. For other plugins a zero byte ends the
/// nonce, and the packet's own parser drops that byte; a nonce of ed25519 or PARSEC, 32 random bytes, may itself end with one.
fn whole_nonce(switch: &[u8]) -> &[u8] {
    switch.iter().position(|&byte| byte == 0).map_or(&[], |end| &switch[end + 1..])
}

fn parse<'a, T: mysql_common::proto::MyDeserialize<'a, Ctx = ()>>(packet: &'a [u8]) -> Result<T, StreamError> {
    ParseBuf(packet).parse(()).map_err(|_| StreamError::Protocol("the greeting"))
}

impl ReplicationStream {
    async fn send_struct(&mut self, packet: &impl MySerialize) -> Result<(), StreamError> {
        let mut bytes = Vec::new();
        packet.serialize(&mut bytes);
        self.send(&bytes).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_keeps_its_last_zero() {
        let nonce = [[7; 31].as_slice(), &[0]].concat();
        let packet = [b"\xfeclient_ed25519\0".as_slice(), &nonce].concat();
        assert_eq!(whole_nonce(&packet), nonce);
        assert_eq!(whole_nonce(b"\xfe"), b"");
    }
}
