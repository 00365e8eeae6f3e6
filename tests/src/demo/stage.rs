//! Everything that the demo looks at, in one place: the nodes, what was seen of each, and the screen.

use std::time::Duration;

use anyhow::Context as _;
use lamppost_models::message::{ActiveSlot, NodeState, Quality, ReportedModel};
use lamppost_models::{
    NodePath, Prediction, PredictionBatch, Reported, Status, Timestamp, Topic, TopicRoot,
};
use tokio::time::Instant;

use super::children::Children;
use super::screen::{Screen, Tone};
use crate::fleet::{Source, Uplinks};
use crate::link::Uplink;
use crate::mqtt::{BrokerAddr, ClientError, Message, Subscriber};
use crate::replay::{Play, Player};
use crate::seen::{Forecast, Seen};

/// How often messages are taken in and conditions looked at.
const TICK: Duration = Duration::from_millis(20);
/// How often the table is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(400);
/// Where there is no table: how often each node's newest forecast is a line of the log.
const LINE_EVERY: Duration = Duration::from_secs(4);
/// Messages taken in from one subscriber in one go, so that the others get their turn.
const MESSAGES_A_TURN: usize = 2_000;

/// A node and what was seen of it.
pub struct NodeView {
    /// Where it is.
    pub path: NodePath,
    /// What its sensor measures and its model predicts.
    pub source: Source,
    /// Its own broker.
    pub broker: BrokerAddr,
    /// A stock subscriber there.
    pub local: Subscriber,
    /// What that subscriber saw.
    pub seen: Seen,
    /// What came through the coordinator's broker, live or replayed.
    pub centre: Seen,
    /// The last report.
    pub reported: Option<Reported>,
    /// The last status.
    pub status: Option<Status>,
    /// Its way to the coordinator.
    pub uplinks: Uplinks,
    /// What the way does now.
    pub uplink: Uplink,
    /// Its sensor.
    pub player: Option<Player>,
    sent: usize,
    verified: Option<(Forecast, f64)>,
}

/// The demo's state, and its only owner.
pub struct Stage {
    /// Where the demo writes.
    pub screen: Screen<std::io::Stdout>,
    /// The processes.
    pub children: Children,
    /// The nodes.
    pub nodes: Vec<NodeView>,
    /// A stock subscriber on the coordinator's broker, once there is one.
    pub centre: Option<Subscriber>,
    root: TopicRoot,
    drawn: Instant,
    lined: Instant,
}

impl NodeView {
    /// A node of which nothing was seen yet.
    pub fn new(
        path: NodePath,
        source: Source,
        broker: BrokerAddr,
        local: Subscriber,
        uplinks: Uplinks,
    ) -> Self {
        Self {
            path,
            source,
            broker,
            local,
            seen: Seen::new(),
            centre: Seen::new(),
            reported: None,
            status: None,
            uplinks,
            uplink: Uplink::Up,
            player: None,
            sent: 0,
            verified: None,
        }
    }

    /// Cuts or restores its way to the coordinator.
    pub fn set_uplink(&mut self, uplink: Uplink) {
        self.uplink = uplink;
        self.uplinks.set(uplink);
    }

    /// The row of its model in its last report.
    pub fn model(&self) -> Option<&ReportedModel> {
        self.reported
            .as_ref()?
            .models
            .iter()
            .find(|row| row.name == self.source.model)
    }

    /// What runs, by its last report.
    pub fn active(&self) -> Option<&ActiveSlot> {
        self.model()?.active.as_ref()
    }

    /// Whether it runs a version, by its last report.
    pub fn runs(&self, version: &str) -> bool {
        self.active()
            .is_some_and(|slot| slot.version.to_string() == version)
    }

    /// Event time of the newest reading that was sent.
    pub fn last_sent(&self) -> Timestamp {
        let sent = self.player.as_ref().map_or(self.sent, Player::position);
        let newest = sent
            .checked_sub(1)
            .and_then(|at| self.source.recording.messages().get(at));
        newest.map_or(Timestamp::EPOCH, |message| message.ts)
    }

    /// Starts its sensor, from where it stopped.
    pub fn start_sensor(&mut self, speed: f64, start: Instant) {
        self.player = Some(Player::start(Play {
            broker: self.broker.clone(),
            client_id: format!("sensor-of-{}", self.path.node),
            topic: self.source.topic.to_owned(),
            recording: self.source.recording.clone(),
            from: self.sent,
            speed,
            start,
        }));
    }

    /// Stops its sensor, once its broker has all that was sent.
    ///
    /// # Errors
    /// [`ClientError`] when the sensor failed.
    pub async fn stop_sensor(&mut self) -> Result<(), ClientError> {
        if let Some(player) = self.player.take() {
            self.sent = player.stop().await?;
        }
        Ok(())
    }

    /// Whether all that was sent has been read, all that was predicted has been seen, here and at the coordinator, and the
    /// node has reported so.
    pub fn is_settled(&self) -> bool {
        let Some(stream) = self
            .reported
            .as_ref()
            .and_then(|reported| reported.streams.first())
        else {
            return false;
        };
        let seen = self.seen.len();
        stream.last_reading == Some(self.last_sent())
            && stream.counters.predictions == seen as u64
            && self.centre.len() == seen
    }

    fn note_local(&mut self, prediction: &Prediction) {
        // The reading that completed this window is the truth of the forecast before it.
        if let Some(before) = self
            .seen
            .newest()
            .filter(|before| before.target == prediction.ts)
            && let Some(&came) = self.source.recording.truth().get(&before.target)
        {
            self.verified = Some((before.clone(), came));
        }
        self.seen.note(prediction);
    }

    /// The newest forecast whose hour has come, in words.
    fn newest_line(&self) -> Option<String> {
        let (forecast, came) = self.verified.as_ref()?;
        let (model, unit) = (&self.source.model, self.source.unit);
        let error = (forecast.value - came).abs();
        let hour = self.source.hour(forecast.target);
        let place = &self.path;
        let quality = self
            .active()
            .and_then(|slot| slot.quality)
            .map_or_else(String::new, |quality| {
                format!("; edge MAE {}", shown(quality))
            });
        Some(format!(
            "{place:<18} {hour}: forecast {:.0} {unit}, came {came:.0}, off by {error:.0} ({model} {}{quality})",
            forecast.value, forecast.version
        ))
    }

    fn row(&self, screen: &Screen<std::io::Stdout>) -> String {
        let link = match (&self.status, self.uplink) {
            (_, Uplink::Down | Uplink::Silent) => screen.toned(Tone::Bad, "cut "),
            (
                Some(Status {
                    state: NodeState::Up,
                    ..
                }),
                Uplink::Up,
            ) => screen.toned(Tone::Good, "up  "),
            (_, Uplink::Up | Uplink::Altering | Uplink::Toxic(_)) => {
                screen.toned(Tone::Faint, "... ")
            }
        };
        let runs = self.active().map_or_else(
            || "-".to_owned(),
            |slot| format!("{} {}", self.source.model, slot.version),
        );
        let (hour, forecast, came, error) =
            self.verified
                .as_ref()
                .map_or_else(Default::default, |(forecast, came)| {
                    let error = (forecast.value - came).abs();
                    (
                        self.source.hour(forecast.target),
                        format!("{:.0}", forecast.value),
                        format!("{came:.0}"),
                        format!("{error:.0}"),
                    )
                });
        let quality = self
            .active()
            .and_then(|slot| slot.quality)
            .map_or_else(String::new, shown);
        let waiting = self.seen.len().saturating_sub(self.centre.len());
        format!(
            "{:<18} {link} {runs:<19} {hour:<16} {forecast:>8} {came:>6} {error:>6} {quality:>16} {:>6} {:>7} {waiting:>6}",
            self.path.to_string(),
            self.seen.len(),
            self.centre.len(),
        )
    }
}

fn shown(quality: Quality) -> String {
    match quality {
        Quality::Error { labels, mae, .. } => format!("{mae:.1} of {labels} h"),
        Quality::Accuracy { labels, accuracy } => {
            format!("{:.1} % of {labels} h", accuracy * 100.0)
        }
    }
}

impl Stage {
    /// An empty stage.
    pub fn new(screen: Screen<std::io::Stdout>, children: Children) -> Self {
        let now = Instant::now();
        Self {
            screen,
            children,
            nodes: Vec::new(),
            centre: None,
            root: TopicRoot::default(),
            drawn: now,
            lined: now,
        }
    }

    /// The node of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn node(&mut self, name: &str) -> anyhow::Result<&mut NodeView> {
        let found = self
            .nodes
            .iter_mut()
            .find(|node| node.path.node.as_str() == name);
        found.with_context(|| format!("no node {name}"))
    }

    /// Lets the fleet run, taking in what it says, until `done` or `deadline`; true when done.
    ///
    /// # Errors
    /// When a process ended by itself.
    pub async fn run_until(
        &mut self,
        deadline: Instant,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> anyhow::Result<bool> {
        loop {
            self.take_in();
            if done(self) {
                self.draw();
                return Ok(true);
            }
            self.children.check()?;
            self.draw_when_due();
            if Instant::now() >= deadline {
                return Ok(false);
            }
            tokio::time::sleep_until(deadline.min(Instant::now() + TICK)).await;
        }
    }

    /// Lets the fleet run until `deadline`.
    ///
    /// # Errors
    /// As [`Stage::run_until`].
    pub async fn run_to(&mut self, deadline: Instant) -> anyhow::Result<()> {
        self.run_until(deadline, |_| false).await.map(drop)
    }

    /// Waits for something else without letting go of the fleet.
    ///
    /// # Errors
    /// As [`Stage::run_until`], and those of `work`.
    pub async fn run_beside<T>(
        &mut self,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                outcome = &mut work => return outcome,
                () = tokio::time::sleep(TICK) => {
                    self.run_until(Instant::now(), |_| false).await?;
                }
            }
        }
    }

    /// Adds a line to the log.
    pub fn log(&mut self, line: &str) {
        self.screen.log(line);
    }

    fn take_in(&mut self) {
        for node in &mut self.nodes {
            for _ in 0..MESSAGES_A_TURN {
                let Some(message) = node.local.try_next() else {
                    break;
                };
                if let Some(prediction) = self
                    .root
                    .parse(&message.topic)
                    .ok()
                    .and_then(|topic| live(&topic, &message))
                {
                    node.note_local(&prediction);
                }
            }
        }
        for _ in 0..MESSAGES_A_TURN {
            let Some(message) = self.centre.as_mut().and_then(Subscriber::try_next) else {
                break;
            };
            if let Ok(topic) = self.root.parse(&message.topic) {
                note_centre(&mut self.nodes, &topic, &message);
            }
        }
    }

    fn draw_when_due(&mut self) {
        let now = Instant::now();
        if now >= self.drawn + DRAW_EVERY {
            self.drawn = now;
            self.draw();
        }
        if !self.screen.is_terminal() && now >= self.lined + LINE_EVERY {
            self.lined = now;
            let lines: Vec<_> = self
                .nodes
                .iter()
                .filter_map(NodeView::newest_line)
                .collect();
            for line in lines {
                self.screen.log(&line);
            }
        }
    }

    fn draw(&mut self) {
        if !self.screen.is_terminal() || self.nodes.is_empty() {
            return;
        }
        let head = format!(
            "{:<18} {:<4} {:<19} {:<16} {:>8} {:>6} {:>6} {:>16} {:>6} {:>7} {:>6}",
            "node",
            "link",
            "runs",
            "hour",
            "forecast",
            "came",
            "error",
            "edge MAE",
            "here",
            "centre",
            "behind"
        );
        let mut block = vec![String::new(), self.screen.toned(Tone::Faint, &head)];
        block.extend(self.nodes.iter().map(|node| node.row(&self.screen)));
        self.screen.show(block);
    }

    /// Takes the table off the screen.
    pub fn clear(&mut self) {
        self.screen.show(Vec::new());
    }
}

fn live(topic: &Topic, message: &Message) -> Option<Prediction> {
    match topic {
        Topic::Prediction(..) => serde_json::from_slice(&message.payload).ok(),
        Topic::Release { .. }
        | Topic::Status(_)
        | Topic::Reported(_)
        | Topic::PredictionHistory(..)
        | Topic::Sample(..)
        | Topic::Events(_)
        | Topic::Ack(_)
        | Topic::Trust
        | Topic::Time
        | Topic::TimeQuestion(_)
        | Topic::TimeAnswer(_) => None,
    }
}

fn note_centre(nodes: &mut [NodeView], topic: &Topic, message: &Message) {
    let (Topic::Status(path)
    | Topic::Reported(path)
    | Topic::Prediction(path, _)
    | Topic::PredictionHistory(path, _)
    | Topic::Sample(path, _)
    | Topic::Events(path)
    | Topic::Ack(path)) = topic
    else {
        return;
    };
    let Some(node) = nodes.iter_mut().find(|node| node.path == *path) else {
        return;
    };
    match topic {
        Topic::Status(_) => node.status = serde_json::from_slice(&message.payload).ok(),
        Topic::Reported(_) => node.reported = serde_json::from_slice(&message.payload).ok(),
        Topic::Prediction(..) => {
            if let Some(prediction) = live(topic, message) {
                node.centre.note(&prediction);
            }
        }
        Topic::PredictionHistory(..) => {
            let json = crate::batch::unpacked(&message.payload).unwrap_or_default();
            if let Ok(batch) = serde_json::from_slice::<PredictionBatch>(&json) {
                for prediction in &batch.records {
                    node.centre.note(prediction);
                }
            }
        }
        Topic::Release { .. }
        | Topic::Sample(..)
        | Topic::Events(_)
        | Topic::Ack(_)
        | Topic::Trust
        | Topic::Time
        | Topic::TimeQuestion(_)
        | Topic::TimeAnswer(_) => {}
    }
}
