//! What a step does with the gradients: plain arithmetic on plain numbers, so that a checkpoint is all of it.

use super::recipe::Optimizer;

/// Weights and what the optimiser remembers of each.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Slot {
    pub(crate) values: Vec<f32>,
    /// SGD's velocity, Adam's mean of gradients.
    pub(crate) first: Vec<f32>,
    /// Adam's mean of squares; empty for SGD.
    pub(crate) second: Vec<f32>,
}

impl Slot {
    pub(crate) fn new(values: Vec<f32>, optimizer: &Optimizer) -> Self {
        let zeros = vec![0.0; values.len()];
        let second = match optimizer {
            Optimizer::Sgd { .. } => Vec::new(),
            Optimizer::Adam { .. } | Optimizer::AdamW { .. } => zeros.clone(),
        };
        Self {
            values,
            first: zeros,
            second,
        }
    }
}

/// Moves weights against their gradients. `count` is the number of this step, from 1; `pulled` whether it is pulled to 0.
#[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
pub(crate) fn descend(
    slot: &mut Slot,
    gradient: &mut [f32],
    optimizer: &Optimizer,
    rate: f64,
    count: u64,
    pulled: bool,
) {
    match *optimizer {
        Optimizer::Sgd {
            momentum,
            nesterov,
            l2,
        } => {
            pull(gradient, &slot.values, l2, pulled);
            let (momentum, rate) = (momentum as f32, rate as f32);
            for ((value, velocity), gradient) in
                slot.values.iter_mut().zip(&mut slot.first).zip(gradient)
            {
                *velocity = momentum * *velocity - rate * *gradient;
                *value += if nesterov {
                    momentum * *velocity - rate * *gradient
                } else {
                    *velocity
                };
            }
        }
        Optimizer::Adam {
            beta1,
            beta2,
            epsilon,
            l2,
        } => {
            pull(gradient, &slot.values, l2, pulled);
            adam(slot, gradient, (beta1, beta2, epsilon), rate, count);
        }
        Optimizer::AdamW {
            beta1,
            beta2,
            epsilon,
            decay,
        } => {
            if pulled {
                let kept = (1.0 - rate * decay) as f32;
                slot.values.iter_mut().for_each(|value| *value *= kept);
            }
            adam(slot, gradient, (beta1, beta2, epsilon), rate, count);
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
fn pull(gradient: &mut [f32], values: &[f32], l2: f64, pulled: bool) {
    if pulled && l2 > 0.0 {
        for (gradient, value) in gradient.iter_mut().zip(values) {
            *gradient += l2 as f32 * value;
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
fn adam(
    slot: &mut Slot,
    gradient: &[f32],
    (beta1, beta2, epsilon): (f64, f64, f64),
    rate: f64,
    count: u64,
) {
    let count = i32::try_from(count).unwrap_or(i32::MAX);
    // The means start at 0; both corrections are in the rate and in epsilon, as the paper's section 2 ends.
    let of_squares = (1.0 - beta2.powi(count)).sqrt();
    let rate = (rate * of_squares / (1.0 - beta1.powi(count))) as f32;
    let epsilon = (epsilon * of_squares) as f32;
    let (one, two) = (beta1 as f32, beta2 as f32);
    // In f64: 1 less a rounded 0.999 is off by a twenty-thousandth.
    let (new_one, new_two) = ((1.0 - beta1) as f32, (1.0 - beta2) as f32);
    let moments = slot.first.iter_mut().zip(&mut slot.second);
    for ((value, (mean, square)), &gradient) in slot.values.iter_mut().zip(moments).zip(gradient) {
        *mean = one * *mean + new_one * gradient;
        *square = two * *square + new_two * gradient * gradient;
        *value -= rate * *mean / (square.sqrt() + epsilon);
    }
}

/// Shortens gradients whose norm, of all together, is above `limit`.
#[expect(clippy::cast_possible_truncation, reason = "gradients are f32")]
pub(crate) fn clip(gradients: &mut [Vec<f32>], limit: f64) {
    let squares = gradients
        .iter()
        .flatten()
        .map(|&number| f64::from(number).powi(2));
    let norm = squares.sum::<f64>().sqrt();
    if norm > limit {
        let factor = (limit / norm) as f32;
        gradients
            .iter_mut()
            .flatten()
            .for_each(|number| *number *= factor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(optimizer: Optimizer, steps: u64) -> Vec<f32> {
        // The gradient of a bowl whose lowest point is (3, -1).
        let mut slot = Slot::new(vec![0.0, 0.0], &optimizer);
        for count in 1..=steps {
            let mut gradient = [slot.values[0] - 3.0, 10.0 * (slot.values[1] + 1.0)];
            descend(&mut slot, &mut gradient, &optimizer, 0.05, count, true);
        }
        slot.values
    }

    #[test]
    fn each_finds_the_lowest_point_of_a_bowl() {
        let all = [
            Optimizer::Sgd {
                momentum: 0.0,
                nesterov: false,
                l2: 0.0,
            },
            Optimizer::Sgd {
                momentum: 0.9,
                nesterov: false,
                l2: 0.0,
            },
            Optimizer::Sgd {
                momentum: 0.9,
                nesterov: true,
                l2: 0.0,
            },
            Optimizer::adam(),
            Optimizer::AdamW {
                beta1: 0.9,
                beta2: 0.999,
                epsilon: 1e-8,
                decay: 0.0,
            },
        ];
        for optimizer in all {
            let found = run(optimizer, 1_000);
            assert!(
                (found[0] - 3.0).abs() < 1e-2 && (found[1] + 1.0).abs() < 1e-2,
                "{optimizer:?}: {found:?}"
            );
        }
    }

    #[test]
    fn adam_steps_as_the_paper_says() {
        // The first step is the rate, whatever the gradient; the second by hand: m = 0.19, v = 1.999e-3, both corrected.
        let optimizer = Optimizer::adam();
        let mut slot = Slot::new(vec![1.0], &optimizer);
        descend(&mut slot, &mut [1.0], &optimizer, 0.1, 1, true);
        assert!((slot.values[0] - 0.9).abs() < 1e-6, "{:?}", slot.values);
        descend(&mut slot, &mut [1.0], &optimizer, 0.1, 2, true);
        assert!((slot.values[0] - 0.8).abs() < 1e-6, "{:?}", slot.values);
    }

    #[test]
    fn decay_is_beside_the_gradient_and_l2_within_it() {
        let decayed = Optimizer::AdamW {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            decay: 0.5,
        };
        let mut slot = Slot::new(vec![2.0], &decayed);
        descend(&mut slot, &mut [0.0], &decayed, 0.1, 1, true);
        assert!((slot.values[0] - 1.9).abs() < 1e-6, "{:?}", slot.values);
        let within = Optimizer::Sgd {
            momentum: 0.0,
            nesterov: false,
            l2: 0.5,
        };
        let mut slot = Slot::new(vec![2.0], &within);
        descend(&mut slot, &mut [1.0], &within, 0.1, 1, true);
        assert!((slot.values[0] - 1.8).abs() < 1e-6, "{:?}", slot.values);
        // A bias is left alone.
        let mut slot = Slot::new(vec![2.0], &within);
        descend(&mut slot, &mut [0.0], &within, 0.1, 1, false);
        assert_eq!(slot.values, [2.0]);
    }

    #[test]
    fn a_clipped_gradient_keeps_its_direction() {
        let mut gradients = vec![vec![3.0], vec![4.0]];
        clip(&mut gradients, 10.0);
        assert_eq!(gradients, [[3.0], [4.0]]);
        clip(&mut gradients, 1.0);
        assert!((gradients[0][0] - 0.6).abs() < 1e-6 && (gradients[1][0] - 0.8).abs() < 1e-6);
    }
}
