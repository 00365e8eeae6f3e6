//! Wills: sections 3.1.2.5 to 3.1.2.7, 3.1.3.2 and 3.14.4.

use crate::{table::*, wire::*};

/// Somebody who sees the will.
fn watch() -> Vec<Step> {
    script([enter("w", connect("w")), join("w", "w", 0)])
}

/// What the watcher sees next is this, published by itself: no will came before it.
fn nothing_until_now() -> Vec<Step> {
    vec![
        send("w", publish("w", "mark")),
        want("w", message("w", "mark")),
    ]
}

pub(crate) static CASES: &[Case] = &[
    case(
        "a will after a lost connection",
        &["3.1.2-7", "3.1.2-8", "3.1.3-1"],
        &["3.1.2-8", "3.1.3-1"],
        "the will is published when the connection ends without DISCONNECT",
        || {
            script([
                watch(),
                enter("a", connect("a").will("w", "down", 0)),
                nothing_until_now(),
                vec![Step::Cut("a"), want("w", message("w", "down")), quiet("w")],
            ])
        },
    ),
    case(
        "a will after an error of the client",
        &["3.1.2-8"],
        &["3.1.2-8"],
        "the will is published when the broker closes the connection for an error",
        || {
            script([
                watch(),
                enter("a", connect("a").will("w", "down", 0)),
                vec![
                    send("a", raw(0x00, &[])),
                    Step::Ended("a", 0x81),
                    want("w", message("w", "down")),
                ],
            ])
        },
    ),
    case(
        "a will after silence",
        &["3.1.2-8", "3.1.2-22"],
        &["3.1.2-8", "3.1.2-24"],
        "the will is published when the keep-alive has run out",
        || {
            script([
                watch(),
                enter("a", connect("a").keep_alive(1).will("w", "down", 0)),
                vec![Step::Ended("a", 0x8d), want("w", message("w", "down"))],
            ])
        },
    ),
    case(
        "no will after DISCONNECT",
        &["3.1.2-10", "3.14.4-3"],
        &["3.1.2-10", "3.14.4-3"],
        "a DISCONNECT, in MQTT 5 with code 0, takes the will back",
        || {
            script([
                watch(),
                enter("a", connect("a").will("w", "down", 0)),
                leave("a"),
                nothing_until_now(),
                enter("a", connect("a").will("w", "down", 0)),
                vec![
                    v5_only(send("a", bytes(&[0xe0, 1, 0]))),
                    v4_only(send("a", disconnect())),
                    Step::Closed("a"),
                ],
                nothing_until_now(),
            ])
        },
    ),
    case(
        "DISCONNECT with will",
        &["3.14.2.1", "3.1.2-8"],
        &[],
        "any other code of DISCONNECT than 0 has the will published",
        || {
            script([
                watch(),
                enter("a", connect("a").will("w", "asked for", 0)),
                vec![
                    send("a", bytes(&[0xe0, 1, 4])),
                    Step::Closed("a"),
                    want("w", message("w", "asked for")),
                ],
                enter("a", connect("a").will("w", "failed", 0)),
                vec![
                    send("a", bytes(&[0xe0, 2, 0x80, 0])),
                    Step::Closed("a"),
                    want("w", message("w", "failed")),
                ],
            ])
        },
    ),
    case(
        "no will without one",
        &["3.1.2.5"],
        &["3.1.2-12"],
        "a connection without a will ends silently",
        || {
            script([
                watch(),
                enter("a", connect("a")),
                vec![Step::Cut("a")],
                enter("a", connect("a")),
                nothing_until_now(),
            ])
        },
    ),
    case(
        "a will is published once",
        &["3.1.2-10"],
        &["3.1.2-10"],
        "it belongs to its connection and is gone with it",
        || {
            script([
                watch(),
                enter("a", connect("a").kept().will("w", "down", 0)),
                vec![Step::Cut("a"), want("w", message("w", "down"))],
                vec![
                    open("a"),
                    send("a", connect("a").kept()),
                    want("a", connack(0).present()),
                    Step::Cut("a"),
                ],
                vec![
                    open("a"),
                    send("a", connect("a").kept()),
                    want("a", connack(0).present()),
                ],
                nothing_until_now(),
            ])
        },
    ),
    case(
        "a will that is not retained",
        &["3.1.2-14"],
        &["3.1.2-16"],
        "with Will Retain 0 it is an ordinary message",
        || {
            script([
                watch(),
                enter("a", connect("a").will("w", "down", 1)),
                vec![Step::Cut("a"), want("w", message("w", "down"))],
                enter("late", connect("late")),
                join("late", "w", 0),
                vec![quiet("late")],
            ])
        },
    ),
    case(
        "a will that is retained",
        &["3.1.2-15"],
        &["3.1.2-17"],
        "with Will Retain 1 it is kept for those who subscribe later",
        || {
            script([
                watch(),
                enter("a", connect("a").will_retained("w", "down")),
                vec![Step::Cut("a"), want("w", message("w", "down"))],
                enter("late", connect("late")),
                join("late", "w", 1),
                vec![want("late", message("w", "down").qos(1, "kept").retained())],
            ])
        },
    ),
    case(
        "the QoS of a will",
        &["3.1.2-12", "3.8.4-8"],
        &["3.1.2-14", "3.8.4-6"],
        "a will of QoS 0, 1 or 2 is delivered like any message of that QoS",
        || {
            let wills = [("0", 0), ("1", 1), ("2", 2)].map(|(payload, qos)| {
                let seen = if qos == 0 {
                    message("v", payload)
                } else {
                    message("v", payload).qos(qos, "id")
                };
                script([
                    enter("a", connect("a").will("v", payload, qos)),
                    vec![Step::Cut("a"), want("w", seen)],
                ])
            });
            script(
                [enter("w", connect("w")), join("w", "v", 2)]
                    .into_iter()
                    .chain(wills),
            )
        },
    ),
    case(
        "properties of a will",
        &["3.1.3-10", "3.3.2-17"],
        &[],
        "a will carries its properties, user properties in their order, and neither its delay nor a changed expiry",
        || {
            let will = connect("a")
                .will("w", "down", 0)
                .will_with(byte(1, 1))
                .will_with(long(2, 500))
                .will_with(string(3, "text/plain"))
                .will_with(string(8, "answers"))
                .will_with(string(9, "c"))
                .will_with(pair("b", "1"))
                .will_with(pair("a", "2"))
                .will_with(pair("b", "3"));
            let seen = message("w", "down")
                .has(1, &[1])
                .within(2, 490, 500)
                .has(3, b"text/plain")
                .has(8, b"answers")
                .has(9, b"c")
                .values(0x26, &[b"b=1", b"a=2", b"b=3"]);
            script([
                watch(),
                enter("a", will),
                vec![Step::Cut("a"), want("w", seen)],
            ])
        },
    ),
    case(
        "a delayed will",
        &["3.1.2-8", "3.1.3.2.2"],
        &[],
        "the will is published once its delay is over",
        || {
            script([
                watch(),
                enter(
                    "a",
                    connect("a")
                        .kept()
                        .will("w", "down", 0)
                        .will_with(long(0x18, 1)),
                ),
                vec![send("a", bytes(&[0xe0, 1, 4])), Step::Closed("a")],
                vec![want("w", message("w", "down"))],
            ])
        },
    ),
    case(
        "a delayed will and the end of its session",
        &["3.1.2-8", "3.1.3.2.2"],
        &[],
        "the will does not wait longer than its session lives",
        || {
            script([
                watch(),
                enter(
                    "a",
                    connect("a")
                        .with(long(0x11, 1))
                        .will("w", "with the session", 0)
                        .will_with(long(0x18, 3_600)),
                ),
                vec![Step::Cut("a"), want("w", message("w", "with the session"))],
                enter(
                    "b",
                    connect("b")
                        .will("w", "without one", 0)
                        .will_with(long(0x18, 3_600)),
                ),
                vec![Step::Cut("b"), want("w", message("w", "without one"))],
            ])
        },
    ),
    case(
        "a client that is back before its will",
        &["3.1.3-9", "3.1.2-8"],
        &[],
        "the will waits, and a new connection to the session within the delay takes it back",
        || {
            script([
                watch(),
                enter(
                    "a",
                    connect("a")
                        .kept()
                        .will("w", "down", 0)
                        .will_with(long(0x18, 3_600)),
                ),
                vec![send("a", bytes(&[0xe0, 1, 4])), Step::Closed("a")],
                nothing_until_now(),
                vec![
                    open("a"),
                    send("a", connect("a").kept()),
                    want("a", connack(0).present()),
                ],
                nothing_until_now(),
                leave("a"),
                nothing_until_now(),
            ])
        },
    ),
    case(
        "a will whose topic has wildcards",
        &["3.3.2-2", "4.7.0-1"],
        &["3.3.2-2", "4.7.1-1"],
        "a will that could not be published is refused with the CONNECT",
        || {
            crate::cases_data::none_enters([
                connect("a").will("w/#", "x", 0).into(),
                connect("a").will("+", "x", 0).into(),
            ])
        },
    ),
];
