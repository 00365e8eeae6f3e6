//! Batches as nodes send them: JSON, or a zstd frame with the JSON in it.

use std::borrow::Cow;

use lamppost_models::message::MESSAGE_BYTES_MAX;

/// What a zstd frame begins with.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// The JSON of a batch.
///
/// # Errors
/// When a frame is damaged, or has more in it than a message may.
pub fn unpacked(payload: &[u8]) -> std::io::Result<Cow<'_, [u8]>> {
    if payload.starts_with(&ZSTD_MAGIC) {
        Ok(zstd::bulk::decompress(payload, MESSAGE_BYTES_MAX)?.into())
    } else {
        Ok(payload.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_give_the_same_and_a_damaged_frame_an_error() {
        let json = br#"{"v":1,"records":[1,2,3]}"#;
        let mut frame = zstd::bulk::compress(json, 3).unwrap();
        assert_eq!(*unpacked(json).unwrap(), *json);
        assert_eq!(*unpacked(&frame).unwrap(), *json);
        frame.truncate(9);
        unpacked(&frame).unwrap_err();
    }
}
