//! `[stream.sample]`: what of a stream is kept for training.

use std::collections::BTreeSet;

use lamppost_models::id::{FieldName, StreamName};
use lamppost_models::message::SamplePolicy;

use super::raw::RawSample;
use super::{Outcome, Sample, Stream, refuse};

/// Smallest daily budget: an hour's part of it holds a window of some readings.
const DAY_BYTES_MIN: u64 = 64_000;

/// `known` are the fields of the stream's readings, and that of its label.
pub(super) fn sample(
    stream: &StreamName,
    raw: RawSample,
    known: &BTreeSet<FieldName>,
) -> Outcome<Sample> {
    let key = |part: &str| format!("stream {stream}: sample.{part}");
    if raw.fields.is_empty() {
        let wanted = "at least one field that may leave the node; without any, leave sample out";
        return refuse(key("fields"), "[]", wanted);
    }
    if let Some(field) = raw.fields.iter().find(|field| !known.contains(*field)) {
        let names: Vec<_> = known.iter().map(FieldName::as_str).collect();
        return refuse(key("fields"), field, format!("of {}", names.join(", ")));
    }
    if raw.keep.is_empty() {
        let wanted = "a table of policies, such as { uncertain = 0.05, random = 0.01 }";
        return refuse(key("keep"), "empty", wanted);
    }
    for (policy, share) in &raw.keep {
        let is_share = *share > 0.0 && *share <= 1.0;
        let (fits, wanted) = match policy {
            SamplePolicy::All => (*share >= 1.0 && is_share, "1; a share by lot is random"),
            SamplePolicy::Random
            | SamplePolicy::Uncertain
            | SamplePolicy::Disagreeing
            | SamplePolicy::Rare => (is_share, "a share of the windows, above 0 and up to 1"),
        };
        if !fits {
            let name = format!("{policy:?}").to_lowercase();
            return refuse(key(&format!("keep.{name}")), share, wanted);
        }
    }
    if raw.bytes_per_day.0 < DAY_BYTES_MIN {
        return refuse(key("bytes_per_day"), raw.bytes_per_day, "64KB or more");
    }
    Ok(Sample {
        shares: raw.keep,
        day_bytes: raw.bytes_per_day.0,
        fields: raw.fields,
        consent: raw.consent,
    })
}

/// Samples are for the coordinator.
pub(super) fn need_coordinator(streams: &[Stream], is_there: bool) -> Outcome<()> {
    match streams.iter().find(|stream| stream.sample.is_some()) {
        Some(stream) if !is_there => refuse(
            format!("stream {}: sample", stream.name),
            "set",
            "left out on a node without [coordinator]",
        ),
        Some(_) | None => Ok(()),
    }
}
