//! Changes of the keys that sign, as entries of the log.

use lamppost_models::key::{PublicKey, Role};
use lamppost_models::{Trust, V1};
use serde::{Deserialize, Serialize};

use super::{Act, Actor, Note};

/// Who may sign and who does, as the log told it last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trusted {
    /// Format version.
    pub v: V1,
    /// The newest trust document that is installed; without one, nodes believe the keys of their configurations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<Trust>,
    /// The keys that sign releases here.
    pub signers: Vec<PublicKey>,
}

impl Trusted {
    /// What the log is to say of the change from `before`, if there is one. The keys that a coordinator begins with are no
    /// change.
    pub fn note(&self, before: Option<&Self>, by: &Actor) -> Option<Note> {
        let known = before.and_then(|before| before.trust.as_ref());
        let document = self.trust.as_ref().filter(|trust| Some(*trust) != known);
        let document = document.map(|trust| installed(trust, known));
        let signers = before.and_then(|before| signs(&self.signers, &before.signers));
        let told: Vec<String> = document.into_iter().chain(signers).collect();
        (!told.is_empty()).then(|| Note {
            by: by.clone(),
            act: Act::Keys,
            target: None,
            words: told.join("; "),
        })
    }
}

fn installed(trust: &Trust, before: Option<&Trust>) -> String {
    let after = before.map_or_else(
        || ", the first one".to_owned(),
        |before| format!(" after {}", before.version),
    );
    let expires = trust.expires_at.map_or_else(
        || "never expires".to_owned(),
        |expires_at| format!("expires {expires_at}"),
    );
    let mut words = format!(
        "trust document {} is installed{after}: {} and {} must sign, it {expires}",
        trust.version,
        share("root", &trust.root),
        share("release", &trust.release),
    );
    for (name, role, before) in [
        (
            "release",
            &trust.release,
            before.map(|trust| &trust.release),
        ),
        ("root", &trust.root, before.map(|trust| &trust.root)),
    ] {
        let before = before.map_or(&[][..], Role::keys);
        words += &told(&format!("new {name} keys"), &without(role.keys(), before));
        words += &told(
            &format!("{name} keys no longer"),
            &without(before, role.keys()),
        );
    }
    words
}

fn signs(now: &[PublicKey], before: &[PublicKey]) -> Option<String> {
    let (new, gone) = (without(now, before), without(before, now));
    (!new.is_empty() || !gone.is_empty()).then(|| {
        let all = now.iter().map(PublicKey::id).collect::<Vec<_>>();
        let no_longer = told("no longer with", &gone);
        format!("releases are signed with {}{no_longer}", all.join(", "))
    })
}

/// How many keys of a role must sign.
fn share(name: &str, role: &Role) -> String {
    format!("{} of {} {name} keys", role.threshold(), role.keys().len())
}

fn told(what: &str, ids: &[String]) -> String {
    if ids.is_empty() {
        String::new()
    } else {
        format!(", {what} {}", ids.join(", "))
    }
}

/// Ids of the keys that are in one list and not in the other.
fn without(keys: &[PublicKey], others: &[PublicKey]) -> Vec<String> {
    let own = keys.iter().filter(|key| !others.contains(key));
    own.map(PublicKey::id).collect()
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use lamppost_models::Timestamp;
    use lamppost_models::key::SecretKey;
    use lamppost_models::trust::TrustVersion;

    use super::*;

    fn keys(seeds: &[u8]) -> Vec<PublicKey> {
        let key = |seed: &u8| SecretKey::from_seed(&[*seed; 32]).public();
        seeds.iter().map(key).collect()
    }

    fn role(seeds: &[u8], threshold: usize) -> Role {
        Role::new(keys(seeds), threshold).unwrap()
    }

    fn trusted(trust: Option<(u64, &[u8])>, signers: &[u8]) -> Trusted {
        Trusted {
            v: V1,
            trust: trust.map(|(version, release)| Trust {
                schema: V1,
                version: TrustVersion(version),
                issued_at: Timestamp::EPOCH,
                expires_at: None,
                root: role(&[1, 2, 3], 2),
                release: role(release, 1),
            }),
            signers: keys(signers),
        }
    }

    fn words(now: &Trusted, before: Option<&Trusted>) -> Option<String> {
        let note = now.note(before, &Actor::unnamed())?;
        assert_eq!((note.act, note.target), (Act::Keys, None));
        Some(note.words)
    }

    #[test]
    fn each_change_is_told_with_the_keys_that_come_and_go() {
        let plain = trusted(None, &[7]);
        let first = trusted(Some((1, &[7, 8])), &[7]);
        let second = trusted(Some((2, &[8, 9])), &[8]);
        assert_eq!(words(&plain, None), None);
        assert_eq!(words(&first, Some(&first)), None);
        assert_snapshot!(words(&first, Some(&plain)).unwrap(), @"trust document 1 is installed, the first one: 2 of 3 root keys and 1 of 2 release keys must sign, it never expires, new release keys fe812c12f3ab4ce6, 5c29b78f10a35a49, new root keys 34750f98bd59fcfc, 6a3803d5f059902a, b62e867fa2f33afe");
        assert_snapshot!(words(&second, Some(&first)).unwrap(), @"trust document 2 is installed after 1: 2 of 3 root keys and 1 of 2 release keys must sign, it never expires, new release keys dbc298251c51321b, release keys no longer fe812c12f3ab4ce6; releases are signed with 5c29b78f10a35a49, no longer with fe812c12f3ab4ce6");
        assert_snapshot!(words(&trusted(None, &[9]), Some(&plain)).unwrap(), @"releases are signed with dbc298251c51321b, no longer with fe812c12f3ab4ce6");
        // What a store forgot is told again.
        assert!(words(&second, None).unwrap().contains("the first one"));
    }

    #[test]
    fn the_longest_change_fits_into_an_entry() {
        let many = |from: u8| (from..from + 16).collect::<Vec<u8>>();
        let trust = |version, from| {
            let mut trusted = trusted(Some((version, &many(from))), &many(from));
            if let Some(trust) = &mut trusted.trust {
                trust.root = role(&many(from + 32), 16);
                trust.expires_at = Some(Timestamp::EPOCH);
            }
            trusted
        };
        let words = words(&trust(u64::MAX, 64), Some(&trust(1, 0))).unwrap();
        assert!(
            words.len() <= super::super::WORDS_BYTES_MAX,
            "{}",
            words.len()
        );
    }
}
