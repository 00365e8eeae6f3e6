//! The HTTP API from outside: artifacts, registry, refusals.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by a panic"
)]

mod support;

use lamppost_coordinator::api::{ModelDetail, ModelRow};
use lamppost_models::Digest;
use lamppost_models::bundle::BUNDLE_BYTES_MAX;
use reqwest::header::{self, HeaderName};
use reqwest::{Method, RequestBuilder};
use support::{Coordinator, altered_bundle, bundle, config};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::test(flavor = "multi_thread")]
async fn artifacts_come_whole_in_parts_and_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(config(dir.path())).await;
    let bytes = bundle("1.0.0");
    let model = coordinator.push(bytes.clone()).await;
    assert_eq!(
        (model.digest, model.bytes),
        (Digest::of(&bytes), bytes.len() as u64)
    );
    let address = format!("/v1/artifacts/{}", model.digest);
    let tag = format!("\"{}\"", model.digest);
    let get = async |headers: &[(HeaderName, &str)]| {
        let request = coordinator.request(Method::GET, &address);
        let request = headers.iter().fold(request, |request, (name, value)| {
            request.header(name, *value)
        });
        let response = request.send().await.unwrap();
        let range = response
            .headers()
            .get(header::CONTENT_RANGE)
            .map(|range| range.to_str().unwrap().to_owned());
        (
            response.status().as_u16(),
            range,
            response.bytes().await.unwrap(),
        )
    };

    let (status, range, whole) = get(&[]).await;
    assert_eq!((status, range, &whole[..]), (200, None, &bytes[..]));
    let size = bytes.len();
    let (status, range, part) = get(&[(header::RANGE, "bytes=100-299")]).await;
    assert_eq!(
        (status, range, &part[..]),
        (206, Some(format!("bytes 100-299/{size}")), &bytes[100..300])
    );
    // As an agent resumes: the rest, if it is still the same artifact.
    let (status, _, rest) = get(&[(header::RANGE, "bytes=300-"), (header::IF_RANGE, &tag)]).await;
    assert_eq!((status, &rest[..]), (206, &bytes[300..]));
    let (status, _, other) = get(&[
        (header::RANGE, "bytes=300-"),
        (header::IF_RANGE, "\"sha256:other\""),
    ])
    .await;
    assert_eq!((status, other.len()), (200, size));
    let (status, _, tail) = get(&[(header::RANGE, "bytes=-7")]).await;
    assert_eq!((status, &tail[..]), (206, &bytes[size - 7..]));
    let (status, range, _) = get(&[(header::RANGE, &format!("bytes={size}-"))]).await;
    assert_eq!((status, range), (416, Some(format!("bytes */{size}"))));
    assert_eq!(get(&[(header::IF_NONE_MATCH, &tag)]).await.0, 304);

    let head = coordinator
        .request(Method::HEAD, &address)
        .send()
        .await
        .unwrap();
    assert_eq!(head.headers()[header::CONTENT_LENGTH], size.to_string());
    assert_eq!(head.headers()[header::ETAG], tag);
    assert_eq!(head.headers()[header::ACCEPT_RANGES], "bytes");
    let (status, _) = coordinator
        .refused(coordinator.request(Method::GET, "/v1/artifacts/sha256:12"))
        .await;
    assert_eq!(status, 400);
    let missing = format!("/v1/artifacts/{}", Digest::of(b"missing"));
    assert_eq!(
        coordinator
            .refused(coordinator.request(Method::GET, &missing))
            .await
            .0,
        404
    );
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_pushed_once_and_never_changes() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(config(dir.path())).await;
    let push = async |bytes: Vec<u8>| {
        let response = coordinator
            .request(Method::POST, "/v1/models")
            .body(bytes)
            .send()
            .await
            .unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    let bytes = bundle("1.0.0");
    let (status, text) = push(bytes.clone()).await;
    assert_eq!(status, 201, "{text}");
    let (status, text) = push(bytes.clone()).await;
    assert!(
        status == 200 && text.contains("\"created\":false"),
        "{status} {text}"
    );

    let other = altered_bundle("1.0.0", |manifest, _| {
        manifest["summary"] = "another one".into();
    });
    let (status, text) = push(other.clone()).await;
    assert_eq!(status, 409);
    assert!(
        text.contains(&Digest::of(&bytes).to_string())
            && text.contains(&Digest::of(&other).to_string()),
        "{text}"
    );
    let artifacts = std::fs::read_dir(dir.path().join("artifacts"))
        .unwrap()
        .count();
    assert_eq!(artifacts, 1, "a refused bundle leaves nothing");

    coordinator.push(bundle("1.1.0")).await;
    let rows: Vec<ModelRow> = coordinator.get("/v1/models").await;
    assert_eq!(
        rows.iter()
            .map(|row| row.version.to_string())
            .collect::<Vec<_>>(),
        ["1.0.0", "1.1.0"]
    );
    let detail: ModelDetail = coordinator.get("/v1/models/traffic-flow/1.1.0").await;
    assert_eq!(
        (detail.model, detail.manifest.window.count),
        (rows[1].clone(), 24)
    );
    let (status, text) = coordinator
        .refused(coordinator.request(Method::GET, "/v1/models/traffic-flow/9.9.9"))
        .await;
    assert!(status == 404 && text.contains("9.9.9"), "{text}");
    coordinator.stop().await;

    let coordinator = Coordinator::start(config(dir.path())).await;
    assert_eq!(coordinator.get::<Vec<ModelRow>>("/v1/models").await, rows);
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_pass_the_preflight_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(config(dir.path())).await;
    let good = bundle("1.0.0");
    let wrong_golden = altered_bundle("1.0.0", |_, golden| {
        let mut value: serde_json::Value = serde_json::from_slice(golden).unwrap();
        value["cases"][0]["outputs"][0] = 12_345.0.into();
        *golden = serde_json::to_vec(&value).unwrap();
    });
    let wrong_tensor = altered_bundle("1.0.0", |manifest, _| {
        manifest["input"]["tensor"] = "nothing".into();
    });
    let cases = [
        (b"not a bundle".to_vec(), "tar"),
        (Vec::new(), "manifest.json"),
        (good[..good.len() / 2].to_vec(), "tar"),
        (wrong_golden, "golden"),
        (wrong_tensor, "nothing"),
    ];
    for (bytes, wanted) in cases {
        let request = coordinator.request(Method::PUT, "/v1/models").body(bytes);
        let (status, text) = coordinator.refused(request).await;
        assert!(
            status == 422 && text.contains(wanted),
            "{status} {text}, wanted {wanted}"
        );
    }
    assert_eq!(
        std::fs::read_dir(dir.path().join("artifacts"))
            .unwrap()
            .count(),
        0
    );
    assert!(
        coordinator
            .get::<Vec<ModelRow>>("/v1/models")
            .await
            .is_empty()
    );
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_large_a_bundle_is_refused_before_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(config(dir.path())).await;
    let mut stream = tokio::net::TcpStream::connect(coordinator.ready.http)
        .await
        .unwrap();
    let length = BUNDLE_BYTES_MAX + 1;
    let head = format!(
        "PUT /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(support::DEADLINE, stream.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 413") && answer.contains("the limit"),
        "{answer}"
    );
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(config(dir.path())).await;
    let mut stream = tokio::net::TcpStream::connect(coordinator.ready.http)
        .await
        .unwrap();
    stream
        .write_all(b"PUT /v1/models HTTP/1.1\r\nhost: x\r\ncontent-length: 5000\r\n\r\nhalf")
        .await
        .unwrap();
    let artifacts = dir.path().join("artifacts");
    let files = || std::fs::read_dir(&artifacts).unwrap().count();
    support::eventually("an upload begins", async || (files() == 1).then_some(())).await;
    drop(stream);
    support::eventually("its file is deleted", async || (files() == 0).then_some(())).await;
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_altered_artifact_is_not_served_and_a_push_mends_it() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(config(dir.path())).await;
    let bytes = bundle("1.0.0");
    let model = coordinator.push(bytes.clone()).await;
    coordinator.stop().await;
    let file = dir.path().join("artifacts").join(model.digest.hex());
    let mut altered = bytes.clone();
    altered[5_000] ^= 1;
    std::fs::write(&file, altered).unwrap();

    let coordinator = Coordinator::start(config(dir.path())).await;
    let address = format!("/v1/artifacts/{}", model.digest);
    let (status, text) = coordinator
        .refused(coordinator.request(Method::GET, &address))
        .await;
    assert!(status == 500 && text.contains("altered"), "{status} {text}");
    assert_eq!(
        coordinator
            .refused(coordinator.request(Method::GET, &address))
            .await
            .0,
        404
    );
    coordinator.push(bytes.clone()).await;
    let response = coordinator
        .request(Method::GET, &address)
        .send()
        .await
        .unwrap();
    assert_eq!(response.bytes().await.unwrap(), bytes);
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_guards_all_but_artifacts() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.http.token = Some("0123456789abcdef".to_owned());
    let coordinator = Coordinator::start(config).await;
    let model = coordinator.push(bundle("1.0.0")).await;
    let address = |path: &str| format!("http://{}{path}", coordinator.ready.http);
    for path in [
        "/v1/health",
        "/v1/key",
        "/v1/models",
        "/v1/nodes",
        "/v1/ledger",
        "/v1/rollouts",
        "/v1/watch?filter=%23",
    ] {
        for token in [None, Some("0123456789abcdee"), Some("")] {
            let request = coordinator.http.get(address(path));
            let request = token.into_iter().fold(request, RequestBuilder::bearer_auth);
            assert_eq!(
                coordinator.refused(request).await.0,
                401,
                "{path} {token:?}"
            );
        }
        if !path.contains("watch") {
            let response = coordinator.request(Method::GET, path).send().await.unwrap();
            assert_eq!(response.status().as_u16(), 200, "{path}");
        }
    }
    let artifact = coordinator
        .http
        .get(address(&format!("/v1/artifacts/{}", model.digest)))
        .send()
        .await
        .unwrap();
    assert_eq!(artifact.status().as_u16(), 200);
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_is_json_that_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(config(dir.path())).await;
    let start = |body: &str| {
        coordinator
            .request(Method::POST, "/v1/rollouts")
            .body(body.to_owned())
    };
    let get = |path: &str| coordinator.request(Method::GET, path);
    let long = "x".repeat(70_000);
    let cases = [
        (get("/nowhere"), 404, "nothing"),
        (
            coordinator.request(Method::DELETE, "/v1/models"),
            405,
            "method",
        ),
        (start("{"), 400, "JSON"),
        (
            start("{\"model\":\"a b\",\"version\":\"1.0.0\",\"group\":\"all\"}"),
            400,
            "a b",
        ),
        (
            start("{\"model\":\"m\",\"version\":\"1.0.0\",\"group\":\"all\",\"wave\":1}"),
            400,
            "wave",
        ),
        (
            start("{\"model\":\"m\",\"version\":\"1.0.0\",\"group\":\"all\"}"),
            404,
            "model push",
        ),
        (start(&long), 413, "limit"),
        (get("/v1/models/a/one"), 400, "unexpected character"),
        (get("/v1/rollouts/all/traffic-flow"), 404, "rollout start"),
        (
            coordinator.request(Method::POST, "/v1/rollouts/all/traffic-flow/rollback"),
            404,
            "rollout start",
        ),
        (get("/v1/nodes/a/b"), 404, "a/b"),
        (get("/v1/ledger/a/b"), 404, "a/b"),
        (get("/v1/ledger?limit=0"), 400, "1 to 500"),
        (get("/v1/ledger?after=a"), 400, "SITE/NODE"),
        (get("/v1/ledger?since=soon"), 400, "24h"),
        (get("/v1/ledger?colour=1"), 400, "colour"),
        (get("/v1/nodes/a%20b/c"), 400, "a b"),
        (get("/v1/predictions"), 400, "node="),
        (get("/v1/predictions?node=a"), 400, "SITE/NODE"),
        (get("/v1/predictions?node=a/b"), 404, "a/b"),
        (get("/v1/predictions?node=a/b&limit=5000"), 400, "1000"),
        (get("/v1/predictions?node=a/b&limit=0"), 400, "1 to 1000"),
        (
            get("/v1/predictions?node=a/b&before=12"),
            400,
            "\"12\" is not",
        ),
        (get("/v1/predictions?node=a/b&colour=red"), 400, "colour"),
        (get("/v1/watch"), 400, "filter="),
        (get("/v1/watch?filter=a%23"), 400, "filter"),
    ];
    for (request, wanted_status, wanted_text) in cases {
        let shown = format!("{request:?}");
        let (status, text) = coordinator.refused(request).await;
        assert!(
            status == wanted_status && text.contains(wanted_text),
            "{status} {text}: {shown}"
        );
    }
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_coordinator_on_the_same_data_or_port_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(config(dir.path())).await;
    let run = |config| async {
        let (ready, _) = tokio::sync::oneshot::channel();
        let error =
            lamppost_coordinator::run(config, tokio_util::sync::CancellationToken::new(), ready)
                .await;
        format!("{:#}", anyhow::Error::from(error.unwrap_err()))
    };
    let text = run(config(dir.path())).await;
    assert!(
        text.contains("in use by another coordinator (process"),
        "{text}"
    );
    let other = tempfile::tempdir().unwrap();
    let mut same_port = config(other.path());
    same_port.http.listen = coordinator.ready.http;
    let text = run(same_port).await;
    assert!(text.contains("another coordinator"), "{text}");
    coordinator.stop().await;
}
