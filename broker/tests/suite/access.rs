//! Who may connect, and who may do what.

use crate::common::{Hello, Raw, eventually, open_config, start};
use lamppost_broker::{Action, Broker, Config, Effect, QoS, Rule, User, Who};
use std::{net::SocketAddr, time::Duration};

fn rule(effect: Effect, who: Who, action: Action, filter: &str) -> Rule {
    Rule {
        effect,
        who,
        action,
        filter: filter.into(),
    }
}

fn guarded() -> Config {
    Config {
        users: vec![User {
            name: "ada".into(),
            password: "secret".into(),
        }],
        rules: vec![
            rule(Effect::Allow, Who::Users, Action::Publish, "home/%u/#"),
            rule(Effect::Allow, Who::Any, Action::Any, "id/%c/#"),
            rule(Effect::Deny, Who::Any, Action::Publish, "home/#"),
            rule(Effect::Deny, Who::Anonymous, Action::Subscribe, "secret/#"),
        ],
        ..open_config()
    }
}

async fn login(address: SocketAddr, v5: bool, login: Option<(&str, &str)>) -> Vec<u8> {
    let hello = Hello {
        v5,
        client_id: "login",
        login,
        ..Hello::default()
    };
    Raw::try_connect(address, &hello).await.1[..2].to_vec()
}

#[tokio::test]
async fn passwords() {
    let mut config = Config {
        allow_anonymous: false,
        ..guarded()
    };
    config.limits.login_failure_delay = Duration::ZERO;
    let (broker, address) = start(config).await;
    for (who, v4, v5) in [
        (Some(("ada", "secret")), 0, 0),
        (Some(("ada", "Secret")), 4, 0x86),
        (Some(("eve", "secret")), 4, 0x86),
        (None, 5, 0x87),
    ] {
        assert_eq!(login(address, false, who).await, [0, v4], "{who:?}");
        assert_eq!(login(address, true, who).await, [0, v5], "{who:?}");
    }
    let stats = broker.stats();
    assert_eq!(
        (
            stats.refused_password,
            stats.refused_anonymous,
            stats.connected
        ),
        (4, 2, 2)
    );
    broker.stop().await;
}

#[tokio::test]
async fn publishing_is_ruled_by_topic() {
    let (broker, address) = start(guarded()).await;
    let mut witness = Raw::named(address, false, "witness").await;
    assert_eq!(
        witness.subscribe(&[("home/#", 0), ("id/#", 0)]).await,
        [0, 0]
    );
    let ada = Hello {
        v5: true,
        client_id: "c1",
        login: Some(("ada", "secret")),
        ..Hello::default()
    };
    let mut ada = Raw::connect(address, &ada).await;
    assert_eq!(ada.publish_acked("home/ada/lamp", b"1", false).await, 0);
    assert_eq!(ada.publish_acked("home/bob/lamp", b"2", true).await, 0x87);
    assert_eq!(ada.publish_acked("id/c1/x", b"3", false).await, 0);
    assert_eq!(ada.publish_acked("$SYS/x", b"4", false).await, 0x87);
    let mut nobody = Raw::named(address, false, "c2").await;
    // MQTT 3.1.1 has no word for a refusal: it is acknowledged and dropped.
    assert_eq!(nobody.publish_acked("home/ada/lamp", b"5", false).await, 0);
    nobody.publish("home/ada/lamp", b"6", 0, false).await;
    assert_eq!(nobody.publish_acked("id/c2/x", b"7", false).await, 0);
    for payload in [b"1", b"3", b"7"] {
        assert_eq!(witness.receive().await.payload, payload);
    }
    assert_eq!(broker.stats().denied_publishes, 4);
    // What was denied was not kept either.
    assert_eq!(broker.stats().retained_count, 0);
    broker.stop().await;
}

#[tokio::test]
async fn subscribing_is_ruled_by_filter() {
    let (broker, address) = start(guarded()).await;
    let filters = [("secret/x", 1), ("#", 1), ("+/x", 1), ("open/#", 1)];
    let mut v5 = Raw::named(address, true, "five").await;
    assert_eq!(v5.subscribe(&filters).await, [0x80, 0x80, 0x80, 1]);
    let mut v4 = Raw::named(address, false, "four").await;
    assert_eq!(v4.subscribe(&filters).await, [0x80, 0x80, 0x80, 1]);
    let ada = Hello {
        client_id: "c",
        login: Some(("ada", "secret")),
        ..Hello::default()
    };
    let mut ada = Raw::connect(address, &ada).await;
    assert_eq!(ada.subscribe(&filters).await, [1, 1, 1, 1]);
    assert_eq!(broker.stats().denied_subscribes, 6);
    // A refused subscriber sees neither what is live nor what is kept.
    ada.publish("secret/x", b"kept", 0, true).await;
    let mut late = Raw::named(address, true, "late").await;
    assert_eq!(
        late.subscribe(&[("secret/x", 0), ("open/x", 0)]).await,
        [0x80, 0]
    );
    late.publish("open/x", b"mine", 0, false).await;
    assert_eq!(late.receive().await.payload, b"mine");
    broker.stop().await;
}

#[tokio::test]
async fn a_will_obeys_the_rules() {
    let (broker, address) = start(guarded()).await;
    for (v5, code) in [(false, 5), (true, 0x87)] {
        let hello = Hello {
            v5,
            client_id: "w",
            will: Some(("home/ada/gone", "x", 0, true)),
            ..Hello::default()
        };
        assert_eq!(Raw::try_connect(address, &hello).await.1[..2], [0, code]);
    }
    assert_eq!(
        (broker.stats().refused_will, broker.stats().clients),
        (2, 0)
    );
    broker.stop().await;
}

#[tokio::test]
async fn a_link_is_trusted() {
    let (broker, _) = start(Config {
        default_access: Effect::Deny,
        ..guarded()
    })
    .await;
    let (publisher, mut receiver) = broker.link("own").unwrap().split();
    receiver.subscribe("#", QoS::AtMostOnce).await.unwrap();
    publisher
        .publish(lamppost_broker::Publish::new("home/bob/x", "1"))
        .await
        .unwrap();
    assert_eq!(&*receiver.recv().await.unwrap().topic, "home/bob/x");
    broker.stop().await;
}

#[tokio::test]
async fn the_limit_on_clients_holds() {
    let mut config = open_config();
    config.limits.clients_max = 2;
    let (broker, address) = start(config).await;
    let first = Raw::named(address, false, "a").await;
    let _second = Raw::named(address, true, "b").await;
    for (v5, code) in [(false, 3), (true, 0x97)] {
        let hello = Hello {
            v5,
            client_id: "c",
            ..Hello::default()
        };
        assert_eq!(Raw::try_connect(address, &hello).await.1[..2], [0, code]);
    }
    assert_eq!(
        (broker.stats().refused_clients, broker.stats().clients),
        (2, 2)
    );
    // A client that takes its own place over needs no other.
    let _again = Raw::named(address, true, "b").await;
    drop(first);
    eventually(&broker, "a free place", |stats| stats.clients == 1).await;
    let _third = Raw::named(address, true, "c").await;
    broker.stop().await;
}

#[tokio::test]
async fn connections_without_a_handshake_are_bounded() {
    let mut config = open_config();
    config.limits.handshakes_max = 3;
    let (broker, address) = start(config).await;
    let mut idle = Vec::new();
    for _ in 0..3 {
        idle.push(Raw::open(address, false).await);
    }
    eventually(&broker, "three connections", |stats| stats.accepted == 3).await;
    let mut fourth = Raw::open(address, false).await;
    assert_eq!(fourth.read().await, None);
    assert_eq!(broker.stats().refused_sockets, 1);
    drop(idle);
    eventually(&broker, "their end", |stats| stats.lost_connections == 3).await;
    let _served = Raw::named(address, false, "served").await;
    broker.stop().await;
}

#[tokio::test]
async fn anonymous_access_from_elsewhere_must_be_stated() {
    let listen = Some("0.0.0.0:0".parse().unwrap());
    let error = Broker::start(Config {
        listen,
        ..open_config()
    })
    .await
    .unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("expose_anonymous"), "{source}");
    let stated = Config {
        listen,
        expose_anonymous: true,
        ..open_config()
    };
    Broker::start(stated).await.unwrap().stop().await;
}
