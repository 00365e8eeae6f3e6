//! Sums of losses, and what is new in cumulative ones.

use lamppost_models::trial::Moments;
use serde::{Deserialize, Serialize};

use super::CUT;

/// Largest mean loss that is believed: anything a city measures is smaller, and sums of them stay exact enough.
const LOSS_MAX: f64 = 1e12;
/// Most labels that are believed: one a millisecond for 30 years.
const LABELS_MAX: u64 = 1 << 40;

/// Losses of two versions on the same labels, or of one before and after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sums {
    /// Labels.
    pub labels: u64,
    /// Sum of the candidate's losses.
    pub candidate: f64,
    /// Sum of the active version's losses.
    pub active: f64,
}

/// The last cumulative sums that a node reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Track(Sums);

impl Sums {
    pub(super) const ZERO: Self = Self {
        labels: 0,
        candidate: 0.0,
        active: 0.0,
    };

    /// The sums behind the moments of both sides; `None` when they cannot be losses. Where one side had fewer labels, those
    /// are what both had.
    pub(super) fn of(candidate: &Moments, active: &Moments) -> Option<Self> {
        let labels = candidate.n.min(active.n);
        let plausible = |mean: f64| mean.is_finite() && (0.0..=LOSS_MAX).contains(&mean);
        if labels > LABELS_MAX || !plausible(candidate.mean) || !plausible(active.mean) {
            return None;
        }
        Some(Self {
            labels,
            candidate: candidate.mean * labels as f64,
            active: active.mean * labels as f64,
        })
    }

    pub(super) fn add(&mut self, more: Self) {
        self.labels = self.labels.saturating_add(more.labels);
        self.candidate += more.candidate;
        self.active += more.active;
    }

    /// What they say about the candidate's loss being above `ratio` times the other's, from -1 to 1; `None` while neither
    /// side had any loss, which says nothing.
    pub(super) fn vote(&self, ratio: f64) -> Option<f64> {
        vote(self.candidate, self.active, ratio)
    }
}

/// (C - ρA) / (C + ρA), cut at ± c and divided by it.
pub(super) fn vote(candidate: f64, active: f64, ratio: f64) -> Option<f64> {
    let (candidate, active) = (candidate.max(0.0), ratio * active.max(0.0));
    let both = candidate + active;
    (both > 0.0).then(|| ((candidate - active) / both / CUT).clamp(-1.0, 1.0))
}

/// The ratio of losses that a mean vote stands for.
pub(super) fn ratio_of(vote: f64, ratio: f64) -> f64 {
    let part = vote * CUT;
    ratio * (1.0 + part) / (1.0 - part)
}

/// The smallest and the largest ratio of losses that votes can tell: what lies beyond is cut to them.
pub(in crate::rollout) fn told(ratio: f64) -> (f64, f64) {
    (ratio_of(-1.0, ratio), ratio_of(1.0, ratio))
}

impl Track {
    pub(super) const ZERO: Self = Self(Sums::ZERO);

    /// What `now` adds to what was last reported. Fewer labels than before, or sums that fell, mean that the node began anew;
    /// all of it is new then.
    pub(super) fn advance(&mut self, now: Sums) -> Sums {
        let last = self.0;
        self.0 = now;
        // A mean that was rounded may take its sum back by as much.
        let slack = 1e-9 * (last.candidate + last.active);
        let anew = now.labels < last.labels
            || now.candidate + slack < last.candidate
            || now.active + slack < last.active;
        if anew {
            return now;
        }
        Sums {
            labels: now.labels - last.labels,
            candidate: (now.candidate - last.candidate).max(0.0),
            active: (now.active - last.active).max(0.0),
        }
    }

    /// Has nothing reported before be counted again, but takes `now` as known.
    pub(super) const fn begin(now: Sums) -> Self {
        Self(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(labels: u64, candidate: f64, active: f64) -> Sums {
        Sums {
            labels,
            candidate,
            active,
        }
    }

    #[test]
    fn only_what_is_new_counts() {
        let mut track = Track::default();
        assert_eq!(track.advance(sums(10, 5.0, 4.0)), sums(10, 5.0, 4.0));
        assert_eq!(track.advance(sums(10, 5.0, 4.0)), sums(0, 0.0, 0.0));
        assert_eq!(track.advance(sums(14, 9.0, 5.0)), sums(4, 4.0, 1.0));
        assert_eq!(track.advance(sums(3, 1.0, 1.0)), sums(3, 1.0, 1.0));
        assert_eq!(track.advance(sums(5, 0.5, 1.5)), sums(5, 0.5, 1.5));
    }

    #[test]
    fn a_vote_is_bounded_and_even() {
        assert_eq!(sums(9, 0.0, 0.0).vote(1.05), None);
        for (candidate, active) in [
            (1.0, 1.0),
            (1.1, 1.0),
            (9.0, 1.0),
            (0.0, 3.0),
            (1e300, 1e300),
        ] {
            let vote = sums(9, candidate, active).vote(1.0).unwrap();
            let other = sums(9, active, candidate).vote(1.0).unwrap();
            assert!((vote + other).abs() < 1e-12);
            assert!((-1.0..=1.0).contains(&vote));
        }
        let vote = sums(9, 1.1, 1.0).vote(1.05).unwrap();
        assert!((ratio_of(vote, 1.05) - 1.1).abs() < 1e-12);
    }

    #[test]
    fn what_cannot_be_losses_is_none() {
        let moments = |n, mean| Moments { n, mean, m2: 0.0 };
        for (candidate, active) in [
            (moments(5, -1.0), moments(5, 1.0)),
            (moments(5, f64::INFINITY), moments(5, 1.0)),
            (moments(5, 1.0), moments(5, f64::NAN)),
            (moments(u64::MAX, 1.0), moments(u64::MAX, 1.0)),
        ] {
            assert_eq!(Sums::of(&candidate, &active), None);
        }
        let found = Sums::of(&moments(5, 2.0), &moments(4, 1.0)).unwrap();
        assert_eq!(found, sums(4, 8.0, 4.0));
    }
}
