//! The committed seeds of `broker/fuzz`: valid packets, scripts that use the broker as it is meant, and whatever fuzzing
//! has found since. `LAMPPOST_WRITE_SEEDS=1` writes the first two anew.

use crate::seeds::seeds;
use lamppost_broker::{
    Broker, Config,
    fuzzing::{Door, Script, Verdict, decode, play, serves},
};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
        .join(target)
}

/// Every committed seed of a target.
fn committed(target: &str) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder(target)).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        found.push((name, fs::read(path).unwrap()));
    }
    found
}

fn scripts() -> BTreeMap<&'static str, Script> {
    let script = Script::default;
    BTreeMap::from([
        (
            "plain",
            script()
                .step(1, 0, 0)
                .step(2, 0, 2)
                .step(3, 0, 2)
                .step(4, 0, 0)
                .step(5, 0, 0),
        ),
        (
            "plain-5",
            script()
                .step(1, 0, 1)
                .step(2, 0, 3)
                .step(3, 0, 3)
                .step(4, 0, 0)
                .step(6, 0, 0),
        ),
        (
            "exactly-once",
            script()
                .step(1, 0, 1)
                .step(1, 1, 9)
                .step(2, 0, 5)
                .step(3, 1, 5)
                .step(4, 1, 2)
                .step(4, 0, 1)
                .step(4, 0, 3),
        ),
        (
            "takeover",
            script()
                .step(1, 0, 4)
                .step(1, 1, 4)
                .step(1, 2, 5)
                .step(5, 0, 0)
                .step(5, 2, 0),
        ),
        (
            "away-and-back",
            script()
                .step(1, 0, 3)
                .step(2, 0, 3)
                .step(6, 0, 0)
                .step(1, 1, 9)
                .step(3, 1, 3)
                .step(1, 0, 3)
                .step(4, 0, 0),
        ),
        (
            "shared",
            script()
                .step(1, 0, 1)
                .step(1, 1, 9)
                .step(2, 0, 0x23)
                .step(2, 1, 0x23)
                .step(3, 0, 3)
                .step(3, 1, 3)
                .step(6, 1, 0),
        ),
        (
            "retained",
            script()
                .step(1, 0, 0)
                .step(3, 0, 8)
                .step(1, 1, 8)
                .step(2, 1, 0),
        ),
        (
            "will",
            script()
                .step(1, 0, 0)
                .step(2, 0, 0)
                .step(1, 1, 12)
                .send(1, b"\xf0\0"),
        ),
        (
            "halves",
            script()
                .step(1, 0, 0)
                .send(0, b"\x30\x0a\0\x03f/")
                .step(5, 1, 0)
                .send(0, b"0paylo"),
        ),
    ])
}

fn check(target: &str, name: &str, bytes: &[u8]) {
    let path = folder(target).join(name);
    if std::env::var_os("LAMPPOST_WRITE_SEEDS").is_some() {
        fs::create_dir_all(folder(target)).unwrap();
        fs::write(&path, bytes).unwrap();
    }
    let committed = fs::read(&path);
    assert!(
        committed.is_ok_and(|committed| committed == bytes),
        "{} is not what this test makes; LAMPPOST_WRITE_SEEDS=1 writes it anew",
        path.display()
    );
}

#[test]
fn packets_are_committed_and_decode() {
    for seed in seeds() {
        let bytes = seed.bytes();
        check("decode", seed.name, &bytes);
        // Extended authentication is refused after it was negotiated by nobody.
        let wanted = if seed.name == "auth-5" {
            Verdict::Refused
        } else {
            Verdict::WellFormed
        };
        assert_eq!(decode(&bytes, seed.v5), wanted, "{}", seed.name);
    }
    for (_, bytes) in committed("decode") {
        for v5 in [false, true] {
            decode(&bytes, v5);
        }
    }
}

#[tokio::test]
async fn scripts_are_committed_and_played() {
    for (name, script) in scripts() {
        check("front", name, script.bytes());
    }
    let config = Config {
        listen: None,
        allow_anonymous: true,
        ..Config::default()
    };
    let broker = Broker::start(config).await.unwrap();
    for (name, script) in committed("front") {
        println!("{name}");
        play(&broker, Door::Inside, &script).await;
        serves(&broker, Door::Inside).await.unwrap();
    }
    let stats = broker.stats();
    assert!(
        stats.messages_out > 0 && stats.wills > 0 && stats.takeovers > 0,
        "{stats:?}"
    );
    broker.stop().await;
}
