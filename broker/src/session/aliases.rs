//! Topic aliases: numbers that stand for topics for the time of one connection (OASIS MQTT 5.0, section 3.3.2.3.4).

use bytes::Bytes;
use std::collections::HashMap;

/// Bytes of the topics that one connection's aliases stand for, in each direction: room for one topic of the greatest
/// length. The number of aliases is bounded beside it.
const TOPIC_BYTES_MAX: usize = 65_535;

/// Aliases that the client gives.
#[derive(Debug)]
pub(super) struct Given {
    max: u16,
    topics: HashMap<u16, Box<str>>,
    bytes: usize,
}

/// Why an alias is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is 0 or over the maximum.
    Invalid,
    /// It stands for nothing yet, and the publication has no topic.
    Unknown,
    /// The topics are too long to be remembered together.
    TooLong,
}

impl Given {
    pub(super) fn new(max: u16) -> Self {
        Self {
            max,
            topics: HashMap::new(),
            bytes: 0,
        }
    }

    /// The topic of a publication with this alias: its own, which the alias stands for from now on, or the one that
    /// the alias stands for.
    pub(super) fn resolve<'a>(
        &'a mut self,
        alias: u16,
        topic: &'a str,
    ) -> Result<&'a str, Refused> {
        if alias == 0 || alias > self.max {
            return Err(Refused::Invalid);
        }
        if topic.is_empty() {
            return self
                .topics
                .get(&alias)
                .map(|known| &**known)
                .ok_or(Refused::Unknown);
        }
        if self
            .topics
            .get(&alias)
            .is_none_or(|known| **known != *topic)
        {
            let before = self.topics.get(&alias).map_or(0, |known| known.len());
            let bytes = self.bytes - before + topic.len();
            if bytes > TOPIC_BYTES_MAX {
                return Err(Refused::TooLong);
            }
            self.bytes = bytes;
            self.topics.insert(alias, topic.into());
        }
        Ok(topic)
    }
}

/// Aliases that the broker gives, to the first topics it sends: sensors and dashboards have few.
#[derive(Debug)]
pub(super) struct Taken {
    max: u16,
    aliases: HashMap<Bytes, u16>,
    bytes: usize,
}

/// How to name a topic to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    /// By itself.
    Topic,
    /// By itself, with an alias that stands for it once the packet is sent.
    Both(u16),
    Alias(u16),
}

impl Taken {
    pub(super) fn new(max: u16) -> Self {
        Self {
            max,
            aliases: HashMap::new(),
            bytes: 0,
        }
    }

    pub(super) fn name(&self, topic: &[u8]) -> Name {
        if self.max == 0 {
            return Name::Topic;
        }
        if let Some(&alias) = self.aliases.get(topic) {
            return Name::Alias(alias);
        }
        let given = u16::try_from(self.aliases.len()).unwrap_or(u16::MAX);
        if given < self.max && self.bytes + topic.len() <= TOPIC_BYTES_MAX {
            Name::Both(given + 1)
        } else {
            Name::Topic
        }
    }

    /// Notes that a packet with [`Name::Both`] was sent.
    pub(super) fn sent(&mut self, topic: &[u8], alias: u16) {
        self.bytes += topic.len();
        self.aliases.insert(Bytes::copy_from_slice(topic), alias);
    }
}

#[cfg(test)]
mod tests {
    use super::{Given, Name, Refused, TOPIC_BYTES_MAX, Taken};

    #[test]
    fn a_given_alias_stands_for_the_last_topic() {
        let mut given = Given::new(2);
        assert_eq!(given.resolve(1, ""), Err(Refused::Unknown));
        assert_eq!(given.resolve(1, "a"), Ok("a"));
        assert_eq!(given.resolve(2, "b"), Ok("b"));
        assert_eq!(given.resolve(1, ""), Ok("a"));
        assert_eq!(given.resolve(1, "c"), Ok("c"));
        assert_eq!(given.resolve(1, ""), Ok("c"));
        assert_eq!(given.resolve(2, ""), Ok("b"));
        for alias in [0, 3, u16::MAX] {
            assert_eq!(given.resolve(alias, "a"), Err(Refused::Invalid));
        }
        assert_eq!(Given::new(0).resolve(1, "a"), Err(Refused::Invalid));
    }

    #[test]
    fn given_topics_are_bounded_together() {
        let mut given = Given::new(9);
        let long = "x".repeat(TOPIC_BYTES_MAX);
        assert_eq!(given.resolve(1, &long), Ok(&*long));
        assert_eq!(given.resolve(2, "a"), Err(Refused::TooLong));
        assert_eq!(given.resolve(1, "a"), Ok("a"));
        assert_eq!(given.resolve(2, "b"), Ok("b"));
    }

    #[test]
    fn taken_aliases_go_to_the_first_topics() {
        let mut taken = Taken::new(2);
        assert_eq!(taken.name(b"a"), Name::Both(1));
        assert_eq!(taken.name(b"a"), Name::Both(1), "until it was sent");
        taken.sent(b"a", 1);
        assert_eq!(taken.name(b"a"), Name::Alias(1));
        assert_eq!(taken.name(b"b"), Name::Both(2));
        taken.sent(b"b", 2);
        assert_eq!(taken.name(b"c"), Name::Topic);
        assert_eq!(taken.name(b"a"), Name::Alias(1));
        let mut long = Taken::new(2);
        let topic = vec![b'x'; TOPIC_BYTES_MAX];
        assert_eq!(long.name(&topic), Name::Both(1));
        long.sent(&topic, 1);
        assert_eq!(long.name(b"a"), Name::Topic);
        assert_eq!(Taken::new(0).name(b"a"), Name::Topic);
    }
}
