//! `lamppost serve`.

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::args::Serve;
use super::{Exit, Failure};
use crate::config::{Broker, Config, External};
use crate::preflight::Checker;

pub(super) fn serve(serve: Serve) -> Result<(), Failure> {
    let config = config(serve)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let shutdown = CancellationToken::new();
    let result = runtime.block_on(async {
        tokio::spawn(on_signal(shutdown.clone()));
        let (ready, _) = oneshot::channel();
        crate::run(config, shutdown.clone(), ready).await
    });
    result.map_err(|error| Failure::failed(&error))
}

/// The file with what the command line puts in its place.
fn config(serve: Serve) -> Result<Config, Failure> {
    let mut config = match &serve.config {
        Some(path) => Config::load(path)
            .map_err(|error| Failure::new(Exit::Usage, crate::error::chain(&error)))?,
        None => Config::default(),
    };
    if let Some(data_dir) = serve.data_dir {
        config.data_dir = data_dir;
    }
    if let Some(listen) = serve.http {
        config.http.listen = listen;
    }
    config.http.expose_without_token |= serve.expose_without_token;
    match (&mut config.broker, serve.mqtt, serve.broker) {
        (broker, _, Some(url)) => {
            let ca_file = match broker {
                Broker::External(External { ca_file, .. }) => ca_file.take(),
                Broker::Embedded(_) => None,
            };
            *broker = Broker::External(External { url, ca_file });
        }
        (Broker::Embedded(embedded), Some(listen), None) => embedded.listen = listen,
        (Broker::External(_), Some(_), None) => {
            let text = "--mqtt is for the embedded broker, and the configuration names an external one in broker.url";
            return Err(Failure::new(Exit::Usage, text));
        }
        (_, None, None) => {}
    }
    config.ready_file = serve.ready_file;
    config.checker = Some(Checker {
        program: std::env::current_exe()?,
        prefix: serve.checker_prefix,
    });
    config
        .validate()
        .map_err(|error| Failure::new(Exit::Usage, crate::error::chain(&error)))?;
    Ok(config)
}

/// Ctrl-C, and what systemd and Docker send.
async fn on_signal(shutdown: CancellationToken) {
    let terminated = async {
        #[cfg(unix)]
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(error) => {
                tracing::warn!(%error, "SIGTERM will not stop the coordinator gently");
                std::future::pending::<()>().await;
            }
        }
        #[cfg(not(unix))]
        std::future::pending::<()>().await;
    };
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => if let Err(error) = pressed {
            tracing::warn!(%error, "Ctrl-C will not stop the coordinator gently");
            std::future::pending::<()>().await;
        },
        () = terminated => {}
    }
    tracing::info!("stopping");
    shutdown.cancel();
}
