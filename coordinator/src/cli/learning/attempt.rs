//! A training: from the active version, compared on held-out samples, made smaller, with all of its evidence in one bundle.

use std::ops::ControlFlow;
use std::time::Instant;

use lamppost_engine::{Engine, Limits};
use lamppost_forge::Terms;
use lamppost_models::Bundle;
use serde_json::json;

use super::look::Seen;
use super::policy::LoopPolicy;
use crate::forge::{
    self, Attempt, Exam, Findings, ForgeError, Order, Packed, Shares, SplitBy, Subject, Trained,
};

/// What came of a training.
pub(super) struct Made {
    pub(super) bundle: Bundle,
    pub(super) bytes: Vec<u8>,
    /// Of the active version's error on held-out samples, what is gone.
    pub(super) gain: f64,
    /// What it is compared with, with the numbers; an objection where it is not better.
    pub(super) compared: Result<String, String>,
    pub(super) seconds: f64,
}

/// Trains, compresses and compares; `last` is the training before, where it did not go live.
///
/// # Errors
/// [`ForgeError`] when the samples do not suit the model, or something fails.
pub(super) fn make(
    policy: &LoopPolicy,
    seen: &Seen,
    last: Option<&[u8]>,
) -> Result<Made, ForgeError> {
    let started = Instant::now();
    let manifest = seen.active.manifest();
    let mut order = Order {
        recipe: forge::recipe(
            manifest,
            Some(policy.train.recipe.clone()),
            serde_json::Map::new(),
        )?,
        shares: Shares {
            by: SplitBy::Time,
            valid: policy.train.valid,
            test: policy.train.test,
        },
        version: seen.version.clone(),
        summary: None,
        created_at: None,
        naive: None,
        checkpoint: None,
    };
    let subject = Subject::Further(Box::new(seen.active.clone()));
    let network = subject.network(order.recipe.seed)?;
    let trained = forge::train(subject, network, seen.lessons.clone(), &order, &mut |_| {
        ControlFlow::Continue(())
    })?;
    order.summary = Some(trained.packed.bundle.manifest().summary.clone());
    order.created_at = Some(trained.packed.bundle.manifest().provenance.created_at);
    let squeezed = squeeze(policy, seen, &trained, &order)?;
    let test = trained.study.table.pick(&trained.study.parts.test);
    let last = match last.map(Bundle::read) {
        Some(Ok(bundle)) => Engine::open(&bundle, &Limits::default())
            .ok()
            .map(|engine| forge::grade(&engine, test)),
        // One that cannot be read any more is nothing to compare with.
        Some(Err(_)) | None => None,
    };
    let last = last.transpose()?.map(|grade| grade.error());
    let parent = trained
        .exam
        .parent
        .as_ref()
        .map_or(f64::INFINITY, forge::Grade::error);
    let (packed, exam) = squeezed.unwrap_or((trained.packed, trained.exam));
    Ok(Made {
        gain: 1.0 - exam.new.error() / parent,
        compared: compare(&exam, parent, last),
        bundle: packed.bundle,
        bytes: packed.bytes,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// The trained model made smaller, in a bundle that tells of both; none where no way keeps to the terms.
fn squeeze(
    policy: &LoopPolicy,
    seen: &Seen,
    trained: &Trained,
    order: &Order<'_>,
) -> Result<Option<(Packed, Exam)>, ForgeError> {
    // They have been read once already.
    let ways = policy.ways().unwrap_or_default();
    if ways.is_empty() {
        return Ok(None);
    }
    let attempt = Attempt {
        ways: &ways,
        terms: Terms {
            max_loss: policy.compress.max_loss,
            min_speedup: policy.compress.min_speedup,
        },
        teachers: &[],
        scan: false,
    };
    let bundle = &trained.packed.bundle;
    let network = Subject::Further(Box::new(bundle.clone())).network(order.recipe.seed)?;
    let mut findings = Findings::default();
    let squeezed = forge::squeeze(
        bundle.clone(),
        network,
        seen.lessons.clone(),
        order,
        &attempt,
        &mut findings,
        &mut |_, _| ControlFlow::Continue(()),
    );
    let squeezed = match squeezed {
        Err(ForgeError::NonePays { objections }) => {
            tracing::warn!(%objections, "no way to make it smaller keeps to the terms: it goes out as it was trained");
            return Ok(None);
        }
        squeezed => squeezed?,
    };
    let mut manifest = squeezed.packed.bundle.manifest().clone();
    let (first, second) = (&bundle.manifest().provenance, &mut manifest.provenance);
    // Sizes and errors are the same each time; times are not, and would give other bytes.
    let candidates: Vec<_> = findings
        .candidates
        .iter()
        .map(|candidate| json!({"name": candidate.name, "bytes": candidate.bytes, "error": candidate.error}))
        .collect();
    second.report = Some(json!({
        "trained": first.report, "compressed": {"chosen": squeezed.chosen, "candidates": candidates, "exam": squeezed.exam},
    }));
    second.recipe = Some(json!({"train": first.recipe, "compress": policy.compress}));
    second.parent = first.parent;
    second.samples.clone_from(&first.samples);
    "lamppost loop".clone_into(&mut second.trainer);
    second.data.clone_from(&first.data);
    let packed = forge::pack(
        &manifest,
        squeezed.packed.bundle.model(),
        &trained.study.golden,
    )?;
    Ok(Some((packed, squeezed.exam)))
}

/// Against the active version, a forecast that learned nothing, and the training before.
fn compare(exam: &Exam, parent: f64, last: Option<f64>) -> Result<String, String> {
    let new = exam.new.error();
    let others = [
        ("the active version's", Some(parent)),
        (exam.naive_by.as_str(), Some(exam.naive.error())),
        ("the last training's", last),
    ];
    let said: Vec<String> = others
        .iter()
        .filter_map(|(name, error)| Some(format!("{name} {:.4}", (*error)?)))
        .collect();
    let words = format!(
        "its error on {} held-out windows is {new:.4}, {}",
        exam.windows,
        said.join(", ")
    );
    // What is no number is not better than anything.
    let better = others
        .iter()
        .filter_map(|(_, error)| *error)
        .all(|error| new < error);
    if better { Ok(words) } else { Err(words) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use lamppost_coordinator_core::learning::Known;

    use super::*;
    use crate::forge::{Columns, Grade, Span, read_readings};

    /// Two months of readings for the zoo's model.
    fn seen() -> Seen {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let files = lamppost_models::bundle::FILES.map(|name| {
            std::fs::read(root.join("models/zoo/traffic-flow/1.0.0").join(name)).unwrap()
        });
        let active = Bundle::read(&Bundle::pack(&files[0], &files[1], &files[2]).unwrap()).unwrap();
        let columns = Columns {
            time: "ts".to_owned(),
            zone: lamppost_models::time::Zone::utc(),
            fields: Vec::new(),
            label: "volume".parse().unwrap(),
            ahead: None,
        };
        let span = Span {
            from: None,
            to: Some("2017-02-20T00:00:00Z".parse().unwrap()),
        };
        let lessons = read_readings(
            &root.join("tests/data/i94-replay.csv"),
            active.manifest(),
            &columns,
            span,
        )
        .unwrap();
        Seen {
            active,
            known: Known::default(),
            lessons,
            version: semver::Version::new(1, 2, 0),
            sample_bytes: 0,
        }
    }

    #[test]
    fn the_same_samples_and_seed_give_the_same_bytes_and_another_seed_others() {
        let policy = |seed: u64| -> LoopPolicy {
            let text = format!(
                "model = \"traffic-flow\"\ngroup = \"all\"\n[train.recipe]\nseed = {seed}\nepochs = 3\n"
            );
            toml::from_str(&text).unwrap()
        };
        let (seen, one) = (seen(), policy(1));
        let made = make(&one, &seen, None).unwrap();
        let again = make(&one, &seen, Some(&made.bytes)).unwrap();
        assert_eq!(again.bundle.digest(), made.bundle.digest());
        assert!(
            again.compared.is_err(),
            "no better than the training before, which is the same"
        );
        assert_ne!(
            make(&policy(2), &seen, None).unwrap().bundle.digest(),
            made.bundle.digest()
        );
        let provenance = &made.bundle.manifest().provenance;
        assert_eq!(
            (provenance.parent, provenance.seed),
            (Some(seen.active.digest()), Some(1))
        );
        assert!(
            made.bundle.manifest().model.bytes < seen.active.manifest().model.bytes / 2,
            "int8"
        );
        let report = provenance.report.as_ref().unwrap();
        assert!(
            report["trained"]["exam"].is_object() && report["compressed"]["chosen"] == "int8",
            "{report}"
        );
        assert_eq!(
            provenance.samples.as_ref().unwrap().to,
            provenance.created_at
        );
    }

    fn grade(mae: f64) -> Grade {
        Grade {
            accuracy: None,
            mae: Some(mae),
            rmse: None,
        }
    }

    #[test]
    fn what_is_new_must_be_better_than_all_others() {
        let exam = |new| Exam {
            windows: 9,
            unit: None,
            new: grade(new),
            parent: Some(grade(10.0)),
            naive: grade(20.0),
            naive_by: "newest volume".to_owned(),
        };
        let words = compare(&exam(9.0), 10.0, Some(9.5)).unwrap();
        assert_eq!(
            words,
            "its error on 9 held-out windows is 9.0000, the active version's 10.0000, newest volume 20.0000, the last training's 9.5000"
        );
        assert!(compare(&exam(9.0), 10.0, None).is_ok());
        for (new, parent, last) in [
            (10.0, 10.0, None),
            (21.0, 30.0, None),
            (9.0, 10.0, Some(8.0)),
            (f64::NAN, 10.0, None),
        ] {
            assert!(compare(&exam(new), parent, last).is_err(), "{new}");
        }
    }
}
