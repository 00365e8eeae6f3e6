//! MQTT over WebSocket, plain and over TLS.
use crate::{
    certificates::{Authority, connect_tls, only, over_websocket},
    common::{ByteStream, Hello, Raw, eventually, in_time, open_config, publish_bytes, start},
};
use futures_util::{SinkExt, StreamExt};
use lamppost_broker::{Config, Listener, WebSocket};
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{
        Error, Message,
        client::IntoClientRequest,
        protocol::frame::{
            Frame,
            coding::{CloseCode, Data, OpCode},
        },
    },
};

fn plain() -> Listener {
    over_websocket(Listener::tcp(SocketAddr::from(([127, 0, 0, 1], 0))))
}

/// Asks for a WebSocket with these headers.
async fn ask<S: ByteStream>(
    stream: S,
    address: SocketAddr,
    path: &str,
    headers: &[(&'static str, &str)],
) -> Result<WebSocketStream<S>, Error> {
    let mut request = format!("ws://{address}{path}")
        .into_client_request()
        .unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    let asked = client_async(request, stream);
    let (socket, response) = in_time("the WebSocket", asked).await?;
    assert_eq!(response.headers()["sec-websocket-protocol"], "mqtt");
    Ok(socket)
}

async fn open(address: SocketAddr) -> WebSocketStream<TcpStream> {
    let stream = TcpStream::connect(address).await.unwrap();
    let protocol = [("sec-websocket-protocol", "mqtt")];
    ask(stream, address, "/mqtt", &protocol).await.unwrap()
}

fn hello(v5: bool) -> Vec<u8> {
    Hello {
        v5,
        client_id: "web",
        ..Hello::default()
    }
    .bytes()
}

async fn binary(socket: &mut WebSocketStream<TcpStream>) -> Vec<u8> {
    match in_time("a message", socket.next()).await {
        Some(Ok(Message::Binary(bytes))) => bytes.to_vec(),
        other => panic!("{other:?}"),
    }
}

async fn send(socket: &mut WebSocketStream<TcpStream>, bytes: impl Into<Vec<u8>>) {
    let message = Message::binary(bytes.into());
    in_time("sending", socket.send(message)).await.unwrap();
}

/// The stream of the bytes in the binary messages, for a raw client. Bytes go out in messages of `part` bytes.
fn bytes_of<S: ByteStream + 'static>(socket: WebSocketStream<S>, part: usize) -> impl ByteStream {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (mut sink, mut stream) = socket.split();
    let (mut reader, mut writer) = tokio::io::split(far);
    tokio::spawn(async move {
        let mut bytes = vec![0; part];
        while let Ok(count) = reader.read(&mut bytes).await
            && count > 0
            && sink
                .send(Message::binary(bytes[..count].to_vec()))
                .await
                .is_ok()
        {}
    });
    tokio::spawn(async move {
        while let Some(Ok(message)) = stream.next().await {
            if let Message::Binary(bytes) = message
                && writer.write_all(&bytes).await.is_err()
            {
                return;
            }
        }
    });
    near
}

/// A WebSocket over TLS, as a stream of bytes.
pub(crate) async fn over_tls(stream: TlsStream<TcpStream>, address: SocketAddr) -> impl ByteStream {
    let protocol = [("sec-websocket-protocol", "mqtt")];
    let socket = Box::pin(ask(stream, address, "/mqtt", &protocol))
        .await
        .unwrap();
    bytes_of(socket, 4_096)
}

async fn talk(stream: impl ByteStream + 'static, v5: bool) {
    let hello = Hello {
        v5,
        client_id: "web",
        ..Hello::default()
    };
    let (mut client, answer) = Raw::over(stream, v5).greet(&hello).await;
    assert_eq!(answer[..2], [0, 0]);
    assert_eq!(client.subscribe(&[("#", 1)]).await, [1]);
    let payload: Vec<u8> = (0..200_000u32).map(|n| n.to_be_bytes()[3]).collect();
    for round in 0..3u8 {
        let size = [10, 70_000, 200_000][usize::from(round)];
        client
            .publish(&format!("t/{round}"), &payload[..size], 0, false)
            .await;
    }
    for round in 0..3u8 {
        let got = client.receive().await;
        assert_eq!(got.topic, format!("t/{round}"));
        assert!(got.payload == payload[..got.payload.len()]);
    }
    client.ping().await;
    client.send(&[0xe0, 0]).await;
}

#[tokio::test]
async fn both_versions_of_mqtt_over_plain_websocket() {
    let (broker, address) = start(only(plain())).await;
    for v5 in [false, true] {
        for part in [7, 1_000, 64 * 1024] {
            talk(bytes_of(open(address).await, part), v5).await;
        }
    }
    let stats = broker.stats();
    assert_eq!((stats.websocket_connections, stats.connected), (6, 6));
    assert_eq!((stats.websocket_errors, stats.malformed), (0, 0));
    in_time("stopping", broker.stop()).await;
}

#[tokio::test]
async fn both_versions_of_mqtt_over_websocket_over_tls() {
    let authority = Authority::new();
    let (broker, address) = start(only(over_websocket(authority.listener(None)))).await;
    let config = authority.client_config(None);
    for v5 in [false, true] {
        let stream = connect_tls(address, &config).await.unwrap();
        talk(Box::pin(over_tls(stream, address)).await, v5).await;
    }
    let stats = broker.stats();
    assert_eq!((stats.websocket_connections, stats.tls_connections), (2, 2));
    in_time("stopping", broker.stop()).await;
}

#[tokio::test]
async fn packets_span_messages_and_share_them() {
    let (broker, address) = start(only(plain())).await;
    let mut socket = open(address).await;
    // CONNECT in single bytes with empty messages and pings between them [MQTT-6.0.0-2].
    for byte in hello(false) {
        send(&mut socket, [byte]).await;
        send(&mut socket, []).await;
        let ping = Message::Ping(vec![byte].into());
        in_time("sending", socket.send(ping)).await.unwrap();
        let pong = in_time("the answer", socket.next()).await.unwrap().unwrap();
        // The last byte's ping is answered before or after CONNACK.
        if let Message::Binary(bytes) = &pong {
            assert_eq!(bytes[..], [0x20, 2, 0, 0]);
            let pong = in_time("the answer", socket.next()).await.unwrap().unwrap();
            assert_eq!(pong, Message::Pong(vec![byte].into()));
        } else {
            assert_eq!(pong, Message::Pong(vec![byte].into()));
        }
    }
    broker_is_past_connack(&mut socket).await;
    // Three packets in one message of two frames, the second in the middle of a packet.
    let packets = [
        publish_bytes(false, "a", b"x", 1, false, 1),
        publish_bytes(false, "b", b"y", 1, false, 2),
        vec![0xc0, 0],
    ]
    .concat();
    let (head, tail) = packets.split_at(9);
    let frame = |bytes: &[u8], kind, last| {
        Message::Frame(Frame::message(bytes.to_vec(), OpCode::Data(kind), last))
    };
    for message in [
        frame(head, Data::Binary, false),
        frame(tail, Data::Continue, true),
    ] {
        in_time("sending", socket.send(message)).await.unwrap();
    }
    let mut answers = Vec::new();
    while answers.len() < 10 {
        answers.extend(binary(&mut socket).await);
    }
    assert_eq!(answers, [0x40, 2, 0, 1, 0x40, 2, 0, 2, 0xd0, 0]);
    broker.stop().await;
}

/// Drains until PINGRESP: whether CONNACK came before a pong or after makes no difference from here on.
async fn broker_is_past_connack(socket: &mut WebSocketStream<TcpStream>) {
    send(socket, [0xc0, 0]).await;
    while !binary(socket).await.ends_with(&[0xd0, 0]) {}
}

#[tokio::test]
async fn what_is_not_binary_mqtt_is_closed() {
    let mut config = only(plain());
    config.limits.payload_bytes_max = 1_000;
    let limit = 1_000 + 64 * 1024;
    let (broker, address) = start(config).await;
    let frame = |kind| Message::Frame(Frame::message(vec![1u8], kind, true));
    for (errors, (message, wanted)) in [
        // [MQTT-6.0.0-1]
        (Message::text("hello"), CloseCode::Unsupported),
        (Message::binary(vec![0; limit + 1]), CloseCode::Size),
        (frame(OpCode::Data(Data::Reserved(3))), CloseCode::Protocol),
        (frame(OpCode::Data(Data::Continue)), CloseCode::Protocol),
    ]
    .into_iter()
    .enumerate()
    {
        let mut socket = open(address).await;
        send(&mut socket, hello(true)).await;
        assert_eq!(binary(&mut socket).await[0], 0x20);
        let long = message.len() > limit;
        // A long one may find the door closed before it is through, and the reason is lost with what was not read.
        let sent = in_time("sending", socket.send(message)).await;
        assert!(sent.is_ok() || long);
        match in_time("the end", socket.next()).await {
            Some(Ok(Message::Close(Some(close)))) => assert_eq!(close.code, wanted),
            other => assert!(long && !matches!(other, Some(Ok(_))), "{other:?}"),
        }
        eventually(&broker, "the error", |stats| {
            stats.websocket_errors == errors as u64 + 1
        })
        .await;
    }
    // What is well-formed as WebSocket and not as MQTT is MQTT's to refuse.
    let mut socket = open(address).await;
    send(&mut socket, [0xff; 10]).await;
    assert!(!matches!(
        in_time("the end", socket.next()).await,
        Some(Ok(Message::Binary(_)))
    ));
    eventually(&broker, "the refusal", |stats| stats.protocol_errors == 1).await;
    broker.stop().await;
}

#[tokio::test]
async fn closing_is_answered_from_both_sides() {
    let (broker, address) = start(only(plain())).await;
    let mut socket = open(address).await;
    send(&mut socket, hello(true)).await;
    assert_eq!(binary(&mut socket).await[0], 0x20);
    in_time("closing", socket.close(None)).await.unwrap();
    while let Some(Ok(message)) = in_time("the answer", socket.next()).await {
        assert!(matches!(message, Message::Close(_)), "{message:?}");
    }
    // Without DISCONNECT that is a lost connection.
    eventually(&broker, "the end", |stats| stats.lost_connections == 1).await;

    let mut socket = open(address).await;
    send(&mut socket, hello(true)).await;
    assert_eq!(binary(&mut socket).await[0], 0x20);
    let stopping = tokio::spawn(broker.stop());
    assert_eq!(binary(&mut socket).await, [0xe0, 1, 0x8b]);
    assert!(matches!(
        in_time("the close", socket.next()).await,
        Some(Ok(Message::Close(_)))
    ));
    assert!(
        in_time("the end", socket.next())
            .await
            .is_none_or(|end| end.is_err())
    );
    in_time("stopping", stopping).await.unwrap();
}

#[tokio::test]
async fn requests_that_are_refused() {
    let listener = Listener {
        websocket: Some(WebSocket {
            path: "/a/b".into(),
            origins: vec!["https://dash.example".into()],
        }),
        ..plain()
    };
    let (broker, address) = start(only(listener)).await;
    let own = format!("http://{address}");
    let mut refused = 0;
    for (path, protocol, origin, status) in [
        ("/mqtt", "mqtt", None, Some(404)),
        ("/a/b", "chat", None, Some(400)),
        ("/a/b", "mqtt", Some("https://evil.example"), Some(403)),
        ("/a/b", "mqtt", Some("null"), Some(403)),
        ("/a/b", "mqtt", Some("https://dash.example"), None),
        ("/a/b", "mqtt", Some(&*own), None),
        ("/a/b?x=1", "mqtt", None, None),
    ] {
        let stream = TcpStream::connect(address).await.unwrap();
        let mut headers = vec![("sec-websocket-protocol", protocol)];
        headers.extend(origin.map(|origin| ("origin", origin)));
        let got = match ask(stream, address, path, &headers).await {
            Ok(_) => None,
            Err(Error::Http(response)) => Some(response.status().as_u16()),
            Err(other) => panic!("{other}"),
        };
        assert_eq!(got, status, "{path} {protocol} {origin:?}");
        refused += u64::from(status.is_some());
    }
    for nonsense in [
        &b"GET /a/b HTTP/1.1\r\nhost: x\r\n\r\n"[..],
        b"\x10\x0c\0\x04MQTT\x04\x02\0\0\0\0",
        b"POST /a/b HTTP/1.1\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(nonsense).await.unwrap();
        let mut answer = Vec::new();
        let _end = in_time("the end", stream.read_to_end(&mut answer)).await;
        refused += 1;
        eventually(&broker, "the refusal", |stats| {
            stats.websocket_refused == refused
        })
        .await;
    }
    eventually(&broker, "the refusals", |stats| {
        stats.websocket_refused == refused
    })
    .await;
    broker.stop().await;
}

#[tokio::test]
async fn a_request_that_never_ends_is_given_up() {
    let mut config = Config {
        listeners: vec![plain()],
        ..open_config()
    };
    config.limits.handshake_timeout = Duration::from_millis(500);
    let (broker, _) = start(config).await;
    let address = broker.local_addrs()[1];
    let _silent = TcpStream::connect(address).await.unwrap();
    let mut begun = TcpStream::connect(address).await.unwrap();
    begun.write_all(b"GET /mqtt HTTP/1.1\r\n").await.unwrap();
    let _mute = open(address).await;
    // Pings are no CONNECT.
    let mut pinging = open(address).await;
    tokio::spawn(async move {
        while pinging.send(Message::Ping(vec![1].into())).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    eventually(&broker, "the timeouts", |stats| {
        stats.handshake_timeouts == 4
    })
    .await;
    let mut socket = open(address).await;
    send(&mut socket, hello(false)).await;
    assert_eq!(binary(&mut socket).await, [0x20, 2, 0, 0]);
    broker.stop().await;
}
