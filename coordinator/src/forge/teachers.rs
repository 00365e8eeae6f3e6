//! What one or several models say of the samples, for a student to learn.

use lamppost_forge::{DataSet, Network, Split};
use lamppost_models::manifest::OutputKind;
use lamppost_models::{Bundle, Manifest};

use super::lessons::listed;
use super::study::Study;
use super::{ForgeError, pack};

/// Holds teachers to predicting what the student is to predict, before any work.
///
/// # Errors
/// [`ForgeError::Teacher`] for the first that does not.
pub(crate) fn check(student: &Manifest, teachers: &[Bundle]) -> Result<(), ForgeError> {
    teachers
        .iter()
        .try_for_each(|teacher| same_meaning(student, teacher).map(|_| ()))
}

/// The split with the teachers' word on each sample: the mean of all, and the study's own model where there are none.
///
/// Each teacher looks at the window through its own preprocessing; its values are turned into the student's scale.
///
/// # Errors
/// [`ForgeError`] when a teacher predicts something else, or a window does not suit it.
pub(crate) fn teach(study: &Study, teachers: &[Bundle]) -> Result<Split, ForgeError> {
    let taught = |data: &DataSet, rows: &[usize]| -> Result<DataSet, ForgeError> {
        let words = if teachers.is_empty() {
            logits(&study.network, data.features())?
        } else {
            mean(study, teachers, rows)?
        };
        Ok(data.clone().with_teacher(words)?)
    };
    let (parts, split) = (&study.parts, &study.split);
    Ok(Split::new(
        taught(&split.train, &parts.train)?,
        taught(&split.valid, &parts.valid)?,
    )?)
}

fn mean(study: &Study, teachers: &[Bundle], rows: &[usize]) -> Result<Vec<f32>, ForgeError> {
    let mut sums: Vec<f32> = Vec::new();
    for teacher in teachers {
        let words = words(study, teacher, rows)?;
        if sums.is_empty() {
            sums = words;
        } else {
            sums.iter_mut()
                .zip(words)
                .for_each(|(sum, word)| *sum += word);
        }
    }
    let share = 1.0 / teachers.len() as f32;
    for sum in &mut sums {
        *sum *= share;
    }
    Ok(sums)
}

fn words(study: &Study, teacher: &Bundle, rows: &[usize]) -> Result<Vec<f32>, ForgeError> {
    let to_ours = same_meaning(&study.manifest, teacher)?;
    let mut session = pack::draft(teacher.manifest(), teacher.model())?.session();
    let mut features = Vec::new();
    for lesson in study.table.pick(rows) {
        let row = session.features(&lesson.window);
        features.extend_from_slice(row.map_err(|source| ForgeError::Lesson {
            teacher: name(teacher),
            id: lesson.id.clone(),
            source,
        })?);
    }
    let mut words = logits(&Network::open(teacher.model())?, &features)?;
    for word in &mut words {
        *word = to_ours(*word);
    }
    Ok(words)
}

fn logits(network: &Network, features: &[f32]) -> Result<Vec<f32>, ForgeError> {
    network.logits(features).map_err(|error| ForgeError::Run {
        reason: error.to_string(),
    })
}

/// What turns a teacher's numbers into those that the student is to give.
fn same_meaning(
    student: &Manifest,
    teacher: &Bundle,
) -> Result<impl Fn(f32) -> f32 + use<>, ForgeError> {
    let (ours, theirs) = (&student.output.kind, &teacher.manifest().output.kind);
    let scales = match (ours, theirs) {
        (OutputKind::Labels { names, .. }, OutputKind::Labels { names: others, .. })
            if names == others =>
        {
            Some((1.0, 0.0))
        }
        (
            OutputKind::Value {
                unit,
                scale,
                offset,
                horizon_ms,
            },
            OutputKind::Value {
                unit: other_unit,
                scale: other_scale,
                offset: other_offset,
                horizon_ms: other_horizon_ms,
            },
        ) if (unit, horizon_ms) == (other_unit, other_horizon_ms) => {
            Some((other_scale / scale, (other_offset - offset) / scale))
        }
        _ => None,
    };
    let (factor, plus) = scales.ok_or_else(|| ForgeError::Teacher {
        teacher: name(teacher),
        found: meaning(theirs),
        wanted: meaning(ours),
    })?;
    #[expect(clippy::cast_possible_truncation, reason = "tensors are f32")]
    Ok(move |word: f32| (f64::from(word) * factor + plus) as f32)
}

fn name(teacher: &Bundle) -> String {
    let manifest = teacher.manifest();
    format!("{} {}", manifest.name, manifest.version)
}

/// An output in a few words.
fn meaning(kind: &OutputKind) -> String {
    match kind {
        OutputKind::Labels { names, .. } => {
            format!("{} labels ({})", names.len(), listed(names))
        }
        OutputKind::Value {
            unit, horizon_ms, ..
        } => match horizon_ms {
            Some(horizon_ms) => format!("{unit} in {horizon_ms} ms"),
            None => unit.clone(),
        },
        OutputKind::Score { .. } | OutputKind::Reconstruction { .. } => "an anomaly".to_owned(),
    }
}
