//! What a connection costs that does nothing.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::contestant::Contestant;
use crate::wire::{self, Qos};

/// Descriptors that are not connections.
const SPARE: u64 = 64;
/// Memory is read once it stays the same for so long.
const REST: Duration = Duration::from_millis(500);
/// It is read anyway after so long.
const REST_TIMEOUT: Duration = Duration::from_secs(10);

/// Asks for as many descriptors as the connections take, for this process and the brokers it starts.
pub(crate) fn allow_descriptors(connections: usize) -> anyhow::Result<()> {
    let wanted = connections as u64 + SPARE;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    let raised = Rlimit {
        current: Some(wanted),
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised)
        .with_context(|| format!("{wanted} open files are needed: raise `ulimit -n`"))
}

/// Messages that each connection gets before it is idle again: more than any ring buffer of the brokers has places, so
/// that what they touch while they work shows.
const MESSAGES: usize = 400;
/// How long the connections may take to get them all.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(30);

/// Resident memory of a broker, in bytes a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Idle {
    /// Connected, and nothing else.
    pub(crate) connected: f64,
    /// Subscribed to one filter, the same for all.
    pub(crate) subscribed: f64,
    /// Idle again after [`MESSAGES`] messages.
    pub(crate) used: f64,
}

/// Opens `count` connections and weighs the broker at each stage.
pub(crate) fn measure(contestant: &mut Contestant, count: usize) -> anyhow::Result<Idle> {
    let before = at_rest(contestant)?;
    let mut connections: Vec<TcpStream> = Vec::with_capacity(count);
    for number in 0..count {
        connections.push(wire::connect(
            contestant.address,
            &format!("idle-{number}"),
        )?);
    }
    let connected = at_rest(contestant)?;
    for stream in &mut connections {
        wire::subscribe(stream, "idle/all", Qos::AtMostOnce)?;
    }
    let subscribed = at_rest(contestant)?;
    let mut payload = Vec::new();
    wire::put_publish(&mut payload, b"idle/all", Qos::AtMostOnce, 0, &[b'.'; 200]);
    let mut copy = vec![0; payload.len()];
    for stream in &connections {
        stream.set_read_timeout(Some(DELIVERY_TIMEOUT))?;
    }
    // One by one: nothing waits, and nobody is too slow.
    for _ in 0..MESSAGES {
        connections[0].write_all(&payload)?;
        for stream in &mut connections {
            stream
                .read_exact(&mut copy)
                .context("a message to an idle connection")?;
        }
    }
    let used = at_rest(contestant)?;
    contestant.check()?;
    let each = |bytes: u64| bytes.saturating_sub(before) as f64 / count as f64;
    Ok(Idle {
        connected: each(connected),
        subscribed: each(subscribed),
        used: each(used),
    })
}

fn at_rest(contestant: &Contestant) -> anyhow::Result<u64> {
    let started = Instant::now();
    let mut last = contestant.memory("VmRSS:")?;
    loop {
        thread::sleep(REST);
        let now = contestant.memory("VmRSS:")?;
        if now == last || started.elapsed() > REST_TIMEOUT {
            return Ok(now);
        }
        last = now;
    }
}
