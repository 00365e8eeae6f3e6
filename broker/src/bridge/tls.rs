//! TLS towards the other broker: rustls with the ring provider.

use super::BridgeError;
use crate::config::BridgeTls;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
};
use std::{path::Path, sync::Arc};
use tracing::debug;

/// Reads the files and sets the client's side up.
pub(super) fn client(bridge: &str, tls: &BridgeTls) -> Result<Arc<ClientConfig>, BridgeError> {
    let refused = |source| refused(bridge, source);
    let roots = roots(bridge, tls.ca_file.as_deref())?;
    let config =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(refused)?
            .with_root_certificates(roots);
    let config = match &tls.certificate {
        None => config.with_no_client_auth(),
        Some((chain_file, key_file)) => {
            let chain = certificates(bridge, chain_file)?;
            let key = PrivateKeyDer::from_pem_file(key_file)
                .map_err(|source| unreadable(bridge, key_file, source))?;
            config.with_client_auth_cert(chain, key).map_err(refused)?
        }
    };
    Ok(Arc::new(config))
}

fn roots(bridge: &str, ca_file: Option<&Path>) -> Result<RootCertStore, BridgeError> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = ca_file {
        for certificate in certificates(bridge, file)? {
            roots
                .add(certificate)
                .map_err(|source| refused(bridge, source))?;
        }
        return Ok(roots);
    }
    let found = rustls_native_certs::load_native_certs();
    let (added, ignored) = roots.add_parsable_certificates(found.certs);
    debug!(bridge, added, ignored, "trusted certificates of the system");
    if roots.is_empty() {
        return Err(BridgeError::NothingTrusted(bridge.to_owned()));
    }
    Ok(roots)
}

fn certificates(bridge: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, BridgeError> {
    let wrong = |source| unreadable(bridge, file, source);
    let found = CertificateDer::pem_file_iter(file).map_err(wrong)?;
    let found = found.collect::<Result<Vec<_>, _>>().map_err(wrong)?;
    if found.is_empty() {
        return Err(wrong(pem::Error::NoItemsFound));
    }
    Ok(found)
}

fn unreadable(bridge: &str, file: &Path, source: pem::Error) -> BridgeError {
    BridgeError::File {
        bridge: bridge.to_owned(),
        file: file.display().to_string(),
        source: source.into(),
    }
}

fn refused(bridge: &str, source: rustls::Error) -> BridgeError {
    BridgeError::Tls {
        bridge: bridge.to_owned(),
        source: source.into(),
    }
}
