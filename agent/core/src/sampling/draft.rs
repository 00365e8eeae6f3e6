//! The sample as it leaves the node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lamppost_models::id::{ConsentRef, FieldName};
use lamppost_models::message::{Label, SamplePolicy};
use lamppost_models::{BootId, ModelName, Reading, Timestamp, Value};
use serde::Serialize;

/// Digits of the largest number, for one that is not drawn yet.
const SEQ_BYTES_MAX: usize = 20;
/// `,"label":` and the longest number, or the name of a class as models have them.
const LABEL_BYTES: usize = 9 + 24;

/// What of a stream's windows may leave the node, and what is said of them.
#[derive(Clone, Debug)]
pub struct Giving {
    /// This run of the agent.
    pub boot: BootId,
    /// The model that the windows go to.
    pub model: ModelName,
    /// The fields that may leave; no other does.
    pub fields: BTreeSet<FieldName>,
    /// What allows it.
    pub consent: ConsentRef,
}

/// A sample without its number and its label, which come last.
///
/// It is JSON already, for its size is what the budget asks, and the readings under it may go.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Up to the number.
    head: Vec<u8>,
    /// Behind it, up to the label.
    tail: Vec<u8>,
}

/// A reading as it leaves the node.
#[derive(Serialize)]
struct Given<'a> {
    ts: Timestamp,
    fields: BTreeMap<&'a FieldName, &'a Value>,
}

impl Draft {
    /// Drafts the sample of a window and the JSON of its prediction, where that may leave the node; `None` when the window
    /// has no field that may.
    pub fn new(
        giving: &Giving,
        policy: SamplePolicy,
        window: &[Arc<Reading>],
        prediction: Option<&[u8]>,
    ) -> Option<Self> {
        let given = |reading| {
            let Reading { ts, fields } = Arc::as_ref(reading);
            let allowed = fields
                .iter()
                .filter(|(field, _)| giving.fields.contains(*field));
            Given {
                ts: *ts,
                fields: allowed.collect(),
            }
        };
        let readings: Vec<Given<'_>> = window.iter().map(given).collect();
        if readings.iter().all(|reading| reading.fields.is_empty()) {
            return None;
        }
        let ts = readings.last()?.ts;
        let Giving {
            boot,
            model,
            consent,
            ..
        } = giving;
        // Names have no character that JSON would escape, and values and texts are written by serde.
        let head = format!(r#"{{"v":1,"ts":"{ts}","origin":{{"boot":"{boot}","seq":"#);
        let policy = serde_json::to_string(&policy).ok()?;
        let mut tail =
            format!(r#","model":"{model}","policy":{policy},"consent":"{consent}"}},"window":"#)
                .into_bytes();
        serde_json::to_writer(&mut tail, &readings).ok()?;
        if let Some(prediction) = prediction {
            tail.extend_from_slice(br#","prediction":"#);
            tail.extend_from_slice(prediction);
        }
        Some(Self {
            head: head.into_bytes(),
            tail,
        })
    }

    /// How long it will be, at most, with a label that is a number.
    pub fn bytes(&self) -> usize {
        self.head.len() + SEQ_BYTES_MAX + self.tail.len() + LABEL_BYTES + 1
    }

    /// The JSON of the [`Sample`](lamppost_models::Sample).
    pub fn finish(self, seq: u64, label: Option<&Label>) -> Vec<u8> {
        let Self {
            head: mut json,
            tail,
        } = self;
        json.reserve(SEQ_BYTES_MAX + tail.len() + LABEL_BYTES + 1);
        json.extend_from_slice(seq.to_string().as_bytes());
        json.extend_from_slice(&tail);
        if let Some(Ok(label)) = label.map(serde_json::to_vec) {
            json.extend_from_slice(br#","label":"#);
            json.extend_from_slice(&label);
        }
        json.push(b'}');
        json
    }
}
