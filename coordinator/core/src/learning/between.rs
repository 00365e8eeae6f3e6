//! Windows between samples.
//!
//! Samples of one stream overlap: of a window of 24 hours, one in ten leaves hardly an hour out. Where labels are later readings
//! of a field, as a forecast's are, the readings of all samples together hold the windows between them with their labels.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lamppost_models::manifest::WindowSpec;
use lamppost_models::message::Label;
use lamppost_models::{FieldName, Reading, Timestamp};

/// Labels that must be found among the readings, each as it was given, before those of other windows are taken from there: of
/// as many that are chance, none or nearly none agrees.
pub const LATER_MIN: usize = 10;

/// A labelled sample of one stream of one node.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// The readings, oldest first.
    pub window: &'a [Arc<Reading>],
    /// What came true.
    pub label: &'a Label,
}

/// A window that was no sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Cut {
    /// The readings, oldest first.
    pub window: Vec<Arc<Reading>>,
    /// What came true.
    pub label: Label,
}

/// The windows between samples of one stream of one node, in the order of time. None where windows have no fixed step, or
/// where labels are not a field's readings so much later.
pub fn between(pieces: &[Piece<'_>], spec: &WindowSpec, horizon: Duration) -> Vec<Cut> {
    let Some(step_ms) = spec.step_ms.and_then(|ms| i64::try_from(ms).ok()) else {
        return Vec::new();
    };
    let jitter_ms = i64::try_from(spec.jitter_ms).unwrap_or(i64::MAX);
    let mut readings = BTreeMap::new();
    for reading in pieces.iter().flat_map(|piece| piece.window) {
        readings.entry(reading.ts).or_insert(reading);
    }
    let later = |newest: Timestamp| {
        let at = newest.after(horizon);
        let near = at.offset_ms(-jitter_ms)..=at.offset_ms(jitter_ms);
        readings.range(near).next().map(|(_, reading)| *reading)
    };
    let Some(field) = label_field(pieces, later) else {
        return Vec::new();
    };
    let mut sampled: Vec<Timestamp> = pieces
        .iter()
        .filter_map(|piece| Some(piece.window.last()?.ts))
        .collect();
    sampled.sort_unstable();
    let all: Vec<&Arc<Reading>> = readings.values().copied().collect();
    let even = |window: &[&Arc<Reading>]| {
        window
            .windows(2)
            .all(|pair| (pair[1].ts.ms_since(pair[0].ts) - step_ms).abs() <= jitter_ms)
    };
    let mut cuts = Vec::new();
    for window in all.windows(spec.count.max(1)).filter(|window| even(window)) {
        let Some(newest) = window.last().map(|reading| reading.ts) else {
            continue;
        };
        let label = later(newest).and_then(|reading| reading.number(&field));
        if let Some(label) = label.filter(|_| sampled.binary_search(&newest).is_err()) {
            cuts.push(Cut {
                window: window.iter().map(|reading| Arc::clone(reading)).collect(),
                label: Label::Value(label),
            });
        }
    }
    cuts
}

/// The field whose later reading is the label of every sample that has one.
fn label_field<'a>(
    pieces: &[Piece<'a>],
    later: impl Fn(Timestamp) -> Option<&'a Arc<Reading>>,
) -> Option<FieldName> {
    let mut found = 0;
    let mut fields: Option<Vec<FieldName>> = None;
    for piece in pieces {
        let (Label::Value(label), Some(newest)) = (piece.label, piece.window.last()) else {
            return None;
        };
        let Some(reading) = later(newest.ts) else {
            continue;
        };
        found += 1;
        let same = |field: &FieldName| {
            reading
                .number(field)
                .is_some_and(|number| number.total_cmp(label).is_eq())
        };
        let candidates = fields.unwrap_or_else(|| reading.fields.keys().cloned().collect());
        fields = Some(candidates.into_iter().filter(same).collect());
    }
    let field = fields?.into_iter().next()?;
    (found >= LATER_MIN).then_some(field)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use lamppost_models::Value;

    const STEP_MS: i64 = 60_000;

    fn spec(count: usize) -> WindowSpec {
        WindowSpec {
            count,
            step_ms: Some(60_000),
            jitter_ms: 0,
        }
    }

    /// A reading a minute; the second field is never the label.
    fn series(length: usize) -> Vec<Arc<Reading>> {
        let reading = |at: usize| {
            let number = ((at * 7919) % 101) as f64;
            Arc::new(Reading {
                ts: Timestamp::EPOCH.offset_ms(i64::try_from(at).unwrap() * STEP_MS),
                fields: BTreeMap::from([
                    ("a".parse().unwrap(), Value::Number(number + 0.5)),
                    ("b".parse().unwrap(), Value::Number(number)),
                ]),
            })
        };
        (0..length).map(reading).collect()
    }

    /// Samples whose newest reading is at these places, with the label so many steps later.
    fn samples(
        series: &[Arc<Reading>],
        newest: &[usize],
        count: usize,
        ahead: usize,
    ) -> Vec<(Vec<Arc<Reading>>, Label)> {
        let field = "b".parse().unwrap();
        newest
            .iter()
            .map(|&at| {
                (
                    series[at + 1 - count..=at].to_vec(),
                    Label::Value(series[at + ahead].number(&field).unwrap()),
                )
            })
            .collect()
    }

    fn cut(samples: &[(Vec<Arc<Reading>>, Label)], count: usize, ahead: u64) -> Vec<Cut> {
        let pieces: Vec<Piece<'_>> = samples
            .iter()
            .map(|(window, label)| Piece { window, label })
            .collect();
        between(&pieces, &spec(count), Duration::from_secs(60 * ahead))
    }

    #[test]
    fn one_sample_in_five_gives_the_windows_between() {
        let series = series(200);
        let newest: Vec<usize> = (9..180).step_by(5).collect();
        let cuts = cut(&samples(&series, &newest, 10, 1), 10, 1);
        // All windows up to the newest reading that was seen, less those that were samples and the last, whose label is not known.
        assert_eq!(
            cuts.len(),
            (newest[newest.len() - 1] - 9) - (newest.len() - 1)
        );
        let first = &cuts[0];
        assert_eq!(first.window, series[1..=10]);
        assert_eq!(
            first.label,
            Label::Value(series[11].number(&"b".parse().unwrap()).unwrap())
        );
    }

    #[test]
    fn labels_from_elsewhere_and_gaps_give_none() {
        let series = series(200);
        let newest: Vec<usize> = (9..180).step_by(5).collect();
        let mut other = samples(&series, &newest, 10, 1);
        other[3].1 = Label::Value(1e6);
        assert_eq!(cut(&other, 10, 1), []);
        other[3].1 = Label::Class("jam".to_owned());
        assert_eq!(cut(&other, 10, 1), []);
        let few = samples(&series, &newest[..8], 10, 1);
        assert_eq!(cut(&few, 10, 1), []);
        // Samples that do not touch: nothing lies between them, and no label is found.
        let apart: Vec<usize> = (9..180).step_by(20).collect();
        assert_eq!(cut(&samples(&series, &apart, 10, 1), 10, 1), []);
    }

    proptest! {
        /// Whatever is cut is a window of the series with its own label, and no sample.
        #[test]
        fn cuts_are_windows_of_the_series(
            newest in prop::collection::btree_set(5_usize..190, 0..80),
            ahead in 1_usize..4,
        ) {
            let series = series(200);
            let newest: Vec<usize> = newest.into_iter().collect();
            for cut in cut(&samples(&series, &newest, 6, ahead), 6, ahead as u64) {
                let at = usize::try_from(cut.window[5].ts.as_ms() / STEP_MS).unwrap();
                prop_assert!(!newest.contains(&at));
                prop_assert_eq!(&cut.window[..], &series[at - 5..=at]);
                prop_assert_eq!(cut.label, Label::Value(series[at + ahead].number(&"b".parse().unwrap()).unwrap()));
            }
        }
    }
}
