//! A case is a row of the table: what the standard says, and a script that shows whether the broker does so.
//!
//! Scripts name their connections (`"a"`, `"b"`) and expect the very next packet on each, so that a packet too many
//! fails the step after it. That nothing came is shown by a PINGREQ whose PINGRESP must be next.

use crate::{
    answer::{Answer, Message, Octets, Properties},
    wire::{Out, Version},
};
use lamppost_broker::Config;
use std::collections::HashMap;

pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// The statements of MQTT 5.0 that it is about, `3.1.2-4` for [MQTT-3.1.2-4], or a section where no statement has
    /// a number. Without any the case does not run in that version.
    pub(crate) v5: &'static [&'static str],
    /// The same for MQTT 3.1.1.
    pub(crate) v4: &'static [&'static str],
    /// What must hold, in our words.
    pub(crate) must: &'static str,
    pub(crate) config: fn(&mut Config),
    pub(crate) script: fn() -> Vec<Step>,
}

/// A case on a broker with the limits that ship, which lets anybody in and publishes nothing by itself.
pub(crate) const fn case(
    name: &'static str,
    v5: &'static [&'static str],
    v4: &'static [&'static str],
    must: &'static str,
    script: fn() -> Vec<Step>,
) -> Case {
    Case {
        name,
        v5,
        v4,
        must,
        config: |_| {},
        script,
    }
}

impl Case {
    pub(crate) const fn config(mut self, config: fn(&mut Config)) -> Self {
        self.config = config;
        self
    }

    pub(crate) fn versions(&self) -> impl Iterator<Item = Version> {
        let v5 = (!self.v5.is_empty()).then_some(Version::V5);
        let v4 = (!self.v4.is_empty()).then_some(Version::V4);
        v5.into_iter().chain(v4)
    }
}

/// A connection's name in a script.
pub(crate) type Who = &'static str;

#[derive(Debug)]
pub(crate) enum Step {
    Open(Who),
    Send(Who, Out),
    Want(Who, Want),
    /// These, in any order.
    WantAll(Who, Vec<Want>),
    /// Nothing is on its way: PINGREQ is answered next.
    Quiet(Who),
    /// The broker says why, where the version has words for it, and closes.
    Ended(Who, u8),
    /// The broker closes and says nothing.
    Closed(Who),
    /// The broker closes, whether it says why or not; if it does, the reason is an error.
    Failed(Who),
    /// The client is gone without a word.
    Cut(Who),
    /// These remembered messages have different packet ids.
    Distinct(&'static [&'static str]),
    /// Each of these payloads reaches exactly one of the connections.
    Share(&'static [Who], &'static [&'static str]),
    /// At least so many seconds pass: for what depends on the time that has gone by.
    After(u64),
    /// This holds in one version only.
    Only(Version, Box<Step>),
}

pub(crate) fn open(who: Who) -> Step {
    Step::Open(who)
}

pub(crate) fn send(who: Who, out: impl Into<Out>) -> Step {
    Step::Send(who, out.into())
}

pub(crate) fn want(who: Who, want: impl Into<Want>) -> Step {
    Step::Want(who, want.into())
}

pub(crate) fn quiet(who: Who) -> Step {
    Step::Quiet(who)
}

pub(crate) fn v5_only(step: Step) -> Step {
    Step::Only(Version::V5, Box::new(step))
}

pub(crate) fn v4_only(step: Step) -> Step {
    Step::Only(Version::V4, Box::new(step))
}

/// Connects, and is let in without an old session.
pub(crate) fn enter(who: Who, connect: crate::wire::Connect) -> Vec<Step> {
    vec![open(who), send(who, connect), want(who, connack(0))]
}

/// Subscribes with packet id 1, and is granted what it asks for.
pub(crate) fn join(who: Who, filter: &'static str, options: u8) -> Vec<Step> {
    vec![
        send(who, crate::wire::subscribe(1, &[(filter, options)])),
        want(who, suback(1, &[options & 3])),
    ]
}

/// Leaves with DISCONNECT and waits until the broker has closed as well.
pub(crate) fn leave(who: Who) -> Vec<Step> {
    vec![send(who, crate::wire::disconnect()), Step::Closed(who)]
}

/// One script from several parts.
pub(crate) fn script(parts: impl IntoIterator<Item = Vec<Step>>) -> Vec<Step> {
    parts.into_iter().flatten().collect()
}

/// What the next packet must be.
#[derive(Debug, Clone)]
pub(crate) enum Want {
    ConnAck(ConnAck),
    Message(Expected),
    /// Any message whose topic begins so.
    Below(&'static str),
    /// First byte, packet id, reason code if it matters.
    Ack(u8, u16, Option<u8>),
    /// The same with the packet id of a message that was remembered.
    AckOf(u8, &'static str),
    SubAck(u16, Vec<u8>),
    UnsubAck(u16, Vec<u8>),
    PingResp,
}

#[derive(Debug, Clone)]
pub(crate) struct ConnAck {
    present: bool,
    /// The codes of MQTT 5 and MQTT 3.1.1.
    codes: (u8, u8),
    properties: Vec<Fact>,
}

#[derive(Debug, Clone)]
pub(crate) struct Expected {
    topic: Octets,
    payload: Octets,
    qos: u8,
    retain: bool,
    dup: bool,
    remember: Option<&'static str>,
    again: Option<&'static str>,
    properties: Vec<Fact>,
}

/// What must hold for a property. In MQTT 3.1.1 there are none, and nothing is asked of them.
#[derive(Debug, Clone)]
enum Fact {
    /// These values in this order and no other.
    Values(u8, Vec<Vec<u8>>),
    Present(u8),
    /// A number of four bytes within these bounds.
    Within(u8, u32, u32),
}

impl Fact {
    fn holds(&self, properties: &Properties) -> bool {
        let values = |id: u8| {
            properties
                .iter()
                .filter(move |found| found.0 == id)
                .map(|found| &found.1)
        };
        match self {
            Self::Values(id, expected) => values(*id).eq(expected.iter()),
            Self::Present(id) => values(*id).next().is_some(),
            Self::Within(id, least, most) => values(*id).next().is_some_and(|value| {
                <[u8; 4]>::try_from(&value[..])
                    .is_ok_and(|bytes| (*least..=*most).contains(&u32::from_be_bytes(bytes)))
            }),
        }
    }
}

/// Accepted (0), or refused with this code of MQTT 5.
pub(crate) fn connack(code: u8) -> ConnAck {
    ConnAck {
        present: false,
        codes: (code, code),
        properties: Vec::new(),
    }
}

impl ConnAck {
    /// MQTT 3.1.1 has a code of its own for it.
    pub(crate) fn in_v4(mut self, code: u8) -> Self {
        self.codes.1 = code;
        self
    }

    pub(crate) fn present(mut self) -> Self {
        self.present = true;
        self
    }

    pub(crate) fn has(mut self, id: u8, value: &[u8]) -> Self {
        self.properties.push(Fact::Values(id, vec![value.to_vec()]));
        self
    }

    pub(crate) fn some(mut self, id: u8) -> Self {
        self.properties.push(Fact::Present(id));
        self
    }

    pub(crate) fn lacks(mut self, id: u8) -> Self {
        self.properties.push(Fact::Values(id, Vec::new()));
        self
    }
}

/// A message of QoS 0 without RETAIN and DUP.
pub(crate) fn message(topic: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> Expected {
    Expected {
        topic: Octets(topic.as_ref().to_vec()),
        payload: Octets(payload.as_ref().to_vec()),
        qos: 0,
        retain: false,
        dup: false,
        remember: None,
        again: None,
        properties: Vec::new(),
    }
}

impl Expected {
    /// With this QoS, and a packet id to be remembered under this name.
    pub(crate) fn qos(mut self, qos: u8, remember: &'static str) -> Self {
        (self.qos, self.remember) = (qos, Some(remember));
        self
    }

    /// The message that was remembered under this name, sent again with its packet id and DUP.
    pub(crate) fn again(mut self, qos: u8, name: &'static str) -> Self {
        (self.qos, self.dup, self.again) = (qos, true, Some(name));
        self
    }

    pub(crate) fn retained(mut self) -> Self {
        self.retain = true;
        self
    }

    pub(crate) fn has(self, id: u8, value: &[u8]) -> Self {
        self.values(id, &[value])
    }

    pub(crate) fn values(mut self, id: u8, values: &[&[u8]]) -> Self {
        let values = values.iter().map(|value| value.to_vec());
        self.properties.push(Fact::Values(id, values.collect()));
        self
    }

    pub(crate) fn lacks(mut self, id: u8) -> Self {
        self.properties.push(Fact::Values(id, Vec::new()));
        self
    }

    pub(crate) fn within(mut self, id: u8, least: u32, most: u32) -> Self {
        self.properties.push(Fact::Within(id, least, most));
        self
    }
}

pub(crate) fn suback(id: u16, codes: &[u8]) -> Want {
    Want::SubAck(id, codes.to_vec())
}

pub(crate) fn unsuback(id: u16, codes: &[u8]) -> Want {
    Want::UnsubAck(id, codes.to_vec())
}

/// An acknowledgement without an error.
pub(crate) fn acked(first: u8, id: u16) -> Want {
    Want::Ack(first, id, None)
}

/// An acknowledgement with this code, which MQTT 3.1.1 has no room for.
pub(crate) fn answered(first: u8, id: u16, code: u8) -> Want {
    Want::Ack(first, id, Some(code))
}

pub(crate) fn acked_of(first: u8, name: &'static str) -> Want {
    Want::AckOf(first, name)
}

impl From<ConnAck> for Want {
    fn from(connack: ConnAck) -> Self {
        Self::ConnAck(connack)
    }
}

impl From<Expected> for Want {
    fn from(expected: Expected) -> Self {
        Self::Message(expected)
    }
}

/// The packet ids that a script remembers.
#[derive(Debug, Default)]
pub(crate) struct Memory(HashMap<&'static str, u16>);

impl Memory {
    pub(crate) fn id_of(&self, name: &str) -> u16 {
        self.0.get(name).copied().unwrap_or(0)
    }
}

impl Want {
    pub(crate) fn accepts(&self, version: Version, answer: &Answer, memory: &mut Memory) -> bool {
        match (self, answer) {
            (
                Self::ConnAck(wanted),
                Answer::ConnAck {
                    present,
                    code,
                    properties,
                },
            ) => {
                let expected = if version == Version::V5 {
                    wanted.codes.0
                } else {
                    wanted.codes.1
                };
                *code == expected
                    && *present == wanted.present
                    && (version == Version::V4
                        || wanted.properties.iter().all(|fact| fact.holds(properties)))
            }
            (Self::Message(wanted), Answer::Publish(message)) => {
                wanted.accepts(version, message, memory)
            }
            (Self::Below(beginning), Answer::Publish(message)) => {
                message.topic.0.starts_with(beginning.as_bytes())
            }
            (Self::Ack(first, id, wanted), Answer::Ack(got, got_id, code)) => {
                let expected = |wanted: &u8| version == Version::V4 || wanted == code;
                got == first && got_id == id && wanted.as_ref().map_or(*code < 0x80, expected)
            }
            (Self::AckOf(first, name), Answer::Ack(got, id, code)) => {
                got == first && *id == memory.id_of(name) && *code < 0x80
            }
            (Self::SubAck(id, codes), Answer::SubAck(got, got_codes)) => {
                let told = |code: &u8| {
                    if version == Version::V4 {
                        *code.min(&0x80)
                    } else {
                        *code
                    }
                };
                got == id && codes.iter().map(told).eq(got_codes.iter().copied())
            }
            (Self::UnsubAck(id, codes), Answer::UnsubAck(got, got_codes)) => {
                got == id && (version == Version::V4 || codes == got_codes)
            }
            (Self::PingResp, Answer::PingResp) => true,
            _ => false,
        }
    }
}

impl Expected {
    fn accepts(&self, version: Version, message: &Message, memory: &mut Memory) -> bool {
        let fits = self.topic == message.topic
            && self.payload == message.payload
            && (self.qos, self.retain, self.dup) == (message.qos, message.retain, message.dup)
            && self
                .again
                .is_none_or(|name| memory.id_of(name) == message.id)
            && (version == Version::V4
                || self
                    .properties
                    .iter()
                    .all(|fact| fact.holds(&message.properties)));
        if let Some(name) = self.remember.filter(|_| fits) {
            memory.0.insert(name, message.id);
        }
        fits
    }
}
