//! The broker as a program of its own.

mod cli;

use anyhow::Context;
use clap::Parser;
use lamppost_broker::Broker;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // The router's spans cost more than its work.
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,rumqttd=off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let config = cli::Cli::parse().config()?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let broker = Broker::start(config).await?;
    if let Some(address) = broker.local_addr() {
        println!("listening on {address}");
    }
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    tracing::info!(stats = ?broker.stats(), "stopping");
    broker.stop().await;
    Ok(())
}
