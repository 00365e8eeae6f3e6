//! Packets as a client writes them, good and bad, and a strict reader for what the broker answers.

use std::fmt;

/// The protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V4,
    V5,
}

/// What is sent. Most bodies depend on the version, so that they are written when it is known.
#[derive(Clone)]
pub(crate) enum Out {
    Connect(Connect),
    Publish(Publish),
    Subscribe(u16, Vec<u8>, Vec<(Vec<u8>, u8)>),
    Unsubscribe(u16, Vec<Vec<u8>>),
    /// First byte, packet id, MQTT 5 reason code.
    Ack(u8, u16, u8),
    /// The same with the packet id of a message that was remembered.
    AckOf(u8, &'static str, u8),
    Bytes(Vec<u8>),
}

impl From<Connect> for Out {
    fn from(connect: Connect) -> Self {
        Self::Connect(connect)
    }
}

impl From<Publish> for Out {
    fn from(publish: Publish) -> Self {
        Self::Publish(publish)
    }
}

#[derive(Clone)]
pub(crate) struct Connect {
    pub(crate) client_id: Vec<u8>,
    pub(crate) clean: bool,
    pub(crate) keep_alive_s: u16,
    /// MQTT 5 only.
    pub(crate) properties: Vec<u8>,
    pub(crate) will: Option<(&'static str, &'static str, u8, bool)>,
    /// MQTT 5 only.
    pub(crate) will_properties: Vec<u8>,
    pub(crate) user: Option<&'static str>,
    pub(crate) password: Option<&'static str>,
    /// Flips these bits of the flags that the other fields make.
    pub(crate) flip: u8,
    /// Bytes behind the packet's proper end.
    pub(crate) tail: Vec<u8>,
}

pub(crate) fn connect(client_id: &str) -> Connect {
    Connect {
        client_id: client_id.into(),
        clean: true,
        keep_alive_s: 0,
        properties: Vec::new(),
        will: None,
        will_properties: Vec::new(),
        user: None,
        password: None,
        flip: 0,
        tail: Vec::new(),
    }
}

impl Connect {
    /// Resumes a session, if there is one, which goes on after the connection ends.
    pub(crate) fn kept(self) -> Self {
        self.resume().with(long(0x11, 3_600))
    }

    /// Resumes a session, if there is one. In MQTT 5 it ends with the connection.
    pub(crate) fn resume(mut self) -> Self {
        self.clean = false;
        self
    }

    pub(crate) fn with(mut self, property: Vec<u8>) -> Self {
        self.properties.extend(property);
        self
    }

    pub(crate) fn keep_alive(mut self, seconds: u16) -> Self {
        self.keep_alive_s = seconds;
        self
    }

    pub(crate) fn will(mut self, topic: &'static str, payload: &'static str, qos: u8) -> Self {
        self.will = Some((topic, payload, qos, false));
        self
    }

    pub(crate) fn will_retained(mut self, topic: &'static str, payload: &'static str) -> Self {
        self.will = Some((topic, payload, 1, true));
        self
    }

    pub(crate) fn will_with(mut self, property: Vec<u8>) -> Self {
        self.will_properties.extend(property);
        self
    }

    pub(crate) fn login(
        mut self,
        user: Option<&'static str>,
        password: Option<&'static str>,
    ) -> Self {
        (self.user, self.password) = (user, password);
        self
    }

    pub(crate) fn flip(mut self, bits: u8) -> Self {
        self.flip = bits;
        self
    }

    pub(crate) fn tail(mut self, bytes: &[u8]) -> Self {
        self.tail = bytes.to_vec();
        self
    }

    fn encode(&self, version: Version) -> Vec<u8> {
        let v5 = version == Version::V5;
        let mut flags = u8::from(self.clean) << 1;
        let mut payload = text(&self.client_id);
        if let Some((topic, message, qos, retain)) = self.will {
            flags |= 0b100 | qos << 3 | u8::from(retain) << 5;
            if v5 {
                payload.extend(block(&self.will_properties));
            }
            payload.extend(text(topic.as_bytes()));
            payload.extend(text(message.as_bytes()));
        }
        if let Some(user) = self.user {
            flags |= 0x80;
            payload.extend(text(user.as_bytes()));
        }
        if let Some(password) = self.password {
            flags |= 0x40;
            payload.extend(text(password.as_bytes()));
        }
        let mut body = text(b"MQTT");
        body.extend([if v5 { 5 } else { 4 }, flags ^ self.flip]);
        body.extend(self.keep_alive_s.to_be_bytes());
        if v5 {
            body.extend(block(&self.properties));
        }
        body.extend(payload);
        body.extend(&self.tail);
        packet(0x10, &body)
    }
}

#[derive(Clone)]
pub(crate) struct Publish {
    topic: Vec<u8>,
    payload: Vec<u8>,
    flags: u8,
    id: u16,
    properties: Vec<u8>,
}

pub(crate) fn publish(topic: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> Publish {
    Publish {
        topic: topic.as_ref().to_vec(),
        payload: payload.as_ref().to_vec(),
        flags: 0,
        id: 0,
        properties: Vec::new(),
    }
}

impl Publish {
    pub(crate) fn qos(mut self, qos: u8, id: u16) -> Self {
        self.flags |= qos << 1;
        self.id = id;
        self
    }

    pub(crate) fn retained(mut self) -> Self {
        self.flags |= 1;
        self
    }

    pub(crate) fn dup(mut self) -> Self {
        self.flags |= 8;
        self
    }

    pub(crate) fn with(mut self, property: Vec<u8>) -> Self {
        self.properties.extend(property);
        self
    }

    fn encode(&self, version: Version) -> Vec<u8> {
        let mut body = text(&self.topic);
        if self.flags & 0b110 != 0 {
            body.extend(self.id.to_be_bytes());
        }
        if version == Version::V5 {
            body.extend(block(&self.properties));
        }
        body.extend(&self.payload);
        packet(0x30 | self.flags, &body)
    }
}

pub(crate) fn subscribe(id: u16, filters: &[(&str, u8)]) -> Out {
    subscribe_with(id, Vec::new(), filters)
}

pub(crate) fn subscribe_with(id: u16, properties: Vec<u8>, filters: &[(&str, u8)]) -> Out {
    let filters = filters
        .iter()
        .map(|(filter, options)| (filter.as_bytes().to_vec(), *options));
    Out::Subscribe(id, properties, filters.collect())
}

pub(crate) fn unsubscribe(id: u16, filters: &[&str]) -> Out {
    Out::Unsubscribe(
        id,
        filters
            .iter()
            .map(|filter| filter.as_bytes().to_vec())
            .collect(),
    )
}

pub(crate) const PUBACK: u8 = 0x40;
pub(crate) const PUBREC: u8 = 0x50;
pub(crate) const PUBREL: u8 = 0x62;
pub(crate) const PUBCOMP: u8 = 0x70;

pub(crate) fn ack(first: u8, id: u16) -> Out {
    Out::Ack(first, id, 0)
}

pub(crate) fn ack_of(first: u8, name: &'static str) -> Out {
    Out::AckOf(first, name, 0)
}

pub(crate) fn bytes(bytes: &[u8]) -> Out {
    Out::Bytes(bytes.to_vec())
}

pub(crate) fn raw(first: u8, body: &[u8]) -> Out {
    Out::Bytes(packet(first, body))
}

pub(crate) fn disconnect() -> Out {
    bytes(&[0xe0, 0])
}

impl Out {
    pub(crate) fn encode(&self, version: Version, id_of: impl Fn(&str) -> u16) -> Vec<u8> {
        let v5 = version == Version::V5;
        let acknowledge = |first: u8, id: u16, code: u8| {
            let mut body = id.to_be_bytes().to_vec();
            if v5 && code != 0 {
                body.push(code);
            }
            packet(first, &body)
        };
        match self {
            Self::Connect(connect) => connect.encode(version),
            Self::Publish(publish) => publish.encode(version),
            Self::Subscribe(id, properties, filters) => {
                let mut body = id.to_be_bytes().to_vec();
                if v5 {
                    body.extend(block(properties));
                }
                for (filter, options) in filters {
                    body.extend(text(filter));
                    body.push(*options);
                }
                packet(0x82, &body)
            }
            Self::Unsubscribe(id, filters) => {
                let mut body = id.to_be_bytes().to_vec();
                if v5 {
                    body.push(0);
                }
                for filter in filters {
                    body.extend(text(filter));
                }
                packet(0xa2, &body)
            }
            Self::Ack(first, id, code) => acknowledge(*first, *id, *code),
            Self::AckOf(first, name, code) => acknowledge(*first, id_of(name), *code),
            Self::Bytes(bytes) => bytes.clone(),
        }
    }
}

impl fmt::Debug for Out {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::AckOf(first, name, code) = self {
            return write!(f, "{first:#04x} for {name:?} with {code:#04x}");
        }
        let encoded = self.encode(Version::V5, |_| 0);
        let shown = &encoded[..encoded.len().min(48)];
        write!(
            f,
            "\"{}\" ({} bytes in v5)",
            shown.escape_ascii(),
            encoded.len()
        )
    }
}

pub(crate) fn text(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap();
    [&length.to_be_bytes()[..], bytes].concat()
}

/// A property block with its length.
pub(crate) fn block(properties: &[u8]) -> Vec<u8> {
    [length(properties.len()), properties.to_vec()].concat()
}

pub(crate) fn length(mut rest: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(rest % 128).unwrap();
        rest /= 128;
        bytes.push(if rest > 0 { low | 0x80 } else { low });
        if rest == 0 {
            return bytes;
        }
    }
}

pub(crate) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    [vec![first], length(body.len()), body.to_vec()].concat()
}

pub(crate) fn byte(id: u8, value: u8) -> Vec<u8> {
    vec![id, value]
}

pub(crate) fn short(id: u8, value: u16) -> Vec<u8> {
    [vec![id], value.to_be_bytes().to_vec()].concat()
}

pub(crate) fn long(id: u8, value: u32) -> Vec<u8> {
    [vec![id], value.to_be_bytes().to_vec()].concat()
}

pub(crate) fn string(id: u8, value: &str) -> Vec<u8> {
    [vec![id], text(value.as_bytes())].concat()
}

pub(crate) fn pair(key: &str, value: &str) -> Vec<u8> {
    [vec![0x26], text(key.as_bytes()), text(value.as_bytes())].concat()
}
