//! Refuses a manifest that contradicts itself, before anything is opened or allocated on its word.

use super::{
    Feature, ImageSize, LABELS_MAX, MANIFEST_BYTES_MAX, MODEL_BYTES_MAX, Manifest, OutputKind,
    TENSOR_ELEMENTS_MAX, Task, WINDOW_COUNT_MAX,
};

/// Why a manifest is refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Too much to read.
    #[error("manifest has {bytes} bytes, the limit is {MANIFEST_BYTES_MAX}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Not JSON, or not of this form.
    #[error("manifest does not parse")]
    Json(#[from] serde_json::Error),
    /// The ONNX file would be too large.
    #[error("model file has {bytes} bytes, the limit is {MODEL_BYTES_MAX}")]
    ModelTooLarge {
        /// The size that the manifest gives.
        bytes: u64,
    },
    /// A tensor's shape is not usable.
    #[error("{tensor} tensor of shape {shape:?}")]
    Shape {
        /// `input` or `output`.
        tensor: &'static str,
        /// The shape.
        shape: Vec<usize>,
        /// What is wrong with it.
        #[source]
        source: ShapeError,
    },
    /// The window has no or too many readings.
    #[error("window.count is {count}, it must be 1 to {WINDOW_COUNT_MAX}")]
    Window {
        /// The count.
        count: usize,
    },
    /// A feature cannot be computed.
    #[error("features[{index}]: {reason}")]
    Feature {
        /// Which one, from 0.
        index: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The features do not fill the input tensor.
    #[error("features make {made} numbers, the input tensor has {wanted}")]
    Width {
        /// What the features make.
        made: usize,
        /// What the tensor takes.
        wanted: usize,
    },
    /// The output's meaning does not fit.
    #[error("output: {reason}")]
    Output {
        /// What is wrong with it.
        reason: String,
    },
    /// The tolerance lets everything or nothing pass.
    #[error(
        "golden tolerances {abs_tolerance} and {rel_tolerance} must be finite, not negative and at most 1"
    )]
    Tolerance {
        /// The absolute part.
        abs_tolerance: f64,
        /// The relative part.
        rel_tolerance: f64,
    },
}

/// Why a shape is not usable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// No batch dimension of 1.
    #[error("the first dimension is the batch and must be 1")]
    Batch,
    /// Nothing in it, or too much.
    #[error("must have 1 to {TENSOR_ELEMENTS_MAX} elements in at most 6 dimensions")]
    Size,
}

impl Manifest {
    pub(super) fn check(&self) -> Result<(), ManifestError> {
        if self.model.bytes > MODEL_BYTES_MAX {
            return Err(ManifestError::ModelTooLarge {
                bytes: self.model.bytes,
            });
        }
        for (tensor, shape) in [("input", &self.input.shape), ("output", &self.output.shape)] {
            check_shape(shape).map_err(|source| ManifestError::Shape {
                tensor,
                shape: shape.clone(),
                source,
            })?;
        }
        if !(1..=WINDOW_COUNT_MAX).contains(&self.window.count) {
            return Err(ManifestError::Window {
                count: self.window.count,
            });
        }
        let mut made = 0_usize;
        for (index, feature) in self.features.iter().enumerate() {
            let refuse = |reason| ManifestError::Feature { index, reason };
            check_feature(feature, self.window.count).map_err(refuse)?;
            let width = feature
                .width()
                .filter(|&width| width <= TENSOR_ELEMENTS_MAX);
            made += width
                .ok_or_else(|| refuse(format!("makes more than {TENSOR_ELEMENTS_MAX} numbers")))?;
            if made > TENSOR_ELEMENTS_MAX {
                return Err(refuse(format!(
                    "with it, the features make more than {TENSOR_ELEMENTS_MAX} numbers"
                )));
            }
        }
        if made != self.input_elements() {
            return Err(ManifestError::Width {
                made,
                wanted: self.input_elements(),
            });
        }
        self.check_output()
            .map_err(|reason| ManifestError::Output { reason })?;
        let (abs_tolerance, rel_tolerance) = (self.golden.abs_tolerance, self.golden.rel_tolerance);
        if [abs_tolerance, rel_tolerance]
            .iter()
            .all(|tolerance| (0.0..=1.0).contains(tolerance))
        {
            Ok(())
        } else {
            Err(ManifestError::Tolerance {
                abs_tolerance,
                rel_tolerance,
            })
        }
    }

    fn check_output(&self) -> Result<(), String> {
        let elements = self.output_elements();
        match (&self.output.kind, self.task) {
            (OutputKind::Labels { names, .. }, Task::Classification) => {
                if names.is_empty() || names.len() > LABELS_MAX {
                    return Err(format!(
                        "{} labels, a classification has 1 to {LABELS_MAX}",
                        names.len()
                    ));
                }
                if names.len() != elements {
                    return Err(format!(
                        "{} labels for a tensor of {elements} elements",
                        names.len()
                    ));
                }
                let mut sorted: Vec<_> = names.iter().collect();
                sorted.sort();
                match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
                    Some(pair) => Err(format!("label {:?} is there twice", pair[0])),
                    None => Ok(()),
                }
            }
            (
                OutputKind::Value {
                    scale,
                    offset,
                    horizon_ms,
                    ..
                },
                Task::Regression | Task::Forecasting,
            ) => {
                if elements != 1 {
                    return Err(format!("a value is one element, the tensor has {elements}"));
                }
                if !(scale.is_finite() && *scale != 0.0 && offset.is_finite()) {
                    return Err(format!(
                        "scale {scale} must be finite and not 0, offset {offset} finite"
                    ));
                }
                match (self.task, horizon_ms) {
                    (Task::Forecasting, None | Some(0)) => {
                        Err("a forecast needs horizon_ms above 0".to_owned())
                    }
                    _ => Ok(()),
                }
            }
            (OutputKind::Score { threshold }, Task::Anomaly) => match elements {
                1 => check_threshold(*threshold),
                _ => Err(format!("a score is one element, the tensor has {elements}")),
            },
            (OutputKind::Reconstruction { threshold }, Task::Anomaly)
                if elements == self.input_elements() =>
            {
                check_threshold(*threshold)
            }
            (OutputKind::Reconstruction { .. }, Task::Anomaly) => Err(format!(
                "a reconstruction has the input's {} elements, not {elements}",
                self.input_elements()
            )),
            _ => Err(format!(
                "{:?} does not go with this kind: classification has labels, regression and forecasting a value, anomaly a score or a reconstruction",
                self.task
            )),
        }
    }
}

fn check_threshold(threshold: f64) -> Result<(), String> {
    if threshold.is_finite() {
        Ok(())
    } else {
        Err(format!("threshold {threshold} is not finite"))
    }
}

fn check_shape(shape: &[usize]) -> Result<(), ShapeError> {
    if shape.first() != Some(&1) {
        return Err(ShapeError::Batch);
    }
    let elements = shape
        .iter()
        .try_fold(1_usize, |all, &dimension| all.checked_mul(dimension));
    match elements {
        Some(elements) if (1..=TENSOR_ELEMENTS_MAX).contains(&elements) && shape.len() <= 6 => {
            Ok(())
        }
        _ => Err(ShapeError::Size),
    }
}

fn check_feature(feature: &Feature, count: usize) -> Result<(), String> {
    match feature {
        Feature::Select {
            last, mean, std, ..
        } => {
            if !(1..=count).contains(last) {
                return Err(format!("last is {last}, the window has {count} readings"));
            }
            check_affine(*mean, *std)
        }
        Feature::Lag {
            lags, mean, std, ..
        } => {
            if let Some(lag) = lags.iter().find(|&&lag| lag >= count) {
                return Err(format!(
                    "lag {lag} is outside a window of {count} readings, which has lags 0 to {}",
                    count - 1
                ));
            }
            check_affine(*mean, *std)
        }
        Feature::Aggregate { mean, std, .. } | Feature::Vector { mean, std, .. } => {
            check_affine(*mean, *std)
        }
        Feature::OneHot { .. } | Feature::Calendar { .. } => Ok(()),
        Feature::Image {
            from,
            to,
            channels,
            mean,
            std,
            ..
        } => check_image(from, to, channels, mean, std),
    }
}

fn check_affine(mean: f64, std: f64) -> Result<(), String> {
    if mean.is_finite() && std.is_finite() && std != 0.0 {
        Ok(())
    } else {
        Err(format!(
            "mean {mean} must be finite, std {std} finite and not 0"
        ))
    }
}

fn check_image(
    from: &ImageSize,
    to: &ImageSize,
    channels: &[usize],
    mean: &[f64],
    std: &[f64],
) -> Result<(), String> {
    for (what, size) in [("from", from), ("to", to)] {
        let elements = size.elements().unwrap_or(usize::MAX);
        if !(1..=TENSOR_ELEMENTS_MAX).contains(&elements) {
            return Err(format!(
                "image {what} {size:?} must have 1 to {TENSOR_ELEMENTS_MAX} elements"
            ));
        }
    }
    if [channels.len(), mean.len(), std.len()] != [to.channels; 3] {
        return Err(format!(
            "channels, mean and std must have {} entries each, one an output channel",
            to.channels
        ));
    }
    if let Some(channel) = channels.iter().find(|&&channel| channel >= from.channels) {
        return Err(format!(
            "channel {channel} is not in an image of {} channels",
            from.channels
        ));
    }
    mean.iter()
        .zip(std)
        .try_for_each(|(mean, std)| check_affine(*mean, *std))
}
