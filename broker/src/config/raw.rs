//! The shape of the file, before its values are checked.

use super::{Config, ConfigError, Effect, Limits, Rule, User};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawConfig {
    listen: String,
    allow_anonymous: bool,
    expose_anonymous: bool,
    #[serde(rename = "user")]
    users: Vec<User>,
    #[serde(rename = "rule")]
    rules: Vec<Rule>,
    default_access: Effect,
    limits: Limits,
}

impl Default for RawConfig {
    fn default() -> Self {
        let Config {
            listen,
            allow_anonymous,
            expose_anonymous,
            users,
            rules,
            default_access,
            limits,
        } = Config::default();
        let listen = listen.map_or_else(|| "none".to_owned(), |address| address.to_string());
        Self {
            listen,
            allow_anonymous,
            expose_anonymous,
            users,
            rules,
            default_access,
            limits,
        }
    }
}

impl TryFrom<RawConfig> for Config {
    type Error = ConfigError;

    fn try_from(raw: RawConfig) -> Result<Self, ConfigError> {
        let listen = match raw.listen.as_str() {
            "none" => None,
            text => Some(
                text.parse()
                    .map_err(|_| ConfigError::Listen(raw.listen.clone()))?,
            ),
        };
        let config = Self {
            listen,
            allow_anonymous: raw.allow_anonymous,
            expose_anonymous: raw.expose_anonymous,
            users: raw.users,
            rules: raw.rules,
            default_access: raw.default_access,
            limits: raw.limits,
        };
        config.validate()?;
        Ok(config)
    }
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawLimits {
    clients_max: usize,
    links_max: usize,
    handshakes_max: usize,
    handshake_timeout: String,
    write_timeout: String,
    payload_bytes_max: usize,
    filters_per_client_max: usize,
    filters_max: usize,
    log_bytes_per_filter: usize,
    inflight_max: u16,
    retained_count_max: usize,
    retained_bytes_max: usize,
}

impl Default for RawLimits {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            clients_max: limits.clients_max,
            links_max: limits.links_max,
            handshakes_max: limits.handshakes_max,
            handshake_timeout: humantime::format_duration(limits.handshake_timeout).to_string(),
            write_timeout: humantime::format_duration(limits.write_timeout).to_string(),
            payload_bytes_max: limits.payload_bytes_max,
            filters_per_client_max: limits.filters_per_client_max,
            filters_max: limits.filters_max,
            log_bytes_per_filter: limits.log_bytes_per_filter,
            inflight_max: limits.inflight_max,
            retained_count_max: limits.retained_count_max,
            retained_bytes_max: limits.retained_bytes_max,
        }
    }
}

impl TryFrom<RawLimits> for Limits {
    type Error = ConfigError;

    fn try_from(raw: RawLimits) -> Result<Self, ConfigError> {
        let duration = |key: &'static str, value: String| {
            humantime::parse_duration(&value).map_err(|_| ConfigError::Duration { key, value })
        };
        let limits = Self {
            clients_max: raw.clients_max,
            links_max: raw.links_max,
            handshakes_max: raw.handshakes_max,
            handshake_timeout: duration("handshake_timeout", raw.handshake_timeout)?,
            write_timeout: duration("write_timeout", raw.write_timeout)?,
            payload_bytes_max: raw.payload_bytes_max,
            filters_per_client_max: raw.filters_per_client_max,
            filters_max: raw.filters_max,
            log_bytes_per_filter: raw.log_bytes_per_filter,
            inflight_max: raw.inflight_max,
            retained_count_max: raw.retained_count_max,
            retained_bytes_max: raw.retained_bytes_max,
        };
        limits.validate()?;
        Ok(limits)
    }
}
