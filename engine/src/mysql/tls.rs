//! TLS to the server for both kinds of connection, with the modes of `mysql --ssl-mode`.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use mysql_async::{ClientIdentity, Opts, SslOpts};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::config::{Tls, TlsMode};

impl Tls {
    /// Returns the mode for a host. By default a server on this machine needs no TLS, and a server on another machine is
    /// verified: otherwise an impostor would get the password.
    pub fn mode_for(&self, host: &str) -> TlsMode {
        let default = || if is_local(host) { TlsMode::Preferred } else { TlsMode::VerifyIdentity };
        self.mode.unwrap_or_else(default)
    }

    /// Returns whether a TLS connection to a host is certain to be with that host.
    pub fn is_trusted(&self, host: &str) -> bool {
        is_local(host) || self.mode_for(host) == TlsMode::VerifyIdentity
    }

    /// Returns a warning if the server is on another machine and is not verified.
    pub fn warning(&self, options: &Opts) -> Option<String> {
        let host = options.ip_or_hostname();
        let (section, mode) = (self.section, self.mode_for(host));
        let is_certain = options.socket().is_some() || self.is_trusted(host);
        (!is_certain).then(|| {
            format!(
                "{section}.mode = \"{mode}\" does not verify the server {host}: an impostor gets the password, and can send \
                 false changes; set {section}.mode to \"verify-identity\", and {section}.ca to the certificate of the server's \
                 authority unless the system trusts that authority"
            )
        })
    }

    /// Returns the fix for a TLS connection that fails.
    pub(crate) fn hint(&self, host: &str) -> String {
        let section = self.section;
        match self.mode {
            None if !is_local(host) => format!(
                "a server on another machine is verified by default: set {section}.ca to the certificate of the authority \
                 that signed the server's certificate, or, to encrypt without verification, {section}.mode = \
                 \"required\""
            ),
            _ => format!("check `{section}` (mode, ca, cert and key)"),
        }
    }

    /// Returns the options for the driver's connections to a host; `None` without TLS.
    ///
    /// # Errors
    /// If the system's certificates are needed and cannot be read.
    pub fn driver(&self, host: &str) -> anyhow::Result<Option<SslOpts>> {
        let mode = self.mode_for(host);
        if mode == TlsMode::Disabled {
            return Ok(None);
        }
        let mut options = SslOpts::default()
            .with_danger_accept_invalid_certs(mode < TlsMode::VerifyIdentity)
            .with_danger_skip_domain_validation(mode < TlsMode::VerifyIdentity)
            .with_danger_tls_hostname_override(Some(server_name(host).to_owned()));
        if mode == TlsMode::VerifyIdentity {
            let roots = match &self.ca {
                Some(path) => vec![path.clone().into()],
                None => {
                    system_roots(self.section)?.into_iter().map(|certificate| certificate.to_vec().into()).collect()
                }
            };
            options = options.with_disable_built_in_roots(true).with_root_certs(roots);
        }
        if let Some((certificate, key)) = &self.identity {
            let identity = ClientIdentity::new(certificate.clone().into(), key.clone().into());
            options = options.with_client_identity(Some(identity));
        }
        Ok(Some(options))
    }

    /// Returns the TLS configuration for the connection to a host that streams the binlog.
    ///
    /// # Errors
    /// If a certificate or key cannot be read.
    pub(crate) fn client(&self, host: &str) -> anyhow::Result<Arc<ClientConfig>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match self.mode_for(host) == TlsMode::VerifyIdentity {
            true => self.verifier(&provider)?,
            false => Arc::new(Unverified(Arc::clone(&provider))),
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("cannot use TLS 1.2 and 1.3")?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let client = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let section = self.section;
                let chain = certificates(section, certificate)?;
                let key_file = key;
                let key = PrivateKeyDer::from_pem_file(key_file)
                    .with_context(|| format!("{section}.key `{}` has no private key in PEM", key_file.display()))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .with_context(|| format!("{section}: `cert` and `key` do not match"))?
            }
        };
        Ok(Arc::new(client))
    }

    fn verifier(&self, provider: &Arc<CryptoProvider>) -> anyhow::Result<Arc<WebPkiServerVerifier>> {
        let mut roots = RootCertStore::empty();
        let certificates = match &self.ca {
            Some(path) => certificates(self.section, path)?,
            None => system_roots(self.section)?,
        };
        roots.add_parsable_certificates(certificates);
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
            .build()
            .with_context(|| format!("{}.ca holds no usable certificate", self.section))
    }
}

/// Returns whether a host is this machine.
fn is_local(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Returns the name that the server's certificate must have: the host, without the zone of an IPv6 address (`fe80::1%eth0`),
/// which has a meaning on this machine only.
pub(crate) fn server_name(host: &str) -> &str {
    host.split_once('%').map_or(host, |(address, _)| address)
}

fn certificates(section: &str, path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
    let certificates = read().with_context(|| format!("{section}: cannot read `{}` as PEM", path.display()))?;
    if certificates.is_empty() {
        bail!("{section}: `{}` has no certificate in PEM", path.display());
    }
    Ok(certificates)
}

fn system_roots(section: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        bail!(
            "cannot verify the server: this system has no root certificates; install ca-certificates, or set {section}.ca"
        );
    }
    Ok(found.certs)
}

/// Accepts any certificate: the connection is encrypted, and the server is not verified.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_elsewhere_is_verified_unless_told_otherwise() {
        let by_default = Tls::default();
        let options = |host: &str| mysql_async::OptsBuilder::default().ip_or_hostname(host).into();
        for host in ["localhost", "127.0.0.1", "::1", "[::1]", "127.1.2.3"] {
            assert_eq!(by_default.mode_for(host), TlsMode::Preferred, "{host}");
            assert_eq!(by_default.warning(&options(host)), None);
        }
        for host in ["db.example.com", "10.0.0.7", "mysql", "fe80::1%eth0", "localhost.example.com", "db.localhost"] {
            assert_eq!(by_default.mode_for(host), TlsMode::VerifyIdentity, "{host}");
            assert_eq!(by_default.warning(&options(host)), None);
            for mode in [TlsMode::Disabled, TlsMode::Preferred, TlsMode::Required] {
                let tls = Tls { mode: Some(mode), ..Tls::default() };
                assert!(!tls.is_trusted(host));
                let warning = tls.warning(&options(host)).expect("a warning");
                assert!(warning.contains(&format!("source.tls.mode = \"{mode}\"")), "{warning}");
            }
        }
    }
}
