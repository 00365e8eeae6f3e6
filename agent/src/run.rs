//! An agent from its start to its end.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lamppost_agent_core::window::Windower;
use lamppost_broker::{Broker, LinkError, LinkPublisher, LinkReceiver, QoS, StartError};
use lamppost_models::message::ReportedModel;
use lamppost_models::{BootId, Epoch, NodePath};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Origin, Stream};
use crate::drift::{self, Drift};
use crate::ingest::{Ingest, Intake, Job, LabelIntake};
use crate::labels::{Labelled, Labels};
use crate::outbox::{Outbox, OutboxError};
use crate::publish::{Destination, Prediction, Publisher};
use crate::queue::Queue;
use crate::report::{ModelRow, Reporter, StreamRow};
use crate::samples::{Keeping, Offers, Sampling};
use crate::scorer::{Facts, Model, Scored, Scorer};
use crate::slots::{self, Slots, SlotsError};
use crate::stats::StreamStats;
use crate::trust::{self, Believed, TrustConfig, TrustKeeper};
use crate::uplink::{
    self, Documents, Door, Identity, Looker, Made, Samples, Sight, SpoolState, Uplink, UplinkError,
    UplinkState, clock,
};

/// Batches of predictions between the engine and the publisher: while one is published, the next are made.
const MADE_BATCHES_MAX: usize = 8;
/// Releases that wait for the slots: one of each model and group of a large node.
const RELEASES_MAX: usize = 64;
/// How long the streams wait at the start for the models that ran last.
const MODELS_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a stop may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Said once the agent serves.
#[derive(Clone, Debug)]
pub struct Ready {
    /// The node.
    pub path: NodePath,
    /// Where its broker listens; `None` if it does not.
    pub broker: Option<SocketAddr>,
    /// This run.
    pub boot: BootId,
}

/// Why an agent did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The data directory cannot be made.
    #[error("data_dir {} cannot be made", path.display())]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The system gives no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
    /// The node's own broker does not start.
    #[error("the node's own broker does not start")]
    Broker(#[from] StartError),
    /// The node's own broker refuses the agent.
    #[error("the node's own broker refuses the agent")]
    Link(#[from] LinkError),
    /// The outbox does not open.
    #[error("the outbox does not open")]
    Outbox(#[from] OutboxError),
    /// What is remembered of trust documents cannot be read.
    #[error(
        "what is remembered of trust documents and times, trust.json in data_dir, cannot be read"
    )]
    Trust(#[source] std::io::Error),
    /// The slots do not start.
    #[error("the slots do not start")]
    Slots(#[from] SlotsError),
    /// The uplink does not start.
    #[error("the uplink does not start")]
    Uplink(#[from] UplinkError),
    /// No thread for the engine.
    #[error("the engine's thread does not start")]
    Thread(#[source] std::io::Error),
    /// A part ended by itself.
    #[error("{part} ended by itself: its last lines in the log say why")]
    Ended {
        /// Which.
        part: &'static str,
    },
    /// A part did not stop.
    #[error("the agent did not stop within {} s", STOP_TIMEOUT.as_secs())]
    StopTimeout,
}

/// Runs an agent until `shutdown` is cancelled; `ready` hears when it serves.
///
/// What was predicted before the end is published, acknowledged or in the outbox when this returns.
///
/// # Errors
/// [`RunError`] when a part does not start, ends by itself, or does not stop in time.
pub async fn run(
    config: Config,
    shutdown: CancellationToken,
    ready: oneshot::Sender<Ready>,
) -> Result<(), RunError> {
    uplink::install_provider();
    let boot = BootId::from_u64(random()?);
    let path = config.path.clone();
    tracing::info!(node = %path, %boot, version = env!("CARGO_PKG_VERSION"), "the agent starts");
    make_data_dir(&config)?;
    let broker = Broker::start(config.broker.clone()).await?;
    let local_addr = broker.local_addr();
    let outcome = match Parts::start(&config, boot, &broker).await {
        Ok(mut parts) => {
            // Whoever waited for it may have given up.
            drop(ready.send(Ready {
                path: path.clone(),
                broker: local_addr,
                boot,
            }));
            let ended = tokio::select! {
                () = shutdown.cancelled() => Ok(()),
                part = parts.first_to_end() => Err(RunError::Ended { part }),
            };
            let stopped = tokio::time::timeout(STOP_TIMEOUT, parts.stop()).await;
            ended.and(stopped.map_err(|_| RunError::StopTimeout))
        }
        Err(error) => Err(error),
    };
    broker.stop().await;
    tracing::info!(node = %path, "the agent has stopped");
    outcome
}

fn make_data_dir(config: &Config) -> Result<(), RunError> {
    let made = std::fs::create_dir_all(&config.data_dir);
    made.map_err(|source| RunError::DataDir {
        path: config.data_dir.clone(),
        source,
    })
}

fn random() -> Result<u64, RunError> {
    getrandom::u64().map_err(RunError::Random)
}

/// All that runs, in the order in which it ends.
struct Parts {
    /// Ends the intake; all behind it ends when what was taken in is through.
    intake_stop: CancellationToken,
    ingest: JoinHandle<()>,
    engine: JoinHandle<()>,
    publisher: JoinHandle<()>,
    uplink: Option<JoinHandle<()>>,
    report_stop: CancellationToken,
    reporter: JoinHandle<()>,
    labels: JoinHandle<()>,
    keeping: Labels,
    drift: drift::Keeper,
    slots: Slots,
    trust: TrustKeeper,
}

impl Parts {
    async fn start(config: &Config, boot: BootId, broker: &Broker) -> Result<Self, RunError> {
        let identity = Identity {
            root: config.root.clone(),
            path: config.path.clone(),
            boot,
            groups: config.groups.clone(),
            tags: config.tags.clone(),
            streams: config
                .streams
                .iter()
                .map(|stream| stream.name.clone())
                .collect(),
        };
        let shared = Shared {
            config,
            identity,
            stats: config.streams.iter().map(|_| Arc::default()).collect(),
            facts: config.models.iter().map(|_| Arc::default()).collect(),
            drifts: open_drifts(config).await?,
        };
        let (intake_stop, report_stop) = (CancellationToken::new(), CancellationToken::new());
        let (link, receiver) = broker.link("agent")?.split();
        let (uplink_state, state_watch) = watch::channel(UplinkState::default());
        let (trust, ends) = shared.start_trust(state_watch).await?;
        let believed = trust.believed.clone();
        let (labels, labels_task) = Labels::start(shared.labelled());
        let labels_task = tokio::spawn(labels_task);
        let drift = drift::Keeper::start(shared.drifts.iter().flatten().cloned().collect());
        let slots = slots::Config::of(config, believed.clone());
        let slots = Slots::start(slots, labels.clone()).await?;
        let (documents, documents_watch) = watch::channel(Documents::default());
        let (uplink, made, seen) = shared
            .start_uplink(documents_watch, &slots, &labels, (uplink_state, ends))
            .await?;
        let queue = Arc::new(Queue::new(config.queue, config.when_full));
        let (engine, predictions) = shared.start_engine(&queue, &slots, labels.clone())?;
        let publisher = tokio::spawn(shared.publisher(link.clone(), made).run(predictions));
        let reporter = shared.reporter(link, documents, &slots, labels.clone(), (seen, believed));
        let reporter = tokio::spawn(reporter.run(report_stop.clone()));
        let keeping = labels.clone();
        shared.wait_for_models(&slots).await;
        let ingest = shared
            .start_ingest(receiver, queue, labels, intake_stop.clone())
            .await?;
        Ok(Self {
            intake_stop,
            ingest,
            engine,
            publisher,
            uplink,
            report_stop,
            reporter,
            labels: labels_task,
            drift,
            keeping,
            slots,
            trust,
        })
    }

    /// Waits for a part that ends without being told to.
    async fn first_to_end(&mut self) -> &'static str {
        let uplink = async {
            match &mut self.uplink {
                Some(uplink) => drop(uplink.await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = &mut self.ingest => "the intake",
            _ = &mut self.engine => "the engine",
            _ = &mut self.publisher => "the publisher",
            () = uplink => "the uplink",
            _ = &mut self.reporter => "the report",
            _ = &mut self.labels => "the label join",
            () = self.slots.ended() => "the slots",
        }
    }

    /// Ends all parts: each when what comes from the one before is through.
    async fn stop(self) {
        self.intake_stop.cancel();
        for (part, handle) in [("ingest", self.ingest), ("engine", self.engine)] {
            join(part, handle).await;
        }
        // No window and no label comes any more: what waits goes to the outbox, which the uplink keeps open till then.
        self.keeping.stop_keeping().await;
        drop(self.keeping);
        join("publisher", self.publisher).await;
        if let Some(uplink) = self.uplink {
            join("uplink", uplink).await;
        }
        self.report_stop.cancel();
        join("report", self.reporter).await;
        // Trials ask for labels to the end.
        self.slots.stop().await;
        self.trust.stop().await;
        join("labels", self.labels).await;
        self.drift.stop().await;
    }
}

async fn join(part: &'static str, handle: JoinHandle<()>) {
    // A handle that was waited for already, because its part ended by itself, must not be asked again.
    if handle.is_finished() {
        return;
    }
    if let Err(error) = handle.await {
        tracing::error!(part, %error, "a part ended with a panic");
    }
}

/// What the parts are made of.
struct Shared<'a> {
    config: &'a Config,
    identity: Identity,
    stats: Vec<Arc<StreamStats>>,
    facts: Vec<Arc<Facts>>,
    drifts: Vec<Option<Drift>>,
}

/// The uplink's task and where predictions go, where there is a coordinator; and what is seen of it.
type Started = (Option<JoinHandle<()>>, Option<Made>, Seen);
/// What the report sees of the uplink.
struct Seen {
    spool: watch::Receiver<SpoolState>,
    uplink: watch::Receiver<UplinkState>,
    looker: Option<Looker>,
}

impl Shared<'_> {
    async fn start_uplink(
        &self,
        documents: watch::Receiver<Documents>,
        slots: &Slots,
        labels: &Labels,
        (state, trust): (watch::Sender<UplinkState>, trust::Ends),
    ) -> Result<Started, RunError> {
        let state_watch = state.subscribe();
        let (spool_state, spool_watch) = watch::channel(SpoolState::default());
        let mut seen = Seen {
            spool: spool_watch,
            uplink: state_watch,
            looker: None,
        };
        let Some(coordinator) = &self.config.coordinator else {
            return Ok((None, None, seen));
        };
        let (releases, deliveries) = mpsc::channel(RELEASES_MAX);
        slots.follow(deliveries);
        let (uplink, incoming, ways) = Uplink::new(uplink::Start {
            config: coordinator.uplink.clone(),
            identity: self.identity.clone(),
            properties: self.config.publish.clone(),
            outbox: self.open_outbox().await?,
            spool_state,
            documents,
            releases,
            trust,
            state,
        })?;
        labels.keep(self.keeping(ways.samples)).await;
        seen.looker = Some(ways.looker);
        let uplink = tokio::spawn(uplink.run(incoming));
        Ok((Some(uplink), Some(ways.made), seen))
    }

    fn keeping(&self, samples: Samples) -> Keeping {
        let streams = self.config.streams.iter().enumerate().zip(&self.stats);
        let sampling = |((at, stream), stats): ((usize, &Stream), &Arc<StreamStats>)| {
            let model = &self.model_of(stream).name;
            let before = samples.before.get(&stream.name).copied();
            Sampling::new((at, stream), (self.identity.boot, model), stats, before)
        };
        Keeping::new(streams.map(sampling).collect(), samples)
    }

    async fn start_trust(
        &self,
        uplink: watch::Receiver<UplinkState>,
    ) -> Result<(TrustKeeper, trust::Ends), RunError> {
        let config = self.config.coordinator.as_ref();
        let config =
            config.map_or_else(TrustConfig::nobody, |coordinator| coordinator.trust.clone());
        let data_dir = self.config.data_dir.clone();
        let started = TrustKeeper::start(config, data_dir, uplink).await;
        started.map_err(RunError::Trust)
    }

    /// Waits until what ran last runs again, so that the first windows find it.
    async fn wait_for_models(&self, slots: &Slots) {
        let loaded = async {
            for (at, model) in self.config.models.iter().enumerate() {
                let (mut active, mut row) = (slots.active(at), slots.row(at));
                let expected =
                    |row: &ReportedModel| model.factory.is_some() || row.release.is_some();
                let refused = |row: &ReportedModel| row.candidate.is_some();
                tokio::select! {
                    _ = active.wait_for(Option::is_some) => {}
                    _ = row.wait_for(|row| !expected(row) || refused(row)) => {}
                }
            }
        };
        if tokio::time::timeout(MODELS_TIMEOUT, loaded).await.is_err() {
            tracing::warn!("the models take long to load: the streams start without them");
        }
    }

    async fn open_outbox(&self) -> Result<Door, RunError> {
        let dir = self.config.data_dir.join("outbox");
        let config = self.config.outbox.clone();
        let epoch = Epoch::from_u64(random()?);
        let open = Box::new(move || Outbox::open(&dir, config.clone(), epoch, clock()));
        let opened = tokio::task::spawn_blocking(move || Door::open(open)).await;
        Ok(opened.map_err(|_| RunError::Ended {
            part: "the opening of the outbox",
        })??)
    }

    fn labelled(&self) -> Vec<Labelled> {
        let streams = self.config.streams.iter().zip(&self.stats);
        streams
            .zip(&self.drifts)
            .map(|((stream, stats), drift)| Labelled {
                model: self.model_of(stream).name.clone(),
                spec: stream.label.as_ref().map(|label| label.spec.clone()),
                stats: Arc::clone(stats),
                drift: drift.clone(),
            })
            .collect()
    }

    fn start_engine(
        &self,
        queue: &Arc<Queue<Job>>,
        slots: &Slots,
        labels: Labels,
    ) -> Result<(JoinHandle<()>, mpsc::Receiver<Vec<Prediction>>), RunError> {
        let models = self.facts.iter().enumerate().map(|(at, facts)| Model {
            active: slots.active(at),
            tell: slots.tell(at),
            facts: Arc::clone(facts),
            tap: slots.tap(at),
        });
        let streams = self
            .config
            .streams
            .iter()
            .zip(&self.stats)
            .zip(&self.drifts)
            .map(|((stream, stats), drift)| Scored {
                name: stream.name.clone(),
                model: stream.model,
                labelled: stream.label.is_some(),
                flat: stream.flat.is_some(),
                offers: Offers::of(stream.sample.as_ref()),
                stats: Arc::clone(stats),
                drift: drift.clone(),
            });
        let (out, predictions) = mpsc::channel(MADE_BATCHES_MAX);
        let (models, streams) = (models.collect(), streams.collect());
        let scorer = Scorer::new(
            self.identity.boot,
            Arc::clone(queue),
            models,
            streams,
            labels,
            out,
        );
        let over = scorer
            .start(self.config.stuck_after)
            .map_err(RunError::Thread)?;
        let ended = async move { over.cancelled().await };
        Ok((tokio::spawn(ended), predictions))
    }

    fn publisher(&self, link: LinkPublisher, uplink: Option<Made>) -> Publisher {
        let Identity { root, path, .. } = &self.identity;
        let to = |stream: &Stream| {
            Destination::new(
                root,
                path,
                &stream.name,
                stream.live,
                stream.flat.as_deref(),
            )
        };
        Publisher {
            link,
            destinations: self.config.streams.iter().map(to).collect(),
            wanted: self.config.publish.clone(),
            source: Arc::from(format!("/nodes/{path}")),
            uplink,
        }
    }

    fn reporter(
        &self,
        link: LinkPublisher,
        documents: watch::Sender<Documents>,
        slots: &Slots,
        labels: Labels,
        (seen, believed): (Seen, Believed),
    ) -> Reporter {
        let streams = self
            .config
            .streams
            .iter()
            .zip(&self.stats)
            .zip(&self.drifts)
            .map(|((stream, stats), drift)| StreamRow {
                name: stream.name.clone(),
                model: self.model_of(stream).name.clone(),
                stats: Arc::clone(stats),
                local: !stream.live,
                stale_after: stream.stale_after,
                drift: drift.clone(),
            });
        let models = self.facts.iter().enumerate();
        Reporter {
            identity: self.identity.clone(),
            every: self.config.report.every,
            debounce: self.config.report.debounce,
            link,
            documents,
            streams: streams.collect(),
            models: models
                .map(|(at, facts)| ModelRow {
                    slot: slots.row(at),
                    facts: Arc::clone(facts),
                })
                .collect(),
            labels,
            believed,
            lapses: slots.lapses(),
            spool: seen.spool,
            uplink: seen.uplink,
            looker: seen.looker,
            sight: Sight::default(),
        }
    }

    async fn start_ingest(
        &self,
        mut receiver: LinkReceiver,
        queue: Arc<Queue<Job>>,
        labels: Labels,
        stop: CancellationToken,
    ) -> Result<JoinHandle<()>, RunError> {
        let mut intakes: Vec<Intake> = self
            .config
            .streams
            .iter()
            .zip(&self.stats)
            .map(intake)
            .collect();
        let mut topics = Vec::new();
        for (of, (stream, stats)) in self.config.streams.iter().zip(&self.stats).enumerate() {
            let Some(label) = &stream.label else { continue };
            let field = label.spec.field().clone();
            match &label.origin {
                Origin::Stream(from) => {
                    if let Some(intake) = intakes.get_mut(*from) {
                        intake.label_of.push((of, field));
                    }
                }
                Origin::Topic(filter, decoder) => topics.push(LabelIntake {
                    stream: of,
                    filter: filter.clone(),
                    decoder: decoder.clone(),
                    field,
                    stats: Arc::clone(stats),
                }),
            }
        }
        let ingest = Ingest::new(intakes, topics, queue, labels);
        for filter in ingest.filters() {
            receiver.subscribe(&filter, QoS::AtLeastOnce).await?;
        }
        Ok(tokio::spawn(ingest.run(receiver, stop)))
    }

    fn model_of(&self, stream: &Stream) -> &crate::config::Model {
        // The configuration was checked: each stream's model is there.
        &self.config.models[stream.model]
    }
}

/// Reads what earlier runs saw of drift.
async fn open_drifts(config: &Config) -> Result<Vec<Option<Drift>>, RunError> {
    let dir = config.data_dir.join("drift");
    let streams = config.streams.iter();
    let wanted: Vec<_> = streams
        .map(|stream| (stream.name.clone(), stream.drift))
        .collect();
    let open = move || {
        let wanted = wanted.into_iter();
        let open = |(stream, spec): (_, Option<_>)| Some(Drift::open(&dir, &stream, spec?));
        wanted.map(open).collect()
    };
    let opened = tokio::task::spawn_blocking(open).await;
    opened.map_err(|_| RunError::Ended {
        part: "the opening of the drift monitors",
    })
}

fn intake((stream, stats): (&Stream, &Arc<StreamStats>)) -> Intake {
    Intake {
        name: stream.name.clone(),
        filter: stream.filter.clone(),
        decoder: stream.decoder.clone(),
        windower: Windower::new(&stream.window),
        lateness: stream.window.lateness(),
        label_of: Vec::new(),
        stats: Arc::clone(stats),
    }
}
