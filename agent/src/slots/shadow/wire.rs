//! What agent and child say to each other: frames of a length (4 bytes, little-endian) and as many bytes of JSON.
//!
//! The child begins with [`PREAMBLE`], since the program that it is a part of may print something before. Then it says how
//! opening the bundle went, and then one answer to each window, in order.

use std::io::{self, Read, Write};

use lamppost_models::Reading;
use lamppost_models::message::{Label, Verdict};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// What the child's side of the conversation begins with.
pub(super) const PREAMBLE: &[u8] = b"\nlamppost-shadow 1\n";
/// Most bytes before it: what a program prints of itself.
const BEFORE_BYTES_MAX: usize = 4096;
/// Largest window in JSON: the largest input of a model, 4 Mi numbers of 16 bytes.
pub(super) const WINDOW_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Largest answer: a label or a message, each cut before.
pub(super) const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// What the child says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub(super) enum Answer {
    /// The bundle is open.
    Opened,
    /// The bundle does not open; the child ends.
    Refused { verdict: Verdict, detail: String },
    /// A prediction.
    Said {
        /// What is compared with a label.
        label: Option<Label>,
        /// How far ahead it is, where it is a forecast.
        horizon_ms: Option<u64>,
        /// Processor time of the inference, in microseconds.
        took_us: u64,
        /// Processor time of the whole answer, in microseconds.
        busy_us: u64,
    },
    /// The inference failed, or the window does not suit the model.
    Failed { detail: String, busy_us: u64 },
}

/// Why what came is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error("its output ended")]
    End,
    #[error("it printed more than {BEFORE_BYTES_MAX} bytes and no greeting")]
    NoPreamble,
    #[error("it announced an answer of {0} bytes, the limit is {ANSWER_BYTES_MAX}")]
    TooLong(usize),
    #[error("it answered with something else than an answer: {0}")]
    Garbage(serde_json::Error),
    #[error("its output cannot be read: {0}")]
    Read(io::Error),
}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            Self::End
        } else {
            Self::Read(error)
        }
    }
}

/// A window as it goes to the child.
pub(super) fn window(readings: &[impl AsRef<Reading>]) -> Result<Vec<u8>, serde_json::Error> {
    let readings: Vec<&Reading> = readings.iter().map(AsRef::as_ref).collect();
    frame(&readings)
}

fn frame(message: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)?;
    let length = u32::try_from(frame.len() - 4).unwrap_or(u32::MAX);
    frame[..4].copy_from_slice(&length.to_le_bytes());
    Ok(frame)
}

/// Reads past the child's greeting.
pub(super) async fn greeted(from: &mut (impl AsyncRead + Unpin)) -> Result<(), WireError> {
    let mut seen = Vec::new();
    while !seen.ends_with(PREAMBLE) {
        if seen.len() == BEFORE_BYTES_MAX {
            return Err(WireError::NoPreamble);
        }
        seen.push(from.read_u8().await?);
    }
    Ok(())
}

/// Reads the next answer.
pub(super) async fn answer(from: &mut (impl AsyncRead + Unpin)) -> Result<Answer, WireError> {
    let length = from.read_u32_le().await? as usize;
    if length > ANSWER_BYTES_MAX {
        return Err(WireError::TooLong(length));
    }
    let mut json = vec![0; length];
    from.read_exact(&mut json).await?;
    serde_json::from_slice(&json).map_err(WireError::Garbage)
}

/// The child's side: the next window, or `None` at the end.
pub(super) fn next_window(from: &mut impl Read) -> io::Result<Option<Vec<Reading>>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > WINDOW_BYTES_MAX {
        let text = format!("a window of {length} bytes, the limit is {WINDOW_BYTES_MAX}");
        return Err(io::Error::other(text));
    }
    let mut json = vec![0; length];
    from.read_exact(&mut json)?;
    Ok(Some(serde_json::from_slice(&json)?))
}

/// The child's side: says something.
pub(super) fn say(to: &mut impl Write, answer: &Answer) -> io::Result<()> {
    to.write_all(&frame(answer)?)?;
    to.flush()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn what_is_printed_before_the_greeting_is_skipped_within_reason() {
        let said = Answer::Said {
            label: Some(Label::Value(1.5)),
            horizon_ms: Some(3_600_000),
            took_us: 12,
            busy_us: 20,
        };
        let mut bytes = [b"running 1 test\n", PREAMBLE].concat();
        say(&mut bytes, &Answer::Opened).unwrap();
        say(&mut bytes, &said).unwrap();
        let mut from = bytes.as_slice();
        greeted(&mut from).await.unwrap();
        assert_eq!(answer(&mut from).await.unwrap(), Answer::Opened);
        assert_eq!(answer(&mut from).await.unwrap(), said);
        assert!(matches!(answer(&mut from).await, Err(WireError::End)));
        let chatter = vec![b'x'; 10_000];
        assert!(matches!(
            greeted(&mut chatter.as_slice()).await,
            Err(WireError::NoPreamble)
        ));
    }

    #[tokio::test]
    async fn what_is_no_answer_is_told_as_that() {
        let mut long = [0xff_u8; 8].as_slice();
        assert!(matches!(
            answer(&mut long).await,
            Err(WireError::TooLong(_))
        ));
        let mut other = [2, 0, 0, 0, b'{', b'}'].as_slice();
        assert!(matches!(
            answer(&mut other).await,
            Err(WireError::Garbage(_))
        ));
        let mut short = [9, 0, 0, 0, b'{'].as_slice();
        assert!(matches!(answer(&mut short).await, Err(WireError::End)));
    }

    #[test]
    fn a_window_arrives_as_it_was_sent() {
        let reading = |ms: i64| {
            Arc::new(Reading {
                ts: lamppost_models::Timestamp::from_ms(ms).unwrap(),
                fields: [("x".parse().unwrap(), lamppost_models::Value::Number(0.1))].into(),
            })
        };
        let sent = [reading(1), reading(2)];
        let bytes = window(&sent).unwrap();
        let mut from = bytes.as_slice();
        let came = next_window(&mut from).unwrap().unwrap();
        assert!(came.iter().zip(&sent).all(|(a, b)| *a == **b));
        assert_eq!(next_window(&mut from).unwrap(), None);
    }
}
