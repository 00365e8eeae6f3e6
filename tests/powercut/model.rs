//! Power cuts without a device and without root: a writer runs once under strace, and its files are cut off at hundreds of
//! points of the trace, each image with another part of what was not synced.

use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};

use crate::disk::{Disk, Names, Syncs};
use crate::outcome::Outcome;
use crate::subject::{Promise, Subject};
use crate::trace::{self, Call, Event};
use lamppost_tests::rng::Rng;

/// Events that count as soon after an opening.
const SOON: usize = 120;

/// A writer's life as strace saw it.
#[derive(Debug)]
pub(crate) struct Recording {
    subject: Subject,
    seed: u64,
    root: PathBuf,
    events: Vec<Event>,
}

impl Recording {
    /// Runs a writer for some steps.
    pub(crate) fn make(subject: Subject, seed: u64, steps: u64) -> anyhow::Result<Self> {
        let scratch = scratch()?;
        let (root, log) = (scratch.path().join("root"), scratch.path().join("trace"));
        fs::create_dir(&root)?;
        let status = Command::new("strace")
            .args(["-f", "-qq", "-xx", "-s", "8388608", "--seccomp-bpf"])
            .args(["-e", trace::CALLS, "-o"])
            .arg(&log)
            .arg(std::env::current_exe()?)
            .args(["write", subject.name()])
            .arg(&root)
            .args(["--seed", &seed.to_string(), "--steps", &steps.to_string()])
            .stdout(Stdio::null())
            .status()
            .context("start strace: install it")?;
        ensure!(status.success(), "the writer under strace: {status}");
        let events = trace::parse(BufReader::new(File::open(&log)?)).context("read the trace")?;
        Ok(Self {
            subject,
            seed,
            root,
            events,
        })
    }

    /// Cuts the power at `cuts` points, and holds each image to what was promised by then.
    pub(crate) fn cut(&self, names: Names, syncs: Syncs, cuts: u64) -> anyhow::Result<Outcome> {
        let mut rng = Rng::new(self.seed ^ 0x5eed);
        let mut disk = Disk::new(&self.root, syncs)?;
        let mut promise = Promise::default();
        let mut outcome = Outcome::default();
        let mut points = self.points(cuts, &mut rng).into_iter().peekable();
        for (at, event) in self.events.iter().enumerate() {
            if let Some(said) = disk.step(event)? {
                said.lines().for_each(|line| promise.hear(line));
            }
            while points.next_if_eq(&at).is_some() {
                let image = scratch()?;
                disk.cut(names, &mut rng, image.path())?;
                let checked = self.subject.check(image.path(), &promise);
                outcome.count(
                    &promise,
                    &format!("event {at}, unsynced: {}", disk.unsynced()),
                    checked,
                );
            }
        }
        Ok(outcome)
    }

    /// Where the power is cut, in order: behind events that changed something, half of them soon after an opening, when
    /// stores tidy up.
    fn points(&self, cuts: u64, rng: &mut Rng) -> Vec<usize> {
        let is_opening = |event: &Event| match event {
            Event::Begin {
                call: Call::Open { at, .. },
                ..
            } => at.path.ends_with("/db"),
            Event::Begin { .. } | Event::End { .. } => false,
        };
        let (mut places, mut soon) = (Vec::new(), Vec::new());
        let mut since = usize::MAX;
        for (at, event) in self.events.iter().enumerate() {
            since = if is_opening(event) {
                0
            } else {
                since.saturating_add(1)
            };
            if event.is_change() {
                places.push(at);
                soon.extend((since < SOON).then_some(at));
            }
        }
        let pick = |cut: u64| {
            let places = if cut.is_multiple_of(2) || soon.is_empty() {
                &places
            } else {
                &soon
            };
            places
                .get(rng.index(0, places.len().saturating_sub(1)))
                .copied()
        };
        let mut points: Vec<usize> = (0..cuts).filter_map(pick).collect();
        points.sort_unstable();
        points
    }
}

/// Whether strace is there and may trace.
pub(crate) fn is_possible() -> bool {
    let tried = Command::new("strace")
        .args(["-f", "-qq", "--seccomp-bpf", "-e", "trace=openat", "true"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    tried.is_ok_and(|status| status.success())
}

/// A directory in memory where there is one: the images are opened, and their syncs need reach no disk.
fn scratch() -> anyhow::Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    Ok(tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir())?)
}

/// Runs a writer, cuts it off in each way, and prints a table. An error when something is lost that must not be, or when
/// nothing is lost without our sync: then the cuts would prove nothing.
pub(crate) fn run(seed: u64, cuts: u64, steps: u64, only: Option<Subject>) -> anyhow::Result<()> {
    if !is_possible() {
        bail!("strace is missing or may not trace: `apt install strace`");
    }
    println!("power cuts within a writer's system calls, seed {seed}, {steps} steps");
    let mut wrong = Vec::new();
    for subject in only.map_or(vec![Subject::Outbox, Subject::State], |only| vec![only]) {
        let recording = Recording::make(subject, seed, steps)?;
        for names in [Names::Journal, Names::Apart] {
            let what = format!("{}, {names:?}", subject.name());
            let outcome = recording.cut(names, Syncs::All, cuts)?;
            outcome.print(&what);
            wrong.extend(outcome.failures(&what));
        }
        let what = format!("{}, sled's flush alone", subject.name());
        let control = recording.cut(Names::Journal, Syncs::NoDataSync, cuts / 4)?;
        control.print(&what);
        wrong.extend(control.missed(&what));
    }
    ensure!(wrong.is_empty(), "seed {seed}: {}", wrong.join("; "));
    Ok(())
}
