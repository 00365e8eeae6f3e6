//! What waits for time to pass: one alarm for all of it.

use std::time::Duration;

use lamppost_models::Timestamp;
use lamppost_models::rollout::{Hours, MinuteOfWeek};

use super::{Effect, Saving, SlotMachine, Trial, Watching};

/// Longest time between two looks at the clock, so that one that is set meanwhile is noticed.
const LOOK_AGAIN: Duration = Duration::from_mins(15);
/// Longest time that a server may ask for; a wrong one must not keep a node from its releases for good.
pub(super) const BUSY_MAX: Duration = Duration::from_hours(1);

/// A time that is to pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    since: Timestamp,
    length: Duration,
}

impl Wait {
    pub(super) const fn new(since: Timestamp, length: Duration) -> Self {
        Self { since, length }
    }

    /// What is left of it; `None` when it is over, or when the clock was set back and nobody knows.
    pub(super) fn left(&self, now: Timestamp) -> Option<Duration> {
        let passed = u64::try_from(now.ms_since(self.since)).ok()?;
        self.length
            .checked_sub(Duration::from_millis(passed))
            .filter(|left| *left > Duration::ZERO)
    }
}

/// How long ago something was; nothing, if the clock was set back since.
pub(super) fn since(then: Option<Timestamp>, now: Timestamp) -> Duration {
    let passed = then.and_then(|then| u64::try_from(now.ms_since(then)).ok());
    Duration::from_millis(passed.unwrap_or_default())
}

impl SlotMachine {
    /// How long the node's hours for changes are not open yet. Where nothing runs nothing is disturbed, and nothing waits.
    pub(super) fn closed(&self) -> Option<(Hours, Duration)> {
        let hours = Self::wanted(&self.setup, &self.draft)?.hours?;
        self.draft.active.as_ref()?;
        let at = MinuteOfWeek::from(self.setup.zone.local(self.now));
        let minutes = hours.wait_minutes(at);
        (minutes > 0).then(|| (hours, Duration::from_mins(minutes.into())))
    }

    /// Asks to be woken at the earliest time that matters, unless it has asked to be woken by then.
    pub(super) fn set_alarm(&mut self) {
        let Some(next) = self.next_wait() else {
            self.alarm = None;
            return;
        };
        let next = next.min(LOOK_AGAIN);
        let at = self.now.after(next);
        if self
            .alarm
            .is_none_or(|alarm| at < alarm || alarm <= self.now)
        {
            self.effects.push_back(Effect::RetryAfter(next));
            self.alarm = Some(at);
        }
    }

    fn next_wait(&self) -> Option<Duration> {
        // What is over by now is taken up again when woken, and not within the call that found it.
        let left = |wait: &Wait| wait.left(self.now).unwrap_or(Duration::from_millis(1));
        let saving = match &self.saving {
            Saving::Idle | Saving::Writing { .. } => None,
            Saving::Waiting { wait, .. } => Some(left(wait)),
        };
        let terms = self.draft.trial.as_ref().map(|trial| &trial.terms);
        let candidate = match &self.trial {
            Trial::Waiting { wait, .. } => Some(left(wait)),
            Trial::Closed { .. } | Trial::Ready { .. } => self.closed().map(|(_, wait)| wait),
            Trial::Shadowing { .. } => {
                let shadow = terms.and_then(|terms| terms.shadow.as_ref());
                self.labels_wait(shadow.map(|shadow| shadow.time_s_max))
            }
            Trial::None
            | Trial::Fetching { .. }
            | Trial::Checking { .. }
            | Trial::Passed { .. }
            | Trial::Refused { .. } => None,
        };
        let probation = self.watching.as_ref().and_then(|Watching { .. }| {
            let probation = terms.and_then(|terms| terms.probation.as_ref());
            self.labels_wait(probation.map(|probation| probation.time_s_max))
        });
        [saving, candidate, probation].into_iter().flatten().min()
    }

    /// What is left of the time for which labels are waited for.
    fn labels_wait(&self, time_s_max: Option<u64>) -> Option<Duration> {
        let since = self.draft.trial.as_ref()?.enough_since?;
        Wait::new(since, Duration::from_secs(time_s_max?)).left(self.now)
    }
}
