//! An index of filters by their first levels, so that looking a topic up does not cost a look at every filter.

use crate::topic;
use std::{collections::HashMap, sync::Arc};

/// Levels that the index tells apart. Filters that agree in so many are compared one by one: a filter of 65,535 bytes
/// may have as many levels, and must not take a node for each.
const LEVELS_MAX: usize = 8;

const ROOT: usize = 0;

/// A value for each filter.
///
/// Nodes lie in one vector and know each other by their place in it: neither a walk nor a drop recurses.
#[derive(Debug)]
pub(crate) struct Filters<T> {
    nodes: Vec<Node<T>>,
    /// Nodes that are not in use.
    free: Vec<usize>,
}

#[derive(Debug)]
struct Node<T> {
    parent: usize,
    level: Box<str>,
    children: HashMap<Box<str>, usize>,
    /// The filters that end here or go on below [`LEVELS_MAX`].
    entries: Vec<(Arc<str>, T)>,
}

impl<T> Node<T> {
    fn new(parent: usize, level: &str) -> Self {
        Self {
            parent,
            level: level.into(),
            children: HashMap::new(),
            entries: Vec::new(),
        }
    }
}

impl<T> Default for Filters<T> {
    fn default() -> Self {
        Self {
            nodes: vec![Node::new(ROOT, "")],
            free: Vec::new(),
        }
    }
}

impl<T: Default> Filters<T> {
    /// The value of `filter` and the filter as it is kept, made if it is new.
    pub(crate) fn entry(&mut self, filter: &str) -> (&Arc<str>, &mut T) {
        let mut at = ROOT;
        for level in indexed(filter) {
            at = match self.nodes[at].children.get(level) {
                Some(&child) => child,
                None => self.grow(at, level),
            };
        }
        let entries = &mut self.nodes[at].entries;
        let index = entries
            .iter()
            .position(|(known, _)| **known == *filter)
            .unwrap_or_else(|| {
                entries.push((filter.into(), T::default()));
                entries.len() - 1
            });
        let (filter, value) = &mut entries[index];
        (filter, value)
    }

    fn grow(&mut self, parent: usize, level: &str) -> usize {
        let node = Node::new(parent, level);
        let child = if let Some(child) = self.free.pop() {
            self.nodes[child] = node;
            child
        } else {
            self.nodes.push(node);
            self.nodes.len() - 1
        };
        self.nodes[parent].children.insert(level.into(), child);
        child
    }
}

impl<T> Filters<T> {
    pub(crate) fn get(&self, filter: &str) -> Option<&T> {
        let node = &self.nodes[self.node_of(filter)?];
        node.entries
            .iter()
            .find(|(known, _)| **known == *filter)
            .map(|(_, value)| value)
    }

    pub(crate) fn remove(&mut self, filter: &str) -> Option<T> {
        let mut at = self.node_of(filter)?;
        let entries = &mut self.nodes[at].entries;
        let index = entries.iter().position(|(known, _)| **known == *filter)?;
        let (_, value) = entries.swap_remove(index);
        while at != ROOT && self.nodes[at].entries.is_empty() && self.nodes[at].children.is_empty()
        {
            let parent = self.nodes[at].parent;
            let level = std::mem::take(&mut self.nodes[at].level);
            self.nodes[parent].children.remove(&level);
            self.free.push(at);
            at = parent;
        }
        Some(value)
    }

    /// Calls `found` with the value of each filter that selects `topic`.
    pub(crate) fn matching<'a>(&'a self, topic: &str, mut found: impl FnMut(&'a T)) {
        let mut collect = |at: Option<&usize>| {
            let Some(&at) = at else { return };
            let node: &'a Node<T> = &self.nodes[at];
            for (filter, value) in &node.entries {
                if topic::matches(filter, topic) {
                    found(value);
                }
            }
        };
        // The nodes whose levels agree with the topic so far: never more than there are filters.
        let mut reached = vec![ROOT];
        let mut next = Vec::new();
        for level in indexed(topic) {
            for at in reached.drain(..) {
                let children = &self.nodes[at].children;
                collect(children.get("#"));
                next.extend(children.get("+"));
                next.extend(children.get(level));
            }
            std::mem::swap(&mut reached, &mut next);
        }
        for at in reached {
            collect(Some(&at));
            // `a/#` selects `a` too.
            collect(self.nodes[at].children.get("#"));
        }
    }

    fn node_of(&self, filter: &str) -> Option<usize> {
        indexed(filter).try_fold(ROOT, |at, level| {
            self.nodes[at].children.get(level).copied()
        })
    }
}

fn indexed(filter: &str) -> impl Iterator<Item = &str> {
    filter.split('/').take(LEVELS_MAX)
}

#[cfg(test)]
mod tests {
    use super::Filters;
    use crate::topic;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn levels(longest: usize) -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(vec!["a", "b", "", "$s"]), 1..longest)
            .prop_map(|levels| levels.join("/"))
    }

    fn filter() -> impl Strategy<Value = String> {
        let level = prop::sample::select(vec!["a", "b", "", "+", "$s"]);
        (prop::collection::vec(level, 1..12), any::<bool>()).prop_map(|(mut levels, rest)| {
            if rest {
                levels.push("#");
            }
            levels.join("/")
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_index_agrees_with_a_look_at_every_filter(
            steps in prop::collection::vec((filter(), any::<bool>()), 1..120),
            topics in prop::collection::vec(levels(12), 40),
        ) {
            let mut index: Filters<u32> = Filters::default();
            let mut naive: HashMap<String, u32> = HashMap::new();
            for (number, (filter, add)) in (0..).zip(&steps) {
                if *add {
                    *index.entry(filter).1 = number;
                    naive.insert(filter.clone(), number);
                } else {
                    // Takes the newest away too, or else removal would seldom find anything.
                    let newest = naive.iter().max_by_key(|(_, n)| **n).map(|(f, _)| f.clone());
                    for gone in [Some(filter.clone()), newest].into_iter().flatten() {
                        prop_assert_eq!(index.remove(&gone), naive.remove(&gone));
                    }
                }
            }
            for (filter, number) in &naive {
                prop_assert_eq!(index.get(filter), Some(number));
            }
            let in_use = index.nodes.len() - index.free.len();
            for topic in &topics {
                let mut found = Vec::new();
                index.matching(topic, |&number| found.push(number));
                let mut expected: Vec<u32> = naive
                    .iter()
                    .filter(|(filter, _)| topic::matches(filter, topic))
                    .map(|(_, &number)| number)
                    .collect();
                found.sort_unstable();
                expected.sort_unstable();
                prop_assert_eq!(found, expected, "{}", topic);
            }
            prop_assert!(in_use <= 1 + naive.len() * super::LEVELS_MAX);
            for filter in naive.keys() {
                index.remove(filter);
            }
            prop_assert_eq!(index.nodes.len() - index.free.len(), 1, "all but the root are free");
        }
    }

    #[test]
    fn a_filter_of_very_many_levels_is_held_and_dropped() {
        let mut index: Filters<u8> = Filters::default();
        let deep = "/".repeat(65_535);
        *index.entry(&deep).1 = 7;
        let mut found = 0;
        index.matching(&deep, |&value| found += value);
        assert_eq!((found, index.nodes.len()), (7, 1 + super::LEVELS_MAX));
    }
}
