//! Sensor messages become windows: from the node's own broker, stream by stream, into the engine's queue.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lamppost_agent_core::decode::{DecodeError, Decoder};
use lamppost_agent_core::outbox::Now;
use lamppost_agent_core::window::{Passed, Taken, Windower};
use lamppost_broker::{LinkReceiver, Message};
use lamppost_models::{FieldName, Reading, StreamName};
use tokio_util::sync::CancellationToken;

use crate::filter;
use crate::labels::{Event, Labels};
use crate::queue::Queue;
use crate::stats::{StreamStats, is_milestone};
use crate::uplink::clock;

/// Messages taken from the broker at a time: what a millisecond brings at a high rate.
const BATCH_MAX: usize = 256;
/// Topics whose streams are remembered; beyond it, all are looked up again. A gateway has fewer sensors.
const ROUTES_MAX: usize = 1024;
/// How often streams that went silent are looked after.
const SILENCE_POLL: Duration = Duration::from_secs(1);

/// A window on its way to the engine.
#[derive(Debug)]
pub(crate) struct Job {
    /// The stream, by its place in the configuration.
    pub(crate) stream: usize,
    /// When the reading that completed it came.
    pub(crate) arrived: Instant,
    stretch: Arc<Vec<Arc<Reading>>>,
    part: Range<usize>,
}

impl Job {
    /// The readings, oldest first.
    pub(crate) fn window(&self) -> &[Arc<Reading>] {
        self.stretch.get(self.part.clone()).unwrap_or_default()
    }
}

/// A stream as it is taken in.
pub(crate) struct Intake {
    pub(crate) name: StreamName,
    pub(crate) filter: String,
    pub(crate) decoder: Decoder,
    pub(crate) windower: Windower,
    /// How far behind the newest a reading may be, so how long a silent stream is waited for.
    pub(crate) lateness: Duration,
    /// The streams that take a field of this one's readings as labels.
    pub(crate) label_of: Vec<(usize, FieldName)>,
    pub(crate) stats: Arc<StreamStats>,
}

/// A topic that brings labels and nothing else.
pub(crate) struct LabelIntake {
    /// The stream whose predictions they belong to.
    pub(crate) stream: usize,
    pub(crate) filter: String,
    pub(crate) decoder: Decoder,
    pub(crate) field: FieldName,
    pub(crate) stats: Arc<StreamStats>,
}

/// The task's state.
pub(crate) struct Ingest {
    streams: Vec<Stream>,
    labels_of: Vec<LabelIntake>,
    routes: HashMap<Arc<str>, Arc<Route>>,
    queue: Arc<Queue<Job>>,
    labels: Labels,
    all_stats: Vec<Arc<StreamStats>>,
    jobs: Vec<Job>,
    events: Vec<Event>,
}

struct Stream {
    intake: Intake,
    last_arrival: Instant,
    stretch: Stretch,
}

/// The windows that one batch of messages completes on a stream, and the readings under them.
///
/// Windows overlap: they share one list of readings, so that a reading's count of owners, which the engine's thread
/// changes as well, is touched twice and not twice a window.
#[derive(Debug, Default)]
struct Stretch {
    readings: Vec<Arc<Reading>>,
    windows: Vec<(Range<usize>, Instant)>,
}

impl Stretch {
    fn passed(&mut self, reading: &Arc<Reading>) {
        if !self.readings.is_empty() {
            self.readings.push(Arc::clone(reading));
        }
    }

    fn window(&mut self, window: &[Arc<Reading>], arrived: Instant) {
        let start = self.readings.len().checked_sub(window.len());
        let start = start.filter(|&start| match (self.readings.get(start), window.first()) {
            (Some(known), Some(first)) => Arc::ptr_eq(known, first),
            _ => false,
        });
        // The first of the batch, or one that reaches back before it.
        let start = start.unwrap_or_else(|| {
            let end = self.readings.len();
            self.readings.extend_from_slice(window);
            end
        });
        self.windows.push((start..self.readings.len(), arrived));
    }

    fn take(&mut self, stream: usize, jobs: &mut Vec<Job>) {
        if !self.windows.is_empty() {
            let stretch = Arc::new(std::mem::take(&mut self.readings));
            let job = |(part, arrived)| Job {
                stream,
                arrived,
                stretch: Arc::clone(&stretch),
                part,
            };
            jobs.extend(self.windows.drain(..).map(job));
        }
        self.readings.clear();
    }
}

/// Where the messages of a topic go.
#[derive(Debug)]
struct Route {
    streams: Vec<usize>,
    labels: Vec<usize>,
}

impl Ingest {
    pub(crate) fn new(
        streams: Vec<Intake>,
        labels_of: Vec<LabelIntake>,
        queue: Arc<Queue<Job>>,
        labels: Labels,
    ) -> Self {
        let all_stats = streams
            .iter()
            .map(|stream| Arc::clone(&stream.stats))
            .collect();
        let last_arrival = Instant::now();
        Self {
            streams: streams
                .into_iter()
                .map(|intake| Stream {
                    intake,
                    last_arrival,
                    stretch: Stretch::default(),
                })
                .collect(),
            labels_of,
            routes: HashMap::new(),
            queue,
            labels,
            all_stats,
            jobs: Vec::with_capacity(BATCH_MAX),
            events: Vec::new(),
        }
    }

    /// The filters to subscribe to, so that each message comes once.
    pub(crate) fn filters(&self) -> Vec<String> {
        let streams = self
            .streams
            .iter()
            .map(|stream| stream.intake.filter.as_str());
        filter::widest(streams.chain(self.labels_of.iter().map(|labels| labels.filter.as_str())))
    }

    /// Takes messages in until the broker or the agent stops.
    pub(crate) async fn run(mut self, mut receiver: LinkReceiver, shutdown: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let mut silence = tokio::time::interval(SILENCE_POLL);
        silence.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let reorders = self
            .streams
            .iter()
            .any(|stream| !stream.intake.lateness.is_zero());
        loop {
            tokio::select! {
                count = receiver.recv_many(&mut batch, BATCH_MAX) => {
                    if count == 0 {
                        break;
                    }
                    self.take(&batch);
                    batch.clear();
                }
                _ = silence.tick(), if reorders => self.flush_silent(),
                () = shutdown.cancelled() => break,
            }
            self.hand_over().await;
        }
        self.queue.close();
    }

    fn take(&mut self, batch: &[Message]) {
        let (now, arrived) = (clock(), Instant::now());
        for message in batch {
            let known = self.routes.get(&message.topic).map(Arc::clone);
            let route = known.unwrap_or_else(|| self.learn(&message.topic));
            self.deliver(&route, message, now, arrived);
        }
    }

    fn learn(&mut self, topic: &Arc<str>) -> Arc<Route> {
        if self.routes.len() >= ROUTES_MAX {
            self.routes.clear();
        }
        let route = Arc::new(Route {
            streams: matching(
                topic,
                self.streams.iter().map(|stream| &stream.intake.filter),
            ),
            labels: matching(topic, self.labels_of.iter().map(|labels| &labels.filter)),
        });
        self.routes.insert(Arc::clone(topic), Arc::clone(&route));
        route
    }

    fn deliver(&mut self, route: &Route, message: &Message, now: Now, arrived: Instant) {
        for &index in &route.streams {
            let Some(stream) = self.streams.get_mut(index) else {
                continue;
            };
            stream.last_arrival = arrived;
            match stream.intake.decoder.decode(&message.payload, now.wall) {
                Ok(reading) => {
                    stream.intake.stats.arrived_at(now.steady);
                    stream.take(reading, arrived, &mut self.events);
                }
                Err(error) => malformed(&stream.intake.name, &stream.intake.stats, message, &error),
            }
        }
        for &index in &route.labels {
            let Some(labels) = self.labels_of.get(index) else {
                continue;
            };
            match labels.decoder.decode(&message.payload, now.wall) {
                Ok(Reading { ts, mut fields }) => {
                    let value = fields.remove(&labels.field);
                    self.events.push(Event::Label {
                        stream: labels.stream,
                        ts,
                        value,
                    });
                }
                Err(error) => {
                    let name = self
                        .streams
                        .get(labels.stream)
                        .map(|stream| &stream.intake.name);
                    if let Some(name) = name {
                        malformed(name, &labels.stats, message, &error);
                    }
                }
            }
        }
    }

    /// Lets pass what waits for readings that could still come late, where none came for that long.
    fn flush_silent(&mut self) {
        let now = Instant::now();
        for stream in &mut self.streams {
            let silent = now.duration_since(stream.last_arrival) >= stream.intake.lateness;
            if silent && stream.intake.windower.waiting() > 0 {
                stream.flush(now, &mut self.events);
            }
        }
    }

    async fn hand_over(&mut self) {
        for (index, stream) in self.streams.iter_mut().enumerate() {
            stream.stretch.take(index, &mut self.jobs);
        }
        let all_stats = &self.all_stats;
        self.queue.push_all(&mut self.jobs, |job| {
            let Some(stats) = all_stats.get(job.stream) else {
                return;
            };
            stats.dropped.bump();
            if is_milestone(stats.dropped.get()) {
                tracing::warn!(
                    stream = job.stream,
                    dropped = stats.dropped.get(),
                    "the engine is behind: windows are dropped"
                );
            }
        });
        if !self.events.is_empty() {
            self.labels.tell(std::mem::take(&mut self.events)).await;
        }
    }
}

impl Stream {
    fn take(&mut self, reading: Reading, arrived: Instant, events: &mut Vec<Event>) {
        let stretch = &mut self.stretch;
        let Intake {
            windower,
            label_of,
            stats,
            name,
            ..
        } = &mut self.intake;
        let ts = reading.ts;
        stats.readings.bump();
        let crowded = windower.counts().crowded;
        let taken = windower.push(reading, |passed| {
            pass(&passed, stretch, label_of, arrived, events);
        });
        match taken {
            Taken::Kept => stats.reading_at(ts),
            Taken::Late => {
                stats.late.bump();
                if is_milestone(stats.late.get()) {
                    tracing::warn!(stream = %name, %ts, late = stats.late.get(), "a reading came behind the watermark and is dropped");
                }
            }
            Taken::Duplicate => {
                stats.duplicate.bump();
                if is_milestone(stats.duplicate.get()) {
                    tracing::info!(stream = %name, %ts, duplicate = stats.duplicate.get(), "a reading of this event time was there before");
                }
            }
        }
        let crowded_now = windower.counts().crowded;
        if crowded_now > crowded && is_milestone(crowded_now) {
            tracing::warn!(stream = %name, crowded = crowded_now, "a window by time holds more readings than any model takes: the oldest are dropped");
        }
    }

    fn flush(&mut self, now: Instant, events: &mut Vec<Event>) {
        let stretch = &mut self.stretch;
        let Intake {
            windower, label_of, ..
        } = &mut self.intake;
        windower.flush(|passed| pass(&passed, stretch, label_of, now, events));
    }
}

fn pass(
    passed: &Passed<'_>,
    stretch: &mut Stretch,
    label_of: &[(usize, FieldName)],
    arrived: Instant,
    events: &mut Vec<Event>,
) {
    match passed {
        Passed::Reading(reading) => {
            stretch.passed(reading);
            events.extend(label_of.iter().map(|(of, field)| Event::Label {
                stream: *of,
                ts: reading.ts,
                value: reading.fields.get(field).cloned(),
            }));
        }
        Passed::Window(window) => stretch.window(window, arrived),
    }
}

fn matching<'a>(topic: &str, filters: impl Iterator<Item = &'a String>) -> Vec<usize> {
    filters
        .enumerate()
        .filter(|(_, wanted)| filter::matches(wanted, topic))
        .map(|(index, _)| index)
        .collect()
}

fn malformed(stream: &StreamName, stats: &StreamStats, message: &Message, error: &DecodeError) {
    stats.malformed.bump();
    let malformed = stats.malformed.get();
    if is_milestone(malformed) {
        let reason = crate::error_chain(error);
        tracing::warn!(%stream, topic = &*message.topic, malformed, reason, "a message is no reading");
    }
}
