//! The demo of Lamppost, in one executable that plays every role: `cargo demo`.

use std::process::ExitCode;

fn main() -> ExitCode {
    lamppost_tests::demo::roles::main(std::env::args_os())
}
