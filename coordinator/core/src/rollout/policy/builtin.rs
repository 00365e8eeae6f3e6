//! What a policy is when nobody wrote one.

use lamppost_models::rollout::{Probation, Shadow, Share, TrialTerms};

use lamppost_models::NodePath;

use super::{
    Approve, Gate, Inconclusive, OnFail, Policy, Quality, QualityKind, Span, Unlabelled, WAVES_MAX,
    Wave,
};

/// A share that is known to be one.
const fn per_cent(per_cent: u16) -> Share {
    match Share::new(per_cent * 100) {
        Ok(share) => share,
        Err(_) => Share::ALL,
    }
}

/// A day: by then every node had its hours, and a link that fails at night has come back.
pub(super) const fn deadline() -> Span {
    Span::from_hours(24)
}

/// What each node checks: a day of hourly windows or 20 minutes of per-minute ones beside the active version, at most half as
/// slow again (with the floor that the node applies), no second crash, and no loss half as large again: 20 labels tell no
/// smaller difference from noise, which is for the gate, where the nodes are looked at together.
pub(super) fn trial() -> TrialTerms {
    TrialTerms {
        latency_ratio_max: Some(1.5),
        latency_us_max: None,
        memory_bytes_max: None,
        shadow: Some(Shadow {
            windows: 20,
            labels: 20,
            error_ratio_max: Some(1.5),
            ..Shadow::default()
        }),
        probation: Some(Probation {
            windows: 50,
            labels: 20,
            error_ratio_max: Some(1.5),
            ..Probation::default()
        }),
    }
}

pub(super) fn gate() -> Gate {
    Gate {
        min_reports: 1,
        reported_share_min: per_cent(80),
        failed_max: None,
        failed_share_max: Some(per_cent(5)),
        crashes_max: None,
        latency_ratio_max: Some(1.5),
        quality: None,
        on_fail: OnFail::AbortRevert,
    }
}

impl Policy {
    /// The same policy with a first wave of one node, five minutes at least: see
    /// [`crate::rollout::campaign::Campaigns::first_node`]. A policy that is full stays as it is.
    #[must_use]
    pub fn with_first(mut self, node: NodePath) -> Self {
        if self.waves.len() < WAVES_MAX {
            let wave = Wave {
                nodes: vec![node],
                soak: Span::from_secs(300),
                ..Wave::default()
            };
            self.waves.insert(0, wave);
        }
        self
    }

    /// What a rollout follows unless it is told otherwise: 5 %, 25 %, then everybody, five minutes each at least; anything that
    /// fails sends the nodes back. Labels are looked at where there are any, and only what they speak against is stopped.
    pub fn canary() -> Self {
        let wave = |share| Wave {
            share: Some(per_cent(share)),
            soak: Span::from_secs(300),
            approve: Approve::Auto,
            ..Wave::default()
        };
        Self {
            name: "canary".to_owned(),
            waves: [5, 25, 100].map(wave).into(),
            control: Share::NONE,
            hours: None,
            downloads_per_backhaul: None,
            bytes_per_day: None,
            deadline: deadline(),
            gate: Gate {
                quality: Some(Quality {
                    kind: QualityKind::Shadow,
                    min_labels: 10,
                    inconclusive: Inconclusive::Advance,
                    unlabelled: Unlabelled::Skip,
                    ..Quality::default()
                }),
                ..gate()
            },
            trial: trial(),
        }
    }
}
