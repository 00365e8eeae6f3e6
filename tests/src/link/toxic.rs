//! What goes wrong on a bad link, drawn from a seed for each connection and each of its directions.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::rng::Rng;

/// Bytes that are carried in one piece: less than a batch, so that most troubles meet one half-way.
const PIECE_BYTES: usize = 1024;
/// After how many bytes a trouble begins, as a power of two: from within the first packet to behind a batch.
const AFTER_LOG2: (usize, usize) = (4, 11);

/// What befalls one direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toxic {
    /// Nothing.
    Clean,
    /// Nothing passes for a while.
    Stall {
        /// From this byte on.
        after: u64,
        /// How long.
        pause: Duration,
    },
    /// The connection is closed, in the middle of whatever it carried.
    Truncate {
        /// At this byte.
        after: u64,
    },
    /// The connection is reset.
    Reset {
        /// At this byte.
        after: u64,
    },
    /// Bytes are taken in and never come out, while the other direction goes on.
    HalfOpen {
        /// From this byte on.
        after: u64,
    },
    /// Each piece is held up.
    Delay {
        /// How long.
        pause: Duration,
    },
    /// The way is narrow.
    Slow {
        /// How narrow.
        bytes_per_second: u64,
    },
}

/// What befalls one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Toxics {
    /// On the way to the far end.
    pub up: Toxic,
    /// On the way back.
    pub down: Toxic,
}

impl Toxics {
    /// What befalls connection number `connection` of a link with this seed: always the same.
    pub fn draw(seed: u64, connection: u64) -> Self {
        let mut rng = Rng::new(seed ^ connection.wrapping_mul(0xd6e8_feb8_6659_fd93));
        let (breaking, other) = (Toxic::breaking(&mut rng), Toxic::hindering(&mut rng));
        if rng.chance(50) {
            Self {
                up: breaking,
                down: other,
            }
        } else {
            Self {
                up: other,
                down: breaking,
            }
        }
    }
}

impl Toxic {
    /// What ends a connection; what has to be noticed first takes long and is seldom.
    fn breaking(rng: &mut Rng) -> Self {
        let log2 = rng.index(AFTER_LOG2.0, AFTER_LOG2.1);
        let after = (1 << log2) + rng.below(1 << log2);
        match rng.below(10) {
            0 => Self::HalfOpen { after },
            1..6 => Self::Truncate { after },
            _ => Self::Reset { after },
        }
    }

    fn hindering(rng: &mut Rng) -> Self {
        match rng.below(4) {
            0 => Self::Clean,
            1 => Self::Delay {
                pause: pause(rng, 50),
            },
            2 => Self::Slow {
                bytes_per_second: 4_096 + rng.below(60_000),
            },
            _ => Self::Stall {
                after: 1 + rng.below(2_000),
                pause: pause(rng, 3_000),
            },
        }
    }

    /// How many of `bytes` more bytes pass before something happens, given that `passed` did.
    fn room(self, passed: u64, bytes: usize) -> usize {
        match self {
            Self::Stall { after, .. } | Self::Truncate { after } | Self::Reset { after }
                if passed < after =>
            {
                bytes.min(usize::try_from(after - passed).unwrap_or(bytes))
            }
            Self::Clean
            | Self::Stall { .. }
            | Self::Truncate { .. }
            | Self::Reset { .. }
            | Self::HalfOpen { .. }
            | Self::Delay { .. }
            | Self::Slow { .. } => bytes,
        }
    }
}

const fn pause(rng: &mut Rng, ms_max: u64) -> Duration {
    Duration::from_millis(1 + rng.below(ms_max))
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Both ends closed it.
    Closed,
    /// It is to be closed at once.
    Cut,
    /// It is to be reset.
    Reset,
}

/// Carries a connection until it ends.
pub(super) async fn carry(
    near: &mut TcpStream,
    far: &mut TcpStream,
    toxics: Toxics,
) -> io::Result<End> {
    let ((near_read, near_write), (far_read, far_write)) = (near.split(), far.split());
    let mut up = std::pin::pin!(copy(near_read, far_write, toxics.up));
    let mut down = std::pin::pin!(copy(far_read, near_write, toxics.down));
    // One that closed in good order leaves the other one to its end.
    tokio::select! {
        end = &mut up => match end? {
            End::Closed => down.await,
            end @ (End::Cut | End::Reset) => Ok(end),
        },
        end = &mut down => match end? {
            End::Closed => up.await,
            end @ (End::Cut | End::Reset) => Ok(end),
        },
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    toxic: Toxic,
) -> io::Result<End> {
    let (mut passed, mut stalled, mut piece) = (0, false, [0; PIECE_BYTES]);
    loop {
        let room = toxic.room(passed, PIECE_BYTES);
        let read = from.read(&mut piece[..room]).await?;
        if read == 0 {
            to.shutdown().await?;
            return Ok(End::Closed);
        }
        let bytes = read as u64;
        match toxic {
            Toxic::Delay { pause } => tokio::time::sleep(pause).await,
            Toxic::Slow { bytes_per_second } => {
                tokio::time::sleep(Duration::from_micros(bytes * 1_000_000 / bytes_per_second))
                    .await;
            }
            Toxic::Clean
            | Toxic::Stall { .. }
            | Toxic::Truncate { .. }
            | Toxic::Reset { .. }
            | Toxic::HalfOpen { .. } => {}
        }
        let is_swallowed = matches!(toxic, Toxic::HalfOpen { after } if passed >= after);
        if !is_swallowed {
            to.write_all(&piece[..read]).await?;
        }
        passed += bytes;
        match toxic {
            Toxic::Stall { after, pause } if passed >= after && !stalled => {
                stalled = true;
                tokio::time::sleep(pause).await;
            }
            Toxic::Truncate { after } if passed >= after => return Ok(End::Cut),
            Toxic::Reset { after } if passed >= after => return Ok(End::Reset),
            Toxic::Clean
            | Toxic::Stall { .. }
            | Toxic::Truncate { .. }
            | Toxic::Reset { .. }
            | Toxic::HalfOpen { .. }
            | Toxic::Delay { .. }
            | Toxic::Slow { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes out of one direction with this trouble, of `bytes` that went in, and how it ended.
    async fn passed(toxic: Toxic, bytes: usize) -> (usize, End) {
        let input = vec![b'a'; bytes];
        let mut output = Vec::new();
        let end = copy(input.as_slice(), &mut output, toxic).await.unwrap();
        assert!(output.iter().all(|byte| *byte == b'a'));
        (output.len(), end)
    }

    #[tokio::test]
    async fn each_trouble_does_what_it_says() {
        let (after, pause) = (3_000, Duration::from_millis(50));
        assert_eq!(passed(Toxic::Clean, 9_000).await, (9_000, End::Closed));
        for (toxic, wanted) in [
            (Toxic::Truncate { after }, (3_000, End::Cut)),
            (Toxic::Reset { after }, (3_000, End::Reset)),
        ] {
            assert_eq!(passed(toxic, 9_000).await, wanted, "{toxic:?}");
        }
        let (came, end) = passed(Toxic::HalfOpen { after }, 9_000).await;
        assert!((3_000..4_024).contains(&came), "{came}");
        assert_eq!(end, End::Closed);

        let start = tokio::time::Instant::now();
        let stall = Toxic::Stall { after, pause };
        assert_eq!(passed(stall, 9_000).await, (9_000, End::Closed));
        assert!(start.elapsed() >= pause);
        assert_eq!(passed(Toxic::Delay { pause }, 2_048).await.0, 2_048);
        assert!(start.elapsed() >= 3 * pause);
        let slow = Toxic::Slow {
            bytes_per_second: 102_400,
        };
        assert_eq!(passed(slow, 5 * 1_024).await.0, 5 * 1_024);
        assert!(start.elapsed() >= 4 * pause);
    }

    #[test]
    fn a_seed_gives_the_same_troubles_and_each_of_them() {
        let drawn = |seed| -> Vec<Toxics> { (0..400).map(|n| Toxics::draw(seed, n)).collect() };
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7), drawn(8));
        let mut kinds: Vec<_> = drawn(7)
            .iter()
            .flat_map(|toxics| [toxics.up, toxics.down])
            .map(|toxic| std::mem::discriminant(&toxic))
            .collect();
        kinds.dedup();
        let mut different = Vec::new();
        for kind in kinds {
            if !different.contains(&kind) {
                different.push(kind);
            }
        }
        assert_eq!(different.len(), 7);
    }
}
