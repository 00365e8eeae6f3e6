use super::{
    Credentials, Gate, Identity, Key, LoginRefused, PasswordHash, Proof, Secret, rules::expand,
};
use crate::{
    config::{Action, Config, ConfigError, Effect, Rule, User, Who},
    topic,
};
use proptest::prelude::*;
use std::path::PathBuf;

fn rule(effect: Effect, who: Who, action: Action, filter: &str) -> Rule {
    Rule {
        effect,
        who,
        action,
        filter: filter.into(),
    }
}

fn open(config: &Config) -> Gate {
    Gate::read(config, Key::new().unwrap()).unwrap()
}

fn gate(rules: Vec<Rule>, default_access: Effect) -> Gate {
    open(&Config {
        allow_anonymous: true,
        users: vec![user("ada", "pw")],
        rules,
        default_access,
        ..Config::default()
    })
}

fn user(name: &str, password: &str) -> User {
    User {
        name: name.into(),
        password: password.into(),
    }
}

fn identity(user: Option<&str>, client_id: &str) -> Identity {
    Identity {
        user: user.map(Into::into),
        client_id: client_id.into(),
        proof: Proof::None,
    }
}

fn certified(name: &str) -> Identity {
    Identity {
        proof: Proof::Certificate,
        ..identity(Some(name), "x")
    }
}

fn login<'a>(user: Option<&'a str>, password: &'a [u8], client_id: &'a str) -> Credentials<'a> {
    Credentials {
        user,
        password: user.map(|_| password),
        client_id,
        certificate_name: None,
    }
}

/// Lets somebody in and returns the user name.
async fn admitted(
    gate: &Gate,
    credentials: &Credentials<'_>,
) -> Result<Option<String>, LoginRefused> {
    let identity = gate.admit(credentials).await?;
    assert!(gate.still_admits(&identity), "{identity:?}");
    Ok(identity.user.map(|name| name.to_string()))
}

fn file(directory: &tempfile::TempDir, users: &[(&str, &str)]) -> PathBuf {
    let path = directory.path().join("users");
    let lines: Vec<_> = users
        .iter()
        .map(|(name, password)| {
            let hash = PasswordHash::of(password.as_bytes()).unwrap();
            format!("{name}:{}\n", hash.as_str())
        })
        .collect();
    std::fs::write(&path, lines.concat()).unwrap();
    path
}

#[tokio::test]
async fn logins() {
    let gate = gate(
        vec![rule(Effect::Allow, Who::Any, Action::Any, "c/%c/#")],
        Effect::Allow,
    );
    for (who, wanted) in [
        (login(Some("ada"), b"pw", "x"), Ok(Some("ada".to_owned()))),
        (login(None, b"", "x"), Ok(None)),
        (login(Some("ada"), b"PW", "x"), Err(LoginRefused::Password)),
        (login(Some("ada"), b"", "x"), Err(LoginRefused::Password)),
        (login(Some("ada"), b"pww", "x"), Err(LoginRefused::Password)),
        (login(Some("eve"), b"pw", "x"), Err(LoginRefused::Password)),
        // An empty name is a name, which nobody has.
        (login(Some(""), b"", "x"), Err(LoginRefused::Password)),
        (login(None, b"", "a/#"), Err(LoginRefused::ClientId)),
    ] {
        assert_eq!(admitted(&gate, &who).await, wanted, "{who:?}");
    }
    let token = Credentials {
        password: Some(b"token"),
        ..login(None, b"", "x")
    };
    assert_eq!(admitted(&gate, &token).await, Err(LoginRefused::Password));
}

#[tokio::test]
async fn users_of_a_file_log_in_and_are_remembered() {
    let directory = tempfile::tempdir().unwrap();
    let gate = open(&Config {
        users: vec![user("ada", "pw")],
        users_file: Some(file(&directory, &[("bob", "b"), ("cleo", "c")])),
        ..Config::default()
    });
    let is_remembered = |name: &str| match &gate.users[name].secret {
        Secret::Hash(_, verified) => verified.get().is_some(),
        Secret::Plain => false,
    };
    for round in 0..2 {
        for (name, password, right) in [
            ("ada", "pw", true),
            ("ada", "b", false),
            ("bob", "pw", false),
            ("bob", "", false),
            ("bob", "b", true),
            ("bob", "c", false),
            ("dora", "b", false),
        ] {
            let outcome = admitted(&gate, &login(Some(name), password.as_bytes(), "x")).await;
            let wanted = if right {
                Ok(Some(name.to_owned()))
            } else {
                Err(LoginRefused::Password)
            };
            assert_eq!(outcome, wanted, "{name} {password} {round}");
        }
        assert!(is_remembered("bob") && !is_remembered("cleo"));
    }
}

#[tokio::test]
async fn a_changed_password_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = Config {
        users: vec![user("ada", "pw")],
        users_file: Some(file(&directory, &[("bob", "b"), ("cleo", "c")])),
        allow_anonymous: true,
        ..Config::default()
    };
    let before = open(&config);
    let mut known = Vec::new();
    for (name, password) in [("ada", "pw"), ("bob", "b"), ("cleo", "c")] {
        let credentials = login(Some(name), password.as_bytes(), "x");
        known.push(before.admit(&credentials).await.unwrap());
    }
    known.push(before.admit(&login(None, b"", "x")).await.unwrap());
    let admits = |config: &Config| -> Vec<bool> {
        let after = Gate::read(config, before.key()).unwrap();
        known.iter().map(|who| after.still_admits(who)).collect()
    };
    assert_eq!(admits(&config), [true, true, true, true]);
    // Another password, the same one with another salt, and a name that is gone.
    config.users = vec![user("ada", "PW")];
    assert_eq!(admits(&config), [false, true, true, true]);
    config.allow_anonymous = false;
    file(&directory, &[("bob", "b")]);
    assert_eq!(admits(&config), [false, false, false, false]);
}

#[tokio::test]
async fn a_certificate_is_a_user_name() {
    let directory = tempfile::tempdir().unwrap();
    let gate = open(&Config {
        users: vec![user("ada/lamp", "pw")],
        users_file: Some(file(&directory, &[("bob", "b")])),
        ..Config::default()
    });
    let with = |user, name: &str| Credentials {
        certificate_name: Some(name.into()),
        ..login(user, b"whatever", "x")
    };
    for (user, name) in [
        (None, "node-7"),
        (Some("node-7"), "node-7"),
        (None, "site/node"),
        // A user may come with a certificate of the same name instead of the password.
        (Some("bob"), "bob"),
        (None, "ada/lamp"),
    ] {
        let outcome = admitted(&gate, &with(user, name)).await;
        assert_eq!(outcome, Ok(Some(name.to_owned())), "{user:?} {name}");
    }
    for (user, name) in [
        (Some("bob"), "node-7"),
        (Some(""), "node-7"),
        (None, ""),
        (None, "a+b"),
        (None, "a//b"),
        (None, "a\nb"),
        // Above or below what is a user's.
        (None, "ada"),
        (None, "bob/x"),
        (None, "ada/lamp/x"),
    ] {
        let outcome = admitted(&gate, &with(user, name)).await;
        assert_eq!(outcome, Err(LoginRefused::Certificate), "{user:?} {name}");
    }
}

#[test]
fn rules_can_be_about_certificates() {
    let gate = gate(
        vec![
            rule(
                Effect::Allow,
                Who::CertificateName("eve".into()),
                Action::Any,
                "e/#",
            ),
            rule(Effect::Allow, Who::Certificate, Action::Any, "c/%u"),
            rule(Effect::Allow, Who::Users, Action::Any, "u/%u"),
        ],
        Effect::Deny,
    );
    let may = |identity: &Identity| {
        let access = gate.access(identity);
        ["e/x", "c/eve", "u/eve", "c/bob"].map(|topic| access.may_publish(topic))
    };
    assert_eq!(may(&certified("eve")), [true, true, true, false]);
    assert_eq!(may(&certified("bob")), [false, false, false, true]);
    let by_password = identity(Some("eve"), "x");
    assert_eq!(may(&by_password), [false, false, true, false]);
    assert_eq!(may(&identity(None, "x")), [false; 4]);
}

#[test]
fn names_of_the_file_and_of_the_configuration_must_not_meet() {
    let directory = tempfile::tempdir().unwrap();
    for (listed, in_file) in [("ada", "ada"), ("ada/x", "ada"), ("ada", "ada/x")] {
        let config = Config {
            users: vec![user(listed, "pw")],
            users_file: Some(file(&directory, &[(in_file, "pw")])),
            ..Config::default()
        };
        let read = Gate::read(&config, Key::new().unwrap());
        assert!(
            matches!(read, Err(ConfigError::UserName(_))),
            "{listed} {in_file}"
        );
    }
}

#[test]
fn the_first_rule_that_decides_wins() {
    let gate = gate(
        vec![
            rule(Effect::Allow, Who::Users, Action::Publish, "home/%u/#"),
            rule(Effect::Deny, Who::Any, Action::Publish, "home/#"),
            rule(
                Effect::Allow,
                Who::User("ada".into()),
                Action::Subscribe,
                "secret/ada",
            ),
            rule(Effect::Deny, Who::Any, Action::Subscribe, "secret/#"),
        ],
        Effect::Allow,
    );
    let ada = gate.access(&identity(Some("ada"), "c"));
    assert!(
        ada.may_publish("home/ada/x") && !ada.may_publish("home/bob/x") && ada.may_publish("other")
    );
    assert!(
        ada.may_subscribe("secret/ada")
            && !ada.may_subscribe("secret/+")
            && !ada.may_subscribe("#")
    );
    let nobody = gate.access(&identity(None, "c"));
    assert!(!nobody.may_publish("home/ada/x") && !nobody.may_subscribe("secret/ada"));
    assert!(nobody.may_subscribe("home/#") && !nobody.may_publish("$SYS/x"));
}

#[test]
fn a_denying_default_lets_through_only_what_is_allowed_whole() {
    let gate = gate(
        vec![rule(Effect::Allow, Who::Any, Action::Any, "a/%c/#")],
        Effect::Deny,
    );
    let access = gate.access(&identity(None, "c1"));
    assert!(access.may_publish("a/c1/x") && access.may_subscribe("a/c1/+/y"));
    assert!(
        !access.may_publish("a/c2/x") && !access.may_subscribe("a/#") && !access.may_subscribe("#")
    );
}

#[test]
fn protected_topics_take_a_rule_to_publish_and_none_to_read() {
    let gate = gate(
        vec![rule(
            Effect::Allow,
            Who::User("ada".into()),
            Action::Publish,
            "lamppost/v1/nodes/%u/#",
        )],
        Effect::Allow,
    );
    let may = |user| {
        let access = gate.access(&identity(user, "c"));
        assert!(access.may_subscribe("lamppost/v1/#"));
        [
            "lamppost/v1/nodes/ada/x",
            "lamppost/v1/nodes/bob/x",
            "lamppost/v1",
            "lamppost/v2/x",
        ]
        .map(|topic| access.may_publish(topic))
    };
    assert_eq!(may(Some("ada")), [true, false, false, true]);
    assert_eq!(may(None), [false, false, false, true]);
}

#[test]
fn names_are_put_in_once() {
    assert_eq!(expand("a/%u/%c/%x%", "%c", "id"), "a/%c/id/%x%");
}

#[test]
fn hashes_that_are_weak_or_exhausting_are_refused() {
    let output = "A".repeat(43);
    let hash =
        |algorithm: &str, params: &str| format!("${algorithm}${params}$c29tZXNhbHQ${output}");
    for (algorithm, params) in [
        ("argon2id", "v=19$m=19456,t=2,p=1"),
        ("argon2id", "v=19$m=7168,t=5,p=1"),
        ("argon2id", "v=19$m=65536,t=10,p=4"),
    ] {
        let text = hash(algorithm, params);
        let parsed = PasswordHash::parse(&text).unwrap();
        assert_eq!(parsed.as_str(), text);
        assert!(!format!("{parsed:?}").contains("AAAA"));
    }
    for (algorithm, params, wanted) in [
        ("argon2i", "v=19$m=19456,t=2,p=1", "argon2i in version 19"),
        ("argon2id", "v=16$m=19456,t=2,p=1", "argon2id in version 16"),
        ("argon2id", "m=19456,t=2,p=1", "in version 0"),
        ("argon2id", "v=19$m=7167,t=9,p=1", "m = 7167, expected 7168"),
        ("argon2id", "v=19$m=65537,t=2,p=1", "m = 65537"),
        ("argon2id", "v=19$m=4294967295,t=2,p=1", "m = 4294967295"),
        (
            "argon2id",
            "v=19$m=65536,t=11,p=1",
            "t = 11, expected 1 to 10",
        ),
        ("argon2id", "v=19$m=19456,t=1,p=1", "m x t = 19456"),
        ("argon2id", "v=19$m=65536,t=3,p=5", "p = 5, expected 1 to 4"),
        (
            "argon2id",
            "v=19$m=65536,t=3,q=5",
            "expected a hash of the form",
        ),
        ("scrypt", "ln=17,r=8,p=1", "scrypt"),
    ] {
        let error = PasswordHash::parse(&hash(algorithm, params)).unwrap_err();
        assert!(error.to_string().contains(wanted), "{params}: {error}");
    }
    for text in [
        "",
        "secret",
        "$argon2id$v=19$m=19456,t=2,p=1",
        "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ",
        "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$AAAA",
        "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAA",
    ] {
        assert!(PasswordHash::parse(text).is_err(), "{text}");
    }
}

#[test]
fn a_hash_of_another_program_matches() {
    // From the test suite of the reference implementation (P-H-C/phc-winner-argon2, src/test.c).
    let text =
        "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
    let hash = PasswordHash::parse(text).unwrap();
    assert_eq!(hash.matches(b"password"), Ok(true));
    assert_eq!(hash.matches(b"Password"), Ok(false));
}

/// Levels of a small alphabet, so that rules and topics meet often.
fn filter() -> impl Strategy<Value = String> {
    let level = prop::sample::select(vec!["a", "b", "%u", "%c", "+", ""]);
    (prop::collection::vec(level, 1..4), any::<bool>()).prop_map(|(mut levels, hash)| {
        if hash {
            levels.push("#");
        }
        levels.join("/")
    })
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let who = prop::sample::select(vec![
        Who::Any,
        Who::Anonymous,
        Who::Users,
        Who::User("a".into()),
        Who::Certificate,
        Who::CertificateName("a".into()),
    ]);
    let action = prop::sample::select(vec![Action::Publish, Action::Subscribe, Action::Any]);
    (any::<bool>(), who, action, filter()).prop_map(|(allow, who, action, filter)| {
        let effect = if allow { Effect::Allow } else { Effect::Deny };
        rule(effect, who, action, &filter)
    })
}

fn anybody() -> impl Strategy<Value = Identity> {
    prop::sample::select(vec![
        identity(None, "b"),
        identity(Some("a"), "b"),
        identity(Some("b"), "a"),
        certified("a"),
    ])
}

/// All topics of up to three levels of that alphabet.
fn topics() -> Vec<String> {
    let one = ["a", "b", "", "x"].map(str::to_owned);
    let longer = |shorter: &[String]| -> Vec<String> {
        let with = |t: &String| one.clone().map(|level| format!("{t}/{level}"));
        shorter.iter().flat_map(with).collect()
    };
    let two = longer(&one);
    let three = longer(&two);
    [one.to_vec(), two, three].concat()
}

/// A rule's word on one topic, straight from the definition.
fn decides(rule: &Rule, who: &Identity, action: Action, topic: &str) -> bool {
    let name = who.user.as_deref();
    let certified = who.proof == Proof::Certificate;
    let concerned = match rule.who {
        Who::Any => true,
        Who::Anonymous => name.is_none(),
        Who::Users => name.is_some(),
        Who::User(ref wanted) => name == Some(wanted),
        Who::Certificate => certified,
        Who::CertificateName(ref wanted) => certified && name == Some(wanted),
    };
    if !concerned || (rule.action != action && rule.action != Action::Any) {
        return false;
    }
    if name.is_none() && rule.filter.contains("%u") {
        return false;
    }
    let filter = rule
        .filter
        .replace("%u", name.unwrap_or_default())
        .replace("%c", &who.client_id);
    let filter: Vec<&str> = filter.split('/').collect();
    let topic: Vec<&str> = topic.split('/').collect();
    let (exact, length) = match filter.split_last() {
        Some((&"#", before)) => (before, topic.len() >= before.len()),
        _ => (&filter[..], topic.len() == filter.len()),
    };
    length && exact.iter().zip(topic).all(|(f, t)| *f == "+" || *f == t)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rules_agree_with_their_definition(
        rules in prop::collection::vec(any_rule(), 0..5),
        protected in prop::collection::vec(prop::sample::select(vec!["a/#", "+/b", "x"]), 0..2),
        allow in any::<bool>(),
        who in anybody(),
        wanted in filter(),
    ) {
        let default_access = if allow { Effect::Allow } else { Effect::Deny };
        let gate = open(&Config {
            rules: rules.clone(),
            default_access,
            protected: protected.iter().map(|filter| (*filter).to_owned()).collect(),
            ..Config::default()
        });
        let access = gate.access(&who);
        let by_definition = |action, topic: &str| {
            let rule = rules.iter().find(|rule| decides(rule, &who, action, topic));
            match rule {
                Some(rule) => rule.effect == Effect::Allow,
                None => allow && !(action == Action::Publish
                    && protected.iter().any(|filter| topic::matches(filter, topic))),
            }
        };
        let topics = topics();
        for topic in &topics {
            prop_assert_eq!(access.may_publish(topic), by_definition(Action::Publish, topic), "{}", topic);
        }
        // A subscription may be refused although all it would deliver is allowed, never the other way round.
        if topic::is_filter(&wanted) && access.may_subscribe(&wanted) {
            for topic in topics.iter().filter(|topic| topic::matches(&wanted, topic)) {
                prop_assert!(by_definition(Action::Subscribe, topic), "{} {}", wanted, topic);
            }
        }
        // A single topic is decided exactly.
        for topic in topics.iter().filter(|topic| !topic.is_empty()) {
            prop_assert_eq!(access.may_subscribe(topic), by_definition(Action::Subscribe, topic), "{}", topic);
        }
    }

    #[test]
    fn any_text_as_a_hash_is_read_or_refused(text in "(\\$argon2id\\$v=19\\$)?[a-z0-9=,$/+]{0,60}") {
        if let Ok(hash) = PasswordHash::parse(&text) {
            prop_assert_eq!(hash.as_str(), text);
        }
    }
}

#[test]
fn a_key_makes_digests_its_own() {
    let (one, two) = (Key::new().unwrap(), Key::new().unwrap());
    let digest = one.digest("ada", b"pw");
    assert!(digest.is_same(&one.digest("ada", b"pw")));
    for other in [
        one.digest("ad", b"apw"),
        one.digest("ada", b"pW"),
        two.digest("ada", b"pw"),
    ] {
        assert!(!digest.is_same(&other));
    }
}
