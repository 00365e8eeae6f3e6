//! The command line as it is typed.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use lamppost_coordinator_core::rollout::audit::Actor;
use lamppost_coordinator_core::rollout::campaign::Reason;
use lamppost_coordinator_core::rollout::policy::Bytes;
use lamppost_coordinator_core::whatif::Behaviour;
use lamppost_models::{Digest, GroupId, ModelName, NodePath, StreamName};
use semver::Version;

use crate::api::{BundleName, Position};
use crate::config::BrokerUrl;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed or refused: what was asked for did not happen, or a node refused it
  2  the command line is wrong
  3  the server cannot be reached
  4  there is no such model, version, rollout, node or file
  5  the token is missing or wrong
  6  the time given with --timeout was over
  7  records are missing and nothing explains it (`lamppost ledger`)
  8  the audit log is not what was written (`lamppost audit verify`)";

/// Puts models on a fleet of edge nodes: the coordinator (`lamppost serve`) and its command line.
#[derive(Debug, Parser)]
#[command(name = "lamppost", version, after_help = EXIT_CODES, max_term_width = 100, subcommand_required = true, arg_required_else_help = true)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Options for every command")]
pub(super) struct Global {
    /// The coordinator's API
    #[arg(
        long,
        global = true,
        env = "LAMPPOST_SERVER",
        hide_env_values = true,
        default_value = "http://127.0.0.1:7880",
        value_name = "URL"
    )]
    pub(super) server: String,
    /// The coordinator's token, if it wants one
    #[arg(
        long,
        global = true,
        env = "LAMPPOST_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN"
    )]
    pub(super) token: Option<String>,
    /// Who you are, for the audit log; your user name and this machine's unless given
    #[arg(
        long,
        global = true,
        env = "LAMPPOST_BY",
        hide_env_values = true,
        value_name = "NAME"
    )]
    pub(super) by: Option<Actor>,
    /// Print JSON instead of text for people
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// What to log to stderr, such as `debug` or `info,lamppost_coordinator=trace`
    #[arg(
        long,
        global = true,
        env = "LAMPPOST_LOG",
        hide_env_values = true,
        value_name = "FILTER"
    )]
    pub(super) log: Option<String>,
    /// How to log
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Human, value_name = "FORMAT")]
    pub(super) log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// Lines for people
    Human,
    /// An object a line
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the coordinator: broker, registry and API
    Serve(Serve),
    /// Push, list and check models
    #[command(subcommand)]
    Model(Model),
    Train(Box<super::forge::args::Train>),
    Compress(Box<super::forge::args::Compress>),
    /// Train a model again when that is worth it, and bring what is better to the edge
    #[command(subcommand)]
    Loop(super::learning::args::Loop),
    /// Bring a version of a model to a group of nodes, and lead it there
    #[command(subcommand)]
    Rollout(Rollout),
    /// Play a rollout on a simulated fleet, before it begins
    Sim(Sim),
    /// Look at nodes
    #[command(subcommand)]
    Node(Node),
    /// Look at stored predictions
    #[command(subcommand)]
    Prediction(Prediction),
    /// List, label, export and forget what nodes kept for training
    #[command(subcommand)]
    Samples(super::samples::args::Samples),
    /// Account for every record that nodes made: delivered, lost and why, on its way, or missing
    Ledger(Ledger),
    /// Read who did what: the audit log, oldest first
    Audit(Audit),
    /// Print messages as they come, topic and payload
    Watch(Watch),
    /// Print the public key that agents trust, for `coordinator.keys` in agent.toml
    Key,
    /// Make, replace and revoke the keys that nodes trust
    #[command(subcommand)]
    Keys(super::keys::args::Keys),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Check a bundle in this process; `serve` starts it for each push
    #[command(name = crate::preflight::COMMAND, hide = true)]
    CheckBundle {
        /// The bundle
        file: PathBuf,
    },
}

#[derive(Debug, ClapArgs)]
pub(super) struct Serve {
    /// Configuration; without one, every key has its default
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Where store, artifacts and signing key are, in place of `data_dir`
    #[arg(long, value_name = "DIR")]
    pub(super) data_dir: Option<PathBuf>,
    /// Where the API listens, in place of `http.listen`
    #[arg(long, value_name = "ADDRESS")]
    pub(super) http: Option<SocketAddr>,
    /// Where the embedded broker listens, in place of `broker.listen`
    #[arg(long, value_name = "ADDRESS", conflicts_with = "broker")]
    pub(super) mqtt: Option<SocketAddr>,
    /// Use an external broker: mqtt://HOST:PORT, or mqtts://USER:PASSWORD@HOST:PORT
    #[arg(
        long,
        value_name = "URL",
        env = "LAMPPOST_BROKER",
        hide_env_values = true
    )]
    pub(super) broker: Option<BrokerUrl>,
    /// Let the API listen beyond loopback without a token
    #[arg(long)]
    pub(super) expose_without_token: bool,
    /// Write the addresses there as JSON once the coordinator serves
    #[arg(long, value_name = "FILE")]
    pub(super) ready_file: Option<PathBuf>,
    /// Arguments in front of `check-bundle` when a bundle is checked, for a program of several roles
    #[arg(long, value_name = "ARG", hide = true, allow_hyphen_values = true)]
    pub(super) checker_prefix: Vec<OsString>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Model {
    /// Check a bundle and take it into the registry
    Push {
        /// A bundle, or a folder with manifest.json, model.onnx and golden.json
        path: PathBuf,
    },
    /// List all versions
    Ls,
    /// Show a version with its manifest
    Inspect {
        /// The model
        model: ModelName,
        /// Its version
        version: Version,
    },
    /// Show where a version comes from: samples, seed, code, parents, and what was measured
    Provenance {
        /// The model
        model: ModelName,
        /// Its version
        version: Version,
    },
    /// Check a bundle on this machine, as nodes do; nothing is sent
    Verify {
        /// A bundle, or a folder with manifest.json, model.onnx and golden.json
        path: PathBuf,
    },
    /// Pack a folder into a bundle
    Pack {
        /// The folder with manifest.json, model.onnx and golden.json
        folder: PathBuf,
        /// The bundle to write
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Rollout {
    /// Show what a rollout would do: waves, nodes, bytes, time, and what to think of
    Plan {
        #[command(flatten)]
        what: What,
        #[command(flatten)]
        spread: Spread,
    },
    /// Bring a version to a group
    ///
    /// The first version of a model, and one for a single node, goes out at once. What replaces a version that several nodes
    /// run goes in waves: 5 %, 25 % and all of them, each judged by what its nodes report. --policy has it go otherwise.
    Start {
        #[command(flatten)]
        what: What,
        #[command(flatten)]
        spread: Spread,
        #[command(flatten)]
        wait: Wait,
    },
    /// Show how far a rollout and each node of the group are
    Status {
        #[command(flatten)]
        which: Which,
        /// Go on until the rollout is over: a table that is refreshed, or a line for each change when stdout is no terminal.
        /// Fails when the rollout is aborted
        #[arg(long)]
        watch: bool,
    },
    /// List what each group runs, and what is under way
    Ls,
    /// Have a rollout take no further step until it is resumed
    Pause {
        #[command(flatten)]
        which: Which,
    },
    /// Have a rollout that is paused or held go on
    Resume {
        #[command(flatten)]
        which: Which,
    },
    /// Agree to what follows a wave that waits for somebody
    Approve {
        #[command(flatten)]
        which: Which,
    },
    /// End a rollout before it is through
    Abort {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        ending: EndingArgs,
    },
    /// Have the whole group run the candidate now, whatever waves and gates are left
    Promote {
        #[command(flatten)]
        which: Which,
    },
    /// Have a group run again what it ran before, or any version, at once
    Rollback {
        #[command(flatten)]
        which: Which,
        /// The version; what the group ran before unless given
        #[arg(long, value_name = "VERSION")]
        to: Option<Version>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Have a bundle run nowhere in a group any more, whatever happens later
    ///
    /// Nodes leave it at once, at any hour and without a trial of what they go back to. A rollout of it ends. What the group runs
    /// as its stable version can only be revoked with --to.
    Revoke {
        #[command(flatten)]
        which: Which,
        /// The bundle: its version in the registry, or its digest
        #[arg(value_name = "VERSION|DIGEST")]
        bundle: BundleName,
        /// What the group is to run instead, when the bundle is what it runs
        #[arg(long, value_name = "VERSION")]
        to: Option<Version>,
        /// Why, for the audit log
        #[arg(long, value_name = "TEXT")]
        reason: Reason,
        #[command(flatten)]
        wait: Wait,
    },
}

/// A version for a group.
#[derive(Clone, Debug, ClapArgs)]
pub(super) struct What {
    /// The model
    pub(super) model: ModelName,
    /// The version
    pub(super) version: Version,
    /// The group
    #[arg(long, default_value = "all")]
    pub(super) group: GroupId,
}

/// A model in a group.
#[derive(Clone, Debug, ClapArgs)]
pub(super) struct Which {
    /// The model
    pub(super) model: ModelName,
    /// The group
    #[arg(long, default_value = "all")]
    pub(super) group: GroupId,
}

/// How a version spreads.
#[derive(Clone, Debug, ClapArgs)]
pub(super) struct Spread {
    /// Waves and gates, as TOML: configs/policies/canary.toml has every key
    #[arg(long, value_name = "FILE")]
    pub(super) policy: Option<PathBuf>,
    /// The whole group now, with no waves, also where no node is in it yet
    #[arg(long, conflicts_with = "policy")]
    pub(super) all_at_once: bool,
}

/// What becomes of nodes that have the candidate.
#[derive(Clone, Copy, Debug, ClapArgs)]
#[group(required = true, multiple = false)]
pub(super) struct EndingArgs {
    /// Nodes that have the candidate keep it, and no others get it
    #[arg(long)]
    pub(super) keep: bool,
    /// Nodes that have the candidate go back to what they ran before
    #[arg(long)]
    pub(super) revert: bool,
}

/// Play a rollout on a simulated fleet, before it begins
///
/// The rollout engine is the coordinator's own; nodes, links, labels and time are simulated, from a seed. The fleet is the
/// coordinator's as it is now, or that of a file; nothing is changed anywhere.
#[derive(Debug, ClapArgs)]
pub(super) struct Sim {
    #[command(flatten)]
    pub(super) what: What,
    /// Waves and gates, as TOML; the built-in ones after a first wave of one node unless given
    #[arg(long, value_name = "FILE")]
    pub(super) policy: Option<PathBuf>,
    /// Links and nodes, as TOML: configs/fleet.toml has every key
    #[arg(long, value_name = "FILE")]
    pub(super) fleet: Option<PathBuf>,
    /// Size of the bundle, such as 40kB; that of the version in the registry unless given
    #[arg(long, value_name = "SIZE")]
    pub(super) bytes: Option<Bytes>,
    /// How good the version is: fine, crashes, worse=PER CENT (of error), slow=TIMES
    #[arg(long, value_name = "HOW", default_value = "fine")]
    pub(super) candidate: Behaviour,
    /// Nodes that are away all the time, besides those that are away now, in per cent
    #[arg(long, value_name = "PER CENT", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(super) away: u8,
    /// How often a node reports
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = report_every)]
    pub(super) report_every: Duration,
    /// Windows of a node in an hour
    #[arg(long, value_name = "NUMBER", default_value_t = 60.0, value_parser = windows_per_hour)]
    pub(super) windows_per_hour: f64,
    /// Labels of a node in an hour
    #[arg(long, value_name = "NUMBER", default_value_t = 60.0, value_parser = labels_per_hour)]
    pub(super) labels_per_hour: f64,
    /// How many runs
    #[arg(long, value_name = "NUMBER", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(super) runs: u16,
    /// The seed of the first run; the others have those that follow
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub(super) seed: u64,
}

#[derive(Debug, ClapArgs)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Audit {
    #[command(subcommand)]
    pub(super) what: Option<AuditCommand>,
    /// Only what was done within this time, or since an instant
    #[arg(long, value_name = "TIME")]
    pub(super) since: Option<String>,
    /// How many entries; the newest 50 unless given, and with --since all
    #[arg(long, value_name = "NUMBER")]
    pub(super) limit: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Check on this machine that no entry was changed, left out or put in
    ///
    /// Each entry holds the hash of the one before. Whoever can write the coordinator's store could write the whole log anew:
    /// note a hash that this prints elsewhere, and give it with --holds later.
    Verify {
        /// A hash that was noted earlier: it must be in the log still
        #[arg(long, value_name = "HASH")]
        holds: Option<Digest>,
    },
}

#[derive(Clone, Copy, Debug, ClapArgs)]
pub(super) struct Wait {
    /// Wait until every node that can be reached runs it or refused it
    #[arg(long)]
    pub(super) wait: bool,
    /// How long to wait
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = humantime::parse_duration, requires = "wait")]
    pub(super) timeout: Duration,
}

#[derive(Debug, Subcommand)]
pub(super) enum Node {
    /// List all nodes
    Ls,
    /// Show what a node said of itself
    Show {
        /// The node
        #[arg(value_name = "SITE/NODE", value_parser = node_path)]
        node: NodePath,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Prediction {
    /// List the newest predictions of a node
    Ls {
        /// The node
        #[arg(value_name = "SITE/NODE", value_parser = node_path)]
        node: NodePath,
        /// Of this stream alone
        #[arg(long)]
        stream: Option<StreamName>,
        /// How many
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
        limit: u16,
        /// Only what was stored before this one; the last line of a list says where to go on
        #[arg(long, value_name = "POSITION")]
        before: Option<Position>,
    },
}

/// Account for every record that nodes made: delivered, lost and why, on its way, or missing
///
/// PRODUCED is the sum of the other columns but DUPLICATED, which came again and was dropped. A record is MISSING when
/// the node numbered it and neither holds it nor told why it is lost: that is an error, and the exit code is 7.
#[derive(Debug, ClapArgs)]
pub(super) struct Ledger {
    /// One node alone
    #[arg(value_name = "SITE/NODE", value_parser = node_path)]
    pub(super) node: Option<NodePath>,
    /// Only runs of the agent of which something came within this time, each as a whole; sums of old runs carry no time
    /// and are left out
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(super) since: Option<Duration>,
    /// This stream alone
    #[arg(long)]
    pub(super) stream: Option<StreamName>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Watch {
    /// An MQTT topic filter, such as `lamppost/v1/nodes/+/+/pred/#`
    #[arg(value_name = "TOPIC FILTER")]
    pub(super) filter: String,
    /// End after this many messages
    #[arg(long, value_name = "NUMBER")]
    pub(super) count: Option<u64>,
}

/// More seldom than a day tells nothing, and each report of each node is an event that is played.
fn report_every(text: &str) -> Result<Duration, String> {
    let every = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let fits = (Duration::from_secs(1)..=Duration::from_hours(24)).contains(&every);
    fits.then_some(every)
        .ok_or_else(|| "it is not from 1s to 1day".to_owned())
}

fn windows_per_hour(text: &str) -> Result<f64, String> {
    per_hour(text)
        .filter(|number| *number > 0.0)
        .ok_or_else(|| "it is not a number above 0 and up to 3600".to_owned())
}

fn labels_per_hour(text: &str) -> Result<f64, String> {
    per_hour(text).ok_or_else(|| "it is not a number from 0 to 3600".to_owned())
}

/// Most: one a second, each of which is drawn.
fn per_hour(text: &str) -> Option<f64> {
    let number: f64 = text.parse().ok()?;
    (0.0..=3600.0).contains(&number).then_some(number)
}

pub(super) fn node_path(text: &str) -> Result<NodePath, String> {
    let (site, node) = text.split_once('/').ok_or("a node is written SITE/NODE")?;
    let site = site
        .parse()
        .map_err(|error: lamppost_models::id::ParseNameError| error.to_string())?;
    let node = node
        .parse()
        .map_err(|error: lamppost_models::id::ParseNameError| error.to_string())?;
    Ok(NodePath { site, node })
}
