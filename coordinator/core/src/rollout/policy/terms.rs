//! A trial's terms as a policy writes them: what nodes would pass over as unknown, a word that is misspelt say, is refused here.

use lamppost_models::rollout::{Probation, Shadow, TrialTerms};
use serde::{Deserialize, Deserializer};

#[derive(Deserialize)]
#[serde(
    remote = "TrialTerms",
    deny_unknown_fields,
    default = "TrialTerms::default"
)]
struct OfTrial {
    latency_ratio_max: Option<f64>,
    latency_us_max: Option<u64>,
    memory_bytes_max: Option<u64>,
    #[serde(deserialize_with = "shadow")]
    shadow: Option<Shadow>,
    #[serde(deserialize_with = "probation")]
    probation: Option<Probation>,
}

#[derive(Deserialize)]
#[serde(remote = "Shadow", deny_unknown_fields, default = "Shadow::default")]
struct OfShadow {
    windows: u64,
    labels: u64,
    time_s_max: u64,
    cpu_share: f64,
    failures: u64,
    disagreement_max: Option<f64>,
    error_ratio_max: Option<f64>,
}

#[derive(Deserialize)]
#[serde(
    remote = "Probation",
    deny_unknown_fields,
    default = "Probation::default"
)]
struct OfProbation {
    windows: u64,
    labels: u64,
    time_s_max: u64,
    failures: u64,
    crashes: u64,
    error_ratio_max: Option<f64>,
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<TrialTerms, D::Error> {
    OfTrial::deserialize(deserializer)
}

fn shadow<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Shadow>, D::Error> {
    #[derive(Deserialize)]
    struct One(#[serde(with = "OfShadow")] Shadow);
    Ok(Option::<One>::deserialize(deserializer)?.map(|One(shadow)| shadow))
}

fn probation<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Probation>, D::Error> {
    #[derive(Deserialize)]
    struct One(#[serde(with = "OfProbation")] Probation);
    Ok(Option::<One>::deserialize(deserializer)?.map(|One(probation)| probation))
}
