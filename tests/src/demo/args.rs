//! The demo's command line.

use std::net::SocketAddr;
use std::time::Duration;

/// A coordinator and three edge nodes on this machine: real sensor readings in, predictions out, a model rolled out, an
/// outage bridged, a broken model refused. Exits with 0 only if all of that came true.
///
/// Needs no service, no root and no network. The same executable plays the other roles: `demo agent` and `demo
/// coordinator` (the server and the CLI), each with its own --help.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "demo", version)]
pub struct Args {
    /// How long the demo may take in all.
    #[arg(long, default_value_t = 60, value_name = "N", value_parser = clap::value_parser!(u64).range(25..=3_600))]
    pub seconds: u64,
    /// Readings a second of each sensor; one reading is an hour of real time. Less if the recordings would not last.
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub speed: u32,
    /// Let nodes and coordinator meet at this MQTT broker instead of the coordinator's own; it must ask for no password.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub broker: Option<SocketAddr>,
    /// Leave the fleet running at the end, until Ctrl-C, and say how to talk to it.
    #[arg(long)]
    pub keep: bool,
}

impl Args {
    /// How long the demo may take in all.
    pub const fn total(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}
