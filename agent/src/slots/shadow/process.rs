//! The agent's side of a child that holds a candidate.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lamppost_models::Reading;
use lamppost_models::message::Verdict;
use rustix::process::{Pid, Signal};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::super::check::{self, Checks, how_it_ended};
use super::wire::{self, Answer, WINDOW_BYTES_MAX, WireError};

/// How long a child that closed its output, or whose input broke, may take to end by itself.
const END_TIMEOUT: Duration = Duration::from_secs(2);
/// What is kept of the end of what a child writes on its standard error.
const LAST_WORDS_BYTES: usize = 4096;
/// What Rust says when an allocation fails, before it aborts.
const OUT_OF_MEMORY: &str = "memory allocation of ";

/// How candidates are run beside active versions.
#[derive(Clone, Debug)]
pub(in super::super) struct Shadows {
    pub(in super::super) program: PathBuf,
    pub(in super::super) args: Vec<OsString>,
    pub(in super::super) memory_bytes: u64,
    /// How long opening may take.
    pub(in super::super) open_timeout: Duration,
    /// How long a window may take.
    pub(in super::super) window_timeout: Duration,
}

/// Why a child answers no more.
#[derive(Debug)]
pub(super) enum Gone {
    /// It did not answer in time.
    Late { detail: String },
    /// It ended or talked nonsense.
    Ended { verdict: Verdict, detail: String },
    /// It could not be started, or the machine failed; that is not the candidate's fault.
    Undecided { detail: String },
}

/// A child that holds a candidate; it ends with this.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    group: Option<Pid>,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    last_words: JoinHandle<String>,
    window_timeout: Duration,
}

impl Shadows {
    /// The same program as checks bundles, with other arguments.
    pub(in super::super) fn new(
        checks: &Checks,
        args: Vec<OsString>,
        window_timeout: Duration,
    ) -> Self {
        Self {
            program: checks.program.clone(),
            args,
            memory_bytes: checks.memory_bytes,
            open_timeout: checks.timeout,
            window_timeout,
        }
    }

    /// Starts a child on the bundle's file, and waits until the bundle is open.
    pub(super) async fn open(&self, file: &Path) -> Result<Process, Gone> {
        let undecided = |what: &str| Gone::Undecided {
            detail: format!(
                "a candidate cannot be run with {}: {what}",
                self.program.display()
            ),
        };
        let mut command = check::command(&self.program, &self.args, file, self.memory_bytes);
        // It opens no connection and starts nothing: it needs nothing of what the agent knows.
        command
            .env_clear()
            .env(check::MEMORY_VARIABLE, self.memory_bytes.to_string())
            .stdin(std::process::Stdio::piped());
        let mut child = command
            .spawn()
            .map_err(|error| undecided(&error.to_string()))?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(input), Some(output), Some(errors)) = pipes else {
            return Err(undecided("it has no pipes"));
        };
        let mut process = Process {
            group: check::group_of(&child),
            child,
            input,
            output: BufReader::new(output),
            last_words: tokio::spawn(last_words(errors)),
            window_timeout: self.window_timeout,
        };
        let opened = async {
            wire::greeted(&mut process.output).await?;
            wire::answer(&mut process.output).await
        };
        match timeout(self.open_timeout, opened).await {
            Ok(Ok(Answer::Opened)) => Ok(process),
            Ok(Ok(Answer::Refused { verdict, detail })) => Err(Gone::Ended { verdict, detail }),
            Ok(Ok(other)) => Err(Gone::Ended {
                verdict: Verdict::Crashed,
                detail: format!("it began with {other:?}"),
            }),
            Ok(Err(error)) => Err(process.gone(error).await),
            Err(_) => Err(Gone::Late {
                detail: format!("it was not open after {:?}", self.open_timeout),
            }),
        }
    }
}

impl Process {
    /// Asks for one window; `None` when it is too large to be asked for.
    pub(super) async fn ask(&mut self, window: &[Arc<Reading>]) -> Result<Option<Answer>, Gone> {
        // Writing an image as JSON takes a while.
        let window = window.to_vec();
        let encoded = tokio::task::spawn_blocking(move || wire::window(&window)).await;
        let undecided = |error: &dyn std::fmt::Display| Gone::Undecided {
            detail: format!("a window cannot be written: {error}"),
        };
        let frame = encoded
            .map_err(|error| undecided(&error))?
            .map_err(|error| undecided(&error))?;
        if frame.len() - 4 > WINDOW_BYTES_MAX {
            tracing::debug!(bytes = frame.len(), "a window is too large for a candidate");
            return Ok(None);
        }
        let asked = async {
            self.input.write_all(&frame).await?;
            self.input.flush().await?;
            wire::answer(&mut self.output).await
        };
        match timeout(self.window_timeout, asked).await {
            Ok(Ok(answer)) => Ok(Some(answer)),
            Ok(Err(error)) => Err(self.gone(error).await),
            Err(_) => Err(Gone::Late {
                detail: format!("it gave no answer within {:?}", self.window_timeout),
            }),
        }
    }

    /// Waits until the child ends though nobody asked it for anything.
    pub(super) async fn ended(&mut self) -> Gone {
        // Whatever that comes to, it is asked again and then told.
        drop(self.child.wait().await);
        self.gone(WireError::End).await
    }

    /// What became of the child, whose conversation broke with `error`.
    async fn gone(&mut self, error: WireError) -> Gone {
        // A window that it did not take, or an output at its end, is how its own end shows.
        let ended = match &error {
            WireError::End | WireError::Read(_) => {
                timeout(END_TIMEOUT, self.child.wait()).await.ok()
            }
            WireError::NoPreamble | WireError::TooLong(_) | WireError::Garbage(_) => None,
        };
        let Some(ended) = ended else {
            return Gone::Ended {
                verdict: Verdict::Crashed,
                detail: error.to_string(),
            };
        };
        let words = timeout(END_TIMEOUT, &mut self.last_words).await;
        let words = words.ok().and_then(Result::ok).unwrap_or_default();
        match ended {
            Ok(status) => Gone::Ended {
                verdict: if words.contains(OUT_OF_MEMORY) {
                    Verdict::TooLarge
                } else {
                    Verdict::Crashed
                },
                detail: format!("its process {}", how_it_ended(status, &words)),
            },
            Err(error) => Gone::Undecided {
                detail: format!("its process cannot be waited for: {error}"),
            },
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.last_words.abort();
        // The child itself is killed by its handle; what it started, if anything, by this.
        if let Some(group) = self.group
            && let Err(error) = rustix::process::kill_process_group(group, Signal::KILL)
        {
            tracing::trace!(%error, "a candidate's processes are gone already");
        }
    }
}

/// Reads to the end, so that nobody waits on a full pipe, and keeps the last of it.
async fn last_words(mut from: ChildStderr) -> String {
    let mut kept = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..read]);
        let excess = kept.len().saturating_sub(LAST_WORDS_BYTES);
        kept.drain(..excess);
    }
    String::from_utf8_lossy(&kept).into_owned()
}
