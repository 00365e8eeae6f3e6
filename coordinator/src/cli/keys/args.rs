//! `lamppost keys` as it is typed.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use lamppost_models::key::PublicKey;

const INIT_EXAMPLES: &str = "\
Examples:
  Three root keys of which two must sign, on a machine that is kept offline:
    lamppost keys init --root-dir /media/usb/lamppost --roots 3 --threshold 2
  The same for a coordinator that has a key already (`lamppost key` prints it), so that nodes go on believing it:
    lamppost keys init --root-dir /media/usb/lamppost --release ed25519:6kpsY+KcUgq+9VB7Ey7F+ZVHdq6+vnuSQh7qaRRG0iw=
Then store each root key on a medium of its own, bring trust.json to the coordinator (`lamppost keys install`), the release
keys too (releases.signers in coordinator.toml), and give every node coordinator.root or coordinator.trust_file.";

const ROTATE_EXAMPLES: &str = "\
Examples:
  A new release key in place of the old one, at once:
    lamppost keys rotate trust.json --role release --make release-2.key --with root-1.key --with root-2.key
  The same without a moment in which releases are refused: first beside the old one, later alone:
    lamppost keys rotate trust.json --role release --make release-2.key --keep --with root-1.key --with root-2.key
    lamppost keys revoke trust.json fe812c12f3ab4ce6 --with root-1.key --with root-2.key
  New root keys: enough of the old ones and of the new ones must sign:
    lamppost keys rotate trust.json --role root --make root-4.key --make root-5.key --make root-6.key --with root-1.key
    lamppost keys sign trust.json --with root-2.key --with root-4.key --with root-5.key";

/// Keys that nodes trust: a chain of documents that offline root keys sign (docs/security.md)
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Keys {
    /// Make root keys, a release key and the first trust document; needs no coordinator and no network
    #[command(after_help = INIT_EXAMPLES)]
    Init(Init),
    /// Show a chain: its keys, and whose signatures its last document has and lacks
    Show {
        /// The file; without one, what the coordinator has installed
        chain: Option<PathBuf>,
    },
    /// Put a document with new keys for a role behind the chain in a file
    #[command(after_help = ROTATE_EXAMPLES)]
    Rotate(Rotate),
    /// Put a document without a key behind the chain in a file: nodes stop believing it as soon as they have that
    Revoke {
        /// The file of the chain
        chain: PathBuf,
        /// The key, or its id
        key: String,
        /// How many keys of the role must sign then; as before when left out
        #[arg(long, value_name = "NUMBER")]
        threshold: Option<usize>,
        #[command(flatten)]
        sign: Sign,
    },
    /// Add signatures to the last document of a chain, on one machine after the other
    Sign {
        /// The file of the chain
        chain: PathBuf,
        /// File of a root key; may be given several times
        #[arg(long = "with", value_name = "KEY FILE", required = true)]
        with: Vec<PathBuf>,
    },
    /// Install a chain, which must follow from the one that is there; the coordinator publishes it to all nodes
    Install {
        /// The file of the chain
        chain: PathBuf,
        /// Write it into the data directory of a coordinator that does not run
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Init {
    /// Where the new files go; it is made if it is not there. Secret keys can be read by their owner alone
    #[arg(long, value_name = "DIR")]
    pub(super) root_dir: PathBuf,
    /// How many root keys
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub(super) roots: usize,
    /// How many of them must sign a document
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub(super) threshold: usize,
    /// A release key that is there already; may be given several times. Without one, a key is made
    #[arg(long, value_name = "PUBLIC KEY")]
    pub(super) release: Vec<PublicKey>,
    /// How many release keys must sign a release
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub(super) release_threshold: usize,
    #[command(flatten)]
    pub(super) expiry: Expiry,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Rotate {
    /// The file of the chain
    pub(super) chain: PathBuf,
    /// Which keys
    #[arg(long)]
    pub(super) role: RoleArg,
    /// Make a key, and write its secret half to this file; may be given several times
    #[arg(long, value_name = "KEY FILE")]
    pub(super) make: Vec<PathBuf>,
    /// Take in a key that was made elsewhere; may be given several times
    #[arg(long, value_name = "PUBLIC KEY")]
    pub(super) add: Vec<PublicKey>,
    /// Keep the keys of before, too
    #[arg(long)]
    pub(super) keep: bool,
    /// How many keys of the role must sign then; as before when left out
    #[arg(long, value_name = "NUMBER")]
    pub(super) threshold: Option<usize>,
    #[command(flatten)]
    pub(super) sign: Sign,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Sign {
    /// Sign with the root key in this file; may be given several times
    #[arg(long = "with", value_name = "KEY FILE")]
    pub(super) with: Vec<PathBuf>,
    #[command(flatten)]
    pub(super) expiry: Expiry,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Expiry {
    /// After this time nodes take no release in until a newer document came; without it, never
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(super) expires_in: Option<Duration>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(in crate::cli) enum RoleArg {
    /// The keys that sign releases, on the coordinator
    Release,
    /// The keys that sign trust documents, kept offline
    Root,
}
