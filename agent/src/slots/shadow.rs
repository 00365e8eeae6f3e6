//! A candidate beside the active version: on the same windows, in a process of its own, seen by nobody.
//!
//! The engine's thread hands each window over as it scored it (`tap`) and goes on. The windows are asked of the child
//! (`process`, `child`, `wire`) one after the other, within the share of the processor that the terms allow: after one that
//! took long, the child is left alone for as long as it takes to be within its share again, and what comes meanwhile is left
//! out. Whatever the child does, it does to itself: its death is the candidate's verdict.

use std::sync::Arc;
use std::time::Duration;

use lamppost_agent_core::label::{Predicted, Shadowed};
use lamppost_agent_core::slot::{Input, ShadowEnd};
use lamppost_models::Digest;
use lamppost_models::message::Verdict;
use lamppost_models::release::BundleRef;
use lamppost_models::rollout::Shadow;
use lamppost_models::trial::Comparison;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::jobs::{Done, Job, Shared, What};
use crate::labels::{Event, Labels};
use crate::samples::{By, Offer};
use crate::tap::{Answered, Beside, Given, Ran};

mod child;
mod process;
mod wire;

pub(crate) use child::said;
pub use child::shadow_bundle_main;
pub(super) use process::Shadows;

use process::{Gone, Process};
use wire::Answer;

/// How often the slot is told how it goes, when something changed.
const TELL_EVERY: Duration = Duration::from_millis(500);
/// Windows after which it is told without waiting.
const TELL_WINDOWS: u64 = 8;
/// How often a child that did not answer in time is replaced by another one. Each time counts as a failure, and terms that
/// allow more of them are out of the ordinary.
const RESTARTS_MAX: u32 = 3;
/// Smallest share of a processor: below it, a window a minute would not be compared in a day.
const SHARE_MIN: f64 = 0.001;

/// A candidate in shadow.
pub(super) struct Run {
    pub(super) shared: Arc<Shared>,
    pub(super) done: mpsc::Sender<Done>,
    pub(super) job: Job,
    pub(super) bundle: BundleRef,
    pub(super) terms: Shadow,
    pub(super) beside: Arc<Beside>,
    pub(super) labels: Labels,
}

impl Run {
    /// Runs until it is stopped or the candidate is done for.
    pub(super) async fn run(self) {
        self.job.begin().await;
        let model = &self.job.setup.name;
        let digest = self.bundle.digest;
        tracing::info!(%model, version = %self.bundle.version, digest = %digest.short(), "a candidate runs beside the active version");
        let mut told = Told::default();
        let Some(end) = self
            .job
            .stop
            .run_until_cancelled(self.to_the_end(&mut told))
            .await
        else {
            return;
        };
        // What it did before it ended belongs to the verdict.
        self.tell(&mut told).await;
        tracing::warn!(%model, digest = %digest.short(), ?end, "a candidate does not run beside the active version any more");
        let input = Input::ShadowEnded { digest, end };
        self.job.say(&self.done, What::Input(input)).await;
    }

    async fn to_the_end(&self, told: &mut Told) -> ShadowEnd {
        let share = self.terms.cpu_share.clamp(SHARE_MIN, 1.0);
        let mut restarts = 0;
        let mut process = match self.open().await {
            Ok(process) => process,
            Err(end) => return end,
        };
        let mut tick = interval(TELL_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut free_at = Instant::now();
        loop {
            let next = async {
                sleep_until(free_at).await;
                self.beside.next().await
            };
            let given = tokio::select! {
                given = next => given,
                _ = tick.tick() => {
                    self.tell(told).await;
                    continue;
                }
                gone = process.ended() => return gone.into(),
            };
            let begun = Instant::now();
            let busy = match self.ask(&mut process, &given).await {
                Ok(busy) => busy.min(begun.elapsed()),
                Err(Gone::Late { detail }) => {
                    self.beside.answered(&given.active, &Answered::Failed);
                    self.tell(told).await;
                    restarts += 1;
                    if restarts > RESTARTS_MAX {
                        return refused(Verdict::Failing, detail);
                    }
                    tracing::warn!(model = %self.job.setup.name, detail, "a candidate is started again");
                    drop(process);
                    process = match self.open().await {
                        Ok(process) => process,
                        Err(end) => return end,
                    };
                    begun.elapsed()
                }
                Err(gone @ (Gone::Ended { .. } | Gone::Undecided { .. })) => return gone.into(),
            };
            free_at = begun + busy.div_f64(share);
            if told.is_due(&self.beside.comparison()) {
                self.tell(told).await;
            }
        }
    }

    async fn open(&self) -> Result<Process, ShadowEnd> {
        let (artifacts, bundle) = (self.shared.artifacts.clone(), self.bundle.clone());
        let verified = tokio::task::spawn_blocking(move || artifacts.verify(&bundle)).await;
        let undecided = |error: &dyn std::fmt::Display| ShadowEnd::Undecided {
            detail: format!("the candidate's file: {error}"),
        };
        verified
            .map_err(|error| undecided(&error))?
            .map_err(|error| undecided(&error))?;
        let path = self.shared.artifacts.path(self.bundle.digest);
        let opened = self.shared.shadows.open(&path).await;
        opened.map_err(ShadowEnd::from)
    }

    /// Asks the child, and gives how long it was busy with it.
    async fn ask(&self, process: &mut Process, given: &Given) -> Result<Duration, Gone> {
        match process.ask(&given.window).await? {
            Some(Answer::Said {
                label,
                horizon_ms,
                took_us,
                busy_us,
            }) => {
                let answered = Answered::Well {
                    label: label.clone(),
                    took_us,
                };
                self.beside.answered(&given.active, &answered);
                let events = [
                    offered(given, label.clone()),
                    self.to_be_labelled(given, label, horizon_ms),
                ];
                self.labels
                    .tell(events.into_iter().flatten().collect())
                    .await;
                Ok(Duration::from_micros(busy_us))
            }
            Some(Answer::Failed { detail, busy_us }) => {
                tracing::debug!(model = %self.job.setup.name, detail, "a candidate's inference failed");
                self.beside.answered(&given.active, &Answered::Failed);
                Ok(Duration::from_micros(busy_us))
            }
            Some(answer @ (Answer::Opened | Answer::Refused { .. })) => Err(Gone::Ended {
                verdict: Verdict::Crashed,
                detail: format!("it answered a window with {answer:?}"),
            }),
            None => {
                self.beside.leave_out();
                Ok(Duration::ZERO)
            }
        }
    }

    /// What both said of a window, on its way to the label.
    fn to_be_labelled(
        &self,
        given: &Given,
        label: Option<lamppost_models::message::Label>,
        horizon_ms: Option<u64>,
    ) -> Option<Event> {
        let Ran::Well(active) = &given.active else {
            return None;
        };
        if !active.labelled {
            return None;
        }
        let ahead = horizon_ms.map(Duration::from_millis);
        let candidate = Predicted {
            id: active.id,
            ts: active.ts,
            target_ts: ahead.map(|ahead| active.ts.after(ahead)),
            digest: self.bundle.digest,
            said: label?,
        };
        let shadowed = Shadowed {
            candidate,
            active: active.label.clone()?,
        };
        Some(Event::Shadowed {
            stream: given.stream,
            shadowed,
            beside: Arc::clone(&self.beside),
        })
    }

    /// Tells the slot how it goes, when that has changed.
    async fn tell(&self, told: &mut Told) {
        let comparison = self.beside.comparison();
        if comparison == told.0 {
            return;
        }
        told.0.clone_from(&comparison);
        let digest = self.bundle.digest;
        let input = Input::Shadowed { digest, comparison };
        self.job.tell(&self.done, What::Input(input)).await;
    }
}

/// A window that both had an answer to, where the stream's samples ask for it.
fn offered(given: &Given, candidate: Option<lamppost_models::message::Label>) -> Option<Event> {
    let Ran::Well(active) = &given.active else {
        return None;
    };
    let (predicted, json) = active.offer.as_deref()?.clone();
    let offer = Offer {
        predicted,
        json,
        window: given.window.clone(),
        by: By::Trial {
            candidate: candidate?,
        },
    };
    let stream = given.stream;
    Some(Event::Offered {
        stream,
        offer: Box::new(offer),
    })
}

/// What the slot was told last.
#[derive(Default)]
struct Told(Comparison);

impl Told {
    /// Whether what was found since is not to wait for its time.
    fn is_due(&self, now: &Comparison) -> bool {
        now.candidate.failures > self.0.candidate.failures
            || now.windows >= self.0.windows + TELL_WINDOWS
    }
}

impl From<Gone> for ShadowEnd {
    fn from(gone: Gone) -> Self {
        match gone {
            Gone::Late { detail } => refused(Verdict::Failing, detail),
            Gone::Ended { verdict, detail } => refused(verdict, detail),
            Gone::Undecided { detail } => Self::Undecided { detail },
        }
    }
}

fn refused(verdict: Verdict, detail: String) -> ShadowEnd {
    ShadowEnd::Refused { verdict, detail }
}

/// The active version in its probation: tells the slot how it does, again and again.
pub(super) struct Watched {
    pub(super) done: mpsc::Sender<Done>,
    pub(super) job: Job,
    pub(super) watching: Arc<crate::tap::Watching>,
    /// The version before, and how it did beside this one.
    pub(super) before: Option<(Digest, lamppost_models::trial::Side)>,
    pub(super) labels: Labels,
}

impl Watched {
    /// Runs until it is stopped.
    pub(super) async fn run(self) {
        let stop = self.job.stop.clone();
        stop.run_until_cancelled(self.watch()).await;
    }

    async fn watch(self) {
        let digest = self.watching.digest;
        let base = self.labels.losses(digest).await;
        if let Some((before, mut side)) = self.before {
            // What labels came to over the whole run says more than those of the shadow alone.
            let loss = self.labels.losses(before).await.moments();
            if loss.n > side.loss.n {
                side.loss = loss;
            }
            self.watching.came_after(side);
        }
        let mut tick = interval(TELL_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = None;
        loop {
            tick.tick().await;
            let loss = self.labels.losses(digest).await.since(base).moments();
            let watch = self.watching.watch(loss);
            if told.as_ref() != Some(&watch) {
                told = Some(watch.clone());
                let input = Input::Watched { digest, watch };
                self.job.tell(&self.done, What::Input(input)).await;
            }
        }
    }
}
