//! `lamppost samples` as it is typed.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use lamppost_models::message::SamplePolicy;
use lamppost_models::{ModelName, NodePath, SiteId, StreamName, Timestamp};

use crate::cli::args::node_path;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Samples {
    /// List what is stored, by model and stream
    Ls,
    /// Say what came true, or take it back
    ///
    /// FILE is CSV with the columns id and label, or NDJSON with {"id","label"} a line. In CSV a label that reads as a number is
    /// one, and an empty one takes back what was said here before; NDJSON has numbers, texts and null. What is said here counts
    /// before what the node says.
    Label {
        /// The labels
        file: PathBuf,
    },
    /// Write samples to a file, whole or not at all
    Export {
        #[command(flatten)]
        which: Which,
        /// How: csv has the window in columns FIELD@-K, K readings before the newest; ndjson has everything
        #[arg(long, value_enum, default_value_t = Format::Ndjson, value_name = "FORMAT")]
        format: Format,
        /// The file
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Delete samples for good
    Forget {
        #[command(flatten)]
        which: Which,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Format {
    /// A table
    Csv,
    /// An object a line
    Ndjson,
}

/// Which samples.
#[derive(Clone, Debug, ClapArgs)]
pub(in crate::cli) struct Which {
    /// Of this model
    #[arg(long)]
    model: Option<ModelName>,
    /// Of this stream
    #[arg(long)]
    stream: Option<StreamName>,
    /// Of this site
    #[arg(long, conflicts_with = "node")]
    site: Option<SiteId>,
    /// Of this node
    #[arg(long, value_name = "SITE/NODE", value_parser = node_path)]
    node: Option<NodePath>,
    /// Kept by this policy: all, random, uncertain, disagreeing or rare
    #[arg(long, value_parser = policy)]
    policy: Option<SamplePolicy>,
    /// With a label (true) or without one (false)
    #[arg(long, value_name = "BOOL")]
    labelled: Option<bool>,
    /// Event time from this instant on, such as 2026-11-25T04:00:00Z
    #[arg(long, value_name = "TIME")]
    from: Option<Timestamp>,
    /// Event time before this instant
    #[arg(long, value_name = "TIME")]
    to: Option<Timestamp>,
}

impl Which {
    /// As the API is asked.
    pub(in crate::cli) fn query(&self) -> Vec<(&'static str, String)> {
        let text = |key, value: Option<String>| value.map(|value| (key, value));
        let node = self.node.as_ref();
        let site = node.map(|path| &path.site).or(self.site.as_ref());
        let policy = self.policy.map(super::tables::word);
        [
            text("model", self.model.as_ref().map(ToString::to_string)),
            text("stream", self.stream.as_ref().map(ToString::to_string)),
            text("site", site.map(ToString::to_string)),
            text("node", node.map(|path| path.node.to_string())),
            text("policy", policy),
            text("labelled", self.labelled.map(|flag| flag.to_string())),
            text("from", self.from.map(|from| from.to_string())),
            text("to", self.to.map(|to| to.to_string())),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

fn policy(text: &str) -> Result<SamplePolicy, String> {
    serde_json::from_value(text.into())
        .map_err(|_| "a policy is all, random, uncertain, disagreeing or rare".to_owned())
}
