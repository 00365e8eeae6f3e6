//! Samples to learn from.

use std::ops::Range;

/// Most bytes of a set's features and targets: it is held in memory, twice while it is split.
pub const DATA_BYTES_MAX: usize = 1024 * 1024 * 1024;
/// Most classes: as many labels as a manifest may have.
pub const CLASSES_MAX: usize = lamppost_models::manifest::LABELS_MAX;

/// What is to be learned of each sample.
#[derive(Clone, Debug, PartialEq)]
pub enum Targets {
    /// Some numbers a sample, row-major.
    Values {
        /// How many.
        width: usize,
        /// All of them.
        values: Vec<f32>,
    },
    /// One class a sample.
    Classes {
        /// How many classes there are.
        count: usize,
        /// The class of each sample, from 0.
        classes: Vec<u32>,
    },
}

impl Targets {
    fn samples(&self) -> usize {
        match self {
            Self::Values { width, values } => values.len() / (*width).max(1),
            Self::Classes { classes, .. } => classes.len(),
        }
    }

    /// Numbers that a model gives for each sample.
    pub const fn width(&self) -> usize {
        match self {
            Self::Values { width, .. } => *width,
            Self::Classes { count, .. } => *count,
        }
    }

    fn pick(&self, rows: &[usize]) -> Self {
        match self {
            Self::Values { width, values } => Self::Values {
                width: *width,
                values: pick(values, *width, rows),
            },
            Self::Classes { count, classes } => Self::Classes {
                count: *count,
                classes: pick(classes, 1, rows),
            },
        }
    }

    /// Whether there is nothing to tell apart.
    fn constant(&self) -> bool {
        match self {
            Self::Values { width, values } => {
                let (first, rest) = values.split_at((*width).min(values.len()));
                rest.chunks(*width).all(|row| row == first)
            }
            Self::Classes { classes, .. } => classes.windows(2).all(|pair| pair[0] == pair[1]),
        }
    }
}

fn pick<T: Copy>(numbers: &[T], width: usize, rows: &[usize]) -> Vec<T> {
    let mut picked = Vec::with_capacity(rows.len() * width);
    for &row in rows {
        picked.extend_from_slice(&numbers[row * width..(row + 1) * width]);
    }
    picked
}

/// Samples with their targets, all finite, in the order that they were given in.
#[derive(Clone, Debug, PartialEq)]
pub struct DataSet {
    width: usize,
    features: Vec<f32>,
    targets: Targets,
    teacher: Option<Vec<f32>>,
}

impl DataSet {
    /// A set of samples with `width` features each, row-major.
    ///
    /// # Errors
    /// [`DataError`] when there are no samples, when the lengths do not fit each other, when a number is not finite or a
    /// class out of range, or when the set is too large.
    pub fn new(width: usize, features: Vec<f32>, targets: Targets) -> Result<Self, DataError> {
        if width == 0 || features.is_empty() {
            return Err(DataError::Empty { split: "set" });
        }
        let bytes = (features.len() + targets.samples() * targets.width()).saturating_mul(4);
        if bytes > DATA_BYTES_MAX {
            return Err(DataError::TooLarge {
                bytes,
                limit: DATA_BYTES_MAX,
            });
        }
        let samples = features.len() / width;
        if !features.len().is_multiple_of(width) {
            return Err(DataError::Length {
                what: "features",
                found: features.len(),
                wanted: (samples + 1) * width,
            });
        }
        finite("feature", width, &features)?;
        match &targets {
            Targets::Values { width, values } => {
                if *width == 0 || values.len() != samples * width {
                    return Err(DataError::Length {
                        what: "target values",
                        found: values.len(),
                        wanted: samples * width,
                    });
                }
                finite("target", *width, values)?;
            }
            Targets::Classes { count, classes } => {
                if classes.len() != samples {
                    return Err(DataError::Length {
                        what: "classes",
                        found: classes.len(),
                        wanted: samples,
                    });
                }
                if !(2..=CLASSES_MAX).contains(count) {
                    return Err(DataError::Classes { count: *count });
                }
                let outside = classes.iter().position(|&class| class as usize >= *count);
                if let Some(sample) = outside {
                    return Err(DataError::Class {
                        sample,
                        class: classes[sample],
                        count: *count,
                    });
                }
            }
        }
        Ok(Self {
            width,
            features,
            targets,
            teacher: None,
        })
    }

    /// Adds what a teacher says of each sample, as many numbers as there are targets: logits of classes, or values.
    ///
    /// # Errors
    /// [`DataError`] when there are not as many numbers, or one is not finite.
    pub fn with_teacher(mut self, outputs: Vec<f32>) -> Result<Self, DataError> {
        let wanted = self.len() * self.targets.width();
        if outputs.len() != wanted {
            return Err(DataError::Length {
                what: "teacher's outputs",
                found: outputs.len(),
                wanted,
            });
        }
        finite("teacher's output", self.targets.width(), &outputs)?;
        self.teacher = Some(outputs);
        Ok(self)
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.features.len() / self.width
    }

    /// Never: a set has at least one sample.
    pub fn is_empty(&self) -> bool {
        self.features.is_empty()
    }

    /// Features a sample.
    pub const fn width(&self) -> usize {
        self.width
    }

    /// All features, row-major.
    pub fn features(&self) -> &[f32] {
        &self.features
    }

    /// All targets.
    pub const fn targets(&self) -> &Targets {
        &self.targets
    }

    /// What the teacher says.
    pub fn teacher(&self) -> Option<&[f32]> {
        self.teacher.as_deref()
    }

    /// Some samples, in the given order.
    pub(crate) fn pick(&self, rows: &[usize]) -> Self {
        let teacher = self.teacher.as_ref();
        Self {
            width: self.width,
            features: pick(&self.features, self.width, rows),
            targets: self.targets.pick(rows),
            teacher: teacher.map(|teacher| pick(teacher, self.targets.width(), rows)),
        }
    }

    /// Splits by time: what is at `from` or later is held out, and what is less than `gap` before it is dropped, since its
    /// window or its label would reach into the held-out time. Both parts are ordered by time.
    ///
    /// # Errors
    /// [`DataError`] when there are not as many times as samples, or when a part would be empty.
    pub fn split_by_time(&self, times: &[i64], from: i64, gap: u64) -> Result<Split, DataError> {
        if times.len() != self.len() {
            return Err(DataError::Length {
                what: "times",
                found: times.len(),
                wanted: self.len(),
            });
        }
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.sort_by_key(|&row| times[row]);
        let until = from.saturating_sub_unsigned(gap);
        let before: Vec<usize> = order
            .iter()
            .copied()
            .filter(|&row| times[row] < until)
            .collect();
        let after: Vec<usize> = order
            .into_iter()
            .filter(|&row| times[row] >= from)
            .collect();
        Split::of(self, &before, &after)
    }

    /// Splits by group, such as the node that a sample is from: the samples of the groups named are held out.
    ///
    /// # Errors
    /// [`DataError`] when there are not as many groups as samples, or when a part would be empty.
    pub fn split_by_group(&self, groups: &[u32], held_out: &[u32]) -> Result<Split, DataError> {
        if groups.len() != self.len() {
            return Err(DataError::Length {
                what: "groups",
                found: groups.len(),
                wanted: self.len(),
            });
        }
        let (after, before): (Vec<usize>, Vec<usize>) =
            (0..self.len()).partition(|&row| held_out.contains(&groups[row]));
        Split::of(self, &before, &after)
    }

    /// Holds out the last `share` of the samples, from 0 to 1, and drops `gap` samples before them.
    ///
    /// # Errors
    /// [`DataError`] when a part would be empty.
    pub fn split_tail(&self, share: f64, gap: usize) -> Result<Split, DataError> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a length"
        )]
        let kept = (self.len() as f64 * (1.0 - share.clamp(0.0, 1.0))).round() as usize;
        let before: Vec<usize> = (0..kept.saturating_sub(gap)).collect();
        let after: Vec<usize> = (kept..self.len()).collect();
        Split::of(self, &before, &after)
    }

    pub(crate) fn scale_columns(&mut self, columns: &Range<usize>, change: impl Fn(f32) -> f32) {
        for row in self.features.chunks_mut(self.width) {
            for number in &mut row[columns.clone()] {
                *number = change(*number);
            }
        }
    }

    pub(crate) fn scale_targets(&mut self, change: impl Fn(f32) -> f32) {
        if let Targets::Values { values, .. } = &mut self.targets {
            for value in values {
                *value = change(*value);
            }
        }
    }
}

/// What is trained on, and what says when to stop.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// Samples to learn from; their targets are not all the same.
    pub train: DataSet,
    /// Samples that are held out.
    pub valid: DataSet,
}

impl Split {
    /// Two sets that fit each other.
    ///
    /// # Errors
    /// [`DataError`] when they do not, or when all training targets are the same.
    pub fn new(train: DataSet, valid: DataSet) -> Result<Self, DataError> {
        if train.width != valid.width {
            return Err(DataError::Length {
                what: "features of a held-out sample",
                found: valid.width,
                wanted: train.width,
            });
        }
        if train.targets.width() != valid.targets.width()
            || std::mem::discriminant(&train.targets) != std::mem::discriminant(&valid.targets)
        {
            return Err(DataError::Targets);
        }
        if train.targets.constant() {
            return Err(DataError::Constant {
                samples: train.len(),
            });
        }
        Ok(Self { train, valid })
    }

    fn of(data: &DataSet, before: &[usize], after: &[usize]) -> Result<Self, DataError> {
        if before.is_empty() {
            return Err(DataError::Empty {
                split: "training split",
            });
        }
        if after.is_empty() {
            return Err(DataError::Empty {
                split: "held-out split",
            });
        }
        Self::new(data.pick(before), data.pick(after))
    }
}

fn finite(what: &'static str, width: usize, numbers: &[f32]) -> Result<(), DataError> {
    match numbers.iter().position(|number| !number.is_finite()) {
        Some(at) => Err(DataError::NotFinite {
            what,
            sample: at / width,
            index: at % width,
            value: numbers[at].to_string(),
        }),
        None => Ok(()),
    }
}

/// Why numbers are no data set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DataError {
    /// There is nothing in it.
    #[error("{split} has no samples")]
    Empty {
        /// Of what.
        split: &'static str,
    },
    /// Too many numbers.
    #[error("data set takes {bytes} bytes, the limit is {limit}; train on fewer samples")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Lengths do not fit each other.
    #[error("{found} {what}, there must be {wanted}")]
    Length {
        /// Of what.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there must be.
        wanted: usize,
    },
    /// A number that is none.
    #[error("{what} {index} of sample {sample} is {value}")]
    NotFinite {
        /// What it is.
        what: &'static str,
        /// Which sample, from 0.
        sample: usize,
        /// Which number of it, from 0.
        index: usize,
        /// It.
        value: String,
    },
    /// Too few or too many classes.
    #[error("{count} classes, there must be from 2 to {CLASSES_MAX}")]
    Classes {
        /// How many.
        count: usize,
    },
    /// A class that there is not.
    #[error("class of sample {sample} is {class}, classes are 0 to {}", count - 1)]
    Class {
        /// Which sample, from 0.
        sample: usize,
        /// Its class.
        class: u32,
        /// How many classes there are.
        count: usize,
    },
    /// The two parts are of different kinds.
    #[error("training and held-out targets are not of one kind and width")]
    Targets,
    /// Nothing to learn.
    #[error("all {samples} training samples have the same target; there is nothing to learn")]
    Constant {
        /// How many samples.
        samples: usize,
    },
}
