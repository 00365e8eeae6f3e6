//! MQTT over WebSocket (MQTT 5 and 3.1.1, section 6; RFC 6455). The home of tungstenite.

use crate::{config::WebSocket, hub::Hub};
use bytes::Bytes;
use futures_util::{Sink, Stream};
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        error::ProtocolError,
        handshake::server::{ErrorResponse, Request, Response},
        http::{HeaderValue, StatusCode, header, uri::Authority},
        protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode},
    },
};
use tracing::debug;

/// The name of MQTT among sub-protocols [MQTT-6.0.0-3].
const SUBPROTOCOL: &str = "mqtt";

/// Bytes read at once: each connection holds as many while it is idle.
const READ_BYTES: usize = 4 * 1024;

/// The longest message sent; the buffer that it passes stays with the connection.
const WRITE_BYTES: usize = 16 * 1024;

/// Bytes on their way to the socket: one message, which is flushed before the next, and answers to pings beside it.
const WRITE_BUFFER_BYTES: usize = 2 * WRITE_BYTES;

/// A byte stream in binary messages. Packets may span messages, and messages hold several [MQTT-6.0.0-2].
pub(super) struct WsStream<S> {
    inner: WebSocketStream<S>,
    /// What is left of the last message.
    unread: Bytes,
    hub: Arc<Hub>,
}

/// Answers the request for a WebSocket; `None` if it is refused, which is counted.
pub(super) async fn accept<S>(
    stream: S,
    settings: &WebSocket,
    secure: bool,
    hub: &Arc<Hub>,
) -> Option<WsStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limit = hub.limits.packet_bytes_max();
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_BUFFER_BYTES)
        .max_message_size(Some(limit))
        .max_frame_size(Some(limit));
    #[expect(
        clippy::result_large_err,
        reason = "the shape is tungstenite's, once a connection"
    )]
    let check = |request: &Request, mut response: Response| {
        let Some((status, why)) = refusal(request, settings, secure) else {
            let chosen = HeaderValue::from_static(SUBPROTOCOL);
            response
                .headers_mut()
                .insert(header::SEC_WEBSOCKET_PROTOCOL, chosen);
            return Ok(response);
        };
        debug!(%status, why, "a WebSocket request is refused");
        let mut refused = ErrorResponse::new(Some(format!("{why}\n")));
        *refused.status_mut() = status;
        let close = HeaderValue::from_static("close");
        refused.headers_mut().insert(header::CONNECTION, close);
        Err(refused)
    };
    match tokio_tungstenite::accept_hdr_async_with_config(stream, check, Some(config)).await {
        Ok(inner) => {
            hub.counters.websocket_connections.bump();
            Some(WsStream {
                inner,
                unread: Bytes::new(),
                hub: Arc::clone(hub),
            })
        }
        Err(error) => {
            hub.counters.websocket_refused.bump();
            debug!(%error, "no WebSocket");
            None
        }
    }
}

/// Why a request is not granted.
fn refusal(
    request: &Request,
    settings: &WebSocket,
    secure: bool,
) -> Option<(StatusCode, &'static str)> {
    if request.uri().path() != settings.path {
        return Some((StatusCode::NOT_FOUND, "MQTT is not at this path"));
    }
    let protocols = request
        .headers()
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok());
    if !protocols
        .flat_map(|value| value.split(','))
        .any(|protocol| protocol.trim() == SUBPROTOCOL)
    {
        return Some((
            StatusCode::BAD_REQUEST,
            "the sub-protocol mqtt is not offered",
        ));
    }
    if !origin_allowed(request, settings, secure) {
        return Some((
            StatusCode::FORBIDDEN,
            "pages of this origin may not connect: add it to the listener's origins",
        ));
    }
    None
}

/// Whether the origin of the request, if it has one, may connect.
///
/// Programs such as Eclipse paho make an origin up from the address they connect to. No page comes from there, since the
/// broker serves none. Still a page could pretend to: its own name may resolve to this machine by the time it asks (DNS
/// rebinding). A number cannot be rebound, and over TLS the browser has checked that the name is this listener's.
fn origin_allowed(request: &Request, settings: &WebSocket, secure: bool) -> bool {
    let Some(origin) = request.headers().get(header::ORIGIN) else {
        return true;
    };
    let Ok(origin) = origin.to_str() else {
        return false;
    };
    if settings
        .origins
        .iter()
        .any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(origin))
    {
        return true;
    }
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
    // With the scheme, since a browser leaves the usual ports out: a page of the web server on this machine is another's.
    let scheme = if secure { "https://" } else { "http://" };
    let (Some(host), Some(from)) = (host, origin.strip_prefix(scheme)) else {
        return false;
    };
    let name = host.host().trim_matches(['[', ']']);
    let fixed = secure || name == "localhost" || name.parse::<std::net::IpAddr>().is_ok();
    fixed && host.as_str().eq_ignore_ascii_case(from)
}

impl<S: AsyncRead + AsyncWrite + Unpin> WsStream<S> {
    /// Tells the peer why, as far as the socket takes it, and gives the stream up.
    fn refuse(&mut self, cx: &mut Context<'_>, code: CloseCode, why: &str) -> io::Error {
        self.hub.counters.websocket_errors.bump();
        debug!(why, "a WebSocket is closed");
        let frame = CloseFrame {
            code,
            reason: "".into(),
        };
        if self.inner().start_send(Message::Close(Some(frame))).is_ok() {
            // Whether it got out makes no difference any more.
            drop(self.inner().poll_flush(cx));
        }
        io::Error::new(io::ErrorKind::InvalidData, why)
    }

    fn inner(&mut self) -> Pin<&mut WebSocketStream<S>> {
        Pin::new(&mut self.inner)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WsStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.unread.is_empty() && out.remaining() > 0 {
            let message = this.inner().poll_next(cx);
            let Poll::Ready(message) = message else {
                // Only now: as long as a long message's bytes were held, tungstenite could not take them for its next
                // read buffer and keep them.
                this.unread = Bytes::new();
                return Poll::Pending;
            };
            match message {
                Some(Ok(Message::Binary(bytes))) => this.unread = bytes,
                // tungstenite answers when it is polled again. After a close it then says that this is the end.
                Some(Ok(
                    Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_),
                )) => {}
                // [MQTT-6.0.0-1]
                Some(Ok(Message::Text(_))) => {
                    let error = this.refuse(cx, CloseCode::Unsupported, "a text message");
                    return Poll::Ready(Err(error));
                }
                None | Some(Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))) => {
                    return Poll::Ready(Ok(()));
                }
                Some(Err(Error::Io(error))) => return Poll::Ready(Err(error)),
                Some(Err(error)) => {
                    let code = if matches!(error, Error::Capacity(_)) {
                        CloseCode::Size
                    } else {
                        CloseCode::Protocol
                    };
                    let error = this.refuse(cx, code, &error.to_string());
                    return Poll::Ready(Err(error));
                }
            }
        }
        let count = this.unread.len().min(out.remaining());
        out.put_slice(&this.unread.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WsStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.inner().poll_ready(cx)).map_err(broken)?;
        let part = &bytes[..bytes.len().min(WRITE_BYTES)];
        let message = Message::Binary(Bytes::copy_from_slice(part));
        self.inner().start_send(message).map_err(broken)?;
        Poll::Ready(Ok(part.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_flush(cx).map_err(broken)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_close(cx).map_err(broken)
    }
}

fn broken(error: Error) -> io::Error {
    if let Error::Io(error) = error {
        return error;
    }
    io::Error::new(io::ErrorKind::BrokenPipe, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::{Bytes, Request, WsStream, refusal};
    use crate::{
        config::{Config, WebSocket},
        hub::Hub,
    };
    use proptest::prelude::*;
    use std::sync::Arc;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::Role};

    /// What comes out of a stream into which `bytes` go, and whether it ends well.
    async fn read_all(hub: &Arc<Hub>, bytes: &[u8]) -> (Vec<u8>, bool) {
        let (near, mut far) = tokio::io::duplex(1 << 16);
        let inner = WebSocketStream::from_raw_socket(near, Role::Server, None).await;
        let mut stream = WsStream {
            inner,
            unread: Bytes::new(),
            hub: Arc::clone(hub),
        };
        far.write_all(bytes).await.unwrap();
        far.shutdown().await.unwrap();
        let mut out = Vec::new();
        let ended = stream.read_to_end(&mut out).await;
        (out, ended.is_ok())
    }

    /// A client's frame with the mask 0, which changes nothing.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let length = 0x80 | u8::try_from(payload.len()).unwrap();
        [&[first, length, 0, 0, 0, 0], payload].concat()
    }

    /// Frames of a client and the bytes that they carry. Kinds: the end of a message, a fragment, a ping, a pong.
    fn frames(parts: &[(u8, Vec<u8>)]) -> (Vec<u8>, Vec<u8>) {
        let (mut sent, mut carried, mut open) = (Vec::new(), Vec::new(), false);
        for (kind, payload) in parts {
            let data = if open { 0 } else { 2 };
            match kind {
                0 => sent.extend(frame(0x80 | data, payload)),
                1 => sent.extend(frame(data, payload)),
                2 => sent.extend(frame(0x89, payload)),
                _ => sent.extend(frame(0x8a, payload)),
            }
            if *kind < 2 {
                carried.extend(payload);
                open = *kind == 1;
            }
        }
        if open {
            sent.extend(frame(0x80, &[]));
        }
        (sent, carried)
    }

    proptest! {
        #[test]
        fn bytes_come_out_as_they_went_in_and_nonsense_is_an_end(
            parts in proptest::collection::vec((0..4u8, proptest::collection::vec(any::<u8>(), 0..100)), 0..20),
            nonsense in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let hub = Hub::alone(&Config::default());
                let (mut sent, carried) = frames(&parts);
                prop_assert_eq!(read_all(&hub, &sent).await, (carried.clone(), true));
                sent.extend(&nonsense);
                let (got, _) = read_all(&hub, &sent).await;
                prop_assert!(got.starts_with(&carried));
                Ok(())
            })?;
        }
    }

    fn refused(
        origins: &[&str],
        secure: bool,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Option<u16> {
        let mut request = Request::new(());
        *request.uri_mut() = path.parse().unwrap();
        for (name, value) in headers {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        let settings = WebSocket {
            origins: origins.iter().map(ToString::to_string).collect(),
            ..WebSocket::default()
        };
        refusal(&request, &settings, secure).map(|(status, _)| status.as_u16())
    }

    #[test]
    fn path_and_subprotocol() {
        let protocol = |offered| [("sec-websocket-protocol", offered)];
        for (path, offered, wanted) in [
            ("/mqtt", "mqtt", None),
            ("/mqtt?token=1", "mqttv3.1, mqtt", None),
            ("/", "mqtt", Some(404)),
            ("/mqtt/", "mqtt", Some(404)),
            ("/mqtt", "mqttv3.1", Some(400)),
            ("/mqtt", "MQTT", Some(400)),
        ] {
            assert_eq!(
                refused(&[], false, path, &protocol(offered)),
                wanted,
                "{path} {offered}"
            );
        }
        assert_eq!(refused(&[], false, "/mqtt", &[]), Some(400));
        let two = [
            ("sec-websocket-protocol", "x"),
            ("sec-websocket-protocol", "mqtt"),
        ];
        assert_eq!(refused(&[], false, "/mqtt", &two), None);
    }

    #[test]
    fn pages_are_refused_unless_they_are_listed() {
        let listed = &["https://dash.example", "http://dash.example:8080"][..];
        for (origins, secure, host, origin, allowed) in [
            (
                &[][..],
                false,
                "192.0.2.1:8083",
                "https://dash.example",
                false,
            ),
            (
                listed,
                false,
                "192.0.2.1:8083",
                "https://dash.example",
                true,
            ),
            (
                listed,
                false,
                "192.0.2.1:8083",
                "http://dash.example:8080",
                true,
            ),
            (
                listed,
                false,
                "192.0.2.1:8083",
                "https://dash.example.evil.example",
                false,
            ),
            (listed, false, "192.0.2.1:8083", "null", false),
            (&["*"], false, "192.0.2.1:8083", "null", true),
            // What a program makes up from the address.
            (&[], false, "127.0.0.1:8083", "http://127.0.0.1:8083", true),
            (&[], false, "[::1]:8083", "http://[::1]:8083", true),
            (&[], false, "localhost:8083", "http://localhost:8083", true),
            (
                &[],
                true,
                "broker.example:8084",
                "https://broker.example:8084",
                true,
            ),
            // Another program's page on the same machine.
            (&[], true, "192.0.2.1", "http://192.0.2.1", false),
            (&[], false, "127.0.0.1:8083", "http://127.0.0.1:3000", false),
            // A page whose name was made to resolve to this machine.
            (
                &[],
                false,
                "evil.example:8083",
                "http://evil.example:8083",
                false,
            ),
        ] {
            let headers = [
                ("sec-websocket-protocol", "mqtt"),
                ("host", host),
                ("origin", origin),
            ];
            let wanted = (!allowed).then_some(403);
            assert_eq!(
                refused(origins, secure, "/mqtt", &headers),
                wanted,
                "{origins:?} {host} {origin}"
            );
        }
    }
}
