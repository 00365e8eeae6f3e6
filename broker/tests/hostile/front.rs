//! A whole broker, against one tenth of the inputs: each of them on a connection of its own.

use crate::{mutate::Mutator, plan, process};
use lamppost_broker::{
    Broker, Config,
    fuzzing::{Door, Script, connection, play, serves},
};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// Connections of one script; each has one malformed input.
const PER_SCRIPT: u64 = 4;

/// Scripts played at the same time.
const PLAYERS: u64 = 4;

/// Inputs between two looks whether a fresh client is served, through the listener.
const LOOK_EVERY: u64 = 1_000;

/// Clients that are there at once in the beginning, each with a filter and messages of its own: as many as there are
/// places for, or nearly, so that the pools of the router's links and logs have been filled and used before anything
/// is compared. A used link takes some 350 KiB and a log some 200.
const FILL: usize = 60;

/// Messages that each of them gets: more than the ring buffers of a link have places.
const FILL_MESSAGES: usize = 400;

/// How much memory may grow from the end of the warm-up, after a fifth of the inputs, to the end. What is bounded by
/// limits is full by then but for some links, of which there may be 100 (`clients_max`, `handshakes_max`, `links_max`);
/// the rest is the allocator, whose free lists wander with the threads.
const GROWTH_BYTES_MAX: u64 = 12 * 1024 * 1024;

/// Small bounds, so that they are reached early and growth beyond them shows.
fn config() -> Config {
    let mut config = Config {
        listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        allow_anonymous: true,
        ..Config::default()
    };
    let limits = &mut config.limits;
    limits.clients_max = 64;
    limits.handshakes_max = 32;
    limits.links_max = 4;
    limits.filters_max = 64;
    limits.log_bytes_per_filter = 16 * 1024;
    limits.retained_count_max = 64;
    limits.absent_sessions_max = 16;
    limits.session_expiry_max = Duration::from_secs(5);
    limits.queue_bytes_max = 16 * 1024;
    limits.login_failure_delay = Duration::ZERO;
    config
}

/// A script whose connections each send one malformed input: at once, or after a valid CONNECT and a subscription.
fn script(mutator: &mut Mutator) -> Script {
    let mut script = Script::default();
    let mut inputs = Vec::new();
    for connection in 0..u8::try_from(PER_SCRIPT).unwrap() {
        let input = mutator.malformed();
        let version = u8::from(input.v5);
        if mutator.rng.below(4) > 0 {
            let detail = u8::try_from(mutator.rng.below(32)).unwrap();
            script = script.step(1, connection, detail << 3 | (detail & 6) | version);
            let detail = u8::try_from(mutator.rng.below(64)).unwrap();
            script = script.step(2, connection, detail << 2 | (detail & 4) | version);
        }
        inputs.push((connection, version, input.bytes));
    }
    // The others' turns come between the halves of an input.
    for (connection, version, bytes) in &inputs {
        let middle = mutator.rng.below(bytes.len() + 1);
        script = script.send(*connection, &bytes[..middle]);
        if mutator.rng.below(2) == 0 {
            script = script.step(
                3,
                (connection + 1) & 3,
                *mutator.rng.pick(&[0, 2, 8, 4]) | version,
            );
        }
        script = script.send(*connection, &bytes[middle..]);
    }
    script
}

#[test]
fn malformed_input_neither_stops_nor_swells_a_broker() {
    let (count, seed) = plan();
    let count = (count / 10).next_multiple_of(PER_SCRIPT);
    println!("{count} inputs from seed {seed}");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let broker = Arc::new(Broker::start(config()).await.unwrap());
        fill(&broker).await;
        let warm_up = count / 5;
        run(&broker, seed, warm_up).await;
        let before = settled(&broker).await;
        run(&broker, seed.wrapping_add(1), count - warm_up).await;
        let after = settled(&broker).await;
        println!(
            "resident bytes and descriptors: {before:?}, then {after:?}; {:?}",
            broker.stats()
        );
        if let (Some((memory, files)), Some((memory_after, files_after))) = (before, after) {
            assert!(
                files_after <= files,
                "{files} descriptors became {files_after}"
            );
            assert!(
                memory_after <= memory + GROWTH_BYTES_MAX,
                "{memory} resident bytes became {memory_after}"
            );
        }
        let stats = broker.stats();
        assert_eq!(stats.panics, 0);
        assert!(
            stats.malformed > 0 && stats.protocol_errors > 0 && stats.connected > 0,
            "{stats:?}"
        );
        Arc::into_inner(broker).unwrap().stop().await;
    });
}

/// The router parks a reader's request beside its log, and a publication takes it off for a moment; a client that leaves
/// the filter in that moment must neither get its messages twice afterwards nor stop the router.
#[tokio::test]
async fn a_client_may_publish_and_leave_the_filter_at_once() {
    let broker = Broker::start(config()).await.unwrap();
    let mut client = connection(&broker);
    client
        .write_all(b"\x10\x0e\0\x04MQTT\x04\x02\0\0\0\x02me")
        .await
        .unwrap();
    client
        .write_all(b"\x82\x08\0\x01\0\x03a/#\0")
        .await
        .unwrap();
    for round in 0..100u8 {
        // A message that arrives shows that the subscription is at rest.
        let settle = [b"\x30\x07\0\x03a/bs", &[round][..]].concat();
        client.write_all(&settle).await.unwrap();
        until(&mut client, &settle).await;
        let publish = [b"\x30\x07\0\x03a/bx", &[round][..]].concat();
        let leave_and_return = b"\xa2\x07\0\x02\0\x03a/#\x82\x08\0\x03\0\x03a/#\0";
        client
            .write_all(&[&publish[..], leave_and_return].concat())
            .await
            .unwrap();
        until(&mut client, b"\x90\x03\0\x03\0").await;
        let once = [b"\x30\x07\0\x03a/bo", &[round][..]].concat();
        client.write_all(&once).await.unwrap();
        until(&mut client, &once).await;
        client.write_all(b"\xc0\0").await.unwrap();
        let after = until(&mut client, b"\xd0\0").await;
        assert_eq!(after, b"\xd0\0", "round {round}: something came twice");
    }
    broker.stop().await;
}

/// Reads up to a sequence of bytes; returns all that was read.
async fn until(stream: &mut DuplexStream, wanted: &[u8]) -> Vec<u8> {
    let mut read = Vec::new();
    let reading = async {
        while !read.ends_with(wanted) {
            read.push(stream.read_u8().await.expect("the connection is open"));
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(30), reading).await;
    assert!(
        in_time.is_ok(),
        "{wanted:02x?} does not come; so far {read:02x?}"
    );
    read
}

/// Fills and uses what the broker pools.
async fn fill(broker: &Broker) {
    let mut clients = Vec::new();
    for number in 10..10 + FILL {
        let mut client = connection(broker);
        let connect = format!("\x10\x0e\0\x04MQTT\x04\x02\0\0\0\x02{number}");
        let filter = format!("w{number}");
        let subscribe = [b"\x82\x08\0\x01\0\x03", filter.as_bytes(), b"\0"].concat();
        client.write_all(connect.as_bytes()).await.unwrap();
        client.write_all(&subscribe).await.unwrap();
        until(&mut client, b"\x90\x03\0\x01\0").await;
        clients.push(client);
    }
    for _ in 0..FILL_MESSAGES {
        for (client, number) in clients.iter_mut().zip(10..) {
            let publish = format!("\x30\x06\0\x03w{number}.");
            client.write_all(publish.as_bytes()).await.unwrap();
            until(client, publish.as_bytes()).await;
        }
    }
}

/// Plays inputs until there were `count`; a fresh client is served all along.
async fn run(broker: &Arc<Broker>, seed: u64, count: u64) {
    let played = Arc::new(AtomicU64::new(0));
    let mut players = tokio::task::JoinSet::new();
    for player in 0..PLAYERS {
        let (broker, played) = (Arc::clone(broker), Arc::clone(&played));
        players.spawn(async move {
            let tcp = Door::Tcp(broker.local_addr().unwrap());
            let mut mutator = Mutator::new(seed.wrapping_mul(PLAYERS).wrapping_add(player));
            loop {
                let number = played.fetch_add(PER_SCRIPT, Ordering::Relaxed);
                if number >= count {
                    return;
                }
                // A quarter comes through the listener: what a socket adds is the same for all bytes.
                let door = if (number / PER_SCRIPT).is_multiple_of(4) {
                    tcp
                } else {
                    Door::Inside
                };
                play(&broker, door, script(&mut mutator).bytes()).await;
                if number % LOOK_EVERY < PER_SCRIPT
                    && let Err(what) = serves(&broker, tcp).await
                {
                    let stats = broker.stats();
                    panic!("after {number} inputs a fresh client is not served: {what}; {stats:?}");
                }
            }
        });
    }
    while let Some(played) = players.join_next().await {
        played.unwrap();
    }
}

/// Resident bytes and descriptors, once all connections are gone.
async fn settled(broker: &Broker) -> Option<(u64, usize)> {
    let since = Instant::now();
    while (broker.stats().clients, broker.stats().subscriptions) != (0, 0) {
        assert!(
            since.elapsed() < Duration::from_secs(30),
            "{:?}",
            broker.stats()
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    process::resident_bytes().zip(process::descriptors())
}
