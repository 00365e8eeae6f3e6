//! The broker as a program of its own.

mod cli;
mod serve;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lamppost-broker: {error:#}");
            ExitCode::FAILURE
        }
    }
}
