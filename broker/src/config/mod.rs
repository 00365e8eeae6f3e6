//! Configuration: a file, or a `[broker]` table inside another one, checked when it is read.

mod bridge;
mod listener;
mod names;
mod raw;
mod reload;

pub use bridge::{
    Bridge, BridgeLogin, BridgePassword, BridgeProblem, BridgeRoute, BridgeTls, BridgeVersion,
};
pub use listener::{ClientCertificates, Listener, TlsFiles, WebSocket};
pub(crate) use names::{is_user_name, nests};

use crate::{auth::UsersFileError, topic};
use raw::{RawConfig, RawLimits};
use serde::Deserialize;
use std::{
    collections::HashSet,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};
use thiserror::Error;

/// What a broker does and how much it takes. See `configs/broker.toml` for the file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawConfig")]
pub struct Config {
    /// Where clients connect; `None` for a broker that serves links of its own process only. Port 0 takes a free one.
    pub listen: Option<SocketAddr>,
    /// Further addresses, with TLS and WebSocket.
    pub listeners: Vec<Listener>,
    /// Whether clients without a user name are let in.
    pub allow_anonymous: bool,
    /// States that anonymous clients are wanted although other machines, or all web pages, can reach a listener.
    pub expose_anonymous: bool,
    /// Who may connect with a password.
    pub users: Vec<User>,
    /// A file of further users, with hashes in place of passwords; see [`UsersFile`](crate::UsersFile).
    pub users_file: Option<PathBuf>,
    /// Who may do what, by topic; the first rule that decides wins.
    pub rules: Vec<Rule>,
    /// What holds when no rule decides.
    pub default_access: Effect,
    /// Filters of the product's own topics: to publish there takes a rule that allows it, whatever `default_access` says.
    pub protected: Vec<String>,
    /// The folder that keeps retained messages over a restart; `None` keeps them in memory only.
    pub state_dir: Option<PathBuf>,
    /// How long a retained message may wait for its way to the disk: what a power cut can cost.
    pub retained_flush_interval: Duration,
    /// How often the `$SYS` topics are published; zero turns them off.
    pub sys_interval: Duration,
    /// Where Prometheus reads the broker's metrics over HTTP; `None` for nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// The broker's name in the property that keeps bridges from passing a message round and round; `None` makes one up.
    pub broker_id: Option<String>,
    /// Connections to other brokers.
    pub bridges: Vec<Bridge>,
    /// Bounds on what clients can use up.
    pub limits: Limits,
}

/// A name and its password.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// The user name; without `/`, `+` and `#`, since rules put it into topics.
    pub name: String,
    /// The password as text.
    pub password: String,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What a rule decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// The action is allowed.
    Allow,
    /// The action is refused and counted.
    Deny,
}

/// What a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Publishing, the last will included.
    Publish,
    /// Subscribing.
    Subscribe,
    /// Both.
    Any,
}

/// Whom a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Who {
    /// Everybody.
    Any,
    /// Clients without a user name.
    Anonymous,
    /// Clients with some user name, whether a password or a certificate shows it.
    Users,
    /// The client with this user name.
    User(String),
    /// Clients that are known by a certificate.
    Certificate,
    /// The client with this name in its certificate.
    CertificateName(String),
}

impl TryFrom<String> for Who {
    type Error = ConfigError;

    fn try_from(text: String) -> Result<Self, ConfigError> {
        match text.as_str() {
            "any" => Ok(Self::Any),
            "anonymous" => Ok(Self::Anonymous),
            "users" => Ok(Self::Users),
            "certificate" => Ok(Self::Certificate),
            other => match other.split_once(':') {
                Some(("user", name)) if !name.is_empty() => Ok(Self::User(name.to_owned())),
                Some(("certificate", name)) if !name.is_empty() => {
                    Ok(Self::CertificateName(name.to_owned()))
                }
                _ => Err(ConfigError::Who(text)),
            },
        }
    }
}

/// One access rule.
///
/// A publication is decided by the first rule whose filter matches its topic. A subscription is decided by the first
/// "allow" that covers the whole of its filter or the first "deny" that touches any part of it, so that a wide
/// subscription never slips past a narrow refusal.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What it decides.
    pub effect: Effect,
    /// Whom it is about.
    pub who: Who,
    /// What it is about.
    pub action: Action,
    /// The topics, as a filter; `%u` stands for the user name and `%c` for the client id.
    pub filter: String,
}

/// Bounds, each with its unit in its name or its type.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawLimits")]
pub struct Limits {
    /// Network clients connected at once.
    pub clients_max: usize,
    /// Links of this process at once: a publisher and a receiver count one each.
    pub links_max: usize,
    /// Connections that have not completed their handshake.
    pub handshakes_max: usize,
    /// Time from the connection to a complete CONNECT.
    pub handshake_timeout: Duration,
    /// Time in which a client must take some bytes that are waiting for it.
    pub write_timeout: Duration,
    /// Bytes of a message's payload.
    pub payload_bytes_max: usize,
    /// Different filters that one client subscribes to.
    pub filters_per_client_max: usize,
    /// Different filters of all clients and links together.
    pub filters_max: usize,
    /// Bytes of messages that wait for the subscribers of one filter.
    pub log_bytes_per_filter: usize,
    /// QoS 1 and 2 messages on their way to one client and not acknowledged.
    pub inflight_max: u16,
    /// Retained messages.
    pub retained_count_max: usize,
    /// Bytes of all retained messages, topics included.
    pub retained_bytes_max: usize,
    /// Connections open at once from one network address, handshakes included. Loopback is exempt: local processes share it.
    pub connections_per_address_max: usize,
    /// Connections accepted in a second from one network address, with twice as many in a burst. Loopback is exempt.
    pub connects_per_second_max: u32,
    /// Whether the bounds per address spare loopback. Tests, which have no other address, turn it off; the file cannot.
    pub loopback_exempt: bool,
    /// How long a refused login waits for its answer.
    pub login_failure_delay: Duration,
    /// The longest keep-alive. MQTT 5 clients that ask for more, or for none, are told to use this one, so that a vanished client is noticed
    /// within one and a half times as long; MQTT 3.1.1 clients cannot be told and keep theirs. Whole seconds count.
    pub keep_alive_max: Duration,
    /// Topic aliases of one client in each direction.
    pub topic_aliases_max: u16,
    /// Sessions kept for clients that are not connected. One more ends the session that has waited longest.
    pub absent_sessions_max: usize,
    /// The longest time for which the session of a client that is away is kept.
    pub session_expiry_max: Duration,
    /// Bytes of the QoS 1 and 2 messages that wait for one client.
    pub queue_bytes_max: usize,
    /// QoS 1 and 2 messages that wait for one client.
    pub queue_count_max: usize,
    /// How long a message waits for a client.
    pub queue_age_max: Duration,
    /// Bytes of the messages that wait for all clients together.
    pub queue_bytes_total_max: usize,
}

impl Default for Limits {
    /// Sized for a gateway. The worst case in memory is `filters_max` x `log_bytes_per_filter` x 3.5 (what rumqttd's
    /// log was measured to take for each byte it accounts) = 224 MiB, reached only if every filter is different and
    /// busy; three busy filters take about 3 MiB.
    fn default() -> Self {
        Self {
            clients_max: 1_000,
            links_max: 64,
            handshakes_max: 128,
            handshake_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(10),
            payload_bytes_max: 256 * 1024,
            filters_per_client_max: 100,
            filters_max: 256,
            log_bytes_per_filter: 256 * 1024,
            inflight_max: 256,
            retained_count_max: 20_000,
            retained_bytes_max: 32 * 1024 * 1024,
            connections_per_address_max: 256,
            connects_per_second_max: 50,
            loopback_exempt: true,
            login_failure_delay: Duration::from_secs(1),
            keep_alive_max: Duration::from_mins(1),
            topic_aliases_max: 32,
            absent_sessions_max: 256,
            session_expiry_max: Duration::from_hours(168),
            queue_bytes_max: 1024 * 1024,
            queue_count_max: 4_096,
            queue_age_max: Duration::from_hours(24),
            queue_bytes_total_max: 64 * 1024 * 1024,
        }
    }
}

impl Limits {
    /// A packet is a payload with its topic and properties, which get this much room.
    const HEADER_ROOM: usize = 64 * 1024;

    /// The longest packet that is read, in bytes.
    pub(crate) fn packet_bytes_max(&self) -> usize {
        self.payload_bytes_max + Self::HEADER_ROOM
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 1883))),
            listeners: Vec::new(),
            allow_anonymous: false,
            expose_anonymous: false,
            users: Vec::new(),
            users_file: None,
            rules: Vec::new(),
            default_access: Effect::Allow,
            protected: vec!["lamppost/v1/#".to_owned()],
            state_dir: None,
            retained_flush_interval: Duration::from_secs(1),
            sys_interval: Duration::from_secs(10),
            metrics_listen: None,
            broker_id: None,
            bridges: Vec::new(),
            limits: Limits::default(),
        }
    }
}

/// Why a configuration was refused.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML of the expected shape.
    #[error("cannot parse {path}")]
    Parse {
        /// The file.
        path: String,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// An address is neither one with a port nor `none`.
    #[error("{key} is {value:?}, expected an address with a port such as 127.0.0.1:1883, or none")]
    Listen {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
    },
    /// A listener cannot be as it is described.
    #[error("listener {address}: {problem}")]
    Listener {
        /// Its address.
        address: SocketAddr,
        /// What is wrong, and its mend.
        problem: String,
    },
    /// A bridge cannot be as it is described.
    #[error("bridge {name:?}: {problem}")]
    Bridge {
        /// Its name.
        name: String,
        /// What is wrong, and its mend.
        problem: BridgeProblem,
    },
    /// The broker's id does not fit into the property that tells loops.
    #[error(
        "broker_id is {0:?}, expected auto, or 1 to 64 of the characters a-z, A-Z, 0-9, '-' and '_'"
    )]
    BrokerId(String),
    /// A duration does not parse.
    #[error("{key} is {value:?}, expected a duration such as 10s")]
    Duration {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
    },
    /// A number is outside its range.
    #[error("{key} is {value}, expected {min} to {max}")]
    Range {
        /// The key.
        key: &'static str,
        /// Its value.
        value: u128,
        /// The least allowed.
        min: u128,
        /// The most allowed.
        max: u128,
    },
    /// `who` of a rule is not understood.
    #[error(
        "who is {0:?}, expected any, anonymous, users, user:NAME, certificate or certificate:NAME"
    )]
    Who(String),
    /// A user name is empty, twice in the list, or would change a topic's shape.
    #[error(
        "user name {0:?} is given twice, has an empty level, a control character, + or #, is longer than 1,024 bytes, or \
         begins with another user's name and '/'"
    )]
    UserName(String),
    /// The file of users cannot be used.
    #[error("users_file cannot be used")]
    UsersFile(#[from] UsersFileError),
    /// A rule names a user that does not exist.
    #[error("a rule names the user {0:?}, who is not in the list of users")]
    UnknownUser(String),
    /// The filter of a rule, or a protected one, is not an MQTT topic filter.
    #[error("filter {0:?} is not a topic filter: + fills a whole level, # only the last one")]
    Filter(String),
    /// Anonymous clients would be let in from other machines.
    #[error(
        "anonymous clients would be let in from other machines at {0}: listen on a loopback address, add users and \
         set allow_anonymous = false, require client certificates, or state expose_anonymous = true"
    )]
    AnonymousExposed(SocketAddr),
}

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// If it cannot be read, has an unknown key, or a value that cannot be.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let name = || path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: name(),
            source,
        })?;
        toml::from_str(&text).map_err(|source| ConfigError::Parse {
            path: name(),
            source: Box::new(source),
        })
    }

    /// `listen` and the listeners, in the order in which their addresses are told.
    pub(crate) fn all_listeners(&self) -> impl Iterator<Item = Listener> {
        let plain = self.listen.map(Listener::tcp);
        plain.into_iter().chain(self.listeners.iter().cloned())
    }

    /// Checks what the types do not: ranges, names, filters, and that anonymous access is not opened by accident.
    ///
    /// # Errors
    /// The first thing that is wrong, with its mend.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut names = HashSet::new();
        for user in &self.users {
            if !is_user_name(&user.name) || !names.insert(user.name.as_str()) {
                return Err(ConfigError::UserName(user.name.clone()));
            }
        }
        let within = |user: &&User| nests(&user.name, |outer| names.contains(outer));
        if let Some(user) = self.users.iter().find(within) {
            return Err(ConfigError::UserName(user.name.clone()));
        }
        if let Some(filter) = self
            .protected
            .iter()
            .find(|filter| !topic::is_filter(filter))
        {
            return Err(ConfigError::Filter(filter.clone()));
        }
        for (key, value, min, max) in [
            (
                "retained_flush_interval (ms)",
                self.retained_flush_interval,
                10,
                3_600_000,
            ),
            ("sys_interval (ms)", self.sys_interval, 0, 3_600_000),
        ] {
            let value = value.as_millis();
            if value < min || value > max {
                return Err(ConfigError::Range {
                    key,
                    value,
                    min,
                    max,
                });
            }
        }
        for rule in &self.rules {
            if !topic::is_filter(&rule.filter) {
                return Err(ConfigError::Filter(rule.filter.clone()));
            }
            // Users of a file come and go without the rules, and names in certificates are not listed anywhere.
            if let Who::User(name) = &rule.who
                && self.users_file.is_none()
                && self
                    .listeners
                    .iter()
                    .all(|listener| !listener.knows_certificates())
                && !names.contains(name.as_str())
            {
                return Err(ConfigError::UnknownUser(name.clone()));
            }
        }
        let anonymous = self.allow_anonymous && !self.expose_anonymous;
        for listener in self.all_listeners() {
            listener.validate(anonymous)?;
        }
        bridge::validate(self)?;
        self.limits.validate()
    }
}

impl Limits {
    #[expect(clippy::too_many_lines, reason = "one line for each limit")]
    fn validate(&self) -> Result<(), ConfigError> {
        const DAY_MS: u128 = 86_400_000;
        let ranges: [(&'static str, u128, u128, u128); 23] = [
            ("clients_max", self.clients_max as u128, 1, 100_000),
            ("links_max", self.links_max as u128, 1, 10_000),
            ("handshakes_max", self.handshakes_max as u128, 1, 100_000),
            (
                "handshake_timeout (ms)",
                self.handshake_timeout.as_millis(),
                10,
                DAY_MS,
            ),
            (
                "write_timeout (ms)",
                self.write_timeout.as_millis(),
                10,
                DAY_MS,
            ),
            (
                "payload_bytes_max",
                self.payload_bytes_max as u128,
                1,
                256 * 1024 * 1024 - 128 * 1024,
            ),
            (
                "filters_per_client_max",
                self.filters_per_client_max as u128,
                1,
                10_000,
            ),
            ("filters_max", self.filters_max as u128, 1, 100_000),
            (
                "log_bytes_per_filter",
                self.log_bytes_per_filter as u128,
                16 * 1024,
                1 << 30,
            ),
            ("inflight_max", u128::from(self.inflight_max), 1, 32_768),
            (
                "retained_count_max",
                self.retained_count_max as u128,
                0,
                10_000_000,
            ),
            (
                "retained_bytes_max",
                self.retained_bytes_max as u128,
                0,
                1 << 40,
            ),
            (
                "connections_per_address_max",
                self.connections_per_address_max as u128,
                1,
                100_000,
            ),
            (
                "connects_per_second_max",
                u128::from(self.connects_per_second_max),
                1,
                1_000_000,
            ),
            (
                "login_failure_delay (ms)",
                self.login_failure_delay.as_millis(),
                0,
                60_000,
            ),
            (
                "keep_alive_max (ms)",
                self.keep_alive_max.as_millis(),
                1000,
                65_535_000,
            ),
            (
                "topic_aliases_max",
                u128::from(self.topic_aliases_max),
                0,
                1024,
            ),
            (
                "absent_sessions_max",
                self.absent_sessions_max as u128,
                0,
                100_000,
            ),
            (
                "session_expiry_max (ms)",
                self.session_expiry_max.as_millis(),
                0,
                4_294_967_294_000,
            ),
            (
                "queue_bytes_max",
                self.queue_bytes_max as u128,
                4096,
                1_073_741_824,
            ),
            (
                "queue_count_max",
                self.queue_count_max as u128,
                1,
                1_000_000,
            ),
            (
                "queue_age_max (ms)",
                self.queue_age_max.as_millis(),
                1000,
                4_294_967_294_000,
            ),
            (
                "queue_bytes_total_max",
                self.queue_bytes_total_max as u128,
                4096,
                1 << 40,
            ),
        ];
        match ranges
            .into_iter()
            .find(|(_, value, min, max)| value < min || value > max)
        {
            Some((key, value, min, max)) => Err(ConfigError::Range {
                key,
                value,
                min,
                max,
            }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
