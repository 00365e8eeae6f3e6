//! A broker in a process of its own, which lets everybody in: what stands between nodes and a coordinator in a larger fleet.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use lamppost_broker::Broker;

#[derive(Debug, Parser)]
#[command(name = "broker")]
struct Args {
    /// Where its address is written once it serves.
    #[arg(long)]
    ready_file: PathBuf,
    /// Where it keeps retained messages over a restart.
    #[arg(long)]
    state_dir: PathBuf,
}

/// Serves until the process ends.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match serve(&Args::parse_from(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("broker: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(args: &Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let broker = Broker::start(lamppost_broker::Config {
            listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
            allow_anonymous: true,
            // Nodes and coordinator come without names here, and publish below the topic root.
            protected: Vec::new(),
            state_dir: Some(args.state_dir.clone()),
            ..Default::default()
        })
        .await?;
        let addr = broker.local_addr().context("an address")?;
        let new = args.ready_file.with_extension("new");
        std::fs::write(&new, addr.to_string())?;
        std::fs::rename(&new, &args.ready_file)?;
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?
            .recv()
            .await;
        broker.stop().await;
        Ok(())
    })
}
