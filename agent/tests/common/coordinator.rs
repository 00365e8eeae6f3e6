//! What stands in for a coordinator: a broker, acknowledgements, signed releases, and artifacts over HTTP.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use lamppost_broker::{Broker, Config, Limits, LinkPublisher, Publish, QoS};
use lamppost_models::ledger::EventBatch;
use lamppost_models::message::{BatchRange, PredictionRange, SampleBatch};
use lamppost_models::release::{BundleRef, ReleaseKey, Sequence};
use lamppost_models::signed_time::TimeQuestion;
use lamppost_models::{
    Ack, Bundle, Digest, Epoch, NodePath, Prediction, PredictionBatch, Release, SignedTime, Status,
    Timestamp, Topic, TopicRoot, V1,
};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::eventually;

/// What is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acks {
    All,
    /// Not what comes live.
    Batches,
    None,
}

/// What a zstd frame begins with.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// A kind of message with records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Came {
    Live,
    Batch { packed: bool },
    Events,
}

/// What came, in its order.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    pub(crate) order: Vec<Came>,
    pub(crate) events: Vec<EventBatch>,
    pub(crate) live: Vec<Prediction>,
    pub(crate) batches: Vec<PredictionBatch>,
    pub(crate) statuses: Vec<Status>,
    pub(crate) reported: Vec<lamppost_models::Reported>,
    pub(crate) samples: Vec<SampleBatch>,
    /// Every message that the broker was given, by topic, unpacked.
    pub(crate) wire: Vec<(String, Vec<u8>)>,
}

/// The parts that outlive a restart of the broker.
pub(crate) struct Coordinator {
    pub(crate) key: ReleaseKey,
    pub(crate) inbox: Arc<Mutex<Inbox>>,
    acks: Arc<Mutex<Acks>>,
    time: Arc<Mutex<Option<(u8, Timestamp)>>>,
    http: SocketAddr,
    artifacts: Arc<Mutex<HashMap<String, Vec<u8>>>>,
    server: JoinHandle<()>,
    address: SocketAddr,
    running: Option<Running>,
}

struct Running {
    broker: Broker,
    publisher: LinkPublisher,
    listener: JoinHandle<()>,
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.server.abort();
        if let Some(running) = &self.running {
            running.listener.abort();
        }
    }
}

impl Coordinator {
    pub(crate) async fn start() -> Self {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let http = server.local_addr().unwrap();
        let artifacts = Arc::<Mutex<HashMap<_, _>>>::default();
        let server = tokio::spawn(serve(server, Arc::clone(&artifacts)));
        let mut coordinator = Self {
            key: ReleaseKey::from_seed(&[7; 32]),
            inbox: Arc::default(),
            acks: Arc::new(Mutex::new(Acks::All)),
            time: Arc::default(),
            http,
            artifacts,
            server,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            running: None,
        };
        coordinator.start_broker().await;
        coordinator
    }

    /// Starts the broker, on the port that it had before.
    pub(crate) async fn start_broker(&mut self) {
        let address = self.address;
        let broker = eventually("the port is free again", || async move {
            let limits = Limits::default();
            let config = Config {
                listen: Some(address),
                allow_anonymous: true,
                // The agent comes without a name here, and publishes below the topic root.
                protected: Vec::new(),
                limits,
                ..Config::default()
            };
            Broker::start(config).await.ok()
        })
        .await;
        self.address = broker.local_addr().unwrap();
        let (publisher, mut receiver) = broker.link("coordinator").unwrap().split();
        receiver.subscribe("#", QoS::AtLeastOnce).await.unwrap();
        let (inbox, acks, acknowledge) = (
            Arc::clone(&self.inbox),
            Arc::clone(&self.acks),
            publisher.clone(),
        );
        let time = Arc::clone(&self.time);
        let listener = tokio::spawn(async move {
            while let Some(message) = receiver.recv().await {
                let wire = (message.topic.to_string(), unpacked(&message.payload));
                inbox.lock().unwrap().wire.push(wire);
                if !message.topic.starts_with("lamppost/v1/nodes/") {
                    continue;
                }
                let wanted = *time.lock().unwrap();
                if let Some(answer) = answer_time(&message.topic, &message.payload, wanted) {
                    acknowledge.publish(answer).await.unwrap();
                }
                let ack = take(
                    &inbox,
                    &message.topic,
                    &message.payload,
                    *acks.lock().unwrap(),
                );
                if let Some((path, ack)) = ack {
                    let topic = TopicRoot::default().format(&Topic::Ack(path));
                    let payload = serde_json::to_vec(&ack).unwrap();
                    acknowledge
                        .publish(Publish::new(topic, payload).qos(QoS::AtLeastOnce))
                        .await
                        .unwrap();
                }
            }
        });
        self.running = Some(Running {
            broker,
            publisher,
            listener,
        });
    }

    /// Stops the broker: the nodes lose their link.
    pub(crate) async fn stop_broker(&mut self) {
        let running = self.running.take().unwrap();
        running.broker.stop().await;
        running.listener.await.unwrap();
    }

    /// Artifacts are not to be had any more.
    pub(crate) fn stop_http(&self) {
        self.server.abort();
    }

    pub(crate) fn acknowledge(&self, acks: Acks) {
        *self.acks.lock().unwrap() = acks;
    }

    /// Answers questions for the time from now on: by the key of that seed, and with that time.
    pub(crate) fn answer_time(&self, seed: u8, time: Timestamp) {
        *self.time.lock().unwrap() = Some((seed, time));
    }

    /// The `[coordinator]` table of a node.
    pub(crate) fn table(&self) -> String {
        format!(
            r#"
            [coordinator]
            mqtt = "mqtt://{}"
            http = "http://{}"
            keys = ["{}"]
            retry_min = "20ms"
            retry_max = "200ms"
            keep_alive = "5s"
            ack_timeout = "1s"
            [outbox]
            cap = "32MB"
            reserve = "1MB"
            flush = "20ms"
            "#,
            self.address,
            self.http,
            self.key.public()
        )
    }

    /// Offers a bundle for download; `served` may differ from what its digest says.
    pub(crate) fn offer(&self, bundle: &[u8], served: &[u8]) -> BundleRef {
        let digest = Digest::of(bundle);
        self.artifacts
            .lock()
            .unwrap()
            .insert(format!("/v1/artifacts/{digest}"), served.to_vec());
        let version = Bundle::read(bundle).unwrap().manifest().version.clone();
        BundleRef {
            version,
            digest,
            bytes: bundle.len() as u64,
        }
    }

    /// A release of a model for the group `all`.
    pub(crate) fn release(model: &str, sequence: u64, stable: BundleRef) -> Release {
        Release {
            schema: V1,
            group: "all".parse().unwrap(),
            model: model.parse().unwrap(),
            sequence: Sequence(sequence),
            issued_at: Timestamp::EPOCH,
            expires_at: "9000-01-01T00:00:00Z".parse().unwrap(),
            stable,
            candidate: None,
            trial: None,
            hours: None,
            revoked: Vec::new(),
        }
    }

    /// Signs a release and publishes it on its update topic.
    pub(crate) async fn publish(&self, release: &Release) {
        self.publish_signed(release, &self.key).await;
    }

    /// The same with another key.
    pub(crate) async fn publish_signed(&self, release: &Release, key: &ReleaseKey) {
        let envelope = serde_json::to_vec(&key.sign(release).unwrap()).unwrap();
        let topic = Topic::Release {
            group: release.group.clone(),
            model: release.model.clone(),
        };
        self.publish_raw(&TopicRoot::default().format(&topic), envelope)
            .await;
    }

    pub(crate) async fn publish_raw(&self, topic: &str, payload: Vec<u8>) {
        let publish = Publish::new(topic, payload)
            .qos(QoS::AtLeastOnce)
            .retained();
        self.running
            .as_ref()
            .unwrap()
            .publisher
            .publish(publish)
            .await
            .unwrap();
    }

    /// Looks into the inbox.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Inbox) -> T) -> T {
        look(&self.inbox.lock().unwrap())
    }

    /// Waits until the inbox has something.
    pub(crate) async fn until<T>(&self, what: &str, look: impl Fn(&Inbox) -> Option<T>) -> T {
        eventually(what, || async { self.look(&look) }).await
    }
}

/// The JSON of a batch, compressed or not.
fn unpacked(payload: &[u8]) -> Vec<u8> {
    if payload.starts_with(&ZSTD_MAGIC) {
        zstd::bulk::decompress(payload, lamppost_models::message::MESSAGE_BYTES_MAX).unwrap()
    } else {
        payload.to_vec()
    }
}

/// The answer to a question for the time, if it is one.
fn answer_time(topic: &str, question: &[u8], wanted: Option<(u8, Timestamp)>) -> Option<Publish> {
    let root = TopicRoot::default();
    let Topic::TimeQuestion(path) = root.parse(topic).unwrap() else {
        return None;
    };
    let (seed, time) = wanted?;
    let question: TimeQuestion = serde_json::from_slice(question).unwrap();
    let time = SignedTime {
        schema: V1,
        time,
        nonce: Some(question.nonce),
        trust: None,
    };
    let sealed = time.seal([&ReleaseKey::from_seed(&[seed; 32])]).unwrap();
    let topic = root.format(&Topic::TimeAnswer(path));
    Some(Publish::new(topic, serde_json::to_vec(&sealed).unwrap()).qos(QoS::AtLeastOnce))
}

fn batch_ack(epoch: Epoch, number: u64) -> Ack {
    Ack {
        v: V1,
        predictions: Vec::new(),
        batches: vec![BatchRange {
            epoch,
            from: number,
            to: number,
        }],
    }
}

fn take(inbox: &Mutex<Inbox>, topic: &str, payload: &[u8], acks: Acks) -> Option<(NodePath, Ack)> {
    let mut inbox = inbox.lock().unwrap();
    let (path, ack) = match TopicRoot::default().parse(topic).unwrap() {
        Topic::Prediction(path, _) => {
            let prediction: Prediction = serde_json::from_slice(payload).unwrap();
            let (boot, number) = (prediction.id.boot, prediction.id.number);
            inbox.order.push(Came::Live);
            inbox.live.push(prediction);
            let predictions = vec![PredictionRange {
                boot,
                from: number,
                to: number,
            }];
            (
                path,
                Ack {
                    v: V1,
                    predictions,
                    batches: Vec::new(),
                },
            )
        }
        Topic::Events(path) => {
            let batch: EventBatch = serde_json::from_slice(&unpacked(payload)).unwrap();
            let ack = batch_ack(batch.epoch, batch.number);
            inbox.order.push(Came::Events);
            inbox.events.push(batch);
            (path, ack)
        }
        Topic::PredictionHistory(path, _) => {
            let batch: PredictionBatch = serde_json::from_slice(&unpacked(payload)).unwrap();
            inbox.order.push(Came::Batch {
                packed: payload.starts_with(&ZSTD_MAGIC),
            });
            let ack = batch_ack(batch.epoch, batch.number);
            inbox.batches.push(batch);
            (path, ack)
        }
        Topic::Sample(path, _) => {
            let batch: SampleBatch = serde_json::from_slice(&unpacked(payload)).unwrap();
            let ack = batch_ack(batch.epoch, batch.number);
            inbox.samples.push(batch);
            (path, ack)
        }
        Topic::Status(_) => {
            inbox
                .statuses
                .push(serde_json::from_slice(payload).unwrap());
            return None;
        }
        Topic::Reported(_) => {
            inbox
                .reported
                .push(serde_json::from_slice(payload).unwrap());
            return None;
        }
        Topic::Release { .. }
        | Topic::Trust
        | Topic::Time
        | Topic::TimeQuestion(_)
        | Topic::TimeAnswer(_)
        | Topic::Ack(_) => {
            return None;
        }
    };
    let wanted = match acks {
        Acks::All => true,
        Acks::Batches => ack.predictions.is_empty(),
        Acks::None => false,
    };
    wanted.then_some((path, ack))
}

/// Serves artifacts: whole, or from an offset.
async fn serve(listener: TcpListener, artifacts: Arc<Mutex<HashMap<String, Vec<u8>>>>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        // A client that hangs up is no failure.
        tokio::spawn(answer(stream, Arc::clone(&artifacts)));
    }
}

async fn answer(
    stream: TcpStream,
    artifacts: Arc<Mutex<HashMap<String, Vec<u8>>>>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let (mut path, mut offset) = (String::new(), 0_usize);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 || line == "\r\n" {
            break;
        }
        if let Some(target) = line.strip_prefix("GET ") {
            target
                .split(' ')
                .next()
                .unwrap_or_default()
                .clone_into(&mut path);
        }
        let lower = line.to_ascii_lowercase();
        if let Some(range) = lower.strip_prefix("range: bytes=") {
            offset = range.trim().trim_end_matches('-').parse().unwrap_or(0);
        }
    }
    let found = artifacts
        .lock()
        .unwrap()
        .get(&path.replace("%3A", ":"))
        .cloned();
    let (head, body) = match found {
        None => ("HTTP/1.1 404 Not Found\r\n".to_owned(), Vec::new()),
        Some(whole) if offset == 0 => ("HTTP/1.1 200 OK\r\n".to_owned(), whole),
        Some(whole) if offset < whole.len() => {
            let range = format!(
                "Content-Range: bytes {offset}-{}/{}\r\n",
                whole.len() - 1,
                whole.len()
            );
            (
                format!("HTTP/1.1 206 Partial Content\r\n{range}"),
                whole[offset..].to_vec(),
            )
        }
        Some(whole) => (
            format!(
                "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */{}\r\n",
                whole.len()
            ),
            Vec::new(),
        ),
    };
    let digest = path.rsplit('/').next().unwrap_or_default().to_owned();
    let length = body.len();
    let head = format!(
        "{head}ETag: \"{digest}\"\r\nAccept-Ranges: bytes\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&body).await?;
    stream.shutdown().await
}
