//! Rules: examples, and what their definition says.

use super::{certified, gate, identity, open, rule};
use crate::{
    auth::{Identity, Proof, rules::expand},
    config::{Action, Config, Effect, Rule, Who},
    topic,
};
use proptest::prelude::*;

#[test]
fn the_first_rule_that_decides_wins() {
    let gate = gate(
        vec![
            rule(Effect::Allow, Who::Users, Action::Publish, "home/%u/#"),
            rule(Effect::Deny, Who::Any, Action::Publish, "home/#"),
            rule(
                Effect::Allow,
                Who::User("ada".into()),
                Action::Subscribe,
                "secret/ada",
            ),
            rule(Effect::Deny, Who::Any, Action::Subscribe, "secret/#"),
        ],
        Effect::Allow,
    );
    let ada = gate.access(&identity(Some("ada"), "c"));
    assert!(
        ada.may_publish("home/ada/x") && !ada.may_publish("home/bob/x") && ada.may_publish("other")
    );
    assert!(
        ada.may_subscribe("secret/ada")
            && !ada.may_subscribe("secret/+")
            && !ada.may_subscribe("#")
    );
    let nobody = gate.access(&identity(None, "c"));
    assert!(!nobody.may_publish("home/ada/x") && !nobody.may_subscribe("secret/ada"));
    assert!(nobody.may_subscribe("home/#") && !nobody.may_publish("$SYS/x"));
}

#[test]
fn a_denying_default_lets_through_only_what_is_allowed_whole() {
    let gate = gate(
        vec![rule(Effect::Allow, Who::Any, Action::Any, "a/%c/#")],
        Effect::Deny,
    );
    let access = gate.access(&identity(None, "c1"));
    assert!(access.may_publish("a/c1/x") && access.may_subscribe("a/c1/+/y"));
    assert!(
        !access.may_publish("a/c2/x") && !access.may_subscribe("a/#") && !access.may_subscribe("#")
    );
}

#[test]
fn protected_topics_take_a_rule_to_publish_and_none_to_read() {
    let gate = gate(
        vec![rule(
            Effect::Allow,
            Who::User("ada".into()),
            Action::Publish,
            "lamppost/v1/nodes/%u/#",
        )],
        Effect::Allow,
    );
    let may = |user| {
        let access = gate.access(&identity(user, "c"));
        assert!(access.may_subscribe("lamppost/v1/#"));
        [
            "lamppost/v1/nodes/ada/x",
            "lamppost/v1/nodes/bob/x",
            "lamppost/v1",
            "lamppost/v2/x",
        ]
        .map(|topic| access.may_publish(topic))
    };
    assert_eq!(may(Some("ada")), [true, false, false, true]);
    assert_eq!(may(None), [false, false, false, true]);
}

#[test]
fn names_are_put_in_once() {
    assert_eq!(expand("a/%u/%c/%x%", "%c", "id"), "a/%c/id/%x%");
}

#[test]
fn rules_can_be_about_certificates() {
    let gate = gate(
        vec![
            rule(
                Effect::Allow,
                Who::CertificateName("eve".into()),
                Action::Any,
                "e/#",
            ),
            rule(Effect::Allow, Who::Certificate, Action::Any, "c/%u"),
            rule(Effect::Allow, Who::Users, Action::Any, "u/%u"),
        ],
        Effect::Deny,
    );
    let may = |identity: &Identity| {
        let access = gate.access(identity);
        ["e/x", "c/eve", "u/eve", "c/bob"].map(|topic| access.may_publish(topic))
    };
    assert_eq!(may(&certified("eve")), [true, true, true, false]);
    assert_eq!(may(&certified("bob")), [false, false, false, true]);
    let by_password = identity(Some("eve"), "x");
    assert_eq!(may(&by_password), [false, false, true, false]);
    assert_eq!(may(&identity(None, "x")), [false; 4]);
}

/// Levels of a small alphabet, so that rules and topics meet often.
fn filter() -> impl Strategy<Value = String> {
    let level = prop::sample::select(vec!["a", "b", "%u", "%c", "+", ""]);
    (prop::collection::vec(level, 1..4), any::<bool>()).prop_map(|(mut levels, hash)| {
        if hash {
            levels.push("#");
        }
        levels.join("/")
    })
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let who = prop::sample::select(vec![
        Who::Any,
        Who::Anonymous,
        Who::Users,
        Who::User("a".into()),
        Who::Certificate,
        Who::CertificateName("a".into()),
    ]);
    let action = prop::sample::select(vec![Action::Publish, Action::Subscribe, Action::Any]);
    (any::<bool>(), who, action, filter()).prop_map(|(allow, who, action, filter)| {
        let effect = if allow { Effect::Allow } else { Effect::Deny };
        rule(effect, who, action, &filter)
    })
}

fn anybody() -> impl Strategy<Value = Identity> {
    prop::sample::select(vec![
        identity(None, "b"),
        identity(Some("a"), "b"),
        identity(Some("b"), "a"),
        certified("a"),
    ])
}

/// All topics of up to three levels of that alphabet.
fn topics() -> Vec<String> {
    let one = ["a", "b", "", "x"].map(str::to_owned);
    let longer = |shorter: &[String]| -> Vec<String> {
        let with = |t: &String| one.clone().map(|level| format!("{t}/{level}"));
        shorter.iter().flat_map(with).collect()
    };
    let two = longer(&one);
    let three = longer(&two);
    [one.to_vec(), two, three].concat()
}

/// A rule's word on one topic, straight from the definition.
fn decides(rule: &Rule, who: &Identity, action: Action, topic: &str) -> bool {
    let name = who.user.as_deref();
    let certified = who.proof == Proof::Certificate;
    let concerned = match rule.who {
        Who::Any => true,
        Who::Anonymous => name.is_none(),
        Who::Users => name.is_some(),
        Who::User(ref wanted) => name == Some(wanted),
        Who::Certificate => certified,
        Who::CertificateName(ref wanted) => certified && name == Some(wanted),
    };
    if !concerned || (rule.action != action && rule.action != Action::Any) {
        return false;
    }
    if name.is_none() && rule.filter.contains("%u") {
        return false;
    }
    let filter = rule
        .filter
        .replace("%u", name.unwrap_or_default())
        .replace("%c", &who.client_id);
    let filter: Vec<&str> = filter.split('/').collect();
    let topic: Vec<&str> = topic.split('/').collect();
    let (exact, length) = match filter.split_last() {
        Some((&"#", before)) => (before, topic.len() >= before.len()),
        _ => (&filter[..], topic.len() == filter.len()),
    };
    length && exact.iter().zip(topic).all(|(f, t)| *f == "+" || *f == t)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rules_agree_with_their_definition(
        rules in prop::collection::vec(any_rule(), 0..5),
        protected in prop::collection::vec(prop::sample::select(vec!["a/#", "+/b", "x"]), 0..2),
        allow in any::<bool>(),
        who in anybody(),
        wanted in filter(),
    ) {
        let default_access = if allow { Effect::Allow } else { Effect::Deny };
        let gate = open(&Config {
            rules: rules.clone(),
            default_access,
            protected: protected.iter().map(|filter| (*filter).to_owned()).collect(),
            ..Config::default()
        });
        let access = gate.access(&who);
        let by_definition = |action, topic: &str| {
            let rule = rules.iter().find(|rule| decides(rule, &who, action, topic));
            match rule {
                Some(rule) => rule.effect == Effect::Allow,
                None => allow && !(action == Action::Publish
                    && protected.iter().any(|filter| topic::matches(filter, topic))),
            }
        };
        let topics = topics();
        for topic in &topics {
            prop_assert_eq!(access.may_publish(topic), by_definition(Action::Publish, topic), "{}", topic);
        }
        // A subscription may be refused although all it would deliver is allowed, never the other way round.
        if topic::is_filter(&wanted) && access.may_subscribe(&wanted) {
            for topic in topics.iter().filter(|topic| topic::matches(&wanted, topic)) {
                prop_assert!(by_definition(Action::Subscribe, topic), "{} {}", wanted, topic);
            }
        }
        // A single topic is decided exactly.
        for topic in topics.iter().filter(|topic| !topic.is_empty()) {
            prop_assert_eq!(access.may_subscribe(topic), by_definition(Action::Subscribe, topic), "{}", topic);
        }
    }
}
