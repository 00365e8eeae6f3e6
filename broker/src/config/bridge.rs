//! Bridges: connections of this broker to others, and what passes over them.

mod raw;

use super::{Config, ConfigError};
use crate::{
    message::QoS,
    topic::{is_filter, is_topic, overlaps},
};
use raw::RawBridge;
use serde::Deserialize;
use std::{collections::HashSet, fmt, path::PathBuf, time::Duration};
use thiserror::Error;

/// Bridges of one broker. Each takes two of `limits.links_max`, and a gateway has one or two.
const BRIDGES_MAX: usize = 16;

/// Entries of one direction: each message is compared with all of them.
const ROUTES_MAX: usize = 64;

/// A name stands in a topic, in a client id and in every log line.
const NAME_LEN_MAX: usize = 64;

/// A connection to another broker, over which messages pass out and in.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawBridge")]
pub struct Bridge {
    /// What it is called, in logs and in `$SYS/broker/connection/NAME/state`.
    pub name: String,
    /// The other broker's host name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// TLS; `None` for plain TCP.
    pub tls: Option<BridgeTls>,
    /// The user name there and its password.
    pub login: Option<BridgeLogin>,
    /// The client id there, which no other client of that broker may have.
    pub client_id: String,
    /// The protocol spoken.
    pub version: BridgeVersion,
    /// How often the connection is tried while nothing passes; whole seconds count.
    pub keep_alive: Duration,
    /// For how long the other broker is asked to keep messages while the bridge is away; zero for not at all.
    pub session_expiry: Duration,
    /// A topic at the other broker that says, retained, whether the bridge is up: `1` or `0`.
    pub notification_topic: Option<String>,
    /// Bytes of the messages that wait for the other broker.
    pub queue_bytes_max: usize,
    /// Messages that wait for the other broker.
    pub queue_count_max: usize,
    /// What goes to the other broker.
    pub outward: Vec<BridgeRoute>,
    /// What comes from the other broker.
    pub inward: Vec<BridgeRoute>,
}

/// The version of MQTT that a bridge speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BridgeVersion {
    /// MQTT 3.1.1: no properties, nothing to tell loops by, and what comes in live does not say that it is retained.
    V4,
    /// MQTT 5.
    V5,
}

/// What a bridge trusts and shows in TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BridgeTls {
    /// The authorities that are trusted, in PEM; `None` for those of the system.
    pub ca_file: Option<PathBuf>,
    /// The files of the bridge's own certificate and of its key, in PEM.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// As whom a bridge logs in.
#[derive(Clone, PartialEq, Eq)]
pub struct BridgeLogin {
    /// The user name.
    pub user: String,
    /// The password.
    pub password: BridgePassword,
}

/// A password, or where it is.
#[derive(Clone, PartialEq, Eq)]
pub enum BridgePassword {
    /// The password.
    Text(String),
    /// A file that holds it; a line break at its end is left out. It is read when the broker starts.
    File(PathBuf),
}

/// Topics that pass in one direction: those of `local_prefix` and `filter` joined here are those of `remote_prefix` and
/// `filter` joined there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeRoute {
    /// What passes.
    pub filter: String,
    /// The quality of service at most.
    pub qos: QoS,
    /// What the topics begin with on this broker beside the filter.
    pub local_prefix: String,
    /// What the topics begin with on the other broker beside the filter.
    pub remote_prefix: String,
    /// Whether the other broker may publish to protected topics.
    pub allow_protected: bool,
}

impl BridgeRoute {
    /// The filter on this broker.
    pub(crate) fn local(&self) -> String {
        format!("{}{}", self.local_prefix, self.filter)
    }

    /// The filter on the other broker.
    pub(crate) fn remote(&self) -> String {
        format!("{}{}", self.remote_prefix, self.filter)
    }
}

impl fmt::Debug for Bridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bridge")
            .field("name", &self.name)
            .field("host", &self.host)
            .field("port", &self.port)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for BridgeLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BridgeLogin")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// Why a bridge cannot be as it is described.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BridgeProblem {
    /// There are too many.
    #[error("there are {0} bridges, at most {BRIDGES_MAX} are possible")]
    TooMany(usize),
    /// The name cannot stand in a topic.
    #[error("a name has 1 to {NAME_LEN_MAX} of the characters a-z, A-Z, 0-9, '-', '_' and '.'")]
    Name,
    /// Two bridges have the name.
    #[error("two bridges have this name")]
    SameName,
    /// The URL is not understood.
    #[error(
        "url is {0:?}, expected mqtt://HOST:PORT or mqtts://HOST:PORT; user and password have keys of their own"
    )]
    Url(String),
    /// The client id is empty, or too long.
    #[error("client_id must have 1 to 65535 bytes")]
    ClientId,
    /// The protocol is not known.
    #[error("version is {0}, expected 5 or 4 (which is MQTT 3.1.1)")]
    Version(u8),
    /// The quality of service is not possible.
    #[error("qos is {0}, expected 0 or 1: over a bridge messages pass at least once")]
    Qos(u8),
    /// A number is outside its range.
    #[error("{key} is {value}, expected {min} to {max}")]
    Range {
        /// The key.
        key: &'static str,
        /// Its value.
        value: u64,
        /// The least allowed.
        min: u64,
        /// The most allowed.
        max: u64,
    },
    /// A key says nothing without another one, or contradicts it.
    #[error("{0}")]
    Keys(&'static str),
    /// Nothing passes.
    #[error("both out and in are empty: nothing would pass")]
    Nothing,
    /// Too much passes.
    #[error("{direction} has {count} entries, at most {ROUTES_MAX} are possible")]
    TooManyRoutes {
        /// `out` or `in`.
        direction: &'static str,
        /// How many it has.
        count: usize,
    },
    /// A prefix and a filter do not make a filter.
    #[error("{0:?} is not a topic filter: + fills a whole level, # only the last one")]
    Filter(String),
    /// A prefix has a wildcard.
    #[error("{0:?} is not a prefix of topics: it has no + and no #")]
    Prefix(String),
    /// The topic of the notifications is not one.
    #[error(
        "notification_topic is {0:?}, expected a topic without + and #, which does not begin with $"
    )]
    NotificationTopic(String),
    /// Topics that begin with `$` belong to their broker.
    #[error(
        "{0:?} begins with $: such topics belong to their broker and may only go out, under a remote_prefix"
    )]
    Reserved(String),
    /// The other broker could publish to the product's own topics.
    #[error(
        "{filter:?} of in overlaps the protected {protected:?}: use a local_prefix, or state allow_protected = true \
         in that entry if the other broker may publish there"
    )]
    Protected {
        /// The filter on this broker.
        filter: String,
        /// The protected one.
        protected: String,
    },
    /// Two entries of one direction select the same topics.
    #[error("{first:?} and {second:?} of {direction} overlap: a message would pass twice")]
    Overlap {
        /// `out` or `in`.
        direction: &'static str,
        /// A filter.
        first: String,
        /// Another one.
        second: String,
    },
    /// What goes out would come back.
    #[error(
        "at the other broker {outward:?} of out overlaps {inward:?} of in: with version 4 messages would come back; \
         use version = 5 or prefixes that keep them apart"
    )]
    Echo {
        /// Where messages go.
        outward: String,
        /// Where messages come from.
        inward: String,
    },
}

/// Checks all bridges of a broker, and its own id.
pub(super) fn validate(config: &Config) -> Result<(), ConfigError> {
    let Config {
        broker_id,
        bridges,
        protected,
        ..
    } = config;
    if let Some(id) = broker_id.as_deref().filter(|id| !is_broker_id(id)) {
        return Err(ConfigError::BrokerId(id.to_owned()));
    }
    let mut names = HashSet::new();
    for bridge in bridges {
        let problem = if bridges.len() > BRIDGES_MAX {
            Err(BridgeProblem::TooMany(bridges.len()))
        } else if !names.insert(&bridge.name) {
            Err(BridgeProblem::SameName)
        } else {
            bridge.check(protected)
        };
        problem.map_err(|problem| ConfigError::Bridge {
            name: bridge.name.clone(),
            problem,
        })?;
    }
    Ok(())
}

/// Whether `id` can stand in the property that tells loops, where ids are parted by spaces and followed by a dot.
fn is_broker_id(id: &str) -> bool {
    (1..=NAME_LEN_MAX).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

impl Bridge {
    fn check(&self, protected: &[String]) -> Result<(), BridgeProblem> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if !(1..=NAME_LEN_MAX).contains(&self.name.len()) || !self.name.bytes().all(plain) {
            return Err(BridgeProblem::Name);
        }
        if !(1..=65_535).contains(&self.client_id.len()) {
            return Err(BridgeProblem::ClientId);
        }
        if let Some(topic) = &self.notification_topic
            && (!is_topic(topic) || topic.starts_with('$'))
        {
            return Err(BridgeProblem::NotificationTopic(topic.clone()));
        }
        self.check_ranges()?;
        if self.outward.is_empty() && self.inward.is_empty() {
            return Err(BridgeProblem::Nothing);
        }
        check_routes("out", &self.outward, BridgeRoute::local)?;
        check_routes("in", &self.inward, BridgeRoute::remote)?;
        for route in &self.outward {
            if route.allow_protected {
                return Err(BridgeProblem::Keys("allow_protected is for entries of in"));
            }
            if route.remote().starts_with('$') || route.local().starts_with("$share/") {
                return Err(BridgeProblem::Reserved(route.remote()));
            }
        }
        for route in &self.inward {
            check_inward(route, protected)?;
        }
        match self.version {
            BridgeVersion::V5 => Ok(()),
            BridgeVersion::V4 => self.check_echo(),
        }
    }

    fn check_ranges(&self) -> Result<(), BridgeProblem> {
        for (key, value, min, max) in [
            // The client library takes no less.
            ("keep_alive (s)", self.keep_alive.as_secs(), 5, 65_535),
            (
                "session_expiry (s)",
                self.session_expiry.as_secs(),
                0,
                4_294_967_294,
            ),
            (
                "queue_bytes_max",
                self.queue_bytes_max as u64,
                4_096,
                1 << 30,
            ),
            ("queue_count_max", self.queue_count_max as u64, 1, 1_000_000),
        ] {
            if value < min || value > max {
                return Err(BridgeProblem::Range {
                    key,
                    value,
                    min,
                    max,
                });
            }
        }
        Ok(())
    }

    /// What goes out must not come back where neither No Local nor a property can tell.
    fn check_echo(&self) -> Result<(), BridgeProblem> {
        for outward in self.outward.iter().map(BridgeRoute::remote) {
            for inward in self.inward.iter().map(BridgeRoute::remote) {
                if overlaps(&outward, &inward) {
                    return Err(BridgeProblem::Echo { outward, inward });
                }
            }
        }
        Ok(())
    }
}

fn check_routes(
    direction: &'static str,
    routes: &[BridgeRoute],
    source: fn(&BridgeRoute) -> String,
) -> Result<(), BridgeProblem> {
    if routes.len() > ROUTES_MAX {
        let count = routes.len();
        return Err(BridgeProblem::TooManyRoutes { direction, count });
    }
    for (index, route) in routes.iter().enumerate() {
        for prefix in [&route.local_prefix, &route.remote_prefix] {
            if prefix.contains(['+', '#', '\0']) {
                return Err(BridgeProblem::Prefix(prefix.clone()));
            }
        }
        for filter in [route.local(), route.remote()] {
            if !is_filter(&filter) {
                return Err(BridgeProblem::Filter(filter));
            }
        }
        if route.qos == QoS::ExactlyOnce {
            return Err(BridgeProblem::Qos(2));
        }
        let (second, mut before) = (source(route), routes[..index].iter().map(source));
        if let Some(first) = before.find(|first| overlaps(first, &second)) {
            return Err(BridgeProblem::Overlap {
                direction,
                first,
                second,
            });
        }
    }
    Ok(())
}

/// This process's links may publish anywhere, so that what comes in is bounded here.
fn check_inward(route: &BridgeRoute, protected: &[String]) -> Result<(), BridgeProblem> {
    let filter = route.local();
    if let Some(reserved) = [filter.clone(), route.remote()]
        .into_iter()
        .find(|filter| filter.starts_with('$'))
    {
        return Err(BridgeProblem::Reserved(reserved));
    }
    match protected.iter().find(|own| overlaps(own, &filter)) {
        Some(own) if !route.allow_protected => Err(BridgeProblem::Protected {
            filter,
            protected: own.clone(),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
