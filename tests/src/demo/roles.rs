//! One executable that plays every role: the demo itself, an agent, a coordinator and its CLI, a broker.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;

use super::args::Args;
use super::children::{TIED, tie_to_parent};
use crate::torture::broker;

/// Whether these arguments name a role other than the program's own.
pub fn is_one(args: &[OsString]) -> bool {
    let roles = [TIED, "agent", "broker", "coordinator"];
    let word = args.get(1).and_then(|word| word.to_str());
    word.is_some_and(|word| roles.contains(&word))
}

/// Plays the role that the first argument names; the demo when it names none.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args: Vec<OsString> = args.into_iter().collect();
    if args.get(1).is_some_and(|word| word == TIED) {
        args.remove(1);
        tie_to_parent();
    }
    let role = args
        .get(1)
        .and_then(|word| word.to_str())
        .map(str::to_owned);
    match role.as_deref() {
        Some("agent") => {
            lamppost_agent::cli::main_within(args_of("lamppost-agent", args), &["agent".into()])
        }
        Some("broker") => broker::main(args_of("broker", args)),
        Some("coordinator") => lamppost_coordinator::cli::main(args_of("lamppost", args)),
        _ => super::run(&Args::parse_from(args)),
    }
}

/// The arguments as the role's own executable would have them.
fn args_of(name: &str, args: Vec<OsString>) -> impl Iterator<Item = OsString> + use<> {
    std::iter::once(OsString::from(name)).chain(args.into_iter().skip(2))
}
