//! Samples from a node to the command line: stored, asked for, labelled, exported, forgotten.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by a panic"
)]

mod support;

use std::collections::BTreeSet;

use lamppost_coordinator::api::{
    Forgotten, LabelBy, Labelled, LedgerView, SampleSummary, StoredSample,
};
use lamppost_models::message::{Label, Sample, SampleBatch};
use lamppost_models::reading::Value;
use reqwest::{Method, StatusCode};
use support::server::Server;
use support::{Coordinator, DEADLINE, Node, config, epoch, sample};

async fn send(node: &Node, number: u64, records: Vec<Sample>) {
    let batch = SampleBatch {
        v: lamppost_models::V1,
        epoch: epoch(),
        number,
        stream: "i94".parse().unwrap(),
        records,
    };
    node.say("sample/i94", &batch).await;
}

async fn list(coordinator: &Coordinator, query: &str) -> Vec<StoredSample> {
    let request = coordinator.request(Method::GET, &format!("/v1/samples?{query}"));
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK, "{query}");
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    let text = response.text().await.unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    let lines = text.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().unwrap()
}

async fn metrics(coordinator: &Coordinator) -> String {
    let request = coordinator.request(Method::GET, "/metrics");
    request.send().await.unwrap().text().await.unwrap()
}

fn numbers(rows: &[StoredSample]) -> Vec<u64> {
    rows.iter().map(|row| row.id.seq).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_are_stored_asked_for_labelled_and_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let mut with_token = config(dir.path());
    with_token.http.token = Some("0123456789abcdef".to_owned());
    let coordinator = Coordinator::start(with_token).await;
    let mut node = Node::connect(coordinator.mqtt(), "gw-1", 1).await;
    let records = (0..10).map(|seq| sample(node.boot, seq)).collect();
    send(&node, 0, records).await;
    node.acked_batch(0).await;

    let rows = list(&coordinator, "").await;
    assert_eq!(numbers(&rows), (0..10).collect::<Vec<_>>());
    assert_eq!(rows[3].sample, sample(node.boot, 3));
    let page = list(&coordinator, &format!("limit=4&after={}", rows[3].id)).await;
    assert_eq!(numbers(&page), [4, 5, 6, 7]);
    let from = rows[8].sample.ts;
    for (query, wanted) in [
        (format!("from={from}"), vec![8, 9]),
        (format!("to={from}&node=gw-1&limit=2"), vec![0, 1]),
        ("node=gw-2".to_owned(), vec![]),
        ("labelled=true".to_owned(), vec![]),
        ("model=traffic-flow&policy=rare".to_owned(), vec![]),
        (
            "site=minneapolis&stream=i94&policy=uncertain&labelled=false&limit=1".to_owned(),
            vec![0],
        ),
    ] {
        let query = query.replace('+', "%2B");
        assert_eq!(
            numbers(&list(&coordinator, &query).await),
            wanted,
            "{query}"
        );
    }

    let body = format!(
        "{{\"id\":\"{}\",\"label\":4287.0}}\n\n{{\"id\":\"{}\",\"label\":\"jam\"}}\nnonsense\n\
         {{\"id\":\"minneapolis/gw-2/i94/0000000000000001-0\",\"label\":null}}\n{{\"id\":\"{}\"}}\n",
        rows[0].id, rows[1].id, rows[2].id
    );
    let request = coordinator.request(Method::POST, "/v1/samples/labels");
    let answer: Labelled = request
        .body(body)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!((answer.labelled, answer.unknown_in_all), (2, 1));
    let refused: Vec<u64> = answer.refused.iter().map(|refused| refused.line).collect();
    assert_eq!((refused, answer.refused_in_all), (vec![4, 6], 2));
    let labelled = list(&coordinator, "labelled=true").await;
    assert_eq!(numbers(&labelled), [0, 1]);
    assert_eq!(labelled[0].sample.label, Some(Label::Value(4287.0)));
    assert_eq!(labelled[0].label_by, Some(LabelBy::Operator));

    let sums: Vec<SampleSummary> = coordinator.get("/v1/samples/summary").await;
    assert_eq!(
        (sums.len(), sums[0].sums.records, sums[0].sums.labelled),
        (1, 10, 2)
    );
    assert_eq!(
        (sums[0].sums.oldest, sums[0].sums.newest),
        (rows[0].sample.ts, rows[9].sample.ts)
    );

    let request = coordinator.request(Method::DELETE, &format!("/v1/samples?to={from}"));
    let answer: Forgotten = request.send().await.unwrap().json().await.unwrap();
    assert_eq!(answer.forgotten, 8);
    assert_eq!(numbers(&list(&coordinator, "").await), [8, 9]);
    let text = metrics(&coordinator).await;
    for line in [
        "lamppost_samples{model=\"traffic-flow\",stream=\"i94\"} 2",
        "lamppost_samples_stored_total 10",
        "lamppost_samples_forgotten_total{reason=\"asked\"} 8",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    let ledger: LedgerView = coordinator.get("/v1/ledger/minneapolis/gw-1").await;
    assert_eq!(ledger.account.streams[0].tally.delivered, 10);
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut with_token = config(dir.path());
    with_token.http.token = Some("0123456789abcdef".to_owned());
    let coordinator = Coordinator::start(with_token).await;
    for (method, path, status, word) in [
        (Method::GET, "?limit=0", 400, "1 to 1000"),
        (Method::GET, "?limit=1001", 400, "1 to 1000"),
        (Method::GET, "?after=x", 400, "sample id"),
        (Method::GET, "?policy=often", 400, "often"),
        (Method::GET, "?labelled=maybe", 400, "labelled"),
        (Method::GET, "?from=yesterday", 400, "RFC 3339"),
        (Method::GET, "?model=a/b", 400, "model"),
        (Method::GET, "?colour=red", 400, "colour"),
        (Method::DELETE, "", 400, "at least one"),
        (Method::DELETE, "?limit=5", 400, "at least one"),
        (Method::DELETE, "?node=gw-1&limit=5", 400, "nothing else"),
    ] {
        let address = format!("/v1/samples{path}");
        let refused = coordinator
            .refused(coordinator.request(method, &address))
            .await;
        assert!(
            refused.0 == status && refused.1.contains(word),
            "{address}: {refused:?}"
        );
    }
    let large = coordinator
        .request(Method::POST, "/v1/samples/labels")
        .body(vec![b' '; (1 << 20) + 1]);
    assert_eq!(coordinator.refused(large).await.0, 413);
    for (method, path) in [
        (Method::GET, "/v1/samples"),
        (Method::DELETE, "/v1/samples?node=gw-1"),
        (Method::GET, "/v1/samples/summary"),
        (Method::POST, "/v1/samples/labels"),
        (Method::GET, "/metrics"),
    ] {
        let url = format!("http://{}{path}", coordinator.ready.http);
        let request = coordinator.http.request(method, url).timeout(DEADLINE);
        assert_eq!(coordinator.refused(request).await.0, 401, "{path}");
    }
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_whole_while_a_node_sends() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(config(dir.path())).await;
    let mut node = Node::connect(coordinator.mqtt(), "gw-1", 1).await;
    let made = |numbers: std::ops::Range<u64>| numbers.map(|seq| sample(node.boot, seq)).collect();
    for number in 0..10 {
        send(&node, number, made(number * 50..number * 50 + 50)).await;
    }
    node.acked_batch(9).await;
    let (mut rows, mut after, mut number) = (Vec::new(), String::new(), 10);
    loop {
        let page = list(&coordinator, &format!("limit=90{after}")).await;
        let (full, last) = (page.len() == 90, page.last().cloned());
        rows.extend(numbers(&page));
        let Some(last) = last.filter(|_| full) else {
            break;
        };
        after = format!("&after={}", last.id);
        if number < 13 {
            send(
                &node,
                number,
                (number * 50..number * 50 + 50)
                    .map(|seq| sample(node.boot, seq))
                    .collect(),
            )
            .await;
            number += 1;
        }
    }
    assert!(rows.is_sorted());
    let unique: BTreeSet<u64> = rows.iter().copied().collect();
    assert!(unique.len() == rows.len() && unique.is_superset(&(0..500).collect()));
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "one story of one set of samples")]
async fn the_command_line_lists_labels_exports_and_forgets() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    assert!(
        server
            .good(&["samples", "ls"])
            .contains("no samples are stored")
    );
    let mut node = Node::connect(server.mqtt(), "gw-1", 1).await;
    let mut short = sample(node.boot, 2);
    short.window.remove(0);
    send(
        &node,
        0,
        vec![sample(node.boot, 0), sample(node.boot, 1), short],
    )
    .await;
    node.acked_batch(0).await;

    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (lines, table) = (file("s.ndjson"), file("s.csv"));
    server.good(&["samples", "export", "-o", &lines]);
    let text = std::fs::read_to_string(&lines).unwrap();
    let rows: Vec<StoredSample> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(numbers(&rows), [0, 1, 2]);

    let labels = file("labels.csv");
    let unknown = "minneapolis/gw-9/i94/0000000000000001-0";
    let csv = format!(
        "label,note,id\n4287.5,x,{}\n,y,{}\n1,z,{unknown}\n2,z,no id\n",
        rows[0].id, rows[1].id
    );
    std::fs::write(&labels, csv).unwrap();
    let output = server.run(&["samples", "label", &labels]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    for wanted in ["2 samples are labelled", unknown, "line 5: "] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    let ndjson = file("labels.ndjson");
    std::fs::write(
        &ndjson,
        format!("{{\"id\":\"{}\",\"label\":7}}\n", rows[2].id),
    )
    .unwrap();
    let done: Labelled = server.json(&["samples", "label", &ndjson]);
    assert_eq!((done.labelled, done.refused_in_all), (1, 0));

    server.good(&[
        "samples",
        "export",
        "--format",
        "csv",
        "--labelled",
        "true",
        "-o",
        &table,
    ]);
    let text = std::fs::read_to_string(&table).unwrap();
    let table_lines: Vec<&str> = text.lines().collect();
    assert!(
        table_lines[0].ends_with("prediction_score,volume@-1,volume@-0,weather@-1,weather@-0"),
        "{text}"
    );
    assert!(
        table_lines[1].starts_with(&rows[0].id.to_string())
            && table_lines[1].ends_with(",0,1,rain,\"rain, heavy\""),
        "{text}"
    );
    assert!(table_lines[1].contains(",4287.5,operator,"), "{text}");
    assert!(
        table_lines[2].ends_with(",,3,,\"rain, heavy\"") && table_lines.len() == 3,
        "{text}"
    );
    assert_eq!(
        std::fs::read_dir(dir.path())
            .unwrap()
            .filter(|entry| {
                entry
                    .as_ref()
                    .unwrap()
                    .path()
                    .extension()
                    .is_some_and(|suffix| suffix == "part")
            })
            .count(),
        0
    );

    let mut frame = sample(node.boot, 3);
    frame.window[0]
        .fields
        .insert("frame".parse().unwrap(), Value::Vector(vec![1.0, 2.0]));
    send(&node, 1, vec![frame]).await;
    node.acked_batch(1).await;
    let output = server.run(&["samples", "export", "--format", "csv", "-o", &table]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.code() == Some(1) && text.contains("--format ndjson"),
        "{text}"
    );
    assert!(
        std::fs::read_to_string(&table).unwrap().contains("4287.5"),
        "the old file is kept"
    );

    let list = server.good(&["samples", "ls"]);
    assert!(
        list.contains("traffic-flow") && list.contains("uncertain 4"),
        "{list}"
    );
    for args in [
        &["samples", "forget", "--yes"][..],
        &["samples", "forget", "--node", "minneapolis/gw-1"],
    ] {
        assert_eq!(server.run(args).status.code(), Some(2), "{args:?}");
    }
    let gone: Forgotten =
        server.json(&["samples", "forget", "--node", "minneapolis/gw-1", "--yes"]);
    assert_eq!(gone.forgotten, 4);
    let left: Vec<SampleSummary> = server.json(&["samples", "ls"]);
    assert_eq!(left, []);
    server.terminate();
}
