//! A fleet of processes that are killed at random points while a sensor sends, and what it owes afterwards: everything
//! stored once, and a ledger that is true.
//!
//! - [`plan`]: what is killed, and when;
//! - [`cast`]: the processes, and the links between them;
//! - [`sensor`]: what is sent to the node all the while;
//! - [`oracle`]: what outsiders saw;
//! - [`mod@judge`]: what the fleet is held to;
//! - [`broker`]: a broker in a process of its own;
//! - [`week`]: an outage of a week, in less time.
//!
//! SIGKILL says nothing of power cuts, which lose what was not synced: those are simulated by `tests/powercut`.

pub mod broker;
pub mod cast;
pub mod judge;
pub mod oracle;
pub mod plan;
pub mod sensor;
pub mod week;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use lamppost_coordinator::api::LedgerView;
use tokio::time::Instant;

use crate::link::Uplink;
use crate::rng::Rng;
use crate::wait;
use cast::Cast;
use judge::{Verdict, judge};
use oracle::Oracle;
use plan::{Cycle, Kind, Role};
use sensor::Sending;

/// How long a fleet may take to drain once nothing is killed any more. A coordinator whose broker stood still tries again
/// after 30 s at most.
const DRAIN_PATIENCE: Duration = Duration::from_mins(2);

/// What to do.
#[derive(Clone, Debug)]
pub struct Torture {
    /// The executable that plays all roles.
    pub exe: PathBuf,
    /// Kills, over all fleets.
    pub kills: u64,
    /// Where the cycles are drawn from.
    pub seed: u64,
    /// The fleets, one behind the other.
    pub kinds: Vec<Kind>,
}

impl Torture {
    /// Does it, and says what was measured on standard output.
    ///
    /// # Errors
    /// When a promise is broken, or a process ends by itself; the fleet's files are kept then.
    pub async fn run(&self) -> anyhow::Result<()> {
        let fleets = self.kinds.len().max(1) as u64;
        let mut rng = Rng::new(self.seed);
        for (at, &kind) in self.kinds.iter().enumerate() {
            let kills = self.kills / fleets + u64::from((at as u64) < self.kills % fleets);
            let dir = tempfile::Builder::new()
                .prefix("lamppost-torture-")
                .tempdir()?;
            println!("{}, {kills} kills, seed {}", kind.name(), self.seed);
            let mut fleet_rng = Rng::new(rng.draw());
            if let Err(error) = self.torture(dir.path(), kind, kills, &mut fleet_rng).await {
                let kept = dir.keep();
                let hint = format!("{}: its files are in {}", kind.name(), kept.display());
                return Err(error.context(hint));
            }
        }
        Ok(())
    }

    async fn torture(
        &self,
        dir: &Path,
        kind: Kind,
        kills: u64,
        rng: &mut Rng,
    ) -> anyhow::Result<()> {
        let mut cast = Cast::start(&self.exe, dir, kind).await?;
        let outcome = torture(&mut cast, kind, kills, rng).await;
        let outcome = outcome.with_context(|| cast.tails());
        cast.stop().await;
        outcome
    }
}

async fn torture(cast: &mut Cast, kind: Kind, kills: u64, rng: &mut Rng) -> anyhow::Result<()> {
    let started = Instant::now();
    let oracle = Oracle::listen(&cast.local_broker(), &cast.bus_broker()).await?;
    let sensor = Sending::start(&cast.local_broker(), cast.sensor_topic());
    let mut killed: BTreeMap<Role, u64> = BTreeMap::new();
    while killed.values().sum::<u64>() < kills {
        let cycle = Cycle::draw(rng, kind);
        let context = || format!("after {killed:?} kills, in {cycle:?}");
        play(cast, &cycle).await.with_context(context)?;
        *killed.entry(cycle.victim).or_default() += cycle.kills();
    }
    cast.set_uplink(Uplink::Up);
    let readings = sensor.stop().await?;
    let tortured = started.elapsed();
    let (ledger, drained) = drain(cast).await?;
    let seen = oracle.finish().await?;
    cast.check()?;
    let verdict: Verdict = judge(kind.durability(), &seen, &cast.stored().await?, &ledger);
    let kills: Vec<String> = killed
        .iter()
        .map(|(role, kills)| format!("{} {kills}", role.name()))
        .collect();
    println!(
        "  killed: {} in {:.1} s, {readings} readings sent; drained in {:.1} s\n  {verdict}",
        kills.join(", "),
        tortured.as_secs_f64(),
        drained.as_secs_f64()
    );
    ensure!(verdict.wrong.is_empty(), "{}", verdict.wrong.join("\n"));
    Ok(())
}

async fn play(cast: &mut Cast, cycle: &Cycle) -> anyhow::Result<()> {
    cast.set_uplink(cycle.bad_link.map_or(Uplink::Up, Uplink::Toxic));
    tokio::time::sleep(cycle.wait).await;
    cast.kill(cycle.victim).await?;
    tokio::time::sleep(cycle.away).await;
    if let Some(early) = cycle.early {
        cast.begin(cycle.victim)?;
        tokio::time::sleep(early).await;
        cast.kill(cycle.victim).await?;
    }
    cast.run(cycle.victim).await
}

/// Waits until the node holds nothing and the ledger says so; nothing is missing all the while.
async fn drain(cast: &Cast) -> anyhow::Result<(LedgerView, Duration)> {
    let since = Instant::now();
    loop {
        let said = cast.ledger().await?;
        let views: Vec<LedgerView> = serde_json::from_str(&said.out)
            .with_context(|| format!("`lamppost ledger` said {} {}", said.out, said.err))?;
        let view = views.first().context("a node in the ledger")?;
        ensure!(
            said.code == Some(0),
            "`lamppost ledger` ended with {:?}: {}\n{}",
            said.code,
            said.complaint(),
            said.out
        );
        let tally = view.account.streams.first().map(|row| row.tally);
        let is_settled = tally.is_some_and(|tally| tally.in_flight == 0 && tally.delivered > 0)
            && view.account.reported
            && view.account.events_waiting == 0;
        // The report itself is on its way for a while: two pictures in a row must be the same.
        if is_settled && is_idle(cast).await? {
            return Ok((view.clone(), since.elapsed()));
        }
        if since.elapsed() > DRAIN_PATIENCE {
            bail!("not drained within {DRAIN_PATIENCE:?}: {}", said.out);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Whether the node says twice, in reports of different times, that it made the same number and holds nothing.
async fn is_idle(cast: &Cast) -> anyhow::Result<bool> {
    let picture = || async {
        let reported = cast.node().await?.reported.context("a report")?;
        let made: u64 = reported
            .streams
            .iter()
            .map(|row| row.counters.predictions)
            .sum();
        let held = reported.outbox.records + reported.outbox.waiting.len() as u64;
        anyhow::Ok((reported.at, (reported.boot, made, held)))
    };
    let (at, first) = picture().await?;
    let next = wait::until(
        "the next report",
        Instant::now() + DRAIN_PATIENCE,
        || async { picture().await.ok().filter(|(next, _)| *next != at) },
    );
    let (_, second) = next.await?;
    Ok(first == second && second.2 == 0)
}
