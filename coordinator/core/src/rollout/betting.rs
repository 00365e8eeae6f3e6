//! Tests that may be looked at any time, as often as one likes.
//!
//! **Means** ([`Bets`]). Bounded observations x₁, x₂, … in [-1, 1] are bet on, after Waudby-Smith and Ramdas, "Estimating means
//! of bounded random variables by betting" (arXiv 2010.09686, section 4 and the diversified bets of section 5): if the
//! mean of each observation, given those before it, is at most m, then the capital Π (1 + λ (xᵢ - m)) of a gambler with
//! 0 ≤ λ < 1 / (1 + m) does not grow on average, and by Ville's inequality the chance that it ever reaches 1/α is at most α,
//! whatever the distribution, however long one watches, and for whatever reason one stops. The gambler here splits the
//! stake over eight parts of the largest λ and never moves it: no tuning, no memory but the observations, and at most
//! ln 8 worse than the best of them. All m that neither a bet on more nor a bet on less has refuted at α/2 are the
//! confidence sequence. See also Howard, Ramdas, McAuliffe and Sekhon (arXiv 1810.08240) for the setting, and Johari et al. (arXiv
//! 1512.04922) for why a fixed-sample test must not be looked at again and again.
//!
//! **Counts of failures** ([`failures_e_value`]), in the manner of Lindon and Malek, "Anytime-valid inference for multinomial
//! count data" (arXiv 2011.03567): a mixture of likelihood ratios of larger shares to the largest allowed one.

use serde::{Deserialize, Serialize};

/// Most observations of one test: a vote a day for a year and a half. Beyond it nothing more is taken in, which is said.
pub const BETS_MAX: usize = 512;

/// The parts of the largest possible stake, from timid for small and noisy differences to bold for clear ones.
const FRACTIONS: [f64; 8] = [0.03, 0.06, 0.12, 0.25, 0.4, 0.6, 0.8, 0.95];

/// Shares of failures that a mixture puts against the allowed one, as parts of the way from it to all.
const WORSE_SHARES: [f64; 8] = [0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9];

/// Halvings of the interval between -1 and 1 in which an end of the confidence sequence is looked for: to 1e-6, finer than
/// anything that is shown.
const HALVINGS: u32 = 21;

/// An estimate with a confidence sequence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The estimate.
    pub estimate: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Bounded observations in the order in which they came.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bets(Vec<f32>);

/// What a gambler bets on.
#[derive(Clone, Copy)]
enum On {
    More,
    Less,
}

impl Bets {
    /// Takes in an observation, cut to -1 to 1; what is not finite, and what is over [`BETS_MAX`], is passed over. Says
    /// whether it was taken in.
    pub fn push(&mut self, value: f64) -> bool {
        if !value.is_finite() || self.0.len() >= BETS_MAX {
            return false;
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a rounding in the eighth digit"
        )]
        self.0.push(value.clamp(-1.0, 1.0) as f32);
        true
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Their mean with the confidence sequence at level 1 - `alpha`; from -1 to 1 while there are none.
    pub fn interval(&self, alpha: f64) -> Interval {
        let sum: f64 = self.0.iter().map(|value| f64::from(*value)).sum();
        let estimate = if self.0.is_empty() {
            0.0
        } else {
            sum / self.0.len() as f64
        };
        let bound = 2.0 / alpha.max(f64::MIN_POSITIVE);
        let low = self.refuted_from_below(bound);
        let high = self.refuted_from_above(bound);
        Interval {
            estimate,
            low,
            high,
        }
    }

    /// The largest mean that a bet on more has refuted: the capital falls as the mean grows, so that halving finds it.
    fn refuted_from_below(&self, bound: f64) -> f64 {
        let (mut low, mut high) = (-1.0, 1.0);
        for _ in 0..HALVINGS {
            let middle = f64::midpoint(low, high);
            if self.capital(middle, On::More) >= bound {
                low = middle;
            } else {
                high = middle;
            }
        }
        low
    }

    /// The smallest mean that a bet on less has refuted.
    fn refuted_from_above(&self, bound: f64) -> f64 {
        let (mut low, mut high) = (-1.0, 1.0);
        for _ in 0..HALVINGS {
            let middle = f64::midpoint(low, high);
            if self.capital(middle, On::Less) >= bound {
                high = middle;
            } else {
                low = middle;
            }
        }
        high
    }

    /// The most that a stake of 1 ever came to.
    fn capital(&self, mean: f64, on: On) -> f64 {
        // What an observation can fall below, or above, the mean: the largest stake loses all there.
        let reach = match on {
            On::More => 1.0 + mean,
            On::Less => 1.0 - mean,
        };
        if reach <= 0.0 {
            return if self.0.is_empty() {
                1.0
            } else {
                f64::INFINITY
            };
        }
        let mut stakes = [1.0 / FRACTIONS.len() as f64; FRACTIONS.len()];
        let mut most: f64 = 1.0;
        for value in &self.0 {
            let gain = match on {
                On::More => f64::from(*value) - mean,
                On::Less => mean - f64::from(*value),
            };
            for (stake, fraction) in stakes.iter_mut().zip(FRACTIONS) {
                *stake *= 1.0 + fraction * gain / reach;
            }
            most = most.max(stakes.iter().sum());
        }
        most
    }
}

/// Fewest observations that can refute anything at level `alpha`: all of them as clear as can be.
pub fn units_needed(alpha: f64) -> usize {
    let mut bets = Bets::default();
    while bets.interval(alpha).low <= 0.0 && bets.push(1.0) {}
    bets.len()
}

/// How strongly `failed` of `nodes` speak against at most a share `allowed` of failures: at 1/α or more it is refuted at level α,
/// however often one looks.
///
/// With the nodes in the order in which they began, a likelihood ratio of a larger share to `allowed` is a martingale that
/// does not grow if the true share is `allowed` or less, and so is a mixture of some. Failures show early and success late; a
/// node that is not done counts as no failure yet, which can only lower the value, so that the early bad news of a wave
/// refutes nothing by itself.
pub fn failures_e_value(failed: u64, nodes: u64, allowed: f64) -> f64 {
    if failed == 0 {
        return 1.0;
    }
    if allowed <= 0.0 {
        return f64::INFINITY;
    }
    if allowed >= 1.0 {
        return 1.0;
    }
    let fine = nodes.saturating_sub(failed);
    let ratio = |part: f64| {
        let share = allowed + (1.0 - allowed) * part;
        let log = failed as f64 * (share / allowed).ln()
            + fine as f64 * ((1.0 - share) / (1.0 - allowed)).ln();
        log.exp()
    };
    WORSE_SHARES.iter().copied().map(ratio).sum::<f64>() / WORSE_SHARES.len() as f64
}

#[cfg(test)]
pub(in crate::rollout) mod tests;
