//! The JSON of a prediction, written straight into a buffer.
//!
//! It is byte for byte what serde makes of [`lamppost_models::Prediction`], which a test holds it to, without building
//! that first: a tenth of the pipeline's time.

use std::io::Write as _;

use bytes::{BufMut as _, Bytes, BytesMut};
use lamppost_engine::{Engine, Output};
use lamppost_models::id::PredictionId;
use lamppost_models::message::ModelRef;
use lamppost_models::{StreamName, Timestamp};

/// Room that is allotted at a time: some thirty predictions, which go the same way together.
const CHUNK_BYTES: usize = 16 * 1024;

/// What is the same in all predictions that one version of a model makes on one stream.
#[derive(Clone, Debug)]
pub(crate) struct Fixed {
    /// `,"stream":"<name>","seq":`
    stream: Vec<u8>,
    /// `,"model":{..}`
    model: Vec<u8>,
    /// `,"unit":".."`, or nothing.
    unit: Vec<u8>,
}

/// What is new in each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Varying<'a> {
    pub(crate) id: PredictionId,
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
    pub(crate) fn new(stream: &StreamName, engine: &Engine) -> Self {
        let manifest = engine.manifest();
        let model = ModelRef {
            name: manifest.name.clone(),
            version: manifest.version.clone(),
            digest: engine.digest(),
        };
        Self::of(stream, &model)
    }

    fn of(stream: &StreamName, model: &ModelRef) -> Self {
        // A name has no character that JSON would escape.
        let stream = format!(r#","stream":"{stream}","seq":"#).into_bytes();
        let model = [br#","model":"#, &*crate::to_json(model)].concat();
        Self {
            stream,
            model,
            unit: Vec::new(),
        }
    }
}

impl Writer {
    /// The JSON of a prediction.
    pub(crate) fn prediction(&mut self, fixed: &mut Fixed, varying: &Varying<'_>) -> Bytes {
        if self.buffer.capacity() < CHUNK_BYTES / 16 {
            self.buffer.reserve(CHUNK_BYTES);
        }
        let Varying {
            id,
            ts,
            target_ts,
            seq,
            output,
            latency_us,
        } = varying;
        let out = &mut self.buffer;
        put(out, format_args!(r#"{{"v":1,"id":"{id}","ts":"{ts}""#));
        if let Some(target) = target_ts {
            put(out, format_args!(r#","target_ts":"{target}""#));
        }
        out.put_slice(&fixed.stream);
        put(out, format_args!(r#"{seq},"boot":"{}""#, id.boot));
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
        put(
            out,
            format_args!(r#","latency_us":{latency_us},"replay":false}}"#),
        );
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

fn put(out: &mut BytesMut, text: std::fmt::Arguments<'_>) {
    if out.writer().write_fmt(text).is_err() {
        tracing::error!("a buffer in memory cannot be written to");
    }
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
    use lamppost_models::{BootId, Digest, ModelName, Prediction, V1};
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

    proptest! {
        #[test]
        fn it_is_what_serde_writes(
            outputs in proptest::collection::vec(output(), 1..40),
            (boot, number, seq) in (any::<u64>(), any::<u64>(), any::<u64>()),
            (ts_ms, ahead_ms) in (0_i64..4_000_000_000_000, proptest::option::of(0_i64..9_999_999)),
        ) {
            let boot = BootId::from_u64(boot);
            let stream = StreamName::new("i94-volume").unwrap();
            let model = ModelRef {
                name: ModelName::new("traffic-flow").unwrap(),
                version: "1.2.3-rc.1+b5".parse().unwrap(),
                digest: Digest::of(b"bundle"),
            };
            let ts = Timestamp::from_ms(ts_ms).unwrap();
            let target_ts = ahead_ms.map(|ms| ts.offset_ms(ms));
            let (mut fixed, mut writer) = (Fixed::of(&stream, &model), Writer::default());
            for output in outputs {
                let id = PredictionId { boot, number };
                let varying = Varying { id, ts, target_ts, seq, output: &output, latency_us: 17 };
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
        let none = Output {
            label: None,
            score: None,
            scores: None,
            value: None,
            unit: None,
            horizon: None,
        };
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
