//! The readings, cut into windows.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::BufRead;
use std::sync::Arc;

use lamppost_models::message::Label;
use lamppost_models::{Reading, Timestamp, Value};

const HOUR_MS: i64 = 3_600_000;
/// Readings in a window.
pub(crate) const WINDOW: usize = 24;

/// A window with what came true, an hour after its newest reading.
pub(crate) struct Window {
    /// Oldest first.
    pub(crate) readings: Vec<Arc<Reading>>,
    /// Always a value.
    pub(crate) truth: Label,
}

impl Window {
    /// Event time of the newest reading.
    pub(crate) fn ts(&self) -> Timestamp {
        self.readings
            .last()
            .map_or(Timestamp::EPOCH, |reading| reading.ts)
    }

    /// What came true, as a number.
    pub(crate) fn value(&self) -> f64 {
        match self.truth {
            Label::Value(value) => value,
            Label::Class(_) => f64::NAN,
        }
    }

    /// Days since 1970, by the road's clock.
    pub(crate) fn day(&self) -> i64 {
        (self.ts().as_ms() - 6 * HOUR_MS).div_euclid(24 * HOUR_MS)
    }

    /// `2013-01`, by the road's clock.
    pub(crate) fn month(&self) -> String {
        self.ts()
            .offset_ms(-6 * HOUR_MS)
            .to_string()
            .chars()
            .take(7)
            .collect()
    }
}

/// All windows of 24 readings an hour apart, in the order of time.
pub(crate) struct Hours {
    pub(crate) windows: Vec<Window>,
    /// How many of them are before 2013.
    pub(crate) before: usize,
}

/// Reads the source: an hour that comes again, once for each weather report, counts once.
pub(crate) fn read(source: impl BufRead, until: &str) -> Result<Hours, Box<dyn Error>> {
    let mut hours: BTreeMap<i64, f64> = BTreeMap::new();
    for line in source.lines().skip(1) {
        let line = line?;
        let (rest, volume) = line.rsplit_once(',').ok_or("a line without a volume")?;
        let (_, time) = rest.rsplit_once(',').ok_or("a line without a time")?;
        if time < until {
            let ts: Timestamp = format!("{}-06:00", time.replace(' ', "T")).parse()?;
            hours.entry(ts.as_ms()).or_insert(volume.parse()?);
        }
    }
    let field: lamppost_models::FieldName = "volume".parse()?;
    let mut windows = Vec::new();
    for newest in hours.keys() {
        let times = (0..).take(WINDOW).map(|back: i64| newest - back * HOUR_MS);
        let found: Option<Vec<(i64, f64)>> = times.map(|ts| Some((ts, *hours.get(&ts)?))).collect();
        let (Some(mut found), Some(truth)) = (found, hours.get(&(newest + HOUR_MS))) else {
            continue;
        };
        found.reverse();
        let reading = |(ts, volume)| {
            Ok::<_, Box<dyn Error>>(Arc::new(Reading {
                ts: Timestamp::from_ms(ts)?,
                fields: BTreeMap::from([(field.clone(), Value::Number(volume))]),
            }))
        };
        windows.push(Window {
            readings: found.into_iter().map(reading).collect::<Result<_, _>>()?,
            truth: Label::Value(*truth),
        });
    }
    let before = windows.partition_point(|window| window.month().as_str() < "2013");
    Ok(Hours { windows, before })
}
