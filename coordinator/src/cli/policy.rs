//! A policy from a file.

use std::path::Path;

use lamppost_coordinator_core::rollout::policy::{POLICY_NAME_BYTES_MAX, Policy};

use super::{Exit, Failure};

/// Longest file that is read: a policy with its comments has some 5 kB.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// Reads a policy; one without a name is called as its file.
pub(super) fn read(path: &Path) -> Result<Policy, Failure> {
    let shown = path.display();
    let failed = |error: std::io::Error| {
        let exit = if error.kind() == std::io::ErrorKind::NotFound {
            Exit::NotFound
        } else {
            Exit::Failed
        };
        Failure::new(exit, format!("policy {shown}: {error}"))
    };
    let bytes = std::fs::metadata(path).map_err(failed)?.len();
    if bytes > FILE_BYTES_MAX {
        let text = format!("policy {shown} has {bytes} bytes, the limit is {FILE_BYTES_MAX}");
        return Err(Failure::new(Exit::Failed, text));
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let mut policy: Policy = toml::from_str(&text)
        .map_err(|error| Failure::new(Exit::Failed, format!("policy {shown}: {error}")))?;
    if policy.name.is_empty()
        && let Some(stem) = path.file_stem().and_then(|stem| stem.to_str())
    {
        let end = stem.floor_char_boundary(POLICY_NAME_BYTES_MAX);
        stem.get(..end)
            .unwrap_or_default()
            .clone_into(&mut policy.name);
    }
    policy
        .check()
        .map_err(|error| Failure::new(Exit::Failed, format!("{shown}: {error}")))?;
    Ok(policy)
}
