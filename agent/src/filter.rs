//! MQTT topic filters, as far as streams need them.

/// Whether a filter is well formed: `+` fills a whole level, `#` the last one.
pub(crate) fn is_valid(filter: &str) -> bool {
    let levels: Vec<&str> = filter.split('/').collect();
    !filter.is_empty()
        && u16::try_from(filter.len()).is_ok()
        && !filter.contains('\0')
        && levels.iter().enumerate().all(|(at, level)| match *level {
            "+" => true,
            "#" => at + 1 == levels.len(),
            level => !level.contains(['+', '#']),
        })
}

/// Whether `filter` selects `topic`; a wildcard in the first level selects no topic that begins with `$`.
pub(crate) fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let (mut filter, mut topic) = (filter.split('/'), topic.split('/'));
    loop {
        match (filter.next(), topic.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
}

/// Whether `outer` selects all that `inner` selects.
pub(crate) fn covers(outer: &str, inner: &str) -> bool {
    if inner.starts_with('$') && outer.starts_with(['+', '#']) {
        return false;
    }
    let (mut outer, mut inner) = (outer.split('/'), inner.split('/'));
    loop {
        match (outer.next(), inner.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(level)) if level != "#" => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
}

/// Whether some topic is selected by both.
pub(crate) fn overlap(a: &str, b: &str) -> bool {
    let (mut a, mut b) = (a.split('/'), b.split('/'));
    loop {
        match (a.next(), b.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some("+"), Some(_)) | (Some(_), Some("+")) => {}
            (Some(left), Some(right)) if left == right => {}
            _ => return false,
        }
    }
}

/// The filters that no other one covers, each once.
pub(crate) fn widest<'a>(filters: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut widest: Vec<String> = Vec::new();
    for filter in filters {
        if !widest.iter().any(|known| covers(known, filter)) {
            widest.retain(|known| !covers(filter, known));
            widest.push(filter.to_owned());
        }
    }
    widest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_select_topics() {
        for (filter, topic, selects) in [
            ("a/b", "a/b", true),
            ("a/b", "a/b/c", false),
            ("a/+", "a/b", true),
            ("a/+", "a", false),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("#", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("+/b", "a/b", true),
        ] {
            assert_eq!(matches(filter, topic), selects, "{filter} {topic}");
        }
        for filter in ["", "a/#/b", "a#", "a/b+", "\0"] {
            assert!(!is_valid(filter), "{filter:?}");
        }
        assert!(["a", "+", "#", "a/+/b/#", "/"].into_iter().all(is_valid));
    }

    #[test]
    fn only_the_widest_are_subscribed_to() {
        let filters = ["a/1", "a/+", "b", "a/2", "b", "c/#", "c"];
        assert_eq!(widest(filters.into_iter()), ["a/+", "b", "c/#"]);
        assert!(overlap("a/+", "+/b") && !covers("a/+", "+/b") && !covers("+/b", "a/+"));
        assert!(!overlap("a/+", "b/+"));
    }
}
