//! Shared subscriptions: section 4.8.

use crate::{table::*, wire::*};

/// "a", whose session is kept, is the only member of the group `g`, and "p" publishes.
fn group(options: u8) -> Vec<Step> {
    script([
        enter("a", connect("a").kept()),
        join("a", "$share/g/t", options),
        enter("p", connect("p")),
    ])
}

fn give(payload: &'static str, qos: u8) -> Vec<Step> {
    match qos {
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
        "names of shared subscriptions",
        &["4.8.2-1", "4.8.2-2"],
        &[],
        "a share name is not empty, has no wildcard, and is followed by a filter",
        || {
            script([
                enter("a", connect("a")),
                vec![
                    send(
                        "a",
                        subscribe(
                            1,
                            &[
                                ("$share/g", 0),
                                ("$share//t", 0),
                                ("$share/g/", 0),
                                ("$share/g+/t", 0),
                                ("$share/#/t", 0),
                                ("$share/g/a/#/b", 0),
                            ],
                        ),
                    ),
                    want("a", suback(1, &[0x8f; 6])),
                    send(
                        "a",
                        subscribe(
                            2,
                            &[
                                ("$share/g/t", 0),
                                ("$share/g/#", 1),
                                ("$share/h/a/+", 2),
                                ("$share/g//", 0),
                            ],
                        ),
                    ),
                    want("a", suback(2, &[0, 1, 2, 0])),
                ],
            ])
        },
    ),
    case(
        "No Local on a shared subscription",
        &["3.8.3-4"],
        &[],
        "it is a protocol error",
        || crate::cases_data::each_ends(0x82, [subscribe(1, &[("$share/g/t", 4)])]),
    ),
    case(
        "a shared subscription",
        &["4.8.2", "4.8.2-3"],
        &[],
        "each message reaches one member of a group, and each group",
        || {
            script([
                enter("a", connect("a")),
                join("a", "$share/g/t", 0),
                enter("b", connect("b")),
                join("b", "$share/g/t", 0),
                enter("c", connect("c")),
                join("c", "$share/h/t", 0),
                enter("p", connect("p")),
                ["1", "2", "3", "4"]
                    .map(|payload| send("p", publish("t", payload)))
                    .into(),
                vec![
                    Step::Share(&["a", "b"], &["1", "2", "3", "4"]),
                    Step::Share(&["c"], &["1", "2", "3", "4"]),
                    quiet("a"),
                    quiet("b"),
                    quiet("c"),
                ],
            ])
        },
    ),
    case(
        "a shared subscription beside a plain one",
        &["4.8.2", "3.3.4"],
        &[],
        "a client that has both gets the message for each; ending one leaves the other",
        || {
            script([
                enter("a", connect("a")),
                join("a", "t", 0),
                join("a", "$share/g/t", 0),
                vec![
                    send("a", publish("t", "twice")),
                    want("a", message("t", "twice")),
                    want("a", message("t", "twice")),
                    send("a", unsubscribe(2, &["$share/g/t"])),
                    want("a", unsuback(2, &[0])),
                    send("a", publish("t", "once")),
                    want("a", message("t", "once")),
                    quiet("a"),
                ],
            ])
        },
    ),
    case(
        "the QoS of a shared subscription",
        &["4.8.2-3"],
        &[],
        "each member gets messages at the QoS that it was granted",
        || {
            script([
                group(1),
                give("x", 2),
                vec![want("a", message("t", "x").qos(1, "x")), quiet("a")],
            ])
        },
    ),
    case(
        "retained messages and shared subscriptions",
        &["3.3.1-9", "4.8.2"],
        &[],
        "a shared subscription gets none of the retained messages",
        || {
            script([
                enter("p", connect("p")),
                vec![
                    send("p", publish("t", "x").qos(1, 1).retained()),
                    want("p", acked(PUBACK, 1)),
                ],
                enter("a", connect("a")),
                join("a", "$share/g/t", 0),
                vec![quiet("a")],
            ])
        },
    ),
    case(
        "a shared QoS 2 message under way",
        &["4.8.2-4"],
        &[],
        "a member that it was sent to and that comes back gets it to the end, and no other does",
        || {
            script([
                group(2),
                give("x", 2),
                vec![want("a", message("t", "x").qos(2, "x"))],
                enter("b", connect("b")),
                join("b", "$share/g/t", 2),
                vec![
                    Step::Cut("a"),
                    open("a"),
                    send("a", connect("a").kept()),
                    want("a", connack(0).present()),
                ],
                vec![
                    want("a", message("t", "x").again(2, "x")),
                    send("a", ack_of(PUBREC, "x")),
                    want("a", acked_of(PUBREL, "x")),
                    send("a", ack_of(PUBCOMP, "x")),
                    quiet("a"),
                    quiet("b"),
                ],
            ])
        },
    ),
    case(
        "a shared QoS 2 message of a session that ends",
        &["4.8.2-5"],
        &[],
        "when the session of the member ends before the delivery does, no other member gets it",
        || {
            script([
                group(2),
                give("sent", 2),
                vec![want("a", message("t", "sent").qos(2, "x"))],
                enter("b", connect("b")),
                join("b", "$share/g/t", 2),
                // A clean start ends the old session, and with it the membership.
                enter("a2", connect("a")),
                vec![Step::Ended("a", 0x8e)],
                give("next", 1),
                vec![want("b", message("t", "next").qos(1, "y")), quiet("b")],
            ])
        },
    ),
    case(
        "a shared message that is refused",
        &["4.8.2-6"],
        &[],
        "after a PUBACK or PUBREC with an error the message goes to nobody else",
        || {
            script([
                group(2),
                give("1", 1),
                give("2", 2),
                vec![
                    want("a", message("t", "1").qos(1, "1")),
                    want("a", message("t", "2").qos(2, "2")),
                ],
                enter("b", connect("b")),
                join("b", "$share/g/t", 2),
                vec![
                    send("a", Out::AckOf(PUBACK, "1", 0x83)),
                    send("a", Out::AckOf(PUBREC, "2", 0x83)),
                    send("a", unsubscribe(2, &["$share/g/t"])),
                    want("a", unsuback(2, &[0])),
                ],
                give("next", 1),
                vec![
                    want("b", message("t", "next").qos(1, "x")),
                    quiet("b"),
                    quiet("a"),
                ],
            ])
        },
    ),
];
