//! Plays the scripts, each against a broker of its own, and tells of every case that fails.

use crate::{
    answer::{self, Answer},
    table::{Case, Memory, Step, Who},
    wire::Version,
};
use futures_util::{StreamExt, stream};
use lamppost_broker::{Broker, Config};
use std::{
    collections::{HashMap, HashSet},
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// How long anything may take before a case counts as failed.
const DEADLINE: Duration = Duration::from_secs(30);

/// Cases under way at once: many of them do nothing but wait.
const AT_ONCE: usize = 16;

/// Why a case failed.
struct Failure {
    case: &'static Case,
    version: Version,
    /// Counted from 1; 0 for a case that panicked.
    step: usize,
    expected: String,
    got: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (label, ids) = match self.version {
            Version::V5 => ("5.0", self.case.v5),
            Version::V4 => ("3.1.1", self.case.v4),
        };
        write!(
            f,
            "{name} (MQTT {label}: {ids})\n  must: {must}\n  step {step}: {expected}\n  got: {got}",
            name = self.case.name,
            ids = ids.join(", "),
            must = self.case.must,
            step = self.step,
            expected = self.expected,
            got = self.got,
        )
    }
}

/// Plays all cases in all their versions and panics with the list of those that fail.
pub(crate) async fn play(cases: &'static [Case]) {
    let runs = cases
        .iter()
        .flat_map(|case| case.versions().map(move |version| (case, version)));
    let failures: Vec<Failure> = stream::iter(runs)
        .map(|(case, version)| async move {
            let outcome = tokio::spawn(play_one(case, version)).await;
            outcome.unwrap_or_else(|panic| {
                Err(Failure {
                    case,
                    version,
                    step: 0,
                    expected: "no panic".into(),
                    got: panic.to_string(),
                })
            })
        })
        .buffer_unordered(AT_ONCE)
        .filter_map(|outcome| async { outcome.err() })
        .collect()
        .await;
    let list: Vec<String> = failures.iter().map(ToString::to_string).collect();
    assert!(
        list.is_empty(),
        "{} cases failed:\n\n{}\n",
        list.len(),
        list.join("\n\n")
    );
}

async fn play_one(case: &'static Case, version: Version) -> Result<(), Failure> {
    let mut config = Config {
        listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        allow_anonymous: true,
        // Nothing but what the script sends is on its way.
        sys_interval: Duration::ZERO,
        ..Config::default()
    };
    (case.config)(&mut config);
    let broker = Broker::start(config).await.unwrap();
    let mut stage = Stage {
        address: broker.local_addr().unwrap(),
        version,
        connections: HashMap::new(),
        memory: Memory::default(),
    };
    let mut outcome = Ok(());
    for (at, step) in (case.script)().into_iter().enumerate() {
        if let Err(got) = stage.step(&step).await {
            outcome = Err(Failure {
                case,
                version,
                step: at + 1,
                expected: format!("{step:?}"),
                got,
            });
            break;
        }
    }
    let panics = broker.stats().panics;
    broker.stop().await;
    assert_eq!(panics, 0, "a task of the broker panicked");
    outcome
}

struct Stage {
    address: SocketAddr,
    version: Version,
    connections: HashMap<Who, TcpStream>,
    memory: Memory,
}

impl Stage {
    async fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Open(who) => {
                let stream = timeout(DEADLINE, TcpStream::connect(self.address)).await;
                let stream = stream.map_err(|_| "no connection in time")?;
                let stream = stream.map_err(|error| error.to_string())?;
                stream
                    .set_nodelay(true)
                    .map_err(|error| error.to_string())?;
                self.connections.insert(who, stream);
            }
            Step::Send(who, out) => {
                let bytes = out.encode(self.version, |name| self.memory.id_of(name));
                self.write(who, &bytes).await?;
            }
            Step::Want(who, want) => {
                let answer = self.read(who).await?;
                let good = want.accepts(self.version, &answer, &mut self.memory);
                self.check(good, &answer)?;
            }
            Step::WantAll(who, wants) => {
                let mut open: Vec<_> = wants.iter().collect();
                while !open.is_empty() {
                    let answer = self.read(who).await?;
                    let (version, memory) = (self.version, &mut self.memory);
                    let fitting = open
                        .iter()
                        .position(|want| want.accepts(version, &answer, memory));
                    open.remove(
                        fitting.ok_or_else(|| format!("{answer:?}, while {open:?} is due"))?,
                    );
                }
            }
            Step::Quiet(who) => {
                self.write(who, &[0xc0, 0]).await?;
                let answer = self.read(who).await?;
                self.check(answer == Answer::PingResp, &answer)?;
            }
            Step::Ended(who, code) => {
                if self.version == Version::V5 {
                    let answer = self.read(who).await?;
                    self.check(answer == Answer::Disconnect(*code), &answer)?;
                }
                self.end(who).await?;
            }
            Step::Closed(who) => self.end(who).await?,
            Step::Failed(who) => {
                if let Some(answer) = self.next(who).await? {
                    let least = if self.version == Version::V5 { 0x80 } else { 1 };
                    let error = matches!(answer, Answer::Disconnect(code) | Answer::ConnAck { code, .. } if code >= least);
                    self.check(error, &answer)?;
                    self.end(who).await?;
                }
            }
            Step::Cut(who) => {
                self.connections.remove(who);
            }
            Step::Distinct(names) => {
                let ids: HashSet<u16> = names.iter().map(|name| self.memory.id_of(name)).collect();
                if ids.len() < names.len() {
                    return Err(format!("{:?}", self.memory));
                }
            }
            Step::Share(members, payloads) => self.share(members, payloads).await?,
            Step::After(seconds) => tokio::time::sleep(Duration::from_secs(*seconds)).await,
            Step::Only(version, inner) => {
                if *version == self.version {
                    Box::pin(self.step(inner)).await?;
                }
            }
        }
        Ok(())
    }

    /// Takes what comes to any of the members until every payload has come once.
    async fn share(&mut self, members: &[Who], payloads: &[&str]) -> Result<(), String> {
        let mut due: Vec<&str> = payloads.to_vec();
        let since = Instant::now();
        while !due.is_empty() {
            for who in members {
                let stream = self.connections.get(who).ok_or("no such connection")?;
                let ready = timeout(Duration::from_millis(2), stream.peek(&mut [0])).await;
                if ready.is_err() {
                    continue;
                }
                let answer = self.read(who).await?;
                let Answer::Publish(message) = &answer else {
                    return Err(format!("{answer:?} for {who:?}"));
                };
                let at = due
                    .iter()
                    .position(|payload| payload.as_bytes() == message.payload.0);
                due.remove(
                    at.ok_or_else(|| format!("{answer:?} for {who:?} while {due:?} are due"))?,
                );
            }
            if since.elapsed() > DEADLINE {
                return Err(format!("{due:?} did not come"));
            }
        }
        Ok(())
    }

    fn check(&self, good: bool, answer: &Answer) -> Result<(), String> {
        if good {
            return Ok(());
        }
        Err(format!("{answer:?}; remembered: {:?}", self.memory))
    }

    /// A broker that has closed already may make this fail, which the next step that reads will tell.
    async fn write(&mut self, who: Who, bytes: &[u8]) -> Result<(), String> {
        let stream = self.connections.get_mut(who).ok_or("no such connection")?;
        let _closed: Result<(), _> = timeout(DEADLINE, stream.write_all(bytes))
            .await
            .map_err(|_| "not taken in time")?;
        Ok(())
    }

    async fn read(&mut self, who: Who) -> Result<Answer, String> {
        self.next(who)
            .await?
            .ok_or_else(|| "the end of the connection".into())
    }

    async fn end(&mut self, who: Who) -> Result<(), String> {
        match self.next(who).await? {
            None => Ok(()),
            Some(answer) => Err(format!("{answer:?} instead of the end")),
        }
    }

    /// The next packet; `None` at the end of the connection.
    async fn next(&mut self, who: Who) -> Result<Option<Answer>, String> {
        let stream = self.connections.get_mut(who).ok_or("no such connection")?;
        let packet = timeout(DEADLINE, frame(stream)).await;
        match packet.map_err(|_| "nothing in time")? {
            None => Ok(None),
            Some((first, body)) => answer::read(self.version, first, &body)
                .map(Some)
                .map_err(|error| format!("{error}: {first:#04x} {body:02x?}")),
        }
    }
}

async fn frame(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let first = stream.read_u8().await.ok()?;
    let (mut length, mut shift) = (0usize, 0);
    loop {
        let byte = stream.read_u8().await.ok()?;
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some((first, body))
}
