//! A message on its way over a bridge, and the entries that say which topics pass and what they are called there.

use crate::{
    config::BridgeRoute,
    message::{PublishProperties, QoS},
    topic,
};
use bytes::Bytes;

/// What a letter takes beside its bytes: its own fields and its places in the queue's tables.
const OVERHEAD_BYTES: usize = 256;

/// Header, packet id, lengths and the bytes in front of each property of a packet, at most, user properties apart.
const PACKET_BYTES: usize = 48;
/// The bytes in front of a user property.
const USER_PROPERTY_BYTES: usize = 5;

/// A message on its way over a bridge.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Letter {
    /// The topic on the side where the letter goes; on the other one while it is read from there.
    pub(super) topic: String,
    pub(super) payload: Bytes,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    /// Without expiry for what goes out: see `deadline`.
    pub(super) properties: PublishProperties,
    /// The second, of the broker's clock, after which what goes out is worthless.
    pub(super) deadline: Option<u32>,
}

impl Letter {
    /// The bytes of its parts.
    fn content(&self) -> usize {
        let properties = &self.properties;
        let user = &properties.user_properties;
        self.topic.len()
            + self.payload.len()
            + properties.content_type.as_ref().map_or(0, String::len)
            + properties.response_topic.as_ref().map_or(0, String::len)
            + properties.correlation_data.as_ref().map_or(0, Bytes::len)
            + user
                .iter()
                .map(|(name, value)| name.len() + value.len() + USER_PROPERTY_BYTES)
                .sum::<usize>()
    }

    /// What it takes to hold it.
    pub(super) fn weight(&self) -> usize {
        self.content() + OVERHEAD_BYTES
    }

    /// The length of its packet, at most.
    pub(super) fn packet_bytes(&self) -> usize {
        self.content() + PACKET_BYTES
    }
}

/// An entry of `out` or `in`, its prefixes and filter joined.
#[derive(Debug, Clone)]
pub(super) struct Route {
    /// The filter where messages come from, and what is taken off their topics.
    pub(super) from: String,
    from_prefix: String,
    /// The filter where they go, and what is put in front instead.
    to: String,
    to_prefix: String,
    pub(super) qos: QoS,
}

/// What became of a topic.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Mapped {
    /// It passes under this name.
    To(String),
    /// No entry selects it.
    NotSelected,
    /// It would get a name that its entry does not stand for: empty, too long, or one that begins with `$`.
    Unfit,
}

impl Route {
    pub(super) fn outward(entry: &BridgeRoute) -> Self {
        Self {
            from: entry.local(),
            from_prefix: entry.local_prefix.clone(),
            to: entry.remote(),
            to_prefix: entry.remote_prefix.clone(),
            qos: entry.qos,
        }
    }

    pub(super) fn inward(entry: &BridgeRoute) -> Self {
        Self {
            from: entry.remote(),
            from_prefix: entry.remote_prefix.clone(),
            to: entry.local(),
            to_prefix: entry.local_prefix.clone(),
            qos: entry.qos,
        }
    }

    fn map(&self, name: &str) -> Mapped {
        // `a/#` selects `a` too, which the prefix `a/` and the filter `#` do not stand for.
        let Some(rest) = name.strip_prefix(self.from_prefix.as_str()) else {
            return Mapped::NotSelected;
        };
        let mapped = format!("{}{rest}", self.to_prefix);
        if topic::is_topic(&mapped) && !mapped.starts_with('$') && topic::matches(&self.to, &mapped)
        {
            Mapped::To(mapped)
        } else {
            Mapped::Unfit
        }
    }
}

/// The name of a topic on the other side, by the entry that selects it: there is one at most.
pub(super) fn map(routes: &[Route], name: &str) -> Mapped {
    routes
        .iter()
        .find(|route| topic::matches(&route.from, name))
        .map_or(Mapped::NotSelected, |route| route.map(name))
}

#[cfg(test)]
mod tests {
    use super::{Mapped, Route, map};
    use crate::{config::BridgeRoute, message::QoS};

    fn route(filter: &str, local_prefix: &str, remote_prefix: &str) -> Route {
        Route::outward(&BridgeRoute {
            filter: filter.into(),
            qos: QoS::AtLeastOnce,
            local_prefix: local_prefix.into(),
            remote_prefix: remote_prefix.into(),
            allow_protected: false,
        })
    }

    #[test]
    fn prefixes_are_exchanged() {
        let routes = [
            route("#", "lamps/", "city/7/"),
            route("+/up", "", ""),
            route("#", "bare/", ""),
        ];
        let to = |topic: &str| Mapped::To(topic.to_owned());
        for (name, wanted) in [
            ("lamps/1/state", to("city/7/1/state")),
            ("x/up", to("x/up")),
            ("bare/a", to("a")),
            ("lamps", Mapped::NotSelected),
            ("other", Mapped::NotSelected),
            ("bare/", Mapped::Unfit),
            ("bare/$SYS/x", Mapped::Unfit),
            ("lamps/$SYS/x", to("city/7/$SYS/x")),
        ] {
            assert_eq!(map(&routes, name), wanted, "{name}");
        }
    }
}
