//! The shape of the file, before its values are checked.

use super::{Bridge, Config, ConfigError, Effect, Limits, Listener, Rule, User};
use serde::Deserialize;
use std::{net::SocketAddr, time::Duration};

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawConfig {
    listen: String,
    #[serde(rename = "listener")]
    listeners: Vec<Listener>,
    allow_anonymous: bool,
    expose_anonymous: bool,
    #[serde(rename = "user")]
    users: Vec<User>,
    users_file: String,
    #[serde(rename = "rule")]
    rules: Vec<Rule>,
    default_access: Effect,
    protected: Vec<String>,
    state_dir: String,
    retained_flush_interval: String,
    sys_interval: String,
    metrics_listen: String,
    broker_id: String,
    #[serde(rename = "bridge")]
    bridges: Vec<Bridge>,
    limits: Limits,
}

impl Default for RawConfig {
    fn default() -> Self {
        let Config {
            listen,
            listeners,
            allow_anonymous,
            expose_anonymous,
            users,
            users_file: _,
            rules,
            default_access,
            protected,
            state_dir: _,
            retained_flush_interval,
            sys_interval,
            metrics_listen,
            broker_id: _,
            bridges,
            limits,
        } = Config::default();
        let text = |address: Option<SocketAddr>| {
            address.map_or_else(|| "none".to_owned(), |address| address.to_string())
        };
        let span = |duration| humantime::format_duration(duration).to_string();
        Self {
            listen: text(listen),
            listeners,
            allow_anonymous,
            expose_anonymous,
            users,
            users_file: "none".to_owned(),
            rules,
            default_access,
            protected,
            state_dir: "none".to_owned(),
            retained_flush_interval: span(retained_flush_interval),
            sys_interval: span(sys_interval),
            metrics_listen: text(metrics_listen),
            broker_id: "auto".to_owned(),
            bridges,
            limits,
        }
    }
}

impl TryFrom<RawConfig> for Config {
    type Error = ConfigError;

    fn try_from(raw: RawConfig) -> Result<Self, ConfigError> {
        let config = Self {
            listen: address("listen", &raw.listen)?,
            listeners: raw.listeners,
            allow_anonymous: raw.allow_anonymous,
            expose_anonymous: raw.expose_anonymous,
            users: raw.users,
            users_file: (raw.users_file != "none").then(|| raw.users_file.into()),
            rules: raw.rules,
            default_access: raw.default_access,
            protected: raw.protected,
            state_dir: (raw.state_dir != "none").then(|| raw.state_dir.into()),
            retained_flush_interval: duration(
                "retained_flush_interval",
                raw.retained_flush_interval,
            )?,
            sys_interval: duration("sys_interval", raw.sys_interval)?,
            metrics_listen: address("metrics_listen", &raw.metrics_listen)?,
            broker_id: (raw.broker_id != "auto").then_some(raw.broker_id),
            bridges: raw.bridges,
            limits: raw.limits,
        };
        config.validate()?;
        Ok(config)
    }
}

fn address(key: &'static str, text: &str) -> Result<Option<SocketAddr>, ConfigError> {
    if text == "none" {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| ConfigError::Listen {
        key,
        value: text.to_owned(),
    })
}

fn duration(key: &'static str, value: String) -> Result<Duration, ConfigError> {
    humantime::parse_duration(&value).map_err(|_| ConfigError::Duration { key, value })
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
    connections_per_address_max: usize,
    connects_per_second_max: u32,
    login_failure_delay: String,
    keep_alive_max: String,
    topic_aliases_max: u16,
    absent_sessions_max: usize,
    session_expiry_max: String,
    queue_bytes_max: usize,
    queue_count_max: usize,
    queue_age_max: String,
    queue_bytes_total_max: usize,
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
            connections_per_address_max: limits.connections_per_address_max,
            connects_per_second_max: limits.connects_per_second_max,
            login_failure_delay: humantime::format_duration(limits.login_failure_delay).to_string(),
            keep_alive_max: humantime::format_duration(limits.keep_alive_max).to_string(),
            topic_aliases_max: limits.topic_aliases_max,
            absent_sessions_max: limits.absent_sessions_max,
            session_expiry_max: humantime::format_duration(limits.session_expiry_max).to_string(),
            queue_bytes_max: limits.queue_bytes_max,
            queue_count_max: limits.queue_count_max,
            queue_age_max: humantime::format_duration(limits.queue_age_max).to_string(),
            queue_bytes_total_max: limits.queue_bytes_total_max,
        }
    }
}

impl TryFrom<RawLimits> for Limits {
    type Error = ConfigError;

    fn try_from(raw: RawLimits) -> Result<Self, ConfigError> {
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
            connections_per_address_max: raw.connections_per_address_max,
            connects_per_second_max: raw.connects_per_second_max,
            loopback_exempt: true,
            login_failure_delay: duration("login_failure_delay", raw.login_failure_delay)?,
            keep_alive_max: duration("keep_alive_max", raw.keep_alive_max)?,
            topic_aliases_max: raw.topic_aliases_max,
            absent_sessions_max: raw.absent_sessions_max,
            session_expiry_max: duration("session_expiry_max", raw.session_expiry_max)?,
            queue_bytes_max: raw.queue_bytes_max,
            queue_count_max: raw.queue_count_max,
            queue_age_max: duration("queue_age_max", raw.queue_age_max)?,
            queue_bytes_total_max: raw.queue_bytes_total_max,
        };
        limits.validate()?;
        Ok(limits)
    }
}
