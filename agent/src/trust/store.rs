//! What a node remembers of trust documents and times: `trust.json`.
//!
//! As a slot record, it is one line, `lamppost-trust 1 sha256:<hex>`, and JSON whose digest the line has; written beside the
//! old one, synced and renamed, and the old one stays as `.old`.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use lamppost_agent_core::fresh::SavedTime;
use lamppost_models::{Digest, Trust, V1};
use serde::{Deserialize, Serialize};

use super::Source;

const HEADER: &str = "lamppost-trust 1 ";
/// Largest file that is read: a document with two roles of 16 keys has some 3 kB.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// The file.
#[derive(Clone, Debug)]
pub(super) struct Store {
    dir: PathBuf,
    /// Digest of what the node was set up with: another root begins anew.
    source: Digest,
}

/// What is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Remembered {
    pub(super) trust: Option<Trust>,
    pub(super) time: Option<SavedTime>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    schema: V1,
    source: Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trust: Option<Trust>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    time: Option<SavedTime>,
}

impl Store {
    /// Reads what is remembered; of another source than this, only the time.
    pub(super) fn open(dir: &Path, source: &Source) -> io::Result<(Self, Remembered)> {
        let store = Self {
            dir: dir.to_owned(),
            source: Digest::of(format!("{source:?}").as_bytes()),
        };
        let mut remembered = Remembered::default();
        for path in [store.path("json"), store.path("json.old")] {
            let Some(bytes) = read(&path)? else { continue };
            if let Some(record) = parse(&bytes) {
                remembered.time = record.time;
                if record.source == store.source {
                    remembered.trust = record.trust;
                } else {
                    tracing::info!(
                        "the configured root or keys are others than before: trust begins anew with them"
                    );
                }
                break;
            }
            tracing::error!(path = %path.display(), "what was remembered of trust and time is damaged, and not used");
        }
        Ok((store, remembered))
    }

    pub(super) fn save(&self, remembered: &Remembered) -> io::Result<()> {
        let json = serde_json::to_vec_pretty(&Record {
            schema: V1,
            source: self.source,
            trust: remembered.trust.clone(),
            time: remembered.time.clone(),
        })?;
        let (new, path) = (self.path("json.new"), self.path("json"));
        let mut file = File::create(&new)?;
        file.write_all(format!("{HEADER}{}\n", Digest::of(&json)).as_bytes())?;
        file.write_all(&json)?;
        file.sync_all()?;
        match fs::rename(&path, self.path("json.old")) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        fs::rename(&new, &path)?;
        File::open(&self.dir)?.sync_all()
    }

    fn path(&self, suffix: &str) -> PathBuf {
        self.dir.join(format!("trust.{suffix}"))
    }
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// The record, if it is whole.
fn parse(bytes: &[u8]) -> Option<Record> {
    let line_end = bytes.iter().position(|&byte| byte == b'\n')?;
    let (line, rest) = bytes.split_at(line_end);
    let wanted: Digest = std::str::from_utf8(line)
        .ok()?
        .strip_prefix(HEADER)?
        .parse()
        .ok()?;
    let json = rest.strip_prefix(b"\n")?;
    (Digest::of(json) == wanted).then(|| serde_json::from_slice(json).ok())?
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lamppost_models::key::{Role, SecretKey};
    use lamppost_models::trust::{Anchor, TrustVersion};

    use super::*;

    fn source(seed: u8) -> (Source, Trust) {
        let role = Role::new(vec![SecretKey::from_seed(&[seed; 32]).public()], 1).unwrap();
        let trust = Trust {
            schema: V1,
            version: TrustVersion(3),
            issued_at: lamppost_models::Timestamp::EPOCH,
            expires_at: None,
            root: role.clone(),
            release: role.clone(),
        };
        (Source::Root(Anchor::Roots(role)), trust)
    }

    #[test]
    fn it_is_remembered_until_the_root_is_another_and_damage_costs_the_newest_at_most() {
        let dir = tempfile::tempdir().unwrap();
        let (one, trust) = source(1);
        let (store, nothing) = Store::open(dir.path(), &one).unwrap();
        assert_eq!(nothing, Remembered::default());
        let time = |minutes| {
            Some(SavedTime {
                time: lamppost_models::Timestamp::EPOCH.after(Duration::from_mins(minutes)),
                keys: vec!["a".to_owned()],
            })
        };
        let first = Remembered {
            trust: Some(trust.clone()),
            time: time(1),
        };
        store.save(&first).unwrap();
        let second = Remembered {
            trust: Some(trust),
            time: time(2),
        };
        store.save(&second).unwrap();
        assert_eq!(Store::open(dir.path(), &one).unwrap().1, second);

        let other = Store::open(dir.path(), &source(2).0).unwrap().1;
        assert_eq!((other.trust, other.time), (None, time(2)));

        let path = dir.path().join("trust.json");
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert_eq!(Store::open(dir.path(), &one).unwrap().1, first);
        fs::write(dir.path().join("trust.json.old"), b"").unwrap();
        assert_eq!(
            Store::open(dir.path(), &one).unwrap().1,
            Remembered::default()
        );
    }
}
