//! A node and the coordinator, with everything that goes wrong between them, against a plain account of every record.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::*;
use crate::interval::coalesce;

/// (boot, stream, seq)
type Record = (u64, u64, u64);

const STREAMS: u64 = 2;
const STREAMS_LEN: usize = 2;

#[derive(Clone, Debug)]
enum Step {
    Produce(u64),
    /// Sends a record that the node holds, by its place; the coordinator may have it already.
    Send(usize),
    /// Acknowledges what is committed: the node forgets it.
    Acknowledge,
    /// The node writes what is in memory to its disk.
    Spill,
    /// The node gives up some of its oldest records, and notes an event.
    Evict(usize),
    /// A record that the node holds is gone, and nobody knows why.
    Vanish(usize),
    SendEvent,
    Report,
    Commit,
    /// What was not committed is lost.
    CoordinatorCrash,
    /// What is in the node's memory is lost.
    NodeCrash,
    NodeStop,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..STREAMS).prop_map(Step::Produce),
        14 => any::<usize>().prop_map(Step::Send),
        4 => Just(Step::Acknowledge),
        2 => Just(Step::Spill),
        2 => (1..4_usize).prop_map(Step::Evict),
        1 => any::<usize>().prop_map(Step::Vanish),
        3 => Just(Step::SendEvent),
        3 => Just(Step::Report),
        4 => Just(Step::Commit),
        1 => Just(Step::CoordinatorCrash),
        1 => Just(Step::NodeCrash),
        1 => Just(Step::NodeStop),
    ]
}

#[derive(Default)]
struct Node {
    boot: u64,
    next: [u64; STREAMS_LEN],
    memory: BTreeSet<Record>,
    disk: BTreeSet<Record>,
    events: VecDeque<LedgerEvent>,
}

#[derive(Default)]
struct World {
    node: Node,
    marks: Marks,
    ledger: NodeLedger,
    report: Option<Reported>,
    /// As it is on the coordinator's disk.
    report_committed: Option<Reported>,
    stored: BTreeSet<Record>,
    pending: BTreeSet<Record>,
    events_taken: usize,
    vanished: BTreeSet<Record>,
    evicted: BTreeSet<Record>,
    crashed: BTreeSet<u64>,
    /// One more than the highest number of a boot and stream that the coordinator ever heard of and committed.
    heard: BTreeMap<(u64, u64), u64>,
    heard_pending: BTreeMap<(u64, u64), u64>,
}

impl World {
    fn hear(&mut self, boot: u64, stream: u64, end: u64) {
        let heard = self.heard_pending.entry((boot, stream)).or_default();
        *heard = end.max(*heard);
    }

    fn held(&self) -> BTreeSet<Record> {
        self.node.memory.union(&self.node.disk).copied().collect()
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Produce(stream) => {
                let next = &mut self.node.next[usize::try_from(*stream).unwrap()];
                self.node.memory.insert((self.node.boot, *stream, *next));
                *next += 1;
            }
            Step::Send(place) => {
                let held: Vec<Record> = self.held().into_iter().collect();
                if let Some(&record) = place.checked_rem(held.len()).and_then(|at| held.get(at)) {
                    self.deliver(record);
                }
            }
            Step::Acknowledge => {
                let stored = &self.stored;
                self.node.memory.retain(|record| !stored.contains(record));
                self.node.disk.retain(|record| !stored.contains(record));
            }
            Step::Spill => self.node.disk.append(&mut self.node.memory),
            Step::Evict(records) => self.evict(*records),
            Step::Vanish(place) => {
                let held: Vec<Record> = self.held().into_iter().collect();
                if let Some(record) = place.checked_rem(held.len()).and_then(|at| held.get(at)) {
                    self.node.memory.remove(record);
                    self.node.disk.remove(record);
                    self.vanished.insert(*record);
                }
            }
            Step::SendEvent => self.send_event(),
            Step::Report => self.report(),
            Step::Commit => self.commit(),
            Step::CoordinatorCrash => {
                self.ledger = self.marks.restore();
                self.report = self.report_committed.clone();
                self.pending.clear();
                self.heard_pending.clear();
                self.events_taken = 0;
            }
            Step::NodeCrash => self.restart(false),
            Step::NodeStop => self.restart(true),
        }
    }

    fn deliver(&mut self, record: Record) {
        let (boot, stream, seq) = record;
        let seen = see(&mut self.ledger, &prediction(boot, stream, seq));
        let known = self.stored.contains(&record) || !self.pending.insert(record);
        assert_eq!(seen == Seen::Duplicate, known, "{record:?}");
        self.hear(boot, stream, seq + 1);
    }

    fn evict(&mut self, records: usize) {
        let going: Vec<Record> = self.held().into_iter().take(records).collect();
        for &(boot, stream, seq) in &going {
            self.node.memory.remove(&(boot, stream, seq));
            self.node.disk.remove(&(boot, stream, seq));
            self.evicted.insert((boot, stream, seq));
            let event = lost(boot, stream, seq, seq, LossReason::Evicted);
            self.node.events.push_back(event);
        }
    }

    fn send_event(&mut self) {
        // Those taken and not committed are sent again after a crash of the coordinator; the same twice does no harm.
        if let Some(event) = self.node.events.get(self.events_taken).cloned() {
            self.ledger.on_event(&event, at(1)).unwrap();
            self.events_taken += 1;
            if let LedgerEventKind::Lost(lost) = &event.event {
                let stream = u64::from(lost.stream == name(1));
                self.hear(lost.boot.as_u64(), stream, lost.to + 1);
            }
        }
    }

    fn report(&mut self) {
        let mut waiting: BTreeMap<(u64, u64), Vec<u64>> = BTreeMap::new();
        for (boot, stream, seq) in self.held() {
            waiting.entry((boot, stream)).or_default().push(seq);
        }
        let waiting: Vec<_> = waiting
            .into_iter()
            .map(|((boot, stream), seqs)| (boot, stream, coalesce(seqs)))
            .collect();
        let (boot, events) = (self.node.boot, self.node.events.len() as u64);
        let report = report(boot, &self.node.next, &waiting, events);
        self.ledger.on_report(&report, at(1));
        for stream in 0..STREAMS {
            let used = self.node.next[usize::try_from(stream).unwrap()];
            self.hear(boot, stream, used);
        }
        self.report = Some(report);
    }

    fn commit(&mut self) {
        self.marks.commit(self.ledger.take_changes());
        self.report_committed.clone_from(&self.report);
        self.stored.append(&mut self.pending);
        // Events are acknowledged as soon as they are committed.
        self.node
            .events
            .drain(..std::mem::take(&mut self.events_taken));
        for (key, end) in std::mem::take(&mut self.heard_pending) {
            let heard = self.heard.entry(key).or_default();
            *heard = end.max(*heard);
        }
    }

    fn restart(&mut self, clean: bool) {
        if clean {
            self.node.disk.append(&mut self.node.memory);
        } else {
            self.node.memory.clear();
            self.crashed.insert(self.node.boot);
        }
        let event = ended(self.node.boot, clean, Durability::Outage);
        self.node.events.push_back(event);
        self.node.boot += 1;
        self.node.next = [0; STREAMS_LEN];
    }

    /// Whatever the moment, a number that is called missing has vanished, and every record has one fate.
    fn check(&self) {
        let account = self.ledger.account(self.report.as_ref(), None);
        for missing in &account.missing {
            let stream = u64::from(missing.stream == name(1));
            for seq in missing.from..=missing.to {
                let record = (missing.boot.as_u64(), stream, seq);
                assert!(self.vanished.contains(&record), "{record:?} is no loss");
            }
        }
        for row in &account.streams {
            let Tally {
                produced,
                delivered,
                crash,
                in_flight,
                missing,
                ..
            } = row.tally;
            let fates = delivered + row.tally.lost() + crash + in_flight + missing;
            assert_eq!(produced, fates, "{row:?}");
        }
    }

    /// Once everything has arrived that will, the account is that of a plain list of records.
    fn finish(mut self) {
        self.commit();
        for record in self.held() {
            self.deliver(record);
        }
        self.commit();
        self.step(&Step::Acknowledge);
        while !self.node.events.is_empty() {
            self.send_event();
            self.commit();
        }
        self.report();
        self.commit();
        self.check();
        let ledger = self.marks.restore();
        let account = ledger.account(self.report.as_ref(), None);
        for stream in 0..STREAMS {
            let mut naive = Tally::default();
            for (&(boot, _), &end) in self.heard.iter().filter(|((_, of), _)| *of == stream) {
                for seq in 0..end {
                    let record = (boot, stream, seq);
                    naive.produced += 1;
                    if self.stored.contains(&record) {
                        naive.delivered += 1;
                    } else if self.evicted.contains(&record) {
                        naive.evicted += 1;
                    } else if self.crashed.contains(&boot) {
                        naive.crash += 1;
                    } else {
                        assert!(self.vanished.contains(&record), "{record:?}");
                        naive.missing += 1;
                    }
                }
            }
            let row = account
                .streams
                .iter()
                .find(|row| row.stream == name(stream));
            let mut found = row.map_or_else(Tally::default, |row| row.tally);
            found.duplicated = 0;
            assert_eq!(found, naive, "stream {stream}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn missing_is_exactly_what_vanished(steps in vec(step(), 0..400)) {
        let mut world = World::default();
        for step in &steps {
            world.step(step);
            world.check();
        }
        world.finish();
    }
}
