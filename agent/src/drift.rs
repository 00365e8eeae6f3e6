//! Each stream's drift monitor: fed by the engine and the label join, read by the report, kept over restarts.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lamppost_agent_core::drift::{DriftMonitor, DriftSpec};
use lamppost_agent_core::label::Joined;
use lamppost_engine::Engine;
use lamppost_models::message::ReportedDrift;
use lamppost_models::{Reading, StreamName, Timestamp};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

mod store;

/// How often what was seen is written down: a power cut costs the last hour of a reference of weeks. A monitor has at most
/// some 200 kB.
const SAVE_EVERY: Duration = Duration::from_hours(1);

/// The monitor of one stream.
#[derive(Clone, Debug)]
pub(crate) struct Drift(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    stream: StreamName,
    file: PathBuf,
    monitor: Mutex<DriftMonitor>,
}

impl Drift {
    /// Goes on where an earlier run was, unless other things are looked for now. Blocks.
    pub(crate) fn open(dir: &Path, stream: &StreamName, spec: DriftSpec) -> Self {
        let file = dir.join(format!("{stream}.json"));
        let kept = store::read(&file).filter(|kept: &DriftMonitor| *kept.spec() == spec);
        Self(Arc::new(Shared {
            stream: stream.clone(),
            file,
            monitor: Mutex::new(kept.unwrap_or_else(|| DriftMonitor::new(spec))),
        }))
    }

    /// A window was scored whose newest reading is this one.
    pub(crate) fn scored(&self, engine: &Engine, newest: &Reading) {
        self.change(|monitor| monitor.scored(engine.digest(), engine.manifest(), newest));
    }

    /// A label came.
    pub(crate) fn joined(&self, joined: &Joined) {
        let (predicted, loss) = (&joined.predicted, joined.compared.loss());
        self.change(|monitor| monitor.joined(&predicted.digest, predicted.ts, loss));
    }

    /// What there is to tell.
    pub(crate) fn reported(&self) -> Option<ReportedDrift> {
        self.lock().reported()
    }

    fn change(&self, change: impl FnOnce(&mut DriftMonitor)) {
        let mut monitor = self.lock();
        let before = monitor.drifted_at();
        change(&mut monitor);
        if before != monitor.drifted_at() {
            self.tell(&monitor, before);
        }
    }

    fn tell(&self, monitor: &DriftMonitor, before: Option<Timestamp>) {
        let stream = &self.0.stream;
        match (monitor.drifted_at(), before) {
            (Some(at), _) => {
                let what = monitor.reported().and_then(|reported| reported.what);
                tracing::warn!(%stream, %at, what, "the stream drifts: its model may no longer suit it");
            }
            (None, Some(since)) => tracing::info!(%stream, %since, "the drift is over"),
            (None, None) => {}
        }
    }

    fn save(&self) {
        let json = crate::to_json(&*self.lock());
        if let Err(error) = store::write(&self.0.file, &json) {
            let (stream, file) = (&self.0.stream, self.0.file.display());
            tracing::warn!(%stream, %file, %error, "what was seen of drift could not be written: it is tried again");
        }
    }

    /// A holder that panicked has ended the engine or the label join, and with it the agent.
    fn lock(&self) -> MutexGuard<'_, DriftMonitor> {
        self.0
            .monitor
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes down what the monitors see.
pub(crate) struct Keeper {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Keeper {
    pub(crate) fn start(drifts: Vec<Drift>) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn(keep(drifts, stop.clone()));
        Self { stop, task }
    }

    /// Writes a last time; the streams have ended.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "what was seen of drift was not written");
        }
    }
}

async fn keep(drifts: Vec<Drift>, stop: CancellationToken) {
    let mut over = drifts.is_empty();
    while !over {
        // Timed out, it is time to write; else it is the last time.
        over = tokio::time::timeout(SAVE_EVERY, stop.cancelled())
            .await
            .is_ok();
        let drifts = drifts.clone();
        let saved = tokio::task::spawn_blocking(move || drifts.iter().for_each(Drift::save));
        if let Err(error) = saved.await {
            tracing::error!(%error, "what was seen of drift was not written");
        }
    }
}
