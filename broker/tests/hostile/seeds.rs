//! Valid packets, in parts, so that a mutation can change one part and mend the lengths of the others.

/// One valid packet.
#[derive(Clone)]
pub(crate) struct Seed {
    pub(crate) name: &'static str,
    pub(crate) v5: bool,
    pub(crate) first: u8,
    /// The body up to its property block.
    pub(crate) head: Vec<u8>,
    /// MQTT 5 only, without its length.
    pub(crate) properties: Option<Vec<u8>>,
    /// The body after the property block.
    pub(crate) tail: Vec<u8>,
}

impl Seed {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        packet(self.first, &self.body())
    }

    pub(crate) fn body(&self) -> Vec<u8> {
        let mut body = self.head.clone();
        if let Some(properties) = &self.properties {
            put_length(&mut body, properties.len());
            body.extend(properties);
        }
        body.extend(&self.tail);
        body
    }
}

pub(crate) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    put_length(&mut bytes, body.len());
    bytes.extend(body);
    bytes
}

pub(crate) fn put_length(out: &mut Vec<u8>, mut rest: usize) {
    loop {
        let low = u8::try_from(rest % 128).unwrap();
        rest /= 128;
        out.push(if rest > 0 { low | 0x80 } else { low });
        if rest == 0 {
            return;
        }
    }
}

/// Every property that a client may send, one after the other with a valid value.
pub(crate) const PROPERTIES: [&[u8]; 20] = [
    b"\x01\x01",
    b"\x02\0\0\0\x3c",
    b"\x03\0\x0aapplication",
    b"\x08\0\x05reply",
    b"\x09\0\x03\x01\x02\x03",
    b"\x0b\x07",
    b"\x0b\xff\xff\xff\x7f",
    b"\x11\0\0\0\x05",
    b"\x15\0\x05SCRAM",
    b"\x16\0\x02\x00\xff",
    b"\x17\x00",
    b"\x18\0\0\0\x01",
    b"\x19\x01",
    b"\x1c\0\x05other",
    b"\x1f\0\x03why",
    b"\x21\x00\x08",
    b"\x22\x00\x04",
    b"\x23\x00\x01",
    b"\x26\0\x01k\0\x01v",
    b"\x27\0\0\x04\x00",
];

/// Name, MQTT 5, first byte, body up to the property block, the block if there is one, the rest of the body.
type Row = (
    &'static str,
    bool,
    u8,
    &'static [u8],
    Option<&'static [u8]>,
    &'static [u8],
);

/// A packet of each kind in each version, plain and with all that it can carry.
const ROWS: &[Row] = &[
    (
        "connect-4",
        false,
        0x10,
        b"\0\x04MQTT\x04\x02\0\x3c\0\x02f0",
        None,
        b"",
    ),
    (
        "connect-4-no-id",
        false,
        0x10,
        b"\0\x04MQTT\x04\x02\0\0\0\0",
        None,
        b"",
    ),
    (
        "connect-4-all",
        false,
        0x10,
        b"\0\x04MQTT\x04\xee\0\x3c\0\x02f1\0\x03f/w\0\x02up\0\x01u\0\x02pw",
        None,
        b"",
    ),
    (
        "connect-5",
        true,
        0x10,
        b"\0\x04MQTT\x05\x02\0\x3c",
        Some(b""),
        b"\0\x02f2",
    ),
    (
        "connect-5-all",
        true,
        0x10,
        b"\0\x04MQTT\x05\xce\0\x3c",
        Some(CONNECT_ALL),
        WILL_ALL,
    ),
    (
        "connect-5-auth",
        true,
        0x10,
        b"\0\x04MQTT\x05\x00\0\0",
        Some(b"\x15\0\x05SCRAM\x16\0\x02\x01\x02"),
        b"\0\x02f4",
    ),
    ("publish-4-0", false, 0x31, b"\0\x03f/0", None, b"payload"),
    (
        "publish-4-1",
        false,
        0x32,
        b"\0\x03f/1\0\x07",
        None,
        b"payload",
    ),
    (
        "publish-4-2",
        false,
        0x34,
        b"\0\x03f/2\0\x08",
        None,
        b"payload",
    ),
    (
        "publish-4-long",
        false,
        0x30,
        b"\0\x03f/4",
        None,
        &[b'x'; 300],
    ),
    (
        "publish-5-0",
        true,
        0x31,
        b"\0\x03f/0",
        Some(b""),
        b"payload",
    ),
    (
        "publish-5-1",
        true,
        0x32,
        b"\0\x03f/1\0\x07",
        Some(b""),
        b"payload",
    ),
    (
        "publish-5-2",
        true,
        0x34,
        b"\0\x03f/2\0\x08",
        Some(b""),
        b"payload",
    ),
    (
        "publish-5-all",
        true,
        0x33,
        b"\0\x03f/3\0\x09",
        Some(PUBLISH_ALL),
        b"payload",
    ),
    (
        "publish-5-alias",
        true,
        0x30,
        b"\0\0",
        Some(b"\x23\0\x01"),
        b"payload",
    ),
    ("puback-4", false, 0x40, b"\0\x07", None, b""),
    ("pubrec-4", false, 0x50, b"\0\x07", None, b""),
    ("pubrel-4", false, 0x62, b"\0\x07", None, b""),
    ("pubcomp-4", false, 0x70, b"\0\x07", None, b""),
    ("puback-5", true, 0x40, b"\0\x07", None, b""),
    (
        "puback-5-reason",
        true,
        0x40,
        b"\0\x07\x10",
        Some(b"\x1f\0\x03why\x26\0\x01k\0\x01v"),
        b"",
    ),
    ("pubrec-5", true, 0x50, b"\0\x07\x00", None, b""),
    ("pubrel-5", true, 0x62, b"\0\x07\x92", Some(b""), b""),
    ("pubcomp-5", true, 0x70, b"\0\x07", None, b""),
    (
        "subscribe-4",
        false,
        0x82,
        b"\0\x07",
        None,
        b"\0\x03f/#\x01\0\x03f/+\x02\0\x0c$share/g/f/#\x00",
    ),
    (
        "subscribe-5",
        true,
        0x82,
        b"\0\x07",
        Some(b""),
        b"\0\x03f/#\x01\0\x03f/+\x02\0\x0c$share/g/f/#\x00\0\x03f/1\x2d",
    ),
    (
        "subscribe-5-id",
        true,
        0x82,
        b"\0\x07",
        Some(b"\x0b\x07\x26\0\x01k\0\x01v"),
        b"\0\x03f/#\x2e",
    ),
    (
        "unsubscribe-4",
        false,
        0xa2,
        b"\0\x08",
        None,
        b"\0\x03f/#\0\x03f/+",
    ),
    (
        "unsubscribe-5",
        true,
        0xa2,
        b"\0\x08",
        Some(b""),
        b"\0\x03f/#\0\x03f/+",
    ),
    ("ping", false, 0xc0, b"", None, b""),
    ("disconnect-4", false, 0xe0, b"", None, b""),
    (
        "disconnect-5",
        true,
        0xe0,
        b"\x04",
        Some(b"\x11\0\0\0\x01\x1f\0\x03why"),
        b"",
    ),
    ("auth-5", true, 0xf0, b"\x18", Some(b"\x15\0\x05SCRAM"), b""),
];

const CONNECT_ALL: &[u8] =
    b"\x11\0\0\0\x05\x21\0\x08\x27\0\0\x04\0\x22\0\x04\x19\x01\x17\x00\x26\0\x01k\0\x01v";

/// Client id, the will's properties, topic and payload, user and password.
const WILL_ALL: &[u8] = b"\0\x02f3\x17\x18\0\0\0\x01\x01\x01\x02\0\0\0\x3c\x03\0\x01t\x26\0\x01k\0\x01v\0\x03f/w\0\x02up\0\x01u\0\x02pw";

const PUBLISH_ALL: &[u8] = b"\x01\x01\x02\0\0\0\x3c\x03\0\x01t\x08\0\x01r\x09\0\x03\x01\x02\x03\x23\0\x01\x26\0\x01k\0\x01v\x26\0\x01k\0\x01w";

pub(crate) fn seeds() -> Vec<Seed> {
    let seed = |&(name, v5, first, head, properties, tail): &Row| Seed {
        name,
        v5,
        first,
        head: head.to_vec(),
        properties: properties.map(<[u8]>::to_vec),
        tail: tail.to_vec(),
    };
    ROWS.iter().map(seed).collect()
}
