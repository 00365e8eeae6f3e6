//! TLS and certificates.
use crate::{
    certificates::{Authority, connect_tls, is_served, only, over_websocket},
    common::{DEADLINE, Hello, Raw, eventually, in_time, open_config, start},
    websocket,
};
use lamppost_broker::{Broker, Config, Listener, Publish, StartError, TlsFiles};
use rcgen::{DistinguishedName, DnType, ExtendedKeyUsagePurpose, date_time_ymd};
use std::{
    error::Error as _,
    fs,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

#[tokio::test]
async fn mqtt_over_tls() {
    let authority = Authority::new();
    let (broker, address) = start(only(authority.listener(None))).await;
    let config = authority.client_config(None);
    for v5 in [false, true] {
        let stream = connect_tls(address, &config).await.unwrap();
        let hello = Hello {
            v5,
            client_id: "tls",
            ..Hello::default()
        };
        let (mut client, answer) = Raw::over(stream, v5).greet(&hello).await;
        assert_eq!(answer[..2], [0, 0]);
        assert_eq!(client.subscribe(&[("#", 0)]).await, [0]);
        // Longer than a TLS record and than the buffers on the way.
        let payload: Vec<u8> = (0..200_000u32)
            .flat_map(u32::to_be_bytes)
            .take(200_000)
            .collect();
        for round in 0..5u8 {
            client
                .publish(&format!("t/{round}"), &payload, 0, false)
                .await;
        }
        for round in 0..5u8 {
            let got = client.receive().await;
            assert_eq!(got.topic, format!("t/{round}"));
            assert!(got.payload == payload);
        }
        client.send(&[0xe0, 0]).await;
        assert_eq!(client.closed().await, None);
    }
    assert_eq!(broker.stats().tls_connections, 2);
    let mut client = Raw::over(connect_tls(address, &config).await.unwrap(), true);
    client = client
        .greet(&Hello {
            v5: true,
            ..Hello::default()
        })
        .await
        .0;
    in_time("stopping", broker.stop()).await;
    assert_eq!(client.closed().await, Some(0x8b));
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_noticed_behind_tls_and_websocket() {
    let authority = Authority::new();
    for listener in [
        authority.listener(None),
        over_websocket(authority.listener(None)),
    ] {
        let websocket = listener.websocket.is_some();
        let mut config = only(listener);
        config.limits.write_timeout = Duration::from_millis(300);
        let (broker, address) = start(config).await;
        let stream = connect_tls(address, &authority.client_config(None)).await;
        let stream = stream.unwrap();
        let mut client = if websocket {
            Raw::over(Box::pin(websocket::over_tls(stream, address)).await, true)
        } else {
            Raw::over(stream, true)
        };
        let hello = Hello {
            v5: true,
            ..Hello::default()
        };
        client = client.greet(&hello).await.0;
        client.subscribe(&[("#", 0)]).await;
        let (publisher, _receiver) = broker.link("flood").unwrap().split();
        let since = Instant::now();
        while broker.stats().slow_disconnects == 0 {
            assert!(since.elapsed() < DEADLINE, "{:?}", broker.stats());
            let message = Publish::new("flood", vec![0; 100_000]);
            publisher.publish(message).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        eventually(&broker, "the end", |stats| stats.clients == 0).await;
        broker.stop().await;
    }
}

#[tokio::test]
async fn both_versions_of_tls_and_no_older_one() {
    let authority = Authority::new();
    let (broker, address) = start(only(authority.listener(None))).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut config = (*authority.client_config(None)).clone();
        let provider = std::sync::Arc::clone(config.crypto_provider());
        let mut roots = rustls::RootCertStore::empty();
        let pem = fs::read(authority.file()).unwrap();
        let root = <rustls::pki_types::CertificateDer as rustls::pki_types::pem::PemObject>::from_pem_slice(&pem);
        roots.add(root.unwrap()).unwrap();
        config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = connect_tls(address, &config.into()).await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
    }
    // A ClientHello of TLS 1.1 by hand: version 3.2, no extensions, one cipher suite.
    let mut hello = vec![0x16, 3, 1, 0, 45, 1, 0, 0, 41, 3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x13, 1, 0]);
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&hello).await.unwrap();
    let mut answer = Vec::new();
    in_time("the alert", stream.read_to_end(&mut answer))
        .await
        .unwrap();
    assert_eq!(answer.first(), Some(&0x15), "an alert: {answer:?}");
    eventually(&broker, "the failure", |stats| stats.tls_failures == 1).await;
    broker.stop().await;
}

#[tokio::test]
async fn a_listener_can_require_certificates() {
    let authority = Authority::new();
    let stranger = Authority::new();
    let (broker, address) = start(only(authority.listener(Some(true)))).await;
    let expired = authority.sign("expired", &[], |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    let early = authority.sign("early", &[], |params| {
        params.not_before = date_time_ymd(2080, 1, 1);
        params.not_after = date_time_ymd(2081, 1, 1);
    });
    let broker_only = authority.sign("broker-only", &[], |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let unknown = stranger.client("lamp-7");
    for (failures, identity) in [
        None,
        Some(&expired),
        Some(&early),
        Some(&broker_only),
        Some(&unknown),
    ]
    .into_iter()
    .enumerate()
    {
        assert!(!is_served(address, &authority.client_config(identity)).await);
        eventually(&broker, "the failure", |stats| {
            stats.tls_failures == failures as u64 + 1
        })
        .await;
    }
    let known = authority.client("lamp-7");
    assert!(is_served(address, &authority.client_config(Some(&known))).await);
    let stats = broker.stats();
    assert_eq!((stats.connected, stats.tls_connections), (1, 1));
    broker.stop().await;
}

#[tokio::test]
async fn a_certificate_must_name_somebody() {
    let authority = Authority::new();
    let (broker, address) = start(only(authority.listener(Some(true)))).await;
    let nameless = authority.sign("nameless", &[], |params| {
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "Town");
    });
    let wild = ["a/b", "+", "#"].map(|name| authority.client(name));
    for (refused, identity) in wild.iter().chain([&nameless]).enumerate() {
        assert!(!is_served(address, &authority.client_config(Some(identity))).await);
        eventually(&broker, "the refusal", |stats| {
            stats.refused_certificate_name == refused as u64 + 1
        })
        .await;
    }
    assert_eq!(broker.stats().connected, 0);
    broker.stop().await;
}

#[tokio::test]
async fn optional_certificates_must_be_good_if_shown() {
    let authority = Authority::new();
    let (broker, address) = start(only(authority.listener(Some(false)))).await;
    let unknown = Authority::new().client("lamp-7");
    assert!(is_served(address, &authority.client_config(None)).await);
    assert!(
        is_served(
            address,
            &authority.client_config(Some(&authority.client("lamp-7")))
        )
        .await
    );
    assert!(!is_served(address, &authority.client_config(Some(&unknown))).await);
    broker.stop().await;
}

#[tokio::test]
async fn revoked_certificates_are_refused_after_a_reload() {
    let authority = Authority::new();
    let (good, bad) = (authority.client("good"), authority.client("bad"));
    let mut listener = authority.listener(Some(true));
    let clients = listener.tls.as_mut().unwrap().clients.as_mut().unwrap();
    clients.crl_file = Some(authority.revoke(&[]));
    let (broker, address) = start(only(listener)).await;
    let (good, bad) = (authority.client_config(Some(&good)), {
        assert!(is_served(address, &authority.client_config(Some(&bad))).await);
        authority.revoke(&[&bad]);
        authority.client_config(Some(&bad))
    });
    // A session ticket of before must not open the door after: the same client configuration, which keeps them.
    assert!(is_served(address, &bad).await);
    broker.reload_certificates().unwrap();
    assert!(!is_served(address, &bad).await);
    assert!(is_served(address, &good).await);
    broker.stop().await;
}

#[tokio::test]
async fn a_new_certificate_is_taken_up_and_a_broken_one_is_not() {
    let authority = Authority::new();
    let listener = authority.listener(None);
    let files = listener.tls.clone().unwrap();
    let (broker, address) = start(only(listener)).await;
    let config = authority.client_config(None);
    let shown = async || {
        let stream = connect_tls(address, &config).await.unwrap();
        let (_, session) = stream.get_ref();
        session.peer_certificates().unwrap()[0].to_vec()
    };
    let mut open = Raw::over(connect_tls(address, &config).await.unwrap(), true);
    open = open
        .greet(&Hello {
            v5: true,
            ..Hello::default()
        })
        .await
        .0;
    let first = shown().await;

    authority.broker();
    assert_eq!(shown().await, first, "nothing changes unasked");
    broker.reload_certificates().unwrap();
    let second = shown().await;
    assert_ne!(second, first);

    let key = fs::read(&files.key_file).unwrap();
    for (file, bytes) in [
        (&files.certificate_file, &b"not PEM"[..]),
        (&files.key_file, b""),
        (&files.key_file, authority.client("other").key.as_bytes()),
    ] {
        let before = fs::read(file).unwrap();
        fs::write(file, bytes).unwrap();
        let error = broker.reload_certificates().unwrap_err().to_string();
        assert!(error.contains(&*file.to_string_lossy()), "{error}");
        assert_eq!(shown().await, second);
        fs::write(file, before).unwrap();
    }
    assert_eq!(fs::read(&files.key_file).unwrap(), key);
    broker.reload_certificates().unwrap();
    assert_eq!(shown().await, second);
    open.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn a_broker_with_a_bad_certificate_does_not_start() {
    let authority = Authority::new();
    let good = authority.broker();
    let other = authority.client("other");
    let start = async |certificate_file: &std::path::Path, key_file: &std::path::Path| {
        let tls = TlsFiles {
            certificate_file: certificate_file.into(),
            key_file: key_file.into(),
            clients: None,
        };
        let listener = Listener {
            tls: Some(tls),
            ..Listener::tcp("127.0.0.1:0".parse().unwrap())
        };
        let error = Broker::start(only(listener)).await.unwrap_err();
        assert!(matches!(error, StartError::Tls { .. }), "{error}");
        error.source().unwrap().to_string()
    };
    let nowhere = std::path::Path::new("no/such/file");
    for (certificate, key, wanted) in [
        (nowhere, &*good.key_file, "no/such/file"),
        (&*good.certificate_file, nowhere, "no/such/file"),
        (&good.key_file, &good.key_file, "a certificate in PEM form"),
        (
            &good.certificate_file,
            &good.certificate_file,
            "a private key in PEM form",
        ),
        (&good.certificate_file, &other.key_file, "together"),
    ] {
        let error = start(certificate, key).await;
        assert!(error.contains(wanted), "{error}");
    }
}

#[tokio::test]
async fn nonsense_and_silence_do_not_hold_the_door() {
    let authority = Authority::new();
    let mut config = Config {
        listeners: vec![authority.listener(None)],
        ..open_config()
    };
    config.limits.handshake_timeout = Duration::from_millis(500);
    let (broker, _) = start(config).await;
    let secure = broker.local_addrs()[1];

    for garbage in [
        &b"\x10\x0c\0\x04MQTT\x04\x02\0\0\0\0"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        &[0xff; 600],
    ] {
        let mut stream = TcpStream::connect(secure).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        let mut answer = Vec::new();
        // An alert or a reset: the end of it.
        let _end = in_time("the end", stream.read_to_end(&mut answer)).await;
        assert!(answer.len() < 16, "{answer:?}");
    }
    eventually(&broker, "the failures", |stats| stats.tls_failures == 3).await;

    // One that says nothing, one that begins and stops, one that drips, and one that has TLS and sends no CONNECT.
    let _silent = TcpStream::connect(secure).await.unwrap();
    let mut begun = TcpStream::connect(secure).await.unwrap();
    begun.write_all(&[0x16, 3, 1, 2, 0, 1]).await.unwrap();
    let mut drip = TcpStream::connect(secure).await.unwrap();
    tokio::spawn(async move {
        for byte in [0x16, 3, 1, 2, 0, 1]
            .into_iter()
            .chain(std::iter::repeat(0))
        {
            if drip.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let _mute = connect_tls(secure, &authority.client_config(None))
        .await
        .unwrap();
    eventually(&broker, "the timeouts", |stats| {
        stats.handshake_timeouts == 4
    })
    .await;
    assert!(is_served(secure, &authority.client_config(None)).await);
    in_time("stopping", broker.stop()).await;
}
