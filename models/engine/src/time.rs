//! How long an inference takes, whatever else the machine does meanwhile.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Processor time that this thread has taken so far.
///
/// An inference computes and waits for nothing, so that on an idle machine this is the time on the wall; on a busy one, or in
/// a process that yields to others, it still tells one model from another.
pub fn thread_time() -> Duration {
    since(ClockId::ThreadCPUTime)
}

/// Processor time that all threads of this process have taken so far.
pub fn process_time() -> Duration {
    since(ClockId::ProcessCPUTime)
}

fn since(clock: ClockId) -> Duration {
    Duration::try_from(clock_gettime(clock)).unwrap_or_default()
}
