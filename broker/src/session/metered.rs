//! Counts the bytes and packets of a connection as they pass, whatever makes them and whatever carries them.
//!
//! It looks at each packet's first bytes only and skips the rest: a few nanoseconds a packet, and one addition to the
//! shared counters for each call of the system.

use super::{Reader, Writer};
use crate::hub::Hub;
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Puts counters into both directions of a connection.
pub(super) fn both(reader: Reader, writer: Writer, hub: &Arc<Hub>) -> (Reader, Writer) {
    let metered = Metered {
        inner: reader,
        hub: Arc::clone(hub),
        packets: Packets::default(),
    };
    let reader = Box::new(metered);
    let writer = Box::new(Metered {
        inner: writer,
        hub: Arc::clone(hub),
        packets: Packets::default(),
    });
    (reader, writer)
}

struct Metered<T> {
    inner: T,
    hub: Arc<Hub>,
    packets: Packets,
}

/// Where in a packet a stream stands.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Packets {
    #[default]
    Start,
    /// In the length, of which `length` is known so far.
    Length { length: usize, shift: u8 },
    /// In the body, of which so much is left.
    Body { left: usize },
    /// The stream is not MQTT: its connection is about to end.
    Lost,
}

impl Packets {
    /// Goes over the next bytes and returns how many packets end in them.
    fn pass(&mut self, mut bytes: &[u8]) -> u64 {
        let mut ended = 0;
        while let Some((&first, rest)) = bytes.split_first() {
            *self = match *self {
                Self::Start => {
                    bytes = rest;
                    Self::Length {
                        length: 0,
                        shift: 0,
                    }
                }
                Self::Length { shift: 28.., .. } => Self::Lost,
                Self::Length { length, shift } => {
                    bytes = rest;
                    let length = length | usize::from(first & 0x7f) << shift;
                    if first & 0x80 != 0 {
                        let shift = shift + 7;
                        Self::Length { length, shift }
                    } else {
                        Self::Body { left: length }
                    }
                }
                Self::Body { left } => {
                    let skipped = left.min(bytes.len());
                    bytes = &bytes[skipped..];
                    let left = left - skipped;
                    Self::Body { left }
                }
                Self::Lost => return ended,
            };
            if *self == (Self::Body { left: 0 }) {
                *self = Self::Start;
                ended += 1;
            }
        }
        ended
    }
}

impl AsyncRead for Metered<Reader> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
        let new = buf.filled().get(before..).unwrap_or_default();
        let counters = &this.hub.counters;
        counters.bytes_in.add(new.len() as u64);
        counters.packets_in.add(this.packets.pass(new));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered<Writer> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = ready!(Pin::new(&mut this.inner).poll_write(cx, buf))?;
        let counters = &this.hub.counters;
        counters.bytes_out.add(count as u64);
        let written = buf.get(..count).unwrap_or_default();
        counters.packets_out.add(this.packets.pass(written));
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::Packets;
    use proptest::prelude::*;

    fn packet(length: usize) -> Vec<u8> {
        let mut bytes = vec![0x30];
        let mut rest = length;
        loop {
            let low = u8::try_from(rest % 128).unwrap();
            rest /= 128;
            bytes.push(if rest > 0 { low | 0x80 } else { low });
            if rest == 0 {
                break;
            }
        }
        bytes.resize(bytes.len() + length, 0xff);
        bytes
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn packets_are_counted_wherever_the_stream_is_cut(
            lengths in prop::collection::vec(prop_oneof![0_usize..3, 120_usize..140, 16_380_usize..16_390], 0..12),
            cuts in prop::collection::vec(1_usize..5_000, 1..40),
        ) {
            let stream: Vec<u8> = lengths.iter().flat_map(|&length| packet(length)).collect();
            let mut packets = Packets::default();
            let (mut rest, mut count) = (&stream[..], 0);
            for cut in cuts.iter().cycle() {
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                count += packets.pass(now);
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(count, lengths.len() as u64);
            prop_assert_eq!(packets, Packets::Start);
        }
    }

    #[test]
    fn a_length_without_end_is_not_followed() {
        let mut packets = Packets::default();
        assert_eq!(
            packets.pass(&[0x30, 0xff, 0xff, 0xff, 0xff, 0x01, 0, 0, 0]),
            0
        );
        assert_eq!(packets, Packets::Lost);
        assert_eq!(packets.pass(&[0xc0, 0]), 0);
    }
}
