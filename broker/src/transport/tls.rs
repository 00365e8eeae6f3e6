//! TLS: certificates from files, read again without a restart. The home of rustls.

use super::certificate;
use crate::{
    config::{ClientCertificates, TlsFiles},
    hub::Hub,
};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{
        CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};
use thiserror::Error;
use tokio::{net::TcpStream, sync::watch};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::{debug, info, warn};

/// Bytes of a PEM file: far above any chain of certificates, and room for a list of 100,000 revoked ones.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why the files of a TLS listener cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file is too long to be what it should be.
    #[error("{path} has {size} bytes, expected at most {FILE_BYTES_MAX}")]
    Large {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// A file does not hold what it should in PEM form.
    #[error("{path} does not hold {wanted} in PEM form")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        wanted: &'static str,
        /// What is wrong with it, unless it holds none.
        #[source]
        source: Option<Source>,
    },
    /// Certificate and key cannot serve a listener.
    #[error(
        "the certificate in {certificate_file} and the key in {key_file} cannot be used together"
    )]
    Pair {
        /// The certificate's file.
        certificate_file: PathBuf,
        /// The key's file.
        key_file: PathBuf,
        /// Why.
        #[source]
        source: Source,
    },
    /// Clients' certificates cannot be checked with these files.
    #[error("clients' certificates cannot be checked with {ca_file}")]
    Clients {
        /// The authorities' file.
        ca_file: PathBuf,
        /// Why.
        #[source]
        source: Source,
    },
}

/// The TLS side of one listener.
#[derive(Debug)]
pub(crate) struct TlsDoor {
    files: TlsFiles,
    current: watch::Sender<Arc<ServerConfig>>,
}

impl TlsDoor {
    pub(crate) fn open(files: TlsFiles) -> Result<Self, TlsError> {
        let current = watch::Sender::new(load(&files)?);
        Ok(Self { files, current })
    }

    /// Reads the files again, for connections from now on. If they cannot be used, those read before stay.
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        let path = self.files.certificate_file.display();
        match load(&self.files) {
            Ok(config) => {
                self.current.send_replace(config);
                info!(certificate = %path, "the certificate is read again");
                Ok(())
            }
            Err(error) => {
                let why = std::error::Error::source(&error).map(ToString::to_string);
                warn!(%error, why, "the new certificate cannot be used, the old one stays");
                Err(error)
            }
        }
    }

    /// The handshake. Gives the stream and the name in the client's certificate, if it has one; failures are counted.
    pub(super) async fn accept(
        &self,
        stream: TcpStream,
        hub: &Hub,
    ) -> Option<(TlsStream<TcpStream>, Option<Arc<str>>)> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.current.borrow()));
        let stream = match acceptor.accept(stream).await {
            Ok(stream) => stream,
            Err(error) => {
                hub.counters.tls_failures.bump();
                debug!(%error, "no TLS connection");
                return None;
            }
        };
        let (_, session) = stream.get_ref();
        let shown = session.peer_certificates().and_then(<[_]>::first);
        let name = match shown.map(certificate::name).transpose() {
            Ok(name) => name,
            Err(error) => {
                hub.counters.refused_certificate_name.bump();
                debug!(%error, "a client's certificate is refused");
                return None;
            }
        };
        hub.counters.tls_connections.bump();
        Some((stream, name))
    }
}

fn load(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let TlsFiles {
        certificate_file,
        key_file,
        clients,
    } = files;
    let provider = Arc::new(ring::default_provider());
    let chain: Vec<CertificateDer> = all(certificate_file, "a certificate")?;
    let key = PrivateKeyDer::from_pem_slice(&read(key_file)?)
        .map_err(|source| broken(key_file, "a private key", source))?;
    warn_of_readers(key_file);
    let pair = |source: rustls::Error| TlsError::Pair {
        certificate_file: certificate_file.clone(),
        key_file: key_file.clone(),
        source: source.into(),
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(pair)?;
    let builder = match clients {
        Some(clients) => builder.with_client_cert_verifier(verifier(clients, provider)?),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(pair)?;
    if clients.is_some() {
        // A session that is resumed skips the check of the client's certificate, which may have expired since.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(Arc::new(config))
}

fn verifier(
    clients: &ClientCertificates,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let ClientCertificates {
        ca_file,
        crl_file,
        required,
    } = clients;
    let unusable = |source: Source| TlsError::Clients {
        ca_file: ca_file.clone(),
        source,
    };
    let mut roots = RootCertStore::empty();
    for certificate in all::<CertificateDer>(ca_file, "a certificate")? {
        roots
            .add(certificate)
            .map_err(|source| unusable(source.into()))?;
    }
    let revoked: Vec<CertificateRevocationListDer> = match crl_file {
        Some(path) => all(path, "a list of revoked certificates")?,
        None => Vec::new(),
    };
    let builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).with_crls(revoked);
    let builder = if *required {
        builder
    } else {
        builder.allow_unauthenticated()
    };
    builder.build().map_err(|source| unusable(source.into()))
}

/// All objects of one kind in a PEM file, which holds one at least.
fn all<T: PemObject>(path: &Path, wanted: &'static str) -> Result<Vec<T>, TlsError> {
    let bytes = read(path)?;
    let objects: Vec<T> = T::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|source| broken(path, wanted, source))?;
    if objects.is_empty() {
        return Err(broken(path, wanted, pem::Error::NoItemsFound));
    }
    Ok(objects)
}

fn broken(path: &Path, wanted: &'static str, source: pem::Error) -> TlsError {
    TlsError::Pem {
        path: path.to_owned(),
        wanted,
        source: (!matches!(source, pem::Error::NoItemsFound)).then(|| source.into()),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::Read {
        path: path.to_owned(),
        source,
    };
    let size = fs::metadata(path).map_err(failed)?.len();
    if size > FILE_BYTES_MAX {
        return Err(TlsError::Large {
            path: path.to_owned(),
            size,
        });
    }
    fs::read(path).map_err(failed)
}

#[cfg(unix)]
fn warn_of_readers(key_file: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = fs::metadata(key_file).map_or(0, |file| file.permissions().mode());
    if mode & 0o007 != 0 {
        warn!(file = %key_file.display(), "everybody on this machine can use the private key: chmod o= the file");
    }
}

#[cfg(not(unix))]
fn warn_of_readers(_key_file: &Path) {}
