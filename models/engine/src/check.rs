//! The whole check of a bundle, for a process that was started for it.

use std::time::Instant;

use lamppost_models::bundle::BundleError;
use lamppost_models::{Bundle, Digest, ModelName};
use semver::Version;
use serde::{Deserialize, Serialize};

use crate::engine::Engine;
use crate::error::{OpenError, RunError};
use crate::golden::{GoldenError, GoldenReport};
use crate::limits::Limits;
use crate::time::thread_time;

/// Runs that the latency is measured over: a p99 of which two runs are above.
const LATENCY_RUNS: usize = 200;
/// Fewest runs that say anything.
const LATENCY_RUNS_MIN: usize = 3;

/// What a bundle proved to be on this machine; JSON from the checking process to the one that started it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckReport {
    /// The model.
    pub name: ModelName,
    /// Its version.
    pub version: Version,
    /// Digest of the bundle.
    pub digest: Digest,
    /// How close it came to its golden vectors.
    pub golden: GoldenReport,
    /// How long a window takes, preprocessing included.
    pub latency: Latency,
    /// What it holds in memory.
    pub memory: Memory,
}

/// Time from a window to its result, of the thread that measured: what else the machine does in between does not count.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Windows measured.
    pub runs: usize,
    /// Half of them took at most this, in microseconds.
    pub median_us: f64,
    /// 99 of 100 took at most this, in microseconds.
    pub p99_us: f64,
}

/// Memory of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Weights as the plan holds them, in bytes.
    pub weight_bytes: u64,
    /// The most that intermediate tensors take in a run, in bytes.
    pub run_bytes: u64,
    /// The most that this whole process held in memory so far, in bytes; known on Linux.
    pub process_peak_bytes: Option<u64>,
    /// How much more that is than before the bundle was read, in bytes: what opening and running it added.
    #[serde(default)]
    pub added_bytes: Option<u64>,
}

/// Why a bundle fails the check.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The bytes are no bundle.
    #[error("bundle cannot be read")]
    Bundle(#[from] BundleError),
    /// The model does not open.
    #[error("model does not open")]
    Open(#[from] OpenError),
    /// It does not reproduce its golden vectors.
    #[error("golden vectors are not reproduced")]
    Golden(#[from] GoldenError),
    /// A run failed that the golden check had passed.
    #[error("run fails that was right before")]
    Run(#[from] RunError),
}

/// Reads, opens, verifies and times a bundle.
///
/// Meant for a process of its own, with a limited address space and a time-out: a hostile model can make tract ask for
/// memory that is not there, which aborts the process, or compute for as long as it likes.
///
/// # Errors
/// [`CheckError`] says which step failed and why.
pub fn check_bundle_bytes(bytes: &[u8], limits: &Limits) -> Result<CheckReport, CheckError> {
    let peak_before = process_peak_bytes();
    let engine = Engine::open(&Bundle::read(bytes)?, limits)?;
    let golden = engine.check_golden()?;
    let latency = measure(&engine, limits)?;
    let peak = process_peak_bytes();
    let memory = Memory {
        weight_bytes: engine.weight_bytes(),
        run_bytes: engine.run_bytes(),
        process_peak_bytes: peak,
        added_bytes: peak
            .zip(peak_before)
            .map(|(peak, before)| peak.saturating_sub(before)),
    };
    let manifest = engine.manifest();
    let (name, version) = (manifest.name.clone(), manifest.version.clone());
    Ok(CheckReport {
        name,
        version,
        digest: engine.digest(),
        golden,
        latency,
        memory,
    })
}

/// Runs the golden windows in turn; fewer of them when the time that the golden check may take is over.
fn measure(engine: &Engine, limits: &Limits) -> Result<Latency, RunError> {
    let mut session = engine.session();
    let cases = &engine.golden().cases;
    if let Some(first) = cases.first() {
        session.run(&first.window)?;
    }
    let start = Instant::now();
    let mut times = Vec::with_capacity(LATENCY_RUNS);
    for case in cases.iter().cycle().take(LATENCY_RUNS) {
        let before = thread_time();
        session.run(&case.window)?;
        times.push(thread_time().saturating_sub(before));
        if start.elapsed() > limits.golden_time && times.len() >= LATENCY_RUNS_MIN {
            break;
        }
    }
    times.sort_unstable();
    let at = |share: usize| {
        times
            .get(times.len() * share / 100)
            .map_or(0.0, |time| time.as_secs_f64() * 1e6)
    };
    Ok(Latency {
        runs: times.len(),
        median_us: at(50),
        p99_us: at(99),
    })
}

/// The kernel's high-water mark of resident memory (`VmHWM` of proc(5)).
fn process_peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}
