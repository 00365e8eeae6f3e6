//! What one client may do.

use super::Identity;
use crate::{
    config::{Action, Effect, Rule},
    topic::{self, Wanted},
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

    /// How much of what a subscription selects may be read.
    ///
    /// The first rule that covers the whole of it decides, and else the default; a "deny" before that which touches a
    /// part of it takes that part out. So a narrow "allow" opens nothing wider than itself. Groups get all or nothing.
    pub(crate) fn reading(&self, wanted: &Wanted<'_>) -> Reading {
        let Some(access) = &self.0 else {
            return Reading::All;
        };
        let filter = wanted.filter;
        // What a group's member may not read would be lost to the others.
        let in_part = match wanted.group {
            None => Reading::InPart,
            Some(_) => Reading::Nothing,
        };
        let mut granted = Reading::All;
        for rule in access.reading_rules() {
            if topic::covers(&rule.filter, filter) {
                return granted.unless(rule.effect);
            }
            if rule.effect == Effect::Deny && topic::overlaps(&rule.filter, filter) {
                granted = in_part;
            }
        }
        granted.unless(access.default_access)
    }

    /// Whether messages of `name` may be read: what a subscription that is allowed in part asks for each message.
    pub(crate) fn may_read(&self, name: &str) -> bool {
        let Some(access) = &self.0 else { return true };
        let decided = access
            .reading_rules()
            .find(|rule| topic::matches(&rule.filter, name))
            .map_or(access.default_access, |rule| rule.effect);
        decided == Effect::Allow
    }
}

impl ClientAccess {
    fn reading_rules(&self) -> impl Iterator<Item = &AccessRule> {
        let rules = self.rules.iter();
        rules.filter(|rule| rule.action != Action::Publish)
    }
}

/// What a subscription gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    All,
    /// All but what [`Access::may_read`] denies.
    InPart,
    Nothing,
}

impl Reading {
    fn unless(self, effect: Effect) -> Self {
        match effect {
            Effect::Allow => self,
            Effect::Deny => Self::Nothing,
        }
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
