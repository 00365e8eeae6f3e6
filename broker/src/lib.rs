//! An MQTT broker: rumqttd's router behind a front door of our own.
//!
//! It speaks MQTT 3.1.1 and 5 on one TCP port, and to the process it is embedded in. The way of a message:
//!
//! - `accept` takes connections within bounds; `session` serves one: handshake, packets in, messages
//!   out; `codec` is the wire format;
//! - `auth` says who a client is and which topics it may use; `topic` knows filters;
//! - `publisher` routes a message to the logs of the filters that select it and to the `retained` store;
//! - `subscriptions` knows who wants what and who lags, `filters` finds it by topic, `share` picks the member of a group
//!   that gets a message; `router` is the home of rumqttd, which holds the logs;
//! - `inbox` takes messages out for one subscriber, a session or a `link`, each once;
//! - `hub` is what all of them share, `broker` starts and stops it, `stats` counts, `log` keeps the router quiet.
//!
//! What it does not do: keep sessions over a reconnect (every session is clean, and clients are told so), keep anything
//! on disk, TLS, WebSocket, topic aliases. A subscription of QoS 2 is granted QoS 1.
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
mod publisher;
mod retained;
mod router;
mod session;
mod share;
mod stats;
mod subscriptions;
mod topic;

pub use broker::{Broker, StartError};
pub use config::{Action, Config, ConfigError, Effect, Limits, Rule, User, Who};
pub use link::{Link, LinkError, LinkPublisher, LinkReceiver, SubscribeOptions};
pub use log::log_filter;
pub use message::{Message, Publish, PublishProperties, QoS};
pub use stats::Stats;
