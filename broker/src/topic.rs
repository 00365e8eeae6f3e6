//! Topic names and filters: validity, matching, and the relations between two filters that access rules need.

/// The longest topic or filter, in bytes: MQTT's own limit, since its length is a 16-bit number.
const TOPIC_LEN_MAX: usize = 65_535;

/// Whether `topic` can be published to: not empty, no wildcard, no NUL.
pub(crate) fn is_topic(topic: &str) -> bool {
    !topic.is_empty()
        && topic.len() <= TOPIC_LEN_MAX
        && !topic.bytes().any(|b| matches!(b, b'+' | b'#' | 0))
}

/// Whether `filter` is well formed: `+` fills a whole level, `#` fills the last one.
pub(crate) fn is_filter(filter: &str) -> bool {
    if filter.is_empty() || filter.len() > TOPIC_LEN_MAX || filter.contains('\0') {
        return false;
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let wildcard = level.contains(['+', '#']);
        if wildcard && (level.len() != 1 || (level == "#" && levels.peek().is_some())) {
            return false;
        }
    }
    true
}

/// What a SUBSCRIBE names: a filter, or a member's place in a group that shares one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted<'a> {
    /// The group's name, `None` for a subscription that is not shared.
    pub(crate) group: Option<&'a str>,
    /// The filter: what access rules are asked about.
    pub(crate) filter: &'a str,
}

/// Takes a subscription's text apart, `$share/NAME/FILTER` or a filter; `None` if it is malformed.
pub(crate) fn wanted(text: &str) -> Option<Wanted<'_>> {
    let wanted = match text.strip_prefix("$share/") {
        None => Wanted {
            group: None,
            filter: text,
        },
        Some(rest) => {
            let (name, filter) = rest.split_once('/')?;
            if name.is_empty() || name.contains(['+', '#']) {
                return None;
            }
            Wanted {
                group: Some(name),
                filter,
            }
        }
    };
    (text.len() <= TOPIC_LEN_MAX && is_filter(wanted.filter)).then_some(wanted)
}

/// Whether `filter` selects `topic`. A wildcard in the first level does not select topics that begin with `$`.
pub(crate) fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && !filter.starts_with('$') {
        return false;
    }
    let mut topic_levels = topic.split('/');
    let mut filter_levels = filter.split('/');
    loop {
        match (filter_levels.next(), topic_levels.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(f), Some(t)) if f == t => {}
            _ => return false,
        }
    }
}

/// Whether every topic that `inner` selects is selected by `outer` as well.
pub(crate) fn covers(outer: &str, inner: &str) -> bool {
    if inner.starts_with('$') && !outer.starts_with('$') {
        return false;
    }
    let mut outer_levels = outer.split('/');
    let mut inner_levels = inner.split('/');
    loop {
        match (outer_levels.next(), inner_levels.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(i)) if i != "#" => {}
            (Some(o), Some(i)) if o == i => {}
            _ => return false,
        }
    }
}

/// Whether some topic is selected by both filters.
pub(crate) fn overlaps(a: &str, b: &str) -> bool {
    if a.starts_with('$') != b.starts_with('$') {
        return false;
    }
    let mut a_levels = a.split('/');
    let mut b_levels = b.split('/');
    loop {
        match (a_levels.next(), b_levels.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some("+"), Some(_)) | (Some(_), Some("+")) => {}
            (Some(x), Some(y)) if x == y => {}
            _ => return false,
        }
    }
}

/// The part of `filter` before its first wildcard: every topic it selects begins so, the parent of a `/#` apart.
pub(crate) fn literal_prefix(filter: &str) -> &str {
    match filter.find(['+', '#']) {
        Some(0) => "",
        // `a/#` selects `a` itself, which lacks the slash.
        Some(at) if filter[at..].starts_with('#') => &filter[..at - 1],
        Some(at) => &filter[..at],
        None => filter,
    }
}

#[cfg(test)]
mod tests {
    use super::{Wanted, covers, is_filter, is_topic, literal_prefix, matches, overlaps, wanted};
    use proptest::prelude::*;

    #[test]
    fn filters_are_checked() {
        for good in ["a", "/", "a/+/b", "#", "+", "a/#", "+/+/#", "$SYS/#"] {
            assert!(is_filter(good), "{good}");
        }
        for bad in ["", "a#", "#/a", "a/#/b", "a+/b", "++", "a\0"] {
            assert!(!is_filter(bad), "{bad}");
        }
        assert!(is_topic("a/b") && !is_topic("a/+") && !is_topic("") && !is_topic("a/#"));
    }

    #[test]
    fn shared_subscriptions_are_taken_apart() {
        let shared = |name, filter| {
            Some(Wanted {
                group: Some(name),
                filter,
            })
        };
        assert_eq!(wanted("$share/g/a/+"), shared("g", "a/+"));
        assert_eq!(wanted("$share/g//"), shared("g", "/"));
        assert_eq!(wanted("$share/g/$SYS/#"), shared("g", "$SYS/#"));
        for plain in ["a/b", "$share", "$shared/g/a", "share/g/a"] {
            let group = None;
            assert_eq!(
                wanted(plain),
                Some(Wanted {
                    group,
                    filter: plain
                })
            );
        }
        for bad in [
            "$share/",
            "$share/g",
            "$share/g/",
            "$share//a",
            "$share/g+/a",
            "$share/#/a",
            "$share/g/a#",
        ] {
            assert_eq!(wanted(bad), None, "{bad}");
        }
    }

    #[test]
    fn matching_follows_the_specification() {
        for (filter, topic) in [
            ("#", "a/b"),
            ("a/#", "a"),
            ("a/#", "a/b/c"),
            ("+/b", "a/b"),
            ("+", "a"),
            ("/+", "/a"),
            ("+/+", "/a"),
            ("$SYS/#", "$SYS/x"),
        ] {
            assert!(matches(filter, topic), "{filter} {topic}");
        }
        for (filter, topic) in [
            ("+", "a/b"),
            ("a", "a/b"),
            ("a/b", "a"),
            ("#", "$SYS/x"),
            ("+/x", "$SYS/x"),
            ("+", "/a"),
            ("a/+", "a"),
        ] {
            assert!(!matches(filter, topic), "{filter} {topic}");
        }
    }

    fn level() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["a", "b", "", "+"])
    }

    fn filter() -> impl Strategy<Value = String> {
        (prop::collection::vec(level(), 1..4), any::<bool>()).prop_map(|(mut levels, hash)| {
            if hash {
                levels.push("#");
            }
            levels.join("/")
        })
    }

    /// Every topic of up to four levels over a small alphabet: enough to tell any two filters above apart. The empty
    /// one, which cannot be published to, is what `+` and `/#` have in common.
    fn topics() -> Vec<String> {
        let mut all: Vec<String> = vec!["a".into(), "b".into(), String::new(), "z".into()];
        for _ in 0..3 {
            let longer: Vec<String> = all
                .iter()
                .flat_map(|t| ["a", "b", "", "z"].map(|l| format!("{t}/{l}")))
                .collect();
            all.extend(longer);
        }
        all.sort();
        all.dedup();
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn relations_agree_with_their_definition(a in filter(), b in filter()) {
            prop_assume!(is_filter(&a) && is_filter(&b));
            let topics = topics();
            let by_topic = topics.iter().all(|t| !matches(&b, t) || matches(&a, t));
            let common = topics.iter().any(|t| matches(&a, t) && matches(&b, t));
            // `covers` may be too strict (`a/#` and `a` + `a/+/#`), never too generous.
            prop_assert!(!covers(&a, &b) || by_topic, "covers {a} {b}");
            prop_assert_eq!(overlaps(&a, &b), common, "overlaps {} {}", a, b);
            let prefix = literal_prefix(&a);
            prop_assert!(topics.iter().filter(|t| matches(&a, t)).all(|t| t.starts_with(prefix)));
        }
    }
}
