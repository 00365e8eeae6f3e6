//! TLS towards an external broker: rustls with the ring provider.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

/// Why TLS cannot be spoken.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file of the certificate authority is no use.
    #[error("broker.ca_file {} holds no readable certificate in PEM", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// A certificate is refused.
    #[error("a trusted certificate is refused")]
    Certificate(#[from] rustls::Error),
    /// There is nothing to trust.
    #[error(
        "the system has no trusted certificates: name the broker's authority in broker.ca_file"
    )]
    NothingTrusted,
}

/// Makes ring the process's provider of cryptography; when there is one already, that one stays.
pub(crate) fn install_provider() {
    drop(rustls::crypto::ring::default_provider().install_default());
}

/// What the client trusts: the authorities in `ca_file`, or those of the system.
pub(super) fn client(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca_file {
        let wrong = |source| TlsError::CaFile {
            path: path.to_owned(),
            source,
        };
        for certificate in CertificateDer::pem_file_iter(path).map_err(wrong)? {
            roots.add(certificate.map_err(wrong)?)?;
        }
        if roots.is_empty() {
            return Err(wrong(rustls::pki_types::pem::Error::NoItemsFound));
        }
    } else {
        let found = rustls_native_certs::load_native_certs();
        let (added, ignored) = roots.add_parsable_certificates(found.certs);
        tracing::debug!(added, ignored, "trusted certificates of the system");
    }
    if roots.is_empty() {
        return Err(TlsError::NothingTrusted);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(
        config.with_root_certificates(roots).with_no_client_auth(),
    ))
}
