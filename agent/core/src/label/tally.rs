use lamppost_models::Digest;
use lamppost_models::message::{Label, Quality};

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

impl Tally {
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
