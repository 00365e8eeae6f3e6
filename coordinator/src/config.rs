//! Configuration: a TOML file of which every key has a default, checked as a whole.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lamppost_models::key::ROLE_KEYS_MAX;
use lamppost_models::{NodeId, NodePath, SiteId, TopicRoot};
use serde::Deserialize;

use crate::preflight::Checker;

mod raw;
mod url;

pub use url::{BrokerUrl, ParseBrokerUrlError};

/// How the coordinator runs. [`Config::validate`] says whether it can.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where the store, the artifacts and the signing key are.
    pub data_dir: PathBuf,
    /// What stands in front of all topics.
    pub root: TopicRoot,
    /// The HTTP API.
    pub http: Http,
    /// The broker.
    pub broker: Broker,
    /// The inventory.
    pub inventory: InventoryLimits,
    /// The stored predictions.
    pub predictions: PredictionLimits,
    /// The stored samples.
    pub samples: SampleLimits,
    /// How long a signed release is valid.
    pub release_lifetime: Duration,
    /// Files of the secret keys that sign releases; without any, the data directory's own.
    pub release_signers: Vec<PathBuf>,
    /// Where the addresses are written as JSON once the coordinator serves; only from the command line.
    pub ready_file: Option<PathBuf>,
    /// The program that checks pushed bundles in a process of its own; without one they are checked in this process.
    /// Only from the command line.
    pub checker: Option<Checker>,
}

/// The HTTP API.
#[derive(Clone, PartialEq)]
pub struct Http {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// What clients must present, apart from nodes that fetch artifacts.
    pub token: Option<String>,
    /// Whether it may listen beyond loopback with no token.
    pub expose_without_token: bool,
    /// Most connections at once.
    pub connections_max: usize,
    /// Most downloads at once by nodes whose tag `backhaul` has the same value.
    pub downloads_per_backhaul: Option<u32>,
}

/// The broker that nodes and coordinator meet at.
#[derive(Clone, Debug, PartialEq)]
pub enum Broker {
    /// In this process.
    Embedded(Embedded),
    /// Somewhere else.
    External(External),
}

/// A broker in this process.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedded {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Whether clients without a user name may read everything; on loopback only.
    pub anonymous_viewers: bool,
    /// Most clients at once.
    pub clients_max: usize,
    /// The nodes that may connect.
    pub nodes: Vec<NodeLogin>,
    /// Who else may connect, to read everything below the root.
    pub viewers: Vec<ViewerLogin>,
}

/// A broker somewhere else.
#[derive(Clone, Debug, PartialEq)]
pub struct External {
    /// Where, and as whom.
    pub url: BrokerUrl,
    /// Certificate authority to trust, PEM; without it, those of the system.
    pub ca_file: Option<PathBuf>,
}

/// A node's right to connect.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeLogin {
    /// Its site.
    pub site: SiteId,
    /// Its name.
    pub node: NodeId,
    /// Its password; the user name is `<site>/<node>`.
    pub password: String,
}

/// A dashboard's right to connect.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ViewerLogin {
    /// The user name.
    pub user: String,
    /// The password.
    pub password: String,
}

/// The inventory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InventoryLimits {
    /// Most nodes.
    pub nodes_max: usize,
    /// How long a node may be silent before it counts as unreachable.
    pub stale_after: Duration,
}

/// The stored predictions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PredictionLimits {
    /// Most predictions of a node.
    pub node_records_max: u64,
    /// Most bytes of a node's predictions.
    pub node_bytes_max: u64,
}

/// The stored samples, of all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleLimits {
    /// Most bytes.
    pub cap_bytes: u64,
    /// How long one is kept.
    pub age: Duration,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration {} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is no TOML of this form.
    #[error("configuration {} is refused", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong where.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A value is impossible.
    #[error("{key} is {value}: {mend}")]
    Value {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What would do.
        mend: &'static str,
    },
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("lamppost-data"),
            root: TopicRoot::default(),
            http: Http {
                listen: SocketAddr::from(([127, 0, 0, 1], 7880)),
                token: None,
                expose_without_token: false,
                connections_max: 256,
                downloads_per_backhaul: None,
            },
            broker: Broker::Embedded(Embedded::default()),
            inventory: InventoryLimits {
                nodes_max: 10_000,
                stale_after: Duration::from_mins(3),
            },
            predictions: PredictionLimits {
                node_records_max: 100_000,
                node_bytes_max: 64 << 20,
            },
            samples: SampleLimits {
                cap_bytes: 4_000_000_000,
                age: Duration::from_hours(24 * 365),
            },
            release_lifetime: Duration::from_hours(30 * 24),
            release_signers: Vec::new(),
            ready_file: None,
            checker: None,
        }
    }
}

impl Default for Embedded {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7883)),
            anonymous_viewers: true,
            clients_max: 1_000,
            nodes: Vec::new(),
            viewers: Vec::new(),
        }
    }
}

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http")
            .field("listen", &self.listen)
            .field("token", &self.token.is_some())
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for NodeLogin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NodeLogin({}/{})", self.site, self.node)
    }
}

impl std::fmt::Debug for ViewerLogin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ViewerLogin({})", self.user)
    }
}

impl NodeLogin {
    /// Where the node is.
    pub fn path(&self) -> NodePath {
        NodePath {
            site: self.site.clone(),
            node: self.node.clone(),
        }
    }
}

impl Config {
    /// Reads a file, checked.
    ///
    /// # Errors
    /// [`ConfigError`] when it cannot be read, has an unknown key or an impossible value.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let read = |source| ConfigError::Read {
            path: path.to_owned(),
            source,
        };
        let text = std::fs::read_to_string(path).map_err(read)?;
        Self::parse(&text).map_err(|error| match error {
            ConfigError::Parse { source, .. } => ConfigError::Parse {
                path: path.to_owned(),
                source,
            },
            ConfigError::Read { .. } | ConfigError::Value { .. } => error,
        })
    }

    /// Reads the text of a file, checked.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let raw: raw::Raw = toml::from_str(text).map_err(|source| ConfigError::Parse {
            path: PathBuf::new(),
            source: Box::new(source),
        })?;
        let config = raw.config();
        config.validate()?;
        Ok(config)
    }

    /// Checks the values against each other and their limits.
    ///
    /// # Errors
    /// [`ConfigError::Value`] with the first value that cannot be.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.http.validate()?;
        if let Broker::Embedded(embedded) = &self.broker {
            embedded.validate()?;
        }
        let minute = Duration::from_mins(1);
        if self.release_lifetime < minute || self.release_lifetime > Duration::from_hours(24 * 3650)
        {
            let value = humantime::format_duration(self.release_lifetime).to_string();
            return Err(ConfigError::Value {
                key: "releases.lifetime",
                value,
                mend: "choose 1m to 3650d",
            });
        }
        within(
            "releases.signers",
            self.release_signers.len() as u64,
            0..=ROLE_KEYS_MAX as u64,
            "name 16 files at most",
        )?;
        let stale_after = self.inventory.stale_after;
        if stale_after < Duration::from_secs(1) || stale_after > Duration::from_hours(24 * 30) {
            let value = humantime::format_duration(stale_after).to_string();
            return Err(ConfigError::Value {
                key: "inventory.stale_after",
                value,
                mend: "choose 1s to 30d",
            });
        }
        let SampleLimits { cap_bytes, age } = self.samples;
        within(
            "samples.cap",
            cap_bytes,
            1 << 20..=1 << 40,
            "choose 1MiB to 1024GiB",
        )?;
        if age < Duration::from_hours(1) || age > Duration::from_hours(24 * 36_500) {
            let value = humantime::format_duration(age).to_string();
            return Err(ConfigError::Value {
                key: "samples.age",
                value,
                mend: "choose 1h to 36500d",
            });
        }
        let PredictionLimits {
            node_records_max,
            node_bytes_max,
        } = self.predictions;
        within(
            "inventory.nodes_max",
            self.inventory.nodes_max as u64,
            1..=1_000_000,
            "choose 1 to 1000000",
        )?;
        within(
            "predictions.node_records_max",
            node_records_max,
            1..=1_000_000_000,
            "choose 1 to 1000000000",
        )?;
        within(
            "predictions.node_bytes_max",
            node_bytes_max,
            1 << 20..=1 << 40,
            "choose 1MiB to 1024GiB",
        )
    }
}

impl Http {
    fn validate(&self) -> Result<(), ConfigError> {
        within(
            "http.connections_max",
            self.connections_max as u64,
            1..=100_000,
            "choose 1 to 100000",
        )?;
        if let Some(most) = self.downloads_per_backhaul {
            within(
                "http.downloads_per_backhaul",
                u64::from(most),
                1..=10_000,
                "choose 1 to 10000, or leave it out for no limit",
            )?;
        }
        if let Some(token) = &self.token {
            let printable = token.bytes().all(|byte| byte.is_ascii_graphic());
            if token.len() < 16 || token.len() > 256 || !printable {
                let value = format!("a text of {} bytes", token.len());
                let mend = "a token has 16 to 256 printable ASCII characters and no space, such as `openssl rand -hex 16` prints";
                return Err(ConfigError::Value {
                    key: "http.token",
                    value,
                    mend,
                });
            }
        } else if !self.listen.ip().is_loopback() && !self.expose_without_token {
            let mend = "anybody who reaches it could roll out models: set http.token, listen on a loopback address, or \
                        state http.expose_without_token = true";
            return Err(ConfigError::Value {
                key: "http.listen",
                value: self.listen.to_string(),
                mend,
            });
        }
        Ok(())
    }
}

impl Embedded {
    fn validate(&self) -> Result<(), ConfigError> {
        within(
            "broker.clients_max",
            self.clients_max as u64,
            1..=100_000,
            "choose 1 to 100000",
        )?;
        let mut users = BTreeSet::new();
        for path in self.nodes.iter().map(NodeLogin::path) {
            if !users.insert(path.to_string()) {
                let mend = "name each node once in broker.node";
                return Err(ConfigError::Value {
                    key: "broker.node",
                    value: path.to_string(),
                    mend,
                });
            }
        }
        for ViewerLogin { user, .. } in &self.viewers {
            let site = self.nodes.iter().any(|node| node.site.as_str() == user);
            // A name with a slash could be that of a node, and one like a site would stand above the site's nodes.
            if site || NodeId::new(user).is_err() || !users.insert(user.clone()) {
                let mend = "name each viewer once, unlike any site, with letters, digits, '.', '_' and '-'";
                return Err(ConfigError::Value {
                    key: "broker.viewer",
                    value: format!("{user:?}"),
                    mend,
                });
            }
        }
        let passwords = self
            .nodes
            .iter()
            .map(|node| &node.password)
            .chain(self.viewers.iter().map(|viewer| &viewer.password));
        for password in passwords {
            if password.is_empty() || password.len() > 256 {
                let value = format!("of {} bytes", password.len());
                let mend = "a password has 1 to 256 bytes";
                return Err(ConfigError::Value {
                    key: "a password of broker.node or broker.viewer",
                    value,
                    mend,
                });
            }
        }
        if self.anonymous_viewers && !self.listen.ip().is_loopback() {
            let mend = "anybody who reaches it could read all predictions: set broker.anonymous_viewers = false and \
                        name the readers in broker.viewer";
            return Err(ConfigError::Value {
                key: "broker.listen",
                value: self.listen.to_string(),
                mend,
            });
        }
        Ok(())
    }
}

fn within(
    key: &'static str,
    value: u64,
    range: std::ops::RangeInclusive<u64>,
    mend: &'static str,
) -> Result<(), ConfigError> {
    if range.contains(&value) {
        Ok(())
    } else {
        Err(ConfigError::Value {
            key,
            value: value.to_string(),
            mend,
        })
    }
}

#[cfg(test)]
mod tests;
