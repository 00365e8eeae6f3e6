//! Losses and what they are computed from.

use candle_core::{Device, Result, Tensor};

use super::recipe::{ClassWeights, Distillation, Loss, Recipe};
use super::{Quality, TrainError};
use crate::data::{DataSet, Targets};
use crate::interpret::{softmax, softplus};
use crate::network::{Head, Network};

/// A loss, checked against a model and the samples.
#[derive(Clone, Debug)]
pub(crate) struct Objective {
    loss: Loss,
    class_weights: Option<Vec<f32>>,
    distillation: Option<Distillation>,
    /// The step that is not run, since the loss takes it in.
    pub(crate) before: Option<usize>,
}

/// Some samples' targets as tensors.
struct Goal {
    /// `[samples, outputs]`; of classes, the class's weight at its place.
    target: Tensor,
    /// What the mean is over.
    weight: f64,
    teacher: Option<Tensor>,
}

impl Objective {
    pub(crate) fn new(
        network: &Network,
        data: &DataSet,
        recipe: &Recipe,
    ) -> std::result::Result<Self, TrainError> {
        let (input, output) = (network.input().elements(), network.output().elements());
        if data.width() != input {
            return Err(TrainError::Width {
                what: "features",
                found: data.width(),
                wanted: input,
            });
        }
        if data.targets().width() != output {
            return Err(TrainError::Width {
                what: "targets",
                found: data.targets().width(),
                wanted: output,
            });
        }
        let of_classes = matches!(data.targets(), Targets::Classes { .. });
        let loss = recipe.loss;
        let misfit = |reason: &'static str| TrainError::Misfit { loss, reason };
        let before = match (loss, network.head()) {
            (Loss::CrossEntropy, _) if !of_classes => return Err(misfit("the targets are values")),
            (Loss::CrossEntropy, Head::Sigmoid) => {
                return Err(misfit("the model ends in a Sigmoid"));
            }
            (Loss::Bce, Head::Softmax) => return Err(misfit("the model ends in a Softmax")),
            (Loss::CrossEntropy | Loss::Bce, Head::Plain) => None,
            (Loss::CrossEntropy | Loss::Bce, Head::Sigmoid | Head::Softmax)
                if of_classes == (loss == Loss::CrossEntropy) =>
            {
                network.before_head()
            }
            (Loss::Mse | Loss::Mae | Loss::Huber { .. } | Loss::Bce, _) if of_classes => {
                return Err(misfit("the targets are classes"));
            }
            (Loss::Mse | Loss::Mae | Loss::Huber { .. } | Loss::Bce | Loss::CrossEntropy, _) => {
                None
            }
        };
        if let (Loss::Bce, Targets::Values { width, values }) = (loss, data.targets())
            && let Some(at) = values.iter().position(|value| !(0.0..=1.0).contains(value))
        {
            return Err(TrainError::Probability {
                sample: at / width,
                value: values[at].to_string(),
            });
        }
        if recipe.distillation.is_some() && data.teacher().is_none() {
            return Err(TrainError::NoTeacher);
        }
        Ok(Self {
            loss,
            class_weights: class_weights(&recipe.class_weights, data.targets())?,
            distillation: recipe.distillation,
            before,
        })
    }

    /// The mean loss of some samples' outputs, and what the mean is over.
    pub(crate) fn mean(&self, output: &Tensor, data: &DataSet) -> Result<(Tensor, f64)> {
        let samples = data.len();
        let output = output.reshape((samples, data.targets().width()))?;
        let goal = self.goal(data)?;
        let label = (self.sum(&output, &goal.target)? / goal.weight)?;
        let (Some(Distillation { temperature, share }), Some(teacher)) =
            (self.distillation, &goal.teacher)
        else {
            return Ok((label, goal.weight));
        };
        let taught = match self.loss {
            Loss::CrossEntropy => {
                let student = softmax(&(&output / temperature)?, 1, true)?;
                let (wanted, log) = (
                    softmax(&(teacher / temperature)?, 1, false)?,
                    softmax(&(teacher / temperature)?, 1, true)?,
                );
                ((wanted * (log - student)?)?.sum_all()?
                    * (temperature * temperature / samples as f64))?
            }
            Loss::Bce => {
                let wanted = crate::interpret::sigmoid(&(teacher / temperature)?)?;
                let scale = temperature * temperature / goal.weight;
                (self.sum(&(&output / temperature)?, &wanted)? * scale)?
            }
            Loss::Mse | Loss::Mae | Loss::Huber { .. } => {
                (self.sum(&output, teacher)? / goal.weight)?
            }
        };
        Ok((((label * (1.0 - share))? + (taught * share)?)?, goal.weight))
    }

    fn sum(&self, output: &Tensor, target: &Tensor) -> Result<Tensor> {
        let each = match self.loss {
            Loss::Mse => (output - target)?.sqr()?,
            Loss::Mae => (output - target)?.abs()?,
            Loss::Huber { delta } => {
                // d^2/2 within delta, else delta * (|d| - delta/2): with c = min(|d|, delta), c * (|d| - c/2).
                let distance = (output - target)?.abs()?;
                let near = (delta - (delta - &distance)?.relu()?)?;
                (&near * (&distance - (&near * 0.5)?)?)?
            }
            Loss::Bce => (softplus(output)? - (target * output)?)?,
            Loss::CrossEntropy => (target * softmax(output, 1, true)?)?.neg()?,
        };
        each.sum_all()
    }

    fn goal(&self, data: &DataSet) -> Result<Goal> {
        let (samples, width) = (data.len(), data.targets().width());
        let tensor = |numbers: &[f32]| Tensor::from_slice(numbers, (samples, width), &Device::Cpu);
        let (target, weight) = match data.targets() {
            Targets::Values { values, .. } => (tensor(values)?, values.len() as f64),
            Targets::Classes { classes, .. } => {
                let mut spread = vec![0.0; samples * width];
                let mut sum = 0.0;
                for (row, &class) in classes.iter().enumerate() {
                    let weight = self
                        .class_weights
                        .as_ref()
                        .map_or(1.0, |weights| weights[class as usize]);
                    spread[row * width + class as usize] = weight;
                    sum += f64::from(weight);
                }
                // Samples that all weigh nothing have no loss, rather than none that is a number.
                (tensor(&spread)?, if sum > 0.0 { sum } else { 1.0 })
            }
        };
        let teacher = data.teacher().map(tensor).transpose()?;
        Ok(Goal {
            target,
            weight,
            teacher,
        })
    }

    /// Accuracy or errors of outputs, which are logits where the loss takes logits.
    pub(crate) fn quality(&self, outputs: &[f32], data: &DataSet, loss: f64) -> Quality {
        let mut quality = Quality {
            loss,
            accuracy: None,
            mae: None,
            rmse: None,
        };
        match data.targets() {
            Targets::Classes { count, classes } => {
                let right = outputs
                    .chunks(*count)
                    .zip(classes)
                    .filter(|(scores, class)| argmax(scores) == **class as usize);
                quality.accuracy = Some(right.count() as f64 / classes.len() as f64);
            }
            Targets::Values { values, .. } if self.loss == Loss::Bce => {
                let right = outputs
                    .iter()
                    .zip(values)
                    .filter(|(logit, value)| (**logit > 0.0) == (**value > 0.5));
                quality.accuracy = Some(right.count() as f64 / values.len() as f64);
            }
            Targets::Values { values, .. } => {
                let count = values.len() as f64;
                let errors = || {
                    outputs
                        .iter()
                        .zip(values)
                        .map(|(a, b)| f64::from(*a) - f64::from(*b))
                };
                quality.mae = Some(errors().map(f64::abs).sum::<f64>() / count);
                quality.rmse =
                    Some((errors().map(|error| error * error).sum::<f64>() / count).sqrt());
            }
        }
        quality
    }
}

/// The first of the largest.
fn argmax(scores: &[f32]) -> usize {
    (0..scores.len()).fold(
        0,
        |best, at| if scores[at] > scores[best] { at } else { best },
    )
}

#[expect(clippy::cast_possible_truncation, reason = "weights of a loss in f32")]
fn class_weights(
    wanted: &ClassWeights,
    targets: &Targets,
) -> std::result::Result<Option<Vec<f32>>, TrainError> {
    let Targets::Classes { count, classes } = targets else {
        return match wanted {
            ClassWeights::Equal => Ok(None),
            ClassWeights::Balanced | ClassWeights::Given(_) => Err(TrainError::Recipe {
                reason: "class_weights are given, the targets are no classes".to_owned(),
            }),
        };
    };
    match wanted {
        ClassWeights::Equal => Ok(None),
        ClassWeights::Given(weights) if weights.len() == *count => {
            Ok(Some(weights.iter().map(|&weight| weight as f32).collect()))
        }
        ClassWeights::Given(weights) => Err(TrainError::Recipe {
            reason: format!(
                "{} class_weights are given, there are {count} classes",
                weights.len()
            ),
        }),
        ClassWeights::Balanced => {
            let mut found = vec![0_usize; *count];
            for &class in classes {
                found[class as usize] += 1;
            }
            let weight = |&of_class: &usize| match of_class {
                0 => 0.0,
                _ => (classes.len() as f64 / (*count as f64 * of_class as f64)) as f32,
            };
            Ok(Some(found.iter().map(weight).collect()))
        }
    }
}
