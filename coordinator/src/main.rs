//! The `lamppost` command: the coordinator and its command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    lamppost_coordinator::cli::main(std::env::args_os())
}
