use super::*;

fn bets(values: &[f64]) -> Bets {
    let mut bets = Bets::default();
    for value in values {
        assert!(bets.push(*value));
    }
    bets
}

/// SplitMix64 (Steele, Lea and Flood, 2014): a test's own random numbers, from a seed.
pub(in crate::rollout) struct Rng(pub(in crate::rollout) u64);

impl Rng {
    pub(in crate::rollout) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 up to `end`, which is left out.
    pub(in crate::rollout) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// From 0 to 1.
    pub(in crate::rollout) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Normal with mean 0 and variance 1 (Box and Muller, 1958).
    pub(in crate::rollout) fn normal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.unit(), self.unit());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }
}

#[test]
fn nothing_is_known_before_the_first_observation() {
    let Interval {
        estimate,
        low,
        high,
    } = Bets::default().interval(0.05);
    assert!(estimate.abs() < 1e-12);
    assert!(low < -0.9999 && high > 0.9999);
}

#[test]
fn clear_observations_decide_soon_and_hold_for_ever() {
    let all_worse = |count| bets(&vec![1.0; count]).interval(0.05);
    assert!(all_worse(5).low < 0.0, "40 to 1 takes more than 2^5");
    assert!(all_worse(9).low > 0.0);
    let mut turned = bets(&[-1.0; 12]);
    assert!(turned.interval(0.05).high < 0.0);
    for _ in 0..100 {
        turned.push(0.0);
    }
    assert!(
        turned.interval(0.05).high < 0.0,
        "what was refuted stays so"
    );
}

#[test]
fn what_cannot_be_an_observation_is_none() {
    let mut bets = bets(&[7.0, -7.0]);
    assert_eq!(bets, self::bets(&[1.0, -1.0]));
    assert!(!bets.push(f64::NAN));
    for _ in 2..BETS_MAX {
        assert!(bets.push(0.1));
    }
    assert!(!bets.push(0.1));
    assert_eq!(bets.len(), BETS_MAX);
    let Interval { low, high, .. } = bets.interval(1e-9);
    assert!(low < 0.1 && high > 0.1);
}

/// The naive oracle: the capital with each mean on a fine grid, one observation after the other.
#[test]
fn the_ends_are_those_of_a_search_over_all_means() {
    let mut rng = Rng(11);
    for _ in 0..20 {
        let count = rng.below(60);
        let shift = rng.unit() - 0.5;
        let values: Vec<f64> = (0..count)
            .map(|_| (shift + 0.4 * rng.normal()).clamp(-1.0, 1.0))
            .collect();
        let bets = bets(&values);
        let found = bets.interval(0.1);
        let refuted = |mean: f64, sign: f64| {
            (1..=values.len()).any(|prefix| {
                let capital: f64 = FRACTIONS
                    .iter()
                    .map(|fraction| {
                        let factor = |value: &f64| {
                            1.0 + fraction * sign * (value - mean) / (1.0 + sign * mean)
                        };
                        values[..prefix].iter().map(factor).product::<f64>()
                    })
                    .sum();
                capital / 8.0 >= 20.0
            })
        };
        let grid = (-999..1000).map(|step| f64::from(step) / 1000.0);
        let low = grid
            .clone()
            .filter(|mean| refuted(*mean, 1.0))
            .fold(-1.0, f64::max);
        let high = grid.filter(|mean| refuted(*mean, -1.0)).fold(1.0, f64::min);
        assert!((low - found.low).abs() < 0.002, "{low} {found:?}");
        assert!((high - found.high).abs() < 0.002, "{high} {found:?}");
    }
}

/// How often a test of a coin with exactly the allowed share of failures is ever refuted, looked at after each toss.
#[test]
fn failures_at_the_allowed_share_are_seldom_too_many() {
    const RUNS: u32 = 2000;
    let mut rng = Rng(5);
    let mut alarms = 0;
    for _ in 0..RUNS {
        let mut failed = 0;
        let ever = (1..=500).any(|nodes| {
            failed += u64::from(rng.unit() < 0.05);
            failures_e_value(failed, nodes, 0.05) >= 20.0
        });
        alarms += u32::from(ever);
    }
    let share = f64::from(alarms) / f64::from(RUNS);
    // 5 % and three standard errors of the simulation itself.
    assert!(share <= 0.05 + 3.0 * 0.0049, "{share}");
    assert!(
        share > 0.001,
        "a test that never fires shows nothing: {share}"
    );
}

#[test]
fn many_failures_are_told_from_a_few() {
    assert!(failures_e_value(0, 10, 0.05) <= 1.0);
    assert!(failures_e_value(1, 20, 0.05) < 2.0);
    assert!(failures_e_value(8, 20, 0.05) > 1000.0);
    assert!(failures_e_value(1, 1, 0.0) > 1e9);
    assert!((failures_e_value(5, 5, 1.0) - 1.0).abs() < 1e-12);
    // More nodes that do not fail never speak against it.
    assert!(failures_e_value(3, 300, 0.05) < failures_e_value(3, 30, 0.05));
}
