//! One contestant, in a process of its own.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use lamppost_store::used_bytes;
use serde::{Deserialize, Serialize};

use crate::queue::Kind;
use crate::report::{megabytes, micros};

/// How much is appended, and in which pieces.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Load {
    #[arg(long)]
    pub(crate) commit: u64,
    #[arg(long)]
    pub(crate) records: u64,
}

/// What was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) append_per_s: f64,
    pub(crate) append_mb_per_s: f64,
    pub(crate) drain_per_s: f64,
    /// Of all that lies on the disk when everything is appended.
    pub(crate) disk_bytes_a_record: f64,
    /// `write_bytes` of `/proc/self/io` until then: what the process made the kernel hand to the disk. The file system's
    /// own journal is not in it.
    pub(crate) written_bytes_a_record: f64,
    /// Until a store that was closed is ready for an append.
    pub(crate) reopen_ms: f64,
    /// Greatest resident set.
    pub(crate) memory_mb: f64,
}

/// A prediction as the agent stores it.
pub(crate) fn record(n: u64) -> String {
    let (day, hour, minute) = (1 + n / 1440 % 28, n / 60 % 24, n % 60);
    // A value that changes as a sensor's does, with as many digits as a float has.
    let value = 3_000.0 + 1_500.0 * (n as f64 / 57.0).sin() + (n * 7_919 % 1_000) as f64 / 7.0;
    format!(
        r#"{{"v":1,"id":"9f3a1c2b4d5e6f70-{n:08x}","ts":"2026-11-{day:02}T{hour:02}:{minute:02}:00Z","stream":"i94-volume","seq":{n},"boot":"9f3a1c2b4d5e6f70","model":{{"name":"traffic-flow","version":"1.1.0","digest":"sha256:8d969eef6ecad3c29a3a629280e686cf0c3f5d5a86aff3ca12020c923adc6c92"}},"score":null,"value":{value},"unit":"vehicles/h","latency_us":{},"replay":true}}"#,
        20 + n * 31 % 90
    )
}

/// Measures a contestant in this process, in the empty directory `dir`.
pub(crate) fn measure(kind: Kind, load: &Load, dir: &Path) -> anyhow::Result<Figures> {
    if kind == Kind::Python {
        return python(load, dir);
    }
    let mut queue = kind.open(dir)?;
    let (written_before, mut json_bytes) = (written()?, 0);
    let mut appending = Duration::ZERO;
    let mut next = 0;
    while next < load.records {
        let end = (next + load.commit).min(load.records);
        let records: Vec<String> = (next..end).map(record).collect();
        json_bytes += records.iter().map(String::len).sum::<usize>() as u64;
        let begin = Instant::now();
        queue.append(&records)?;
        appending += begin.elapsed();
        next = end;
    }
    let written = written()? - written_before;
    let disk = used_bytes(dir);
    drop(queue);
    let begin = Instant::now();
    let mut queue = kind.open(dir)?;
    let reopening = begin.elapsed();
    let begin = Instant::now();
    let drained = queue.drain()?;
    let draining = begin.elapsed();
    ensure!(
        drained == load.records,
        "{drained} of {} records came back",
        load.records
    );
    let records = load.records as f64;
    Ok(Figures {
        append_per_s: records / appending.as_secs_f64(),
        append_mb_per_s: megabytes(json_bytes) / appending.as_secs_f64(),
        drain_per_s: records / draining.as_secs_f64(),
        disk_bytes_a_record: disk as f64 / records,
        written_bytes_a_record: written as f64 / records,
        reopen_ms: micros(reopening) / 1_000.0,
        memory_mb: megabytes(memory_max()?),
    })
}

/// The peer's outbox, in a Python of its own.
fn python(load: &Load, dir: &Path) -> anyhow::Result<Figures> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peer/outbox_bench.py");
    let records = dir.join("records");
    let lines: Vec<String> = (0..load.records).map(record).collect();
    fs::write(&records, lines.join("\n"))?;
    let python = std::env::var_os("LAMPPOST_BENCH_PYTHON").unwrap_or_else(|| "python3".into());
    let output = Command::new(python)
        .arg(script)
        .arg(dir)
        .arg(load.commit.to_string())
        .arg(&records)
        .output()
        .context("start python3")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Measures a contestant in a child process.
pub(crate) fn in_a_process(dir: &Path, kind: Kind, load: Load) -> anyhow::Result<Figures> {
    let output = Command::new(std::env::current_exe()?)
        .arg("--dir")
        .arg(dir)
        .args(["one", kind.argument()])
        .args(["--commit", &load.commit.to_string()])
        .args(["--records", &load.records.to_string()])
        .output()?;
    ensure!(
        output.status.success(),
        "{}: {}",
        kind.name(),
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).with_context(|| kind.name().to_owned())
}

fn written() -> anyhow::Result<u64> {
    number_in("/proc/self/io", "write_bytes:")
}

fn memory_max() -> anyhow::Result<u64> {
    Ok(number_in("/proc/self/status", "VmHWM:")? * 1024)
}

fn number_in(path: &str, key: &str) -> anyhow::Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let rest = text.lines().find_map(|line| line.strip_prefix(key));
    let word = rest.and_then(|rest| rest.split_whitespace().next());
    word.and_then(|word| word.parse().ok())
        .with_context(|| format!("no {key} in {path}"))
}
