//! SUBSCRIBE, UNSUBSCRIBE, PINGREQ, DISCONNECT: sections 3.8 to 3.14.

use crate::{
    cases_data::{each_ends, each_fails},
    table::*,
    wire::*,
};

pub(crate) static CASES: &[Case] = &[
    case(
        "SUBSCRIBE without a filter",
        &["3.8.3-2"],
        &["3.8.3-3"],
        "it is a protocol error",
        || each_ends(0x82, [subscribe(1, &[])]),
    ),
    case(
        "reserved subscription options",
        &["3.8.3-5"],
        &["3.8.3-4"],
        "reserved bits or QoS 3 make the packet malformed",
        || {
            script([
                each_ends(
                    0x81,
                    [3, 0x40, 0x80, 0xc1].map(|options| subscribe(1, &[("t", options)])),
                ),
                vec![
                    v4_only(open("a")),
                    v4_only(send("a", connect("a"))),
                    v4_only(want("a", connack(0))),
                ],
                vec![
                    v4_only(send("a", subscribe(1, &[("t", 4)]))),
                    v4_only(Step::Closed("a")),
                ],
            ])
        },
    ),
    case(
        "subscription identifier 0",
        &["3.8.2.1.2", "4.13.1-1"],
        &[],
        "the identifier is from 1 on, and given once",
        || {
            each_ends(
                0x82,
                [vec![0x0b, 0], vec![0x0b, 1, 0x0b, 2]]
                    .map(|block| subscribe_with(1, block, &[("t", 0)])),
            )
        },
    ),
    case(
        "one code for each filter, in order",
        &[
            "3.8.4-1", "3.8.4-5", "3.8.4-6", "3.8.4-7", "3.9.3-1", "3.9.3-2",
        ],
        &[
            "3.8.4-1", "3.8.4-4", "3.8.4-5", "3.9.3-1", "3.9.3-2", "3.8.3-2",
        ],
        "SUBACK has the granted QoS or the failure of each filter; one failure does not spoil the others",
        || {
            script([
                enter("a", connect("a")),
                vec![
                    send(
                        "a",
                        subscribe(
                            5,
                            &[("a", 2), ("b/#/c", 1), ("b/+", 1), ("+/#", 0), ("a+", 0)],
                        ),
                    ),
                    want("a", suback(5, &[2, 0x8f, 1, 0, 0x8f])),
                    quiet("a"),
                ],
            ])
        },
    ),
    case(
        "a filter that is not allowed",
        &["3.8.4-7", "3.9.3-2"],
        &["3.8.4-5", "3.9.3-2"],
        "a limit on filters is told as the failure of that filter",
        || {
            script([
                enter("a", connect("a")),
                vec![
                    send("a", subscribe(1, &[("a", 0), ("b", 0), ("a", 1)])),
                    want("a", suback(1, &[0, 0x97, 1])),
                ],
            ])
        },
    )
    .config(|config| config.limits.filters_per_client_max = 1),
    case(
        "a subscription is replaced",
        &["3.8.4-3", "3.8.4-4"],
        &["3.8.4-3"],
        "the same filter again gives new options and no second copy",
        || {
            script([
                enter("a", connect("a")),
                join("a", "t", 0),
                vec![send("a", publish("t", "0").qos(1, 1))],
                vec![Step::WantAll(
                    "a",
                    vec![acked(PUBACK, 1), message("t", "0").into()],
                )],
                join("a", "t", 1),
                vec![send("a", publish("t", "1").qos(1, 2))],
                vec![Step::WantAll(
                    "a",
                    vec![acked(PUBACK, 2), message("t", "1").qos(1, "1").into()],
                )],
                vec![quiet("a"), send("a", ack_of(PUBACK, "1"))],
                join("a", "t", 0),
                vec![send("a", publish("t", "2").qos(1, 3))],
                vec![
                    Step::WantAll("a", vec![acked(PUBACK, 3), message("t", "2").into()]),
                    quiet("a"),
                ],
            ])
        },
    ),
    case(
        "the lesser QoS",
        &["3.8.4-8", "4.3.1-1"],
        &["3.8.4-6", "4.3.1-1"],
        "a message is sent at the lesser of its own QoS and the granted one",
        || {
            let get = |granted: u8, sent: u8| {
                let out = publish("t", "x").qos(sent, if sent > 0 { 4 } else { 0 });
                let lesser = granted.min(sent);
                let seen = if lesser == 0 {
                    message("t", "x")
                } else {
                    message("t", "x").qos(lesser, "x")
                };
                let mut steps = vec![send("p", out)];
                match sent {
                    1 => steps.push(want("p", acked(PUBACK, 4))),
                    2 => steps.extend([
                        want("p", acked(PUBREC, 4)),
                        send("p", ack(PUBREL, 4)),
                        want("p", acked(PUBCOMP, 4)),
                    ]),
                    _ => {}
                }
                steps.push(want("a", seen));
                match lesser {
                    1 => steps.push(send("a", ack_of(PUBACK, "x"))),
                    2 => steps.extend([
                        send("a", ack_of(PUBREC, "x")),
                        want("a", acked_of(PUBREL, "x")),
                        send("a", ack_of(PUBCOMP, "x")),
                    ]),
                    _ => {}
                }
                steps
            };
            let rounds = (0..3).map(|granted| {
                script([
                    join("a", "t", granted),
                    get(granted, 0),
                    get(granted, 1),
                    get(granted, 2),
                    vec![quiet("a")],
                ])
            });
            script(
                [enter("p", connect("p")), enter("a", connect("a"))]
                    .into_iter()
                    .chain(rounds),
            )
        },
    ),
    case(
        "overlapping subscriptions",
        &["3.3.4-2"],
        &["3.3.5-1"],
        "a message that several filters of a client match is sent at the highest QoS among them",
        || {
            script([
                enter("a", connect("a")),
                vec![
                    send("a", subscribe(1, &[("t/#", 0), ("t/+", 2), ("+/u", 1)])),
                    want("a", suback(1, &[0, 2, 1])),
                    send("a", publish("t/u", "x").qos(2, 1)),
                    Step::WantAll(
                        "a",
                        vec![acked(PUBREC, 1), message("t/u", "x").qos(2, "x").into()],
                    ),
                    quiet("a"),
                ],
            ])
        },
    ),
    case(
        "identifiers of overlapping subscriptions",
        &["3.3.4-3", "3.3.4-4"],
        &[],
        "the one copy carries the identifiers of all matching subscriptions that have one",
        || {
            let subscribed = |id: u16, identifier: u8, filter: &'static str| {
                vec![
                    send(
                        "a",
                        subscribe_with(id, vec![0x0b, identifier], &[(filter, 0)]),
                    ),
                    want("a", suback(id, &[0])),
                ]
            };
            script([
                enter("a", connect("a")),
                subscribed(1, 5, "t/#"),
                subscribed(2, 9, "u"),
                join("a", "+/v", 0),
                vec![
                    send("a", publish("t/v", "one")),
                    want("a", message("t/v", "one").has(0x0b, &[5])),
                    quiet("a"),
                ],
                subscribed(3, 5, "t/+"),
                vec![
                    send("a", publish("w/v", "none")),
                    want("a", message("w/v", "none").lacks(0x0b)),
                    send("a", publish("u", "other")),
                    want("a", message("u", "other").has(0x0b, &[9])),
                    quiet("a"),
                ],
            ])
        },
    ),
    case(
        "No Local",
        &["3.8.3-3"],
        &[],
        "what a client publishes does not come back to it, and reaches others",
        || {
            script([
                enter("a", connect("a")),
                join("a", "t", 4),
                enter("b", connect("b")),
                join("b", "t", 0),
                vec![
                    send("a", publish("t", "mine")),
                    want("b", message("t", "mine")),
                    send("b", publish("t", "yours")),
                    want("b", message("t", "yours")),
                    want("a", message("t", "yours")),
                    quiet("a"),
                ],
            ])
        },
    ),
    case(
        "UNSUBSCRIBE without a filter",
        &["3.10.3-2"],
        &["3.10.3-2"],
        "it is a protocol error",
        || each_ends(0x82, [unsubscribe(1, &[])]),
    ),
    case(
        "UNSUBSCRIBE compares characters",
        &["3.10.4-1", "3.10.4-4", "3.10.4-5", "3.11.3-2"],
        &["3.10.4-1", "3.10.4-4", "3.10.4-5"],
        "only the very same filter ends a subscription; UNSUBACK comes in any case",
        || {
            script([
                enter("a", connect("a")),
                join("a", "t/+", 0),
                vec![
                    send("a", unsubscribe(2, &["t/1", "T/+", "t/#", "t/+/", "+/+"])),
                    want("a", unsuback(2, &[0x11; 5])),
                    send("a", publish("t/1", "still there")),
                    want("a", message("t/1", "still there")),
                ],
            ])
        },
    ),
    case(
        "UNSUBSCRIBE ends a subscription",
        &["3.10.4-2", "3.10.4-6", "3.11.3-1"],
        &["3.10.4-2", "3.10.4-6"],
        "no new messages come for the filters that were ended, and one UNSUBACK answers all, in order",
        || {
            script([
                enter("a", connect("a")),
                vec![
                    send("a", subscribe(1, &[("t", 0), ("u", 0), ("end", 0)])),
                    want("a", suback(1, &[0, 0, 0])),
                    send("a", unsubscribe(2, &["t", "none", "u"])),
                    want("a", unsuback(2, &[0, 0x11, 0])),
                    send("a", publish("t", "x")),
                    send("a", publish("u", "x")),
                    send("a", publish("end", "x")),
                    want("a", message("end", "x")),
                    quiet("a"),
                ],
            ])
        },
    ),
    case(
        "UNSUBSCRIBE lets deliveries end",
        &["3.10.4-3"],
        &["3.10.4-3"],
        "a QoS 2 message that was sent before runs to its end",
        || {
            script([
                enter("a", connect("a")),
                join("a", "t", 2),
                enter("p", connect("p")),
                vec![
                    send("p", publish("t", "x").qos(2, 1)),
                    want("p", acked(PUBREC, 1)),
                    want("a", message("t", "x").qos(2, "x")),
                    send("a", unsubscribe(2, &["t"])),
                    want("a", unsuback(2, &[0])),
                    send("a", ack_of(PUBREC, "x")),
                    want("a", acked_of(PUBREL, "x")),
                    send("a", ack_of(PUBCOMP, "x")),
                    quiet("a"),
                ],
            ])
        },
    ),
    case(
        "PINGREQ",
        &["3.12.4-1"],
        &["3.12.4-1"],
        "each is answered with PINGRESP",
        || {
            script([
                enter("a", connect("a")),
                vec![
                    send("a", bytes(&[0xc0, 0, 0xc0, 0])),
                    want("a", Want::PingResp),
                    want("a", Want::PingResp),
                    quiet("a"),
                ],
            ])
        },
    ),
    case(
        "nothing counts behind DISCONNECT",
        &["3.14.4-1", "3.14.4"],
        &["3.14.4-1", "3.14.4-2"],
        "the broker closes and does not look at what a client sends after its DISCONNECT",
        || {
            script([
                enter("a", connect("a")),
                vec![
                    send(
                        "a",
                        Out::Bytes([&[0xe0, 0][..], &packet(0x31, b"\x00\x01t\x00late")].concat()),
                    ),
                    Step::Closed("a"),
                ],
                enter("b", connect("b")),
                join("b", "t", 0),
                vec![quiet("b")],
            ])
        },
    ),
    case(
        "DISCONNECT that is malformed",
        &["3.14.1-1", "3.14.2-1", "4.13.1-1"],
        &["3.14.1-1"],
        "flags, bytes behind the end and properties that do not belong there are errors",
        || {
            script([
                each_ends(0x81, [raw(0xe2, &[])]),
                each_fails([
                    raw(0xe0, &[0, 0, 0, 0]),
                    raw(0xe0, &[0, 2, 0x21, 0]),
                    raw(0xe0, &[0, 9]),
                ]),
            ])
        },
    ),
];
