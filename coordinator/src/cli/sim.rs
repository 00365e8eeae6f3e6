//! `lamppost sim`: a rollout, played on a simulated fleet many times.

use std::collections::BTreeMap;
use std::path::Path;

use lamppost_coordinator_core::rollout::plan::Plan;
use lamppost_coordinator_core::rollout::policy::Bytes;
use lamppost_coordinator_core::rollout::{Book, Target, Terms};
use lamppost_coordinator_core::whatif::{Member, NODES_MAX, Outcome, Rates, Scenario};
use lamppost_models::id::{SiteId, TagValue};
use lamppost_models::release::{BundleRef, Sequence};
use lamppost_models::rollout::{Share, Tags};
use lamppost_models::{Digest, GroupId, ModelName, NodePath};
use semver::Version;
use serde::{Deserialize, Serialize};

use super::args::{Global, Sim, What};
use super::client::Client;
use super::{Exit, Failure, policy, show, tables};
use crate::api::{ModelDetail, NodeView, RolloutView};
use crate::clock::now;

/// Longest fleet file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Bytes that one download brings in a second unless the fleet file says otherwise: 1 Mbit/s, a weak LTE link.
const RATE: Bytes = Bytes(125_000);

/// A fleet as a file tells it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Fleet {
    /// Bytes that one download brings in a second.
    rate: Bytes,
    /// The same by the tag `backhaul`.
    backhaul: BTreeMap<TagValue, Bytes>,
    /// Nodes; without any, those of the coordinator.
    nodes: Vec<Like>,
}

/// Nodes that are like one another.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Like {
    site: SiteId,
    count: usize,
    #[serde(default)]
    groups: Vec<GroupId>,
    #[serde(default)]
    tags: Tags,
}

/// What was played, and what it came to.
#[derive(Debug, Serialize)]
pub(super) struct Played {
    pub(super) candidate: String,
    /// What `rollout plan` says of the first run.
    pub(super) plan: Plan,
    pub(super) runs: Vec<Outcome>,
}

impl Default for Fleet {
    fn default() -> Self {
        Self {
            rate: RATE,
            backhaul: BTreeMap::new(),
            nodes: Vec::new(),
        }
    }
}

pub(super) async fn run(sim: Sim, global: &Global) -> Result<(), Failure> {
    let fleet = sim.fleet.as_deref().map(read).transpose()?;
    let scenario = scenario(&sim, fleet.unwrap_or_default(), global).await?;
    let (first, runs) = (sim.seed, u64::from(sim.runs));
    let played = tokio::task::spawn_blocking(move || {
        let seeds = first..first.saturating_add(runs);
        let outcomes: Result<Vec<_>, _> = seeds.map(|seed| scenario.run(seed)).collect();
        Ok::<_, lamppost_coordinator_core::rollout::campaign::Refusal>(Played {
            candidate: scenario.candidate.to_string(),
            plan: scenario.plan(first)?,
            runs: outcomes?,
        })
    });
    let played = played.await.map_err(|error| Failure::failed(&error))?;
    let played = played.map_err(|refusal| Failure::failed(&refusal))?;
    show(global, &played, || tables::sim(&played))
}

async fn scenario(sim: &Sim, fleet: Fleet, global: &Global) -> Result<Scenario, Failure> {
    let What {
        model,
        version,
        group,
    } = sim.what.clone();
    let target = Target { group, model };
    let Fleet {
        rate,
        backhaul,
        nodes,
    } = fleet;
    let client = Client::new(global)?;
    let to = match sim.bytes {
        Some(bytes) => imagined(version, bytes.0),
        None => in_registry(&client, &target.model, &version).await?,
    };
    let (book, nodes) = if nodes.is_empty() {
        of_server(&client, &target).await?
    } else {
        (some_release(&target, to.bytes)?, members(nodes, &target)?)
    };
    if nodes.len() > NODES_MAX {
        let text = format!(
            "the fleet has {} nodes, and {NODES_MAX} can be played: describe a smaller one like it with --fleet",
            nodes.len()
        );
        return Err(Failure::new(Exit::Failed, text));
    }
    let away = Share::new(u16::from(sim.away) * 100);
    Ok(Scenario {
        book,
        nodes,
        target,
        to,
        policy: sim.policy.as_deref().map(policy::read).transpose()?,
        candidate: sim.candidate,
        rates: Rates { rate, backhaul },
        away: away.map_err(|error| Failure::failed(&error))?,
        report_every: sim.report_every,
        windows_per_hour: sim.windows_per_hour,
        labels_per_hour: sim.labels_per_hour,
        begins: now(),
    })
}

/// A bundle that is not there yet.
fn imagined(version: Version, bytes: u64) -> BundleRef {
    BundleRef {
        digest: Digest::of(format!("what if {version}").as_bytes()),
        version,
        bytes,
    }
}

async fn in_registry(
    client: &Client,
    model: &ModelName,
    version: &Version,
) -> Result<BundleRef, Failure> {
    let path = format!(
        "/v1/models/{model}/{}",
        version.to_string().replace('+', "%2B")
    );
    let detail: ModelDetail = client.get(&path).await?;
    Ok(BundleRef {
        version: detail.model.version,
        digest: detail.model.digest,
        bytes: detail.model.bytes,
    })
}

/// The coordinator's releases and nodes, as they are now.
async fn of_server(client: &Client, target: &Target) -> Result<(Book, Vec<Member>), Failure> {
    let mut book = Book::new();
    for view in client.get::<Vec<RolloutView>>("/v1/rollouts").await? {
        book.apply(view.rollout);
    }
    let nodes: Vec<NodeView> = client.get("/v1/nodes").await?;
    let member = |node: NodeView| {
        let status = node.status?;
        let takes = book.deciding(&target.model, &status.groups) == Some(&target.group);
        let uses = node.reported.is_none_or(|reported| {
            let mut names = reported.models.iter().map(|row| &row.name);
            names.any(|name| *name == target.model)
        });
        (takes && uses).then(|| Member {
            path: node.path,
            groups: status.groups,
            tags: status.tags,
            reachable: node.presence.reachable(),
        })
    };
    let members = nodes.into_iter().filter_map(member).collect();
    Ok((book, members))
}

/// A fleet that is only told of runs a version of its own.
fn some_release(target: &Target, bytes: u64) -> Result<Book, Failure> {
    let mut book = Book::new();
    let terms = Terms {
        now: now(),
        lifetime: std::time::Duration::from_hours(24),
        seen: Sequence(0),
    };
    let before = imagined(Version::new(0, 0, 0), bytes);
    let first = book.plan_start(target, before, terms);
    book.apply(first.map_err(|error| Failure::failed(&error))?);
    Ok(book)
}

fn members(nodes: Vec<Like>, target: &Target) -> Result<Vec<Member>, Failure> {
    let mut members = Vec::new();
    for like in nodes {
        let groups = if like.groups.is_empty() {
            vec![target.group.clone()]
        } else {
            like.groups
        };
        // One more than there is room for tells that there are too many.
        let room = (NODES_MAX + 1).saturating_sub(members.len());
        for _ in 0..like.count.min(room) {
            let node = format!("n{}", members.len() + 1);
            members.push(Member {
                path: NodePath {
                    site: like.site.clone(),
                    node: node.parse().map_err(|error| Failure::failed(&error))?,
                },
                groups: groups.clone(),
                tags: like.tags.clone(),
                reachable: true,
            });
        }
    }
    members.retain(|member| member.groups.contains(&target.group));
    Ok(members)
}

fn read(path: &Path) -> Result<Fleet, Failure> {
    let shown = path.display();
    let named = |error: std::io::Error| {
        let Failure { exit, text } = Failure::from(error);
        Failure::new(exit, format!("fleet {shown}: {text}"))
    };
    let bytes = std::fs::metadata(path).map_err(named)?.len();
    if bytes > FILE_BYTES_MAX {
        let text = format!("fleet {shown} has {bytes} bytes, the limit is {FILE_BYTES_MAX}");
        return Err(Failure::new(Exit::Failed, text));
    }
    let text = std::fs::read_to_string(path).map_err(named)?;
    toml::from_str(&text)
        .map_err(|error| Failure::new(Exit::Failed, format!("fleet {shown}: {error}")))
}

#[cfg(test)]
mod tests;
