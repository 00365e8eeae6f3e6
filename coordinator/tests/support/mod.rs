//! A coordinator in this process, and nodes that speak to it as agents do.

#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod server;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lamppost_coordinator::api::{ModelRow, NodeView, RolloutView, StoredPredictions};
use lamppost_coordinator::config::{Broker, Embedded, NodeLogin, ViewerLogin};
use lamppost_coordinator::{Config, Ready, RunError, run};
use lamppost_models::id::PredictionId;
use lamppost_models::message::{
    ActiveSlot, ModelRef, NodeState, ReportedModel, ReportedOutbox, Sample, SampleOrigin,
    SamplePolicy,
};
use lamppost_models::reading::{Reading, Value};
use lamppost_models::release::{BundleRef, PublicKey};
use lamppost_models::{
    Ack, BootId, Bundle, Digest, Envelope, Epoch, NodePath, Prediction, PredictionBatch, Release,
    Reported, Status, Timestamp, V1,
};
use reqwest::{Method, RequestBuilder, StatusCode};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{LastWill, PubAckReason, SubscribeReasonCode};
use rumqttc::v5::{AsyncClient, Event, Incoming, MqttOptions};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Generous: the machine may be busy with other things.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
pub(crate) const ROOT: &str = "lamppost/v1";
pub(crate) const PASSWORD: &str = "of the node";

pub(crate) fn path(node: &str) -> NodePath {
    NodePath {
        site: "minneapolis".parse().unwrap(),
        node: node.parse().unwrap(),
    }
}

/// The bundle of a version in the zoo.
pub(crate) fn bundle(version: &str) -> Vec<u8> {
    let [manifest, model, golden] = zoo_files(version);
    Bundle::pack(&manifest, &model, &golden).unwrap()
}

pub(crate) fn zoo(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../models/zoo/traffic-flow")
        .join(version)
}

pub(crate) fn zoo_files(version: &str) -> [Vec<u8>; 3] {
    lamppost_models::bundle::FILES.map(|file| std::fs::read(zoo(version).join(file)).unwrap())
}

/// A bundle of the same version with another manifest.
pub(crate) fn altered_bundle(
    version: &str,
    alter: impl FnOnce(&mut serde_json::Value, &mut Vec<u8>),
) -> Vec<u8> {
    let [manifest, model, mut golden] = zoo_files(version);
    let mut manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    alter(&mut manifest, &mut golden);
    manifest["golden"]["digest"] = Digest::of(&golden).to_string().into();
    Bundle::pack(&serde_json::to_vec(&manifest).unwrap(), &model, &golden).unwrap()
}

/// A configuration with free ports, nodes gw-1 and gw-2, and a viewer.
pub(crate) fn config(data_dir: &Path) -> Config {
    let free: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let mut config = Config {
        data_dir: data_dir.to_owned(),
        ..Config::default()
    };
    config.http.listen = free;
    let login = |node: &str| {
        let NodePath { site, node } = path(node);
        NodeLogin {
            site,
            node,
            password: PASSWORD.to_owned(),
        }
    };
    config.broker = Broker::Embedded(Embedded {
        listen: free,
        nodes: vec![login("gw-1"), login("gw-2")],
        viewers: vec![ViewerLogin {
            user: "dashboard".to_owned(),
            password: "of the viewer".to_owned(),
        }],
        ..Embedded::default()
    });
    config
}

/// A running coordinator.
pub(crate) struct Coordinator {
    pub(crate) ready: Ready,
    pub(crate) http: reqwest::Client,
    token: Option<String>,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), RunError>>,
}

impl Coordinator {
    pub(crate) async fn start(config: Config) -> Self {
        let shutdown = CancellationToken::new();
        let (sender, ready) = oneshot::channel();
        let token = config.http.token.clone();
        let mut task = tokio::spawn(run(config, shutdown.clone(), sender));
        let ready = tokio::select! {
            ready = ready => ready.ok(),
            () = tokio::time::sleep(DEADLINE) => None,
        };
        let Some(ready) = ready else {
            panic!("the coordinator does not start: {:?}", (&mut task).await)
        };
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self {
            ready,
            http,
            token,
            shutdown,
            task,
        }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// Drops it in the middle of its work.
    pub(crate) async fn abandon(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }

    pub(crate) fn mqtt(&self) -> SocketAddr {
        self.ready.mqtt.unwrap()
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self
            .http
            .request(method, format!("http://{}{path}", self.ready.http))
            .timeout(DEADLINE);
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        let response = self.request(Method::GET, path).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        response.json().await.unwrap()
    }

    /// Status and error of a request that fails.
    pub(crate) async fn refused(&self, request: RequestBuilder) -> (u16, String) {
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let body: serde_json::Value = response.json().await.unwrap();
        (status, body["error"].as_str().unwrap().to_owned())
    }

    pub(crate) async fn push(&self, bundle: Vec<u8>) -> ModelRow {
        let response = self
            .request(Method::PUT, "/v1/models")
            .body(bundle)
            .send()
            .await
            .unwrap();
        let (status, text) = (response.status(), response.text().await.unwrap());
        assert!(status.is_success(), "{status} {text}");
        serde_json::from_value(
            serde_json::from_str::<serde_json::Value>(&text).unwrap()["model"].take(),
        )
        .unwrap()
    }

    pub(crate) async fn start_rollout(&self, version: &str) -> RolloutView {
        let wanted = serde_json::json!({ "model": "traffic-flow", "version": version, "group": "all", "all_at_once": true });
        let response = self
            .request(Method::POST, "/v1/rollouts")
            .json(&wanted)
            .send()
            .await
            .unwrap();
        let (status, text) = (response.status(), response.text().await.unwrap());
        assert_eq!(status, StatusCode::CREATED, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    /// The current rollout.
    pub(crate) async fn rollout(&self) -> RolloutView {
        self.get::<Vec<RolloutView>>("/v1/rollouts/all/traffic-flow")
            .await
            .remove(0)
    }

    pub(crate) async fn key(&self) -> PublicKey {
        self.get::<lamppost_coordinator::api::Key>("/v1/key")
            .await
            .key
    }

    pub(crate) async fn node(&self, node: &str) -> Option<NodeView> {
        let nodes: Vec<NodeView> = self.get("/v1/nodes").await;
        nodes.into_iter().find(|view| view.path == path(node))
    }

    /// Numbers of the stored predictions of a node, ascending.
    pub(crate) async fn stored(&self, node: &str) -> Vec<u64> {
        let found: StoredPredictions = self
            .get(&format!(
                "/v1/predictions?node=minneapolis/{node}&limit=1000"
            ))
            .await;
        let rows = found.predictions.iter();
        let mut numbers: Vec<u64> = rows.map(|row| row.prediction.id.number).collect();
        numbers.sort_unstable();
        numbers
    }
}

/// Asks until the answer is there, within the deadline.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let ends = tokio::time::Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(tokio::time::Instant::now() < ends, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What an MQTT client hears.
#[derive(Debug)]
pub(crate) enum Heard {
    Connected,
    Subscribed(bool),
    /// A publication was answered: whether it was taken.
    Published(bool),
    Message {
        topic: String,
        payload: Vec<u8>,
        retain: bool,
    },
    Lost(String),
}

impl Heard {
    /// Topic, payload, retained; of a message.
    fn message(self) -> Option<(String, Vec<u8>, bool)> {
        if let Self::Message {
            topic,
            payload,
            retain,
        } = self
        {
            Some((topic, payload, retain))
        } else {
            None
        }
    }
}

/// An MQTT client.
pub(crate) struct Client {
    pub(crate) mqtt: AsyncClient,
    heard: mpsc::UnboundedReceiver<Heard>,
    _cut: DropGuard,
}

impl Client {
    /// Connects; the answer of the broker is heard.
    pub(crate) fn connect(
        broker: SocketAddr,
        id: &str,
        login: Option<(&str, &str)>,
        will: Option<LastWill>,
    ) -> Self {
        let mut options = MqttOptions::new(id, broker.ip().to_string(), broker.port());
        options.set_clean_start(true);
        options.set_max_packet_size(Some(512 * 1024));
        if let Some((user, password)) = login {
            options.set_credentials(user, password);
        }
        if let Some(will) = will {
            options.set_last_will(will);
        }
        let (mqtt, mut eventloop) = AsyncClient::new(options, 64);
        let (sender, heard) = mpsc::unbounded_channel();
        let cut = CancellationToken::new();
        let guard = cut.clone().drop_guard();
        tokio::spawn(async move {
            loop {
                let event = tokio::select! {
                    () = cut.cancelled() => return,
                    event = eventloop.poll() => event,
                };
                let heard = match event {
                    Ok(Event::Incoming(Incoming::ConnAck(_))) => Heard::Connected,
                    Ok(Event::Incoming(Incoming::SubAck(ack))) => Heard::Subscribed(
                        ack.return_codes
                            .iter()
                            .all(|code| matches!(code, SubscribeReasonCode::Success(_))),
                    ),
                    Ok(Event::Incoming(Incoming::PubAck(ack))) => Heard::Published(matches!(
                        ack.reason,
                        PubAckReason::Success | PubAckReason::NoMatchingSubscribers
                    )),
                    Ok(Event::Incoming(Incoming::Publish(publish))) => Heard::Message {
                        topic: String::from_utf8_lossy(&publish.topic).into_owned(),
                        payload: publish.payload.to_vec(),
                        retain: publish.retain,
                    },
                    Ok(_) => continue,
                    Err(error) => {
                        sender.send(Heard::Lost(error.to_string())).ok();
                        return;
                    }
                };
                if sender.send(heard).is_err() {
                    return;
                }
            }
        });
        Self {
            mqtt,
            heard,
            _cut: guard,
        }
    }

    pub(crate) async fn hear(&mut self) -> Heard {
        let heard = tokio::time::timeout(DEADLINE, self.heard.recv()).await;
        heard
            .expect("nothing is heard")
            .expect("the client is gone")
    }

    pub(crate) async fn wait_for<T>(&mut self, mut wanted: impl FnMut(Heard) -> Option<T>) -> T {
        loop {
            let heard = self.hear().await;
            assert!(!matches!(heard, Heard::Lost(_)), "{heard:?}");
            if let Some(found) = wanted(heard) {
                return found;
            }
        }
    }

    pub(crate) async fn subscribe(&mut self, filter: &str) -> bool {
        self.mqtt.subscribe(filter, QoS::AtLeastOnce).await.unwrap();
        self.wait_for(|heard| {
            if let Heard::Subscribed(good) = heard {
                Some(good)
            } else {
                None
            }
        })
        .await
    }

    pub(crate) async fn publish(&self, topic: &str, payload: Vec<u8>) {
        self.mqtt
            .publish(topic, QoS::AtLeastOnce, false, payload)
            .await
            .unwrap();
    }

    /// Publishes, and says whether the broker took it.
    pub(crate) async fn try_publish(&mut self, topic: &str, payload: &[u8]) -> bool {
        self.publish(topic, payload.to_vec()).await;
        self.wait_for(|heard| {
            if let Heard::Published(taken) = heard {
                Some(taken)
            } else {
                None
            }
        })
        .await
    }

    pub(crate) async fn message(&mut self) -> (String, Vec<u8>, bool) {
        self.wait_for(Heard::message).await
    }

    /// The payload of the next message on `topic`.
    pub(crate) async fn payload(&mut self, topic: &str) -> Vec<u8> {
        loop {
            let (found, payload, _) = self.message().await;
            if found == topic {
                return payload;
            }
        }
    }
}

/// A node as the coordinator sees one.
pub(crate) struct Node {
    pub(crate) client: Client,
    pub(crate) path: NodePath,
    pub(crate) boot: BootId,
}

impl Node {
    /// Connects as an agent does: last will, subscriptions, status.
    pub(crate) async fn connect(broker: SocketAddr, node: &str, boot: u64) -> Self {
        let path = path(node);
        let status = status(boot, NodeState::Down);
        let will_topic = format!("{ROOT}/nodes/{path}/status");
        let will = LastWill::new(
            will_topic,
            serde_json::to_vec(&status).unwrap(),
            QoS::AtLeastOnce,
            true,
            None,
        );
        let user = path.to_string();
        let mut client = Client::connect(
            broker,
            &format!("minneapolis.{node}"),
            Some((&user, PASSWORD)),
            Some(will),
        );
        client
            .wait_for(|heard| matches!(heard, Heard::Connected).then_some(()))
            .await;
        assert!(client.subscribe(&format!("{ROOT}/nodes/{path}/ack")).await);
        assert!(client.subscribe(&format!("{ROOT}/models/all/+")).await);
        let node = Self {
            client,
            path,
            boot: BootId::from_u64(boot),
        };
        node.say_retained("status", &self::status(boot, NodeState::Up))
            .await;
        node
    }

    pub(crate) async fn say<T: serde::Serialize>(&self, below: &str, message: &T) {
        let topic = format!("{ROOT}/nodes/{}/{below}", self.path);
        self.client
            .publish(&topic, serde_json::to_vec(message).unwrap())
            .await;
    }

    pub(crate) async fn say_retained<T: serde::Serialize>(&self, below: &str, message: &T) {
        let topic = format!("{ROOT}/nodes/{}/{below}", self.path);
        let payload = serde_json::to_vec(message).unwrap();
        self.client
            .mqtt
            .publish(topic, QoS::AtLeastOnce, true, payload)
            .await
            .unwrap();
    }

    pub(crate) async fn predict(&self, number: u64) {
        self.say("pred/i94", &prediction(self.boot, number)).await;
    }

    pub(crate) async fn send_batch(&self, number: u64, ids: &[(u64, u64)]) {
        let record = |&(boot, number)| Prediction {
            replay: true,
            ..prediction(BootId::from_u64(boot), number)
        };
        let records = ids.iter().map(record).collect();
        let batch = PredictionBatch {
            v: V1,
            epoch: epoch(),
            number,
            stream: "i94".parse().unwrap(),
            records,
        };
        self.say("pred-hist/i94", &batch).await;
    }

    /// Says that it runs a bundle.
    pub(crate) async fn report_running(&self, stable: &BundleRef) {
        let BundleRef {
            version, digest, ..
        } = stable.clone();
        let active = ActiveSlot {
            version,
            digest,
            since: now(),
            predictions: 3,
            last_inference: None,
            quality: None,
        };
        let name = "traffic-flow".parse().unwrap();
        let model = ReportedModel {
            name,
            active: Some(active),
            candidate: None,
            previous: None,
            release: None,
            trial: None,
        };
        self.report(vec![model]).await;
    }

    pub(crate) async fn report(&self, models: Vec<ReportedModel>) {
        let outbox = ReportedOutbox::default();
        let reported = Reported {
            v: V1,
            boot: self.boot,
            at: now(),
            models,
            streams: Vec::new(),
            outbox,
            trust: None,
        };
        self.say_retained("reported", &reported).await;
    }

    /// The next acknowledgement.
    pub(crate) async fn ack(&mut self) -> Ack {
        let topic = format!("{ROOT}/nodes/{}/ack", self.path);
        serde_json::from_slice(&self.client.payload(&topic).await).unwrap()
    }

    /// Waits until predictions `0..=last` of this boot are acknowledged.
    pub(crate) async fn acked_up_to(&mut self, last: u64) {
        let mut seen = std::collections::BTreeSet::new();
        while !(0..=last).all(|number| seen.contains(&number)) {
            let ranges = self.ack().await.predictions;
            seen.extend(
                ranges
                    .iter()
                    .filter(|range| range.boot == self.boot)
                    .flat_map(|range| range.from..=range.to),
            );
        }
    }

    /// Waits until a batch is acknowledged.
    pub(crate) async fn acked_batch(&mut self, number: u64) {
        loop {
            let ranges = self.ack().await.batches;
            if ranges
                .iter()
                .any(|range| (range.from..=range.to).contains(&number))
            {
                return;
            }
        }
    }

    /// The next release, verified.
    pub(crate) async fn release(&mut self, key: PublicKey) -> Release {
        let payload = self
            .client
            .payload(&format!("{ROOT}/models/all/traffic-flow"))
            .await;
        Envelope::open(&payload, &[key]).unwrap()
    }
}

pub(crate) fn epoch() -> Epoch {
    Epoch::from_u64(7)
}

pub(crate) fn now() -> Timestamp {
    "2026-11-24T08:00:00Z".parse().unwrap()
}

pub(crate) fn status(boot: u64, state: NodeState) -> Status {
    let groups = vec!["all".parse().unwrap()];
    Status {
        v: V1,
        state,
        boot: BootId::from_u64(boot),
        at: now(),
        agent: "0.1.0".to_owned(),
        groups,
        tags: lamppost_models::rollout::Tags::new(),
    }
}

pub(crate) fn prediction(boot: BootId, number: u64) -> Prediction {
    Prediction {
        v: V1,
        id: PredictionId { boot, number },
        ts: now(),
        target_ts: None,
        stream: "i94".parse().unwrap(),
        seq: number,
        boot,
        model: ModelRef {
            name: "traffic-flow".parse().unwrap(),
            version: semver::Version::new(1, 0, 0),
            digest: Digest::of(b"x"),
        },
        label: None,
        score: None,
        scores: None,
        value: Some(4_123.5),
        unit: Some("vehicles".to_owned()),
        latency_us: 80,
        replay: false,
    }
}

/// A sample of two readings, its event time so many seconds after [`now`].
pub(crate) fn sample(boot: BootId, seq: u64) -> Sample {
    let at = |seconds: u64| now().offset_ms(seconds.cast_signed() * 1_000);
    let reading = |seconds: u64, weather: &str| Reading {
        ts: at(seconds),
        fields: [
            ("volume".parse().unwrap(), Value::Number(seconds as f64)),
            ("weather".parse().unwrap(), Value::Text(weather.to_owned())),
        ]
        .into(),
    };
    Sample {
        v: V1,
        ts: at(seq + 1),
        origin: Some(SampleOrigin {
            boot,
            seq,
            model: "traffic-flow".parse().unwrap(),
            policy: SamplePolicy::Uncertain,
            consent: "council-2026-17".parse().unwrap(),
        }),
        window: vec![reading(seq, "rain"), reading(seq + 1, "rain, heavy")],
        prediction: Some(prediction(boot, seq)),
        label: None,
    }
}
