//! The byte stream of a connection with its two buffers.

use super::{Arrival, metered};
use crate::{
    hub::Hub,
    transport::{AddressPlace, HandshakePlace},
};
use bytes::{Buf, BytesMut};
use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A read buffer begins small, since most clients say little, and doubles up to this while reads fill it.
const READ_MIN: usize = 512;
const READ_MAX: usize = 64 * 1024;

/// Bytes waiting to be written above which nothing more is produced: one large write, and one packet over it.
pub(super) const OUT_HIGH: usize = 64 * 1024;

/// How long the last bytes of a connection may take to be written, and then to be read before the socket closes: a
/// socket closed over unread input would take back what was just written.
const GOODBYE_TIMEOUT: Duration = Duration::from_millis(500);
const LINGER_BYTES_MAX: usize = 1024 * 1024;

/// Where bytes of a client come from, whatever the transport.
pub(crate) type Reader = Box<dyn AsyncRead + Unpin + Send>;

/// Where bytes to a client go.
pub(crate) type Writer = Box<dyn AsyncWrite + Unpin + Send>;

pub(super) struct Wire {
    pub(super) reader: Reader,
    pub(super) writer: Writer,
    pub(super) input: BytesMut,
    pub(super) out: BytesMut,
    pub(super) read_size: usize,
    /// Since when the client has taken nothing of what waits for it; `None` while nothing does.
    pub(super) stalled_since: Option<Instant>,
    /// Given back with the wire.
    _address_place: Option<AddressPlace>,
}

impl Wire {
    /// Takes an arrival apart: the wire, which keeps whatever must live as long as the connection, the name that the
    /// client has proved, and the handshake's place.
    pub(super) fn new(
        arrival: Arrival,
        hub: &Arc<Hub>,
    ) -> (Self, Option<Arc<str>>, HandshakePlace) {
        let Arrival {
            reader,
            writer,
            certificate_name,
            place,
            address_place,
        } = arrival;
        let (reader, writer) = metered::both(reader, writer, hub);
        let wire = Self {
            reader,
            writer,
            input: BytesMut::new(),
            out: BytesMut::new(),
            read_size: READ_MIN,
            stalled_since: None,
            _address_place: address_place,
        };
        (wire, certificate_name, place)
    }

    pub(super) async fn read(&mut self) -> io::Result<usize> {
        read_some(&mut self.reader, &mut self.input, &mut self.read_size).await
    }

    /// Starts the clock of a write, if there is something to write and it does not run.
    pub(super) fn begin_write(&mut self) {
        if !self.out.is_empty() && self.stalled_since.is_none() {
            self.stalled_since = Some(Instant::now());
        }
    }

    /// Drops bytes that were written; large buffers are given back once they are empty.
    pub(super) fn wrote(&mut self, count: usize) {
        self.out.advance(count);
        self.stalled_since = None;
        if self.out.is_empty() {
            if self.out.capacity() > 4 * OUT_HIGH {
                self.out = BytesMut::new();
            } else {
                self.out.clear();
            }
        }
    }

    /// Writes what is left and closes, in bounded time.
    pub(super) async fn close(&mut self) {
        let Self {
            reader,
            writer,
            input,
            out,
            ..
        } = self;
        let goodbye = async {
            writer.write_all(out).await?;
            writer.shutdown().await
        };
        if !matches!(
            tokio::time::timeout(GOODBYE_TIMEOUT, goodbye).await,
            Ok(Ok(()))
        ) {
            return;
        }
        let linger = async {
            let mut rest = LINGER_BYTES_MAX;
            while rest > 0 {
                input.clear();
                input.reserve(READ_MIN);
                match reader.read_buf(input).await {
                    Ok(count) if count > 0 => rest = rest.saturating_sub(count),
                    _ => return,
                }
            }
        };
        // The client may well keep its side open; then it had its time.
        drop(tokio::time::timeout(GOODBYE_TIMEOUT, linger).await);
    }
}

/// Reads once into a buffer that adapts its size. Cancel-safe.
pub(super) async fn read_some(
    reader: &mut Reader,
    input: &mut BytesMut,
    read_size: &mut usize,
) -> io::Result<usize> {
    if input.capacity() - input.len() < *read_size / 2 {
        input.reserve(*read_size);
    }
    let room = input.capacity() - input.len();
    let count = reader.read_buf(input).await?;
    if count == room {
        *read_size = (*read_size * 2).min(READ_MAX);
    }
    Ok(count)
}

/// Takes processed bytes off the read buffer and gives a buffer back that a large packet had swollen.
pub(super) fn consumed(input: &mut BytesMut, count: usize) {
    input.advance(count);
    if input.is_empty() && input.capacity() > 2 * READ_MAX {
        *input = BytesMut::new();
    }
}
