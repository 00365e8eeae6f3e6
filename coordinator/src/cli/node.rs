//! `lamppost node` and `lamppost prediction`.

use super::args::{Global, Node, Prediction};
use super::client::Client;
use super::{Failure, show, tables};
use crate::api::{NodeView, StoredPredictions};
use crate::clock::now;

pub(super) async fn run(node: Node, global: &Global) -> Result<(), Failure> {
    let client = Client::new(global)?;
    match node {
        Node::Ls => {
            let nodes = client.nodes().await?;
            show(global, &nodes, || tables::nodes(&nodes, now()))
        }
        Node::Show { node } => {
            let node: NodeView = client.get(&format!("/v1/nodes/{node}")).await?;
            show(global, &node, || tables::node(&node, now()))
        }
    }
}

pub(super) async fn predictions(prediction: Prediction, global: &Global) -> Result<(), Failure> {
    let Prediction::Ls {
        node,
        stream,
        limit,
        before,
    } = prediction;
    let mut query = vec![("node", node.to_string()), ("limit", limit.to_string())];
    query.extend(stream.map(|stream| ("stream", stream.to_string())));
    query.extend(before.map(|before| ("before", before.to_string())));
    let found: StoredPredictions = Client::new(global)?.ask("/v1/predictions", &query).await?;
    show(global, &found, || tables::predictions(&found))
}
