//! TLS towards the coordinator: rustls with the ring provider, as everywhere in this program.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

/// Why no TLS can be spoken.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file of trusted certificates cannot be read.
    #[error("coordinator.ca_file {path}: no certificate in PEM can be read from it")]
    CaFile {
        /// The file.
        path: String,
        /// What is wrong with it.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// There is nothing to trust.
    #[error(
        "{place} holds no usable certificate: name the coordinator's certificate authority in coordinator.ca_file"
    )]
    NoCertificate {
        /// Where it was looked for.
        place: String,
    },
    /// The library refuses.
    #[error("TLS cannot be set up")]
    Setup(#[from] rustls::Error),
}

/// Makes ring the process's provider of cryptography, for libraries that ask for a default; the first call decides.
pub(crate) fn install_provider() {
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        tracing::trace!("a provider of cryptography is already there");
    }
}

/// The client's side of TLS: trusts `ca_file`, or what the system trusts when there is none.
///
/// # Errors
/// [`TlsError`] when there is no certificate to trust.
pub(super) fn client(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    let place = if let Some(path) = ca_file {
        let shown = path.display().to_string();
        let wrong = |source| TlsError::CaFile {
            path: shown.clone(),
            source,
        };
        for certificate in CertificateDer::pem_file_iter(path).map_err(wrong)? {
            roots.add(certificate.map_err(wrong)?)?;
        }
        shown
    } else {
        let found = rustls_native_certs::load_native_certs();
        let (added, ignored) = roots.add_parsable_certificates(found.certs);
        tracing::debug!(
            added,
            ignored,
            errors = found.errors.len(),
            "certificates of the system"
        );
        "the system's store".to_owned()
    };
    if roots.is_empty() {
        return Err(TlsError::NoCertificate { place });
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
