//! Writes weights into a file in place, so that not a byte of anything else changes.
//!
//! Decoding a protobuf and encoding it again drops fields that the reader does not know and values that are their
//! defaults; a file is smaller and other afterwards, although it means the same. Weights have a fixed length, and the
//! fields of onnx.proto that lead to them are few: graph 7, its initialisers 5, their floats 4, name 8, raw bytes 9.

use std::ops::Range;

const GRAPH: u64 = 7;
const INITIALISER: u64 = 5;
const FLOATS: u64 = 4;
const NAME: u64 = 8;
const RAW: u64 = 9;

/// Overwrites the numbers of each float initialiser that `weights` gives numbers for; none where the file's form does not
/// allow for it. Says how many it has written.
pub(crate) fn patch<'a>(
    file: &mut [u8],
    weights: impl Fn(&str) -> Option<&'a [f32]>,
) -> Option<usize> {
    let mut written = 0;
    for graph in fields(file, 0..file.len())?
        .into_iter()
        .filter(|field| field.number == GRAPH)
    {
        for initialiser in fields(file, graph.content)?
            .into_iter()
            .filter(|field| field.number == INITIALISER)
        {
            let parts = fields(file, initialiser.content)?;
            let name = parts
                .iter()
                .find(|field| field.number == NAME)?
                .content
                .clone();
            let Some(numbers) = weights(std::str::from_utf8(&file[name]).ok()?) else {
                continue;
            };
            let raw = parts
                .iter()
                .any(|field| field.number == RAW && !field.content.is_empty());
            let wanted = if raw { RAW } else { FLOATS };
            let places = parts
                .into_iter()
                .filter(|field| field.number == wanted)
                .flat_map(|field| field.content);
            let bytes = numbers.iter().flat_map(|number| number.to_le_bytes());
            let mut places: Vec<usize> = places.collect();
            if places.len() != numbers.len() * 4 {
                return None;
            }
            for (place, byte) in places.drain(..).zip(bytes) {
                file[place] = byte;
            }
            written += 1;
        }
    }
    Some(written)
}

struct Field {
    number: u64,
    content: Range<usize>,
}

/// The fields of a message, without those of messages within it.
fn fields(file: &[u8], message: Range<usize>) -> Option<Vec<Field>> {
    let (mut at, end) = (message.start, message.end);
    let mut found = Vec::new();
    while at < end {
        let tag = varint(file, &mut at, end)?;
        let length = match tag & 7 {
            0 => {
                let start = at;
                varint(file, &mut at, end)?;
                let length = at - start;
                at = start;
                length
            }
            1 => 8,
            2 => usize::try_from(varint(file, &mut at, end)?).ok()?,
            5 => 4,
            _ => return None,
        };
        let content = at..at.checked_add(length).filter(|&to| to <= end)?;
        at = content.end;
        found.push(Field {
            number: tag >> 3,
            content,
        });
    }
    Some(found)
}

fn varint(file: &[u8], at: &mut usize, end: usize) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = *file.get(*at).filter(|_| *at < end)?;
        *at += 1;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}
