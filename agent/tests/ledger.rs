//! Each prediction is delivered, told as lost, or said to wait: by number, at every moment.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail as tests do"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use common::{Acks, Came, Coordinator, Inbox, Node, i94, traffic};
use lamppost_models::BootId;
use lamppost_models::ledger::{Durability, Ended, LedgerEventKind};
use lamppost_models::message::NodeState;
use tempfile::TempDir;

const FIRST: usize = 24;

/// What the stand-in knows, as a ledger would.
#[derive(Debug, Default)]
struct Ledger {
    made: BTreeMap<BootId, u64>,
    delivered: BTreeMap<BootId, BTreeSet<u64>>,
    /// Told as lost, or said to wait.
    other: BTreeMap<BootId, BTreeSet<u64>>,
    ended: Vec<Ended>,
}

impl Ledger {
    fn of(inbox: &Inbox) -> Self {
        let mut ledger = Self::default();
        let replayed = inbox.batches.iter().flat_map(|batch| &batch.records);
        for prediction in inbox.live.iter().chain(replayed) {
            let seqs = ledger.delivered.entry(prediction.boot).or_default();
            seqs.insert(prediction.seq);
        }
        for event in inbox.events.iter().flat_map(|batch| &batch.records) {
            match &event.event {
                LedgerEventKind::Lost(lost) => {
                    let seqs = ledger.other.entry(lost.boot).or_default();
                    seqs.extend(lost.from..=lost.to);
                }
                LedgerEventKind::Ended(ended) => ledger.ended.push(*ended),
            }
        }
        for report in &inbox.reported {
            let made = ledger.made.entry(report.boot).or_default();
            *made = (*made).max(report.streams[0].counters.predictions);
        }
        if let Some(report) = inbox.reported.last() {
            for waiting in &report.outbox.waiting {
                let seqs = ledger.other.entry(waiting.boot).or_default();
                seqs.extend(waiting.ranges.iter().flat_map(|(from, to)| *from..=*to));
            }
        }
        ledger
    }

    fn missing(&self, boot: BootId) -> Vec<u64> {
        let made = self.made.get(&boot).copied().unwrap_or(0);
        let has = |of: &BTreeMap<BootId, BTreeSet<u64>>, seq: u64| {
            of.get(&boot).is_some_and(|seqs| seqs.contains(&seq))
        };
        (0..made)
            .filter(|seq| !has(&self.delivered, *seq) && !has(&self.other, *seq))
            .collect()
    }

    fn delivered(&self, boot: BootId) -> usize {
        self.delivered.get(&boot).map_or(0, BTreeSet::len)
    }

    fn made(&self, boot: BootId) -> u64 {
        self.made.get(&boot).copied().unwrap_or(0)
    }
}

/// Waits until the ledger is so, and holds it to having nothing missing all the while.
async fn until(
    what: &str,
    coordinator: &Coordinator,
    boots: &[BootId],
    wanted: impl Fn(&Ledger) -> bool,
) -> Ledger {
    coordinator
        .until(what, |inbox| {
            let ledger = Ledger::of(inbox);
            for boot in boots {
                assert_eq!(ledger.missing(*boot), [0; 0], "{what}: {ledger:?}");
            }
            wanted(&ledger).then_some(ledger)
        })
        .await
}

async fn feed(node: &Node, messages: &[String]) {
    let mut client = node.client();
    client
        .subscribe("lamppost/v1/nodes/minneapolis/gw-1/pred/+")
        .await;
    for message in messages {
        client.publish("sensors/i94", message.as_str()).await;
    }
}

/// Waits until the node says of itself what is wanted.
async fn reported(node: &Node, wanted: impl Fn(&lamppost_models::Reported) -> bool) {
    let mut client = node.client();
    client
        .subscribe("lamppost/v1/nodes/minneapolis/gw-1/reported")
        .await;
    client.reported(wanted).await;
}

async fn made(node: &Node, count: u64) {
    reported(node, |report| {
        report.streams[0].counters.predictions == count
    })
    .await;
}

/// Waits until this run of the node says that it is there.
async fn connected(coordinator: &Coordinator, boot: BootId) {
    coordinator
        .until("the node is connected", |inbox| {
            let mut statuses = inbox.statuses.iter();
            statuses.find(|status| status.boot == boot).map(|_| ())
        })
        .await;
}

/// The node's directory as a kill leaves it.
fn image(from: &Path) -> TempDir {
    fn copy(from: &Path, to: &Path) {
        for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
            let to = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                std::fs::create_dir(&to).unwrap();
                copy(&entry.path(), &to);
            } else {
                std::fs::copy(entry.path(), to).unwrap();
            }
        }
    }
    let to = TempDir::new().unwrap();
    copy(from, to.path());
    to
}

#[tokio::test]
async fn nothing_is_missing_before_in_and_after_an_outage_and_a_restart() {
    let mut coordinator = Coordinator::start().await;
    let node = Node::start(|dir| coordinator.table() + &traffic(dir)).await;
    let first = node.ready.boot;
    let messages = i94(FIRST + 150);
    feed(&node, &messages[..FIRST + 29]).await;
    until("live", &coordinator, &[first], |ledger| {
        ledger.delivered(first) == 30 && ledger.made(first) == 30
    })
    .await;
    coordinator.stop_broker().await;
    feed(&node, &messages[FIRST + 29..FIRST + 79]).await;
    made(&node, 80).await;
    let dir = node.stop().await;

    let node = Node::start_in(dir, |dir| coordinator.table() + &traffic(dir)).await;
    let second = node.ready.boot;
    coordinator.start_broker().await;
    feed(&node, &messages[50..50 + FIRST + 59]).await;
    let ledger = until("both runs", &coordinator, &[first, second], |ledger| {
        ledger.delivered(first) == 80
            && ledger.delivered(second) == 60
            && ledger.made(second) == 60
            && !ledger.ended.is_empty()
    })
    .await;
    let end = Ended {
        boot: first,
        clean: true,
        durability: Durability::Outage,
    };
    assert_eq!(ledger.ended, [end]);
    // All is acknowledged: nothing waits, on the disk, in memory or untold.
    coordinator
        .until("nothing waits", |inbox| {
            let outbox = &inbox.reported.last()?.outbox;
            let empty =
                outbox.waiting.is_empty() && outbox.lanes.iter().all(|lane| lane.batches == 0);
            empty.then_some(())
        })
        .await;
    node.stop().await;
}

#[tokio::test]
async fn while_the_link_is_down_what_waits_is_said_here_by_number() {
    let mut coordinator = Coordinator::start().await;
    let node = Node::start(|dir| coordinator.table() + &traffic(dir)).await;
    coordinator
        .until("the node is up", |inbox| inbox.statuses.last().map(|_| ()))
        .await;
    coordinator.stop_broker().await;
    feed(&node, &i94(FIRST + 39)).await;
    let boot = node.ready.boot;
    reported(&node, |report| {
        let waiting = report
            .outbox
            .waiting
            .iter()
            .find(|waiting| waiting.boot == boot);
        let lanes = &report.outbox.lanes;
        waiting.is_some_and(|waiting| waiting.ranges == [(0, 39)])
            && lanes.iter().map(|lane| lane.records).sum::<u64>() == 40
            && !report.outbox.waiting_joined
    })
    .await;
    node.stop().await;
}

/// Runs a node whose live predictions are never acknowledged, kills it, and starts it again; gives both runs.
async fn killed(coordinator: &mut Coordinator, durability: &str) -> (BootId, Node) {
    coordinator.acknowledge(Acks::None);
    let table = coordinator
        .table()
        .replace("ack_timeout = \"1s\"", "ack_timeout = \"1h\"")
        .replace(
            "flush = \"20ms\"",
            &format!("flush = \"20ms\"\ndurability = \"{durability}\""),
        );
    let node = Node::start(|dir| table.clone() + &traffic(dir)).await;
    let boot = node.ready.boot;
    feed(&node, &i94(FIRST + 39)).await;
    until("reported and sent", coordinator, &[boot], |ledger| {
        ledger.made(boot) == 40 && ledger.delivered(boot) == 40
    })
    .await;
    let image = image(node.dir.path());
    // Nobody hears how the first one ends, nor what it sent.
    coordinator.stop_broker().await;
    node.stop().await;
    {
        let mut inbox = coordinator.inbox.lock().unwrap();
        inbox.live.clear();
        inbox.batches.clear();
    }
    coordinator.acknowledge(Acks::All);
    coordinator.start_broker().await;
    let node = Node::start_in(image, |dir| table + &traffic(dir)).await;
    (boot, node)
}

#[tokio::test]
async fn with_always_a_kill_loses_nothing_that_was_reported() {
    let mut coordinator = Coordinator::start().await;
    let (boot, node) = killed(&mut coordinator, "always").await;
    let ledger = coordinator
        .until("all came from the disk", |inbox| {
            let ledger = Ledger::of(inbox);
            (ledger.delivered(boot) == 40 && !ledger.ended.is_empty()).then_some(ledger)
        })
        .await;
    let end = Ended {
        boot,
        clean: false,
        durability: Durability::Always,
    };
    assert_eq!(ledger.ended, [end]);
    assert_eq!(ledger.missing(boot), [0; 0]);
    node.stop().await;
}

#[tokio::test]
async fn with_outage_a_kill_costs_what_was_not_acknowledged_and_the_end_is_told() {
    let mut coordinator = Coordinator::start().await;
    let (boot, node) = killed(&mut coordinator, "outage").await;
    let ledger = coordinator
        .until("the end is told", |inbox| {
            let ledger = Ledger::of(inbox);
            (!ledger.ended.is_empty()).then_some(ledger)
        })
        .await;
    let end = Ended {
        boot,
        clean: false,
        durability: Durability::Outage,
    };
    assert_eq!(ledger.ended, [end]);
    assert_eq!(ledger.delivered(boot), 0, "they were in memory");
    node.stop().await;
}

#[tokio::test]
async fn with_always_what_is_acknowledged_live_is_not_replayed_and_leaves_the_disk() {
    let coordinator = Coordinator::start().await;
    // However slow the machine: an acknowledgement that comes late leaves its prediction to the replay.
    let table = coordinator
        .table()
        .replace("ack_timeout = \"1s\"", "ack_timeout = \"1h\"")
        .replace(
            "flush = \"20ms\"",
            "flush = \"20ms\"\ndurability = \"always\"",
        );
    let node = Node::start(|dir| table + &traffic(dir)).await;
    let boot = node.ready.boot;
    feed(&node, &i94(FIRST + 99)).await;
    until("all live", &coordinator, &[boot], |ledger| {
        ledger.delivered(boot) == 100 && ledger.made(boot) == 100
    })
    .await;
    reported(&node, |report| {
        report.outbox.records == 0 && report.outbox.waiting.is_empty()
    })
    .await;
    coordinator.look(|inbox| {
        assert!(inbox.live.iter().all(|prediction| !prediction.replay));
        let mut live: Vec<u64> = inbox.live.iter().map(|prediction| prediction.seq).collect();
        // A message that found the library full may have been taken by it all the same.
        live.dedup();
        assert!(!live.is_empty());
        // What found the uplink busy, as on a slow machine, goes in a batch, and only there.
        let batched = inbox.batches.iter().flat_map(|batch| &batch.records);
        let mut came: Vec<u64> = batched.map(|record| record.seq).chain(live).collect();
        came.sort_unstable();
        assert_eq!(came, (0..100).collect::<Vec<_>>());
    });
    node.stop().await;
}

#[tokio::test]
async fn with_always_what_is_not_acknowledged_live_is_replayed() {
    let coordinator = Coordinator::start().await;
    coordinator.acknowledge(Acks::None);
    let table = coordinator.table().replace(
        "flush = \"20ms\"",
        "flush = \"20ms\"\ndurability = \"always\"",
    );
    let node = Node::start(|dir| table + &traffic(dir)).await;
    feed(&node, &i94(FIRST + 19)).await;
    coordinator
        .until("twenty came live", |inbox| {
            (inbox.live.len() >= 20).then_some(())
        })
        .await;
    coordinator.acknowledge(Acks::All);
    coordinator
        .until("and by replay", |inbox| {
            let records = inbox.batches.iter().flat_map(|batch| &batch.records);
            let seqs: BTreeSet<u64> = records.map(|record| record.seq).collect();
            (seqs.len() == 20).then_some(())
        })
        .await;
    reported(&node, |report| report.outbox.records == 0).await;
    node.stop().await;
}

#[tokio::test]
async fn live_predictions_and_events_do_not_wait_for_history() {
    let mut coordinator = Coordinator::start().await;
    // The history that is made below takes minutes at this rate.
    let table = coordinator.table().replace(
        "ack_timeout = \"1s\"",
        "ack_timeout = \"1h\"\nrate = \"1KB\"\ncompress = false",
    );
    let node = Node::start(|dir| table.clone() + &traffic(dir)).await;
    coordinator
        .until("the node is up", |inbox| inbox.statuses.last().map(|_| ()))
        .await;
    coordinator.stop_broker().await;
    let messages = i94(FIRST + 170);
    for part in messages[..FIRST + 99].chunks(20) {
        feed(&node, part).await;
    }
    made(&node, 100).await;
    let dir = node.stop().await;
    let node = Node::start_in(dir, |dir| table + &traffic(dir)).await;
    let boot = node.ready.boot;
    coordinator.start_broker().await;
    connected(&coordinator, boot).await;
    feed(&node, &messages[100..100 + FIRST + 29]).await;
    coordinator
        .until("all live ones and the event came", |inbox| {
            let ledger = Ledger::of(inbox);
            (ledger.delivered(boot) == 30 && !ledger.ended.is_empty()).then_some(())
        })
        .await;
    coordinator.look(|inbox| {
        let history: usize = inbox.batches.iter().map(|batch| batch.records.len()).sum();
        assert!(history < 100, "{history} of 100 came: {:?}", inbox.order);
        assert_eq!(inbox.live.len(), 30);
    });
    // What was sent counts, and is known to the next run.
    reported(&node, |report| {
        let budget = report.outbox.budget.as_ref();
        budget.is_some_and(|budget| budget.used_bytes > 30 * 300 && budget.limit_bytes.is_none())
    })
    .await;
    let dir = node.stop().await;
    let noted = std::fs::read_to_string(dir.path().join("data/outbox/budget")).unwrap();
    let bytes: u64 = noted
        .trim_end()
        .rsplit(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(bytes > 30 * 300, "{noted}");
}

#[tokio::test]
async fn a_day_whose_budget_is_spent_holds_history_and_nothing_else() {
    let mut coordinator = Coordinator::start().await;
    let table = coordinator.table().replace(
        "ack_timeout = \"1s\"",
        "ack_timeout = \"1h\"\nbudget_per_day = \"100KB\"",
    );
    let node = Node::start(|dir| table.clone() + &traffic(dir)).await;
    coordinator
        .until("the node is up", |inbox| inbox.statuses.last().map(|_| ()))
        .await;
    coordinator.stop_broker().await;
    let messages = i94(FIRST + 60);
    feed(&node, &messages[..FIRST + 29]).await;
    made(&node, 30).await;
    let dir = node.stop().await;
    // An earlier run of today has sent all of it.
    let note = dir.path().join("data/outbox/budget");
    let noted = std::fs::read_to_string(&note).unwrap();
    let since = noted.split(' ').nth(2).unwrap();
    std::fs::write(&note, format!("lamppost-budget 1 {since} 100000\n")).unwrap();

    let node = Node::start_in(dir, |dir| table + &traffic(dir)).await;
    let boot = node.ready.boot;
    coordinator.start_broker().await;
    connected(&coordinator, boot).await;
    feed(&node, &messages[30..30 + FIRST + 19]).await;
    let is_spent = |report: &lamppost_models::Reported| {
        let budget = report.outbox.budget.as_ref();
        budget.is_some_and(|budget| budget.used_bytes > 100_000)
    };
    coordinator
        .until(
            "live ones and the event came, and a report after them",
            |inbox| {
                let ledger = Ledger::of(inbox);
                let whole = ledger.delivered(boot) == 20 && !ledger.ended.is_empty();
                (whole && inbox.reported.last().is_some_and(is_spent)).then_some(())
            },
        )
        .await;
    coordinator.look(|inbox| assert!(inbox.batches.is_empty(), "{:?}", inbox.order));
    node.stop().await;
}

#[tokio::test]
async fn batches_are_compressed_unless_the_configuration_says_no() {
    for compress in [true, false] {
        let mut coordinator = Coordinator::start().await;
        let table = coordinator.table().replace(
            "ack_timeout = \"1s\"",
            &format!("ack_timeout = \"1s\"\ncompress = {compress}"),
        );
        let node = Node::start(|dir| table + &traffic(dir)).await;
        coordinator
            .until("the node is up", |inbox| inbox.statuses.last().map(|_| ()))
            .await;
        coordinator.stop_broker().await;
        feed(&node, &i94(FIRST + 19)).await;
        made(&node, 20).await;
        coordinator.start_broker().await;
        coordinator
            .until("they came", |inbox| {
                let records = inbox.batches.iter().map(|batch| batch.records.len());
                (records.sum::<usize>() >= 20).then_some(())
            })
            .await;
        coordinator.look(|inbox| {
            let batches = inbox.order.iter().filter_map(|came| match came {
                Came::Batch { packed } => Some(*packed),
                Came::Live | Came::Events => None,
            });
            assert_eq!(batches.collect::<BTreeSet<_>>(), [compress].into());
        });
        node.stop().await;
    }
}

#[tokio::test]
async fn a_sensor_that_goes_silent_is_reported_until_it_speaks_again() {
    let coordinator = Coordinator::start().await;
    let patience = Duration::from_secs(1);
    let text = |dir: &Path| {
        coordinator.table()
            + &traffic(dir).replace(
                "name = \"i94-volume\"",
                "name = \"i94-volume\"\nstale_after = \"1s\"",
            )
    };
    let node = Node::start(text).await;
    let messages = i94(FIRST);
    feed(&node, &messages[..1]).await;
    let since = coordinator
        .until("it is stale", |inbox| {
            inbox.reported.last()?.streams[0].stale_since
        })
        .await;
    coordinator
        .until("the node is degraded", |inbox| {
            let state = &inbox.statuses.last()?.state;
            let wanted = format!("no reading of i94-volume since {since}");
            matches!(state, NodeState::Degraded { reason } if *reason == wanted).then_some(())
        })
        .await;
    // For as long as it takes until a report says so.
    let talk = async {
        let mut client = node.client();
        for message in messages[1..].iter().cycle() {
            client.publish("sensors/i94", message.as_str()).await;
            tokio::time::sleep(patience / 20).await;
        }
    };
    let heard = coordinator.until("it speaks again", |inbox| {
        let fresh = inbox.reported.last()?.streams[0].stale_since.is_none();
        let up = inbox.statuses.last()?.state == NodeState::Up;
        (fresh && up).then_some(())
    });
    tokio::select! {
        () = talk => unreachable!("it goes on for ever"),
        () = heard => {}
    }
    node.stop().await;
}
