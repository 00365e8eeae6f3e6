//! Making trust documents: a chain whose last document may still lack signatures.

use lamppost_models::key::{PublicKey, Role, RoleError, SecretKey};
use lamppost_models::trust::{Chain, Trust, TrustError, TrustVersion};
use lamppost_models::{Timestamp, V1};

/// Which keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RoleName {
    Root,
    Release,
}

/// What a new document does to the keys of a role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) add: Vec<PublicKey>,
    /// Ids of those that go.
    pub(crate) drop: Vec<String>,
    pub(crate) threshold: Option<usize>,
}

/// Signatures that a document has and needs, of the root keys of one document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Whose root keys.
    pub(crate) of: TrustVersion,
    pub(crate) signed: Vec<String>,
    pub(crate) waiting: Vec<String>,
    pub(crate) threshold: usize,
}

/// Why there is no new document.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EditError {
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error("the {role} keys would make no role")]
    Role {
        role: &'static str,
        #[source]
        source: RoleError,
    },
    #[error(
        "document {version} of the chain still lacks signatures: collect them with `lamppost keys sign`, or take a copy of the chain without it"
    )]
    Unfinished { version: TrustVersion },
    #[error("no key {id} in document {version}: `lamppost keys show` lists them")]
    NoKey { id: String, version: TrustVersion },
    #[error(
        "key {key} is a root key of neither document {version} nor the one before it: its signature would count for nothing"
    )]
    Useless { key: String, version: TrustVersion },
    #[error("the document would change nothing")]
    Nothing,
}

impl RoleName {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Release => "release",
        }
    }

    const fn of(self, trust: &Trust) -> &Role {
        match self {
            Self::Root => &trust.root,
            Self::Release => &trust.release,
        }
    }
}

impl Change {
    fn apply(&self, name: RoleName, role: &Role) -> Result<Role, EditError> {
        let kept = role
            .keys()
            .iter()
            .filter(|key| !self.drop.contains(&key.id()));
        let keys: Vec<PublicKey> = kept.chain(&self.add).copied().collect();
        let threshold = self.threshold.unwrap_or_else(|| role.threshold());
        Role::new(keys, threshold).map_err(|source| EditError::Role {
            role: name.word(),
            source,
        })
    }
}

/// The first document, unsigned.
pub(crate) const fn first(
    root: Role,
    release: Role,
    now: Timestamp,
    expires_at: Option<Timestamp>,
) -> Trust {
    Trust {
        schema: V1,
        version: TrustVersion::FIRST,
        issued_at: now,
        expires_at,
        root,
        release,
    }
}

/// Puts a document behind the newest one of a chain, signed by `with`.
///
/// # Errors
/// [`EditError`] when the chain is unfinished, or the change makes no document.
pub(crate) fn append(
    chain: &mut Chain,
    changes: &[(RoleName, Change)],
    now: Timestamp,
    expires_at: Option<Timestamp>,
    with: &[SecretKey],
) -> Result<Trust, EditError> {
    let newest = newest(chain)?;
    let mut next = Trust {
        version: newest.version.next(),
        issued_at: now,
        expires_at,
        ..newest.clone()
    };
    for (name, change) in changes {
        let role = change.apply(*name, name.of(&next))?;
        match name {
            RoleName::Root => next.root = role,
            RoleName::Release => next.release = role,
        }
    }
    let same = (&next.root, &next.release, next.expires_at)
        == (&newest.root, &newest.release, newest.expires_at);
    if same {
        return Err(EditError::Nothing);
    }
    chain.chain.push(next.seal(&[]).map_err(TrustError::Parse)?);
    for key in with {
        sign(chain, key)?;
    }
    Ok(next)
}

/// The changes that drop a key from whichever roles it has.
///
/// # Errors
/// [`EditError::NoKey`] when it has none.
pub(crate) fn revocation(
    newest: &Trust,
    id: &str,
    threshold: Option<usize>,
) -> Result<Vec<(RoleName, Change)>, EditError> {
    let has = |name: &RoleName| name.of(newest).key(id).is_some();
    let change = Change {
        add: Vec::new(),
        drop: vec![id.to_owned()],
        threshold,
    };
    let changes: Vec<_> = [RoleName::Root, RoleName::Release]
        .into_iter()
        .filter(has)
        .map(|name| (name, change.clone()))
        .collect();
    if changes.is_empty() {
        return Err(EditError::NoKey {
            id: id.chars().take(64).collect(),
            version: newest.version,
        });
    }
    Ok(changes)
}

/// Signs the last document.
///
/// # Errors
/// [`EditError`] when the signature would count for nothing.
pub(crate) fn sign(chain: &mut Chain, key: &SecretKey) -> Result<(), EditError> {
    let tallies = tallies(chain)?;
    let id = key.public().id();
    let counts = tallies
        .iter()
        .any(|tally| tally.signed.contains(&id) || tally.waiting.contains(&id));
    let last = chain
        .chain
        .last_mut()
        .ok_or(TrustError::Documents { documents: 0 })?;
    if !counts {
        let version = Trust::peek(last)?.version;
        return Err(EditError::Useless { key: id, version });
    }
    Ok(Trust::add_signature(last, key)?)
}

/// Which root keys have signed the last document: those of the document before it, and its own.
///
/// # Errors
/// [`EditError`] when a document is none, or a signature is false.
pub(crate) fn tallies(chain: &Chain) -> Result<Vec<Tally>, EditError> {
    let documents: Vec<Trust> = chain
        .chain
        .iter()
        .map(Trust::peek)
        .collect::<Result<_, _>>()?;
    let last = chain
        .chain
        .last()
        .ok_or(TrustError::Documents { documents: 0 })?;
    let mut tallies = Vec::new();
    for trust in documents.iter().rev().take(2).rev() {
        let signed: Vec<String> = Trust::signers(last, &trust.root)?
            .iter()
            .map(PublicKey::id)
            .collect();
        let mut waiting = trust.root.ids();
        waiting.retain(|id| !signed.contains(id));
        tallies.push(Tally {
            of: trust.version,
            signed,
            waiting,
            threshold: trust.root.threshold(),
        });
    }
    Ok(tallies)
}

impl Tally {
    pub(crate) const fn complete(&self) -> bool {
        self.signed.len() >= self.threshold
    }
}

/// The newest document of a chain that is finished.
///
/// # Errors
/// [`EditError`] when it is not.
pub(crate) fn newest(chain: &Chain) -> Result<Trust, EditError> {
    let last = chain
        .chain
        .last()
        .ok_or(TrustError::Documents { documents: 0 })?;
    if tallies(chain)?.iter().all(Tally::complete) {
        return Ok(chain.check()?);
    }
    Err(EditError::Unfinished {
        version: Trust::peek(last)?.version,
    })
}
