//! Topics and filters: section 4.7.

use crate::{table::*, wire::*};

/// A client with this filter gets these topics and not those. The marker's filter is another one.
fn selects(
    filter: &'static str,
    these: &'static [&'static str],
    not_those: &'static [&'static str],
) -> Vec<Step> {
    let others = not_those.iter().map(|topic| send("p", publish(topic, "x")));
    let hits = these.iter().flat_map(|topic| {
        [
            send("p", publish(topic, "x")),
            want("a", message(topic, "x")),
        ]
    });
    script([
        enter("a", connect("a")),
        join("a", filter, 0),
        others.chain(hits).collect(),
        vec![quiet("a")],
    ])
}

pub(crate) static CASES: &[Case] = &[
    case(
        "the multi-level wildcard",
        &["4.7.1-1"],
        &["4.7.1-2"],
        "# stands alone or behind a separator, and last",
        || {
            script([
                enter("a", connect("a")),
                vec![
                    send(
                        "a",
                        subscribe(
                            1,
                            &[
                                ("a#", 0),
                                ("a/#/b", 0),
                                ("#/a", 0),
                                ("##", 0),
                                ("a/b#", 0),
                                ("+#", 0),
                            ],
                        ),
                    ),
                    want("a", suback(1, &[0x8f; 6])),
                    send(
                        "a",
                        subscribe(2, &[("#", 0), ("a/#", 0), ("/#", 0), ("a//#", 0)]),
                    ),
                    want("a", suback(2, &[0; 4])),
                ],
            ])
        },
    ),
    case(
        "the single-level wildcard",
        &["4.7.1-2"],
        &["4.7.1-3"],
        "+ fills a whole level, any and as many as there are",
        || {
            script([
                enter("a", connect("a")),
                vec![
                    send(
                        "a",
                        subscribe(
                            1,
                            &[("a+", 0), ("+a", 0), ("a/b+/c", 0), ("++", 0), ("a/+b", 0)],
                        ),
                    ),
                    want("a", suback(1, &[0x8f; 5])),
                    send(
                        "a",
                        subscribe(
                            2,
                            &[
                                ("+", 0),
                                ("+/+", 0),
                                ("a/+", 0),
                                ("/+", 0),
                                ("a/+/+/b", 0),
                                ("+/#", 0),
                            ],
                        ),
                    ),
                    want("a", suback(2, &[0; 6])),
                ],
            ])
        },
    ),
    case(
        "matching",
        &["3.3.2-3", "4.7.1-1", "4.7.1-2"],
        &["3.3.2-3", "4.7.1-2", "4.7.1-3"],
        "# selects its parent and all below, + one level, which may be empty",
        || {
            script([
                enter("p", connect("p")),
                selects("a/#", &["a", "a/b", "a/", "a/b/c"], &["b", "aa", "/a", "A"]),
                selects("a/+", &["a/b", "a/"], &["a", "a/b/c", "/a/b"]),
                selects("+", &["a", "b"], &["/a", "a/", "a/b"]),
                selects("+/+", &["/a", "a/", "/", "a/b"], &["a", "a/b/c"]),
                selects("/+", &["/a", "/"], &["a", "a/b"]),
                selects("+/a/#", &["b/a", "/a/b", "b/a/c/d"], &["a", "b/b"]),
                selects("a//b", &["a//b"], &["a/b", "a///b"]),
            ])
        },
    ),
    case(
        "topics that begin with $",
        &["4.7.2-1"],
        &["4.7.2-1"],
        "a wildcard at the beginning of a filter does not select them",
        || {
            script([
                enter("a", connect("a")),
                vec![
                    send(
                        "a",
                        subscribe(1, &[("#", 0), ("+/broker/#", 0), ("+/#", 0)]),
                    ),
                    want("a", suback(1, &[0, 0, 0])),
                ],
                enter("b", connect("b")),
                join("b", "$SYS/#", 0),
                vec![want("b", Want::Below("$SYS/")), quiet("a")],
            ])
        },
    )
    .config(|config| config.sys_interval = std::time::Duration::from_secs(1)),
    case(
        "topics of the broker",
        &["4.7.2"],
        &["4.7.2"],
        "clients cannot use topics that begin with $ to reach each other",
        || {
            script([
                enter("a", connect("a")),
                join("a", "$other/#", 0),
                enter("p", connect("p")),
                vec![
                    send("p", publish("$other/a", "x").qos(1, 1)),
                    want("p", answered(PUBACK, 1, 0x87)),
                    quiet("a"),
                ],
            ])
        },
    ),
    case(
        "an empty filter",
        &["4.7.3-1"],
        &["4.7.3-1"],
        "a filter has one character at least",
        || {
            script([
                enter("a", connect("a")),
                vec![
                    send("a", subscribe(1, &[("", 0), ("/", 0)])),
                    want("a", suback(1, &[0x8f, 0])),
                ],
            ])
        },
    ),
    case(
        "the longest topic",
        &["4.7.3-3"],
        &["4.7.3-3"],
        "topics and filters may have 65,535 bytes",
        || {
            let topic = "x".repeat(65_535);
            vec![
                open("a"),
                send("a", connect("a")),
                want("a", connack(0)),
                send("a", subscribe(1, &[(&topic, 0)])),
                want("a", suback(1, &[0])),
                send("a", publish(&topic, "long")),
                want("a", message(&topic, "long")),
            ]
        },
    ),
    case(
        "topics are not normalised",
        &["4.7.3-4"],
        &["4.7.3-4"],
        "case, spaces, slashes and ways to write a letter all count",
        || {
            script([
                enter("p", connect("p")),
                selects(
                    "Acc \u{e9}",
                    &["Acc \u{e9}"],
                    &[
                        "acc \u{e9}",
                        "Acc e\u{301}",
                        "Acc\u{e9}",
                        " Acc \u{e9}",
                        "/Acc \u{e9}",
                    ],
                ),
                selects(
                    "a/b",
                    &["a/b"],
                    &["a/b/", "/a/b", "a//b", "a/b ", "a/./b", "a%2Fb"],
                ),
                selects("a \u{1f4a1}/+", &["a \u{1f4a1}/\u{fffd}"], &["a/\u{fffd}"]),
            ])
        },
    ),
];
