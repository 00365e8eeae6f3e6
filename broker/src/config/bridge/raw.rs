//! The shape of a `[[bridge]]` table, before its values are checked.

use super::{
    Bridge, BridgeLogin, BridgePassword, BridgeProblem, BridgeRoute, BridgeTls, BridgeVersion,
};
use crate::{config::ConfigError, message::QoS};
use serde::Deserialize;
use std::path::PathBuf;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBridge {
    name: String,
    url: String,
    user: Option<String>,
    password: Option<String>,
    password_file: Option<PathBuf>,
    client_id: Option<String>,
    ca_file: Option<PathBuf>,
    certificate_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    #[serde(default = "RawBridge::version")]
    version: u8,
    #[serde(default = "RawBridge::keep_alive")]
    keep_alive: String,
    #[serde(default = "RawBridge::session_expiry")]
    session_expiry: String,
    notification_topic: Option<String>,
    #[serde(default = "RawBridge::queue_bytes_max")]
    queue_bytes_max: usize,
    #[serde(default = "RawBridge::queue_count_max")]
    queue_count_max: usize,
    #[serde(default)]
    out: Vec<RawRoute>,
    #[serde(default, rename = "in")]
    inward: Vec<RawRoute>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRoute {
    filter: String,
    #[serde(default = "RawRoute::qos")]
    qos: u8,
    #[serde(default)]
    local_prefix: String,
    #[serde(default)]
    remote_prefix: String,
    #[serde(default)]
    allow_protected: bool,
}

impl RawRoute {
    fn qos() -> u8 {
        1
    }

    fn route(self) -> Result<BridgeRoute, BridgeProblem> {
        Ok(BridgeRoute {
            qos: QoS::from_bits(self.qos).ok_or(BridgeProblem::Qos(self.qos))?,
            filter: self.filter,
            local_prefix: self.local_prefix,
            remote_prefix: self.remote_prefix,
            allow_protected: self.allow_protected,
        })
    }
}

impl RawBridge {
    fn version() -> u8 {
        5
    }

    fn keep_alive() -> String {
        "30s".to_owned()
    }

    /// As long as a message waits for a client of this broker.
    fn session_expiry() -> String {
        "1day".to_owned()
    }

    /// An hour of ten messages of about 100 bytes in a second.
    fn queue_bytes_max() -> usize {
        4 * 1024 * 1024
    }

    /// What fits into the bytes above if a message weighs 256 bytes with what holding it takes.
    fn queue_count_max() -> usize {
        16_384
    }

    fn address(url: &str) -> Option<(bool, String, u16)> {
        let (tls, rest) = match url.strip_prefix("mqtts://") {
            Some(rest) => (true, rest),
            None => (false, url.strip_prefix("mqtt://")?),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        // An IPv6 address stands in brackets, since it has colons of its own.
        let (host, port) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.strip_prefix(':')?)),
            None => rest
                .split_once(':')
                .map_or((rest, None), |(host, port)| (host, Some(port))),
        };
        if host.is_empty() || host.contains(['/', '?', '#', '@', ' ']) {
            return None;
        }
        let port = match port {
            None if tls => 8883,
            None => 1883,
            Some(port) => port.parse().ok()?,
        };
        Some((tls, host.to_owned(), port))
    }

    fn login(&mut self) -> Result<Option<BridgeLogin>, BridgeProblem> {
        let password = match (self.password.take(), self.password_file.take()) {
            (Some(_), Some(_)) => {
                return Err(BridgeProblem::Keys(
                    "there are both password and password_file",
                ));
            }
            (Some(text), None) => Some(BridgePassword::Text(text)),
            (None, Some(file)) => Some(BridgePassword::File(file)),
            (None, None) => None,
        };
        match (self.user.take(), password) {
            (None, Some(_)) => Err(BridgeProblem::Keys("there is a password without a user")),
            (None, None) => Ok(None),
            (Some(user), password) => Ok(Some(BridgeLogin {
                user,
                password: password.unwrap_or(BridgePassword::Text(String::new())),
            })),
        }
    }

    fn tls(&mut self, wanted: bool) -> Result<Option<BridgeTls>, BridgeProblem> {
        let ca_file = self.ca_file.take();
        let certificate = match (self.certificate_file.take(), self.key_file.take()) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => {
                return Err(BridgeProblem::Keys(
                    "certificate_file and key_file go together",
                ));
            }
        };
        if !wanted && (ca_file.is_some() || certificate.is_some()) {
            return Err(BridgeProblem::Keys(
                "ca_file, certificate_file and key_file are for a url with mqtts://",
            ));
        }
        Ok(wanted.then_some(BridgeTls {
            ca_file,
            certificate,
        }))
    }

    fn bridge(mut self) -> Result<Bridge, BridgeProblem> {
        let span = |key: &'static str, text: &str| {
            humantime::parse_duration(text).map_err(|_| BridgeProblem::Keys(key))
        };
        let (tls, host, port) =
            Self::address(&self.url).ok_or_else(|| BridgeProblem::Url(self.url.clone()))?;
        let version = match self.version {
            4 => BridgeVersion::V4,
            5 => BridgeVersion::V5,
            other => return Err(BridgeProblem::Version(other)),
        };
        let routes = |raw: Vec<RawRoute>| {
            raw.into_iter()
                .map(RawRoute::route)
                .collect::<Result<_, _>>()
        };
        Ok(Bridge {
            host,
            port,
            tls: self.tls(tls)?,
            login: self.login()?,
            client_id: self
                .client_id
                .unwrap_or_else(|| format!("{}-bridge", self.name)),
            version,
            keep_alive: span("keep_alive is not a duration such as 30s", &self.keep_alive)?,
            session_expiry: span(
                "session_expiry is not a duration such as 1day",
                &self.session_expiry,
            )?,
            notification_topic: self.notification_topic,
            queue_bytes_max: self.queue_bytes_max,
            queue_count_max: self.queue_count_max,
            outward: routes(self.out)?,
            inward: routes(self.inward)?,
            name: self.name,
        })
    }
}

impl TryFrom<RawBridge> for Bridge {
    type Error = ConfigError;

    fn try_from(raw: RawBridge) -> Result<Self, ConfigError> {
        let name = raw.name.clone();
        raw.bridge()
            .map_err(|problem| ConfigError::Bridge { name, problem })
    }
}
