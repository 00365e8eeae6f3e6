use lamppost_models::Digest;
use lamppost_models::message::{Label, Quality};
use lamppost_models::trial::Moments;

/// How far a prediction and its label are apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Compared {
    /// Two values: prediction less label, in the prediction's unit.
    Error(f64),
    /// Two classes: whether they are the same.
    Same(bool),
}

impl Compared {
    /// Compares what was said with what came true; `None` when they are of different kinds.
    pub fn of(said: &Label, label: &Label) -> Option<Self> {
        match (said, label) {
            (Label::Value(said), Label::Value(value)) => Some(Self::Error(said - value)),
            (Label::Class(said), Label::Class(class)) => Some(Self::Same(said == class)),
            (Label::Value(_), Label::Class(_)) | (Label::Class(_), Label::Value(_)) => None,
        }
    }

    /// The absolute error, or 1 for a wrong class and 0 for the right one.
    pub fn loss(self) -> f64 {
        match self {
            Self::Error(error) => error.abs(),
            Self::Same(same) => f64::from(u8::from(!same)),
        }
    }
}

/// Sums of losses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Losses {
    labels: u64,
    sum: f64,
    squares: f64,
}

impl Losses {
    /// Those that came after `earlier`, which are the same bundle's.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            labels: self.labels.saturating_sub(earlier.labels),
            sum: self.sum - earlier.sum,
            squares: self.squares - earlier.squares,
        }
    }

    /// These and those of another stream.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            labels: self.labels + other.labels,
            sum: self.sum + other.sum,
            squares: self.squares + other.squares,
        }
    }

    /// Number, mean and spread.
    pub fn moments(self) -> Moments {
        if self.labels == 0 {
            return Moments::default();
        }
        let mean = self.sum / self.labels as f64;
        Moments {
            n: self.labels,
            mean,
            // The sums of much the same losses differ by less than they are rounded by.
            m2: (self.squares - self.sum * mean).max(0.0),
        }
    }
}

/// Bundles whose error is kept: the active one, the one before, and a few that a rollback may bring back.
const TALLIES_MAX: usize = 8;

/// Running sums by bundle, the one that was last added to at the end.
#[derive(Debug, Default)]
pub(super) struct Tallies(Vec<(Digest, Tally)>);

#[derive(Clone, Copy, Debug)]
enum Tally {
    Error {
        labels: u64,
        absolute: f64,
        squared: f64,
    },
    Accuracy {
        labels: u64,
        right: u64,
    },
}

impl Tallies {
    pub(super) fn add(&mut self, digest: Digest, compared: Compared) {
        let known = self.0.iter().position(|(known, _)| *known == digest);
        let fresh = match compared {
            Compared::Error(_) => Tally::Error {
                labels: 0,
                absolute: 0.0,
                squared: 0.0,
            },
            Compared::Same(_) => Tally::Accuracy {
                labels: 0,
                right: 0,
            },
        };
        let mut tally = known.map_or(fresh, |at| self.0.remove(at).1);
        tally.add(compared);
        if self.0.len() == TALLIES_MAX {
            self.0.remove(0);
        }
        self.0.push((digest, tally));
    }

    pub(super) fn quality(&self, digest: &Digest) -> Option<Quality> {
        self.0
            .iter()
            .find(|(known, _)| known == digest)
            .map(|(_, tally)| tally.quality())
    }
}

impl Tallies {
    pub(super) fn losses(&self, digest: &Digest) -> Losses {
        let tally = self.0.iter().find(|(known, _)| known == digest);
        tally.map_or_else(Losses::default, |(_, tally)| tally.losses())
    }
}

impl Tally {
    fn losses(&self) -> Losses {
        match *self {
            Self::Error {
                labels,
                absolute,
                squared,
            } => Losses {
                labels,
                sum: absolute,
                squares: squared,
            },
            Self::Accuracy { labels, right } => {
                let wrong = labels.saturating_sub(right) as f64;
                Losses {
                    labels,
                    sum: wrong,
                    squares: wrong,
                }
            }
        }
    }

    fn add(&mut self, compared: Compared) {
        match (self, compared) {
            (
                Self::Error {
                    labels,
                    absolute,
                    squared,
                },
                Compared::Error(error),
            ) => {
                *labels += 1;
                *absolute += error.abs();
                *squared += error * error;
            }
            (Self::Accuracy { labels, right }, Compared::Same(same)) => {
                *labels += 1;
                *right += u64::from(same);
            }
            // A bundle predicts values or classes, not both; its manifest says which.
            (Self::Error { .. }, Compared::Same(_))
            | (Self::Accuracy { .. }, Compared::Error(_)) => {}
        }
    }

    fn quality(&self) -> Quality {
        match *self {
            Self::Error {
                labels,
                absolute,
                squared,
            } => {
                let n = labels as f64;
                Quality::Error {
                    labels,
                    mae: absolute / n,
                    rmse: (squared / n).sqrt(),
                }
            }
            Self::Accuracy { labels, right } => Quality::Accuracy {
                labels,
                accuracy: right as f64 / labels as f64,
            },
        }
    }
}
