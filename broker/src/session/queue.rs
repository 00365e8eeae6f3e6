//! Messages that wait for their turn: the client is away, takes bytes too slowly, or has its window full.
//!
//! There are two lines, so that a full window holds up QoS 1 and 2 only, and so that QoS 0 can be given up first. Each
//! message has the number of its arrival, by which the lines are merged again where both may go.

use crate::{
    inbox::{Due, Ids, Selected, Terms},
    message::{Envelope, QoS},
};
use std::collections::VecDeque;

/// A message on its way to one client: whatever its delivery needs but the connection.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) envelope: Envelope,
    /// The lesser of the publication's and the subscription's.
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) ids: Ids,
    /// To give it back by, if it is never sent.
    pub(super) due: Due,
}

impl Outgoing {
    pub(super) fn live(envelope: Envelope, terms: Terms, due: Due) -> Self {
        Self {
            qos: envelope.qos().min(terms.qos),
            // No retain flag unless the subscription asks for it (MQTT 5, section 3.3.1.3).
            retain: terms.retain_as_published && envelope.retain(),
            envelope,
            ids: terms.ids,
            due,
        }
    }

    pub(super) fn retained(selected: Selected) -> Self {
        let Selected {
            envelope,
            terms,
            due,
            ..
        } = selected;
        Self {
            retain: true,
            ..Self::live(envelope, terms, due)
        }
    }

    /// The bytes it takes while it waits: its place in a line, and a buffer with some 50 bytes around it.
    pub(super) fn weight(&self) -> usize {
        self.envelope.weight() + size_of::<Waiting>() + 50
    }
}

#[derive(Debug)]
struct Waiting {
    arrival: u64,
    since_s: u32,
    outgoing: Outgoing,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    /// QoS 0.
    low: VecDeque<Waiting>,
    /// QoS 1 and 2.
    high: VecDeque<Waiting>,
    arrivals: u64,
    bytes: usize,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.low.is_empty() && self.high.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.low.len() + self.high.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn push(&mut self, outgoing: Outgoing, now_s: u32) {
        self.bytes += outgoing.weight();
        self.arrivals += 1;
        let line = match outgoing.qos {
            QoS::AtMostOnce => &mut self.low,
            QoS::AtLeastOnce | QoS::ExactlyOnce => &mut self.high,
        };
        line.push_back(Waiting {
            arrival: self.arrivals,
            since_s: now_s,
            outgoing,
        });
    }

    /// The next message to send: the one that came first, or the first of QoS 0 if the window is full.
    pub(super) fn pop(&mut self, window_open: bool) -> Option<Outgoing> {
        let low = self.low.front().map(|waiting| waiting.arrival);
        let high = self.high.front().map(|waiting| waiting.arrival);
        match (low, high.filter(|_| window_open)) {
            (Some(low), Some(high)) if low < high => self.pop_low(),
            (_, Some(_)) => self.pop_high(),
            (Some(_), None) => self.pop_low(),
            (None, None) => None,
        }
    }

    /// Takes the oldest message of QoS 0.
    pub(super) fn pop_low(&mut self) -> Option<Outgoing> {
        let outgoing = self.low.pop_front()?.outgoing;
        self.bytes -= outgoing.weight();
        shrink(&mut self.low);
        Some(outgoing)
    }

    /// Takes the oldest message of QoS 1 or 2.
    pub(super) fn pop_high(&mut self) -> Option<Outgoing> {
        let outgoing = self.high.pop_front()?.outgoing;
        self.bytes -= outgoing.weight();
        shrink(&mut self.high);
        Some(outgoing)
    }

    /// Takes a message that came before `since_s`, if there is one.
    pub(super) fn pop_older(&mut self, since_s: u32) -> Option<Outgoing> {
        let old = |line: &VecDeque<Waiting>| {
            line.front()
                .is_some_and(|waiting| waiting.since_s < since_s)
        };
        if old(&self.low) {
            self.pop_low()
        } else if old(&self.high) {
            self.pop_high()
        } else {
            None
        }
    }

    /// Takes the messages out whose deadline has passed. It looks at every message.
    pub(super) fn take_expired(&mut self, now_s: u32) -> Vec<Outgoing> {
        let mut expired = Vec::new();
        let is_expired = |waiting: &Waiting| {
            let deadline = waiting.outgoing.envelope.deadline();
            deadline.is_some_and(|deadline| deadline <= now_s)
        };
        for line in [&mut self.low, &mut self.high] {
            // Usually nothing has, and the line stays where it is.
            if line.iter().any(is_expired) {
                let (out, kept): (VecDeque<_>, _) =
                    std::mem::take(line).into_iter().partition(is_expired);
                *line = kept;
                expired.extend(out.into_iter().map(|waiting| waiting.outgoing));
            }
        }
        self.bytes -= expired.iter().map(Outgoing::weight).sum::<usize>();
        expired
    }
}

/// Gives the memory of a line back that was long once.
fn shrink(line: &mut VecDeque<Waiting>) {
    if line.is_empty() && line.capacity() > 64 {
        *line = VecDeque::new();
    }
}

#[cfg(test)]
mod tests {
    use super::{Due, Ids, Outgoing, Queue};
    use crate::message::{Draft, Head, QoS};
    use proptest::prelude::*;

    fn message(qos: QoS, n: u32, deadline: Option<u32>) -> Outgoing {
        let draft = Draft {
            qos,
            retain: false,
            properties: b"",
            deadline,
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

    fn number(outgoing: &Outgoing) -> u32 {
        let payload = outgoing.envelope.payload().try_into().unwrap();
        u32::from_be_bytes(payload)
    }

    /// A message as the oracle keeps it.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Plain {
        n: u32,
        low: bool,
        since_s: u32,
        deadline: Option<u32>,
    }

    fn take(list: &mut Vec<Plain>, wanted: impl Fn(&Plain) -> bool) -> Option<u32> {
        let at = list.iter().position(wanted)?;
        Some(list.remove(at).n)
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push(u8, Option<u32>),
        Pop(bool),
        PopLow,
        PopHigh,
        Older(u32),
        Expire,
        Wait,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => (0u8..3, prop::option::of(0u32..30)).prop_map(|(qos, deadline)| Step::Push(qos, deadline)),
            3 => any::<bool>().prop_map(Step::Pop),
            1 => Just(Step::PopLow),
            1 => Just(Step::PopHigh),
            1 => (0u32..30).prop_map(Step::Older),
            1 => Just(Step::Expire),
            2 => Just(Step::Wait),
        ];
        prop::collection::vec(step, 0..120)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Against one list in the order of arrival.
        #[test]
        fn it_does_what_a_plain_list_does(steps in steps()) {
            let (mut queue, mut list, mut n, mut now_s) = (Queue::default(), Vec::new(), 0, 0);
            for step in steps {
                match step {
                    Step::Push(qos, deadline) => {
                        n += 1;
                        let qos = QoS::from_bits(qos).unwrap();
                        queue.push(message(qos, n, deadline), now_s);
                        list.push(Plain { n, low: qos == QoS::AtMostOnce, since_s: now_s, deadline });
                    }
                    Step::Pop(open) => {
                        let popped = queue.pop(open);
                        prop_assert_eq!(popped.as_ref().map(number), take(&mut list, |plain| open || plain.low));
                    }
                    Step::PopLow => prop_assert_eq!(queue.pop_low().as_ref().map(number), take(&mut list, |plain| plain.low)),
                    Step::PopHigh => prop_assert_eq!(queue.pop_high().as_ref().map(number), take(&mut list, |plain| !plain.low)),
                    Step::Older(since_s) => {
                        let mut old = Vec::new();
                        while let Some(outgoing) = queue.pop_older(since_s) {
                            old.push(number(&outgoing));
                        }
                        old.sort_unstable();
                        let wanted: Vec<u32> = list.extract_if(.., |plain| plain.since_s < since_s).map(|plain| plain.n).collect();
                        prop_assert_eq!(old, wanted);
                    }
                    Step::Expire => {
                        let mut expired: Vec<u32> = queue.take_expired(now_s).iter().map(number).collect();
                        expired.sort_unstable();
                        let dead = |plain: &mut Plain| plain.deadline.is_some_and(|deadline| deadline <= now_s);
                        let wanted: Vec<u32> = list.extract_if(.., dead).map(|plain| plain.n).collect();
                        prop_assert_eq!(expired, wanted);
                    }
                    Step::Wait => now_s += 1,
                }
                prop_assert_eq!((queue.len(), queue.is_empty()), (list.len(), list.is_empty()));
                let weight = |plain: &Plain| message(QoS::AtMostOnce, 0, plain.deadline).weight();
                prop_assert_eq!(queue.bytes(), list.iter().map(weight).sum::<usize>());
            }
        }
    }
}
