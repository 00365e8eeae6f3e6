//! What decoding a protobuf will take, counted on its bytes before any of it is decoded.
//!
//! An empty node is two bytes in a file and some 170 in memory; a packed zero is one byte and then eight. The scan knows
//! which fields of ONNX hold messages and which hold numbers (onnx.proto, ONNX IR), and adds up what each will become.

/// Deepest nesting of messages: prost's own limit is 100, a graph in an attribute of a node takes three.
const DEPTH_MAX: usize = 60;
/// What a decoded message or string takes at most besides its content: the largest struct, twice over, since a vector
/// grows by doubling.
const MESSAGE_BYTES: u64 = 512;
const STRING_BYTES: u64 = 64;

#[derive(Clone, Copy)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    Sparse,
    ValueInfo,
    Type,
    TensorType,
    Shape,
    Training,
    Function,
    Annotation,
    /// Holds strings and numbers alone.
    Leaf,
}

enum Content {
    Message(Message),
    /// Bytes, a string, or packed numbers that are as long in memory as in the file.
    Same,
    /// Packed numbers of one to ten bytes each that take eight in memory.
    Varints,
}

fn content(message: Message, field: u64) -> Content {
    use Content::{Same, Varints};
    use Message::{
        Annotation, Attribute, Function, Graph, Leaf, Model, Node, Shape, Sparse, Tensor,
        TensorType, Training, Type, ValueInfo,
    };
    Content::Message(match (message, field) {
        (Model, 7) | (Attribute, 6 | 11) | (Training, 1 | 2) => Graph,
        (Model, 8 | 14)
        | (Training, 3 | 4)
        | (Function, 9)
        | (Tensor, 3 | 13)
        | (Annotation, 2)
        | (Shape, 1) => Leaf,
        (Model, 20) => Training,
        (Model, 25) => Function,
        (Graph, 1) | (Function, 7) => Node,
        (Graph, 5) | (Attribute, 5 | 10) | (Sparse, 1 | 2) => Tensor,
        (Graph, 15) | (Attribute, 22 | 23) => Sparse,
        (Graph, 11..=13) => ValueInfo,
        (Graph, 14) => Annotation,
        (Node, 5) => Attribute,
        (ValueInfo, 2) | (Attribute, 15) => Type,
        (Type, 1) => TensorType,
        (TensorType, 2) => Shape,
        (Tensor, 1 | 5 | 7 | 11) | (Attribute, 8) | (Sparse, 3) => return Varints,
        _ => return Same,
    })
}

/// Bytes that decoding `file` takes in memory, roughly and rather too many; stops when they are above `limit`.
///
/// # Errors
/// What is wrong with the file as a protobuf.
pub fn decoded_bytes(file: &[u8], limit: u64) -> Result<u64, &'static str> {
    // An explicit stack: the end of each open message and its kind.
    let mut open = vec![(file.len(), Message::Model)];
    let (mut at, mut total) = (0, 0_u64);
    while let Some(&(end, message)) = open.last() {
        if at == end {
            open.pop();
            continue;
        }
        let key = varint(file, &mut at, end)?;
        let field = key >> 3;
        match key & 7 {
            0 => {
                varint(file, &mut at, end)?;
                total += 8;
            }
            1 => at = skip(at, 8, end)?,
            5 => at = skip(at, 4, end)?,
            2 => {
                let length = varint(file, &mut at, end)?;
                let next = skip(at, length, end)?;
                match content(message, field) {
                    Content::Message(inner) => {
                        total += MESSAGE_BYTES;
                        open.push((next, inner));
                    }
                    Content::Same => {
                        total = total.saturating_add(length).saturating_add(STRING_BYTES);
                        at = next;
                    }
                    Content::Varints => {
                        total = total.saturating_add(length.saturating_mul(8));
                        at = next;
                    }
                }
                if open.len() > DEPTH_MAX {
                    return Err("messages nest too deep");
                }
            }
            _ => return Err("a field has an unknown wire type"),
        }
        if total > limit {
            break;
        }
    }
    Ok(total)
}

fn skip(at: usize, length: u64, end: usize) -> Result<usize, &'static str> {
    usize::try_from(length)
        .ok()
        .and_then(|length| at.checked_add(length))
        .filter(|&next| next <= end)
        .ok_or("a field is longer than what holds it")
}

fn varint(file: &[u8], at: &mut usize, end: usize) -> Result<u64, &'static str> {
    let mut number = 0_u64;
    for shift in (0..70).step_by(7) {
        let byte = *file
            .get(*at)
            .filter(|_| *at < end)
            .ok_or("a number is cut short")?;
        *at += 1;
        number |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err("a number has more than ten bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message field around `content`.
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![number << 3 | 2];
        let mut length = content.len();
        while length >= 0x80 {
            bytes.push(u8::try_from(length & 0x7f).expect("7 bits") | 0x80);
            length >>= 7;
        }
        bytes.push(u8::try_from(length).expect("7 bits"));
        bytes.extend_from_slice(content);
        bytes
    }

    #[test]
    fn a_million_empty_nodes_are_counted_at_what_they_become() {
        let graph = field(7, &field(1, &[]).repeat(1_000_000));
        assert!(graph.len() < 2_100_000);
        assert!(decoded_bytes(&graph, u64::MAX).expect("a protobuf") > 500_000_000);
    }

    #[test]
    fn packed_zeros_are_counted_at_eight_bytes_each() {
        let graph = field(7, &field(5, &field(7, &[0; 1000])));
        assert_eq!(
            decoded_bytes(&graph, u64::MAX),
            Ok(8000 + 2 * MESSAGE_BYTES)
        );
    }

    #[test]
    fn counting_stops_above_the_limit() {
        let graph = field(7, &field(1, &[]).repeat(1000));
        assert!(decoded_bytes(&graph, 10_000).expect("a protobuf") < 11_000);
    }

    #[test]
    fn graphs_within_graphs_end_at_a_depth() {
        let mut bytes = field(7, &[]);
        for _ in 0..40 {
            bytes = field(1, &field(5, &field(6, &bytes)));
        }
        assert_eq!(
            decoded_bytes(&field(7, &bytes), u64::MAX),
            Err("messages nest too deep")
        );
    }

    #[test]
    fn a_field_longer_than_its_message_is_refused() {
        assert_eq!(
            decoded_bytes(&[7 << 3 | 2, 5, 0], u64::MAX),
            Err("a field is longer than what holds it")
        );
        assert_eq!(
            decoded_bytes(&[0xff; 12], u64::MAX),
            Err("a number has more than ten bytes")
        );
        assert_eq!(
            decoded_bytes(&[0x80], u64::MAX),
            Err("a number is cut short")
        );
    }
}
