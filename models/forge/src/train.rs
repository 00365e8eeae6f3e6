//! Training: mini-batches, an optimiser, a held-out split that says when to stop.

use std::ops::ControlFlow;
use std::path::Path;

use candle_core::{Device, Tensor, Var};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::data::{DataSet, Split, Targets};
use crate::files::FileError;
use crate::network::{Network, Parameter};
use crate::random::Random;
use crate::stack;

mod checkpoint;
mod curve;
mod error;
mod objective;
mod recipe;
mod step;

use checkpoint::State;
use objective::Objective;
use step::Slot;

pub use curve::{curve_csv, curve_svg};
pub use error::TrainError;
pub use recipe::{
    BATCH_MAX, ClassWeights, Distillation, EPOCHS_MAX, Loss, Optimizer, Recipe, Schedule,
};

/// Most memory that a step's values and their gradients may take, in bytes, as estimated before.
const STEP_BYTES_MAX: usize = 4 * 1024 * 1024 * 1024;
/// What a value on the tape takes beside itself: its gradient, and results in between that the tape keeps.
const COPIES: usize = 4;
/// Samples that are evaluated together.
const CHUNK: usize = 256;

/// How good outputs are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// The mean loss.
    pub loss: f64,
    /// Of classes: the share of samples whose class has the highest score.
    pub accuracy: Option<f64>,
    /// Of values: the mean absolute error, in the targets' unit.
    pub mae: Option<f64>,
    /// Of values: the root of the mean squared error, in the targets' unit.
    pub rmse: Option<f64>,
}

impl Quality {
    /// What is to be low: one less the accuracy, or the mean absolute error.
    pub fn error(&self) -> f64 {
        self.accuracy
            .map(|accuracy| 1.0 - accuracy)
            .or(self.mae)
            .unwrap_or(self.loss)
    }
}

/// An epoch that is done.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Which, from 1.
    pub epoch: usize,
    /// Learning rate of its last step.
    pub rate: f64,
    /// Mean loss over its batches, while the weights changed.
    pub train_loss: f64,
    /// Held-out samples, after it.
    pub valid: Quality,
}

/// Where a training stands.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The epoch that has just been done.
    pub epoch: &'a Epoch,
    /// Epochs at most.
    pub epochs: usize,
    /// The best epoch so far.
    pub best_epoch: usize,
}

/// Why a training ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// All epochs are done.
    Finished,
    /// The held-out loss was not better for as many epochs as patience allows.
    Early,
    /// The progress callback said so; a checkpoint stays, and training can go on from it.
    Stopped,
}

/// What came of a training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Why it ended.
    pub ended: Ended,
    /// All epochs.
    pub epochs: Vec<Epoch>,
    /// The one whose weights remain, from 1.
    pub best_epoch: usize,
    /// Held-out samples with those weights.
    pub valid: Quality,
}

/// Where and how often to write the state.
#[derive(Clone, Copy, Debug)]
pub struct Checkpoint<'a> {
    /// The file; one that is there is gone on from. It is removed when training has ended by itself.
    pub path: &'a Path,
    /// Epochs between two writes, at least 1.
    pub every: usize,
}

/// Trains the parameters of a model, which remain those of the epoch with the lowest held-out loss.
///
/// `progress` is called after each epoch; breaking stops the training. The same arguments give the same bytes on one
/// machine, whether or not training was killed and went on from a checkpoint.
///
/// # Errors
/// [`TrainError`]; the model is then as it was.
pub fn train(
    network: &mut Network,
    split: &Split,
    recipe: &Recipe,
    checkpoint: Option<Checkpoint<'_>>,
    progress: &mut (dyn FnMut(&Progress<'_>) -> ControlFlow<()> + Send),
) -> Result<Outcome, TrainError> {
    let shared = &*network;
    let work = || Training::new(shared, split, recipe, checkpoint)?.run(progress);
    let (outcome, best) =
        stack::with_room(work).unwrap_or_else(|reason| Err(TrainError::Failed { reason }))?;
    let trained = network
        .parameters_mut()
        .iter_mut()
        .filter(|parameter| parameter.trained);
    for (parameter, values) in trained.zip(best) {
        parameter.values = values;
    }
    Ok(outcome)
}

/// Loss and accuracy or error of a model on some samples.
///
/// # Errors
/// [`TrainError`] when the samples do not suit the model or the loss.
pub fn evaluate(network: &Network, data: &DataSet, loss: Loss) -> Result<Quality, TrainError> {
    let objective = Objective::new(network, data, &Recipe::new(loss, 0))?;
    let work = || {
        let weights: Vec<Tensor> = network
            .parameters()
            .iter()
            .map(tensor)
            .collect::<Result<_, _>>()?;
        quality(network, &weights, &objective, data)
    };
    stack::with_room(work).unwrap_or_else(|reason| Err(TrainError::Failed { reason }))
}

fn tensor(parameter: &Parameter) -> candle_core::Result<Tensor> {
    Tensor::from_slice(&parameter.values, parameter.shape.as_slice(), &Device::Cpu)
}

fn quality(
    network: &Network,
    weights: &[Tensor],
    objective: &Objective,
    data: &DataSet,
) -> Result<Quality, TrainError> {
    let mut outputs = Vec::with_capacity(data.len() * data.targets().width());
    let (mut sum, mut all) = (0.0, 0.0);
    let rows: Vec<usize> = (0..data.len()).collect();
    for rows in rows.chunks(CHUNK) {
        let some = data.pick(rows);
        let output = network.run(weights, some.features(), objective.before)?;
        let (mean, weight) = objective.mean(&output, &some)?;
        sum += f64::from(mean.to_scalar::<f32>()?) * weight;
        all += weight;
        outputs.extend(output.flatten_all()?.to_vec1::<f32>()?);
    }
    Ok(objective.quality(&outputs, data, sum / all))
}

struct Training<'a> {
    network: &'a Network,
    split: &'a Split,
    recipe: &'a Recipe,
    checkpoint: Option<Checkpoint<'a>>,
    objective: Objective,
    held_out: Objective,
    fingerprint: [u8; 32],
    state: State,
}

impl<'a> Training<'a> {
    fn new(
        network: &'a Network,
        split: &'a Split,
        recipe: &'a Recipe,
        checkpoint: Option<Checkpoint<'a>>,
    ) -> Result<Self, TrainError> {
        if let Some(reason) = recipe.fault() {
            return Err(TrainError::Recipe { reason });
        }
        let objective = Objective::new(network, &split.train, recipe)?;
        // Held-out samples are judged as the label says, by all classes alike: a teacher may be wrong.
        let held_out = Objective::new(
            network,
            &split.valid,
            &Recipe::new(recipe.loss, recipe.seed),
        )?;
        let batch = recipe.batch.min(split.train.len());
        let bytes = network
            .graph()
            .sample_elements()
            .saturating_mul(4 * COPIES * batch);
        if bytes > STEP_BYTES_MAX {
            return Err(TrainError::Memory {
                bytes,
                limit: STEP_BYTES_MAX,
                batch,
            });
        }
        let trained = network
            .parameters()
            .iter()
            .filter(|parameter| parameter.trained);
        let slots: Vec<Slot> = trained
            .map(|parameter| Slot::new(parameter.values.clone(), &recipe.optimizer))
            .collect();
        if slots.is_empty() {
            return Err(TrainError::AllFrozen);
        }
        let mut state = State {
            epoch: 0,
            step: 0,
            best_epoch: 0,
            history: Vec::new(),
            best: slots.iter().map(|slot| slot.values.clone()).collect(),
            slots,
        };
        let fingerprint = fingerprint(network, split, recipe);
        if let Some(checkpoint) = &checkpoint
            && let Some(found) =
                checkpoint::read(checkpoint.path, &fingerprint, &state, recipe.epochs)?
        {
            state = found;
        }
        Ok(Self {
            network,
            split,
            recipe,
            checkpoint,
            objective,
            held_out,
            fingerprint,
            state,
        })
    }

    fn run(
        mut self,
        progress: &mut dyn FnMut(&Progress<'_>) -> ControlFlow<()>,
    ) -> Result<(Outcome, Vec<Vec<f32>>), TrainError> {
        let mut ended = self.ended();
        while ended.is_none() {
            self.epoch()?;
            ended = self.ended();
            let stopped = self.state.history.last().is_some_and(|epoch| {
                let here = Progress {
                    epoch,
                    epochs: self.recipe.epochs,
                    best_epoch: self.state.best_epoch,
                };
                progress(&here).is_break()
            });
            if stopped && ended.is_none() {
                ended = Some(Ended::Stopped);
            }
            self.save(ended)?;
        }
        let ended = ended.unwrap_or(Ended::Finished);
        let best = self
            .state
            .history
            .get(self.state.best_epoch.saturating_sub(1));
        let Some(valid) = best.map(|epoch| epoch.valid) else {
            return Err(TrainError::Diverged {
                epoch: 1,
                step: self.state.step,
            });
        };
        let outcome = Outcome {
            ended,
            epochs: self.state.history,
            best_epoch: self.state.best_epoch,
            valid,
        };
        Ok((outcome, self.state.best))
    }

    /// Whether training is over, by the epochs that have been done.
    fn ended(&self) -> Option<Ended> {
        let stale = self.state.epoch - self.state.best_epoch;
        if self
            .recipe
            .patience
            .is_some_and(|patience| stale >= patience && self.state.epoch > 0)
        {
            Some(Ended::Early)
        } else if self.state.epoch >= self.recipe.epochs {
            Some(Ended::Finished)
        } else {
            None
        }
    }

    /// Writes the state when it is due, and removes it when training has ended by itself.
    fn save(&self, ended: Option<Ended>) -> Result<(), TrainError> {
        let Some(checkpoint) = &self.checkpoint else {
            return Ok(());
        };
        if matches!(ended, Some(Ended::Finished | Ended::Early)) {
            return match std::fs::remove_file(checkpoint.path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(FileError::of(checkpoint.path, "remove it")(error).into())
                }
                Ok(()) | Err(_) => Ok(()),
            };
        }
        if ended.is_some() || self.state.epoch.is_multiple_of(checkpoint.every.max(1)) {
            checkpoint::write(checkpoint.path, &self.fingerprint, &self.state)?;
        }
        Ok(())
    }

    fn epoch(&mut self) -> Result<(), TrainError> {
        let train = &self.split.train;
        let mut order: Vec<usize> = (0..train.len()).collect();
        // By seed and epoch alone: a training that goes on needs no memory of the ones before.
        Random::of(self.recipe.seed, self.state.epoch as u64).shuffle(&mut order);
        let steps = order.len().div_ceil(self.recipe.batch) as u64;
        let (mut sum, mut all, mut rate) = (0.0, 0.0, self.recipe.rate);
        for rows in order.chunks(self.recipe.batch) {
            rate = self.recipe.rate_at(self.state.step, steps);
            let (loss, weight) = self.step(&train.pick(rows), rate)?;
            if !loss.is_finite() {
                return Err(self.diverged());
            }
            sum += loss * weight;
            all += weight;
        }
        let weights =
            self.tensors(|slot, shape| Tensor::from_slice(&slot.values, shape, &Device::Cpu))?;
        let valid = quality(self.network, &weights, &self.held_out, &self.split.valid)?;
        if !valid.loss.is_finite() {
            return Err(self.diverged());
        }
        let best = self
            .state
            .best_epoch
            .checked_sub(1)
            .and_then(|at| self.state.history.get(at));
        let better = best.is_none_or(|best| valid.loss < best.valid.loss - self.recipe.min_gain);
        self.state.epoch += 1;
        self.state.history.push(Epoch {
            epoch: self.state.epoch,
            rate,
            train_loss: sum / all,
            valid,
        });
        if better {
            self.state.best_epoch = self.state.epoch;
            self.state.best = self
                .state
                .slots
                .iter()
                .map(|slot| slot.values.clone())
                .collect();
        }
        Ok(())
    }

    fn diverged(&self) -> TrainError {
        TrainError::Diverged {
            epoch: self.state.epoch + 1,
            step: self.state.step,
        }
    }

    /// One step; the loss before it and what its mean is over.
    fn step(&mut self, batch: &DataSet, rate: f64) -> Result<(f64, f64), TrainError> {
        let mut variables = Vec::with_capacity(self.state.slots.len());
        let weights = self.tensors(|slot, shape| {
            let variable = Var::from_slice(&slot.values, shape, &Device::Cpu)?;
            variables.push(variable.as_tensor().clone());
            Ok(variable.as_tensor().clone())
        })?;
        let output = self
            .network
            .run(&weights, batch.features(), self.objective.before)?;
        let (mean, weight) = self.objective.mean(&output, batch)?;
        let gradients = mean.backward()?;
        let gradient = |variable: &Tensor| match gradients.get(variable) {
            Some(gradient) => gradient.flatten_all()?.to_vec1::<f32>(),
            None => Ok(vec![0.0; variable.elem_count()]),
        };
        let mut gradients = variables
            .iter()
            .map(gradient)
            .collect::<Result<Vec<_>, _>>()?;
        let trained = || {
            self.network
                .parameters()
                .iter()
                .filter(|parameter| parameter.trained)
        };
        for (gradient, parameter) in gradients.iter_mut().zip(trained()) {
            clear_pruned(gradient, parameter);
        }
        if let Some(limit) = self.recipe.clip_norm {
            step::clip(&mut gradients, limit);
        }
        self.state.step += 1;
        for ((slot, gradient), parameter) in self
            .state
            .slots
            .iter_mut()
            .zip(&mut gradients)
            .zip(trained())
        {
            let pulled = parameter.shape.len() > 1;
            step::descend(
                slot,
                gradient,
                &self.recipe.optimizer,
                rate,
                self.state.step,
                pulled,
            );
            clear_pruned(&mut slot.values, parameter);
        }
        Ok((f64::from(mean.to_scalar::<f32>()?), weight))
    }

    /// All weights as tensors, those in training made by `make`.
    fn tensors(
        &self,
        mut make: impl FnMut(&Slot, &[usize]) -> candle_core::Result<Tensor>,
    ) -> candle_core::Result<Vec<Tensor>> {
        let mut slots = self.state.slots.iter();
        let parameters = self.network.parameters().iter();
        let of = |parameter: &Parameter| {
            let slot = if parameter.trained {
                slots.next()
            } else {
                None
            };
            slot.map_or_else(|| tensor(parameter), |slot| make(slot, &parameter.shape))
        };
        parameters.map(of).collect()
    }
}

fn clear_pruned(numbers: &mut [f32], parameter: &Parameter) {
    if let Some(kept) = &parameter.kept {
        for (number, kept) in numbers.iter_mut().zip(kept) {
            if !kept {
                *number = 0.0;
            }
        }
    }
}

/// Digest of all that decides the outcome.
fn fingerprint(network: &Network, split: &Split, recipe: &Recipe) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(network.to_onnx());
    for parameter in network.parameters() {
        hash.update([
            u8::from(parameter.trained),
            u8::from(parameter.kept.is_some()),
        ]);
        for &kept in parameter.kept.iter().flatten() {
            hash.update([u8::from(kept)]);
        }
    }
    // Debug shows all fields, floats in their shortest exact form.
    hash.update(format!("{recipe:?}"));
    let floats = |hash: &mut Sha256, numbers: &[f32]| {
        hash.update((numbers.len() as u64).to_le_bytes());
        for number in numbers {
            hash.update(number.to_le_bytes());
        }
    };
    for data in [&split.train, &split.valid] {
        floats(&mut hash, data.features());
        floats(&mut hash, data.teacher().unwrap_or_default());
        match data.targets() {
            Targets::Values { values, .. } => floats(&mut hash, values),
            Targets::Classes { classes, .. } => classes
                .iter()
                .for_each(|class| hash.update(class.to_le_bytes())),
        }
    }
    hash.finalize().into()
}
