//! Power cuts on a real file system: ext4 on a loop device, whose file is copied while a writer writes.
//!
//! The copy is what a power cut would leave of a disk that keeps what it was handed: what the kernel still held in memory
//! is missing. It must be a state that the disk had at one moment, so the file lies on XFS and is cloned by reference
//! (`FICLONE`), which takes no time and stops nothing above it: copying block by block while it changes would put states
//! together that never were, and freezing or unmounting would write what a power cut loses.
//!
//! mkfs.ext4 and mount are given no options that change what is safe: 4 KiB blocks, `data=ordered`, barriers, delayed
//! allocation, a commit each 5 s. Mounting the copy replays its journal. A disk that loses what it was handed and not told
//! to flush is what `model` adds.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, geteuid, kill_process_group};

use crate::outcome::Outcome;
use crate::subject::{Promise, Subject};
use lamppost_tests::rng::Rng;

/// Several copies of the device's file share its blocks: room for what differs.
const POOL_BYTES: u64 = 2 << 30;
/// The outbox takes 16 MiB at most, the state less.
const DEVICE_BYTES: u64 = 128 << 20;
/// Images of one life of a writer, and the longest wait between two, in milliseconds. Then the writer is killed and starts
/// on a fresh file system. Long lives see generations come and go, and commits of ext4's journal.
const LONG_LIFE: (u64, u64) = (10, 700);
/// Short lives end before ext4's journal commits the length of a file by itself, and so saves what our sync did not: the
/// cuts that must show a loss are all of these.
const SHORT_LIFE: (u64, u64) = (2, 200);
/// Lives that are short all the same.
const SHORT_PERCENT: u64 = 30;
/// How long a writer may take to promise something.
const PATIENCE: Duration = Duration::from_secs(30);

/// Takes `count` images of each store, and half as many with our own sync switched off.
pub(crate) fn run(count: u64, seed: u64) -> anyhow::Result<()> {
    ensure!(geteuid().is_root(), "mounting a loop device needs root");
    let scratch = tempfile::Builder::new()
        .prefix("lamppost-powercut-")
        .tempdir()?;
    let pool_file = scratch.path().join("pool");
    File::create(&pool_file)?.set_len(POOL_BYTES)?;
    // Without a file system that clones there is no copy of one moment.
    run_tool(Command::new("mkfs.xfs").arg("-q").arg(&pool_file))?;
    let pool = Mount::new(&pool_file, &scratch.path().join("pool-mounted"))?;
    println!(
        "power cuts of ext4 on a loop device, seed {seed}, kernel {}",
        fs::read_to_string("/proc/sys/kernel/osrelease")?.trim()
    );
    let mut rng = Rng::new(seed);
    let mut wrong = Vec::new();
    for subject in [Subject::Outbox, Subject::State] {
        let what = format!("{}, as it is", subject.name());
        let outcome = take(subject, &pool, true, count, &mut rng)?;
        outcome.print(&what);
        wrong.extend(outcome.failures(&what));
        let what = format!("{}, sled's flush alone", subject.name());
        let control = take(subject, &pool, false, (count / 2).max(16), &mut rng)?;
        control.print(&what);
        wrong.extend(control.missed(&what));
    }
    ensure!(wrong.is_empty(), "seed {seed}: {}", wrong.join("; "));
    Ok(())
}

/// Takes images of one store, and holds each to what was promised.
fn take(
    subject: Subject,
    pool: &Mount,
    syncs: bool,
    count: u64,
    rng: &mut Rng,
) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    while outcome.images < count {
        let device = pool.at.join("device");
        File::create(&device)?.set_len(DEVICE_BYTES)?;
        run_tool(
            Command::new("mkfs.ext4")
                .args(["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"])
                .arg(&device),
        )?;
        let live = Mount::new(&device, &pool.at.join("live"))?;
        let said = pool.at.join("said");
        let writer = Writer::start(subject, &live.at, &said, rng.draw(), syncs)?;
        writer.wait_for_promise()?;
        let (images, pause_ms_max) = if syncs && !rng.chance(SHORT_PERCENT) {
            LONG_LIFE
        } else {
            SHORT_LIFE
        };
        for _ in 0..images.min(count - outcome.images) {
            thread::sleep(Duration::from_millis(rng.below(pause_ms_max)));
            let before = fs::read_to_string(&said)?;
            let image = pool.at.join("image");
            rustix::fs::ioctl_ficlone(File::create(&image)?, File::open(&device)?)
                .context("clone the device's file")?;
            let after = fs::read_to_string(&said)?;
            let promise = Promise::around(&before, &after);
            let cut = Mount::new(&image, &pool.at.join("cut"))?;
            let checked = subject.check(&cut.at, &promise);
            let at = format!("image {}", outcome.images + 1);
            outcome.count(&promise, &at, checked);
        }
    }
    Ok(outcome)
}

/// A mounted file system in a file.
struct Mount {
    at: PathBuf,
}

impl Mount {
    fn new(file: &Path, at: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(at)?;
        run_tool(Command::new("mount").args(["-o", "loop"]).arg(file).arg(at))?;
        Ok(Self { at: at.to_owned() })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // A process that was just killed may hold it for a moment.
        let unmounted = (0..50).any(|_| {
            let unmounted = run_tool(Command::new("umount").arg(&self.at)).is_ok();
            if !unmounted {
                thread::sleep(Duration::from_millis(100));
            }
            unmounted
        });
        if !unmounted {
            eprintln!("cannot unmount {}", self.at.display());
        }
    }
}

/// A writer's process, killed at the end.
struct Writer {
    process: Child,
    said: PathBuf,
}

impl Writer {
    /// Starts a writer; what it promises goes to the file `said`, at once and in order. Without `syncs`, strace has each
    /// `fdatasync` return without doing anything.
    fn start(
        subject: Subject,
        dir: &Path,
        said: &Path,
        seed: u64,
        syncs: bool,
    ) -> anyhow::Result<Self> {
        let program = std::env::current_exe()?;
        let mut command = if syncs {
            Command::new(program)
        } else {
            let mut strace = Command::new("strace");
            strace
                .args(["-f", "-qq", "--seccomp-bpf", "-o", "/dev/null"])
                .args(["-e", "trace=fdatasync", "-e", "inject=fdatasync:retval=0"])
                .arg(program);
            strace
        };
        command
            .args(["write", subject.name()])
            .arg(dir)
            .args(["--seed", &seed.to_string()])
            .stdout(File::create(said)?)
            .stdin(Stdio::null())
            .process_group(0);
        Ok(Self {
            process: command.spawn().context("start the writer")?,
            said: said.to_owned(),
        })
    }

    fn wait_for_promise(&self) -> anyhow::Result<()> {
        let end = Instant::now() + PATIENCE;
        while fs::read(&self.said)?.is_empty() {
            ensure!(
                Instant::now() < end,
                "the writer wrote nothing in {PATIENCE:?}"
            );
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // With its strace, which would let it go on. It may have ended by itself.
        if let Some(group) = i32::try_from(self.process.id())
            .ok()
            .and_then(Pid::from_raw)
        {
            kill_process_group(group, Signal::KILL).ok();
        }
        self.process.wait().ok();
    }
}

fn run_tool(command: &mut Command) -> anyhow::Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .with_context(|| format!("start {name}: install it (xfsprogs, e2fsprogs, mount)"))?;
    ensure!(
        output.status.success(),
        "{name}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
