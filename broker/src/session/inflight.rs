//! Messages of QoS 1 and 2 that were sent and not acknowledged to the end, in the order in which they were sent.
//!
//! They outlive the connection: a client that comes back gets them again, in the same order and with the same packet
//! ids (OASIS MQTT 5.0, section 4.4), and nothing new before them.

use super::queue::Outgoing;
use crate::message::QoS;
use std::collections::VecDeque;

/// Packet ids: all 16-bit numbers but zero.
const IDS: u64 = 65_535;

/// What the client has to answer with next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Awaits {
    /// PUBACK.
    Ack,
    /// PUBREC.
    Rec,
    /// PUBCOMP: the message has arrived and is given up; only its id is still in use.
    Comp,
}

#[derive(Debug)]
struct Entry {
    /// Counts on for ever; the packet id follows from it.
    serial: u64,
    awaits: Awaits,
    /// `None` once PUBREC has come.
    outgoing: Option<Outgoing>,
}

#[derive(Debug, Default)]
pub(super) struct Inflight {
    /// By growing serial.
    entries: VecDeque<Entry>,
    next: u64,
    bytes: usize,
    /// How many entries, from the front, were sent over the present connection.
    sent: usize,
}

/// What is to be sent again.
#[derive(Debug)]
pub(super) enum Again<'a> {
    Publish(u16, &'a Outgoing),
    PubRel(u16),
}

impl Inflight {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The messages that have not arrived for certain.
    pub(super) fn messages(&self) -> usize {
        let entries = self.entries.iter();
        entries.filter(|entry| entry.outgoing.is_some()).count()
    }

    /// The weight of the messages.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a window of `window` messages and `bytes_max` bytes has room for one more. One message always has room
    /// if there is no other.
    pub(super) fn has_room(&self, window: usize, bytes_max: usize) -> bool {
        self.all_sent()
            && self.entries.len() < window
            && (self.bytes < bytes_max || self.entries.is_empty())
    }

    fn all_sent(&self) -> bool {
        self.sent == self.entries.len()
    }

    /// A packet id that is not in use. There is one: a window has 32,768 messages at most.
    pub(super) fn next_id(&mut self) -> u16 {
        // Only an entry that has outlived a whole round of ids can have the next one.
        let whole_round = |next, entry: &Entry| next - entry.serial >= IDS;
        while self
            .entries
            .front()
            .is_some_and(|front| whole_round(self.next, front))
            && self.position(id(self.next)).is_some()
        {
            self.next += 1;
        }
        id(self.next)
    }

    /// Enters the message that was sent with the id that [`Inflight::next_id`] gave last.
    pub(super) fn enter(&mut self, outgoing: Outgoing) {
        self.bytes += outgoing.weight();
        let awaits = match outgoing.qos {
            QoS::ExactlyOnce => Awaits::Rec,
            QoS::AtMostOnce | QoS::AtLeastOnce => Awaits::Ack,
        };
        self.sent += 1;
        self.entries.push_back(Entry {
            serial: self.next,
            awaits,
            outgoing: Some(outgoing),
        });
        self.next += 1;
    }

    /// Ends the delivery with this id if it awaits this packet.
    pub(super) fn end(&mut self, packet_id: u16, awaits: Awaits) -> bool {
        match self.position(packet_id) {
            Some(at) if self.entries[at].awaits == awaits => {
                self.remove(at);
                true
            }
            Some(_) | None => false,
        }
    }

    /// Notes a PUBREC; false if there is no delivery of QoS 2 with this id.
    pub(super) fn received(&mut self, packet_id: u16) -> bool {
        let Some(at) = self.position(packet_id) else {
            return false;
        };
        let entry = &mut self.entries[at];
        if entry.awaits == Awaits::Ack {
            return false;
        }
        entry.awaits = Awaits::Comp;
        if let Some(outgoing) = entry.outgoing.take() {
            self.bytes -= outgoing.weight();
        }
        true
    }

    /// Begins to send everything again, over a new connection.
    pub(super) fn begin_again(&mut self) {
        self.sent = 0;
    }

    /// What to send again next, as long as fewer than `window` have been.
    pub(super) fn again(&self, window: usize) -> Option<Again<'_>> {
        if self.sent >= window {
            return None;
        }
        let entry = self.entries.get(self.sent)?;
        let packet_id = id(entry.serial);
        Some(match &entry.outgoing {
            Some(outgoing) => Again::Publish(packet_id, outgoing),
            None => Again::PubRel(packet_id),
        })
    }

    /// Notes that what [`Inflight::again`] gave was sent.
    pub(super) fn sent_again(&mut self) {
        self.sent += 1;
    }

    /// Gives up what [`Inflight::again`] gave.
    pub(super) fn skip(&mut self) {
        if self.sent < self.entries.len() {
            self.remove(self.sent);
        }
    }

    fn remove(&mut self, at: usize) {
        if let Some(entry) = self.entries.remove(at) {
            self.bytes -= entry.outgoing.map_or(0, |outgoing| outgoing.weight());
            self.sent -= usize::from(at < self.sent);
        }
        if self.entries.is_empty() && self.entries.capacity() > 64 {
            self.entries = VecDeque::new();
        }
    }

    /// Where the entry with this id is. Acknowledgements come in order, so that it is usually the first.
    fn position(&self, packet_id: u16) -> Option<usize> {
        let (front, back) = (self.entries.front()?, self.entries.back()?);
        if id(front.serial) == packet_id {
            return Some(0);
        }
        if back.serial - front.serial < IDS {
            // Within one round of ids there is one serial that can have this one.
            let ahead = (u64::from(packet_id) + IDS - u64::from(id(front.serial))) % IDS;
            let wanted = front.serial + ahead;
            return self
                .entries
                .binary_search_by_key(&wanted, |entry| entry.serial)
                .ok();
        }
        self.entries
            .iter()
            .position(|entry| id(entry.serial) == packet_id)
    }
}

fn id(serial: u64) -> u16 {
    u16::try_from(serial % IDS + 1).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Again, Awaits, Inflight};
    use crate::{
        inbox::{Due, Ids},
        message::{Draft, Head, QoS},
        session::queue::Outgoing,
    };
    use proptest::prelude::*;

    fn message(qos: QoS, n: u32) -> Outgoing {
        let draft = Draft {
            qos,
            retain: false,
            properties: b"",
            deadline: None,
            payload: &n.to_be_bytes(),
        };
        Outgoing {
            envelope: draft.seal(&Head::new(0, 0, "t")),
            qos,
            retain: false,
            ids: Ids::None,
            due: Due::none(),
        }
    }

    fn send(inflight: &mut Inflight, qos: QoS, n: u32) -> u16 {
        let id = inflight.next_id();
        inflight.enter(message(qos, n));
        id
    }

    #[test]
    fn ids_in_use_are_left_out_round_after_round() {
        let mut inflight = Inflight::default();
        let stuck = send(&mut inflight, QoS::AtLeastOnce, 0);
        let other = send(&mut inflight, QoS::ExactlyOnce, 0);
        for n in 0..200_000 {
            let id = send(&mut inflight, QoS::AtLeastOnce, n);
            assert!(id != 0 && id != stuck && id != other);
            assert!(inflight.end(id, Awaits::Ack));
            assert!(!inflight.end(id, Awaits::Ack));
        }
        assert!(inflight.received(other));
        assert!(inflight.end(other, Awaits::Comp));
        assert!(inflight.end(stuck, Awaits::Ack));
        assert_eq!((inflight.len(), inflight.bytes()), (0, 0));
    }

    #[test]
    fn the_window_counts_messages_and_bytes() {
        let mut inflight = Inflight::default();
        assert!(inflight.has_room(2, 1), "the first always fits");
        let first = send(&mut inflight, QoS::AtLeastOnce, 0);
        assert!(!inflight.has_room(2, 1));
        assert!(inflight.has_room(2, 10_000));
        send(&mut inflight, QoS::AtLeastOnce, 0);
        assert!(!inflight.has_room(2, 10_000));
        assert!(inflight.end(first, Awaits::Ack));
        assert!(inflight.has_room(2, 10_000));
        inflight.begin_again();
        assert!(!inflight.has_room(2, 10_000), "old messages go first");
    }

    #[derive(Debug, Clone)]
    enum Step {
        Send(bool),
        Ack(usize),
        Rec(usize),
        Comp(usize),
        Unknown(u16),
        Reconnect(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => any::<bool>().prop_map(Step::Send),
            2 => (0usize..12).prop_map(Step::Ack),
            2 => (0usize..12).prop_map(Step::Rec),
            2 => (0usize..12).prop_map(Step::Comp),
            1 => (1u16..).prop_map(Step::Unknown),
            1 => (1usize..12).prop_map(Step::Reconnect),
        ];
        prop::collection::vec(step, 0..80)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Against a plain list that is searched from end to end.
        #[test]
        fn it_does_what_a_plain_list_does(start in 0u64..70_000, steps in steps()) {
            let mut inflight = Inflight { next: start, ..Inflight::default() };
            let mut list: Vec<(u16, Awaits, u32)> = Vec::new();
            let mut n = 0;
            for step in steps {
                match step {
                    Step::Send(twice) => {
                        n += 1;
                        let (qos, awaits) = if twice { (QoS::ExactlyOnce, Awaits::Rec) } else { (QoS::AtLeastOnce, Awaits::Ack) };
                        let id = send(&mut inflight, qos, n);
                        prop_assert!(list.iter().all(|(other, ..)| *other != id));
                        list.push((id, awaits, n));
                    }
                    Step::Ack(at) => if let Some(&(id, awaits, _)) = list.get(at) {
                        prop_assert_eq!(inflight.end(id, Awaits::Ack), awaits == Awaits::Ack);
                        list.retain(|(other, awaits, _)| *other != id || *awaits != Awaits::Ack);
                    },
                    Step::Rec(at) => if let Some((id, awaits, _)) = list.get_mut(at) {
                        prop_assert_eq!(inflight.received(*id), *awaits != Awaits::Ack);
                        if *awaits == Awaits::Rec {
                            *awaits = Awaits::Comp;
                        }
                    },
                    Step::Comp(at) => if let Some(&(id, awaits, _)) = list.get(at) {
                        prop_assert_eq!(inflight.end(id, Awaits::Comp), awaits == Awaits::Comp);
                        list.retain(|(other, awaits, _)| *other != id || *awaits != Awaits::Comp);
                    },
                    Step::Unknown(id) => if list.iter().all(|(other, ..)| *other != id) {
                        prop_assert!(!inflight.end(id, Awaits::Ack) && !inflight.received(id));
                    },
                    Step::Reconnect(window) => {
                        inflight.begin_again();
                        let mut again = Vec::new();
                        while let Some(next) = inflight.again(window) {
                            again.push(match next {
                                Again::Publish(id, outgoing) => (id, Some(outgoing.envelope.payload().to_vec())),
                                Again::PubRel(id) => (id, None),
                            });
                            inflight.sent_again();
                        }
                        let wanted: Vec<_> = list.iter().take(window)
                            .map(|(id, awaits, n)| (*id, (*awaits != Awaits::Comp).then(|| n.to_be_bytes().to_vec())))
                            .collect();
                        prop_assert_eq!(again, wanted);
                        while inflight.again(usize::MAX).is_some() {
                            inflight.sent_again();
                        }
                    }
                }
                prop_assert_eq!(inflight.len(), list.len());
                let held = list.iter().filter(|(_, awaits, _)| *awaits != Awaits::Comp).count();
                prop_assert_eq!(inflight.bytes(), held * message(QoS::AtLeastOnce, 0).weight());
                prop_assert!(inflight.all_sent());
            }
        }
    }
}
