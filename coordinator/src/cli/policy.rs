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

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = include_str!("../../../configs/policies/canary.toml");

    /// The shipped file with every commented example switched on.
    fn with_examples() -> String {
        SHIPPED
            .lines()
            .map(|line| line.strip_prefix("#: ").unwrap_or(line))
            .fold(String::new(), |text, line| text + line + "\n")
    }

    #[test]
    fn the_shipped_policy_is_the_built_in_one() {
        let shipped: Policy = toml::from_str(SHIPPED).unwrap();
        assert_eq!(shipped, Policy::canary());
        shipped.check().unwrap();
    }

    #[test]
    fn the_examples_in_the_shipped_policy_are_valid_and_name_every_key() {
        let policy: Policy = toml::from_str(&with_examples()).unwrap();
        policy.check().unwrap();
        // What is absent is left out of the JSON, so that a key without an example shows here.
        let json = serde_json::to_value(&policy).unwrap();
        let first = &json["wave"][0];
        for (table, keys) in [
            (
                &json,
                "name wave control hours downloads_per_backhaul bytes_per_day deadline gate trial",
            ),
            (first, "share groups tags nodes soak approve deadline"),
            (
                &json["gate"],
                "min_reports reported_share_min failed_max failed_share_max crashes_max latency_ratio_max quality on_fail",
            ),
            (
                &json["gate"]["quality"],
                "kind loss_ratio_max alpha min_labels block inconclusive unlabelled",
            ),
            (
                &json["trial"],
                "latency_ratio_max latency_us_max memory_bytes_max shadow probation",
            ),
            (
                &json["trial"]["shadow"],
                "windows labels time_s_max cpu_share failures disagreement_max error_ratio_max",
            ),
            (
                &json["trial"]["probation"],
                "windows labels time_s_max failures crashes error_ratio_max",
            ),
        ] {
            let found: Vec<&String> = table.as_object().unwrap().keys().collect();
            let mut wanted: Vec<&str> = keys.split_whitespace().collect();
            wanted.sort_unstable();
            assert_eq!(found, wanted);
        }
    }

    #[test]
    fn a_file_that_is_no_policy_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("night.toml");
        std::fs::write(&path, "[[wave]]\nshare = \"100 %\"\n").unwrap();
        assert_eq!(read(&path).unwrap().name, "night");
        std::fs::write(&path, "[[wave]]\nshare = 100\n").unwrap();
        let failure = read(&path).unwrap_err();
        assert!(failure.text.contains("night.toml"), "{}", failure.text);
        std::fs::write(&path, vec![b' '; 300_000]).unwrap();
        assert!(read(&path).unwrap_err().text.contains("limit"));
        let missing = read(&dir.path().join("no.toml")).unwrap_err();
        assert_eq!(missing.exit, Exit::NotFound);
    }
}
