//! TLS settings of a connection: `[source.tls]` and `[checkpoint.tls]`.

use std::path::PathBuf;

use serde::Deserialize;

use super::text::Text;

/// How a connection is secured.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The section of the configuration that says so.
    pub section: &'static str,
    /// What is asked of it; `None`: by the host, see [`Tls::mode_for`].
    pub mode: Option<TlsMode>,
    /// Certificates that sign the server's, in PEM; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// The client's certificate and its key, in PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// What is asked of a connection's security: values and meanings of MySQL's `--ssl-mode`. Its
/// `VERIFY_CA` isn't among them: the driver can't verify a certificate without the host's name.
/// <https://dev.mysql.com/doc/refman/8.4/en/connection-options.html#option_general_ssl-mode>
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    /// None.
    Disabled,
    /// Encrypted if the server can.
    Preferred,
    /// Encrypted.
    Required,
    /// And the server's certificate is signed by a known authority, and made for the host's name.
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
    // Who names an authority wants it to be asked.
    let mode = mode.or(ca.is_some().then_some(TlsMode::VerifyIdentity));
    if ca.is_some() && mode < Some(TlsMode::VerifyIdentity) {
        return Err(format!("{section}: `ca` is used only if `mode` is \"verify-identity\""));
    }
    let identity = match (cert, key) {
        (None, None) => None,
        (Some(cert), Some(key)) => Some((path(cert), path(key))),
        _ => return Err(format!("{section}: `cert` and `key` go together")),
    };
    Ok(Tls { section, mode, ca, identity })
}
