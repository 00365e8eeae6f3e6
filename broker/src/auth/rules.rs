//! What one client may do.

use super::Identity;
use crate::{
    config::{Action, Effect, Rule},
    topic,
};
use std::sync::Arc;

/// What one client, or one trusted link, may do.
#[derive(Debug, Clone)]
pub(crate) struct Access(Option<ClientAccess>);

#[derive(Debug, Clone)]
struct ClientAccess {
    rules: Vec<AccessRule>,
    default_access: Effect,
    /// Where publishing takes a rule, whatever the default.
    protected: Arc<[String]>,
}

#[derive(Debug, Clone)]
struct AccessRule {
    effect: Effect,
    action: Action,
    filter: String,
}

impl Access {
    /// The access of this process's own links: everything.
    pub(crate) fn trusted() -> Self {
        Self(None)
    }

    /// The access that these rules give to `identity`, whose names are put into their filters.
    pub(super) fn new<'a>(
        rules: impl Iterator<Item = &'a Rule>,
        identity: &Identity,
        default_access: Effect,
        protected: Arc<[String]>,
    ) -> Self {
        let rules = rules.filter_map(|rule| {
            // A rule about `%u` says nothing about a client without a name.
            let user = match &identity.user {
                Some(user) => user,
                None if rule.filter.contains("%u") => return None,
                None => "",
            };
            Some(AccessRule {
                effect: rule.effect,
                action: rule.action,
                filter: expand(&rule.filter, user, &identity.client_id),
            })
        });
        Self(Some(ClientAccess {
            rules: rules.collect(),
            default_access,
            protected,
        }))
    }

    /// Whether messages may be published to `name`. Topics that begin with `$` are the broker's own.
    pub(crate) fn may_publish(&self, name: &str) -> bool {
        let Some(access) = &self.0 else { return true };
        let unruled = || {
            let mut protected = access.protected.iter();
            if protected.any(|filter| topic::matches(filter, name)) {
                Effect::Deny
            } else {
                access.default_access
            }
        };
        let decided = access
            .rules
            .iter()
            .find(|rule| rule.action != Action::Subscribe && topic::matches(&rule.filter, name))
            .map_or_else(unruled, |rule| rule.effect);
        decided == Effect::Allow && !name.starts_with('$')
    }

    /// Whether all that `filter` selects may be read.
    pub(crate) fn may_subscribe(&self, filter: &str) -> bool {
        let Some(access) = &self.0 else { return true };
        let decided = access
            .rules
            .iter()
            .filter(|rule| rule.action != Action::Publish)
            .find(|rule| match rule.effect {
                Effect::Allow => topic::covers(&rule.filter, filter),
                Effect::Deny => topic::overlaps(&rule.filter, filter),
            })
            .map_or(access.default_access, |rule| rule.effect);
        decided == Effect::Allow
    }
}

/// Puts the names in, in one pass, so that a name that contains `%c` stays what it is.
pub(super) fn expand(filter: &str, user: &str, client_id: &str) -> String {
    let mut expanded = String::with_capacity(filter.len() + user.len() + client_id.len());
    let mut rest = filter;
    while let Some(at) = rest.find('%') {
        expanded.push_str(&rest[..at]);
        rest = &rest[at..];
        let (text, width) = match rest.as_bytes().get(1) {
            Some(b'u') => (user, 2),
            Some(b'c') => (client_id, 2),
            _ => ("%", 1),
        };
        expanded.push_str(text);
        rest = &rest[width..];
    }
    expanded.push_str(rest);
    expanded
}
