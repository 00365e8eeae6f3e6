//! `lamppost loop`: watches, trains, compares, pushes, rolls out, and learns from what came of it.
//!
//! - [`policy`] says when and how, [`memory`] is what survives a kill;
//! - [`look`] asks the coordinator what is known, `coordinator_core::learning` decides, [`attempt`] trains;
//! - [`rollout`] brings what is better to the edge.
//!
//! What is decided is written before it is done: a bundle is on the disk before it is pushed, and whatever was pushed or started
//! before a kill is found done. It is a command and no part of the server, which never trains.

use std::fmt;

use lamppost_coordinator_core::learning::{Cost, Decision, Ended, Outcome};
use lamppost_models::Digest;
use semver::Version;
use serde::Serialize;

use super::args::Global;
use super::client::Client;
use super::{Exit, Failure, block_on, print, show};
use crate::clock::now;

pub(super) mod args;
mod attempt;
mod look;
mod memory;
mod policy;
mod rollout;

use args::Loop;
use look::Seen;
use memory::{Folder, Memory, UnderWay};
use policy::LoopPolicy;

/// Outcomes that status shows.
const SHOWN: usize = 10;

pub(super) fn run(command: Loop, global: &Global) -> Result<(), Failure> {
    match command {
        Loop::Run {
            policy,
            place,
            once,
        } => {
            let policy = policy::read(&policy)?;
            let folder = Folder::open(&place.state)?;
            let memory = folder.memory(&policy.model, &policy.group)?;
            let client = Client::new(global)?;
            let mut watching = Watching {
                global,
                client,
                policy,
                folder,
                memory,
                said: String::new(),
            };
            block_on(watching.run(once))
        }
        Loop::Status { place } => {
            let memory = memory::read(&place.state)?;
            show(global, &memory, || status(&memory))
        }
        Loop::Resume { place } => {
            let folder = Folder::open(&place.state)?;
            let mut memory = memory::read(&place.state)?;
            memory.learning.resume();
            folder.save(&memory)?;
            show(global, &memory, || status(&memory))
        }
    }
}

/// What the loop says, a line each.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    Decided(&'a Decision),
    Trained {
        version: &'a Version,
        gain: f64,
        seconds: f64,
        words: &'a str,
    },
    Ended(&'a Outcome),
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decided(decision) => write!(f, "{decision}"),
            Self::Trained {
                version,
                gain,
                seconds,
                words,
            } => {
                write!(
                    f,
                    "trained: {version} in {seconds:.1} s, gain {:.2} %: {words}",
                    100.0 * gain
                )
            }
            Self::Ended(outcome) => write!(f, "ended: {}", ended(outcome)),
        }
    }
}

struct Watching<'a> {
    global: &'a Global,
    client: Client,
    policy: LoopPolicy,
    folder: Folder,
    memory: Memory,
    /// The last decision, which is not said again.
    said: String,
}

impl Watching<'_> {
    async fn run(&mut self, once: bool) -> Result<(), Failure> {
        loop {
            match self.step().await {
                Ok(()) => {}
                Err(failure) if !once && failure.exit == Exit::Unreachable => {
                    tracing::warn!(
                        "{}: it is tried again in {}",
                        failure.text,
                        self.policy.every
                    );
                }
                failed => return failed,
            }
            if once {
                return Ok(());
            }
            tokio::time::sleep(self.policy.every.into()).await;
        }
    }

    /// What is under way, or else a look and what follows from it.
    async fn step(&mut self) -> Result<(), Failure> {
        if self.memory.under_way.is_some() {
            return self.bring().await;
        }
        let seen = match look::look(&self.client, &self.policy, &self.memory).await? {
            Ok(seen) => seen,
            Err(words) => return self.decided(&Decision::Wait { until: None, words }),
        };
        self.active_is(seen.active.digest());
        let decision = self
            .memory
            .learning
            .decide(&self.policy.when, &seen.known, now());
        self.decided(&decision)?;
        match decision {
            Decision::Train { reckoning, .. } => self.train(&seen, reckoning.expected).await,
            Decision::Wait { .. } => Ok(()),
            Decision::Stopped { words } => Err(Failure::new(Exit::Failed, words)),
        }
    }

    /// What was tried with another version says nothing of one that somebody else put in its place.
    fn active_is(&mut self, digest: Digest) {
        if self
            .memory
            .active
            .replace(digest)
            .is_some_and(|before| before != digest)
        {
            self.memory.learning.replaced();
        }
    }

    async fn train(&mut self, seen: &Seen, expected: f64) -> Result<(), Failure> {
        let collected_bytes = seen.known.collected_bytes;
        let samples = seen.known.labelled;
        let outcome = |cost: Cost, ended| Outcome {
            at: now(),
            samples,
            expected,
            cost,
            ended,
        };
        let made = match attempt::make(&self.policy, seen, self.folder.last().as_deref()) {
            Ok(made) => made,
            Err(error) => {
                let why = crate::error::chain(&error);
                let cost = Cost {
                    collected_bytes,
                    ..Cost::default()
                };
                return self.ended(&outcome(cost, Ended::Failed { why }));
            }
        };
        let (version, seconds) = (&seen.version, made.seconds);
        let cost = Cost {
            collected_bytes,
            fetched_bytes: 0,
            seconds,
        };
        let (Ok(words) | Err(words)) = &made.compared;
        self.tell(&Event::Trained {
            version,
            gain: made.gain,
            seconds,
            words,
        })?;
        if let Err(why) = made.compared {
            self.folder.keep_last(&made.bytes)?;
            return self.ended(&outcome(
                cost,
                Ended::NotBetter {
                    gain: made.gain,
                    why,
                },
            ));
        }
        self.folder.keep_bundle(&made.bytes)?;
        self.memory.under_way = Some(UnderWay {
            version: version.clone(),
            live: seen.live(made.bundle.digest()),
            samples,
            expected,
            gain: made.gain,
            cost,
        });
        self.folder.save(&self.memory)?;
        self.bring().await
    }

    /// Goes on with what is under way, to its end.
    async fn bring(&mut self) -> Result<(), Failure> {
        let Some(under_way) = self.memory.under_way.clone() else {
            return Ok(());
        };
        let bytes = self.folder.bundle()?;
        let (cost, ended) =
            match rollout::bring(&self.client, &self.policy, &under_way, bytes).await {
                // What the coordinator refuses is over; what cannot be reached is asked again.
                Err(failure) if failure.exit == Exit::Failed => {
                    (under_way.cost, Ended::Failed { why: failure.text })
                }
                brought => brought?,
            };
        self.ended(&under_way.outcome(cost, ended))
    }

    fn ended(&mut self, outcome: &Outcome) -> Result<(), Failure> {
        self.folder
            .record(&mut self.memory, outcome.clone(), &self.policy.when)?;
        self.tell(&Event::Ended(outcome))
    }

    fn decided(&mut self, decision: &Decision) -> Result<(), Failure> {
        let said = decision.to_string();
        if said == self.said {
            return Ok(());
        }
        self.said = said;
        self.tell(&Event::Decided(decision))
    }

    fn tell(&self, event: &Event<'_>) -> Result<(), Failure> {
        let text = if self.global.json {
            serde_json::to_string(event).map_err(|error| Failure::failed(&error))?
        } else {
            format!("{} {event}", now())
        };
        Ok(print(&text)?)
    }
}

fn ended(outcome: &Outcome) -> String {
    let how = match &outcome.ended {
        Ended::Promoted { gain } => format!("promoted, gain {:.2} %", 100.0 * gain),
        Ended::NotBetter { why, .. } => format!("not better: {why}"),
        Ended::Refused { why } => format!("refused by the edge: {why}"),
        Ended::Failed { why } => format!("failed: {why}"),
    };
    let Cost {
        collected_bytes,
        fetched_bytes,
        seconds,
    } = outcome.cost;
    format!(
        "{how} ({:.2} % were expected of {} samples; {collected_bytes} bytes collected, {fetched_bytes} bytes fetched, {seconds:.1} s)",
        100.0 * outcome.expected,
        outcome.samples
    )
}

fn status(memory: &Memory) -> String {
    let mut lines = vec![format!(
        "{} in group {}: {} failures in a row, trust in expected gains {:.2}",
        memory.model,
        memory.group,
        memory.learning.failures(),
        memory.learning.trust()
    )];
    if let Some(under_way) = &memory.under_way {
        let gain = 100.0 * under_way.gain;
        lines.push(format!(
            "under way: {}, gain {gain:.2} % on held-out samples",
            under_way.version
        ));
    }
    let outcomes: Vec<&Outcome> = memory.learning.outcomes().rev().take(SHOWN).collect();
    lines.extend(
        outcomes
            .iter()
            .rev()
            .map(|outcome| format!("{} {}", outcome.at, ended(outcome))),
    );
    lines.join("\n")
}
