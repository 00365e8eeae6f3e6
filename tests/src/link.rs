//! A TCP proxy that stands for a node's uplink and can be cut, or made a bad one.
//!
//! - [`toxic`]: what goes wrong on a bad link.

pub mod toxic;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use toxic::{End, Toxics};

/// Connections at once: a node has one MQTT connection and few HTTP ones; more wait to be accepted.
const CONNECTIONS_MAX: usize = 32;

/// [`Uplink::Altering`] flips a bit in what comes in one piece of at least so many bytes: more than an HTTP head has, and
/// less than the smallest download.
pub const ALTERED_FROM: usize = 1024;

/// What the link does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uplink {
    /// Bytes pass.
    Up,
    /// Connections are reset and new ones are closed at once.
    Down,
    /// Bytes pass, but now and then a bit of what comes from the far end is flipped.
    Altering,
    /// Nothing passes and nobody is told, as when a radio loses its cell. What was under way is lost: these connections are
    /// reset when the link comes back.
    Silent,
    /// A bad link: what befalls each connection is drawn from this seed. They are reset when the link gets better.
    Toxic(u64),
}

/// A proxy on a loopback port of its own.
#[derive(Debug)]
pub struct Link {
    local: SocketAddr,
    state: watch::Sender<State>,
    carried: Arc<AtomicU64>,
    _stop: DropGuard,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    uplink: Uplink,
    upstream: SocketAddr,
}

impl Link {
    /// Opens a link to `upstream`; it is up.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn open(upstream: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let local = listener.local_addr()?;
        let (state, seen) = watch::channel(State {
            uplink: Uplink::Up,
            upstream,
        });
        let stop = CancellationToken::new();
        let carried = Arc::<AtomicU64>::default();
        let accepting = accept(listener, seen, Arc::clone(&carried), stop.child_token());
        tokio::spawn(stop.clone().run_until_cancelled_owned(accepting));
        Ok(Self {
            local,
            state,
            carried,
            _stop: stop.drop_guard(),
        })
    }

    /// The near end, for the node.
    pub const fn addr(&self) -> SocketAddr {
        self.local
    }

    /// Connections that were accepted since the link was made.
    pub fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }

    /// Cuts or restores the link.
    pub fn set(&self, uplink: Uplink) {
        self.state
            .send_if_modified(|state| std::mem::replace(&mut state.uplink, uplink) != uplink);
    }

    /// Points the far end elsewhere; connections to the old place are reset.
    pub fn set_upstream(&self, upstream: SocketAddr) {
        self.state
            .send_if_modified(|state| std::mem::replace(&mut state.upstream, upstream) != upstream);
    }
}

async fn accept(
    listener: TcpListener,
    state: watch::Receiver<State>,
    carried: Arc<AtomicU64>,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Counted anew with each state, so that a seed gives the same troubles whatever was before.
    let (mut last, mut number) = (state.borrow().uplink, 0);
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let near = match listener.accept().await {
            Ok((near, _)) => near,
            Err(error) => {
                tracing::warn!(%error, "link cannot accept");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        carried.fetch_add(1, Ordering::Relaxed);
        let uplink = state.borrow().uplink;
        number = if uplink == last { number + 1 } else { 0 };
        last = uplink;
        let (state, stop) = (state.clone(), stop.clone());
        tokio::spawn(async move {
            stop.run_until_cancelled(carry(near, state, number)).await;
            drop(slot);
        });
    }
}

/// Carries one connection until an end closes it or the link changes.
async fn carry(mut near: TcpStream, mut state: watch::Receiver<State>, number: u64) {
    let State { uplink, upstream } = *state.borrow_and_update();
    if !matches!(uplink, Uplink::Down | Uplink::Silent) {
        tokio::select! {
            outcome = pass(&mut near, upstream, uplink, number) => match outcome {
                Ok(End::Reset) => return reset(&near),
                Ok(End::Closed | End::Cut) => return,
                Err(error) => {
                    tracing::debug!(%error, %upstream, "link connection");
                    return;
                }
            },
            _ = state.changed() => {}
        }
    }
    if state.borrow_and_update().uplink == Uplink::Silent {
        // Whoever waits here learns of it by his own time-outs, or when the link changes again.
        if state.changed().await.is_err() {
            return;
        }
    }
    reset(&near);
}

/// Has a connection reset when it is dropped.
fn reset(near: &TcpStream) {
    if let Err(error) = near.set_zero_linger() {
        tracing::debug!(%error, "link connection could not be reset");
    }
}

async fn pass(
    near: &mut TcpStream,
    upstream: SocketAddr,
    uplink: Uplink,
    number: u64,
) -> io::Result<End> {
    let mut far = TcpStream::connect(upstream).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    match uplink {
        Uplink::Toxic(seed) => {
            let toxics = Toxics::draw(seed, number);
            tracing::debug!(seed, number, ?toxics, "a toxic connection");
            return toxic::carry(near, &mut far, toxics).await;
        }
        Uplink::Altering => {}
        Uplink::Up | Uplink::Down | Uplink::Silent => {
            let copied = tokio::io::copy_bidirectional(near, &mut far).await;
            return copied.map(|_| End::Closed);
        }
    }
    let ((mut near_read, mut near_write), (mut far_read, mut far_write)) =
        (near.split(), far.split());
    let up = async {
        tokio::io::copy(&mut near_read, &mut far_write).await?;
        far_write.shutdown().await
    };
    let down = async {
        copy_altered(&mut far_read, &mut near_write).await?;
        near_write.shutdown().await
    };
    tokio::try_join!(up, down).map(|_| End::Closed)
}

/// Copies all bytes, and flips the lowest bit at the end of each piece of [`ALTERED_FROM`] bytes or more.
async fn copy_altered(from: &mut ReadHalf<'_>, to: &mut WriteHalf<'_>) -> io::Result<()> {
    let mut buffer = vec![0; 8 * 1024];
    loop {
        let count = from.read(&mut buffer).await?;
        let Some(piece) = buffer.get_mut(..count).filter(|piece| !piece.is_empty()) else {
            return Ok(());
        };
        if piece.len() >= ALTERED_FROM
            && let Some(last) = piece.last_mut()
        {
            *last ^= 1;
        }
        to.write_all(piece).await?;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(30);

    /// Answers every connection with `greeting` and then echoes.
    async fn echo(greeting: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    stream.write_all(greeting).await.unwrap();
                    let (mut read, mut write) = stream.split();
                    tokio::io::copy(&mut read, &mut write).await.ok();
                });
            }
        });
        addr
    }

    async fn greeting(link: &Link) -> (TcpStream, io::Result<u8>) {
        let mut stream = TcpStream::connect(link.addr()).await.unwrap();
        let first = tokio::time::timeout(DEADLINE, stream.read_u8())
            .await
            .unwrap();
        (stream, first)
    }

    #[tokio::test]
    async fn a_cut_resets_what_is_open_and_refuses_what_comes() {
        let link = Link::open(echo(b"a").await).await.unwrap();
        let (mut stream, first) = greeting(&link).await;
        assert_eq!(first.unwrap(), b'a');
        link.set(Uplink::Down);
        assert!(
            tokio::time::timeout(DEADLINE, stream.read_u8())
                .await
                .unwrap()
                .is_err()
        );
        assert!(greeting(&link).await.1.is_err());
        link.set(Uplink::Up);
        assert_eq!(greeting(&link).await.1.unwrap(), b'a');
    }

    #[tokio::test]
    async fn a_silent_link_says_nothing_until_it_is_back_and_then_resets() {
        let link = Link::open(echo(b"a").await).await.unwrap();
        let (mut stream, _) = greeting(&link).await;
        link.set(Uplink::Silent);
        stream.write_all(b"lost").await.unwrap();
        let quiet = tokio::time::timeout(Duration::from_millis(200), stream.read_u8()).await;
        assert!(quiet.is_err(), "a silent link let {quiet:?} through");
        link.set(Uplink::Up);
        assert!(
            tokio::time::timeout(DEADLINE, stream.read_u8())
                .await
                .unwrap()
                .is_err()
        );
    }

    #[tokio::test]
    async fn a_new_upstream_takes_over() {
        let link = Link::open(echo(b"a").await).await.unwrap();
        let (mut stream, _) = greeting(&link).await;
        link.set_upstream(echo(b"b").await);
        assert!(
            tokio::time::timeout(DEADLINE, stream.read_u8())
                .await
                .unwrap()
                .is_err()
        );
        assert_eq!(greeting(&link).await.1.unwrap(), b'b');
    }

    #[tokio::test]
    async fn an_altering_link_flips_bits_of_what_is_long() {
        for (length, altered) in [(100, false), (20_000, true)] {
            let greeting: &'static [u8] = vec![b'a'; length].leak();
            let link = Link::open(echo(greeting).await).await.unwrap();
            link.set(Uplink::Altering);
            let mut stream = TcpStream::connect(link.addr()).await.unwrap();
            let mut came = vec![0; length];
            tokio::time::timeout(DEADLINE, stream.read_exact(&mut came))
                .await
                .unwrap()
                .unwrap();
            let wrong = came.iter().filter(|&&byte| byte != b'a').count();
            assert_eq!(wrong > 0, altered, "{wrong} of {length}");
            assert!(came.iter().all(|byte| matches!(byte, b'a' | b'`')));
        }
    }
}
