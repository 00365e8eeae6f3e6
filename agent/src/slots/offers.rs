//! The newest releases on each update topic, as they came.
//!
//! Whether one is taken in depends on the keys that are trusted and on the time, and either may become known after it: then
//! it is looked at again, without asking the coordinator for it.

use std::collections::BTreeMap;

use bytes::Bytes;
use lamppost_models::release::{ENVELOPE_BYTES_MAX, Sequence};
use lamppost_models::{GroupId, ModelName, Timestamp};

use crate::uplink::Delivery;

/// Two releases for each update topic that the node listens to, which are its groups times its models; 32 KiB each.
#[derive(Debug)]
pub(super) struct Offers {
    groups: Vec<GroupId>,
    newest: BTreeMap<(GroupId, ModelName), Offer>,
}

#[derive(Debug, Default)]
struct Offer {
    /// The newest that was taken in, its number, and when it expires.
    taken: Option<(Bytes, Sequence, Timestamp)>,
    /// The newest that was refused since.
    refused: Option<Bytes>,
}

/// A release that was taken in, and when it expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lapse {
    pub(crate) group: GroupId,
    pub(crate) model: ModelName,
    pub(crate) sequence: Sequence,
    pub(crate) expires_at: Timestamp,
}

impl Offers {
    pub(super) const fn new(groups: Vec<GroupId>) -> Self {
        Self {
            groups,
            newest: BTreeMap::new(),
        }
    }

    /// Keeps what was refused, beside what was taken in before it: new keys may turn that round.
    pub(super) fn refused(&mut self, delivery: Delivery) {
        let Delivery {
            group,
            model,
            payload,
        } = delivery;
        if self.groups.contains(&group) && payload.len() <= ENVELOPE_BYTES_MAX {
            self.newest.entry((group, model)).or_default().refused = Some(payload);
        }
    }

    /// Keeps what was taken in.
    pub(super) fn taken(&mut self, delivery: Delivery, sequence: Sequence, expires_at: Timestamp) {
        let Delivery {
            group,
            model,
            payload,
        } = delivery;
        let offer = Offer {
            taken: Some((payload, sequence, expires_at)),
            refused: None,
        };
        self.newest.insert((group, model), offer);
    }

    /// Hands out what is to be looked at again: what was refused, or what was taken in, too.
    pub(super) fn take_again(&mut self, all: bool) -> Vec<Delivery> {
        let mut again = Vec::new();
        for ((group, model), offer) in &mut self.newest {
            let taken = offer.taken.take_if(|_| all).map(|(payload, ..)| payload);
            again.extend(
                taken
                    .into_iter()
                    .chain(offer.refused.take())
                    .map(|payload| Delivery {
                        group: group.clone(),
                        model: model.clone(),
                        payload,
                    }),
            );
        }
        again
    }

    /// When each release that was taken in expires.
    pub(super) fn lapses(&self) -> Vec<Lapse> {
        let taken = self.newest.iter().filter_map(|((group, model), offer)| {
            let (_, sequence, expires_at) = offer.taken.as_ref()?;
            Some(Lapse {
                group: group.clone(),
                model: model.clone(),
                sequence: *sequence,
                expires_at: *expires_at,
            })
        });
        taken.collect()
    }
}
