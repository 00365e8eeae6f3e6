//! Strings, numbers, packet ids, flags: chapters 1 and 2, and what follows from errors in them.

use crate::{table::*, wire::*};

/// Each of these ends a connection of its own with this reason code.
pub(crate) fn each_ends(code: u8, bad: impl IntoIterator<Item = Out>) -> Vec<Step> {
    script(bad.into_iter().map(|out| {
        let mut steps = enter("a", connect("a"));
        steps.extend([send("a", out), Step::Ended("a", code)]);
        steps
    }))
}

/// Each of these ends a connection of its own, whatever the broker says.
pub(crate) fn each_fails(bad: impl IntoIterator<Item = Out>) -> Vec<Step> {
    script(bad.into_iter().map(|out| {
        let mut steps = enter("a", connect("a"));
        steps.extend([send("a", out), Step::Failed("a")]);
        steps
    }))
}

/// None of these opens a session.
pub(crate) fn none_enters(bad: impl IntoIterator<Item = Out>) -> Vec<Step> {
    script(
        bad.into_iter()
            .map(|out| vec![open("a"), send("a", out), Step::Failed("a")]),
    )
}

/// A SUBSCRIBE and an UNSUBSCRIBE with a filter of any bytes.
fn with_filter(filter: &[u8]) -> [Out; 2] {
    [
        Out::Subscribe(1, Vec::new(), vec![(filter.to_vec(), 0)]),
        Out::Unsubscribe(1, vec![filter.to_vec()]),
    ]
}

fn with_client_id(id: &[u8]) -> Out {
    let mut hello = connect("");
    hello.client_id = id.to_vec();
    hello.into()
}

pub(crate) static CASES: &[Case] = &[
    case(
        "text that is not UTF-8",
        &["1.5.4-1", "3.3.2-1", "3.8.3-1", "3.10.3-1", "3.1.3-4"],
        &["1.5.3-1", "3.3.2-1", "3.8.3-1", "3.10.3-1", "3.1.3-4"],
        "ill-formed UTF-8, surrogates and overlong forms among it, ends the connection",
        || {
            let bad: [&[u8]; 5] = [
                b"\xed\xa0\x80",
                b"\xed\xbf\xbf",
                b"a\xff",
                b"\xc0\xaf",
                b"\xf4\x90\x80\x80",
            ];
            let topics = bad.map(|text| publish(text, "x").into());
            let filters = bad.into_iter().flat_map(with_filter);
            script([
                each_ends(0x81, topics),
                each_ends(0x81, filters),
                none_enters(bad.map(with_client_id)),
            ])
        },
    ),
    case(
        "text with a null character",
        &["1.5.4-2", "4.7.3-2"],
        &["1.5.3-2", "4.7.3-2"],
        "U+0000 in a string ends the connection",
        || {
            let filters = with_filter(b"a\0b");
            script([
                each_ends(0x81, [publish("a\0b", "x").into()]),
                each_ends(0x81, filters),
                none_enters([with_client_id(b"a\0")]),
            ])
        },
    ),
    case(
        "a byte order mark is a character",
        &["1.5.4-3"],
        &["1.5.3-3"],
        "EF BB BF in a topic is neither skipped nor stripped",
        || {
            script([
                enter("a", connect("a")),
                vec![
                    send("a", subscribe(1, &[("\u{feff}t", 0), ("u", 0)])),
                    want("a", suback(1, &[0, 0])),
                    send("a", publish("t", "bare")),
                    send("a", publish("\u{feff}u", "marked")),
                    send("a", publish("\u{feff}t", "both")),
                    want("a", message("\u{feff}t", "both")),
                    quiet("a"),
                ],
            ])
        },
    ),
    case(
        "lengths at the borders of their bytes",
        &["1.5.5-1"],
        &["2.2.3"],
        "a length is written in as few bytes as it needs",
        || {
            let sizes = [
                116, 117, 118, 119, 120, 121, 122, 123, 16_370, 16_375, 16_376, 16_377, 16_378,
                16_379, 16_380,
            ];
            let there_and_back = sizes.map(|size| {
                let payload = vec![b'x'; size];
                vec![
                    send("a", publish("t/u", &payload)),
                    want("a", message("t/u", &payload)),
                ]
            });
            script(
                [enter("a", connect("a")), join("a", "t/+", 0)]
                    .into_iter()
                    .chain(there_and_back),
            )
        },
    ),
    case(
        "a length that does not end",
        &["4.13.1-1"],
        &["4.8.0-1"],
        "a length of more than four bytes is malformed and ends the connection",
        || {
            script([
                each_ends(0x81, [bytes(&[0x30, 0xff, 0xff, 0xff, 0xff, 0x7f])]),
                none_enters([bytes(&[0x10, 0x80, 0x80, 0x80, 0x80, 0x01])]),
            ])
        },
    ),
    case(
        "user properties are text",
        &["1.5.7-1"],
        &[],
        "key and value of a user property are checked like any string",
        || {
            let bad = [
                &b"\x26\x00\x01\xff\x00\x01v"[..],
                b"\x26\x00\x01k\x00\x01\xff",
                b"\x26\x00\x01k\x00\x01\x00",
            ];
            each_ends(
                0x81,
                bad.map(|property| publish("t", "x").with(property.to_vec()).into()),
            )
        },
    ),
    case(
        "reserved flags",
        &["2.1.3-1", "3.6.1-1", "3.8.1-1", "3.10.1-1", "3.14.1-1"],
        &[
            "2.2.2-1", "2.2.2-2", "3.6.1-1", "3.8.1-1", "3.10.1-1", "3.14.1-1",
        ],
        "flags of the fixed header that differ from those in the table end the connection",
        || {
            let ack = [0, 1];
            each_ends(
                0x81,
                [
                    raw(0x41, &ack),
                    raw(0x52, &ack),
                    raw(0x60, &ack),
                    raw(0x63, &ack),
                    raw(0x78, &ack),
                    raw(0x80, b"\x00\x01\x00\x00\x01a\x00"),
                    raw(0x83, b"\x00\x01\x00\x00\x01a\x00"),
                    raw(0xa0, b"\x00\x01\x00\x00\x01a"),
                    raw(0xc1, &[]),
                    raw(0xe1, &[]),
                    raw(0x00, &[]),
                ],
            )
        },
    ),
    case(
        "packet id 0",
        &["2.2.1-3"],
        &["2.3.1-1"],
        "SUBSCRIBE, UNSUBSCRIBE and PUBLISH above QoS 0 have an id that is not zero",
        || {
            each_fails([
                subscribe(0, &[("t", 0)]),
                unsubscribe(0, &["t"]),
                publish("t", "x").qos(1, 0).into(),
                publish("t", "x").qos(2, 0).into(),
            ])
        },
    ),
    case(
        "QoS 0 has no packet id",
        &["2.2.1-2", "2.2.2-1"],
        &["2.3.1-5"],
        "the bytes behind the topic of a QoS 0 message are its payload, or in MQTT 5 an empty block and its payload",
        || {
            script([
                enter("a", connect("a")),
                join("a", "t", 0),
                vec![
                    send("a", publish("t", "\0\x07")),
                    want("a", message("t", "\0\x07").lacks(0x26)),
                    quiet("a"),
                ],
            ])
        },
    ),
    case(
        "packet ids of the broker",
        &["2.2.1-4", "4.3.2-1", "4.3.3-1"],
        &["2.3.1-4"],
        "messages that are not acknowledged have different ids, none of them zero",
        || {
            script([
                enter("a", connect("a")),
                join("a", "t", 2),
                vec![
                    send("a", publish("t", "1").qos(1, 7)),
                    send("a", publish("t", "2").qos(1, 7)),
                    send("a", publish("t", "3").qos(2, 7)),
                    Step::WantAll(
                        "a",
                        vec![
                            acked(PUBACK, 7),
                            acked(PUBACK, 7),
                            acked(PUBREC, 7),
                            message("t", "1").qos(1, "one").into(),
                            message("t", "2").qos(1, "two").into(),
                            message("t", "3").qos(2, "three").into(),
                        ],
                    ),
                    Step::Distinct(&["one", "two", "three"]),
                ],
            ])
        },
    ),
    case(
        "acknowledgements carry the packet id",
        &[
            "2.2.1-5", "2.2.1-6", "3.8.4-2", "3.10.4-5", "4.3.2-4", "4.3.3-8", "4.3.3-11",
            "3.3.4-1",
        ],
        &[
            "2.3.1-6", "2.3.1-7", "3.8.4-2", "3.10.4-4", "4.3.2-2", "4.3.3-2", "3.3.4-1",
        ],
        "every answer has the id of the packet that it answers",
        || {
            script([
                enter("a", connect("a")),
                vec![
                    send("a", publish("t", "x").qos(1, 0x1234)),
                    want("a", acked(PUBACK, 0x1234)),
                    send("a", publish("t", "x").qos(2, 0xffff)),
                    want("a", acked(PUBREC, 0xffff)),
                    send("a", ack(PUBREL, 0xffff)),
                    want("a", acked(PUBCOMP, 0xffff)),
                    send("a", subscribe(0x8001, &[("u", 0)])),
                    want("a", suback(0x8001, &[0])),
                    send("a", unsubscribe(0x00ff, &["u"])),
                    want("a", unsuback(0x00ff, &[0])),
                    quiet("a"),
                ],
            ])
        },
    ),
    case(
        "packets cut short or too long",
        &["4.13.1-1", "4.13.2-1"],
        &["4.8.0-1"],
        "a packet whose fields do not fill it exactly ends the connection",
        || {
            each_fails([
                raw(0x30, &[0, 9, b'a']),
                raw(0x30, &[]),
                raw(0x32, &[0, 1, b'a', 0]),
                raw(0x40, &[0]),
                raw(0x40, &[0, 1, 0, 0, 0, 0]),
                raw(0x62, &[]),
                raw(0x82, &[0, 1]),
                raw(0x82, b"\x00\x01\x00\x09a"),
                raw(0xa2, &[0]),
                raw(0xc0, &[0]),
            ])
        },
    ),
    case(
        "properties out of place",
        &["4.13.1-1", "2.2.2"],
        &[],
        "a property that the packet cannot carry, an unknown one or one given twice ends the connection",
        || {
            let blocks = [
                long(0x11, 1),
                short(0x21, 1),
                vec![0x7f, 0],
                [byte(1, 0), byte(1, 0)].concat(),
                [string(3, "a"), string(3, "a")].concat(),
                byte(1, 2),
                vec![0x02, 0, 0],
            ];
            each_fails(blocks.map(|block| publish("t", "x").with(block).into()))
        },
    ),
    case(
        "packets that only servers send",
        &["4.13.1-1"],
        &["4.8.0-1"],
        "CONNACK, SUBACK, UNSUBACK and PINGRESP from a client are protocol errors",
        || {
            each_ends(
                0x82,
                [
                    raw(0x20, &[0, 0, 0]),
                    raw(0x90, &[0, 1, 0, 0]),
                    raw(0xb0, &[0, 1, 0, 0]),
                    raw(0xd0, &[]),
                ],
            )
        },
    ),
    case(
        "one client's error is its own",
        &["4.13.1-1"],
        &["4.8.0-1", "4.8.0-2"],
        "an error ends the connection that it came on and no other",
        || {
            script([
                enter("witness", connect("witness")),
                each_ends(0x81, [raw(0x36, &[0, 1, b't', 0, 1, 0])]),
                vec![quiet("witness")],
            ])
        },
    ),
];
