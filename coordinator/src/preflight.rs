//! The check of a bundle before it enters the registry: the one home of the engine.
//!
//! It is the check that a node makes, by the same code: the bundle opens within limits and reproduces its golden vectors.
//! A hostile model can make the engine ask for memory that is not there, which ends the process; the server therefore
//! checks in a child process with a limit on its address space and a time-out.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use lamppost_engine::{CheckReport, Limits, check_bundle_bytes};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};

use crate::api::Preflight;

/// Name of the command that checks a file, for a process made for it.
pub(crate) const COMMAND: &str = "check-bundle";
/// Address space of that process: the limits of the engine (weights, decoded file, tensors of a run) add up to some
/// 600 MB, and the rest is the program itself with its stacks.
const ADDRESS_SPACE_BYTES: u64 = 2 << 30;
/// How long it may take: opening and golden check have 30 s each, and a slow machine gets as much again.
const TIME_MAX: Duration = Duration::from_mins(2);
/// What is read of its answer: a report has some 500 bytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// The program that checks, and what stands in front of `check-bundle` on its command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checker {
    /// The program.
    pub program: PathBuf,
    /// Its first arguments, for a program of several roles.
    pub prefix: Vec<OsString>,
}

/// Why a bundle does not pass.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PreflightError {
    #[error("bundle does not pass the preflight: {reason}")]
    Refused { reason: String },
    #[error(
        "the process that checks the bundle was ended ({status}): the model asks for more than a node may give"
    )]
    Ended { status: std::process::ExitStatus },
    #[error("the bundle was checked for {TIME_MAX:?} with no end")]
    Deadline,
    #[error("the process that checks bundles does not run")]
    Process(#[source] std::io::Error),
    #[error("the process that checks bundles gave an answer that is none: {answer:?}")]
    Answer { answer: String },
}

/// Checks bytes in this process. Blocks.
pub(crate) fn check_here(bytes: &[u8]) -> Result<CheckReport, PreflightError> {
    let refused = |error| PreflightError::Refused {
        reason: crate::error::chain(&error),
    };
    check_bundle_bytes(bytes, &Limits::default()).map_err(refused)
}

/// Checks a file: in a child process when there is a checker, else here.
pub(crate) async fn check(
    path: &Path,
    checker: Option<&Checker>,
) -> Result<Preflight, PreflightError> {
    let report = if let Some(checker) = checker {
        check_in_child(path, checker).await?
    } else {
        let path = path.to_owned();
        let read = move || std::fs::read(path).map_err(PreflightError::Process);
        let checked = tokio::task::spawn_blocking(move || check_here(&read()?));
        checked
            .await
            .map_err(|error| PreflightError::Process(error.into()))??
    };
    Ok(of_report(&report))
}

/// What the API tells of a report.
pub(crate) fn of_report(report: &CheckReport) -> Preflight {
    Preflight {
        golden_cases: report.golden.cases,
        output_error_max: report.golden.output_error_max,
        median_us: report.latency.median_us,
        p99_us: report.latency.p99_us,
        memory_bytes: report.memory.weight_bytes + report.memory.run_bytes,
    }
}

async fn check_in_child(path: &Path, checker: &Checker) -> Result<CheckReport, PreflightError> {
    let mut command = Command::new(&checker.program);
    command
        .args(&checker.prefix)
        .arg(COMMAND)
        .arg(path)
        .kill_on_drop(true);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn().map_err(PreflightError::Process)?;
    let answer = tokio::time::timeout(TIME_MAX, answer(&mut child)).await;
    let (status, answer) = answer
        .map_err(|_| PreflightError::Deadline)?
        .map_err(PreflightError::Process)?;
    match (status.code(), serde_json::from_str::<Answer>(&answer)) {
        (Some(0), Ok(Answer::Passed(report))) => Ok(report),
        (Some(1), Ok(Answer::Refused(reason))) => Err(PreflightError::Refused { reason }),
        (Some(_), _) => Err(PreflightError::Answer {
            answer: answer.chars().take(200).collect(),
        }),
        (None, _) => Err(PreflightError::Ended { status }),
    }
}

async fn answer(child: &mut Child) -> std::io::Result<(std::process::ExitStatus, String)> {
    let mut answer = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout
            .take(ANSWER_BYTES_MAX)
            .read_to_end(&mut answer)
            .await?;
    }
    Ok((
        child.wait().await?,
        String::from_utf8_lossy(&answer).into_owned(),
    ))
}

/// What the checking process prints.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Passed(CheckReport),
    Refused(String),
}

/// The checking process: limits itself, checks the file, prints its answer, and gives its exit code.
pub(crate) fn child_main(path: &Path) -> u8 {
    limit_address_space();
    let checked = std::fs::read(path)
        .map_err(PreflightError::Process)
        .and_then(|bytes| check_here(&bytes));
    let (answer, code) = match checked {
        Ok(report) => (Answer::Passed(report), 0),
        Err(PreflightError::Refused { reason }) => (Answer::Refused(reason), 1),
        Err(error) => (Answer::Refused(crate::error::chain(&error)), 1),
    };
    let printed = serde_json::to_string(&answer).map(|answer| crate::cli::print(&answer));
    if matches!(printed, Ok(Ok(()))) {
        code
    } else {
        2
    }
}

#[cfg(target_os = "linux")]
fn limit_address_space() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let limit = Rlimit {
        current: Some(ADDRESS_SPACE_BYTES),
        maximum: Some(ADDRESS_SPACE_BYTES),
    };
    if let Err(error) = setrlimit(Resource::As, limit) {
        tracing::warn!(%error, "the address space cannot be limited");
    }
}

#[cfg(not(target_os = "linux"))]
fn limit_address_space() {}
