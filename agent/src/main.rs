//! `lamppost-agent`: the agent of one node.

use std::process::ExitCode;

fn main() -> ExitCode {
    lamppost_agent::cli::main(std::env::args_os())
}
