//! An MQTT broker: rumqttd's router behind a front door of our own.
//!
//! It speaks MQTT 3.1.1 and 5 on one port, over TCP, TLS or WebSocket, and to the process it is embedded in. The way of a
//! message:
//!
//! - `accept` takes connections within bounds, and `transport` does what stands before MQTT: TLS, WebSocket;
//! - `session` serves one: handshake, packets in, messages out; `codec` is the wire format;
//! - `auth` says who a client is, by password or certificate, and which topics it may use; `topic` knows filters;
//! - `publisher` routes a message to the logs of the filters that select it and to the `retained` store;
//! - `subscriptions` knows who wants what and who lags, `filters` finds it by topic, `share` picks the member of a group
//!   that gets a message; `router` is the home of rumqttd, which holds the logs;
//! - `inbox` takes messages out for one subscriber, a session or a `link`, each once;
//! - `bridge` connects the broker to others, over which messages pass out and in;
//! - `hub` is what all of them share, `broker` starts and stops it, `log` keeps the router quiet;
//! - `stats` counts; `sys` publishes the counts as `$SYS` topics, `metrics` serves them to Prometheus.
//!
//! What it does not do: keep sessions over its own restart; ask clients for enhanced authentication (AUTH).
//!
//! A process that sets up logging should silence the router, whose spans cost more than its work: [`log_filter`].
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use lamppost_broker::{Broker, Config, Publish, QoS};
//!
//! let config = Config { listen: Some("127.0.0.1:0".parse()?), allow_anonymous: true, ..Config::default() };
//! let broker = Broker::start(config).await?;
//! let (publisher, mut receiver) = broker.link("example")?.split();
//! receiver.subscribe("lamps/+", QoS::AtLeastOnce).await?;
//! publisher.publish(Publish::new("lamps/7", "on")).await?;
//! assert_eq!(receiver.recv().await.map(|message| message.payload), Some("on".into()));
//! broker.stop().await;
//! # Ok(())
//! # }
//! ```

mod accept;
mod auth;
mod bridge;
mod broker;
mod codec;
mod config;
mod filters;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod hub;
mod inbox;
mod link;
mod log;
mod message;
mod metrics;
mod publisher;
mod retained;
mod router;
mod session;
mod share;
mod stats;
mod subscriptions;
mod sys;
mod topic;
mod transport;

pub use auth::{HashProblem, LineProblem, PasswordHash, UsersFile, UsersFileError};
pub use bridge::{BridgeError, BridgeStats};
pub use broker::{Broker, ReloadError, StartError};
pub use config::{
    Action, Bridge, BridgeLogin, BridgePassword, BridgeProblem, BridgeRoute, BridgeTls,
    BridgeVersion, ClientCertificates, Config, ConfigError, Effect, Limits, Listener, Rule,
    TlsFiles, User, WebSocket, Who,
};
pub use link::{Link, LinkError, LinkPublisher, LinkReceiver, SubscribeOptions};
pub use log::log_filter;
pub use message::{Message, Publish, PublishProperties, QoS};
pub use stats::Stats;
pub use transport::TlsError;
