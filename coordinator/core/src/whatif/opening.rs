//! How a run begins: the fleet, and the rollout that is planned on it.

use std::time::Duration;

use lamppost_models::id::RolloutId;
use lamppost_models::message::{NodeState, ReportedOutbox};
use lamppost_models::release::Sequence;
use lamppost_models::{BootId, Reported, Status, V1};

use super::node::{CHECK, Common, Node, at, ms};
use super::rng::Rng;
use super::{NODES_MAX, Scenario};
use crate::inventory::Inventory;
use crate::rollout::audit::Actor;
use crate::rollout::campaign::{Around, Campaigns, Refusal, Start};
use crate::rollout::plan::{Pace, Plan};
use crate::rollout::policy::{Policy, Span};
use crate::rollout::{PlanError, Terms};

const BOOT: BootId = BootId::from_u64(1);
/// Nodes are there, or are not: here no silence tells.
const NEVER_STALE: Duration = Duration::from_hours(366 * 24);

/// What a run begins with.
pub(super) struct Opening<'a> {
    pub(super) common: Common<'a>,
    pub(super) inventory: Inventory,
    pub(super) nodes: Vec<Node>,
    pub(super) start: Start,
}

pub(super) fn open(scenario: &Scenario, seed: u64) -> Result<Opening<'_>, Refusal> {
    let target = &scenario.target;
    let Some(current) = scenario.book.current(target) else {
        let (group, model) = (target.group.clone(), target.model.clone());
        return Err(PlanError::NoRelease { group, model }.into());
    };
    let mut rng = Rng::new(seed);
    let policy = scenario.policy.clone().unwrap_or_else(Policy::canary);
    let common = Common {
        scenario,
        id: RolloutId::from_u64(rng.draw()),
        from: current.stable.clone(),
        terms: policy.trial.clone(),
    };
    let mut inventory = Inventory::new(NODES_MAX);
    let mut nodes = Vec::new();
    let away = u64::from(scenario.away.hundredths());
    for member in scenario.nodes.iter().take(NODES_MAX) {
        let mut member = member.clone();
        member.reachable &= rng.below(10_000) >= away;
        let node = Node::new(&common, member, rng.fork());
        // It has room for as many.
        let heard = inventory.on_status(&node.member.path, status(&common, &node), at(&common, 0));
        if heard.is_ok() {
            tell(&common, &mut inventory, &node, 0);
            nodes.push(node);
        }
    }
    let mut start = Start {
        id: common.id,
        target: target.clone(),
        to: scenario.to.clone(),
        policy,
        by: Actor::unnamed(),
    };
    if scenario.policy.is_none() {
        let first =
            Campaigns::first_node(&scenario.book, &inventory, &start, &around(&common, 0, 0));
        start.policy = match first {
            Some(first) => start.policy.with_first(first),
            None => start.policy,
        };
    }
    Ok(Opening {
        common,
        inventory,
        nodes,
        start,
    })
}

/// See [`Scenario::plan`].
pub(super) fn plan(scenario: &Scenario, seed: u64) -> Result<Plan, Refusal> {
    let Opening {
        common,
        inventory,
        nodes,
        start,
    } = open(scenario, seed)?;
    // An estimate of the least time knows one rate: the fastest.
    let rates = nodes
        .iter()
        .map(|node| scenario.rates.of(&node.member.tags));
    let bytes_per_s = rates.reduce(f64::max);
    let mut trial_ms = ms(CHECK);
    if let Some(mut node) = nodes.into_iter().next()
        && common.terms.shadow.is_some()
    {
        node.shadow(0);
        trial_ms = trial_ms.saturating_add(node.done_ms(&common, 0));
    }
    let pace = Pace {
        bytes_per_s,
        trial: Some(span(trial_ms)),
    };
    let around = around(&common, 0, 0);
    Campaigns::new().plan(&scenario.book, &inventory, &start, pace, &around)
}

fn status(common: &Common<'_>, node: &Node) -> Status {
    Status {
        v: V1,
        state: if node.member.reachable {
            NodeState::Up
        } else {
            NodeState::Down
        },
        boot: BOOT,
        at: at(common, 0),
        agent: String::new(),
        groups: node.member.groups.clone(),
        tags: node.member.tags.clone(),
    }
}

/// A node's report comes to the inventory.
pub(super) fn tell(common: &Common<'_>, inventory: &mut Inventory, node: &Node, now_ms: i64) {
    let now = at(common, now_ms);
    let report = Reported {
        v: V1,
        boot: BOOT,
        at: now,
        models: vec![node.row(common, now_ms)],
        streams: Vec::new(),
        outbox: ReportedOutbox::default(),
        trust: None,
    };
    // The node is known, so that there is room for it.
    drop(inventory.on_reported(&node.member.path, report, now));
}

pub(super) fn around(common: &Common<'_>, now_ms: i64, bytes_today: u64) -> Around {
    Around {
        terms: Terms {
            now: at(common, now_ms),
            lifetime: NEVER_STALE,
            seen: Sequence(0),
        },
        stale_after: NEVER_STALE,
        bytes_today,
    }
}

pub(super) fn span(ms: i64) -> Span {
    Span::from_secs(u64::try_from(ms).unwrap_or(0) / 1000)
}
