//! What is revoked, as clients say it.

use std::fmt;
use std::str::FromStr;

use lamppost_coordinator_core::rollout::campaign::Reason;
use lamppost_models::Digest;
use semver::Version;
use serde::{Deserialize, Serialize};

/// A bundle of a model: by its version in the registry, or by its digest, `sha256:..`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BundleName {
    /// This version of the registry.
    Version(Version),
    /// These bytes.
    Digest(Digest),
}

/// Why a string names no bundle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{value:?} is neither a version, such as 1.1.0, nor a digest, sha256: and 64 hexadecimal digits"
)]
pub struct ParseBundleNameError {
    value: String,
}

/// Asks that a bundle runs nowhere in a group any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokeBundle {
    /// Which.
    pub bundle: BundleName,
    /// Why, for the audit log.
    pub reason: Reason,
    /// What the group is to run instead, when the bundle is what it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Version>,
}

impl fmt::Display for BundleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => version.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

impl FromStr for BundleName {
    type Err = ParseBundleNameError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        // No version has a colon.
        let version = value.parse().ok().map(Self::Version);
        version
            .or_else(|| value.parse().ok().map(Self::Digest))
            .ok_or_else(|| ParseBundleNameError {
                value: value.chars().take(80).collect(),
            })
    }
}

lamppost_models::as_text!(BundleName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_a_version_or_a_digest() {
        let digest = Digest::of(b"a");
        for text in ["1.1.0", "2.0.0-rc.1+b7", &digest.to_string()] {
            assert_eq!(text.parse::<BundleName>().unwrap().to_string(), text);
        }
        for text in ["", "1.1", "latest", "sha256:abc"] {
            assert!(text.parse::<BundleName>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_reason_is_a_line_of_text() {
        let ask = |reason: &str| {
            let json = serde_json::json!({ "bundle": "1.1.0", "reason": reason });
            serde_json::from_value::<RevokeBundle>(json)
        };
        assert_eq!(ask(" reads NaN ").unwrap().reason.to_string(), "reads NaN");
        for reason in ["", "  ", "two\nlines", &"x".repeat(600)] {
            assert!(ask(reason).unwrap_err().to_string().contains("reason"));
        }
    }
}
