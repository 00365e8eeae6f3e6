//! Candidates beside an active version, good ones and ones that do harm, each in a process of its own.

use lamppost_agent_core::slot::{Input, ShadowEnd};
use lamppost_models::id::PredictionId;
use lamppost_models::message::Label;
use lamppost_models::rollout::Shadow;
use lamppost_models::trial::Comparison;
use lamppost_models::{BootId, Reading, Value};

use super::super::artifacts::Artifacts;
use super::super::check::Checks;
use super::super::jobs::{Done, Job, Shared, What};
use super::super::shadow::{Run, Shadows, shadow_bundle_main};
use super::onnx::{Above, Does, bundle};
use super::*;
use crate::tap::{Beside, Ran, Said};

/// Not a test by itself: the process that holds candidates for the others is this program, started with this test's name.
#[test]
fn shadow_bundle_child() {
    if std::env::var_os("LAMPPOST_CHECK_MEMORY_BYTES").is_none() {
        return;
    }
    let file = std::env::args_os().next_back().unwrap();
    let code = shadow_bundle_main(Path::new(&file));
    std::process::exit(i32::from(code != std::process::ExitCode::SUCCESS));
}

/// How a bench differs from the usual.
struct Setup {
    /// A shell script in place of the child.
    script: Option<&'static str>,
    memory_bytes: u64,
    window_timeout: Duration,
    cpu_share: f64,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            script: None,
            memory_bytes: 4 * 1024 * 1024 * 1024,
            window_timeout: PATIENCE,
            cpu_share: 1.0,
        }
    }
}

/// A candidate in shadow, and the engine's thread played by the test.
struct Bench {
    dir: tempfile::TempDir,
    tap: Tap,
    done: mpsc::Receiver<Done>,
    stop: CancellationToken,
    task: JoinHandle<()>,
    windows: u64,
}

impl Bench {
    fn start(does: Does, setup: &Setup) -> Self {
        let bytes = bundle("1.1.0", does);
        let candidate = reference("1.1.0", &bytes);
        let dir = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::open(dir.path().join("artifacts")).unwrap();
        artifacts.import(&bytes, candidate.digest).unwrap();
        let checker = Checker {
            program: setup.script.map(|_| "/bin/sh".into()),
            args: Vec::new(),
            memory_bytes: setup.memory_bytes,
            timeout: PATIENCE,
        };
        let checks = Checks::new(&checker).unwrap();
        let args = if let Some(script) = setup.script {
            let path = dir.path().join("child.sh");
            std::fs::write(&path, script).unwrap();
            vec![path.into()]
        } else {
            let name = "slots::tests::shadow::shadow_bundle_child";
            [name, "--exact", "--nocapture", "--test-threads=1"]
                .map(OsString::from)
                .to_vec()
        };
        let shadows = Shadows::new(&checks, args, setup.window_timeout);
        let (sender, done) = mpsc::channel(1024);
        let stop = CancellationToken::new();
        let job = Job {
            setup: Arc::new(ModelSetup {
                name: model(),
                factory: None,
                streams: Vec::new(),
            }),
            factory: None,
            stop: stop.clone(),
            before: None,
            over: CancellationToken::new(),
        };
        let (tap, beside) = (Tap::default(), Arc::<Beside>::default());
        tap.put_beside(Some(Arc::clone(&beside)));
        let run = Run {
            shared: Arc::new(Shared::new(artifacts, None, checks, shadows)),
            done: sender,
            job,
            bundle: candidate,
            terms: Shadow {
                cpu_share: setup.cpu_share,
                ..Shadow::default()
            },
            beside,
            labels: Labels::start(Vec::new()).0,
        };
        Self {
            dir,
            tap,
            done,
            stop,
            task: tokio::spawn(run.run()),
            windows: 0,
        }
    }

    /// The active version scores a window, and says its volume.
    fn feed(&mut self, volume: f64) {
        let number = self.windows;
        self.windows += 1;
        let ts = Timestamp::EPOCH.offset_ms(i64::try_from(number).unwrap() * 3_600_000);
        let fields = [("volume".parse().unwrap(), Value::Number(volume))].into();
        let id = PredictionId {
            boot: BootId::from_u64(1),
            number,
        };
        let said = Said {
            id,
            ts,
            label: Some(Label::Value(volume)),
            took_us: 10,
            labelled: false,
            offer: None,
        };
        let window = [Arc::new(Reading { ts, fields })];
        let tapped = self.tap.look().unwrap();
        tapped.scored(Digest::of(b"active"), 0, &window, Ran::Well(said));
    }

    async fn next(&mut self) -> Input {
        let next = tokio::time::timeout(PATIENCE, self.done.recv()).await;
        match next.expect("it says something").unwrap().what {
            What::Input(input) => input,
            What::Checked { .. } | What::Opened { .. } => {
                panic!("a shadow checks and opens nothing")
            }
        }
    }

    /// Waits for a comparison.
    async fn until(&mut self, wanted: impl Fn(&Comparison) -> bool) -> Comparison {
        loop {
            let input = self.next().await;
            let Input::Shadowed { comparison, .. } = input else {
                panic!("{input:?}")
            };
            if wanted(&comparison) {
                return comparison;
            }
        }
    }

    /// Waits for the end; gives the last comparison, verdict and detail.
    async fn refused(&mut self) -> (Comparison, Verdict, String) {
        let mut last = Comparison::default();
        loop {
            let input = self.next().await;
            if let Input::Shadowed { comparison, .. } = input {
                last = comparison;
                continue;
            }
            let Input::ShadowEnded {
                end: ShadowEnd::Refused { verdict, detail },
                ..
            } = input
            else {
                panic!("{input:?}")
            };
            return (last, verdict, detail);
        }
    }

    async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task)
            .await
            .expect("it stops")
            .unwrap();
    }
}

#[tokio::test]
async fn a_good_candidate_is_compared_window_by_window() {
    let mut bench = Bench::start(Does::Persists { more: 5.0 }, &Setup::default());
    for hour in 0..30 {
        bench.feed(f64::from(hour) * 100.0);
    }
    let found = bench.until(|found| found.windows == 30).await;
    assert_eq!((found.left_out, found.candidate.failures), (0, 0));
    assert_eq!(found.disagreement.n, 30);
    assert!((found.disagreement.mean - 5.0).abs() < 1e-3, "{found:?}");
    assert_eq!(found.active.latency_p50_us, 10);
    assert!(found.candidate.latency_p99_us >= found.candidate.latency_p50_us);
    assert_eq!(found.loss_difference.n, 0);
    bench.stop().await;
}

#[tokio::test]
async fn what_is_not_a_number_is_a_failure_and_the_next_window_is_another_matter() {
    let mut bench = Bench::start(Does::Until(Above::Nan), &Setup::default());
    for volume in [-1.0, 1.0, -2.0] {
        bench.feed(volume);
    }
    let found = bench.until(|found| found.windows == 3).await;
    assert_eq!((found.candidate.failures, found.active.failures), (1, 0));
    assert_eq!(found.disagreement.n, 2);
    bench.stop().await;
}

#[tokio::test]
async fn a_window_that_comes_to_no_end_costs_the_process_and_in_the_end_the_candidate() {
    let setup = Setup {
        window_timeout: Duration::from_millis(500),
        ..Setup::default()
    };
    let mut bench = Bench::start(Does::Until(Above::Counts { turns: 8_000_000 }), &setup);
    bench.feed(-1.0);
    let found = bench.until(|found| found.windows == 1).await;
    assert_eq!(found.candidate.failures, 0);
    for _ in 0..4 {
        bench.feed(1.0);
    }
    let (found, verdict, detail) = bench.refused().await;
    assert_eq!((found.windows, found.candidate.failures), (5, 4));
    assert_eq!(verdict, Verdict::Failing);
    assert_eq!(detail, "it gave no answer within 500ms");
}

#[tokio::test]
async fn a_candidate_within_its_share_leaves_windows_out() {
    let setup = Setup {
        cpu_share: 0.001,
        ..Setup::default()
    };
    let mut bench = Bench::start(Does::Until(Above::Counts { turns: 20_000 }), &setup);
    // Each takes milliseconds, and so seconds of rest.
    bench.feed(1.0);
    bench.until(|found| found.windows == 1).await;
    for _ in 0..500 {
        bench.feed(1.0);
    }
    let found = bench.until(|found| found.left_out > 0).await;
    assert!(found.left_out >= 400 && found.windows < 10, "{found:?}");
    bench.stop().await;
}

#[tokio::test]
async fn a_child_that_crashes_is_the_candidates_verdict() {
    let script = r#"printf '\nlamppost-shadow 1\n\023\000\000\000{"answer":"opened"}'
        echo 'about to go wrong' >&2
        head -c 4 > /dev/null
        kill -SEGV $$"#;
    let setup = Setup {
        script: Some(script),
        ..Setup::default()
    };
    let mut bench = Bench::start(Does::Persists { more: 0.0 }, &setup);
    bench.feed(1.0);
    let (_, verdict, detail) = bench.refused().await;
    assert_eq!(verdict, Verdict::Crashed);
    assert!(detail.contains("signal 11"), "{detail}");
    assert!(detail.contains("about to go wrong"), "{detail}");
}

#[tokio::test]
async fn a_child_that_talks_nonsense_is_the_candidates_verdict() {
    for (script, words) in [
        ("yes", "no greeting"),
        (
            "printf '\\nlamppost-shadow 1\\n'; yes",
            "the limit is 65536",
        ),
        (
            "printf '\\nlamppost-shadow 1\\n\\002\\000\\000\\000{}'; sleep 60",
            "something else than an answer",
        ),
        ("exit 3", "ended with code 3"),
    ] {
        let setup = Setup {
            script: Some(script),
            ..Setup::default()
        };
        let mut bench = Bench::start(Does::Persists { more: 0.0 }, &setup);
        let (_, verdict, detail) = bench.refused().await;
        assert_eq!(verdict, Verdict::Crashed);
        assert!(detail.contains(words), "{detail}");
    }
}

#[tokio::test]
async fn a_bundle_that_is_gone_is_fetched_again_and_not_blamed() {
    let mut bench = Bench::start(Does::Persists { more: 0.0 }, &Setup::default());
    std::fs::remove_dir_all(bench.dir.path().join("artifacts")).unwrap();
    let input = bench.next().await;
    let Input::ShadowEnded {
        end: ShadowEnd::Undecided { detail },
        ..
    } = input
    else {
        panic!("{input:?}")
    };
    assert!(detail.contains("not on the disk"), "{detail}");
}

#[tokio::test]
async fn a_stop_ends_the_child_whatever_it_does() {
    let script = r#"echo $$ > "$1.pid"
        trap '' TERM INT HUP
        sleep 600 & wait"#;
    let setup = Setup {
        script: Some(script),
        ..Setup::default()
    };
    let bench = Bench::start(Does::Persists { more: 0.0 }, &setup);
    let folder = bench.dir.path().join("artifacts");
    let pid = || {
        let files = std::fs::read_dir(&folder).unwrap();
        let paths = files.map(|file| file.unwrap().path());
        let path = paths
            .into_iter()
            .find(|path| path.extension().is_some_and(|end| end == "pid"))?;
        std::fs::read_to_string(path)
            .unwrap()
            .trim()
            .parse::<u32>()
            .ok()
    };
    let pid = until("the child is there", pid).await;
    assert!(is_there(pid));
    bench.stop().await;
    until("the child is gone", || (!is_there(pid)).then_some(())).await;
}

/// Whether a process is there and not only remembered.
fn is_there(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let waited = async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waited)
        .await
        .unwrap_or_else(|_| panic!("waited until {what}"))
}

/// The process that holds the candidate.
fn child_of(bench: &Bench) -> u32 {
    let own = bench.dir.path().to_str().unwrap();
    let is_child = |pid: &u32| {
        std::fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(own))
    };
    let pids = std::fs::read_dir("/proc").unwrap();
    let mut pids = pids.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.find(is_child).expect("the child runs")
}

#[tokio::test]
async fn a_child_may_open_nothing_and_yields_to_all() {
    let mut bench = Bench::start(Does::Persists { more: 0.0 }, &Setup::default());
    bench.feed(1.0);
    bench.until(|found| found.windows == 1).await;
    let pid = child_of(&bench);
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let limits = read("limits");
    let limit = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        let mut words = line[name.len()..].split_whitespace();
        words.next().unwrap().to_owned()
    };
    assert_eq!(limit("Max open files"), "3");
    assert_eq!(limit("Max file size"), "0");
    assert_eq!(limit("Max address space"), "4294967296");
    assert_eq!(read("oom_score_adj").trim(), "1000");
    // Below a test, the child's work is not on its first thread.
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let nice = tasks.map(|task| {
        let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
        let fields = stat.rsplit(") ").next().unwrap().split(' ').nth(16);
        fields.unwrap().parse::<i32>().unwrap()
    });
    assert_eq!(nice.max(), Some(19));
    bench.stop().await;
}

#[tokio::test]
async fn a_candidate_has_no_more_memory_than_it_may() {
    // How much address space such a process has before it is asked for much.
    let mut bench = Bench::start(Does::Persists { more: 0.0 }, &Setup::default());
    bench.feed(1.0);
    bench.until(|found| found.windows == 1).await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", child_of(&bench))).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmSize:"));
    let kib: u64 = line
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    bench.stop().await;
    let setup = Setup {
        memory_bytes: kib * 1024 + 30_000_000,
        ..Setup::default()
    };
    // Three times 41 MB at once, where the volume is above 0: more than the allocator may have set aside.
    let mut bench = Bench::start(Does::Until(Above::Fills { side: 3_200 }), &setup);
    bench.feed(-1.0);
    let found = bench.until(|found| found.windows == 1).await;
    assert_eq!(found.candidate.failures, 0);
    bench.feed(1.0);
    bench.feed(-1.0);
    // The engine notices that there is no more, and goes on with the next window.
    let found = bench.until(|found| found.windows == 3).await;
    assert_eq!(found.candidate.failures, 1);
    bench.stop().await;

    // Where it does not, the process ends and says why.
    let setup = Setup {
        script: Some("echo 'memory allocation of 40960000 bytes failed' >&2; kill -ABRT $$"),
        ..Setup::default()
    };
    let mut bench = Bench::start(Does::Persists { more: 0.0 }, &setup);
    let (_, verdict, detail) = bench.refused().await;
    assert_eq!(verdict, Verdict::TooLarge, "{detail}");
    assert!(detail.contains("signal 6"), "{detail}");
}
