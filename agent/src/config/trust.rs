//! Whom the `[coordinator]` table says to believe.

use std::path::Path;
use std::time::Duration;

use lamppost_models::key::{PublicKey, Role};
use lamppost_models::trust::{Anchor, CHAIN_BYTES_MAX, Chain};

use super::raw::RawCoordinator;
use super::{Outcome, refuse, span};
use crate::trust::{Source, TrustConfig};

/// Shortest time without a proof that is suspicious: three questions, each of which the link may take a while to carry.
const FREEZE_MIN: Duration = Duration::from_secs(1);
const FREEZE_MAX: Duration = Duration::from_hours(7 * 24);

pub(super) fn trust(raw: &RawCoordinator) -> Outcome<TrustConfig> {
    span(
        "coordinator.freeze_after",
        raw.freeze_after,
        FREEZE_MIN,
        FREEZE_MAX,
    )?;
    let keys = parse_keys("coordinator.keys", &raw.keys)?;
    let source = match (&raw.root, &raw.trust_file) {
        (None, None) if keys.is_empty() => Source::Keys(None),
        (None, None) => Source::Keys(Some(role("coordinator.keys", keys, 1)?)),
        (Some(root), None) => {
            refuse_keys(&keys)?;
            let keys = parse_keys("coordinator.root.keys", &root.keys)?;
            Source::Root(Anchor::Roots(role(
                "coordinator.root",
                keys,
                root.threshold,
            )?))
        }
        (None, Some(path)) => {
            refuse_keys(&keys)?;
            Source::Root(read(path)?)
        }
        (Some(_), Some(path)) => {
            return refuse(
                "coordinator.trust_file",
                path.display(),
                "left out where coordinator.root is set",
            );
        }
    };
    Ok(TrustConfig {
        source,
        freeze_after: raw.freeze_after,
    })
}

/// Release keys beside a root would stay trusted whatever the root revokes.
fn refuse_keys(keys: &[PublicKey]) -> Outcome<()> {
    match keys.first() {
        Some(key) => refuse(
            "coordinator.keys",
            key,
            "empty where coordinator.root or coordinator.trust_file is set: the trust documents name the release keys",
        ),
        None => Ok(()),
    }
}

fn parse_keys(name: &str, texts: &[String]) -> Outcome<Vec<PublicKey>> {
    let mut keys = Vec::new();
    for (at, key) in texts.iter().enumerate() {
        let Ok(key) = key.parse() else {
            let wanted = "a public key as `lamppost serve` prints it: \"ed25519:\" and 44 characters of base64";
            return refuse(format!("{name}[{at}]"), format!("{key:?}"), wanted);
        };
        keys.push(key);
    }
    Ok(keys)
}

fn role(name: &str, keys: Vec<PublicKey>, threshold: usize) -> Outcome<Role> {
    let count = keys.len();
    match Role::new(keys, threshold) {
        Ok(role) => Ok(role),
        Err(error) => refuse(
            name,
            format!("{count} keys with threshold {threshold}"),
            format!("a role ({error})"),
        ),
    }
}

/// The newest document of a file: it is on this machine, as the configuration is.
fn read(path: &Path) -> Outcome<Anchor> {
    use std::io::Read as _;
    let mut json = Vec::new();
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(CHAIN_BYTES_MAX as u64 + 1).read_to_end(&mut json));
    let wanted = "a trust chain, as `lamppost keys` writes it";
    if let Err(error) = read {
        return refuse(
            "coordinator.trust_file",
            path.display(),
            format!("{wanted} ({error})"),
        );
    }
    match Chain::read(&json).and_then(|chain| chain.check()) {
        Ok(newest) => Ok(Anchor::Document(newest)),
        Err(error) => {
            let why = crate::error_chain(&error);
            refuse(
                "coordinator.trust_file",
                path.display(),
                format!("{wanted} ({why})"),
            )
        }
    }
}
