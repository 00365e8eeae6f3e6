//! Whose signatures a node believes.
//!
//! Either the release keys of its configuration, for ever; or those of the newest trust document that follows from the root
//! that it was set up with. What it knows never goes back: an older chain, a fork and a document that the root keys did not
//! sign change nothing.

use lamppost_models::Timestamp;
use lamppost_models::key::Role;
use lamppost_models::trust::{Anchor, Chain, Trust, TrustError, TrustVersion};

/// Whose signatures a node believes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keyring {
    /// Those of these keys; of nobody's without any.
    Fixed(Option<Role>),
    /// Those of the newest trust document.
    Rooted {
        /// What the node was set up with.
        anchor: Anchor,
        /// The newest document that is known.
        known: Option<Trust>,
    },
}

/// What became of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Followed {
    /// It leads to a newer document.
    New(TrustVersion),
    /// It ends with the one that is known.
    Known,
}

/// Why a chain changed nothing, or led no further.
#[derive(Debug, thiserror::Error)]
pub enum ChainRefusal {
    /// There is nothing to follow it from.
    #[error(
        "this node has no root to follow a trust chain from: its configuration names release keys"
    )]
    NoRoot,
    /// It is wrong.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

/// Why no release can be believed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoTrust {
    /// No keys are configured.
    #[error("no release keys are configured")]
    NoKeys,
    /// No trust document came yet.
    #[error("no trust document came yet")]
    NoDocument,
    /// The newest one has expired.
    #[error("trust document {version} expired at {expires_at}, it is {now}: publish a newer one")]
    Expired {
        /// Which.
        version: TrustVersion,
        /// When.
        expires_at: Timestamp,
        /// By the node's clock and the signed times.
        now: Timestamp,
    },
}

impl ChainRefusal {
    /// One word for the reason, to count by.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::NoRoot => "no-root",
            Self::Trust(error) => error.kind(),
        }
    }
}

impl NoTrust {
    /// One word for the reason, to count by.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::NoKeys => "no-keys",
            Self::NoDocument => "no-trust",
            Self::Expired { .. } => "trust-expired",
        }
    }
}

impl Keyring {
    /// A keyring with a root, and what was remembered of the chain that it anchors.
    pub fn rooted(anchor: Anchor, remembered: Option<Trust>) -> Self {
        let known = match (&anchor, remembered) {
            (Anchor::Document(first), Some(known)) if known.version > first.version => Some(known),
            (Anchor::Document(first), _) => Some(first.clone()),
            (Anchor::Roots(_), remembered) => remembered,
        };
        Self::Rooted { anchor, known }
    }

    /// Follows a chain as it came, as far as it leads.
    ///
    /// # Errors
    /// [`ChainRefusal`] when something in it is wrong; what it proves before that is known from then on, which the keyring's
    /// version tells.
    pub fn follow(&mut self, json: &[u8]) -> Result<Followed, ChainRefusal> {
        let Self::Rooted { anchor, known } = self else {
            return Err(ChainRefusal::NoRoot);
        };
        let from = match known.clone() {
            Some(known) => Anchor::Document(known),
            None => anchor.clone(),
        };
        let walk = Chain::read(json)?.follow(&from);
        let reached = walk.reached.as_ref().map(|trust| trust.version);
        if walk.reached.is_some() {
            *known = walk.reached;
        }
        match (walk.stopped, reached) {
            (Some(error), _) => Err(error.into()),
            (None, Some(version)) => Ok(Followed::New(version)),
            (None, None) => Ok(Followed::Known),
        }
    }

    /// Who may sign releases now.
    ///
    /// # Errors
    /// [`NoTrust`] when nobody may.
    pub fn release_role(&self, now: Timestamp) -> Result<&Role, NoTrust> {
        match self {
            Self::Fixed(role) => role.as_ref().ok_or(NoTrust::NoKeys),
            Self::Rooted { known, .. } => {
                let known = known.as_ref().ok_or(NoTrust::NoDocument)?;
                match known.expires_at {
                    Some(expires_at) if known.expired(now) => Err(NoTrust::Expired {
                        version: known.version,
                        expires_at,
                        now,
                    }),
                    Some(_) | None => Ok(&known.release),
                }
            }
        }
    }

    /// Who may sign times; a document that has expired still says.
    pub fn time_role(&self) -> Option<&Role> {
        match self {
            Self::Fixed(role) => role.as_ref(),
            Self::Rooted { known, .. } => known.as_ref().map(|known| &known.release),
        }
    }

    /// The newest trust document that is known.
    pub const fn known(&self) -> Option<&Trust> {
        match self {
            Self::Fixed(_) => None,
            Self::Rooted { known, .. } => known.as_ref(),
        }
    }

    /// Its version.
    pub fn version(&self) -> Option<TrustVersion> {
        self.known().map(|known| known.version)
    }
}
