//! TLS settings of a connection: `[source.tls]` and `[checkpoint.tls]`.

use std::path::PathBuf;

use serde::Deserialize;

use super::text::Text;

/// The TLS settings of a connection.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The section of the configuration that has these settings.
    pub section: &'static str,
    /// The mode. `None`: it depends on the host, see [`Tls::mode_for`].
    pub mode: Option<TlsMode>,
    /// A PEM file with the authorities that may sign the server's certificate. `None`: the system's authorities.
    pub ca: Option<PathBuf>,
    /// The client's certificate and private key, each a PEM file.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// The required security of a connection: values and meanings are those of MySQL's `--ssl-mode`. `VERIFY_CA` is missing: the
/// driver cannot verify a certificate without the host's name.
/// <https://dev.mysql.com/doc/refman/8.4/en/connection-options.html#option_general_ssl-mode>
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    /// No TLS.
    Disabled,
    /// TLS if the server offers it, with any certificate.
    Preferred,
    /// TLS, with any certificate.
    Required,
    /// TLS, with a certificate that a known authority signed for the host's name.
    VerifyIdentity,
}

impl Default for Tls {
    fn default() -> Self {
        Self { section: "source.tls", mode: None, ca: None, identity: None }
    }
}

impl std::fmt::Display for TlsMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Disabled => "disabled",
            Self::Preferred => "preferred",
            Self::Required => "required",
            Self::VerifyIdentity => "verify-identity",
        })
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct TlsTable {
    mode: Option<TlsMode>,
    ca: Option<Text>,
    cert: Option<Text>,
    key: Option<Text>,
}

/// Reads the TLS settings of a section.
///
/// # Errors
/// If they contradict each other.
pub(super) fn tls(section: &'static str, table: TlsTable) -> Result<Tls, String> {
    let TlsTable { mode, ca, cert, key } = table;
    let path = |text: Text| PathBuf::from(text.0);
    let ca = ca.map(path);
    // An authority has a use only where certificates are verified.
    let mode = mode.or(ca.is_some().then_some(TlsMode::VerifyIdentity));
    if ca.is_some() && mode < Some(TlsMode::VerifyIdentity) {
        return Err(format!("{section}: `ca` is used only if `mode` is \"verify-identity\""));
    }
    let identity = match (cert, key) {
        (None, None) => None,
        (Some(cert), Some(key)) => Some((path(cert), path(key))),
        _ => return Err(format!("{section}: `cert` and `key` need each other")),
    };
    Ok(Tls { section, mode, ca, identity })
}
