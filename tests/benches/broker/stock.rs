//! rumqttd as its own program runs it: its listener, its sample configuration, and nothing of ours.

use std::collections::HashMap;
use std::net::SocketAddr;

use anyhow::Context as _;
use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};

/// What makes this program a broker: it starts itself again, since rumqttd's program is not in Debian.
pub(crate) const ARGUMENT: &str = "--stock-rumqttd";

/// Serves until it is killed. The numbers are those of the rumqttd.toml that comes with the crate.
pub(crate) fn serve(address: Option<&str>) -> anyhow::Result<()> {
    let listen: SocketAddr = address.context("an address to listen on")?.parse()?;
    let connections = ConnectionSettings {
        connection_timeout_ms: 60_000,
        max_payload_size: 20_480,
        max_inflight_count: 100,
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    let settings = ServerSettings {
        name: "v4-1".to_owned(),
        listen,
        tls: None,
        next_connection_delay_ms: 1,
        connections,
    };
    let config = Config {
        router: RouterConfig {
            max_connections: 10_010,
            max_outgoing_packet_count: 200,
            max_segment_size: 104_857_600,
            max_segment_count: 10,
            ..RouterConfig::default()
        },
        v4: Some(HashMap::from([("1".to_owned(), settings)])),
        ..Config::default()
    };
    Broker::new(config).start()?;
    Ok(())
}
