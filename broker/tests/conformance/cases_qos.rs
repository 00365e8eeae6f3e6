//! Delivery: sections 4.3 to 4.6 and 4.9.

use crate::{table::*, wire::*};

fn come_back(who: Who) -> Vec<Step> {
    vec![
        open(who),
        send(who, connect(who).kept()),
        want(who, connack(0).present()),
    ]
}

/// "a", whose session is kept, subscribes to `t`, and "p" publishes.
fn pair_up(options: u8) -> Vec<Step> {
    script([
        enter("a", connect("a").kept()),
        join("a", "t", options),
        enter("p", connect("p")),
    ])
}

/// "p" publishes to `t` and is acknowledged.
fn give(payload: &'static str, qos: u8) -> Vec<Step> {
    match qos {
        0 => vec![send("p", publish("t", payload))],
        1 => vec![
            send("p", publish("t", payload).qos(1, 1)),
            want("p", acked(PUBACK, 1)),
        ],
        _ => vec![
            send("p", publish("t", payload).qos(2, 2)),
            want("p", acked(PUBREC, 2)),
            send("p", ack(PUBREL, 2)),
            want("p", acked(PUBCOMP, 2)),
        ],
    }
}

pub(crate) static CASES: &[Case] = &[
    case(
        "QoS 1 from a client",
        &["4.3.2-4", "4.3.2-5"],
        &["4.3.2-2"],
        "each PUBLISH is acknowledged, and is a new message even with an id and DUP that were there before",
        || {
            script([
                enter("a", connect("a")),
                join("a", "t", 0),
                vec![
                    send("a", publish("t", "x").qos(1, 3)),
                    Step::WantAll("a", vec![acked(PUBACK, 3), message("t", "x").into()]),
                    send("a", publish("t", "x").qos(1, 3).dup()),
                    Step::WantAll("a", vec![acked(PUBACK, 3), message("t", "x").into()]),
                ],
            ])
        },
    ),
    case(
        "QoS 2 from a client",
        &["4.3.3-8", "4.3.3-10", "4.3.3-11", "4.3.3-12"],
        &["4.3.3-2"],
        "until PUBREL a repetition is answered and not published; after PUBCOMP the id is a new message's",
        || {
            let x = || publish("t", "x").qos(2, 3);
            script([
                enter("w", connect("w")),
                join("w", "t", 0),
                enter("a", connect("a")),
                vec![
                    send("a", x()),
                    want("a", acked(PUBREC, 3)),
                    send("a", x().dup()),
                    want("a", acked(PUBREC, 3)),
                    send("a", x()),
                    want("a", acked(PUBREC, 3)),
                    send("a", ack(PUBREL, 3)),
                    want("a", acked(PUBCOMP, 3)),
                    send("a", publish("t", "next").qos(2, 3)),
                    want("a", acked(PUBREC, 3)),
                    want("w", message("t", "x")),
                    want("w", message("t", "next")),
                    quiet("w"),
                ],
            ])
        },
    ),
    case(
        "QoS 2 that was refused",
        &["4.3.3-9"],
        &[],
        "after a PUBREC with an error the same id is a new message's",
        || {
            script([
                enter("a", connect("a")),
                join("a", "t", 0),
                vec![
                    send("a", publish("lamppost/v1/x", "x").qos(2, 3)),
                    want("a", answered(PUBREC, 3, 0x87)),
                    send("a", publish("t", "x").qos(2, 3)),
                    Step::WantAll("a", vec![answered(PUBREC, 3, 0), message("t", "x").into()]),
                ],
            ])
        },
    ),
    case(
        "QoS 2 whose message has expired",
        &["4.3.3-13"],
        &[],
        "the handshake goes on when the message's time is over",
        || {
            script([
                enter("a", connect("a")),
                vec![
                    send("a", publish("t", "x").qos(2, 3).with(long(2, 1))),
                    want("a", acked(PUBREC, 3)),
                    Step::After(2),
                    send("a", ack(PUBREL, 3)),
                    want("a", answered(PUBCOMP, 3, 0)),
                ],
            ])
        },
    ),
    case(
        "PUBREL of an unknown id",
        &["3.7.2-1", "4.3.3-11"],
        &["4.3.3-2"],
        "it is answered, in MQTT 5 with the code that says so",
        || {
            script([
                enter("a", connect("a")),
                vec![
                    send("a", ack(PUBREL, 9)),
                    want("a", answered(PUBCOMP, 9, 0x92)),
                    quiet("a"),
                ],
            ])
        },
    ),
    case(
        "acknowledgements of an unknown id",
        &["4.3.2", "4.3.3", "3.6.2-1"],
        &["4.3"],
        "they do no harm; PUBREC is answered by PUBREL, in MQTT 5 with the code that says so",
        || {
            script([
                enter("a", connect("a")),
                vec![
                    send("a", ack(PUBACK, 9)),
                    send("a", ack(PUBCOMP, 9)),
                    quiet("a"),
                    send("a", ack(PUBREC, 9)),
                    want("a", answered(PUBREL, 9, 0x92)),
                    quiet("a"),
                ],
            ])
        },
    ),
    case(
        "QoS 2 to a client",
        &["4.3.3-2", "4.3.3-3", "4.3.3-4", "4.3.3-5"],
        &["4.3.3-1"],
        "PUBREC is answered by PUBREL with the same id, and nothing is sent again meanwhile",
        || {
            script([
                pair_up(2),
                give("x", 2),
                vec![
                    want("a", message("t", "x").qos(2, "x")),
                    quiet("a"),
                    send("a", ack_of(PUBREC, "x")),
                    want("a", acked_of(PUBREL, "x")),
                    quiet("a"),
                    send("a", ack_of(PUBREC, "x")),
                    want("a", acked_of(PUBREL, "x")),
                    send("a", ack_of(PUBCOMP, "x")),
                    quiet("a"),
                ],
                leave("a"),
                come_back("a"),
                vec![quiet("a")],
            ])
        },
    ),
    case(
        "QoS 1 is sent again after a reconnect",
        &["4.4.0-1", "3.3.1-1", "4.3.2-3"],
        &["4.4.0-1", "3.3.1-1", "2.3.1-3"],
        "what was not acknowledged comes again with its id and DUP, in order, and at no other time",
        || {
            script([
                pair_up(1),
                give("1", 1),
                give("2", 1),
                give("3", 1),
                vec![
                    want("a", message("t", "1").qos(1, "1")),
                    want("a", message("t", "2").qos(1, "2")),
                    want("a", message("t", "3").qos(1, "3")),
                    send("a", ack_of(PUBACK, "2")),
                    quiet("a"),
                    Step::Cut("a"),
                ],
                come_back("a"),
                vec![
                    want("a", message("t", "1").again(1, "1")),
                    want("a", message("t", "3").again(1, "3")),
                    quiet("a"),
                    send("a", ack_of(PUBACK, "1")),
                    send("a", ack_of(PUBACK, "3")),
                ],
                leave("a"),
                come_back("a"),
                vec![quiet("a")],
            ])
        },
    ),
    case(
        "QoS 2 is sent again after a reconnect",
        &["4.4.0-1", "4.3.3-5", "4.3.3-6"],
        &["4.4.0-1", "4.3.3-1"],
        "before PUBREC the message comes again, after it PUBREL does and the message does not",
        || {
            script([
                pair_up(2),
                give("x", 2),
                vec![want("a", message("t", "x").qos(2, "x")), Step::Cut("a")],
                come_back("a"),
                vec![
                    want("a", message("t", "x").again(2, "x")),
                    send("a", ack_of(PUBREC, "x")),
                    want("a", acked_of(PUBREL, "x")),
                    Step::Cut("a"),
                ],
                come_back("a"),
                vec![
                    want("a", acked_of(PUBREL, "x")),
                    send("a", ack_of(PUBCOMP, "x")),
                    quiet("a"),
                ],
                leave("a"),
                come_back("a"),
                vec![quiet("a")],
            ])
        },
    ),
    case(
        "QoS 0 is not sent again",
        &["4.3.1-1", "3.3.1-2"],
        &["4.3.1-1", "3.3.1-2"],
        "a QoS 0 message is sent once, without DUP",
        || {
            script([
                pair_up(2),
                give("x", 0),
                vec![want("a", message("t", "x")), Step::Cut("a")],
                come_back("a"),
                vec![quiet("a")],
            ])
        },
    ),
    case(
        "an error in PUBACK or PUBREC",
        &["4.4.0-2", "4.3.3-4"],
        &[],
        "the message counts as acknowledged: no PUBREL and nothing after a reconnect",
        || {
            script([
                pair_up(2),
                give("1", 1),
                give("2", 2),
                vec![
                    want("a", message("t", "1").qos(1, "1")),
                    want("a", message("t", "2").qos(2, "2")),
                    send("a", Out::AckOf(PUBACK, "1", 0x80)),
                    send("a", Out::AckOf(PUBREC, "2", 0x97)),
                    quiet("a"),
                    Step::Cut("a"),
                ],
                come_back("a"),
                vec![quiet("a")],
            ])
        },
    ),
    case(
        "an expiry does not end a delivery",
        &["4.3.3-7"],
        &[],
        "a QoS 2 message that was sent once is sent again, although its expiry has passed",
        || {
            script([
                pair_up(2),
                vec![
                    send("p", publish("t", "x").qos(2, 2).with(long(2, 3))),
                    want("p", acked(PUBREC, 2)),
                    want("a", message("t", "x").qos(2, "x")),
                    Step::After(5),
                    Step::Cut("a"),
                ],
                come_back("a"),
                vec![want("a", message("t", "x").again(2, "x"))],
            ])
        },
    ),
    case(
        "messages stay in order",
        &["4.6.0-5", "4.6.0-6"],
        &["4.6.0-5", "4.6.0-6"],
        "what one client publishes to a topic at one QoS arrives in that order, live and from the queue",
        || {
            const NAMES: [&str; 40] = [
                "00", "01", "02", "03", "04", "05", "06", "07", "08", "09", "10", "11", "12", "13",
                "14", "15", "16", "17", "18", "19", "20", "21", "22", "23", "24", "25", "26", "27",
                "28", "29", "30", "31", "32", "33", "34", "35", "36", "37", "38", "39",
            ];
            let seen = |names: &'static [&'static str]| {
                names
                    .iter()
                    .flat_map(|name| {
                        [
                            want("a", message("t", name).qos(1, name)),
                            send("a", ack_of(PUBACK, name)),
                        ]
                    })
                    .collect::<Vec<_>>()
            };
            let sent =
                |names: &'static [&'static str]| script(names.iter().map(|name| give(name, 1)));
            script([
                pair_up(1),
                sent(&NAMES[..20]),
                seen(&NAMES[..20]),
                leave("a"),
                sent(&NAMES[20..]),
                come_back("a"),
                seen(&NAMES[20..]),
            ])
        },
    ),
    case(
        "Receive Maximum of the client",
        &["3.3.4-9", "3.3.4-10", "4.9.0-1", "4.9.0-2", "4.9.0-3"],
        &[],
        "no more QoS 1 and 2 messages are under way than the client takes; QoS 0 and answers are not held up",
        || {
            script([
                enter("a", connect("a").with(short(0x21, 2))),
                join("a", "t", 2),
                enter("p", connect("p")),
                give("1", 1),
                give("2", 2),
                vec![
                    want("a", message("t", "1").qos(1, "1")),
                    want("a", message("t", "2").qos(2, "2")),
                ],
                give("3", 1),
                give("none", 0),
                vec![
                    want("a", message("t", "none")),
                    quiet("a"),
                    send("a", ack_of(PUBREC, "2")),
                    want("a", acked_of(PUBREL, "2")),
                    quiet("a"),
                    send("a", ack_of(PUBCOMP, "2")),
                    want("a", message("t", "3").qos(1, "3")),
                ],
                give("4", 1),
                vec![
                    quiet("a"),
                    send("a", ack_of(PUBACK, "1")),
                    want("a", message("t", "4").qos(1, "4")),
                ],
            ])
        },
    ),
    case(
        "an error in PUBREC gives room",
        &["4.9.0-2", "3.3.4-9"],
        &[],
        "a PUBREC with an error counts as the end of the message",
        || {
            script([
                enter("a", connect("a").with(short(0x21, 1))),
                join("a", "t", 2),
                enter("p", connect("p")),
                give("1", 2),
                vec![want("a", message("t", "1").qos(2, "1"))],
                give("2", 2),
                vec![
                    quiet("a"),
                    send("a", Out::AckOf(PUBREC, "1", 0x83)),
                    want("a", message("t", "2").qos(2, "2")),
                ],
            ])
        },
    ),
    case(
        "Receive Maximum of the broker",
        &["3.3.4-7", "4.13.1-1"],
        &[],
        "a client with more QoS 2 messages under way than it was told is disconnected",
        || {
            let flood: Vec<u8> = (1..=1_025_u16)
                .flat_map(|id| packet(0x34, &[&b"\x00\x01t"[..], &id.to_be_bytes(), &[0]].concat()))
                .collect();
            let answers = (1..=1_024).map(|id| want("a", acked(PUBREC, id)));
            script([
                vec![
                    open("a"),
                    send("a", connect("a")),
                    want("a", connack(0).has(0x21, &1_024_u16.to_be_bytes())),
                ],
                vec![send("a", Out::Bytes(flood))],
                answers.collect(),
                vec![Step::Ended("a", 0x93)],
            ])
        },
    ),
];
