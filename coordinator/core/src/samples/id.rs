//! What names a sample.

use std::fmt;
use std::str::FromStr;

use lamppost_models::{BootId, NodePath, StreamName};

/// Names one sample for ever: the node and stream it comes from, the run of the agent, and its number there.
///
/// On the wire it is `<site>/<node>/<stream>/<boot>-<seq>`. Samples are kept and listed in this order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SampleId {
    /// The node.
    pub path: NodePath,
    /// The stream.
    pub stream: StreamName,
    /// The agent's run.
    pub boot: BootId,
    /// Counts the samples of this stream in this run, from 0.
    pub seq: u64,
}

/// Why a string is no sample id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "sample id {value:?} is not <site>/<node>/<stream>/<16 hexadecimal digits>-<number>, as lists and exports have it"
)]
pub struct ParseSampleIdError {
    value: String,
}

impl fmt::Display for SampleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            stream,
            boot,
            seq,
        } = self;
        write!(f, "{path}/{stream}/{boot}-{seq}")
    }
}

impl FromStr for SampleId {
    type Err = ParseSampleIdError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let levels: Vec<&str> = value.splitn(4, '/').collect();
            let &[site, node, stream, number] = levels.as_slice() else {
                return None;
            };
            let (boot, seq) = number.split_once('-')?;
            Some(Self {
                path: NodePath {
                    site: site.parse().ok()?,
                    node: node.parse().ok()?,
                },
                stream: stream.parse().ok()?,
                boot: boot.parse().ok()?,
                seq: seq.parse().ok()?,
            })
        };
        // Written back it is the same, or a number had a sign or zeros in front.
        parse()
            .filter(|id| id.to_string() == value)
            .ok_or_else(|| ParseSampleIdError {
                value: value.chars().take(300).collect(),
            })
    }
}

lamppost_models::as_text!(SampleId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_as_it_is_written_and_nothing_else() {
        let text = "minneapolis/gw-1/i94/9f3a1c2b4d5e6f70-42";
        let id: SampleId = text.parse().unwrap();
        assert_eq!((id.to_string().as_str(), id.seq), (text, 42));
        for wrong in [
            "",
            "a/b/c",
            "a/b/c/9f3a1c2b4d5e6f70",
            "a/b/c/9f3a1c2b4d5e6f70-",
            "a/b/c/9f3a1c2b4d5e6f70-042",
            "a/b/c/9f3a1c2b4d5e6f70-+4",
            "a/b/c/9F3a1c2b4d5e6f70-4",
            "a/b/c/d/9f3a1c2b4d5e6f70-4",
            "a//c/9f3a1c2b4d5e6f70-4",
        ] {
            assert!(wrong.parse::<SampleId>().is_err(), "{wrong}");
        }
        let long = "x".repeat(9_000).parse::<SampleId>().unwrap_err();
        assert!(long.to_string().len() < 500);
    }

    #[test]
    fn numbers_are_ordered_as_numbers() {
        let at = |text: &str| text.parse::<SampleId>().unwrap();
        assert!(at("a/b/c/0000000000000001-9") < at("a/b/c/0000000000000001-10"));
        assert!(at("a/b/c/0000000000000001-9") < at("a/b/d/0000000000000000-0"));
    }
}
