//! What entries have in common is kept once, and no entry takes more than it needs.
//!
//! Every message brings names of its own, and lists that grew while they were read: of a report with one model, the list
//! has room for four. That was more than half of what a node took.

use std::collections::HashSet;
use std::hash::Hash;

use lamppost_models::rollout::Tags;
use lamppost_models::{GroupId, ModelName, NodePath, Reported, SiteId, Status, StreamName};

/// Names of a kind that are kept once. A fleet has fewer, or shares too little for it to matter: beyond it all are let go of,
/// and those in entries live on there.
const NAMES_MAX: usize = 16_384;

/// Values that many entries have.
#[derive(Clone, Debug, Default)]
pub(super) struct Shared {
    sites: Pool<SiteId>,
    groups: Pool<GroupId>,
    tags: Pool<Tags>,
    models: Pool<ModelName>,
    streams: Pool<StreamName>,
}

#[derive(Clone, Debug)]
struct Pool<T>(HashSet<T>);

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self(HashSet::new())
    }
}

impl<T: Clone + Eq + Hash> Pool<T> {
    /// Replaces a value by the equal one that others have.
    fn share(&mut self, value: &mut T) {
        if let Some(known) = self.0.get(value) {
            value.clone_from(known);
            return;
        }
        if self.0.len() >= NAMES_MAX {
            self.0.clear();
        }
        self.0.insert(value.clone());
    }
}

impl Shared {
    pub(super) fn path(&mut self, path: &mut NodePath) {
        self.sites.share(&mut path.site);
    }

    pub(super) fn status(&mut self, status: &mut Status) {
        for group in &mut status.groups {
            self.groups.share(group);
        }
        self.tags.share(&mut status.tags);
        status.groups.shrink_to_fit();
        status.agent.shrink_to_fit();
    }

    pub(super) fn report(&mut self, report: &mut Reported) {
        for row in &mut report.models {
            self.models.share(&mut row.name);
        }
        for row in &mut report.streams {
            self.streams.share(&mut row.name);
            self.models.share(&mut row.model);
        }
        report.models.shrink_to_fit();
        report.streams.shrink_to_fit();
        report.outbox.gaps.shrink_to_fit();
        report.outbox.lanes.shrink_to_fit();
        report.outbox.waiting.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_names_are_one_and_there_is_a_bound() {
        let mut shared = Shared::default();
        let mut names: Vec<SiteId> = Vec::new();
        for number in 0..NAMES_MAX + 2 {
            let mut path = NodePath {
                site: format!("s{}", number % (NAMES_MAX + 1)).parse().unwrap(),
                node: "n".parse().unwrap(),
            };
            let mut again = path.clone();
            again.site = path.site.as_str().parse().unwrap();
            shared.path(&mut path);
            shared.path(&mut again);
            assert_eq!(path.site, again.site);
            assert!(std::ptr::eq(path.site.as_str(), again.site.as_str()));
            names.push(path.site);
        }
        assert!(shared.sites.0.len() <= NAMES_MAX);
        // The first one was let go of, and is as it was where it is used.
        assert_eq!(names.first(), names.last());
    }
}
