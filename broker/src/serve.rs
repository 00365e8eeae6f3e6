//! The broker's life as a program: it starts, listens to signals, and stops.

use crate::cli::Cli;
use anyhow::Context as _;
use lamppost_broker::{Broker, log_filter};
use std::io::IsTerminal as _;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};
use tracing_subscriber::EnvFilter;

/// Serves until SIGINT or SIGTERM; SIGHUP reads the configuration again.
pub(crate) async fn serve(cli: &Cli) -> anyhow::Result<()> {
    let wanted = std::env::var("LAMPPOST_LOG").unwrap_or_else(|_| "info".to_owned());
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(log_filter(&wanted)))
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let config = cli.config()?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot wait for SIGHUP")?;
    let broker = Broker::start(config).await?;
    for address in broker.local_addrs() {
        println!("listening on {address}");
    }
    if let Some(address) = broker.metrics_addr() {
        println!("metrics on http://{address}/metrics");
    }
    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            received = hangup.recv() => match received {
                Some(()) => reload(&broker, cli).await,
                None => break,
            }
        }
    }
    info!(stats = ?broker.stats(), "stopping");
    broker.stop().await;
    Ok(())
}

/// All that SIGHUP does. What is wrong is logged, and the broker goes on with what it has.
async fn reload(broker: &Broker, cli: &Cli) {
    let reloaded = match cli.config() {
        Ok(config) => broker.reload(config).await.map_err(anyhow::Error::from),
        Err(error) => Err(anyhow::Error::from(error).context("the configuration is as it was")),
    };
    if let Err(error) = reloaded {
        error!("{error:#}");
    }
}
