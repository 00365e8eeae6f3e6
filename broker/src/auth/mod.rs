//! Who a client is, and what its topics are.
//!
//! `users` is the file of users, `password` how passwords are kept and compared, `failures` how long a refused login
//! waits, `rules` what a client that was let in may do. This file puts them together in the [`Gate`].

mod failures;
mod password;
mod rules;
mod users;

use crate::config::{self, Config, ConfigError, Effect, Rule, Who};
pub(crate) use failures::Failures;
pub(crate) use password::Key;
use password::{Busy, Digest};
pub use password::{HashProblem, PasswordHash};
pub(crate) use rules::Access;
use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, OnceLock},
};
use tracing::warn;
pub use users::{LineProblem, UsersFile, UsersFileError};

/// A client as the rules see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// `None` for an anonymous client.
    pub(crate) user: Option<Arc<str>>,
    pub(crate) client_id: Arc<str>,
    pub(crate) proof: Proof,
}

/// How a client showed who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proof {
    /// Not at all.
    None,
    /// With a password; the digest changes with it.
    Password(Digest),
    /// With a certificate.
    Certificate,
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
    /// The name in the certificate cannot be used, or is not the user name.
    Certificate,
    /// No user name, and the broker wants one.
    Anonymous,
    /// The client id would change the shape of a rule's topic.
    ClientId,
    /// The password could not be checked.
    Busy,
}

/// The users and rules of a broker.
#[derive(Debug)]
pub(crate) struct Gate {
    key: Key,
    allow_anonymous: bool,
    /// In order, so that names that begin with another are found.
    users: Users,
    /// What an unknown user's password is compared with, in vain, so that the time taken does not tell that the user
    /// is unknown: the costliest hash there is.
    decoy: Option<Arc<PasswordHash>>,
    rules: Vec<Rule>,
    default_access: Effect,
    protected: Arc<[String]>,
}

type Users = BTreeMap<Arc<str>, Account>;

#[derive(Debug)]
struct Account {
    secret: Secret,
    /// Tells this password from another one of the same user.
    mark: Digest,
}

#[derive(Debug)]
enum Secret {
    /// A password that the configuration has as text: the account's mark is its digest.
    Plain,
    /// A hash, and the digest of the password once that has been found right.
    ///
    /// It spares a city that reconnects one argon2 for each client, which would be minutes of computing. What it costs:
    /// whoever can read the process's memory finds, for users that have logged in, a digest that can be tried quickly
    /// besides the hash that cannot. One for each user, and gone when the users are read again.
    Hash(Arc<PasswordHash>, OnceLock<Digest>),
}

impl Gate {
    /// Reads the users' file, if there is one, and puts users and rules together. It blocks for a file's time.
    pub(crate) fn read(config: &Config, key: Key) -> Result<Self, ConfigError> {
        let (users, decoy) = read_users(config, key)?;
        for rule in &config.rules {
            if let Who::User(name) = &rule.who
                && !users.contains_key(&**name)
            {
                warn!(user = name, "a rule names a user that does not exist");
            }
        }
        Ok(Self {
            key,
            allow_anonymous: config.allow_anonymous,
            users,
            decoy,
            rules: config.rules.clone(),
            default_access: config.default_access,
            protected: config.protected.as_slice().into(),
        })
    }

    /// The key that digests are made with: a successor of this gate takes it over, so that proofs stay comparable.
    pub(crate) fn key(&self) -> Key {
        self.key
    }

    /// Whether nobody can be let in, certificates apart.
    pub(crate) fn is_shut(&self) -> bool {
        !self.allow_anonymous && self.users.is_empty()
    }

    /// Checks a CONNECT's user name, password and client id. It may wait for other passwords to be checked; the caller
    /// bounds that.
    pub(crate) async fn admit(
        &self,
        credentials: &Credentials<'_>,
    ) -> Result<Identity, LoginRefused> {
        let Credentials {
            user,
            password,
            client_id,
            certificate_name,
        } = credentials;
        if client_id.contains(['/', '+', '#'])
            && self.rules.iter().any(|rule| rule.filter.contains("%c"))
        {
            return Err(LoginRefused::ClientId);
        }
        let (user, proof) = match (certificate_name, *user) {
            (Some(name), user) if user.is_none_or(|user| *user == **name) => {
                (Some(self.check_certificate(name)?), Proof::Certificate)
            }
            (Some(_), _) => return Err(LoginRefused::Certificate),
            (None, Some(name)) => {
                let password = password.unwrap_or_default();
                let (name, mark) = self.check_password(name, password).await?;
                (Some(name), Proof::Password(mark))
            }
            // A password without a name, which MQTT 5 allows (section 3.1.2.9), is a token of some kind, and nobody here
            // can say whether it is good.
            (None, None) if password.is_some() => return Err(LoginRefused::Password),
            (None, None) if self.allow_anonymous => (None, Proof::None),
            (None, None) => return Err(LoginRefused::Anonymous),
        };
        Ok(Identity {
            user,
            client_id: (*client_id).into(),
            proof,
        })
    }

    /// Authorities do not know our users: a name must not reach, nor be reached by, one of them through `%u`.
    fn check_certificate(&self, name: &Arc<str>) -> Result<Arc<str>, LoginRefused> {
        let below = format!("{name}/");
        let mut after = self
            .users
            .range::<str, _>((Bound::Included(&*below), Bound::Unbounded));
        if !config::is_user_name(name)
            || config::nests(name, |outer| self.users.contains_key(outer))
            || after
                .next()
                .is_some_and(|(user, _)| user.starts_with(&below))
        {
            return Err(LoginRefused::Certificate);
        }
        Ok(Arc::clone(name))
    }

    async fn check_password(
        &self,
        name: &str,
        password: &[u8],
    ) -> Result<(Arc<str>, Digest), LoginRefused> {
        let given = self.key.digest(name, password);
        let known = self.users.get_key_value(name);
        let hash = match known {
            Some((name, Account { secret, mark })) => {
                let digest = match secret {
                    Secret::Plain => Some(mark),
                    Secret::Hash(_, verified) => verified.get(),
                };
                if digest.is_some_and(|digest| digest.is_same(&given)) {
                    return Ok((Arc::clone(name), mark.clone()));
                }
                match secret {
                    Secret::Plain => self.decoy.as_ref(),
                    Secret::Hash(hash, _) => Some(hash),
                }
            }
            None => self.decoy.as_ref(),
        };
        let right = match hash {
            Some(hash) => password::verify(hash, password)
                .await
                .map_err(|Busy| LoginRefused::Busy)?,
            None => false,
        };
        match known {
            Some((
                name,
                Account {
                    secret: Secret::Hash(_, verified),
                    mark,
                },
            )) if right => {
                // Already set only by a login of the same user with the same password.
                verified.get_or_init(|| given);
                Ok((Arc::clone(name), mark.clone()))
            }
            _ => Err(LoginRefused::Password),
        }
    }

    /// Whether `identity`, let in before, would still be let in: its user is there and has the password it had.
    pub(crate) fn still_admits(&self, identity: &Identity) -> bool {
        match (&identity.proof, &identity.user) {
            (Proof::None, _) => self.allow_anonymous,
            (Proof::Password(mark), Some(name)) => self
                .users
                .get(name)
                .is_some_and(|account| account.mark.is_same(mark)),
            (Proof::Certificate, Some(name)) => self.check_certificate(name).is_ok(),
            (Proof::Password(_) | Proof::Certificate, None) => false,
        }
    }

    /// The rules that concern `identity`, with its names put in.
    pub(crate) fn access(&self, identity: &Identity) -> Access {
        let concerned = self
            .rules
            .iter()
            .filter(|rule| concerns(&rule.who, identity));
        Access::new(
            concerned,
            identity,
            self.default_access,
            Arc::clone(&self.protected),
        )
    }
}

/// The users of the configuration and of its file, and the costliest hash.
fn read_users(
    config: &Config,
    key: Key,
) -> Result<(Users, Option<Arc<PasswordHash>>), ConfigError> {
    let mut users = Users::new();
    for user in &config.users {
        let mark = key.digest(&user.name, user.password.as_bytes());
        let secret = Secret::Plain;
        users.insert(Arc::from(&*user.name), Account { secret, mark });
    }
    let Some(path) = &config.users_file else {
        return Ok((users, None));
    };
    let file = UsersFile::read(path)?;
    if file.is_readable_by_others() {
        warn!(path = %path.display(), "the file of users is readable by every user of this machine; chmod o= mends that");
    }
    let mut decoy: Option<Arc<PasswordHash>> = None;
    for (name, hash) in file.into_users() {
        let mark = key.digest(&name, hash.as_str().as_bytes());
        let hash = Arc::new(hash);
        if decoy
            .as_ref()
            .is_none_or(|so_far| so_far.cost() < hash.cost())
        {
            decoy = Some(Arc::clone(&hash));
        }
        let secret = Secret::Hash(hash, OnceLock::new());
        let account = Account { secret, mark };
        if users.insert(Arc::from(&*name), account).is_some() {
            return Err(ConfigError::UserName(name));
        }
    }
    let nested = |name: &&Arc<str>| config::nests(name, |outer| users.contains_key(outer));
    match users.keys().find(nested) {
        Some(name) => Err(ConfigError::UserName(name.to_string())),
        None => Ok((users, decoy)),
    }
}

fn concerns(who: &Who, identity: &Identity) -> bool {
    let user = identity.user.as_deref();
    let certified = identity.proof == Proof::Certificate;
    match who {
        Who::Any => true,
        Who::Anonymous => user.is_none(),
        Who::Users => user.is_some(),
        Who::User(name) => user == Some(name),
        Who::Certificate => certified,
        Who::CertificateName(name) => certified && user == Some(name),
    }
}

#[cfg(test)]
mod tests;
