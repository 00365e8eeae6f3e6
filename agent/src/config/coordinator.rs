//! The `[coordinator]` table.

use std::path::Path;
use std::time::Duration;

use lamppost_agent_core::pace;
use lamppost_models::NodePath;
use lamppost_models::ledger::Durability;

use super::raw::{RawCoordinator, RawOutbox};
use super::trust;
use super::units::{Bytes, Limit};
use super::{
    Coordinator, MEMORY_RECORDS_MAX, MESSAGE_BYTES_MIN, Outcome, PASSWORD_FILE_BYTES_MAX,
    REPLAY_WINDOW_MAX, refuse, span, within,
};
use crate::uplink::{Login, UplinkConfig};

pub(super) fn coordinator(
    raw: RawCoordinator,
    path: &NodePath,
    outbox: &RawOutbox,
) -> Outcome<Coordinator> {
    let (tls, host, port) = broker_address(&raw.mqtt)?;
    if !(raw.http.starts_with("http://") || raw.http.starts_with("https://")) {
        return refuse(
            "coordinator.http",
            format!("{:?}", raw.http),
            "a URL such as \"http://192.0.2.1:7880\"",
        );
    }
    let trust = trust::trust(&raw)?;
    check_times(&raw)?;
    within(
        "coordinator.memory_records",
        "predictions",
        raw.memory_records,
        1,
        MEMORY_RECORDS_MAX,
    )?;
    within(
        "coordinator.replay_window",
        "batches",
        raw.replay_window,
        1,
        REPLAY_WINDOW_MAX,
    )?;
    let flush = match outbox.durability {
        Durability::Outage => outbox.flush,
        Durability::Always => outbox.flush_always,
    };
    let memory_bytes_max = match usize::try_from(raw.memory_bytes.0) {
        Ok(bytes) if bytes >= MESSAGE_BYTES_MIN => bytes,
        _ => {
            return refuse(
                "coordinator.memory_bytes",
                raw.memory_bytes,
                "16KiB or more",
            );
        }
    };
    let uplink = UplinkConfig {
        host,
        port,
        tls,
        ca_file: raw.ca_file.clone(),
        login: login(&raw, path)?,
        keep_alive: raw.keep_alive,
        connect_timeout: raw.connect_timeout,
        retry_min: raw.retry_min,
        retry_max: raw.retry_max,
        ack_timeout: raw.ack_timeout,
        memory_records_max: raw.memory_records,
        memory_bytes_max,
        replay_window: raw.replay_window,
        replay_spread: raw.replay_spread,
        compress: raw.compress,
        pace: pace(&raw)?,
        durability: outbox.durability,
        flush,
    };
    Ok(Coordinator {
        uplink,
        http: raw.http,
        ca_file: raw.ca_file,
        trust,
    })
}

fn check_times(raw: &RawCoordinator) -> Outcome<()> {
    let second = Duration::from_secs(1);
    span(
        "coordinator.keep_alive",
        raw.keep_alive,
        5 * second,
        3_600 * second,
    )?;
    span(
        "coordinator.connect_timeout",
        raw.connect_timeout,
        second,
        300 * second,
    )?;
    span(
        "coordinator.retry_min",
        raw.retry_min,
        Duration::from_millis(10),
        raw.retry_max,
    )?;
    span(
        "coordinator.retry_max",
        raw.retry_max,
        raw.retry_min,
        3_600 * second,
    )?;
    span(
        "coordinator.ack_timeout",
        raw.ack_timeout,
        Duration::from_millis(100),
        3_600 * second,
    )?;
    span(
        "coordinator.replay_spread",
        raw.replay_spread,
        Duration::ZERO,
        3_600 * second,
    )
}

fn pace(raw: &RawCoordinator) -> Outcome<pace::Limits> {
    let at_least = |key: &str, limit: Limit, least: Bytes, why: &str| match limit.0 {
        Some(bytes) if bytes < least => refuse(
            format!("coordinator.{key}"),
            bytes,
            format!("{least} or more, or \"none\": {why}"),
        ),
        Some(bytes) => Ok(Some(bytes.0)),
        None => Ok(None),
    };
    let (rate, day) = (Bytes(1_000), Bytes(100_000));
    Ok(pace::Limits {
        rate_bytes: at_least("rate", raw.rate, rate, "it is bytes a second")?,
        day_bytes: at_least(
            "budget_per_day",
            raw.budget_per_day,
            day,
            "a batch takes several thousand",
        )?,
    })
}

/// Reads `mqtt://host:port` or `mqtts://host:port`.
pub(super) fn broker_address(text: &str) -> Outcome<(bool, String, u16)> {
    let parsed = || {
        let (tls, rest, default_port) = match text.split_once("://")? {
            ("mqtt", rest) => (false, rest, 1883),
            ("mqtts", rest) => (true, rest, 8883),
            _ => return None,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        // An IPv6 address stands in brackets, and has colons of its own.
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().ok().filter(|port| *port != 0)?)
            }
            _ => (rest, default_port),
        };
        let fits = !host.is_empty()
            && !host.contains(['/', '@', ' '])
            && (!host.contains(':') || host.ends_with(']'));
        fits.then(|| (tls, host.to_owned(), port))
    };
    match parsed() {
        Some(address) => Ok(address),
        None => refuse(
            "coordinator.mqtt",
            format!("{text:?}"),
            "mqtt://HOST:PORT, or mqtts://HOST:PORT for TLS",
        ),
    }
}

fn login(raw: &RawCoordinator, path: &NodePath) -> Outcome<Option<Login>> {
    let password = match (&raw.password, &raw.password_file) {
        (Some(_), Some(file)) => {
            return refuse(
                "coordinator.password_file",
                file.display(),
                "left out where coordinator.password is set",
            );
        }
        (Some(password), None) => Some(password.0.clone()),
        (None, Some(file)) => Some(read_password(file)?),
        (None, None) => None,
    };
    match (password, &raw.username) {
        (Some(password), username) => {
            // What the coordinator's broker puts into its rules.
            let username = username.clone().unwrap_or_else(|| path.to_string());
            Ok(Some(Login { username, password }))
        }
        (None, Some(username)) => refuse(
            "coordinator.username",
            format!("{username:?}"),
            "beside a password or password_file, or left out",
        ),
        (None, None) => Ok(None),
    }
}

/// The first line of the file.
fn read_password(path: &Path) -> Outcome<String> {
    use std::io::Read as _;
    let mut text = String::new();
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(PASSWORD_FILE_BYTES_MAX).read_to_string(&mut text));
    match (read, text.lines().next()) {
        (Ok(_), Some(line)) if !line.is_empty() => Ok(line.to_owned()),
        (Ok(_), _) => refuse(
            "coordinator.password_file",
            path.display(),
            "a file whose first line is the password",
        ),
        (Err(source), _) => refuse(
            "coordinator.password_file",
            path.display(),
            format!("a file that can be read ({source})"),
        ),
    }
}
