//! Releases, downloads, checks and restarts, with a small HTTP server and the zoo's bundles.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use lamppost_models::message::{CandidateSlot, TrialState, Verdict};
use lamppost_models::release::{BundleRef, Release, ReleaseKey, Sequence};
use lamppost_models::{Bundle, Timestamp, V1};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::uplink::wall_clock;

mod downloads;
mod life;
#[path = "../../tests/common/onnx.rs"]
mod onnx;
mod shadow;
mod trials;

const PATIENCE: Duration = Duration::from_secs(30);

/// Not a test by itself: the process that checks bundles for the others is this program, started with this test's name.
#[test]
fn check_bundle_child() {
    if std::env::var_os("LAMPPOST_CHECK_MEMORY_BYTES").is_none() {
        return;
    }
    let file = std::env::args_os().next_back().unwrap();
    let code = check_bundle_main(Path::new(&file));
    std::process::exit(i32::from(code != std::process::ExitCode::SUCCESS));
}

/// Not a test by itself: a check that asks for more memory than it may have.
#[test]
fn greedy_child() {
    if std::env::var_os("LAMPPOST_CHECK_MEMORY_BYTES").is_some() {
        check::limit_this_process();
        let greed = std::hint::black_box(vec![1_u8; 8 * 1024 * 1024 * 1024]);
        std::process::exit(i32::from(greed[0]) - 1);
    }
}

fn model() -> ModelName {
    "traffic-flow".parse().unwrap()
}

fn all() -> GroupId {
    "all".parse().unwrap()
}

/// The bytes of a bundle of the zoo, with its golden file passed through `change`.
fn zoo_changed(version: &str, change: impl Fn(String) -> String) -> Vec<u8> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../models/zoo/traffic-flow")
        .join(version);
    let read = |file: &str| std::fs::read(dir.join(file)).unwrap();
    let before = read("golden.json");
    let golden = change(String::from_utf8(before.clone()).unwrap()).into_bytes();
    let manifest = String::from_utf8(read("manifest.json")).unwrap();
    let manifest = manifest.replace(&Digest::of(&before).hex(), &Digest::of(&golden).hex());
    Bundle::pack(manifest.as_bytes(), &read("model.onnx"), &golden).unwrap()
}

fn zoo(version: &str) -> Vec<u8> {
    zoo_changed(version, |golden| golden)
}

fn reference(version: &str, bytes: &[u8]) -> BundleRef {
    BundleRef {
        version: version.parse().unwrap(),
        digest: Digest::of(bytes),
        bytes: bytes.len() as u64,
    }
}

fn release(sequence: u64, bundle: &BundleRef) -> Release {
    let now = wall_clock();
    Release {
        schema: V1,
        group: all(),
        model: model(),
        sequence: Sequence(sequence),
        issued_at: Timestamp::EPOCH,
        expires_at: now.after(Duration::from_hours(1)),
        stable: bundle.clone(),
        candidate: None,
        trial: None,
        hours: None,
        revoked: Vec::new(),
    }
}

/// A coordinator's server, as well or as badly behaved as a test wants.
#[derive(Clone, Default)]
struct Server {
    inner: Arc<ServerInner>,
}

#[derive(Default)]
struct ServerInner {
    artifacts: Mutex<HashMap<String, Vec<u8>>>,
    manner: Mutex<Manner>,
    requests: Mutex<Vec<String>>,
    /// Who asked, by their header.
    nodes: Mutex<Vec<String>>,
    cuts: AtomicUsize,
}

/// How the server behaves.
#[derive(Clone, Copy, Default, PartialEq)]
enum Manner {
    #[default]
    Well,
    /// Each answer ends after so many bytes of its body, until so many were cut off.
    Cut { after: usize, times: usize },
    /// It has another artifact now: ranges are ignored.
    Whole,
    /// It sends more than it says, in chunks.
    TooMuch,
    /// It fails.
    Fails,
    /// It never ends its answer.
    Hangs,
    /// It asks to be left alone for a second, so many times.
    Busy { times: usize },
    /// It sends what is new to whoever has another artifact, and cuts such answers off after so many bytes.
    Encodes { cut_after: usize },
    /// It says that it does, and sends something else.
    EncodesWrongly,
}

impl Server {
    async fn start(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        self.serve(listener);
        address
    }

    fn serve(&self, listener: TcpListener) {
        let server = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(server.clone().answer(stream));
            }
        });
    }

    fn put(&self, digest: Digest, bytes: Vec<u8>) {
        self.inner
            .artifacts
            .lock()
            .unwrap()
            .insert(digest.to_string(), bytes);
    }

    fn behave(&self, manner: Manner) {
        *self.inner.manner.lock().unwrap() = manner;
    }

    /// The `Range` of each request so far; empty for none.
    fn ranges(&self) -> Vec<String> {
        self.inner.requests.lock().unwrap().clone()
    }

    async fn answer(self, mut stream: tokio::net::TcpStream) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let header = |name: &str| {
            let line = head
                .lines()
                .find_map(|line| line.strip_prefix(&format!("{name}: ")));
            line.unwrap_or_default().to_owned()
        };
        let path = head.split(' ').nth(1).unwrap();
        let digest = path.strip_prefix("/v1/artifacts/").unwrap().to_owned();
        let range = header("range");
        self.inner.requests.lock().unwrap().push(range.clone());
        let node = header("lamppost-node");
        self.inner.nodes.lock().unwrap().push(node);
        let found = self.inner.artifacts.lock().unwrap().get(&digest).cloned();
        let manner = *self.inner.manner.lock().unwrap();
        let Some(bytes) = found.filter(|_| manner != Manner::Fails) else {
            let status = if manner == Manner::Fails {
                "503 Service Unavailable"
            } else {
                "404 Not Found"
            };
            let answer =
                format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            drop(stream.write_all(answer.as_bytes()).await);
            return;
        };
        if let Some(answer) = self.odd_answer(manner, &head, &bytes) {
            drop(stream.write_all(&answer).await);
            return;
        }
        let from = range
            .strip_prefix("bytes=")
            .and_then(|range| range.strip_suffix('-')?.parse::<usize>().ok());
        let same = header("if-range") == format!("\"{digest}\"");
        let (status, from) = match from.filter(|_| same && manner != Manner::Whole) {
            Some(from) => (
                format!(
                    "206 Partial Content\r\ncontent-range: bytes {from}-{}/{}",
                    bytes.len() - 1,
                    bytes.len()
                ),
                from,
            ),
            None => ("200 OK".to_owned(), 0),
        };
        let body = &bytes[from..];
        let length = match manner {
            Manner::TooMuch => String::new(),
            Manner::Well
            | Manner::Cut { .. }
            | Manner::Whole
            | Manner::Fails
            | Manner::Hangs
            | Manner::Busy { .. }
            | Manner::Encodes { .. }
            | Manner::EncodesWrongly => {
                format!("content-length: {}\r\n", body.len())
            }
        };
        let start = format!("HTTP/1.1 {status}\r\n{length}connection: close\r\n\r\n");
        drop(stream.write_all(start.as_bytes()).await);
        match manner {
            Manner::Cut { after, times }
                if self.inner.cuts.fetch_add(1, Ordering::Relaxed) < times =>
            {
                drop(stream.write_all(&body[..after.min(body.len())]).await);
            }
            Manner::Hangs => {
                drop(stream.write_all(&body[..body.len() / 2]).await);
                std::future::pending::<()>().await;
            }
            Manner::TooMuch => {
                drop(stream.write_all(body).await);
                drop(stream.write_all(&[0; 4096]).await);
            }
            Manner::Well
            | Manner::Cut { .. }
            | Manner::Whole
            | Manner::Fails
            | Manner::Busy { .. }
            | Manner::Encodes { .. }
            | Manner::EncodesWrongly => {
                drop(stream.write_all(body).await);
            }
        }
    }

    /// What the manner says instead of the artifact.
    fn odd_answer(&self, manner: Manner, head: &str, bytes: &[u8]) -> Option<Vec<u8>> {
        if let Manner::Busy { times } = manner
            && self.inner.cuts.fetch_add(1, Ordering::Relaxed) < times
        {
            let answer = "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            return Some(answer.into());
        }
        let (encoded, sent) = self.encoded(manner, head, bytes)?;
        let start = format!(
            "HTTP/1.1 200 OK\r\ncontent-encoding: dcz\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            encoded.len()
        );
        Some([start.as_bytes(), &encoded[..sent]].concat())
    }

    /// An artifact as what is new in it, and how much of that is sent; `head` has lost its capital letters, and with them the
    /// dictionary's name, so that it is looked for among all.
    fn encoded(&self, manner: Manner, head: &str, bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
        let line = head
            .lines()
            .find_map(|line| line.strip_prefix("available-dictionary: "))?;
        assert!(head.contains("accept-encoding: dcz, zstd\r\n"), "{head}");
        let all = self.inner.artifacts.lock().unwrap();
        let named = |bytes: &&Vec<u8>| Digest::of(bytes).to_field().to_lowercase() == line;
        let dictionary = all.values().find(named).expect("an artifact that is known");
        let magic = [0x5e, 0x2a, 0x4d, 0x18, 0x20, 0, 0, 0];
        let mut encoder =
            zstd::stream::write::Encoder::with_ref_prefix(Vec::new(), 9, dictionary).unwrap();
        std::io::Write::write_all(&mut encoder, bytes).unwrap();
        let compressed = encoder.finish().unwrap();
        let encoded = [&magic[..], Digest::of(dictionary).as_bytes(), &compressed].concat();
        match manner {
            Manner::Encodes { cut_after } => {
                let sent = cut_after.min(encoded.len());
                Some((encoded, sent))
            }
            Manner::EncodesWrongly => Some((bytes.to_vec(), bytes.len())),
            Manner::Well
            | Manner::Cut { .. }
            | Manner::Whole
            | Manner::TooMuch
            | Manner::Fails
            | Manner::Hangs
            | Manner::Busy { .. } => None,
        }
    }
}

/// A node's slots in a folder of their own.
struct Node {
    dir: tempfile::TempDir,
    config: Config,
    key: ReleaseKey,
    slots: Option<Slots>,
    deliveries: mpsc::Sender<Delivery>,
}

impl Node {
    /// A node that has not started.
    fn new(server: Option<SocketAddr>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = ReleaseKey::from_seed(&[7; 32]);
        let streams = vec![("i94".parse().unwrap(), vec!["volume".parse().unwrap()])];
        let name = "slots::tests::check_bundle_child";
        let config = Config {
            data_dir: dir.path().to_owned(),
            path: NodePath {
                site: "lab".parse().unwrap(),
                node: "gw-1".parse().unwrap(),
            },
            groups: vec![all()],
            tags: Tags::new(),
            time_zone: Zone::utc(),
            believed: crate::trust::Believed::keys(vec![key.public()]).unwrap(),
            server: server.map(|address| format!("http://{address}/")),
            ca_file: None,
            rate_bytes_per_s: None,
            models: vec![ModelSetup {
                name: model(),
                factory: None,
                streams,
            }],
            checker: Checker {
                program: None,
                args: [name, "--exact", "--nocapture", "--test-threads=1"]
                    .map(OsString::from)
                    .to_vec(),
                memory_bytes: 4 * 1024 * 1024 * 1024,
                timeout: PATIENCE,
            },
            shadow_args: [
                "slots::tests::shadow::shadow_bundle_child",
                "--exact",
                "--nocapture",
                "--test-threads=1",
            ]
            .map(OsString::from)
            .to_vec(),
            stuck_after: PATIENCE,
            backoff: Backoff {
                first: Duration::from_millis(20),
                max: Duration::from_millis(50),
                seed: 1,
            },
            failures_max: 3,
        };
        Self {
            dir,
            config,
            key,
            slots: None,
            deliveries: mpsc::channel(1).0,
        }
    }

    async fn started(server: Option<SocketAddr>) -> Self {
        let mut node = Self::new(server);
        node.start().await;
        node
    }

    async fn start(&mut self) {
        let slots = Slots::start(self.config.clone(), Labels::start(Vec::new()).0)
            .await
            .unwrap();
        let (deliveries, incoming) = mpsc::channel(8);
        slots.follow(incoming);
        self.slots = Some(slots);
        self.deliveries = deliveries;
    }

    async fn stop(&mut self) {
        self.slots.take().unwrap().stop().await;
    }

    async fn restart(&mut self) {
        self.stop().await;
        self.start().await;
    }

    /// A shell script takes the place of the check.
    fn check_with(&mut self, script: &str) {
        let path = self.dir.path().join("check.sh");
        std::fs::write(&path, script).unwrap();
        self.config.checker.program = Some("/bin/sh".into());
        self.config.checker.args = vec![path.into()];
    }

    fn slots(&self) -> &Slots {
        self.slots.as_ref().unwrap()
    }

    async fn deliver(&self, payload: Vec<u8>) {
        let delivery = Delivery {
            group: all(),
            model: model(),
            payload: Bytes::from(payload),
        };
        self.deliveries.send(delivery).await.unwrap();
    }

    async fn announce(&self, sequence: u64, bundle: &BundleRef) {
        let envelope = self.key.sign(&release(sequence, bundle)).unwrap();
        self.deliver(serde_json::to_vec(&envelope).unwrap()).await;
    }

    fn active(&self) -> Option<Digest> {
        self.slots().active(0).borrow().as_ref().map(Engine::digest)
    }

    fn row(&self) -> ReportedModel {
        self.slots().row(0).borrow().clone()
    }

    /// Waits until the row is as wanted.
    #[track_caller]
    fn wait(
        &self,
        what: &str,
        wanted: impl Fn(&ReportedModel) -> bool,
    ) -> impl Future<Output = ReportedModel> {
        let mut row = self.slots().row(0);
        let place = std::panic::Location::caller();
        let what = what.to_owned();
        async move {
            let waited = tokio::time::timeout(PATIENCE, row.wait_for(|row| wanted(row)))
                .await
                .map(|row| row.unwrap().clone());
            waited.unwrap_or_else(|_| {
                panic!(
                    "{place}: waited for {what}, the row is {:?}",
                    row.borrow().clone()
                )
            })
        }
    }

    async fn runs(&self, bundle: &BundleRef) -> ReportedModel {
        let digest = bundle.digest;
        let row = self
            .wait("a version to run", move |row| {
                row.active
                    .as_ref()
                    .is_some_and(|active| active.digest == digest)
            })
            .await;
        assert_eq!(self.active(), Some(digest));
        row
    }

    async fn refuses(&self, bundle: &BundleRef, verdict: Verdict) -> String {
        self.refuses_saying(bundle, verdict, "").await
    }

    /// Waits for a verdict whose detail has `words`, and gives the detail.
    async fn refuses_saying(&self, bundle: &BundleRef, verdict: Verdict, words: &str) -> String {
        let digest = bundle.digest;
        let refused = |row: &ReportedModel| match &row.candidate {
            Some(CandidateSlot {
                digest: found,
                state:
                    TrialState::Refused {
                        verdict: given,
                        detail,
                    },
                ..
            }) => *found == digest && *given == verdict && detail.contains(words),
            _ => false,
        };
        let row = self.wait(&format!("{verdict:?} {words}"), refused).await;
        match row.candidate.unwrap().state {
            TrialState::Refused { detail, .. } => detail,
            TrialState::Fetching { .. }
            | TrialState::Waiting { .. }
            | TrialState::Checking
            | TrialState::Shadowing { .. } => String::new(),
        }
    }

    async fn counted(&self, kind: &str, count: u64) {
        let counted = async {
            while self.slots().release_counts().get(kind) != Some(&count) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, counted).await;
        assert!(
            waited.is_ok(),
            "waited for {count} {kind}, counted {:?}",
            self.slots().release_counts()
        );
    }

    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path().join("artifacts")).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn artifact(&self, bundle: &BundleRef) -> PathBuf {
        self.dir
            .path()
            .join("artifacts")
            .join(format!("{}.tar", bundle.digest.hex()))
    }

    fn part(&self, bundle: &BundleRef) -> PathBuf {
        self.artifact(bundle).with_extension("part")
    }
}

/// A server that has both versions of the zoo's traffic-flow.
async fn server_with_zoo() -> (Server, SocketAddr, BundleRef, BundleRef) {
    let server = Server::default();
    let mut references = ["1.0.0", "1.1.0"].into_iter().map(|version| {
        let bytes = zoo(version);
        let bundle = reference(version, &bytes);
        server.put(bundle.digest, bytes);
        bundle
    });
    let (first, second) = (references.next().unwrap(), references.next().unwrap());
    drop(references);
    let address = server.start().await;
    (server, address, first, second)
}
