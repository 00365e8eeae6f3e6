//! What waits for the other broker, and what is on its way there.
//!
//! A letter of QoS 1 is kept until it is acknowledged and sent again over the next connection if it was not: it arrives
//! at least once. When the queue is full the oldest letters of QoS 0 yield, then the oldest of all.

use super::letter::Letter;
use crate::message::QoS;
use std::collections::{BTreeMap, HashMap, VecDeque};

#[derive(Debug)]
pub(super) struct Outbox {
    bytes_max: usize,
    count_max: usize,
    /// Weight and number of all letters here, those in flight included.
    bytes: usize,
    count: usize,
    /// The number of the next letter, by which the two queues are merged.
    next: u64,
    once: VecDeque<(u64, Letter)>,
    kept: VecDeque<(u64, Letter)>,
    flight: Flight,
}

/// What was handed to the client library and is not acknowledged.
#[derive(Debug, Default)]
struct Flight {
    /// In the order in which it was handed over; the library tells a packet id for each in turn.
    handed: VecDeque<Handed>,
    /// Letters and their numbers, by the order of their packet ids; `None` for a notice, which is said once a connection
    /// and not again over the next one.
    letters: BTreeMap<u64, Option<(u64, Letter)>>,
    by_id: HashMap<u16, u64>,
    next: u64,
}

#[derive(Debug)]
enum Handed {
    Once { weight: usize },
    Kept { order: u64 },
}

/// What an acknowledgement was for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Acked {
    Letter,
    Notice,
    Unknown,
}

impl Outbox {
    pub(super) fn new(bytes_max: usize, count_max: usize) -> Self {
        Self {
            bytes_max,
            count_max,
            bytes: 0,
            count: 0,
            next: 0,
            once: VecDeque::new(),
            kept: VecDeque::new(),
            flight: Flight::default(),
        }
    }

    /// Adds a letter. Returns how many yielded, the new one perhaps.
    pub(super) fn push(&mut self, letter: Letter) -> u64 {
        let weight = letter.weight();
        let mut yielded = 0;
        while self.bytes + weight > self.bytes_max || self.count >= self.count_max {
            // What is in flight cannot be taken back, so that the new letter may find no room.
            let Some((_, oldest)) = self.once.pop_front().or_else(|| self.kept.pop_front()) else {
                return yielded + 1;
            };
            self.forget(oldest.weight());
            yielded += 1;
        }
        self.bytes += weight;
        self.count += 1;
        let queue = match letter.qos {
            QoS::AtMostOnce => &mut self.once,
            QoS::AtLeastOnce | QoS::ExactlyOnce => &mut self.kept,
        };
        queue.push_back((self.next, letter));
        self.next += 1;
        yielded
    }

    fn forget(&mut self, weight: usize) {
        self.bytes -= weight;
        self.count -= 1;
    }

    /// The letter that is due.
    pub(super) fn front(&self) -> Option<&Letter> {
        match (self.once.front(), self.kept.front()) {
            (Some((once, letter)), Some((kept, _))) if once < kept => Some(letter),
            (_, Some((_, letter))) | (Some((_, letter)), None) => Some(letter),
            (None, None) => None,
        }
    }

    fn take(&mut self) -> Option<(u64, Letter)> {
        match (self.once.front(), self.kept.front()) {
            (Some((once, _)), Some((kept, _))) if once > kept => self.kept.pop_front(),
            (Some(_), _) => self.once.pop_front(),
            (None, _) => self.kept.pop_front(),
        }
    }

    /// Drops the letter that is due.
    pub(super) fn discard(&mut self) {
        if let Some((_, letter)) = self.take() {
            self.forget(letter.weight());
        }
    }

    /// Notes that the letter that is due was handed to the library.
    pub(super) fn hand(&mut self) {
        let Some((number, letter)) = self.take() else {
            return;
        };
        if letter.qos == QoS::AtMostOnce {
            let weight = letter.weight();
            self.flight.handed.push_back(Handed::Once { weight });
        } else {
            self.flight.add(Some((number, letter)));
        }
    }

    /// Notes that a notice, of QoS 1, was handed to the library.
    pub(super) fn hand_notice(&mut self) {
        self.flight.add(None);
    }

    /// Packet ids between the oldest one in use and the next one: the library uses them in turn, so that one that is
    /// still in use is never met while this is below their number.
    pub(super) fn span(&self) -> u64 {
        let oldest = self.flight.letters.first_key_value();
        oldest.map_or(0, |(order, _)| self.flight.next - order)
    }

    /// Notes that the library has written the next one of what it was handed. True if that was the end of it.
    pub(super) fn sent(&mut self, packet_id: u16) -> bool {
        match self.flight.handed.pop_front() {
            Some(Handed::Once { weight }) => {
                self.forget(weight);
                true
            }
            // The other broker takes QoS 0 at most: there is nothing to wait for.
            Some(Handed::Kept { order }) if packet_id == 0 => {
                match self.flight.letters.remove(&order) {
                    Some(Some((_, letter))) => {
                        self.forget(letter.weight());
                        true
                    }
                    Some(None) | None => false,
                }
            }
            Some(Handed::Kept { order }) => {
                self.flight.by_id.insert(packet_id, order);
                false
            }
            None => false,
        }
    }

    /// Notes an acknowledgement.
    pub(super) fn acked(&mut self, packet_id: u16) -> Acked {
        let order = self.flight.by_id.remove(&packet_id);
        match order.and_then(|order| self.flight.letters.remove(&order)) {
            Some(Some((_, letter))) => {
                self.forget(letter.weight());
                Acked::Letter
            }
            Some(None) => Acked::Notice,
            None => Acked::Unknown,
        }
    }

    /// Takes back what was in flight when a connection ended. Returns how many letters of QoS 0 are lost.
    pub(super) fn land(&mut self) -> u64 {
        let flight = std::mem::take(&mut self.flight);
        let mut lost = 0;
        for handed in flight.handed {
            if let Handed::Once { weight } = handed {
                self.forget(weight);
                lost += 1;
            }
        }
        for flying in flight.letters.into_values().rev().flatten() {
            self.kept.push_front(flying);
        }
        lost
    }

    /// Letters here, those in flight included.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Whether nothing is here or in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.count == 0 && self.flight.letters.is_empty()
    }

    /// Whether so little is here that what is fetched may be added to it.
    pub(super) fn is_half_empty(&self) -> bool {
        self.bytes <= self.bytes_max / 2 && self.count <= self.count_max / 2
    }
}

impl Flight {
    fn add(&mut self, flying: Option<(u64, Letter)>) {
        let order = self.next;
        self.next += 1;
        self.letters.insert(order, flying);
        self.handed.push_back(Handed::Kept { order });
    }
}

#[cfg(test)]
mod tests {
    use super::{Acked, Outbox};
    use crate::{bridge::letter::Letter, message::QoS};
    use proptest::prelude::*;

    fn letter(topic: &str, qos: QoS) -> Letter {
        Letter {
            topic: topic.to_owned(),
            qos,
            ..Letter::default()
        }
    }

    fn drain(outbox: &mut Outbox) -> Vec<String> {
        let mut topics = Vec::new();
        while let Some(letter) = outbox.front() {
            topics.push(letter.topic.clone());
            outbox.discard();
        }
        topics
    }

    #[test]
    fn the_oldest_of_qos_0_yield_first_and_the_order_holds() {
        let (once, kept) = (QoS::AtMostOnce, QoS::AtLeastOnce);
        let mut outbox = Outbox::new(1 << 20, 4);
        for (topic, qos) in [("a", kept), ("b", once), ("c", kept), ("d", once)] {
            assert_eq!(outbox.push(letter(topic, qos)), 0);
        }
        assert_eq!(outbox.push(letter("e", kept)), 1);
        assert_eq!(outbox.push(letter("f", once)), 1);
        assert_eq!(outbox.push(letter("g", kept)), 1);
        assert_eq!(outbox.push(letter("h", kept)), 1);
        assert_eq!(drain(&mut outbox), ["c", "e", "g", "h"]);
        assert!(outbox.is_idle());
    }

    #[test]
    fn bytes_are_bounded_whatever_one_letter_weighs() {
        let mut outbox = Outbox::new(2_000, 1_000);
        let mut big = letter("big", QoS::AtLeastOnce);
        big.payload = vec![0; 3_000].into();
        outbox.push(letter("a", QoS::AtLeastOnce));
        assert_eq!(outbox.push(big), 2);
        assert_eq!(outbox.count(), 0);
        for _ in 0..100 {
            outbox.push(letter("a", QoS::AtLeastOnce));
        }
        assert!(
            outbox.bytes <= 2_000
                && outbox.count() == 2_000 / letter("a", QoS::AtMostOnce).weight()
        );
    }

    #[test]
    fn what_was_not_acknowledged_comes_again_in_order() {
        let mut outbox = Outbox::new(1 << 20, 100);
        for topic in ["a", "b", "c", "d"] {
            outbox.push(letter(topic, QoS::AtLeastOnce));
        }
        outbox.hand_notice();
        for _ in 0..3 {
            outbox.hand();
        }
        for id in 1..=3 {
            assert!(!outbox.sent(id));
        }
        assert_eq!(outbox.span(), 4);
        assert_eq!(outbox.acked(1), Acked::Notice);
        assert_eq!(outbox.acked(3), Acked::Letter);
        assert_eq!(
            (outbox.acked(3), outbox.acked(9)),
            (Acked::Unknown, Acked::Unknown)
        );
        // The oldest one in flight counts, whatever came after it.
        assert_eq!(outbox.span(), 3);
        outbox.push(letter("q", QoS::AtMostOnce));
        outbox.hand();
        outbox.hand();
        assert_eq!(outbox.land(), 1);
        assert_eq!(outbox.span(), 0);
        assert_eq!(drain(&mut outbox), ["a", "c", "d"]);
        assert!(outbox.is_idle());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push(bool, usize),
        Hand,
        Sent,
        Ack(usize),
        Land,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (any::<bool>(), 0..600usize).prop_map(|(kept, size)| Step::Push(kept, size)),
            3 => Just(Step::Hand),
            3 => Just(Step::Sent),
            3 => (0..4usize).prop_map(Step::Ack),
            1 => Just(Step::Land),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        /// Every letter ends in exactly one way, and the bounds hold at each step.
        #[test]
        fn nothing_is_lost_in_silence(steps in prop::collection::vec(step(), 0..200)) {
            let mut outbox = Outbox::new(4_000, 8);
            let (mut pushed, mut ended, mut next_id) = (0, 0, 1);
            let mut on_wire = Vec::new();
            for step in steps {
                match step {
                    Step::Push(kept, size) => {
                        let qos = if kept { QoS::AtLeastOnce } else { QoS::AtMostOnce };
                        let mut letter = letter("t", qos);
                        letter.payload = vec![0; size].into();
                        pushed += 1;
                        ended += outbox.push(letter);
                    }
                    Step::Hand => outbox.hand(),
                    Step::Sent => {
                        let waiting = outbox.flight.by_id.len();
                        ended += u64::from(outbox.sent(next_id));
                        if outbox.flight.by_id.len() > waiting {
                            on_wire.push(next_id);
                            next_id += 1;
                        }
                    }
                    Step::Ack(index) if index < on_wire.len() => {
                        prop_assert_eq!(outbox.acked(on_wire.remove(index)), Acked::Letter);
                        ended += 1;
                    }
                    Step::Ack(_) => {}
                    Step::Land => {
                        ended += outbox.land();
                        on_wire.clear();
                    }
                }
                prop_assert!(outbox.bytes <= 4_000 && outbox.count <= 8);
                prop_assert_eq!(pushed - ended, outbox.count() as u64);
            }
            ended += outbox.land();
            ended += drain(&mut outbox).len() as u64;
            prop_assert_eq!((pushed, outbox.bytes), (ended, 0));
            prop_assert!(outbox.is_idle());
        }
    }
}
