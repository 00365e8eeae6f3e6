//! A process that is killed in the middle of its commits: what it acknowledged is there, and each commit is whole.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::env;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use lamppost_store::{Options, Recovery, Store, Write};

const CHILD_DIR: &str = "LAMPPOST_STORE_TEST_DIR";

fn number(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes.try_into().unwrap())
}

/// Not a test of its own: the process that [`acknowledged_commits_survive_sigkill`] starts and kills.
#[test]
fn child() {
    let Some(dir) = env::var_os(CHILD_DIR) else {
        return;
    };
    let store = Store::open(Path::new(&dir), &Options::generation())
        .unwrap()
        .store;
    let from = store
        .last(b"a", b"b")
        .unwrap()
        .map_or(0, |(key, _)| number(&key[1..]) + 1);
    for next in from.. {
        let value = next.to_be_bytes().repeat(500);
        let twin = [b"b".as_slice(), &next.to_be_bytes()].concat();
        let one = [b"a".as_slice(), &next.to_be_bytes()].concat();
        store
            .commit(&[Write::put(one, value.clone()), Write::put(twin, value)])
            .unwrap();
        println!("acknowledged {next}");
        std::io::stdout().flush().unwrap();
    }
}

fn start(dir: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn acknowledged_commits_survive_sigkill() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mut acknowledged = None;
    for round in 0..6_usize {
        let mut child = start(&path);
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut heard = 0;
        // The harness of the test prints lines of its own around ours.
        for line in lines.map(Result::unwrap) {
            let Some(at) = line.split_once("acknowledged ") else {
                continue;
            };
            acknowledged = Some(at.1.parse::<u64>().unwrap());
            heard += 1;
            if heard == 7 + 5 * round {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(
            heard >= 7 + 5 * round,
            "the child ended by itself after {heard} commits"
        );

        let opened = Store::open(&path, &Options::generation()).unwrap();
        assert_eq!(opened.recovery, Recovery::Clean);
        let numbers = |prefix: &[u8]| -> Vec<u64> {
            let items = opened.store.scan_prefix(prefix).map(Result::unwrap);
            items
                .inspect(|(key, value)| assert_eq!(*value, key[1..].repeat(500)))
                .map(|(key, _)| number(&key[1..]))
                .collect()
        };
        let (first, second) = (numbers(b"a"), numbers(b"b"));
        assert_eq!(first, second, "both writes of a commit are there, or none");
        assert_eq!(
            first,
            (0..first.len() as u64).collect::<Vec<_>>(),
            "commits are there in order"
        );
        assert!(
            first.last() >= acknowledged.as_ref(),
            "{:?} for {acknowledged:?}",
            first.last()
        );
    }
}
