//! From bytes to what a node says, or why not.

use std::borrow::Cow;

use lamppost_coordinator_core::inventory::InventoryFull;
use lamppost_coordinator_core::ledger::LedgerError;
use lamppost_models::message::{Label, MESSAGE_BYTES_MAX, Sample, SampleOrigin};
use lamppost_models::{BootId, Epoch, Prediction, PredictionBatch, StreamName, V1};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// How a zstd frame begins (RFC 8878, section 3.1.1); JSON never does.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Why a message, or a part of it, is refused; `reason` names the counter.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) reason: &'static str,
    pub(super) detail: String,
}

/// A batch whose records are not looked at yet: one that this build does not know must not keep the others from being
/// acknowledged.
#[derive(Deserialize)]
pub(super) struct RawBatch {
    #[expect(dead_code, reason = "reading it refuses another format")]
    v: V1,
    pub(super) epoch: Epoch,
    pub(super) number: u64,
    /// A batch of events has none.
    pub(super) stream: Option<StreamName>,
    pub(super) records: Vec<serde_json::Value>,
}

impl Refused {
    pub(super) fn new(reason: &'static str, detail: impl std::fmt::Display) -> Self {
        Self {
            reason,
            detail: detail.to_string(),
        }
    }
}

impl From<InventoryFull> for Refused {
    fn from(full: InventoryFull) -> Self {
        Self::new("inventory_full", full)
    }
}

impl From<LedgerError> for Refused {
    fn from(error: LedgerError) -> Self {
        Self::new("ledger", error)
    }
}

pub(super) fn parse<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Refused> {
    serde_json::from_slice(payload).map_err(|error| Refused::new("json", error))
}

/// The JSON of a batch, which may come compressed; unpacked it is held to the limit of any message.
pub(super) fn unpack(payload: &[u8]) -> Result<Cow<'_, [u8]>, Refused> {
    if !payload.starts_with(&ZSTD_MAGIC) {
        return Ok(Cow::Borrowed(payload));
    }
    let unpacked = zstd::bulk::decompress(payload, MESSAGE_BYTES_MAX).map_err(|error| {
        let detail = format!(
            "{error}: {} bytes do not unpack to at most {MESSAGE_BYTES_MAX}, the limit",
            payload.len()
        );
        Refused::new("unpack", detail)
    })?;
    Ok(Cow::Owned(unpacked))
}

/// Bytes of a payload once it is unpacked: what its frame says, and the most that is unpacked where that says nothing.
pub(super) fn unpacked_bytes(payload: &[u8]) -> usize {
    if !payload.starts_with(&ZSTD_MAGIC) {
        return payload.len();
    }
    let said = zstd::zstd_safe::get_frame_content_size(payload)
        .ok()
        .flatten();
    let said = said.and_then(|bytes| usize::try_from(bytes).ok());
    said.unwrap_or(MESSAGE_BYTES_MAX).min(MESSAGE_BYTES_MAX)
}

pub(super) fn check(prediction: Prediction, stream: &StreamName) -> Result<Prediction, Refused> {
    if prediction.stream != *stream {
        let detail = format!(
            "it says stream {}, its topic says {stream}",
            prediction.stream
        );
        return Err(Refused::new("stream", detail));
    }
    if prediction.boot != prediction.id.boot {
        let detail = format!("it says boot {}, its id {}", prediction.boot, prediction.id);
        return Err(Refused::new("boot", detail));
    }
    Ok(prediction)
}

pub(super) fn check_batch(
    batch: PredictionBatch,
    stream: &StreamName,
) -> Result<PredictionBatch, Refused> {
    if batch.stream != *stream {
        let detail = format!("it says stream {}, its topic says {stream}", batch.stream);
        return Err(Refused::new("stream", detail));
    }
    let PredictionBatch {
        v,
        epoch,
        number,
        stream,
        records,
    } = batch;
    let records = records
        .into_iter()
        .map(|record| check(record, &stream))
        .collect::<Result<_, _>>()?;
    Ok(PredictionBatch {
        v,
        epoch,
        number,
        stream,
        records,
    })
}

/// Longest text of a label, in bytes.
const LABEL_BYTES_MAX: usize = 128;

/// Why nobody could train on this label.
pub(crate) fn check_label(label: &Label) -> Result<(), String> {
    match label {
        Label::Value(value) if !value.is_finite() => Err(format!("label {value} is not finite")),
        Label::Class(text) if text.is_empty() || text.len() > LABEL_BYTES_MAX => Err(format!(
            "a label of {} bytes: a text has 1 to {LABEL_BYTES_MAX}",
            text.len()
        )),
        Label::Class(text) if text.contains(char::is_control) => {
            Err(format!("label {text:?} has a control character"))
        }
        Label::Value(_) | Label::Class(_) => Ok(()),
    }
}

/// A sample that says where it comes from.
pub(super) fn sample(
    record: serde_json::Value,
    stream: &StreamName,
) -> Result<(Sample, BootId, u64), Refused> {
    let sample: Sample =
        serde_json::from_value(record).map_err(|error| Refused::new("sample", error))?;
    let Some(SampleOrigin { boot, seq, .. }) = sample.origin else {
        return Err(Refused::new("sample", "it has no origin"));
    };
    if sample.window.is_empty() {
        return Err(Refused::new("sample", "its window is empty"));
    }
    let other = sample.prediction.as_ref();
    if let Some(other) = other.filter(|prediction| prediction.stream != *stream) {
        let detail = format!(
            "its prediction says stream {}, its topic says {stream}",
            other.stream
        );
        return Err(Refused::new("sample", detail));
    }
    if let Some(label) = &sample.label {
        check_label(label).map_err(|error| Refused::new("sample", error))?;
    }
    Ok((sample, boot, seq))
}
