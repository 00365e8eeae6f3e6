//! Releases that must not be taken in, and starts from whatever is on the disk.

use super::*;

#[tokio::test]
async fn releases_that_must_not_be_taken_in_are_refused_and_counted() {
    let (_, address, first, second) = server_with_zoo().await;
    let node = Node::started(Some(address)).await;
    node.announce(5, &first).await;
    node.runs(&first).await;

    let newer = release(6, &second);
    node.deliver(serde_json::to_vec(&newer).unwrap()).await;
    node.counted("unsigned", 1).await;
    node.deliver(b"{".to_vec()).await;
    node.counted("unsigned", 2).await;
    node.deliver(vec![b' '; 20_000]).await;
    node.counted("too-large", 1).await;

    let stranger = ReleaseKey::from_seed(&[8; 32]).sign(&newer).unwrap();
    node.deliver(serde_json::to_vec(&stranger).unwrap()).await;
    node.counted("unknown-key", 1).await;

    let mut altered = node.key.sign(&newer).unwrap();
    altered.payload = node.key.sign(&release(7, &second)).unwrap().payload;
    node.deliver(serde_json::to_vec(&altered).unwrap()).await;
    node.counted("altered", 1).await;

    node.announce(4, &second).await;
    node.counted("stale", 1).await;
    node.announce(5, &second).await;
    node.counted("conflicting", 1).await;

    let mut expired = newer.clone();
    expired.expires_at = wall_clock().offset_ms(-1);
    node.deliver(serde_json::to_vec(&node.key.sign(&expired).unwrap()).unwrap())
        .await;
    node.counted("expired", 1).await;

    let mut elsewhere = newer.clone();
    elsewhere.group = "other".parse().unwrap();
    node.deliver(serde_json::to_vec(&node.key.sign(&elsewhere).unwrap()).unwrap())
        .await;
    node.counted("wrong-topic", 1).await;

    let envelope = serde_json::to_vec(&node.key.sign(&newer).unwrap()).unwrap();
    let other = Delivery {
        group: all(),
        model: "air-quality".parse().unwrap(),
        payload: envelope.into(),
    };
    node.deliveries.send(other).await.unwrap();
    node.counted("other-model", 1).await;
    node.deliver(Vec::new()).await;
    node.counted("withdrawn", 1).await;

    assert_eq!(node.row().release, Some(Sequence(5)));
    assert_eq!(node.active(), Some(first.digest));
    node.announce(6, &second).await;
    node.runs(&second).await;
}

#[tokio::test]
async fn what_ran_last_runs_again_without_any_server() {
    let (_, address, first, second) = server_with_zoo().await;
    let mut node = Node::started(Some(address)).await;
    node.announce(1, &first).await;
    node.runs(&first).await;
    node.announce(2, &second).await;
    node.runs(&second).await;
    node.stop().await;
    node.config.server = None;
    node.start().await;
    let row = node.runs(&second).await;
    assert_eq!(row.release, Some(Sequence(2)));
    assert_eq!(row.previous.map(|slot| slot.digest), Some(first.digest));
    // The number is remembered: the older release, replayed, changes nothing.
    node.announce(1, &first).await;
    node.counted("stale", 1).await;
}

#[tokio::test]
async fn a_damaged_file_falls_back_to_the_version_before_and_is_fetched_again() {
    let (server, address, first, second) = server_with_zoo().await;
    let mut node = Node::started(Some(address)).await;
    node.announce(1, &first).await;
    node.runs(&first).await;
    node.announce(2, &second).await;
    node.runs(&second).await;
    node.stop().await;
    let mut bytes = std::fs::read(node.artifact(&second)).unwrap();
    bytes[5000] ^= 1;
    std::fs::write(node.artifact(&second), &bytes).unwrap();
    server.behave(Manner::Fails);
    node.start().await;
    node.runs(&first).await;
    node.refuses(&second, Verdict::Unavailable).await;
    server.behave(Manner::Well);
    node.runs(&second).await;
    // Without a server, and with both files gone, the factory bundle is the last resort.
    node.stop().await;
    for bundle in [&first, &second] {
        std::fs::remove_file(node.artifact(bundle)).unwrap();
    }
    let factory = node.dir.path().join("factory.tar");
    std::fs::write(&factory, zoo("1.0.0")).unwrap();
    node.config.models[0].factory = Some(factory);
    node.config.server = None;
    node.start().await;
    node.runs(&first).await;
}

#[tokio::test]
async fn the_factory_bundle_runs_from_the_start_and_a_release_takes_its_place() {
    let (server, address, first, second) = server_with_zoo().await;
    let mut node = Node::new(Some(address));
    let factory = node.dir.path().join("factory.tar");
    std::fs::write(&factory, zoo("1.0.0")).unwrap();
    node.config.models[0].factory = Some(factory.clone());
    node.start().await;
    node.runs(&first).await;
    node.announce(1, &second).await;
    node.runs(&second).await;
    // Back to the factory's version: its bytes are here, so nobody is asked for them.
    node.announce(2, &first).await;
    node.runs(&first).await;
    assert_eq!(server.ranges().len(), 1);
    node.stop().await;
    std::fs::write(&factory, b"no bundle").unwrap();
    let refused = Slots::start(node.config.clone(), Labels::start(Vec::new()).0)
        .await
        .unwrap_err();
    assert!(matches!(refused, SlotsError::Factory { .. }), "{refused}");
}

#[tokio::test]
async fn a_factory_bundle_that_fails_its_check_does_not_run() {
    let mut node = Node::new(None);
    let factory = node.dir.path().join("factory.tar");
    let bytes = zoo("1.0.0");
    std::fs::write(&factory, &bytes).unwrap();
    node.config.models[0].factory = Some(factory);
    node.check_with("exit 9");
    node.start().await;
    node.refuses(&reference("1.0.0", &bytes), Verdict::Unusable)
        .await;
    assert_eq!(node.active(), None);
}

/// Files and what they hold; `None` for no file.
type Files<'a> = &'a [(&'a Path, Option<&'a [u8]>)];

fn lay_out(files: Files<'_>) {
    for (path, content) in files {
        match content {
            Some(content) => std::fs::write(path, content).unwrap(),
            None => drop(std::fs::remove_file(path)),
        }
    }
}

/// Starts a node on whatever is on its disk, waits until `second` runs with `first` behind it, and stops it.
async fn comes_up(node: &mut Node, state: &str, first: &BundleRef, second: &BundleRef) {
    node.start().await;
    let mut active = node.slots().active(0);
    // The guard that this gives must not be held: the slots could not change what runs.
    let up = tokio::time::timeout(PATIENCE, active.wait_for(Option::is_some))
        .await
        .is_ok();
    assert!(up, "{state}: nothing runs");
    let digest = second.digest;
    let wanted = |row: &ReportedModel| {
        row.active
            .as_ref()
            .is_some_and(|active| active.digest == digest)
            && row.candidate.is_none()
    };
    let row = node.wait(state, wanted).await;
    assert_eq!(
        row.previous.map(|slot| slot.digest),
        Some(first.digest),
        "{state}"
    );
    assert_eq!(row.release, Some(Sequence(2)), "{state}");
    node.stop().await;
    assert_eq!(node.files().len(), 2, "{state}: {:?}", node.files());
}

/// A node is cut off after every step of an update: whatever is on the disk then, it comes up and gets there.
#[tokio::test]
async fn a_start_from_any_state_of_the_disk_gets_to_the_release() {
    let (server, address, first, second) = server_with_zoo().await;
    let mut node = Node::started(Some(address)).await;
    node.announce(1, &first).await;
    node.runs(&first).await;
    node.stop().await;
    let records = node.dir.path().join("slots");
    let (main, old, new) = ["json", "json.old", "json.new"]
        .map(|extension| records.join(format!("traffic-flow.{extension}")))
        .into();
    let before = std::fs::read(&main).unwrap();
    // The release is on the disk and nothing else of it.
    server.behave(Manner::Fails);
    node.start().await;
    node.announce(2, &second).await;
    node.refuses(&second, Verdict::Unavailable).await;
    node.stop().await;
    let taken = std::fs::read(&main).unwrap();
    server.behave(Manner::Well);
    node.start().await;
    node.runs(&second).await;
    node.stop().await;
    let (after, whole) = (std::fs::read(&main).unwrap(), zoo("1.1.0"));
    let (artifact, part) = (node.artifact(&second), node.part(&second));
    let (half, torn) = (&whole[..whole.len() / 2], &after[..99]);

    let states: &[(&str, Files<'_>)] = &[
        (
            "the release is new",
            &[(&main, Some(&taken)), (&old, Some(&before))],
        ),
        (
            "between the two renames",
            &[(&old, Some(&taken)), (&new, Some(&after))],
        ),
        (
            "a record half written",
            &[(&main, Some(&taken)), (&new, Some(torn))],
        ),
        (
            "a record half lost",
            &[(&main, Some(torn)), (&old, Some(&taken))],
        ),
        (
            "half of the bundle",
            &[(&main, Some(&taken)), (&part, Some(half))],
        ),
        (
            "the bundle, not renamed",
            &[(&main, Some(&taken)), (&part, Some(&whole))],
        ),
        (
            "the bundle, not checked",
            &[(&main, Some(&taken)), (&artifact, Some(&whole))],
        ),
        (
            "half of the bundle, renamed",
            &[(&main, Some(&taken)), (&artifact, Some(half))],
        ),
        (
            "active, half of the bundle",
            &[(&main, Some(&after)), (&artifact, Some(half))],
        ),
        (
            "active, the bundle gone",
            &[(&main, Some(&after)), (&old, Some(&taken))],
        ),
        (
            "all done",
            &[(&main, Some(&after)), (&artifact, Some(&whole))],
        ),
    ];
    for (state, files) in states {
        lay_out(&[
            (&main, None),
            (&old, None),
            (&new, None),
            (&artifact, None),
            (&part, None),
        ]);
        // The version before is what the node falls back to.
        lay_out(&[(&node.artifact(&first), Some(&zoo("1.0.0")))]);
        lay_out(files);
        comes_up(&mut node, state, &first, &second).await;
    }
}

#[tokio::test]
async fn a_record_that_cannot_be_written_holds_everything_up_and_loses_nothing() {
    let (_, address, first, second) = server_with_zoo().await;
    let node = Node::started(Some(address)).await;
    node.announce(1, &first).await;
    node.runs(&first).await;
    // A folder in the place of the new file: it cannot be created.
    let blocker = node.dir.path().join("slots/traffic-flow.json.new");
    std::fs::create_dir(&blocker).unwrap();
    node.announce(2, &second).await;
    node.counted("new", 2).await;
    node.announce(2, &second).await;
    node.counted("known", 1).await;
    assert_eq!(
        node.row().release,
        Some(Sequence(1)),
        "what is not saved has no effect"
    );
    assert_eq!(node.active(), Some(first.digest));
    std::fs::remove_dir(&blocker).unwrap();
    node.runs(&second).await;
}

#[tokio::test]
async fn only_what_runs_and_what_ran_before_stays_on_the_disk() {
    let (server, address, first, second) = server_with_zoo().await;
    let third_bytes = zoo_changed("1.0.0", |golden| format!("{golden} "));
    let third = reference("1.0.0", &third_bytes);
    server.put(third.digest, third_bytes);
    let mut node = Node::new(Some(address));
    std::fs::create_dir_all(node.dir.path().join("artifacts")).unwrap();
    std::fs::write(node.dir.path().join("artifacts/left-over.part"), b"x").unwrap();
    node.start().await;
    for (sequence, bundle) in [(1, &first), (2, &second), (3, &third)] {
        node.announce(sequence, bundle).await;
        node.runs(bundle).await;
        node.slots().tell(0)(Outcome::Worked {
            digest: bundle.digest,
        });
    }
    node.stop().await;
    let mut wanted = [&second, &third].map(|bundle| format!("{}.tar", bundle.digest.hex()));
    wanted.sort();
    assert_eq!(node.files(), wanted);
}
