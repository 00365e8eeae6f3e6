//! Whose signatures the node believes, and what time it is: the task that takes trust documents and signed times in.
//!
//! What others see is a [`View`], a copy of the keyring and of the clock. It is on the disk before it is shown, as far as the
//! disk works: a node that cannot write still follows a revocation, and takes it in again after its next start.
//!
//! - [`store`]: what the node remembers of it.

mod store;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use lamppost_agent_core::fresh::{FreshClock, FreshConfig, Suspicion};
use lamppost_agent_core::keyring::{ChainRefusal, Followed, Keyring};
use lamppost_models::id::Nonce;
use lamppost_models::key::{PublicKey, Role, RoleError};
use lamppost_models::message::{Intake, ReportedTrust};
use lamppost_models::signed_time::TimeQuestion;
use lamppost_models::trust::Anchor;
use lamppost_models::{SignedTime, Timestamp, V1};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::stats::is_milestone;
use crate::uplink::{UplinkState, clock};
use store::{Remembered, Store};

/// Messages that wait for the task: the retained trust chain and time, an answer, and what comes while it writes.
const MAIL_MAX: usize = 16;
/// Questions that wait for the uplink: a second one takes the first one's place at the coordinator.
const QUESTIONS_MAX: usize = 1;
/// How long the task waits at the most before it looks at its clock again: it is then that it writes it down.
const LOOK_EVERY: Duration = Duration::from_mins(1);

/// What the configuration says of whom to believe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TrustConfig {
    pub(crate) source: Source,
    /// After how long without a proof of the time messages are suspected to be held back.
    pub(crate) freeze_after: Duration,
}

impl TrustConfig {
    /// Of a node without a coordinator.
    pub(crate) const fn nobody() -> Self {
        Self {
            source: Source::Keys(None),
            freeze_after: Duration::MAX,
        }
    }
}

/// Whom to believe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// These release keys, any one of which is enough; nobody without any.
    Keys(Option<Role>),
    /// Whom the trust documents name that follow from this.
    Root(Anchor),
}

/// A message for the task.
#[derive(Debug)]
pub(crate) enum Mail {
    /// A trust chain.
    Trust(Bytes),
    /// A time that came unasked.
    Time(Bytes),
    /// A time for a question.
    Answer(Bytes),
}

/// What is believed at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) keyring: Keyring,
    clock: FreshClock,
    /// Counts what may let a release in that was refused before: new keys, a proven time.
    pub(crate) revision: u64,
    /// What became of messages that told nothing new, and of questions.
    counts: BTreeMap<&'static str, u64>,
    documents: Intake,
    times: Intake,
}

/// What is believed or refused.
#[derive(Clone, Copy, Debug)]
enum What {
    Document,
    Time,
}

/// What is believed, wherever it is needed.
#[derive(Clone, Debug)]
pub struct Believed(pub(crate) watch::Receiver<View>);

impl Believed {
    /// Believes these release keys for ever, any one of which is enough, and the wall clock.
    ///
    /// # Errors
    /// [`RoleError`] when there are too many, or one is named twice.
    pub fn keys(keys: Vec<PublicKey>) -> Result<Self, RoleError> {
        let role = (!keys.is_empty()).then(|| Role::new(keys, 1)).transpose()?;
        let freeze_after = Duration::MAX;
        let clock = FreshClock::start(FreshConfig { freeze_after }, None, clock().steady);
        Ok(Self(
            watch::channel(View::new(Keyring::Fixed(role), clock)).1,
        ))
    }

    /// Why it is not all well, in words.
    pub(crate) fn reasons(&self) -> Vec<String> {
        self.0.borrow().reasons()
    }

    /// What time it is, as far as is known.
    pub(crate) fn now(&self) -> Timestamp {
        self.0.borrow().now()
    }

    /// Whom the node believes, for its report; `releases` is what became of those.
    pub(crate) fn reported(&self, releases: Intake) -> ReportedTrust {
        let view = self.0.borrow();
        let bound = view.clock.bound(clock().steady);
        ReportedTrust {
            document: view.keyring.version(),
            releases,
            documents: view.documents.clone(),
            times: view.times.clone(),
            at_least: bound.map(|(at_least, _)| at_least),
            told_s: bound.map(|(_, ago)| ago.as_secs()),
        }
    }
}

impl View {
    fn new(keyring: Keyring, clock: FreshClock) -> Self {
        Self {
            keyring,
            clock,
            revision: 0,
            counts: BTreeMap::new(),
            documents: Intake::default(),
            times: Intake::default(),
        }
    }

    const fn intake(&mut self, what: What) -> &mut Intake {
        match what {
            What::Document => &mut self.documents,
            What::Time => &mut self.times,
        }
    }

    /// What time it is, as far as is known.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now(clock())
    }

    fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        match self.clock.suspicion(self.keyring.version(), clock().steady) {
            Some(Suspicion::NoAnswer { at_least }) => reasons.push(format!(
                "the coordinator has not proved the time for {} s or more of link: its messages may be held back",
                at_least.as_secs()
            )),
            Some(Suspicion::NoTrust { told }) => {
                reasons.push(format!("trust document {told} does not come: it may be held back"));
            }
            None => {}
        }
        if let Keyring::Rooted { .. } = self.keyring
            && let Err(none) = self.keyring.release_role(self.now())
        {
            reasons.push(none.to_string());
        }
        reasons
    }

    /// Forgets what was said by keys that are not trusted any more.
    fn trust_changed(&mut self) {
        if let Some(role) = self.keyring.time_role() {
            self.clock.trust_changed(&role.ids());
        }
    }
}

/// What the uplink is given.
pub(crate) struct Ends {
    pub(crate) mail: mpsc::Sender<Mail>,
    pub(crate) questions: mpsc::Receiver<Bytes>,
}

/// The task, running.
pub(crate) struct TrustKeeper {
    pub(crate) believed: Believed,
    task: JoinHandle<()>,
    stop: CancellationToken,
}

struct Task {
    view: watch::Sender<View>,
    store: Store,
    mail: mpsc::Receiver<Mail>,
    questions: mpsc::Sender<Bytes>,
    uplink: watch::Receiver<UplinkState>,
    /// What is to be written again.
    unsaved: bool,
}

impl TrustKeeper {
    /// Reads what the node remembers, and starts the task.
    ///
    /// # Errors
    /// When what is remembered cannot be read, though it is there.
    pub(crate) async fn start(
        config: TrustConfig,
        data_dir: PathBuf,
        uplink: watch::Receiver<UplinkState>,
    ) -> std::io::Result<(Self, Ends)> {
        let TrustConfig {
            source,
            freeze_after,
        } = config;
        let reader = source.clone();
        let opened = tokio::task::spawn_blocking(move || Store::open(&data_dir, &reader)).await;
        let (store, remembered) = opened.map_err(std::io::Error::other)??;
        let Remembered { trust, time } = remembered;
        let keyring = match source {
            Source::Keys(role) => Keyring::Fixed(role),
            Source::Root(anchor) => Keyring::rooted(anchor, trust),
        };
        let clock = FreshClock::start(FreshConfig { freeze_after }, time, clock().steady);
        let mut view = View::new(keyring, clock);
        // The configuration's keys may be others than last time.
        view.trust_changed();
        let (view, believed) = watch::channel(view);
        let (mail, mail_in) = mpsc::channel(MAIL_MAX);
        let (questions, questions_out) = mpsc::channel(QUESTIONS_MAX);
        let stop = CancellationToken::new();
        let task = Task {
            view,
            store,
            mail: mail_in,
            questions,
            uplink,
            unsaved: false,
        };
        let keeper = Self {
            believed: Believed(believed),
            task: tokio::spawn(task.run(stop.clone())),
            stop,
        };
        let ends = Ends {
            mail,
            questions: questions_out,
        };
        Ok((keeper, ends))
    }

    /// Stops the task; what it knows is on the disk.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the task that keeps trust documents failed");
        }
    }
}

impl Task {
    async fn run(mut self, stop: CancellationToken) {
        loop {
            self.ask();
            self.save_when_due().await;
            let steady = clock().steady;
            let pause = self
                .ask_at()
                .map_or(LOOK_EVERY, |at| at.saturating_sub(steady))
                .min(LOOK_EVERY);
            tokio::select! {
                () = stop.cancelled() => return,
                mail = self.mail.recv() => match mail {
                    Some(mail) => self.take(mail).await,
                    // The uplink is gone, and the agent stops.
                    None => return stop.cancelled().await,
                },
                changed = self.uplink.changed() => match changed {
                    Ok(()) => self.note_link(),
                    Err(_) => return stop.cancelled().await,
                },
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn note_link(&mut self) {
        let connected = self.uplink.borrow_and_update().connected;
        self.view.send_if_modified(|view| {
            view.clock.link(connected, clock().steady);
            false
        });
    }

    /// When the time is to be asked for; never by whom no answer would convince.
    fn ask_at(&self) -> Option<Duration> {
        let view = self.view.borrow();
        view.keyring.time_role().and(view.clock.ask_at())
    }

    /// Asks for the time, if it is time for that.
    fn ask(&self) {
        let steady = clock().steady;
        if self.ask_at().is_none_or(|at| at > steady) {
            return;
        }
        let drawn = getrandom::u64().map(Nonce::from_u64);
        let sent = match drawn {
            // One that waits for a stalled link is as good as this one would be; it is asked again later.
            Ok(nonce) => self
                .questions
                .try_send(crate::to_json(&TimeQuestion { v: V1, nonce }))
                .is_ok(),
            Err(error) => {
                tracing::error!(%error, "the system gives no random numbers to ask for the time with");
                false
            }
        };
        self.view.send_if_modified(|view| {
            match drawn {
                Ok(nonce) => view.clock.asked(nonce, steady),
                Err(_) => view.clock.not_asked(steady),
            }
            *view
                .counts
                .entry(if sent { "question" } else { "question-dropped" })
                .or_default() += 1;
            false
        });
    }

    async fn take(&mut self, mail: Mail) {
        match mail {
            Mail::Trust(json) if json.is_empty() => self.count("trust-withdrawn", ""),
            Mail::Time(json) | Mail::Answer(json) if json.is_empty() => {
                self.count("time-withdrawn", "");
            }
            Mail::Trust(json) => self.take_trust(&json).await,
            Mail::Time(json) => self.take_time(&json, false),
            Mail::Answer(json) => self.take_time(&json, true),
        }
    }

    async fn take_trust(&mut self, json: &[u8]) {
        let mut next = self.view.borrow().clone();
        let followed = next.keyring.follow(json);
        if next.keyring != self.view.borrow().keyring {
            let version = next.keyring.version();
            tracing::info!(
                ?version,
                "a newer trust document was taken in: its release keys are trusted, and no others"
            );
            next.trust_changed();
            next.revision += 1;
            self.save(&next).await;
            self.view.send_replace(next);
        }
        match followed {
            Ok(Followed::New(_)) => self.taken(What::Document),
            Ok(Followed::Known) => self.count("trust-known", ""),
            // Nothing is wrong with a chain that this node does not need.
            Err(ChainRefusal::NoRoot) => self.count("trust-unneeded", ""),
            Err(refusal) => {
                let reason = crate::error_chain(&refusal);
                self.refuse(What::Document, refusal.kind(), &reason);
            }
        }
    }

    fn take_time(&self, json: &[u8], asked: bool) {
        let opened = {
            let view = self.view.borrow();
            let Some(role) = view.keyring.time_role() else {
                drop(view);
                return self.count("time-no-keys", "");
            };
            SignedTime::open(json, role)
        };
        let (time, signers) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                return self.refuse(What::Time, "refused", &crate::error_chain(&error));
            }
        };
        let steady = clock().steady;
        let mut answered = Ok(());
        self.view.send_if_modified(|view| {
            if asked {
                answered = view.clock.answer(&time, &signers, steady);
                view.revision += u64::from(answered.is_ok());
                answered.is_ok()
            } else {
                view.clock.take(&time, &signers, steady);
                true
            }
        });
        match answered {
            Ok(()) => self.taken(What::Time),
            // The link was slow, say, and it was asked again.
            Err(error) => self.refuse(What::Time, "late", &error.to_string()),
        }
    }

    async fn save_when_due(&mut self) {
        let due = self.view.borrow().clock.to_save(clock().steady).is_some();
        if due || self.unsaved {
            let view = self.view.borrow().clone();
            self.save(&view).await;
        }
    }

    async fn save(&mut self, view: &View) {
        let steady = clock().steady;
        let mut due = view.clock.clone();
        due.unsaved();
        let remembered = Remembered {
            trust: view.keyring.known().cloned(),
            time: due.to_save(steady),
        };
        let store = self.store.clone();
        let saved = tokio::task::spawn_blocking(move || store.save(&remembered)).await;
        match saved.map_err(std::io::Error::other).and_then(|saved| saved) {
            Ok(()) => self.unsaved = false,
            Err(error) => {
                if !self.unsaved {
                    tracing::error!(%error, "trust document and time cannot be written down: a restart would forget them");
                }
                self.unsaved = true;
            }
        }
        // With a disk that fails, too: it is tried again at the next look, and not at once for ever.
        self.view.send_if_modified(|view| {
            view.clock.saved(steady);
            false
        });
    }

    fn count(&self, kind: &'static str, detail: &str) {
        let count = self.bump(kind);
        tracing::debug!(kind, count, detail, "a trust document or time");
    }

    fn taken(&self, what: What) {
        self.view.send_if_modified(|view| {
            view.intake(what).taken += 1;
            false
        });
    }

    fn refuse(&self, what: What, kind: &'static str, reason: &str) {
        let mut count = 0;
        self.view.send_if_modified(|view| {
            let refused = &mut view.intake(what).refused;
            let counted = refused.entry(kind.to_owned()).or_default();
            *counted += 1;
            count = *counted;
            false
        });
        if is_milestone(count) {
            tracing::warn!(
                ?what,
                kind,
                count,
                reason,
                "a trust document or a time was refused"
            );
        }
    }

    fn bump(&self, kind: &'static str) -> u64 {
        let mut count = 0;
        self.view.send_if_modified(|view| {
            let counted = view.counts.entry(kind).or_default();
            *counted += 1;
            count = *counted;
            false
        });
        count
    }
}
