//! What becomes of sessions when users and rules are replaced under them.

use super::{Arrival, serve};
use crate::{
    auth::Gate,
    config::{Action, Config, Effect, Rule, User, Who},
    hub::Hub,
    transport::Places,
};
use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    time::timeout,
};

const DEADLINE: Duration = Duration::from_secs(30);

fn config(users: &[&str], denied: &[&str]) -> Config {
    Config {
        users: users
            .iter()
            .map(|name| User {
                name: (*name).into(),
                password: "pw".into(),
            })
            .collect(),
        rules: denied
            .iter()
            .map(|filter| Rule {
                effect: Effect::Deny,
                who: Who::Any,
                action: Action::Any,
                filter: (*filter).into(),
            })
            .collect(),
        ..Config::default()
    }
}

fn replace(hub: &Hub, config: &Config) {
    let gate = Gate::read(config, hub.gate().key()).unwrap();
    hub.gate.send_replace(Arc::new(gate));
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(timeout(DEADLINE, wait).await.is_ok(), "{what}");
}

/// An MQTT 5 client over a pipe.
struct Client(DuplexStream);

impl Client {
    /// Connects as `user` with a session that stays and a will.
    async fn connect(hub: &Arc<Hub>, user: &str) -> Self {
        let (stream, other) = tokio::io::duplex(64 * 1024);
        let (reader, writer) = tokio::io::split(other);
        let places = Arc::new(Places::new(&hub.limits));
        let loopback = IpAddr::from([127, 0, 0, 1]);
        let (place, address_place) = places.enter(loopback, Instant::now()).unwrap();
        let arrival = Arrival {
            reader: Box::new(reader),
            writer: Box::new(writer),
            certificate_name: None,
            place,
            address_place,
        };
        hub.tasks.spawn(serve(arrival, Arc::clone(hub)));
        let mut client = Self(stream);
        let name = u8::try_from(user.len()).unwrap();
        let mut body = b"\x00\x04MQTT\x05\xc4\x00\x00\x05\x11\x00\x00\x0f\x00".to_vec();
        body.extend([&[0, name], user.as_bytes()].concat());
        body.extend(b"\x00\x00\x04will\x00\x04gone");
        body.extend([&[0, name], user.as_bytes(), b"\x00\x02pw"].concat());
        client.send(0x10, &body).await;
        let (first, answer) = client.read().await.unwrap();
        assert_eq!((first, answer[1]), (0x20, 0));
        client
    }

    async fn send(&mut self, first: u8, body: &[u8]) {
        let length = u8::try_from(body.len()).unwrap();
        let bytes = [&[first, length], body].concat();
        self.0.write_all(&bytes).await.unwrap();
    }

    /// The next packet; `None` at the end of the connection.
    async fn read(&mut self) -> Option<(u8, Vec<u8>)> {
        let read = async {
            let first = self.0.read_u8().await.ok()?;
            let mut body = vec![0; usize::from(self.0.read_u8().await.ok()?)];
            self.0.read_exact(&mut body).await.ok()?;
            Some((first, body))
        };
        timeout(DEADLINE, read).await.expect("a packet in time")
    }

    /// Subscribes to a filter of one letter; returns the reason code.
    async fn subscribe(&mut self, filter: u8) -> u8 {
        self.send(0x82, &[0, 9, 0, 0, 1, filter, 1]).await;
        self.read().await.unwrap().1[3]
    }

    /// Publishes to a topic of one letter at QoS 1; returns the reason code.
    async fn publish(&mut self, topic: u8) -> u8 {
        self.send(0x32, &[0, 1, topic, 0, 7, 0, b'x']).await;
        let (first, body) = self.read().await.unwrap();
        assert_eq!(first, 0x40);
        body.get(2).copied().unwrap_or(0)
    }

    /// The topic of the publication that must come next.
    async fn receive(&mut self) -> u8 {
        let (first, body) = self.read().await.unwrap();
        assert_eq!(first >> 4, 3, "{body:?}");
        body[2]
    }
}

#[tokio::test]
async fn what_is_no_longer_allowed_ends() {
    let hub = Hub::alone(&config(&["ada", "bob"], &[]));
    let mut ada = Client::connect(&hub, "ada").await;
    for filter in *b"abc" {
        assert_eq!(ada.subscribe(filter).await, 1);
    }
    // The same of a client that is away.
    let mut away = Client::connect(&hub, "bob").await;
    for filter in *b"ab" {
        assert_eq!(away.subscribe(filter).await, 1);
    }
    drop(away);
    eventually("absence", || hub.stats().absent_sessions == 1).await;

    replace(&hub, &config(&["ada", "bob"], &["b"]));
    eventually("two ends", || hub.stats().revoked_subscriptions == 2).await;
    let hub_again = Arc::clone(&hub);
    let (publisher, _receiver) = tokio::task::spawn_blocking(move || {
        crate::link::Link::new(&hub_again, "own").unwrap().split()
    })
    .await
    .unwrap();
    for topic in ["b", "c"] {
        let message = crate::message::Publish::new(topic, "x");
        publisher.publish(message).await.unwrap();
    }
    assert_eq!(ada.receive().await, b'c');
    // Publishing and subscribing go by the new rules.
    assert_eq!(ada.publish(b'b').await, 0x87);
    assert_eq!(ada.subscribe(b'b').await, 0x80);
    assert_eq!(hub.stats().revoked_clients, 0);
    // And by newer ones still.
    replace(&hub, &config(&["ada", "bob"], &["c"]));
    eventually("one more end", || hub.stats().revoked_subscriptions == 3).await;
    assert_eq!(ada.publish(b'b').await, 0x10);
    hub.stop.cancel();
}

#[tokio::test]
async fn who_is_no_longer_admitted_has_to_leave() {
    let hub = Hub::alone(&config(&["ada", "bob", "eve"], &[]));
    let mut ada = Client::connect(&hub, "ada").await;
    let mut bob = Client::connect(&hub, "bob").await;
    drop(Client::connect(&hub, "eve").await);
    eventually("absence", || hub.stats().absent_sessions == 1).await;

    replace(&hub, &config(&["bob"], &[]));
    assert_eq!(ada.read().await, Some((0xe0, vec![0x98])));
    assert_eq!(ada.read().await, None);
    eventually("two ends", || {
        let stats = hub.stats();
        (stats.revoked_clients, stats.sessions, stats.wills) == (2, 1, 2)
    })
    .await;
    assert_eq!(bob.subscribe(b'a').await, 1);
    // What the new rules forbid, the will of a client that has to leave may not do either.
    replace(&hub, &config(&[], &["will"]));
    assert_eq!(bob.read().await, Some((0xe0, vec![0x98])));
    eventually("one more end", || hub.stats().sessions == 0).await;
    assert_eq!((hub.stats().wills, hub.stats().denied_publishes), (2, 1));
    hub.stop.cancel();
}
