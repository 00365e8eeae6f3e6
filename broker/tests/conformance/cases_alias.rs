//! Topic aliases, in both directions: section 3.3.2.3.4.

use crate::{cases_data::each_ends, table::*, wire::*};

pub(crate) static CASES: &[Case] = &[
    case(
        "topic alias 0",
        &["3.3.2-8"],
        &[],
        "alias 0 is an error",
        || each_ends(0x94, [publish("t", "x").with(short(0x23, 0)).into()]),
    ),
    case(
        "a topic alias over the maximum",
        &["3.3.2-9", "3.2.2-17"],
        &[],
        "an alias over the broker's Topic Alias Maximum is an error",
        || {
            script([
                vec![
                    open("a"),
                    send("a", connect("a")),
                    want("a", connack(0).has(0x22, &[0, 3])),
                ],
                vec![
                    send("a", publish("t", "x").with(short(0x23, 4))),
                    Step::Ended("a", 0x94),
                ],
            ])
        },
    )
    .config(|config| config.limits.topic_aliases_max = 3),
    case(
        "topic aliases are turned off",
        &["3.2.2-18"],
        &[],
        "without a Topic Alias Maximum in CONNACK every alias is an error",
        || each_ends(0x94, [publish("t", "x").with(short(0x23, 1)).into()]),
    )
    .config(|config| config.limits.topic_aliases_max = 0),
    case(
        "topic aliases of a client",
        &["3.3.2-12"],
        &[],
        "every alias from 1 to the maximum can be set, used and set anew",
        || {
            script([
                enter("a", connect("a")),
                join("a", "#", 0),
                vec![
                    send("a", publish("t/1", "1").with(short(0x23, 1))),
                    want("a", message("t/1", "1").lacks(0x23)),
                    send("a", publish("t/3", "2").with(short(0x23, 3))),
                    want("a", message("t/3", "2").lacks(0x23)),
                    send("a", publish("", "3").with(short(0x23, 1))),
                    want("a", message("t/1", "3").lacks(0x23)),
                    send("a", publish("t/new", "4").qos(1, 1).with(short(0x23, 1))),
                    Step::WantAll("a", vec![acked(PUBACK, 1), message("t/new", "4").into()]),
                    send("a", publish("", "5").with(short(0x23, 1))),
                    want("a", message("t/new", "5")),
                    send("a", publish("", "6").with(short(0x23, 3))),
                    want("a", message("t/3", "6")),
                ],
            ])
        },
    )
    .config(|config| config.limits.topic_aliases_max = 3),
    case(
        "a topic alias that was never set",
        &["3.3.2-7", "4.13.1-1"],
        &[],
        "it is a protocol error, also for an alias of an earlier connection or of another client",
        || {
            script([
                enter("b", connect("b")),
                vec![send("b", publish("t", "x").with(short(0x23, 1)))],
                enter("a", connect("a").kept()),
                vec![
                    send("a", publish("t", "x").with(short(0x23, 1))),
                    quiet("a"),
                ],
                leave("a"),
                vec![
                    open("a"),
                    send("a", connect("a").kept()),
                    want("a", connack(0).present()),
                ],
                vec![
                    send("a", publish("", "x").with(short(0x23, 1))),
                    Step::Ended("a", 0x82),
                ],
            ])
        },
    ),
    case(
        "topic aliases of the broker",
        &["3.1.2-26", "3.3.2-11", "3.3.2-7"],
        &[],
        "aliases to a client stay within its maximum, name the topic at first, and are new in each connection",
        || {
            let round = || {
                vec![
                    send("p", publish("t/1", "1")),
                    want("a", message("t/1", "1").has(0x23, &[0, 1])),
                    send("p", publish("t/1", "2")),
                    want("a", message("", "2").has(0x23, &[0, 1])),
                    send("p", publish("t/2", "3")),
                    want("a", message("t/2", "3").lacks(0x23)),
                ]
            };
            script([
                enter("p", connect("p")),
                enter("a", connect("a").kept().with(short(0x22, 1))),
                join("a", "t/#", 0),
                round(),
                leave("a"),
                vec![
                    open("a"),
                    send("a", connect("a").kept().with(short(0x22, 1))),
                    want("a", connack(0).present()),
                ],
                round(),
            ])
        },
    ),
    case(
        "a client without topic aliases",
        &["3.1.2-27"],
        &[],
        "without a Topic Alias Maximum, or with 0, a client gets none",
        || {
            let get = |who: Who| {
                script([1, 2].map(|_| {
                    vec![
                        send("p", publish("t", "x")),
                        want(who, message("t", "x").lacks(0x23)),
                    ]
                }))
            };
            script([
                enter("p", connect("p")),
                enter("a", connect("a")),
                join("a", "t", 0),
                get("a"),
                leave("a"),
                enter("b", connect("b").with(short(0x22, 0))),
                join("b", "t", 0),
                get("b"),
            ])
        },
    ),
];
