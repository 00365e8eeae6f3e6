//! Names, numbers that identify, and topics: what is accepted, what is refused, and both ways between text and type.

#![allow(
    clippy::expect_used,
    reason = "a test fails by panicking, in its helpers too"
)]

use lamppost_models::digest::Hasher;
use lamppost_models::id::PredictionId;
use lamppost_models::topic::{NodeTopicKind, ParseTopicError};
use lamppost_models::{
    BootId, Digest, Epoch, ModelName, NodeId, NodePath, StreamName, Topic, TopicRoot,
};
use proptest::prelude::*;

const NAME: &str = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}";

fn root() -> impl Strategy<Value = TopicRoot> {
    "[a-z0-9 ~.-]{1,20}(/[a-z0-9 ~.-]{1,20}){0,3}".prop_map(|text| text.parse().expect("a root"))
}

fn topic() -> impl Strategy<Value = Topic> {
    (0..12_u8, NAME, NAME, NAME).prop_map(|(kind, one, two, three)| {
        let at = NodePath {
            site: one.parse().expect("a name"),
            node: two.parse().expect("a name"),
        };
        let stream: StreamName = three.parse().expect("a name");
        match kind {
            0 => Topic::Release {
                group: one.parse().expect("a name"),
                model: two.parse().expect("a name"),
            },
            1 => Topic::Status(at),
            2 => Topic::Reported(at),
            3 => Topic::Prediction(at, stream),
            4 => Topic::PredictionHistory(at, stream),
            5 => Topic::Sample(at, stream),
            6 => Topic::Events(at),
            7 => Topic::Ack(at),
            8 => Topic::TimeQuestion(at),
            9 => Topic::TimeAnswer(at),
            10 => Topic::Time,
            _ => Topic::Trust,
        }
    })
}

/// MQTT's matching of a filter whose only wildcard is `+` (MQTT 5, section 4.7).
fn matches(filter: &str, topic: &str) -> bool {
    let (filter, topic): (Vec<_>, Vec<_>) =
        (filter.split('/').collect(), topic.split('/').collect());
    filter.len() == topic.len()
        && filter
            .iter()
            .zip(&topic)
            .all(|(level, found)| *level == "+" || level == found)
}

proptest! {
    #[test]
    fn a_name_of_the_allowed_characters_is_accepted_and_kept(text in NAME) {
        let name: NodeId = text.parse().expect("a name");
        prop_assert_eq!(name.as_str(), &text);
        prop_assert_eq!(name.to_string(), text.clone());
        let json = serde_json::to_string(&name).expect("JSON");
        prop_assert_eq!(&json, &format!("{text:?}"));
        prop_assert_eq!(serde_json::from_str::<NodeId>(&json).expect("the same"), name);
    }

    #[test]
    fn a_name_with_any_other_character_is_refused_and_the_character_named(
        before in "[a-z][a-z0-9]{0,10}",
        wrong in "[^A-Za-z0-9._-]",
        after in "[a-z]{0,10}",
    ) {
        let error = ModelName::new(&format!("{before}{wrong}{after}")).expect_err("refused").to_string();
        let shown = format!("has {:?}", wrong.chars().next().expect("one"));
        prop_assert!(error.contains(&shown), "{}", error);
    }

    #[test]
    fn any_text_is_either_a_name_of_one_topic_level_or_refused(text in any::<String>()) {
        if let Ok(name) = text.parse::<NodeId>() {
            prop_assert!(!name.as_str().is_empty() && name.as_str().len() <= 64);
            prop_assert!(!name.as_str().contains(['/', '+', '#', '\0', '$']) && !name.as_str().starts_with('.'));
        }
    }

    #[test]
    fn every_topic_formats_and_parses_back(root in root(), topic in topic()) {
        let text = root.format(&topic);
        prop_assert!(text.len() < 512);
        prop_assert_eq!(root.parse(&text).expect("ours"), topic);
        for foreign in [format!("{text}/more"), format!("/{text}")] {
            prop_assert!(root.parse(&foreign).is_err(), "{}", foreign);
        }
    }

    #[test]
    fn the_filters_match_their_own_topics_and_no_others(topic in topic()) {
        let root = TopicRoot::default();
        let text = root.format(&topic);
        let kinds = [
            (NodeTopicKind::Status, matches!(topic, Topic::Status(_))),
            (NodeTopicKind::Reported, matches!(topic, Topic::Reported(_))),
            (NodeTopicKind::Prediction, matches!(topic, Topic::Prediction(..))),
            (NodeTopicKind::PredictionHistory, matches!(topic, Topic::PredictionHistory(..))),
            (NodeTopicKind::Sample, matches!(topic, Topic::Sample(..))),
            (NodeTopicKind::Events, matches!(topic, Topic::Events(_))),
            (NodeTopicKind::TimeQuestion, matches!(topic, Topic::TimeQuestion(_))),
        ];
        for (kind, ours) in kinds {
            prop_assert_eq!(matches(&root.nodes_filter(kind), &text), ours, "{:?} {}", kind, text);
        }
        if let Topic::Release { group, .. } = &topic {
            prop_assert!(matches(&root.releases_filter(group), &text));
        }
    }

    #[test]
    fn any_text_is_a_topic_of_ours_or_refused_without_a_panic(text in any::<String>()) {
        let root = TopicRoot::default();
        for topic in [text.clone(), format!("lamppost/v1/{text}"), format!("lamppost/v1/nodes/a/b/{text}")] {
            if let Ok(parsed) = root.parse(&topic) {
                prop_assert_eq!(root.format(&parsed), topic);
            }
        }
    }

    #[test]
    fn boot_ids_epochs_and_prediction_ids_are_read_back(number in any::<u64>(), count in any::<u64>()) {
        let boot = BootId::from_u64(number);
        prop_assert_eq!(boot.to_string().len(), 16);
        prop_assert_eq!(boot.to_string().parse::<BootId>().expect("the same"), boot);
        let epoch = Epoch::from_u64(number);
        prop_assert_eq!(epoch.to_string().parse::<Epoch>().expect("the same").as_u64(), number);
        let id = PredictionId { boot, number: count };
        prop_assert_eq!(id.to_string().parse::<PredictionId>().expect("the same"), id);
    }

    #[test]
    fn a_prediction_id_has_one_spelling(text in "[0-9a-fA-F+]{14,18}-[-+0-9]{0,22}") {
        if let Ok(id) = text.parse::<PredictionId>() {
            prop_assert_eq!(id.to_string(), text);
        }
    }

    #[test]
    fn a_digest_is_read_back_and_does_not_depend_on_how_the_bytes_came(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        cut in any::<prop::sample::Index>(),
    ) {
        let digest = Digest::of(&bytes);
        prop_assert_eq!(digest.to_string().parse::<Digest>().expect("the same"), digest);
        prop_assert_eq!(digest.to_string(), format!("sha256:{}", digest.hex()));
        prop_assert!(digest.hex().starts_with(&digest.short()));
        let (one, two) = bytes.split_at(cut.index(bytes.len() + 1));
        let mut hasher = Hasher::new();
        hasher.update(one);
        hasher.update(two);
        prop_assert_eq!(hasher.finish(), digest);
    }
}

#[test]
fn the_digest_is_sha_256() {
    // FIPS 180-2, appendix B.1.
    let digest = Digest::of(b"abc").to_string();
    assert_eq!(
        digest,
        "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
}

#[test]
fn a_digest_in_another_spelling_is_refused() {
    let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    for wrong in [
        hex.to_owned(),
        format!("sha256:{}", &hex[1..]),
        format!("sha256:{hex}0"),
        format!("sha256:{}", hex.to_uppercase()),
        format!("SHA256:{hex}"),
        format!("sha256:{}é", &hex[2..]),
        String::new(),
    ] {
        wrong.parse::<Digest>().expect_err(&wrong);
    }
}

#[test]
fn names_of_the_wrong_length_or_start_are_refused_in_words_that_help() {
    for (text, words) in [
        ("", r#"node "" has 0 bytes, a name has 1 to 64"#),
        ("-a", "has '-'"),
        (".hidden", "has '.'"),
        ("_x", "has '_'"),
        ("a/b", r#"node "a/b" has '/': use letters, digits"#),
        ("über", "has 'ü'"),
    ] {
        let error = text.parse::<NodeId>().expect_err(text).to_string();
        assert!(error.contains(words), "{error}");
    }
    let error = NodeId::new(&"x".repeat(65))
        .expect_err("too long")
        .to_string();
    assert!(error.contains("has 65 bytes"), "{error}");
    NodeId::new(&"x".repeat(64)).expect("the longest");
}

#[test]
fn hexadecimal_ids_in_another_spelling_are_refused() {
    for wrong in [
        "",
        "9f3a1c2b4d5e6f7",
        "9f3a1c2b4d5e6f700",
        "9F3A1C2B4D5E6F70",
        "+f3a1c2b4d5e6f70",
        "0x3a1c2b4d5e6f70",
    ] {
        let error = wrong.parse::<BootId>().expect_err(wrong).to_string();
        assert!(
            error.contains("is not 16 lower-case hexadecimal digits"),
            "{error}"
        );
    }
}

#[test]
fn the_topics_are_those_of_the_documentation() {
    let root = TopicRoot::default();
    let at = NodePath {
        site: "minneapolis".parse().expect("a name"),
        node: "gw-1".parse().expect("a name"),
    };
    let stream: StreamName = "i94-volume".parse().expect("a name");
    let release = Topic::Release {
        group: "all".parse().expect("a name"),
        model: "traffic-flow".parse().expect("a name"),
    };
    for (topic, text) in [
        (release, "lamppost/v1/models/all/traffic-flow"),
        (
            Topic::Status(at.clone()),
            "lamppost/v1/nodes/minneapolis/gw-1/status",
        ),
        (
            Topic::Reported(at.clone()),
            "lamppost/v1/nodes/minneapolis/gw-1/reported",
        ),
        (
            Topic::Prediction(at.clone(), stream.clone()),
            "lamppost/v1/nodes/minneapolis/gw-1/pred/i94-volume",
        ),
        (
            Topic::PredictionHistory(at.clone(), stream.clone()),
            "lamppost/v1/nodes/minneapolis/gw-1/pred-hist/i94-volume",
        ),
        (
            Topic::Sample(at.clone(), stream),
            "lamppost/v1/nodes/minneapolis/gw-1/sample/i94-volume",
        ),
        (
            Topic::Events(at.clone()),
            "lamppost/v1/nodes/minneapolis/gw-1/events",
        ),
        (
            Topic::TimeQuestion(at.clone()),
            "lamppost/v1/nodes/minneapolis/gw-1/time",
        ),
        (
            Topic::TimeAnswer(at.clone()),
            "lamppost/v1/nodes/minneapolis/gw-1/time/answer",
        ),
        (Topic::Time, "lamppost/v1/time"),
        (Topic::Trust, "lamppost/v1/trust"),
        (Topic::Ack(at), "lamppost/v1/nodes/minneapolis/gw-1/ack"),
    ] {
        assert_eq!(root.format(&topic), text);
        assert_eq!(root.parse(text), Ok(topic));
    }
}

#[test]
fn foreign_topics_are_refused_and_the_error_says_why() {
    let root = TopicRoot::default();
    for topic in [
        "",
        "lamppost/v1",
        "lamppost/v2/models/a/b",
        "lamppost/v1x/models/a/b",
        "sensors/i94",
    ] {
        assert!(
            matches!(root.parse(topic), Err(ParseTopicError::Root { .. })),
            "{topic}"
        );
    }
    for below in [
        "models/a",
        "models/a/b/c",
        "nodes/a/b",
        "nodes/a/b/pred",
        "nodes/a/b/status/x",
        "nodes/a/b/x/y",
        "nodes/a/b/time/question",
        "times",
        "trust/x",
    ] {
        assert!(
            matches!(
                root.parse(&format!("lamppost/v1/{below}")),
                Err(ParseTopicError::Unknown { .. })
            ),
            "{below}"
        );
    }
    for below in [
        "models/+/b",
        "models//b",
        "nodes/a/#/status",
        "nodes/a/b/pred/",
        "nodes/a/b/sample/$x",
    ] {
        assert!(
            matches!(
                root.parse(&format!("lamppost/v1/{below}")),
                Err(ParseTopicError::Name { .. })
            ),
            "{below}"
        );
    }
}

#[test]
fn roots_that_mqtt_would_misread_are_refused() {
    for wrong in [
        "",
        "/a",
        "a/",
        "a//b",
        "a/+",
        "#",
        "$SYS/x",
        "a\0b",
        "a\nb",
        &"x".repeat(129),
    ] {
        let error = wrong.parse::<TopicRoot>().expect_err(wrong).to_string();
        assert!(
            error.contains("must have 1 to 128 bytes in levels"),
            "{error}"
        );
    }
    assert_eq!(
        TopicRoot::new("city/edge").expect("a root").as_str(),
        "city/edge"
    );
}
