//! The outbox as a subject.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use lamppost_agent::outbox::{CAP_BYTES_MIN, Cursor, Outbox, OutboxConfig, StoredBatch};
use lamppost_agent_core::outbox::Class;
use lamppost_models::message::BatchRange;
use lamppost_models::{Epoch, StreamName, Timestamp};
use serde::Deserialize;

use super::{Broken, Promise, say};
use lamppost_tests::rng::{Rng, noise};

/// Records that may wait: with the padding about a quarter of the cap, so that nothing is evicted.
const BACKLOG_MAX: u64 = 12_000;

/// The smallest outbox there is has generations of 2 MiB: a short run makes several.
const fn config() -> OutboxConfig {
    OutboxConfig::new(CAP_BYTES_MIN, Duration::from_hours(48), 0)
}

fn now() -> anyhow::Result<Timestamp> {
    Ok(Timestamp::from_ms(1_800_000_000_000)?)
}

fn open(dir: &Path) -> anyhow::Result<Outbox> {
    let dir = dir.join("outbox");
    Ok(Outbox::open(&dir, config(), Epoch::from_u64(77), now()?)?)
}

/// Stores records and gives the number of the last batch.
fn append(outbox: &mut Outbox, numbers: std::ops::Range<u64>) -> anyhow::Result<u64> {
    let records: Vec<String> = numbers.map(record).collect();
    let stream = StreamName::new("i94-volume")?;
    let appended = outbox.append(Class::Prediction, &stream, &records, now()?)?;
    appended.numbers.last().copied().context("no batch")
}

/// Record `n`, with padding that does not compress.
fn record(n: u64) -> String {
    let mut pad = String::new();
    for byte in noise(n, 40 + usize::try_from(n % 120).unwrap_or(0)) {
        // A string takes all.
        write!(pad, "{byte:02x}").ok();
    }
    format!(r#"{{"n":{n},"pad":"{pad}"}}"#)
}

#[derive(Deserialize)]
struct Record {
    n: u64,
    pad: String,
}

fn records(batch: &StoredBatch) -> anyhow::Result<Vec<Record>> {
    Ok(serde_json::from_slice(&batch.json)?)
}

pub(super) fn write(dir: &Path, seed: u64, steps: Option<u64>) -> anyhow::Result<()> {
    let mut rng = Rng::new(seed);
    let mut outbox = open(dir)?;
    let mut next = 0;
    let mut waiting = 0;
    for _ in 0..steps.unwrap_or(u64::MAX) {
        match rng.below(20) {
            // As after a restart: a new generation, and the old ones are only read.
            0 => {
                drop(outbox);
                outbox = open(dir)?;
            }
            1 => outbox.sweep(now()?)?,
            2..=4 => waiting -= release(&mut outbox, &mut rng)?,
            _ => {
                let count = if rng.chance(10) { 1_000 } else { 60 };
                let count = 1 + rng.below(count);
                let number = append(&mut outbox, next..next + count)?;
                (next, waiting) = (next + count, waiting + count);
                say(&format!("stored {next} {number}"))?;
            }
        }
        while waiting > BACKLOG_MAX {
            waiting -= release(&mut outbox, &mut rng)?;
        }
    }
    Ok(())
}

/// Acknowledges some of the oldest batches, and says how many records were in them.
fn release(outbox: &mut Outbox, rng: &mut Rng) -> anyhow::Result<u64> {
    let mut batches = outbox.peek(None, 1 + rng.index(0, 40))?;
    // Acknowledgements come out of order.
    if rng.chance(30) && !batches.is_empty() {
        batches.drain(..rng.index(0, batches.len() - 1));
    }
    let mut released = 0;
    for batch in &batches {
        let records = records(batch)?;
        if let (Some(first), Some(last)) = (records.first(), records.last()) {
            say(&format!("releasing {} {}", first.n, last.n))?;
        }
        released += records.len() as u64;
    }
    if let (Some(first), Some(last)) = (batches.first(), batches.last()) {
        let (epoch, from, to) = (outbox.epoch(), first.number, last.number);
        outbox.acknowledge(&[BatchRange { epoch, from, to }], now()?)?;
    }
    Ok(released)
}

pub(super) fn check(dir: &Path, promise: &Promise) -> Result<(), Broken> {
    let unusable = |error: &dyn std::fmt::Display| Broken::Unusable(error.to_string());
    let mut outbox = open(dir).map_err(|error| Broken::Closed(format!("{error:#}")))?;
    let mut found = BTreeSet::new();
    let mut newest = promise.newest;
    // Numbers of events are far ahead of others': each class is followed by itself.
    let mut cursor = Cursor::default();
    loop {
        let batches = outbox.peek(cursor, 64).map_err(|error| unusable(&error))?;
        if batches.is_empty() {
            break;
        }
        for batch in &batches {
            cursor.pass(batch);
        }
        for batch in batches
            .iter()
            .filter(|batch| batch.class == Class::Prediction)
        {
            newest = newest.max(Some(batch.number));
            for Record { n, pad } in records(batch).map_err(|error| unusable(&error))? {
                let is_whole = record(n) == format!(r#"{{"n":{n},"pad":"{pad}"}}"#);
                let is_next = found.last().is_none_or(|last| *last < n);
                if !is_whole || !is_next {
                    return Err(Broken::Wrong(n));
                }
                found.insert(n);
            }
        }
    }
    let is_missing = |n: &u64| !found.contains(n) && !promise.released.contains(n);
    let missing: Vec<u64> = (0..promise.stored_end).filter(is_missing).collect();
    if let Some(first) = missing.first() {
        return Err(Broken::Missing {
            records: missing.len(),
            first: *first,
        });
    }
    let report = outbox.report();
    if report.records != found.len() as u64 {
        return Err(Broken::Miscounted {
            waiting: found.len() as u64,
            reported: report.records,
        });
    }
    // A cut within the very first opening leaves nothing that says whether anything was there before.
    if report.lost_batches > 0 && !promise.is_empty() {
        return Err(Broken::FalseLoss {
            batches: report.lost_batches,
        });
    }
    let number = append(&mut outbox, 0..1).map_err(|error| unusable(&error))?;
    if Some(number) <= newest {
        return Err(Broken::NumberReused { number });
    }
    Ok(())
}
