//! PUBLISH from clients and to them: sections 3.3 and 3.4, without RETAIN.

use crate::{
    cases_data::{each_ends, each_fails},
    table::*,
    wire::*,
};

/// A client that publishes to itself: what it sends to `t` comes back.
fn echo(connect: Connect, options: u8) -> Vec<Step> {
    script([enter("a", connect), join("a", "t", options)])
}

pub(crate) static CASES: &[Case] = &[
    case(
        "DUP is not passed on",
        &["3.3.1-3", "4.3.2-2", "4.3.3-2"],
        &["3.3.1-3", "4.3.2-1", "4.3.3-1"],
        "DUP of a message on its way out says whether the broker sends it again, not whether the publisher did",
        || {
            script([
                echo(connect("a"), 2),
                vec![
                    send("a", publish("t", "1").qos(1, 1).dup()),
                    Step::WantAll(
                        "a",
                        vec![acked(PUBACK, 1), message("t", "1").qos(1, "1").into()],
                    ),
                    send("a", publish("t", "2").qos(2, 2).dup()),
                    Step::WantAll(
                        "a",
                        vec![acked(PUBREC, 2), message("t", "2").qos(2, "2").into()],
                    ),
                ],
            ])
        },
    ),
    case(
        "DUP with QoS 0",
        &["3.3.1-2"],
        &["3.3.1-2"],
        "a QoS 0 message with DUP ends the connection",
        || each_ends(0x81, [publish("t", "x").dup().into()]),
    ),
    case(
        "QoS 3",
        &["3.3.1-4"],
        &["3.3.1-4"],
        "a message with both QoS bits ends the connection",
        || each_ends(0x81, [publish("t", "x").qos(3, 1).into()]),
    ),
    case(
        "wildcards in a topic",
        &["3.3.2-2", "4.7.0-1"],
        &["3.3.2-2", "4.7.1-1"],
        "a topic with + or # ends the connection",
        || {
            each_ends(
                0x90,
                ["t/+", "#", "a#", "+b", "a/+/b"].map(|topic| publish(topic, "x").into()),
            )
        },
    ),
    case(
        "an empty topic",
        &["4.7.3-1"],
        &["4.7.3-1"],
        "a topic has one character at least, or in MQTT 5 an alias",
        || each_fails([publish("", "x").into(), publish("", "x").qos(1, 1).into()]),
    ),
    case(
        "properties are passed on",
        &[
            "3.3.2-4", "3.3.2-15", "3.3.2-16", "3.3.2-17", "3.3.2-18", "3.3.2-20", "3.3.2-13",
            "3.3.2-19",
        ],
        &[],
        "payload format, response topic, correlation data, content type and user properties arrive unaltered",
        || {
            let sent = publish("t", "x")
                .with(pair("z", "1"))
                .with(byte(1, 1))
                .with(pair("a", "2"))
                .with(string(8, "answers/1"))
                .with(vec![9, 0, 3, 0, 0xff, 0x80])
                .with(pair("z", ""))
                .with(string(3, "text/plain"))
                .with(pair("z", "1"));
            let seen = message("t", "x")
                .has(1, &[1])
                .has(8, b"answers/1")
                .has(9, &[0, 0xff, 0x80])
                .has(3, b"text/plain")
                .values(0x26, &[b"z=1", b"a=2", b"z=", b"z=1"])
                .lacks(2)
                .lacks(0x23)
                .lacks(0x0b);
            script([
                echo(connect("a"), 0),
                vec![send("a", sent), want("a", seen)],
            ])
        },
    ),
    case(
        "an absent payload format stays absent",
        &["3.3.2-4"],
        &[],
        "properties that were not sent are not made up, and format 0 is passed on",
        || {
            script([
                echo(connect("a"), 0),
                vec![
                    send("a", publish("t", "x")),
                    want(
                        "a",
                        message("t", "x")
                            .lacks(1)
                            .lacks(3)
                            .lacks(8)
                            .lacks(9)
                            .lacks(0x26),
                    ),
                    send("a", publish("t", "x").with(byte(1, 0))),
                    want("a", message("t", "x").has(1, &[0])),
                ],
            ])
        },
    ),
    case(
        "text properties are text",
        &["3.3.2-13", "3.3.2-19"],
        &[],
        "response topic and content type are UTF-8",
        || {
            each_ends(
                0x81,
                [&b"\x08\x00\x01\xff"[..], b"\x03\x00\x01\xff"]
                    .map(|bad| publish("t", "x").with(bad.to_vec()).into()),
            )
        },
    ),
    case(
        "wildcards in a response topic",
        &["3.3.2-14"],
        &[],
        "a response topic with + or # is an error",
        || {
            each_fails([
                publish("t", "x").with(string(8, "a/#")).into(),
                publish("t", "x").with(string(8, "+")).into(),
            ])
        },
    ),
    case(
        "a subscription identifier from a client",
        &["3.3.4-6"],
        &[],
        "only the broker puts one into PUBLISH",
        || each_fails([publish("t", "x").with(vec![0x0b, 1]).into()]),
    ),
    case(
        "the expiry counts down",
        &["3.3.2-6"],
        &[],
        "a message that waited carries what is left of its expiry",
        || {
            script([
                enter("a", connect("a").kept()),
                join("a", "t", 1),
                leave("a"),
                enter("p", connect("p")),
                vec![
                    send("p", publish("t", "x").qos(1, 1).with(long(2, 100))),
                    want("p", acked(PUBACK, 1)),
                    Step::After(2),
                ],
                vec![
                    open("a"),
                    send("a", connect("a").kept()),
                    want("a", connack(0).present()),
                ],
                vec![want("a", message("t", "x").qos(1, "x").within(2, 60, 99))],
            ])
        },
    ),
    case(
        "an expired message",
        &["3.3.2-5"],
        &[],
        "a message whose expiry has passed is not sent any more",
        || {
            script([
                enter("a", connect("a").kept()),
                join("a", "t", 1),
                leave("a"),
                enter("p", connect("p")),
                vec![
                    send("p", publish("t", "stale").qos(1, 1).with(long(2, 1))),
                    want("p", acked(PUBACK, 1)),
                    send("p", publish("t", "fresh").qos(1, 2)),
                    want("p", acked(PUBACK, 2)),
                    Step::After(3),
                ],
                vec![
                    open("a"),
                    send("a", connect("a").kept()),
                    want("a", connack(0).present()),
                ],
                vec![want("a", message("t", "fresh").qos(1, "x").lacks(2))],
            ])
        },
    ),
    case(
        "an expired retained message",
        &["3.3.2-5", "3.3.2-6"],
        &[],
        "retained messages expire as well, and carry what is left",
        || {
            script([
                enter("p", connect("p")),
                vec![
                    send("p", publish("t/stale", "x").retained().with(long(2, 1))),
                    send("p", publish("t/fresh", "x").retained().with(long(2, 100))),
                    quiet("p"),
                    Step::After(3),
                ],
                join("p", "t/#", 0),
                vec![
                    want("p", message("t/fresh", "x").retained().within(2, 60, 98)),
                    quiet("p"),
                ],
            ])
        },
    ),
    case(
        "a message goes to matching subscriptions only",
        &["3.3.2-3"],
        &["3.3.2-3"],
        "the topic of a message matches the filter that it is sent for",
        || {
            script([
                echo(connect("a"), 0),
                vec![
                    send("a", publish("u", "x")),
                    send("a", publish("t/u", "x")),
                    send("a", publish("t", "x")),
                ],
                vec![want("a", message("t", "x")), quiet("a")],
            ])
        },
    ),
    case(
        "a publication that is not allowed",
        &["3.4.2-1", "3.5.2-1"],
        &["3.3.5-2"],
        "it goes to nobody; MQTT 5 is told by the code, MQTT 3.1.1 by an acknowledgement like any other",
        || {
            script([
                enter("a", connect("a")),
                join("a", "lamppost/#", 0),
                vec![
                    send("a", publish("lamppost/v1/x", "x").qos(1, 1)),
                    want("a", answered(PUBACK, 1, 0x87)),
                    send("a", publish("lamppost/v1/x", "x").qos(2, 2)),
                    want("a", answered(PUBREC, 2, 0x87)),
                    send("a", publish("lamppost/v1/x", "x")),
                    send("a", publish("lamppost/else", "mark")),
                    want("a", message("lamppost/else", "mark")),
                ],
            ])
        },
    ),
    case(
        "a publication that nobody wants",
        &["3.4.2-1", "3.5.2-1", "4.3.2-4", "4.3.3-8"],
        &["3.3.4-1"],
        "it is acknowledged like any other, in MQTT 5 with a code that says so",
        || {
            script([
                enter("a", connect("a")),
                vec![
                    send("a", publish("t", "x").qos(1, 1)),
                    want("a", answered(PUBACK, 1, 0x10)),
                    send("a", publish("t", "x").qos(2, 2)),
                    want("a", answered(PUBREC, 2, 0x10)),
                    send("a", ack(PUBREL, 2)),
                    want("a", acked(PUBCOMP, 2)),
                ],
            ])
        },
    ),
];
