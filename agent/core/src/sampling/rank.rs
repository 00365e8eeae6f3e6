//! Whether a score is among the top share of the recent ones.

use std::collections::VecDeque;

use crate::mix;

/// Scores that a new one is compared with: enough to tell a hundredth apart, and one pass over them takes less than a
/// microsecond.
const RECENT_MAX: usize = 512;

/// Numbers by lot, from a seed: the same seed draws the same.
#[derive(Debug)]
pub(super) struct Lot(u64);

impl Lot {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number from 0 to below 1.
    pub(super) fn draw(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(1);
        mix::chance(self.0)
    }

    /// A number from 0 to below `count`.
    pub(super) fn below(&mut self, count: usize) -> usize {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0 to below count, which is a few hundred"
        )]
        let at = (self.draw() * count as f64) as usize;
        at.min(count.saturating_sub(1))
    }
}

/// The recent scores of a policy.
#[derive(Debug, Default)]
pub(super) struct Rank(VecDeque<f64>);

impl Rank {
    /// Where a score stands among the recent ones and itself, from 0, the highest, to 1; and takes it in.
    ///
    /// Ties are broken by lot, which makes it the smoothed p-value of conformal prediction (Vovk, Gammerman and Shafer,
    /// "Algorithmic learning in a random world", 2005, section 2.2): for scores that come in no order it is even between
    /// 0 and 1, so that a share of them is below that share, from the first score on and however many are equal.
    pub(super) fn of(&mut self, score: f64, lot: &mut Lot) -> f64 {
        let (mut above, mut equal) = (0_usize, 1_usize);
        for recent in &self.0 {
            above += usize::from(*recent > score);
            equal += usize::from((*recent).total_cmp(&score).is_eq());
        }
        let rank = (above as f64 + lot.draw() * equal as f64) / (self.0.len() + 1) as f64;
        if self.0.len() == RECENT_MAX {
            self.0.pop_front();
        }
        self.0.push_back(score);
        rank
    }
}
