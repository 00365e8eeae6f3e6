use lamppost_models::message::ReportedOutbox;

use super::*;

const STALE: Duration = Duration::from_mins(1);

fn at(seconds: i64) -> Timestamp {
    Timestamp::EPOCH.offset_ms(seconds * 1000)
}

fn path(node: &str) -> NodePath {
    NodePath {
        site: "s".parse().unwrap(),
        node: node.parse().unwrap(),
    }
}

fn status(state: NodeState, boot: u64) -> Status {
    let groups = vec!["all".parse().unwrap()];
    Status {
        v: V1,
        state,
        boot: BootId::from_u64(boot),
        at: at(0),
        agent: "0.1.0".to_owned(),
        groups,
        tags: lamppost_models::rollout::Tags::new(),
    }
}

fn report(boot: u64, seconds: i64) -> Reported {
    Reported {
        v: V1,
        boot: BootId::from_u64(boot),
        at: at(seconds),
        models: Vec::new(),
        streams: Vec::new(),
        outbox: ReportedOutbox::default(),
        trust: None,
    }
}

fn presence(inventory: &Inventory, now: i64) -> Presence {
    inventory.get(&path("a")).unwrap().presence(at(now), STALE)
}

#[test]
fn nodes_behind_another_come_in_their_order() {
    let mut inventory = Inventory::new(10);
    for node in ["c", "a", "b"] {
        inventory.on_record(&path(node), at(1)).unwrap();
    }
    let behind = |node: Option<&str>| -> Vec<NodePath> {
        let node = node.map(path);
        let behind = inventory.behind(node.as_ref());
        behind.map(|entry| entry.path.clone()).collect()
    };
    assert_eq!(behind(None), ["a", "b", "c"].map(path));
    assert_eq!(behind(Some("a")), ["b", "c"].map(path));
    assert_eq!(behind(Some("aa")), ["b", "c"].map(path));
    assert_eq!(behind(Some("c")), []);
    assert_eq!(inventory.len(), 3);
}

#[test]
fn a_node_comes_goes_and_comes_back() {
    let mut inventory = Inventory::new(10);
    let mut say = |state, boot, now| {
        inventory
            .on_status(&path("a"), status(state, boot), at(now))
            .unwrap()
    };
    assert_eq!(say(NodeState::Up, 1, 10), Change::Changed);
    assert_eq!(say(NodeState::Up, 1, 20), Change::Heard);
    assert_eq!(say(NodeState::Down, 1, 30), Change::Changed);
    assert_eq!(presence(&inventory, 40), Presence::Down { since: at(30) });
    assert_eq!(inventory.get(&path("a")).unwrap().heard_at, at(20));

    let mut say = |state, boot, now| {
        inventory
            .on_status(&path("a"), status(state, boot), at(now))
            .unwrap()
    };
    assert_eq!(
        say(
            NodeState::Degraded {
                reason: "no model".to_owned()
            },
            2,
            50
        ),
        Change::Changed
    );
    assert_eq!(
        presence(&inventory, 50),
        Presence::Degraded {
            reason: "no model".to_owned()
        }
    );
}

#[test]
fn the_last_will_of_a_replaced_connection_is_old_news() {
    let mut inventory = Inventory::new(10);
    inventory
        .on_status(&path("a"), status(NodeState::Up, 2), at(10))
        .unwrap();
    let change = inventory
        .on_status(&path("a"), status(NodeState::Down, 1), at(11))
        .unwrap();
    assert_eq!(change, Change::OldNews);
    assert_eq!(presence(&inventory, 12), Presence::Up);
}

#[test]
fn a_down_of_a_node_never_seen_up_counts() {
    let mut inventory = Inventory::new(10);
    inventory
        .on_status(&path("a"), status(NodeState::Down, 1), at(10))
        .unwrap();
    assert_eq!(presence(&inventory, 11), Presence::Down { since: at(10) });
}

#[test]
fn silence_makes_an_up_node_stale_and_a_record_brings_it_back() {
    let mut inventory = Inventory::new(10);
    inventory
        .on_status(&path("a"), status(NodeState::Up, 1), at(10))
        .unwrap();
    assert_eq!(presence(&inventory, 70), Presence::Up);
    assert_eq!(presence(&inventory, 71), Presence::Stale { since: at(10) });
    assert_eq!(
        inventory.on_record(&path("a"), at(71)).unwrap(),
        Change::Heard
    );
    assert_eq!(presence(&inventory, 72), Presence::Up);
    assert_eq!(
        presence(&inventory, 5),
        Presence::Up,
        "a clock set back does no harm"
    );
}

#[test]
fn a_report_of_an_earlier_run_is_old_news() {
    let mut inventory = Inventory::new(10);
    assert_eq!(
        inventory
            .on_reported(&path("a"), report(1, 1), at(1))
            .unwrap(),
        Change::Changed
    );
    assert_eq!(presence(&inventory, 1), Presence::Unknown);
    inventory
        .on_status(&path("a"), status(NodeState::Up, 2), at(2))
        .unwrap();
    assert_eq!(
        inventory
            .on_reported(&path("a"), report(2, 3), at(3))
            .unwrap(),
        Change::Changed
    );
    assert_eq!(
        inventory
            .on_reported(&path("a"), report(1, 1), at(4))
            .unwrap(),
        Change::OldNews
    );
    assert_eq!(
        inventory
            .on_reported(&path("a"), report(2, 3), at(5))
            .unwrap(),
        Change::Heard
    );
}

#[test]
fn a_report_before_the_status_of_its_run_is_taken() {
    let mut inventory = Inventory::new(10);
    inventory
        .on_status(&path("a"), status(NodeState::Up, 1), at(1))
        .unwrap();
    inventory
        .on_reported(&path("a"), report(1, 1), at(1))
        .unwrap();
    inventory
        .on_status(&path("a"), status(NodeState::Down, 1), at(2))
        .unwrap();
    assert_eq!(
        inventory
            .on_reported(&path("a"), report(2, 3), at(3))
            .unwrap(),
        Change::Changed
    );
}

#[test]
fn the_limit_refuses_new_nodes_and_keeps_known_ones() {
    let mut inventory = Inventory::new(1);
    inventory
        .on_status(&path("a"), status(NodeState::Up, 1), at(1))
        .unwrap();
    let refused = inventory
        .on_status(&path("b"), status(NodeState::Up, 1), at(1))
        .unwrap_err();
    assert_eq!(
        refused,
        InventoryFull {
            path: path("b"),
            nodes_max: 1
        }
    );
    assert_eq!(inventory.on_record(&path("b"), at(1)).unwrap_err(), refused);
    assert_eq!(
        inventory
            .on_status(&path("a"), status(NodeState::Down, 1), at(2))
            .unwrap(),
        Change::Changed
    );
}

#[test]
fn format_1_parses_for_ever() {
    let json = r#"{"v":1,"path":{"site":"s","node":"a"},"heard_at":"1970-01-01T00:00:10Z",
        "status_since":"1970-01-01T00:00:05Z","status":{"v":1,"state":"up","boot":"0000000000000001",
        "at":"1970-01-01T00:00:00Z","agent":"0.1.0","groups":["all"]}}"#;
    let entry: NodeEntry = serde_json::from_str(json).unwrap();
    assert_eq!(entry.status, Some(status(NodeState::Up, 1)));
    assert_eq!(entry.presence(at(11), STALE), Presence::Up);
    let written = serde_json::to_value(&entry).unwrap();
    assert_eq!(
        written,
        serde_json::from_str::<serde_json::Value>(json).unwrap()
    );
}

#[test]
fn a_record_of_a_new_node_makes_an_entry() {
    let mut inventory = Inventory::new(1);
    assert_eq!(
        inventory.on_record(&path("a"), at(3)).unwrap(),
        Change::Changed
    );
    assert_eq!(presence(&inventory, 3), Presence::Unknown);
}

#[test]
fn a_late_report_of_the_run_before_is_not_current() {
    let mut inventory = Inventory::new(10);
    let (a, up) = (path("a"), |boot| status(NodeState::Up, boot));
    let current = |inventory: &Inventory| {
        let report = inventory.get(&path("a")).unwrap().current_report();
        report.map(|report| report.boot.as_u64())
    };
    inventory.on_status(&a, up(1), at(1)).unwrap();
    inventory.on_reported(&a, report(1, 1), at(1)).unwrap();
    assert_eq!(current(&inventory), Some(1));
    inventory.on_status(&a, up(2), at(2)).unwrap();
    inventory.on_reported(&a, report(1, 2), at(3)).unwrap();
    assert_eq!(current(&inventory), None);
    inventory.on_reported(&a, report(2, 4), at(4)).unwrap();
    assert_eq!(current(&inventory), Some(2));
    inventory
        .on_status(&a, status(NodeState::Down, 2), at(5))
        .unwrap();
    assert_eq!(current(&inventory), Some(2));
}
