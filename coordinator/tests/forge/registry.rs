//! Models and samples of a coordinator.

use std::path::Path;

use lamppost_coordinator::api::ModelRow;
use serde_json::{Value, json};

use super::support::server::Server;
use super::support::zoo;
use super::{SHORT, good, level, readings, samples, tempdir, text};

#[test]
fn a_model_of_the_registry_is_trained_and_pushed_and_tells_where_it_is_from() {
    let dir = tempdir();
    let server = Server::start(dir.path());
    server.good(&["model", "push", text(&zoo("1.0.0"))]);
    let readings = readings();
    let base = [
        &[
            "train",
            "--model",
            "traffic-flow",
            "--push",
            "--readings",
            &readings,
        ][..],
        &SHORT,
        &["--epochs", "3", "--rate", "0.0005"],
    ]
    .concat();
    server.json::<Value>(&base);
    server.json::<Value>(&[&base[..], &["--seed", "3"]].concat());
    let lineage: Value = server.json(&["model", "provenance", "traffic-flow", "1.0.2"]);
    let generations = lineage["generations"].as_array().unwrap();
    let versions: Vec<&str> = generations
        .iter()
        .map(|one| one["version"].as_str().unwrap())
        .collect();
    assert_eq!(
        (versions, &lineage["unknown"]),
        (vec!["1.0.2", "1.0.1", "1.0.0"], &Value::Null)
    );
    assert_eq!(generations[0]["provenance"]["seed"], json!(3));
    assert_eq!(
        generations[0]["provenance"]["data"],
        generations[1]["provenance"]["data"]
    );
    let shown = server.good(&["model", "provenance", "traffic-flow", "1.0.1"]);
    for words in [
        "made from\ntraffic-flow 1.0.0",
        "seed     1",
        "code     lamppost ",
        "mae_parent = ",
        "samples  ",
    ] {
        assert!(shown.contains(words), "{words:?} is not in {shown}");
    }
    // A refusal changes nothing there.
    let (code, error) = server.bad(&[&base[..], &["--from", "2017-02-28T00:00:00Z"]].concat());
    assert!(
        code == 1 && error.contains("part would be empty"),
        "{error}"
    );
    let (code, error) = server.bad(&[&base[..], &["--version", "1.0.0"]].concat());
    assert!(code == 1 && error.contains("1.0.0"), "{error}");
    let rows: Vec<ModelRow> = server.json(&["model", "ls"]);
    assert_eq!(rows.len(), 3);
    let (code, _) = server.bad(&["train", "--model", "nothing", "--push", "--samples", "x"]);
    assert_eq!(code, 4);
    server.terminate();
}

#[test]
fn samples_come_from_the_coordinator_page_by_page() {
    let dir = tempdir();
    let (file, out) = (
        dir.path().join("samples.ndjson"),
        dir.path().join("out.tar"),
    );
    let lines: Vec<String> = samples(&file, |_, _| {})
        .lines()
        .map(str::to_owned)
        .collect();
    let stand_in = StandIn::start(lines);
    let folder = level();
    let base = ["train", "--bundle", text(&folder), "--epochs", "2", "--out"];
    let at = ["--server", stand_in.server.as_str()];
    let filters = ["--stream", "i94", "--policy", "all"];
    good(&[&base[..], &[text(&out)], &at, &filters].concat());
    let local = dir.path().join("local.tar");
    good(&[&base[..], &[text(&local), "--samples", text(&file)]].concat());
    let read = |path: &Path| std::fs::read(path).unwrap();
    assert_eq!(read(&out), read(&local), "the source decides nothing");
    let asked = stand_in.asked.lock().unwrap().clone();
    assert!(asked.len() > 3, "{asked:?}");
    for words in [
        "model=traffic-level",
        "labelled=true",
        "stream=i94",
        "policy=all",
        "limit=1000",
    ] {
        assert!(
            asked.iter().all(|query| query.contains(words)),
            "{words}: {asked:?}"
        );
    }
    assert!(
        asked[1].contains("after=minneapolis%2Fgw-3%2Fi94%2F00000000000000ab-199"),
        "{asked:?}"
    );
}

/// The coordinator's samples alone, 200 a page whatever the limit.
struct StandIn {
    server: String,
    asked: std::sync::Arc<std::sync::Mutex<Vec<String>>>,
}

impl StandIn {
    fn start(lines: Vec<String>) -> Self {
        use axum::extract::RawQuery;
        let asked = std::sync::Arc::<std::sync::Mutex<Vec<String>>>::default();
        let seen = std::sync::Arc::clone(&asked);
        let page = move |RawQuery(query): RawQuery| {
            let query = query.unwrap_or_default();
            let after = query
                .split('&')
                .find_map(|part| part.strip_prefix("after="));
            let id = |line: &String| {
                let line: Value = serde_json::from_str(line).unwrap();
                line["id"].as_str().unwrap().replace('/', "%2F")
            };
            let from = after.map_or(0, |after| {
                lines.iter().position(|line| id(line) == after).unwrap() + 1
            });
            let lines = lines[from..].iter().take(200);
            let page: String = lines.flat_map(|line| [line.as_str(), "\n"]).collect();
            seen.lock().unwrap().push(query);
            std::future::ready(page)
        };
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                let app = axum::Router::new().route("/v1/samples", axum::routing::get(page));
                axum::serve(listener, app).await.unwrap();
            });
        });
        Self {
            server: format!("http://{}", told.recv().unwrap()),
            asked,
        }
    }
}
