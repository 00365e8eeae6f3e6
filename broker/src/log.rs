/// What a process that embeds a broker logs when `wanted` is asked for, in the words of `tracing_subscriber::EnvFilter`.
///
/// It silences the router, whose spans cost more than its work at any level, unless `wanted` names it (`rumqttd`).
#[must_use]
pub fn log_filter(wanted: &str) -> String {
    if wanted.contains("rumqttd") {
        return wanted.to_owned();
    }
    // An empty filter means errors, but only as long as nothing is added to it.
    let wanted = if wanted.is_empty() { "error" } else { wanted };
    format!("{wanted},rumqttd=off")
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::EnvFilter;
    use tracing_subscriber::filter::LevelFilter;

    use super::*;

    #[test]
    fn the_router_is_silent_unless_it_is_named() {
        for (wanted, filter) in [
            ("", "error,rumqttd=off"),
            ("warn", "warn,rumqttd=off"),
            ("info,rumqttc=warn", "info,rumqttc=warn,rumqttd=off"),
            ("info,rumqttd=debug", "info,rumqttd=debug"),
            ("rumqttd::router=trace", "rumqttd::router=trace"),
        ] {
            assert_eq!(log_filter(wanted), filter);
        }
    }

    #[test]
    fn nothing_else_is_changed() {
        for (wanted, level) in [
            ("", LevelFilter::ERROR),
            ("off", LevelFilter::OFF),
            ("warn", LevelFilter::WARN),
            ("lamppost_broker=debug", LevelFilter::DEBUG),
        ] {
            let filter = EnvFilter::try_new(log_filter(wanted)).unwrap();
            assert_eq!(filter.max_level_hint(), Some(level), "{wanted:?}");
        }
    }
}
