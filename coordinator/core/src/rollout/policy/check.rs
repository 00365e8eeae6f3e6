//! What a policy must be like, whatever the fleet.

use std::fmt;

use lamppost_models::rollout::{EXPOSURE_NAMES_MAX, Share};

use super::{Gate, POLICY_NAME_BYTES_MAX, Policy, Quality, QualityKind, Span, WAVES_MAX, Wave};

/// Longest soak or deadline: a year, beyond which a rollout is forgotten rather than slow.
const SPAN_MAX: Span = Span::from_hours(366 * 24);
/// Most labels that a vote or a gate may need: a year of ten a minute.
const LABELS_MAX: u64 = 5_000_000;

/// Why a policy is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("policy: {field} is {value}: {mend}")]
pub struct PolicyError {
    /// Which key.
    pub field: String,
    /// What it is.
    pub value: String,
    /// What it should be.
    pub mend: String,
}

pub(crate) fn error(
    field: impl Into<String>,
    value: impl fmt::Display,
    mend: impl Into<String>,
) -> PolicyError {
    PolicyError {
        field: field.into(),
        value: format!("{value}"),
        mend: mend.into(),
    }
}

impl Policy {
    /// Checks what can be checked without a fleet.
    ///
    /// # Errors
    /// [`PolicyError`] with the first key that cannot be.
    pub fn check(&self) -> Result<(), PolicyError> {
        let printable = !self.name.chars().any(char::is_control);
        if self.name.len() > POLICY_NAME_BYTES_MAX || !printable {
            let mend = format!("at most {POLICY_NAME_BYTES_MAX} bytes, none a control character");
            return Err(error("name", format!("{:?}", self.name), mend));
        }
        if self.waves.is_empty() || self.waves.len() > WAVES_MAX {
            let mend = format!("1 to {WAVES_MAX} waves, each a [[wave]] table");
            return Err(error("wave", format!("{} waves", self.waves.len()), mend));
        }
        self.check_waves()?;
        if self.downloads_per_backhaul == Some(0) {
            let mend = "at least 1, or leave it out for no bound";
            return Err(error("downloads_per_backhaul", 0, mend));
        }
        if let Some(bytes) = self.bytes_per_day.filter(|bytes| bytes.0 == 0) {
            let mend = "at least the bundle's size, or leave it out for no bound";
            return Err(error("bytes_per_day", bytes, mend));
        }
        check_deadline("deadline", self.deadline)?;
        check_gate("gate", &self.gate)?;
        self.check_questions()?;
        self.check_trial()
    }

    fn check_waves(&self) -> Result<(), PolicyError> {
        let mut before = Share::NONE;
        for (number, wave) in self.waves.iter().enumerate() {
            let field = |key: &str| format!("wave {}: {key}", number + 1);
            let Wave {
                share,
                groups,
                tags,
                nodes,
                ..
            } = wave;
            if share.is_none() && groups.is_empty() && tags.is_empty() && nodes.is_empty() {
                let mend = "give at least one of share, groups, tags and nodes";
                return Err(error(field("share"), "missing", mend));
            }
            let share = share.unwrap_or(before);
            if share < before {
                let mend = format!(
                    "a wave exposes at least what the one before does, {before}; to take a candidate back, abort"
                );
                return Err(error(field("share"), share, mend));
            }
            before = share;
            if wave.soak > SPAN_MAX {
                return Err(error(field("soak"), wave.soak, "at most 366d"));
            }
            let deadline = self.deadline(number);
            if let Some(own) = wave.deadline {
                check_deadline(&field("deadline"), own)?;
            }
            if wave.soak > deadline {
                let mend = format!("no longer than the deadline, {deadline}");
                return Err(error(field("soak"), wave.soak, mend));
            }
            if let Some(gate) = &wave.gate {
                check_gate(&field("gate"), gate)?;
            }
        }
        self.check_exposure(before)
    }

    fn check_exposure(&self, share: Share) -> Result<(), PolicyError> {
        let exposure = self.exposure(self.waves.len());
        let named = [
            ("groups", exposure.groups.len()),
            ("tags", exposure.tags.len()),
            ("nodes", exposure.nodes.len()),
        ];
        for (key, count) in named {
            if count > EXPOSURE_NAMES_MAX {
                let mend = format!(
                    "at most {EXPOSURE_NAMES_MAX} in all waves together: name a tag or a group for more"
                );
                return Err(error(format!("wave: {key}"), count, mend));
            }
        }
        // A wave of 100 % beside a control share is everybody but the control nodes, until the promotion.
        let over = share.hundredths() + self.control.hundredths() > Share::ALL.hundredths();
        if over && share < Share::ALL {
            let mend = format!(
                "the last wave's share {share} and the control share do not fit into 100 %: lower one, or make it 100 %, which leaves the control nodes out"
            );
            return Err(error("control", self.control, mend));
        }
        if self.control >= Share::ALL {
            let mend = "below 100 %: nobody would be left to try the candidate";
            return Err(error("control", self.control, mend));
        }
        Ok(())
    }

    /// One test runs through all waves, so that all gates must ask it the same question.
    fn check_questions(&self) -> Result<(), PolicyError> {
        let Some(first) = self.quality() else {
            return Ok(());
        };
        for number in 0..self.waves.len() {
            let Some(other) = &self.gate(number).quality else {
                continue;
            };
            let field = |key: &str| format!("wave {}: gate.quality.{key}", number + 1);
            let (mine, theirs) = (other.loss_ratio_max, first.loss_ratio_max);
            if (mine - theirs).abs() > f64::EPSILON {
                let mend = format!("one test runs through all waves: {theirs} in all gates");
                return Err(error(field("loss_ratio_max"), mine, mend));
            }
            if other.block != first.block {
                let mend = format!(
                    "one test runs through all waves: {} in all gates",
                    first.block
                );
                return Err(error(field("block"), other.block, mend));
            }
            let cohorts = other.kind != QualityKind::Shadow;
            if cohorts && self.control == Share::NONE {
                let mend = "comparing cohorts takes control nodes: set control, \"10 %\" say, or kind = \"shadow\"";
                return Err(error("control", self.control, mend));
            }
            if other.kind != QualityKind::Cohorts && self.trial.shadow.is_none() {
                let mend = "a gate compares shadows, and nodes run none: give [trial.shadow], or kind = \"cohorts\"";
                return Err(error("trial.shadow", "missing", mend));
            }
        }
        Ok(())
    }

    fn check_trial(&self) -> Result<(), PolicyError> {
        let trial = &self.trial;
        check_ratio("trial.latency_ratio_max", trial.latency_ratio_max)?;
        if let Some(shadow) = &trial.shadow {
            let share = shadow.cpu_share;
            if !(share > 0.0 && share <= 1.0) {
                let mend = "above 0 and at most 1, the share of one processor";
                return Err(error("trial.shadow.cpu_share", share, mend));
            }
            check_ratio("trial.shadow.error_ratio_max", shadow.error_ratio_max)?;
            let most = shadow.disagreement_max.unwrap_or(0.0);
            if !(most.is_finite() && most >= 0.0) {
                return Err(error("trial.shadow.disagreement_max", most, "0 or more"));
            }
        }
        if let Some(probation) = &trial.probation {
            check_ratio("trial.probation.error_ratio_max", probation.error_ratio_max)?;
        }
        Ok(())
    }
}

fn check_deadline(field: &str, deadline: Span) -> Result<(), PolicyError> {
    if deadline == Span::default() || deadline > SPAN_MAX {
        return Err(error(field, deadline, "1s to 366d"));
    }
    Ok(())
}

/// A limit on a ratio that a candidate as good as the active version meets.
fn check_ratio(field: &str, ratio: Option<f64>) -> Result<(), PolicyError> {
    match ratio {
        Some(ratio) if !(1.0..=1000.0).contains(&ratio) => {
            let mend = "1 to 1000; 1.5 allows half as much again";
            Err(error(field, ratio, mend))
        }
        Some(_) | None => Ok(()),
    }
}

fn check_gate(field: &str, gate: &Gate) -> Result<(), PolicyError> {
    if gate.min_reports == 0 {
        let mend = "at least 1: a wave that nobody reported on shows nothing";
        return Err(error(format!("{field}.min_reports"), 0, mend));
    }
    check_ratio(
        &format!("{field}.latency_ratio_max"),
        gate.latency_ratio_max,
    )?;
    match &gate.quality {
        Some(quality) => check_quality(&format!("{field}.quality"), quality),
        None => Ok(()),
    }
}

fn check_quality(field: &str, quality: &Quality) -> Result<(), PolicyError> {
    let Quality {
        loss_ratio_max,
        alpha,
        min_labels,
        block,
        ..
    } = quality;
    // A vote is cut at 22 %: what is allowed must lie well within half to twice for it to tell both sides.
    if !(0.5..=2.0).contains(loss_ratio_max) {
        let mend = "0.5 to 2; 1.05 allows a loss 5 % higher";
        return Err(error(
            format!("{field}.loss_ratio_max"),
            loss_ratio_max,
            mend,
        ));
    }
    if !(0.0001..=0.5).contains(alpha) {
        let mend = "0.0001 to 0.5; 0.05 errs in one of 20 rollouts at most";
        return Err(error(format!("{field}.alpha"), alpha, mend));
    }
    if !(1..=LABELS_MAX).contains(block) {
        let mend = format!("1 to {LABELS_MAX}; two days of hourly labels are 48");
        return Err(error(format!("{field}.block"), block, mend));
    }
    if *min_labels > LABELS_MAX {
        let mend = format!("at most {LABELS_MAX}");
        return Err(error(format!("{field}.min_labels"), min_labels, mend));
    }
    Ok(())
}
