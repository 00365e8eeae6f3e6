//! Stands in a coordinator's place and does what no coordinator would: signs broken models, sends old, expired and unsigned
//! releases.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context as _;
use lamppost_broker::{Broker, Config, LinkPublisher, Publish, PublishProperties, QoS};
use lamppost_models::release::{BundleRef, ReleaseKey, Sequence};
use lamppost_models::{
    Bundle, Digest, GroupId, ModelName, Release, SignedTime, Timestamp, Topic, TopicRoot, V1,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::fleet::CentreAddr;

/// Longest head of a request that is read.
const HEAD_BYTES_MAX: usize = 16 * 1024;

type Artifacts = BTreeMap<String, Arc<Vec<u8>>>;

/// A broker, artifacts over HTTP, and a key to sign with.
pub struct StandIn {
    broker: Broker,
    publisher: LinkPublisher,
    artifacts: watch::Sender<Artifacts>,
    key: ReleaseKey,
    addr: CentreAddr,
}

impl StandIn {
    /// Starts it.
    ///
    /// # Errors
    /// When broker or port is not to be had.
    pub async fn start() -> anyhow::Result<Self> {
        let listen = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let broker = Broker::start(Config {
            listen,
            allow_anonymous: true,
            // Nodes come without names here, and publish below the topic root.
            protected: Vec::new(),
            ..Config::default()
        })
        .await?;
        let (publisher, _) = broker.link("stand-in")?.split();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let key = ReleaseKey::from_seed(&[7; 32]);
        let mqtt = broker.local_addr().context("address of the broker")?;
        let addr = CentreAddr {
            mqtt,
            http: listener.local_addr()?,
            key: key.public().to_string(),
            logins: false,
        };
        let (artifacts, served) = watch::channel(Artifacts::new());
        tokio::spawn(serve(listener, served));
        Ok(Self {
            broker,
            publisher,
            artifacts,
            key,
            addr,
        })
    }

    /// Where nodes find it.
    pub const fn addr(&self) -> &CentreAddr {
        &self.addr
    }

    /// Makes the release of a bundle to a group, and serves the bundle.
    ///
    /// # Errors
    /// When the bytes are no bundle.
    pub fn release(
        &self,
        group: &str,
        sequence: u64,
        bundle: &[u8],
        life: std::ops::Range<Timestamp>,
    ) -> anyhow::Result<Release> {
        let read = Bundle::read(bundle)?;
        let digest = self.serve(bundle);
        Ok(Release {
            schema: V1,
            group: GroupId::new(group)?,
            model: read.manifest().name.clone(),
            sequence: Sequence(sequence),
            issued_at: life.start,
            expires_at: life.end,
            stable: BundleRef {
                version: read.manifest().version.clone(),
                digest,
                bytes: bundle.len() as u64,
            },
            candidate: None,
            trial: None,
            hours: None,
            revoked: Vec::new(),
        })
    }

    /// Serves an artifact.
    pub fn serve(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        self.artifacts.send_modify(|artifacts| {
            artifacts.insert(digest.to_string(), Arc::new(bytes.to_vec()));
        });
        digest
    }

    /// Signs a release and keeps it on its update topic.
    ///
    /// # Errors
    /// When the broker does not take it.
    pub async fn publish(&self, release: &Release) -> anyhow::Result<()> {
        let envelope = self.key.sign(release)?;
        self.publish_raw(
            &release.group,
            &release.model,
            serde_json::to_vec(&envelope)?,
        )
        .await
    }

    /// Keeps any bytes on an update topic.
    ///
    /// # Errors
    /// When the broker does not take them.
    pub async fn publish_raw(
        &self,
        group: &GroupId,
        model: &ModelName,
        payload: Vec<u8>,
    ) -> anyhow::Result<()> {
        let topic = Topic::Release {
            group: group.clone(),
            model: model.clone(),
        };
        self.retain(&topic, payload).await
    }

    async fn retain(&self, topic: &Topic, payload: Vec<u8>) -> anyhow::Result<()> {
        let properties = PublishProperties::default();
        let publish = Publish {
            topic: TopicRoot::default().format(topic),
            payload: payload.into(),
            qos: QoS::AtLeastOnce,
            retain: true,
            properties,
        };
        Ok(self.publisher.publish(publish).await?)
    }

    /// Says, signed, what time it is.
    ///
    /// # Errors
    /// When the broker does not take it.
    pub async fn tell_time(&self, time: Timestamp) -> anyhow::Result<()> {
        let time = SignedTime {
            schema: V1,
            time,
            nonce: None,
            trust: None,
        };
        let sealed = time.seal(std::slice::from_ref(&self.key))?;
        self.retain(&Topic::Time, serde_json::to_vec(&sealed)?)
            .await
    }

    /// Stops it.
    pub async fn stop(self) {
        self.broker.stop().await;
    }
}

/// A life of a release around `now`: issued an hour before, for a day.
pub fn around(now: Timestamp) -> std::ops::Range<Timestamp> {
    now.offset_ms(-3_600_000)..now.offset_ms(86_400_000)
}

async fn serve(listener: TcpListener, artifacts: watch::Receiver<Artifacts>) {
    while artifacts.has_changed().is_ok() {
        match listener.accept().await {
            Ok((stream, _)) => {
                let artifacts = artifacts.clone();
                tokio::spawn(async move {
                    if let Err(error) = answer(stream, &artifacts).await {
                        tracing::debug!(%error, "artifact request");
                    }
                });
            }
            Err(error) => tracing::warn!(%error, "stand-in cannot accept"),
        }
    }
}

/// Answers one request with a whole artifact, and closes: what HTTP/1.1 allows a server that knows no ranges.
async fn answer(
    mut stream: TcpStream,
    artifacts: &watch::Receiver<Artifacts>,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD_BYTES_MAX {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head);
    let path = head.split(' ').nth(1).unwrap_or_default();
    let found = path
        .strip_prefix("/v1/artifacts/")
        .and_then(|digest| artifacts.borrow().get(digest).cloned());
    let (status, body) = found.map_or(("404 Not Found", Arc::default()), |body| ("200 OK", body));
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.write_all(&body).await?;
    stream.shutdown().await
}
