//! Certificates made for a test, and clients that show them.
use crate::common::{Hello, Raw, in_time, open_config};
use lamppost_broker::{ClientCertificates, Config, Listener, TlsFiles, WebSocket};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use std::{net::SocketAddr, path::PathBuf, sync::Arc};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// An authority and the folder of what it has signed.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: TempDir,
}

/// A certificate and its key, as text and as files.
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
    pub(crate) certificate_file: PathBuf,
    pub(crate) key_file: PathBuf,
    serial: SerialNumber,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = named("Authority of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        std::fs::write(folder.path().join("ca.pem"), pem).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            folder,
        }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Signs a certificate for a broker at 127.0.0.1, over the one before if there was one.
    pub(crate) fn broker(&self) -> Identity {
        self.sign("broker", &["127.0.0.1", "localhost"], |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        })
    }

    /// Signs a certificate for a client of this name.
    pub(crate) fn client(&self, name: &str) -> Identity {
        self.sign(name, &[], |_| {})
    }

    pub(crate) fn sign(
        &self,
        name: &str,
        addresses: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(addresses).unwrap();
        params.distinguished_name = named(name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let serial = SerialNumber::from(u64::from(rand_serial()));
        params.serial_number = Some(serial.clone());
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        let file = name.replace('/', "_");
        let path = |end: &str| self.folder.path().join(format!("{file}.{end}"));
        let identity = Identity {
            certificate,
            key: key.serialize_pem(),
            certificate_file: path("pem"),
            key_file: path("key"),
            serial,
        };
        std::fs::write(&identity.certificate_file, &identity.certificate).unwrap();
        std::fs::write(&identity.key_file, &identity.key).unwrap();
        identity
    }

    /// Writes the list of the certificates that are revoked.
    pub(crate) fn revoke(&self, revoked: &[&Identity]) -> PathBuf {
        let revoked_certs = revoked.iter().map(|identity| RevokedCertParams {
            serial_number: identity.serial.clone(),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2090, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let path = self.folder.path().join("revoked.pem");
        let list = params.signed_by(&self.issuer).unwrap();
        std::fs::write(&path, list.pem().unwrap()).unwrap();
        path
    }

    /// What a client needs to believe this authority, and to show who it is.
    pub(crate) fn client_config(&self, identity: Option<&Identity>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(self.file()).unwrap())
            .unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        Arc::new(match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let chain = CertificateDer::from_pem_slice(identity.certificate.as_bytes());
                let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
                builder
                    .with_client_auth_cert(vec![chain.unwrap()], key)
                    .unwrap()
            }
        })
    }

    /// A TLS listener with a certificate of this authority.
    pub(crate) fn listener(&self, clients: Option<bool>) -> Listener {
        let identity = self.broker();
        let tls = TlsFiles {
            certificate_file: identity.certificate_file,
            key_file: identity.key_file,
            clients: clients.map(|required| ClientCertificates {
                ca_file: self.file(),
                crl_file: None,
                required,
            }),
        };
        Listener {
            tls: Some(tls),
            ..Listener::tcp(SocketAddr::from(([127, 0, 0, 1], 0)))
        }
    }
}

/// Serial numbers only have to differ within one authority.
fn rand_serial() -> u32 {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

/// A configuration with one listener and nothing else.
pub(crate) fn only(listener: Listener) -> Config {
    Config {
        listen: None,
        listeners: vec![listener],
        ..open_config()
    }
}

/// The same listener with WebSocket in front.
pub(crate) fn over_websocket(listener: Listener) -> Listener {
    Listener {
        websocket: Some(WebSocket::default()),
        ..listener
    }
}

pub(crate) async fn connect_tls(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = in_time("connecting", TcpStream::connect(address)).await?;
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let connector = TlsConnector::from(Arc::clone(config));
    in_time("TLS", connector.connect(name, stream)).await
}

/// Whether a client with this configuration gets as far as CONNACK: in TLS 1.3 the broker judges the client's certificate
/// when the client's part of the handshake is over.
pub(crate) async fn is_served(address: SocketAddr, config: &Arc<ClientConfig>) -> bool {
    let Ok(stream) = connect_tls(address, config).await else {
        return false;
    };
    let mut client = Raw::over(stream, true);
    let hello = Hello {
        v5: true,
        client_id: "is-served",
        ..Hello::default()
    };
    client.send_lossy(&hello.bytes()).await;
    client
        .read()
        .await
        .is_some_and(|answer| answer.first == 0x20 && answer.body[1] == 0)
}
