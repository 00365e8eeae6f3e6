//! What may happen to a download.

use super::*;

#[tokio::test]
async fn a_release_is_fetched_checked_and_runs() {
    let (server, address, first, second) = server_with_zoo().await;
    let node = Node::started(Some(address)).await;
    assert_eq!(node.active(), None);
    node.announce(1, &first).await;
    let row = node.runs(&first).await;
    assert_eq!(row.release, Some(Sequence(1)));
    node.announce(2, &second).await;
    let row = node.runs(&second).await;
    assert_eq!(row.previous.map(|slot| slot.digest), Some(first.digest));
    assert_eq!(row.candidate, None);
    assert_eq!(server.ranges(), ["", ""]);
}

#[tokio::test]
async fn a_download_that_is_cut_off_goes_on_where_it_was() {
    let (server, address, first, _) = server_with_zoo().await;
    server.behave(Manner::Cut {
        after: 10_000,
        times: 2,
    });
    let node = Node::started(Some(address)).await;
    node.announce(1, &first).await;
    node.runs(&first).await;
    assert_eq!(server.ranges(), ["", "bytes=10000-", "bytes=20000-"]);
}

#[tokio::test]
async fn a_download_goes_on_after_a_restart() {
    let (server, address, first, _) = server_with_zoo().await;
    server.behave(Manner::Hangs);
    let mut node = Node::started(Some(address)).await;
    node.announce(1, &first).await;
    node.wait("half of the bundle", |row| {
        matches!(&row.candidate, Some(CandidateSlot { state: TrialState::Fetching { received, .. }, .. }) if *received > 0)
    })
    .await;
    node.stop().await;
    let half = std::fs::metadata(node.part(&first)).unwrap().len();
    assert!(half > 0 && half <= first.bytes / 2);
    server.behave(Manner::Well);
    node.start().await;
    node.runs(&first).await;
    assert_eq!(server.ranges(), [String::new(), format!("bytes={half}-")]);
}

/// Starts a node that finds `part` when it begins to fetch a bundle, and waits until the bundle runs all the same.
/// Gives the ranges that were asked for since.
async fn resumed_from(manner: Manner, part: impl Fn(&BundleRef) -> Vec<u8>) -> Vec<String> {
    let (server, address, first, _) = server_with_zoo().await;
    server.behave(Manner::Fails);
    let node = Node::started(Some(address)).await;
    node.announce(1, &first).await;
    node.refuses(&first, Verdict::Unavailable).await;
    std::fs::write(node.part(&first), part(&first)).unwrap();
    server.behave(manner);
    node.runs(&first).await;
    server.ranges()
}

#[tokio::test]
async fn a_server_that_does_not_know_ranges_sends_the_whole() {
    let ranges = resumed_from(Manner::Whole, |_| b"what came before".to_vec()).await;
    assert_eq!(ranges.last().unwrap(), "bytes=16-");
}

#[tokio::test]
async fn a_part_that_is_no_beginning_of_the_bundle_is_thrown_away() {
    let ranges = resumed_from(Manner::Well, |_| vec![b'x'; 1000]).await;
    assert!(
        ranges.ends_with(&["bytes=1000-".to_owned(), String::new()]),
        "{ranges:?}"
    );
    // So is one that is as long as the bundle, or longer.
    for more in [0, 1] {
        let part = |bundle: &BundleRef| vec![b'x'; usize::try_from(bundle.bytes + more).unwrap()];
        let ranges = resumed_from(Manner::Well, part).await;
        assert_eq!(ranges.last().unwrap(), "");
    }
}

#[tokio::test]
async fn other_bytes_than_the_release_names_never_run_and_are_asked_for_again() {
    let (server, address, first, second) = server_with_zoo().await;
    let node = Node::started(Some(address)).await;
    node.announce(1, &first).await;
    node.runs(&first).await;
    let good = zoo("1.1.0");
    let mut altered = good.clone();
    altered[good.len() / 2] ^= 1;
    let truncated = good[..good.len() - 1024].to_vec();
    let longer = [&good[..], &[0; 512]].concat();
    let sizes = [&truncated, &longer].map(|bytes| format!("the server has {} bytes", bytes.len()));
    for (bytes, wanted) in [
        (altered, "what came is not what"),
        (truncated, &*sizes[0]),
        (longer, &*sizes[1]),
    ] {
        server.put(second.digest, bytes);
        let sequence = node.row().release.unwrap().0 + 1;
        node.announce(sequence, &second).await;
        node.refuses_saying(&second, Verdict::DigestMismatch, wanted)
            .await;
        assert_eq!(node.active(), Some(first.digest), "the old version goes on");
        assert!(!node.artifact(&second).exists());
    }
    server.put(second.digest, good);
    node.runs(&second).await;
}

#[tokio::test]
async fn a_server_that_sends_without_end_is_cut_off() {
    let (server, address, first, _) = server_with_zoo().await;
    server.behave(Manner::TooMuch);
    let node = Node::started(Some(address)).await;
    node.announce(1, &first).await;
    let detail = node.refuses(&first, Verdict::DigestMismatch).await;
    assert!(detail.contains("more than"), "{detail}");
}

#[tokio::test]
async fn a_server_that_is_gone_is_waited_for() {
    let (server, address, first, second) = server_with_zoo().await;
    let node = Node::started(Some(address)).await;
    node.announce(1, &first).await;
    node.runs(&first).await;
    server.behave(Manner::Fails);
    node.announce(2, &second).await;
    let detail = node.refuses(&second, Verdict::Unavailable).await;
    assert!(detail.contains("503"), "{detail}");
    server.behave(Manner::Well);
    node.runs(&second).await;
}

#[tokio::test]
async fn an_address_where_nobody_listens_is_waited_for() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let bytes = zoo("1.0.0");
    let first = reference("1.0.0", &bytes);
    let node = Node::started(Some(address)).await;
    node.announce(1, &first).await;
    let detail = node.refuses(&first, Verdict::Unavailable).await;
    assert!(detail.contains("/v1/artifacts/sha256:"), "{detail}");
    let server = Server::default();
    server.put(first.digest, bytes);
    server.serve(TcpListener::bind(address).await.unwrap());
    node.runs(&first).await;
}

#[tokio::test]
async fn a_bundle_for_which_there_is_no_room_is_refused_and_waited_for() {
    let (_, address, first, _) = server_with_zoo().await;
    let node = Node::started(Some(address)).await;
    // A file that cannot be written stands for a disk that cannot.
    std::fs::create_dir(node.part(&first)).unwrap();
    node.announce(1, &first).await;
    let detail = node.refuses(&first, Verdict::Unavailable).await;
    assert!(detail.contains("the disk fails"), "{detail}");
    std::fs::remove_dir(node.part(&first)).unwrap();
    node.runs(&first).await;
}

#[tokio::test]
async fn a_rate_is_kept_to() {
    let (_, address, first, _) = server_with_zoo().await;
    let mut node = Node::new(Some(address));
    node.config.rate_bytes_per_s = Some(first.bytes * 2);
    node.start().await;
    let since = std::time::Instant::now();
    node.announce(1, &first).await;
    node.runs(&first).await;
    assert!(
        since.elapsed() >= Duration::from_millis(450),
        "{:?}",
        since.elapsed()
    );
}

/// A node on which the first version runs, and the second is to come in the server's manner.
async fn with_second(manner: Manner) -> (Node, Server, BundleRef) {
    let (server, address, first, second) = server_with_zoo().await;
    let node = Node::started(Some(address)).await;
    node.announce(1, &first).await;
    node.runs(&first).await;
    server.behave(manner);
    node.announce(2, &second).await;
    (node, server, second)
}

fn fetched_bytes(row: &ReportedModel) -> u64 {
    row.trial.as_ref().expect("a trial").fetched_bytes
}

#[tokio::test]
async fn a_server_that_has_enough_to_do_is_asked_again_later_by_name() {
    let (node, server, second) = with_second(Manner::Busy { times: 1 }).await;
    let detail = node.refuses(&second, Verdict::Unavailable).await;
    assert!(detail.contains("asks to be left alone for 1s"), "{detail}");
    node.runs(&second).await;
    let nodes = server.inner.nodes.lock().unwrap();
    assert!(nodes.iter().all(|node| node == "lab/gw-1"), "{nodes:?}");
    assert_eq!(nodes.len(), 3);
}

#[tokio::test]
async fn what_the_running_version_has_does_not_come_again() {
    let (node, _, second) = with_second(Manner::Encodes {
        cut_after: usize::MAX,
    })
    .await;
    let row = node.runs(&second).await;
    let came = fetched_bytes(&row);
    assert!(
        came > 1000 && came < second.bytes * 6 / 10,
        "{came} of {}",
        second.bytes
    );
}

#[tokio::test]
async fn an_encoded_answer_that_is_cut_off_is_done_without() {
    let (node, server, second) = with_second(Manner::Encodes { cut_after: 10_000 }).await;
    let row = node.runs(&second).await;
    assert_eq!(server.ranges(), ["", "", ""]);
    assert_eq!(fetched_bytes(&row), 10_000 + second.bytes);
}

#[tokio::test]
async fn an_encoding_that_cannot_be_undone_is_done_without() {
    let (node, server, second) = with_second(Manner::EncodesWrongly).await;
    let row = node.runs(&second).await;
    assert!(fetched_bytes(&row) >= second.bytes);
    assert_eq!(server.ranges(), ["", "", ""]);
}
