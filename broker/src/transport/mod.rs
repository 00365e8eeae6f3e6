//! What stands between a TCP connection and MQTT: nothing, TLS, WebSocket, or WebSocket over TLS.
//!
//! [`addresses`] bounds what one network address may take, [`tls`] knows certificates, [`certificate`] finds the name in a
//! client's one, [`ws`] turns WebSocket messages into a byte stream.

mod addresses;
mod certificate;
mod tls;
mod ws;

pub(crate) use addresses::{AddressPlace, HandshakePlace, Places, Refused, Source};
pub(crate) use tls::TlsDoor;
pub use tls::TlsError;

use crate::{
    config::{Listener, WebSocket},
    hub::Hub,
    session::{Reader, Writer},
};
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// How the connections of one listener are established.
#[derive(Debug)]
pub(crate) struct Transport {
    pub(crate) tls: Option<Arc<TlsDoor>>,
    websocket: Option<WebSocket>,
}

/// A byte stream that carries MQTT from here on.
pub(crate) struct Established {
    pub(crate) reader: Reader,
    pub(crate) writer: Writer,
    /// The name in the certificate that the client proved to own; `None` without one.
    pub(crate) certificate_name: Option<Arc<str>>,
}

impl Transport {
    /// Reads the files that the listener names.
    pub(crate) fn open(listener: Listener) -> Result<Self, TlsError> {
        let tls = listener.tls.map(TlsDoor::open).transpose()?;
        Ok(Self {
            tls: tls.map(Arc::new),
            websocket: listener.websocket,
        })
    }

    /// Does the handshakes below MQTT; `None` if one failed, which is counted. It takes as long as the client likes.
    pub(crate) async fn establish(&self, stream: TcpStream, hub: &Arc<Hub>) -> Option<Established> {
        let Some(tls) = &self.tls else {
            let Some(settings) = &self.websocket else {
                let (reader, writer) = stream.into_split();
                return Some(Established {
                    reader: Box::new(reader),
                    writer: Box::new(writer),
                    certificate_name: None,
                });
            };
            let stream = ws::accept(stream, settings, false, hub).await?;
            return Some(Established::new(stream, None));
        };
        let (stream, name) = tls.accept(stream, hub).await?;
        let Some(settings) = &self.websocket else {
            return Some(Established::new(stream, name));
        };
        let stream = ws::accept(stream, settings, true, hub).await?;
        Some(Established::new(stream, name))
    }
}

impl Established {
    fn new<S>(stream: S, certificate_name: Option<Arc<str>>) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (reader, writer) = tokio::io::split(stream);
        Self {
            reader: Box::new(reader),
            writer: Box::new(Flushed {
                inner: writer,
                taken: 0,
            }),
            certificate_name,
        }
    }
}

/// A writer that reports bytes as written once the socket has them.
///
/// TLS and WebSocket have buffers of their own. A session flushes nothing, and judges a client by the bytes it takes: so
/// each write is flushed before it is done. One that is given up goes on at the next call, which must begin with the same
/// bytes; any other would tear a packet apart on TCP too.
struct Flushed<W> {
    inner: W,
    /// Bytes of the current write that the inner stream's buffers hold.
    taken: usize,
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Flushed<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.taken == 0 {
            self.taken = ready!(Pin::new(&mut self.inner).poll_write(cx, bytes))?;
        }
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        Poll::Ready(Ok(std::mem::take(&mut self.taken).min(bytes.len())))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::{Flushed, Transport};
    use crate::{
        config::{ClientCertificates, Config, Listener, TlsFiles},
        hub::Hub,
    };
    use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
    use std::sync::Arc;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, BufWriter},
        net::{TcpListener, TcpStream},
    };
    use tokio_rustls::TlsConnector;

    #[tokio::test]
    async fn the_name_in_a_certificate_arrives() {
        // One certificate is the authority, the broker's and the client's.
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "lamp-7");
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("both.pem");
        std::fs::write(&file, certificate.pem() + &key.serialize_pem()).unwrap();
        let address = "127.0.0.1:0".parse().unwrap();
        let clients = ClientCertificates {
            ca_file: file.clone(),
            crl_file: None,
            required: true,
        };
        let transport = Transport::open(Listener {
            tls: Some(TlsFiles {
                certificate_file: file.clone(),
                key_file: file,
                clients: Some(clients),
            }),
            ..Listener::tcp(address)
        })
        .unwrap();
        let listener = TcpListener::bind(address).await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap());
        let ((far, _), near) = tokio::try_join!(listener.accept(), near).unwrap();

        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(
                vec![certificate.der().clone()],
                key.serialize_der().try_into().unwrap(),
            )
            .unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let hub = Hub::alone(&Config::default());
        let (established, connected) = tokio::join!(
            transport.establish(far, &hub),
            connector.connect(ServerName::try_from("localhost").unwrap(), near)
        );
        connected.unwrap();
        let name = established.unwrap().certificate_name;
        assert_eq!(name.as_deref(), Some("lamp-7"));
    }

    /// Polls once: gives a write up that cannot go on, as a session's loop does.
    async fn try_write(
        writer: &mut (impl tokio::io::AsyncWrite + Unpin),
        bytes: &[u8],
    ) -> Option<usize> {
        tokio::select! {
            biased;
            wrote = writer.write(bytes) => Some(wrote.unwrap()),
            () = std::future::ready(()) => None,
        }
    }

    #[tokio::test]
    async fn a_write_is_done_when_the_socket_has_it() {
        let (near, mut far) = tokio::io::duplex(4);
        let mut writer = Flushed {
            inner: BufWriter::with_capacity(8, near),
            taken: 0,
        };
        let mut out = b"abcdef".to_vec();
        assert_eq!(try_write(&mut writer, &out).await, None);
        out.extend(b"gh");
        assert_eq!(try_write(&mut writer, &out).await, None);
        let mut read = [0; 4];
        far.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"abcd");
        // The six bytes of the first attempt are out, and no others.
        assert_eq!(try_write(&mut writer, &out).await, Some(6));
        out.drain(..6);
        far.read_exact(&mut read[..2]).await.unwrap();
        assert_eq!(try_write(&mut writer, &out).await, Some(2));
        far.read_exact(&mut read[..2]).await.unwrap();
        assert_eq!(&read[..2], b"gh");
    }
}
