//! An outage of a week in less time: the outbox is filled with a week's records under a simulated clock, and then a real
//! agent sends what is left of them to a real coordinator, whose ledger must know of every one.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use lamppost_agent::outbox::{Outbox, OutboxConfig};
use lamppost_agent_core::outbox::{Class, Now};
use lamppost_coordinator::api::LedgerView;
use lamppost_models::ledger::Durability;
use lamppost_models::{BootId, Epoch, StreamName, Timestamp};

use super::cast::Cast;
use super::plan::Kind;
use crate::rng::noise;

/// Between two records of 100 a second.
const STEP: Duration = Duration::from_millis(10);
/// Records that are written at once: a minute's, where an agent writes each second's. The count of commits is all that
/// this changes.
const WRITE_RECORDS: u64 = 6_000;
/// How long an outbox may keep records: longer than the outage, so that the cap alone decides.
const AGE: Duration = Duration::from_hours(14 * 24);
const AGE_KEY: &str = "14d";
/// The run that had the outage.
const BOOT: BootId = BootId::from_u64(0x00c0_ffee);
/// The slowest drain that is waited for, in records a second: what comes in on a busy node.
const DRAIN_RATE_MIN: u64 = 100;
/// No drain is given up before.
const DRAIN_WITHIN: Duration = Duration::from_mins(2);

/// What to do.
#[derive(Clone, Debug)]
pub struct Week {
    /// The executable that plays all roles.
    pub exe: PathBuf,
    /// Records that are made while the link is down.
    pub records: u64,
    /// Most bytes of the outbox.
    pub cap_bytes: u64,
    /// Characters that do not compress, in each record.
    pub pad: usize,
}

/// What the outage left.
struct Left {
    records: u64,
    disk_bytes_max: u64,
    disk_bytes: u64,
    took: Duration,
}

impl Week {
    /// Does it, and says what was measured on standard output.
    ///
    /// # Errors
    /// When a record is not accounted for, or the disk is not bounded.
    pub async fn run(&self) -> anyhow::Result<()> {
        let dir = tempfile::Builder::new()
            .prefix("lamppost-week-")
            .tempdir()?;
        let outbox = Cast::node_dir(dir.path()).join("outbox");
        let week = self.clone();
        let left = tokio::task::spawn_blocking(move || week.fill(&outbox)).await??;
        println!(
            "{} records of an outage written in {:.1} s, cap {} MB: {} wait, {} evicted; disk {:.1} MB, {:.1} MB at most",
            self.records,
            left.took.as_secs_f64(),
            self.cap_bytes / 1_000_000,
            left.records,
            self.records - left.records,
            left.disk_bytes as f64 / 1e6,
            left.disk_bytes_max as f64 / 1e6,
        );
        ensure!(
            left.disk_bytes_max <= self.cap_bytes,
            "the outbox took {} bytes, its cap is {}",
            left.disk_bytes_max,
            self.cap_bytes
        );
        ensure!(
            left.records < self.records,
            "nothing was evicted: write more records than the cap takes"
        );
        let mut plan = Cast::plan()?;
        plan.outbox_keys = format!("cap = \"{}B\"\nage = \"{AGE_KEY}\"\n", self.cap_bytes);
        let started = Instant::now();
        let mut cast = Cast::start_planned(&self.exe, dir.path(), Kind::Outage, plan).await?;
        let drained = self.drain(&cast, &left, started).await;
        let drained = drained.with_context(|| cast.tails());
        cast.stop().await;
        drained
    }

    /// The outage: nobody takes anything from the outbox.
    fn fill(&self, dir: &Path) -> anyhow::Result<Left> {
        std::fs::create_dir_all(dir.parent().context("a directory above")?)?;
        let started = Instant::now();
        let until = jiff::Timestamp::now().as_millisecond();
        let outage_ms = i64::try_from(self.records)? * i64::try_from(STEP.as_millis())?;
        let begin = Timestamp::from_ms(until - outage_ms)?;
        let at = |record: u64| -> anyhow::Result<Now> {
            let steady = STEP * u32::try_from(record)?;
            Ok(Now {
                wall: begin.offset_ms(i64::try_from(steady.as_millis())?),
                steady,
            })
        };
        let config = OutboxConfig::new(self.cap_bytes, AGE, 0);
        let mut outbox = Outbox::open(dir, config, Epoch::from_u64(1), at(0)?)?;
        outbox.begin_run(BOOT, Durability::Outage, at(0)?);
        let stream = StreamName::new(Cast::plan()?.source.stream)?;
        let mut disk_bytes_max = 0;
        for from in (0..self.records).step_by(usize::try_from(WRITE_RECORDS)?) {
            let end = self.records.min(from + WRITE_RECORDS);
            let now = at(end)?;
            let records: Vec<String> = (from..end).map(|n| self.record(n, now.wall)).collect();
            outbox.append(Class::Prediction, &stream, &records, now)?;
            disk_bytes_max = disk_bytes_max.max(outbox.report().bytes);
        }
        outbox.end_run()?;
        let report = outbox.report();
        Ok(Left {
            records: report.records,
            disk_bytes_max,
            disk_bytes: report.bytes,
            took: started.elapsed(),
        })
    }

    /// A prediction as the agent writes it.
    fn record(&self, n: u64, at: Timestamp) -> String {
        let value = 400 + (n * 7_919) % 5_000;
        let mut record = format!(
            r#"{{"v":1,"id":"{BOOT}-{n}","ts":"{at}","target_ts":"{at}","stream":"i94-volume","seq":{n},"boot":"{BOOT}","model":{{"name":"traffic-flow","version":"1.0.0","digest":"sha256:{:064}"}},"value":{value}.{},"unit":"vehicles/h","latency_us":{},"replay":true"#,
            7,
            n % 997,
            150 + n % 83
        );
        if self.pad > 0 {
            record.push_str(r#","pad":""#);
            for byte in noise(n, self.pad / 2) {
                // A string takes all.
                write!(record, "{byte:02x}").ok();
            }
            record.push('"');
        }
        record.push('}');
        record
    }

    async fn drain(&self, cast: &Cast, left: &Left, started: Instant) -> anyhow::Result<()> {
        let patience = Duration::from_secs(left.records / DRAIN_RATE_MIN).max(DRAIN_WITHIN);
        let evicted = self.records - left.records;
        loop {
            let said = cast.ledger().await?;
            ensure!(
                said.code == Some(0),
                "`lamppost ledger`: {} {}",
                said.out,
                said.complaint()
            );
            let views: Vec<LedgerView> = serde_json::from_str(&said.out)?;
            let view = views.first().context("a node in the ledger")?;
            let row = view.account.streams.first();
            let tally = row.map(|row| row.tally).unwrap_or_default();
            let is_done = tally.produced == self.records
                && tally.delivered == left.records
                && tally.evicted == evicted
                && tally.in_flight == 0
                && view.account.events_waiting == 0;
            if is_done {
                ensure!(tally.missing == 0 && tally.crash == 0, "{tally:?}");
                let took = started.elapsed().as_secs_f64();
                println!(
                    "drained in {took:.1} s ({:.0} records/s, the start of all included); the ledger: produced {}, delivered {}, \
                     duplicated {}, evicted {}, missing {}",
                    tally.delivered as f64 / took,
                    tally.produced,
                    tally.delivered,
                    tally.duplicated,
                    tally.evicted,
                    tally.missing
                );
                return Ok(());
            }
            ensure!(
                started.elapsed() < patience,
                "not drained within {patience:?}: {} records should be delivered and {evicted} evicted, the ledger says {tally:?}",
                left.records
            );
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}
