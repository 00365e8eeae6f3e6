//! Sessions: sections 3.1.2.4, 3.1.2.11.2, 3.2.2.1.1, 3.14.2.2.2 and 4.1.

use crate::{table::*, wire::*};

/// Comes back to a session that is still there.
fn come_back(who: Who) -> Vec<Step> {
    vec![
        open(who),
        send(who, connect(who).kept()),
        want(who, connack(0).present()),
    ]
}

/// Leaves with DISCONNECT and this session expiry.
fn leave_with_expiry(who: Who, seconds: u32) -> Vec<Step> {
    let body = [vec![0], block(&long(0x11, seconds))].concat();
    vec![send(who, raw(0xe0, &body)), Step::Closed(who)]
}

/// Publishes at QoS 1 as "p", which is acknowledged.
fn publish_acked(topic: &'static str, payload: &'static str) -> Vec<Step> {
    vec![
        send("p", publish(topic, payload).qos(1, 1)),
        want("p", acked(PUBACK, 1)),
    ]
}

pub(crate) static CASES: &[Case] = &[
    case(
        "a session is resumed",
        &["3.1.2-5", "3.1.2-23", "3.2.2-3", "4.5.0-1", "3.2.0-1"],
        &["3.1.2-4", "3.1.2-5", "3.2.2-2", "4.5.0-1", "3.2.0-1"],
        "subscriptions and QoS 1 and 2 messages of the time of absence are there; CONNACK comes first",
        || {
            script([
                enter("p", connect("p")),
                enter("a", connect("a").kept()),
                join("a", "t/#", 2),
                leave("a"),
                publish_acked("t/1", "one"),
                vec![
                    send("p", publish("t/2", "two").qos(2, 2)),
                    want("p", acked(PUBREC, 2)),
                ],
                vec![send("p", ack(PUBREL, 2)), want("p", acked(PUBCOMP, 2))],
                come_back("a"),
                vec![
                    want("a", message("t/1", "one").qos(1, "1")),
                    want("a", message("t/2", "two").qos(2, "2")),
                    send("p", publish("t/3", "live")),
                    want("a", message("t/3", "live")),
                ],
            ])
        },
    ),
    case(
        "a session that is not there",
        &["3.1.2-6", "3.2.2-3"],
        &["3.1.2-4", "3.2.2-3"],
        "who asks to resume and has no session gets a new one, and is told",
        || {
            script([
                enter("a", connect("a").kept()),
                enter("b", connect("b").resume()),
            ])
        },
    ),
    case(
        "a clean start",
        &["3.1.2-4", "3.1.4-4", "3.2.2-2"],
        &["3.1.2-6", "3.1.4-3", "3.2.2-1"],
        "it discards the session: no session present, no subscription, no message",
        || {
            script([
                enter("p", connect("p")),
                enter("a", connect("a").kept()),
                join("a", "t", 1),
                leave("a"),
                publish_acked("t", "for the old session"),
                enter("a", connect("a")),
                publish_acked("t", "for nobody"),
                join("a", "t", 1),
                publish_acked("t", "for the new session"),
                vec![want("a", message("t", "for the new session").qos(1, "new"))],
            ])
        },
    ),
    case(
        "a clean session ends with its connection",
        &["4.1.0-2"],
        &["3.1.2-6"],
        "with expiry 0, or CleanSession 1, nothing is left to resume",
        || {
            script([
                enter("a", connect("a")),
                join("a", "t", 1),
                leave("a"),
                vec![
                    open("a"),
                    send("a", connect("a").resume()),
                    want("a", connack(0)),
                    quiet("a"),
                ],
            ])
        },
    ),
    case(
        "session expiry is 0 if it is not given",
        &["4.1.0-2", "3.1.2.11.2"],
        &[],
        "a session without an expiry ends with its connection, whatever Clean Start was",
        || {
            script([
                enter("a", connect("a").resume()),
                leave("a"),
                enter("a", connect("a").resume()),
            ])
        },
    ),
    case(
        "a session expires",
        &["4.1.0-2"],
        &[],
        "once its expiry has passed since the connection closed, a session is gone",
        || {
            script([
                enter("a", connect("a").resume().with(long(0x11, 1))),
                join("a", "t", 1),
                leave("a"),
                vec![Step::After(3)],
                enter("a", connect("a").resume()),
                vec![send("a", publish("t", "x")), quiet("a")],
            ])
        },
    ),
    case(
        "a session lives as long as its connection",
        &["4.1.0-1"],
        &["4.1.0-1", "4.1.0-2"],
        "the expiry does not run while the client is connected",
        || {
            script([
                enter("a", connect("a").resume().with(long(0x11, 1))),
                join("a", "t", 0),
                vec![
                    Step::After(3),
                    send("a", publish("t", "x")),
                    want("a", message("t", "x")),
                ],
            ])
        },
    ),
    case(
        "DISCONNECT changes the expiry",
        &["3.14.2.2.2"],
        &[],
        "an expiry in DISCONNECT replaces the one of CONNECT; 0 ends the session",
        || {
            script([
                enter("a", connect("a").kept()),
                leave_with_expiry("a", 0),
                enter("a", connect("a").kept()),
                leave_with_expiry("a", 600),
                come_back("a"),
            ])
        },
    ),
    case(
        "DISCONNECT cannot make a session last",
        &["3.14.2.2.2"],
        &[],
        "from expiry 0 to another in DISCONNECT is a protocol error",
        || {
            let body = [vec![0], block(&long(0x11, 60))].concat();
            crate::cases_data::each_ends(0x82, [raw(0xe0, &body)])
        },
    ),
    case(
        "a session belongs to its client id",
        &["3.1.3-2"],
        &["3.1.3-2"],
        "another id finds no session, and the case of letters counts",
        || {
            script([
                enter("a", connect("a").kept()),
                leave("a"),
                enter("b", connect("A").kept()),
                enter("c", connect("a ").kept()),
                come_back("a"),
            ])
        },
    ),
    case(
        "taking over a session",
        &["3.1.4-3", "3.1.2-5", "3.2.2-3", "4.1.0-1"],
        &["3.1.4-2", "3.1.2-4", "3.2.2-2"],
        "a connection that resumes goes on with the session of the one that it takes over",
        || {
            script([
                enter("a", connect("same").kept()),
                join("a", "t", 0),
                vec![
                    open("b"),
                    send("b", connect("same").kept()),
                    want("b", connack(0).present()),
                ],
                vec![
                    Step::Ended("a", 0x8e),
                    send("b", publish("t", "x")),
                    want("b", message("t", "x")),
                ],
            ])
        },
    ),
    case(
        "retained messages are no part of a session",
        &["4.1.0"],
        &["3.1.2-7"],
        "they stay when the session of their publisher ends",
        || {
            script([
                enter("p", connect("p")),
                vec![
                    send("p", publish("t", "kept").retained().qos(1, 1)),
                    want("p", acked(PUBACK, 1)),
                ],
                leave("p"),
                enter("a", connect("a")),
                join("a", "t", 0),
                vec![want("a", message("t", "kept").retained())],
            ])
        },
    ),
    case(
        "QoS 2 ids are part of the session",
        &["4.1.0-1", "4.3.3-10"],
        &["4.1.0-1", "4.3.3-2"],
        "a QoS 2 message that is sent again after a reconnect is not published twice",
        || {
            script([
                enter("w", connect("w")),
                join("w", "t", 0),
                enter("a", connect("a").kept()),
                vec![
                    send("a", publish("t", "once").qos(2, 9)),
                    want("a", acked(PUBREC, 9)),
                    want("w", message("t", "once")),
                ],
                vec![Step::Cut("a")],
                come_back("a"),
                vec![
                    send("a", publish("t", "once").qos(2, 9).dup()),
                    want("a", acked(PUBREC, 9)),
                    send("a", ack(PUBREL, 9)),
                    want("a", acked(PUBCOMP, 9)),
                    send("a", publish("t", "mark")),
                    want("w", message("t", "mark")),
                ],
            ])
        },
    ),
    case(
        "options of a subscription outlive the connection",
        &["3.1.2-5", "3.3.4-3"],
        &[],
        "identifier and Retain As Published are the session's",
        || {
            script([
                enter("a", connect("a").kept()),
                vec![
                    send("a", subscribe_with(1, vec![0x0b, 7], &[("t", 8)])),
                    want("a", suback(1, &[0])),
                ],
                leave("a"),
                come_back("a"),
                vec![
                    send("a", publish("t", "x").retained()),
                    want("a", message("t", "x").retained().has(0x0b, &[7])),
                ],
            ])
        },
    ),
];
