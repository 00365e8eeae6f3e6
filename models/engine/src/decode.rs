//! Output tensors to results.

use std::time::Duration;

use lamppost_models::manifest::{Activation, Manifest, OutputKind};

use crate::error::RunFailure;

/// Label of a window whose anomaly score reaches the threshold.
pub const ANOMALY: &str = "anomaly";
/// Label of a window whose anomaly score does not.
pub const NORMAL: &str = "normal";

/// A result, with what a [`lamppost_models::Prediction`] says of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// Of a classification: the label with the highest score, the first of equals. Of an anomaly detection:
    /// [`ANOMALY`] or [`NORMAL`].
    pub label: Option<String>,
    /// Of a classification: the score of that label.
    pub score: Option<f32>,
    /// Of a classification: the scores of all labels, in the manifest's order.
    pub scores: Option<Vec<f32>>,
    /// Of a regression or forecast: the value in `unit`. Of an anomaly detection: how unusual the window is.
    pub value: Option<f64>,
    /// Unit of a regression's or forecast's value.
    pub unit: Option<String>,
    /// How far ahead of the newest reading a forecast is.
    pub horizon: Option<Duration>,
}

/// Gives the output tensor its meaning; `features` is what went in.
pub(crate) fn decode(
    manifest: &Manifest,
    features: &[f32],
    numbers: &[f32],
) -> Result<Output, RunFailure> {
    if let Some(index) = numbers.iter().position(|number| !number.is_finite()) {
        return Err(RunFailure::NotFinite {
            index,
            value: f64::from(numbers[index]),
        });
    }
    let none = Output::default();
    let first = f64::from(numbers.first().copied().unwrap_or_default());
    match &manifest.output.kind {
        OutputKind::Labels { names, activation } => {
            let scores = activate(*activation, numbers);
            let best = argmax(&scores);
            Ok(Output {
                label: names.get(best).cloned(),
                score: scores.get(best).copied(),
                scores: Some(scores),
                ..none
            })
        }
        OutputKind::Value {
            unit,
            scale,
            offset,
            ..
        } => {
            let value = finite(first * scale + offset)?;
            Ok(Output {
                value: Some(value),
                unit: Some(unit.clone()),
                horizon: manifest.output.kind.horizon(),
                ..none
            })
        }
        OutputKind::Score { threshold } => Ok(anomaly(first, *threshold, none)),
        OutputKind::Reconstruction { threshold } => {
            let squares = features
                .iter()
                .zip(numbers)
                .map(|(&have, &want)| (f64::from(have) - f64::from(want)).powi(2));
            let error = finite(squares.sum::<f64>() / numbers.len().max(1) as f64)?;
            Ok(anomaly(error, *threshold, none))
        }
    }
}

fn anomaly(value: f64, threshold: f64, none: Output) -> Output {
    let label = if value >= threshold { ANOMALY } else { NORMAL };
    Output {
        label: Some(label.to_owned()),
        value: Some(value),
        ..none
    }
}

fn finite(value: f64) -> Result<f64, RunFailure> {
    if value.is_finite() {
        Ok(value)
    } else {
        Err(RunFailure::NotFinite { index: 0, value })
    }
}

fn activate(activation: Activation, numbers: &[f32]) -> Vec<f32> {
    match activation {
        Activation::None => numbers.to_vec(),
        Activation::Sigmoid => numbers
            .iter()
            .map(|number| 1.0 / (1.0 + (-number).exp()))
            .collect(),
        Activation::Softmax => {
            // Less the largest first, so that no exponential overflows.
            let largest = numbers.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut scores: Vec<f32> = numbers
                .iter()
                .map(|number| (number - largest).exp())
                .collect();
            let sum: f32 = scores.iter().sum();
            for score in &mut scores {
                *score /= sum;
            }
            scores
        }
    }
}

fn argmax(scores: &[f32]) -> usize {
    scores.iter().enumerate().fold(
        0,
        |best, (index, score)| if *score > scores[best] { index } else { best },
    )
}
