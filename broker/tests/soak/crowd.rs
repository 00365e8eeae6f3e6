//! What the clients of a crowd do, each by its own chance.

use crate::{
    client::{Client, Gone},
    common::{Hello, publish_bytes},
    rng::Rng,
    tally::Tally,
};
use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{io::AsyncWriteExt, net::TcpStream, task::JoinSet};

/// Clients at the same time, beside the probe.
const CROWD: u64 = 24;
/// Clients that fill the broker's pools at the start: as many as it takes.
const FILL: usize = 96;
/// Messages that each of them gets.
const FILL_MESSAGES: usize = 400;
/// Numbered messages in one go of the probe.
const PROBE: u32 = 50;
const PROBE_PAUSE: Duration = Duration::from_millis(200);
/// Messages that wait for an absent client: far below any bound.
const ABSENT: u32 = 10;

pub(crate) struct Crowd {
    address: SocketAddr,
    seed: u64,
    parts: u64,
    tally: Arc<Tally>,
}

impl Crowd {
    pub(crate) fn new(address: SocketAddr, seed: u64) -> Self {
        Self {
            address,
            seed,
            parts: 0,
            tally: Arc::default(),
        }
    }

    pub(crate) fn finish(self) -> Arc<Tally> {
        self.tally
    }

    /// Uses all places at once, and what belongs to each, so that whatever the broker keeps for later is there.
    pub(crate) async fn fill(&self) {
        let member = self.member(0, 0);
        let mut clients = Vec::new();
        for number in 0..FILL {
            let id = format!("fill-{number}");
            let mut client = member
                .connect(&Hello {
                    client_id: &id,
                    ..Hello::default()
                })
                .await
                .unwrap()
                .0;
            assert!(client.subscribe("fill", 1).await.unwrap());
            clients.push(client);
        }
        for _ in 0..FILL_MESSAGES {
            clients[0].publish("fill", b"full", 1, false).await.unwrap();
            for client in &mut clients {
                client.message().await.unwrap();
            }
        }
        for client in clients {
            client.leave().await.unwrap();
        }
    }

    /// Lets everybody play for this time, and leave.
    pub(crate) async fn play(&mut self, time: Duration) {
        self.parts += 1;
        let over = Arc::new(AtomicBool::new(false));
        let mut members = JoinSet::new();
        for number in 0..CROWD {
            let mut member = self.member(self.parts, number);
            let over = Arc::clone(&over);
            members.spawn(async move {
                while !over.load(Relaxed) {
                    member.episode().await;
                }
            });
        }
        let mut probe = self.member(self.parts, CROWD);
        members.spawn({
            let over = Arc::clone(&over);
            async move { probe.probe(&over).await }
        });
        let end = Instant::now() + time;
        let mut ended = Ok(());
        // A member that fails ends the whole soak at once.
        while Instant::now() < end && ended.is_ok() {
            let tick = tokio::time::timeout(Duration::from_millis(200), members.join_next()).await;
            if let Ok(Some(joined)) = tick {
                ended = joined;
            }
        }
        over.store(true, Relaxed);
        ended.unwrap();
        while let Some(joined) = members.join_next().await {
            joined.unwrap();
        }
    }

    fn member(&self, part: u64, number: u64) -> Member {
        let mut mixed = Rng::new(
            self.seed
                .wrapping_mul(1_000_003)
                .wrapping_add(part * 1_009 + number),
        );
        Member {
            rng: Rng::new(mixed.next()),
            address: self.address,
            number,
            tally: Arc::clone(&self.tally),
        }
    }
}

struct Member {
    rng: Rng,
    address: SocketAddr,
    number: u64,
    tally: Arc<Tally>,
}

const FILTERS: [&str; 8] = [
    "crowd/#",
    "crowd/+",
    "crowd/1",
    "crowd/2",
    "$share/a/crowd/#",
    "$share/b/crowd/+",
    "retained/#",
    "will/+",
];

impl Member {
    /// One visit of one kind. What the broker may end it with is counted; what must not happen panics.
    async fn episode(&mut self) {
        let outcome = match self.rng.below(8) {
            0 | 1 => self.visit().await,
            2 => self.change_filters().await,
            3 => self.die().await,
            4 => self.stall().await,
            5 => self.come_back().await,
            6 => self.retain().await,
            _ => self.talk_nonsense().await,
        };
        if let Err(Gone(why)) = outcome {
            *self.tally.gone.lock().unwrap().entry(why).or_default() += 1;
        }
    }

    async fn connect(&self, hello: &Hello<'_>) -> Result<(Client, bool), Gone> {
        self.tally.sockets.fetch_add(1, Relaxed);
        let connected = Client::connect(self.address, hello).await?;
        self.tally.connected.fetch_add(1, Relaxed);
        Ok(connected)
    }

    /// A connection of its own, with a will now and then.
    async fn arrive(&mut self) -> Result<Client, Gone> {
        let id = format!("member-{}", self.number);
        let topic = format!("will/{}", self.number);
        let will = (self.rng.below(4) == 0).then_some((topic.as_str(), "gone", 1, false));
        let hello = Hello {
            v5: self.rng.below(2) == 0,
            client_id: &id,
            will,
            ..Hello::default()
        };
        if will.is_some() {
            self.tally.wills.fetch_add(1, Relaxed);
        }
        Ok(self.connect(&hello).await?.0)
    }

    async fn publish(&mut self, client: &mut Client) -> Result<(), Gone> {
        let topic = format!("crowd/{}", self.rng.below(6));
        let qos = u8::try_from(self.rng.below(3)).unwrap();
        let payload = vec![b'x'; self.rng.below(600)];
        self.tally.published.fetch_add(1, Relaxed);
        client.publish(&topic, &payload, qos, false).await
    }

    fn pause(&mut self) -> Duration {
        Duration::from_millis(self.rng.below(60) as u64)
    }

    fn received(&self, client: &mut Client) {
        self.tally
            .received
            .fetch_add(client.inbox.len() as u64, Relaxed);
        client.inbox.clear();
    }

    async fn visit(&mut self) -> Result<(), Gone> {
        let rival = self.rng.below(4) == 0;
        let mut client = if rival {
            // Whoever comes later under this name sends the earlier one away.
            self.tally.rivals.fetch_add(1, Relaxed);
            let hello = Hello {
                client_id: "rival",
                v5: self.rng.below(2) == 0,
                ..Hello::default()
            };
            self.connect(&hello).await?.0
        } else {
            self.arrive().await?
        };
        for _ in 0..=self.rng.below(3) {
            let filter = *self.rng.pick(&FILTERS);
            let qos = u8::try_from(self.rng.below(3)).unwrap();
            client.subscribe(filter, qos).await?;
        }
        for _ in 0..self.rng.below(30) {
            self.publish(&mut client).await?;
        }
        client.linger(self.pause()).await?;
        self.received(&mut client);
        client.leave().await
    }

    async fn change_filters(&mut self) -> Result<(), Gone> {
        let mut client = self.arrive().await?;
        for _ in 0..self.rng.below(20) {
            let filter = *self.rng.pick(&FILTERS);
            if self.rng.below(2) == 0 {
                client.subscribe(filter, 1).await?;
            } else {
                client.unsubscribe(filter).await?;
            }
            self.publish(&mut client).await?;
        }
        self.received(&mut client);
        client.leave().await
    }

    /// Goes in the middle of a packet.
    async fn die(&mut self) -> Result<(), Gone> {
        let mut client = self.arrive().await?;
        client.subscribe("crowd/#", 2).await?;
        let bytes = publish_bytes(false, "crowd/1", &[b'x'; 200], 1, false, 9);
        let cut = 1 + self.rng.below(bytes.len() - 1);
        client.send(&bytes[..cut]).await?;
        self.tally.deaths.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Does not read for a while, and then goes on or goes away.
    async fn stall(&mut self) -> Result<(), Gone> {
        let mut client = self.arrive().await?;
        client.subscribe("crowd/#", 1).await?;
        self.tally.stalls.fetch_add(1, Relaxed);
        tokio::time::sleep(5 * self.pause()).await;
        if self.rng.below(2) == 0 {
            return Ok(());
        }
        client.linger(self.pause()).await?;
        self.received(&mut client);
        client.leave().await
    }

    /// Leaves a session behind, and must find in it what was published meanwhile.
    async fn come_back(&mut self) -> Result<(), Gone> {
        let v5 = self.rng.below(2) == 0;
        let (id, topic) = (
            format!("sleeper-{}", self.number),
            format!("sleep/{}", self.number),
        );
        let new = Hello {
            v5,
            client_id: &id,
            ..Hello::default()
        };
        // Another one that wants its session to outlive the connection: MQTT 5 says so by an expiry, of two seconds here.
        let kept = Hello {
            unclean: true,
            properties: if v5 { &[17, 0, 0, 0, 2] } else { &[] },
            ..new.clone()
        };
        self.connect(&new).await?.0.leave().await?;
        let (mut client, _) = self.connect(&kept).await?;
        client.subscribe(&topic, 1).await?;
        client.leave().await?;
        let mut other = self.arrive().await?;
        for number in 0..ABSENT {
            other
                .publish(&topic, &number.to_be_bytes(), 1, false)
                .await?;
        }
        other.leave().await?;
        let (mut client, present) = self.connect(&kept).await?;
        self.tally.sessions_tried.fetch_add(1, Relaxed);
        self.tally
            .sessions_kept
            .fetch_add(u64::from(present), Relaxed);
        for number in 0..ABSENT {
            let message = client.message().await?;
            assert_eq!(
                message.payload,
                number.to_be_bytes(),
                "a message for an absent client is missing"
            );
        }
        client.leave().await?;
        self.connect(&new).await?.0.leave().await
    }

    /// Sets and clears retained messages of its own, and finds those that are set.
    async fn retain(&mut self) -> Result<(), Gone> {
        let mut client = self.arrive().await?;
        let topic = |number: u32| format!("retained/own-{}/{number}", self.number);
        for number in 0..5 {
            client.publish(&topic(number), b"kept", 1, true).await?;
        }
        client.publish(&topic(0), b"", 1, true).await?;
        let filter = format!("retained/own-{}/#", self.number);
        client.subscribe(&filter, 1).await?;
        let mut found = Vec::new();
        for _ in 1..5 {
            found.push(client.message().await?.topic);
        }
        found.sort();
        assert_eq!(
            found,
            (1..5).map(topic).collect::<Vec<_>>(),
            "retained messages"
        );
        for number in 1..5 {
            client.publish(&topic(number), b"", 1, true).await?;
        }
        client.leave().await
    }

    /// Says something that is not MQTT, before or after CONNECT.
    async fn talk_nonsense(&mut self) -> Result<(), Gone> {
        let bytes: Vec<u8> = (0..=self.rng.below(40)).map(|_| self.rng.byte()).collect();
        self.tally.garbage.fetch_add(1, Relaxed);
        if self.rng.below(2) == 0 {
            // No CONNECT begins so: what comes of it is the broker's to say, and never a client.
            self.tally.sockets.fetch_add(1, Relaxed);
            let mut stream = TcpStream::connect(self.address).await?;
            let sent: io::Result<()> = stream.write_all(&[&[0xf0], &bytes[..]].concat()).await;
            drop(sent);
            return Ok(());
        }
        let mut client = self.arrive().await?;
        client.send(&bytes).await?;
        client.linger(self.pause()).await
    }

    /// Numbered messages from one client to another, all the time: none may be missing, come twice or out of order. And
    /// with each go a client that comes fresh.
    async fn probe(&mut self, over: &AtomicBool) {
        let hello = |client_id| Hello {
            client_id,
            v5: true,
            ..Hello::default()
        };
        let mut from = self.connect(&hello("probe-from")).await.unwrap().0;
        let mut to = self.connect(&hello("probe-to")).await.unwrap().0;
        assert!(to.subscribe("probe/#", 1).await.unwrap());
        let mut sent = 0u32;
        while !over.load(Relaxed) {
            for number in sent..sent + PROBE {
                from.publish("probe/n", &number.to_be_bytes(), 1, false)
                    .await
                    .unwrap();
            }
            for number in sent..sent + PROBE {
                let message = to.message().await.unwrap();
                assert!(!message.dup, "sent again on the same connection");
                assert_eq!(
                    message.payload,
                    number.to_be_bytes(),
                    "the probe's messages"
                );
            }
            sent += PROBE;
            self.tally.probes.fetch_add(1, Relaxed);
            self.connect(&hello("probe-fresh"))
                .await
                .unwrap()
                .0
                .leave()
                .await
                .unwrap();
            tokio::time::sleep(PROBE_PAUSE).await;
        }
        from.leave().await.unwrap();
        to.leave().await.unwrap();
    }
}
