//! The JSON of a prediction, written straight into a buffer.
//!
//! It is byte for byte what serde makes of [`lamppost_models::Prediction`], which a test holds it to, without building
//! that first: a tenth of the pipeline's time.

use bytes::{BufMut as _, Bytes, BytesMut};
use lamppost_engine::{Engine, Output};
use lamppost_models::message::ModelRef;
use lamppost_models::{BootId, StreamName, Timestamp};

/// Room that is allotted at a time: some thirty predictions, which go the same way together.
const CHUNK_BYTES: usize = 16 * 1024;
const DAY_MS: i64 = 24 * 3600 * 1000;

/// What is the same in all predictions that one version of a model makes on one stream in one run of the agent.
#[derive(Clone, Debug)]
pub(crate) struct Fixed {
    /// `{"v":1,"id":"<boot>-`
    id: Vec<u8>,
    /// `,"stream":"<name>","seq":`
    stream: Vec<u8>,
    /// `,"boot":"<boot>","model":{..}`
    model: Vec<u8>,
    /// `,"unit":".."`, or nothing.
    unit: Vec<u8>,
    /// The day of `ts`, and that of `target_ts`.
    days: [Day; 2],
}

/// A day in UTC, which is the same in most predictions in a row.
#[derive(Clone, Debug)]
struct Day {
    /// Days since 1970-01-01.
    number: i64,
    /// `<date>T`
    text: String,
}

/// What is new in each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Varying<'a> {
    /// The second half of its id.
    pub(crate) number: u64,
    pub(crate) ts: Timestamp,
    pub(crate) target_ts: Option<Timestamp>,
    pub(crate) seq: u64,
    pub(crate) output: &'a Output,
    pub(crate) latency_us: u64,
}

/// Writes predictions, one behind the other, into shared buffers.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    buffer: BytesMut,
}

impl Fixed {
    pub(crate) fn new(boot: BootId, stream: &StreamName, engine: &Engine) -> Self {
        let manifest = engine.manifest();
        let model = ModelRef {
            name: manifest.name.clone(),
            version: manifest.version.clone(),
            digest: engine.digest(),
        };
        Self::of(boot, stream, &model)
    }

    fn of(boot: BootId, stream: &StreamName, model: &ModelRef) -> Self {
        let boot_field = format!(r#","boot":"{boot}","model":"#);
        Self {
            id: format!(r#"{{"v":1,"id":"{boot}-"#).into_bytes(),
            // A name has no character that JSON would escape.
            stream: format!(r#","stream":"{stream}","seq":"#).into_bytes(),
            model: [boot_field.as_bytes(), &*crate::to_json(model)].concat(),
            unit: Vec::new(),
            days: [Day::of(Timestamp::EPOCH), Day::of(Timestamp::EPOCH)],
        }
    }
}

impl Day {
    fn of(instant: Timestamp) -> Self {
        let mut text = instant.to_string();
        text.truncate("1970-01-01T".len());
        let number = instant.as_ms().div_euclid(DAY_MS);
        Self { number, text }
    }

    /// Writes `instant` as [`Timestamp`] does, without formatting its date anew.
    fn put(&mut self, out: &mut BytesMut, instant: Timestamp) {
        if instant.as_ms().div_euclid(DAY_MS) != self.number {
            *self = Self::of(instant);
        }
        out.put_slice(self.text.as_bytes());
        let ms = instant.as_ms().rem_euclid(DAY_MS).unsigned_abs();
        put_two_digits(out, ms / 3_600_000);
        out.put_u8(b':');
        put_two_digits(out, ms / 60_000 % 60);
        out.put_u8(b':');
        put_two_digits(out, ms / 1000 % 60);
        let fraction = ms % 1000;
        if fraction != 0 {
            out.put_u8(b'.');
            put_two_digits(out, fraction / 10);
            out.put_u8(b'0' + (fraction % 10) as u8);
        }
        out.put_u8(b'Z');
    }
}

impl Writer {
    /// The JSON of a prediction.
    pub(crate) fn prediction(&mut self, fixed: &mut Fixed, varying: &Varying<'_>) -> Bytes {
        if self.buffer.capacity() < CHUNK_BYTES / 16 {
            self.buffer.reserve(CHUNK_BYTES);
        }
        let Varying {
            number,
            ts,
            target_ts,
            seq,
            output,
            latency_us,
        } = varying;
        let out = &mut self.buffer;
        let [day, target_day] = &mut fixed.days;
        put_json(out, &fixed.id, Some(number));
        out.put_slice(br#"","ts":""#);
        day.put(out, *ts);
        if let Some(target) = target_ts {
            out.put_slice(br#"","target_ts":""#);
            target_day.put(out, *target);
        }
        out.put_u8(b'"');
        put_json(out, &fixed.stream, Some(seq));
        out.put_slice(&fixed.model);
        put_json(out, br#","label":"#, output.label.as_ref());
        put_json(out, br#","score":"#, output.score.as_ref());
        put_json(out, br#","scores":"#, output.scores.as_ref());
        put_json(out, br#","value":"#, output.value.as_ref());
        if let Some(unit) = &output.unit {
            // The same for ever, since it stands in the manifest.
            if fixed.unit.is_empty() {
                fixed.unit = [br#","unit":"#, &*crate::to_json(unit)].concat();
            }
            out.put_slice(&fixed.unit);
        }
        put_json(out, br#","latency_us":"#, Some(latency_us));
        out.put_slice(br#","replay":false}"#);
        out.split().freeze()
    }

    /// The bare value, or else the label.
    pub(crate) fn flat(&mut self, output: &Output) -> Option<Bytes> {
        match (output.value, &output.label) {
            (Some(value), _) => put_json(&mut self.buffer, b"", Some(&value)),
            (None, Some(label)) => self.buffer.put_slice(label.as_bytes()),
            (None, None) => return None,
        }
        Some(self.buffer.split().freeze())
    }
}

/// Writes a number below 100.
fn put_two_digits(out: &mut BytesMut, number: u64) {
    out.put_slice(&[b'0' + (number / 10 % 10) as u8, b'0' + (number % 10) as u8]);
}

fn put_json(out: &mut BytesMut, key: &[u8], value: Option<&impl serde::Serialize>) {
    let Some(value) = value else { return };
    out.put_slice(key);
    if serde_json::to_writer(out.writer(), value).is_err() {
        tracing::error!("a value cannot be written as JSON");
    }
}

#[cfg(test)]
mod tests {
    use lamppost_models::id::PredictionId;
    use lamppost_models::{Digest, ModelName, Prediction, V1};
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn output()(
            label in proptest::option::of(".{0,12}"),
            score in proptest::option::of(-1.0e9_f32..1.0e9),
            scores in proptest::option::of(proptest::collection::vec(0.0_f32..=1.0, 0..4)),
            value in proptest::option::of(-1.0e12_f64..1.0e12),
            with_unit: bool,
        ) -> Output {
            let unit = with_unit.then(|| "µg/m3 \"x\"".to_owned());
            Output { label, score, scores, value, unit, horizon: None }
        }
    }

    /// From the year 0 on, and as often as not a whole second, minute or day.
    fn instant() -> impl Strategy<Value = Timestamp> {
        let unit_ms = prop::sample::select(vec![1, 1000, 60_000, DAY_MS]);
        (-62_167_219_200_000_i64..253_402_207_200_000, unit_ms)
            .prop_map(|(ms, unit_ms)| Timestamp::EPOCH.offset_ms(ms / unit_ms * unit_ms))
    }

    proptest! {
        #[test]
        fn it_is_what_serde_writes(
            outputs in proptest::collection::vec(output(), 1..40),
            (boot, number, seq) in (any::<u64>(), any::<u64>(), any::<u64>()),
            first in instant(),
            (step_ms, ahead_ms) in (0..DAY_MS / 2, proptest::option::of(0_i64..2 * DAY_MS)),
        ) {
            let boot = BootId::from_u64(boot);
            let stream = StreamName::new("i94-volume").unwrap();
            let model = ModelRef {
                name: ModelName::new("traffic-flow").unwrap(),
                version: "1.2.3-rc.1+b5".parse().unwrap(),
                digest: Digest::of(b"bundle"),
            };
            let (mut fixed, mut writer) = (Fixed::of(boot, &stream, &model), Writer::default());
            for (index, output) in (0..).zip(outputs) {
                let ts = first.offset_ms(index * step_ms);
                let target_ts = ahead_ms.map(|ms| ts.offset_ms(ms));
                let id = PredictionId { boot, number };
                let varying = Varying { number, ts, target_ts, seq, output: &output, latency_us: 17 };
                let written = writer.prediction(&mut fixed, &varying);
                let Output { label, score, scores, value, unit, .. } = output;
                let (stream, model) = (stream.clone(), model.clone());
                let wanted = Prediction {
                    v: V1, id, ts, target_ts, stream, seq, boot, model, label, score, scores, value, unit,
                    latency_us: 17, replay: false,
                };
                prop_assert_eq!(String::from_utf8_lossy(&written), serde_json::to_string(&wanted).unwrap());
            }
        }
    }

    #[test]
    fn a_flat_topic_has_the_bare_value_or_the_label() {
        let mut writer = Writer::default();
        let none = Output::default();
        let value = Output {
            value: Some(1234.5),
            ..none.clone()
        };
        assert_eq!(writer.flat(&value).unwrap(), "1234.5");
        assert_eq!(
            writer
                .flat(&Output {
                    label: Some("jam".to_owned()),
                    ..none.clone()
                })
                .unwrap(),
            "jam"
        );
        assert_eq!(writer.flat(&none), None);
    }
}
