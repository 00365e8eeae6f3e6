//! What a model is worth on windows that it has not seen, by the engine that nodes run.

use std::collections::BTreeMap;

use lamppost_engine::Engine;
use lamppost_models::manifest::OutputKind;
use lamppost_models::message::Label;
use lamppost_models::{FieldName, Manifest};
use serde::Serialize;

use super::ForgeError;
use super::lessons::Lesson;

/// How good predictions are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Grade {
    /// Of classes: the share of windows whose label was predicted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) accuracy: Option<f64>,
    /// Of values: the mean absolute error, in the model's unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mae: Option<f64>,
    /// Of values: the root of the mean squared error, in the model's unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rmse: Option<f64>,
}

impl Grade {
    /// What is to be low.
    pub(crate) fn error(&self) -> f64 {
        let wrong = self.accuracy.map(|accuracy| 1.0 - accuracy);
        wrong.or(self.mae).unwrap_or(f64::INFINITY)
    }

    /// Of predictions beside what came true.
    fn of<'a>(pairs: impl Iterator<Item = (Label, &'a Label)>) -> Self {
        let (mut count, mut right, mut absolute, mut squared) = (0.0, 0.0, 0.0, 0.0);
        let mut classes = false;
        for (predicted, label) in pairs {
            count += 1.0;
            match (predicted, label) {
                (Label::Value(predicted), Label::Value(value)) => {
                    absolute += (predicted - value).abs();
                    squared += (predicted - value).powi(2);
                }
                (Label::Class(predicted), Label::Class(class)) => {
                    classes = true;
                    right += f64::from(predicted == *class);
                }
                // A table holds labels of the model's kind alone.
                (Label::Value(_), Label::Class(_)) | (Label::Class(_), Label::Value(_)) => {}
            }
        }
        if classes {
            Self {
                accuracy: Some(right / count),
                mae: None,
                rmse: None,
            }
        } else {
            Self {
                accuracy: None,
                mae: Some(absolute / count),
                rmse: Some((squared / count).sqrt()),
            }
        }
    }

    /// Each measure by name.
    pub(crate) fn named(&self) -> BTreeMap<&'static str, f64> {
        let all = [
            ("accuracy", self.accuracy),
            ("mae", self.mae),
            ("rmse", self.rmse),
        ];
        all.into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect()
    }
}

/// A model beside its parent and a forecast that learned nothing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Exam {
    /// Windows that all were judged on.
    pub(crate) windows: usize,
    /// Unit of the errors, of values.
    pub(crate) unit: Option<String>,
    /// The model.
    pub(crate) new: Grade,
    /// The one that it was made from.
    pub(crate) parent: Option<Grade>,
    /// What needs no model.
    pub(crate) naive: Grade,
    /// What that is.
    pub(crate) naive_by: String,
}

/// Runs a model over windows.
///
/// # Errors
/// [`ForgeError::EngineRun`] when one does not suit it, or an inference fails.
pub(crate) fn grade<'a>(
    engine: &Engine,
    lessons: impl Iterator<Item = &'a Lesson>,
) -> Result<Grade, ForgeError> {
    let mut session = engine.session();
    let mut pairs = Vec::new();
    for lesson in lessons {
        let output = session.run(&lesson.window)?;
        let value = output.value.unwrap_or(f64::INFINITY);
        let predicted = output.label.map_or(Label::Value(value), Label::Class);
        pairs.push((predicted, &lesson.label));
    }
    Ok(Grade::of(pairs.into_iter()))
}

/// What needs no model: of a forecast the newest value, else what the training samples have most often or on average.
pub(crate) fn naive<'a>(
    manifest: &Manifest,
    field: Option<&FieldName>,
    train: impl Iterator<Item = &'a Lesson> + Clone,
    test: impl Iterator<Item = &'a Lesson> + Clone,
) -> (Grade, String) {
    if matches!(manifest.output.kind, OutputKind::Labels { .. }) {
        let mut counts = BTreeMap::<&str, usize>::new();
        for lesson in train {
            if let Label::Class(class) = &lesson.label {
                *counts.entry(class).or_default() += 1;
            }
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count);
        let class = most.map_or_else(String::new, |(class, _)| class.to_owned());
        let pairs = test.map(|lesson| (Label::Class(class.clone()), &lesson.label));
        return (Grade::of(pairs), format!("always {class}"));
    }
    if manifest.output.kind.horizon().is_some()
        && let Some(field) = field
    {
        let newest = |lesson: &'a Lesson| {
            let value = lesson.window.last()?.number(field)?;
            Some((Label::Value(value), &lesson.label))
        };
        let pairs: Option<Vec<_>> = test.clone().map(newest).collect();
        if let Some(pairs) = pairs {
            return (Grade::of(pairs.into_iter()), format!("newest {field}"));
        }
    }
    let values = train.filter_map(|lesson| match lesson.label {
        Label::Value(value) => Some(value),
        Label::Class(_) => None,
    });
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    let mean = sum / count;
    let pairs = test.map(|lesson| (Label::Value(mean), &lesson.label));
    (Grade::of(pairs), "mean of the training samples".to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lamppost_models::{Reading, Timestamp, Value};

    use super::*;

    fn manifest(name: &str) -> Manifest {
        let zoo = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/zoo");
        let file = std::fs::read(format!("{zoo}/{name}/1.0.0/manifest.json")).unwrap();
        Manifest::parse(&file).unwrap()
    }

    fn lesson(newest: f64, label: Label) -> Lesson {
        let ts = Timestamp::EPOCH;
        let fields = BTreeMap::from([("volume".parse().unwrap(), Value::Number(newest))]);
        Lesson {
            id: String::new(),
            node: String::new(),
            ts,
            window: vec![Arc::new(Reading { ts, fields })],
            label,
        }
    }

    #[test]
    fn a_naive_forecast_is_the_newest_value_or_the_mean() {
        let lessons =
            [(1.0, 2.0), (5.0, 1.0)].map(|(newest, label)| lesson(newest, Label::Value(label)));
        let field: FieldName = "volume".parse().unwrap();
        let flow = manifest("traffic-flow");
        let (grade, by) = naive(&flow, Some(&field), lessons.iter(), lessons.iter());
        assert_eq!((grade.mae, by.as_str()), (Some(2.5), "newest volume"));
        assert_eq!(grade.rmse, Some(8.5_f64.sqrt()));
        let other: FieldName = "speed".parse().unwrap();
        let (grade, by) = naive(&flow, Some(&other), lessons.iter(), lessons.iter());
        assert_eq!(
            (grade.mae, by.as_str()),
            (Some(0.5), "mean of the training samples")
        );
    }

    #[test]
    fn a_naive_classification_is_the_most_frequent_class() {
        let lessons = ["jam", "free", "jam", "light"]
            .map(|class| lesson(0.0, Label::Class(class.to_owned())));
        let (grade, by) = naive(
            &manifest("traffic-level"),
            None,
            lessons[..3].iter(),
            lessons.iter(),
        );
        assert_eq!((grade.accuracy, by.as_str()), (Some(0.5), "always jam"));
        assert!((grade.error() - 0.5).abs() < 1e-12 && grade.named().len() == 1);
    }
}
