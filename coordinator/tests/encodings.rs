//! Artifacts in fewer bytes, to clients that can undo it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by a panic"
)]

mod support;

use lamppost_models::Digest;
use reqwest::Method;
use reqwest::header::HeaderMap;
use support::{Coordinator, bundle, config};

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

async fn get(coordinator: &Coordinator, digest: Digest, headers: &[(&str, &str)]) -> Answer {
    let request = coordinator.request(Method::GET, &format!("/v1/artifacts/{digest}"));
    let request = headers.iter().fold(request, |request, (name, value)| {
        request.header(*name, *value)
    });
    let response = request.send().await.unwrap();
    Answer {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        body: response.bytes().await.unwrap().to_vec(),
    }
}

fn undo(encoded: &[u8], prefix: &[u8]) -> Vec<u8> {
    let mut decoder = zstd::stream::read::Decoder::with_ref_prefix(encoded, prefix).unwrap();
    let mut source = Vec::new();
    std::io::Read::read_to_end(&mut decoder, &mut source).unwrap();
    source
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_gets_what_is_new_to_it_and_others_get_it_compressed_or_whole() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(config(dir.path())).await;
    let (first, second) = (bundle("1.0.0"), bundle("1.1.0"));
    coordinator.push(first.clone()).await;
    let digest = coordinator.push(second.clone()).await.digest;
    let known = Digest::of(&first).to_field();
    let dictionary = ("available-dictionary", known.as_str());

    // Twice: made, and kept.
    for _ in 0..2 {
        let delta = get(
            &coordinator,
            digest,
            &[("accept-encoding", "dcz, zstd"), dictionary],
        )
        .await;
        assert_eq!(
            (delta.status, delta.header("content-encoding")),
            (200, "dcz")
        );
        assert_eq!(delta.header("etag"), format!("\"{digest}-dcz\""));
        assert_eq!(
            delta.header("vary"),
            "accept-encoding, available-dictionary"
        );
        assert_eq!(delta.body[8..40], *Digest::of(&first).as_bytes());
        assert!(undo(&delta.body[40..], &first) == second);

        let packed = get(
            &coordinator,
            digest,
            &[("accept-encoding", "gzip, zstd;q=0.5")],
        )
        .await;
        assert_eq!(packed.header("content-encoding"), "zstd");
        assert!(undo(&packed.body, &[]) == second);
        let (delta, packed) = (delta.body.len(), packed.body.len());
        assert!(delta < packed && packed < second.len(), "{delta}, {packed}");
    }

    // A dictionary that is not here, and one that is the artifact itself.
    for known in [Digest::of(b"unknown"), digest] {
        let known = known.to_field();
        let headers = [
            ("accept-encoding", "dcz, zstd"),
            ("available-dictionary", &known),
        ];
        let packed = get(&coordinator, digest, &headers).await;
        assert_eq!(packed.header("content-encoding"), "zstd");
    }
    // Nothing that the client did not ask for, and parts only of the artifact itself.
    let tag = format!("\"{digest}\"");
    for headers in [
        &[][..],
        &[dictionary],
        &[("accept-encoding", "zstd;q=0, gzip")],
        &[("accept-encoding", "zstd"), ("range", "bytes=0-")],
    ] {
        let plain = get(&coordinator, digest, headers).await;
        assert_eq!(plain.header("content-encoding"), "");
        assert_eq!(plain.header("etag"), tag);
        assert!(plain.body == second);
    }
    coordinator.stop().await;
}
