//! Nodes.

use lamppost_coordinator_core::{Presence, Shelf};
use lamppost_models::message::{
    ActiveSlot, CandidateSlot, Intake, ReportedBudget, ReportedDrift, ReportedLane, ReportedModel,
    ReportedOutbox, ReportedTrust, TrialState,
};
use lamppost_models::{Reported, Timestamp};

use super::{ago, clean, or_dash, quality, table, word};
use crate::api::NodeView;
use crate::units::{human_bytes, human_span_ms};

fn presence(presence: &Presence, now: Timestamp) -> String {
    match presence {
        Presence::Up | Presence::Unknown | Presence::Degraded { .. } => presence.word().to_owned(),
        Presence::Down { since } => format!("down for {}", human_span_ms(now.ms_since(*since))),
        Presence::Stale { .. } => "stale".to_owned(),
    }
}

pub(in crate::cli) fn nodes(nodes: &[NodeView], now: Timestamp) -> String {
    if nodes.is_empty() {
        return "no node was heard of yet".to_owned();
    }
    let row = |node: &NodeView| {
        let status = node.status.as_ref();
        let groups = status.map(|status| {
            status
                .groups
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(",")
        });
        let models = node.reported.as_ref().map(|reported| {
            reported
                .models
                .iter()
                .map(short_model)
                .collect::<Vec<_>>()
                .join(", ")
        });
        let agent = status.map(|status| status.agent.clone());
        let outbox = node
            .reported
            .as_ref()
            .map(|reported| reported.outbox.records.to_string());
        [
            node.path.to_string(),
            presence(&node.presence, now),
            ago(node.heard_at, now),
            or_dash(groups),
            or_dash(models),
            or_dash(outbox),
            or_dash(agent),
        ]
    };
    table(
        [
            "NODE", "STATE", "HEARD", "GROUPS", "MODELS", "WAITING", "AGENT",
        ],
        nodes.iter().map(row),
    )
}

fn short_model(model: &ReportedModel) -> String {
    let active = model
        .active
        .as_ref()
        .map_or_else(|| "none".to_owned(), |active| active.version.to_string());
    format!("{} {active}", model.name)
}

pub(in crate::cli) fn node(node: &NodeView, now: Timestamp) -> String {
    let mut parts = vec![format!(
        "{}  {}  heard {}",
        node.path,
        presence(&node.presence, now),
        ago(node.heard_at, now)
    )];
    if let Presence::Degraded { reason } = &node.presence {
        parts.push(format!("degraded: {}", clean(reason)));
    }
    if let Some(status) = &node.status {
        let groups: Vec<String> = status.groups.iter().map(ToString::to_string).collect();
        parts.push(format!(
            "agent {}, boot {}, groups {}",
            clean(&status.agent),
            status.boot,
            groups.join(", ")
        ));
    }
    if let Some(reported) = &node.reported {
        parts.extend(report(reported, now));
    }
    if let Some(Shelf {
        records,
        bytes,
        stored,
        replayed,
        duplicates,
        retired,
        ..
    }) = &node.stored
    {
        parts.push(format!(
            "stored here: {records} predictions ({}); ever {stored}, of them {replayed} replayed; {duplicates} came again, {retired} deleted for room",
            human_bytes(*bytes)
        ));
    }
    parts.join("\n\n")
}

fn report(reported: &Reported, now: Timestamp) -> Vec<String> {
    let models = table(
        [
            "MODEL",
            "VERSION",
            "STATE",
            "SINCE",
            "PREDICTIONS",
            "QUALITY",
        ],
        reported.models.iter().flat_map(|model| slots(model, now)),
    );
    let streams = table(
        [
            "STREAM",
            "MODEL",
            "READINGS",
            "PREDICTIONS",
            "LATE",
            "MALFORMED",
            "UNFIT",
            "DROPPED",
        ],
        reported.streams.iter().map(|stream| {
            let counters = &stream.counters;
            let numbers = [
                counters.readings,
                counters.predictions,
                counters.late,
                counters.malformed,
                counters.unfit,
                counters.dropped,
            ];
            let [readings, predictions, late, malformed, unfit, dropped] =
                numbers.map(|number| number.to_string());
            [
                stream.name.to_string(),
                stream.model.to_string(),
                readings,
                predictions,
                late,
                malformed,
                unfit,
                dropped,
            ]
        }),
    );
    let outbox = &reported.outbox;
    let lost = format!(
        "evicted {}, expired {}, unwritten {}",
        outbox.evicted, outbox.expired, outbox.unwritten
    );
    let outbox = format!(
        "outbox: {} records in {} batches wait ({}); {lost}",
        outbox.records,
        outbox.batches,
        human_bytes(outbox.bytes)
    );
    let age = format!("reported {}:", ago(reported.at, now));
    let mut parts = vec![age, models, streams, outbox];
    parts.extend(lanes(&reported.outbox, now));
    parts.extend(budget(&reported.outbox, now));
    let stale = reported.streams.iter().filter_map(|stream| {
        let silent = human_span_ms(now.ms_since(stream.stale_since?));
        let name = &stream.name;
        Some(format!("stream {name} is stale: no reading for {silent}"))
    });
    parts.extend(stale);
    let drift = reported.streams.iter().filter_map(|stream| {
        let words = drift(stream.drift.as_ref()?);
        Some(format!("stream {}: {words}", stream.name))
    });
    parts.extend(drift);
    parts.extend(reported.trust.as_ref().map(trust));
    parts
}

/// Whom the node believes, and what it refused in this run of its agent.
fn trust(trust: &ReportedTrust) -> String {
    let ReportedTrust {
        document,
        releases,
        documents,
        times,
        at_least,
        told_s,
    } = trust;
    let believes = match document {
        Some(version) => format!("trust document {version}"),
        None => "no trust document".to_owned(),
    };
    let clock = match (at_least, told_s) {
        (Some(at_least), Some(told_s)) => {
            let told_ms = i64::try_from(*told_s)
                .unwrap_or(i64::MAX)
                .saturating_mul(1000);
            let ago = human_span_ms(told_ms);
            format!("it is {at_least} at least, signed {ago} before the report")
        }
        (Some(_) | None, _) => "no signed time yet".to_owned(),
    };
    let table = table(
        ["TRUST", "TAKEN", "REFUSED"],
        [
            ("releases", releases),
            ("trust documents", documents),
            ("signed times", times),
        ]
        .map(|(what, intake)| [what.to_owned(), intake.taken.to_string(), refused(intake)]),
    );
    format!("believes: {believes}; {clock}\n{table}")
}

fn refused(intake: &Intake) -> String {
    let refused = intake.refused.iter();
    let told: Vec<String> = refused
        .map(|(reason, count)| format!("{count} {}", clean(reason)))
        .collect();
    if told.is_empty() {
        "0".to_owned()
    } else {
        told.join(", ")
    }
}

/// What a node says of a stream's drift. Its times are those of readings, not of now.
fn drift(drift: &ReportedDrift) -> String {
    if let Some(at) = drift.drifted_at {
        let what = drift.what.as_deref().unwrap_or("it does not say of what");
        return format!("drifts since {at}: {}", clean(what));
    }
    let (periods, reference) = (drift.periods, drift.reference);
    let mut words = if periods < reference {
        vec![format!("{periods} of {reference} periods to compare with")]
    } else {
        vec!["no drift".to_owned()]
    };
    words.extend(drift.features.first().map(|worst| {
        let (field, psi, limit) = (&worst.field, worst.psi, worst.limit);
        format!("{field} has PSI {psi:.2}, limit {limit:.2}")
    }));
    if let Some(error) = drift.error
        && let Some(now) = error.now
    {
        words.push(format!("error {:.4} at first, {now:.4} now", error.before));
    }
    words.join("; ")
}

/// What each class of records takes of its room.
fn lanes(outbox: &ReportedOutbox, now: Timestamp) -> Option<String> {
    let lane = |lane: &ReportedLane| {
        [
            lane.class.to_string(),
            lane.batches.to_string(),
            lane.records.to_string(),
            human_bytes(lane.bytes),
            human_bytes(lane.cap_bytes),
            or_dash(lane.oldest.map(|oldest| ago(oldest, now))),
        ]
    };
    (!outbox.lanes.is_empty()).then(|| {
        table(
            ["CLASS", "BATCHES", "RECORDS", "SIZE", "ROOM", "OLDEST"],
            outbox.lanes.iter().map(lane),
        )
    })
}

fn budget(outbox: &ReportedOutbox, now: Timestamp) -> Option<String> {
    let ReportedBudget {
        since,
        used_bytes,
        limit_bytes,
    } = outbox.budget.as_ref()?;
    let of = limit_bytes.map_or_else(
        || ", without a limit".to_owned(),
        |limit| format!(" of {} a day", human_bytes(limit)),
    );
    Some(format!(
        "sent: {}{of}, since the day began {}",
        human_bytes(*used_bytes),
        ago(*since, now)
    ))
}

/// A row for each version of a model that a node speaks of: what runs, what ran before, what is wanted.
fn slots(model: &ReportedModel, now: Timestamp) -> Vec<[String; 6]> {
    let slot = |slot: &ActiveSlot, state: &str| {
        [
            model.name.to_string(),
            slot.version.to_string(),
            state.to_owned(),
            ago(slot.since, now),
            slot.predictions.to_string(),
            or_dash(slot.quality.as_ref().map(quality)),
        ]
    };
    let candidate = |slot: &CandidateSlot| {
        let [since, predictions, quality] = [(); 3].map(|()| or_dash(None));
        let (name, version) = (model.name.to_string(), slot.version.to_string());
        [name, version, trial(slot), since, predictions, quality]
    };
    let mut rows = Vec::new();
    rows.extend(model.active.iter().map(|active| slot(active, "active")));
    rows.extend(model.previous.iter().map(|before| slot(before, "before")));
    rows.extend(model.candidate.iter().map(candidate));
    if rows.is_empty() {
        let dash = || or_dash(None);
        let name = model.name.to_string();
        rows.push([name, dash(), "none".to_owned(), dash(), dash(), dash()]);
    }
    rows
}

fn trial(slot: &CandidateSlot) -> String {
    match &slot.state {
        TrialState::Fetching { received, bytes } => format!(
            "fetching {} of {}",
            human_bytes(*received),
            human_bytes(*bytes)
        ),
        TrialState::Waiting { reason } => format!("waiting {reason}"),
        TrialState::Checking => "checking".to_owned(),
        TrialState::Shadowing { windows, of } => format!("in shadow {windows}/{of}"),
        TrialState::Refused { verdict, detail } => format!("refused, {}: {detail}", word(verdict)),
    }
}
