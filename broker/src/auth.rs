//! Who a client is, and what its topics are.

use crate::{
    config::{Action, Config, Effect, Rule, User, Who},
    topic,
};
use std::sync::Arc;

/// A client as the rules see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// `None` for an anonymous client.
    pub(crate) user: Option<Arc<str>>,
    pub(crate) client_id: Arc<str>,
}

/// What a client says about itself.
#[derive(Debug, Clone)]
pub(crate) struct Credentials<'a> {
    pub(crate) user: Option<&'a str>,
    pub(crate) password: Option<&'a [u8]>,
    pub(crate) client_id: &'a str,
    /// The name in the certificate that the client proved to own.
    pub(crate) certificate_name: Option<Arc<str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LoginRefused {
    /// No such user, or not this password.
    Password,
    /// No user name, and the broker wants one.
    Anonymous,
    /// The client id would change the shape of a rule's topic.
    ClientId,
}

/// The users and rules of a broker.
#[derive(Debug)]
pub(crate) struct Gate {
    allow_anonymous: bool,
    users: Vec<User>,
    rules: Vec<Rule>,
    default_access: Effect,
}

impl Gate {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            allow_anonymous: config.allow_anonymous,
            users: config.users.clone(),
            rules: config.rules.clone(),
            default_access: config.default_access,
        }
    }

    /// Checks a CONNECT's user name, password and client id.
    pub(crate) async fn admit(
        &self,
        credentials: &Credentials<'_>,
    ) -> Result<Identity, LoginRefused> {
        let &Credentials {
            user,
            password,
            client_id,
            ..
        } = credentials;
        if client_id.contains(['/', '+', '#'])
            && self.rules.iter().any(|rule| rule.filter.contains("%c"))
        {
            return Err(LoginRefused::ClientId);
        }
        let user = match user {
            None if self.allow_anonymous => None,
            None => return Err(LoginRefused::Anonymous),
            Some(name) => Some(self.check_password(name, password.unwrap_or_default())?),
        };
        Ok(Identity {
            user,
            client_id: client_id.into(),
        })
    }

    fn check_password(&self, name: &str, password: &[u8]) -> Result<Arc<str>, LoginRefused> {
        let known = self
            .users
            .iter()
            .find(|user| user.name == name)
            .ok_or(LoginRefused::Password)?;
        if same_bytes(known.password.as_bytes(), password) {
            Ok(name.into())
        } else {
            Err(LoginRefused::Password)
        }
    }

    /// Whether `identity`, let in before, would still be let in.
    pub(crate) fn still_admits(&self, identity: &Identity) -> bool {
        match &identity.user {
            None => self.allow_anonymous,
            Some(name) => self.users.iter().any(|user| *user.name == **name),
        }
    }

    /// The rules that concern `identity`, with its names put in.
    pub(crate) fn access(&self, identity: &Identity) -> Access {
        let rules = self.rules.iter().filter_map(|rule| {
            let concerned = match (&rule.who, &identity.user) {
                (Who::Any, _) | (Who::Anonymous, None) | (Who::Users, Some(_)) => true,
                (Who::User(name), Some(user)) => **name == **user,
                _ => false,
            };
            // A rule about `%u` says nothing about a client without a name.
            let user = match &identity.user {
                Some(user) => user,
                None if rule.filter.contains("%u") => return None,
                None => "",
            };
            concerned.then(|| AccessRule {
                effect: rule.effect,
                action: rule.action,
                filter: expand(&rule.filter, user, &identity.client_id),
            })
        });
        Access(Some(ClientAccess {
            rules: rules.collect(),
            default_access: self.default_access,
        }))
    }
}

/// Puts the names in, in one pass, so that a name that contains `%c` stays what it is.
fn expand(filter: &str, user: &str, client_id: &str) -> String {
    let mut expanded = String::with_capacity(filter.len() + user.len() + client_id.len());
    let mut rest = filter;
    while let Some(at) = rest.find('%') {
        expanded.push_str(&rest[..at]);
        rest = &rest[at..];
        let (text, width) = match rest.as_bytes().get(1) {
            Some(b'u') => (user, 2),
            Some(b'c') => (client_id, 2),
            _ => ("%", 1),
        };
        expanded.push_str(text);
        rest = &rest[width..];
    }
    expanded.push_str(rest);
    expanded
}

/// Compares without an early exit, so that the time taken tells nothing about where two passwords differ.
fn same_bytes(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len()
        && a.iter()
            .zip(b)
            .fold(0, |different, (x, y)| different | (x ^ y))
            == 0
}

/// What one client, or one trusted link, may do.
#[derive(Debug, Clone)]
pub(crate) struct Access(Option<ClientAccess>);

#[derive(Debug, Clone)]
struct ClientAccess {
    rules: Vec<AccessRule>,
    default_access: Effect,
}

#[derive(Debug, Clone)]
struct AccessRule {
    effect: Effect,
    action: Action,
    filter: String,
}

impl Access {
    /// The access of this process's own links: everything.
    pub(crate) fn trusted() -> Self {
        Self(None)
    }

    /// Whether messages may be published to `name`. Topics that begin with `$` are the broker's own.
    pub(crate) fn may_publish(&self, name: &str) -> bool {
        let Some(access) = &self.0 else { return true };
        let decided = access
            .rules
            .iter()
            .find(|rule| rule.action != Action::Subscribe && topic::matches(&rule.filter, name))
            .map_or(access.default_access, |rule| rule.effect);
        decided == Effect::Allow && !name.starts_with('$')
    }

    /// Whether all that `filter` selects may be read.
    pub(crate) fn may_subscribe(&self, filter: &str) -> bool {
        let Some(access) = &self.0 else { return true };
        let decided = access
            .rules
            .iter()
            .filter(|rule| rule.action != Action::Publish)
            .find(|rule| match rule.effect {
                Effect::Allow => topic::covers(&rule.filter, filter),
                Effect::Deny => topic::overlaps(&rule.filter, filter),
            })
            .map_or(access.default_access, |rule| rule.effect);
        decided == Effect::Allow
    }
}

#[cfg(test)]
mod tests {
    use super::{Credentials, Gate, Identity, LoginRefused, expand};
    use crate::config::{Action, Config, Effect, Rule, User, Who};

    fn rule(effect: Effect, who: Who, action: Action, filter: &str) -> Rule {
        Rule {
            effect,
            who,
            action,
            filter: filter.into(),
        }
    }

    fn gate(rules: Vec<Rule>, default_access: Effect) -> Gate {
        let users = vec![User {
            name: "ada".into(),
            password: "pw".into(),
        }];
        Gate::new(&Config {
            allow_anonymous: true,
            users,
            rules,
            default_access,
            ..Config::default()
        })
    }

    fn identity(user: Option<&str>, client_id: &str) -> Identity {
        Identity {
            user: user.map(Into::into),
            client_id: client_id.into(),
        }
    }

    fn login<'a>(user: Option<&'a str>, password: &'a [u8], client_id: &'a str) -> Credentials<'a> {
        Credentials {
            user,
            password: Some(password),
            client_id,
            certificate_name: None,
        }
    }

    #[tokio::test]
    async fn logins() {
        let gate = gate(
            vec![rule(Effect::Allow, Who::Any, Action::Any, "c/%c/#")],
            Effect::Allow,
        );
        assert_eq!(
            gate.admit(&login(Some("ada"), b"pw", "x")).await,
            Ok(identity(Some("ada"), "x"))
        );
        assert_eq!(
            gate.admit(&login(None, b"", "x")).await,
            Ok(identity(None, "x"))
        );
        for (user, password) in [
            ("ada", &b"PW"[..]),
            ("ada", b""),
            ("ada", b"pww"),
            ("eve", b"pw"),
        ] {
            assert_eq!(
                gate.admit(&login(Some(user), password, "x")).await,
                Err(LoginRefused::Password)
            );
        }
        assert_eq!(
            gate.admit(&login(None, b"", "a/#")).await,
            Err(LoginRefused::ClientId)
        );
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
            ada.may_publish("home/ada/x")
                && !ada.may_publish("home/bob/x")
                && ada.may_publish("other")
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
            !access.may_publish("a/c2/x")
                && !access.may_subscribe("a/#")
                && !access.may_subscribe("#")
        );
    }

    #[test]
    fn names_are_put_in_once() {
        assert_eq!(expand("a/%u/%c/%x%", "%c", "id"), "a/%c/id/%x%");
    }
}
