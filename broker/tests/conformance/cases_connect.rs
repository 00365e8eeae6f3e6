//! CONNECT and CONNACK: sections 3.1 and 3.2, without wills and sessions.

use crate::{
    cases_data::{each_ends, none_enters},
    table::*,
    wire::*,
};

/// A refusal: the code in MQTT 5 and in MQTT 3.1.1, and the end.
fn refused(connect: Connect, v5: u8, v4: u8) -> Vec<Step> {
    vec![
        open("a"),
        send("a", connect),
        want("a", connack(v5).in_v4(v4)),
        Step::Closed("a"),
    ]
}

pub(crate) static CASES: &[Case] = &[
    case(
        "the first packet is CONNECT",
        &["3.1.0-1", "3.14.0-1", "3.2.0-1"],
        &["3.1.0-1", "3.2.0-1"],
        "whatever else comes first ends the connection, without a CONNACK or DISCONNECT",
        || {
            let first = [
                bytes(&[0xc0, 0]),
                publish("t", "x").into(),
                subscribe(1, &[("t", 0)]),
                bytes(&[0xe0, 0]),
                bytes(b"GET / HTTP/1.1\r\n\r\n"),
            ];
            script(first.map(|out| vec![open("a"), send("a", out), Step::Closed("a")]))
        },
    ),
    case(
        "CONNECT comes once",
        &["3.1.0-2", "3.2.0-2", "3.14.4-1", "3.14.4-2"],
        &["3.1.0-2"],
        "a second CONNECT is a protocol error; there is no second CONNACK and nothing behind the DISCONNECT",
        || each_ends(0x82, [connect("a").into()]),
    ),
    case(
        "protocol name",
        &["3.1.2-1"],
        &["3.1.2-1"],
        "another protocol name than MQTT is not served",
        || none_enters([raw(0x10, b"\x00\x04MQTX\x04\x02\x00\x00\x00\x01a"), raw(0x10, b"\x00\x04mqtt\x05\x02\x00\x00\x00\x00\x01a")]),
    ),
    case(
        "protocol level",
        &["3.1.2-2"],
        &["3.1.2-2"],
        "an unknown protocol level is told so and the connection closed",
        || {
            vec![
                open("a"),
                v5_only(send("a", raw(0x10, b"\x00\x04MQTT\x06\x02\x00\x00\x00\x00\x01a"))),
                v4_only(send("a", raw(0x10, b"\x00\x06MQIsdp\x03\x02\x00\x00\x00\x01a"))),
                want("a", connack(0x84).in_v4(1)),
                Step::Closed("a"),
            ]
        },
    ),
    case(
        "the reserved flag of CONNECT",
        &["3.1.2-3"],
        &["3.1.2-3"],
        "bit 0 of the flags is checked to be zero",
        || none_enters([connect("a").flip(1).into()]),
    ),
    case(
        "will flags without a will",
        &["3.1.2-11", "3.1.2-13"],
        &["3.1.2-11", "3.1.2-13", "3.1.2-15"],
        "without the will flag the will's QoS and RETAIN are zero",
        || none_enters([8, 0x10, 0x18, 0x20].map(|bits| connect("a").flip(bits).into())),
    ),
    case(
        "a will of QoS 3",
        &["3.1.2-12"],
        &["3.1.2-14"],
        "the QoS of a will is 0, 1 or 2",
        || none_enters([connect("a").will("w", "x", 3).into()]),
    ),
    case(
        "a will flag without a will",
        &["3.1.2-9"],
        &["3.1.2-9"],
        "with the will flag the will's topic and payload are there",
        || none_enters([connect("a").flip(4).into()]),
    ),
    case(
        "user name and password flags",
        &["3.1.2-16", "3.1.2-17", "3.1.2-18", "3.1.2-19"],
        &["3.1.2-18", "3.1.2-19", "3.1.2-20", "3.1.2-21", "3.1.2-22"],
        "a flag without its field, or a field without its flag, is malformed",
        || {
            script([
                none_enters([
                    connect("a").flip(0x80).into(),
                    connect("a").login(Some("u"), None).flip(0x80).into(),
                    connect("a").login(Some("u"), None).flip(0x40).into(),
                    connect("a").login(Some("u"), Some("p")).flip(0x40).into(),
                ]),
                vec![
                    open("a"),
                    v4_only(send("a", connect("a").login(None, Some("p")))),
                    v4_only(Step::Closed("a")),
                ],
            ])
        },
    ),
    case(
        "a password alone",
        &["3.1.2.9"],
        &[],
        "a password without a user name is well-formed in MQTT 5, and refused as a login that nobody can check",
        || refused(connect("a").login(None, Some("p")), 0x86, 4),
    ),
    case(
        "the user name is text",
        &["3.1.3-12", "3.1.3-11"],
        &["3.1.3-11", "3.1.3-10"],
        "user name and will topic are UTF-8",
        || {
            none_enters([
                raw(0x10, b"\x00\x04MQTT\x04\x82\x00\x00\x00\x01a\x00\x01\xff"),
                raw(0x10, b"\x00\x04MQTT\x05\x82\x00\x00\x00\x00\x01a\x00\x01\xff"),
                raw(0x10, b"\x00\x04MQTT\x04\x06\x00\x00\x00\x01a\x00\x01\xff\x00\x00"),
                raw(0x10, b"\x00\x04MQTT\x05\x06\x00\x00\x00\x00\x01a\x00\x00\x01\xff\x00\x00"),
            ])
        },
    ),
    case(
        "client ids that every server takes",
        &["3.1.3-5", "3.1.4-5", "3.2.2-1", "3.2.2-8", "3.1.3-3"],
        &["3.1.3-5", "3.1.4-4", "3.1.3-3"],
        "ids of 1 to 23 letters and digits are accepted with code 0 and no other flag",
        || {
            let ids = ["0", "z", "0123456789abcdefghijklm", "nopqrstuvwxyzABCDEFGHIJ", "KLMNOPQRSTUVWXYZ"];
            script(ids.map(|id| {
                let mut steps = enter("a", connect(id));
                steps.push(quiet("a"));
                steps
            }))
        },
    ),
    case(
        "an empty client id",
        &["3.1.3-6", "3.1.3-7", "3.2.2-16"],
        &["3.1.3-6"],
        "the broker assigns an id of its own to each, and tells MQTT 5 clients",
        || {
            script([
                vec![open("a"), send("a", connect("")), want("a", connack(0).some(0x12))],
                vec![open("b"), send("b", connect("")), want("b", connack(0).some(0x12))],
                vec![open("c"), v5_only(send("c", connect("").resume())), v5_only(want("c", connack(0).some(0x12)))],
                vec![quiet("a"), quiet("b")],
            ])
        },
    ),
    case(
        "an empty client id with a session to keep",
        &[],
        &["3.1.3-7", "3.1.3-8", "3.2.2-4", "3.2.2-5"],
        "it is refused with code 2 and the connection closed",
        || refused(connect("").resume(), 0, 2),
    ),
    case(
        "a client id that is refused",
        &["3.1.3-8", "3.2.2-6", "3.2.2-7"],
        &["3.1.3-9", "3.2.2-4", "3.2.2-5"],
        "a client id of more than 1,024 bytes is refused by its code, without a session present",
        || refused(connect(&"x".repeat(1_025)), 0x85, 2),
    ),
    case(
        "a CONNECT that is malformed",
        &["3.1.4-1"],
        &["3.1.4-1"],
        "the connection is closed; MQTT 3.1.1 has no CONNACK for it",
        || {
            let cut = raw(0x10, b"\x00\x04MQTT\x04\x02\x00");
            script([
                none_enters([connect("a").tail(b"x").into(), cut.clone(), raw(0x10, b"\x00\x04MQTT\x05\x02\x00\x00\x09")]),
                vec![open("a"), v4_only(send("a", cut)), v4_only(Step::Closed("a"))],
                vec![open("a"), v4_only(send("a", connect("a").tail(b"x"))), v4_only(Step::Closed("a"))],
            ])
        },
    ),
    case(
        "a login that is refused",
        &["3.1.4-2", "3.1.4-6", "3.2.2-6", "3.2.2-7"],
        &["3.1.4-5", "3.2.2-4", "3.2.2-5"],
        "an unknown user is told so, and nothing that came behind the CONNECT is looked at",
        || {
            script([
                vec![
                    open("a"),
                    send("a", connect("a").login(Some("nobody"), Some("x"))),
                    send("a", publish("t", "sneaked in").retained()),
                    want("a", connack(0x86).in_v4(4)),
                    Step::Closed("a"),
                ],
                enter("b", connect("b")),
                join("b", "t", 0),
                vec![quiet("b")],
            ])
        },
    ),
    case(
        "packets right behind CONNECT",
        &["3.1.4-6"],
        &["3.1.4-5"],
        "a client need not wait for the CONNACK",
        || {
            vec![
                open("a"),
                send("a", connect("a")),
                send("a", subscribe(1, &[("t", 0)])),
                send("a", publish("t", "early")),
                want("a", connack(0)),
                want("a", suback(1, &[0])),
                want("a", message("t", "early")),
            ]
        },
    ),
    case(
        "an id in use",
        &["3.1.4-3"],
        &["3.1.4-2"],
        "the client that had the id before is told and closed, the later one served",
        || {
            script([
                enter("a", connect("same")),
                enter("b", connect("same")),
                vec![Step::Ended("a", 0x8e), quiet("b")],
            ])
        },
    ),
    case(
        "silence beyond the keep-alive",
        &["3.1.2-22", "3.2.2-22"],
        &["3.1.2-24"],
        "a client that is silent for one and a half keep-alives is closed; its own value holds if it is not told another",
        || {
            vec![
                open("a"),
                send("a", connect("a").keep_alive(1)),
                want("a", connack(0).lacks(0x13)),
                Step::Ended("a", 0x8d),
            ]
        },
    ),
    case(
        "any packet keeps a connection alive",
        &["3.1.2-22", "3.12.4-1"],
        &["3.1.2-24", "3.12.4-1"],
        "a client that says something within its keep-alive stays",
        || {
            script([
                enter("a", connect("a").keep_alive(4)),
                vec![Step::After(2), quiet("a"), Step::After(2)],
                vec![send("a", publish("t", "x").qos(1, 1)), want("a", acked(PUBACK, 1)), Step::After(2)],
                vec![quiet("a"), Step::After(2), quiet("a")],
            ])
        },
    ),
    case(
        "a keep-alive that the broker sets",
        &["3.2.2.3.14", "3.1.2-22"],
        &["3.1.2.10"],
        "who asks for more than the limit, or for none, is told and held to the limit; MQTT 3.1.1 cannot be told",
        || {
            vec![
                open("a"),
                send("a", connect("a").keep_alive(600)),
                want("a", connack(0).has(0x13, &[0, 1])),
                open("b"),
                send("b", connect("b")),
                want("b", connack(0).has(0x13, &[0, 1])),
                v5_only(Step::Ended("a", 0x8d)),
                v5_only(Step::Ended("b", 0x8d)),
                v4_only(Step::After(2)),
                v4_only(quiet("a")),
                v4_only(quiet("b")),
            ]
        },
    )
    .config(|config| config.limits.keep_alive_max = std::time::Duration::from_secs(1)),
    case(
        "what CONNACK announces",
        &["3.2.2-9", "3.2.2.3", "4.12.0-6"],
        &[],
        "the broker's limits are told; QoS 2, retained, wildcards, identifiers and shared subscriptions are not denied",
        || {
            let answer = connack(0).some(0x21).some(0x27).some(0x22).lacks(0x15).lacks(0x16);
            let answer = [0x24, 0x25, 0x28, 0x29, 0x2a].into_iter().fold(answer, ConnAck::lacks);
            vec![open("a"), send("a", connect("a").keep_alive(30)), want("a", answer)]
        },
    ),
    case(
        "session expiry in CONNACK",
        &["3.2.2.3.2"],
        &[],
        "an expiry that is kept is not repeated, one that is cut to the limit is told",
        || {
            vec![
                open("a"),
                send("a", connect("a").with(long(0x11, 60))),
                want("a", connack(0).lacks(0x11)),
                open("b"),
                send("b", connect("b").with(long(0x11, u32::MAX))),
                want("b", connack(0).has(0x11, &100_u32.to_be_bytes())),
            ]
        },
    )
    .config(|config| config.limits.session_expiry_max = std::time::Duration::from_secs(100)),
    case(
        "response information is not given",
        &["3.1.2-28"],
        &[],
        "neither with Request Response Information 0 nor with 1 is there any",
        || {
            script([0, 1].map(|wanted| {
                vec![open("a"), send("a", connect("a").with(byte(0x19, wanted))), want("a", connack(0).lacks(0x1a))]
            }))
        },
    ),
    case(
        "no problem information",
        &["3.1.2-29"],
        &[],
        "with Request Problem Information 0 acknowledgements carry a code and nothing else",
        || {
            script([
                enter("a", connect("a").with(byte(0x17, 0))),
                vec![
                    send("a", ack(PUBREL, 9)),
                    want("a", answered(PUBCOMP, 9, 0x92)),
                    send("a", subscribe(2, &[("a/#/b", 0)])),
                    want("a", suback(2, &[0x8f])),
                    send("a", unsubscribe(3, &["none"])),
                    want("a", unsuback(3, &[0x11])),
                ],
            ])
        },
    ),
    case(
        "values that CONNECT must not have",
        &["3.1.2.11", "4.13.1-1"],
        &[],
        "Receive Maximum 0, Maximum Packet Size 0, flags above 1 and properties given twice are errors",
        || {
            let bad = [
                short(0x21, 0),
                long(0x27, 0),
                byte(0x17, 2),
                byte(0x19, 2),
                [short(0x21, 1), short(0x21, 1)].concat(),
                [long(0x11, 1), long(0x11, 1)].concat(),
                string(0x16, "data without a method"),
                byte(0x01, 1),
            ];
            none_enters(bad.map(|property| connect("a").with(property).into()))
        },
    ),
    case(
        "Maximum Packet Size of the client",
        &["3.1.2-24", "3.1.2-25"],
        &[],
        "a packet over it is left out as if it had been sent, and its QoS 1 does not hold the others up",
        || {
            let long_text = "x".repeat(100);
            script([
                enter("a", connect("a").with(long(0x27, 40)).with(short(0x21, 1))),
                join("a", "t", 1),
                enter("b", connect("b")),
                vec![
                    send("b", publish("t", &long_text).qos(1, 1)),
                    send("b", publish("t", &long_text)),
                    send("b", publish("t", "short").qos(1, 2)),
                    want("b", acked(PUBACK, 1)),
                    want("b", acked(PUBACK, 2)),
                    want("a", message("t", "short").qos(1, "short")),
                ],
            ])
        },
    ),
    case(
        "answers over the client's Maximum Packet Size",
        &["3.1.2-24"],
        &[],
        "no answer is longer than the client allows: it is told so and let go, in silence where not even that fits",
        || {
            let filters: Vec<_> = (0..40).map(|number| format!("t/{number}")).collect();
            let filters: Vec<_> = filters.iter().map(|filter| (filter.as_str(), 0)).collect();
            let names: Vec<_> = filters.iter().map(|&(filter, _)| filter).collect();
            script([
                vec![open("tiny"), send("tiny", connect("tiny").with(long(0x27, 4))), Step::Closed("tiny")],
                vec![open("small"), send("small", connect("small").with(long(0x27, 15)))],
                vec![want("small", connack(0x95)), Step::Closed("small")],
                enter("a", connect("a").with(long(0x27, 44))),
                vec![send("a", subscribe(1, &filters)), Step::Ended("a", 0x95)],
                enter("b", connect("b").with(long(0x27, 44))),
                vec![send("b", unsubscribe(1, &names)), Step::Ended("b", 0x95)],
                enter("c", connect("c").with(long(0x27, 45))),
                vec![send("c", subscribe(1, &filters)), want("c", suback(1, &[0; 40]))],
            ])
        },
    ),
    case(
        "Maximum Packet Size of the broker",
        &["3.2.2-15", "3.2.2.3.6"],
        &["4.8.0-1"],
        "a packet over it ends the connection",
        || {
            let limit = 1_000 + 64 * 1_024_u32;
            let payload = vec![b'x'; 70_000];
            vec![
                open("a"),
                send("a", connect("a")),
                want("a", connack(0).has(0x27, &limit.to_be_bytes())),
                send("a", publish("t", payload)),
                Step::Ended("a", 0x95),
            ]
        },
    )
    .config(|config| config.limits.payload_bytes_max = 1_000),
    case(
        "authentication methods",
        &["4.12.0-1", "4.12.0-4"],
        &[],
        "an authentication method is refused by its code and the connection closed",
        || refused(connect("a").with(string(0x15, "SCRAM-SHA-256")).with(string(0x16, "n")), 0x8c, 5),
    ),
    case(
        "AUTH without a method",
        &["4.12.0-7", "3.15.1-1", "4.12.1-1"],
        &["4.8.0-1"],
        "AUTH, which nobody agreed on, ends the connection, with wrong flags too",
        || {
            script([
                each_ends(0x82, [raw(0xf0, &[]), raw(0xf0, &[0x19, 0])]),
                crate::cases_data::each_fails([raw(0xf1, &[]), raw(0xf0, &[0x01])]),
            ])
        },
    ),
];
