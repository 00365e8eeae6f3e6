//! Whether a bundle may run here: first in a process made for it, then in this one.
//!
//! A hostile model can make the engine ask for memory that is not there, which aborts the process, or compute for as
//! long as it likes. So the first load is in a child with a limited address space and a time-out; what becomes of the
//! child is the child's own misfortune, and the bundle's verdict.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use lamppost_agent_core::slot::{ActivateFailure, CheckOutcome};
use lamppost_agent_core::trial::Measured;
use lamppost_engine::{
    CheckError, CheckReport, Engine, GoldenError, Latency, Limits, Memory, check_bundle_bytes,
};
use lamppost_models::bundle::BUNDLE_BYTES_MAX;
use lamppost_models::message::Verdict;
use lamppost_models::release::BundleRef;
use lamppost_models::{Bundle, Manifest};
use rustix::process::{Pid, Resource, Rlimit, Signal};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use super::artifacts::{ArtifactError, Artifacts};
use super::{Checker, ModelSetup};

/// Tells the child how much address space it may have.
pub(super) const MEMORY_VARIABLE: &str = "LAMPPOST_CHECK_MEMORY_BYTES";
/// Tells the child how long it may compute.
const SECONDS_VARIABLE: &str = "LAMPPOST_CHECK_SECONDS";
/// Most that is read of what a child prints: a report has some 600 bytes.
const OUTPUT_BYTES_MAX: u64 = 64 * 1024;
/// Most characters of a child's last words that a verdict repeats.
const LAST_WORDS_CHARS_MAX: usize = 160;

/// What the child prints as its last line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
enum ChildReport {
    /// All is well.
    Passed { report: Box<CheckReport> },
    /// The bundle is no good.
    Refused { verdict: Verdict, detail: String },
}

/// Why a bundle does not run here.
#[derive(Debug)]
pub(super) enum Unfit {
    /// The file is gone or damaged, or cannot be read.
    Damaged(String),
    /// The bundle is no good, or not for this node.
    Refused(Verdict, String),
    /// The check could not be made.
    Undecided(String),
}

impl Unfit {
    pub(super) fn into_outcome(self) -> CheckOutcome {
        match self {
            Self::Damaged(detail) => CheckOutcome::Damaged { detail },
            Self::Refused(verdict, detail) => CheckOutcome::Refused { verdict, detail },
            Self::Undecided(detail) => CheckOutcome::Undecided { detail },
        }
    }

    pub(super) fn into_failure(self) -> (ActivateFailure, String) {
        match self {
            Self::Refused(verdict, detail) => (ActivateFailure::Refused(verdict), detail),
            Self::Damaged(detail) | Self::Undecided(detail) => (ActivateFailure::Damaged, detail),
        }
    }
}

/// The child's side: checks the bundle at `path` within the limits that its parent named in the environment, and prints
/// a line of JSON. The exit code is 0 when the bundle passed, and 1 when it did not.
pub fn check_bundle_main(path: &Path) -> ExitCode {
    limit_this_process();
    let report = match read_bounded(path) {
        Ok(bytes) => match check_bundle_bytes(&bytes, &Limits::default()) {
            Ok(report) => ChildReport::Passed {
                report: Box::new(report),
            },
            Err(error) => ChildReport::Refused {
                verdict: verdict(&error),
                detail: crate::error_chain(&error),
            },
        },
        Err(error) => {
            eprintln!("{} cannot be read: {error}", path.display());
            return ExitCode::FAILURE;
        }
    };
    let printed = serde_json::to_string(&report)
        .is_ok_and(|json| writeln!(std::io::stdout(), "\n{json}").is_ok());
    match report {
        ChildReport::Passed { .. } if printed => ExitCode::SUCCESS,
        ChildReport::Passed { .. } | ChildReport::Refused { .. } => ExitCode::FAILURE,
    }
}

pub(super) fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?
        .take(BUNDLE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn verdict(error: &CheckError) -> Verdict {
    match error {
        CheckError::Golden(GoldenError::Differs { .. }) => Verdict::GoldenMismatch,
        CheckError::Bundle(_)
        | CheckError::Open(_)
        | CheckError::Golden(_)
        | CheckError::Run(_) => Verdict::Unusable,
    }
}

/// A limit that cannot be set is said and not insisted on: the parent's time-out holds anyway.
pub(super) fn limit_this_process() {
    let number = |name| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    let limits = [
        (Resource::As, number(MEMORY_VARIABLE)),
        (Resource::Cpu, number(SECONDS_VARIABLE)),
        // A crash is expected of some bundles, and its memory image is of no use.
        (Resource::Core, Some(0)),
    ];
    for (resource, limit) in limits {
        let Some(limit) = limit else { continue };
        if let Err(error) = rustix::process::setrlimit(
            resource,
            Rlimit {
                current: Some(limit),
                maximum: Some(limit),
            },
        ) {
            eprintln!("limit {resource:?} of {limit} cannot be set: {error}");
        }
    }
    // When the machine runs out of memory, this process goes before the agent.
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "1000") {
        eprintln!("the kernel is not told whom to give up first: {error}");
    }
    // When the agent is killed, its check has nobody left to report to.
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        eprintln!("the check would outlive the agent: {error}");
    }
}

/// What a check needs.
#[derive(Clone, Debug)]
pub(super) struct Checks {
    pub(super) program: PathBuf,
    pub(super) args: Vec<OsString>,
    pub(super) memory_bytes: u64,
    pub(super) timeout: Duration,
}

impl Checks {
    pub(super) fn new(checker: &Checker) -> std::io::Result<Self> {
        let program = match &checker.program {
            Some(program) => program.clone(),
            None => std::env::current_exe()?,
        };
        let (args, memory_bytes, timeout) =
            (checker.args.clone(), checker.memory_bytes, checker.timeout);
        Ok(Self {
            program,
            args,
            memory_bytes,
            timeout,
        })
    }

    /// Checks a bundle's file in a process of its own.
    pub(super) async fn in_child(
        &self,
        file: &Path,
        stop: &CancellationToken,
    ) -> Result<Measured, Unfit> {
        let undecided = |what: &str, error: &dyn std::fmt::Display| {
            Unfit::Undecided(format!("{what} {}: {error}", self.program.display()))
        };
        let mut child = command(&self.program, &self.args, file, self.memory_bytes)
            .env(SECONDS_VARIABLE, (self.timeout.as_secs() + 1).to_string())
            .spawn()
            .map_err(|error| undecided("the check cannot be started with", &error))?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let group = group_of(&child);
        let end = async { tokio::join!(read(out), read(err), child.wait()) };
        let ended = stop
            .run_until_cancelled(tokio::time::timeout(self.timeout, end))
            .await;
        let ended = match ended {
            Some(Ok((out, err, Ok(status)))) => return judge(&out, &err, status),
            Some(Ok((_, _, Err(error)))) => Err(undecided("cannot wait for", &error)),
            Some(Err(_)) => {
                let detail = format!(
                    "the check took longer than {:?} and was stopped",
                    self.timeout
                );
                Err(Unfit::Refused(Verdict::Unusable, detail))
            }
            None => Err(Unfit::Undecided("the check was stopped".to_owned())),
        };
        kill(&mut child, group).await;
        ended
    }
}

/// The program on a bundle's file, in a process group of its own that ends with its handle.
pub(super) fn command(
    program: &Path,
    args: &[OsString],
    file: &Path,
    memory_bytes: u64,
) -> Command {
    let mut command = Command::new(program);
    command
        .args(args)
        .arg(file)
        .env(MEMORY_VARIABLE, memory_bytes.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    command
}

/// The process group that a child leads.
pub(super) fn group_of(child: &Child) -> Option<Pid> {
    child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw)
}

/// Ends a child and whatever it started.
async fn kill(child: &mut Child, group: Option<Pid>) {
    if let Some(group) = group
        && let Err(error) = rustix::process::kill_process_group(group, Signal::KILL)
    {
        tracing::debug!(%error, "a check's processes cannot be killed");
    }
    if let Err(error) = child.kill().await {
        tracing::debug!(%error, "a check cannot be killed");
    }
}

async fn read(pipe: Option<impl AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe
        && let Err(error) = pipe.take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes).await
    {
        tracing::debug!(%error, "what a check says cannot be read");
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn judge(out: &str, err: &str, status: ExitStatus) -> Result<Measured, Unfit> {
    let last_line = out
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty());
    let report = last_line.and_then(|line| serde_json::from_str::<ChildReport>(line).ok());
    match report {
        Some(ChildReport::Passed { report }) if status.success() => {
            let CheckReport {
                name,
                version,
                digest,
                latency,
                memory,
                ..
            } = *report;
            let measured = measured(latency, memory);
            tracing::info!(model = %name, %version, digest = %digest.short(), ?measured, "a bundle passed its check");
            Ok(measured)
        }
        Some(ChildReport::Refused { verdict, detail }) => Err(Unfit::Refused(verdict, detail)),
        Some(ChildReport::Passed { .. }) | None => Err(Unfit::Refused(
            Verdict::Unusable,
            format!("the check {}", how_it_ended(status, err)),
        )),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast of f64 saturates"
)]
fn measured(latency: Latency, memory: Memory) -> Measured {
    Measured {
        inferences: latency.runs as u64,
        latency_p50_us: latency.median_us.round() as u64,
        latency_p99_us: latency.p99_us.round() as u64,
        // Where the kernel does not tell, what the engine counts is less than what it takes.
        memory_bytes: memory
            .added_bytes
            .unwrap_or(memory.weight_bytes + memory.run_bytes),
    }
}

/// How a child ended that did not say so itself, with the last it said on its standard error.
pub(super) fn how_it_ended(status: ExitStatus, err: &str) -> String {
    let how = match (status.signal(), status.code()) {
        (Some(signal), _) => format!("was killed by signal {signal}"),
        (None, Some(code)) => format!("ended with code {code} and no report"),
        (None, None) => "ended with no report".to_owned(),
    };
    let words: Vec<&str> = err
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let words: String = words
        .join("; ")
        .chars()
        .take(LAST_WORDS_CHARS_MAX)
        .collect();
    if words.is_empty() {
        how
    } else {
        format!("{how}: {words}")
    }
}

/// Opens a bundle of the folder in this process. Blocks.
pub(super) fn open_held(
    artifacts: &Artifacts,
    bundle: &BundleRef,
    model: &ModelSetup,
) -> Result<Engine, Unfit> {
    let bytes = artifacts
        .read(bundle)
        .map_err(|error: ArtifactError| Unfit::Damaged(error.to_string()))?;
    open(&bytes, bundle, model)
}

/// Opens a bundle in this process, when it suits the model and its streams, and runs its golden vectors: a new version
/// of the agent, or another machine, may compute something else than the one that checked it. Blocks.
pub(super) fn open(bytes: &[u8], wanted: &BundleRef, model: &ModelSetup) -> Result<Engine, Unfit> {
    let refused = |error: &CheckError| Unfit::Refused(verdict(error), crate::error_chain(error));
    let bundle = Bundle::read(bytes).map_err(|error| refused(&error.into()))?;
    suits(bundle.manifest(), wanted, model)
        .map_err(|detail| Unfit::Refused(Verdict::Unsuitable, detail))?;
    let engine =
        Engine::open(&bundle, &Limits::default()).map_err(|error| refused(&error.into()))?;
    engine
        .check_golden()
        .map_err(|error| refused(&error.into()))?;
    Ok(engine)
}

fn suits(manifest: &Manifest, wanted: &BundleRef, model: &ModelSetup) -> Result<(), String> {
    if manifest.name != model.name || manifest.version != wanted.version {
        let (name, version) = (&manifest.name, &manifest.version);
        return Err(format!(
            "the bundle is {name} {version}, the release is of {} {}",
            model.name, wanted.version
        ));
    }
    for (stream, fields) in &model.streams {
        if let Some(missing) = manifest
            .fields()
            .into_iter()
            .find(|field| !fields.contains(field))
        {
            return Err(format!(
                "the model reads field {missing}, which stream {stream} does not have"
            ));
        }
    }
    Ok(())
}
