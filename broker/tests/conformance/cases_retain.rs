//! Retained messages: section 3.3.1.3.

use crate::{table::*, wire::*};

/// "p" has a retained message on `t`, and "a" is there.
fn kept(payload: &'static str) -> Vec<Step> {
    script([
        enter("p", connect("p")),
        vec![
            send("p", publish("t", payload).qos(1, 1).retained()),
            want("p", acked(PUBACK, 1)),
        ],
        enter("a", connect("a")),
    ])
}

/// "a" subscribes with these options, and gets the retained message or nothing.
fn ask(options: u8, payload: Option<&'static str>) -> Vec<Step> {
    script([
        join("a", "t", options),
        payload
            .map(|payload| want("a", message("t", payload).retained()))
            .into_iter()
            .collect(),
        vec![quiet("a")],
    ])
}

pub(crate) static CASES: &[Case] = &[
    case(
        "a retained message",
        &["3.3.1-5", "3.3.1-9"],
        &["3.3.1-5", "3.3.1-6", "3.3.1-8"],
        "it is kept with its QoS and sent with RETAIN to whoever subscribes later",
        || {
            script([
                kept("x"),
                vec![
                    send("a", subscribe(1, &[("+", 2)])),
                    want("a", suback(1, &[2])),
                    want("a", message("t", "x").qos(1, "x").retained()),
                    quiet("a"),
                ],
            ])
        },
    ),
    case(
        "a later retained message",
        &["3.3.1-5"],
        &["3.3.1-5", "3.3.1-7"],
        "it replaces the earlier one, also from QoS 1 to QoS 0",
        || {
            script([
                kept("old"),
                vec![send("p", publish("t", "new").retained()), quiet("p")],
                ask(1, Some("new")),
            ])
        },
    ),
    case(
        "an empty retained message",
        &["3.3.1-6", "3.3.1-7"],
        &["3.3.1-10", "3.3.1-11"],
        "it goes to those who are subscribed, takes the kept one away and is not kept",
        || {
            script([
                kept("x"),
                enter("w", connect("w")),
                join("w", "t/#", 0),
                vec![want("w", message("t", "x").retained())],
                vec![
                    send("p", publish("t", "").retained()),
                    want("w", message("t", "")),
                ],
                ask(0, None),
            ])
        },
    ),
    case(
        "a message without RETAIN",
        &["3.3.1-8"],
        &["3.3.1-12"],
        "it is neither kept nor does it change what is kept, even when empty",
        || {
            script([
                kept("x"),
                vec![
                    send("p", publish("t", "passing")),
                    send("p", publish("t", "")),
                    send("p", publish("u", "y")),
                    quiet("p"),
                ],
                ask(0, Some("x")),
                join("a", "u", 0),
                vec![quiet("a")],
            ])
        },
    ),
    case(
        "Retain Handling 0",
        &["3.3.1-9", "3.8.4-4"],
        &["3.8.4-3"],
        "retained messages are sent with every SUBSCRIBE",
        || script([kept("x"), ask(0, Some("x")), ask(0, Some("x"))]),
    ),
    case(
        "Retain Handling 1",
        &["3.3.1-10"],
        &[],
        "retained messages are sent with a new subscription only",
        || {
            script([
                kept("x"),
                ask(0x10, Some("x")),
                ask(0x10, None),
                vec![
                    send("a", unsubscribe(2, &["t"])),
                    want("a", unsuback(2, &[0])),
                ],
                ask(0x10, Some("x")),
            ])
        },
    ),
    case(
        "Retain Handling 2",
        &["3.3.1-11"],
        &[],
        "retained messages are not sent",
        || script([kept("x"), ask(0x20, None), ask(0x20, None)]),
    ),
    case(
        "Retain Handling 3",
        &["3.8.3.1", "4.13.1-1"],
        &[],
        "the value is an error",
        || crate::cases_data::each_fails([subscribe(1, &[("t", 0x30)])]),
    ),
    case(
        "RETAIN of a live message",
        &["3.3.1-12"],
        &["3.3.1-9"],
        "without Retain As Published it is 0, however the message was published",
        || {
            script([
                enter("a", connect("a")),
                join("a", "t", 0),
                vec![
                    send("a", publish("t", "1").retained()),
                    want("a", message("t", "1")),
                    send("a", publish("t", "2")),
                    want("a", message("t", "2")),
                ],
            ])
        },
    ),
    case(
        "Retain As Published",
        &["3.3.1-13"],
        &[],
        "RETAIN of a live message is as the publisher set it",
        || {
            script([
                enter("a", connect("a")),
                join("a", "t", 8),
                vec![
                    send("a", publish("t", "1").retained()),
                    want("a", message("t", "1").retained()),
                    send("a", publish("t", "2")),
                    want("a", message("t", "2")),
                ],
            ])
        },
    ),
    case(
        "properties of a retained message",
        &["3.3.2-17", "3.3.2-20", "3.3.4-3"],
        &[],
        "it keeps its properties and carries the identifier of the subscription that it is sent for",
        || {
            script([
                enter("a", connect("a")),
                vec![
                    send(
                        "a",
                        publish("t", "x")
                            .retained()
                            .with(string(3, "text/plain"))
                            .with(pair("k", "v")),
                    ),
                    send("a", subscribe_with(1, vec![0x0b, 0x80, 0x01], &[("t", 0)])),
                    want("a", suback(1, &[0])),
                    want(
                        "a",
                        message("t", "x")
                            .retained()
                            .has(3, b"text/plain")
                            .has(0x26, b"k=v")
                            .has(0x0b, &[0x80, 1]),
                    ),
                ],
            ])
        },
    ),
];
