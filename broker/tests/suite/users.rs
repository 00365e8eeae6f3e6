//! Users of a file, refusals that wait, and rules that change while the broker runs.

use crate::{
    certificates::{Authority, connect_tls, only},
    common::{DEADLINE, Hello, Raw, eventually, in_time, open_config, start},
};
use lamppost_broker::{
    Action, Broker, Config, ConfigError, Effect, PasswordHash, ReloadError, Rule, User, UsersFile,
    UsersFileError, Who,
};
use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

pub(crate) fn set(file: &Path, name: &str, password: &str) {
    let hash = PasswordHash::of(password.as_bytes()).unwrap();
    UsersFile::edit(file, |users| users.set(name, hash)).unwrap();
}

/// A broker that knows the users of this file, and does not make the refused wait.
fn with_file(file: &Path) -> Config {
    let mut config = Config {
        users_file: Some(file.to_owned()),
        allow_anonymous: false,
        ..open_config()
    };
    config.limits.login_failure_delay = Duration::ZERO;
    config
}

pub(crate) async fn login(address: SocketAddr, name: &str, password: &str) -> u8 {
    let hello = Hello {
        v5: true,
        // A client id is its user's for as long as there is a session.
        client_id: &format!("login-{name}"),
        login: Some((name, password)),
        ..Hello::default()
    };
    Raw::try_connect(address, &hello).await.1[1]
}

#[tokio::test]
async fn users_of_a_file_connect_with_their_passwords() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("users");
    set(&file, "ada", "secret");
    set(&file, "bob", "hidden");
    let (broker, address) = start(with_file(&file)).await;
    for _ in 0..2 {
        for (name, password, code) in [
            ("ada", "secret", 0),
            ("bob", "hidden", 0),
            ("ada", "hidden", 0x86),
            ("ada", "", 0x86),
            ("eve", "secret", 0x86),
        ] {
            assert_eq!(login(address, name, password).await, code, "{name}");
        }
    }
    let stats = broker.stats();
    assert_eq!((stats.connected, stats.refused_password), (4, 6));
    broker.stop().await;
}

#[tokio::test]
async fn many_logins_at_once_are_all_answered() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("users");
    set(&file, "ada", "secret");
    let (broker, address) = start(with_file(&file)).await;
    let logins: Vec<_> = (0..24)
        .map(|n| {
            tokio::spawn(async move {
                let hello = Hello {
                    v5: true,
                    client_id: &format!("c{n}"),
                    login: Some(("ada", if n % 3 == 0 { "wrong" } else { "secret" })),
                    ..Hello::default()
                };
                let (client, answer) = Raw::try_connect(address, &hello).await;
                (n, answer[1], client)
            })
        })
        .collect();
    for login in logins {
        let (n, code, _) = in_time("a login", login).await.unwrap();
        assert_eq!(code, if n % 3 == 0 { 0x86 } else { 0 }, "{n}");
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_token_without_a_name_is_refused() {
    let (broker, address) = start(open_config()).await;
    let mut hello = Hello {
        v5: true,
        client_id: "token",
        login: Some(("", "token")),
        ..Hello::default()
    }
    .bytes();
    // The password's flag without the user name's, and the empty user name taken out.
    let flags = hello.iter().position(|&byte| byte == 5).unwrap() + 1;
    assert_eq!(hello[flags], 0b1100_0010);
    hello[flags] = 0b0100_0010;
    let user = hello.len() - 2 - "token".len() - 2;
    hello.drain(user..user + 2);
    hello[1] -= 2;
    let mut client = Raw::open(address, true).await;
    client.send(&hello).await;
    assert_eq!(client.read().await.unwrap().body[..2], [0, 0x86]);
    broker.stop().await;
}

#[tokio::test]
async fn a_refusal_waits_and_the_others_do_not() {
    let mut config = open_config();
    config.users = vec![User {
        name: "ada".into(),
        password: "secret".into(),
    }];
    // Longer than the test: no refusal is answered in its time.
    config.limits.login_failure_delay = Duration::from_mins(1);
    let (broker, address) = start(config).await;
    let wrong = Hello {
        v5: true,
        client_id: "wrong",
        login: Some(("ada", "guess")),
        ..Hello::default()
    };
    let mut waiting = Raw::open(address, true).await;
    waiting.send(&wrong.bytes()).await;
    let mut leaving = Raw::open(address, true).await;
    leaving.send(&wrong.bytes()).await;
    eventually(&broker, "two refusals", |stats| stats.refused_password == 2).await;
    // What a client sends while it waits does no harm, and whoever is right is let in.
    waiting.send(&[0xc0, 0]).await;
    assert_eq!(login(address, "ada", "secret").await, 0);
    drop(leaving);
    // The wait ends with the broker.
    let stopped = tokio::spawn(broker.stop());
    assert_eq!(waiting.closed().await, None);
    in_time("stopping", stopped).await.unwrap();
}

#[tokio::test]
async fn a_client_that_leaves_while_it_waits_gives_its_place_back() {
    let mut config = open_config();
    config.allow_anonymous = false;
    config.limits.login_failure_delay = Duration::from_mins(1);
    config.limits.handshakes_max = 1;
    let (broker, address) = start(config).await;
    let mut waiting = Raw::open(address, true).await;
    waiting
        .send(
            &Hello {
                v5: true,
                client_id: "x",
                ..Hello::default()
            }
            .bytes(),
        )
        .await;
    eventually(&broker, "a refusal", |stats| stats.refused_anonymous == 1).await;
    let mut second = Raw::open(address, true).await;
    assert_eq!(second.read().await, None);
    drop(waiting);
    let since = Instant::now();
    while broker.stats().refused_anonymous < 2 {
        assert!(since.elapsed() < DEADLINE, "{:?}", broker.stats());
        let mut next = Raw::open(address, true).await;
        next.send_lossy(
            &Hello {
                v5: true,
                client_id: "x",
                ..Hello::default()
            }
            .bytes(),
        )
        .await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    broker.stop().await;
}

#[tokio::test]
async fn protected_topics_take_a_rule_also_for_wills() {
    let config = Config {
        users: vec![User {
            name: "agent".into(),
            password: "pw".into(),
        }],
        rules: vec![Rule {
            effect: Effect::Allow,
            who: Who::User("agent".into()),
            action: Action::Publish,
            filter: "lamppost/v1/nodes/#".into(),
        }],
        ..open_config()
    };
    let (broker, address) = start(config).await;
    let mut reader = Raw::named(address, true, "reader").await;
    assert_eq!(reader.subscribe(&[("lamppost/v1/#", 1)]).await, [1]);
    let mut nobody = Raw::named(address, true, "nobody").await;
    for topic in ["lamppost/v1/nodes/a/status", "lamppost/v1"] {
        assert_eq!(nobody.publish_acked(topic, b"x", true).await, 0x87);
    }
    assert_eq!(
        nobody.publish_acked("lamppost/v2/x", b"x", false).await,
        0x10
    );
    let will = Some(("lamppost/v1/nodes/a/status", "gone", 1, true));
    for (v5, code) in [(false, 5), (true, 0x87)] {
        let hello = Hello {
            v5,
            client_id: "w",
            will,
            ..Hello::default()
        };
        assert_eq!(Raw::try_connect(address, &hello).await.1[..2], [0, code]);
    }
    let agent = Hello {
        v5: true,
        client_id: "agent",
        login: Some(("agent", "pw")),
        will,
        ..Hello::default()
    };
    let mut agent = Raw::connect(address, &agent).await;
    let topic = "lamppost/v1/nodes/a/status";
    assert_eq!(agent.publish_acked(topic, b"here", true).await, 0);
    assert_eq!(reader.receive().await.payload, b"here");
    assert_eq!(
        agent
            .publish_acked("lamppost/v1/models/m", b"x", true)
            .await,
        0x87
    );
    drop(agent);
    assert_eq!(reader.receive().await.payload, b"gone");
    let stats = broker.stats();
    assert_eq!((stats.denied_publishes, stats.refused_will), (3, 2));
    assert_eq!(stats.retained_count, 1);
    broker.stop().await;
}

#[tokio::test]
async fn users_and_rules_change_while_the_broker_runs() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("users");
    set(&file, "ada", "old");
    let mut config = with_file(&file);
    let (broker, address) = start(config.clone()).await;
    let mut staying = Raw::connect(
        address,
        &Hello {
            v5: true,
            client_id: "staying",
            login: Some(("ada", "old")),
            ..Hello::default()
        },
    )
    .await;
    set(&file, "ada", "new");
    set(&file, "bob", "secret");
    // Until it is told, the broker goes by what it has read.
    assert_eq!(login(address, "bob", "secret").await, 0x86);
    config.default_access = Effect::Deny;
    config.limits.clients_max = 1;
    broker.reload(config.clone()).await.unwrap();
    // Whoever is there with the old password has to leave.
    assert_eq!(staying.closed().await, Some(0x98));
    assert_eq!(login(address, "ada", "old").await, 0x86);
    assert_eq!(login(address, "ada", "new").await, 0);
    let hello = Hello {
        v5: true,
        client_id: "bob",
        login: Some(("bob", "secret")),
        ..Hello::default()
    };
    let mut bob = Raw::connect(address, &hello).await;
    assert_eq!(bob.subscribe(&[("a", 0)]).await, [0x80]);
    assert_eq!(bob.publish_acked("a", b"x", false).await, 0x87);
    // The limit holds from the next start on.
    let _second = Raw::connect(
        address,
        &Hello {
            client_id: "second",
            ..hello.clone()
        },
    )
    .await;
    broker.stop().await;
}

#[tokio::test]
async fn a_certificate_is_a_name_for_rules() {
    let authority = Authority::new();
    let rule = |effect, who, filter: &str| Rule {
        effect,
        who,
        action: Action::Publish,
        filter: filter.into(),
    };
    let mut config = only(authority.listener(Some(true)));
    config.rules = vec![
        rule(Effect::Allow, Who::CertificateName("hub".into()), "lamps/#"),
        rule(Effect::Allow, Who::Certificate, "lamps/%u/#"),
        rule(Effect::Deny, Who::Any, "#"),
    ];
    config.limits.login_failure_delay = Duration::ZERO;
    let (broker, address) = start(config).await;
    let connect = async |name: &str, login| {
        let identity = authority.client(name);
        let stream = connect_tls(address, &authority.client_config(Some(&identity))).await;
        let hello = Hello {
            v5: true,
            client_id: &format!("of {name}"),
            login,
            ..Hello::default()
        };
        Raw::over(stream.unwrap(), true).greet(&hello).await
    };
    for (name, login, code) in [
        ("7", None, 0),
        // The certificate counts, whatever the password.
        ("7", Some(("7", "whatever")), 0),
        ("7", Some(("8", "whatever")), 0x86),
        ("hub", None, 0),
    ] {
        let (mut client, answer) = connect(name, login).await;
        assert_eq!(answer[1], code, "{name} {login:?}");
        if code == 0 {
            for (topic, allowed) in [("lamps/7/on", true), ("lamps/8/on", name == "hub")] {
                let code = client.publish_acked(topic, b"1", false).await;
                assert_eq!(code, if allowed { 0x10 } else { 0x87 }, "{name} {topic}");
            }
        }
    }
    assert_eq!(broker.stats().refused_certificate, 1);
    broker.stop().await;
}

#[tokio::test]
async fn what_cannot_be_taken_over_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("users");
    set(&file, "ada", "secret");
    let mut config = with_file(&file);
    config.listen = Some("0.0.0.0:0".parse().unwrap());
    let broker = Broker::start(config.clone()).await.unwrap();
    let port = broker.local_addr().unwrap().port();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let refused = |result| match result {
        Err(ReloadError::Config(error)) => error,
        other => panic!("{other:?}"),
    };
    // The address that counts is the one that is listened on, not the one in the new file.
    let exposed = Config {
        listen: Some("127.0.0.1:0".parse().unwrap()),
        allow_anonymous: true,
        ..config.clone()
    };
    let error = refused(broker.reload(exposed).await);
    assert!(matches!(error, ConfigError::AnonymousExposed(_)), "{error}");
    let invalid = Config {
        protected: vec!["a#".into()],
        ..config.clone()
    };
    let error = refused(broker.reload(invalid).await);
    assert!(matches!(error, ConfigError::Filter(_)), "{error}");
    std::fs::write(&file, "ada:secret\n").unwrap();
    let error = refused(broker.reload(config.clone()).await);
    let ConfigError::UsersFile(UsersFileError::Line { line: 1, .. }) = error else {
        panic!("{error}");
    };
    assert_eq!(login(address, "ada", "secret").await, 0);
    std::fs::remove_file(&file).unwrap();
    refused(broker.reload(config).await);
    assert_eq!(login(address, "ada", "secret").await, 0);
    broker.stop().await;
}
