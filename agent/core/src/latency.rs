//! Quantiles of inference times in bounded memory.

/// Buckets an octave. A value is told by the middle of its bucket, so that a quantile is at most 1/32 (3.2 %) off.
const STEPS: usize = 16;
const STEP_BITS: u32 = STEPS.trailing_zeros();
/// From so many microseconds on (2^32, 71 minutes) all count alike: no inference is let run for so long.
const OCTAVES: usize = 32;
const BUCKETS: usize = (OCTAVES - STEP_BITS as usize + 1) * STEPS;

/// How long inferences took, in buckets whose width grows with the value (as in Tene's HdrHistogram): 464 counters, 3.7 kB,
/// however many there are.
#[derive(Clone, Debug)]
pub struct LatencyHistogram {
    counts: Box<[u64; BUCKETS]>,
    total: u64,
}

impl Default for LatencyHistogram {
    fn default() -> Self {
        Self {
            counts: Box::new([0; BUCKETS]),
            total: 0,
        }
    }
}

impl LatencyHistogram {
    /// Takes in a time in microseconds.
    pub fn add(&mut self, us: u64) {
        if let Some(count) = self.counts.get_mut(bucket(us)) {
            *count += 1;
            self.total += 1;
        }
    }

    /// How many were taken in.
    pub const fn count(&self) -> u64 {
        self.total
    }

    /// The time in microseconds that the given share (0 to 1) of them did not exceed, by nearest rank and at most 1/32 off;
    /// 0 when there are none.
    pub fn quantile_us(&self, share: f64) -> u64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "0 up to the count, and 2^53 inferences do not come"
        )]
        let rank = ((share.clamp(0.0, 1.0) * self.total as f64).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return middle(bucket);
            }
        }
        0
    }
}

/// Values below 16 have a bucket each; above, an octave is cut into 16.
fn bucket(us: u64) -> usize {
    let us = us.min((1 << OCTAVES) - 1);
    let octave = us.checked_ilog2().unwrap_or(0).max(STEP_BITS) - STEP_BITS;
    let step = (us >> octave) as usize;
    // In the lowest octave the step is the value itself, above it is 16 to 31.
    octave as usize * STEPS + step
}

fn middle(bucket: usize) -> u64 {
    if bucket < 2 * STEPS {
        return bucket as u64;
    }
    let octave = bucket / STEPS - 1;
    let low = ((bucket % STEPS + STEPS) as u64) << octave;
    low + (1 << octave) / 2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_has_no_quantile_and_small_values_are_exact() {
        let mut histogram = LatencyHistogram::default();
        assert_eq!(histogram.quantile_us(0.99), 0);
        for us in 0..=31 {
            histogram.add(us);
        }
        assert_eq!(histogram.quantile_us(0.5), 15);
        assert_eq!(histogram.quantile_us(1.0), 31);
        assert_eq!(histogram.quantile_us(0.0), 0);
    }

    #[test]
    fn what_takes_for_ever_is_counted_in_the_last_bucket() {
        let mut histogram = LatencyHistogram::default();
        histogram.add(u64::MAX);
        histogram.add(1 << OCTAVES);
        assert_eq!(histogram.count(), 2);
        let last = histogram.quantile_us(0.5) as f64;
        assert!((last / (1_u64 << OCTAVES) as f64 - 1.0).abs() < 1.0 / 32.0);
    }

    proptest! {
        #[test]
        fn quantiles_are_off_by_a_32nd_at_most(
            mut times in proptest::collection::vec(prop_oneof![0_u64..64, 0_u64..100_000, 0_u64..1 << 32], 1..400),
            share in 0.0..1.0_f64,
        ) {
            let mut histogram = LatencyHistogram::default();
            for us in &times {
                histogram.add(*us);
            }
            times.sort_unstable();
            let enough = |us: &&u64| {
                let upto = times.iter().filter(|other| other <= us).count();
                upto as f64 >= share * times.len() as f64
            };
            let exact = *times.iter().find(enough).unwrap() as f64;
            let told = histogram.quantile_us(share) as f64;
            prop_assert!((told - exact).abs() <= exact / 32.0, "{told} for {exact}");
        }
    }
}
