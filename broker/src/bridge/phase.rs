//! How far a connection is.

use super::remote::Terms;
use crate::retained::Scan;
use std::time::Duration;
use tokio::time::Instant;

/// How far a connection is.
pub(super) enum Phase {
    Connecting,
    Subscribing {
        terms: Terms,
        until: Instant,
    },
    Open {
        terms: Terms,
        since: Instant,
        /// Retained messages are still to be sent.
        sync: Option<Sync>,
    },
    Leaving {
        terms: Terms,
        until: Instant,
        /// We have said that we leave.
        said: bool,
    },
}

/// A walk over the retained messages of all entries.
pub(super) struct Sync {
    pub(super) route: usize,
    pub(super) scan: Scan,
}

/// How a connection ended.
pub(super) struct End {
    pub(super) reason: String,
    /// How long it was open, if it was.
    pub(super) held: Option<Duration>,
}

impl Phase {
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Subscribing { until, .. } | Self::Leaving { until, .. } => Some(*until),
            // Bounded by the client library, and not at all.
            Self::Connecting | Self::Open { .. } => None,
        }
    }

    pub(super) fn terms(&self) -> Option<&Terms> {
        match self {
            Self::Connecting => None,
            Self::Subscribing { terms, .. }
            | Self::Open { terms, .. }
            | Self::Leaving { terms, .. } => Some(terms),
        }
    }

    pub(super) fn ended(&self, reason: &str) -> End {
        let held = match self {
            Self::Open { since, .. } => Some(since.elapsed()),
            Self::Connecting | Self::Subscribing { .. } | Self::Leaving { .. } => None,
        };
        End {
            reason: reason.to_owned(),
            held,
        }
    }
}
