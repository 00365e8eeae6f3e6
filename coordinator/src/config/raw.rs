//! The file as it is written.

use std::net::SocketAddr;
use std::path::PathBuf;

use lamppost_models::TopicRoot;
use serde::Deserialize;

use super::{
    Broker, BrokerUrl, Config, Embedded, External, Http, InventoryLimits, NodeLogin,
    PredictionLimits, SampleLimits, ViewerLogin,
};
use crate::units::{Size, Span};

/// The file, key by key; a key that is absent has its default.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Raw {
    data_dir: Option<PathBuf>,
    root: Option<TopicRoot>,
    http: RawHttp,
    broker: RawBroker,
    inventory: RawInventory,
    predictions: RawPredictions,
    samples: RawSamples,
    releases: RawReleases,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawHttp {
    listen: Option<SocketAddr>,
    token: Option<String>,
    expose_without_token: Option<bool>,
    connections_max: Option<usize>,
    downloads_per_backhaul: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawBroker {
    url: Option<BrokerUrl>,
    ca_file: Option<PathBuf>,
    listen: Option<SocketAddr>,
    anonymous_viewers: Option<bool>,
    clients_max: Option<usize>,
    #[serde(rename = "node")]
    nodes: Vec<NodeLogin>,
    #[serde(rename = "viewer")]
    viewers: Vec<ViewerLogin>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawInventory {
    nodes_max: Option<usize>,
    stale_after: Option<Span>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawPredictions {
    node_records_max: Option<u64>,
    node_bytes_max: Option<Size>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawSamples {
    cap: Option<Size>,
    age: Option<Span>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawReleases {
    lifetime: Option<Span>,
    signers: Vec<PathBuf>,
}

impl Raw {
    pub(super) fn config(self) -> Config {
        let default = Config::default();
        let (inventory, predictions) = (default.inventory, default.predictions);
        Config {
            data_dir: self.data_dir.unwrap_or(default.data_dir),
            root: self.root.unwrap_or(default.root),
            http: Http {
                listen: self.http.listen.unwrap_or(default.http.listen),
                token: self.http.token,
                expose_without_token: self
                    .http
                    .expose_without_token
                    .unwrap_or(default.http.expose_without_token),
                connections_max: self
                    .http
                    .connections_max
                    .unwrap_or(default.http.connections_max),
                downloads_per_backhaul: self.http.downloads_per_backhaul,
            },
            broker: self.broker.config(),
            inventory: InventoryLimits {
                nodes_max: self.inventory.nodes_max.unwrap_or(inventory.nodes_max),
                stale_after: self
                    .inventory
                    .stale_after
                    .map_or(inventory.stale_after, |span| span.0),
            },
            predictions: PredictionLimits {
                node_records_max: self
                    .predictions
                    .node_records_max
                    .unwrap_or(predictions.node_records_max),
                node_bytes_max: self
                    .predictions
                    .node_bytes_max
                    .map_or(predictions.node_bytes_max, |size| size.0),
            },
            samples: SampleLimits {
                cap_bytes: self
                    .samples
                    .cap
                    .map_or(default.samples.cap_bytes, |size| size.0),
                age: self.samples.age.map_or(default.samples.age, |span| span.0),
            },
            release_lifetime: self
                .releases
                .lifetime
                .map_or(default.release_lifetime, |span| span.0),
            release_signers: self.releases.signers,
            ready_file: None,
            checker: None,
        }
    }
}

impl RawBroker {
    fn config(self) -> Broker {
        if let Some(url) = self.url {
            return Broker::External(External {
                url,
                ca_file: self.ca_file,
            });
        }
        let default = Embedded::default();
        Broker::Embedded(Embedded {
            listen: self.listen.unwrap_or(default.listen),
            anonymous_viewers: self.anonymous_viewers.unwrap_or(default.anonymous_viewers),
            clients_max: self.clients_max.unwrap_or(default.clients_max),
            nodes: self.nodes,
            viewers: self.viewers,
        })
    }
}
