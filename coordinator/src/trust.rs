//! The trust documents that nodes follow, and the time that they are told.
//!
//! The chain is `trust.json` in the data directory. It only grows: what is installed must follow from what is there. Without
//! one, nodes believe the release keys of their configurations.
//!
//! - [`announce`]: keeps chain and time on their topics;
//! - [`answers`]: answers the questions of nodes for the time;
//! - [`edit`]: makes documents, for the command line.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lamppost_coordinator_core::rollout::audit::Trusted;
use lamppost_models::id::Nonce;
use lamppost_models::key::PublicKey;
use lamppost_models::seal::Sealed;
use lamppost_models::trust::{
    Anchor, CHAIN_BYTES_MAX, CHAIN_DOCUMENTS_MAX, Chain, Trust, TrustError, TrustVersion,
};
use lamppost_models::{SignedTime, V1};
use tokio::sync::watch;

use crate::clock::now;
use crate::files;
use crate::key::Signers;

pub(crate) mod announce;
pub(crate) mod answers;
pub(crate) mod edit;

/// The chain's file in the data directory.
const FILE: &str = "trust.json";

/// Why trust documents are not what they must be.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The file cannot be read or written.
    #[error("{}: {action}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The chain is none.
    #[error("the trust chain is refused")]
    Chain(#[from] TrustError),
    /// It does not follow from what is there.
    #[error(
        "the trust chain does not follow from the one that is installed, which ends with document {installed}"
    )]
    Stray {
        /// The newest one that is installed.
        installed: TrustVersion,
        /// Where it fails.
        #[source]
        source: TrustError,
    },
    /// The chain has no room left.
    #[error(
        "with these the trust chain has {documents} documents in {bytes} bytes, the limits are {CHAIN_DOCUMENTS_MAX} and \
         {CHAIN_BYTES_MAX}: begin a new one with `lamppost keys init`, and give its first document to all nodes"
    )]
    Full {
        /// Its documents.
        documents: usize,
        /// Its size.
        bytes: usize,
    },
    /// A key that signs is not trusted.
    #[error(
        "trust document {version} does not name key {key}, which this coordinator signs releases with: nodes would refuse \
         them. Set releases.signers to files of keys that it names ({named}), or install a newer document that names this one"
    )]
    Unlisted {
        /// The newest document.
        version: TrustVersion,
        /// The key's id.
        key: String,
        /// The ids that it names.
        named: String,
    },
    /// Too few keys sign.
    #[error(
        "trust document {version} wants the signatures of {threshold} release keys, and this coordinator has {signers}: name \
         the files of more of them in releases.signers"
    )]
    TooFew {
        /// The newest document.
        version: TrustVersion,
        /// How many must sign.
        threshold: usize,
        /// How many would.
        signers: usize,
    },
}

/// A chain and its newest document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Installed {
    pub(crate) chain: Chain,
    pub(crate) newest: Trust,
}

/// Keys and trust documents of a coordinator that runs.
pub(crate) struct Authority {
    data_dir: PathBuf,
    signers: Arc<Signers>,
    installed: watch::Sender<Option<Arc<Installed>>>,
    /// One installation at a time.
    installing: tokio::sync::Mutex<()>,
}

impl Authority {
    /// Reads the chain, and holds the signers against it.
    ///
    /// # Errors
    /// [`InstallError`] when nodes would not believe what the signers sign.
    pub(crate) fn open(data_dir: &Path, signers: Arc<Signers>) -> Result<Self, InstallError> {
        let installed = read(data_dir)?;
        if let Some(installed) = &installed {
            check_signers(&installed.newest, &signers.public())?;
        }
        Ok(Self {
            data_dir: data_dir.to_owned(),
            signers,
            installed: watch::channel(installed.map(Arc::new)).0,
            installing: tokio::sync::Mutex::new(()),
        })
    }

    pub(crate) const fn signers(&self) -> &Arc<Signers> {
        &self.signers
    }

    /// What is installed, and what will be.
    pub(crate) fn installed(&self) -> watch::Receiver<Option<Arc<Installed>>> {
        self.installed.subscribe()
    }

    /// Installs documents while the coordinator runs: it is written before it is published.
    ///
    /// # Errors
    /// [`InstallError`] when they do not follow, or do not name the keys that sign here.
    pub(crate) async fn install(&self, chain: Chain) -> Result<Arc<Installed>, InstallError> {
        let _one = self.installing.lock().await;
        let (data_dir, signers) = (self.data_dir.clone(), self.signers.public());
        let writing =
            tokio::task::spawn_blocking(move || install(&data_dir, &chain, Some(&signers)));
        let installed = writing.await.unwrap_or_else(|error| {
            Err(InstallError::Io {
                path: self.data_dir.join(FILE),
                action: "write the trust chain",
                source: io::Error::other(error),
            })
        })?;
        let installed = Arc::new(installed);
        self.installed.send_replace(Some(Arc::clone(&installed)));
        tracing::info!(version = %installed.newest.version, "trust documents were installed");
        Ok(installed)
    }

    /// Who may sign and who does, for the audit log.
    pub(crate) fn trusted(&self) -> Trusted {
        let installed = self.installed.borrow();
        Trusted {
            v: V1,
            trust: installed.as_ref().map(|installed| installed.newest.clone()),
            signers: self.signers.public(),
        }
    }

    /// What time it is, signed by all keys.
    ///
    /// # Errors
    /// When it cannot be written as JSON, which it can.
    pub(crate) fn sign_time(&self, nonce: Option<Nonce>) -> Result<Sealed, serde_json::Error> {
        let trust = self
            .installed
            .borrow()
            .as_ref()
            .map(|installed| installed.newest.version);
        let time = SignedTime {
            schema: V1,
            time: now(),
            nonce,
            trust,
        };
        time.seal(self.signers.all())
    }
}

/// Installs documents into a data directory; `signers` are the keys that they must name, if any sign already.
///
/// # Errors
/// [`InstallError`] when they do not follow from what is there, or cannot be written.
pub(crate) fn install(
    data_dir: &Path,
    chain: &Chain,
    signers: Option<&[PublicKey]>,
) -> Result<Installed, InstallError> {
    let installed = match read(data_dir)? {
        None => Installed {
            newest: chain.check()?,
            chain: chain.clone(),
        },
        Some(before) => join(before, chain)?,
    };
    if let Some(signers) = signers {
        check_signers(&installed.newest, signers)?;
    }
    let json = serde_json::to_vec(&installed.chain).map_err(TrustError::Parse)?;
    let documents = installed.chain.chain.len();
    if documents > CHAIN_DOCUMENTS_MAX || json.len() > CHAIN_BYTES_MAX {
        return Err(InstallError::Full {
            documents,
            bytes: json.len(),
        });
    }
    let path = data_dir.join(FILE);
    files::write_whole(&path, &json, 0o644).map_err(|source| InstallError::Io {
        path,
        action: "write the trust chain",
        source,
    })?;
    Ok(installed)
}

/// Puts what is newer in `chain` behind what is there.
fn join(before: Installed, chain: &Chain) -> Result<Installed, InstallError> {
    let installed = before.newest.version;
    let stray = |source| InstallError::Stray { installed, source };
    let walk = chain.follow(&Anchor::Document(before.newest.clone()));
    if let Some(error) = walk.stopped {
        return Err(stray(error));
    }
    let mut joined = before;
    for sealed in &chain.chain {
        if Trust::peek(sealed).map_err(stray)?.version > installed {
            joined.chain.chain.push(sealed.clone());
        }
    }
    joined.newest = walk.reached.unwrap_or(joined.newest);
    Ok(joined)
}

/// The chain of a data directory, if there is one.
///
/// # Errors
/// [`InstallError`] when it cannot be read or is none.
pub(crate) fn read(data_dir: &Path) -> Result<Option<Installed>, InstallError> {
    read_file(&data_dir.join(FILE))
}

/// The chain of a file, if it is there.
///
/// # Errors
/// [`InstallError`] when it cannot be read or is none.
pub(crate) fn read_file(path: &Path) -> Result<Option<Installed>, InstallError> {
    let json = match fs::read(path) {
        Ok(json) => json,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(InstallError::Io {
                path: path.to_owned(),
                action: "read the trust chain",
                source,
            });
        }
    };
    let chain = Chain::read(&json)?;
    let newest = chain.check()?;
    Ok(Some(Installed { chain, newest }))
}

/// Nodes must believe what is signed here.
fn check_signers(newest: &Trust, signers: &[PublicKey]) -> Result<(), InstallError> {
    let version = newest.version;
    let stranger = signers
        .iter()
        .find(|key| !newest.release.keys().contains(key));
    if let Some(key) = stranger {
        return Err(InstallError::Unlisted {
            version,
            key: key.id(),
            named: newest.release.ids().join(", "),
        });
    }
    let threshold = newest.release.threshold();
    if signers.len() < threshold {
        return Err(InstallError::TooFew {
            version,
            threshold,
            signers: signers.len(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
