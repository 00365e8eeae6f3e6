//! Looks after the engine's thread.

use std::sync::Arc;
use std::time::Duration;

use rustix::thread::Pid;
use tokio::time::{MissedTickBehavior, interval};

use super::{Shared, spawn};

/// Looks at an inference before it is taken to have no end. Time is counted in looks, so that a process or a machine that was
/// stopped for a while does not take a model to be stuck.
const LOOKS: u32 = 40;
/// Threads left behind before the agent ends, to be started anew by whatever started it: each may hold as much memory as its
/// model takes, and they share what time the machine has to spare.
const LEFT_BEHIND_MAX: u32 = 4;
/// How far a thread that was left behind steps back for others: as far as it goes.
const NICENESS: i32 = 19;

/// Looks until the engine is over.
pub(super) async fn run(shared: Arc<Shared>, stuck_after: Duration) {
    let mut look = interval((stuck_after / LOOKS).max(Duration::from_millis(1)));
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut seen, mut looks, mut left_behind) = (None, 0, 0);
    loop {
        tokio::select! {
            () = shared.over.cancelled() => return,
            _ = look.tick() => {}
        }
        // The lock is held while the thread hands over, which may wait; then no inference is under way.
        let Ok(state) = shared.state.try_lock() else {
            continue;
        };
        let under_way = state.under_way().map(|under_way| under_way.number);
        drop(state);
        if under_way != seen {
            (seen, looks) = (under_way, 0);
        }
        looks += 1;
        let Some(number) = under_way.filter(|_| looks > LOOKS) else {
            continue;
        };
        let detail = format!("an inference was not over after {stuck_after:?}");
        let Some((turn, thread)) = shared.lock().leave_behind(number, &detail) else {
            continue;
        };
        left_behind += 1;
        tracing::error!(left_behind, detail, "the engine's thread is left behind");
        thread.into_iter().for_each(step_back);
        if left_behind > LEFT_BEHIND_MAX {
            tracing::error!("too many inferences came to no end: the agent must be started anew");
            shared.end();
            return;
        }
        if let Err(error) = spawn(&shared, turn) {
            tracing::error!(%error, "no other thread can take over");
            shared.end();
            return;
        }
    }
}

/// On Linux a thread has a priority of its own.
fn step_back(thread: Pid) {
    if let Err(error) = rustix::process::setpriority_process(Some(thread), NICENESS) {
        tracing::warn!(%error, "the thread that was left behind goes on at full speed");
    }
}
