use super::{Action, Config, Effect, Rule, User, Who};

/// Every key of the shipped file, commented examples apart.
const SHIPPED: &str = include_str!("../../../configs/broker.toml");

#[test]
fn the_shipped_file_is_the_defaults_and_names_every_key() {
    assert_eq!(
        toml::from_str::<Config>(SHIPPED).unwrap(),
        Config::default()
    );
    for key in [
        "listen",
        "allow_anonymous",
        "expose_anonymous",
        "users_file",
        "default_access",
        "protected",
        "state_dir",
        "retained_flush_interval",
        "sys_interval",
        "metrics_listen",
        "broker_id",
        "clients_max",
        "links_max",
        "handshakes_max",
        "handshake_timeout",
        "write_timeout",
        "payload_bytes_max",
        "filters_per_client_max",
        "filters_max",
        "log_bytes_per_filter",
        "inflight_max",
        "retained_count_max",
        "retained_bytes_max",
        "connections_per_address_max",
        "connects_per_second_max",
        "login_failure_delay",
        "keep_alive_max",
        "topic_aliases_max",
        "absent_sessions_max",
        "session_expiry_max",
        "queue_bytes_max",
        "queue_count_max",
        "queue_age_max",
        "queue_bytes_total_max",
    ] {
        assert!(
            SHIPPED
                .lines()
                .any(|line| line.starts_with(&format!("{key} = "))),
            "{key}"
        );
    }
}

#[test]
fn the_examples_in_the_shipped_file_are_valid() {
    let with_examples: String = SHIPPED
        .lines()
        .map(|line| match line.strip_prefix("#: ") {
            Some(example) => format!("{example}\n"),
            None => format!("{line}\n"),
        })
        .collect();
    let config: Config = toml::from_str(&with_examples).unwrap();
    assert!(!config.users.is_empty() && !config.rules.is_empty());
    assert_eq!(config.listeners.len(), 2);
    assert!(!config.bridges.is_empty());
}

#[test]
fn an_empty_file_is_the_defaults() {
    assert_eq!(toml::from_str::<Config>("").unwrap(), Config::default());
}

#[test]
fn users_and_rules_are_read() {
    let text = r#"
        listen = "none"
        [[user]]
        name = "ada"
        password = "secret"
        [[rule]]
        effect = "deny"
        who = "user:ada"
        action = "publish"
        filter = "home/%u/#"
    "#;
    let config: Config = toml::from_str(text).unwrap();
    assert_eq!(config.listen, None);
    assert_eq!(
        config.users,
        [User {
            name: "ada".into(),
            password: "secret".into()
        }]
    );
    let rule = Rule {
        effect: Effect::Deny,
        who: Who::User("ada".into()),
        action: Action::Publish,
        filter: "home/%u/#".into(),
    };
    assert_eq!(config.rules, [rule]);
    assert!(!format!("{config:?}").contains("secret"));
}

#[test]
fn what_is_wrong_is_named() {
    for (text, wanted) in [
        ("no_such_key = 1", "no_such_key"),
        ("listen = \"1883\"", "127.0.0.1:1883"),
        (
            "listen = \"0.0.0.0:1883\"\nallow_anonymous = true",
            "expose_anonymous",
        ),
        ("[limits]\nwrite_timeout = \"soon\"", "write_timeout"),
        (
            "[limits]\nclients_max = 0",
            "clients_max is 0, expected 1 to 100000",
        ),
        ("[[user]]\nname = \"a+b\"\npassword = \"\"", "a+b"),
        ("[[user]]\nname = \"a\\tb\"\npassword = \"\"", "a\\tb"),
        ("[[user]]\nname = \"a//b\"\npassword = \"\"", "a//b"),
        (
            "[[user]]\nname = \"a/b\"\npassword = \"\"\n[[user]]\nname = \"a\"\npassword = \"\"",
            "a/b",
        ),
        (
            "[[rule]]\neffect = \"deny\"\nwho = \"user:eve\"\naction = \"any\"\nfilter = \"#\"",
            "eve",
        ),
        (
            "[[rule]]\neffect = \"deny\"\nwho = \"certificate:\"\naction = \"any\"\nfilter = \"#\"",
            "certificate:NAME",
        ),
        (
            "[[rule]]\neffect = \"deny\"\nwho = \"eve\"\naction = \"any\"\nfilter = \"#\"",
            "user:NAME",
        ),
        (
            "[[rule]]\neffect = \"deny\"\nwho = \"any\"\naction = \"any\"\nfilter = \"a#\"",
            "a#",
        ),
    ] {
        let error = toml::from_str::<Config>(text).unwrap_err().to_string();
        assert!(error.contains(wanted), "{text}: {error}");
    }
}

#[test]
fn whom_a_rule_is_about() {
    for (who, wanted) in [
        ("any", Who::Any),
        ("anonymous", Who::Anonymous),
        ("users", Who::Users),
        ("user:a:b", Who::User("a:b".into())),
        ("certificate", Who::Certificate),
        ("certificate:eve", Who::CertificateName("eve".into())),
    ] {
        assert_eq!(Who::try_from(who.to_owned()).unwrap(), wanted);
    }
}

#[test]
fn a_rule_may_name_a_user_of_the_file() {
    let text = r##"
        users_file = "users"
        [[rule]]
        effect = "deny"
        who = "user:eve"
        action = "any"
        filter = "#"
    "##;
    let config: Config = toml::from_str(text).unwrap();
    assert_eq!(config.users_file, Some("users".into()));
}

#[test]
fn access_can_change_while_the_broker_runs_and_nothing_else() {
    let old = Config::default();
    let text = r#"
        listen = "none"
        state_dir = "elsewhere"
        sys_interval = "1s"
        metrics_listen = "127.0.0.1:9"
        retained_flush_interval = "5s"
        users_file = "users"
        allow_anonymous = true
        expose_anonymous = true
        default_access = "deny"
        protected = []
        [[user]]
        name = "ada"
        password = "pw"
        [[rule]]
        effect = "deny"
        who = "any"
        action = "any"
        filter = "x"
        [limits]
        clients_max = 7
    "#;
    let new: Config = toml::from_str(text).unwrap();
    let (effective, ignored) = old.with_access_of(new.clone());
    assert_eq!(
        ignored,
        [
            "listen",
            "state_dir",
            "retained_flush_interval",
            "sys_interval",
            "metrics_listen",
            "limits"
        ]
    );
    let Config {
        allow_anonymous,
        expose_anonymous,
        users,
        users_file,
        rules,
        default_access,
        protected,
        ..
    } = new;
    let wanted = Config {
        allow_anonymous,
        expose_anonymous,
        users,
        users_file,
        rules,
        default_access,
        protected,
        ..old.clone()
    };
    assert_eq!(effective, wanted);
    assert_eq!(old.with_access_of(old.clone()), (old, Vec::new()));
}
