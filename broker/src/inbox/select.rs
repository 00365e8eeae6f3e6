//! Which copy of a message counts, and on what terms it is delivered.

use super::{Inbox, Options, Slot};
use crate::{
    message::{Envelope, QoS},
    topic,
};
use std::{collections::HashMap, sync::Arc};

/// Topics whose plans one subscriber remembers. Beyond it forgets and looks again.
const PLANS_MAX: usize = 256;

/// How a message is delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Terms {
    /// The most that the subscriptions grant.
    pub(crate) qos: QoS,
    /// Whether the retain flag is the publisher's.
    pub(crate) retain_as_published: bool,
    pub(crate) ids: Ids,
}

/// Subscription identifiers: of several subscriptions, with repetitions (MQTT 5, section 3.3.4).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Ids {
    #[default]
    None,
    One(u32),
    Many(Arc<[u32]>),
}

impl Ids {
    pub(crate) fn as_slice(&self) -> &[u32] {
        match self {
            Self::None => &[],
            Self::One(id) => std::slice::from_ref(id),
            Self::Many(ids) => ids,
        }
    }
}

impl Terms {
    pub(super) fn of(options: &Options) -> Self {
        Self {
            qos: options.qos,
            retain_as_published: options.retain_as_published,
            ids: options.subscription_id.map_or(Ids::None, Ids::One),
        }
    }

    /// Joins the terms of several subscriptions; `None` if there are none.
    fn merge<'a>(all: impl Iterator<Item = &'a Options>) -> Option<Self> {
        all.fold(None, |merged, options| {
            let one = Self::of(options);
            let Some(Self {
                qos,
                retain_as_published,
                ids,
            }) = merged
            else {
                return Some(one);
            };
            let ids = match (ids, one.ids) {
                (ids, Ids::None) | (Ids::None, ids) => ids,
                (a, b) => Ids::Many([a.as_slice(), b.as_slice()].concat().into()),
            };
            Some(Self {
                qos: qos.max(one.qos),
                retain_as_published: retain_as_published || one.retain_as_published,
                ids,
            })
        })
    }
}

/// What one subscriber does about the messages of one topic.
#[derive(Debug, Clone)]
struct Plan {
    /// The subscription whose copies are delivered, and the stamp from which on it gets every message.
    primary: Option<(usize, u64)>,
    /// The terms for messages of others; `None` to deliver nothing.
    others: Option<Terms>,
    /// The terms for its own messages: No Local leaves subscriptions out.
    own: Option<Terms>,
}

/// The plans of the topics seen last; empty after every change of a subscription.
#[derive(Debug, Default)]
pub(super) struct Plans(HashMap<Box<[u8]>, Plan>);

impl Plans {
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

impl Slot {
    /// The terms of this subscription alone.
    pub(super) fn terms(&self, own: bool) -> Option<Terms> {
        (!(own && self.options.no_local)).then(|| Terms::of(&self.options))
    }
}

impl Inbox {
    /// The terms for a copy that came by the filter in the slot `index`; `None` if it is not to be delivered.
    pub(super) fn terms(&mut self, index: usize, envelope: &Envelope) -> Option<Terms> {
        let own = envelope.origin() == self.subscriber.id;
        let slot = self.slots.get(index)?.as_ref()?;
        let alone = slot.overlaps == 0 && self.ghosts.is_empty();
        if slot.seat.group.is_some() || (alone && slot.ending.is_none()) {
            return slot.terms(own);
        }
        // While subscriptions end, plans differ from slot to slot and are not kept.
        if !self.ghosts.is_empty() || slot.ending.is_some() {
            return self
                .plan(slot, envelope.topic_str())
                .apply(slot, own, envelope);
        }
        if let Some(plan) = self.plans.0.get(envelope.topic()) {
            return plan.apply(slot, own, envelope);
        }
        let plan = self.plan(slot, envelope.topic_str());
        let terms = plan.apply(slot, own, envelope);
        if self.plans.0.len() >= PLANS_MAX {
            self.plans.clear();
        }
        self.plans.0.insert(envelope.topic().into(), plan);
        terms
    }

    fn plan(&self, reading: &Slot, topic: &str) -> Plan {
        let matching: Vec<&Slot> = self
            .slots
            .iter()
            .flatten()
            .filter(|slot| slot.seat.group.is_none() && topic::matches(slot.filter(), topic))
            .collect();
        let slots = matching
            .iter()
            .filter(|slot| slot.ending.is_none() || slot.key == reading.key)
            .filter_map(|slot| Some((slot.key, slot.in_force_from?)));
        let ghosts = self
            .ghosts
            .iter()
            .filter(|ghost| {
                ghost.awaited_by.contains(&reading.key) && topic::matches(&ghost.filter, topic)
            })
            .map(|ghost| (ghost.key, ghost.in_force_from));
        let primary = slots.chain(ghosts).min_by_key(|(_, from)| *from);
        let live = || {
            let live = matching.iter().filter(|slot| slot.ending.is_none());
            live.map(|slot| &slot.options)
        };
        Plan {
            primary,
            others: Terms::merge(live()),
            own: Terms::merge(live().filter(|options| !options.no_local)),
        }
    }
}

impl Plan {
    /// The terms for a copy that came by `slot`.
    fn apply(&self, slot: &Slot, own: bool, envelope: &Envelope) -> Option<Terms> {
        let joint = if own { &self.own } else { &self.others };
        match self.primary {
            Some((primary, from)) if from <= envelope.stamp() => {
                (primary == slot.key).then(|| joint.clone())?
            }
            // The primary's log need not have this message.
            _ if slot.ending.is_some() => joint.clone(),
            _ => slot.terms(own),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Ids, Options, Terms};
    use crate::message::QoS;

    #[test]
    fn merged_terms_are_the_most_generous_and_name_every_subscription() {
        let options = |qos, retain_as_published, subscription_id| Options {
            qos,
            no_local: false,
            retain_as_published,
            subscription_id,
        };
        let all = [
            options(QoS::AtLeastOnce, false, Some(7)),
            options(QoS::AtMostOnce, true, None),
            options(QoS::ExactlyOnce, false, Some(9)),
            options(QoS::AtMostOnce, false, Some(7)),
        ];
        let merged = Terms::merge(all.iter()).unwrap();
        assert_eq!(merged.qos, QoS::ExactlyOnce);
        assert!(merged.retain_as_published);
        assert_eq!(merged.ids.as_slice(), [7, 9, 7]);
        let one = Terms::merge(all[..2].iter()).unwrap();
        assert_eq!((one.ids, one.qos), (Ids::One(7), QoS::AtLeastOnce));
        assert_eq!(Terms::merge(all[..0].iter()), None);
    }
}
