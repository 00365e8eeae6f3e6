mod passwords;
mod rules;

use super::{Credentials, Gate, Identity, Key, LoginRefused, PasswordHash, Proof, Secret};
use crate::config::{Action, Config, ConfigError, Effect, Rule, User, Who};
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
