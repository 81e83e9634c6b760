//! TLS to the server, as `mysql --ssl-mode` names its ways, for both kinds of connection.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use mysql_async::{ClientIdentity, SslOpts};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// How a connection is secured.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// What is asked of it.
    pub mode: TlsMode,
    /// Certificates that sign the server's, in PEM; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// The client's certificate and its key, in PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// What is asked of a connection's security: values and meanings of MySQL's `--ssl-mode`. Its
/// `VERIFY_CA` isn't among them: the driver can't verify a certificate without the host's name.
/// <https://dev.mysql.com/doc/refman/8.4/en/connection-options.html#option_general_ssl-mode>
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    /// None.
    Disabled,
    /// Encrypted if the server can.
    #[default]
    Preferred,
    /// Encrypted.
    Required,
    /// And the server's certificate is signed by a known authority, and made for the host's name.
    VerifyIdentity,
}

impl Tls {
    /// For connections by the driver to a host.
    ///
    /// # Errors
    /// If the system's certificates are needed and can't be read.
    pub fn driver(&self, host: &str) -> anyhow::Result<Option<SslOpts>> {
        if self.mode == TlsMode::Disabled {
            return Ok(None);
        }
        let mut options = SslOpts::default()
            .with_danger_accept_invalid_certs(self.mode < TlsMode::VerifyIdentity)
            .with_danger_skip_domain_validation(self.mode < TlsMode::VerifyIdentity)
            .with_danger_tls_hostname_override(Some(server_name(host).to_owned()));
        if self.mode == TlsMode::VerifyIdentity {
            let roots = match &self.ca {
                Some(path) => vec![path.clone().into()],
                None => system_roots()?.into_iter().map(|certificate| certificate.to_vec().into()).collect(),
            };
            options = options.with_disable_built_in_roots(true).with_root_certs(roots);
        }
        if let Some((certificate, key)) = &self.identity {
            let identity = ClientIdentity::new(certificate.clone().into(), key.clone().into());
            options = options.with_client_identity(Some(identity));
        }
        Ok(Some(options))
    }

    /// For the connection that streams the binlog.
    ///
    /// # Errors
    /// If a certificate or key can't be read.
    pub(super) fn client(&self) -> anyhow::Result<Arc<ClientConfig>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match self.mode == TlsMode::VerifyIdentity {
            true => self.verifier(&provider)?,
            false => Arc::new(Unverified(Arc::clone(&provider))),
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("TLS 1.2 and 1.3 aren't offered")?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let client = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = certificates(certificate)?;
                let key_file = key;
                let key = PrivateKeyDer::from_pem_file(key_file)
                    .with_context(|| format!("source.tls.key `{}` has no private key in PEM", key_file.display()))?;
                builder.with_client_auth_cert(chain, key).context("source.tls: `cert` and `key` don't fit together")?
            }
        };
        Ok(Arc::new(client))
    }

    fn verifier(&self, provider: &Arc<CryptoProvider>) -> anyhow::Result<Arc<WebPkiServerVerifier>> {
        let mut roots = RootCertStore::empty();
        let certificates = match &self.ca {
            Some(path) => certificates(path)?,
            None => system_roots()?,
        };
        roots.add_parsable_certificates(certificates);
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
            .build()
            .context("source.tls.ca holds no usable certificate")
    }
}

/// What a certificate is made for: the host, of an IPv6 address without its zone (`fe80::1%eth0`), which only this machine
/// knows.
pub(super) fn server_name(host: &str) -> &str {
    host.split_once('%').map_or(host, |(address, _)| address)
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
    let certificates = read().with_context(|| format!("source.tls: `{}` can't be read as PEM", path.display()))?;
    if certificates.is_empty() {
        bail!("source.tls: `{}` has no certificate in PEM", path.display());
    }
    Ok(certificates)
}

fn system_roots() -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        bail!(
            "this system has no certificates to verify the server's with; install ca-certificates, or set source.tls.ca"
        );
    }
    Ok(found.certs)
}

/// Takes any certificate: encrypted, but from whomever.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
