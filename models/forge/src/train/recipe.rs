//! How to train: everything that decides the outcome beside the model and the samples.

use serde::{Deserialize, Serialize};

/// Most epochs: a training that needs more has another fault.
pub const EPOCHS_MAX: usize = 100_000;
/// Largest batch: beyond it a step costs more than it gains.
pub const BATCH_MAX: usize = 65_536;

/// A training, from its seed to its last step. The same recipe, model, samples and machine give the same bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Decides the order of the samples.
    pub seed: u64,
    /// Times through the training samples, at most.
    pub epochs: usize,
    /// Samples a step; the last of an epoch may have fewer.
    pub batch: usize,
    /// What a step does with the gradients.
    pub optimizer: Optimizer,
    /// Learning rate that the schedule starts from.
    pub rate: f64,
    /// How the rate changes.
    #[serde(default)]
    pub schedule: Schedule,
    /// Steps over which the rate rises to its start, in equal parts.
    #[serde(default)]
    pub warm_up_steps: usize,
    /// What is made small.
    pub loss: Loss,
    /// How much each class counts.
    #[serde(default)]
    pub class_weights: ClassWeights,
    /// Largest norm of all gradients together (Pascanu et al., arXiv 1211.5063); longer ones are shortened to it.
    #[serde(default)]
    pub clip_norm: Option<f64>,
    /// Epochs without a better held-out loss after which training ends; none trains through all epochs. Either way the
    /// weights of the best epoch are what remains.
    #[serde(default)]
    pub patience: Option<usize>,
    /// By how much a held-out loss must be lower to be better.
    #[serde(default)]
    pub min_gain: f64,
    /// Learning from a teacher too.
    #[serde(default)]
    pub distillation: Option<Distillation>,
}

/// What a step does with the gradients. `l2` adds `l2 * weight` to the gradient of each weight with two axes or more.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Optimizer {
    /// Stochastic gradient descent: `v = momentum * v - rate * g`, `w += v`; with Nesterov, `w += momentum * v - rate * g`.
    Sgd {
        /// How much of the last step is done again.
        #[serde(default)]
        momentum: f64,
        /// Looks ahead (Sutskever et al., ICML 2013).
        #[serde(default)]
        nesterov: bool,
        /// Pull to 0 within the gradient.
        #[serde(default)]
        l2: f64,
    },
    /// Kingma and Ba, arXiv 1412.6980.
    Adam {
        /// Memory of the gradient.
        #[serde(default = "beta1")]
        beta1: f64,
        /// Memory of its square.
        #[serde(default = "beta2")]
        beta2: f64,
        /// Keeps the divisor from 0.
        #[serde(default = "epsilon")]
        epsilon: f64,
        /// Pull to 0 within the gradient.
        #[serde(default)]
        l2: f64,
    },
    /// Loshchilov and Hutter, arXiv 1711.05101: the pull to 0 is beside the gradient.
    #[serde(rename = "adamw")]
    AdamW {
        /// Memory of the gradient.
        #[serde(default = "beta1")]
        beta1: f64,
        /// Memory of its square.
        #[serde(default = "beta2")]
        beta2: f64,
        /// Keeps the divisor from 0.
        #[serde(default = "epsilon")]
        epsilon: f64,
        /// Share of each weight with two axes or more that a step takes away, times the rate.
        #[serde(default = "decay")]
        decay: f64,
    },
}

impl Optimizer {
    /// Adam as its authors set it.
    pub const fn adam() -> Self {
        Self::Adam {
            beta1: beta1(),
            beta2: beta2(),
            epsilon: epsilon(),
            l2: 0.0,
        }
    }
}

const fn beta1() -> f64 {
    0.9
}

const fn beta2() -> f64 {
    0.999
}

const fn epsilon() -> f64 {
    1e-8
}

const fn decay() -> f64 {
    0.01
}

/// How the learning rate changes after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// Not at all.
    #[default]
    Constant,
    /// Along half a cosine to `floor` times the start at the last step (Loshchilov and Hutter, arXiv 1608.03983).
    Cosine {
        /// From 0 to 1.
        #[serde(default)]
        floor: f64,
    },
    /// Times `factor` after every so many epochs.
    Step {
        /// Epochs between two steps.
        epochs: usize,
        /// From 0 to 1.
        factor: f64,
    },
}

/// What is made small.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Loss {
    /// Mean of squared errors.
    Mse,
    /// Mean of absolute errors.
    Mae,
    /// Half the square up to `delta`, from there on linear (Huber, 1964).
    Huber {
        /// Where it becomes linear.
        delta: f64,
    },
    /// Binary cross-entropy of each output; targets are from 0 to 1. What goes into a last Sigmoid, or the output of a
    /// graph without one, is taken as logits.
    Bce,
    /// Cross-entropy of classes. What goes into a last Softmax, or the output of a graph without one, is taken as logits.
    CrossEntropy,
}

/// How much each class counts in a cross-entropy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassWeights {
    /// All the same.
    #[default]
    Equal,
    /// The rarer, the more: `samples / (classes * samples of the class)`.
    Balanced,
    /// These.
    Given(Vec<f64>),
}

/// Learning from a teacher (Hinton et al., arXiv 1503.02531): `share` of the loss is how far the student is from it, the
/// rest how far from the labels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distillation {
    /// Divides the logits of both before the softmax; the gradient is scaled by its square. Of no effect on values.
    pub temperature: f64,
    /// From 0 to 1.
    pub share: f64,
}

impl Recipe {
    /// A start that suits small models: Adam, batches of 64, early stopping.
    pub const fn new(loss: Loss, seed: u64) -> Self {
        Self {
            seed,
            epochs: 100,
            batch: 64,
            optimizer: Optimizer::adam(),
            rate: 1e-3,
            schedule: Schedule::Constant,
            warm_up_steps: 0,
            loss,
            class_weights: ClassWeights::Equal,
            clip_norm: None,
            patience: Some(10),
            min_gain: 0.0,
            distillation: None,
        }
    }

    /// What is out of range, if anything is.
    pub(crate) fn fault(&self) -> Option<String> {
        let within = |name: &str, value: f64, low: f64, high: f64| {
            let inside = (low..=high).contains(&value);
            (!inside).then(|| format!("{name} is {value}, it must be from {low} to {high}"))
        };
        let count = |name: &str, value: usize, high: usize| {
            let inside = (1..=high).contains(&value);
            (!inside).then(|| format!("{name} is {value}, it must be from 1 to {high}"))
        };
        let mut faults = vec![
            count("epochs", self.epochs, EPOCHS_MAX),
            count("batch", self.batch, BATCH_MAX),
            within("rate", self.rate, f64::MIN_POSITIVE, 1e3),
            within("min_gain", self.min_gain, 0.0, 1e9),
            within(
                "clip_norm",
                self.clip_norm.unwrap_or(1.0),
                f64::MIN_POSITIVE,
                1e9,
            ),
            count("patience", self.patience.unwrap_or(1), EPOCHS_MAX),
        ];
        let unit = |name: &str, value: f64| within(name, value, 0.0, 1.0);
        // A memory of 1 would never learn.
        let memory = |name: &str, value: f64| within(name, value, 0.0, 0.999_999_9);
        match self.optimizer {
            Optimizer::Sgd { momentum, l2, .. } => {
                faults.extend([memory("momentum", momentum), unit("l2", l2)]);
            }
            Optimizer::Adam {
                beta1,
                beta2,
                epsilon,
                l2: pull,
            }
            | Optimizer::AdamW {
                beta1,
                beta2,
                epsilon,
                decay: pull,
            } => faults.extend([
                memory("beta1", beta1),
                memory("beta2", beta2),
                within("epsilon", epsilon, f64::MIN_POSITIVE, 1.0),
                unit("l2 or decay", pull),
            ]),
        }
        match self.schedule {
            Schedule::Constant => {}
            Schedule::Cosine { floor } => faults.push(unit("floor", floor)),
            Schedule::Step { epochs, factor } => faults.extend([
                count("epochs of a step", epochs, EPOCHS_MAX),
                unit("factor", factor),
            ]),
        }
        if let Loss::Huber { delta } = self.loss {
            faults.push(within("delta", delta, f64::MIN_POSITIVE, 1e9));
        }
        if let Some(Distillation { temperature, share }) = self.distillation {
            faults.extend([
                within("temperature", temperature, 0.01, 1e3),
                unit("share", share),
            ]);
        }
        if let ClassWeights::Given(weights) = &self.class_weights {
            faults.extend(
                weights
                    .iter()
                    .map(|&weight| within("a class's weight", weight, 0.0, 1e6)),
            );
        }
        faults.into_iter().flatten().next()
    }

    /// The learning rate of a step, counted from 0; `steps` are those of an epoch.
    pub(crate) fn rate_at(&self, step: u64, steps: u64) -> f64 {
        let warm_up = self.warm_up_steps as u64;
        if step < warm_up {
            return self.rate * (step + 1) as f64 / warm_up as f64;
        }
        match self.schedule {
            Schedule::Constant => self.rate,
            Schedule::Cosine { floor } => {
                let all = (steps * self.epochs as u64).saturating_sub(warm_up).max(1);
                let done = ((step - warm_up) as f64 / all as f64).min(1.0);
                let height = 0.5 * (1.0 + (std::f64::consts::PI * done).cos());
                self.rate * (floor + (1.0 - floor) * height)
            }
            Schedule::Step { epochs, factor } => {
                let drops = step / steps.max(1) / epochs as u64;
                self.rate * factor.powi(i32::try_from(drops).unwrap_or(i32::MAX))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_follow_their_schedules() {
        let rates = |schedule, warm_up_steps| {
            let recipe = Recipe {
                epochs: 10,
                rate: 1.0,
                schedule,
                warm_up_steps,
                ..Recipe::new(Loss::Mse, 1)
            };
            // Ten steps an epoch.
            [0, 3, 50, 99].map(|step| format!("{:.3}", recipe.rate_at(step, 10)))
        };
        assert_eq!(
            rates(Schedule::Constant, 0),
            ["1.000", "1.000", "1.000", "1.000"]
        );
        assert_eq!(
            rates(Schedule::Constant, 4),
            ["0.250", "1.000", "1.000", "1.000"]
        );
        assert_eq!(
            rates(Schedule::Cosine { floor: 0.0 }, 0),
            ["1.000", "0.998", "0.500", "0.000"]
        );
        assert_eq!(
            rates(Schedule::Cosine { floor: 0.5 }, 0),
            ["1.000", "0.999", "0.750", "0.500"]
        );
        let step = Schedule::Step {
            epochs: 3,
            factor: 0.1,
        };
        assert_eq!(rates(step, 0), ["1.000", "1.000", "0.100", "0.001"]);
    }

    #[test]
    fn a_recipe_is_a_file_that_says_only_what_differs() {
        let text = r#"{"seed": 1, "epochs": 5, "batch": 32, "rate": 0.001, "loss": {"kind": "cross_entropy"},
            "optimizer": {"kind": "adamw"}, "schedule": {"kind": "cosine"}, "class_weights": {"given": [1.0, 2.0]}}"#;
        let recipe: Recipe = serde_json::from_str(text).unwrap();
        assert_eq!(
            recipe.optimizer,
            Optimizer::AdamW {
                beta1: 0.9,
                beta2: 0.999,
                epsilon: 1e-8,
                decay: 0.01
            }
        );
        assert_eq!(recipe.class_weights, ClassWeights::Given(vec![1.0, 2.0]));
        assert_eq!(recipe.patience, None);
        let again = serde_json::to_string(&recipe).unwrap();
        assert_eq!(serde_json::from_str::<Recipe>(&again).unwrap(), recipe);
        let unknown = text.replace("\"seed\"", "\"sede\": 1, \"seed\"");
        assert!(serde_json::from_str::<Recipe>(&unknown).is_err());
    }
}
